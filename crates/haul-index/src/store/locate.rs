//! Locating: who has these blobs, in numbers of peers; no path is read and no row either, only whose it is.
//!
//! The blobs of a request are looked up in stages, all of them together: slots of the table, then records, then what
//! says whose the rows are. So their cache misses overlap, and a blob costs about a fifth of what it costs alone.

use haul_core::ids::BlobId;
use haul_core::limits;
use haul_core::wire::index::{Located, LocatedBlob};

use super::Owners;
use super::lookup::Walk;
use super::memory::Memory;
use super::memory::shares::View;

/// Rows of a content that are looked at together with those of the other contents; most have no more.
const TOUCHED_ROWS: usize = 4;

pub(super) fn locate(memory: &Memory, view: &View, blobs: &[BlobId], max: usize, away: bool) -> Located {
    let (answers, peers) = (Vec::with_capacity(blobs.len()), Vec::with_capacity(blobs.len()));
    let mut located = Located { blobs: answers, peers, ..Located::default() };
    let found = memory.contents.of_blobs(blobs);
    let lists: Vec<u32> = found.iter().map(|(_, content)| memory.contents.rows(*content)).collect();
    std::hint::black_box(lists.iter().fold(0, |read, list| read ^ memory.touch_rows(*list)));
    let mut read = 0;
    for list in &lists {
        for row in memory.rows_in_one_piece(list).unwrap_or_default().iter().take(TOUCHED_ROWS) {
            read ^= memory.slot_of_row(*row);
        }
    }
    std::hint::black_box(read);
    let (mut best, mut other) = (Counted::default(), Counted::default());
    let mut walk = Walk::default();
    let mut found = found.into_iter().peekable();
    for number in 0..blobs.len() {
        best.clear();
        walk.begin_key();
        // Of several claimed sizes, the one that most places claim, then the smaller one.
        while let Some((_, content)) = found.next_if(|(of, _)| *of == number) {
            other.count(memory, view, content, away, &mut walk);
            if (other.total, u64::MAX - other.size) > (best.total, u64::MAX - best.size) {
                std::mem::swap(&mut best, &mut other);
            }
        }
        if best.total == 0 {
            best.clear();
        }
        let room = limits::LOCATED_PEERS - located.peers.len();
        located.peers.extend(best.there.iter().chain(&best.away).take(max.min(room)));
        let end = located.peers.len() as u32;
        located.blobs.push(LocatedBlob { size: best.size, total: best.total, end });
    }
    located
}

/// Who has a blob in this size.
pub(super) fn owners(memory: &Memory, view: &View, blob: BlobId, size: u64, away: bool) -> Owners {
    let Some(content) = memory.contents.of_size(&blob, size) else { return Owners::default() };
    let (mut counted, mut walk) = (Counted::default(), Walk::default());
    walk.begin_key();
    counted.count(memory, view, content, away, &mut walk);
    counted.there.append(&mut counted.away);
    Owners { total: counted.total, peers: counted.there }
}

/// What counts of one content.
#[derive(Default)]
struct Counted {
    size: u64,
    total: u32,
    /// Peers that are there, each once.
    there: Vec<u32>,
    /// Peers of which nothing is there.
    away: Vec<u32>,
}

impl Counted {
    fn clear(&mut self) {
        (self.size, self.total) = (0, 0);
        self.there.clear();
        self.away.clear();
    }

    fn count(&mut self, memory: &Memory, view: &View, content: u32, away: bool, walk: &mut Walk) {
        self.clear();
        self.size = memory.contents.size(content);
        let list = memory.contents.rows(content);
        match memory.rows_in_one_piece(&list) {
            Some(rows) => self.count_rows(memory, view, away, walk.rows(rows.iter().copied())),
            None => self.count_rows(memory, view, away, walk.rows(memory.rows_of_content(content))),
        }
    }

    fn count_rows(&mut self, memory: &Memory, view: &View, away: bool, rows: impl Iterator<Item = u32>) {
        for row in rows {
            let slot = memory.slot_of_row(row);
            let shown = view.shown.get(slot);
            let counts = shown || (away && view.allowed.get(slot));
            if !counts {
                continue;
            }
            let peers = if shown { &mut self.there } else { &mut self.away };
            peers.push(memory.shares.owner(slot));
            self.total += 1;
            if self.total == limits::LOCATED_PLACES {
                break;
            }
        }
        if self.total < 2 {
            return;
        }
        for peers in [&mut self.there, &mut self.away] {
            peers.sort_unstable();
            peers.dedup();
        }
        // A peer with one share open and another one away is there.
        self.away.retain(|peer| self.there.binary_search(peer).is_err());
    }
}
