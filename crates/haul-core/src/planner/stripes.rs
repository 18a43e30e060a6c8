//! Trees that stand: pieces are dealt to stripes, and each stripe has a tree over all sinks.
//!
//! As in `SplitStream` (Castro et al., SOSP 2003), a peer is inside the tree of its home stripe, or of several if it is
//! fast, and a leaf of the others. A stripe is an equal part of the stream, so children are dealt
//! in proportion to rates: then each uplink is used in full and evenly, without a queue that its data would
//! have to wait in, and pieces follow each other on the same connections. The trees stand as long as peers and rates
//! stay; who loses the peer above it finds another.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use super::{Planner, RELAY_HORIZON_US, Slot};
use crate::limits::SWARM_NEIGHBOURS;
use crate::time::Moment;

/// Number of stripes in a large swarm. A complete peer sends them side by side, so a leaf takes this many times its own time
/// over each link, and a tree over 10,000 peers with children as many is five deep.
const STRIPES: usize = 8;
/// At most so many in a small one, see [`stripes_for`].
pub(super) const MOST_STRIPES: usize = 16;
/// Stands for "nobody above".
pub(super) const NOBODY: Slot = Slot::MAX;
/// Stands for "takes its pieces from complete peers".
pub(super) const ROOT: Slot = Slot::MAX - 1;
/// Children in one tree at most; with the peers above in all stripes they are within [`SWARM_NEIGHBOURS`].
const CHILDREN: u64 = (SWARM_NEIGHBOURS - STRIPES) as u64 * 2 / 3;
/// Peers inside a tree that are compared for a sink.
const COMPARED: usize = 8;
/// Tries at random among all peers when nobody inside a tree has room.
const TRIES: usize = 8;
/// Peers that are looked at for a place between them and the peer above.
const BETWEEN: usize = 64;
/// Searches through all peers in one run.
const SCANS: usize = 32;
/// One in so many places more astray than after the last layout is too many …
const ASTRAY: usize = 16;
/// … and so long must be between two layouts.
const TIDY_PAUSE: Duration = Duration::from_secs(2);
/// A layout is old when one in so many sinks has come or gone since: trees that grew one by one carry unevenly.
const TURNOVER: usize = 16;
/// When nobody has come or gone for this long, all of a group that begins together are there.
const SETTLED: Duration = Duration::from_millis(300);
/// Longest way up a tree.
const DEPTH: usize = 64;

/// How many stripes so many sinks get that came one after the other. Everybody but its root has somebody above in every
/// tree: equal peers carry equal parts only if the sinks divide the stripes, and else some have a child more than the bound
/// lets them feed. With 16 sinks that begin within half a second, and 4% of uplinks taken by acknowledgements, the last ended
/// at 1.07 of the bound with 8 stripes and at 1.03 with 16; 9 to 15 gain half as much. More sinks than the most stripes differ
/// by less. Those who are all there at the start have room enough without: they keep eight, with which the last pieces are through
/// sooner.
pub(super) fn stripes_for(sinks: usize) -> usize {
    if (1..=MOST_STRIPES).contains(&sinks) { sinks * STRIPES.div_ceil(sinks) } else { STRIPES }
}

/// The tree of one stripe, but for what peers know of it themselves.
#[derive(Clone, Debug, Default)]
pub(super) struct Stripe {
    /// Takes the pieces of this stripe from complete peers.
    root: Option<Slot>,
    /// Peers at home here that may have room for children, those nearer to the root first.
    open: VecDeque<Slot>,
    /// Children that the peers at home here have room for.
    room: u64,
}

