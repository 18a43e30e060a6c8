//! Pieces that only complete peers hold: each is sent once, down the tree of its stripe.
//!
//! Pieces go to the stripes in turn. The root of a stripe's tree takes the piece from the least loaded complete peer, and
//! everybody below takes it from the peer above, while that still receives it.

use alloc::vec::Vec;

use super::{DOWN_HORIZON_US, HORIZON_US, Planner, RELAY_HORIZON_US, Slot};
use crate::time::Moment;

/// Pieces planned on a link whatever its rate: one for each stripe, and some more while reports are under way; on a downlink
/// several, for one source may be slow.
const MORE_THAN_STRIPES: u64 = 2;
/// So many complete peers are always few.
const FEW_COMPLETE: usize = 4;
/// Fresh pieces that one may always wait for: so many are asked for at once.
const SPARE_PIECES: usize = 2;
/// How far up a sink looks whose peer above cannot give it a piece.
const UP: usize = 3;

impl Planner {
    /// Sends out as many fresh pieces as complete peers can give within the horizon. All fresh ones are equally rare, so
    /// in their order.
    pub(super) fn release(&mut self, now: Moment) {
        self.fresh_left = false;
        if !self.is_scarce() {
            return;
        }
        if core::mem::take(&mut self.laid_out_anew) {
            self.send_on(now);
        }
        self.deal_anew();
        let mut stuck = 0;
        for piece in 0..self.pieces() {
            if !self.is_fresh(piece) {
                continue;
            }
            let Some(roots) = self.complete_with_room() else {
                self.fresh_left = self.complete.iter().any(|slot| self.peers[*slot as usize].may_give());
                return;
            };
            if !self.release_piece(now, piece, &roots) {
                stuck += 1;
                // Nobody can take any now.
                if stuck == self.stripes.len() {
                    return;
                }
            }
        }
    }

    /// Takes fresh pieces back from those that wait for many more of them than others do: a complete peer serves its
    /// connections alike, so that whoever was there before the others would keep the pieces of its stripes from everybody
    /// for as long. Only trees whose root can take such pieces count: nobody takes over what others cannot.
    fn deal_anew(&mut self) {
        let able =
            (0..self.stripes.len()).filter_map(|stripe| self.root_of(stripe)).filter(|root| self.may_be_root(*root));
        let roots: Vec<Slot> = able.collect();
        if roots.is_empty() {
            return;
        }
        let waiting = self.wait_for_fresh();
        let all = waiting.len();
        for of_one in waiting.chunk_by(|one, other| one.0 == other.0) {
            let trees = roots.iter().filter(|root| **root == of_one[0].0).count();
            self.take_back(of_one, SPARE_PIECES + 2 * all * trees.max(1) / roots.len());
        }
    }

    /// Trees are about to change: takes fresh pieces back that nobody has begun to fetch, and of the others all deliveries of
    /// which nothing has come.
    pub(super) fn take_fresh_back(&mut self) {
        for of_one in self.wait_for_fresh().chunk_by(|one, other| one.0 == other.0) {
            let begun = of_one.iter().filter(|(sink, piece)| !self.awaits_all_of(*sink, *piece)).count();
            self.take_back(of_one, begun.max(1));
        }
        for (first, piece) in self.wait_for_fresh() {
            let mut begun = alloc::vec![first];
            while let Some(above) = begun.pop() {
                for sink in self.peers[above as usize].sinks_of(piece) {
                    if self.awaits_all_of(sink, piece) {
                        self.cancel(sink, piece);
                    } else {
                        begun.push(sink);
                    }
                }
            }
        }
        self.laid_out_anew = true;
    }

    /// Sends the fresh pieces that some have begun to fetch down the trees as they are now.
    fn send_on(&mut self, now: Moment) {
        for (first, piece) in self.wait_for_fresh() {
            let turn = self.next_stripe;
            let stripe = (0..self.stripes.len()).find(|stripe| self.root_of(*stripe) == Some(first)).unwrap_or(turn);
            let Some(root) = self.root_of(stripe) else { continue };
            if !self.peers[root as usize].taken.contains(piece) {
                // Who waits may have been struck out since.
                if !self.has_relay_room(first) || !self.may_take(root, first) || !self.link(root, first) {
                    continue;
                }
                self.assign(now, root, piece, first);
            }
            self.send_down(now, piece, stripe, root);
            self.next_stripe = (stripe + 1) % self.stripes.len();
        }
    }

    /// Whether a sink is to fetch a piece and has nothing of it yet.
    pub(super) fn awaits_all_of(&self, sink: Slot, piece: u32) -> bool {
        let want = self.peers[sink as usize].wants.iter().find(|want| want.piece == piece);
        want.is_some_and(|want| want.left == self.piece_bytes)
    }

    /// Sinks with the pieces that they are to get from complete peers and that nobody else holds.
    fn wait_for_fresh(&self) -> Vec<(Slot, u32)> {
        let mut waiting: Vec<(Slot, u32)> = Vec::new();
        for slot in &self.complete {
            let fresh =
                self.peers[*slot as usize].gives.iter().filter(|give| self.spread[give.piece as usize].holders == 0);
            waiting.extend(fresh.map(|give| (give.sink, give.piece)));
        }
        waiting.sort_unstable();
        waiting
    }

    /// Takes those of these pieces that one sink is to fetch last out of the plan, but for some.
    fn take_back(&mut self, of_one: &[(Slot, u32)], kept: usize) {
        let Some(&(sink, _)) = of_one.first() else { return };
        let wants = self.peers[sink as usize].wants.iter().rev().map(|want| want.piece);
        let last = wants.filter(|piece| of_one.binary_search(&(sink, *piece)).is_ok());
        let surplus: Vec<u32> = last.take(of_one.len().saturating_sub(kept)).collect();
        for piece in surplus {
            self.cancel(sink, piece);
        }
    }

