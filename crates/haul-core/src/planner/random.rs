//! Plans by chance: what the others are measured against.

use alloc::vec::Vec;

use super::pieces::bits;
use super::{Planner, Slot};
use crate::time::Moment;

/// Sources that are tried for a sink before it waits for the next run.
const TRIES: usize = 16;

impl Planner {
    /// Every sink in turn takes a piece by chance from a source by chance, until its own link or all that were tried are
    /// planned full.
    pub(super) fn deal_at_random(&mut self, now: Moment) {
        let mut sinks: Vec<Slot> =
            self.live.iter().copied().filter(|slot| self.peers[*slot as usize].is_sink()).collect();
        while !sinks.is_empty() {
            sinks.retain(|sink| self.deal_one(now, *sink));
        }
    }

    fn deal_one(&mut self, now: Moment, sink: Slot) -> bool {
        if self.peers[sink as usize].leaving || !self.has_down_room(sink) {
            return false;
        }
        for _ in 0..TRIES {
            let source = self.random_live();
            if source != sink
                && self.may_serve(source, sink)
                && let Some(piece) = self.any_between(sink, source)
                && self.reach(sink, source)
            {
                self.assign(now, sink, piece, source);
                return true;
            }
        }
        false
    }

    /// A piece that the source holds and the sink lacks; which one is left to chance.
    fn any_between(&mut self, sink: Slot, source: Slot) -> Option<u32> {
        let (lacks, has) = (self.peers[sink as usize].taken.words(), self.peers[source as usize].have.words());
        let useful = has.iter().zip(lacks).map(|(has, lacks)| has & !lacks).enumerate();
        let pieces: Vec<u32> = useful.flat_map(|(at, word)| bits(word).map(move |bit| at as u32 * 64 + bit)).collect();
        pieces.get(self.random_below(pieces.len())).copied()
    }
}
