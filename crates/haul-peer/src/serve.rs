//! Serving: answers the requests of other peers from files of the shares, once they have shown a valid grant.
//!
//! [`Server::serve`] handles one connection until it ends. Files are opened below their share's root, read leaf by leaf
//! on blocking threads with little read ahead, and compared with their stamp before and after each read: a file that
//! changed is answered `Changed` and reported, never sent as if it were the blob.

mod answers;
pub mod grants;
mod paced;
mod pieces;
pub mod slots;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use haul_core::ids::{BlobId, PeerId, UserId};
use haul_core::limits;
use haul_core::wire::Label;
use haul_core::wire::peer::{PeerAnswer, PeerRequest};
use haul_net::clock::boot_now;
use haul_net::connection::{Connection, Inbound, InboundRequest, Inbox, StreamSender};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bandwidth::Bandwidth;
use crate::share::Shares;
pub use grants::{GrantCheck, GrantRefusal, Granted, Standing};
use paced::Paced;
use slots::Slot;
pub use slots::Slots;

/// Streams of what is still on its way here to one member at once, over all of its connections; further ones wait. They
/// need no upload slot: they mostly wait for bytes themselves, and a swarm would stand still behind them.
pub const STREAMS_PER_MEMBER: usize = 64;

/// Serves other peers. One for all connections.
#[derive(Debug)]
pub struct Server {
    shares: Arc<Shares>,
    grants: Arc<GrantCheck>,
    bandwidth: Arc<Bandwidth>,
    slots: Arc<Slots>,
    /// Room for streams of each member that is connected.
    streams: Mutex<BTreeMap<PeerId, Weak<Semaphore>>>,
}

impl Server {
    /// Serves from these shares to whoever passes this check.
    pub fn new(shares: Arc<Shares>, grants: Arc<GrantCheck>) -> Arc<Self> {
        let bandwidth = Arc::<Bandwidth>::default();
        Self::limited(shares, grants, Arc::clone(&bandwidth), Slots::new(bandwidth))
    }

    /// The same under limits of bandwidth, with slots that other servers of this peer may share.
    pub fn limited(
        shares: Arc<Shares>,
        grants: Arc<GrantCheck>,
        bandwidth: Arc<Bandwidth>,
        slots: Arc<Slots>,
    ) -> Arc<Self> {
        Arc::new(Self { shares, grants, bandwidth, slots, streams: Mutex::default() })
    }

    /// Serves one connection until it ends, its grant ends, it is idle for [`limits::PEER_CONNECTION_IDLE`], or
    /// shutdown.
    pub async fn serve(self: Arc<Self>, connection: Connection, mut inbox: Inbox, shutdown: CancellationToken) {
        let requests = TaskTracker::new();
        let stop = shutdown.child_token();
        let streams = self.streams_of(connection.remote());
        let mut granted: Option<Granted> = None;
        // Suspended time does not count: the other side could not ask meanwhile.
        let mut idle_since = Instant::now();
        let reason = loop {
            let wait = self.until_next_check(granted.as_ref());
            let inbound = tokio::select! {
                () = shutdown.cancelled() => break "this peer shuts down",
                inbound = inbox.next() => inbound,
                () = tokio::time::sleep(wait) => {
                    if granted.as_ref().is_some_and(|granted| !self.grants.still_valid(granted, boot_now())) {
                        break "the grant has ended";
                    }
                    if !requests.is_empty() {
                        idle_since = Instant::now();
                    } else if idle_since.elapsed() >= limits::PEER_CONNECTION_IDLE {
                        break "idle";
                    }
                    continue;
                }
            };
            idle_since = Instant::now();
            match inbound {
                None => break "closed",
                // Peers push nothing in this version.
                Some(Inbound::Push(_)) => break "a push that nobody asked for",
                Some(Inbound::Request(request)) => match request.decode::<PeerRequest>() {
                    Err(error) => {
                        let reason = error.to_string();
                        let _ = request.answer(&PeerAnswer::Bad { reason }).await;
                        break "a request that is not understood";
                    }
                    Ok(PeerRequest::Grant { grant, index_certificate }) => {
                        match self.grants.check(connection.remote(), &grant, &index_certificate, boot_now()) {
                            Ok(fresh) => {
                                granted = Some(fresh);
                                connection.set_frame_limit(limits::FRAME_BYTES);
                                let _ = request.answer(&PeerAnswer::Granted).await;
                            }
                            Err(refusal) => {
                                let reason = refusal.to_string();
                                let _ = request.answer(&PeerAnswer::NotGranted { reason }).await;
                                break "no valid grant";
                            }
                        }
                    }
                    Ok(asked) => {
                        let valid = granted.as_ref().filter(|granted| self.grants.still_valid(granted, boot_now()));
                        let Some(valid) = valid else {
                            let _ =
                                request.answer(&PeerAnswer::NotGranted { reason: "show a grant first".into() }).await;
                            break "no valid grant";
                        };
                        let server = Arc::clone(&self);
                        let groups = Arc::clone(&valid.groups);
                        let user = valid.user();
                        let streams = Arc::clone(&streams);
                        let stop = stop.clone();
                        requests.spawn(async move {
                            tokio::select! {
                                () = stop.cancelled() => {}
                                () = server.answer(asked, request, user, &groups, &streams) => {}
                            }
                        });
                    }
                },
            }
        };
        stop.cancel();
        connection.close(reason);
        requests.close();
        requests.wait().await;
    }

