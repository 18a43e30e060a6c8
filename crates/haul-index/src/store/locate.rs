//! Locating: who has these blobs, in numbers of peers; no path is read.

use haul_core::ids::BlobId;
use haul_core::limits;
use haul_core::wire::index::{Located, LocatedBlob};

use super::memory::Memory;
use super::memory::shares::View;

pub(super) fn locate(memory: &Memory, view: &View, blobs: &[BlobId], max: usize, away: bool) -> Located {
    let mut located = Located { blobs: Vec::with_capacity(blobs.len()), ..Located::default() };
    for blob in blobs {
        // Of several claimed sizes, the one that most places claim, then the smaller one.
        let contents = memory.contents.of_blob(blob).into_iter();
        let counted = contents.map(|content| count(memory, view, content, away)).filter(|counted| counted.total > 0);
        let best = counted.max_by_key(|counted| (counted.total, u64::MAX - counted.size)).unwrap_or_default();
        let room = limits::LOCATED_PEERS - located.peers.len();
        let peers = best.there.into_iter().chain(best.away).take(max.min(room));
        located.peers.extend(peers);
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

fn count(memory: &Memory, view: &View, content: u32, away: bool) -> Counted {
    let mut counted = Counted { size: memory.contents.get(content).size(), ..Counted::default() };
    for row in memory.rows_of_content(content) {
        let slot = memory.row(row).slot();
        let shown = view.shown.get(slot);
        let counts = shown || (away && view.allowed.get(slot));
        if !counts {
            continue;
        }
        let peers = if shown { &mut counted.there } else { &mut counted.away };
        peers.push(memory.shares.slot(slot).peer);
        counted.total += 1;
        if counted.total == limits::LOCATED_PLACES {
            break;
        }
    }
    for peers in [&mut counted.there, &mut counted.away] {
        peers.sort_unstable();
        peers.dedup();
    }
    // A peer with one share open and another one away is there.
    counted.away.retain(|peer| counted.there.binary_search(peer).is_err());
    counted
}
