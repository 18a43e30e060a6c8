//! A world without links or delays around a planner: deliveries happen when a test says so. It checks after every step
//! that the planner's books are right.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::super::*;
use crate::limits::SWARM_NEIGHBOURS;

pub(super) fn geometry(size: u64) -> BlobGeometry {
    BlobGeometry::new(size).unwrap()
}

pub(super) fn id(peer: u32) -> PeerId {
    let mut bytes = [0x42; 32];
    bytes[..4].copy_from_slice(&peer.to_be_bytes());
    PeerId::new(bytes).unwrap()
}

fn number(id: PeerId) -> u32 {
    u32::from_be_bytes(id.as_bytes()[..4].try_into().unwrap())
}

type Plan = Vec<(u32, u32)>;

pub(super) struct World {
    pub(super) planner: Planner,
    pub(super) now: Moment,
    truth: BTreeMap<u32, PieceSet>,
    /// What each sink was told last: source and piece.
    plans: BTreeMap<u32, Plan>,
    history: Vec<(u64, u32, Plan)>,
    deliveries: Vec<(u32, u32)>,
    struck: BTreeSet<u32>,
    /// Bytes that each peer may still send in this round; empty means no limit.
    rates: BTreeMap<u32, u64>,
}

impl World {
    pub(super) fn new(size: u64, seed: u64) -> Self {
        Self::with(Planner::new(geometry(size), seed))
    }

    pub(super) fn with(planner: Planner) -> Self {
        Self {
            planner,
            now: Moment(0),
            truth: BTreeMap::new(),
            plans: BTreeMap::new(),
            history: Vec::new(),
            deliveries: Vec::new(),
            struck: BTreeSet::new(),
            rates: BTreeMap::new(),
        }
    }

    pub(super) fn pieces(&self) -> u32 {
        self.planner.pieces()
    }

    pub(super) fn join(&mut self, peer: u32, seed: bool) {
        self.join_with(peer, seed, Hints::default());
    }

    pub(super) fn join_with(&mut self, peer: u32, seed: bool, hints: Hints) {
        let have = if seed { PieceSet::full(self.pieces()) } else { PieceSet::new(self.pieces()) };
        assert!(self.planner.handle_join(self.now, id(peer), &have, hints));
        self.truth.insert(peer, have);
    }

    pub(super) fn join_having(&mut self, peer: u32, have: &PieceSet) {
        assert!(self.planner.handle_join(self.now, id(peer), have, Hints::default()));
        self.plans.remove(&peer);
        self.truth.insert(peer, have.clone());
    }

    pub(super) fn leave(&mut self, peer: u32) {
        self.truth.remove(&peer);
        self.plans.remove(&peer);
        self.struck.remove(&peer);
        self.planner.handle_depart(self.now, id(peer));
    }

    /// Peers 1, 2, … send no more than this, in bytes per second.
    pub(super) fn limit_rates(&mut self, rates: &[u64]) {
        self.rates = rates.iter().enumerate().map(|(at, rate)| (at as u32 + 1, *rate)).collect();
    }

    /// The same for one peer.
    pub(super) fn limit_rate(&mut self, peer: u32, rate: u64) {
        self.rates.insert(peer, rate);
    }

    /// One run of the planner, 100 ms later.
    pub(super) fn run(&mut self) {
        self.now = self.now.after(PLAN_INTERVAL);
        self.planner.handle_timeout(self.now);
        while let Some(action) = self.planner.poll_action() {
            match action {
                PlannerAction::Plan { sink, sources, .. } => {
                    let sink = number(sink);
                    assert!(self.truth.contains_key(&sink), "a plan for somebody who is not there");
                    let runs = sources.iter().flat_map(|(source, runs)| runs.iter().map(|run| (number(*source), *run)));
                    let plan: Plan =
                        runs.flat_map(|(source, run)| run.pieces().map(move |piece| (source, piece))).collect();
                    for (source, piece) in &plan {
                        assert!(self.truth.contains_key(source), "a plan of somebody who is not there");
                        assert!(*piece < self.pieces() && source != &sink);
                    }
                    self.history.push((self.now.0, sink, plan.clone()));
                    self.plans.insert(sink, plan);
                }
                PlannerAction::Strike { peer } => {
                    self.struck.insert(number(peer));
                }
            }
        }
    }