    /// Time until the grant or idleness has to be looked at again.
    fn until_next_check(&self, granted: Option<&Granted>) -> Duration {
        let tick = Duration::from_secs(5);
        granted.map_or(tick, |granted| self.grants.time_left(granted, boot_now()).min(tick))
    }

    fn streams_of(&self, member: PeerId) -> Arc<Semaphore> {
        // Every change is one insert or a sweep.
        let mut members = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        members.retain(|_, streams| streams.strong_count() > 0);
        let known = members.get(&member).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let streams = Arc::new(Semaphore::new(STREAMS_PER_MEMBER));
            members.insert(member, Arc::downgrade(&streams));
            streams
        })
    }

    async fn answer(
        &self,
        asked: PeerRequest,
        request: InboundRequest,
        user: UserId,
        groups: &Arc<[Label]>,
        streams: &Semaphore,
    ) {
        match asked {
            PeerRequest::Pieces { blob, ranges, wait } => {
                let (mut stream, paced) = (request.into_stream(), Paced::new(&self.bandwidth, groups, Some(blob)));
                stream.set_lane(lane_of(&blob));
                if self.shares.locate_for(&blob, groups).is_none() {
                    let _room = streams.acquire().await;
                    return pieces::send(&self.shares, blob, &ranges, wait, groups, &paced, stream).await;
                }
                if let Some((_slot, stream)) = self.in_turn(user, stream).await {
                    pieces::send(&self.shares, blob, &ranges, wait, groups, &paced, stream).await;
                }
            }
            PeerRequest::Blobs { blobs } => {
                let paced = Paced::new(&self.bandwidth, groups, None);
                if let Some((_slot, stream)) = self.in_turn(user, request.into_stream()).await {
                    pieces::send_small(&self.shares, blobs.into_vec(), groups, &paced, stream).await;
                }
            }
            PeerRequest::Bitfield { blob, beyond } => {
                let answer = answers::bitfield(&self.shares, &blob, beyond, groups).await;
                let _ = request.answer(&answer).await;
            }
            other => {
                let answer = answers::answer(&self.shares, other, groups).await;
                let _ = request.answer(&answer).await;
            }
        }
    }

    /// Waits for an upload slot. None if the request has ended without one.
    async fn in_turn(&self, user: UserId, stream: StreamSender) -> Option<(Slot, StreamSender)> {
        match self.slots.wait(user, &stream).await {
            Ok(slot) => Some((slot, stream)),
            Err(end) => {
                // Nobody hears the end of a request that was cancelled, and the connection needs one all the same.
                let _ = stream.end(&end.unwrap_or(PeerAnswer::Served)).await;
                None
            }
        }
    }
}

/// Which streams of a connection are served one after the other: those of one content.
fn lane_of(blob: &BlobId) -> u64 {
    blob.as_bytes().first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}
