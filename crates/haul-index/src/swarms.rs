//! Swarms: who downloads which blob and what of it they hold, so that they find each other.
//!
//! A swarm lives as long as somebody takes part. Members are told of each other by chance, up to 32 each, and only where
//! the one may have the blob from the other: a member passes it on to those groups through which the index knows it to
//! see the blob. Among those that pass it on to the same groups the planner decides who takes which pieces from whom, as
//! soon as there are two downloaders.

mod mailbox;
mod planning;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use haul_core::blob::BlobGeometry;
use haul_core::ids::{BlobId, PeerId};
use haul_core::limits;
use haul_core::planner::{PieceRange, PieceSet};
use haul_core::registry::leases::ConnectionId;
use haul_core::time::Moment;
use haul_core::wire::Label;
use haul_core::wire::index::Refusal;
use tokio::sync::Notify;

pub use mailbox::{Mailbox, News, Plan};
use planning::Planning;

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

/// All swarms of one index.
#[derive(Debug, Default)]
pub struct Swarms {
    inner: Mutex<Inner>,
    begun: Notify,
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
    geometry: BlobGeometry,
    members: BTreeMap<PeerId, Member>,
    /// One for each set of groups that members pass the blob on to.
    plannings: BTreeMap<Vec<Label>, Planning>,
}

#[derive(Debug)]
struct Member {
    joiner: Joiner,
    pieces: PieceSet,
    /// Others that it was told of.
    knows: BTreeSet<PeerId>,
}

/// What a member reports.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Pieces that it holds now.
    pub pieces: Vec<PieceRange>,
    /// Verified bytes from others since the last report.
    pub received: Vec<(PeerId, u64)>,
    /// Others that did not give what they should hold.
    pub failed: Vec<PeerId>,
}

impl Swarms {
    /// Takes a peer into the swarm of a blob; the others that it may ask, with whether they hold all of it.
    pub fn join(
        &self,
        now: Moment,
        joiner: Joiner,
        blob: BlobId,
        size: u64,
        pieces: &[PieceRange],
    ) -> Result<Vec<(PeerId, bool)>, Refusal> {
        let geometry = BlobGeometry::new(size).ok_or_else(|| Refusal::TooMuch(format!("a blob of {size} bytes")))?;
        let mut held = PieceSet::new(geometry.pieces());
        add(&mut held, pieces)?;
        let mut inner = lock(&self.inner);
        if inner.swarms.get(&blob).is_some_and(|swarm| swarm.geometry != geometry) {
            return Err(Refusal::StateMismatch);
        }
        let blobs = inner.joined.entry(joiner.session).or_default();
        if blobs.len() >= limits::SWARMS_PER_MEMBER && !blobs.contains(&blob) {
            return Err(Refusal::TooMuch(format!("{} swarms at once", limits::SWARMS_PER_MEMBER)));
        }
        blobs.insert(blob);
        let random = inner.next_random();
        let swarm = inner.swarms.entry(blob).or_insert_with(|| Swarm {
            geometry,
            members: BTreeMap::new(),
            plannings: BTreeMap::new(),
        });
        let others = swarm.join(now, blob, joiner, held, random);
        self.begun.notify_one();
        Ok(others)
    }

