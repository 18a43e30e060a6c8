//! Growing tables that never move: a plain vector that doubles would hold twice a million rows while it copies them.

use std::ops::{Index, IndexMut};

const CHUNK: usize = 1 << 14;
const TEXT_CHUNK: usize = 1 << 20;

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

/// Where a text stands in [`Texts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct TextAt {
    start: u32,
    pub(in crate::store) len: u16,
}

/// Texts side by side, never moved and never freed one by one.
#[derive(Debug, Default)]
pub(in crate::store) struct Texts {
    chunks: Vec<Vec<u8>>,
}

impl Texts {
    /// Adds a text; none when 4 GiB or a length of 64 KiB are passed.
    pub(in crate::store) fn add(&mut self, text: &[u8]) -> Option<TextAt> {
        let len = u16::try_from(text.len()).ok()?;
        if self.chunks.last().is_none_or(|chunk| chunk.len() + text.len() > TEXT_CHUNK) {
            self.chunks.push(if self.chunks.is_empty() { Vec::new() } else { Vec::with_capacity(TEXT_CHUNK) });
        }
        let number = self.chunks.len() - 1;
        let chunk = self.chunks.last_mut()?;
        let start = u32::try_from(number * TEXT_CHUNK + chunk.len()).ok()?;
        chunk.extend_from_slice(text);
        Some(TextAt { start, len })
    }

    /// The text.
    pub(in crate::store) fn get(&self, at: TextAt) -> &[u8] {
        let start = at.start as usize % TEXT_CHUNK;
        &self.chunks[at.start as usize / TEXT_CHUNK][start..start + at.len as usize]
    }
}
