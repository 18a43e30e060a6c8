//! Contents: what several rows may share. A hashed content is (blob, size) with its rows; files without a hash yet
//! share a record per size, which says nothing about their bytes and only counts them.
//!
//! Contents stand in shards by the first 12 bits of their hash, so a prefix finds them; within a shard by a hash with
//! a key of this process, so nobody can claim hashes that all meet in one place. Of a blob for which several sizes are
//! claimed only one content stands at the hash's place; each further one stands at that of hash and size, so a million
//! claims for one blob cost no more than a million blobs.

use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::sync::LazyLock;

use hashbrown::DefaultHashBuilder;
use haul_core::ids::BlobId;

use super::NONE;
use super::ahead::Scratch;
use super::bitmap::Bitmap;
use super::chunked::Table;
use super::hash_index::{HashIndex, Key, SHARDS};
use super::lists::{EMPTY, Lists};

/// Marks the size of a content without a hash.
const UNHASHED: u64 = 1 << 63;
/// The same mark in a record.
const UNHASHED_BIT: u64 = 1 << 39;
/// Marks a record of a hash that another record stands for.
const FURTHER_BIT: u64 = 1 << 38;
/// Says in a record that the size is among [`Contents::large`]: a quarter of a tebibyte less a byte, or more.
const LARGE: u64 = FURTHER_BIT - 1;
/// Sizes of one blob that a lookup compares. More are claimed only by somebody who wants to make it slow.
const SIZES: usize = 64;

/// 41 bytes without padding; numbers are little endian.
#[derive(Clone, Copy, Debug)]
struct Record {
    hash: [u8; 32],
    size: [u8; 5],
    /// List of rows; a count for a content without a hash; the next free one in a free record.
    rows: [u8; 4],
}

impl Record {
    fn new(hash: [u8; 32], size: u64, rows: u32) -> Self {
        let mut record = Self { hash, size: [0; 5], rows: rows.to_le_bytes() };
        record.set_short_size((size & !UNHASHED).min(LARGE) | if size & UNHASHED == 0 { 0 } else { UNHASHED_BIT });
        record
    }

    fn set_short_size(&mut self, short: u64) {
        self.size.copy_from_slice(&short.to_le_bytes()[..5]);
    }

    fn short_size(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes[..5].copy_from_slice(&self.size);
        u64::from_le_bytes(bytes)
    }

    fn is_hashed(&self) -> bool {
        self.short_size() & UNHASHED_BIT == 0
    }

    fn is_further(&self) -> bool {
        self.short_size() & FURTHER_BIT != 0
    }

    fn set_further(&mut self, further: bool) {
        let short = self.short_size() & !FURTHER_BIT;
        self.set_short_size(short | if further { FURTHER_BIT } else { 0 });
    }

    fn rows(&self) -> u32 {
        u32::from_le_bytes(self.rows)
    }
}

/// What a content says.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Content {
    hash: [u8; 32],
    size: u64,
}

impl Content {
    pub(in crate::store) fn blob(&self) -> Option<BlobId> {
        (self.size & UNHASHED == 0).then(|| BlobId::new(self.hash))
    }

    /// Bytes, as claimed.
    pub(in crate::store) fn size(&self) -> u64 {
        self.size & !UNHASHED
    }
}

#[derive(Debug)]
pub(in crate::store) struct Contents {
    records: Table<Record>,
    free: u32,
    by_hash: HashIndex,
    hasher: DefaultHashBuilder,
    /// Sizes that a record has no room for, by content.
    large: HashMap<u32, u64>,
    /// Contents of a hash besides the one that stands at its place.
    further: HashMap<[u8; 32], BTreeSet<u32>>,
    /// Hashed contents with rows.
    pub(in crate::store) hashed: u64,
    /// Those that say something of a file: hashed, and not of no bytes. A search asks that of every row, and the records
    /// are hundreds of times larger.
    telling: Bitmap,
}

/// The blob of no bytes says nothing about a file.
static NO_BYTES: LazyLock<BlobId> = LazyLock::new(BlobId::empty);

impl Default for Contents {
    fn default() -> Self {
        Self {
            records: Table::default(),
            free: NONE,
            by_hash: HashIndex::default(),
            hasher: DefaultHashBuilder::default(),
            large: HashMap::new(),
            further: HashMap::new(),
            hashed: 0,
            telling: Bitmap::default(),
        }
    }
}

impl Contents {
    pub(in crate::store) fn get(&self, content: u32) -> Content {
        let record = &self.records[content];
        let size = self.size(content);
        Content { hash: record.hash, size: if record.is_hashed() { size } else { size | UNHASHED } }
    }

