//! A session's places in swarms: joining, telling what it holds, and being told of others.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use haul_core::blob::BlobGeometry;
use haul_core::ids::{BlobId, PeerId};
use haul_core::planner::Hints;
use haul_core::registry::leases::ConnectionId;
use haul_core::wire::index::{
    IndexAnswer, IndexPush, IndexRequest, Joined, PieceRange, PlannedSource, Received, Refusal, Runs, SwarmPeer,
};
use haul_core::wire::{Label, List};
use haul_net::clock;
use haul_net::connection::SendError;
use tokio::time::sleep;

use super::{Done, Job, Session, Visitor};
use crate::state::refusal;
use crate::store::{Asker, IndexStore};
use crate::swarms::{Content, Joiner, Mailbox, News, Report, Swarms};

/// Between two pushes of one session: what comes meanwhile goes together.
const PUSH_GAP: Duration = Duration::from_millis(20);
/// When so much is unwritten that a push was refused, until it is tried again.
const PUSH_RETRY: Duration = Duration::from_millis(100);
/// Work units of a join: a handful of lookups and cards …
const JOIN_COST: usize = 200;
/// … and one for so many pieces of the blob, held or not: a planner goes through all of them.
const PIECES_PER_UNIT: u32 = 16;
/// Work units of a have, besides one for each piece: it is looked for among the deliveries of its peer.
const HAVE_COST: usize = 10;

/// The places of one session; they end with it.
#[derive(Debug)]
pub(super) struct Swarming {
    swarms: Arc<Swarms>,
    session: ConnectionId,
    peer: PeerId,
    /// From the first join on: most sessions have none.
    mailbox: OnceLock<Arc<Mailbox>>,
    /// Whether the job that pushes runs.
    delivering: AtomicBool,
}

impl Swarming {
    pub(super) fn new(swarms: Arc<Swarms>, session: ConnectionId, peer: PeerId) -> Self {
        Self { swarms, session, peer, mailbox: OnceLock::new(), delivering: AtomicBool::new(false) }
    }

    /// Departs from all swarms, and ends the job that pushes.
    pub(super) fn end(&self) {
        if let Some(mailbox) = self.mailbox.get() {
            mailbox.close();
            self.swarms.end_session(clock::boot_now(), self.session, &self.peer);
        }
    }
}

impl Drop for Swarming {
    fn drop(&mut self) {
        // A session that failed unexpectedly did not come to its own end.
        self.end();
    }
}

/// Whether a request is answered by [`answer`].
pub(super) fn is_about_swarms(request: &IndexRequest) -> bool {
    use IndexRequest::{Depart, Have, Join, Leaving};
    matches!(request, Join { .. } | Have { .. } | Depart { .. } | Leaving)
}

/// The answer to Join, Have, Depart and Leaving.
pub(super) async fn answer<S: IndexStore>(session: &Session<S>, request: IndexRequest) -> Result<IndexAnswer, Refusal> {
    let swarming = &session.swarming;
    match request {
        IndexRequest::Join { blob, size, pieces, uplink } => {
            session.ask()?;
            session.pay(join_cost(size) + pieces.count() as usize);
            join(session, (blob, size), &pieces, uplink).await.map(IndexAnswer::Joined)
        }
        IndexRequest::Have { blob, pieces, received, failed, uplink } => {
            session.ask()?;
            session.pay(HAVE_COST + pieces.count() as usize);
            let received = received.iter().map(|Received { from, bytes }| (*from, *bytes)).collect();
            let report = Report { pieces, received, failed: failed.into_vec(), uplink };
            swarming.swarms.have(clock::boot_now(), swarming.session, &swarming.peer, &blob, &report)?;
            Ok(IndexAnswer::Noted)
        }
        IndexRequest::Depart { blob } => {
            swarming.swarms.depart(clock::boot_now(), swarming.session, &swarming.peer, &blob);
            Ok(IndexAnswer::Departed)
        }
        IndexRequest::Leaving => {
            session.ask()?;
            let left = swarming.swarms.leaving(clock::boot_now(), &swarming.peer);
            // One unit for each swarm that it was looked for in.
            session.pay(HAVE_COST + left.swarms + (left.looked_at / u64::from(PIECES_PER_UNIT)) as usize);
            Ok(IndexAnswer::Needed { pieces: left.needed })
        }
        _ => Err(Refusal::NotAllowed),
    }
}

