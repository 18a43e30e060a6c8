//! Many peers register real paths in a store, which is then opened again and asked for blobs: CPU time of each
//! stage, and what the memory is for.
//!
//! `cargo run --release -p haul-index --example restart -- PATHS FILES PEERS DIR`: a list of paths, one per line and
//! sorted; how many of them, spread over it in blocks; peers that hold 1.5 copies of each file together; a directory,
//! whose store is only opened if it has one.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing)]

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use haul_core::ids::{BlobId, PeerId, ShareId};
use haul_core::manifest::{Change, Entry, EntryKind, PageBuilder, RegistrationDigest, ShareState};
use haul_core::wire::index::IndexRequest;
use haul_core::wire::locate::{read_locate, write_located};
use haul_core::wire::{Label, List, encode};
use haul_index::store::{Asker, EmbeddedStore, IndexStore, ShareOffer};

/// As in the program, so that figures are its own.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// CPU time of this process: what a busy machine changes least.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

struct Stage(Duration, Instant);

impl Stage {
    fn begin() -> Self {
        Self(cpu(), Instant::now())
    }

    fn end(&self, what: &str, entries: u64) {
        let (cpu, wall) = (cpu().saturating_sub(self.0), self.1.elapsed());
        let each = cpu.as_nanos() as f64 / entries as f64;
        println!("{what}: {:.2} s CPU, {:.2} s, {each:.0} ns per entry", cpu.as_secs_f64(), wall.as_secs_f64());
    }
}

/// One share as it is sent.
struct Prepared {
    pages: Vec<Bytes>,
    digest: RegistrationDigest,
    count: u64,
}

fn prepare(lines: &[&[u8]], files: impl Iterator<Item = usize>) -> Prepared {
    let split = |line: usize| {
        let line = lines[line];
        let slash = line.iter().rposition(|byte| *byte == b'/');
        slash.map_or((&line[..0], line), |slash| (&line[..slash], &line[slash + 1..]))
    };
    let mut files: Vec<(&[u8], &[u8], usize)> = files.map(|file| (split(file).0, split(file).1, file)).collect();
    files.sort_unstable();
    let mut prepared = Prepared { pages: Vec::new(), digest: RegistrationDigest::default(), count: 0 };
    let mut page = PageBuilder::new();
    for (directory, name, file) in files {
        let kind = EntryKind::File { size: file as u64, executable: false, blob: Some(blob(file)) };
        let entry = Entry { directory, name, mtime_ns: file as i64 * 1_000_000_000, kind };
        prepared.digest.add(&entry);
        prepared.count += 1;
        if !page.push(&Change::Upsert(entry)) {
            prepared.pages.push(Bytes::from(std::mem::replace(&mut page, PageBuilder::new()).finish()));
            assert!(page.push(&Change::Upsert(entry)));
        }
    }
    prepared.pages.push(Bytes::from(page.finish()));
    prepared
}

fn id(number: usize) -> (PeerId, ShareId) {
    let hash = *blake3::hash(&[b'p', number as u8, (number >> 8) as u8]).as_bytes();
    let seed = (0u8..=255).find_map(|salt| {
        let mut hash = hash;
        hash[31] = salt & 0x7f;
        PeerId::new(hash).ok()
    });
    (seed.unwrap(), ShareId([number as u8, (number >> 8) as u8, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]))
}

