//! Hash tables from keys that stand elsewhere to their numbers, six bytes a slot.
//!
//! A slot is 16 bits of the key's hash (the tag) and the number. 4,096 shards grow one by one, each by an eighth, so
//! nothing ever doubles and no growth takes long: ten million numbers are shards of 2,400, moved in a few microseconds.
//! Within a shard slots stand in the order of their tags, each at or behind its home `tag * capacity / 65536`, with no
//! gap between home and slot. So a tag that is not there is noticed as early as one that is, and a shard may be filled
//! to eight ninths. The tag alone says where a slot belongs: growing reads no keys.

use super::NONE;

const SHARD_BITS: u32 = 12;
/// Shards of every table.
pub(in crate::store) const SHARDS: usize = 1 << SHARD_BITS;
/// Slots of a page. Shards grow page by page out of one supply: blocks of many sizes would leave holes behind.
const PAGE: usize = 32;
/// Pages of a chunk of the supply.
const CHUNK: usize = 256;
/// Slots behind the last home, for a run that ends there. If they do not suffice, a page more is taken.
const TAIL: usize = 8;
/// The part of a shard that may be used. A new slot moves those behind it up to the next empty one: of a shard filled
/// so far about thirty.
const FULL: (usize, usize) = (8, 9);
/// A shard that is full grows by this part of itself.
const GROWTH: usize = 8;
/// Most slots stand less than so many behind their home.
const NEAR: usize = 8;
/// Keys of which the slots are read together.
const TOUCHED: usize = 64;

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
    /// Its pages in order.
    pages: Vec<u32>,
    /// Homes; there are a few slots more behind the last one.
    capacity: u32,
    used: u32,
}

impl Shard {
    fn home(&self, tag: u16) -> usize {
        (usize::from(tag) * self.capacity as usize) >> 16
    }
}

/// A table from keys to numbers. It stores no keys: whoever asks compares.
#[derive(Debug)]
pub(in crate::store) struct HashIndex {
    shards: Box<[Shard]>,
    chunks: Vec<Vec<[Slot; PAGE]>>,
    free: Vec<u32>,
    /// The slots of a shard while it grows.
    moving: Vec<Slot>,
}

impl Default for HashIndex {
    fn default() -> Self {
        let shards = vec![Shard::default(); SHARDS].into_boxed_slice();
        Self { shards, chunks: Vec::new(), free: Vec::new(), moving: Vec::new() }
    }
}

