//! Swarms in which somebody does not do what he should, or the index is mistaken.

use super::*;

/// A partial provider that answers every planned request with Served and nothing else.
#[test]
fn a_provider_that_serves_nothing_is_asked_more_and_more_rarely() {
    let (mut machine, sheet) = proven(64, 5);
    machine.handle_sheet(Moment(2), sheet, true);
    let open = asked(&mut machine);
    machine.handle_provider_lost(Moment(3), peer(1));
    for (request, ..) in open {
        machine.handle_end(Moment(3), request, RequestEnd::Failed);
    }
    machine.handle_provider(Moment(4), peer(2), held(64, &[]));
    let mut at = 10;
    let (mut requests, mut starved) = (0, 0);
    let mut open: Vec<RequestId> = asked(&mut machine).into_iter().map(|(id, ..)| id).collect();
    while at < 10_000 {
        // The index renews its plan, as it does every 1.5 s.
        if at % 1_500 == 10 {
            machine.handle_plan(Moment(at), Moment(at + 5_000), alloc::vec![(peer(2), alloc::vec![20..28])]);
        }
        open.extend(asked(&mut machine).into_iter().map(|(id, ..)| id));
        for id in core::mem::take(&mut open) {
            requests += 1;
            machine.handle_end(Moment(at), id, RequestEnd::Served);
        }
        starved += u32::from(machine.starved().is_some());
        at += 1;
    }
    assert!(requests < 10 && starved > 0, "{requests} requests, starved {starved} times");
}

/// A server waits ten seconds for a leaf that never comes to it.
#[test]
fn a_download_that_nobody_helps_says_that_it_is_stuck() {
    let (mut machine, sheet) = proven(64, 5);
    machine.handle_sheet(Moment(2), sheet, true);
    let open = asked(&mut machine);
    machine.handle_provider_lost(Moment(3), peer(1));
    for (request, ..) in open {
        machine.handle_end(Moment(3), request, RequestEnd::Failed);
    }
    machine.handle_provider(Moment(4), peer(2), held(64, &[]));
    asked(&mut machine);
    let mut starved = 0;
    let mut open: Option<(u64, RequestId)> = None;
    for at in (100..3_600_000u64).step_by(100) {
        if at % 1_500 == 100 {
            machine.handle_plan(Moment(at), Moment(at + 5_000), alloc::vec![(peer(2), alloc::vec![20..28])]);
        }
        if machine.next_timeout().is_some_and(|due| due <= Moment(at)) {
            machine.handle_timeout(Moment(at));
        }
        for (id, ..) in asked(&mut machine) {
            open = Some((at, id));
        }
        if let Some((since, id)) = open
            && at >= since + 10_000
        {
            open = None;
            machine.handle_end(Moment(at), id, RequestEnd::Served);
            for (id, ..) in asked(&mut machine) {
                open = Some((at, id));
            }
        }
        if at > 10_000 {
            starved += u32::from(machine.starved().is_some());
        }
    }
    assert!(starved > 0, "an hour without a byte: never starved, so no reason is told and patience never ends");
}

/// A source gives one leaf each eleven seconds; the planner moves its work to another.
#[test]
fn a_dripping_source_gives_back_what_the_plan_moves_elsewhere() {
    let (mut machine, sheet) = proven(64, 5);
    machine.handle_plan(Moment(1), Moment(5_000), alloc::vec![(peer(2), alloc::vec![0..32])]);
    machine.handle_sheet(Moment(2), sheet, true);
    machine.handle_provider(Moment(3), peer(2), Have::All);
    let drip = asked(&mut machine);
    assert_eq!((drip.len(), drip[0].1), (1, peer(2)));
    let mut at = 1_000;
    let mut leaf = 0;
    let mut from_seed = 0;
    let mut next_leaf = 1_000;
    while at < 3_600_000 && leaf < 32 && from_seed == 0 {
        if at >= next_leaf {
            if machine.handle_arrival(Moment(at), drip[0].0, leaf) == Arrival::Verify {
                machine.handle_verified(Moment(at), peer(2), leaf, Verdict::Good);
            }
            leaf += 1;
            next_leaf = at + 11_000;
        }
        // From 9 s on, the planner wants all of it from the seed, which is idle.
        if at >= 9_000 && at % 1_500 == 0 {
            machine.handle_plan(Moment(at), Moment(at + 5_000), alloc::vec![(peer(1), alloc::vec![0..32])]);
        }
        if machine.next_timeout().is_some_and(|due| due <= Moment(at)) {
            machine.handle_timeout(Moment(at));
        }
        from_seed += asked(&mut machine).iter().filter(|(_, provider, ..)| *provider == peer(1)).count();
        at += 500;
    }
    assert!(at < 30_000, "the seed was asked only after {} s", at / 1000);
}

