//! Grouping of rows into hits, counting, and the best hits of one page.

use hashbrown::HashSet;

use super::order::{Candidate, Cursor, Group, Place};
use super::{Budget, Seen};
use crate::store::memory::{Memory, NONE};

/// Keeps the best hits behind a cursor, and counts all that it is given.
pub(super) struct Collector {
    /// Hits of the page and one more, which says that more follow.
    wanted: usize,
    after: Option<Cursor>,
    /// Contents of the blob of no bytes, which says nothing about a file.
    empty: Vec<u32>,
    best: Vec<Candidate>,
    /// The worst place that can still come in, once there are enough.
    worst: Option<Place>,
    /// Hits in all, before the cursor too.
    pub(super) total: u64,
    /// Hits behind the cursor.
    pub(super) behind: u64,
    /// Group and row of each row of a document.
    rows: Vec<u64>,
}

impl Collector {
    pub(super) fn new(limit: usize, after: Option<Cursor>) -> Self {
        Self {
            wanted: limit + 1,
            after,
            empty: Vec::new(),
            best: Vec::new(),
            worst: None,
            total: 0,
            behind: 0,
            rows: Vec::new(),
        }
    }

    pub(super) fn after(&self) -> Option<&Cursor> {
        self.after.as_ref()
    }

    /// Whether a document at this place has no hit that could come in: all are before the cursor, or worse than
    /// enough others.
    pub(super) fn is_out(&self, place: Place) -> bool {
        self.is_full(place) || self.after.as_ref().is_some_and(|after| after.is_behind(place))
    }

    /// Whether there are enough hits before this place.
    pub(super) fn is_full(&self, place: Place) -> bool {
        self.worst.is_some_and(|worst| place > worst)
    }

    /// Whether there are enough hits of this class or better ones.
    pub(super) fn has_enough(&self) -> bool {
        self.worst.is_some()
    }

    /// Which contents are empty may change while nobody holds the lock.
    pub(super) fn look_at(&mut self, memory: &Memory) {
        self.empty = memory.contents.of_blob(&haul_core::ids::BlobId::empty());
    }

    /// Adds the hits of a document of which at least one row fits; false when the budget is used up.
    pub(super) fn add_doc(
        &mut self,
        (memory, view): Seen<'_>,
        place: Place,
        budget: &mut Budget,
        mut fits: impl FnMut(u32) -> bool,
    ) -> bool {
        // Most documents that do not fit have no row that does: told before their rows are grouped.
        let mut left = budget.left;
        let mut any = false;
        for row in memory.rows_of_doc(place.doc()) {
            any = fits(row);
            if any || left == 0 {
                break;
            }
            left -= 1;
        }
        if !any {
            return budget.steps(budget.left - left) && left > 0;
        }
        let mut rows = std::mem::take(&mut self.rows);
        rows.clear();
        let mut complete = true;
        for row in memory.rows_of_doc(place.doc()) {
            if !budget.step() {
                complete = false;
                break;
            }
            if view.allowed.get(memory.slot_of_row(row)) {
                rows.push(group_of(memory, &self.empty, row).with_row(row));
            }
        }
        rows.sort_unstable();
        for same in rows.chunk_by(|a, b| a >> 32 == b >> 32) {
            if same.iter().any(|numbers| fits(*numbers as u32)) {
                let online = same.iter().filter(|numbers| view.shown.get(memory.slot_of_row(**numbers as u32))).count();
                let group = Group::of_numbers(same[0]);
                self.offer(Candidate::new(place, group, same.len() as u32, online as u32));
            }
        }
        self.rows = rows;
        complete
    }

    fn offer(&mut self, candidate: Candidate) {
        self.total += 1;
        if self.after.as_ref().is_some_and(|after| !after.is_before(&candidate)) {
            return;
        }
        self.behind += 1;
        if self.is_full(candidate.place) {
            return;
        }
        self.best.push(candidate);
        if self.best.len() >= 2 * self.wanted + 64 {
            self.cut();
        }
    }

    /// Drops what is not among the best, and notes what is out from now on.
    pub(super) fn cut(&mut self) {
        if self.best.len() >= self.wanted {
            self.best.sort_unstable();
            self.best.truncate(self.wanted);
            self.worst = (self.best.len() == self.wanted).then(|| self.best.last().map(|hit| hit.place)).flatten();
        }
    }

    /// How many hits a document has of which at least one row fits.
    pub(super) fn count_doc(
        &mut self,
        (memory, view): Seen<'_>,
        doc: u32,
        budget: &mut Budget,
        fits: impl Fn(u32) -> bool,
    ) -> u64 {
        let items = memory.item_count(doc);
        if items <= 1 {
            return memory.rows_of_doc(doc).filter(|row| fits(*row)).count() as u64;
        }
        budget.steps(items as u64);
        let mut groups: Vec<Group> = memory
            .rows_of_doc(doc)
            .filter(|row| view.allowed.get(memory.slot_of_row(*row)) && fits(*row))
            .map(|row| group_of(memory, &self.empty, row))
            .collect();
        groups.sort_unstable();
        groups.dedup();
        groups.len() as u64
    }

    /// The page in order.
    pub(super) fn finish(mut self) -> Page {
        self.best.sort_unstable();
        // Told before any goes: what was cut off follows whatever becomes of these.
        let more = self.best.len() >= self.wanted;
        let mut seen = HashSet::new();
        // A document that was freed and came back meanwhile may have been seen in two segments.
        self.best.retain(|hit| seen.insert((hit.place.doc(), hit.group)));
        self.best.truncate(self.wanted - 1);
        Page { hits: self.best, after: self.after, more }
    }
}

/// The hits of one answer.
pub(super) struct Page {
    pub(super) hits: Vec<Candidate>,
    pub(super) after: Option<Cursor>,
    /// More hits follow.
    pub(super) more: bool,
}

/// Which hit a row belongs to.
pub(super) fn group_of(memory: &Memory, empty: &[u32], row: u32) -> Group {
    let content = memory.content_of_row(row);
    let grouped = content != NONE && memory.contents.is_hashed(content) && !empty.contains(&content);
    if grouped { Group::Content(content) } else { Group::Row(row) }
}