    /// Waits until somebody downloads something. For one task.
    pub async fn some_download(&self) {
        while !lock(&self.inner).swarms.values().any(Swarm::has_sinks) {
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
        let swarm = inner.swarms.get_mut(blob).ok_or(Refusal::NotOpen)?;
        let member = swarm.members.get_mut(peer).filter(|member| member.joiner.session == session);
        let member = member.ok_or(Refusal::NotOpen)?;
        let was_complete = member.pieces.is_full();
        add(&mut member.pieces, &report.pieces)?;
        let completed = member.pieces.is_full() && !was_complete;
        if let Some(planning) = swarm.plannings.get_mut(&member.joiner.passes_to) {
            planning.report(now, *peer, report);
        }
        if completed {
            swarm.tell_complete(blob, peer);
        }
        Ok(())
    }

    /// Every blob that is downloaded, with the groups that members pass it on to.
    pub fn planned(&self) -> Vec<(BlobId, Vec<Label>)> {
        let inner = lock(&self.inner);
        let classes = |(blob, swarm): (&BlobId, &Swarm)| -> Vec<(BlobId, Vec<Label>)> {
            swarm.plannings.keys().map(|groups| (*blob, groups.clone())).collect()
        };
        inner.swarms.iter().flat_map(classes).collect()
    }

    /// Who shares a blob with these groups now. Members learn of those that are new.
    pub fn set_owners(&self, now: Moment, blob: &BlobId, groups: &[Label], owners: &BTreeSet<PeerId>) {
        let mut inner = lock(&self.inner);
        let Some(swarm) = inner.swarms.get_mut(blob) else { return };
        let Some(planning) = swarm.plannings.get_mut(groups) else { return };
        let is_member = |peer: &PeerId| swarm.members.contains_key(peer);
        let new = planning.set_owners(now, owners.iter().copied().filter(|owner| !is_member(owner)).collect());
        for member in swarm.members.values_mut().filter(|member| member.joiner.passes_to == groups) {
            for owner in &new {
                member.tell(*blob, *owner, true);
            }
        }
    }

    /// Plans where it is time; plans go to the mailboxes of those that they are for.
    pub fn plan(&self, now: Moment) {
        for (blob, swarm) in &mut lock(&self.inner).swarms {
            swarm.plan(now, *blob);
        }
    }

    /// A member departs from one swarm.
    pub fn depart(&self, now: Moment, session: ConnectionId, peer: &PeerId, blob: &BlobId) {
        lock(&self.inner).depart(now, session, peer, blob);
    }

    /// A session has ended: it departs from all.
    pub fn end_session(&self, now: Moment, session: ConnectionId, peer: &PeerId) {
        let mut inner = lock(&self.inner);
        for blob in inner.joined.remove(&session).unwrap_or_default() {
            inner.depart(now, session, peer, &blob);
        }
    }

    #[cfg(test)]
    fn members(&self) -> usize {
        lock(&self.inner).swarms.values().map(|swarm| swarm.members.len()).sum()
    }
}

impl Inner {
    fn depart(&mut self, now: Moment, session: ConnectionId, peer: &PeerId, blob: &BlobId) {
        if let Some(blobs) = self.joined.get_mut(&session) {
            blobs.remove(blob);
            if blobs.is_empty() {
                self.joined.remove(&session);
            }
        }
        let Some(swarm) = self.swarms.get_mut(blob) else { return };
        // A newer session of the same peer may have joined meanwhile.
        if swarm.members.get(peer).is_some_and(|member| member.joiner.session == session) {
            swarm.remove(now, peer);
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
    fn join(
        &mut self,
        now: Moment,
        blob: BlobId,
        joiner: Joiner,
        pieces: PieceSet,
        random: u64,
    ) -> Vec<(PeerId, bool)> {
        let (peer, complete) = (joiner.peer, pieces.is_full());
        self.remove(now, &peer);
        let geometry = self.geometry;
        let planning = self.plannings.entry(joiner.passes_to.clone());
        planning.or_insert_with(|| Planning::new(geometry, random)).join(now, peer, &pieces);
        let mut told = Vec::new();
        let mut knows = BTreeSet::new();
        for other in self.some_members(random) {
            let Some(member) = self.members.get_mut(&other) else { continue };
            if passes(&member.joiner.passes_to, &joiner.groups) {
                told.push((other, member.pieces.is_full()));
                knows.insert(other);
            }
            if member.knows.len() < NEIGHBOURS_MAX && passes(&joiner.passes_to, &member.joiner.groups) {
                member.tell(blob, peer, complete);
            }
        }
        self.members.insert(peer, Member { joiner, pieces, knows });
        told
    }

    fn has_sinks(&self) -> bool {
        self.members.values().any(|member| !member.pieces.is_full())
    }

    fn remove(&mut self, now: Moment, peer: &PeerId) {
        let Some(member) = self.members.remove(peer) else { return };
        if let Some(planning) = self.plannings.get_mut(&member.joiner.passes_to) {
            planning.depart(now, *peer);
            if planning.is_over() {
                self.plannings.remove(&member.joiner.passes_to);
            }
        }
    }

    fn plan(&mut self, now: Moment, blob: BlobId) {
        for planning in self.plannings.values_mut() {
            for (sink, plan) in planning.plan(now) {
                let complete: Vec<(PeerId, bool)> = plan
                    .1
                    .iter()
                    .map(|(source, _)| {
                        // Whoever is no member shares it.
                        (*source, self.members.get(source).is_none_or(|source| source.pieces.is_full()))
                    })
                    .collect();
                let Some(member) = self.members.get_mut(&sink) else { continue };
                for (source, complete) in complete {
                    if !member.knows.contains(&source) {
                        member.tell(blob, source, complete);
                    }
                }
                member.joiner.mailbox.put_plan(blob, plan);
            }
        }
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
            member.joiner.mailbox.put_peer(*blob, *peer, true);
        }
    }
}

impl Member {
    fn tell(&mut self, blob: BlobId, other: PeerId, complete: bool) {
        self.knows.insert(other);
        self.joiner.mailbox.put_peer(blob, other, complete);
    }
}

/// Whether what is passed on to some groups reaches a member of others; none means everyone.
fn passes(to: &[Label], groups: &[Label]) -> bool {
    to.is_empty() || to.iter().any(|group| groups.contains(group))
}

fn add(set: &mut PieceSet, runs: &[PieceRange]) -> Result<(), Refusal> {
    for run in runs {
        let pieces = run.pieces();
        if pieces.end > set.pieces() {
            return Err(Refusal::TooMuch(format!("piece {} of {}", pieces.end, set.pieces())));
        }
        for piece in pieces {
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
    const NOW: Moment = Moment(1_000);

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

    fn holds(pieces: &[PieceRange]) -> Report {
        Report { pieces: pieces.to_vec(), ..Report::default() }
    }

    fn news(joiner: &Joiner) -> Vec<(PeerId, bool)> {
        joiner.mailbox.take(&blob()).peers.into_iter().collect()
    }

    #[test]
    fn members_learn_of_each_other_and_of_who_is_complete() {
        let swarms = Swarms::default();
        let (a, b) = (joiner(1, &[], &[]), joiner(2, &[], &[]));
        assert_eq!(swarms.join(NOW, a.clone(), blob(), SIZE, &[]).unwrap(), []);
        assert_eq!(swarms.join(NOW, b.clone(), blob(), SIZE, &[run(0, 3)]).unwrap(), [(a.peer, false)]);
        assert_eq!(news(&a), [(b.peer, false)]);
        swarms.have(NOW, b.session, &b.peer, &blob(), &holds(&[run(3, 60)])).unwrap();
        assert_eq!(news(&a), []);
        swarms.have(NOW, b.session, &b.peer, &blob(), &holds(&[run(63, 1)])).unwrap();
        assert_eq!(news(&a), [(b.peer, true)]);
        assert!(
            swarms.have(NOW, b.session, &b.peer, &blob(), &holds(&[run(64, 1)])).is_err(),
            "64 pieces of a mebibyte"
        );
        assert!(matches!(swarms.join(NOW, joiner(3, &[], &[]), blob(), SIZE + 1, &[]), Err(Refusal::StateMismatch)));
        swarms.end_session(NOW, a.session, &a.peer);
        swarms.depart(NOW, b.session, &b.peer, &blob());
        assert_eq!(swarms.members(), 0);
        assert_eq!(swarms.have(NOW, b.session, &b.peer, &blob(), &holds(&[])), Err(Refusal::NotOpen));
        assert!(lock(&swarms.inner).joined.is_empty());
    }

    #[test]
    fn nobody_is_told_of_one_that_may_not_pass_the_blob_on_to_it() {
        let swarms = Swarms::default();
        let (lab, guest) = (joiner(1, &["lab"], &["lab"]), joiner(2, &["art"], &["art"]));
        swarms.join(NOW, lab.clone(), blob(), SIZE, &[]).unwrap();
        assert_eq!(swarms.join(NOW, guest.clone(), blob(), SIZE, &[]).unwrap(), []);
        assert_eq!(news(&lab), []);
        // Both groups: may give to both, and may have it from both.
        let both = joiner(3, &["art", "lab"], &["art", "lab"]);
        assert_eq!(swarms.join(NOW, both.clone(), blob(), SIZE, &[]).unwrap().len(), 2);
        assert_eq!((news(&lab), news(&guest)), (vec![(both.peer, false)], vec![(both.peer, false)]));
    }

    #[test]
    fn an_older_session_does_not_end_the_place_of_a_newer_one() {
        let swarms = Swarms::default();
        let old = joiner(1, &[], &[]);
        let new = Joiner { session: ConnectionId(9), ..old.clone() };
        swarms.join(NOW, old.clone(), blob(), SIZE, &[]).unwrap();
        swarms.join(NOW, new.clone(), blob(), SIZE, &[]).unwrap();
        assert_eq!(swarms.have(NOW, old.session, &old.peer, &blob(), &holds(&[])), Err(Refusal::NotOpen));
        swarms.end_session(NOW, old.session, &old.peer);
        assert_eq!(swarms.members(), 1);
        swarms.have(NOW, new.session, &new.peer, &blob(), &holds(&[run(0, 1)])).unwrap();
    }

    #[test]
    fn a_large_swarm_is_told_in_part_and_stays_connected() {
        let swarms = Swarms::default();
        let joiners: Vec<Joiner> = (0..200).map(|n| joiner(n, &[], &[])).collect();
        for joiner in &joiners {
            assert!(swarms.join(NOW, joiner.clone(), blob(), SIZE, &[]).unwrap().len() <= NEIGHBOURS);
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

    #[test]
    fn two_downloaders_are_planned_for_and_learn_of_whom_they_are_to_ask() {
        let swarms = Swarms::default();
        let (a, b) = (joiner(1, &[], &[]), joiner(2, &[], &[]));
        swarms.join(NOW, a.clone(), blob(), SIZE, &[]).unwrap();
        let owner = peer(9);
        swarms.set_owners(NOW, &blob(), &[], &BTreeSet::from([owner]));
        assert_eq!(news(&a), [(owner, true)], "who shares it is told of at once");
        swarms.plan(NOW);
        assert!(a.mailbox.take(&blob()).plan.is_none(), "who is alone knows best whom to ask");
        swarms.join(NOW, b.clone(), blob(), SIZE, &[]).unwrap();
        swarms.plan(Moment(2_000));
        for (me, other) in [(&a, &b), (&b, &a)] {
            let News { peers, plan } = me.mailbox.take(&blob());
            let (_, sources) = plan.unwrap();
            assert!(
                sources.iter().any(|(source, _)| *source == owner) && sources.iter().any(|(s, _)| *s == other.peer)
            );
            assert_eq!(peers.contains_key(&other.peer), me.peer == a.peer, "the other one heard of it when it joined");
        }
        // Whatever one of them says that it received, planning goes on.
        let lie = Report { received: vec![(b.peer, u64::MAX), (owner, u64::MAX)], ..Report::default() };
        for at in 20..60 {
            swarms.have(Moment(at * 100), a.session, &a.peer, &blob(), &lie).unwrap();
            swarms.plan(Moment(at * 100));
        }
        assert!(a.mailbox.take(&blob()).plan.is_some() && b.mailbox.take(&blob()).plan.is_some());
        // Nobody shares it any more: what only the owner had is not planned.
        swarms.set_owners(Moment(7_000), &blob(), &[], &BTreeSet::new());
        swarms.plan(Moment(8_000));
        let (_, sources) = a.mailbox.take(&blob()).plan.unwrap();
        assert!(sources.iter().all(|(source, _)| *source != owner));
        assert_eq!(swarms.planned(), [(blob(), Vec::new())]);
        swarms.end_session(NOW, a.session, &a.peer);
        swarms.end_session(NOW, b.session, &b.peer);
        assert_eq!(swarms.planned(), []);
    }
}
