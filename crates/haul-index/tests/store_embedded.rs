//! What the embedded store promises about its files: kills, restarts, leases, limits, upkeep.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use haul_core::ids::{BlobId, PeerId, ShareId};
use haul_core::limits;
use haul_core::manifest::{Change, Entry, EntryKind, PageBuilder, RegistrationDigest, ShareState};
use haul_core::query::parse;
use haul_core::time::Moment;
use haul_core::wire::index::LookupKeys;
use haul_core::wire::{ByteString, Label, List};
use haul_index::store::{
    Asker, EmbeddedStore, IndexStore, Opened, SearchQuestion, ShareOffer, StoreError, StoreSettings, TransactionId,
};

const SHARE: ShareId = ShareId([5; 16]);
/// Files of one commit; several pages.
const FILES: usize = 1_500;
const CHILD: &str = "HAUL_STORE_CHILD";

fn peer() -> PeerId {
    PeerId::new([9; 32]).unwrap()
}

fn asker() -> Asker {
    Asker { peer: peer(), groups: Vec::new() }
}

fn offer(state: ShareState) -> ShareOffer {
    ShareOffer { id: SHARE, name: Label::new("films").unwrap(), groups: Vec::new(), state }
}

async fn connect(store: &EmbeddedStore, state: ShareState) -> Opened {
    store.connect(peer(), Label::new("lab-1").unwrap()).await.unwrap();
    store.open(peer(), offer(state)).await.unwrap()
}

/// Stages the files of commit `number`, adding them to the digest.
async fn stage(store: &EmbeddedStore, tx: TransactionId, number: u64, digest: &mut RegistrationDigest) {
    let directory = format!("commit-{number:04}");
    let names: Vec<String> = (0..FILES).map(|file| format!("file-{file:05}.bin")).collect();
    for names in names.chunks(limits::PAGE_ENTRIES) {
        let mut page = PageBuilder::new();
        for name in names {
            let kind = EntryKind::File { size: number, executable: false, blob: None };
            let entry = Entry { directory: directory.as_bytes(), name: name.as_bytes(), mtime_ns: 1, kind };
            digest.add(&entry);
            assert!(page.push(&Change::Upsert(entry)));
        }
        store.stage(tx, Bytes::from(page.finish())).await.unwrap();
    }
}

async fn commit(store: &EmbeddedStore, base: Option<ShareState>, digest: &mut RegistrationDigest) -> ShareState {
    let revision = base.map_or(0, |base| base.revision) + 1;
    let tx = store.begin(peer(), SHARE, base).await.unwrap();
    stage(store, tx, revision, digest).await;
    store.commit(tx, ShareState { revision, digest: *digest }, FILES as u64).await.unwrap()
}

async fn total(store: &EmbeddedStore, text: &str, away: bool) -> u64 {
    let query = parse(text).unwrap();
    let question = SearchQuestion { query: &query, limit: 1, cursor: None, away, now_ns: 0, exact: false };
    store.search(&asker(), question).await.unwrap().total
}

/// The digest after this many commits.
fn digest_of(commits: u64) -> RegistrationDigest {
    let mut digest = RegistrationDigest::default();
    for number in 1..=commits {
        let directory = format!("commit-{number:04}");
        for file in 0..FILES {
            let name = format!("file-{file:05}.bin");
            let kind = EntryKind::File { size: number, executable: false, blob: None };
            digest.add(&Entry { directory: directory.as_bytes(), name: name.as_bytes(), mtime_ns: 1, kind });
        }
    }
    digest
}

/// Not a test of its own: the process that is killed.
#[tokio::test]
#[ignore = "run by a_killed_index_has_all_of_a_commit_or_none"]
async fn child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    // A few commits fill a segment, so starting one, moving pages and deleting files are killed too.
    let settings = StoreSettings { segment_bytes: 256 * 1024, ..StoreSettings::default() };
    let store = EmbeddedStore::open_with(Path::new(&dir), settings).unwrap();
    let state = ShareState { revision: u64::MAX, digest: RegistrationDigest::default() };
    let mut base = match connect(&store, state).await {
        Opened::Amend(state) => Some(state),
        _ => None,
    };
    let mut digest = base.map_or(RegistrationDigest::default(), |base| base.digest);
    loop {
        // Upkeep and amendments together: rewrites are killed too.
        let state = commit(&store, base, &mut digest).await;
        println!("committed {}", state.revision);
        base = Some(state);
        store.maintain(Duration::from_millis(1)).await.unwrap();
    }
}

