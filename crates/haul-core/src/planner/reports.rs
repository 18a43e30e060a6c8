//! What peers report: pieces gained, bytes received, sources that failed; and what a sweep finds out from it.

use core::time::Duration;

use super::{HORIZON_US, Planner, PlannerAction, Runs, Slot, Want};
use crate::ids::PeerId;
use crate::time::Moment;

/// A delivery that is this old is looked at: another source may be better.
const OVERDUE: Duration = Duration::from_secs(8);

/// A link was busy all through a window if, at its end, it has left over so many pieces that could have been moved …
const READY: usize = 2;
/// … and were planned so long ago: the way of plans and reports takes half of that.
const BUSY_AGE: Duration = Duration::from_secs(2);
/// A downlink was busy if so many sources have something left over for it.
const READY_SOURCES: usize = 4;

impl Planner {
    /// A peer gained these pieces, and received so many bytes from each of these sources since its last report, pieces
    /// under way included. Unknown peers and pieces are passed over, and so are bytes beyond those that were planned.
    pub fn handle_have(&mut self, now: Moment, peer: PeerId, gained: &Runs, received: &[(PeerId, u64)]) {
        self.tick(now);
        let Some(&slot) = self.slots.get(&peer) else { return };
        for (source, bytes) in received {
            let sink = &mut self.peers[slot as usize];
            let bytes = sink.dues.receive(source, *bytes);
            if bytes > 0 {
                sink.down.note(now, bytes);
                sink.got = Some(now);
                if let Some(&source) = self.slots.get(source) {
                    self.settle_bytes(slot, source, bytes);
                }
                self.gave(now, *source, peer, bytes);
            }
        }
        let end = self.pieces();
        for piece in gained.pieces().take_while(|piece| *piece < end) {
            self.gain(now, slot, piece);
        }
        self.changed = true;
    }

    /// A peer says how many bytes per second its uplink carries. It is believed as far as others bear it out. 0 takes back
    /// what it said.
    pub fn handle_uplink(&mut self, now: Moment, peer: PeerId, rate: u64) {
        self.tick(now);
        if let Some(&slot) = self.slots.get(&peer) {
            self.peers[slot as usize].up.tell(rate);
            self.changed = true;
        }
    }

    /// A source gave bytes to a sink.
    fn gave(&mut self, now: Moment, source: PeerId, sink: PeerId, bytes: u64) {
        let Some(&slot) = self.slots.get(&source) else { return };
        let giver = &mut self.peers[slot as usize];
        giver.up.note(now, bytes);
        giver.gave = Some(now);
        if !self.failures.is_empty() {
            self.failures.gave(now, &source, &sink);
            self.judge(slot);
        }
    }

    /// A sink could not get from a source what was planned: it broke off, does not hold it, or lied. It avoids the source
    /// for a while. After several different ones, while nobody else had anything of it, the source's have-set is struck out
    /// for a while. Who was not to ask the source has no say.
    pub fn handle_failed(&mut self, now: Moment, sink: PeerId, source: PeerId) {
        self.tick(now);
        if let (Some(&sink), Some(&source)) = (self.slots.get(&sink), self.slots.get(&source)) {
            let id = self.peers[source as usize].id;
            if self.peers[sink as usize].dues.is_open(&id) {
                self.note_failure(sink, source);
            }
        }
    }

    /// A source failed a sink: what was planned comes from elsewhere.
    pub(super) fn note_failure(&mut self, sink: Slot, source: Slot) {
        let (id, giver) = (self.peers[sink as usize].id, &self.peers[source as usize]);
        self.failures.note(self.now, giver.id, id, giver.gave);
        let giver = giver.id;
        let peer = &mut self.peers[sink as usize];
        peer.avoided = self.failures.avoided_by(self.now, &id);
        let failed: alloc::vec::Vec<u32> =
            peer.wants.iter().filter(|want| want.source == source).map(|want| want.piece).collect();
        for piece in failed {
            self.repair(sink, piece);
        }
        self.cut_between(sink, source);
        self.peers[sink as usize].dues.close(&giver);
        self.judge(source);
        self.changed = true;
    }

