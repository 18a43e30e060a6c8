//! A watch judges entries one by one, a search finds them in a store: both must mean the same by every query.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;

use bytes::Bytes;
use haul_core::ids::{BlobId, PeerId, ShareId};
use haul_core::manifest::{Change, Entry, EntryKind, PageBuilder, RegistrationDigest, ShareState};
use haul_core::query::{FoldedEntry, Origin, Query, fold, parse};
use haul_core::wire::Label;
use haul_core::wire::index::HitKind;
use haul_index::store::{Asker, EmbeddedStore, IndexStore, SearchQuestion, ShareOffer};
use haul_net::identity::SecretKey;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

const NOW_NS: i64 = 1_000_000_000_000;

/// A file or folder of one of the shares.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct File {
    share: usize,
    directory: &'static str,
    name: String,
    size: u64,
    mtime_ns: i64,
    /// None: not hashed yet.
    blob: Option<u8>,
}

const SHARES: [(u8, &str, &str); 3] = [(1, "Lab-3", "docs"), (1, "Lab-3", "filme"), (2, "nas", "Docs")];
const DIRECTORIES: [&str; 4] = ["", "a", "a/Bä", "docs"];

fn peer(n: u8) -> PeerId {
    SecretKey::from_seed([n; 32]).unwrap().public()
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

/// Blobs that begin alike; the size belongs to the content.
fn blob(n: u8) -> BlobId {
    let mut bytes = [n; 32];
    bytes[0] = 0x7f;
    BlobId::new(bytes)
}

fn file() -> impl Strategy<Value = File> {
    let parts = (0..SHARES.len(), 0..DIRECTORIES.len(), "[aB]{1,3}(\\.(iso|MKV))?", 0u64..3, 0i64..3, 0u8..4);
    parts.prop_map(|(share, directory, name, size, age, blob)| File {
        share,
        directory: DIRECTORIES[directory],
        name,
        size: if blob == 0 { size } else { u64::from(blob) },
        mtime_ns: NOW_NS - age * 1_000_000_000,
        blob: (blob > 0).then_some(blob),
    })
}

fn query() -> impl Strategy<Value = String> {
    let key = peer(2).to_string();
    let term = prop_oneof![
        4 => "[ab]{1,2}",
        1 => "-[ab]{1,2}",
        1 => prop::sample::select(vec!["size:0", "size:>1", "size:1..2", "age:<2s", "age:1s..5s", "type:video", "type:dir", "type:file,link"]).prop_map(String::from),
        1 => prop::sample::select(vec!["ext:iso", "ext:mkv,b", "peer:lab-3", "peer:nas", "share:docs", "path:/docs", "path:/a/ba", "path:/", "path:a/b", "hash:7f", "hash:7f02", "name:a"]).prop_map(String::from),
        1 => Just(format!("peer:{}", &key[..12])),
    ];
    let term =
        (any::<bool>(), term).prop_map(|(not, term)| if not && term.contains(':') { format!("-{term}") } else { term });
    proptest::collection::vec(term, 1..4).prop_map(|terms| terms.join(" "))
}

/// All entries of one share: folders first, each name once per folder.
fn entries(files: &[File], share: usize) -> Vec<File> {
    let folder =
        |directory, name: &str| File { share, directory, name: name.to_owned(), size: 0, mtime_ns: 0, blob: None };
    let mut all = vec![folder("", "a"), folder("", "docs"), folder("a", "Bä")];
    for file in files.iter().filter(|file| file.share == share) {
        if !all.iter().any(|other| (other.directory, &other.name) == (file.directory, &file.name)) {
            all.push(file.clone());
        }
    }
    all.sort_by_key(|file| (file.directory, file.name.clone()));
    all
}

fn is_folder(file: &File) -> bool {
    file.mtime_ns == 0
}

async fn register(store: &EmbeddedStore, files: &[File], share: usize) {
    let (owner, _, name) = SHARES[share];
    let (id, mut digest, mut page) = (ShareId([share as u8; 16]), RegistrationDigest::default(), PageBuilder::new());
    let all = entries(files, share);
    for file in &all {
        let kind = if is_folder(file) {
            EntryKind::Directory
        } else {
            EntryKind::File { size: file.size, executable: false, blob: file.blob.map(blob) }
        };
        let (directory, name) = (file.directory.as_bytes(), file.name.as_bytes());
        let entry = Entry { directory, name, mtime_ns: file.mtime_ns, kind };
        digest.add(&entry);
        assert!(page.push(&Change::Upsert(entry)));
    }
    let state = ShareState { revision: 1, digest };
    let offer = ShareOffer { id, name: label(name), groups: Vec::new(), state };
    store.open(peer(owner), offer).await.unwrap();
    let tx = store.begin(peer(owner), id, None).await.unwrap();
    store.stage(tx, Bytes::from(page.finish())).await.unwrap();
    store.commit(tx, state, all.len() as u64).await.unwrap();
}

type Told = BTreeSet<(HitKind, Vec<u8>, Option<BlobId>)>;

fn judged(files: &[File], query: &Query) -> Told {
    let mut told = Told::new();
    let path = |file: &File| [file.directory, &file.name].join("/").trim_start_matches('/').to_owned();
    for (share, (owner, peer_name, share_name)) in SHARES.into_iter().enumerate() {
        let origin = Origin::new(&peer(owner), &label(peer_name), &label(share_name));
        for file in entries(files, share) {
            let parts = file.directory.split('/').filter(|part| !part.is_empty());
            let directories: Vec<String> = parts.map(|part| fold(part.as_bytes())).collect();
            let kind = if is_folder(&file) { HitKind::Directory } else { HitKind::File };
            let below = [path(&file), String::from("/")].concat();
            let size = match kind {
                HitKind::Directory => {
                    let all = entries(files, share).into_iter();
                    all.filter(|other| !is_folder(other) && path(other).starts_with(&below))
                        .map(|other| other.size)
                        .sum()
                }
                _ => file.size,
            };
            let entry = FoldedEntry {
                origin: &origin,
                directories: &directories,
                name: &fold(file.name.as_bytes()),
                kind,
                size: Some(size),
                mtime_ns: file.mtime_ns,
                blob: file.blob.map(blob),
            };
            if query.fits(&entry, NOW_NS) {
                told.insert((kind, file.name.into_bytes(), file.blob.map(blob)));
            }
        }
    }
    told
}

async fn searched(store: &EmbeddedStore, query: &Query) -> Told {
    let mut query = query.clone();
    for word in &mut query.words {
        word.name_only = true;
    }
    let asker = Asker { peer: peer(3), groups: Vec::new() };
    let question =
        SearchQuestion { query: &query, limit: 1_000, cursor: None, away: false, now_ns: NOW_NS, exact: false };
    let found = store.search(&asker, question).await.unwrap();
    assert!(found.cursor.is_none());
    let fitting = found.hits.into_iter().filter(|hit| !hit.near);
    fitting.map(|hit| (hit.kind, hit.name.0, hit.blob)).collect()
}

#[test]
fn a_watch_and_a_search_mean_the_same() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let cases = proptest::collection::vec(file(), 0..25);
    let queries = proptest::collection::vec(query(), 20);
    let mut runner = TestRunner::new(Config::with_cases(60));
    let outcome = runner.run(&(cases, queries), |(files, queries)| {
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let store = EmbeddedStore::open(dir.path()).unwrap();
            store.connect(peer(1), label("Lab-3")).await.unwrap();
            store.connect(peer(2), label("nas")).await.unwrap();
            for share in 0..SHARES.len() {
                register(&store, &files, share).await;
            }
            for text in queries {
                let Ok(query) = parse(&text) else { continue };
                prop_assert_eq!(judged(&files, &query), searched(&store, &query).await, "{}", text);
            }
            Ok(())
        })
    });
    outcome.unwrap();
}
