//! Downloaders of one blob that give each other what they have, with plans and without.

use super::*;

#[test]
fn in_a_swarm_nothing_but_the_last_leaf_is_asked_for_before_the_proof() {
    for (spread, most) in [(true, 1), (false, 16)] {
        let geometry = BlobGeometry::new(1_000 * LEAF_BYTES).unwrap();
        let mut machine = Download::new(geometry, LeafSet::new(1_000), &LeafSet::new(1_000), 3);
        machine.set_spread(Moment(0), spread);
        machine.handle_provider(Moment(0), peer(1), Have::All);
        let mut leaves = Vec::new();
        while let Some(action) = machine.poll_action() {
            match action {
                Action::RequestSheet { request, .. } => machine.handle_sheet(Moment(1), request, true),
                Action::RequestLeaves { ranges, .. } => {
                    leaves.extend(ranges.iter().flat_map(|range| range.first..range.first + range.count));
                }
                _ => {}
            }
        }
        assert_eq!((leaves[0], leaves.len()), (999, most), "everybody would begin with the same leaves");
    }
}

/// The sheets that are asked for, with an answer to each; the first sheet has all of its leaves.
fn sheets_of_a_resumed_download(spread: bool, have: &Have) -> Vec<Option<u64>> {
    let leaves = 3 * SHEET_LEAVES;
    let mut verified = LeafSet::new(leaves);
    for leaf in (0..SHEET_LEAVES).chain([leaves - 1]) {
        verified.insert(leaf);
    }
    let mut machine =
        Download::new(BlobGeometry::new(leaves * LEAF_BYTES).unwrap(), verified, &LeafSet::new(leaves), 1);
    machine.set_spread(Moment(0), spread);
    machine.handle_provider(Moment(0), peer(1), have.clone());
    let mut sheets = Vec::new();
    while let Some(action) = machine.poll_action() {
        if let Action::RequestSheet { request, sheet, .. } = action {
            sheets.push(sheet);
            machine.handle_sheet(Moment(1), request, true);
        }
    }
    sheets
}

#[test]
fn who_passes_on_what_was_here_before_gets_its_sheets_too() {
    assert_eq!(sheets_of_a_resumed_download(false, &Have::All), [None, Some(1), Some(2)]);
    assert_eq!(sheets_of_a_resumed_download(true, &Have::All), [None, Some(1), Some(2), Some(0)]);
    let parts = held(3 * SHEET_LEAVES, &[SHEET_LEAVES..SHEET_LEAVES + 1, 5_000..5_001]);
    assert_eq!(sheets_of_a_resumed_download(true, &parts), [None, Some(1)], "whoever has nothing of it has no sheet");
}

#[test]
fn in_a_swarm_the_rarest_pieces_go_first() {
    for seed in 0..20 {
        // Pieces of 4 leaves; another peer holds the first three.
        let (mut machine, sheet) = proven(64, seed);
        machine.handle_provider(Moment(0), peer(2), held(64, &[0..6, 6..12]));
        // Holders are counted anew by then.
        machine.handle_sheet(Moment(200), sheet, true);
        let (of_all, of_some): (Vec<_>, Vec<_>) =
            asked(&mut machine).into_iter().partition(|(_, provider, ..)| *provider == peer(1));
        assert!(!of_all.is_empty() && !of_some.is_empty());
        for (_, _, leaves, wait) in of_all {
            assert!(!wait && leaves.iter().all(|leaf| *leaf >= 12), "seed {seed}: {leaves:?} are not the rarest");
        }
        assert!(of_some.iter().all(|(_, _, leaves, _)| leaves.iter().all(|leaf| *leaf < 12)));
    }
}

#[test]
fn downloaders_of_one_swarm_begin_at_different_pieces() {
    let first = |seed| {
        let (mut machine, sheet) = proven(960, seed);
        machine.handle_provider(Moment(0), peer(2), held(960, &[]));
        machine.handle_sheet(Moment(1), sheet, true);
        // The last piece is begun and goes first.
        asked(&mut machine)[0].2.iter().copied().find(|leaf| *leaf < 956).unwrap()
    };
    let firsts: BTreeSet<u64> = (1..40).map(|seed| first(seed * 7_919)).collect();
    assert!(firsts.len() > 10, "{firsts:?}");
}

