//! Registration against a scripted index over a memory transport: what is sent, how often, and that the index ends up
//! with exactly what is on disk.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use haul_core::ids::ShareId;
use haul_core::limits;
use haul_core::manifest::{Change, Page, PageBuilder, RegistrationDigest, ShareState as State};
use haul_core::wire::Label;
use haul_core::wire::index::{IndexAnswer, IndexRequest, Refusal};
use haul_net::connection::{Connection, ConnectionSettings, Inbound};
use haul_net::identity::SecretKey;
use haul_net::transport::memory_pair;
use haul_peer::register;
use haul_peer::share::{NewShare, ShareSettings, ShareState, Shares};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

type Entries = BTreeMap<(Vec<u8>, Vec<u8>), Vec<u8>>;

#[derive(Clone, Default)]
struct HeldShare {
    state: State,
    entries: Entries,
    open: bool,
}

struct Staged {
    share: ShareId,
    base: Option<State>,
    pages: Vec<Vec<u8>>,
}

/// What the index holds and what it was asked.
#[derive(Default)]
struct Memory {
    shares: BTreeMap<ShareId, HeldShare>,
    staged: BTreeMap<u64, Staged>,
    log: Vec<&'static str>,
    commits: Vec<u64>,
    largest_amendment: u64,
    /// Answers to give instead, by the kind of request.
    script: Vec<(&'static str, IndexAnswer)>,
}

#[derive(Clone, Default)]
struct FakeIndex {
    memory: Arc<Mutex<Memory>>,
}

fn kind(request: &IndexRequest) -> &'static str {
    match request {
        IndexRequest::Open { .. } => "open",
        IndexRequest::Begin { .. } => "begin",
        IndexRequest::Page { .. } => "page",
        IndexRequest::Commit { .. } => "commit",
        IndexRequest::Close { forget: true, .. } => "forget",
        IndexRequest::Close { .. } => "close",
        _ => "other",
    }
}

fn digest_of(entries: &Entries) -> RegistrationDigest {
    let mut digest = RegistrationDigest::default();
    for record in entries.values() {
        for change in Page::check(record).unwrap().changes() {
            if let Change::Upsert(entry) = change {
                digest.add(&entry);
            }
        }
    }
    digest
}

impl FakeIndex {
    fn answer(&self, request: IndexRequest) -> IndexAnswer {
        let mut memory = self.memory.lock().unwrap();
        memory.log.push(kind(&request));
        if let Some(at) = memory.script.iter().position(|(wanted, _)| *wanted == kind(&request)) {
            return memory.script.remove(at).1;
        }
        match request {
            IndexRequest::Open { share, state, .. } => match memory.shares.get_mut(&share) {
                Some(held) => {
                    held.open = true;
                    if held.state == state { IndexAnswer::Same } else { IndexAnswer::Amend { from: held.state } }
                }
                None => IndexAnswer::Replace,
            },
            IndexRequest::Begin { share, tx, base } => {
                let holds = memory.shares.get(&share).map(|held| held.state);
                if base.is_some() && base != holds {
                    return IndexAnswer::Refused(Refusal::StateMismatch);
                }
                memory.staged.insert(tx, Staged { share, base, pages: Vec::new() });
                IndexAnswer::Begun
            }
            IndexRequest::Page { tx, seq, bytes } => {
                let Some(staged) = memory.staged.get_mut(&tx) else { return IndexAnswer::Refused(Refusal::NotOpen) };
                assert_eq!(seq as usize, staged.pages.len());
                Page::check(&bytes).unwrap();
                staged.pages.push(bytes.0);
                IndexAnswer::Staged { seq }
            }
            IndexRequest::Commit { tx, state, changes } => memory.commit(tx, state, changes),
            IndexRequest::Close { share, forget } => {
                if forget {
                    memory.shares.remove(&share);
                } else if let Some(held) = memory.shares.get_mut(&share) {
                    held.open = false;
                }
                IndexAnswer::Closed
            }
            _ => IndexAnswer::Refused(Refusal::NotAllowed),
        }
    }

