//! Uplinks that fell behind, and others that keep up: these take deliveries over.
//!
//! No link has anything to spare in a swarm that is near its bound. Whoever waited for data once, or has one child more than
//! its part, stays behind from then on, and so does everybody below it in the trees, whose own uplinks wait. What it holds
//! and has not delivered in a while comes from somebody else who holds it too, those first that are to forward it. And an
//! uplink that has nothing to do takes over what waits at others.

use alloc::vec::Vec;
use core::time::Duration;

use super::peer::Give;
use super::{Planner, Slot};
use crate::time::Moment;

/// A delivery that could have been made for this long is late. The way of reports and plans takes half of it.
const LATE: Duration = Duration::from_secs(1);
/// So many late deliveries are too many for one uplink. With 3, some moved in swarms in which everybody keeps up.
const BEHIND: u32 = 4;
/// A sink that got nothing from anybody for this long is itself what waits, and no uplink is blamed for it.
const MOVES: Duration = Duration::from_secs(2);
/// An uplink that keeps up takes one delivery over in this time, or in the time of a piece if that is longer.
const PAUSE_US: u64 = 300_000;
/// An uplink has next to nothing to do if what it holds and is to give takes less than this, and one that has more can
/// spare something: news of it is half as old.
const IDLE_US: u64 = 1_000_000;
/// For so many uplinks with nothing to do something is looked for in one run, and so many pieces for each.
const IDLE_AT_ONCE: usize = 64;
const TAKEN_OVER_AT_ONCE: usize = 8;
/// Others tried at random when no neighbour of a sink can help.
const TRIES: usize = 4;

impl Planner {
    /// Moves late deliveries to those that keep up.
    pub(super) fn relieve(&mut self, now: Moment) {
        let before = Moment(now.0.saturating_sub(LATE.as_millis() as u64));
        let mut behind: Vec<Slot> = Vec::new();
        for at in 0..self.live.len() {
            let slot = self.live[at];
            let late = self.late_gives(now, before, slot).count() as u32;
            self.peers[slot as usize].late = late;
            if late >= BEHIND {
                behind.push(slot);
            }
        }
        behind.sort_unstable_by_key(|slot| (core::cmp::Reverse(self.peers[*slot as usize].late), *slot));
        for slot in behind {
            self.relieve_one(now, before, slot);
        }
    }

    /// Gives uplinks that keep up and have next to nothing to do what their neighbours would get from others in a while, the
    /// fastest first. What it is worth stands in docs/swarm.md.
    pub(super) fn employ(&mut self, now: Moment) {
        let mut ready_us: Vec<u64> = alloc::vec![0; self.peers.len()];
        let mut idle: Vec<Slot> = Vec::new();
        for slot in &self.live {
            let peer = &self.peers[*slot as usize];
            let ready = peer.gives.iter().filter(|give| peer.have.contains(give.piece)).count() as u64;
            ready_us[*slot as usize] = ready * peer.up.piece_us();
            let rested = peer.helped.is_none_or(|at| now.since(at).as_micros() as u64 >= peer.up.piece_us());
            let keeps_up = peer.late < BEHIND && peer.have.count() > 0;
            if rested && keeps_up && ready_us[*slot as usize] < IDLE_US && peer.may_give() && !peer.leaving {
                idle.push(*slot);
            }
        }
        if idle.len() > IDLE_AT_ONCE {
            let first = self.random_below(idle.len());
            idle.rotate_left(first);
            idle.truncate(IDLE_AT_ONCE);
        }
        idle.sort_unstable_by_key(|slot| (core::cmp::Reverse(self.peers[*slot as usize].up.rate()), *slot));
        for slot in idle {
            for _ in 0..TAKEN_OVER_AT_ONCE {
                if ready_us[slot as usize] >= IDLE_US {
                    break;
                }
                let Some((sink, piece, before)) = self.waits_elsewhere(now, slot, &ready_us) else { break };
                self.detach(sink, piece);
                self.attach(now, sink, piece, slot);
                ready_us[before as usize] -= self.peers[before as usize].up.piece_us();
                ready_us[slot as usize] += self.peers[slot as usize].up.piece_us();
                self.peers[slot as usize].helped = Some(now);
            }
        }
    }