    /// Deliveries that are possible now, in order: sink, source, piece.
    fn possible(&self) -> Vec<(u32, u32, u32)> {
        let all =
            self.plans.iter().flat_map(|(sink, plan)| plan.iter().map(|(source, piece)| (*sink, *source, *piece)));
        let there = |(sink, source, piece): &(u32, u32, u32)| {
            self.truth.get(source).is_some_and(|set| set.contains(*piece))
                && self.truth.get(sink).is_some_and(|set| !set.contains(*piece))
        };
        all.filter(there).collect()
    }

    fn deliver(&mut self, (sink, source, piece): (u32, u32, u32)) {
        self.truth.get_mut(&sink).unwrap().insert(piece);
        self.deliveries.push((source, sink));
        let mut gained = Runs::default();
        assert!(gained.push(piece));
        self.planner.handle_have(self.now, id(sink), &gained, &[(id(source), self.planner.piece_bytes)]);
    }

    /// Runs and delivers until everybody has what somebody holds.
    pub(super) fn finish(&mut self) {
        let mut budget: BTreeMap<u32, u64> = BTreeMap::new();
        for _ in 0..4000 {
            self.run();
            for (peer, rate) in &self.rates {
                *budget.entry(*peer).or_default() += rate / 10;
            }
            for delivery in self.possible() {
                let piece = self.planner.piece_bytes;
                if self.rates.contains_key(&delivery.1) {
                    let left = budget.entry(delivery.1).or_default();
                    if *left < piece {
                        continue;
                    }
                    *left -= piece;
                }
                self.deliver(delivery);
            }
            self.check();
            if self.is_done() {
                return;
            }
        }
        panic!("still lacking: {:?}", self.truth.iter().map(|(peer, set)| (*peer, set.count())).collect::<Vec<_>>());
    }

    fn is_done(&self) -> bool {
        let mut held = PieceSet::new(self.pieces());
        for (peer, set) in &self.truth {
            if !self.struck.contains(peer) {
                set.iter().for_each(|piece| assert!(held.insert(piece) || held.contains(piece)));
            }
        }
        self.truth.values().all(|set| held.iter().all(|piece| set.contains(piece)))
    }

    pub(super) fn step(&mut self, kind: u8, first: u32, second: u32) {
        let somebody = |world: &Self, chance: u32| {
            let all: Vec<u32> = world.truth.keys().copied().collect();
            all.get(chance as usize % all.len().max(1)).copied()
        };
        match kind {
            0..=2 => self.join(1 + first % 24, false),
            3 => {
                let mut have = PieceSet::new(self.pieces());
                (0..self.pieces())
                    .filter(|piece| (second >> (piece % 31)) & 1 == 1)
                    .for_each(|piece| assert!(have.insert(piece)));
                self.struck.remove(&(1 + first % 24));
                self.join_having(1 + first % 24, &have);
            }
            // The first seed stays, so that there is an end.
            4 => {
                if let Some(peer) = somebody(self, first).filter(|peer| *peer != 0) {
                    self.leave(peer);
                }
            }
            5 => {
                // Half of them by sinks that were to ask this source, the others by any.
                let open = self.possible();
                let planned = open.get(first as usize % open.len().max(1)).map(|(sink, source, _)| (*sink, *source));
                let any = somebody(self, first).zip(somebody(self, second));
                if let Some((sink, source)) = if second.is_multiple_of(2) { planned } else { any }
                    && source != 0
                {
                    self.planner.handle_failed(self.now, id(sink), id(source));
                }
            }
            6 | 7 => self.run(),
            12 => {
                if let Some(peer) = somebody(self, first) {
                    self.planner.handle_leaving(self.now, id(peer));
                }
            }
            _ => {
                for _ in 0..first % 16 {
                    let possible = self.possible();
                    let Some(delivery) = possible.get(second as usize % possible.len().max(1)) else { break };
                    self.deliver(*delivery);
                }
            }
        }
    }

