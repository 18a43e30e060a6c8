//! Reading ahead: what some changes or a part of a search are going to look at is read for all of it, stage by stage. No
//! read of a stage waits for another one, so their cache misses overlap; in the tables of millions of entries those are
//! most of the cost. It changes nothing, and what is left out here is read when its turn comes.

use std::hint::black_box;

use haul_core::ids::BlobId;
use haul_core::manifest::{Change, EntryKind};

use super::Memory;
use super::NONE;
use super::hash_index::Key;
use super::names::NODE;

/// Rows of a list that are read ahead: most lists have no more.
const FIRST_ROWS: usize = 2;

/// Buffers of one reading ahead, kept for the next.
#[derive(Debug, Default)]
pub(in crate::store) struct Scratch {
    pub(super) keys: Vec<Key>,
    pub(super) others: Vec<Key>,
    pub(super) found: Vec<u32>,
}

impl Memory {
    /// Reads what [`Self::upsert`] of these changes is going to read. Some dozens are enough: their lines have to stay
    /// in the nearest cache.
    pub(in crate::store) fn read_ahead(&self, changes: &[Change<'_>]) {
        let mut scratch = Scratch::default();
        let names: Vec<&[u8]> = changes.iter().map(|change| change.key().1).collect();
        self.names.touch(&self.lists, &names, &mut scratch);
        let blobs: Vec<BlobId> = changes.iter().filter_map(blob).collect();
        self.contents.touch(&self.lists, &blobs, &mut scratch);
    }

    /// Reads the folded names of documents and their first rows, and the contents of these if they are wanted.
    pub(in crate::store) fn read_docs_ahead(&self, docs: impl Iterator<Item = u32> + Clone, contents: bool) {
        let lists = self.read_names_ahead(docs);
        self.read_rows_ahead(&lists);
        if contents {
            let contents = self.first_rows(&lists).map(|row| self.rows.content(row)).filter(|content| *content != NONE);
            self.contents.touch_records(contents);
        }
    }

    /// Reads the folded names of documents, and gets their lists of items.
    pub(in crate::store) fn read_names_ahead(&self, docs: impl Iterator<Item = u32> + Clone) -> Vec<u32> {
        let lists: Vec<u32> = docs.clone().map(|doc| self.names.items(doc)).collect();
        black_box(docs.fold(0, |read, doc| read ^ self.names.touch_folded(doc)));
        lists
    }

    /// Reads contents and their first rows.
    pub(in crate::store) fn read_contents_ahead(&self, contents: impl Iterator<Item = u32>) {
        let lists: Vec<u32> = contents.map(|content| self.contents.rows(content)).collect();
        self.read_rows_ahead(&lists);
    }

    fn read_rows_ahead(&self, lists: &[u32]) {
        black_box(lists.iter().fold(0, |read, list| read ^ self.lists.touch_first(*list)));
        black_box(self.first_rows(lists).fold(0, |read, row| read ^ self.rows.content(row)));
    }

    fn first_rows<'a>(&'a self, lists: &'a [u32]) -> impl Iterator<Item = u32> + 'a {
        let first = |list| self.lists.in_one_piece(list).unwrap_or_default().iter().take(FIRST_ROWS);
        lists.iter().flat_map(first).copied().filter(|item| *item < NODE)
    }
}

fn blob(change: &Change<'_>) -> Option<BlobId> {
    match change {
        Change::Upsert(entry) => match entry.kind {
            EntryKind::File { blob, .. } => blob,
            EntryKind::Directory | EntryKind::Symlink { .. } => None,
        },
        Change::Remove { .. } => None,
    }
}
