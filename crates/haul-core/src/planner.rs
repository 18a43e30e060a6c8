//! The planner of one swarm: which downloader takes which pieces of a blob from whom.
//!
//! The index runs it, for one blob with two or more downloaders. It knows what each peer holds and how fast each link
//! has been, a little late; it carries no bytes and speaks to nobody: its driver feeds it with reports and hands its
//! plans to the sinks. Sinks pull. A plan may name a source that does not hold a piece yet, because it is to get it
//! too: the source forwards every leaf as soon as it has verified it, so trees of peers receive and forward at once.
//!
//! Pieces that nobody but complete peers hold are dealt to stripes, and each goes once down the standing tree of
//! its stripe (`release`, `stripes`). A peer is inside one of these trees, or several if it is fast, and a leaf of the
//! others, as in `SplitStream` (Castro et al., SOSP 2003), so that every uplink carries its part evenly and nothing queues.
//! Whatever is lacking after that, by late joiners, losses and slow links, sinks pull from their neighbours, rarest piece
//! from least loaded source (`fill`); what was to come from a peer that is lost moves at once (`repair`), and what is late
//! to whoever keeps up (`relieve`). A load is open
//! bytes over measured rate. The goal is the fluid bound of Kumar and Ross (`HotWeb` 2006),
//! `max{F/u_s, F/d_min, N F/(u_s + sum u_i)}`; with equal uplinks it is near the optimum of Mundinger, Weber and Weiss
//! (Journal of Scheduling 2008). docs/swarm.md has the whole story, with figures.

// Slots and pieces are this module's own numbers: they are made here, and nothing from outside is one unchecked.
#![allow(clippy::indexing_slicing)]

mod dues;
mod failures;
mod fill;
mod leaving;
mod links;
mod meter;
mod peer;
mod pieces;
mod random;
mod release;
mod relieve;
mod repair;
mod reports;
mod stripes;
#[cfg(test)]
mod tests;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use crate::blob::BlobGeometry;
use crate::ids::PeerId;
use crate::limits::{PLAN_INTERVAL, PLAN_LEASE, SWARM_CELLS, SWARM_PEERS};
use crate::time::Moment;
use failures::Failures;
use peer::{Give, Peer, Want};
pub use pieces::{PieceRange, PieceSet, Runs, piece_bytes};
use stripes::{Stripe, stripes_for};

/// A peer's number inside this planner.
type Slot = u32;

/// How much is planned ahead on the uplink of a complete peer, in microseconds: with reports and plans half a second
/// under way it still covers more than a second.
const HORIZON_US: u64 = 3_000_000;
/// The same for a peer that forwards: its work waits while the complete one in front of it sends everything within its
/// own horizon by turns, and this must not look as if the link were busy.
const RELAY_HORIZON_US: u64 = 8_000_000;
/// The same for a downlink, where a piece waits for the slowest of all links above.
const DOWN_HORIZON_US: u64 = 8_000_000;
/// How often rates are measured, plans renewed and late deliveries looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// Who has said that it leaves is taken at its word for so long. It asks four times a second until it goes.
const LEAVING_LAPSE: Duration = Duration::from_secs(2);
/// A plan that is this old is told again, changed or not. With a sweep more it is half a lease old.
const RENEWAL: Duration = Duration::from_millis(1_500);
/// The interval grows with the swarm, so that thousands of peers are told of several pieces in one message: half a
/// second for 10,000 peers.
const INTERVAL_PER_PEER: Duration = Duration::from_micros(50);

/// What a peer can say about itself when it joins; nothing of it is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Bytes per second that its uplink carries, if it knows; believed as in [`Planner::handle_uplink`].
    pub up: Option<u64>,
    /// Peers with the same number are near each other, such as one network of 256 addresses; 0 is not known: to go there costs nothing.
    pub site: u32,
}

/// How a planner deals pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dealing {
    /// As the module says.
    #[default]
    Planned,
    /// Any piece from anybody who holds it, within the same limits: what plans are compared with.
    Random,
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlannerAction {
    /// Tell a sink its plan. It replaces the one before: requests for what is not in it any more are cancelled, and
    /// until the lease ends the sink asks for nothing else. An empty plan says that pieces are on their way to others
    /// first.
    Plan {
        /// The downloader.
        sink: PeerId,
        /// How long it follows this plan without hearing of the next; afterwards it acts alone.
        lease: Duration,
        /// Whom to ask for which pieces, in the order wanted. A source may not hold them yet.
        sources: Vec<(PeerId, Vec<PieceRange>)>,
    },
    /// Several sinks failed to get from this peer what it said it holds: its have-set is struck out for a while.
    Strike {
        /// The peer.
        peer: PeerId,
    },
}