async fn register(dir: &Path, paths: &Path, files: usize, peers: usize) {
    let text = std::fs::read(paths).unwrap();
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let block = files / peers;
    let stride = lines.len() / peers;
    // A peer's own files, and the first half of the next peer's.
    let files_of = |peer: usize| {
        let own = peer * stride;
        let next = (peer + 1) % peers * stride;
        (own..own + block).chain(next..next + block / 2)
    };
    let all: Vec<Prepared> = (0..peers).map(|peer| prepare(&lines, files_of(peer))).collect();
    drop(lines);
    drop(text);
    let entries: u64 = all.iter().map(|prepared| prepared.count).sum();
    let store = EmbeddedStore::open(dir).unwrap();
    let begun = Stage::begin();
    for (number, prepared) in all.iter().enumerate() {
        let (peer, share) = id(number);
        store.connect(peer, Label::new(format!("peer-{number}")).unwrap()).await.unwrap();
        let state = ShareState { revision: 1, digest: prepared.digest };
        let offer = ShareOffer { id: share, name: Label::new("debian").unwrap(), groups: Vec::new(), state };
        store.open(peer, offer).await.unwrap();
        let tx = store.begin(peer, share, None).await.unwrap();
        for page in &prepared.pages {
            store.stage(tx, page.clone()).await.unwrap();
        }
        store.commit(tx, state, prepared.count).await.unwrap();
        if number % 10 == 9 {
            store.maintain(Duration::from_millis(10)).await.unwrap();
        }
    }
    begun.end("registered", entries);
    while store.maintain(Duration::from_secs(1)).await.unwrap() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    begun.end("merged", entries);
    parts(&store);
}

fn parts(store: &EmbeddedStore) {
    let stats = store.stats();
    let entries = stats.files as f64;
    println!("{entries} entries, {} names; bytes per entry:", stats.names);
    let mut sum = stats.search_bytes as f64 / entries;
    println!("  {:14} {sum:6.2}", "search");
    for (part, bytes) in store.memory_use() {
        sum += bytes as f64 / entries;
        println!("  {part:14} {:6.2}", bytes as f64 / entries);
    }
    println!("  {:14} {sum:6.2}", "in all");
}

fn main() {
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().unwrap();
    let (paths, files, peers, dir) = (next(), next().parse().unwrap(), next().parse().unwrap(), next());
    let (files, peers): (usize, usize) = (files, peers);
    let dir = Path::new(&dir);
    if !dir.exists() {
        std::fs::create_dir_all(dir).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(register(dir, Path::new(&paths), files, peers));
    }
    let stride = BufReader::new(File::open(&paths).unwrap()).split(b'\n').count() / peers;
    let begun = Stage::begin();
    let store = EmbeddedStore::open(dir).unwrap();
    begun.end("opened", store.stats().files.max(1));
    while store.stats().loaded_permille < 1_000 {
        std::thread::sleep(Duration::from_millis(5));
    }
    begun.end("loaded", store.stats().files);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        while store.maintain(Duration::from_secs(1)).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    begun.end("merged", store.stats().files);
    parts(&store);
    runtime.block_on(locate(&store, files / peers, stride, peers));
}

/// Looks up random blobs, 64 at a time, as frames ask for them.
async fn locate(store: &EmbeddedStore, block: usize, stride: usize, peers: usize) {
    // The congruential generator of Knuth's MMIX.
    let mut random = 1u64;
    let mut dice = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((random >> 33) as usize * below) >> 31
    };
    let frames: Vec<Vec<u8>> = (0..20_000)
        .map(|_| {
            let blobs = (0..64).map(|_| blob(dice(peers) * stride + dice(block))).collect();
            encode(&IndexRequest::Locate { blobs: List::new(blobs), max: 10, away: true })
        })
        .collect();
    let asker = Asker { peer: id(0).0, groups: Vec::new() };
    let (mut blobs, mut answer, mut found) = (Vec::new(), Vec::new(), 0);
    for _ in 0..4 {
        let begun = Stage::begin();
        for frame in &frames {
            blobs.clear();
            answer.clear();
            let options = read_locate(frame, &mut blobs).unwrap();
            let located = store.locate(&asker, &blobs, options.max as usize, options.away).await.unwrap();
            found += located.peers.len();
            write_located(&located, &mut answer);
        }
        begun.end("located", frames.len() as u64 * 64);
    }
    println!("{found} peers");
}

fn blob(file: usize) -> BlobId {
    BlobId::new(*blake3::hash(&file.to_le_bytes()).as_bytes())
}