    /// Bytes of a content, as claimed.
    pub(in crate::store) fn size(&self, content: u32) -> u64 {
        match self.records[content].short_size() & LARGE {
            LARGE => self.large.get(&content).copied().unwrap_or_default(),
            size => size,
        }
    }

    /// Whether a content has a hash.
    pub(in crate::store) fn is_hashed(&self, content: u32) -> bool {
        self.records[content].is_hashed()
    }

    /// Whether files of one name with this content are copies of each other: it has a hash, and bytes.
    pub(in crate::store) fn is_telling(&self, content: u32) -> bool {
        self.telling.get(content)
    }

    /// The contents that claim each of these blobs, with the number of the blob. The records of all are fetched
    /// before the first is compared, and so are the slots of the table: misses of the cache overlap.
    pub(in crate::store) fn of_blobs(&self, blobs: &[BlobId]) -> Vec<(usize, u32)> {
        let keys: Vec<Key> = blobs.iter().map(|blob| self.key(blob.as_bytes())).collect();
        self.by_hash.touch(&keys);
        let mut found = Vec::with_capacity(blobs.len());
        self.by_hash.each_candidate(&keys, |number, content| found.push((number, content)));
        self.touch_records(found.iter().map(|(_, content)| *content));
        if self.further.is_empty() {
            let is_it = |content, hash: &[u8; 32]| self.stands_for(content, hash) && self.is_hashed(content);
            found.retain(|(number, content)| is_it(*content, blobs[*number].as_bytes()));
            return found;
        }
        found.retain(|(number, content)| self.stands_for(*content, blobs[*number].as_bytes()));
        let all = |(number, first)| self.all_sizes(first).into_iter().map(move |content| (number, content));
        found.into_iter().flat_map(all).collect()
    }

    /// The contents that claim this blob; more than one only if somebody claims a wrong size, and then at most
    /// [`SIZES`].
    pub(in crate::store) fn of_blob(&self, blob: &BlobId) -> Vec<u32> {
        self.first(blob.as_bytes()).map(|first| self.all_sizes(first)).unwrap_or_default()
    }

    /// The content of a blob in this size, however many other sizes are claimed.
    pub(in crate::store) fn of_size(&self, blob: &BlobId, size: u64) -> Option<u32> {
        let hash = blob.as_bytes();
        let is_it = |id: u32| {
            let content = self.get(id);
            content.hash == *hash && content.size == size
        };
        let first = self.first(hash)?;
        if is_it(first) { Some(first) } else { self.by_hash.find(self.further_key(hash, size), is_it) }
    }

    /// The content that stands at the place of a hash.
    fn first(&self, hash: &[u8; 32]) -> Option<u32> {
        self.by_hash.find(self.key(hash), |content| self.stands_for(content, hash))
    }

    fn stands_for(&self, content: u32, hash: &[u8; 32]) -> bool {
        let record = &self.records[content];
        record.hash == *hash && !record.is_further()
    }

    /// The hashed contents of the hash for which this one stands.
    fn all_sizes(&self, first: u32) -> Vec<u32> {
        let further = self.further.get(&self.records[first].hash).into_iter().flatten().copied();
        let contents = std::iter::once(first).chain(further).filter(|content| self.records[*content].is_hashed());
        contents.take(SIZES).collect()
    }

    /// All hashed contents whose hash starts with these hexadecimal digits. From three digits on only one shard of
    /// 4,096 is read.
    pub(in crate::store) fn of_prefix<'a>(&'a self, digits: &'a str) -> impl Iterator<Item = u32> + 'a {
        let first = digits
            .bytes()
            .take(3)
            .fold(0, |shard, digit| shard << 4 | char::from(digit).to_digit(16).unwrap_or_default() as usize);
        let width = SHARDS >> (4 * digits.len().min(3));
        let shards = first * width..(first + 1) * width;
        shards
            .flat_map(|shard| self.by_hash.shard(shard))
            .filter(move |id| self.get(*id).blob().is_some_and(|blob| hash_starts_with(&blob, digits)))
    }

    /// The content, new or known; the caller links a row. There are never more contents than rows.
    pub(in crate::store) fn intern(&mut self, blob: Option<BlobId>, size: u64) -> u32 {
        let (hash, size) = match blob {
            Some(blob) => (*blob.as_bytes(), size),
            None => (unhashed(size), size | UNHASHED),
        };
        let is_it = |id: u32| {
            let content = self.get(id);
            content.hash == hash && content.size == size
        };
        let first = self.first(&hash);
        let mut key = self.key(&hash);
        let mut record = Record::new(hash, size, if blob.is_some() { EMPTY } else { 0 });
        if let Some(first) = first {
            if is_it(first) {
                return first;
            }
            key = self.further_key(&hash, size);
            if let Some(known) = self.by_hash.find(key, is_it) {
                return known;
            }
            record.set_further(true);
        }
        let id = if self.free == NONE {
            self.records.push(record)
        } else {
            let free = self.free;
            self.free = self.records[free].rows();
            self.records[free] = record;
            free
        };
        if size & !UNHASHED >= LARGE {
            self.large.insert(id, size & !UNHASHED);
        }
        if first.is_some() {
            self.further.entry(hash).or_default().insert(id);
        }
        self.hashed += u64::from(blob.is_some());
        self.telling.set(id, blob.is_some_and(|blob| blob != *NO_BYTES));
        self.by_hash.insert(key, id);
        id
    }

