//! Sinks that lack what others hold: late joiners, those behind slow links, those whose source was lost. Each takes the
//! rarest piece from its least loaded neighbour, until its own link is planned full.

use super::pieces::bits;
use super::{HORIZON_US, Planner, Slot};
use crate::time::Moment;

/// Pieces planned for one sink before the next has its turn.
const TURN: usize = 2;
/// Turns of one run at most: more than any link needs between two runs but the fastest.
const TURNS: usize = 16;
/// Pieces compared to find a rare one.
const COMPARED: usize = 48;
/// A delivery moves to another source if that is through in half the time, and this much earlier in microseconds.
const MOVE_GAIN_US: u64 = 300_000;
/// Deliveries of one sink that move in one run: with four times as many a slow link was left with nothing …
const MOVES: usize = 4;
/// … and that are looked at.
const LOOKED_AT: usize = 16;

impl Planner {
    /// Plans for every sink with room, in turns, from a different first one each time.
    pub(super) fn fill(&mut self, now: Moment) {
        self.spare_seeding_ones();
        let open_pieces = self.note_open();
        let count = self.live.len();
        let first = self.random_below(count);
        for turn in 0..TURNS {
            let mut progress = false;
            for at in 0..count {
                let slot = self.live[(first + at) % count];
                if !self.peers[slot as usize].is_sink() {
                    continue;
                }
                if open_pieces > 0 {
                    for _ in 0..TURN {
                        if !self.fill_once(now, slot) {
                            break;
                        }
                        progress = true;
                    }
                }
                if turn == 0 && !self.fresh_left && self.lacks_nothing_open(slot) {
                    self.hasten(now, slot);
                }
            }
            if !progress {
                break;
            }
        }
    }

    /// Notes the pieces that somebody lacks and that are to be had from neighbours; how many there are.
    fn note_open(&mut self) -> usize {
        let mut open = core::mem::take(&mut self.open);
        open.clear();
        open.resize(self.spread.len().div_ceil(64), 0);
        let mut count = 0;
        for (piece, spread) in self.spread.iter().enumerate() {
            if spread.lacking > 0 && (spread.copies() > 0 || !self.fresh_left) {
                open[piece / 64] |= 1 << (piece % 64);
                count += 1;
            }
        }
        self.open = open;
        count
    }

    fn lacks_nothing_open(&self, slot: Slot) -> bool {
        let taken = self.peers[slot as usize].taken.words();
        self.open.iter().zip(taken).all(|(open, taken)| open & !taken == 0)
    }

    /// Plans one piece for a sink; false if there is none or no room.
    fn fill_once(&mut self, now: Moment, sink: Slot) -> bool {
        let peer = &self.peers[sink as usize];
        if peer.leaving || !self.has_down_room(sink) || self.lacks_nothing_open(sink) {
            return false;
        }
        let mut best: Option<(u64, Slot, u32)> = None;
        for &source in &peer.neighbours {
            if !self.may_serve(source, sink) {
                continue;
            }
            let cost = self.peers[source as usize].up.finish_us() + self.distance_us(sink, source);
            if best.is_none_or(|(least, ..)| cost < least)
                && let Some(piece) = self.rarest_between(sink, source)
            {
                best = Some((cost, source, piece));
            }
        }
        if let Some((_, source, piece)) = best {
            self.assign(now, sink, piece, source);
            return true;
        }
        self.look_further(sink);
        false
    }

    /// A neighbour could not help: another one may, next time.
    fn look_further(&mut self, sink: Slot) {
        let other = self.random_live();
        let useful = self.may_serve(other, sink) && self.rarest_between(sink, other).is_some();
        if useful && self.make_link_room(sink) {
            self.link(sink, other);
            self.changed = true;
        }
    }

    /// Complete peers are spared while pieces wait that only they hold, and until those that they were to send first
    /// are there.
    fn spare_seeding_ones(&mut self) {
        for at in 0..self.complete.len() {
            let slot = self.complete[at] as usize;
            let first = |give: &super::Give| self.spread[give.piece as usize].holders == 0;
            let seeding = self.is_scarce() && self.peers[slot].gives.iter().any(first);
            self.peers[slot].spared = self.fresh_left || seeding;
        }
    }

    /// Whether a source has room for this sink.
    pub(super) fn may_serve(&self, source: Slot, sink: Slot) -> bool {
        let peer = &self.peers[source as usize];
        peer.may_give()
            && !peer.spared
            && self.has_up_room(source)
            && !self.peers[sink as usize].avoided.contains(&peer.id)
    }

    /// The rarest open piece that the source holds or will hold and the sink lacks; of equally rare ones one that is
    /// there already.
    fn rarest_between(&self, sink: Slot, source: Slot) -> Option<u32> {
        let lacks = self.peers[sink as usize].taken.words();
        let giver = &self.peers[source as usize];
        let has = giver.taken.words();
        // Not everybody begins at the first piece, for only some are compared.
        let first = (u64::from(sink) * 7 + self.assigned) as usize % has.len().max(1);
        let useful = |at: usize| (at as u32 * 64, has[at] & !lacks[at] & self.open[at]);
        (first..has.len())
            .chain(0..first)
            .map(useful)
            .flat_map(|(base, word)| bits(word).map(move |bit| base + bit))
            .take(COMPARED)
            .min_by_key(|piece| (self.spread[*piece as usize].copies(), !giver.have.contains(*piece)))
    }

    /// Nothing is left to plan for this sink: deliveries behind a long queue move to a source that is through earlier.
    fn hasten(&mut self, now: Moment, sink: Slot) {
        let (mut at, mut moves) = (0, 0);
        while moves < MOVES
            && at < LOOKED_AT
            && let Some(want) = self.peers[sink as usize].wants.get(at).copied()
        {
            at += 1;
            let queue = self.peers[want.source as usize].up.queue_us();
            if queue < HORIZON_US / 4 {
                continue;
            }
            let better = self.peers[sink as usize]
                .neighbours
                .iter()
                .copied()
                .filter(|source| {
                    let giver = &self.peers[*source as usize];
                    *source != want.source && giver.have.contains(want.piece) && self.may_serve(*source, sink)
                })
                .min_by_key(|source| (self.peers[*source as usize].up.finish_us(), *source));
            if let Some(source) = better
                && 2 * self.peers[source as usize].up.finish_us() + MOVE_GAIN_US < queue
            {
                self.detach(sink, want.piece);
                self.attach(now, sink, want.piece, source);
                // The next one has taken its place.
                (at, moves) = (at - 1, moves + 1);
            }
        }
    }
}
