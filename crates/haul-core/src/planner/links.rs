//! Who is in the swarm and who is whose neighbour.
//!
//! Setting up a connection costs round trips and memory, so a peer has a bounded set of neighbours, and plans use those
//! it has before new ones. With four random links each the graph hangs together, also when peers go (random regular graphs
//! are connected from degree 3 on); half of a newcomer's links are to its own site if that has so many peers.

use super::peer::Peer;
use super::{Planner, Slot};
use crate::limits::SWARM_NEIGHBOURS;

/// Links that a newcomer gets; others may link to it later, up to [`SWARM_NEIGHBOURS`].
const FIRST_LINKS: usize = 4;
/// Tries at random for each link: most peers have room.
const TRIES: usize = 4;
/// Peers looked at to find those of one site.
const SITE_TRIES: usize = 64;

impl Planner {
    /// Gives a peer a slot and a place among the live ones.
    pub(super) fn admit(&mut self, mut peer: Peer) -> Slot {
        peer.place = self.live.len() as u32;
        let slot = if let Some(slot) = self.vacant.pop() {
            self.peers[slot as usize] = peer;
            slot
        } else {
            self.peers.push(peer);
            (self.peers.len() - 1) as Slot
        };
        self.live.push(slot);
        slot
    }

    /// Takes a peer out of everything, and repairs what others were to get from it.
    pub(super) fn remove(&mut self, slot: Slot) {
        self.uproot(slot);
        self.discount(slot);
        let place = self.peers[slot as usize].place as usize;
        self.live.swap_remove(place);
        if let Some(&moved) = self.live.get(place) {
            self.peers[moved as usize].place = place as u32;
        }
        self.complete.retain(|other| *other != slot);
        while let Some(want) = self.peers[slot as usize].wants.last().copied() {
            self.unassign(slot, want.piece);
        }
        for piece in 0..self.pieces() {
            if !self.peers[slot as usize].have.contains(piece) {
                self.spread[piece as usize].lacking -= 1;
            }
        }
        self.peers[slot as usize].live = false;
        self.release_sinks_of(slot);
        for other in core::mem::take(&mut self.peers[slot as usize].neighbours) {
            self.peers[other as usize].neighbours.retain(|neighbour| *neighbour != slot);
        }
        self.vacant.push(slot);
    }

    /// What a peer holds no longer counts as copies.
    pub(super) fn discount(&mut self, slot: Slot) {
        let peer = &self.peers[slot as usize];
        if peer.counts() && !peer.have.is_full() {
            for piece in peer.have.iter() {
                self.spread[piece as usize].holders -= 1;
            }
        }
    }

    /// What a peer holds counts as copies again.
    pub(super) fn count_again(&mut self, slot: Slot) {
        let peer = &self.peers[slot as usize];
        if peer.counts() && !peer.have.is_full() {
            for piece in peer.have.iter() {
                self.spread[piece as usize].holders += 1;
            }
        }
    }

    /// First links of a newcomer: half of them near, the rest anywhere.
    pub(super) fn link_newcomer(&mut self, slot: Slot) {
        let site = self.peers[slot as usize].site;
        if site != 0 {
            for _ in 0..SITE_TRIES {
                let other = self.random_live();
                if self.peers[slot as usize].neighbours.len() >= FIRST_LINKS / 2 {
                    break;
                }
                if self.peers[other as usize].site == site {
                    self.link_first(slot, other);
                }
            }
        }
        for _ in 0..FIRST_LINKS * TRIES {
            if self.peers[slot as usize].neighbours.len() >= FIRST_LINKS.min(self.live.len() - 1) {
                break;
            }
            let other = self.random_live();
            self.link_first(slot, other);
        }
    }

    /// Links a newcomer, but not to one that many have been linked to: who came early must keep room for trees.
    fn link_first(&mut self, slot: Slot, other: Slot) {
        if self.peers[other as usize].neighbours.len() < 2 * FIRST_LINKS {
            self.link(slot, other);
        }
    }

    /// Makes two peers neighbours; whether they are afterwards.
    pub(super) fn link(&mut self, one: Slot, other: Slot) -> bool {
        if one == other || !self.peers[one as usize].live || !self.peers[other as usize].live {
            return false;
        }
        if self.peers[one as usize].neighbours.contains(&other) {
            return true;
        }
        if !self.has_link_room(one) || !self.has_link_room(other) {
            return false;
        }
        self.peers[one as usize].neighbours.push(other);
        self.peers[other as usize].neighbours.push(one);
        true
    }

    /// Makes two peers neighbours, if need be in place of others that nothing is planned with; whether they are afterwards.
    pub(super) fn reach(&mut self, one: Slot, other: Slot) -> bool {
        self.link(one, other) || self.make_link_room(one) && self.make_link_room(other) && self.link(one, other)
    }

    /// Makes room for another neighbour by giving one up that nothing is planned with; whether there is room.
    pub(super) fn make_link_room(&mut self, slot: Slot) -> bool {
        if !self.has_link_room(slot) {
            let idle =
                self.peers[slot as usize].neighbours.iter().copied().find(|other| self.is_idle_link(slot, *other));
            let Some(idle) = idle else { return false };
            self.unlink(slot, idle);
        }
        true
    }

    /// Gives up all neighbours that nothing is planned with.
    pub(super) fn drop_idle_links(&mut self, slot: Slot) {
        let mut idle = self.peers[slot as usize].neighbours.clone();
        idle.retain(|other| self.is_idle_link(slot, *other));
        for other in idle {
            self.unlink(slot, other);
        }
    }

    /// Whether neither trees nor deliveries need this link.
    fn is_idle_link(&self, slot: Slot, other: Slot) -> bool {
        let one_way = |slot: Slot, other: Slot| {
            let peer = &self.peers[slot as usize];
            peer.wants.iter().any(|want| want.source == other) || peer.above.contains(&other)
        };
        !one_way(slot, other) && !one_way(other, slot)
    }

    fn unlink(&mut self, one: Slot, other: Slot) {
        self.peers[one as usize].neighbours.retain(|neighbour| *neighbour != other);
        self.peers[other as usize].neighbours.retain(|neighbour| *neighbour != one);
    }

    pub(super) fn has_link_room(&self, slot: Slot) -> bool {
        self.peers[slot as usize].neighbours.len() < SWARM_NEIGHBOURS
    }

    /// A live peer at random; there must be one.
    pub(super) fn random_live(&mut self) -> Slot {
        let at = self.random_below(self.live.len());
        self.live[at]
    }

    /// What it costs, in microseconds of waiting, to go to another site; nothing where a site is not known.
    pub(super) fn distance_us(&self, one: Slot, other: Slot) -> u64 {
        let (one, other) = (self.peers[one as usize].site, self.peers[other as usize].site);
        if one == other || one == 0 || other == 0 { 0 } else { SITE_COST_US }
    }
}

/// A source of another site is taken only if it is through this much earlier: a quarter of a horizon.
const SITE_COST_US: u64 = super::HORIZON_US / 4;
