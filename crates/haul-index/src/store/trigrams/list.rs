//! Posting lists: ascending ordinals of one segment, packed.
//!
//! | list | bytes |
//! | --- | --- |
//! | more than every [`DENSE`]th ordinal | a bitmap |
//! | up to [`BLOCK`] ordinals | one block, counted from 0 |
//! | longer | for each block its first ordinal (u32) and where it starts (u32); then the blocks |
//!
//! A block is coded after Elias and Fano (Vigna, "Quasi-succinct indices", WSDM 2013): a byte `l`, the low `l` bits of
//! every ordinal less the first, then the high bits in unary. That takes about 2 bits more than the logarithm of the
//! mean distance, half a bit above the least that is possible for random ordinals and a bit below packed differences,
//! and a single ordinal can be looked up without unpacking its block.

/// Ordinals of one block.
pub(super) const BLOCK: usize = 256;
/// A list that has more than every fifth ordinal is a bitmap: a block would take 4 to 5 bits for each.
const DENSE: u32 = 5;
/// From this many candidates in a block on it is unpacked whole: unpacking takes as long as this many look-ups.
const UNPACK: usize = 12;

/// Bytes behind the last list that make it safe to read eight at once.
pub(super) const PADDING: usize = 8;

fn is_dense(count: u32, docs: u32) -> bool {
    u64::from(count) * u64::from(DENSE) > u64::from(docs)
}

/// Appends bits to bytes.
struct Bits<'a> {
    out: &'a mut Vec<u8>,
    waiting: u64,
    filled: u32,
}

impl Bits<'_> {
    /// The lowest `count` bits of a value; at most 32.
    fn push(&mut self, value: u64, count: u32) {
        self.waiting |= value << self.filled;
        self.filled += count;
        while self.filled >= 8 {
            self.out.push(self.waiting as u8);
            self.waiting >>= 8;
            self.filled -= 8;
        }
    }

    fn finish(self) {
        if self.filled > 0 {
            self.out.push(self.waiting as u8);
        }
    }
}

/// Appends the list of these ascending ordinals, all below `docs`.
pub(super) fn encode(out: &mut Vec<u8>, ordinals: &[u32], docs: u32) {
    if is_dense(ordinals.len() as u32, docs) {
        let start = out.len();
        out.resize(start + (docs as usize).div_ceil(8), 0);
        for ordinal in ordinals {
            out[start + *ordinal as usize / 8] |= 1 << (ordinal % 8);
        }
        return;
    }
    if ordinals.len() <= BLOCK {
        encode_block(out, 0, ordinals);
        return;
    }
    let start = out.len();
    out.resize(start + ordinals.len().div_ceil(BLOCK) * 8, 0);
    for (number, block) in ordinals.chunks(BLOCK).enumerate() {
        let (first, offset) = (block[0], (out.len() - start) as u32);
        let entry = start + number * 8;
        out[entry..entry + 4].copy_from_slice(&first.to_le_bytes());
        out[entry + 4..entry + 8].copy_from_slice(&offset.to_le_bytes());
        encode_block(out, first, block);
    }
}

fn encode_block(out: &mut Vec<u8>, base: u32, ordinals: &[u32]) {
    let Some(last) = ordinals.last() else { return };
    let low_bits = ((last - base) / ordinals.len() as u32).checked_ilog2().unwrap_or(0);
    out.push(low_bits as u8);
    let mut bits = Bits { out, waiting: 0, filled: 0 };
    for ordinal in ordinals {
        bits.push(u64::from(ordinal - base) & low_mask(low_bits), low_bits);
    }
    let mut before = 0;
    for ordinal in ordinals {
        let high = (ordinal - base) >> low_bits;
        let mut zeros = high - before;
        while zeros >= 32 {
            bits.push(0, 32);
            zeros -= 32;
        }
        bits.push(1 << zeros, zeros + 1);
        before = high;
    }
    bits.finish();
}

fn low_mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