/// The index plans nothing for this downloader, again and again, though a seed is there: it answers every request 50 ms
/// later at 100 leaves a second.
#[test]
fn empty_plans_keep_nobody_from_a_seed_that_is_there() {
    let took = |every: u64| {
        let leaves = 2_048;
        let (mut machine, sheet) = proven(leaves, 5);
        machine.handle_sheet(Moment(2), sheet, true);
        let mut queue: VecDeque<(u64, RequestId, VecDeque<u64>)> = VecDeque::new();
        for at in (10..3_600_000u64).step_by(10) {
            if every > 0 && at % every == 10 {
                machine.handle_plan(Moment(at), Moment(at + 5_000), Vec::new());
            }
            if machine.next_timeout().is_some_and(|due| due <= Moment(at)) {
                machine.handle_timeout(Moment(at));
            }
            while let Some(action) = machine.poll_action() {
                match action {
                    Action::RequestLeaves { request, ranges, .. } => {
                        let leaves = ranges.iter().flat_map(|range| range.first..range.first + range.count).collect();
                        queue.push_back((at + 50, request, leaves));
                    }
                    Action::Cancel { request } => queue.retain(|(_, id, _)| *id != request),
                    Action::Finished => return at,
                    _ => {}
                }
            }
            // One leaf each 10 ms.
            if let Some((_, request, leaves)) = queue.front_mut().filter(|(from, ..)| *from <= at) {
                let (request, leaf) = (*request, leaves.pop_front().unwrap());
                let over = leaves.is_empty();
                if over {
                    queue.pop_front();
                }
                if machine.handle_arrival(Moment(at), request, leaf) == Arrival::Verify {
                    machine.handle_verified(Moment(at), peer(1), leaf, Verdict::Good);
                }
                if over {
                    machine.handle_end(Moment(at), request, RequestEnd::Served);
                }
            }
        }
        3_600_000
    };
    let without = took(0);
    for every in [2_000, 1_500, 900, 100] {
        let with = took(every);
        assert!(with < without + 1_500, "{with} ms instead of {without} ms with an empty plan every {every} ms");
    }
}

/// It gives all but the last leaf, one a second, while another who would prove the size at once may give nothing.
#[test]
fn a_prover_that_keeps_the_last_leaf_back_is_replaced_in_time() {
    let geometry = BlobGeometry::new(1_000 * LEAF_BYTES).unwrap();
    let mut machine = Download::new(geometry, LeafSet::new(1_000), &LeafSet::new(1_000), 9);
    machine.handle_provider(Moment(0), peer(1), Have::All);
    let Some(Action::RequestSheet { request, .. }) = machine.poll_action() else { panic!() };
    machine.handle_sheet(Moment(1), request, true);
    machine.handle_provider(Moment(1), peer(2), Have::All);
    let mut open: VecDeque<(RequestId, u64)> = VecDeque::new();
    let mut proof = None;
    for second in 1..3_600 {
        let now = Moment(second * 1_000);
        machine.handle_timeout(now);
        while let Some(action) = machine.poll_action() {
            match action {
                Action::RequestSheet { provider, .. } if provider == peer(2) => {
                    return assert!(second < 30, "only after {second} s");
                }
                Action::RequestSheet { request, .. } => machine.handle_sheet(now, request, true),
                Action::RequestLeaves { request, ranges, .. } => {
                    if ranges.iter().any(|range| range.first + range.count == 1_000) {
                        proof = Some(request);
                    }
                    let leaves = ranges.iter().flat_map(|range| range.first..range.first + range.count);
                    open.extend(leaves.filter(|leaf| *leaf != 999).map(|leaf| (request, leaf)));
                }
                _ => {}
            }
        }
        let Some((request, leaf)) = open.pop_front() else { continue };
        if machine.handle_arrival(now, request, leaf) == Arrival::Verify {
            machine.handle_verified(now, peer(1), leaf, Verdict::Good);
        }
        if proof != Some(request) && open.iter().all(|(other, _)| *other != request) {
            machine.handle_end(now, request, RequestEnd::Served);
        }
    }
    panic!("the other one was never asked");
}

/// The disk stands still for longer than anybody may stay silent.
#[test]
fn nobody_stalls_while_the_downloader_itself_can_take_nothing() {
    let (mut machine, sheet) = proven(64, 5);
    machine.handle_sheet(Moment(2), sheet, true);
    assert_ne!(asked(&mut machine), []);
    let stalls = |machine: &mut Download| {
        core::iter::from_fn(|| machine.poll_action()).any(|action| matches!(action, Action::Setback { .. }))
    };
    machine.handle_own_delay(Moment(30_000));
    machine.handle_timeout(Moment(30_000));
    assert!(!stalls(&mut machine));
    machine.handle_timeout(Moment(60_000));
    assert!(stalls(&mut machine));
}

/// One that downloads the blob itself, and at first holds its last leaf, then not.
#[test]
fn a_prover_that_takes_back_the_last_leaf_is_replaced() {
    for sheet_first in [true, false] {
        let geometry = BlobGeometry::new(40 * LEAF_BYTES).unwrap();
        let mut machine = Download::new(geometry, LeafSet::new(40), &LeafSet::new(40), 9);
        machine.handle_provider(Moment(1), peer(1), held(40, &[0..20, 20..40]));
        let Some(Action::RequestSheet { request, .. }) = machine.poll_action() else { panic!() };
        if !sheet_first {
            machine.handle_provider(Moment(2), peer(1), held(40, &[0..20, 20..39]));
        }
        machine.handle_sheet(Moment(3), request, true);
        for (request, ..) in asked(&mut machine) {
            machine.handle_end(Moment(4), request, RequestEnd::NotHeld);
        }
        machine.handle_provider(Moment(5), peer(1), held(40, &[0..20, 20..39]));
        machine.handle_timeout(Moment(2_000));
        assert_eq!(asked(&mut machine), [], "who cannot prove the size is asked for nothing");
        machine.handle_provider(Moment(2_001), peer(2), Have::All);
        let actions: Vec<Action> = core::iter::from_fn(|| machine.poll_action()).collect();
        let asks = |action: &Action| matches!(action, Action::RequestSheet { provider, .. } if *provider == peer(2));
        assert!(actions.iter().any(asks), "{actions:?}");
    }
}
