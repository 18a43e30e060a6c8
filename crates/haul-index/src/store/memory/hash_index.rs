//! Hash tables from keys that stand elsewhere to their numbers, six bytes a slot.
//!
//! A slot is 16 bits of the key's hash (the tag) and the number. 4,096 shards grow one by one, each by an eighth, so
//! nothing ever doubles and no growth takes long: ten million numbers are shards of 2,400, moved in a few microseconds.
//! Within a shard slots stand in the order of their tags, each at or behind its home `tag * capacity / 65536`, with no
//! gap between home and slot. So a tag that is not there is noticed as early as one that is, and a shard may be filled
//! to nine tenths. The tag alone says where a slot belongs: growing reads no keys.

use super::NONE;

const SHARD_BITS: u32 = 12;
/// Shards of every table.
pub(in crate::store) const SHARDS: usize = 1 << SHARD_BITS;
/// Slots that a shard starts with.
const FIRST: usize = 4;
/// Slots kept free behind the last home, for a run that ends there.
const TAIL: usize = 8;

/// What is kept of a key's hash.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Key {
    shard: u16,
    tag: u16,
}

impl Key {
    /// Of a hash of 64 good bits.
    pub(in crate::store) fn of(hash: u64) -> Self {
        Self { shard: (hash >> (64 - SHARD_BITS)) as u16, tag: hash as u16 }
    }

    /// In the shard of one's choice (its lowest 12 bits).
    pub(in crate::store) fn in_shard(shard: u16, hash: u64) -> Self {
        Self { shard: shard & (SHARDS as u16 - 1), tag: hash as u16 }
    }
}

/// Tag, and the number in two halves, so that a slot needs no padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slot {
    tag: u16,
    low: u16,
    high: u16,
}

impl Slot {
    const EMPTY: Self = Self { tag: u16::MAX, low: u16::MAX, high: u16::MAX };

    fn new(tag: u16, number: u32) -> Self {
        Self { tag, low: number as u16, high: (number >> 16) as u16 }
    }

    fn number(self) -> u32 {
        u32::from(self.high) << 16 | u32::from(self.low)
    }

    fn is_empty(self) -> bool {
        self.number() == NONE
    }
}

#[derive(Clone, Debug, Default)]
struct Shard {
    slots: Vec<Slot>,
    capacity: u32,
    used: u32,
}

impl Shard {
    fn home(&self, tag: u16) -> usize {
        (usize::from(tag) * self.capacity as usize) >> 16
    }

    fn run(&self, tag: u16) -> &[Slot] {
        self.slots.get(self.home(tag)..).unwrap_or_default()
    }

    fn insert(&mut self, tag: u16, number: u32) {
        if self.used as usize * 10 >= self.capacity as usize * 9 {
            self.resize(self.capacity as usize + self.capacity as usize / 8 + FIRST);
        }
        let home = self.home(tag);
        let run = self.slots.get(home..).unwrap_or_default();
        let at = home + run.iter().take_while(|slot| !slot.is_empty() && slot.tag <= tag).count();
        let rest = self.slots.get(at..).unwrap_or_default();
        let end = at + rest.iter().take_while(|slot| !slot.is_empty()).count();
        if end == self.slots.len() {
            if self.slots.len() == self.slots.capacity() {
                self.slots.reserve_exact(TAIL);
            }
            self.slots.push(Slot::EMPTY);
        }
        self.slots.copy_within(at..end, at + 1);
        self.slots[at] = Slot::new(tag, number);
        self.used += 1;
    }

    fn remove(&mut self, tag: u16, number: u32) -> bool {
        let wanted = Slot::new(tag, number);
        let run = self.run(tag).iter().take_while(|slot| !slot.is_empty() && slot.tag <= tag);
        let Some(at) = run.copied().position(|slot| slot == wanted) else { return false };
        let at = self.home(tag) + at;
        // What stands behind moves up as far as its home allows.
        let moved = (at + 1..self.slots.len())
            .take_while(|next| !self.slots[*next].is_empty() && self.home(self.slots[*next].tag) < *next)
            .count();
        self.slots.copy_within(at + 1..at + 1 + moved, at);
        self.slots[at + moved] = Slot::EMPTY;
        while self.slots.len() > self.capacity as usize && self.slots.last().is_some_and(|slot| slot.is_empty()) {
            self.slots.pop();
        }
        self.used -= 1;
        if self.used * 2 < self.capacity && self.capacity as usize > 4 * FIRST {
            self.resize(self.used as usize * 5 / 4 + FIRST);
        }
        true
    }

