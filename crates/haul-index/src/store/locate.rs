//! Locating: who has these blobs, in numbers of peers; no path is read and no row either, only whose it is.
//!
//! The blobs of a request are looked up in stages, all of them together: slots of the table, then records, then what
//! says whose the rows are. So their cache misses overlap, and a blob costs about a fifth of what it costs alone.

use haul_core::ids::BlobId;
use haul_core::limits;
use haul_core::wire::index::{Located, LocatedBlob};

use super::lookup::Walk;
use super::memory::Memory;
use super::memory::shares::View;

pub(super) fn locate(memory: &Memory, view: &View, blobs: &[BlobId], max: usize, away: bool) -> Located {
    let mut located = Located { blobs: Vec::with_capacity(blobs.len()), ..Located::default() };
    let found = memory.contents.of_blobs(blobs);
    let firsts = found.iter().filter_map(|(_, content)| memory.rows_of_content(*content).next());
    std::hint::black_box(firsts.fold(0, |sum, row| sum ^ memory.slot_of_row(row)));
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
        self.size = memory.contents.get(content).size();
        for row in walk.rows(memory.rows_of_content(content)) {
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
        for peers in [&mut self.there, &mut self.away] {
            peers.sort_unstable();
            peers.dedup();
        }
        // A peer with one share open and another one away is there.
        self.away.retain(|peer| self.there.binary_search(peer).is_err());
    }
}
