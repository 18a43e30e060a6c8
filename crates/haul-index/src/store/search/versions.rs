//! Same name, other content: how many contents have a name.

use hashbrown::HashMap;

use super::Seen;
use super::collect::group_of;
use super::order::Group;

/// Rows of a document that are looked at to count its contents: a page may hold the names of a million files.
const CONTENTS_WORK: usize = 64;

/// Contents by document, as far as they have been counted.
pub(super) struct Versions<'a> {
    seen: Seen<'a>,
    counted: HashMap<u32, u32>,
    groups: Vec<Group>,
}

impl<'a> Versions<'a> {
    pub(super) fn new(seen: Seen<'a>) -> Self {
        Self { seen, counted: HashMap::new(), groups: Vec::new() }
    }

    /// Different contents that have the name of a document, as far as the asker may see; at least 1. Of a name
    /// with many files as many as the first of them have.
    pub(super) fn of_doc(&mut self, doc: u32) -> u32 {
        let (memory, view) = self.seen;
        // Most names are those of one file.
        if memory.item_count(doc) <= 1 {
            return 1;
        }
        *self.counted.entry(doc).or_insert_with(|| {
            let rows = memory.rows_of_doc(doc).take(CONTENTS_WORK);
            let groups = rows
                .filter(|row| view.allowed.get(memory.slot_of_row(*row)))
                .map(|row| group_of(memory, row))
                .filter(|group| matches!(group, Group::Content(_)));
            self.groups.clear();
            self.groups.extend(groups);
            self.groups.sort_unstable();
            self.groups.dedup();
            (self.groups.len() as u32).max(1)
        })
    }
}