#[test]
fn a_killed_index_has_all_of_a_commit_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut acknowledged = 0;
    for round in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Killed as soon as it has said so: somewhere in the next transaction.
        let revisions = lines.filter_map(|line| line.ok()?.strip_prefix("committed ")?.parse::<u64>().ok());
        acknowledged = revisions.take(1 + round % 3).last().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        runtime.block_on(async {
            let store = EmbeddedStore::open(dir.path()).unwrap();
            let asked = ShareState { revision: u64::MAX, digest: RegistrationDigest::default() };
            let Opened::Amend(held) = connect(&store, asked).await else { panic!("nothing is held") };
            assert!(held.revision >= acknowledged, "lost: {} < {acknowledged}", held.revision);
            assert_eq!(held.digest, digest_of(held.revision));
            assert_eq!(store.stats().files, held.revision * FILES as u64);
            assert_eq!(total(&store, "file-00007", false).await, held.revision);
        });
    }
    println!("{acknowledged} commits acknowledged");
}

#[tokio::test]
async fn what_was_not_committed_is_gone_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut digest = RegistrationDigest::default();
    let state;
    {
        let store = EmbeddedStore::open(dir.path()).unwrap();
        assert_eq!(connect(&store, ShareState::default()).await, Opened::Replace);
        state = commit(&store, None, &mut digest).await;
        // A replacement large enough that its pages went to disk already, and never committed.
        let tx = store.begin(peer(), SHARE, None).await.unwrap();
        let mut lost = RegistrationDigest::default();
        for number in 100..130 {
            stage(&store, tx, number, &mut lost).await;
        }
    }
    let store = EmbeddedStore::open(dir.path()).unwrap();
    assert_eq!(total(&store, "file-00001", true).await, 1);
    assert_eq!(total(&store, "file-00001", false).await, 0);
    assert_eq!(connect(&store, state).await, Opened::Same);
    assert_eq!(total(&store, "file-00001", false).await, 1);
    assert!(store.maintain(Duration::from_secs(5)).await.is_ok());
}

fn settings(boot: u8, now: &Arc<AtomicU64>) -> StoreSettings {
    let now = Arc::clone(now);
    let now = Arc::new(move || Moment(now.load(Ordering::Relaxed)));
    StoreSettings { boot_id: [boot; 16], now, ..StoreSettings::default() }
}

#[tokio::test]
async fn a_running_lease_outlives_a_restart_on_the_same_boot_only() {
    let dir = tempfile::tempdir().unwrap();
    let now = Arc::new(AtomicU64::new(1_000));
    let mut digest = RegistrationDigest::default();
    {
        let store = EmbeddedStore::open_with(dir.path(), settings(1, &now)).unwrap();
        connect(&store, ShareState::default()).await;
        commit(&store, None, &mut digest).await;
        store.heartbeat(peer(), Moment(50_000)).await.unwrap();
    }
    {
        let store = EmbeddedStore::open_with(dir.path(), settings(2, &now)).unwrap();
        assert_eq!(total(&store, "file-00001", false).await, 0, "another boot");
    }
    {
        let store = EmbeddedStore::open_with(dir.path(), settings(1, &now)).unwrap();
        assert_eq!(total(&store, "file-00001", false).await, 1);
        // The lease does not let anybody change anything.
        assert!(matches!(store.begin(peer(), SHARE, None).await, Err(StoreError::NotOpen)));
        now.store(50_000, Ordering::Relaxed);
        assert_eq!(total(&store, "file-00001", false).await, 0, "the lease has ended");
        assert_eq!(store.totals(&asker(), peer()).await.files, 0);
    }
    now.store(2_000, Ordering::Relaxed);
    {
        let store = EmbeddedStore::open_with(dir.path(), settings(1, &now)).unwrap();
        connect(&store, ShareState::default()).await;
        store.heartbeat(peer(), Moment(60_000)).await.unwrap();
        store.leave(peer()).await.unwrap();
    }
    let store = EmbeddedStore::open_with(dir.path(), settings(1, &now)).unwrap();
    assert_eq!(total(&store, "file-00001", false).await, 0, "it left");
}

