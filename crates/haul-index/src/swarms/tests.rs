//! Swarms without sessions: who learns of whom, what is planned for, and what nobody can take.
#![allow(clippy::unwrap_used)]
use haul_core::ids::PublicKey;
use haul_core::planner::PieceRange;

use super::swarm::{NEIGHBOURS, NEIGHBOURS_MAX};
use super::*;

const SIZE: u64 = 64 * 1024 * 1024;
const NOW: Moment = Moment(1_000);

fn peer(n: u8) -> PeerId {
    let mut bytes = [7; 32];
    bytes[0] = n;
    PublicKey::new(bytes).unwrap()
}

fn joiner(n: u8, groups: &[&str], passes_to: &[&str]) -> Joiner {
    let labels = |names: &[&str]| names.iter().map(|name| Label::new(*name).unwrap()).collect();
    Joiner {
        session: ConnectionId(u64::from(n)),
        peer: peer(n),
        groups: labels(groups),
        passes_to: labels(passes_to),
        hints: Hints::default(),
        mailbox: Arc::default(),
    }
}

fn blob() -> BlobId {
    BlobId::new([3; 32])
}

fn content() -> Content {
    (blob(), SIZE)
}

fn runs(first: u32, count: u32) -> Runs {
    vec![PieceRange { first, count }].try_into().unwrap()
}

fn holds(first: u32, count: u32) -> Report {
    Report { pieces: runs(first, count), ..Report::default() }
}

fn news(joiner: &Joiner) -> Vec<(PeerId, bool)> {
    joiner.mailbox.take(&blob()).peers.into_iter().collect()
}

#[test]
fn members_learn_of_each_other_and_of_who_is_complete() {
    let swarms = Swarms::default();
    let (a, b) = (joiner(1, &[], &[]), joiner(2, &[], &[]));
    assert_eq!(swarms.join(NOW, a.clone(), blob(), SIZE, &Runs::default()).unwrap(), []);
    assert_eq!(swarms.join(NOW, b.clone(), blob(), SIZE, &runs(0, 3)).unwrap(), [(a.peer, false)]);
    assert_eq!(news(&a), [(b.peer, false)]);
    swarms.have(NOW, b.session, &b.peer, &blob(), &holds(3, 60)).unwrap();
    assert_eq!(news(&a), []);
    swarms.have(NOW, b.session, &b.peer, &blob(), &holds(63, 1)).unwrap();
    assert_eq!(news(&a), [(b.peer, true)]);
    assert!(swarms.have(NOW, b.session, &b.peer, &blob(), &holds(64, 1)).is_err(), "64 pieces of a mebibyte");
    let c = joiner(4, &[], &[]);
    swarms.join(NOW, c.clone(), blob(), SIZE, &Runs::default()).unwrap();
    let all_and_more = swarms.have(NOW, c.session, &c.peer, &blob(), &holds(0, 65));
    assert!(all_and_more.is_err() && !news(&a).contains(&(c.peer, true)), "refused as a whole");
    swarms.end_session(NOW, c.session, &c.peer);
    let other_size = swarms.join(NOW, joiner(3, &[], &[]), blob(), SIZE + 1, &Runs::default());
    assert_eq!(other_size, Ok(vec![]), "whoever believes in another size is by itself");
    swarms.end_session(NOW, ConnectionId(3), &peer(3));
    swarms.end_session(NOW, a.session, &a.peer);
    swarms.depart(NOW, b.session, &b.peer, &blob());
    assert_eq!(swarms.members(), 0);
    assert_eq!(swarms.have(NOW, b.session, &b.peer, &blob(), &Report::default()), Err(Refusal::NotOpen));
    assert!(lock(&swarms.inner).places.is_empty());
}

