//! One swarm: its members, who was told of whom, and its planners.

use std::collections::{BTreeMap, BTreeSet};

use haul_core::blob::BlobGeometry;
use haul_core::ids::{BlobId, PeerId};
use haul_core::planner::{Dealing, Runs, splitmix64};
use haul_core::registry::leases::ConnectionId;
use haul_core::time::Moment;
use haul_core::wire::Label;
use haul_core::wire::index::Refusal;

use super::planning::{Held, Planning};
use super::{Joiner, Plan, Report};

/// Others that a member is told of when it joins. As each of those is told of it in return, members come to know twice
/// as many, and with that many chance connects any number of them.
pub(super) const NEIGHBOURS: usize = 16;
/// Others that a member is told of in all.
pub(super) const NEIGHBOURS_MAX: usize = 2 * NEIGHBOURS;

#[derive(Debug)]
pub(super) struct Swarm {
    geometry: BlobGeometry,
    dealing: Option<Dealing>,
    pub(super) members: BTreeMap<PeerId, Member>,
    /// Members that lack something.
    pub(super) sinks: usize,
    /// One for each set of groups that members pass the blob on to.
    pub(super) plannings: BTreeMap<Vec<Label>, Planning>,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) joiner: Joiner,
    /// Pieces that it has not told of.
    missing: u32,
    /// Others that it was told of.
    pub(super) knows: BTreeSet<PeerId>,
    /// Members that were told of it.
    known_by: BTreeSet<PeerId>,
}

impl Swarm {
    pub(super) fn new(geometry: BlobGeometry, dealing: Option<Dealing>) -> Self {
        Self { geometry, dealing, members: BTreeMap::new(), sinks: 0, plannings: BTreeMap::new() }
    }

    pub(super) fn join(
        &mut self,
        now: Moment,
        blob: BlobId,
        joiner: Joiner,
        held: Held,
        random: u64,
        room: u64,
    ) -> Vec<(PeerId, bool)> {
        let (peer, missing) = (joiner.peer, held.missing());
        let mut knew = self.remove(now, &peer);
        knew.extend(self.forget_owner(&peer));
        let (geometry, dealing) = (self.geometry, self.dealing);
        let planning = self.plannings.entry(joiner.passes_to.clone());
        let planning = planning.or_insert_with(|| Planning::new(geometry, dealing, random));
        planning.join(now, peer, held, joiner.hints, room);
        self.sinks += usize::from(missing > 0);
        let (to, of) = (joiner.groups.clone(), joiner.passes_to.clone());
        self.members.insert(peer, Member { joiner, missing, knows: BTreeSet::new(), known_by: BTreeSet::new() });
        let mut told = Vec::new();
        for other in self.some_members(random, &peer) {
            let Some(member) = self.members.get(&other) else { continue };
            if passes(&member.joiner.passes_to, &to) {
                told.push((other, member.missing == 0));
                self.note_known(&peer, &other);
            }
            self.tell_newcomer(blob, &other, &peer, &of);
        }
        // It may have come back with another address.
        for other in knew {
            self.tell_newcomer(blob, &other, &peer, &of);
        }
        told
    }

    /// Members that know a peer because it shared the blob, and may be told of it again.
    fn forget_owner(&mut self, peer: &PeerId) -> Vec<PeerId> {
        let mut knew = Vec::new();
        if self.plannings.values().any(|planning| planning.is_owner(peer)) {
            let members = self.members.iter_mut();
            knew.extend(members.filter_map(|(id, member)| member.knows.remove(peer).then_some(*id)));
        }
        knew
    }

    fn tell_newcomer(&mut self, blob: BlobId, to: &PeerId, peer: &PeerId, passes_to: &[Label]) {
        let Some(member) = self.members.get(to) else { return };
        let room = member.knows.len() < NEIGHBOURS_MAX && !member.knows.contains(peer);
        if room && passes(passes_to, &member.joiner.groups) {
            self.tell(blob, to, peer);
        }
    }

    pub(super) fn have(
        &mut self,
        now: Moment,
        session: ConnectionId,
        peer: &PeerId,
        blob: &BlobId,
        report: &Report,
    ) -> Result<(), Refusal> {
        let member = self.members.get_mut(peer).filter(|member| member.joiner.session == session);
        let member = member.ok_or(Refusal::NotOpen)?;
        // Nothing of a report counts if some of it is wrong.
        if report.pieces.end() > self.geometry.pieces() {
            return Err(beyond(&report.pieces, self.geometry.pieces()));
        }
        let missed = member.missing;
        member.missing = missed.saturating_sub(report.pieces.count());
        let completed = missed > 0 && member.missing == 0;
        if let Some(planning) = self.plannings.get_mut(&member.joiner.passes_to) {
            planning.report(now, *peer, report);
        }
        if completed {
            self.sinks -= 1;
            self.tell_complete(blob, peer);
        }
        Ok(())
    }

