//! The order of hits, and cursors as places in it.
//!
//! A hit's place is the class of its match, then the logarithm of the registered copies of its name, then shorter names,
//! then the document's number. The second is what the search index noted when it built the document's segment: it may
//! lag, but it lets a page end as soon as it is full. Within a document the hit with more copies
//! comes first, or in one of very many rows the one whose first row has the lower number.
//!
//! Document numbers mean nothing to another opening of the store, so a cursor names the epoch of its index.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use haul_core::query::MatchClass;
use haul_core::wire::ByteString;
use serde::{Deserialize, Serialize};

use super::collect::BY_ROW;
use crate::store::memory::Memory;
use crate::store::trigrams::Changes;
use crate::store::trigrams::segment::Rank;
use crate::store::{SearchQuestion, StoreError};

/// Where a document stands among all: class, rank, number. Better is smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Place(u64);

impl Place {
    /// `class` is that of the match, or the distance of a near one.
    pub(super) fn new(class: u8, rank: Rank, doc: u32) -> Self {
        Self(u64::from(class) << 56 | u64::from(rank.number()) << 32 | u64::from(doc))
    }

    pub(super) fn class(self) -> u8 {
        (self.0 >> 56) as u8
    }

    pub(super) fn rank(self) -> Rank {
        Rank::from_number((self.0 >> 32) as u32 & 0x00ff_ffff)
    }

    pub(super) fn doc(self) -> u32 {
        self.0 as u32
    }
}

/// What makes one hit of several rows of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Group {
    /// All rows of a content.
    Content(u32),
    /// A row alone: without a hash, without bytes, directory or link.
    Row(u32),
}

/// A hit before it is presented, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    pub(super) place: Place,
    /// Copies, inverted: more come first; [`BY_ROW`] in a document of very many rows.
    pub(super) fewer: u32,
    /// The first of its rows.
    pub(super) row: u32,
    /// That row alone where nobody has looked yet whether its document has others.
    pub(super) group: Group,
}

/// What the places of a page were made from. Where it changes, documents may have other places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    /// Changes of ranks in segments.
    moved: u64,
    /// Changes of ranks anywhere, if some documents were placed by the rank that they had.
    live: Option<u64>,
}

impl Order {
    pub(super) fn new(changes: &Changes, live: bool) -> Self {
        Self { moved: changes.moved, live: live.then_some(changes.reranked) }
    }
}

/// Continues behind a hit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Cursor {
    /// Of the question: another one cannot continue here.
    question: u64,
    epoch: u64,
    /// Of the first page.
    pub(super) order: Order,
    place: Place,
    fewer: u32,
    row: u32,
    /// Hits up to here whose words all stand in the base name.
    pub(super) in_names: u64,
    /// Hits up to here.
    pub(super) hits: u64,
}

impl Cursor {
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Whether a hit comes later.
    pub(super) fn is_before(&self, hit: &Candidate) -> bool {
        (self.place, self.fewer, self.row) < (hit.place, hit.fewer, hit.row)
    }

    /// Whether all hits of a document come earlier.
    pub(super) fn is_behind(&self, place: Place) -> bool {
        place < self.place
    }

    /// Whether the page ended in this document, and then whether its hits came by their rows.
    pub(super) fn ended_by_row(&self, place: Place) -> Option<bool> {
        (place == self.place).then_some(self.fewer == BY_ROW)
    }

    /// Behind the last of these hits, which follow on `before`.
    pub(super) fn write(
        question: &SearchQuestion<'_>,
        (epoch, order): (u64, Order),
        before: Option<&Self>,
        hits: &[Candidate],
    ) -> Option<ByteString> {
        let last = hits.last()?;
        let in_names = hits.iter().filter(|hit| hit.place.class() < MatchClass::Directory as u8).count() as u64;
        let cursor = Self {
            question: question_hash(question),
            epoch,
            order: before.map_or(order, |before| before.order),
            place: last.place,
            fewer: last.fewer,
            row: last.row,
            // A cursor that somebody made up may say anything.
            in_names: before.map_or(0, |before| before.in_names).saturating_add(in_names),
            hits: before.map_or(0, |before| before.hits).saturating_add(hits.len() as u64),
        };
        Some(ByteString(haul_core::wire::encode(&cursor)))
    }

    /// A cursor of this question and this index.
    pub(super) fn read(bytes: &[u8], question: &SearchQuestion<'_>, epoch: u64) -> Result<Self, StoreError> {
        let cursor: Self = haul_core::wire::decode(bytes).map_err(|_| StoreError::BadCursor)?;
        let same = cursor.question == question_hash(question) && cursor.epoch == epoch;
        if same { Ok(cursor) } else { Err(StoreError::BadCursor) }
    }
}

/// Orders rows by peer, share name, directory and name.
pub(in crate::store) fn compare_rows(memory: &Memory, a: u32, b: u32) -> Ordering {
    let (row_a, row_b) = (memory.row(a), memory.row(b));
    let slots = if row_a.slot() == row_b.slot() {
        Ordering::Equal
    } else {
        let key = |slot: u32| (*memory.shares.peer_of(slot).id.as_bytes(), &memory.shares.slot(slot).name);
        key(row_a.slot()).cmp(&key(row_b.slot()))
    };
    slots.then_with(|| {
        if row_a.directory == row_b.directory {
            return memory.names.compare_names(row_a.name, row_b.name);
        }
        let (mut path_a, mut path_b) = (Vec::new(), Vec::new());
        memory.directories.path(&memory.names, row_a.directory, &mut path_a);
        memory.directories.path(&memory.names, row_b.directory, &mut path_b);
        path_a.cmp(&path_b).then_with(|| memory.names.compare_names(row_a.name, row_b.name))
    })
}

/// Tells questions apart; it guards against mistakes, not against anybody.
fn question_hash(question: &SearchQuestion<'_>) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    format!("{:?}", question.query).hash(&mut hasher);
    question.away.hash(&mut hasher);
    hasher.finish()
}
