//! The machine against simulated providers in virtual time: honest, slow, stalling, vanishing, lying ones.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::*;

mod hostile;
mod swarm;
use crate::ids::PublicKey;
use crate::limits::LEAF_BYTES;
use crate::planner::splitmix64;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        splitmix64(&mut self.0) % bound
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Honest,
    /// One leaf in so many is wrong.
    LeafLiar(u64),
    SheetLiar,
    /// Stops answering after so many leaves.
    Staller(u64),
    /// Connection breaks at this time and never comes back.
    Vanishing(u64),
    /// Connection breaks at this time and is there again when asked for.
    Flapping(u64),
    /// Says that it holds everything, then does not.
    Empty,
}

struct Simulated {
    kind: Kind,
    have: Have,
    bytes_per_second: u64,
    delay: u64,
    free_at: u64,
    sent: u64,
    gone: bool,
    banned_with: Option<u64>,
    arrived_bad: u64,
    in_flight: BTreeMap<RequestId, BTreeSet<u64>>,
}

#[derive(Debug)]
enum Event {
    Sheet(RequestId),
    Leaf(RequestId, u64),
    Ended(RequestId, RequestEnd),
    Verified(PeerId, u64, Verdict),
    Local(u64, bool),
    Breaks(PeerId),
    Announce,
}

struct World {
    machine: Download,
    providers: BTreeMap<PeerId, Simulated>,
    owner: BTreeMap<RequestId, PeerId>,
    cancelled: BTreeMap<RequestId, u64>,
    /// Requests of connections that broke a moment ago.
    ending: BTreeSet<RequestId>,
    events: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    now: u64,
    random: Random,
    good: BTreeSet<u64>,
    announcements: u32,
    setbacks: Vec<(PeerId, Setback)>,
    finished: bool,
    seed: u64,
    rotten_local: BTreeSet<u64>,
}

fn peer(n: u8) -> PeerId {
    let mut bytes = [7; 32];
    bytes[0] = n;
    PublicKey::new(bytes).unwrap()
}

impl World {
    fn at(&mut self, moment: u64, event: Event) {
        self.next_event += 1;
        self.events.insert((moment, self.next_event), event);
    }

    fn moment(&self) -> Moment {
        Moment(self.now)
    }