    /// Reads what [`Self::intern`] and [`Self::link`] of these blobs are going to read. See [`super::ahead`].
    pub(in crate::store) fn touch(&self, lists: &Lists, blobs: &[BlobId], scratch: &mut Scratch) {
        let Scratch { keys, found, .. } = scratch;
        keys.clear();
        found.clear();
        keys.extend(blobs.iter().map(|blob| self.key(blob.as_bytes())));
        self.by_hash.touch(keys);
        self.by_hash.each_candidate(keys, |_, content| found.push(content));
        self.touch_records(found.iter().copied());
        std::hint::black_box(found.iter().fold(0, |read, content| read ^ lists.touch(self.rows(*content))));
    }

    /// Reads records, which lie in one line of the cache or two, and does nothing else: the fewer instructions stand
    /// between two reads, the more of them are under way at a time.
    pub(in crate::store) fn touch_records(&self, contents: impl Iterator<Item = u32>) {
        let read = contents.fold(0, |read, content| {
            let record = &self.records[content];
            read ^ record.hash[0] ^ record.rows[3]
        });
        std::hint::black_box(read);
    }

    /// Adds a row.
    pub(in crate::store) fn link(&mut self, lists: &mut Lists, content: u32, row: u32) {
        let record = &mut self.records[content];
        let mut rows = record.rows();
        if record.is_hashed() {
            lists.add_number(&mut rows, row);
        } else {
            rows += 1;
        }
        record.rows = rows.to_le_bytes();
    }

    /// Takes a row out; a content goes with its last one.
    pub(in crate::store) fn unlink(&mut self, lists: &mut Lists, content: u32, row: u32) {
        let record = &mut self.records[content];
        let mut rows = record.rows();
        let hashed = record.is_hashed();
        if hashed {
            lists.remove_number(&mut rows, row);
        } else {
            rows -= 1;
        }
        record.rows = rows.to_le_bytes();
        if rows == if hashed { EMPTY } else { 0 } {
            self.unfile(content);
            self.large.remove(&content);
            self.records[content] = Record::new([0; 32], UNHASHED, self.free);
            self.free = content;
            self.hashed -= u64::from(hashed);
            self.telling.set(content, false);
        }
    }

    /// Takes a content out of the table; of several of its hash another one takes the place.
    fn unfile(&mut self, content: u32) {
        let Content { hash, size } = self.get(content);
        if self.records[content].is_further() {
            self.by_hash.remove(self.further_key(&hash, size), content);
            self.forget_further(&hash, content);
            return;
        }
        self.by_hash.remove(self.key(&hash), content);
        let Some(next) = self.further.get(&hash).and_then(|further| further.first().copied()) else { return };
        self.by_hash.remove(self.further_key(&hash, self.get(next).size), next);
        self.forget_further(&hash, next);
        self.records[next].set_further(false);
        self.by_hash.insert(self.key(&hash), next);
    }

    fn forget_further(&mut self, hash: &[u8; 32], content: u32) {
        if let Some(further) = self.further.get_mut(hash) {
            further.remove(&content);
            if further.is_empty() {
                self.further.remove(hash);
            }
        }
    }

    /// List of the rows of a hashed content; files without a hash are not listed.
    pub(in crate::store) fn rows(&self, content: u32) -> u32 {
        let record = &self.records[content];
        if record.is_hashed() { record.rows() } else { EMPTY }
    }

    /// Bytes by part: records, table.
    pub(in crate::store) fn bytes(&self) -> [usize; 2] {
        [self.records.bytes(), self.by_hash.bytes()]
    }

    fn key(&self, hash: &[u8; 32]) -> Key {
        Key::in_shard(shard_of(hash), self.hasher.hash_one(hash))
    }

    fn further_key(&self, hash: &[u8; 32], size: u64) -> Key {
        Key::in_shard(shard_of(hash), self.hasher.hash_one((hash, size)))
    }
}

fn shard_of(hash: &[u8; 32]) -> u16 {
    u16::from_be_bytes([hash[0], hash[1]]) >> 4
}

