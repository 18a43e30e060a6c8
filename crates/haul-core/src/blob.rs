//! Geometry of a blob: leaves, pieces and sheets as checked numbers, and sets of leaves.

use alloc::vec::Vec;
use core::ops::Range;

use crate::limits::{BLOB_BYTES, LEAF_BYTES, SHEET_LEAVES};

const MIB: u64 = 1024 * 1024;

/// How a blob of one size divides into leaves, pieces and sheets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobGeometry {
    size: u64,
}

impl BlobGeometry {
    /// Geometry of a blob of `size` bytes; none above [`BLOB_BYTES`].
    pub fn new(size: u64) -> Option<Self> {
        (size <= BLOB_BYTES).then_some(Self { size })
    }

    /// Bytes of the blob.
    pub fn size(self) -> u64 {
        self.size
    }

    /// Number of leaves; the empty blob has one, of no bytes.
    pub fn leaves(self) -> u64 {
        self.size.div_ceil(LEAF_BYTES).max(1)
    }

    /// Byte range of a leaf; the last one may be short. `leaf` must be below [`Self::leaves`].
    pub fn leaf_range(self, leaf: u64) -> Range<u64> {
        assert!(leaf < self.leaves(), "leaf {leaf} of {}", self.leaves());
        let start = leaf * LEAF_BYTES;
        start..(start + LEAF_BYTES).min(self.size)
    }

    /// Bytes of a leaf.
    pub fn leaf_bytes(self, leaf: u64) -> usize {
        let range = self.leaf_range(leaf);
        (range.end - range.start) as usize
    }

    /// Number of sheets of the outline. A blob of one leaf needs none: its hash is its id.
    pub fn sheets(self) -> u64 {
        if self.leaves() == 1 { 0 } else { self.leaves().div_ceil(SHEET_LEAVES) }
    }

    /// The leaves whose chaining values stand on a sheet.
    pub fn sheet_leaves(self, sheet: u64) -> Range<u64> {
        assert!(sheet < self.sheets(), "sheet {sheet} of {}", self.sheets());
        let start = sheet * SHEET_LEAVES;
        start..(start + SHEET_LEAVES).min(self.leaves())
    }

    /// Leaves per piece: 256 KiB below 64 MiB, 4 MiB above 16 GiB, 1 MiB between.
    pub fn piece_leaves(self) -> u64 {
        let bytes = match self.size {
            size if size < 64 * MIB => MIB / 4,
            size if size > 16 * 1024 * MIB => 4 * MIB,
            _ => MIB,
        };
        bytes / LEAF_BYTES
    }

    /// Number of pieces; the last one may be short.
    pub fn pieces(self) -> u32 {
        // At least 256 KiB each, and 4 MiB where there are 8 TiB: at most 2^21.
        self.leaves().div_ceil(self.piece_leaves()) as u32
    }
}

/// A set of leaves of one blob, with a count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafSet {
    words: Vec<u64>,
    len: u64,
    count: u64,
}

impl LeafSet {
    /// The empty set over `leaves` leaves.
    pub fn new(leaves: u64) -> Self {
        Self { words: alloc::vec![0; leaves.div_ceil(64) as usize], len: leaves, count: 0 }
    }

    /// The set of all of `leaves` leaves.
    pub fn full(leaves: u64) -> Self {
        let mut words = alloc::vec![u64::MAX; leaves.div_ceil(64) as usize];
        if let Some(last) = words.last_mut().filter(|_| !leaves.is_multiple_of(64)) {
            *last >>= 64 - leaves % 64;
        }
        Self { words, len: leaves, count: leaves }
    }

    /// From little-endian bytes as [`Self::to_bytes`] writes them; none if the length differs or a bit beyond the
    /// last leaf is set.
    pub fn from_bytes(leaves: u64, bytes: &[u8]) -> Option<Self> {
        let (chunks, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() || chunks.len() as u64 != leaves.div_ceil(64) {
            return None;
        }
        let words: Vec<u64> = chunks.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect();
        if let Some(last) = words.last()
            && !leaves.is_multiple_of(64)
            && last >> (leaves % 64) != 0
        {
            return None;
        }
        let count = words.iter().map(|word| u64::from(word.count_ones())).sum();
        Some(Self { words, len: leaves, count })
    }

    /// Little-endian words of 64 leaves, lowest leaf in the lowest bit.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Leaves that the set ranges over.
    pub fn leaves(&self) -> u64 {
        self.len
    }

    /// Leaves in the set.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether every leaf is in the set.
    pub fn is_full(&self) -> bool {
        self.count == self.len
    }

    /// Whether `leaf` is in the set; false beyond the end.
    pub fn contains(&self, leaf: u64) -> bool {
        leaf < self.len && self.words.get((leaf / 64) as usize).is_some_and(|word| word >> (leaf % 64) & 1 == 1)
    }

    /// The leaves from `first` up to the next multiple of 64, lowest bit first.
    pub fn bits(&self, first: u64) -> u64 {
        self.words.get((first / 64) as usize).map_or(0, |word| word >> (first % 64))
    }

    /// Adds a leaf; returns whether it was new. Beyond the end nothing happens.
    pub fn insert(&mut self, leaf: u64) -> bool {
        if leaf >= self.len || self.contains(leaf) {
            return false;
        }
        if let Some(word) = self.words.get_mut((leaf / 64) as usize) {
            *word |= 1 << (leaf % 64);
            self.count += 1;
        }
        true
    }

    /// Takes a leaf out; returns whether it was there.
    pub fn remove(&mut self, leaf: u64) -> bool {
        if !self.contains(leaf) {
            return false;
        }
        if let Some(word) = self.words.get_mut((leaf / 64) as usize) {
            *word &= !(1 << (leaf % 64));
            self.count -= 1;
        }
        true
    }

    /// Adds all leaves of another set over the same leaves.
    pub fn unite(&mut self, other: &Self) {
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            self.count += u64::from((more & !*word).count_ones());
            *word |= more;
        }
    }