    /// Takes reported bytes off what a sink is still to get from a source, in the order planned. What was not planned,
    /// or not with this source any more, is nobody's open work.
    fn settle_bytes(&mut self, sink: Slot, source: Slot, bytes: u64) {
        let mut rest = bytes;
        for want in self.peers[sink as usize].wants.iter_mut().filter(|want| want.source == source) {
            let part = want.left.min(rest);
            want.left -= part;
            rest -= part;
        }
        self.peers[sink as usize].down.settle(bytes - rest);
        self.peers[source as usize].up.settle(bytes - rest);
    }

    /// Strikes a source out if it failed enough sinks, or takes it in again once that has lapsed.
    fn judge(&mut self, slot: Slot) {
        let peer = &self.peers[slot as usize];
        let struck = self.failures.is_struck(self.now, &peer.id, self.sinks());
        if struck && !peer.struck {
            self.discount(slot);
            self.peers[slot as usize].struck = true;
            self.release_sinks_of(slot);
            self.actions.push_back(PlannerAction::Strike { peer: self.peers[slot as usize].id });
            self.changed = true;
        } else if peer.struck && !struck {
            self.peers[slot as usize].struck = false;
            self.count_again(slot);
            self.changed = true;
        }
    }

    /// Lets failures lapse.
    fn forgive(&mut self, now: Moment) {
        if self.failures.is_empty() {
            return;
        }
        self.failures.forget_old(now);
        for at in 0..self.live.len() {
            let slot = self.live[at];
            let peer = &mut self.peers[slot as usize];
            if !peer.avoided.is_empty() {
                peer.avoided = self.failures.avoided_by(now, &peer.id);
            }
            if peer.struck {
                self.judge(slot);
            }
        }
    }

    /// A sink holds a piece, as planned or otherwise.
    fn gain(&mut self, now: Moment, slot: Slot, piece: u32) {
        let peer = &mut self.peers[slot as usize];
        if !peer.have.insert(piece) {
            return;
        }
        peer.ready_to_give(now, piece);
        let spread = &mut self.spread[piece as usize];
        if peer.taken.insert(piece) {
            spread.lacking -= 1;
        } else {
            spread.coming -= 1;
        }
        if peer.counts() {
            spread.holders += 1;
        }
        if peer.source_of(piece).is_some() {
            let changed = peer.changed;
            self.detach_done(slot, piece);
            // The sink knows that it has the piece: that is no news to it.
            self.peers[slot as usize].changed = changed;
        }
        let peer = &self.peers[slot as usize];
        if peer.have.is_full() {
            let counts = peer.counts();
            if counts {
                for spread in &mut self.spread {
                    spread.holders -= 1;
                }
            }
            self.complete.push(slot);
            // It needs nothing more, and as the root of a tree it would keep pieces from those below.
            self.uproot(slot);
        }
    }

    /// A delivery is done. If its bytes were taken for those of others from the same source, these are open again.
    fn detach_done(&mut self, slot: Slot, piece: u32) {
        let whole = self.piece_bytes;
        let peer = &mut self.peers[slot as usize];
        let Some(at) = peer.wants.iter().position(|want| want.piece == piece) else { return };
        let Want { source, mut left, .. } = peer.wants.remove(at);
        for want in peer.wants.iter_mut().filter(|want| want.source == source) {
            let part = left.min(whole - want.left);
            want.left += part;
            left -= part;
        }
        peer.down.settle(left);
        let giver = &mut self.peers[source as usize];
        giver.forget_give(slot, piece);
        giver.up.settle(left);
    }

