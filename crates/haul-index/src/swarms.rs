//! Swarms: who downloads which blob and what of it they hold, so that they find each other.
//!
//! A swarm lives as long as somebody takes part. Members are told of each other by chance, up to 32 each, and only where
//! the one may have the blob from the other: a member passes it on to those groups through which the index knows it to
//! see the blob. Among those that pass it on to the same groups the planner decides who takes which pieces from whom, as
//! soon as there are two downloaders.

mod mailbox;
mod planning;
mod swarm;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use haul_core::blob::BlobGeometry;
use haul_core::ids::{BlobId, PeerId};
use haul_core::limits;
use haul_core::planner::{Dealing, Hints, Runs, splitmix64};
use haul_core::registry::leases::ConnectionId;
use haul_core::time::Moment;
use haul_core::wire::Label;
use haul_core::wire::index::Refusal;
use tokio::sync::Notify;

pub use mailbox::{Mailbox, News, Plan};
use planning::{Held, Planning};
use swarm::{Member, Swarm, beyond};

/// Who joins.
#[derive(Clone, Debug)]
pub struct Joiner {
    /// Its session.
    pub session: ConnectionId,
    /// Its key.
    pub peer: PeerId,
    /// Groups that it belongs to, besides everyone.
    pub groups: Vec<Label>,
    /// Groups that it may pass the blob on to; none means everyone.
    pub passes_to: Vec<Label>,
    /// What it says of its uplink, and the network that it is in.
    pub hints: Hints,
    /// Where it is told of others.
    pub mailbox: Arc<Mailbox>,
}

/// A blob with the bytes that it is said to have. Sizes are claims until a download proves one: who joins under a wrong
/// one is in a swarm of its own.
pub type Content = (BlobId, u64);

/// All swarms of one index.
#[derive(Debug, Default)]
pub struct Swarms {
    inner: Mutex<Inner>,
    begun: Notify,
}

#[derive(Debug)]
struct Inner {
    /// None: nobody gets plans.
    dealing: Option<Dealing>,
    swarms: BTreeMap<Content, Swarm>,
    /// Those in which somebody downloads.
    active: BTreeSet<Content>,
    /// Which of these had its turn to be planned last.
    planned_last: Option<Content>,
    places: HashMap<ConnectionId, Places>,
    /// What all planners keep; see [`limits::SWARM_CELLS_IN_ALL`].
    cells: u64,
    cells_most: u64,
    random: u64,
}

/// What one session has joined.
#[derive(Debug, Default)]
struct Places {
    /// With the size under which it did.
    blobs: BTreeMap<BlobId, u64>,
    /// Pieces of all of them.
    cells: u64,
}

/// What a member reports.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Pieces that it holds now.
    pub pieces: Runs,
    /// Verified bytes from others since the last report.
    pub received: Vec<(PeerId, u64)>,
    /// Others that did not give what they should hold.
    pub failed: Vec<PeerId>,
    /// Bytes per second that its uplink carries, if that is new.
    pub uplink: Option<u64>,
}

/// What a peer that goes soon leaves behind, and what it cost to find out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaving {
    /// Pieces that are lost to others if it goes now.
    pub needed: u64,
    /// Swarms in which it was looked for.
    pub swarms: usize,
    /// Pieces of those in which it was found.
    pub looked_at: u64,
}

impl Swarms {
    /// No swarms yet; with plans that are made this way, or without.
    pub fn new(dealing: Option<Dealing>) -> Self {
        Self { inner: Mutex::new(Inner { dealing, ..Inner::default() }), begun: Notify::new() }
    }

