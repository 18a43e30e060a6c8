//! Lookups: who has exactly this blob, or a file of exactly this name.

use hashbrown::HashMap;
use haul_core::ids::{BlobId, PeerId};
use haul_core::limits;
use haul_core::wire::index::{HitKind, LookupKeys, Place};

use super::memory::Memory;
use super::memory::shares::View;
use super::search::{compare_rows, path_of};
use super::{BlobFound, Found};

/// Rows of one blob or name that are looked at: about 0.1 ms. (A million empty files share a blob.) What stands behind
/// them is neither told nor counted.
const WALKED_ROWS: usize = 65_536;
/// Rows that all keys of one request look at together: a millisecond or two, in which no change of the index comes
/// through. Keys behind them look at fewer each.
const REQUEST_ROWS: usize = 4 * WALKED_ROWS;
/// Rows that every key may look at, whatever the keys before it took.
const LEAST_ROWS: usize = 1_024;
/// Rows of one blob that are put in order; those behind are counted only. Comparing two costs up to a microsecond.
const ORDERED_ROWS: usize = 1_024;
/// Contents answered under one name.
const CONTENTS: usize = limits::LOOKUP_PROVIDERS;
/// Bytes of the places of one answer, for all keys together. No more fits into a frame, and without it the keys of one
/// request, each a name that many have, would fill the memory.
const PLACES_BYTES: usize = limits::FRAME_BYTES;
/// What a place costs of them besides its path.
const PLACE_BYTES: usize = 32;

pub(super) fn lookup(memory: &Memory, view: &View, keys: &LookupKeys, max: usize, away: bool) -> Found {
    let max = max.min(limits::LOOKUP_PROVIDERS);
    let mut answer = Answer {
        memory,
        view,
        max,
        away,
        found: Found::default(),
        peers: HashMap::new(),
        room: PLACES_BYTES,
        walk: Walk::default(),
    };
    let answers = match keys {
        LookupKeys::Blobs(blobs) => blobs.iter().map(|blob| answer.blob(blob)).collect(),
        LookupKeys::Names(names) => names.iter().map(|name| answer.name(name)).collect(),
    };
    answer.found.answers = answers;
    answer.found.walked = answer.walk.walked as u64;
    answer.found
}

struct Answer<'a> {
    memory: &'a Memory,
    view: &'a View,
    max: usize,
    away: bool,
    found: Found,
    peers: HashMap<PeerId, u32>,
    /// Bytes that places may still take.
    room: usize,
    walk: Walk,
}

/// How far one request may walk through lists of rows.
#[derive(Debug, Default)]
pub(super) struct Walk {
    walked: usize,
    /// What is left for the present key.
    left: usize,
}

impl Walk {
    /// The next key's turn.
    pub(super) fn begin_key(&mut self) {
        self.left = REQUEST_ROWS.saturating_sub(self.walked).clamp(LEAST_ROWS, WALKED_ROWS);
    }

    /// The rows of a list, as far as they may be looked at. A list costs a row at least, for there may be many lists.
    pub(super) fn rows<'a>(&'a mut self, rows: impl Iterator<Item = u32> + 'a) -> impl Iterator<Item = u32> + 'a {
        let most = self.left;
        self.step();
        rows.take(most).enumerate().map(|(number, row)| {
            if number > 0 {
                self.step();
            }
            row
        })
    }

    fn step(&mut self) {
        self.walked += 1;
        self.left = self.left.saturating_sub(1);
    }
}

/// Rows of one content.
struct Rows {
    content: u32,
    kept: Vec<u32>,
    total: u32,
}