/// How many peers have a piece, and how many need it.
#[derive(Clone, Copy, Debug, Default)]
struct Spread {
    /// Peers that hold it and count, but for the complete ones.
    holders: u32,
    /// Peers that are to fetch it.
    coming: u32,
    /// Peers that neither hold it nor are to fetch it.
    lacking: u32,
}

impl Spread {
    fn copies(self) -> u32 {
        self.holders + self.coming
    }
}

/// The machine; see the module.
#[derive(Clone, Debug)]
pub struct Planner {
    geometry: BlobGeometry,
    dealing: Dealing,
    piece_bytes: u64,
    slots: BTreeMap<PeerId, Slot>,
    peers: Vec<Peer>,
    vacant: Vec<Slot>,
    live: Vec<Slot>,
    /// Live peers that hold everything.
    complete: Vec<Slot>,
    spread: Vec<Spread>,
    stripes: Vec<Stripe>,
    /// Outlives slots: who comes again is not forgiven.
    failures: Failures,
    /// Where the next fresh piece goes.
    next_stripe: usize,
    /// Whether some piece is held by complete peers only and lacked: their uplinks are for such pieces then.
    fresh_left: bool,
    /// Something changed since the last run.
    changed: bool,
    /// The newest moment that it was told.
    now: Moment,
    last_run: Option<Moment>,
    last_sweep: Moment,
    /// When trees were last laid out, or when it all began.
    last_tidy: Moment,
    /// For how many sinks; 0 if never since it began.
    sinks_laid_out: usize,
    /// Sinks that came or went since the last layout, and when the last of them did.
    came_or_went: usize,
    last_came_or_went: Moment,
    /// Places astray after the last layout.
    usually_astray: Option<usize>,
    /// Trees were laid out anew, and fresh pieces that some have begun to fetch are not in them yet.
    laid_out_anew: bool,
    random: u64,
    actions: VecDeque<PlannerAction>,
    assigned: u64,
    // Kept between runs only to spare allocations.
    queue: Vec<Slot>,
    /// Searches through all peers that this run may still make.
    scans: usize,
    open: Vec<u64>,
}

impl Planner {
    /// A planner for a blob of this geometry, without peers. `seed` breaks ties: same seed and same calls, same plans.
    pub fn new(geometry: BlobGeometry, seed: u64) -> Self {
        Self::with_dealing(geometry, seed, Dealing::Planned)
    }

    /// The same with another way to deal pieces.
    pub fn with_dealing(geometry: BlobGeometry, seed: u64, dealing: Dealing) -> Self {
        let pieces = geometry.pieces() as usize;
        Self {
            geometry,
            dealing,
            piece_bytes: piece_bytes(geometry),
            slots: BTreeMap::new(),
            peers: Vec::new(),
            vacant: Vec::new(),
            live: Vec::new(),
            complete: Vec::new(),
            spread: alloc::vec![Spread::default(); pieces],
            failures: Failures::default(),
            fresh_left: false,
            changed: false,
            now: Moment(0),
            last_run: None,
            last_sweep: Moment(0),
            last_tidy: Moment(0),
            sinks_laid_out: 0,
            came_or_went: 0,
            last_came_or_went: Moment(0),
            usually_astray: None,
            laid_out_anew: false,
            random: seed,
            actions: VecDeque::new(),
            assigned: 0,
            queue: Vec::new(),
            scans: 0,
            stripes: alloc::vec![Stripe::default(); stripes_for(0)],
            next_stripe: 0,
            open: Vec::new(),
        }
    }

    /// The geometry that pieces are numbered by.
    pub fn geometry(&self) -> BlobGeometry {
        self.geometry
    }

    /// Number of pieces of the blob.
    pub fn pieces(&self) -> u32 {
        self.spread.len() as u32
    }

    /// Peers in the swarm.
    pub fn peers(&self) -> usize {
        self.live.len()
    }

    /// Peers that still lack something.
    pub fn sinks(&self) -> usize {
        self.live.len() - self.complete.len()
    }

    /// Deliveries of one piece to one sink that were planned so far, those planned anew included.
    pub fn assigned(&self) -> u64 {
        self.assigned
    }