    fn resize(&mut self, capacity: usize) {
        self.capacity = capacity as u32;
        let mut slots = Vec::with_capacity(capacity + TAIL);
        for slot in std::mem::take(&mut self.slots) {
            if !slot.is_empty() {
                slots.resize(slots.len().max(self.home(slot.tag)), Slot::EMPTY);
                slots.push(slot);
            }
        }
        slots.resize(slots.len().max(capacity), Slot::EMPTY);
        self.slots = slots;
    }
}

/// A table from keys to numbers. It stores no keys: whoever asks compares.
#[derive(Debug)]
pub(in crate::store) struct HashIndex {
    shards: Box<[Shard]>,
}

impl Default for HashIndex {
    fn default() -> Self {
        Self { shards: vec![Shard::default(); SHARDS].into_boxed_slice() }
    }
}

impl HashIndex {
    /// The numbers that may stand for a key; few others among them.
    pub(in crate::store) fn candidates(&self, key: Key) -> impl Iterator<Item = u32> + '_ {
        self.shards[usize::from(key.shard)]
            .run(key.tag)
            .iter()
            .take_while(move |slot| !slot.is_empty() && slot.tag <= key.tag)
            .filter(move |slot| slot.tag == key.tag)
            .map(|slot| slot.number())
    }

    /// The number of a key; `is_it` compares.
    pub(in crate::store) fn find(&self, key: Key, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.candidates(key).find(|number| is_it(*number))
    }

    /// Adds the number of a key that is not there yet.
    pub(in crate::store) fn insert(&mut self, key: Key, number: u32) {
        self.shards[usize::from(key.shard)].insert(key.tag, number);
    }

    /// Takes a number out; false if it was not there.
    pub(in crate::store) fn remove(&mut self, key: Key, number: u32) -> bool {
        self.shards[usize::from(key.shard)].remove(key.tag, number)
    }

    /// All numbers of a shard.
    pub(in crate::store) fn shard(&self, shard: usize) -> impl Iterator<Item = u32> + '_ {
        let slots = self.shards.get(shard).map(|shard| shard.slots.as_slice()).unwrap_or_default();
        slots.iter().filter(|slot| !slot.is_empty()).map(|slot| slot.number())
    }

    /// Bytes of the tables.
    pub(in crate::store) fn bytes(&self) -> usize {
        let slots: usize = self.shards.iter().map(|shard| shard.slots.capacity() * size_of::<Slot>()).sum();
        slots + SHARDS * size_of::<Shard>()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn check(shard: &Shard) {
        let used: Vec<(usize, Slot)> =
            shard.slots.iter().copied().enumerate().filter(|(_, slot)| !slot.is_empty()).collect();
        assert_eq!(used.len(), shard.used as usize);
        assert!(used.windows(2).all(|pair| pair[0].1.tag <= pair[1].1.tag));
        for (at, slot) in used {
            let home = shard.home(slot.tag);
            assert!(home <= at && shard.slots[home..at].iter().all(|slot| !slot.is_empty()));
        }
    }

    proptest! {
        #[test]
        fn a_table_is_a_map(
            operations in proptest::collection::vec((0u16..400, 0u32..4, any::<bool>()), 0..2_000),
            spread in prop_oneof![Just(1u16), Just(160), Just(0)],
        ) {
            let mut table = HashIndex::default();
            let mut model: BTreeSet<(u16, u32)> = BTreeSet::new();
            for (tag, number, insert) in operations {
                // Close tags, far ones, and all the same: the longest run there can be.
                let tag = u16::MAX - tag * spread;
                let key = Key::in_shard(7, u64::from(tag));
                let known = table.find(key, |other| other == number).is_some();
                prop_assert_eq!(known, model.contains(&(tag, number)));
                if insert && !known {
                    table.insert(key, number);
                    model.insert((tag, number));
                } else if !insert {
                    prop_assert_eq!(table.remove(key, number), known);
                    model.remove(&(tag, number));
                }
            }
            check(&table.shards[7]);
            let mut all: Vec<u32> = table.shard(7).collect();
            all.sort_unstable();
            let mut expected: Vec<u32> = model.iter().map(|(_, number)| *number).collect();
            expected.sort_unstable();
            prop_assert_eq!(all, expected);
        }
    }

    #[test]
    fn a_table_is_full_to_nine_tenths_and_shrinks() {
        let mut table = HashIndex::default();
        let hash = |number: u32| u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for number in 0..200_000 {
            table.insert(Key::in_shard(3, hash(number) >> 20), number);
        }
        let shard = &table.shards[3];
        check(shard);
        assert!(f64::from(shard.used) / shard.slots.capacity() as f64 > 0.78);
        for number in 0..200_000 {
            assert!(table.remove(Key::in_shard(3, hash(number) >> 20), number));
        }
        assert!(table.shards[3].slots.capacity() < 100);
    }
}