/// The work of a search would tell whoever may not see a share which names it has.
#[tokio::test]
async fn work_on_names_of_a_hidden_share_is_not_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path()).unwrap();
    connect(&store, ShareState::default()).await;
    let mut digest = RegistrationDigest::default();
    let state = commit(&store, None, &mut digest).await;
    let query = parse("file-00007").unwrap();
    let examined = async || {
        let question = SearchQuestion { query: &query, limit: 10, cursor: None, away: false, now_ns: 0, exact: false };
        let stranger = Asker { peer: PeerId::new([3; 32]).unwrap(), groups: Vec::new() };
        let hits = store.search(&stranger, question).await.unwrap();
        (hits.total, hits.examined)
    };
    assert_eq!(examined().await, (1, 1));
    let hidden = ShareOffer { groups: vec![Label::new("lab").unwrap()], ..offer(state) };
    store.open(peer(), hidden).await.unwrap();
    assert_eq!(examined().await, (0, 0));
}

#[tokio::test]
async fn limits_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path()).unwrap();
    connect(&store, ShareState::default()).await;
    let mut digest = RegistrationDigest::default();
    let state = commit(&store, None, &mut digest).await;
    let tx = store.begin(peer(), SHARE, Some(state)).await.unwrap();
    let oversized = Bytes::from(vec![0; limits::PAGE_BYTES + 1]);
    assert!(matches!(store.stage(tx, oversized).await, Err(StoreError::BadPage(_))));
    let mut staged = RegistrationDigest::default();
    for number in 2..2 + (limits::AMEND_ENTRIES / FILES) as u64 {
        stage(&store, tx, number, &mut staged).await;
    }
    let mut page = PageBuilder::new();
    for number in 0..limits::PAGE_ENTRIES {
        let name = format!("{number:06}");
        let entry = Entry { directory: b"z", name: name.as_bytes(), mtime_ns: 0, kind: EntryKind::Directory };
        assert!(page.push(&Change::Upsert(entry)));
    }
    assert!(matches!(store.stage(tx, Bytes::from(page.finish())).await, Err(StoreError::TooMuch(_))));
    for number in 0..limits::SHARES_PER_PEER {
        let mut id = [1; 16];
        id[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let share = ShareOffer { id: ShareId(id), ..offer(ShareState::default()) };
        let opened = store.open(peer(), share).await;
        assert_eq!(opened.is_ok(), number + 1 < limits::SHARES_PER_PEER, "{number}");
    }
    let query = parse("file").unwrap();
    let question =
        SearchQuestion { query: &query, limit: 1, cursor: Some(b"xyz"), away: false, now_ns: 0, exact: false };
    assert!(matches!(store.search(&asker(), question).await, Err(StoreError::BadCursor)));
    assert!(matches!(EmbeddedStore::open(dir.path()), Err(StoreError::Storage(_))), "opened twice");
}

#[tokio::test]
async fn upkeep_rewrites_a_worn_list_and_sweeps_what_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let mut digest = RegistrationDigest::default();
    let mut state = None;
    {
        let store = EmbeddedStore::open(dir.path()).unwrap();
        connect(&store, ShareState::default()).await;
        for _ in 0..6 {
            state = Some(commit(&store, state, &mut digest).await);
        }
        while store.maintain(Duration::from_millis(50)).await.unwrap() {}
        assert_eq!(total(&store, "file-00001", false).await, 6);
        state = Some(commit(&store, state, &mut digest).await);
    }
    let store = EmbeddedStore::open(dir.path()).unwrap();
    assert_eq!(connect(&store, state.unwrap()).await, Opened::Same);
    assert_eq!(store.stats().files, 7 * FILES as u64);
    store.close(peer(), SHARE, true).await.unwrap();
    assert_eq!(total(&store, "file-00001", true).await, 0);
    assert_eq!(store.stats().files, 0);
    while store.maintain(Duration::from_millis(50)).await.unwrap() {}
    assert_eq!((store.stats().names, store.stats().shares), (0, 0));
    drop(store);
    let store = EmbeddedStore::open(dir.path()).unwrap();
    assert_eq!(connect(&store, state.unwrap()).await, Opened::Replace);
}