    /// Whether some leaf of this set is not in another over the same leaves.
    pub fn exceeds(&self, other: &Self) -> bool {
        self.words.iter().zip(&other.words).any(|(mine, theirs)| mine & !theirs != 0)
    }

    /// The first leaf at or after `from` that is not in the set.
    pub fn next_missing(&self, from: u64) -> Option<u64> {
        let mut leaf = from;
        while leaf < self.len {
            let word = self.words.get((leaf / 64) as usize).copied().unwrap_or(0);
            let free = (!word) >> (leaf % 64);
            if free != 0 {
                let found = leaf + u64::from(free.trailing_zeros());
                return (found < self.len).then_some(found);
            }
            leaf = (leaf / 64 + 1) * 64;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    #[test]
    fn borders_of_a_leaf() {
        for (size, leaves, last) in [
            (0, 1, 0),
            (1, 1, 1),
            (LEAF_BYTES - 1, 1, LEAF_BYTES - 1),
            (LEAF_BYTES, 1, LEAF_BYTES),
            (LEAF_BYTES + 1, 2, 1),
            (BLOB_BYTES, BLOB_BYTES / LEAF_BYTES, LEAF_BYTES),
        ] {
            let geometry = BlobGeometry::new(size).expect("allowed size");
            assert_eq!(geometry.leaves(), leaves, "{size}");
            assert_eq!(geometry.leaf_bytes(leaves - 1) as u64, last, "{size}");
            assert_eq!(geometry.sheets() == 0, leaves == 1);
        }
        assert_eq!(BlobGeometry::new(BLOB_BYTES + 1), None);
    }

    #[test]
    fn pieces_grow_with_the_blob() {
        let pieces = |size| BlobGeometry::new(size).map(|geometry| geometry.piece_leaves() * LEAF_BYTES);
        assert_eq!(pieces(64 * MIB - 1), Some(MIB / 4));
        assert_eq!(pieces(64 * MIB), Some(MIB));
        assert_eq!(pieces(16 * 1024 * MIB), Some(MIB));
        assert_eq!(pieces(16 * 1024 * MIB + 1), Some(4 * MIB));
    }

    proptest! {
        #[test]
        fn leaf_set_is_a_set(leaves in 1u64..300, operations in proptest::collection::vec((any::<bool>(), 0u64..320), 0..200)) {
            let mut set = LeafSet::new(leaves);
            let mut model = BTreeSet::new();
            for (insert, leaf) in operations {
                if insert {
                    prop_assert_eq!(set.insert(leaf), leaf < leaves && model.insert(leaf));
                } else {
                    prop_assert_eq!(set.remove(leaf), model.remove(&leaf));
                }
            }
            prop_assert_eq!(set.count(), model.len() as u64);
            for from in 0..leaves {
                prop_assert_eq!(set.bits(from) & 1 == 1, model.contains(&from));
                prop_assert_eq!(set.next_missing(from), (from..leaves).find(|leaf| !model.contains(leaf)));
            }
            prop_assert_eq!(LeafSet::from_bytes(leaves, &set.to_bytes()), Some(set));
            let full = LeafSet::full(leaves);
            prop_assert!(full.is_full());
            prop_assert_eq!(LeafSet::from_bytes(leaves, &full.to_bytes()), Some(full));
        }

        #[test]
        fn sets_unite(leaves in 1u64..300, both in proptest::collection::vec((any::<bool>(), 0u64..320), 0..100)) {
            let (mut one, mut other) = (LeafSet::new(leaves), LeafSet::new(leaves));
            for (first, leaf) in both {
                if first { one.insert(leaf); } else { other.insert(leaf); }
            }
            let mut united = one.clone();
            united.unite(&other);
            let either = |leaf: u64| one.contains(leaf) || other.contains(leaf);
            prop_assert!((0..leaves).all(|leaf| united.contains(leaf) == either(leaf)));
            prop_assert_eq!(united.count(), (0..leaves).filter(|leaf| either(*leaf)).count() as u64);
            prop_assert_eq!(one.exceeds(&other), united != other);
            prop_assert!(!one.exceeds(&united));
        }
    }

    #[test]
    fn bits_beyond_the_end_are_refused() {
        assert_eq!(LeafSet::from_bytes(3, &[0b1000, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(LeafSet::from_bytes(3, &[0b111; 7]), None);
        assert!(LeafSet::from_bytes(3, &[0b111, 0, 0, 0, 0, 0, 0, 0]).is_some_and(|set| set.is_full()));
    }
}