#[test]
fn who_leaves_learns_what_only_it_has() {
    let swarms = Swarms::default();
    let (owner, first, second) = (joiner(1, &[], &[]), joiner(2, &[], &[]), joiner(3, &[], &[]));
    swarms.join(NOW, owner.clone(), blob(), SIZE, &runs(0, 64)).unwrap();
    swarms.join(NOW, first.clone(), blob(), SIZE, &Runs::default()).unwrap();
    assert_eq!(swarms.leaving(NOW, &owner.peer).needed, 0, "one alone is not planned for");
    swarms.join(NOW, second.clone(), blob(), SIZE, &runs(0, 4)).unwrap();
    assert_eq!(swarms.leaving(NOW, &second.peer).needed, 0, "the owner has it, too");
    assert_eq!(swarms.leaving(NOW, &owner.peer).needed, 64, "both may be gone then");
    swarms.join(NOW, second.clone(), blob(), SIZE, &runs(0, 4)).unwrap();
    assert_eq!(swarms.leaving(NOW, &owner.peer).needed, 60, "a new Join takes it back");
    swarms.have(NOW, first.session, &first.peer, &blob(), &holds(4, 60)).unwrap();
    assert_eq!(swarms.leaving(NOW, &owner.peer).needed, 0);
}

#[test]
fn who_leaves_is_looked_for_everywhere_and_changes_only_its_own_swarms() {
    let swarms = Swarms::default();
    for n in 0..20 {
        for sink in [1, 2] {
            swarms.join(NOW, joiner(sink, &[], &[]), BlobId::new([n; 32]), SIZE, &Runs::default()).unwrap();
        }
    }
    let stranger = peer(9);
    let of_stranger = |swarms: &Swarms| swarms.leaving(NOW, &stranger);
    assert_eq!(of_stranger(&swarms), Leaving { needed: 0, swarms: 20, looked_at: 0 });
    swarms.set_owners(NOW, content(), &[], &BTreeMap::from([(stranger, 0)]));
    assert_eq!(of_stranger(&swarms), Leaving { needed: 64, swarms: 20, looked_at: 64 });
}

#[test]
fn an_index_makes_no_plans_if_it_is_told_not_to() {
    let planned = |dealing: Option<Dealing>| {
        let swarms = Swarms::new(dealing);
        let (owner, first, second) = (joiner(1, &[], &[]), joiner(2, &[], &[]), joiner(3, &[], &[]));
        swarms.join(NOW, owner, blob(), SIZE, &runs(0, 64)).unwrap();
        for sink in [&first, &second] {
            swarms.join(NOW, sink.clone(), blob(), SIZE, &Runs::default()).unwrap();
        }
        swarms.plan(NOW, || true);
        let told = first.mailbox.take(&blob());
        assert!(told.peers.contains_key(&second.peer), "members learn of each other all the same");
        told.plan.is_some()
    };
    assert!(planned(Some(Dealing::Planned)) && planned(Some(Dealing::Random)));
    assert!(!planned(None));
}

#[test]
fn nobody_is_told_of_one_that_may_not_pass_the_blob_on_to_it() {
    let swarms = Swarms::default();
    let (lab, guest) = (joiner(1, &["lab"], &["lab"]), joiner(2, &["art"], &["art"]));
    swarms.join(NOW, lab.clone(), blob(), SIZE, &Runs::default()).unwrap();
    assert_eq!(swarms.join(NOW, guest.clone(), blob(), SIZE, &Runs::default()).unwrap(), []);
    assert_eq!(news(&lab), []);
    // Both groups: may give to both, and may have it from both.
    let both = joiner(3, &["art", "lab"], &["art", "lab"]);
    assert_eq!(swarms.join(NOW, both.clone(), blob(), SIZE, &Runs::default()).unwrap().len(), 2);
    assert_eq!((news(&lab), news(&guest)), (vec![(both.peer, false)], vec![(both.peer, false)]));
}

#[test]
fn an_older_session_does_not_end_the_place_of_a_newer_one() {
    let swarms = Swarms::default();
    let old = joiner(1, &[], &[]);
    let new = Joiner { session: ConnectionId(9), ..old.clone() };
    swarms.join(NOW, old.clone(), blob(), SIZE, &Runs::default()).unwrap();
    swarms.join(NOW, new.clone(), blob(), SIZE, &Runs::default()).unwrap();
    assert_eq!(swarms.have(NOW, old.session, &old.peer, &blob(), &Report::default()), Err(Refusal::NotOpen));
    swarms.end_session(NOW, old.session, &old.peer);
    assert_eq!(swarms.members(), 1);
    swarms.have(NOW, new.session, &new.peer, &blob(), &holds(0, 1)).unwrap();
}