impl Planner {
    /// Lays out room for children in proportion to what each uplink carries, and takes children away where there is none
    /// any more.
    pub(super) fn lay_out(&mut self) {
        // Everybody but the root needs somebody above in every tree.
        let needed = (self.sinks().saturating_sub(1) * self.stripes.len()) as u64;
        let forwards = |planner: &Self, slot: Slot| {
            let peer = &planner.peers[slot as usize];
            peer.may_give() && !peer.leaving && !peer.have.is_full()
        };
        let carried = self.live.iter().filter(|slot| forwards(self, **slot));
        let all = carried.map(|slot| self.peers[*slot as usize].up.rate()).sum::<u64>().max(1);
        for stripe in &mut self.stripes {
            stripe.room = 0;
        }
        for at in 0..self.live.len() {
            let slot = self.live[at];
            let gives = forwards(self, slot);
            let peer = &mut self.peers[slot as usize];
            // A part of more than a quarter counts as a child: else equal peers whose rates are measured a little
            // differently would get different numbers.
            let share = (peer.up.rate().saturating_mul(needed) + all / 4 * 3) / all;
            peer.room = if gives { share.min(CHILDREN * STRIPES as u64) as u32 } else { 0 };
            self.note_homes(slot);
            self.cut_surplus(slot);
        }
        for at in 0..self.live.len() {
            let slot = self.live[at];
            let peer = &self.peers[slot as usize];
            let (homes, wanted) = (u64::from(peer.homes.count_ones()), u64::from(peer.room).div_ceil(CHILDREN));
            if homes < wanted {
                self.add_home(slot);
            } else if homes > wanted {
                self.drop_home(slot);
            }
        }
        self.settle_empty_stripes();
    }

    /// Lays out all trees anew if many stand below peers that are not at home in their stripe, or below nobody, or if many
    /// sinks have come or gone: so it comes when a swarm grows one by one. What was begun stays as it is; fresh pieces of
    /// which nothing has come go down the new trees. One that comes and goes all the time must not cost everybody that
    /// in each run: there are pauses, but when the swarm has doubled.
    pub(super) fn tidy(&mut self, now: Moment) {
        let (mut astray, stripes) = (0, self.stripes.len());
        for slot in &self.live {
            let peer = &self.peers[*slot as usize];
            astray += peer.below.iter().filter(|(stripe, _)| peer.homes >> stripe & 1 == 0).count();
            astray += if peer.is_sink() {
                peer.above_in(stripes).iter().filter(|above| **above == NOBODY).count()
            } else {
                0
            };
        }
        // Where peers are no multiple of the stripes, some stand astray in the best layout.
        let usual = *self.usually_astray.get_or_insert(astray);
        let moved = self.came_or_went * TURNOVER >= self.sinks();
        let many = astray.saturating_sub(usual) * ASTRAY > self.sinks() * self.stripes.len();
        let long_ago = now.since(self.last_tidy) >= TIDY_PAUSE;
        let grown = self.sinks() >= 2 * self.sinks_laid_out;
        let settled = (long_ago || grown) && now.since(self.last_came_or_went) >= SETTLED;
        if !(moved && (settled || long_ago) || many && long_ago) {
            return;
        }
        self.last_tidy = now;
        self.sinks_laid_out = self.sinks();
        self.came_or_went = 0;
        self.usually_astray = None;
        self.take_fresh_back();
        self.stripes = alloc::vec![Stripe::default(); stripes_for(self.sinks())];
        self.next_stripe = 0;
        for at in 0..self.live.len() {
            let slot = self.live[at];
            let peer = &mut self.peers[slot as usize];
            (peer.above, peer.homes) = ([NOBODY; MOST_STRIPES], 0);
            peer.below.clear();
            self.drop_idle_links(slot);
        }
        self.lay_out();
    }

    /// Counts a peer's room with its home stripes, in equal parts.
    fn note_homes(&mut self, slot: Slot) {
        let peer = &self.peers[slot as usize];
        let part = u64::from(peer.room) / u64::from(peer.homes.count_ones().max(1));
        for stripe in 0..self.stripes.len() {
            if peer.homes >> stripe & 1 == 1 {
                self.stripes[stripe].room += part;
            }
        }
    }

    /// Takes children away that a peer has no room for.
    fn cut_surplus(&mut self, slot: Slot) {
        let peer = &self.peers[slot as usize];
        let tolerated = usize::from(peer.room > 0 && peer.up.queue_us() < RELAY_HORIZON_US / 2);
        let surplus = peer.below.len().saturating_sub(peer.room as usize + tolerated);
        for _ in 0..surplus {
            if let Some(&(stripe, child)) = self.peers[slot as usize].below.last() {
                self.cut(child, stripe as usize);
            }
        }
    }