    /// A session; it ends with the token.
    fn connect(&self, shares: &Arc<Shares>) -> (CancellationToken, tokio::task::JoinHandle<()>) {
        let (near, far) = memory_pair();
        let (peer, index) = (SecretKey::generate().unwrap().public(), SecretKey::generate().unwrap().public());
        let (connection, own_inbox) = Connection::start(near, index, ConnectionSettings::default());
        let (far, mut inbox) = Connection::start(far, peer, ConnectionSettings::default());
        let this = self.clone();
        let serve = tokio::spawn(async move {
            let _far = far;
            while let Some(Inbound::Request(request)) = inbox.next().await {
                let answer = this.answer(request.decode().unwrap());
                request.answer(&answer).await.unwrap();
            }
        });
        let shutdown = CancellationToken::new();
        let (shares, token) = (shares.clone(), shutdown.clone());
        let running = tokio::spawn(async move {
            let _own_inbox = own_inbox;
            register::run(shares, connection.clone(), token).await;
            connection.close("done");
            serve.await.unwrap();
        });
        (shutdown, running)
    }

    fn log(&self) -> Vec<&'static str> {
        self.memory.lock().unwrap().log.clone()
    }

    fn clear(&self) {
        let mut memory = self.memory.lock().unwrap();
        memory.log.clear();
        memory.commits.clear();
    }

    fn only_share(&self) -> HeldShare {
        let memory = self.memory.lock().unwrap();
        assert_eq!(memory.shares.len(), 1);
        memory.shares.values().next().unwrap().clone()
    }
}

impl Memory {
    fn commit(&mut self, tx: u64, state: State, changes: u64) -> IndexAnswer {
        let Some(staged) = self.staged.remove(&tx) else { return IndexAnswer::Refused(Refusal::NotOpen) };
        let mut entries = match staged.base {
            Some(_) => self.shares[&staged.share].entries.clone(),
            None => Entries::default(),
        };
        let mut count = 0;
        for page in &staged.pages {
            for change in Page::check(page).unwrap().changes() {
                count += 1;
                let (directory, name) = change.key();
                let key = (directory.to_vec(), name.to_vec());
                if matches!(change, Change::Upsert(_)) {
                    let mut record = PageBuilder::new();
                    assert!(record.push(&change));
                    entries.insert(key, record.finish());
                } else {
                    entries.remove(&key);
                }
            }
        }
        assert_eq!(count, changes);
        assert_eq!(digest_of(&entries), state.digest, "the digest is that of the list");
        if staged.base.is_some() {
            self.largest_amendment = self.largest_amendment.max(changes);
        }
        self.commits.push(changes);
        self.shares.insert(staged.share, HeldShare { state, entries, open: true });
        IndexAnswer::Committed { state }
    }
}

