//! A million names through the store: time, memory, and the work of a rare query. Run in release:
//! `cargo test -p haul-index --release --test store_scale -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use haul_core::ids::{BlobId, PeerId, ShareId};
use haul_core::manifest::{Change, Entry, EntryKind, PageBuilder, RegistrationDigest, ShareState};
use haul_core::query::parse;
use haul_core::wire::Label;
use haul_index::store::{Asker, EmbeddedStore, IndexStore, SearchQuestion, ShareOffer, StoreSettings};

/// As in the program, so that figures are its own.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const ENTRIES: usize = 1_000_000;
const COMMIT: usize = 10_000;
const PAGE: usize = 1_000;

/// `SplitMix64` (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % bound as u64) as usize
    }
}

/// Paths as in a Debian system: packages under a few trees, names of two or three words, numbers and extensions.
struct Paths {
    random: Random,
    words: Vec<String>,
    package: usize,
    left: usize,
    directory: String,
}

const TREES: [&str; 6] = [
    "usr/share/doc",
    "usr/share/icons/hicolor/48x48",
    "usr/lib/python3/dist-packages",
    "usr/include",
    "usr/src/linux-headers",
    "usr/lib/x86_64-linux-gnu",
];
const EXTENSIONS: [&str; 14] =
    [".html", ".py", ".h", ".png", ".so.1", ".svg", ".gz", ".mo", ".js", ".pm", ".rb", ".txt", ".hpp", ".md5sums"];

impl Paths {
    fn new() -> Self {
        let mut random = Random(1);
        let syllables: Vec<&str> =
            "ba con der el fi gra ho in jo ka lo mi net or pro qui re sta ter un vi wa xen yo zi script lib doc test"
                .split(' ')
                .collect();
        let words = (0..6_000)
            .map(|_| (0..2 + random.below(2)).map(|_| syllables[random.below(syllables.len())]).collect())
            .collect();
        Self { random, words, package: 0, left: 0, directory: String::new() }
    }

    fn word(&mut self) -> String {
        let word = self.random.below(self.words.len());
        self.words[word].clone()
    }

    fn next(&mut self) -> (String, String) {
        if self.left == 0 {
            self.package += 1;
            self.left = 4 + self.random.below(40);
            let tree = TREES[self.random.below(TREES.len())];
            let (name, below) = (self.word(), self.word());
            self.directory = format!("{tree}/{name}-{}/{below}", self.package);
        }
        self.left -= 1;
        let common = ["changelog.Debian.gz", "copyright", "__init__.py", "README.md", "index.html", "Makefile"];
        let name = match self.random.below(12) {
            0 => common[self.random.below(common.len())].to_string(),
            n => {
                let joint = ["_", "-", "", "."][n % 4];
                let number = self.random.below(400);
                let number = if n < 8 { number.to_string() } else { String::new() };
                let extension = EXTENSIONS[self.random.below(EXTENSIONS.len())];
                format!("{}{joint}{}{number}{extension}", self.word(), self.word())
            }
        };
        (self.directory.clone(), name)
    }
}