#[tokio::test]
async fn a_damaged_list_is_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut digest = RegistrationDigest::default();
    let state = {
        let store = EmbeddedStore::open(dir.path()).unwrap();
        connect(&store, ShareState::default()).await;
        commit(&store, None, &mut digest).await
    };
    let log = dir.path().join("00000001.log");
    let healthy = std::fs::read(&log).unwrap();
    let directory = healthy.windows(11).position(|bytes| bytes == b"commit-0001").unwrap();
    // Somewhere in an entry, then the length of the first directory's name.
    for damage in [directory + 900, directory - 1] {
        let mut damaged = healthy.clone();
        damaged[damage] ^= 1;
        std::fs::write(&log, damaged).unwrap();
        let store = EmbeddedStore::open(dir.path()).unwrap();
        assert_eq!(total(&store, "file-00001", true).await, 0);
        assert_eq!(connect(&store, state).await, Opened::Replace);
        assert_eq!(store.stats().files, 0);
    }
    let store = EmbeddedStore::open(dir.path()).unwrap();
    connect(&store, state).await;
    let again = commit(&store, None, &mut RegistrationDigest::default()).await;
    assert_eq!(again.digest, state.digest);
    drop(store);
    let store = EmbeddedStore::open(dir.path()).unwrap();
    assert_eq!(connect(&store, state).await, Opened::Same);
}

/// One peer's commits, each of a page, amending the last.
async fn keep_committing(store: Arc<EmbeddedStore>, number: u8, commits: u64) {
    let peer = PeerId::new([number + 10; 32]).unwrap();
    store.connect(peer, Label::new(format!("lab-{number}")).unwrap()).await.unwrap();
    store.open(peer, offer(ShareState::default())).await.unwrap();
    let mut base = None;
    let mut digest = RegistrationDigest::default();
    for revision in 1..=commits {
        let tx = store.begin(peer, SHARE, base).await.unwrap();
        let mut page = PageBuilder::new();
        for file in 0..10 {
            let name = format!("{revision}-shared-{file}");
            let entry = Entry { directory: b"d", name: name.as_bytes(), mtime_ns: 0, kind: EntryKind::Directory };
            digest.add(&entry);
            assert!(page.push(&Change::Upsert(entry)));
        }
        store.stage(tx, Bytes::from(page.finish())).await.unwrap();
        base = Some(store.commit(tx, ShareState { revision, digest }, 10).await.unwrap());
        assert!(total(&store, &format!("{revision}-shared-3"), false).await >= 1, "visible once acknowledged");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_peers_commit_at_once_while_others_search_and_upkeep_runs() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(EmbeddedStore::open(dir.path()).unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..8 {
        tasks.spawn(keep_committing(Arc::clone(&store), number, 20));
    }
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
    };
    let upkeep = async {
        loop {
            store.maintain(Duration::from_millis(2)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = all => {}
        () = upkeep => {}
        () = tokio::time::sleep(Duration::from_mins(1)) => panic!("stuck"),
    }
    assert_eq!(total(&store, "shared", false).await, 8 * 20 * 10);
    drop(tasks);
    let store = Arc::into_inner(store).unwrap();
    store.leave(PeerId::new([10; 32]).unwrap()).await.unwrap();
    assert_eq!(total(&store, "shared", false).await, 7 * 20 * 10);
    drop(store);
    let store = EmbeddedStore::open(dir.path()).unwrap();
    assert_eq!(total(&store, "shared", true).await, 8 * 20 * 10);
}

/// Bytes of an answer do not grow with the number of keys: each key alone could fill it.
#[tokio::test]
async fn a_lookup_of_many_common_names_stays_small() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path()).unwrap();
    let mut digest = RegistrationDigest::default();
    connect(&store, ShareState { revision: 1, digest }).await;
    let tx = store.begin(peer(), SHARE, None).await.unwrap();
    let directories: Vec<String> = (0..600).map(|n| format!("{n:04}{}", "/deep".repeat(30))).collect();
    for directories in directories.chunks(limits::PAGE_ENTRIES / 2) {
        let mut page = PageBuilder::new();
        for directory in directories {
            let kind = EntryKind::File { size: 1, executable: false, blob: Some(BlobId::new([7; 32])) };
            let entry = Entry { directory: directory.as_bytes(), name: b"common", mtime_ns: 1, kind };
            digest.add(&entry);
            assert!(page.push(&Change::Upsert(entry)));
        }
        store.stage(tx, Bytes::from(page.finish())).await.unwrap();
    }
    store.commit(tx, ShareState { revision: 1, digest }, 600).await.unwrap();
    let names = LookupKeys::Names(List::new(vec![ByteString::from(b"common".as_slice()); limits::LOOKUP_KEYS]));
    let blobs = LookupKeys::Blobs(List::new(vec![BlobId::new([7; 32]); limits::LOOKUP_KEYS]));
    for keys in [names, blobs] {
        let found = store.lookup(&asker(), &keys, limits::LOOKUP_PROVIDERS, false).await.unwrap();
        assert_eq!(found.answers.len(), limits::LOOKUP_KEYS);
        assert_eq!(found.answers[0][0].places.len(), limits::LOOKUP_PROVIDERS, "the first key gets all that it may");
        let blobs: Vec<_> = found.answers.iter().flatten().collect();
        assert!(blobs.iter().all(|blob| blob.total == 600), "what was cut is still counted");
        let bytes: usize = blobs.iter().flat_map(|blob| &blob.places).map(|place| place.path.as_bytes().len()).sum();
        assert!(bytes <= limits::FRAME_BYTES, "{bytes}");
    }
}

/// A request of as many keys as it may have, each a name and a blob that a whole share has: what it costs is bounded
/// for all of them together, since nothing changes in the index meanwhile.
#[tokio::test]
async fn a_lookup_of_common_things_only_looks_at_so_many_rows() {
    const DIRECTORIES: usize = 70;
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path()).unwrap();
    let blob = BlobId::new([7; 32]);
    let kind = EntryKind::File { size: 1, executable: false, blob: Some(blob) };
    let mut digest = RegistrationDigest::default();
    connect(&store, ShareState { revision: 1, digest }).await;
    let tx = store.begin(peer(), SHARE, None).await.unwrap();
    let directories: Vec<String> = (0..DIRECTORIES * limits::PAGE_ENTRIES).map(|n| format!("d{n:06}")).collect();
    for directories in directories.chunks(limits::PAGE_ENTRIES) {
        let mut page = PageBuilder::new();
        for directory in directories {
            let entry = Entry { directory: directory.as_bytes(), name: b"README", mtime_ns: 1, kind };
            digest.add(&entry);
            assert!(page.push(&Change::Upsert(entry)));
        }
        store.stage(tx, Bytes::from(page.finish())).await.unwrap();
    }
    store.commit(tx, ShareState { revision: 1, digest }, directories.len() as u64).await.unwrap();
    let names = LookupKeys::Names(List::new(vec![ByteString::from(&b"README"[..]); limits::LOOKUP_KEYS]));
    let blobs = LookupKeys::Blobs(List::new(vec![blob; limits::LOOKUP_KEYS]));
    for keys in [names, blobs] {
        let found = store.lookup(&asker(), &keys, 1, false).await.unwrap();
        assert!(found.walked <= 4 * 65_536 + 1_024 * limits::LOOKUP_KEYS as u64, "{}", found.walked);
        assert_eq!(found.answers[0][0].total, 65_536);
        assert!(found.answers.iter().all(|answer| answer[0].total >= 1_024), "every key is answered");
    }
    let located = store.locate(&asker(), &vec![blob; limits::LOOKUP_KEYS], 1, false).await.unwrap();
    assert!(located.blobs.iter().all(|blob| blob.total == limits::LOCATED_PLACES));
}