/// 64 bits from any bit on; zeros behind the end. The top 7 may be missing.
fn word_at(bytes: &[u8], bit: usize) -> u64 {
    let at = bit / 8;
    match bytes.get(at..at + 8).and_then(|eight| <[u8; 8]>::try_from(eight).ok()) {
        Some(eight) => u64::from_le_bytes(eight) >> (bit % 8),
        None => 0,
    }
}

/// A list where it stands.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct List<'a> {
    /// From the start of the list to the end of all lists.
    bytes: &'a [u8],
    count: u32,
    /// Documents of the segment.
    docs: u32,
}

struct Block<'a> {
    bytes: &'a [u8],
    base: u32,
    len: usize,
}

impl<'a> List<'a> {
    pub(super) fn new(bytes: &'a [u8], count: u32, docs: u32) -> Self {
        Self { bytes, count, docs }
    }

    /// Ordinals on the list.
    pub(in crate::store) fn count(&self) -> u32 {
        self.count
    }

    /// Tells lists of one segment apart.
    pub(super) fn place(&self) -> usize {
        self.bytes.len()
    }

    fn blocks(&self) -> usize {
        (self.count as usize).div_ceil(BLOCK)
    }

    /// The first ordinal of a block; the end of all ordinals behind the last.
    fn first(&self, block: usize) -> u32 {
        if block >= self.blocks() {
            return u32::MAX;
        }
        if self.blocks() == 1 { 0 } else { word_at(self.bytes, block * 64) as u32 }
    }

    fn block(&self, number: usize) -> Block<'a> {
        let blocks = self.blocks();
        if blocks == 1 {
            return Block { bytes: self.bytes, base: 0, len: self.count as usize };
        }
        let entry = word_at(self.bytes, number * 64);
        let offset = (entry >> 32) as usize;
        let len = if number + 1 == blocks { self.count as usize - number * BLOCK } else { BLOCK };
        Block { bytes: self.bytes.get(offset..).unwrap_or_default(), base: entry as u32, len }
    }

    /// The last block from `from` on that starts at or before an ordinal.
    fn block_of(&self, from: usize, ordinal: u32) -> usize {
        let mut step = 1;
        let mut low = from;
        while self.first(low + step) <= ordinal {
            low += step;
            step *= 2;
        }
        let mut high = low + step;
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.first(middle) <= ordinal {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }

    fn is_bitmap(&self) -> bool {
        is_dense(self.count, self.docs)
    }

    fn bit(&self, ordinal: u32) -> bool {
        self.bytes.get(ordinal as usize / 8).is_some_and(|byte| byte >> (ordinal % 8) & 1 == 1)
    }

    /// Keeps of these ascending ordinals those that are on the list.
    pub(in crate::store) fn retain(&self, found: &mut Vec<u32>) {
        if self.is_bitmap() {
            found.retain(|ordinal| self.bit(*ordinal));
            return;
        }
        let mut unpacked = Vec::new();
        let (mut at, mut kept, mut block) = (0, 0, 0);
        while let Some(ordinal) = found.get(at).copied() {
            block = self.block_of(block, ordinal);
            let end = self.first(block + 1);
            let until = at + found[at..].iter().take_while(|ordinal| **ordinal < end).count();
            let here = self.block(block);
            if until - at < UNPACK {
                for next in at..until {
                    let ordinal = found[next];
                    found[kept] = ordinal;
                    kept += usize::from(here.contains(ordinal));
                }
            } else {
                unpacked.clear();
                here.unpack(&mut unpacked);
                let mut others = unpacked.iter().copied().peekable();
                for next in at..until {
                    let ordinal = found[next];
                    while others.next_if(|other| *other < ordinal).is_some() {}
                    found[kept] = ordinal;
                    kept += usize::from(others.peek() == Some(&ordinal));
                }
            }
            at = until;
        }
        found.truncate(kept);
    }
}