impl HashIndex {
    /// The numbers that may stand for a key; few others among them.
    pub(in crate::store) fn candidates(&self, key: Key) -> impl Iterator<Item = u32> + '_ {
        let shard = &self.shards[usize::from(key.shard)];
        let home = shard.home(key.tag);
        let mut pages = shard.pages.get(home / PAGE..).unwrap_or_default().iter();
        let mut slots = pages.next().map(|page| &self.page(*page)[home % PAGE..]).unwrap_or_default().iter();
        std::iter::from_fn(move || {
            loop {
                let Some(slot) = slots.next() else {
                    slots = self.page(*pages.next()?).iter();
                    continue;
                };
                // An empty slot has the largest tag.
                if slot.tag >= key.tag {
                    return (slot.tag == key.tag && !slot.is_empty()).then(|| slot.number());
                }
            }
        })
    }

    /// Calls `with` with the place of each key and what [`Self::candidates`] are its numbers.
    pub(in crate::store) fn each_candidate(&self, keys: &[Key], mut with: impl FnMut(usize, u32)) {
        for (place, key) in keys.iter().enumerate() {
            let shard = &self.shards[usize::from(key.shard)];
            let home = shard.home(key.tag);
            let mut first = home % PAGE;
            'run: for page in shard.pages.get(home / PAGE..).unwrap_or_default() {
                for slot in &self.page(*page)[first..] {
                    if slot.tag < key.tag {
                        continue;
                    }
                    if slot.tag > key.tag || slot.is_empty() {
                        break 'run;
                    }
                    with(place, slot.number());
                }
                first = 0;
            }
        }
    }

    /// The number of a key; `is_it` compares.
    pub(in crate::store) fn find(&self, key: Key, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.candidates(key).find(|number| is_it(*number))
    }

    /// Reads where the slots of these keys start: [`Self::candidates`] then finds them in the cache. The reads follow
    /// each other closely and none waits for another one, so many cache misses overlap.
    pub(in crate::store) fn touch(&self, keys: &[Key]) {
        let mut read = 0;
        for keys in keys.chunks(TOUCHED) {
            let mut places = [(0, 0); 2 * TOUCHED];
            for (key, [first, next]) in keys.iter().zip(places.as_chunks_mut().0) {
                let shard = &self.shards[usize::from(key.shard)];
                let home = shard.home(key.tag);
                let page = |at: usize| shard.pages.get(at / PAGE).map_or((0, 0), |page| (*page, at % PAGE));
                (*first, *next) = (page(home), page(home + NEAR));
            }
            for (page, at) in &places[..2 * keys.len()] {
                read ^=
                    self.chunks.get(*page as usize / CHUNK).map_or(0, |chunk| chunk[*page as usize % CHUNK][*at].tag);
            }
        }
        std::hint::black_box(read);
    }

    /// Adds the number of a key that is not there yet.
    pub(in crate::store) fn insert(&mut self, key: Key, number: u32) {
        let Key { shard, tag } = key;
        let record = &self.shards[usize::from(shard)];
        if record.used as usize * FULL.1 >= record.capacity as usize * FULL.0 {
            self.resize(shard, record.pages.len() + 1 + record.pages.len() / GROWTH);
        }
        let record = &self.shards[usize::from(shard)];
        let mut at = record.home(tag);
        while self.get(record, at).is_some_and(|slot| !slot.is_empty() && slot.tag <= tag) {
            at += 1;
        }
        self.make_room(shard, at, Slot::new(tag, number));
        self.shards[usize::from(shard)].used += 1;
    }

    /// Puts a slot in a place; what stands there and behind moves on, up to the first empty one.
    fn make_room(&mut self, shard: u16, at: usize, slot: Slot) {
        let (mut number, mut from, mut slot) = (at / PAGE, at % PAGE, slot);
        loop {
            if number == self.shards[usize::from(shard)].pages.len() {
                let page = self.take_page();
                self.shards[usize::from(shard)].pages.push(page);
            }
            let page = self.shards[usize::from(shard)].pages[number] as usize;
            let page = &mut self.chunks[page / CHUNK][page % CHUNK];
            let empty = page[from..].iter().position(|slot| slot.is_empty());
            let last = empty.map_or(PAGE - 1, |empty| from + empty);
            let pushed = page[last];
            page.copy_within(from..last, from + 1);
            page[from] = slot;
            if empty.is_some() {
                return;
            }
            (number, from, slot) = (number + 1, 0, pushed);
        }
    }

    /// Takes a number out; false if it was not there.
    pub(in crate::store) fn remove(&mut self, key: Key, number: u32) -> bool {
        let Key { shard, tag } = key;
        let wanted = Slot::new(tag, number);
        let record = &self.shards[usize::from(shard)];
        let mut at = record.home(tag);
        loop {
            match self.get(record, at) {
                Some(slot) if slot == wanted => break,
                Some(slot) if !slot.is_empty() && slot.tag <= tag => at += 1,
                _ => return false,
            }
        }
        // What stands behind moves up as far as its home allows.
        loop {
            let record = &self.shards[usize::from(shard)];
            let next = self.get(record, at + 1).filter(|slot| !slot.is_empty() && record.home(slot.tag) <= at);
            self.set(shard, at, next.unwrap_or(Slot::EMPTY));
            if next.is_none() {
                break;
            }
            at += 1;
        }
        let record = &mut self.shards[usize::from(shard)];
        record.used -= 1;
        if record.used as usize * 10 < record.capacity as usize * 7 && record.pages.len() > 1 {
            let pages = (record.used as usize * 5 / 4 + TAIL).div_ceil(PAGE);
            self.resize(shard, pages);
        }
        true
    }

    /// All numbers of a shard.
    pub(in crate::store) fn shard(&self, shard: usize) -> impl Iterator<Item = u32> + '_ {
        let pages = self.shards.get(shard).map(|shard| shard.pages.as_slice()).unwrap_or_default();
        pages.iter().flat_map(|page| self.page(*page)).filter(|slot| !slot.is_empty()).map(|slot| slot.number())
    }

    /// Bytes of the tables.
    pub(in crate::store) fn bytes(&self) -> usize {
        let slots: usize = self.chunks.iter().map(|chunk| chunk.len() * size_of::<[Slot; PAGE]>()).sum();
        let lists: usize = self.shards.iter().map(|shard| shard.pages.capacity() * size_of::<u32>()).sum();
        slots + lists + SHARDS * size_of::<Shard>()
    }

    fn page(&self, page: u32) -> &[Slot; PAGE] {
        &self.chunks[page as usize / CHUNK][page as usize % CHUNK]
    }

    fn get(&self, shard: &Shard, at: usize) -> Option<Slot> {
        let page = shard.pages.get(at / PAGE)?;
        Some(self.page(*page)[at % PAGE])
    }

    fn set(&mut self, shard: u16, at: usize, slot: Slot) {
        let page = self.shards[usize::from(shard)].pages[at / PAGE] as usize;
        self.chunks[page / CHUNK][page % CHUNK][at % PAGE] = slot;
    }

    /// Moves a shard to so many pages, its old ones among them. Slots are laid out in one piece and copied back page by
    /// page: a table that grows moves each slot about eight times.
    fn resize(&mut self, shard: u16, pages: usize) {
        let mut own = std::mem::take(&mut self.shards[usize::from(shard)].pages);
        let mut moved = std::mem::take(&mut self.moving);
        moved.clear();
        moved.resize(pages * PAGE, Slot::EMPTY);
        let to = Shard { pages: Vec::new(), capacity: (moved.len() - TAIL) as u32, used: 0 };
        let mut next = 0;
        for slot in own.iter().flat_map(|page| self.page(*page)).filter(|slot| !slot.is_empty()) {
            next = to.home(slot.tag).max(next);
            if next == moved.len() {
                moved.resize(next + PAGE, Slot::EMPTY);
            }
            moved[next] = *slot;
            next += 1;
        }
        let pages = moved.len() / PAGE;
        for page in own.drain(pages.min(own.len())..) {
            self.chunks[page as usize / CHUNK][page as usize % CHUNK] = [Slot::EMPTY; PAGE];
            self.free.push(page);
        }
        own.reserve_exact(pages - own.len());
        while own.len() < pages {
            own.push(self.take_page());
        }
        for (page, slots) in own.iter().zip(moved.as_chunks().0) {
            self.chunks[*page as usize / CHUNK][*page as usize % CHUNK] = *slots;
        }
        let record = &mut self.shards[usize::from(shard)];
        (record.pages, record.capacity) = (own, to.capacity);
        self.moving = moved;
    }

    /// A page of empty slots.
    fn take_page(&mut self) -> u32 {
        if let Some(free) = self.free.pop() {
            return free;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(if self.chunks.is_empty() { Vec::new() } else { Vec::with_capacity(CHUNK) });
        }
        let number = self.chunks.len() - 1;
        let chunk = &mut self.chunks[number];
        chunk.push([Slot::EMPTY; PAGE]);
        (number * CHUNK + chunk.len() - 1) as u32
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn check(table: &HashIndex, shard: u16) {
        let shard = &table.shards[usize::from(shard)];
        let slots: Vec<Slot> = shard.pages.iter().flat_map(|page| *table.page(*page)).collect();
        let used: Vec<(usize, Slot)> = slots.iter().copied().enumerate().filter(|(_, slot)| !slot.is_empty()).collect();
        assert_eq!(used.len(), shard.used as usize);
        assert!(used.windows(2).all(|pair| pair[0].1.tag <= pair[1].1.tag));
        for (at, slot) in used {
            let home = shard.home(slot.tag);
            assert!(home <= at && slots[home..at].iter().all(|slot| !slot.is_empty()));
        }
        let pages: BTreeSet<u32> =
            table.shards.iter().flat_map(|shard| &shard.pages).chain(&table.free).copied().collect();
        assert_eq!(pages.len(), table.chunks.iter().map(Vec::len).sum::<usize>(), "each page belongs to somebody");
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
                let mut each = Vec::new();
                table.each_candidate(&[key], |_, number| each.push(number));
                prop_assert!(table.candidates(key).eq(each));
                prop_assert_eq!(known, model.contains(&(tag, number)));
                if insert && !known {
                    table.insert(key, number);
                    model.insert((tag, number));
                } else if !insert {
                    prop_assert_eq!(table.remove(key, number), known);
                    model.remove(&(tag, number));
                }
            }
            check(&table, 7);
            let mut all: Vec<u32> = table.shard(7).collect();
            all.sort_unstable();
            let mut expected: Vec<u32> = model.iter().map(|(_, number)| *number).collect();
            expected.sort_unstable();
            prop_assert_eq!(all, expected);
        }
    }

    #[test]
    fn a_table_is_well_filled_and_shrinks() {
        let mut table = HashIndex::default();
        let key = |number: u32| Key::in_shard(3, u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20);
        for number in 0..200_000 {
            table.insert(key(number), number);
        }
        check(&table, 3);
        let shard = &table.shards[3];
        assert!(f64::from(shard.used) / (shard.pages.len() * PAGE) as f64 > 0.8);
        table.touch(&(0..1_000).map(key).collect::<Vec<_>>());
        for number in 0..200_000 {
            assert!(table.remove(key(number), number));
        }
        check(&table, 3);
        assert_eq!(table.shards[3].pages.len(), 1);
    }
}
