//! Pages: of names that very many files have, and of names that change their places meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use haul_core::ids::BlobId;
use haul_core::query::parse;
use haul_core::wire::ByteString;
use haul_core::wire::index::Hits;
use haul_index::store::{Asker, EmbeddedStore, IndexStore, SearchQuestion, SearchSettings, StoreSettings};

use super::paths::{File, Files, Random, connect, peer, peer_name, replace};

const SHARES: usize = 3;
/// Files of each share, all of one name; each content is in two shares.
const FILES: usize = 2_500;

fn blob(share: usize, number: usize) -> BlobId {
    let number = ((share + number % 2) % SHARES * FILES + number / 2) as u64;
    BlobId::new([number.to_le_bytes(), [7; 8], [8; 8], [9; 8]].concat().try_into().unwrap())
}

fn files() -> Files {
    let file = |share: usize, number: usize| File {
        share,
        directory: format!("package-{number:05}").into_bytes(),
        name: b"copyright".to_vec(),
        size: 1_000,
        mtime_ns: 0,
        blob: Some(blob(share, number)),
        link: false,
    };
    Files((0..SHARES).flat_map(|share| (0..FILES).map(move |number| file(share, number))).collect())
}

async fn page(store: &EmbeddedStore, text: &str, cursor: Option<&ByteString>, exact: bool) -> Hits {
    let query = parse(text).unwrap();
    let asker = Asker { peer: peer(0), groups: Vec::new() };
    let cursor = cursor.map(|cursor| cursor.0.as_slice());
    store
        .search(&asker, SearchQuestion { query: &query, limit: 100, cursor, away: false, now_ns: 0, exact })
        .await
        .unwrap()
}

/// The contents on all pages; each comes once.
async fn all(store: &EmbeddedStore, text: &str) -> BTreeSet<BlobId> {
    let mut found = BTreeSet::new();
    let mut cursor = None;
    loop {
        let hits = page(store, text, cursor.as_ref(), false).await;
        for hit in &hits.hits {
            assert!(found.insert(hit.blob.unwrap()), "{hit:?} comes twice");
        }
        cursor = hits.cursor;
        if cursor.is_none() {
            return found;
        }
    }
}

fn contents(shares: &[usize]) -> BTreeSet<BlobId> {
    shares.iter().flat_map(|share| (0..FILES).map(|number| blob(*share, number))).collect()
}

#[tokio::test]
async fn pages_of_one_name_hold_every_content_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path()).unwrap();
    let files = files();
    for share in 0..SHARES {
        connect(&store, share).await;
        replace(&store, share, files.of_share(share), 1).await;
    }
    assert_eq!(all(&store, "copyright").await, contents(&[0, 1, 2]));
    while store.maintain(Duration::from_secs(1)).await.unwrap() {}
    assert_eq!(all(&store, "copyright").await, contents(&[0, 1, 2]));
    let text = format!("copyright peer:{}", peer_name(1));
    assert_eq!(all(&store, &text).await, contents(&[1]));

    let first = page(&store, "copyright", None, false).await;
    let (all_hits, copies) =
        (contents(&[0, 1, 2]).len() as u64, |hits: &Hits| hits.hits.iter().all(|hit| hit.copies >= 1));
    assert!(!first.exact && first.total.abs_diff(all_hits) < all_hits / 2 && copies(&first), "{}", first.total);
    let counted = page(&store, "copyright", None, true).await;
    assert_eq!((counted.total, counted.exact), (all_hits, true));

    store.leave(peer(0)).await.unwrap();
    assert_eq!(all(&store, "copyright").await, contents(&[1, 2]));
    store.leave(peer(1)).await.unwrap();
    assert_eq!(all(&store, "copyright").await, contents(&[2]));
    store.leave(peer(2)).await.unwrap();
    assert_eq!(page(&store, "copyright", None, false).await.hits, []);
}

/// A file of each number, all of one share.
fn numbered(share: usize, numbers: impl Iterator<Item = usize>) -> Vec<File> {
    let file = |number: usize| File {
        share,
        directory: Vec::new(),
        name: format!("report-{number:04}").into_bytes(),
        size: 1_000,
        mtime_ns: 0,
        blob: None,
        link: false,
    };
    numbers.map(file).collect()
}