    /// Peers that hold a piece and are expected to stay; 0 beyond the last piece.
    pub fn copies(&self, piece: u32) -> usize {
        let stay = self.complete.iter().filter(|slot| self.peers[**slot as usize].counts()).count();
        self.spread.get(piece as usize).map_or(0, |spread| stay + spread.holders as usize)
    }

    /// Bytes per second that a peer's uplink and downlink are taken for; none for strangers.
    pub fn rates(&self, peer: &PeerId) -> Option<(u64, u64)> {
        let peer = &self.peers[*self.slots.get(peer)? as usize];
        Some((peer.up.rate(), peer.down.rate()))
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<PlannerAction> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] is due; none while there is nobody to plan for.
    pub fn next_timeout(&self) -> Option<Moment> {
        if self.sinks() == 0 {
            return None;
        }
        let Some(last) = self.last_run else { return Some(Moment(0)) };
        let sweep = self.last_sweep.after(SWEEP);
        Some(if self.changed { last.after(self.interval()).min(sweep) } else { sweep })
    }

    /// A peer joins the swarm, as a downloader or because it holds pieces; or states anew what it holds. False: it
    /// cannot take part and acts alone, because its set ranges over another number of pieces or the swarm is too large
    /// ([`SWARM_CELLS`], [`SWARM_PEERS`]).
    pub fn handle_join(&mut self, now: Moment, peer: PeerId, have: &PieceSet, hints: Hints) -> bool {
        self.handle_depart(now, peer);
        let peers = self.live.len() + 1;
        let too_large = peers > SWARM_PEERS || peers as u64 * u64::from(self.pieces()) > SWARM_CELLS;
        if have.pieces() != self.pieces() || too_large {
            return false;
        }
        let mut newcomer = Peer::new(now, peer, have.clone(), hints, self.piece_bytes);
        newcomer.struck = self.failures.is_struck(self.now, &peer, self.sinks());
        newcomer.avoided = self.failures.avoided_by(self.now, &peer);
        let slot = self.admit(newcomer);
        self.slots.insert(peer, slot);
        if have.is_full() {
            self.complete.push(slot);
        }
        if !have.is_full() {
            for (piece, spread) in self.spread.iter_mut().enumerate() {
                spread.lacking += u32::from(!have.contains(piece as u32));
            }
        }
        self.count_again(slot);
        self.link_newcomer(slot);
        self.note_turnover(now, slot);
        true
    }

    /// A peer is gone. Who was to get something from it gets it elsewhere.
    pub fn handle_depart(&mut self, now: Moment, peer: PeerId) {
        self.tick(now);
        let Some(slot) = self.slots.remove(&peer) else { return };
        self.note_turnover(now, slot);
        self.remove(slot);
    }

    /// A peer has come or goes.
    fn note_turnover(&mut self, now: Moment, slot: Slot) {
        self.changed = true;
        if self.peers[slot as usize].is_sink() {
            self.came_or_went += 1;
            self.last_came_or_went = now;
        }
    }

    /// A peer will go soon: what it alone holds is copied first, and nothing more is brought to it but what it forwards.
    /// It is to say so again and again: after two seconds (`LEAVING_LAPSE`) it counts as one that stays.
    pub fn handle_leaving(&mut self, now: Moment, peer: PeerId) {
        self.tick(now);
        let Some(&slot) = self.slots.get(&peer) else { return };
        self.peers[slot as usize].leaving_until = now.after(LEAVING_LAPSE);
        if !self.peers[slot as usize].leaving {
            self.discount(slot);
            self.peers[slot as usize].leaving = true;
            self.uproot(slot);
            self.changed = true;
        }
        self.spare_leaver(slot);
    }

