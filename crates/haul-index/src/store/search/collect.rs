//! Grouping of rows into hits, counting, and the best hits of one page.

use super::Budget;
use super::order::{Candidate, Group, Position, compare, is_behind};
use crate::store::memory::shares::View;
use crate::store::memory::{Memory, NONE};

/// Keeps the best `limit` hits behind a cursor, and counts all.
pub(super) struct Collector<'a> {
    memory: &'a Memory,
    view: &'a View,
    limit: usize,
    after: Option<&'a Position>,
    empty: Vec<u32>,
    best: Vec<Candidate>,
    /// The worst of `best` when it was last cut; what is not better cannot come in.
    worst: Option<Candidate>,
    /// Hits in all, before the cursor too.
    pub(super) total: u64,
    /// Hits behind the cursor.
    behind: u64,
    rows: Vec<(Group, u32)>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(memory: &'a Memory, view: &'a View, limit: usize, after: Option<&'a Position>) -> Self {
        let empty = memory.contents.of_blob(&haul_core::ids::BlobId::empty());
        Self { memory, view, limit, after, empty, best: Vec::new(), worst: None, total: 0, behind: 0, rows: Vec::new() }
    }

    /// Adds the hits of a document of which at least one row fits; false when the budget is used up.
    pub(super) fn add_doc(
        &mut self,
        doc: u32,
        class: u8,
        budget: &mut Budget,
        mut fits: impl FnMut(u32) -> bool,
    ) -> bool {
        let memory = self.memory;
        let mut rows = std::mem::take(&mut self.rows);
        rows.clear();
        let mut complete = true;
        for row in memory.rows_of_doc(doc) {
            if !budget.step() {
                complete = false;
                break;
            }
            if self.view.allowed.get(memory.slot_of_row(row)) {
                rows.push((self.group(row), row));
            }
        }
        rows.sort_unstable();
        for same in rows.chunk_by(|a, b| a.0 == b.0) {
            if same.iter().any(|(_, row)| fits(*row)) {
                self.add_group(doc, class, same);
            }
        }
        self.rows = rows;
        complete
    }

    /// Which hit a row belongs to.
    fn group(&self, row: u32) -> Group {
        group_of(self.memory, &self.empty, row)
    }

    fn add_group(&mut self, doc: u32, class: u8, rows: &[(Group, u32)]) {
        let memory = self.memory;
        let Some((group, _)) = rows.first() else { return };
        let copies = rows.len() as u32;
        let online = rows.iter().filter(|(_, row)| self.view.shown.get(memory.slot_of_row(*row))).count() as u32;
        let len = memory.names.folded(doc).len() as u16;
        self.offer(Candidate { class, weight: copies.ilog2() as u8, len, doc, group: *group, copies, online });
    }

    fn offer(&mut self, candidate: Candidate) {
        let memory = self.memory;
        self.total += 1;
        if self.after.is_some_and(|after| !is_behind(memory, &candidate, after)) {
            return;
        }
        self.behind += 1;
        if self.worst.as_ref().is_some_and(|worst| compare(memory, &candidate, worst).is_gt()) {
            return;
        }
        self.best.push(candidate);
        if self.best.len() >= 2 * self.limit + 64 {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let memory = self.memory;
        self.best.sort_unstable_by(|a, b| compare(memory, a, b));
        self.best.truncate(self.limit);
        if self.best.len() == self.limit {
            self.worst = self.best.last().copied();
        }
    }

    /// The page in order, and whether more hits follow.
    pub(super) fn finish(mut self) -> (Vec<Candidate>, bool) {
        self.cut();
        let more = self.behind > self.best.len() as u64;
        (self.best, more)
    }
}

/// Which hit a row belongs to. `empty` are the contents of the blob of no bytes, which says nothing about a file.
pub(super) fn group_of(memory: &Memory, empty: &[u32], row: u32) -> Group {
    let content = memory.row(row).content;
    let grouped = content != NONE && memory.contents.get(content).blob().is_some() && !empty.contains(&content);
    if grouped { Group::Content(content) } else { Group::Row(row) }
}