    fn perform(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::RequestSheet { request, provider, .. } => self.ask(request, provider, &[]),
                Action::RequestLeaves { request, provider, ranges, .. } => {
                    assert!(!ranges.is_empty() && ranges.len() <= crate::limits::PIECE_RANGES, "seed {}", self.seed);
                    let leaves: Vec<u64> =
                        ranges.iter().flat_map(|range| range.first..range.first + range.count).collect();
                    self.ask(request, provider, &leaves);
                }
                Action::CheckLocal { ranges } => {
                    for leaf in ranges.iter().flat_map(|range| range.first..range.first + range.count) {
                        let good = !self.rotten_local.contains(&leaf);
                        self.at(self.now + 1, Event::Local(leaf, good));
                    }
                }
                Action::Cancel { request } => {
                    let owner = &self.providers[&self.owner[&request]];
                    // What is under way already still arrives.
                    let until = self.now + owner.delay;
                    self.cancelled.insert(request, until);
                }
                Action::ForgetSheets | Action::Blame { .. } => {}
                Action::Ban { provider, .. } => {
                    let liar = self.providers.get_mut(&provider).unwrap();
                    assert!(
                        matches!(liar.kind, Kind::LeafLiar(_) | Kind::SheetLiar),
                        "seed {}: an honest provider was blamed: {:?}",
                        self.seed,
                        liar.kind
                    );
                    liar.banned_with = Some(liar.in_flight.values().map(|leaves| leaves.len() as u64).sum());
                }
                Action::Setback { provider, setback } => self.setbacks.push((provider, setback)),
                Action::Finished => self.finished = true,
                Action::Starved(_) => {
                    if self.announcements < 30 {
                        self.announcements += 1;
                        self.at(self.now + 1_000, Event::Announce);
                    }
                }
            }
        }
    }

    fn ask(&mut self, request: RequestId, provider: PeerId, leaves: &[u64]) {
        let jitter = self.random.below(3);
        let now = self.now;
        let simulated = self.providers.get_mut(&provider).unwrap();
        assert!(simulated.banned_with.is_none(), "seed {}: a banned provider was asked", self.seed);
        assert!(leaves.iter().all(|leaf| simulated.have.contains(*leaf)), "seed {}", self.seed);
        self.owner.insert(request, provider);
        if simulated.gone {
            return self.at(now, Event::Ended(request, RequestEnd::Failed));
        }
        simulated.in_flight.insert(request, leaves.iter().copied().collect());
        let start = now + 2 * simulated.delay + jitter;
        if simulated.kind == Kind::Empty {
            return self.at(start, Event::Ended(request, RequestEnd::NotHeld));
        }
        if leaves.is_empty() {
            return self.at(start, Event::Sheet(request));
        }
        let mut done = start.max(simulated.free_at);
        let per_leaf = (LEAF_BYTES * 1000 / simulated.bytes_per_second).max(1);
        let mut arrivals = Vec::new();
        for leaf in leaves {
            if matches!(simulated.kind, Kind::Staller(limit) if simulated.sent >= limit) {
                break;
            }
            simulated.sent += 1;
            done += per_leaf;
            arrivals.push((done, *leaf));
        }
        simulated.free_at = done;
        let complete = arrivals.len() == leaves.len();
        for (moment, leaf) in arrivals {
            self.at(moment, Event::Leaf(request, leaf));
        }
        if complete {
            self.at(done, Event::Ended(request, RequestEnd::Served));
        }
    }

    fn happen(&mut self, event: Event) {
        let now = self.moment();
        match event {
            Event::Sheet(request) => {
                let owner = self.owner[&request];
                if !self.providers[&owner].gone {
                    let good = self.providers[&owner].kind != Kind::SheetLiar;
                    self.machine.handle_sheet(now, request, good);
                }
            }
            Event::Leaf(request, leaf) => self.leaf(request, leaf),
            Event::Ended(request, end) => {
                self.ending.remove(&request);
                if self.cancelled.get(&request).is_none_or(|until| self.now <= *until) {
                    self.machine.handle_end(now, request, end);
                }
            }
            Event::Verified(provider, leaf, verdict) => {
                if verdict == Verdict::Good {
                    assert!(self.good.insert(leaf), "seed {}: leaf {leaf} verified twice", self.seed);
                }
                self.machine.handle_verified(now, provider, leaf, verdict);
            }
            Event::Local(leaf, good) => {
                if good {
                    assert!(self.good.insert(leaf), "seed {}", self.seed);
                }
                self.machine.handle_local(now, leaf, good);
            }
            Event::Breaks(provider) => {
                self.providers.get_mut(&provider).unwrap().gone = true;
                self.machine.handle_provider_lost(now, provider);
                // What came before is still handed on.
                let open = self.owner.iter().filter(|(_, owner)| **owner == provider).map(|(id, _)| *id);
                let open: Vec<RequestId> = open.filter(|id| !self.cancelled.contains_key(id)).collect();
                for request in open {
                    let after = self.now + self.random.below(20);
                    self.ending.insert(request);
                    self.at(after, Event::Ended(request, RequestEnd::Failed));
                }
            }
            Event::Announce => {
                for (id, provider) in &mut self.providers {
                    if matches!(provider.kind, Kind::Flapping(_)) {
                        provider.gone = false;
                    }
                    if !provider.gone {
                        self.machine.handle_provider(now, *id, provider.have.clone());
                    }
                }
            }
        }
    }

    fn leaf(&mut self, request: RequestId, leaf: u64) {
        let owner = self.owner[&request];
        let late = self.cancelled.get(&request).is_some_and(|until| self.now > *until);
        let provider = self.providers.get_mut(&owner).unwrap();
        if let Some(leaves) = provider.in_flight.get_mut(&request) {
            leaves.remove(&leaf);
        }
        if late || provider.gone && !self.ending.contains(&request) {
            return;
        }
        let verdict = match provider.kind {
            Kind::LeafLiar(one_in) if self.random.below(one_in) == 0 => Verdict::Bad,
            _ => Verdict::Good,
        };
        if self.machine.handle_arrival(Moment(self.now), request, leaf) == Arrival::Verify {
            if verdict == Verdict::Bad {
                provider.arrived_bad += 1;
            }
            let after = self.now + self.random.below(6);
            self.at(after, Event::Verified(owner, leaf, verdict));
        }
    }

    /// Runs until nothing can happen any more, or the download has finished.
    fn run(&mut self) {
        self.perform();
        for _ in 0..2_000_000 {
            if self.finished {
                return;
            }
            let event = self.events.first_key_value().map(|((moment, _), _)| *moment);
            let timeout = self.machine.next_timeout().map(|moment| moment.0);
            match (event, timeout) {
                (None, None) => return,
                (Some(event), timeout) if timeout.is_none_or(|timeout| event <= timeout) => {
                    self.now = self.now.max(event);
                    let (_, event) = self.events.pop_first().unwrap();
                    self.happen(event);
                }
                (_, Some(timeout)) => {
                    self.now = self.now.max(timeout);
                    self.machine.handle_timeout(Moment(self.now));
                }
                (Some(_), None) => unreachable!(),
            }
            self.perform();
            assert!(self.now < 24 * 3_600_000, "seed {}: a day has passed", self.seed);
        }
        panic!("seed {}: does not end", self.seed);
    }
}