    /// Makes a peer at home in the stripe that has the least room so far.
    fn add_home(&mut self, slot: Slot) {
        let homes = self.peers[slot as usize].homes;
        let free = (0..self.stripes.len()).filter(|stripe| homes >> stripe & 1 == 0);
        if let Some(stripe) = free.min_by_key(|stripe| self.stripes[*stripe].room) {
            self.settle(slot, stripe);
        }
    }

    /// A peer that was at home in several stripes when the swarm was smaller leaves one that has room enough without it.
    fn drop_home(&mut self, slot: Slot) {
        let peer = &self.peers[slot as usize];
        let part = u64::from(peer.room) / u64::from(peer.homes.count_ones().max(1));
        let enough = self.sinks() as u64 + part;
        let spare = (0..self.stripes.len())
            .find(|stripe| peer.homes >> stripe & 1 == 1 && self.stripes[*stripe].room >= enough);
        if let Some(stripe) = spare {
            self.peers[slot as usize].homes &= !(1 << stripe);
            self.stripes[stripe].room -= part;
            self.stripes[stripe].open.retain(|other| *other != slot);
        }
    }

    fn settle(&mut self, slot: Slot, stripe: usize) {
        let peer = &mut self.peers[slot as usize];
        peer.homes |= 1 << stripe;
        self.stripes[stripe].room += u64::from(peer.room) / u64::from(peer.homes.count_ones());
        self.stripes[stripe].open.push_back(slot);
    }

    /// In a small swarm, some have several homes, so that every stripe has somebody at home.
    fn settle_empty_stripes(&mut self) {
        for stripe in 0..self.stripes.len() {
            if self.stripes[stripe].room > 0 {
                continue;
            }
            let free = |slot: &Slot| {
                let peer = &self.peers[*slot as usize];
                u64::from(peer.room) / u64::from(peer.homes.count_ones() + 1)
            };
            if let Some(slot) = self.live.iter().copied().max_by_key(free)
                && self.peers[slot as usize].room > 0
            {
                self.settle(slot, stripe);
            }
        }
    }

    /// Finds a place in every tree for everybody who lacks one: first those who are at home there, the ones with most
    /// room left first, then those who will be leaves.
    pub(super) fn plant(&mut self) {
        self.choose_roots();
        let mut loose: Vec<Slot> = self.live.clone();
        let stripes = self.stripes.len();
        loose.retain(|slot| {
            let peer = &self.peers[*slot as usize];
            peer.is_sink() && peer.above_in(stripes).contains(&NOBODY)
        });
        if loose.is_empty() {
            return;
        }
        self.scans = SCANS;
        for stripe in 0..self.stripes.len() {
            // Who can take others in goes first.
            loose.sort_by_key(|slot| {
                let peer = &self.peers[*slot as usize];
                core::cmp::Reverse((peer.room as usize).saturating_sub(peer.below.len()))
            });
            for home in [true, false] {
                for slot in &loose {
                    let peer = &self.peers[*slot as usize];
                    if peer.above[stripe] == NOBODY && (peer.homes >> stripe & 1 == 1) == home {
                        self.find_place(*slot, stripe);
                    }
                }
            }
        }
    }

    /// Whether a sink can take pieces that only complete peers hold, for others too: it stays, and can reach one of these.
    pub(super) fn may_be_root(&self, slot: Slot) -> bool {
        let peer = &self.peers[slot as usize];
        let reaches = |complete: &Slot| {
            let complete = &self.peers[*complete as usize];
            complete.may_give() && !peer.avoided.contains(&complete.id)
        };
        !peer.leaving && peer.may_give() && (peer.avoided.is_empty() || self.complete.iter().any(reaches))
    }