    /// Measures rates and moves deliveries that are long overdue.
    pub(super) fn sweep(&mut self, now: Moment) {
        self.last_sweep = now;
        self.forgive(now);
        let probe = self.falls_behind();
        for at in 0..self.live.len() {
            let slot = self.live[at];
            self.keep_who_stayed(now, slot);
            self.measure(now, slot, probe);
            self.forget_old_dues(slot);
            let overdue: alloc::vec::Vec<u32> = self.peers[slot as usize]
                .wants
                .iter()
                .filter(|want| now.since(want.since) > OVERDUE)
                .map(|want| want.piece)
                .collect();
            for piece in overdue {
                self.hurry(now, slot, piece);
            }
        }
    }

    /// Who said that it leaves, and has not for a while, stays after all.
    fn keep_who_stayed(&mut self, now: Moment, slot: Slot) {
        let peer = &mut self.peers[slot as usize];
        if peer.leaving && now >= peer.leaving_until {
            peer.leaving = false;
            self.count_again(slot);
        }
    }

    fn forget_old_dues(&mut self, slot: Slot) {
        let mut dues = core::mem::take(&mut self.peers[slot as usize].dues);
        let planned =
            |id: &PeerId| self.peers[slot as usize].wants.iter().any(|want| self.peers[want.source as usize].id == *id);
        dues.forget_old(self.now, planned);
        self.peers[slot as usize].dues = dues;
    }

    /// Whether sinks wait much longer for what is planned than complete peers take to send it: then it is worth finding
    /// out who could carry more.
    fn falls_behind(&self) -> bool {
        // Among equals nobody can, and parts would only become uneven.
        let measured = self.live.iter().filter_map(|slot| self.peers[*slot as usize].up.measured());
        let (slowest, fastest) = measured.fold((u64::MAX, 0), |(low, high), rate| (low.min(rate), high.max(rate)));
        if fastest / 2 < slowest {
            return false;
        }
        let queues = self.live.iter().map(|slot| self.peers[*slot as usize].down.queue_us()).sum::<u64>();
        queues / self.sinks().max(1) as u64 > HORIZON_US / 3 * 4
    }

    fn measure(&mut self, now: Moment, slot: Slot, probe: bool) {
        let before = Moment(now.0.saturating_sub(BUSY_AGE.as_millis() as u64));
        let peer = &self.peers[slot as usize];
        if peer.up.window_is_over(now) {
            let busy = peer.ready_gives(before) >= READY;
            self.peers[slot as usize].up.end_window(now, busy, probe);
        }
        let peer = &self.peers[slot as usize];
        if peer.down.window_is_over(now) {
            // Several sources at once that could have given and did not: it is this link that is slow, not theirs.
            let ready = |want: &&Want| self.peers[want.source as usize].could_give(slot, want.piece, before);
            let mut sources: alloc::vec::Vec<Slot> = peer.wants.iter().filter(ready).map(|want| want.source).collect();
            sources.sort_unstable();
            sources.dedup();
            self.peers[slot as usize].down.end_window(now, sources.len() >= READY_SOURCES, false);
        }
    }

    /// Whether a source could have given this piece long ago and has given nobody anything, while this sink has got
    /// something from others: silence is a failure, too.
    fn is_silent(&self, now: Moment, source: Slot, sink: Slot, piece: u32) -> bool {
        let (giver, peer) = (&self.peers[source as usize], &self.peers[sink as usize]);
        let lately = |at: Option<Moment>| at.is_some_and(|at| now.since(at) < OVERDUE);
        let before = Moment(now.0.saturating_sub(OVERDUE.as_millis() as u64));
        giver.could_give(sink, piece, before) && !lately(giver.gave) && lately(peer.got)
    }

    /// Moves an overdue delivery if there is another source; if not, it is given its time again.
    fn hurry(&mut self, now: Moment, sink: Slot, piece: u32) {
        let Some(before) = self.peers[sink as usize].source_of(piece) else { return };
        if self.is_silent(now, before, sink, piece) {
            self.note_failure(sink, before);
        } else if let Some(source) = self.other_source(sink, piece, before) {
            self.detach(sink, piece);
            self.attach(now, sink, piece, source);
            self.changed = true;
        } else if let Some(want) = self.peers[sink as usize].wants.iter_mut().find(|want| want.piece == piece) {
            want.since = now;
        }
    }
}
