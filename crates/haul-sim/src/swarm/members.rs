//! Who is told of whom by the simulated index, as the real one does it: by chance, and of all that plans name.

use std::collections::{BTreeMap, BTreeSet};

use super::events::NodeId;
use super::index::{Message, Sources};
use super::world::World;

/// Others that a member is told of when it joins.
const NEIGHBOURS: usize = 16;
/// Others that a member is told of in all, but for those of its plans.
const NEIGHBOURS_MAX: usize = 2 * NEIGHBOURS;

/// The members of the swarm. Who shares the blob without having downloaded it is none: every downloader finds it.
#[derive(Debug, Default)]
pub(super) struct Members(BTreeMap<NodeId, Member>);

#[derive(Debug)]
struct Member {
    /// Pieces that it has not told of.
    missing: u32,
    /// Others that it was told of.
    knows: BTreeSet<NodeId>,
}

impl Members {
    pub(super) fn remove(&mut self, peer: NodeId) {
        self.0.remove(&peer);
        for member in self.0.values_mut() {
            member.knows.remove(&peer);
        }
    }

    fn is_complete(&self, peer: NodeId) -> bool {
        self.0.get(&peer).is_none_or(|member| member.missing == 0)
    }
}

impl World<'_> {
    /// A newcomer is told of some others, and they of it.
    pub(super) fn introduce(&mut self, peer: NodeId) {
        let missing = self.nodes[peer as usize].left.iter().filter(|left| **left > 0).count() as u32;
        let Some(index) = &mut self.index else { return };
        if self.scenario.peers[peer as usize].seed {
            let all: Vec<NodeId> = index.members.0.keys().copied().collect();
            for to in all {
                self.send(Message::Peers { to, peers: vec![(peer, true)], answers_join: false });
            }
            return;
        }
        let mut others: Vec<NodeId> = index.members.0.keys().copied().collect();
        for place in 0..NEIGHBOURS.min(others.len()) {
            let other = place + self.dice.below((others.len() - place) as u64) as usize;
            others.swap(place, other);
        }
        others.truncate(NEIGHBOURS);
        let peers: Vec<(NodeId, bool)> =
            others.iter().map(|other| (*other, index.members.is_complete(*other))).collect();
        let newcomer = Member { missing, knows: others.iter().copied().collect() };
        index.members.0.insert(peer, newcomer);
        let mut told = Vec::new();
        for other in others {
            let Some(member) = index.members.0.get_mut(&other) else { continue };
            if member.knows.len() < NEIGHBOURS_MAX && member.knows.insert(peer) {
                told.push(other);
            }
        }
        self.send(Message::Peers { to: peer, peers, answers_join: true });
        for to in told {
            self.send(Message::Peers { to, peers: vec![(peer, missing == 0)], answers_join: false });
        }
    }

    /// A member holds so many pieces more. When it holds all, those that know it are told.
    pub(super) fn note_gained(&mut self, peer: NodeId, pieces: u32) {
        let Some(index) = &mut self.index else { return };
        let Some(member) = index.members.0.get_mut(&peer) else { return };
        let missed = member.missing;
        member.missing = missed.saturating_sub(pieces);
        if missed > 0 && member.missing == 0 && self.machines {
            let knows = |(to, member): (&NodeId, &Member)| member.knows.contains(&peer).then_some(*to);
            let known_by: Vec<NodeId> = index.members.0.iter().filter_map(knows).collect();
            for to in known_by {
                self.send(Message::Peers { to, peers: vec![(peer, true)], answers_join: false });
            }
        }
    }

    /// Those sources of a plan that its sink was not told of before.
    pub(super) fn strangers(&mut self, sink: NodeId, sources: &Sources) -> Vec<(NodeId, bool)> {
        let Some(index) = &mut self.index else { return Vec::new() };
        let Some(member) = index.members.0.get_mut(&sink) else { return Vec::new() };
        let new: Vec<NodeId> =
            sources.iter().map(|(source, _)| *source).filter(|it| member.knows.insert(*it)).collect();
        new.into_iter().map(|source| (source, index.members.is_complete(source))).collect()
    }
}
