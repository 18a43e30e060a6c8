//! Names that very many files have.

use std::collections::BTreeSet;
use std::time::Duration;

use haul_core::ids::BlobId;
use haul_core::query::parse;
use haul_core::wire::ByteString;
use haul_core::wire::index::Hits;
use haul_index::store::{Asker, EmbeddedStore, IndexStore, SearchQuestion};

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