struct Bench {
    home: TempDir,
    data: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let home = TempDir::new().unwrap();
        let data = home.path().join("data");
        fs::create_dir(&data).unwrap();
        Self { home, data }
    }

    fn open(&self) -> (Arc<Shares>, Label) {
        let mut settings = ShareSettings::new(self.home.path().join("state"), self.home.path().join("cache"));
        settings.hash_threads = 2;
        settings.watch = false;
        let shares = Shares::open_with_clock(settings, Box::new(|| i64::MAX / 2)).unwrap();
        let name = shares.add(NewShare::new(&self.data)).unwrap().name;
        (shares, name)
    }

    fn write(&self, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
        let path = self.data.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

async fn until(shares: &Shares, name: &Label, state: ShareState) {
    let mut changes = shares.changes();
    let reached = async {
        while shares.status(name).unwrap().state != state {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reached).await.expect("reaches the state in time");
}

async fn scan(shares: &Arc<Shares>, name: &Label) {
    let (shares, name) = (shares.clone(), name.clone());
    tokio::task::spawn_blocking(move || {
        shares.scan_now(&name).unwrap();
        shares.hash_now();
    })
    .await
    .unwrap();
}

/// The list as the peer has it.
fn own_list(shares: &Shares, name: &Label) -> Entries {
    let mut entries = Entries::new();
    let mut cursor = None;
    loop {
        let listing = shares.list_directory(name, &haul_core::path::SharePath::default(), true, cursor.as_deref(), &[]);
        let listing = listing.unwrap();
        for change in Page::check(&listing.page).unwrap().changes() {
            let mut record = PageBuilder::new();
            assert!(record.push(&change));
            entries.insert((change.key().0.to_vec(), change.key().1.to_vec()), record.finish());
        }
        match listing.cursor {
            Some(next) => cursor = Some(next.0),
            None => return entries,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_share_costs_one_request() {
    let bench = Bench::new();
    for n in 0..2_345 {
        bench.write(format!("{}/{n}", n % 7), format!("{n}"));
    }
    let index = FakeIndex::default();
    {
        let (shares, name) = bench.open();
        scan(&shares, &name).await;
        let (stop, running) = index.connect(&shares);
        until(&shares, &name, ShareState::Ready).await;
        let status = shares.status(&name).unwrap();
        assert_eq!((status.registered, status.files), (2_345, 2_345));
        assert_eq!(index.only_share().entries, own_list(&shares, &name));
        stop.cancel();
        running.await.unwrap();
        // The same process again.
        index.clear();
        let (stop, running) = index.connect(&shares);
        until(&shares, &name, ShareState::Ready).await;
        stop.cancel();
        running.await.unwrap();
        assert_eq!(index.log(), ["open"]);
    }
    // Another process, which walks again.
    index.clear();
    let (shares, name) = bench.open();
    let (stop, running) = index.connect(&shares);
    until(&shares, &name, ShareState::Ready).await;
    scan(&shares, &name).await;
    assert_eq!(shares.status(&name).unwrap().state, ShareState::Ready);
    assert_eq!(shares.status(&name).unwrap().registered, 2_345);
    stop.cancel();
    running.await.unwrap();
    assert_eq!(index.log(), ["open"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_new_file_costs_one_amendment() {
    let bench = Bench::new();
    for n in 0..100 {
        bench.write(format!("d/{n}"), "");
    }
    let index = FakeIndex::default();
    let (shares, name) = bench.open();
    scan(&shares, &name).await;
    let (stop, running) = index.connect(&shares);
    until(&shares, &name, ShareState::Ready).await;
    index.clear();
    bench.write("d/0", "content");
    scan(&shares, &name).await;
    until(&shares, &name, ShareState::Ready).await;
    stop.cancel();
    running.await.unwrap();
    assert_eq!(index.log(), ["begin", "page", "commit"], "the name without a hash was never sent");
    assert_eq!(index.memory.lock().unwrap().commits, [1]);
    // Away from the index, changed, and back: the difference alone.
    index.clear();
    bench.write("d/1", "more");
    fs::remove_file(bench.data.join("d/2")).unwrap();
    scan(&shares, &name).await;
    let (stop, running) = index.connect(&shares);
    until(&shares, &name, ShareState::Ready).await;
    assert_eq!(index.log(), ["open", "begin", "page", "commit"]);
    assert_eq!(index.memory.lock().unwrap().commits, [3], "a file, a removal, and the folder's time");
    assert_eq!(index.only_share().entries, own_list(&shares, &name));
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_survived() {
    let bench = Bench::new();
    bench.write("a", "a");
    let index = FakeIndex::default();
    let (shares, name) = bench.open();
    scan(&shares, &name).await;
    index.memory.lock().unwrap().script = vec![
        ("open", IndexAnswer::Refused(Refusal::Busy { retry_after_ms: 1 })),
        ("begin", IndexAnswer::Refused(Refusal::Busy { retry_after_ms: 1 })),
    ];
    let (stop, running) = index.connect(&shares);
    until(&shares, &name, ShareState::Ready).await;
    // The index loses its mind: everything is sent again.
    index.clear();
    index.memory.lock().unwrap().script = vec![("commit", IndexAnswer::Refused(Refusal::StateMismatch))];
    bench.write("b", "b");
    scan(&shares, &name).await;
    until(&shares, &name, ShareState::Ready).await;
    assert_eq!(index.log(), ["begin", "page", "commit", "open", "begin", "page", "commit"]);
    assert_eq!(index.only_share().entries, own_list(&shares, &name));
    stop.cancel();
    running.await.unwrap();
    // An index that holds a state which this peer never had gets everything, too.
    index.clear();
    index.memory.lock().unwrap().shares.values_mut().next().unwrap().state.revision += 1_000;
    let (stop, running) = index.connect(&shares);
    until(&shares, &name, ShareState::Ready).await;
    assert_eq!(index.log(), ["open", "begin", "page", "commit"]);
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_forgets_and_being_away_only_closes() {
    let bench = Bench::new();
    for n in 0..50 {
        bench.write(format!("{n}"), "");
    }
    let index = FakeIndex::default();
    let (shares, name) = bench.open();
    scan(&shares, &name).await;
    let (stop, running) = index.connect(&shares);
    until(&shares, &name, ShareState::Ready).await;
    index.clear();
    let aside = bench.data.with_file_name("aside");
    fs::rename(&bench.data, &aside).unwrap();
    scan(&shares, &name).await;
    until(&shares, &name, ShareState::Away).await;
    fs::rename(&aside, &bench.data).unwrap();
    scan(&shares, &name).await;
    until(&shares, &name, ShareState::Ready).await;
    assert_eq!(index.log(), ["close", "open"]);
    assert_eq!(index.only_share().entries.len(), 50);
    stop.cancel();
    running.await.unwrap();
    // Removed while there is no session: the next one tells it first.
    index.clear();
    shares.remove(&name).unwrap();
    let (stop, running) = index.connect(&shares);
    let other = bench.home.path().join("other");
    fs::create_dir(&other).unwrap();
    let other = shares.add(NewShare::new(&other)).unwrap().name;
    scan(&shares, &other).await;
    until(&shares, &other, ShareState::Ready).await;
    assert_eq!(index.log(), ["forget", "open", "begin", "commit"], "an empty share is registered, too");
    index.clear();
    shares.remove(&other).unwrap();
    let gone = async {
        while !index.memory.lock().unwrap().shares.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
    stop.cancel();
    running.await.unwrap();
    assert_eq!(index.log(), ["forget"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_walk_is_visible_part_by_part() {
    let bench = Bench::new();
    for n in 0..25_000 {
        let directory = bench.data.join(format!("{}", n % 10));
        if n < 10 {
            fs::create_dir(&directory).unwrap();
        }
        fs::File::create(directory.join(format!("{n}"))).unwrap();
    }
    let index = FakeIndex::default();
    let (shares, name) = bench.open();
    let (stop, running) = index.connect(&shares);
    scan(&shares, &name).await;
    until(&shares, &name, ShareState::Ready).await;
    let held = index.only_share();
    assert_eq!(held.entries.len(), 25_010);
    assert_eq!(held.entries, own_list(&shares, &name));
    let (commits, largest) = {
        let memory = index.memory.lock().unwrap();
        (memory.commits.clone(), memory.largest_amendment)
    };
    // How many there are depends on how fast each side is; the first does not wait for the end of the walk.
    assert!(commits.len() >= 2 && commits[0] <= limits::WALK_COMMIT_ENTRIES as u64, "{commits:?}");
    assert!(largest <= limits::AMEND_ENTRIES as u64);
    stop.cancel();
    running.await.unwrap();
    assert_eq!(shares.status(&name).unwrap().files, 25_000);
}

/// A small generator: the same numbers in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn edit(root: &Path, dice: &mut Dice) {
    let directory = root.join(["", "a", "a!", "a/b", "c"][dice.roll(5) as usize]);
    let path = directory.join(format!("f{}", dice.roll(12)));
    match dice.roll(10) {
        0 => drop(fs::remove_dir_all(directory.join("sub"))),
        1 => drop(fs::create_dir_all(directory.join("sub/deep"))),
        2 => drop(fs::remove_file(&path)),
        3 => drop(fs::rename(&path, root.join(format!("c/f{}", dice.roll(12))))),
        4 => drop(
            fs::rename(root.join("a"), root.join("moved"))
                .and_then(|()| fs::rename(root.join("moved"), root.join("a"))),
        ),
        5 => drop(std::os::unix::fs::symlink("f1", &path)),
        6 => drop(fs::create_dir_all(&directory).and_then(|()| fs::write(directory.join("sub"), "now a file"))),
        _ => drop(
            fs::create_dir_all(&directory)
                .and_then(|()| fs::write(&path, vec![b'x'; dice.roll(70_000) as usize * (dice.roll(2) as usize)])),
        ),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_on_disk_the_index_ends_with_the_same_list() {
    for seed in 0..6 {
        let mut dice = Dice(seed);
        let bench = Bench::new();
        let index = FakeIndex::default();
        let (mut shares, name) = bench.open();
        for _ in 0..6 {
            let (stop, running) = index.connect(&shares);
            for _ in 0..dice.roll(4) {
                for _ in 0..dice.roll(30) {
                    edit(&bench.data, &mut dice);
                }
                let _ = shares.rescan(&name);
                scan(&shares, &name).await;
            }
            scan(&shares, &name).await;
            until(&shares, &name, ShareState::Ready).await;
            assert_eq!(index.only_share().entries, own_list(&shares, &name));
            assert_eq!(index.only_share().entries.len(), walked(&bench.data), "seed {seed}");
            stop.cancel();
            running.await.unwrap();
            // Some changes without a session, and some restarts.
            for _ in 0..dice.roll(10) {
                edit(&bench.data, &mut dice);
            }
            if dice.roll(2) == 0 {
                drop(shares);
                shares = bench.open().0;
            }
        }
    }
}

fn walked(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries.map(|entry| 1 + if entry.file_type().unwrap().is_dir() { walked(&entry.path()) } else { 0 }).sum()
}