/// All pages, with something done behind the second; whether each file of the first share came once, and whether the
/// last page says so.
async fn interrupted(numbers: impl Iterator<Item = usize>) -> (bool, bool) {
    const NAMES: usize = 1_000;
    let dir = tempfile::tempdir().unwrap();
    let search = SearchSettings { tail_names: 8, fan: 3, one_pass: 0, stale_permille: 1, ..SearchSettings::default() };
    let store = EmbeddedStore::open_with(dir.path(), StoreSettings { search, ..StoreSettings::default() }).unwrap();
    for share in 0..2 {
        connect(&store, share).await;
    }
    replace(&store, 0, &numbered(0, 0..NAMES), 1).await;
    while store.maintain(Duration::from_secs(1)).await.unwrap() {}
    let mut found = Vec::new();
    let mut cursor = None;
    let added = numbered(1, numbers);
    for number in 0.. {
        if number == 2 {
            replace(&store, 1, &added, 1).await;
            while store.maintain(Duration::from_secs(1)).await.unwrap() {}
        }
        let hits = page(&store, "report size:1000", cursor.as_ref(), false).await;
        found.extend(hits.hits.iter().map(|hit| hit.name.0.clone()));
        cursor = hits.cursor;
        if cursor.is_none() {
            let names: BTreeSet<&Vec<u8>> = found.iter().collect();
            let all = numbered(0, 0..NAMES).iter().all(|file| names.contains(&file.name));
            return (all && names.len() == found.len(), hits.exact);
        }
    }
    unreachable!()
}

#[tokio::test]
async fn pages_that_upkeep_has_reordered_are_marked() {
    // Names that were far behind have more copies now, so they stand before those that were shown.
    let (right, exact) = interrupted(500..900).await;
    assert!(!right && !exact, "right {right}, exact {exact}");
    // Names that nobody had change no place.
    let (right, exact) = interrupted(5_000..5_400).await;
    assert!(right && exact, "right {right}, exact {exact}");
}

/// Files of one share whose names and contents are given; each is in a directory of its own.
fn dealt(share: usize, files: impl Iterator<Item = (String, u64)>) -> Vec<File> {
    let file = |(number, (name, content)): (usize, (String, u64))| File {
        share,
        directory: format!("d{number:06}").into_bytes(),
        name: name.into_bytes(),
        size: 1_000,
        mtime_ns: 0,
        blob: Some(BlobId::new([content.to_le_bytes(), [7; 8], [8; 8], [9; 8]].concat().try_into().unwrap())),
        link: false,
    };
    files.enumerate().map(file).collect()
}

/// With names in segments, not in a tail.
async fn filled(shares: &[Vec<File>]) -> (tempfile::TempDir, EmbeddedStore) {
    let dir = tempfile::tempdir().unwrap();
    let search = SearchSettings { tail_names: 8, ..SearchSettings::default() };
    let store = EmbeddedStore::open_with(dir.path(), StoreSettings { search, ..StoreSettings::default() }).unwrap();
    for (share, files) in shares.iter().enumerate() {
        let mut files = files.clone();
        files.sort_by(|a, b| (&a.directory, &a.name).cmp(&(&b.directory, &b.name)));
        connect(&store, share).await;
        replace(&store, share, &files, 1).await;
    }
    while store.maintain(Duration::from_secs(1)).await.unwrap() {}
    (dir, store)
}

#[tokio::test]
async fn a_name_is_found_however_many_other_names_its_content_has() {
    let others = dealt(0, (0..5_000).map(|number| (format!("other-{number}"), 0)));
    // Half of the files have the same content, the others one each.
    let popular = dealt(1, (0..70).map(|number| ("popular".to_owned(), number * (number % 2))));
    let (_dir, store) = filled(&[others, popular]).await;
    for exact in [false, true] {
        let hits = page(&store, "popular", None, exact).await;
        assert_eq!((hits.hits.len(), hits.total, hits.exact), (36, 36, true));
    }
}

