//! Real paths at full scale, in memory alone. Run in release, with a list of paths, one per line, sorted:
//! `HAUL_PATHS=… cargo test -p haul-index --release --lib memory::scale -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::Duration;

use haul_core::ids::{BlobId, PeerId};
use haul_core::manifest::{Entry, EntryKind};
use haul_core::wire::Label;

use super::shares::{Slot, SlotState};
use super::{Memory, NONE};
use crate::store::locate::locate;

/// Entries of one page.
const PAGE: usize = 1_000;
const LOOKUPS: usize = 1_000_000;

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

fn each_ns(since: Duration, count: usize) -> f64 {
    cpu().saturating_sub(since).as_nanos() as f64 / count as f64
}

/// The blob of the entry of this number: uniform, and different for each.
fn blob(number: usize) -> BlobId {
    let mut hash = [0; 32];
    for (part, bytes) in hash.chunks_mut(8).enumerate() {
        let mut z = (number as u64 * 4 + part as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.copy_from_slice(&(z ^ z >> 31).to_le_bytes());
    }
    BlobId::new(hash)
}

/// The lines of the list, and where directory and name part in each.
fn paths() -> (Vec<u8>, Vec<(usize, usize, usize)>) {
    let text = std::fs::read(std::env::var("HAUL_PATHS").unwrap()).unwrap();
    let mut lines = Vec::with_capacity(8_000_000);
    let mut start = 0;
    while let Some(len) = text[start..].iter().position(|byte| *byte == b'\n') {
        let end = start + len;
        let name = text[start..end].iter().rposition(|byte| *byte == b'/').map_or(start, |slash| start + slash + 1);
        lines.push((start, name, end));
        start = end + 1;
    }
    // As pages come: by directory, then name.
    let key = |(start, name, end): &(usize, usize, usize)| (&text[*start..(*name - 1).max(*start)], &text[*name..*end]);
    lines.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
    (text, lines)
}

fn take_slot(memory: &mut Memory) -> u32 {
    let name = Label::new("x").unwrap();
    let peer = memory.shares.ensure_peer(PeerId::new([9; 32]).unwrap(), &name);
    let (state, groups) = (SlotState::Live, Vec::new());
    memory.take_slot(Slot { state, peer, name, groups, open: false, root: NONE, files: 0, bytes: 0 }).unwrap()
}

#[test]
#[ignore = "millions of entries: run in release"]
fn an_entry_of_real_paths_costs_few_bytes() {
    let (text, lines) = paths();
    let before = anonymous();
    let mut memory = Memory::default();
    let start = cpu();
    let slot = take_slot(&mut memory);
    let mut peak: f64 = 0.0;
    for (number, (start, name, end)) in lines.iter().enumerate() {
        let kind = EntryKind::File { size: number as u64, executable: false, blob: Some(blob(number)) };
        let directory = &text[*start..(*name - 1).max(*start)];
        let entry = Entry { directory, name: &text[*name..*end], mtime_ns: number as i64, kind };
        memory.upsert(slot, &entry, |_| ()).unwrap();
        if number % PAGE == 0 {
            memory.settle();
        }
        if number % (256 * PAGE) == 0 && number > 512 * PAGE {
            peak = peak.max((anonymous() - before) / number as f64);
        }
    }
    memory.settle();
    let count = lines.len() as f64;
    println!("{} entries: {:.0} ns each", lines.len(), each_ns(start, lines.len()));
    println!("{:.1} B anonymous memory per entry, at most {peak:.1} on the way", (anonymous() - before) / count);
    for (part, bytes) in memory.bytes() {
        println!("  {part:14} {:6.2}", bytes as f64 / count);
    }
    lookups(&memory, lines.len());
    let start = cpu();
    while memory.sweep(slot, 10_000) {}
    println!("swept: {:.0} ns each, {:.1} B left", each_ns(start, lines.len()), (anonymous() - before) / count);
}

/// Ten million blobs with two rows each: what a lookup costs alone and in a batch.
#[test]
#[ignore = "millions of entries: run in release"]
fn lookups_of_a_batch_overlap() {
    const BLOBS: usize = 10_000_000;
    const BATCH: usize = 64;
    let mut memory = Memory::default();
    for _ in 0..2 {
        let slot = take_slot(&mut memory);
        for number in 0..BLOBS {
            let kind = EntryKind::File { size: number as u64, executable: false, blob: Some(blob(number)) };
            let name = format!("{:08}", number % 100);
            let directory = format!("{:06}", number / 100);
            let entry = Entry { directory: directory.as_bytes(), name: name.as_bytes(), mtime_ns: 0, kind };
            memory.upsert(slot, &entry, |_| ()).unwrap();
        }
        memory.shares.slot_mut(slot).open = true;
    }
    memory.shares.peers[0].connected = true;
    let view = memory.shares.make_view(Vec::new());
    lookups(&memory, BLOBS);
    let batches: Vec<Vec<BlobId>> = (0..LOOKUPS / BATCH)
        .map(|batch| (0..BATCH).map(|at| blob((batch * BATCH + at) * 7_919 % BLOBS)).collect())
        .collect();
    for _ in 0..3 {
        let start = cpu();
        let peers: usize = batches.iter().map(|blobs| locate(&memory, &view, blobs, 10, false).peers.len()).sum();
        let each = each_ns(start, batches.len() * BATCH);
        println!("{each:.0} ns per blob located in a batch of {BATCH}, {peers} peers");
    }
}

fn lookups(memory: &Memory, count: usize) {
    let mut found = 0;
    let start = cpu();
    for number in 0..LOOKUPS {
        let blob = blob(number * 7_919 % count);
        for content in memory.contents.of_blob(&blob) {
            found += memory.rows_of_content(content).map(|row| memory.slot_of_row(row) + 1).sum::<u32>();
        }
    }
    println!("{:.0} ns per lookup, {found} found", each_ns(start, LOOKUPS));
}