fn have(random: &mut Random, leaves: u64) -> Have {
    if random.below(3) > 0 {
        return Have::All;
    }
    let mut set = LeafSet::new(leaves);
    (0..leaves).filter(|_| random.below(3) > 0).for_each(|leaf| {
        set.insert(leaf);
    });
    Have::Leaves(set)
}

fn world(seed: u64) -> World {
    let mut random = Random(seed);
    let leaves = match random.below(40) {
        0 => 1,
        1 => 4_000 + random.below(6_000),
        2..6 => 1 + random.below(8),
        _ => 2 + random.below(300),
    };
    let geometry = BlobGeometry::new((leaves - 1) * LEAF_BYTES + 1 + random.below(LEAF_BYTES)).unwrap();
    let mut verified = LeafSet::new(leaves);
    let mut local = LeafSet::new(leaves);
    let mut rotten_local = BTreeSet::new();
    if random.below(3) == 0 {
        for leaf in 0..leaves {
            match random.below(4) {
                0 => drop(verified.insert(leaf)),
                1 => {
                    local.insert(leaf);
                    if random.below(4) == 0 {
                        rotten_local.insert(leaf);
                    }
                }
                _ => {}
            }
        }
    }
    let good = members(&verified).collect();
    let mut world = World {
        machine: Download::new(geometry, verified, &local, seed),
        providers: BTreeMap::new(),
        owner: BTreeMap::new(),
        cancelled: BTreeMap::new(),
        ending: BTreeSet::new(),
        events: BTreeMap::new(),
        next_event: 0,
        now: 1_000,
        random,
        good,
        announcements: 0,
        setbacks: Vec::new(),
        finished: false,
        seed,
        rotten_local,
    };
    for n in 0..world.random.below(7) {
        let kind = match world.random.below(9) {
            0..3 => Kind::Honest,
            3 => Kind::LeafLiar(1 + world.random.below(20)),
            4 => Kind::SheetLiar,
            5 => Kind::Staller(world.random.below(40)),
            6 => Kind::Vanishing(1_000 + world.random.below(5_000)),
            7 => Kind::Flapping(1_000 + world.random.below(5_000)),
            _ => Kind::Empty,
        };
        let have = have(&mut world.random, leaves);
        let bytes_per_second = 20_000 << world.random.below(14);
        let delay = world.random.below(100);
        let id = peer(n as u8 + 1);
        if let Kind::Vanishing(moment) | Kind::Flapping(moment) = kind {
            world.at(moment, Event::Breaks(id));
        }
        world.providers.insert(
            id,
            Simulated {
                kind,
                have,
                bytes_per_second,
                delay,
                free_at: 0,
                sent: 0,
                gone: false,
                banned_with: None,
                arrived_bad: 0,
                in_flight: BTreeMap::new(),
            },
        );
    }
    world.at(1_000, Event::Announce);
    world
}

/// Whether lasting honest providers, with what was there, hold every leaf.
fn can_finish(world: &World) -> bool {
    let held = |leaf: u64| {
        let honest = |provider: &Simulated| {
            matches!(provider.kind, Kind::Honest | Kind::Flapping(_)) && provider.have.contains(leaf)
        };
        world.providers.values().any(honest)
    };
    (0..world.machine.geometry().leaves()).all(|leaf| world.good.contains(&leaf) || held(leaf))
}