#[test]
fn a_large_swarm_is_told_in_part_and_stays_connected() {
    let swarms = Swarms::default();
    let joiners: Vec<Joiner> = (0..200).map(|n| joiner(n, &[], &[])).collect();
    for joiner in &joiners {
        assert!(swarms.join(NOW, joiner.clone(), blob(), SIZE, &Runs::default()).unwrap().len() <= NEIGHBOURS);
    }
    let inner = lock(&swarms.inner);
    let members = &inner.swarms[&content()].members;
    let (mut reached, mut open) = (BTreeSet::new(), vec![joiners[0].peer]);
    while let Some(peer) = open.pop() {
        if reached.insert(peer) {
            assert!(members[&peer].knows.len() <= NEIGHBOURS_MAX);
            open.extend(&members[&peer].knows);
        }
    }
    assert_eq!(reached.len(), members.len());
}

#[test]
fn a_session_that_is_over_or_older_takes_no_place() {
    let swarms = Swarms::default();
    let (old, new) = (joiner(1, &[], &[]), Joiner { session: ConnectionId(9), ..joiner(1, &[], &[]) });
    swarms.join(NOW, new.clone(), blob(), SIZE, &Runs::default()).unwrap();
    let late = swarms.join(NOW, old, blob(), SIZE, &Runs::default());
    assert_eq!(late, Err(Refusal::NotOpen), "its join took longer than that of the newer one");
    swarms.have(NOW, new.session, &new.peer, &blob(), &holds(0, 1)).unwrap();
    new.mailbox.close();
    swarms.end_session(NOW, new.session, &new.peer);
    assert_eq!(swarms.join(NOW, new, blob(), SIZE, &Runs::default()), Err(Refusal::NotOpen));
    assert_eq!(swarms.members(), 0);
}

#[test]
fn those_that_left_do_not_fill_the_list_of_those_known() {
    let swarms = Swarms::default();
    let stays = joiner(1, &[], &[]);
    swarms.join(NOW, stays.clone(), blob(), SIZE, &Runs::default()).unwrap();
    for n in 10..60 {
        let other = joiner(n, &[], &[]);
        swarms.join(NOW, other.clone(), blob(), SIZE, &Runs::default()).unwrap();
        assert_eq!(news(&stays), [(other.peer, false)]);
        swarms.end_session(NOW, other.session, &other.peer);
    }
    // One that comes again may have another address.
    let back = joiner(60, &[], &[]);
    for _ in 0..2 {
        swarms.join(NOW, back.clone(), blob(), SIZE, &Runs::default()).unwrap();
        assert_eq!(news(&stays), [(back.peer, false)]);
    }
    let owner = BTreeMap::from([(peer(9), 0)]);
    for owners in [&owner, &BTreeMap::new(), &owner] {
        swarms.set_owners(NOW, content(), &[], owners);
        assert_eq!(news(&stays).len(), owners.len());
    }
}

#[test]
fn downloads_of_one_each_and_what_is_complete_keep_no_planner() {
    let swarms = Swarms::default();
    let pieces = BlobGeometry::new(limits::BLOB_BYTES).unwrap().pieces();
    let (one, two) = (joiner(1, &[], &[]), joiner(2, &[], &[]));
    let large = limits::BLOB_BYTES;
    for _ in 0..3 {
        swarms.join(NOW, one.clone(), blob(), large, &Runs::default()).unwrap();
        assert_eq!(swarms.cells(), u64::from(pieces), "what it holds, however often it joins");
    }
    swarms.have(NOW, one.session, &one.peer, &blob(), &holds(0, pieces)).unwrap();
    assert_eq!(swarms.cells(), 0);
    assert_eq!(swarms.downloaded(), []);
    swarms.join(NOW, two.clone(), blob(), large, &runs(1, pieces - 1)).unwrap();
    swarms.set_owners(NOW, (blob(), large), &[], &(10..30).map(|n| (peer(n), 0)).collect());
    assert_eq!(swarms.cells(), u64::from(pieces), "one alone is not planned for");
    assert_eq!(swarms.downloaded().len(), 1);
}