    /// Gives every tree a root: who can take fresh pieces, is at home there and has most room, wherever it stood. One that
    /// was chosen while there was nobody better goes below the better one.
    fn choose_roots(&mut self) {
        for stripe in 0..self.stripes.len() {
            let merit = |planner: &Self, slot: Slot| {
                let peer = &planner.peers[slot as usize];
                let home = peer.homes >> stripe & 1;
                (planner.may_be_root(slot), home, peer.room / peer.homes.count_ones().max(1))
            };
            let sinks = self.live.iter().copied().filter(|slot| self.peers[*slot as usize].is_sink());
            let Some(best) = sinks.max_by_key(|slot| (merit(self, *slot), core::cmp::Reverse(*slot))) else { continue };
            let before = self.stripes[stripe].root;
            if let Some(root) = before {
                let ((stays, home, room), (_, _, most)) = (merit(self, root), merit(self, best));
                if best == root || stays && home == 1 && 2 * room > most {
                    continue;
                }
                self.cut(root, stripe);
            }
            self.cut(best, stripe);
            self.stripes[stripe].root = Some(best);
            self.peers[best as usize].above[stripe] = ROOT;
            let best_id = self.peers[best as usize].id;
            if let Some(root) = before
                && !self.peers[root as usize].avoided.contains(&best_id)
                && self.link(best, root)
            {
                self.hang(root, best, stripe);
            }
        }
    }

    fn hang(&mut self, slot: Slot, above: Slot, stripe: usize) {
        self.peers[slot as usize].above[stripe] = above;
        self.peers[above as usize].below.push((stripe as u8, slot));
    }

    /// Whom a peer takes the pieces of a stripe from, if not from complete peers.
    pub(super) fn above(&self, slot: Slot, stripe: usize) -> Option<Slot> {
        let above = self.peers[slot as usize].above[stripe];
        (above != NOBODY && above != ROOT).then_some(above)
    }

    /// The sink at the root of a tree.
    pub(super) fn root_of(&self, stripe: usize) -> Option<Slot> {
        self.stripes[stripe].root
    }

    /// Takes a peer out of all trees; those below it are loose.
    pub(super) fn uproot(&mut self, slot: Slot) {
        self.peers[slot as usize].homes = 0;
        while let Some(&(stripe, child)) = self.peers[slot as usize].below.last() {
            self.cut(child, stripe as usize);
        }
        for stripe in 0..self.stripes.len() {
            self.cut(slot, stripe);
            self.stripes[stripe].open.retain(|other| *other != slot);
        }
    }

    /// A sink takes no stripe from this source any more.
    pub(super) fn cut_between(&mut self, sink: Slot, source: Slot) {
        for stripe in 0..self.stripes.len() {
            if self.above(sink, stripe) == Some(source) {
                self.cut(sink, stripe);
            }
        }
    }

    /// Cuts a peer off from the one above it in a tree; it keeps those below it.
    fn cut(&mut self, slot: Slot, stripe: usize) {
        let above = core::mem::replace(&mut self.peers[slot as usize].above[stripe], NOBODY);
        if above == ROOT {
            self.stripes[stripe].root = None;
        } else if above != NOBODY {
            let below = &mut self.peers[above as usize].below;
            if let Some(at) = below.iter().position(|(of, child)| *child == slot && *of as usize == stripe) {
                below.swap_remove(at);
            }
            self.reopen(above);
        }
    }

    /// Notes that a peer has room for children again.
    fn reopen(&mut self, slot: Slot) {
        for stripe in 0..self.stripes.len() {
            let open = &mut self.stripes[stripe].open;
            if self.peers[slot as usize].homes >> stripe & 1 == 1 && !open.contains(&slot) {
                open.push_front(slot);
            }
        }
    }

    fn find_place(&mut self, slot: Slot, stripe: usize) {
        if let Some(above) = self.place_inside(slot, stripe).or_else(|| self.place_anywhere(slot, stripe)) {
            self.hang(slot, above, stripe);
        } else if !self.place_between(slot, stripe) {
            self.squeeze_in(slot, stripe);
        }
    }

    /// Those in the tree have no room, but this peer has: it takes the place of a child, and the child hangs below it.
    fn place_between(&mut self, slot: Slot, stripe: usize) -> bool {
        let peer = &self.peers[slot as usize];
        if peer.below.len() >= peer.room as usize {
            return false;
        }
        for at in 0..self.live.len().min(BETWEEN) {
            let child = self.live[(slot as usize + at) % self.live.len()];
            let Some(above) = self.above(child, stripe) else { continue };
            let avoids = self.peers[child as usize].avoided.contains(&self.peers[slot as usize].id);
            let fits = child != slot && !avoids && self.can_be_above(above, slot, stripe);
            if fits && self.link(above, slot) && self.link(slot, child) {
                self.cut(child, stripe);
                self.hang(slot, above, stripe);
                self.hang(child, slot, stripe);
                return true;
            }
        }
        false
    }

