//! A download's place in the swarm of its blob: what the index tells of the others, and what it is told.

use std::time::Duration;

use haul_core::blob::{BlobGeometry, LeafSet};
use haul_core::ids::PeerId;
use haul_core::wire::Label;
use haul_core::wire::index::{PieceRange, PlannedSource, Received, SwarmPeer};
use tokio::sync::mpsc;

/// What is new in a swarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SwarmNews {
    /// The index has taken this peer in.
    Joined {
        /// Groups that it may pass the blob on to; none means everyone.
        groups: Vec<Label>,
    },
    /// The index keeps no place for it: it knows nobody who has the blob, or this peer may not pass it on.
    Alone,
    /// Others that hold all or parts of the blob.
    Peers(Vec<SwarmPeer>),
    /// Which pieces to ask of whom.
    Plan {
        /// How long it holds.
        lease: Duration,
        /// Peers with their pieces, in order.
        sources: Vec<PlannedSource>,
    },
}

/// Tells the index of a swarm what this peer holds; dropping it departs.
pub trait SwarmSeat: Send + Sync + std::fmt::Debug {
    /// What is new since the last call.
    fn have(&self, report: &Report);
    /// Groups that the blob may be passed on to, as the index said last; no groups mean everyone. None if it has said
    /// nothing yet, or keeps no place for it any more.
    fn groups(&self) -> Option<Vec<Label>>;
}

/// What a download tells the index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Pieces that are verified now.
    pub pieces: Vec<PieceRange>,
    /// What came from whom.
    pub received: Vec<Received>,
    /// Peers that did not give what they should hold.
    pub failed: Vec<PeerId>,
}

/// A new place in a swarm.
#[derive(Debug)]
pub struct Seat {
    /// Tells the index.
    pub seat: Box<dyn SwarmSeat>,
    /// What the index tells.
    pub news: mpsc::UnboundedReceiver<SwarmNews>,
}

/// The runs of whole pieces in a set of leaves.
pub(crate) fn whole_pieces(geometry: BlobGeometry, leaves: &LeafSet) -> Vec<PieceRange> {
    let mut runs: Vec<PieceRange> = Vec::new();
    let mut from = 0;
    while from < geometry.leaves() {
        let piece = from / geometry.piece_leaves();
        let end = ((piece + 1) * geometry.piece_leaves()).min(geometry.leaves());
        match leaves.next_missing(from) {
            Some(missing) if missing < end => {}
            // The largest blob has 2 Mi pieces.
            _ => PieceRange::push(&mut runs, piece as u32),
        }
        from = end;
    }
    runs
}

/// The leaves of runs of pieces, cut to the blob.
pub(crate) fn leaves_of(geometry: BlobGeometry, pieces: &[PieceRange]) -> Vec<std::ops::Range<u64>> {
    let unit = geometry.piece_leaves();
    let run = |run: &PieceRange| {
        let first = u64::from(run.first) * unit;
        let end = (u64::from(run.first) + u64::from(run.count)) * unit;
        first..end.min(geometry.leaves())
    };
    pieces.iter().map(run).filter(|leaves| !leaves.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_whole_pieces_are_told() {
        // 10 leaves in pieces of 4: the last piece is short.
        let geometry = BlobGeometry::new(10 * 65_536 - 5).unwrap();
        let set = |leaves: &[u64]| {
            let mut set = LeafSet::new(10);
            for leaf in leaves {
                set.insert(*leaf);
            }
            set
        };
        let run = |first, count| PieceRange { first, count };
        assert_eq!(whole_pieces(geometry, &set(&[0, 1, 2])), []);
        assert_eq!(whole_pieces(geometry, &set(&[0, 1, 2, 3, 5, 8, 9])), [run(0, 1), run(2, 1)]);
        assert_eq!(whole_pieces(geometry, &set(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9])), [run(0, 3)]);
        assert_eq!(leaves_of(geometry, &[run(0, 1), run(1, 2), run(9, 4)]), [0..4, 4..10]);
    }
}
