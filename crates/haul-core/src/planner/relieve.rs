//! Uplinks that fell behind, and others that keep up: these take deliveries over.
//!
//! No link has anything to spare in a swarm that is near its bound. Whoever waited for data once, or has one child more than
//! its part, stays behind from then on, and so does everybody below it in the trees, whose own uplinks wait. What it holds
//! and has not delivered in a while comes from somebody else who holds it too, those first that are to forward it.

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
        let near = neighbours.filter(|slot| fits(self, *slot));
        if let Some(best) = near.min_by_key(|slot| (self.peers[*slot as usize].up.finish_us(), *slot)) {
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
