//! Swarms: who downloads which blob and what of it they hold, so that they find each other.
//!
//! A swarm lives as long as somebody takes part. Members are told of each other by chance, up to
//! 32 each, and only where the one may have the blob from the other: a member passes it on to those groups
//! through which the index knows it to see the blob.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use haul_core::blob::{BlobGeometry, LeafSet};
use haul_core::ids::{BlobId, PeerId};
use haul_core::limits;
use haul_core::registry::leases::ConnectionId;
use haul_core::wire::Label;
use haul_core::wire::index::{PieceRange, Refusal};
use tokio::sync::Notify;

/// Others that a member is told of when it joins. As each of those is told of it in return, members come to know twice
/// as many, and with that many chance connects any number of them.
const NEIGHBOURS: usize = 16;
/// Others that a member is told of in all.
const NEIGHBOURS_MAX: usize = 2 * NEIGHBOURS;

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
    /// Where it is told of others.
    pub mailbox: Arc<Mailbox>,
}

/// What waits to be told to one session: for each blob, others with whether they hold all of it.
pub type News = (BlobId, BTreeMap<PeerId, bool>);

/// What one session is to be told.
#[derive(Debug, Default)]
pub struct Mailbox {
    news: Mutex<BTreeMap<BlobId, BTreeMap<PeerId, bool>>>,
    arrived: Notify,
    closed: AtomicBool,
}

impl Mailbox {
    /// The next news; none once it is closed.
    pub async fn next(&self) -> Option<News> {
        loop {
            if self.closed.load(Ordering::Acquire) {
                return None;
            }
            if let Some(news) = lock(&self.news).pop_first() {
                return Some(news);
            }
            self.arrived.notified().await;
        }
    }

    /// Nothing more is wanted.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.arrived.notify_one();
    }

    /// News that could not be sent yet; newer ones stay.
    pub fn put_back(&self, (blob, peers): News) {
        let mut news = lock(&self.news);
        let kept = news.entry(blob).or_default();
        for (peer, complete) in peers {
            kept.entry(peer).or_insert(complete);
        }
    }

    fn put(&self, blob: BlobId, peer: PeerId, complete: bool) {
        lock(&self.news).entry(blob).or_default().insert(peer, complete);
        self.arrived.notify_one();
    }
}

/// All swarms of one index.
#[derive(Debug, Default)]
pub struct Swarms {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    swarms: HashMap<BlobId, Swarm>,
    /// Blobs that each session has joined.
    joined: HashMap<ConnectionId, BTreeSet<BlobId>>,
    random: u64,
}

#[derive(Debug)]
struct Swarm {
    size: u64,
    members: BTreeMap<PeerId, Member>,
}

#[derive(Debug)]
struct Member {
    joiner: Joiner,
    pieces: LeafSet,
    /// Others that it was told of.
    knows: BTreeSet<PeerId>,
}

impl Swarms {
    /// Takes a peer into the swarm of a blob; the others that it may ask, with whether they hold all of it.
    pub fn join(
        &self,
        joiner: Joiner,
        blob: BlobId,
        size: u64,
        pieces: &[PieceRange],
    ) -> Result<Vec<(PeerId, bool)>, Refusal> {
        let geometry = BlobGeometry::new(size).ok_or_else(|| Refusal::TooMuch(format!("a blob of {size} bytes")))?;
        let mut held = LeafSet::new(geometry.pieces());
        add(&mut held, pieces)?;
        let mut inner = lock(&self.inner);
        if inner.swarms.get(&blob).is_some_and(|swarm| swarm.size != size) {
            return Err(Refusal::StateMismatch);
        }
        let blobs = inner.joined.entry(joiner.session).or_default();
        if blobs.len() >= limits::SWARMS_PER_MEMBER && !blobs.contains(&blob) {
            return Err(Refusal::TooMuch(format!("{} swarms at once", limits::SWARMS_PER_MEMBER)));
        }
        blobs.insert(blob);
        let random = inner.next_random();
        let swarm = inner.swarms.entry(blob).or_insert_with(|| Swarm { size, members: BTreeMap::new() });
        Ok(swarm.join(blob, joiner, held, random))
    }

