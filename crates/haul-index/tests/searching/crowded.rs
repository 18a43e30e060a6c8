//! Pages: of names that very many files have, and of names that change their places meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use haul_core::ids::BlobId;
use haul_core::query::parse;
use haul_core::wire::ByteString;
use haul_core::wire::index::Hits;
use haul_index::store::{Asker, EmbeddedStore, IndexStore, SearchQuestion, SearchSettings, StoreSettings};

use super::paths::{File, Files, connect, peer, peer_name, replace};

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
    let search = SearchSettings { tail_names: 8, fan: 3, one_pass: 0, stale_permille: 1 };
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