fn memory(key: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// CPU time of this process: what a busy machine does not change.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

async fn register(store: &EmbeddedStore, peer: PeerId, share: ShareId) -> (u64, usize) {
    let mut paths = Paths::new();
    let mut state: Option<ShareState> = None;
    let mut digest = RegistrationDigest::default();
    let mut total = 0;
    let mut revision = 0;
    while total < ENTRIES {
        let tx = store.begin(peer, share, state).await.unwrap();
        let mut changes = 0;
        for _ in 0..COMMIT / PAGE {
            let mut page: BTreeSet<(String, String)> = BTreeSet::new();
            while page.len() < PAGE {
                // A number makes paths of the same directory disjoint across pages.
                let (directory, name) = paths.next();
                page.insert((format!("{directory}/{}", total / PAGE), name));
            }
            let mut builder = PageBuilder::new();
            for (directory, name) in &page {
                let entry = Entry {
                    directory: directory.as_bytes(),
                    name: name.as_bytes(),
                    mtime_ns: total as i64,
                    kind: EntryKind::File { size: 0, executable: false, blob: Some(BlobId::empty()) },
                };
                digest.add(&entry);
                assert!(builder.push(&Change::Upsert(entry)));
            }
            changes += PAGE as u64;
            total += PAGE;
            store.stage(tx, Bytes::from(builder.finish())).await.unwrap();
        }
        revision += 1;
        state = Some(store.commit(tx, ShareState { revision, digest }, changes).await.unwrap());
    }
    (revision, total)
}

#[test]
#[ignore = "a million entries: run in release"]
fn a_million_empty_files() {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(run());
}

async fn run() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path()).unwrap();
    let peer = PeerId::new([7; 32]).unwrap();
    let share = ShareId([1; 16]);
    let offer = ShareOffer {
        id: share,
        name: Label::new("debian").unwrap(),
        groups: Vec::new(),
        state: ShareState { revision: 1, digest: RegistrationDigest::default() },
    };
    store.connect(peer, Label::new("lab-1").unwrap()).await.unwrap();
    store.open(peer, offer).await.unwrap();
    let before = memory("VmRSS");
    let cpu_before = cpu();
    let start = Instant::now();
    let (commits, total) = register(&store, peer, share).await;
    let took = start.elapsed();
    let stats = store.stats();
    println!(
        "registered {total} entries in {commits} commits: {took:.1?} ({:.1?} CPU), {:.0} entries/s (making and hashing the pages included)",
        cpu().saturating_sub(cpu_before),
        total as f64 / took.as_secs_f64()
    );
    println!(
        "distinct names {}; RSS {:.0} MiB (before {before:.0}), peak {:.0} MiB",
        stats.names,
        memory("VmRSS"),
        memory("VmHWM")
    );
    assert_eq!(stats.files, ENTRIES as u64);
    assert!(took < Duration::from_secs(20), "{took:?}");
    let asker = Asker { peer, groups: Vec::new() };
    let rare = Paths { random: Random(99), ..Paths::new() }.next().1;
    for text in [
        rare.as_str(),
        "changelog debian",
        "scriptnet",
        "lib",
        "qu",
        "wa yo 17",
        "ext:svg path:/usr/include",
        "zzzzzz",
        "conproterx",
    ] {
        let query = parse(text).unwrap();
        let question = SearchQuestion { query: &query, limit: 50, cursor: None, away: false, now_ns: 0, exact: false };
        let mut times: Vec<u64> = Vec::new();
        let mut hits = None;
        for _ in 0..5 {
            let answer = store.search(&asker, question.clone()).await.unwrap();
            times.push(answer.index_us);
            hits = Some(answer);
        }
        times.sort_unstable();
        let hits = hits.unwrap();
        println!(
            "{text:28} {:>7} hits (exact {}), first {:?}, examined {}, {} us",
            hits.total,
            hits.exact,
            hits.hits.first().map(|hit| String::from_utf8_lossy(&hit.name).into_owned()),
            hits.examined,
            times[2]
        );
        if text == "scriptnet" {
            assert!(hits.total > 0 && hits.exact);
            assert!(hits.examined * 100 < stats.names, "a rare query must not scan: {}", hits.examined);
        }
    }
    let start = Instant::now();
    while store.maintain(Duration::from_secs(1)).await.unwrap() {}
    println!("upkeep {:.1?}; RSS {:.0} MiB, peak {:.0} MiB", start.elapsed(), memory("VmRSS"), memory("VmHWM"));
    assert!(memory("VmRSS") < 400.0);
    drop(store);
    let size: u64 = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
    let start = Instant::now();
    let settings = StoreSettings { load_at_once: u64::MAX, ..StoreSettings::default() };
    let store = EmbeddedStore::open_with(dir.path(), settings).unwrap();
    println!("loaded after {:.1?}; files on disk {} MiB", start.elapsed(), size >> 20);
    assert_eq!(store.stats().files, ENTRIES as u64);
}