#[test]
fn planners_are_for_a_bounded_number_of_pieces_and_the_last_to_come_act_alone() {
    let swarms = Swarms::default();
    let blobs = |n| BlobId::new([n; 32]);
    let (one, two) = (joiner(1, &[], &[]), joiner(2, &[], &[]));
    let pieces = u64::from(BlobGeometry::new(SIZE).unwrap().pieces());
    let each = (limits::SWARM_BOOK_CELLS + 2) * pieces;
    lock(&swarms.inner).cells_most = 3 * each + 10 * pieces;
    for n in 0..6 {
        for joiner in [&one, &two] {
            swarms.join(NOW, joiner.clone(), blobs(n), SIZE, &Runs::default()).unwrap();
        }
    }
    assert!(swarms.cells() <= 3 * each + 10 * pieces);
    swarms.plan(Moment(2_000), || true);
    let planned = |n| two.mailbox.take(&blobs(n)).plan.is_some();
    assert_eq!((0..6).filter(|n| planned(*n)).count(), 3);
    // Where others have left, there is room again.
    swarms.end_session(NOW, one.session, &one.peer);
    swarms.end_session(NOW, two.session, &two.peer);
    assert_eq!(swarms.cells(), 0);
    let large = limits::BLOB_BYTES;
    let most = limits::SWARM_CELLS_PER_MEMBER / u64::from(BlobGeometry::new(large).unwrap().pieces());
    lock(&swarms.inner).cells_most = limits::SWARM_CELLS_IN_ALL;
    for n in 0..most as u8 + 5 {
        swarms.join(NOW, one.clone(), blobs(n), large, &Runs::default()).unwrap();
    }
    assert_eq!(swarms.cells(), limits::SWARM_CELLS_PER_MEMBER);
}

#[test]
fn swarms_have_turns_when_there_is_no_time_for_all() {
    let swarms = Swarms::default();
    let blobs: Vec<BlobId> = (0..5).map(|n| BlobId::new([n; 32])).collect();
    let (one, two) = (joiner(1, &[], &[]), joiner(2, &[], &[]));
    for blob in &blobs {
        for joiner in [&one, &two] {
            swarms.join(NOW, joiner.clone(), *blob, SIZE, &Runs::default()).unwrap();
        }
    }
    for at in 0..5 {
        let mut left = 2;
        swarms.plan(Moment(2_000 + at), || {
            left -= 1;
            left > 0
        });
    }
    assert!(blobs.iter().all(|blob| one.mailbox.take(blob).plan.is_some()));
}

#[test]
fn two_downloaders_are_planned_for_and_learn_of_whom_they_are_to_ask() {
    let swarms = Swarms::default();
    let (a, b) = (joiner(1, &[], &[]), joiner(2, &[], &[]));
    swarms.join(NOW, a.clone(), blob(), SIZE, &Runs::default()).unwrap();
    let owner = peer(9);
    swarms.set_owners(NOW, content(), &[], &BTreeMap::from([(owner, 0)]));
    assert_eq!(news(&a), [(owner, true)], "who shares it is told of at once");
    swarms.plan(NOW, || true);
    assert!(a.mailbox.take(&blob()).plan.is_none(), "who is alone knows best whom to ask");
    swarms.join(NOW, b.clone(), blob(), SIZE, &Runs::default()).unwrap();
    swarms.plan(Moment(2_000), || true);
    for (me, other) in [(&a, &b), (&b, &a)] {
        let News { peers, plan } = me.mailbox.take(&blob());
        let (_, sources) = plan.unwrap();
        assert!(sources.iter().any(|(source, _)| *source == owner) && sources.iter().any(|(s, _)| *s == other.peer));
        assert_eq!(peers.contains_key(&other.peer), me.peer == a.peer, "the other one heard of it when it joined");
    }
    // Whatever one of them says that it received, planning goes on.
    let lie = Report { received: vec![(b.peer, u64::MAX), (owner, u64::MAX)], ..Report::default() };
    for at in 20..60 {
        swarms.have(Moment(at * 100), a.session, &a.peer, &blob(), &lie).unwrap();
        swarms.plan(Moment(at * 100), || true);
    }
    assert!(a.mailbox.take(&blob()).plan.is_some() && b.mailbox.take(&blob()).plan.is_some());
    // Nobody shares it any more: what only the owner had is not planned.
    swarms.set_owners(Moment(7_000), content(), &[], &BTreeMap::new());
    swarms.plan(Moment(8_000), || true);
    let (_, sources) = a.mailbox.take(&blob()).plan.unwrap();
    assert!(sources.iter().all(|(source, _)| *source != owner));
    assert_eq!(swarms.downloaded(), [(content(), Vec::new())]);
    swarms.end_session(NOW, a.session, &a.peer);
    swarms.end_session(NOW, b.session, &b.peer);
    assert_eq!(swarms.downloaded(), []);
    assert_eq!(swarms.cells(), 0);
}