    pub(super) fn set_owners(
        &mut self,
        now: Moment,
        blob: BlobId,
        groups: &[Label],
        owners: &BTreeMap<PeerId, u32>,
        random: u64,
        room: u64,
    ) {
        let Some(planning) = self.plannings.get_mut(groups) else { return };
        let strangers = owners.iter().filter(|(owner, _)| !self.members.contains_key(owner));
        let owners = strangers.map(|(owner, site)| (*owner, *site)).collect();
        let (new, gone) = planning.set_owners(now, owners, random, room);
        for member in self.members.values_mut().filter(|member| member.joiner.passes_to == groups) {
            for owner in &gone {
                member.knows.remove(owner);
            }
            for owner in &new {
                member.knows.insert(*owner);
                member.joiner.mailbox.put_peer(blob, *owner, true);
            }
        }
    }

    /// Takes a member out; those that were told of it, who may be told of it again.
    pub(super) fn remove(&mut self, now: Moment, peer: &PeerId) -> BTreeSet<PeerId> {
        let Some(member) = self.members.remove(peer) else { return BTreeSet::new() };
        self.sinks -= usize::from(member.missing > 0);
        for other in &member.known_by {
            if let Some(other) = self.members.get_mut(other) {
                other.knows.remove(peer);
            }
        }
        for other in &member.knows {
            if let Some(other) = self.members.get_mut(other) {
                other.known_by.remove(peer);
            }
        }
        if let Some(planning) = self.plannings.get_mut(&member.joiner.passes_to) {
            planning.depart(now, *peer);
            if planning.is_over() {
                self.plannings.remove(&member.joiner.passes_to);
            }
        }
        member.known_by
    }

    pub(super) fn plan(&mut self, now: Moment, blob: BlobId) {
        let plans: Vec<(PeerId, Plan)> = self.plannings.values_mut().flat_map(|planning| planning.plan(now)).collect();
        for (sink, plan) in plans {
            let Some(member) = self.members.get(&sink) else { continue };
            let strangers: Vec<PeerId> =
                plan.1.iter().map(|(source, _)| *source).filter(|source| !member.knows.contains(source)).collect();
            for source in strangers {
                self.tell(blob, &sink, &source);
            }
            if let Some(member) = self.members.get(&sink) {
                member.joiner.mailbox.put_plan(blob, plan);
            }
        }
    }

    /// Whether a peer is a member, or planned for because it shares the blob.
    pub(super) fn takes_part(&self, peer: &PeerId) -> bool {
        self.members.contains_key(peer) || self.plannings.values().any(|planning| planning.is_owner(peer))
    }

    /// A peer goes soon: how many pieces are lost to others if it goes now, and how many were looked at.
    pub(super) fn leaving(&mut self, now: Moment, peer: &PeerId) -> (u64, u64) {
        let plannings = self.plannings.values_mut();
        let needed: u64 = plannings.filter_map(|planning| planning.leaving(now, peer)).sum();
        (needed, self.geometry.pieces().into())
    }

    /// Up to [`NEIGHBOURS`] members but this one, chosen by chance.
    fn some_members(&self, random: u64, but: &PeerId) -> Vec<PeerId> {
        some_of(self.members.keys().copied().filter(|other| other != but).collect(), NEIGHBOURS, random)
    }

    fn tell_complete(&self, blob: &BlobId, peer: &PeerId) {
        let Some(known_by) = self.members.get(peer).map(|member| &member.known_by) else { return };
        for member in known_by.iter().filter_map(|other| self.members.get(other)) {
            member.joiner.mailbox.put_peer(*blob, *peer, true);
        }
    }

    /// Tells a member of another peer.
    fn tell(&mut self, blob: BlobId, to: &PeerId, of: &PeerId) {
        // Whoever is no member shares it.
        let complete = self.members.get(of).is_none_or(|of| of.missing == 0);
        self.note_known(to, of);
        if let Some(member) = self.members.get(to) {
            member.joiner.mailbox.put_peer(blob, *of, complete);
        }
    }

    fn note_known(&mut self, to: &PeerId, of: &PeerId) {
        if let Some(of) = self.members.get_mut(of) {
            of.known_by.insert(*to);
        }
        if let Some(member) = self.members.get_mut(to) {
            member.knows.insert(*of);
        }
    }

    /// What its planners keep.
    pub(super) fn cells(&self) -> u64 {
        self.plannings.values().map(Planning::cells).sum()
    }
}

/// So many of these, chosen by chance.
pub(super) fn some_of(mut all: Vec<PeerId>, count: usize, mut random: u64) -> Vec<PeerId> {
    for place in 0..count.min(all.len()) {
        let other = place + usize::try_from(splitmix64(&mut random) >> 33).unwrap_or(0) % (all.len() - place);
        all.swap(place, other);
    }
    all.truncate(count);
    all
}

/// Whether what is passed on to some groups reaches a member of others; none means everyone.
fn passes(to: &[Label], groups: &[Label]) -> bool {
    to.is_empty() || to.iter().any(|group| groups.contains(group))
}

pub(super) fn beyond(runs: &Runs, pieces: u32) -> Refusal {
    Refusal::TooMuch(format!("piece {} of {pieces}; tell of pieces of this content only", runs.end()))
}
