//! Grouping of rows into hits, counting, and the best hits of one page.
//!
//! Within a document hits with more copies come first. Of a document of very many rows they come by their first rows
//! instead: so a page ends there without a look at the others.

use std::sync::LazyLock;

use hashbrown::HashSet;
use haul_core::ids::BlobId;

use super::order::{Candidate, Cursor, Group, Place};
use super::{Budget, Seen};
use crate::store::memory::{Memory, NONE};

/// A document of more rows than this has very many: grouping and sorting so many takes about 5 us.
const SORTED: usize = 64;
/// Rows of a document from which on its hits are estimated once there are enough for a page.
const MANY: usize = 2_048;

/// The blob of no bytes says nothing about a file.
static NO_BYTES: LazyLock<BlobId> = LazyLock::new(BlobId::empty);

/// Keeps the best hits behind a cursor, and counts all that it is given.
pub(super) struct Collector {
    /// Hits of the page and one more, which says that more follow.
    wanted: usize,
    after: Option<Cursor>,
    best: Vec<Candidate>,
    /// The worst place that can still come in, once there are enough.
    worst: Option<Place>,
    /// Hits in all, before the cursor too.
    pub(super) total: u64,
    /// Hits behind the cursor.
    pub(super) behind: u64,
    /// Hits of a document with many rows were estimated, so both are.
    pub(super) estimated: bool,
    /// Content and number of each row of a document.
    rows: Vec<(u32, u32)>,
}

impl Collector {
    pub(super) fn new(limit: usize, after: Option<Cursor>) -> Self {
        Self {
            wanted: limit + 1,
            after,
            best: Vec::new(),
            worst: None,
            total: 0,
            behind: 0,
            estimated: false,
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

    /// Adds the hits of a document; false when the budget is used up.
    pub(super) fn add_doc(
        &mut self,
        (memory, view): Seen<'_>,
        place: Place,
        budget: &mut Budget,
        fits: impl Fn(u32) -> bool,
    ) -> bool {
        match memory.item_count(place.doc()) {
            1 => {
                for row in memory.rows_of_doc(place.doc()).filter(|row| fits(*row)) {
                    self.offer(Candidate { place, fewer: 0, row, group: Group::Row(row) });
                }
                budget.step()
            }
            items if items <= SORTED => self.add_sorted((memory, view), place, budget, fits),
            items => self.add_by_row(memory, place, items as u64, budget, fits),
        }
    }

    fn add_sorted(
        &mut self,
        (memory, view): Seen<'_>,
        place: Place,
        budget: &mut Budget,
        fits: impl Fn(u32) -> bool,
    ) -> bool {
        // Most documents that do not fit have no row that does: told before their rows are grouped.
        if !memory.rows_of_doc(place.doc()).any(&fits) {
            return budget.steps(memory.item_count(place.doc()) as u64);
        }
        let mut rows = std::mem::take(&mut self.rows);
        rows.clear();
        let allowed = memory.rows_of_doc(place.doc()).filter(|row| view.allowed.get(memory.slot_of_row(*row)));
        rows.extend(allowed.map(|row| (memory.content_of_row(row), row)));
        rows.sort_unstable();
        for same in rows.chunk_by(|a, b| a.0 == b.0) {
            let first = same[0].1;
            // What a row alone belongs to is asked when it is presented: most contents need not be read before.
            let group = if same.len() == 1 { Group::Row(first) } else { group_of(memory, first) };
            if let Group::Content(_) = group {
                if same.iter().any(|(_, row)| fits(*row)) {
                    self.offer(Candidate { place, fewer: u32::MAX - same.len() as u32, row: first, group });
                }
                continue;
            }
            for (_, row) in same.iter().filter(|(_, row)| fits(*row)) {
                self.offer(Candidate { place, fewer: u32::MAX - 1, row: *row, group: Group::Row(*row) });
            }
        }
        let complete = budget.steps(rows.len() as u64);
        self.rows = rows;
        complete
    }

    fn add_by_row(
        &mut self,
        memory: &Memory,
        place: Place,
        items: u64,
        budget: &mut Budget,
        fits: impl Fn(u32) -> bool,
    ) -> bool {
        let (total, behind) = (self.total, self.behind);
        // An estimate out of all rows would tell of those that the asker may not see.
        let estimated = items > MANY as u64 && memory.shares.all_are_public();
        let (mut found, mut copies) = (0, 0);
        for (row, looked_at) in memory.rows_of_doc(place.doc()).zip(1..) {
            if !budget.step() {
                return false;
            }
            if let Some(group) = hit_at(memory, place.doc(), row, budget, &fits) {
                self.offer(Candidate { place, fewer: 0, row, group });
                found += 1;
                copies +=
                    if let Group::Content(content) = group { memory.row_count_of_content(content) as u64 } else { 1 };
            }
            if estimated && self.behind - behind >= self.wanted as u64 {
                // The others come behind these; as many of them may fit, and have as many copies.
                let all = |part: u64| (part * items / looked_at * found / copies).max(part);
                (self.total, self.behind) = (total + all(self.total - total), behind + all(self.behind - behind));
                self.estimated = true;
                break;
            }
        }
        true
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

    /// The page in order.
    pub(super) fn finish(mut self) -> Page {
        self.best.sort_unstable();
        // Told before any goes: what was cut off follows whatever becomes of these.
        let more = self.best.len() >= self.wanted;
        let mut seen = HashSet::new();
        // A document that was freed and came back meanwhile may have been seen in two segments.
        self.best.retain(|hit| seen.insert((hit.place.doc(), hit.row)));
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

/// How many hits a document has.
pub(super) fn count_hits(memory: &Memory, doc: u32, budget: &mut Budget, fits: impl Fn(u32) -> bool) -> u64 {
    let items = memory.item_count(doc);
    if items == 1 {
        return memory.rows_of_doc(doc).filter(|row| fits(*row)).count() as u64;
    }
    budget.steps(items as u64);
    memory.rows_of_doc(doc).filter(|row| hit_at(memory, doc, *row, budget, &fits).is_some()).count() as u64
}

/// The group of which a row is the first in its document, if any row of it there fits.
fn hit_at(memory: &Memory, doc: u32, row: u32, budget: &mut Budget, fits: impl Fn(u32) -> bool) -> Option<Group> {
    let Group::Content(content) = group_of(memory, row) else { return fits(row).then_some(Group::Row(row)) };
    for other in memory.rows_of_content(content) {
        let decided = match other.cmp(&row) {
            std::cmp::Ordering::Less => (memory.doc_of_row(other) == doc).then_some(false),
            std::cmp::Ordering::Equal => fits(row).then_some(true),
            std::cmp::Ordering::Greater => (memory.doc_of_row(other) == doc && fits(other)).then_some(true),
        };
        if let Some(hit) = decided {
            return hit.then_some(Group::Content(content));
        }
        if !budget.step() {
            return None;
        }
    }
    None
}

/// Which hit a row belongs to.
pub(super) fn group_of(memory: &Memory, row: u32) -> Group {
    let content = memory.content_of_row(row);
    if content == NONE {
        return Group::Row(row);
    }
    match memory.contents.get(content).blob() {
        Some(blob) if blob != *NO_BYTES => Group::Content(content),
        _ => Group::Row(row),
    }
}
