//! Deliveries whose source was lost: they move to another source at once, or go with everything that hangs below them.

use alloc::vec::Vec;

use super::{Planner, Slot, Want};
use crate::limits::SWARM_NEIGHBOURS;
use crate::time::Moment;

/// Longest way up a tree that is followed; whoever stands deeper is not taken as a source.
const DEPTH: usize = 64;

impl Planner {
    /// Finds other sources for all that was planned from this peer.
    pub(super) fn release_sinks_of(&mut self, source: Slot) {
        while let Some(give) = self.peers[source as usize].gives.last().copied() {
            self.repair(give.sink, give.piece);
        }
    }

    /// Takes out of a leaver's plan what it has nothing of and nobody gets through it: links are for those who stay.
    pub(super) fn spare_leaver(&mut self, slot: Slot) {
        let peer = &self.peers[slot as usize];
        let is_for_itself =
            |want: &&Want| want.left == self.piece_bytes && peer.gives.iter().all(|give| give.piece != want.piece);
        let pieces: Vec<u32> = peer.wants.iter().filter(is_for_itself).map(|want| want.piece).collect();
        self.changed |= !pieces.is_empty();
        for piece in pieces {
            self.unassign(slot, piece);
        }
    }

    /// Moves a delivery to another source than the present one, or takes it out of the plan with all below it.
    pub(super) fn repair(&mut self, sink: Slot, piece: u32) {
        let Some(before) = self.peers[sink as usize].source_of(piece) else { return };
        let since = self.last_run.unwrap_or(Moment(0));
        if let Some(source) = self.other_source(sink, piece, before) {
            self.detach(sink, piece);
            self.attach(since, sink, piece, source);
        } else {
            self.cancel(sink, piece);
        }
        self.changed = true;
    }

    /// Takes a delivery out of the plan, and those that were to be fed by it.
    pub(super) fn cancel(&mut self, sink: Slot, piece: u32) {
        let mut below = alloc::vec![sink];
        while let Some(slot) = below.pop() {
            self.unassign(slot, piece);
            below.extend(self.peers[slot as usize].sinks_of(piece));
        }
    }

    /// The least loaded neighbour that holds the piece or gets it without this sink.
    pub(super) fn other_source(&self, sink: Slot, piece: u32, before: Slot) -> Option<Slot> {
        debug_assert!(self.peers[sink as usize].neighbours.len() <= SWARM_NEIGHBOURS);
        let peer = &self.peers[sink as usize];
        let fits = |source: &Slot| {
            let giver = &self.peers[*source as usize];
            *source != before
                && giver.may_give()
                && giver.taken.contains(piece)
                && if giver.have.is_full() {
                    self.has_up_room(*source) && !giver.spared
                } else {
                    self.has_relay_room(*source)
                }
                && !peer.avoided.contains(&giver.id)
                && !self.is_below(*source, sink, piece)
        };
        let cost = |source: &Slot| {
            let giver = &self.peers[*source as usize];
            (!giver.have.contains(piece), giver.up.finish_us() + self.distance_us(sink, *source), *source)
        };
        peer.neighbours.iter().copied().filter(fits).min_by_key(cost)
    }

    /// Whether a peer is to get a piece through this sink.
    fn is_below(&self, slot: Slot, sink: Slot, piece: u32) -> bool {
        let mut at = slot;
        for _ in 0..DEPTH {
            let peer = &self.peers[at as usize];
            if at == sink {
                return true;
            }
            if peer.have.contains(piece) {
                return false;
            }
            let Some(above) = peer.source_of(piece) else { return true };
            at = above;
        }
        true
    }
}
