//! Watches against a naive evaluation, and their limits.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;

use futures_util::FutureExt;
use haul_core::manifest::{Change, Entry, EntryKind, PageBuilder};
use haul_core::path::SharePath;
use haul_core::query::{FoldedEntry, fold};
use haul_core::wire::ByteString;
use haul_net::identity::SecretKey;
use proptest::prelude::*;

use super::*;

/// A file of this name at the root of a share of peer 9.
pub(super) fn hit(name: &str) -> Hit {
    Hit {
        kind: HitKind::File,
        name: ByteString::from(name.as_bytes()),
        blob: None,
        size: 10,
        files: None,
        mtime_ns: 0,
        peer: peer(9),
        peer_name: label("nas"),
        share: label("docs"),
        path: SharePath::new(name.as_bytes().to_vec()).unwrap(),
        names: 1,
        contents: 1,
        copies: 1,
        online: 1,
        near: false,
    }
}

fn peer(n: u8) -> PeerId {
    SecretKey::from_seed([n; 32]).unwrap().public()
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn share(groups: &[&str]) -> Arc<ShareFacts> {
    let groups = groups.iter().map(|group| label(group)).collect();
    Arc::new(ShareFacts::new(peer(9), label("nas"), ShareId([1; 16]), label("docs"), groups))
}

fn asker(n: u8, groups: &[&str]) -> Asker {
    Asker { peer: peer(n), groups: groups.iter().map(|group| label(group)).collect() }
}

/// A page of files: names, each with a blob or none.
fn page(files: &[(&str, Option<u8>)]) -> Vec<u8> {
    let mut builder = PageBuilder::new();
    for (name, blob) in files {
        let blob = blob.map(|n| BlobId::new([n; 32]));
        let kind = EntryKind::File { size: 10, executable: false, blob };
        let entry = Entry { directory: b"", name: name.as_bytes(), mtime_ns: 0, kind };
        assert!(builder.push(&Change::Upsert(entry)));
    }
    builder.finish()
}

fn register(watches: &Watches, share: &Arc<ShareFacts>, files: &[(&str, Option<u8>)]) {
    let mut staged = None;
    watches.add_page(&mut staged, share, &page(files), 0);
    watches.committed(staged.unwrap(), share, ShareState::default());
}

/// Everything that waits: names by watch, and the watches that missed something.
fn told(mailbox: &Mailbox) -> (Vec<(u64, String)>, BTreeSet<u64>) {
    let (mut names, mut missed) = (Vec::new(), BTreeSet::new());
    while let Some(Some(batch)) = mailbox.next().now_or_never() {
        names.extend(batch.hits.iter().map(|hit| (batch.watch, String::from_utf8_lossy(&hit.name).into_owned())));
        missed.extend(batch.missed.then_some(batch.watch));
    }
    names.sort();
    (names, missed)
}

const OWNER: ConnectionId = ConnectionId(7);

fn add(watches: &Watches, mailbox: &Arc<Mailbox>, number: u64, query: &str) {
    watches.add(OWNER, &asker(1, &["lab"]), mailbox, number, query).unwrap();
}

#[test]
fn a_name_with_one_content_is_told_once_and_again_with_another_content() {
    let (watches, mailbox) = (Watches::default(), Arc::default());
    add(&watches, &mailbox, 1, "iso");
    let all = share(&[]);
    register(&watches, &all, &[("a.iso", None), ("b.txt", Some(2))]);
    assert_eq!(told(&mailbox).0, [(1, "a.iso".into())], "at once, without its content");
    register(&watches, &all, &[("a.iso", Some(1))]);
    assert_eq!(told(&mailbox).0, [(1, "a.iso".into())], "and with it");
    register(&watches, &all, &[("a.iso", Some(1)), ("b.iso", Some(1))]);
    assert_eq!(told(&mailbox).0, [(1, "b.iso".into())]);
    register(&watches, &all, &[("a.iso", Some(2))]);
    assert_eq!(told(&mailbox).0, [(1, "a.iso".into())]);
}

#[test]
fn access_is_part_of_the_match() {
    let (watches, mailbox) = (Watches::default(), Arc::default());
    add(&watches, &mailbox, 1, "iso");
    register(&watches, &share(&["secret"]), &[("a.iso", None)]);
    assert_eq!(told(&mailbox).0, []);
    register(&watches, &share(&["secret", "lab"]), &[("b.iso", None)]);
    register(&watches, &share(&["everyone"]), &[("c.iso", None)]);
    assert_eq!(told(&mailbox).0, [(1, "b.iso".into()), (1, "c.iso".into())]);
    let own = ShareFacts::new(peer(1), label("me"), ShareId([2; 16]), label("mine"), Vec::new());
    register(&watches, &Arc::new(own), &[("d.iso", None)]);
    assert_eq!(told(&mailbox).0, [], "the own shares");
}

#[test]
fn what_was_not_committed_is_not_told_and_ended_watches_are_silent() {
    let (watches, mailbox) = (Watches::default(), Arc::default());
    for number in 1..=40 {
        add(&watches, &mailbox, number, "iso");
    }
    watches.compile();
    let mut dropped = None;
    watches.add_page(&mut dropped, &share(&[]), &page(&[("a.iso", None)]), 0);
    assert_eq!(watches.staged.held(), 40);
    drop(dropped);
    assert_eq!(watches.staged.held(), 0);
    assert_eq!(told(&mailbox).0, []);
    let mut staged = None;
    watches.add_page(&mut staged, &share(&[]), &page(&[("a.iso", None)]), 0);
    for number in 2..=40 {
        watches.remove(OWNER, number);
    }
    watches.committed(staged.unwrap(), &share(&[]), ShareState::default());
    assert_eq!(told(&mailbox).0, [(1, "a.iso".into())]);
    watches.compile();
    let other = Arc::default();
    watches.add(ConnectionId(8), &asker(2, &[]), &other, 1, "iso").unwrap();
    watches.end_session(OWNER);
    register(&watches, &share(&[]), &[("b.iso", None)]);
    assert_eq!((told(&mailbox).0, told(&other).0), (vec![], vec![(1, "b.iso".into())]));
    watches.end_peer(peer(2));
    register(&watches, &share(&[]), &[("c.iso", None)]);
    assert_eq!(told(&other).0, []);
    assert_eq!(watches.count.load(Ordering::Relaxed), 0);
}

#[test]
fn limits_are_refused() {
    let (watches, mailbox) = (Watches::default(), Arc::default());
    for number in 1..=limits::WATCHES_PER_MEMBER as u64 {
        add(&watches, &mailbox, number, "iso");
    }
    let add = |number, query| watches.add(OWNER, &asker(1, &[]), &mailbox, number, query);
    assert!(matches!(add(101, "iso"), Err(Refusal::TooMuch(why)) if why.contains("100 watches")));
    watches.remove(OWNER, 100);
    assert!(matches!(add(99, "iso"), Err(Refusal::TooMuch(why)) if why.contains("watch 99")));
    assert!(matches!(add(100, "size:much"), Err(Refusal::BadQuery(_))));
    assert_eq!(add(100, "iso"), Ok(()));
    for owner in 8.. {
        let mailbox = Arc::default();
        let asker = asker(owner as u8, &[]);
        let outcome = (0..100).try_for_each(|n| watches.add(ConnectionId(owner), &asker, &mailbox, n, "iso"));
        if let Err(refusal) = outcome {
            assert!(matches!(refusal, Refusal::Busy { .. }));
            break;
        }
    }
    assert_eq!(watches.count.load(Ordering::Relaxed), limits::WATCHES);
}

#[test]
fn what_is_over_the_budget_is_marked() {
    let (watches, mailbox) = (Watches::default(), Arc::default());
    for number in 1..=100 {
        add(&watches, &mailbox, number, &format!("type:file -w{number}"));
    }
    // More watches of others than can be compared with all of it.
    for owner in 8..13 {
        let other = Arc::default();
        for number in 0..100 {
            watches.add(ConnectionId(owner), &asker(owner as u8, &[]), &other, number, "type:file").unwrap();
        }
    }
    let names: Vec<String> = (0..1_000).map(|n| format!("f{n:04}")).collect();
    let files: Vec<(&str, Option<u8>)> = names.iter().map(|name| (name.as_str(), None)).collect();
    register(&watches, &share(&["secret"]), &files);
    assert_eq!(told(&mailbox), (vec![], BTreeSet::new()), "nothing missed of what may not be seen");
    register(&watches, &share(&[]), &files);
    let (names, missed) = told(&mailbox);
    assert!(!names.is_empty() && names.len() <= limits::MATCHES_WAITING);
    assert_eq!(missed.len(), 100);
}

/// A page of as many names as `names` gives, to one watch of member 1 and a hundred of each of these members: whether
/// member 1 and the last of the others missed something.
fn missed_beside(
    others: std::ops::RangeInclusive<u8>,
    query: impl Fn(u64) -> String,
    names: &[String],
) -> (bool, bool) {
    let (watches, mailbox, other) = (Watches::default(), Arc::default(), Arc::default());
    add(&watches, &mailbox, 1, "type:file");
    for n in others {
        for number in 0..limits::WATCHES_PER_MEMBER as u64 {
            let owner = ConnectionId(100 + u64::from(n));
            watches.add(owner, &asker(n, &[]), &other, number, &query(number)).unwrap();
        }
    }
    watches.compile();
    let mut names = names.to_vec();
    names.sort();
    let files: Vec<(&str, Option<u8>)> = names.iter().map(|name| (name.as_str(), None)).collect();
    register(&watches, &share(&[]), &files);
    let (heard, missed) = told(&mailbox);
    let missed_one = !missed.is_empty() || heard.len() != names.len();
    (missed_one, !told(&other).1.is_empty())
}

#[test]
fn members_with_dear_watches_lose_their_own_matches_and_nobody_elses() {
    let names: Vec<String> = (0..800).map(|n| format!("f{n:04}")).collect();
    let many = |_| "size:>0".to_owned();
    assert_eq!(missed_beside(3..=8, many, &names), (false, true), "many watches without words");
    let dear = |_| "type:file".to_owned() + &" -x".repeat(31);
    assert_eq!(missed_beside(3..=3, dear, &names), (false, true), "watches of 32 terms");
    let names: Vec<String> = (0..200).map(|n| "a".repeat(200) + &n.to_string()).collect();
    let nested = |number| "a".repeat(1 + number as usize);
    let cut = missed_beside(3..=3, nested, &names);
    assert_eq!(cut, (true, true), "words within words: who makes such names loses what watches would tell of them");
}

#[test]
fn a_guest_with_several_sessions_has_no_more_watches_than_others() {
    let watches = Watches::default();
    let add = |owner, number| {
        let mailbox = Arc::default();
        watches.add(ConnectionId(owner), &asker(1, &[]), &mailbox, number, "iso")
    };
    let most = limits::WATCHES_PER_MEMBER as u64;
    assert!((0..most).all(|number| add(7 + number % 9, number).is_ok()));
    assert!(matches!(add(99, 1), Err(Refusal::TooMuch(_))));
    watches.end_session(ConnectionId(7));
    assert_eq!(add(99, 1), Ok(()));
    watches.end_peer(peer(1));
    assert!((0..most).all(|number| add(7, number).is_ok()));
}

fn query() -> impl Strategy<Value = String> {
    let term = prop_oneof![
        6 => "[abAä]{1,3}",
        1 => "\"[ab]{1,2} [ab]{1,2}\"",
        1 => "-[abc]{1,2}",
        1 => Just("ext:b".to_owned()),
        1 => Just("hash:01".to_owned()),
        1 => Just("-size:10".to_owned()),
        1 => Just("type:file".to_owned()),
    ];
    proptest::collection::vec(term, 1..4).prop_map(|terms| terms.join(" "))
}

#[derive(Clone, Debug)]
enum Step {
    Watch(String),
    End(usize),
    Arrange,
    Register(BTreeSet<String>, Option<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let names = proptest::collection::btree_set("[abcÄ .]{1,6}", 1..12);
    let names = names.prop_map(|names| names.into_iter().filter(|name| name != "." && name != "..").collect());
    prop_oneof![
        4 => query().prop_map(Step::Watch),
        1 => (0usize..40).prop_map(Step::End),
        1 => Just(Step::Arrange),
        3 => (names, proptest::option::of(0u8..3)).prop_map(|(names, blob)| Step::Register(names, blob)),
    ]
}

/// Whether a query fits a file as `page` makes it.
fn fits(query: &str, name: &str, blob: Option<u8>) -> bool {
    let entry = FoldedEntry {
        origin: &share(&[]).origin,
        directories: &[],
        name: &fold(name.as_bytes()),
        kind: HitKind::File,
        size: Some(10),
        mtime_ns: 0,
        blob: blob.map(|n| BlobId::new([n; 32])),
    };
    query::parse(query).unwrap().fits(&entry, 0)
}

/// What the naive watch has told: names with their contents.
type Seen = BTreeSet<(String, Option<u8>)>;

proptest! {
    /// The automaton and what surrounds it tell exactly what comparing every watch with every name would tell.
    #[test]
    fn what_is_told_equals_a_naive_evaluation(steps in proptest::collection::vec(step(), 1..60)) {
        let (watches, mailbox) = (Watches::default(), Arc::default());
        let mut naive: BTreeMap<u64, (String, Seen)> = BTreeMap::new();
        let mut number = 0;
        for step in steps {
            match step {
                Step::Watch(query) => {
                    number += 1;
                    if naive.len() < limits::WATCHES_PER_MEMBER
                        && watches.add(OWNER, &asker(1, &[]), &mailbox, number, &query).is_ok()
                    {
                        naive.insert(number, (query, BTreeSet::new()));
                    }
                }
                Step::End(n) => {
                    if let Some(ended) = naive.keys().nth(n).copied() {
                        watches.remove(OWNER, ended);
                        naive.remove(&ended);
                    }
                }
                Step::Arrange => watches.compile(),
                Step::Register(names, blob) => {
                    let files: Vec<(&str, Option<u8>)> = names.iter().map(|name| (name.as_str(), blob)).collect();
                    register(&watches, &share(&[]), &files);
                    let mut expected = Vec::new();
                    for (watch, (query, seen)) in &mut naive {
                        for name in &names {
                            if fits(query, name, blob) && seen.insert((name.clone(), blob)) {
                                expected.push((*watch, name.clone()));
                            }
                        }
                    }
                    expected.sort();
                    prop_assert_eq!(told(&mailbox), (expected, BTreeSet::new()));
                }
            }
        }
    }
}

#[test]
fn a_registrant_with_many_transactions_leaves_room_for_the_matches_of_others() {
    let (watches, mailbox) = (Watches::default(), Arc::default());
    add(&watches, &mailbox, 1, "iso");
    let names: Vec<String> = (0..1_000).map(|n| format!("{n:04}.iso")).collect();
    let page = page(&names.iter().map(|name| (name.as_str(), None)).collect::<Vec<_>>());
    let others = Arc::new(ShareFacts { peer: peer(8), ..ShareFacts::clone(&share(&[])) });
    let stage = |share: &ShareFacts| {
        let mut staged = None;
        watches.add_page(&mut staged, share, &page, 0);
        staged.unwrap()
    };
    let held: Vec<Staged> = (0..100).map(|_| stage(&share(&[]))).collect();
    assert_eq!((held[0].matches.len(), held[99].matches.len(), held[99].missed.len()), (1_000, 0, 1));
    assert!(watches.staged.held() < page::STAGED_IN_ALL / 4);
    assert_eq!(stage(&others).matches.len(), 1_000);
    drop(held);
    assert_eq!(watches.staged.held(), 0);
}