    /// Time has passed. Plans if something changed and the last run is long enough ago.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.tick(now);
        if self.next_timeout().is_none_or(|due| now < due) {
            return;
        }
        if self.last_run.is_none() {
            (self.last_sweep, self.last_tidy) = (now, now);
            // Those who are here already stand in trees that are laid out for all of them.
            self.came_or_went = 0;
        } else if now >= self.last_sweep.after(SWEEP) {
            self.sweep(now);
        }
        self.last_run = Some(now);
        self.changed = false;
        match self.dealing {
            Dealing::Planned => {
                self.lay_out();
                self.plant();
                self.tidy(now);
                self.plant();
                self.release(now);
                self.fill(now);
                self.relieve(now);
                self.employ(now);
            }
            Dealing::Random => self.deal_at_random(now),
        }
        self.tell(now);
    }

    fn tick(&mut self, now: Moment) {
        self.now = self.now.max(now);
    }

    /// Time between two runs.
    fn interval(&self) -> Duration {
        PLAN_INTERVAL.max(INTERVAL_PER_PEER * self.live.len() as u32)
    }

    /// Plans a piece for a sink that lacks it.
    fn assign(&mut self, now: Moment, sink: Slot, piece: u32, source: Slot) {
        let peer = &mut self.peers[sink as usize];
        assert!(peer.taken.insert(piece), "only what is lacking is planned");
        let spread = &mut self.spread[piece as usize];
        spread.lacking -= 1;
        spread.coming += 1;
        self.attach(now, sink, piece, source);
    }

    /// Takes a piece out of a sink's plan: it lacks it again.
    fn unassign(&mut self, sink: Slot, piece: u32) {
        if let Some(source) = self.peers[sink as usize].source_of(piece)
            && self.awaits_all_of(sink, piece)
        {
            let source = self.peers[source as usize].id;
            self.peers[sink as usize].dues.cancel(&source, self.piece_bytes);
        }
        self.detach(sink, piece);
        self.peers[sink as usize].taken.remove(piece);
        let spread = &mut self.spread[piece as usize];
        spread.lacking += 1;
        spread.coming -= 1;
    }

    /// Enters a delivery with both its ends.
    fn attach(&mut self, now: Moment, sink: Slot, piece: u32, source: Slot) {
        self.assigned += 1;
        let left = self.piece_bytes;
        let id = self.peers[source as usize].id;
        let peer = &mut self.peers[sink as usize];
        peer.dues.plan(self.now, id, left);
        peer.wants.push(Want { piece, source, since: now, left });
        peer.down.plan(left);
        peer.changed = true;
        let giver = &mut self.peers[source as usize];
        giver.gives.push(Give { sink, piece, since: now });
        giver.up.plan(left);
        if giver.have.contains(piece) {
            giver.up.begin(now);
        }
    }

    /// Takes a delivery out at both its ends; what the sink has taken stays.
    fn detach(&mut self, sink: Slot, piece: u32) {
        let peer = &mut self.peers[sink as usize];
        let Some(at) = peer.wants.iter().position(|want| want.piece == piece) else { return };
        let Want { source, left, .. } = peer.wants.remove(at);
        peer.down.settle(left);
        peer.changed = true;
        let id = self.peers[source as usize].id;
        self.peers[sink as usize].dues.take_back(self.now, &id);
        let giver = &mut self.peers[source as usize];
        giver.forget_give(sink, piece);
        giver.up.settle(left);
    }

    /// Tells every sink whose plan changed, and renews leases.
    fn tell(&mut self, now: Moment) {
        for at in 0..self.live.len() {
            let slot = self.live[at];
            let peer = &self.peers[slot as usize];
            let due = peer.told.is_none_or(|told| now.since(told) >= RENEWAL);
            if peer.is_sink() && (peer.changed || due) {
                let plan = self.plan_of(slot);
                self.actions.push_back(plan);
                let peer = &mut self.peers[slot as usize];
                peer.changed = false;
                peer.told = Some(now);
            }
        }
    }

    fn plan_of(&self, slot: Slot) -> PlannerAction {
        let peer = &self.peers[slot as usize];
        let mut order: Vec<(Slot, Vec<PieceRange>)> = Vec::new();
        // What a source has goes first: sinks ask for so many leaves at a time, and those it waits for would hold these up.
        let held = |want: &&Want| self.peers[want.source as usize].have.contains(want.piece);
        for want in peer.wants.iter().filter(held).chain(peer.wants.iter().filter(|want| !held(want))) {
            let at = order.iter().position(|(source, _)| *source == want.source).unwrap_or_else(|| {
                order.push((want.source, Vec::new()));
                order.len() - 1
            });
            PieceRange::push(&mut order[at].1, want.piece);
        }
        let sources = order.into_iter().map(|(source, runs)| (self.peers[source as usize].id, runs)).collect();
        PlannerAction::Plan { sink: peer.id, lease: PLAN_LEASE, sources }
    }

    /// A number below `count`; 0 if that is 0.
    fn random_below(&mut self, count: usize) -> usize {
        let mixed = splitmix64(&mut self.random);
        if count == 0 { 0 } else { (mixed % count as u64) as usize }
    }
}

/// The next number of `SplitMix64` (Steele, Lea and Flood, OOPSLA 2014), for choices that nobody gains by guessing.
pub fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