fn join_cost(size: u64) -> usize {
    JOIN_COST + BlobGeometry::new(size).map_or(0, |geometry| geometry.pieces() / PIECES_PER_UNIT) as usize
}

async fn join<S: IndexStore>(
    session: &Session<S>,
    (blob, size): Content,
    pieces: &Runs,
    uplink: Option<u64>,
) -> Result<Joined, Refusal> {
    let passes_to = groups_that_see(session, blob, size).await?;
    let swarming = &session.swarming;
    let joiner = Joiner {
        session: swarming.session,
        peer: swarming.peer,
        groups: session.asker.groups.clone(),
        passes_to: passes_to.clone(),
        hints: Hints { up: uplink, site: session.origin.site() },
        mailbox: Arc::clone(swarming.mailbox.get_or_init(Arc::default)),
    };
    let others = swarming.swarms.join(clock::boot_now(), joiner, blob, size, pieces)?;
    session.state.find_owners((blob, size), &passes_to).await;
    Ok(Joined { groups: List::new(passes_to), peers: cards(session, others) })
}

/// Through which of the asker's groups a blob is visible, there or away; none means that everyone sees it.
async fn groups_that_see<S: IndexStore>(visitor: &Visitor<S>, blob: BlobId, size: u64) -> Result<Vec<Label>, Refusal> {
    if is_seen_by(visitor, Vec::new(), blob, size).await? {
        return Ok(Vec::new());
    }
    let mut groups = Vec::new();
    for group in &visitor.asker.groups {
        if is_seen_by(visitor, vec![group.clone()], blob, size).await? {
            groups.push(group.clone());
        }
    }
    if groups.is_empty() { Err(Refusal::NotFound) } else { Ok(groups) }
}

/// Whether a member of just these groups sees the blob in this size. Others may claim other sizes, and more of them: that
/// keeps nobody from those that tell the truth.
async fn is_seen_by<S: IndexStore>(
    visitor: &Visitor<S>,
    groups: Vec<Label>,
    blob: BlobId,
    size: u64,
) -> Result<bool, Refusal> {
    let asker = Asker { peer: visitor.peer, groups };
    let found = visitor.state.store.owners(&asker, blob, size, true).await.map_err(refusal)?;
    Ok(found.total > 0)
}

/// Cards of those that can be asked.
fn cards<S: IndexStore>(visitor: &Visitor<S>, peers: impl IntoIterator<Item = (PeerId, bool)>) -> Vec<SwarmPeer> {
    let card = |(peer, complete)| SwarmPeer { card: visitor.card(peer, None), complete };
    peers.into_iter().map(card).filter(|peer| !peer.card.addresses.is_empty()).collect()
}

/// The job that pushes, once.
pub(super) fn delivery<S: IndexStore>(session: &Arc<Session<S>>) -> Option<Job> {
    let swarming = &session.swarming;
    swarming.mailbox.get_or_init(Arc::default);
    if swarming.delivering.swap(true, Ordering::Relaxed) {
        return None;
    }
    Some(deliver(Arc::clone(session)).boxed())
}

async fn deliver<S: IndexStore>(session: Arc<Session<S>>) -> Done {
    let mailbox = Arc::clone(session.swarming.mailbox.get_or_init(Arc::default));
    while let Some((blob, news)) = mailbox.next().await {
        match push(&session, blob, &news) {
            Ok(()) => sleep(PUSH_GAP).await,
            Err(SendError::Full) => {
                mailbox.put_back(blob, news);
                sleep(PUSH_RETRY).await;
            }
            Err(error) => {
                tracing::debug!(%error, "news of a swarm were not pushed");
                break;
            }
        }
    }
    Done::Nothing
}

/// Who is meant by a plan is told before it.
fn push<S: IndexStore>(session: &Session<S>, blob: BlobId, news: &News) -> Result<(), SendError> {
    let peers = cards(session, news.peers.iter().map(|(peer, complete)| (*peer, *complete)));
    if !peers.is_empty() {
        session.connection.push(&IndexPush::Providers { blob, peers })?;
    }
    let Some((lease, sources)) = &news.plan else { return Ok(()) };
    let planned =
        |(from, pieces): &(PeerId, Vec<PieceRange>)| PlannedSource { from: *from, pieces: List::new(pieces.clone()) };
    let lease_ms = u32::try_from(lease.as_millis()).unwrap_or(u32::MAX);
    let sources = List::new(sources.iter().map(planned).collect());
    session.connection.push(&IndexPush::Plan { blob, lease_ms, sources })
}
