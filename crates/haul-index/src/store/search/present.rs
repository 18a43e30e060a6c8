//! From chosen candidates to hits as they are answered.

use hashbrown::{HashMap, HashSet};
use haul_core::path::SharePath;
use haul_core::wire::ByteString;
use haul_core::wire::index::Hit;

use super::collect::group_of;
use super::filter::Filters;
use super::matching::Matcher;
use super::order::{Candidate, Group, compare_rows};
use crate::store::memory::shares::View;
use crate::store::memory::{Memory, NONE};

/// Rows of a content that are looked at to count its names.
const NAMES_WORK: usize = 4_096;

/// What is gathered of the rows of one hit.
#[derive(Clone, Copy)]
struct Gathered {
    best: u32,
    shown: bool,
    newest: i64,
}

pub(super) fn present(
    memory: &Memory,
    view: &View,
    filters: &Filters<'_>,
    matcher: &Matcher<'_>,
    chosen: &[Candidate],
    near: bool,
) -> Vec<Hit> {
    let gathered = gather(memory, view, chosen, |row| {
        filters.fit(memory, view, row) && (near || filters.words_fit(memory, matcher, row))
    });
    let mut names = HashMap::new();
    chosen
        .iter()
        .filter_map(|candidate| {
            let found = gathered.get(&(candidate.place.doc(), candidate.group))?;
            let names = *names.entry(candidate.group).or_insert_with(|| count_names(memory, view, candidate.group));
            Some(hit(memory, candidate, found, names, near))
        })
        .collect()
}

/// One walk over the rows of each document that has a chosen hit.
fn gather(
    memory: &Memory,
    view: &View,
    chosen: &[Candidate],
    fits: impl Fn(u32) -> bool,
) -> HashMap<(u32, Group), Gathered> {
    let wanted: HashSet<(u32, Group)> =
        chosen.iter().map(|candidate| (candidate.place.doc(), candidate.group)).collect();
    let docs: HashSet<u32> = chosen.iter().map(|candidate| candidate.place.doc()).collect();
    let empty = memory.contents.of_blob(&haul_core::ids::BlobId::empty());
    let mut gathered: HashMap<(u32, Group), Gathered> = HashMap::new();
    for doc in docs {
        for row in memory.rows_of_doc(doc) {
            let key = (doc, group_of(memory, &empty, row));
            if !wanted.contains(&key) || !fits(row) {
                continue;
            }
            let shown = view.shown.get(memory.slot_of_row(row));
            let newest = memory.row(row).mtime_ns;
            gathered
                .entry(key)
                .and_modify(|found| {
                    let better = match shown.cmp(&found.shown) {
                        std::cmp::Ordering::Equal => compare_rows(memory, row, found.best).is_lt(),
                        ordering => ordering.is_gt(),
                    };
                    if better {
                        found.best = row;
                        found.shown = shown;
                    }
                    found.newest = found.newest.max(newest);
                })
                .or_insert(Gathered { best: row, shown, newest });
        }
    }
    gathered
}

/// Different base names under which a content is registered, as far as the asker may see.
fn count_names(memory: &Memory, view: &View, group: Group) -> u32 {
    let Group::Content(content) = group else { return 1 };
    let names: HashSet<u32> = memory
        .rows_of_content(content)
        .take(NAMES_WORK)
        .filter(|row| view.allowed.get(memory.slot_of_row(*row)))
        .map(|row| memory.row(row).name)
        .collect();
    names.len() as u32
}

fn hit(memory: &Memory, candidate: &Candidate, found: &Gathered, names: u32, near: bool) -> Hit {
    let row = memory.row(found.best);
    let slot = memory.shares.slot(row.slot());
    let peer = memory.shares.peer_of(row.slot());
    let file = row.content != NONE;
    Hit {
        kind: row.kind(),
        name: ByteString(memory.names.text(row.name).into_owned()),
        blob: memory.blob(&row),
        size: if file { memory.contents.get(row.content).size() } else { 0 },
        mtime_ns: found.newest,
        peer: peer.id,
        peer_name: peer.name.clone(),
        share: slot.name.clone(),
        path: path_of(memory, found.best),
        names,
        copies: candidate.copies(),
        online: candidate.online,
        near,
    }
}

/// The path of a row within its share.
pub(in crate::store) fn path_of(memory: &Memory, row: u32) -> SharePath {
    memory.with_entry(row, |entry| {
        let mut path = entry.directory.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(entry.name);
        // Pages are checked before they are kept, so this is a path.
        SharePath::new(path).unwrap_or_default()
    })
}
