//! Pieces of a blob as numbers: how many there are, runs of them, sets of them.

use alloc::vec::Vec;

use crate::blob::BlobGeometry;
use crate::limits::LEAF_BYTES;

/// Bytes of a whole piece. The planner counts the last one as whole, too.
pub fn piece_bytes(geometry: BlobGeometry) -> u64 {
    geometry.piece_leaves() * LEAF_BYTES
}

pub use crate::wire::index::{PieceRange, Runs};

/// A set of pieces of one blob, with a count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceSet {
    words: Vec<u64>,
    len: u32,
    count: u32,
}

impl PieceSet {
    /// The empty set over `pieces` pieces.
    pub fn new(pieces: u32) -> Self {
        Self { words: alloc::vec![0; pieces.div_ceil(64) as usize], len: pieces, count: 0 }
    }

    /// All of `pieces` pieces.
    pub fn full(pieces: u32) -> Self {
        let mut set = Self::new(pieces);
        for word in &mut set.words {
            *word = u64::MAX;
        }
        if let Some(last) = set.words.last_mut()
            && !pieces.is_multiple_of(64)
        {
            *last = (1 << (pieces % 64)) - 1;
        }
        set.count = pieces;
        set
    }

    /// Pieces that the set ranges over.
    pub fn pieces(&self) -> u32 {
        self.len
    }

    /// Pieces in the set.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether every piece is in the set.
    pub fn is_full(&self) -> bool {
        self.count == self.len
    }

    /// Whether `piece` is in the set; false beyond the end.
    pub fn contains(&self, piece: u32) -> bool {
        piece < self.len && self.words.get((piece / 64) as usize).is_some_and(|word| word >> (piece % 64) & 1 == 1)
    }

    /// Adds a piece; returns whether it was new. Beyond the end nothing happens.
    pub fn insert(&mut self, piece: u32) -> bool {
        if piece >= self.len || self.contains(piece) {
            return false;
        }
        if let Some(word) = self.words.get_mut((piece / 64) as usize) {
            *word |= 1 << (piece % 64);
            self.count += 1;
        }
        true
    }

    /// Adds these; false, and nothing is added, if some are beyond the end.
    pub fn insert_runs(&mut self, runs: &Runs) -> bool {
        if runs.end() > self.len {
            return false;
        }
        runs.pieces().for_each(|piece| {
            self.insert(piece);
        });
        true
    }

    /// Takes a piece out; returns whether it was there.
    pub fn remove(&mut self, piece: u32) -> bool {
        if !self.contains(piece) {
            return false;
        }
        if let Some(word) = self.words.get_mut((piece / 64) as usize) {
            *word &= !(1 << (piece % 64));
            self.count -= 1;
        }
        true
    }

    /// The pieces of the set in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(at, word)| bits(*word).map(move |bit| at as u32 * 64 + bit))
    }

    /// Words of 64 pieces, lowest piece in the lowest bit.
    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }
}

/// The positions of the ones in a word, ascending.
pub(super) fn bits(word: u64) -> impl Iterator<Item = u32> {
    let mut rest = word;
    core::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let bit = rest.trailing_zeros();
        rest &= rest - 1;
        Some(bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    #[test]
    fn the_last_piece_counts_however_short() {
        let pieces = |size| BlobGeometry::new(size).map(BlobGeometry::pieces);
        assert_eq!(pieces(0), Some(1));
        assert_eq!(pieces(256 * 1024), Some(1));
        assert_eq!(pieces(256 * 1024 + 1), Some(2));
        assert_eq!(pieces(1 << 30), Some(1024));
        assert_eq!(pieces(crate::limits::BLOB_BYTES), Some(1 << 21));
    }

    proptest! {
        #[test]
        fn piece_set_is_a_set(pieces in 1u32..200, operations in proptest::collection::vec((any::<bool>(), 0u32..210), 0..200)) {
            let mut set = PieceSet::new(pieces);
            let mut model = BTreeSet::new();
            for (insert, piece) in operations {
                if insert {
                    prop_assert_eq!(set.insert(piece), piece < pieces && model.insert(piece));
                } else {
                    prop_assert_eq!(set.remove(piece), model.remove(&piece));
                }
            }
            prop_assert_eq!(set.count() as usize, model.len());
            prop_assert_eq!(set.iter().collect::<BTreeSet<_>>(), model);
            let full = PieceSet::full(pieces);
            prop_assert!(full.is_full());
            prop_assert_eq!(full.iter().count() as u32, pieces);
        }
    }
}
