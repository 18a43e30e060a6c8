//! Grouping of rows into hits, counting, and the best hits of one page.
//!
//! Within a document hits with more copies come first. Of a document of very many rows they come by their first rows
//! instead: so a page ends there without a look at the others.

use hashbrown::HashSet;

use super::order::{Candidate, Cursor, Group, Place};
use super::{Budget, Seen};
use crate::store::memory::{Memory, NONE};

/// A document of more rows than this has very many: grouping and sorting so many takes about 5 us.
const SORTED: usize = 64;
/// What stands for the number of copies in a document of very many rows, whose hits come by their rows. Of a hit in
/// another document it is more, as there are fewer than 2^31 rows.
pub(super) const BY_ROW: u32 = 0;
/// Rows of a document from which on its hits are estimated once there are enough for a page.
const MANY: usize = 2_048;
/// Rows of a content that are asked whether they have the same name.
const ASKED: usize = 64;
/// Rows that are counted, and not looked at, in the time of one step of the budget.
const COUNTED_PER_STEP: u64 = 16;

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
    /// The document in which the page before ended has so many more or fewer rows now that its hits are in another order.
    pub(super) reordered: bool,
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
            reordered: false,
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

    /// Adds the hits of a document; false when the budget is used up. `sees` tells of a row whether the asker sees it,
    /// `fits` whether all else holds too.
    pub(super) fn add_doc(
        &mut self,
        (memory, view): Seen<'_>,
        place: Place,
        budget: &mut Budget,
        sees: impl Fn(u32) -> bool,
        fits: impl Fn(u32) -> bool,
    ) -> bool {
        let items = memory.item_count(place.doc());
        let ended_by_row = self.after.as_ref().and_then(|after| after.ended_by_row(place));
        self.reordered |= ended_by_row.is_some_and(|by_row| by_row != (items > SORTED));
        match items {
            1 => {
                for row in memory.rows_of_doc(place.doc()).filter(|row| fits(*row)) {
                    self.offer(Candidate { place, fewer: fewer(1), row, group: Group::Row(row) });
                }
                budget.step()
            }
            items if items <= SORTED => self.add_sorted((memory, view), place, budget, fits),
            items => self.add_by_row(memory, place, items > MANY, budget, sees, fits),
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
                    self.offer(Candidate { place, fewer: fewer(same.len()), row: first, group });
                }
                continue;
            }
            for (_, row) in same.iter().filter(|(_, row)| fits(*row)) {
                self.offer(Candidate { place, fewer: fewer(1), row: *row, group: Group::Row(*row) });
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
        many: bool,
        budget: &mut Budget,
        sees: impl Fn(u32) -> bool,
        fits: impl Fn(u32) -> bool,
    ) -> bool {
        let (total, behind) = (self.total, self.behind);
        let mut offered = HashSet::new();
        let (mut looked_at, mut visible, mut fitting, mut copies) = (0, 0, 0, 0);
        let mut rows = memory.rows_of_doc(place.doc());
        while let Some(row) = rows.next() {
            if !budget.step() {
                return false;
            }
            looked_at += 1;
            visible += u64::from(sees(row));
            if fits(row) {
                fitting += 1;
                let group = group_of(memory, row);
                // The first row that fits brings its content in, and the others come with it.
                if !matches!(group, Group::Content(content) if !offered.insert(content)) {
                    self.offer(Candidate { place, fewer: BY_ROW, row, group });
                    copies += if many { copies_of(memory, place.doc(), group, &sees) } else { 1 };
                }
            }
            if many && self.behind - behind >= self.wanted as u64 {
                // The others come behind these; as many of them may fit, and have as many copies. Where some may be hidden
                // from the asker, only those that he sees are counted, or the estimate would tell of the others.
                let (part_of, rows) = if memory.shares.all_are_public() {
                    (looked_at, memory.row_count_of_doc(place.doc()) as u64)
                } else {
                    let rest = rows.filter(|row| sees(*row)).count() as u64;
                    budget.steps(rest / COUNTED_PER_STEP);
                    (visible, visible + rest)
                };
                let all = |part: u64| (part * rows / part_of * fitting / copies).max(part);
                (self.total, self.behind) = (total + all(self.total - total), behind + all(self.behind - behind));
                self.estimated = true;
                return !budget.cut;
            }
        }
        true
    }

    /// How many hits a document has.
    pub(super) fn count_doc(
        &mut self,
        memory: &Memory,
        doc: u32,
        budget: &mut Budget,
        fits: impl Fn(u32) -> bool,
    ) -> u64 {
        let items = memory.item_count(doc);
        let fitting = memory.rows_of_doc(doc).filter(|row| fits(*row));
        if items == 1 {
            return fitting.count() as u64;
        }
        budget.steps(items as u64);
        self.rows.clear();
        self.rows.extend(fitting.map(|row| (memory.content_of_row(row), row)));
        self.rows.sort_unstable();
        let hits = |same: &[(u32, u32)]| match same {
            [_] => 1,
            several => match group_of(memory, several[0].1) {
                Group::Content(_) => 1,
                Group::Row(_) => several.len() as u64,
            },
        };
        self.rows.chunk_by(|a, b| a.0 == b.0).map(hits).sum()
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

/// Copies, inverted: more come first.
fn fewer(copies: usize) -> u32 {
    u32::MAX - copies as u32
}

/// How many rows of a document belong to a hit, as far as the asker sees them; of many the first are counted.
fn copies_of(memory: &Memory, doc: u32, group: Group, sees: impl Fn(u32) -> bool) -> u64 {
    let Group::Content(content) = group else { return 1 };
    let rows = memory.rows_of_content(content).take(ASKED);
    rows.filter(|row| sees(*row) && memory.doc_of_row(*row) == doc).count().max(1) as u64
}

/// Which hit a row belongs to.
pub(super) fn group_of(memory: &Memory, row: u32) -> Group {
    let content = memory.content_of_row(row);
    if content != NONE && memory.contents.is_telling(content) { Group::Content(content) } else { Group::Row(row) }
}