/// A filter on a content starts from its rows, but only as long as they are few.
#[tokio::test]
async fn a_content_under_very_many_names_is_found_under_all_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path()).unwrap();
    let mut digest = RegistrationDigest::default();
    connect(&store, ShareState { revision: 1, digest }).await;
    let tx = store.begin(peer(), SHARE, None).await.unwrap();
    let names: Vec<String> = (0..20_500).map(|number| format!("{number:05}")).collect();
    for names in names.chunks(limits::PAGE_ENTRIES) {
        let mut page = PageBuilder::new();
        for name in names {
            let kind = EntryKind::File { size: 1, executable: false, blob: Some(BlobId::new([0x77; 32])) };
            let entry = Entry { directory: b"", name: name.as_bytes(), mtime_ns: 1, kind };
            digest.add(&entry);
            assert!(page.push(&Change::Upsert(entry)));
        }
        store.stage(tx, Bytes::from(page.finish())).await.unwrap();
    }
    store.commit(tx, ShareState { revision: 1, digest }, names.len() as u64).await.unwrap();
    for text in ["hash:7", "hash:777777", &format!("hash:{}", "77".repeat(32))] {
        let query = parse(text).unwrap();
        let question = SearchQuestion { query: &query, limit: 5, cursor: None, away: false, now_ns: 0, exact: true };
        let hits = store.search(&asker(), question).await.unwrap();
        assert_eq!((hits.hits.len(), hits.total, hits.exact), (5, 20_500, true), "{text}");
    }
}