#[test]
fn downloaders_that_know_each_other_take_different_pieces_of_who_has_everything() {
    // Pieces of 16 leaves. Each knows the two others by their keys.
    let taken = |me: u8, seed| {
        let (mut machine, sheet) = proven(1_600, seed);
        machine.set_me(peer(me));
        for other in (2..5).filter(|other| *other != me) {
            machine.handle_provider(Moment(0), peer(other), held(1_600, &[]));
        }
        machine.handle_sheet(Moment(1), sheet, true);
        let leaves = asked(&mut machine).into_iter().flat_map(|(_, _, leaves, _)| leaves);
        leaves.map(|leaf| leaf / 16).collect::<BTreeSet<u64>>()
    };
    for seed in 1..20 {
        let (mut all, mut count) = (BTreeSet::new(), 0);
        for me in 2..5 {
            let pieces = taken(me, seed * 7_919);
            assert!(!pieces.is_empty());
            count += pieces.len();
            all.extend(pieces);
        }
        assert_eq!(all.len(), count, "none twice");
    }
}

#[test]
fn what_others_hold_a_part_of_is_still_asked_of_who_has_everything() {
    // Another holds the first leaf of every piece.
    let (mut machine, sheet) = proven(1_600, 3);
    let firsts: Vec<core::ops::Range<u64>> = (0..100).map(|piece| piece * 16..piece * 16 + 1).collect();
    machine.handle_provider(Moment(0), peer(2), held(1_600, &firsts));
    machine.handle_sheet(Moment(200), sheet, true);
    let (of_all, of_some): (Vec<_>, Vec<_>) =
        asked(&mut machine).into_iter().partition(|(_, provider, ..)| *provider == peer(1));
    assert!(!of_all.is_empty() && !of_some.is_empty());
    assert!(of_all.iter().flat_map(|(_, _, leaves, _)| leaves).all(|leaf| leaf % 16 != 0));
    assert!(of_some.iter().flat_map(|(_, _, leaves, _)| leaves).all(|leaf| leaf % 16 == 0));
}

#[test]
fn planned_pieces_of_who_has_everything_come_one_after_the_other() {
    let (mut machine, sheet) = proven(1_600, 3);
    let plan = alloc::vec![(peer(1), alloc::vec![0..160]), (peer(2), alloc::vec![320..480])];
    machine.handle_plan(Moment(1), Moment(60_000), plan);
    machine.handle_provider(Moment(1), peer(2), held(1_600, &[]));
    machine.handle_sheet(Moment(2), sheet, true);
    let (mut of_all, of_some): (Vec<_>, Vec<_>) =
        asked(&mut machine).into_iter().partition(|(_, provider, ..)| *provider == peer(1));
    // What a source is still getting is asked for in advance, a piece in each request.
    assert_eq!(of_some.iter().map(|(_, _, leaves, _)| leaves.len()).collect::<Vec<_>>(), [16; 4]);
    let (mut now, mut came) = (2, 0);
    while let Some((request, provider, leaves, _)) = (!of_all.is_empty()).then(|| of_all.remove(0)) {
        assert_eq!(leaves.len(), 16);
        for (at, leaf) in leaves.into_iter().enumerate() {
            now += 80;
            assert_eq!(leaf, came, "in order");
            came += 1;
            machine.handle_arrival(Moment(now), request, leaf);
            machine.handle_verified(Moment(now), provider, leaf, Verdict::Good);
            let more = asked(&mut machine);
            // At 13 leaves per second four are enough to hide a long way.
            assert!(more.is_empty() || at >= 12, "after {at} leaves: {more:?}");
            of_all.extend(more);
        }
        machine.handle_end(Moment(now), request, RequestEnd::Served);
        of_all.extend(asked(&mut machine));
    }
    assert_eq!(came, 160);
}

