//! Contents: what several rows may share. A hashed content is (blob, size); files without a hash yet share a record per
//! size, which says nothing about their bytes.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use haul_core::ids::BlobId;

use super::NONE;
use super::chunked::Table;

/// A blob's size needs 43 bits; the top bit marks a content without a hash.
const UNHASHED: u64 = 1 << 63;

#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Content {
    hash: [u8; 32],
    size: u64,
    /// Head of the chain of rows.
    pub(in crate::store) first: u32,
    /// Rows on the chain; 0 only for a free record.
    pub(in crate::store) rows: u32,
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

#[derive(Debug, Default)]
pub(in crate::store) struct Contents {
    records: Table<Content>,
    free: Vec<u32>,
    by_hash: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Hashed contents with rows.
    pub(in crate::store) hashed: u64,
}

impl Contents {
    pub(in crate::store) fn get(&self, content: u32) -> &Content {
        &self.records[content]
    }

    pub(in crate::store) fn get_mut(&mut self, content: u32) -> &mut Content {
        &mut self.records[content]
    }

    /// The contents that claim this blob; more than one only if somebody claims a wrong size.
    pub(in crate::store) fn of_blob(&self, blob: &BlobId) -> Vec<u32> {
        let hash = self.hasher.hash_one(blob.as_bytes());
        let mut found: Vec<u32> = self
            .by_hash
            .iter_hash(hash)
            .copied()
            .filter(|id| self.records[*id].blob().as_ref() == Some(blob))
            .collect();
        found.sort_unstable();
        found
    }

    /// All hashed contents whose hash starts with these hexadecimal digits.
    pub(in crate::store) fn of_prefix(&self, digits: &str) -> Vec<u32> {
        (0..self.records.len())
            .filter(|id| {
                let content = &self.records[*id];
                content.rows > 0 && content.blob().is_some_and(|blob| hash_starts_with(&blob, digits))
            })
            .collect()
    }

    /// The content, new or known; the caller links a row.
    pub(in crate::store) fn intern(&mut self, blob: Option<BlobId>, size: u64) -> u32 {
        let (hash, size) = if let Some(blob) = blob {
            (*blob.as_bytes(), size)
        } else {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&size.to_le_bytes());
            (key, size | UNHASHED)
        };
        let slot = self.hasher.hash_one(hash);
        let known = self.by_hash.find(slot, |id| self.records[*id].hash == hash && self.records[*id].size == size);
        if let Some(id) = known {
            return *id;
        }
        let record = Content { hash, size, first: NONE, rows: 0 };
        let id = if let Some(id) = self.free.pop() {
            self.records[id] = record;
            id
        } else {
            self.records.push(record)
        };
        self.hashed += u64::from(blob.is_some());
        let Self { by_hash, records, hasher, .. } = self;
        by_hash.insert_unique(slot, id, |id| hasher.hash_one(records[*id].hash));
        id
    }

    /// Frees a content without rows.
    pub(in crate::store) fn release(&mut self, content: u32) {
        let record = self.records[content];
        let slot = self.hasher.hash_one(record.hash);
        if let Ok(entry) = self.by_hash.find_entry(slot, |id| *id == content) {
            entry.remove();
            self.free.push(content);
            self.hashed -= u64::from(record.blob().is_some());
        }
    }
}

/// Whether the hash in hexadecimal starts with these lower-case digits.
pub(in crate::store) fn hash_starts_with(blob: &BlobId, digits: &str) -> bool {
    digits.bytes().enumerate().all(|(at, digit)| {
        let byte = blob.as_bytes().get(at / 2).copied().unwrap_or_default();
        let nibble = if at % 2 == 0 { byte >> 4 } else { byte & 15 };
        char::from_digit(u32::from(nibble), 16) == Some(char::from(digit))
    })
}
