//! Real paths through the whole store: what an entry costs in time and memory, and how long a restart takes. Run in
//! release, with a sorted list of paths, one per line:
//! `HAUL_PATHS=… cargo test -p haul-index --release --test store_memory -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing)]

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use haul_core::ids::{BlobId, PeerId, ShareId};
use haul_core::limits;
use haul_core::manifest::{Change, Entry, EntryKind, PageBuilder, RegistrationDigest, ShareState};
use haul_core::wire::Label;
use haul_index::store::{EmbeddedStore, IndexStore, ShareOffer, StoreSettings};

/// As in the program, so that figures are its own.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Entries of one share, each of its own peer.
const SHARE: usize = 100_000;

fn anonymous() -> f64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find(|line| line.starts_with("Anonymous:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0
}

/// CPU time of this process: what a busy machine changes least.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn peer(number: usize) -> PeerId {
    let mut key = [7; 32];
    key[..8].copy_from_slice(&(number as u64).to_le_bytes());
    PeerId::new(key).unwrap()
}

/// The blob of the entry of this number: uniform, and different for each.
fn blob(number: usize) -> BlobId {
    BlobId::new(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

/// The next share's entries as pages, by directory and then name as pages want them.
fn pages(lines: &[&[u8]], from: usize) -> (Vec<Bytes>, RegistrationDigest) {
    let mut entries: Vec<(&[u8], &[u8], usize)> = lines
        .iter()
        .enumerate()
        .map(|(number, line)| {
            let slash = line.iter().rposition(|byte| *byte == b'/');
            let (directory, name) = slash.map_or((&line[..0], *line), |slash| (&line[..slash], &line[slash + 1..]));
            (directory, name, from + number)
        })
        .collect();
    entries.sort_unstable();
    let (mut pages, mut page) = (Vec::new(), PageBuilder::new());
    let mut digest = RegistrationDigest::default();
    for (directory, name, number) in entries {
        let kind = EntryKind::File { size: number as u64, executable: false, blob: Some(blob(number)) };
        let change = Change::Upsert(Entry { directory, name, mtime_ns: number as i64, kind });
        if let Change::Upsert(entry) = &change {
            digest.add(entry);
        }
        if page.len() == limits::PAGE_ENTRIES || !page.push(&change) {
            pages.push(Bytes::from(page.finish()));
            assert!(page.push(&change));
        }
    }
    pages.push(Bytes::from(page.finish()));
    (pages, digest)
}

async fn register(store: &EmbeddedStore, text: &[u8]) -> usize {
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let before = anonymous();
    let (mut spent, mut most) = (Duration::ZERO, 0.0_f64);
    let mut done = 0;
    for (number, lines) in lines.chunks(SHARE).enumerate() {
        let (pages, digest) = pages(lines, done);
        let (peer, share) = (peer(number), ShareId([1; 16]));
        let state = ShareState { revision: 1, digest };
        let start = cpu();
        store.connect(peer, Label::new("lab").unwrap()).await.unwrap();
        let name = Label::new("debian").unwrap();
        store.open(peer, ShareOffer { id: share, name, groups: Vec::new(), state }).await.unwrap();
        let tx = store.begin(peer, share, None).await.unwrap();
        for page in pages {
            store.stage(tx, page).await.unwrap();
        }
        store.commit(tx, state, lines.len() as u64).await.unwrap();
        while store.maintain(Duration::from_millis(20)).await.unwrap() {}
        spent += cpu().saturating_sub(start);
        done += lines.len();
        if done > 10 * SHARE {
            most = most.max((anonymous() - before) / done as f64);
        }
    }
    let start = cpu();
    while store.maintain(Duration::from_secs(1)).await.unwrap() {}
    spent += cpu().saturating_sub(start);
    println!("{done} entries: {:.0} ns of CPU each, merges included", spent.as_nanos() as f64 / done as f64);
    println!("{:.1} B of anonymous memory each, at most {most:.1}", (anonymous() - before) / done as f64);
    let mut uses = store.memory_use();
    uses.push(("search index", store.stats().search_bytes as usize));
    for (part, bytes) in uses {
        println!("  {part:14} {:6.2}", bytes as f64 / done as f64);
    }
    done
}

async fn restart(dir: &Path, entries: usize) {
    let before = anonymous();
    let (start, start_cpu) = (Instant::now(), cpu());
    let settings = StoreSettings { load_at_once: u64::MAX, ..StoreSettings::default() };
    let store = EmbeddedStore::open_with(dir, settings).unwrap();
    let spent = cpu().saturating_sub(start_cpu).as_nanos() as f64 / entries as f64;
    println!("loaded after {:.2?}, {spent:.0} ns of CPU each", start.elapsed());
    while store.maintain(Duration::from_secs(1)).await.unwrap() {}
    println!("merged after {:.2?}, {:.2?} of CPU", start.elapsed(), cpu().saturating_sub(start_cpu));
    println!("{:.1} B of anonymous memory each", (anonymous() - before) / entries as f64);
    assert_eq!(store.stats().files, entries as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "millions of entries: run in release"]
async fn an_entry_of_real_paths_costs_few_bytes() {
    let text = std::fs::read(std::env::var("HAUL_PATHS").unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path()).unwrap();
    let entries = register(&store, &text).await;
    drop(store);
    restart(dir.path(), entries).await;
}