    /// A piece that this peer holds, and that a neighbour is to get from the source with most to do and has not begun to
    /// get: sink, piece, source.
    fn waits_elsewhere(&self, now: Moment, slot: Slot, ready_us: &[u64]) -> Option<(Slot, u32, Slot)> {
        let peer = &self.peers[slot as usize];
        // It would be done later here.
        let mut most = IDLE_US.max(ready_us[slot as usize] + peer.up.piece_us());
        let mut best = None;
        for sink in &peer.neighbours {
            let other = &self.peers[*sink as usize];
            if other.avoided.contains(&peer.id) {
                continue;
            }
            for want in other.wants.iter().rev() {
                let fits = ready_us[want.source as usize] > most
                    // What was moved just now is not moved again.
                    && now.since(want.since) >= LATE
                    && want.left == self.piece_bytes
                    && peer.have.contains(want.piece)
                    && self.peers[want.source as usize].have.contains(want.piece);
                if fits {
                    most = ready_us[want.source as usize];
                    best = Some((*sink, want.piece, want.source));
                }
            }
        }
        best
    }

    /// What an uplink could have given before that moment, to sinks that do get something.
    fn late_gives(&self, now: Moment, before: Moment, slot: Slot) -> impl Iterator<Item = &Give> {
        let peer = &self.peers[slot as usize];
        let moves = move |sink: Slot| self.peers[sink as usize].got.is_some_and(|at| now.since(at) < MOVES);
        peer.gives.iter().filter(move |give| give.since < before && peer.have.contains(give.piece) && moves(give.sink))
    }

    fn relieve_one(&mut self, now: Moment, before: Moment, slot: Slot) {
        let mut gives: Vec<(bool, Moment, Give)> = self
            .late_gives(now, before, slot)
            .map(|give| {
                let forwards = self.peers[give.sink as usize].gives.iter().any(|other| other.piece == give.piece);
                (!forwards, give.since, *give)
            })
            .collect();
        gives.sort_unstable_by_key(|(leaf, since, give)| (*leaf, *since, give.piece, give.sink));
        for (_, _, give) in gives {
            if self.peers[slot as usize].late < BEHIND {
                return;
            }
            let Some(helper) = self.helper(now, give, slot) else { continue };
            self.detach(give.sink, give.piece);
            self.attach(now, give.sink, give.piece, helper);
            self.peers[slot as usize].late -= 1;
            self.peers[helper as usize].helped = Some(now);
        }
    }

    /// Who keeps up and holds the piece: a neighbour of the sink if there is one.
    fn helper(&mut self, now: Moment, give: Give, before: Slot) -> Option<Slot> {
        let scarce = self.is_scarce();
        let fits = |planner: &Self, slot: Slot| {
            let peer = &planner.peers[slot as usize];
            let pause = PAUSE_US.max(peer.up.piece_us());
            let rested = peer.helped.is_none_or(|at| now.since(at).as_micros() as u64 >= pause);
            peer.late == 0
                && rested
                && slot != before
                && peer.may_give()
                && !peer.leaving
                && !(scarce && peer.have.is_full())
                && peer.have.contains(give.piece)
                && !planner.peers[give.sink as usize].avoided.contains(&peer.id)
        };
        let neighbours = self.peers[give.sink as usize].neighbours.iter().copied();
        let known = neighbours.filter(|slot| fits(self, *slot));
        if let Some(best) = known.min_by_key(|slot| (self.peers[*slot as usize].up.finish_us(), *slot)) {
            return Some(best);
        }
        for _ in 0..TRIES {
            let other = self.random_live();
            if fits(self, other) && self.link(give.sink, other) {
                return Some(other);
            }
        }
        None
    }
}