impl Block<'_> {
    fn low_bits(&self) -> u32 {
        self.bytes.first().map_or(0, |bits| u32::from(*bits).min(31))
    }

    fn unpack(&self, out: &mut Vec<u32>) {
        let low_bits = self.low_bits();
        let mask = low_mask(low_bits);
        let mut low_at = 8;
        let mut high_at = 8 + self.len * low_bits as usize;
        // Bits of `word` start at `high_at`; only its lowest 56 are there for sure.
        let mut word = word_at(self.bytes, high_at) & low_mask(56);
        let mut consumed = 0usize;
        out.reserve(self.len);
        for number in 0..self.len {
            while word == 0 {
                if high_at / 8 > self.bytes.len() {
                    return;
                }
                high_at += 56;
                consumed += 56;
                word = word_at(self.bytes, high_at) & low_mask(56);
            }
            let one = consumed + word.trailing_zeros() as usize;
            word &= word - 1;
            let low = word_at(self.bytes, low_at) & mask;
            low_at += low_bits as usize;
            out.push(self.base + ((((one - number) as u64) << low_bits) | low) as u32);
        }
    }

    fn contains(&self, ordinal: u32) -> bool {
        let Some(distance) = ordinal.checked_sub(self.base) else { return false };
        let low_bits = self.low_bits();
        let mask = low_mask(low_bits);
        let wanted_low = u64::from(distance) & mask;
        let bucket = (distance >> low_bits) as usize;
        let start = 8 + self.len * low_bits as usize;
        let Some(mut at) = self.bucket_start(start, bucket) else { return false };
        // Ones before the bucket are the ordinals before it.
        let mut number = at - bucket;
        while number < self.len && word_at(self.bytes, start + at) & 1 == 1 {
            let low = word_at(self.bytes, 8 + number * low_bits as usize) & mask;
            if low >= wanted_low {
                return low == wanted_low;
            }
            at += 1;
            number += 1;
        }
        false
    }

    /// Where, from `start` on, the bits behind `bucket` zeros begin.
    fn bucket_start(&self, start: usize, bucket: usize) -> Option<usize> {
        let mut zeros_left = bucket;
        let mut at = 0;
        while zeros_left > 0 {
            // Every ordinal is a one and no bucket behind the last has any.
            if at - (bucket - zeros_left) >= self.len {
                return None;
            }
            let zeros = !word_at(self.bytes, start + at) & low_mask(56);
            let here = zeros.count_ones() as usize;
            if here >= zeros_left {
                let mut rest = zeros;
                for _ in 1..zeros_left {
                    rest &= rest - 1;
                }
                return Some(at + rest.trailing_zeros() as usize + 1);
            }
            zeros_left -= here;
            at += 56;
        }
        Some(at)
    }
}

