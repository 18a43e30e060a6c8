//! What the log costs on this machine's disk: one commit, as many pages as 7.3 million real paths take, opening. Run in
//! release: `cargo test -p haul-index --release --lib log::tests::scale -- --ignored --nocapture`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use haul_core::ids::{PeerId, ShareId};

use super::{peer_record, share_record};
use crate::store::disk::{Disk, SEGMENT_BYTES, Write};
use crate::store::log::clean::Step;
use crate::store::log::device::Device;

const PEERS: u64 = 1_000;
/// 7.3 million paths at 57.6 bytes each, in pages of a thousand.
const PAGES: u64 = 7_300;
const PAGE_BYTES: usize = 57_600;
/// About what the writer puts into one group.
const GROUP_PAGES: u64 = 64;

fn peer_of(number: u64) -> PeerId {
    PeerId::new(*blake3::hash(&number.to_le_bytes()).as_bytes())
        .or_else(|_| PeerId::new(*blake3::hash(&(number + PEERS).to_le_bytes()).as_bytes()))
        .unwrap_or_else(|_| super::peer(0))
}

fn put(number: u64, next_seq: u64, revision: u64) -> Write {
    let record = share_record(number, next_seq, revision);
    Write::PutShare { peer: peer_of(number), share: ShareId([1; 16]), record }
}

fn quantile(times: &mut [Duration], of: usize, parts: usize) -> Duration {
    times.sort_unstable();
    times[times.len() * of / parts]
}

/// Commits of one small page each, one after the other; after each, as many bytes appended to a file of their own and
/// synced, with nothing else: what the disk asks for at least.
fn commits(disk: &Disk, count: u64, first: u64) {
    let page = Bytes::from(vec![7; 150]);
    let mut bare = tempfile::tempfile().unwrap();
    let (mut log_times, mut bare_times) = (Vec::new(), Vec::new());
    for number in 0..count {
        let writes = [
            Write::Pages { generation: 0, pages: vec![(first + number, page.clone())] },
            put(0, first + number + 1, number),
        ];
        let start = Instant::now();
        disk.write(&writes).unwrap();
        log_times.push(start.elapsed());
        let start = Instant::now();
        std::io::Write::write_all(&mut bare, &[7; 400]).unwrap();
        bare.sync_data().unwrap();
        bare_times.push(start.elapsed());
    }
    for (what, mut times) in [("commits of one file", log_times), ("bare appends", bare_times)] {
        let mean = times.iter().sum::<Duration>() / count as u32;
        let [p10, p50, p90] = [1, 5, 9].map(|tenths| quantile(&mut times, tenths, 10));
        println!("{count} {what}, one after the other: p10 {p10:?}, p50 {p50:?}, p90 {p90:?}, mean {mean:?}");
    }
}

fn bulk(disk: &Disk) {
    let page = Bytes::from((0..PAGE_BYTES).map(|byte| (byte * 7 % 251) as u8).collect::<Vec<_>>());
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    for first in (0..PAGES).step_by(GROUP_PAGES as usize) {
        let mut writes = Vec::new();
        for number in first..(first + GROUP_PAGES).min(PAGES) {
            let (generation, seq) = (number % PEERS, number / PEERS);
            writes.push(Write::Pages { generation, pages: vec![(seq, page.clone())] });
            writes.push(put(generation, seq + 1, seq));
        }
        let one = Instant::now();
        disk.write(&writes).unwrap();
        slowest = slowest.max(one.elapsed());
    }
    println!("{PAGES} pages of {PEERS} peers: {:?}, slowest group {slowest:?}", start.elapsed());
}

fn opened(dir: &Path, what: &str) -> Disk {
    let start = Instant::now();
    let (disk, catalog) = Disk::open(dir, Device::default(), SEGMENT_BYTES).unwrap();
    let took = start.elapsed();
    let start = Instant::now();
    let mut bytes = 0;
    for record in catalog.shares.values() {
        bytes += disk.pages(record.generation, record.next_seq).map(|page| page.unwrap().len()).sum::<usize>();
    }
    println!("{what}: open {took:?}; every page read and checked {:?}, {} MB", start.elapsed(), bytes / 1_000_000);
    disk
}

#[test]
#[ignore = "writes 1 GB: run in release"]
fn seven_million_entries() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, _) = Disk::open(dir.path(), Device::default(), SEGMENT_BYTES).unwrap();
    for number in 0..PEERS {
        disk.held.lock().unwrap().catalog.peers.insert(peer_of(number), peer_record(1));
    }
    commits(&disk, 300, 0);
    bulk(&disk);
    println!("files: {} MB", disk.bytes() / 1_000_000);
    drop(disk);
    drop(opened(dir.path(), "as it was left"));
    // Whether the newest catalog counts or the one before it: each is damaged in turn, back to the first.
    let mut segments: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path()).collect();
    segments.sort();
    for (damaged, path) in segments.iter().skip(1).rev().enumerate() {
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"X", 64).unwrap();
        drop(opened(dir.path(), &format!("without the {} newest catalogs", damaged + 1)));
    }
    let disk = opened(dir.path(), "again");
    commits(&disk, 2_000, PAGES / PEERS + 300);
    let start = Instant::now();
    bulk(&disk);
    drop(disk);
    let disk = opened(dir.path(), "behind 2,000 small commits and as many pages again");
    println!("all of it {:?}", start.elapsed());
    // Of every segment a third is needed.
    let gone = (0..PEERS).filter(|number| number % 3 != 0);
    let gone = gone.map(|number| Write::DropShare { peer: peer_of(number), share: ShareId([1; 16]) });
    disk.write(&gone.collect::<Vec<_>>()).unwrap();
    let (start, mut slowest, mut moved) = (Instant::now(), Duration::ZERO, 0);
    loop {
        let one = Instant::now();
        match disk.clean_step().unwrap() {
            Step::Nothing => break,
            Step::Done => {}
            Step::Write(write) => {
                moved += write.size();
                disk.write(&[write]).unwrap();
            }
        }
        slowest = slowest.max(one.elapsed());
    }
    println!(
        "cleaned in {:?}: {} MB moved, slowest step {slowest:?}; files {} MB",
        start.elapsed(),
        moved / 1_000_000,
        disk.bytes() / 1_000_000
    );
    drop(disk);
    drop(opened(dir.path(), "after cleaning"));
}