#[test]
fn who_shared_it_and_fetches_it_now_is_told_of_anew() {
    let swarms = Swarms::default();
    let (a, b) = (joiner(1, &[], &[]), joiner(2, &[], &[]));
    swarms.join(NOW, a.clone(), blob(), SIZE, &Runs::default()).unwrap();
    swarms.set_owners(NOW, content(), &[], &BTreeMap::from([(b.peer, 0)]));
    assert_eq!(news(&a), [(b.peer, true)]);
    swarms.join(NOW, b.clone(), blob(), SIZE, &runs(0, 3)).unwrap();
    assert_eq!(news(&a), [(b.peer, false)]);
    swarms.have(NOW, b.session, &b.peer, &blob(), &holds(3, 61)).unwrap();
    assert_eq!(news(&a), [(b.peer, true)]);
    swarms.depart(NOW, b.session, &b.peer, &blob());
    swarms.join(NOW, b.clone(), blob(), SIZE, &Runs::default()).unwrap();
    assert_eq!(news(&a), [(b.peer, false)], "it may have come back from elsewhere");
}

#[test]
fn who_shares_it_from_another_network_now_is_told_of_anew() {
    let swarms = Swarms::default();
    let (a, owner, stays) = (joiner(1, &[], &[]), peer(9), peer(8));
    swarms.join(NOW, a.clone(), blob(), SIZE, &Runs::default()).unwrap();
    for (site, expected) in [(4, vec![(owner, true), (stays, true)]), (4, vec![]), (5, vec![(owner, true)])] {
        swarms.set_owners(NOW, content(), &[], &BTreeMap::from([(owner, site), (stays, 4)]));
        let mut told = news(&a);
        told.sort_by_key(|(peer, _)| *peer != owner);
        assert_eq!(told, expected);
    }
}

/// Pieces that plans have some sink fetch from each of these members.
fn dealt<const N: usize>(swarms: &Swarms, sinks: &[&Joiner], sources: [&Joiner; N]) -> [u32; N] {
    swarms.plan(NOW, || true);
    let plans: Vec<_> = sinks.iter().flat_map(|sink| sink.mailbox.take(&blob()).plan.unwrap().1).collect();
    sources.map(|source| {
        let of_source = plans.iter().filter(|(from, _)| *from == source.peer);
        of_source.flat_map(|(_, pieces)| pieces).map(|run| run.count).sum()
    })
}

fn join_with(swarms: &Swarms, member: &Joiner, holds: u32, uplink: u64) {
    let member = Joiner { hints: Hints { up: Some(uplink), ..member.hints }, ..member.clone() };
    let held = if holds > 0 { runs(0, holds) } else { Runs::default() };
    swarms.join(NOW, member, blob(), SIZE, &held).unwrap();
}

fn tell_uplink(swarms: &Swarms, member: &Joiner, uplink: u64) {
    let report = Report { uplink: Some(uplink), ..Report::default() };
    swarms.have(NOW, member.session, &member.peer, &blob(), &report).unwrap();
}

