//! Same name, other content: how many contents have a name.

use hashbrown::{HashMap, HashSet};

use super::Seen;
use super::collect::group_of;
use super::order::Group;

/// Rows of a document that are looked at to count its contents.
const CONTENTS_WORK: usize = 4_096;

/// Contents by document, as far as they have been counted.
pub(super) struct Versions<'a> {
    seen: Seen<'a>,
    empty: &'a [u32],
    counted: HashMap<u32, u32>,
}

impl<'a> Versions<'a> {
    pub(super) fn new(seen: Seen<'a>, empty: &'a [u32]) -> Self {
        Self { seen, empty, counted: HashMap::new() }
    }

    /// Different contents that have the name of a document, as far as the asker may see; at least 1.
    pub(super) fn of_doc(&mut self, doc: u32) -> u32 {
        let (memory, view) = self.seen;
        // Most names are those of one file.
        if memory.item_count(doc) <= 1 {
            return 1;
        }
        let empty = self.empty;
        *self.counted.entry(doc).or_insert_with(|| {
            let rows = memory.rows_of_doc(doc).take(CONTENTS_WORK);
            let groups = rows
                .filter(|row| view.allowed.get(memory.slot_of_row(*row)))
                .map(|row| group_of(memory, empty, row))
                .filter(|group| matches!(group, Group::Content(_)));
            (groups.collect::<HashSet<Group>>().len() as u32).max(1)
        })
    }
}