/// Reads a list from front to back.
#[derive(Debug)]
pub(in crate::store) struct Reader<'a> {
    list: List<'a>,
    /// Next block, or of a bitmap the next ordinal / 64.
    next_block: usize,
    unpacked: Vec<u32>,
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first ordinal that is not below `from`.
    pub(in crate::store) fn new(list: List<'a>, from: u32) -> Self {
        let mut reader = Self { list, next_block: 0, unpacked: Vec::new(), at: 0 };
        if list.is_bitmap() {
            reader.next_block = from as usize / 64;
        } else if list.count > 0 {
            reader.next_block = list.block_of(0, from);
        }
        while reader.peek().is_some_and(|ordinal| ordinal < from) {
            reader.at += 1;
        }
        reader
    }

    fn fill(&mut self) -> bool {
        self.unpacked.clear();
        self.at = 0;
        if self.list.is_bitmap() {
            while self.unpacked.is_empty() && self.next_block * 64 < self.list.docs as usize {
                let first = self.next_block * 64;
                let bytes = self.list.bytes.get(first / 8..).unwrap_or_default();
                let mut word = 0;
                for (place, byte) in bytes.iter().take(8).enumerate() {
                    word |= u64::from(*byte) << (place * 8);
                }
                let left = self.list.docs as usize - first;
                if left < 64 {
                    word &= (1 << left) - 1;
                }
                while word != 0 {
                    self.unpacked.push((first + word.trailing_zeros() as usize) as u32);
                    word &= word - 1;
                }
                self.next_block += 1;
            }
        } else if self.next_block < self.list.blocks() {
            self.list.block(self.next_block).unpack(&mut self.unpacked);
            self.next_block += 1;
        }
        !self.unpacked.is_empty()
    }

    /// The next ordinal, which stays.
    pub(in crate::store) fn peek(&mut self) -> Option<u32> {
        if self.at >= self.unpacked.len() && !self.fill() {
            return None;
        }
        self.unpacked.get(self.at).copied()
    }

    /// Appends at least `count` ordinals if there are so many; returns whether more follow.
    pub(in crate::store) fn take(&mut self, count: usize, out: &mut Vec<u32>) -> bool {
        let end = out.len() + count;
        while out.len() < end {
            if self.peek().is_none() {
                return false;
            }
            out.extend_from_slice(&self.unpacked[self.at..]);
            self.at = self.unpacked.len();
        }
        self.peek().is_some()
    }

    /// Calls `with` for the ordinals below `end`.
    pub(in crate::store) fn take_below(&mut self, end: u32, mut with: impl FnMut(u32)) {
        while self.peek().is_some() {
            while let Some(ordinal) = self.unpacked.get(self.at).copied() {
                if ordinal >= end {
                    return;
                }
                with(ordinal);
                self.at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Sets of every density, in runs and scattered, with the number of documents.
    fn sets() -> impl Strategy<Value = (u32, BTreeSet<u32>)> {
        (1u32..3_000, 1u32..40, any::<bool>()).prop_flat_map(|(count, distance, far)| {
            let docs = if far { count * distance * 1_000 } else { count * distance };
            proptest::collection::btree_set(
                prop_oneof![0..docs, 0..docs.min(300), docs.saturating_sub(70)..docs],
                0..=(count as usize).min(docs as usize / 2),
            )
            .prop_map(move |set| (docs, set))
        })
    }

    fn bytes_of(docs: u32, set: &BTreeSet<u32>) -> Vec<u8> {
        let ordinals: Vec<u32> = set.iter().copied().collect();
        let mut bytes = Vec::new();
        encode(&mut bytes, &ordinals, docs);
        // What follows in a segment is another list, not zeros.
        bytes.extend([0xa5; PADDING]);
        bytes
    }

    proptest! {
        #[test]
        fn a_list_is_its_set((docs, set) in sets(), from in any::<u32>(), asked in proptest::collection::btree_set(any::<u32>(), 0..400)) {
            let bytes = bytes_of(docs, &set);
            let list = List::new(&bytes, set.len() as u32, docs);
            let from = from % (docs + 2);
            let mut all = Vec::new();
            prop_assert!(!Reader::new(list, from).take(usize::MAX / 2, &mut all));
            prop_assert_eq!(&all, &set.range(from..).copied().collect::<Vec<_>>());
            let mut below = Vec::new();
            let mut reader = Reader::new(list, 0);
            reader.take_below(from, |ordinal| below.push(ordinal));
            prop_assert_eq!(&below, &set.range(..from).copied().collect::<Vec<_>>());
            prop_assert_eq!(reader.peek(), set.range(from..).next().copied());
            let asked: BTreeSet<u32> = asked.into_iter().map(|ordinal| ordinal % docs).chain(set.iter().copied().step_by(3)).collect();
            let mut found: Vec<u32> = asked.iter().copied().collect();
            list.retain(&mut found);
            prop_assert_eq!(found, asked.intersection(&set).copied().collect::<Vec<_>>());
        }

        #[test]
        fn damaged_lists_end(bytes in proptest::collection::vec(any::<u8>(), 0..3_000), count in 0u32..2_000, docs in 1u32..5_000_000) {
            let list = List::new(&bytes, count, docs);
            let mut all = Vec::new();
            for block in 0..list.blocks() {
                list.block(block).unpack(&mut all);
                list.block(block).contains(docs / 2);
            }
        }
    }

    #[test]
    fn random_lists_take_half_a_bit_more_than_they_must() {
        // Every 1,000th on average: 9.97 + 1.44 bits are the least.
        let mut state = 1u64;
        let set: BTreeSet<u32> = (0..100_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as u32 % 100_000_000
            })
            .collect();
        let bits = bytes_of(100_000_000, &set).len() as f64 * 8.0 / set.len() as f64;
        assert!(bits < 12.4, "{bits}");
    }
}