/// What stands for the hash of files without one: it differs by size, in the first bits too.
fn unhashed(size: u64) -> [u8; 32] {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&size.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    hash
}

/// Whether the hash in hexadecimal starts with these lower-case digits.
pub(in crate::store) fn hash_starts_with(blob: &BlobId, digits: &str) -> bool {
    digits.bytes().enumerate().all(|(at, digit)| {
        let byte = blob.as_bytes().get(at / 2).copied().unwrap_or_default();
        let nibble = if at % 2 == 0 { byte >> 4 } else { byte & 15 };
        char::from_digit(u32::from(nibble), 16) == Some(char::from(digit))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// By hash and size: the content and its rows.
    type Model = BTreeMap<(Option<[u8; 32]>, u64), (u32, Vec<u32>)>;

    proptest! {
        #[test]
        fn contents_are_a_map_that_forgets(
            operations in proptest::collection::vec((0u8..6, 0u64..3, any::<bool>(), 0u8..3), 0..300),
        ) {
            let (mut contents, mut lists) = (Contents::default(), Lists::default());
            let mut model = Model::new();
            for (row, (hash, size, add, kind)) in operations.into_iter().enumerate() {
                let hash = (kind > 0).then_some([hash << 4; 32]);
                // The largest size that a blob may have, too.
                let size = [0, LARGE - 1, haul_core::limits::BLOB_BYTES][size as usize];
                if add {
                    let id = contents.intern(hash.map(BlobId::new), size);
                    contents.link(&mut lists, id, row as u32);
                    let known = model.entry((hash, size)).or_insert((id, Vec::new()));
                    prop_assert_eq!(known.0, id);
                    known.1.push(row as u32);
                } else if let Some((id, rows)) = model.get_mut(&(hash, size)) {
                    contents.unlink(&mut lists, *id, rows.pop().unwrap());
                    if rows.is_empty() {
                        model.remove(&(hash, size));
                    }
                }
            }
            prop_assert_eq!(contents.hashed, model.keys().filter(|(hash, _)| hash.is_some()).count() as u64);
            for ((hash, size), (id, rows)) in &model {
                let content = contents.get(*id);
                prop_assert_eq!((content.blob(), content.size()), (hash.map(BlobId::new), *size));
                let listed: Vec<u32> = lists.iter(contents.rows(*id)).collect();
                prop_assert_eq!(&listed, if hash.is_some() { rows } else { const { &Vec::new() } });
            }
            for first in 0..6u8 {
                let expected = |prefix: &str| {
                    let mut ids: Vec<u32> = model
                        .iter()
                        .filter(|((hash, _), _)| hash.is_some_and(|hash| hash_starts_with(&BlobId::new(hash), prefix)))
                        .map(|(_, (id, _))| *id)
                        .collect();
                    ids.sort_unstable();
                    ids
                };
                let blob = BlobId::new([first << 4; 32]);
                for digits in 0..7 {
                    let prefix = &blob.to_string()[3..3 + digits];
                    let mut found: Vec<u32> = contents.of_prefix(prefix).collect();
                    found.sort_unstable();
                    prop_assert_eq!(found, expected(prefix));
                }
                let mut found = contents.of_blob(&blob);
                let staged: Vec<u32> = contents.of_blobs(&[blob]).into_iter().map(|(_, id)| id).collect();
                prop_assert_eq!(&staged, &found);
                found.sort_unstable();
                prop_assert_eq!(found, expected(&blob.to_string()[3..]));
            }
        }
    }

    #[test]
    fn a_million_sizes_of_one_blob_meet_nowhere() {
        let (mut contents, mut lists) = (Contents::default(), Lists::default());
        let blob = BlobId::new([9; 32]);
        let sizes = 20_000;
        let ids: Vec<u32> = (0..sizes).map(|size| contents.intern(Some(blob), size)).collect();
        for (row, id) in ids.iter().enumerate() {
            contents.link(&mut lists, *id, row as u32);
            assert_eq!((contents.intern(Some(blob), row as u64), contents.get(*id).size()), (*id, row as u64));
        }
        for size in 0..sizes {
            let candidates = contents.by_hash.candidates(contents.further_key(blob.as_bytes(), size)).count();
            assert!(candidates < 20, "{candidates}");
        }
        assert_eq!(contents.of_blob(&blob).len(), SIZES);
        assert_eq!(contents.of_blobs(&[blob]).len(), SIZES);
        for (row, id) in ids.iter().enumerate() {
            contents.unlink(&mut lists, *id, row as u32);
        }
        assert_eq!((contents.of_blob(&blob), contents.further.len(), contents.hashed), (Vec::new(), 0, 0));
    }

    #[test]
    fn a_record_has_no_padding() {
        assert_eq!(size_of::<Record>(), 41);
    }
}