    /// The planner's books against what follows from them.
    pub(super) fn check(&self) {
        let planner = &self.planner;
        let mut spread = alloc::vec![Spread::default(); planner.spread.len()];
        for slot in &planner.live {
            let peer = &planner.peers[*slot as usize];
            assert!(peer.live && planner.live[peer.place as usize] == *slot);
            assert_eq!(planner.complete.contains(slot), peer.have.is_full());
            assert!(peer.neighbours.len() <= SWARM_NEIGHBOURS);
            self.check_trees(*slot);
            let mut taken = peer.have.clone();
            for want in &peer.wants {
                assert!(taken.insert(want.piece), "wanted once, and not held");
                self.check_delivery(*slot, want);
            }
            assert_eq!(taken, peer.taken);
            for other in &peer.neighbours {
                assert!(planner.peers[*other as usize].neighbours.contains(slot), "both know it");
            }
            for give in &peer.gives {
                assert_eq!(planner.peers[give.sink as usize].source_of(give.piece), Some(*slot));
            }
            let wanted = peer.wants.iter().map(|want| want.left).sum::<u64>();
            let given = |give: &Give| {
                let mut wants = planner.peers[give.sink as usize].wants.iter();
                wants.find(|want| want.piece == give.piece).map_or(0, |want| want.left)
            };
            let loads = (peer.down.open(), peer.up.open());
            assert_eq!(loads, (wanted, peer.gives.iter().map(given).sum()), "a load is what is open");
            for (piece, spread) in spread.iter_mut().enumerate() {
                let piece = piece as u32;
                spread.holders += u32::from(peer.have.contains(piece) && !peer.have.is_full() && peer.counts());
                spread.coming += u32::from(peer.source_of(piece).is_some());
                spread.lacking += u32::from(!peer.taken.contains(piece));
            }
        }
        for (kept, counted) in planner.spread.iter().zip(&spread) {
            assert_eq!(
                (kept.holders, kept.coming, kept.lacking),
                (counted.holders, counted.coming, counted.lacking),
                "counts follow the sets"
            );
        }
    }

    /// Trees are told the same at both ends, have no circles, and nobody stands in one that should not.
    fn check_trees(&self, slot: Slot) {
        let planner = &self.planner;
        let peer = &planner.peers[slot as usize];
        for (stripe, child) in &peer.below {
            assert_eq!(planner.peers[*child as usize].above[*stripe as usize], slot);
        }
        for stripe in 0..self.planner.stripes.len() {
            if let Some(above) = planner.above(slot, stripe) {
                assert!(!peer.avoided.contains(&planner.peers[above as usize].id), "it would ask whom it avoids");
            }
            let mut at = slot;
            let mut steps = 0;
            while let Some(above) = planner.above(at, stripe) {
                assert!(planner.peers[above as usize].below.contains(&(stripe as u8, at)));
                assert!(planner.peers[above as usize].live);
                at = above;
                steps += 1;
                assert!(steps <= planner.live.len(), "a circle");
            }
        }
    }

    /// A delivery leads up to a holder without a circle, over peers that are there and may give.
    fn check_delivery(&self, sink: Slot, want: &Want) {
        let planner = &self.planner;
        let mut at = want.source;
        for _ in 0..=planner.live.len() {
            let peer = &planner.peers[at as usize];
            assert!(peer.may_give() && at != sink);
            assert!(peer.taken.contains(want.piece));
            if peer.have.contains(want.piece) {
                return;
            }
            at = peer.source_of(want.piece).unwrap();
        }
        panic!("a circle");
    }

    pub(super) fn given_by(&self, peer: u32) -> Vec<(u32, u32)> {
        let all =
            self.plans.iter().flat_map(|(sink, plan)| plan.iter().map(|(source, piece)| (*sink, *source, *piece)));
        let mut given: Vec<(u32, u32)> =
            all.filter(|(_, source, _)| *source == peer).map(|(sink, _, piece)| (sink, piece)).collect();
        given.sort_unstable_by_key(|(_, piece)| *piece);
        given
    }

    pub(super) fn sent_by(&self, peer: u32) -> u32 {
        self.deliveries.iter().filter(|(source, _)| *source == peer).count() as u32
    }

    pub(super) fn deliveries(&self) -> &[(u32, u32)] {
        &self.deliveries
    }

    pub(super) fn history(&self) -> Vec<(u64, u32, Plan)> {
        self.history.clone()
    }

    pub(super) fn struck(&self, peer: u32) -> bool {
        self.struck.contains(&peer)
    }
}