    /// A member holds more.
    pub fn have(
        &self,
        session: ConnectionId,
        peer: &PeerId,
        blob: &BlobId,
        pieces: &[PieceRange],
    ) -> Result<(), Refusal> {
        let mut inner = lock(&self.inner);
        let swarm = inner.swarms.get_mut(blob).ok_or(Refusal::NotOpen)?;
        let member = swarm.members.get_mut(peer).filter(|member| member.joiner.session == session);
        let member = member.ok_or(Refusal::NotOpen)?;
        let was_complete = member.pieces.is_full();
        add(&mut member.pieces, pieces)?;
        if member.pieces.is_full() && !was_complete {
            swarm.tell_complete(blob, peer);
        }
        Ok(())
    }

    /// A member departs from one swarm.
    pub fn depart(&self, session: ConnectionId, peer: &PeerId, blob: &BlobId) {
        lock(&self.inner).depart(session, peer, blob);
    }

    /// A session has ended: it departs from all.
    pub fn end_session(&self, session: ConnectionId, peer: &PeerId) {
        let mut inner = lock(&self.inner);
        for blob in inner.joined.remove(&session).unwrap_or_default() {
            inner.depart(session, peer, &blob);
        }
    }

    /// Members of all swarms together.
    pub fn members(&self) -> usize {
        lock(&self.inner).swarms.values().map(|swarm| swarm.members.len()).sum()
    }
}

impl Inner {
    fn depart(&mut self, session: ConnectionId, peer: &PeerId, blob: &BlobId) {
        if let Some(blobs) = self.joined.get_mut(&session) {
            blobs.remove(blob);
            if blobs.is_empty() {
                self.joined.remove(&session);
            }
        }
        let Some(swarm) = self.swarms.get_mut(blob) else { return };
        // A newer session of the same peer may have joined meanwhile.
        if swarm.members.get(peer).is_some_and(|member| member.joiner.session == session) {
            swarm.members.remove(peer);
        }
        if swarm.members.is_empty() {
            self.swarms.remove(blob);
        }
    }

    /// splitmix64: who is told of whom needs no better chance.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Swarm {
    fn join(&mut self, blob: BlobId, joiner: Joiner, pieces: LeafSet, random: u64) -> Vec<(PeerId, bool)> {
        let (peer, complete) = (joiner.peer, pieces.is_full());
        self.members.remove(&peer);
        let mut told = Vec::new();
        let mut knows = BTreeSet::new();
        for other in self.some_members(random) {
            let Some(member) = self.members.get_mut(&other) else { continue };
            if passes(&member.joiner.passes_to, &joiner.groups) {
                told.push((other, member.pieces.is_full()));
                knows.insert(other);
            }
            if member.knows.len() < NEIGHBOURS_MAX && passes(&joiner.passes_to, &member.joiner.groups) {
                member.knows.insert(peer);
                member.joiner.mailbox.put(blob, peer, complete);
            }
        }
        self.members.insert(peer, Member { joiner, pieces, knows });
        told
    }

    /// Up to [`NEIGHBOURS`] members, chosen by chance.
    fn some_members(&self, mut random: u64) -> Vec<PeerId> {
        let mut chosen: Vec<PeerId> = self.members.keys().copied().collect();
        for place in 0..NEIGHBOURS.min(chosen.len()) {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let other = place + usize::try_from(random >> 33).unwrap_or(0) % (chosen.len() - place);
            chosen.swap(place, other);
        }
        chosen.truncate(NEIGHBOURS);
        chosen
    }

    fn tell_complete(&self, blob: &BlobId, peer: &PeerId) {
        for member in self.members.values().filter(|member| member.knows.contains(peer)) {
            member.joiner.mailbox.put(*blob, *peer, true);
        }
    }
}

/// Whether what is passed on to some groups reaches a member of others; none means everyone.
fn passes(to: &[Label], groups: &[Label]) -> bool {
    to.is_empty() || to.iter().any(|group| groups.contains(group))
}