    /// Takes a peer into the swarm of a blob; the others that it may ask, with whether they hold all of it. Refused with
    /// `NotOpen` once its session is over or its peer has joined on a newer one.
    pub fn join(
        &self,
        now: Moment,
        joiner: Joiner,
        blob: BlobId,
        size: u64,
        pieces: &Runs,
    ) -> Result<Vec<(PeerId, bool)>, Refusal> {
        let geometry = BlobGeometry::new(size).ok_or_else(|| Refusal::TooMuch(format!("a blob of {size} bytes")))?;
        let held = Held::of(pieces, geometry).ok_or_else(|| beyond(pieces, geometry.pieces()))?;
        let mut inner = lock(&self.inner);
        let content = (blob, size);
        let newer = |member: &Member| member.joiner.session > joiner.session;
        let member = inner.swarms.get(&content).and_then(|swarm| swarm.members.get(&joiner.peer));
        if joiner.mailbox.is_closed() || member.is_some_and(newer) {
            return Err(Refusal::NotOpen);
        }
        if inner.size_joined(joiner.session, &blob).is_some_and(|other| other != size) {
            inner.depart(now, joiner.session, &joiner.peer, &blob);
        }
        let places = inner.places.entry(joiner.session).or_default();
        if places.blobs.len() >= limits::SWARMS_PER_MEMBER && !places.blobs.contains_key(&blob) {
            return Err(Refusal::TooMuch(format!("{} swarms at once", limits::SWARMS_PER_MEMBER)));
        }
        if places.blobs.insert(blob, size).is_none() {
            places.cells += u64::from(geometry.pieces());
        }
        // Beyond that, and where a swarm is too large for the planner, those that come last act alone.
        let held = if places.cells > limits::SWARM_CELLS_PER_MEMBER { held.unplanned() } else { held };
        let (random, dealing) = (inner.next_random(), inner.dealing);
        inner.swarms.entry(content).or_insert_with(|| Swarm::new(geometry, dealing));
        let others = inner.with_swarm(content, |swarm, room| swarm.join(now, blob, joiner, held, random, room));
        self.begun.notify_one();
        Ok(others.unwrap_or_default())
    }

    /// Waits until somebody downloads something. For one task.
    pub async fn some_download(&self) {
        while lock(&self.inner).active.is_empty() {
            self.begun.notified().await;
        }
    }

    /// A member holds more, or tells how it went with others.
    pub fn have(
        &self,
        now: Moment,
        session: ConnectionId,
        peer: &PeerId,
        blob: &BlobId,
        report: &Report,
    ) -> Result<(), Refusal> {
        let mut inner = lock(&self.inner);
        let size = inner.size_joined(session, blob).ok_or(Refusal::NotOpen)?;
        let noted = inner.with_swarm((*blob, size), |swarm, _| swarm.have(now, session, peer, blob, report));
        noted.unwrap_or(Err(Refusal::NotOpen))
    }

    /// Every content that is downloaded, with the groups that members pass it on to.
    pub fn downloaded(&self) -> Vec<(Content, Vec<Label>)> {
        let inner = lock(&self.inner);
        let swarms = inner.active.iter().filter_map(|content| Some((content, inner.swarms.get(content)?)));
        swarms.flat_map(|(content, swarm)| swarm.plannings.keys().map(|groups| (*content, groups.clone()))).collect()
    }

    /// Who shares a content with these groups now, each with its site. Of many, some are taken. Members learn of those that
    /// are new.
    pub fn set_owners(&self, now: Moment, content: Content, groups: &[Label], owners: &BTreeMap<PeerId, u32>) {
        let mut inner = lock(&self.inner);
        let random = inner.next_random();
        inner.with_swarm(content, |swarm, room| swarm.set_owners(now, content.0, groups, owners, random, room));
    }

    /// Plans where it is time; plans go to the mailboxes of those that they are for. Swarms have their turns, and others may
    /// use them in between. `go_on` is asked before each; the next call goes on where this one ended.
    pub fn plan(&self, now: Moment, mut go_on: impl FnMut() -> bool) {
        let turns = lock(&self.inner).active.len();
        for _ in 0..turns {
            if !go_on() {
                break;
            }
            lock(&self.inner).plan_next(now);
        }
    }