#[test]
fn who_downloads_alone_goes_from_the_front_to_the_back() {
    let (mut machine, sheet) = proven(960, 7);
    machine.handle_sheet(Moment(1), sheet, true);
    let leaves: Vec<u64> = asked(&mut machine).into_iter().flat_map(|(_, _, leaves, _)| leaves).collect();
    assert_eq!(leaves, (0..leaves.len() as u64).collect::<Vec<_>>());
}

#[test]
fn who_knows_of_nobody_yet_begins_elsewhere_than_others_and_comes_round() {
    let taken = |me| {
        let (mut machine, sheet) = proven(960, 7);
        machine.set_me(peer(me));
        machine.handle_sheet(Moment(1), sheet, true);
        asked(&mut machine).into_iter().flat_map(|(_, _, leaves, _)| leaves).collect::<Vec<u64>>()
    };
    let firsts: BTreeSet<u64> = (1..40).map(|me| taken(me)[0]).collect();
    assert!(firsts.len() > 20, "{firsts:?}");
    for leaves in (1..40).map(taken) {
        assert!(leaves.windows(2).all(|pair| pair[1] == (pair[0] + 1) % 959), "{leaves:?}");
    }
}

#[test]
fn a_plan_is_followed_while_it_is_in_date() {
    let (mut machine, sheet) = proven(64, 5);
    let plan = alloc::vec![(peer(1), alloc::vec![8..12]), (peer(2), alloc::vec![20..28])];
    machine.handle_plan(Moment(1), Moment(5_000), plan);
    machine.handle_sheet(Moment(2), sheet, true);
    let from_first = asked(&mut machine);
    assert_eq!(from_first.len(), 1);
    assert_eq!((from_first[0].1, &from_first[0].2, from_first[0].3), (peer(1), &(8..12).collect(), false));
    // It is asked for what it does not have yet.
    machine.handle_provider(Moment(4), peer(2), held(64, &[]));
    let from_second = asked(&mut machine);
    assert_eq!((from_second[0].1, &from_second[0].2, from_second[0].3), (peer(2), &(20..28).collect(), true));
    // Who waits itself and has got nothing is not to blame, and is asked again a little later.
    machine.handle_end(Moment(1_100), from_second[0].0, RequestEnd::Served);
    assert_eq!(asked(&mut machine), []);
    let later = machine.next_timeout().unwrap();
    assert!(later < Moment(1_700), "{later:?}");
    machine.handle_timeout(later);
    let again = asked(&mut machine);
    assert_eq!((again.len(), again[0].1, again[0].3), (1, peer(2), true));
    // Another plan takes back what has brought nothing yet.
    machine.handle_plan(Moment(1_700), Moment(6_000), alloc::vec![(peer(1), alloc::vec![20..24])]);
    let cancelled: Vec<RequestId> = core::iter::from_fn(|| machine.poll_action())
        .filter_map(|action| match action {
            Action::Cancel { request } => Some(request),
            _ => None,
        })
        .collect();
    assert_eq!(cancelled, [from_first[0].0, again[0].0]);
    // Once it has ended, this downloader acts alone: whoever has everything is asked for the rest.
    machine.handle_timeout(Moment(6_001));
    assert!(asked(&mut machine).iter().any(|(_, provider, leaves, _)| *provider == peer(1) && leaves[0] != 20));
}

#[test]
fn a_plan_that_is_done_with_does_not_stop_the_download() {
    let (mut machine, sheet) = proven(64, 5);
    // Nobody of this plan is there.
    machine.handle_plan(Moment(1), Moment(60_000), alloc::vec![(peer(9), alloc::vec![8..12])]);
    machine.handle_sheet(Moment(2), sheet, true);
    assert_eq!(asked(&mut machine), [], "the next plan may be on its way");
    let late = machine.next_timeout().unwrap();
    assert!(late < Moment(2_000), "{late:?}");
    machine.handle_timeout(late);
    assert!(!asked(&mut machine).is_empty());
}