    /// Whether complete peers are few. Where they are many, everybody may just as well ask them.
    pub(super) fn is_scarce(&self) -> bool {
        self.complete.len() <= FEW_COMPLETE.max(self.sinks() / 16)
    }

    /// Whether complete peers are all that hold a piece, or will.
    fn is_fresh(&self, piece: u32) -> bool {
        let spread = self.spread[piece as usize];
        spread.lacking > 0 && spread.copies() == 0
    }

    /// Plans a piece down a tree; false if nobody can take it from these complete peers.
    fn release_piece(&mut self, now: Moment, piece: u32, complete: &[Slot]) -> bool {
        for stripe in self.stripes_in_turn() {
            let Some(root) = self.root_of(stripe) else { continue };
            // It may have the piece, and not count because it will go.
            if self.peers[root as usize].taken.contains(piece) {
                continue;
            }
            let giver = complete.iter().copied().find(|giver| self.may_take(root, *giver) && self.reach(*giver, root));
            let Some(giver) = giver else { continue };
            self.assign(now, root, piece, giver);
            self.send_down(now, piece, stripe, root);
            self.next_stripe = (stripe + 1) % self.stripes.len();
            return true;
        }
        false
    }

    /// The stripes in the order in which the next fresh piece is offered to them: first those whose root waits for the
    /// fewest pieces of complete peers, for each stripe that it is the root of; among equals in turn. A complete peer
    /// serves its connections alike, so a root that has fallen behind would never catch up, and everybody would wait for
    /// it in the end.
    fn stripes_in_turn(&self) -> Vec<usize> {
        let all = self.stripes.len();
        let mut order: Vec<usize> = (0..all).map(|at| (self.next_stripe + at) % all).collect();
        let waiting = |stripe: &usize| {
            let Some(root) = self.root_of(*stripe) else { return usize::MAX };
            let wants = self.peers[root as usize].wants.iter();
            let from_complete = wants.filter(|want| self.peers[want.source as usize].have.is_full()).count();
            let trees = (0..self.stripes.len()).filter(|other| self.root_of(*other) == Some(root)).count();
            from_complete / trees.max(1)
        };
        order.sort_by_cached_key(waiting);
        order
    }

    /// Plans a piece for everybody below a peer in a tree, those near the root first.
    fn send_down(&mut self, now: Moment, piece: u32, stripe: usize, root: Slot) {
        let mut queue = core::mem::take(&mut self.queue);
        queue.clear();
        queue.push(root);
        let mut at = 0;
        while let Some(&above) = queue.get(at) {
            at += 1;
            for index in 0..self.peers[above as usize].below.len() {
                let (of, sink) = self.peers[above as usize].below[index];
                if of as usize != stripe {
                    continue;
                }
                queue.push(sink);
                if !self.peers[sink as usize].taken.contains(piece)
                    && let Some(source) = self.giver_above(piece, stripe, sink)
                {
                    self.assign(now, sink, piece, source);
                }
            }
        }
        self.queue = queue;
    }

    /// The first peer above a sink in a tree that has the piece or will have it, and room.
    fn giver_above(&mut self, piece: u32, stripe: usize, sink: Slot) -> Option<Slot> {
        let mut at = sink;
        for _ in 0..UP {
            at = self.above(at, stripe)?;
            let fits =
                self.peers[at as usize].taken.contains(piece) && self.has_relay_room(at) && self.may_take(sink, at);
            if fits && self.link(sink, at) {
                return Some(at);
            }
        }
        None
    }

    /// The complete peers with room, least loaded first; none if there is none.
    fn complete_with_room(&self) -> Option<Vec<Slot>> {
        let mut complete: Vec<Slot> = self.complete.clone();
        complete.retain(|slot| self.peers[*slot as usize].may_give() && self.has_up_room(*slot));
        // Who leaves gives first what would be lost with it.
        complete.sort_unstable_by_key(|slot| {
            let peer = &self.peers[*slot as usize];
            (!peer.leaving, peer.up.finish_us(), *slot)
        });
        (!complete.is_empty()).then_some(complete)
    }

    fn least_pieces(&self) -> u64 {
        self.stripes.len() as u64 + MORE_THAN_STRIPES
    }

    /// Whether more may be planned on a peer's uplink.
    pub(super) fn has_up_room(&self, slot: Slot) -> bool {
        let up = &self.peers[slot as usize].up;
        up.finish_us() <= HORIZON_US.max(self.least_pieces() * up.piece_us())
    }

    /// Whether a peer's uplink can carry its part of a tree.
    pub(super) fn has_relay_room(&self, slot: Slot) -> bool {
        let peer = &self.peers[slot as usize];
        peer.may_give() && peer.up.finish_us() <= RELAY_HORIZON_US.max(2 * self.least_pieces() * peer.up.piece_us())
    }

    /// Whether more may be planned on a peer's downlink.
    pub(super) fn has_down_room(&self, slot: Slot) -> bool {
        let down = &self.peers[slot as usize].down;
        down.finish_us() <= DOWN_HORIZON_US.max(self.least_pieces() * down.piece_us())
    }

    /// Whether a sink may be given more, and by this source.
    pub(super) fn may_take(&self, sink: Slot, source: Slot) -> bool {
        let peer = &self.peers[sink as usize];
        peer.live
            && !peer.leaving
            && self.has_down_room(sink)
            && !peer.avoided.contains(&self.peers[source as usize].id)
    }
}
