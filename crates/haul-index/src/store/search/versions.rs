//! Same name, other content: how many contents have a name.

use hashbrown::HashMap;

use super::Seen;
use super::collect::group_of;
use super::order::Group;

/// Rows that the asker may see of every document that are looked at to count its contents.
const ALWAYS: usize = 64;
/// Rows beyond these, of all documents of a part of a page together: a page may hold the names of a million files.
const MORE: usize = 256;
/// Rows of a document, those that the asker may not see too, that are looked at in all.
const IN_ALL: usize = 1_024;

/// Contents by document, as far as they have been counted.
pub(super) struct Versions<'a> {
    seen: Seen<'a>,
    counted: HashMap<u32, u32>,
    /// Content and number of each row that is looked at.
    rows: Vec<(u32, u32)>,
    /// What is left of [`MORE`].
    more: usize,
}

impl<'a> Versions<'a> {
    pub(super) fn new(seen: Seen<'a>) -> Self {
        Self { seen, counted: HashMap::new(), rows: Vec::new(), more: MORE }
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
            let rows = memory.rows_of_doc(doc).take(IN_ALL);
            let allowed = rows.filter(|row| view.allowed.get(memory.slot_of_row(*row))).take(ALWAYS + self.more);
            self.rows.clear();
            self.rows.extend(allowed.map(|row| (memory.content_of_row(row), row)));
            self.more -= self.rows.len().saturating_sub(ALWAYS);
            self.rows.sort_unstable();
            self.rows.dedup_by_key(|(content, _)| *content);
            let counts = |row| matches!(group_of(memory, row), Group::Content(_));
            match self.rows.as_slice() {
                [] | [_] => 1,
                several => several.iter().filter(|(_, row)| counts(*row)).count().max(1) as u32,
            }
        })
    }
}