    /// Somebody at home here gets one child more than there is room for: better than nobody above.
    fn squeeze_in(&mut self, slot: Slot, stripe: usize) {
        if self.scans == 0 {
            return;
        }
        self.scans -= 1;
        let roomy = |other: &Slot| {
            let peer = &self.peers[*other as usize];
            peer.below.len() < peer.room as usize && self.stands_above(*other, slot, stripe)
        };
        if let Some(above) = self.live.iter().copied().find(roomy)
            && self.make_link_room(above)
            && self.make_link_room(slot)
            && self.link(slot, above)
        {
            self.hang(slot, above, stripe);
            return;
        }
        let fits = |other: &Slot| {
            let peer = &self.peers[*other as usize];
            let room = peer.room > 0 && peer.below.len() <= peer.room as usize;
            peer.homes >> stripe & 1 == 1 && room && self.can_be_above(*other, slot, stripe)
        };
        let above = self.live.iter().copied().find(fits);
        if let Some(above) = above.filter(|above| self.link(slot, *above)) {
            self.hang(slot, above, stripe);
        }
    }

    /// The best of the first few peers at home in a stripe that have room: near, and near to the root.
    fn place_inside(&mut self, slot: Slot, stripe: usize) -> Option<Slot> {
        let mut best: Option<(u64, usize)> = None;
        let mut at = 0;
        while at < self.stripes[stripe].open.len().min(COMPARED) {
            let above = self.stripes[stripe].open[at];
            let peer = &self.peers[above as usize];
            if !peer.live || peer.below.len() >= peer.room as usize {
                self.stripes[stripe].open.remove(at);
                continue;
            }
            let cost = self.distance_us(slot, above);
            if best.is_none_or(|(least, _)| cost < least) && self.can_be_above(above, slot, stripe) {
                best = Some((cost, at));
            }
            at += 1;
        }
        if let Some((_, at)) = best {
            let above = self.stripes[stripe].open[at];
            return self.link(above, slot).then_some(above);
        }
        // None of the first: let others come to the front.
        let turn = self.stripes[stripe].open.len().min(COMPARED);
        self.stripes[stripe].open.rotate_left(turn);
        None
    }

    /// Anybody with room: a neighbour, somebody at random, the first of all.
    fn place_anywhere(&mut self, slot: Slot, stripe: usize) -> Option<Slot> {
        let has_room = |planner: &Self, above: Slot| {
            let peer = &planner.peers[above as usize];
            peer.below.len() < peer.room as usize && planner.can_be_above(above, slot, stripe)
        };
        let mut above = self.peers[slot as usize].neighbours.iter().copied().find(|other| has_room(self, *other));
        for _ in 0..TRIES {
            if above.is_none() {
                let other = self.random_live();
                above = has_room(self, other).then_some(other);
            }
        }
        if above.is_none() && self.scans > 0 {
            self.scans -= 1;
            above = self.live.iter().copied().find(|other| has_room(self, *other));
        }
        above.filter(|above| self.link(slot, *above))
    }

    /// Whether a sink can take a stripe from this peer: that stands in the tree itself, not below the sink, and they are
    /// neighbours or can be.
    fn can_be_above(&self, above: Slot, sink: Slot, stripe: usize) -> bool {
        let below = &self.peers[sink as usize];
        let linked = || below.neighbours.contains(&above) || (self.has_link_room(above) && self.has_link_room(sink));
        linked() && self.stands_above(above, sink, stripe)
    }

    /// The same but for the link.
    fn stands_above(&self, above: Slot, sink: Slot, stripe: usize) -> bool {
        let (peer, below) = (&self.peers[above as usize], &self.peers[sink as usize]);
        // Complete peers are at the root of all trees, not inside.
        if peer.have.is_full() || below.avoided.contains(&peer.id) {
            return false;
        }
        let mut at = above;
        for _ in 0..DEPTH {
            if at == sink {
                return false;
            }
            match self.peers[at as usize].above[stripe] {
                ROOT => return true,
                NOBODY => return false,
                next => at = next,
            }
        }
        false
    }
}