#[test]
fn plans_follow_what_those_that_hold_all_say_of_their_uplinks() {
    const SLOW: u64 = 600_000;
    type Say = fn(&Swarms, &Joiner, u64);
    let nothing: Say = |_, _, _| {};
    let join: Say = |swarms, member, uplink| join_with(swarms, member, 64, uplink);
    // What the slower of two says before there is a planner, and then.
    for (early, late, slow_says) in [
        (nothing, nothing, false),
        (join, nothing, true),
        (tell_uplink, nothing, true),
        (nothing, join, true),
        (nothing, tell_uplink, true),
        (join, |swarms, member, _| tell_uplink(swarms, member, 0), true),
        (|swarms, member, _| join_with(swarms, member, 64, 0), nothing, false),
    ] as [(Say, Say, bool); 7]
    {
        let swarms = Swarms::default();
        let (other, slow) = (joiner(1, &[], &[]), joiner(2, &[], &[]));
        let (first, second) = (joiner(4, &[], &[]), joiner(7, &[], &[]));
        for member in [&other, &slow] {
            swarms.join(NOW, member.clone(), blob(), SIZE, &runs(0, 64)).unwrap();
        }
        early(&swarms, &slow, SLOW);
        for sink in [&first, &second] {
            swarms.join(NOW, sink.clone(), blob(), SIZE, &Runs::default()).unwrap();
        }
        late(&swarms, &slow, SLOW);
        let [of_other, of_slow] = dealt(&swarms, &[&first, &second], [&other, &slow]);
        let expected =
            if slow_says { of_other > 0 && 2 * of_other >= 3 * of_slow } else { of_other.abs_diff(of_slow) <= 2 };
        assert!(expected, "{of_other} and {of_slow}");
    }
}

#[test]
fn plans_follow_what_the_first_downloader_said_of_its_uplink_while_it_was_alone() {
    let swarms = Swarms::default();
    let (seed, slow) = (joiner(1, &[], &[]), joiner(2, &[], &[]));
    let others = [joiner(4, &[], &[]), joiner(7, &[], &[]), joiner(8, &[], &[])];
    swarms.join(NOW, seed, blob(), SIZE, &runs(0, 64)).unwrap();
    join_with(&swarms, &slow, 0, 6_000_000);
    tell_uplink(&swarms, &slow, 300_000);
    for other in &others {
        swarms.join(NOW, other.clone(), blob(), SIZE, &Runs::default()).unwrap();
    }
    let [first, second, third] = &others;
    let [of_slow, of_first] = dealt(&swarms, &[&slow, first, second, third], [&slow, first]);
    assert!(of_first >= 4 * of_slow.max(1), "{of_first} and {of_slow}");
}

#[test]
fn plans_keep_to_sites() {
    // Every third number is of one site, so that neither order nor chance brings them together.
    let near = |one: &PeerId, other: &PeerId| one.as_bytes()[0] % 3 == other.as_bytes()[0] % 3;
    let share_of_near = |sites: bool| {
        let swarms = Swarms::default();
        let site = |n: u8| if sites { 1 + u32::from(n % 3) } else { 0 };
        let joiners: Vec<Joiner> =
            (0..30).map(|n| Joiner { hints: Hints { site: site(n), up: None }, ..joiner(n, &[], &[]) }).collect();
        for joiner in &joiners {
            let held = u32::from(joiner.peer.as_bytes()[0] / 3) * 6;
            swarms
                .join(NOW, joiner.clone(), blob(), SIZE, &if held > 0 { runs(0, held) } else { Runs::default() })
                .unwrap();
        }
        swarms.set_owners(NOW, content(), &[], &(30..36).map(|n| (peer(n), site(n))).collect());
        swarms.plan(NOW, || true);
        let plans = joiners.iter().map(|joiner| (joiner.peer, joiner.mailbox.take(&blob()).plan.unwrap().1));
        let dealt: Vec<(bool, u32)> = plans
            .flat_map(|(sink, sources)| sources.into_iter().map(move |(source, runs)| (sink, source, runs)))
            .map(|(sink, source, runs)| (near(&sink, &source), runs.iter().map(|run| run.count).sum()))
            .collect();
        let all: u32 = dealt.iter().map(|(_, pieces)| pieces).sum();
        f64::from(dealt.iter().filter(|(near, _)| *near).map(|(_, pieces)| pieces).sum::<u32>()) / f64::from(all)
    };
    let (with, without) = (share_of_near(true), share_of_near(false));
    assert!(with > 1.5 * without, "{with} of the pieces stay at their site, {without} where none are known");
}