fn add(set: &mut LeafSet, runs: &[PieceRange]) -> Result<(), Refusal> {
    for run in runs {
        let end = u64::from(run.first) + u64::from(run.count);
        if end > set.leaves() {
            return Err(Refusal::TooMuch(format!("piece {end} of {}", set.leaves())));
        }
        for piece in u64::from(run.first)..end {
            set.insert(piece);
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change leaves whole values behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use haul_core::ids::PublicKey;

    use super::*;

    const SIZE: u64 = 64 * 1024 * 1024;

    fn peer(n: u8) -> PeerId {
        let mut bytes = [7; 32];
        bytes[0] = n;
        PublicKey::new(bytes).unwrap()
    }

    fn joiner(n: u8, groups: &[&str], passes_to: &[&str]) -> Joiner {
        let labels = |names: &[&str]| names.iter().map(|name| Label::new(*name).unwrap()).collect();
        Joiner {
            session: ConnectionId(u64::from(n)),
            peer: peer(n),
            groups: labels(groups),
            passes_to: labels(passes_to),
            mailbox: Arc::default(),
        }
    }

    fn blob() -> BlobId {
        BlobId::new([3; 32])
    }

    fn run(first: u32, count: u32) -> PieceRange {
        PieceRange { first, count }
    }

    fn news(joiner: &Joiner) -> Vec<(PeerId, bool)> {
        lock(&joiner.mailbox.news).remove(&blob()).unwrap_or_default().into_iter().collect()
    }

    #[test]
    fn members_learn_of_each_other_and_of_who_is_complete() {
        let swarms = Swarms::default();
        let (a, b) = (joiner(1, &[], &[]), joiner(2, &[], &[]));
        assert_eq!(swarms.join(a.clone(), blob(), SIZE, &[]).unwrap(), []);
        assert_eq!(swarms.join(b.clone(), blob(), SIZE, &[run(0, 3)]).unwrap(), [(a.peer, false)]);
        assert_eq!(news(&a), [(b.peer, false)]);
        swarms.have(b.session, &b.peer, &blob(), &[run(3, 60)]).unwrap();
        assert_eq!(news(&a), []);
        swarms.have(b.session, &b.peer, &blob(), &[run(63, 1)]).unwrap();
        assert_eq!(news(&a), [(b.peer, true)]);
        assert!(swarms.have(b.session, &b.peer, &blob(), &[run(64, 1)]).is_err(), "64 pieces of a mebibyte");
        assert!(matches!(swarms.join(joiner(3, &[], &[]), blob(), SIZE + 1, &[]), Err(Refusal::StateMismatch)));
        swarms.end_session(a.session, &a.peer);
        swarms.depart(b.session, &b.peer, &blob());
        assert_eq!(swarms.members(), 0);
        assert_eq!(swarms.have(b.session, &b.peer, &blob(), &[]), Err(Refusal::NotOpen));
        assert!(lock(&swarms.inner).joined.is_empty());
    }

    #[test]
    fn nobody_is_told_of_one_that_may_not_pass_the_blob_on_to_it() {
        let swarms = Swarms::default();
        let (lab, guest) = (joiner(1, &["lab"], &["lab"]), joiner(2, &["art"], &["art"]));
        swarms.join(lab.clone(), blob(), SIZE, &[]).unwrap();
        assert_eq!(swarms.join(guest.clone(), blob(), SIZE, &[]).unwrap(), []);
        assert_eq!(news(&lab), []);
        // Both groups: may give to both, and may have it from both.
        let both = joiner(3, &["art", "lab"], &["art", "lab"]);
        assert_eq!(swarms.join(both.clone(), blob(), SIZE, &[]).unwrap().len(), 2);
        assert_eq!((news(&lab), news(&guest)), (vec![(both.peer, false)], vec![(both.peer, false)]));
    }

    #[test]
    fn an_older_session_does_not_end_the_place_of_a_newer_one() {
        let swarms = Swarms::default();
        let old = joiner(1, &[], &[]);
        let new = Joiner { session: ConnectionId(9), ..old.clone() };
        swarms.join(old.clone(), blob(), SIZE, &[]).unwrap();
        swarms.join(new.clone(), blob(), SIZE, &[]).unwrap();
        assert_eq!(swarms.have(old.session, &old.peer, &blob(), &[]), Err(Refusal::NotOpen));
        swarms.end_session(old.session, &old.peer);
        assert_eq!(swarms.members(), 1);
        swarms.have(new.session, &new.peer, &blob(), &[run(0, 1)]).unwrap();
    }

    #[test]
    fn a_large_swarm_is_told_in_part_and_stays_connected() {
        let swarms = Swarms::default();
        let joiners: Vec<Joiner> = (0..200).map(|n| joiner(n, &[], &[])).collect();
        for joiner in &joiners {
            assert!(swarms.join(joiner.clone(), blob(), SIZE, &[]).unwrap().len() <= NEIGHBOURS);
        }
        let inner = lock(&swarms.inner);
        let members = &inner.swarms[&blob()].members;
        let (mut reached, mut open) = (BTreeSet::new(), vec![joiners[0].peer]);
        while let Some(peer) = open.pop() {
            if reached.insert(peer) {
                assert!(members[&peer].knows.len() <= NEIGHBOURS_MAX);
                open.extend(&members[&peer].knows);
            }
        }
        assert_eq!(reached.len(), members.len());
    }
}
