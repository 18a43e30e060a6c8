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
    group: Group,
    copies: u32,
    online: u32,
}

pub(super) fn present(
    memory: &Memory,
    view: &View,
    filters: &Filters<'_>,
    matcher: &Matcher<'_>,
    chosen: &[Candidate],
    near: bool,
) -> Vec<Hit> {
    let content = |candidate: &Candidate| match candidate.group {
        Group::Content(content) => content,
        Group::Row(row) => memory.content_of_row(row),
    };
    memory.read_contents_ahead(chosen.iter().map(content).filter(|content| *content != NONE));
    let found: Vec<Option<Gathered>> = chosen
        .iter()
        .map(|candidate| {
            gather(memory, view, candidate, |row| {
                filters.fit(memory, view, row) && (near || filters.words_fit(memory, matcher, row))
            })
        })
        .collect();
    touch_paths(memory, found.iter().flatten().map(|found| found.best));
    let mut names = HashMap::new();
    let mut versions = Versions::new((memory, view));
    chosen
        .iter()
        .zip(found)
        .filter_map(|(candidate, found)| {
            let found = found?;
            let names = *names.entry(found.group).or_insert_with(|| count_names(memory, view, found.group));
            let contents = versions.of_doc(candidate.place.doc());
            Some(Hit { names, contents, ..hit(memory, &found, near) })
        })
        .collect()
}

/// The best of the rows of a hit that fit.
fn gather(memory: &Memory, view: &View, candidate: &Candidate, fits: impl Fn(u32) -> bool) -> Option<Gathered> {
    let doc = candidate.place.doc();
    let group = match candidate.group {
        // The row may have gone since it was collected.
        Group::Row(row) if !memory.has_row(doc, row) => return None,
        Group::Row(row) => group_of(memory, row),
        group @ Group::Content(_) => group,
    };
    let mut found: Option<Gathered> = None;
    let (mut copies, mut online) = (0, 0);
    let mut add = |row: u32| {
        let slot = memory.slot_of_row(row);
        copies += u32::from(view.allowed.get(slot));
        let shown = view.shown.get(slot);
        online += u32::from(shown);
        if !fits(row) {
            return;
        }
        let newest = memory.row(row).mtime_ns;
        let Some(found) = &mut found else {
            found = Some(Gathered { best: row, shown, newest, group, copies: 0, online: 0 });
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
    match group {
        Group::Row(row) => add(row),
        Group::Content(content) if memory.row_count_of_content(content) <= memory.item_count(doc) => {
            memory.rows_of_content(content).filter(|row| memory.doc_of_row(*row) == doc).for_each(add);
        }
        Group::Content(_) => memory.rows_of_doc(doc).filter(|row| group_of(memory, *row) == group).for_each(add),
    }
    found.map(|found| Gathered { copies, online, ..found })
}

/// Reads what the paths of these rows need, level by level: then the memory fetches the directories of all hits at the
/// same time, instead of one behind another.
fn touch_paths(memory: &Memory, rows: impl Iterator<Item = u32>) {
    let mut nodes: Vec<u32> = rows.map(|row| memory.directory_of_row(row)).collect();
    let mut read = 0;
    while !nodes.is_empty() {
        let names: Vec<u32> = nodes.iter().map(|node| memory.directories.node(*node).name).collect();
        read = names
            .iter()
            .filter(|name| **name != NONE)
            .fold(read, |read, name| read ^ memory.names.touch_folded(memory.names.doc_of(*name)));
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

fn hit(memory: &Memory, found: &Gathered, near: bool) -> Hit {
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
        copies: found.copies,
        online: found.online,
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
