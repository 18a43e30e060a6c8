//! Reading ahead: what some changes are going to look at is read for all of them, stage by stage. No read of a stage
//! waits for another one, so their cache misses overlap; in the tables of millions of entries those are most of what a
//! change costs. It changes nothing, and what is left out here is read when its turn comes.

use haul_core::ids::BlobId;
use haul_core::manifest::{Change, EntryKind};

use super::Memory;
use super::hash_index::Key;

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