#[test]
fn finishes_exactly_when_honest_providers_hold_every_leaf() {
    let mut finished = 0;
    for seed in 0..3_000 {
        let mut world = world(seed);
        let must = can_finish(&world);
        world.run();
        if must {
            assert!(world.finished, "seed {seed}: {:?}", world.machine.starved());
        }
        if world.finished {
            finished += 1;
            assert_eq!(world.good.len() as u64, world.machine.geometry().leaves(), "seed {seed}");
            assert!(world.machine.size_is_proven() && world.machine.next_timeout().is_none());
        }
        for provider in world.providers.values() {
            // Bad leaves that got as far as verification were under way before the first one was recognised.
            if let Some(in_flight) = provider.banned_with {
                assert!(provider.arrived_bad <= in_flight + 600, "seed {seed}");
            }
        }
    }
    assert!(finished > 800, "{finished} of 3000 finished: the worlds are too hard to say anything");
}

fn simple(leaves: u64, providers: &[(Kind, u64, u64)]) -> World {
    let geometry = BlobGeometry::new(leaves * LEAF_BYTES).unwrap();
    let mut world = world(0);
    world.machine = Download::new(geometry, LeafSet::new(leaves), &LeafSet::new(leaves), 1);
    world.providers.clear();
    world.events.clear();
    world.good.clear();
    for (n, (kind, bytes_per_second, delay)) in providers.iter().enumerate() {
        world.providers.insert(
            peer(n as u8 + 1),
            Simulated {
                kind: *kind,
                have: Have::All,
                bytes_per_second: *bytes_per_second,
                delay: *delay,
                free_at: 0,
                sent: 0,
                gone: false,
                banned_with: None,
                arrived_bad: 0,
                in_flight: BTreeMap::new(),
            },
        );
    }
    world.at(1_000, Event::Announce);
    world
}

const MIB: u64 = 1024 * 1024;

#[test]
fn unequal_providers_finish_together() {
    // 64 MiB from 10 + 3 + 1 MiB/s: 4.6 s if nobody waits.
    let mut world = simple(1024, &[(Kind::Honest, 10 * MIB, 5), (Kind::Honest, 3 * MIB, 20), (Kind::Honest, MIB, 40)]);
    world.run();
    assert!(world.finished);
    let took = world.now - 1_000;
    assert!(took < 5_800, "took {took} ms");
    assert!(world.machine.discarded() <= 32, "{} leaves came twice", world.machine.discarded());
}

#[test]
fn a_dripping_provider_does_not_hold_up_the_rest() {
    let mut world = simple(512, &[(Kind::Honest, 10 * MIB, 5), (Kind::Honest, 8_000, 5)]);
    world.run();
    assert!(world.finished);
    // Alone: 3.2 s. The prover may be the slow one, at a stall and one leaf of cost.
    assert!(world.now - 1_000 < 9_000, "took {} ms", world.now - 1_000);
}

#[test]
fn who_falls_short_is_told_with_what_was_measured() {
    let mut world = simple(1024, &[(Kind::Honest, 10 * MIB, 5), (Kind::Staller(20), 4 * MIB, 5)]);
    world.run();
    assert!(world.finished);
    let of =
        |n: u8| world.setbacks.iter().filter(move |(provider, _)| *provider == peer(n)).map(|(_, setback)| setback);
    let stalled = of(2).find_map(|setback| match setback {
        Setback::Stalled { silence, rate } => Some((*silence, *rate)),
        _ => None,
    });
    let late: u64 = of(2).map(|setback| if let Setback::Late { leaves, .. } = setback { *leaves } else { 0 }).sum();
    let (silence, rate) = stalled.unwrap();
    assert!(silence >= Duration::from_secs(3) && rate > MIB / 2 && rate < 8 * MIB, "{silence:?} {rate}");
    assert!(late > 0, "{:?}", world.setbacks);
    assert_eq!(of(1).count(), 0, "{:?}", world.setbacks);
    // Alone, it is asked until its failures are enough.
    let mut world = simple(64, &[(Kind::Staller(0), MIB, 5)]);
    world.announcements = 30;
    world.run();
    assert!(world.setbacks.contains(&(peer(1), Setback::GivenUp { failures: 5 })), "{:?}", world.setbacks);
}

#[test]
fn one_long_link_is_kept_full() {
    // 128 MiB over 20 MiB/s with 200 ms there and back: 6.4 s, plus what slow start and proof cost.
    let mut world = simple(2048, &[(Kind::Honest, 20 * MIB, 100)]);
    world.run();
    assert!(world.finished && world.now - 1_000 < 9_500, "took {} ms", world.now - 1_000);
}