impl Answer<'_> {
    /// At most one content: if sizes differ, somebody claims a wrong one, and the size that most places claim wins
    /// (of equal ones the smaller).
    fn blob(&mut self, blob: &BlobId) -> Vec<BlobFound> {
        let memory = self.memory;
        let mut walk = std::mem::take(&mut self.walk);
        walk.begin_key();
        let best = memory
            .contents
            .of_blob(blob)
            .into_iter()
            .map(|content| self.rows_of(content, walk.rows(memory.rows_of_content(content))))
            .filter(|rows| rows.total > 0)
            .max_by_key(|rows| (rows.total, u64::MAX - memory.contents.get(rows.content).size()));
        self.walk = walk;
        best.map(|rows| self.present(rows)).into_iter().collect()
    }

    /// Every content under the name, the ones with most places first; files without a hash stand alone.
    fn name(&mut self, name: &[u8]) -> Vec<BlobFound> {
        let memory = self.memory;
        let Some(number) = memory.names.find(name) else { return Vec::new() };
        let doc = memory.names.doc_of(number);
        let mut by_content: HashMap<u32, Vec<u32>> = HashMap::new();
        let mut groups = Vec::new();
        let mut walk = std::mem::take(&mut self.walk);
        walk.begin_key();
        for row in walk.rows(memory.rows_of_doc(doc)).filter(|row| self.counts(*row)) {
            let record = memory.row(row);
            if record.name != number || record.kind() != HitKind::File {
                continue;
            }
            if memory.blob(&record).is_some() {
                by_content.entry(record.content).or_default().push(row);
            } else if groups.len() < ORDERED_ROWS {
                groups.push(Rows { content: record.content, kept: vec![row], total: 1 });
            }
        }
        self.walk = walk;
        groups.extend(by_content.into_iter().map(|(content, rows)| self.rows_of(content, rows.into_iter())));
        let order = |a: &Rows, b: &Rows| {
            let key = |rows: &Rows| {
                let content = memory.contents.get(rows.content);
                (u32::MAX - rows.total, content.blob().is_none(), content.blob(), content.size())
            };
            key(a).cmp(&key(b)).then_with(|| match (a.kept.first(), b.kept.first()) {
                (Some(a), Some(b)) => compare_rows(memory, *a, *b),
                _ => std::cmp::Ordering::Equal,
            })
        };
        if groups.len() > CONTENTS {
            groups.select_nth_unstable_by(CONTENTS, order);
        }
        groups.truncate(CONTENTS);
        groups.sort_by(order);
        groups.into_iter().map(|rows| self.present(rows)).collect()
    }

    /// Whether a row counts for this asker.
    fn counts(&self, row: u32) -> bool {
        let slot = self.memory.slot_of_row(row);
        if self.away { self.view.allowed.get(slot) } else { self.view.shown.get(slot) }
    }

    fn rows_of(&self, content: u32, rows: impl Iterator<Item = u32>) -> Rows {
        let mut kept = Vec::new();
        let mut total = 0;
        for row in rows.filter(|row| self.counts(*row)) {
            total += 1;
            if kept.len() < ORDERED_ROWS {
                kept.push(row);
            }
        }
        Rows { content, kept, total }
    }

    /// Those that are there first, then by peer, share and path.
    fn present(&mut self, mut found: Rows) -> BlobFound {
        let memory = self.memory;
        let view = self.view;
        let order = |a: &u32, b: &u32| {
            let away = |row: u32| !view.shown.get(memory.slot_of_row(row));
            away(*a).cmp(&away(*b)).then_with(|| compare_rows(memory, *a, *b))
        };
        let max = self.max.min(self.room / PLACE_BYTES);
        if found.kept.len() > max && max > 0 {
            found.kept.select_nth_unstable_by(max - 1, order);
        }
        found.kept.truncate(max);
        found.kept.sort_unstable_by(order);
        let content = memory.contents.get(found.content);
        BlobFound {
            blob: content.blob(),
            size: content.size(),
            places: found.kept.iter().map_while(|row| self.place(*row)).collect(),
            total: found.total,
        }
    }

    /// None once the answer is full.
    fn place(&mut self, number: u32) -> Option<Place> {
        let memory = self.memory;
        let row = memory.row(number);
        let path = path_of(memory, number);
        self.room = self.room.checked_sub(path.as_bytes().len() + PLACE_BYTES)?;
        let peer = memory.shares.peer_of(row.slot()).id;
        let peers = &mut self.found.peers;
        let peer = *self.peers.entry(peer).or_insert_with(|| {
            peers.push(peer);
            peers.len() as u32 - 1
        });
        Some(Place {
            peer,
            share: memory.shares.slot(row.slot()).name.clone(),
            path,
            mtime_ns: row.mtime_ns,
            executable: row.executable(),
        })
    }
}