#[tokio::test]
async fn an_estimate_leaves_out_other_names_and_directories() {
    let copies = 4;
    let popular = dealt(0, (0..10_000).map(|number| ("popular".to_owned(), number / copies)));
    let others = dealt(1, (0..10_000).map(|number| (format!("other-{number}"), number / copies)));
    let mut below = dealt(2, (0..10_000).map(|number| ("file".to_owned(), 1_000_000 + number)));
    for file in &mut below {
        file.directory.extend(b"/popular");
    }
    let (_dir, store) = filled(&[popular, others, below]).await;
    let hits = page(&store, "popular", None, false).await;
    assert!(!hits.exact && hits.total.abs_diff(10_000 / copies) < 500, "{}", hits.total);
    let counted = page(&store, "popular", None, true).await;
    assert_eq!((counted.total, counted.exact), (10_000 / copies, true));
}

#[tokio::test]
async fn a_page_in_a_name_that_grew_into_another_order_is_marked() {
    let name = |number: u64| ("popular".to_owned(), number);
    let (_dir, store) = filled(&[dealt(0, (0..64).map(name)), Vec::new()]).await;
    let limited = async |cursor: Option<&ByteString>| {
        let query = parse("popular").unwrap();
        let asker = Asker { peer: peer(0), groups: Vec::new() };
        let cursor = cursor.map(|cursor| cursor.0.as_slice());
        let question = SearchQuestion { query: &query, limit: 10, cursor, away: false, now_ns: 0, exact: false };
        store.search(&asker, question).await.unwrap()
    };
    let first = limited(None).await;
    assert!(limited(first.cursor.as_ref()).await.exact);
    replace(&store, 1, &dealt(1, (100..106).map(name)), 1).await;
    assert!(!limited(first.cursor.as_ref()).await.exact);
}

/// Of many files with a word in their names few are below a directory with the other word.
#[tokio::test]
async fn whoever_wants_all_counted_can_reach_all() {
    let mut files = dealt(0, (0..6_500).map(|number| (format!("alpha-{number}"), number)));
    let last = files.len() - 10;
    for (number, file) in files.iter_mut().enumerate() {
        let top = if number < last { "gamma/" } else { "zulu/" };
        file.directory = [top.as_bytes(), &file.directory].concat();
    }
    files.extend(dealt(0, (0..6_500).map(|number| (format!("zulu-{number}"), 10_000 + number))));
    let (_dir, store) = filled(&[files]).await;
    assert!(!page(&store, "alpha zulu", None, false).await.exact, "too many to look at all");
    let hits = page(&store, "alpha zulu", None, true).await;
    assert_eq!((hits.hits.len(), hits.total, hits.exact), (10, 10, true));
}

#[tokio::test]
async fn long_words_with_a_letter_wrong_find_their_names() {
    for letter in ['a', 'а'] {
        let letters = |seed: u64| -> String {
            let mut random = Random(seed);
            let next = |_| char::from_u32(letter as u32 + random.below(26) as u32).unwrap();
            (0..120).map(next).collect()
        };
        let names = (0..200).map(|number| (letters(number), number));
        let (_dir, store) = filled(&[dealt(0, names)]).await;
        let mut wrong: Vec<char> = letters(77).chars().collect();
        wrong[60] = '7';
        let hits = page(&store, &wrong.into_iter().collect::<String>(), None, false).await;
        let names: Vec<&[u8]> = hits.hits.iter().map(|hit| hit.name.0.as_slice()).collect();
        assert!(hits.hits.iter().all(|hit| hit.near) && names == [letters(77).as_bytes()], "{names:?}");
    }
}

#[tokio::test]
async fn a_cursor_that_somebody_made_up_harms_nobody() {
    let (_dir, store) = filled(&[numbered(0, 0..1_000)]).await;
    let first = page(&store, "report", None, false).await.cursor.unwrap();
    // Its last two numbers are counts, of a byte each.
    let mut made_up = first.0[..first.0.len() - 2].to_vec();
    for _ in 0..2 {
        made_up.extend([0xff; 9]);
        made_up.push(1);
    }
    for exact in [false, true] {
        page(&store, "report", Some(&ByteString(made_up.clone())), exact).await;
    }
}