#[test]
fn the_last_leaf_is_asked_for_first_and_only_of_the_prover() {
    let geometry = BlobGeometry::new(40 * LEAF_BYTES).unwrap();
    let mut machine = Download::new(geometry, LeafSet::new(40), &LeafSet::new(40), 9);
    for n in 1..4 {
        machine.handle_provider(Moment(1), peer(n), Have::All);
    }
    let Some(Action::RequestSheet { request, provider, sheet: Some(0) }) = machine.poll_action() else { panic!() };
    assert_eq!(machine.poll_action(), None);
    machine.handle_sheet(Moment(2), request, true);
    let Some(Action::RequestLeaves { request, provider: same, ranges, .. }) = machine.poll_action() else { panic!() };
    assert_eq!((same, ranges[0].first), (provider, 39));
    while let Some(action) = machine.poll_action() {
        assert!(matches!(action, Action::RequestLeaves { provider: other, .. } if other == provider), "{action:?}");
    }
    assert_eq!(machine.handle_arrival(Moment(3), request, 39), Arrival::Verify);
    assert_eq!(machine.handle_arrival(Moment(3), request, 39), Arrival::Discard);
    machine.handle_verified(Moment(4), provider, 39, Verdict::Good);
    assert!(machine.size_is_proven());
    assert!(matches!(machine.poll_action(), Some(Action::RequestLeaves { provider: other, .. }) if other != provider));
}

/// A download of so many leaves, all of which peer 1 has, with its sheet.
fn with_sheet(leaves: u64) -> Download {
    let geometry = BlobGeometry::new(leaves * LEAF_BYTES).unwrap();
    let mut machine = Download::new(geometry, LeafSet::new(leaves), &LeafSet::new(leaves), 9);
    machine.handle_provider(Moment(1), peer(1), Have::All);
    let Some(Action::RequestSheet { request, .. }) = machine.poll_action() else { panic!() };
    machine.handle_sheet(Moment(2), request, true);
    machine
}

#[test]
fn what_a_lost_connection_had_brought_counts() {
    let mut machine = with_sheet(40);
    let open = asked(&mut machine);
    assert!(open.len() > 1);
    // One request reports the end of the connection before the others have handed on what came over it.
    machine.handle_provider_lost(Moment(3), peer(1));
    let (first, others) = open.split_first().unwrap();
    let (last, others) = (first.2[0], others.iter().map(|(request, _, leaves, _)| (*request, leaves[0])));
    assert_eq!((last, machine.handle_arrival(Moment(3), first.0, last)), (39, Arrival::Verify));
    for (request, leaf) in others.clone() {
        assert_eq!(machine.handle_arrival(Moment(3), request, leaf), Arrival::Verify);
    }
    for (request, ..) in &open {
        machine.handle_end(Moment(4), *request, RequestEnd::Failed);
    }
    // Another is there; the sheets stay, as the last leaf is being verified with them.
    machine.handle_provider(Moment(5), peer(2), Have::All);
    assert_eq!(asked(&mut machine), []);
    for leaf in others.map(|(_, leaf)| leaf).chain([last]) {
        machine.handle_verified(Moment(6), peer(1), leaf, Verdict::Good);
    }
    assert!(machine.size_is_proven() && machine.verified().count() == open.len() as u64);
    assert!(matches!(machine.poll_action(), Some(Action::RequestLeaves { provider, .. }) if provider == peer(2)));
}

#[test]
fn what_one_of_several_connections_did_not_bring_is_asked_for_again_at_once() {
    let mut machine = with_sheet(40);
    let open = asked(&mut machine);
    let (broken, _, lost, _) = open.first().unwrap();
    machine.handle_end(Moment(3), *broken, RequestEnd::Interrupted);
    let again = asked(&mut machine);
    assert!(again.iter().any(|(_, _, leaves, _)| leaves.contains(&lost[0])), "{again:?}");
    // The others go on: nothing is taken back.
    let (other, _, leaves, _) = open.last().unwrap();
    assert_eq!(machine.handle_arrival(Moment(4), *other, leaves[0]), Arrival::Verify);
}

