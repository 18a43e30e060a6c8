//! Search: documents that may fit come from the search index, each is compared with the query, then its rows with the
//! filters under the asker's view.
//!
//! Three stages: words in base names; if few fit, words that may also stand in directory parts; if nothing fits, near
//! matches. With few candidates all are looked at, counted and sorted; with many they are walked in the order of hits,
//! class by class, until the page is full. Every stage ends early when the work budget is used up, and then the total
//! is marked as not exact.
//!
//! The lock is held for a slice at a time. What changes between two slices may be seen in part, as if the question had
//! been asked a little later; what the asker may see is tested anew in every slice.

mod base;
mod chosen;
mod collect;
mod filter;
mod matching;
mod nearby;
mod order;
mod parts;
mod present;
mod versions;

use haul_core::limits;
use haul_core::wire::index::Hits;

use super::embedded::Asking;
use super::memory::Memory;
use super::memory::shares::View;
use super::trigrams::Snapshot;
use super::{SearchQuestion, StoreError};
pub(super) use order::compare_rows;
pub(super) use present::path_of;

use collect::Collector;
use filter::Filters;
use matching::Matcher;
use order::{Cursor, Order};

/// Directory parts count only if fewer hits than this fit by base name; the same for every page of one search.
const DIRECTORY_PARTS_BELOW: u64 = 100;
/// Hits that are presented under one lock: each may look at thousands of rows to count names.
const PRESENTED: usize = 32;
/// A search with an exact total that upkeep has disturbed is made again; so many in all.
const ATTEMPTS: usize = 3;
/// What is looked at while the lock is held.
type Seen<'a> = (&'a Memory, &'a View);

/// Work that is left.
#[derive(Debug)]
struct Budget {
    left: u64,
    cut: bool,
    /// Names compared with the query.
    examined: u64,
}

impl Budget {
    fn new(left: u64) -> Self {
        Self { left, cut: false, examined: 0 }
    }

    /// Takes one step; false when nothing is left.
    fn step(&mut self) -> bool {
        self.steps(1)
    }

    fn steps(&mut self, count: u64) -> bool {
        self.cut |= self.left < count;
        self.left = self.left.saturating_sub(count);
        !self.cut
    }

    fn examine(&mut self) -> bool {
        let go_on = self.step();
        self.examined += u64::from(go_on);
        go_on
    }
}

/// A search under way.
struct Search<'a> {
    asking: &'a Asking<'a>,
    matcher: Matcher<'a>,
    filters: Filters<'a>,
    index: Snapshot,
    budget: Budget,
    collector: Collector,
    /// How many of the names that fit had a row that fits.
    fitting: (u64, u64),
    /// Some documents are placed by the rank that they have now.
    live: bool,
}

pub(super) fn search(asking: &Asking<'_>, question: &SearchQuestion<'_>) -> Result<Hits, StoreError> {
    for _ in 1..ATTEMPTS {
        let (hits, undisturbed) = search_once(asking, question)?;
        if undisturbed || !question.exact {
            return Ok(hits);
        }
    }
    search_once(asking, question).map(|(hits, _)| hits)
}

/// The answer, and whether upkeep disturbed the search: then its total may be wrong.
fn search_once(asking: &Asking<'_>, question: &SearchQuestion<'_>) -> Result<(Hits, bool), StoreError> {
    let index = asking.look(|memory, _| memory.names.trigrams.snapshot());
    let epoch = index.epoch;
    // Tails note no ranks.
    let live = !index.tails.is_empty();
    let after = question.cursor.map(|bytes| Cursor::read(bytes, question, epoch)).transpose()?;
    let mut search = Search {
        asking,
        matcher: Matcher::new(question.query),
        filters: Filters::new(question),
        budget: Budget::new(index.work),
        index,
        collector: Collector::new(question.limit.clamp(1, limits::SEARCH_HITS), after),
        fitting: (0, 0),
        live,
    };
    let total = search.all_stages(question.exact);
    let order = Order::new(&search.index.changes, search.live);
    let (undisturbed, reordered) = (search.is_undisturbed(), search.collector.reordered);
    let Search { filters, matcher, budget, collector, .. } = search;
    let page = collector.finish();
    let near = total.near;
    let shown = |hits: &[_]| asking.look(|memory, view| present::present(memory, view, &filters, &matcher, hits, near));
    let hits = page.hits.chunks(PRESENTED).flat_map(shown).collect();
    // Where documents have changed their places since the first page, some hits may come twice or not at all.
    let continues = page.after.as_ref().is_none_or(|after| after.order == order);
    let cursor = (page.more && !near).then(|| Cursor::write(question, (epoch, order), page.after.as_ref(), &page.hits));
    let answer = Hits {
        hits,
        cursor: cursor.flatten(),
        total: total.hits,
        exact: total.exact && continues && undisturbed && !reordered,
        coverage_permille: 1_000,
        // Names of shares that the asker may not see are looked at too, and nothing may tell of them.
        examined: if asking.look(|memory, _| memory.shares.all_are_public()) { budget.examined } else { 0 },
        index_us: 0,
    };
    Ok((answer, undisturbed))
}

/// How many hits there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Total {
    hits: u64,
    exact: bool,
    /// Near matches, because nothing fits.
    near: bool,
}

impl Search<'_> {
    /// Whether no number of a document that was looked at can have gone to another name meanwhile.
    fn is_undisturbed(&self) -> bool {
        self.asking.look(|memory, _| memory.names.trigrams.changes().freed == self.index.changes.freed)
    }

    fn all_stages(&mut self, exact: bool) -> Total {
        if self.filters.nobody_is_there(self.asking) {
            return Total { hits: 0, exact: true, near: false };
        }
        let (before, in_names_before) = self.collector.after().map_or((0, 0), |after| (after.hits, after.in_names));
        let stage = self.base_names();
        let seen = self.collector.total;
        let in_names = match stage {
            Stage::All => Some(seen),
            Stage::Behind => Some(in_names_before.saturating_add(self.collector.behind)),
            Stage::Enough => None,
        };
        let all = match in_names.filter(|_| !self.budget.cut) {
            Some(few) if few < DIRECTORY_PARTS_BELOW && self.matcher.len() > 1 => {
                // Whoever wants all counted can reach all.
                let complete = self.directory_parts(exact);
                complete.then(|| few.saturating_add(self.collector.total - seen))
            }
            in_names => in_names,
        };
        match all.filter(|_| !self.budget.cut) {
            // What fits may not be loaded yet, and then near matches would only hold up the loading.
            Some(0) if !self.matcher.is_empty() && !self.asking.knows_a_part() => {
                self.near_matches();
                let hits = self.collector.total;
                Total { hits, exact: !self.budget.cut, near: hits > 0 }
            }
            Some(hits) if !(exact && self.collector.estimated) => {
                Total { hits, exact: !self.collector.estimated, near: false }
            }
            _ if exact => self.count(),
            _ => {
                let least = before.saturating_add(self.collector.behind);
                Total { hits: least.max(self.estimate()), exact: false, near: false }
            }
        }
    }
}

/// How a stage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It looked at every candidate and counted all hits.
    All,
    /// It looked at every candidate behind the cursor.
    Behind,
    /// It ended when there were enough hits for the page.
    Enough,
}