    /// A peer goes soon, whatever it downloads or shares.
    pub fn leaving(&self, now: Moment, peer: &PeerId) -> Leaving {
        let mut inner = lock(&self.inner);
        let takes_part = |content: &&Content| inner.swarms.get(content).is_some_and(|swarm| swarm.takes_part(peer));
        let concerned: Vec<Content> = inner.active.iter().filter(takes_part).copied().collect();
        let mut leaving = Leaving { swarms: inner.active.len(), ..Leaving::default() };
        for content in concerned {
            let (needed, looked_at) =
                inner.with_swarm(content, |swarm, _| swarm.leaving(now, peer)).unwrap_or_default();
            leaving.needed += needed;
            leaving.looked_at += looked_at;
        }
        leaving
    }

    /// A member departs from one swarm.
    pub fn depart(&self, now: Moment, session: ConnectionId, peer: &PeerId, blob: &BlobId) {
        lock(&self.inner).depart(now, session, peer, blob);
    }

    /// A session has ended: it departs from all.
    pub fn end_session(&self, now: Moment, session: ConnectionId, peer: &PeerId) {
        let mut inner = lock(&self.inner);
        let joined = inner.places.get(&session).map(|places| places.blobs.keys().copied().collect::<Vec<_>>());
        for blob in joined.unwrap_or_default() {
            inner.depart(now, session, peer, &blob);
        }
    }

    #[cfg(test)]
    fn members(&self) -> usize {
        lock(&self.inner).swarms.values().map(|swarm| swarm.members.len()).sum()
    }

    #[cfg(test)]
    fn cells(&self) -> u64 {
        lock(&self.inner).cells
    }
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            dealing: Some(Dealing::default()),
            swarms: BTreeMap::new(),
            active: BTreeSet::new(),
            planned_last: None,
            places: HashMap::new(),
            cells: 0,
            cells_most: limits::SWARM_CELLS_IN_ALL,
            random: 0,
        }
    }
}

impl Inner {
    /// Every change of a swarm, with the cells that its planners may still take.
    fn with_swarm<R>(&mut self, content: Content, change: impl FnOnce(&mut Swarm, u64) -> R) -> Option<R> {
        let swarm = self.swarms.get_mut(&content)?;
        let before = swarm.cells();
        let changed = change(swarm, self.cells_most.saturating_sub(self.cells));
        swarm.plannings.values_mut().for_each(Planning::rest);
        self.cells = self.cells - before + swarm.cells();
        if swarm.sinks > 0 {
            self.active.insert(content);
        } else {
            self.active.remove(&content);
        }
        if swarm.members.is_empty() {
            self.swarms.remove(&content);
        }
        Some(changed)
    }

    fn size_joined(&self, session: ConnectionId, blob: &BlobId) -> Option<u64> {
        self.places.get(&session)?.blobs.get(blob).copied()
    }

    fn plan_next(&mut self, now: Moment) {
        let behind = self.planned_last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.active.range((behind, Bound::Unbounded)).next().or_else(|| self.active.first()).copied();
        if let Some(content) = next {
            self.planned_last = next;
            self.with_swarm(content, |swarm, _| swarm.plan(now, content.0));
        }
    }

    fn depart(&mut self, now: Moment, session: ConnectionId, peer: &PeerId, blob: &BlobId) {
        let Some(places) = self.places.get_mut(&session) else { return };
        let Some(size) = places.blobs.remove(blob) else { return };
        places.cells -= BlobGeometry::new(size).map_or(0, |geometry| geometry.pieces().into());
        if places.blobs.is_empty() {
            self.places.remove(&session);
        }
        self.with_swarm((*blob, size), |swarm, _| {
            // A newer session of the same peer may have joined meanwhile.
            if swarm.members.get(peer).is_some_and(|member| member.joiner.session == session) {
                swarm.remove(now, peer);
            }
        });
    }

    /// Who is told of whom needs no better chance.
    fn next_random(&mut self) -> u64 {
        splitmix64(&mut self.random)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change leaves whole values behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
