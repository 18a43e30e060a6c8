//! From chosen candidates to hits as they are answered.

use hashbrown::{HashMap, HashSet};
use haul_core::path::SharePath;
use haul_core::wire::ByteString;
use haul_core::wire::index::{Hit, HitKind};

use super::collect::group_of;
use super::filter::Filters;
use super::matching::Matcher;
use super::order::{Candidate, Group, compare_rows};
use super::versions::Versions;
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
    let empty = memory.contents.of_blob(&haul_core::ids::BlobId::empty());
    let found: Vec<Option<Gathered>> = chosen
        .iter()
        .map(|candidate| {
            gather(memory, view, &empty, candidate, |row| {
                filters.fit(memory, view, row) && (near || filters.words_fit(memory, matcher, row))
            })
        })
        .collect();
    touch_paths(memory, found.iter().flatten().map(|found| found.best));
    let mut names = HashMap::new();
    let mut versions = Versions::new((memory, view), &empty);
    chosen
        .iter()
        .zip(found)
        .filter_map(|(candidate, found)| {
            let names = *names.entry(candidate.group).or_insert_with(|| count_names(memory, view, candidate.group));
            let contents = versions.of_doc(candidate.place.doc());
            Some(Hit { names, contents, ..hit(memory, candidate, &found?, near) })
        })
        .collect()
}

/// The best of the rows of a hit that fit.
fn gather(
    memory: &Memory,
    view: &View,
    empty: &[u32],
    candidate: &Candidate,
    fits: impl Fn(u32) -> bool,
) -> Option<Gathered> {
    let doc = candidate.place.doc();
    let mut found: Option<Gathered> = None;
    let mut add = |row: u32| {
        if !fits(row) {
            return;
        }
        let shown = view.shown.get(memory.slot_of_row(row));
        let newest = memory.row(row).mtime_ns;
        let Some(found) = &mut found else {
            found = Some(Gathered { best: row, shown, newest });
            return;
        };
        let better = match shown.cmp(&found.shown) {
            std::cmp::Ordering::Equal => compare_rows(memory, row, found.best).is_lt(),
            ordering => ordering.is_gt(),
        };
        if better {
            (found.best, found.shown) = (row, shown);
        }
        found.newest = found.newest.max(newest);
    };
    match candidate.group {
        // The row may have gone since it was collected.
        Group::Row(row) => {
            if memory.has_row(doc, row) {
                add(row);
            }
        }
        Group::Content(content) if memory.row_count_of_content(content) < memory.item_count(doc) => {
            memory.rows_of_content(content).filter(|row| memory.doc_of_row(*row) == doc).for_each(add);
        }
        Group::Content(_) => {
            for row in memory.rows_of_doc(doc) {
                if group_of(memory, empty, row) == candidate.group {
                    add(row);
                }
            }
        }
    }
    found
}

/// Reads what the paths of these rows need, level by level: then the memory fetches the directories of all hits at the
/// same time, instead of one behind another.
fn touch_paths(memory: &Memory, rows: impl Iterator<Item = u32>) {
    let mut nodes: Vec<u32> = rows.map(|row| memory.directory_of_row(row)).collect();
    let mut read = 0u32;
    while !nodes.is_empty() {
        let names: Vec<u32> = nodes.iter().map(|node| memory.directories.node(*node).name).collect();
        read = names.iter().filter(|name| **name != NONE).fold(read, |read, name| {
            let first = memory.names.folded_name(*name).as_bytes().first().copied().unwrap_or_default();
            read.wrapping_add(u32::from(first))
        });
        for node in &mut nodes {
            *node = memory.directories.node(*node).parent;
        }
        nodes.retain(|node| *node != NONE);
    }
    std::hint::black_box(read);
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

fn hit(memory: &Memory, candidate: &Candidate, found: &Gathered, near: bool) -> Hit {
    let row = memory.row(found.best);
    let slot = memory.shares.slot(row.slot());
    let peer = memory.shares.peer_of(row.slot());
    Hit {
        kind: row.kind(),
        name: ByteString(memory.names.text(row.name).into_owned()),
        blob: memory.blob(&row),
        size: memory.size_of_row(&row).unwrap_or_default(),
        files: (row.kind() == HitKind::Directory).then(|| memory.totals_of_entry(&row).files),
        mtime_ns: found.newest,
        peer: peer.id,
        peer_name: peer.name.clone(),
        share: slot.name.clone(),
        path: path_of(memory, found.best),
        names: 1,
        contents: 1,
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