#[test]
fn a_leaf_that_was_damaged_is_asked_for_again_even_at_the_end() {
    let mut machine = with_sheet(3);
    let bring = |machine: &mut Download| {
        let mut asked_for = Vec::new();
        for (request, provider, leaves, _) in asked(machine) {
            for leaf in leaves {
                assert_eq!(machine.handle_arrival(Moment(3), request, leaf), Arrival::Verify);
                machine.handle_verified(Moment(3), provider, leaf, Verdict::Good);
                asked_for.push(leaf);
            }
            machine.handle_end(Moment(3), request, RequestEnd::Served);
        }
        asked_for
    };
    while !machine.verified().is_full() {
        assert_ne!(bring(&mut machine), []);
    }
    // Before the driver has heard of the end, and after.
    machine.handle_damaged(Moment(4), 2);
    assert!(machine.size_is_proven() && !machine.actions.contains(&Action::Finished));
    assert_eq!(bring(&mut machine), [2]);
    assert_eq!(machine.actions.pop_back(), Some(Action::Finished));
    machine.handle_damaged(Moment(5), 0);
    machine.handle_damaged(Moment(5), 0);
    assert_eq!(bring(&mut machine), [0]);
    assert_eq!(machine.actions.pop_back(), Some(Action::Finished));
}

#[test]
fn a_prover_that_is_lost_takes_its_sheets_with_it() {
    let mut machine = with_sheet(40);
    machine.handle_provider(Moment(2), peer(2), Have::All);
    let open = asked(&mut machine);
    machine.handle_provider_lost(Moment(3), peer(1));
    assert_eq!(asked(&mut machine), []);
    let mut actions = Vec::new();
    for (request, ..) in open {
        machine.handle_end(Moment(4), request, RequestEnd::Failed);
        actions.extend(core::iter::from_fn(|| machine.poll_action()));
    }
    assert_eq!(actions[0], Action::ForgetSheets);
    assert!(matches!(actions[1], Action::RequestSheet { provider, .. } if provider == peer(2)), "{actions:?}");
}

#[test]
fn a_reader_in_order_bounds_what_is_asked_for() {
    let geometry = BlobGeometry::new(1000 * LEAF_BYTES).unwrap();
    let mut machine = Download::new(geometry, LeafSet::new(1000), &LeafSet::new(1000), 9);
    machine.set_horizon(Moment(0), 8);
    assert_eq!(machine.poll_action(), Some(Action::Starved(Starvation::NoProvider)));
    machine.handle_provider(Moment(1), peer(1), Have::All);
    let Some(Action::RequestSheet { request, .. }) = machine.poll_action() else { panic!() };
    machine.handle_sheet(Moment(2), request, true);
    let mut asked = BTreeSet::new();
    while let Some(action) = machine.poll_action() {
        let Action::RequestLeaves { ranges, .. } = action else { panic!("{action:?}") };
        asked.extend(ranges.iter().flat_map(|range| range.first..range.first + range.count));
    }
    assert_eq!(asked, (0..8).chain([999]).collect());
}

/// A machine past its proof, with a provider of everything that was asked for the sheet.
fn proven(leaves: u64, seed: u64) -> (Download, RequestId) {
    let geometry = BlobGeometry::new(leaves * LEAF_BYTES).unwrap();
    let mut verified = LeafSet::new(leaves);
    verified.insert(leaves - 1);
    let mut machine = Download::new(geometry, verified, &LeafSet::new(leaves), seed);
    machine.set_spread(Moment(0), true);
    machine.handle_provider(Moment(0), peer(1), Have::All);
    let sheet = core::iter::from_fn(|| machine.poll_action()).find_map(|action| match action {
        Action::RequestSheet { request, .. } => Some(request),
        _ => None,
    });
    (machine, sheet.unwrap())
}

fn held(leaves: u64, runs: &[core::ops::Range<u64>]) -> Have {
    let mut set = LeafSet::new(leaves);
    for leaf in runs.iter().cloned().flatten() {
        set.insert(leaf);
    }
    Have::Leaves(set)
}

/// What is asked of whom: provider, leaves, whether it waits.
fn asked(machine: &mut Download) -> Vec<(RequestId, PeerId, Vec<u64>, bool)> {
    let mut all = Vec::new();
    while let Some(action) = machine.poll_action() {
        if let Action::RequestLeaves { request, provider, ranges, wait } = action {
            let leaves = ranges.iter().flat_map(|range| range.first..range.first + range.count).collect();
            all.push((request, provider, leaves, wait));
        }
    }
    all
}
