//! Growing tables that never move: a plain vector that doubles would hold twice a million rows while it copies them.

use std::ops::{Index, IndexMut};

/// Records of a chunk.
const CHUNK: usize = 1 << 14;

/// A table of records by number.
#[derive(Debug)]
pub(in crate::store) struct Table<T> {
    chunks: Vec<Vec<T>>,
    len: u32,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<T> Table<T> {
    /// Appends a record and returns its number.
    pub(in crate::store) fn push(&mut self, record: T) -> u32 {
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            // A small table starts small; a full chunk is followed by whole ones.
            self.chunks.push(if self.len == 0 { Vec::new() } else { Vec::with_capacity(CHUNK) });
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.push(record);
        }
        self.len += 1;
        self.len - 1
    }

    /// Number of records, freed ones included.
    pub(in crate::store) fn len(&self) -> u32 {
        self.len
    }

    /// Bytes that the records take.
    pub(in crate::store) fn bytes(&self) -> usize {
        self.len as usize * size_of::<T>()
    }
}

impl<T> Index<u32> for Table<T> {
    type Output = T;
    fn index(&self, number: u32) -> &T {
        &self.chunks[number as usize / CHUNK][number as usize % CHUNK]
    }
}

impl<T> IndexMut<u32> for Table<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.chunks[number as usize / CHUNK][number as usize % CHUNK]
    }
}
