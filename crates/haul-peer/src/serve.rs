//! Serving: answers the requests of other peers from files of the shares, once they have shown a valid grant.
//!
//! [`Server::serve`] handles one connection until it ends. Files are opened below their share's root, read leaf by leaf
//! on blocking threads with little read ahead, and compared with their stamp before and after each read: a file that
//! changed is answered `Changed` and reported, never sent as if it were the blob.

mod answers;
pub mod grants;
mod pieces;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use haul_core::ids::PeerId;
use haul_core::limits;
use haul_core::wire::peer::{PeerAnswer, PeerRequest};
use haul_net::clock::boot_now;
use haul_net::connection::{Connection, Inbound, InboundRequest, Inbox};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::share::Shares;
pub use grants::{GrantCheck, GrantRefusal, Granted, Standing};

/// Streams of bytes to one member at once, over all of its connections; further ones wait. Each may hold 2 MiB that the
/// member asked for and does not take. Eight downloads at once, or four folders, have that many open.
pub const STREAMS_PER_MEMBER: usize = 64;

/// Serves other peers. One for all connections.
#[derive(Debug)]
pub struct Server {
    shares: Arc<Shares>,
    grants: Arc<GrantCheck>,
    /// Room for streams of each member that is connected.
    streams: Mutex<BTreeMap<PeerId, Weak<Semaphore>>>,
}

impl Server {
    /// Serves from these shares to whoever passes this check.
    pub fn new(shares: Arc<Shares>, grants: Arc<GrantCheck>) -> Arc<Self> {
        Arc::new(Self { shares, grants, streams: Mutex::default() })
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
                        let streams = Arc::clone(&streams);
                        let stop = stop.clone();
                        requests.spawn(async move {
                            tokio::select! {
                                () = stop.cancelled() => {}
                                () = server.answer(asked, request, &groups, &streams) => {}
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
        groups: &Arc<[haul_core::wire::Label]>,
        streams: &Semaphore,
    ) {
        let streamed = matches!(asked, PeerRequest::Pieces { .. } | PeerRequest::Blobs { .. });
        let _room = if streamed { streams.acquire().await.ok() } else { None };
        match asked {
            PeerRequest::Pieces { blob, ranges, wait } => {
                pieces::send(&self.shares, blob, &ranges, wait, groups, request).await;
            }
            PeerRequest::Bitfield { blob, beyond } => {
                let answer = answers::bitfield(&self.shares, &blob, beyond, groups).await;
                let _ = request.answer(&answer).await;
            }
            PeerRequest::Blobs { blobs } => pieces::send_small(&self.shares, blobs.into_vec(), groups, request).await,
            other => {
                let answer = answers::answer(&self.shares, other, groups).await;
                let _ = request.answer(&answer).await;
            }
        }
    }
}
