//! The memory as a whole against a map of entries.
#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use haul_core::ids::PeerId;
use haul_core::query::fold;
use haul_core::wire::Label;
use proptest::prelude::*;

use super::shares::SlotState;
use super::*;

pub(super) const DIRECTORIES: [&str; 5] = ["", "a", "a/b", "a/b/C", "ä"];
pub(super) const NAMES: [&str; 6] = ["a", "A", "b", "file.txt", "FILE.txt", "c"];

pub(in crate::store) fn with_slots(slots: u32) -> Memory {
    let mut memory = Memory::default();
    let name = Label::new("x").unwrap();
    let peer = memory.shares.ensure_peer(PeerId::new([9; 32]).unwrap(), &name);
    for _ in 0..slots {
        let (name, groups) = (name.clone(), Vec::new());
        let slot = Slot { state: SlotState::Live, peer, name, groups, open: false, root: NONE, files: 0, bytes: 0 };
        memory.take_slot(slot).unwrap();
    }
    memory
}

pub(super) fn kind(kind: u8, number: u8) -> EntryKind<'static> {
    match kind {
        0 => EntryKind::Directory,
        1 => EntryKind::Symlink { target: b"there" },
        2 => EntryKind::File { size: u64::from(number), executable: true, blob: None },
        _ => EntryKind::File { size: 7, executable: false, blob: Some(BlobId::new([number; 32])) },
    }
}

/// Slot, directory and name with time and kind, as text: what the memory says it holds, by several ways.
pub(super) type Model = BTreeMap<(u32, &'static str, &'static str), (i64, EntryKind<'static>)>;

fn describe(slot: u32, entry: &Entry<'_>) -> String {
    format!("{slot} {entry:?}")
}

fn model_lines(model: &Model) -> Vec<String> {
    let mut lines: Vec<String> = model
        .iter()
        .map(|((slot, directory, name), (mtime_ns, kind))| {
            let (directory, name) = (directory.as_bytes(), name.as_bytes());
            describe(*slot, &Entry { directory, name, mtime_ns: *mtime_ns, kind: *kind })
        })
        .collect();
    lines.sort_unstable();
    lines
}

fn lines_of(memory: &Memory, rows: impl Iterator<Item = u32>) -> Vec<String> {
    let mut lines: Vec<String> =
        rows.map(|row| memory.with_entry(row, |entry| describe(memory.row(row).slot(), entry))).collect();
    lines.sort_unstable();
    lines
}

fn rows_below(memory: &Memory, node: u32, rows: &mut Vec<u32>) {
    rows.extend(memory.children_from(node, (0, 0)));
    memory.subdirs(node).for_each(|child| rows_below(memory, child, rows));
}

/// Compares all that the memory shows; `settled`: and what it holds besides.
pub(super) fn check(memory: &Memory, model: &Model, settled: bool) {
    let expected = model_lines(model);
    let docs = 0..memory.names.doc_count();
    assert_eq!(lines_of(memory, docs.flat_map(|doc| memory.rows_of_doc(doc).collect::<Vec<_>>())), expected);
    let mut rows = Vec::new();
    for (slot, record) in memory.shares.slots.iter().enumerate() {
        let of_slot = rows.len();
        rows_below(memory, record.root, &mut rows);
        assert!(rows[of_slot..].iter().all(|row| memory.slot_of_row(*row) == slot as u32));
    }
    assert_eq!(lines_of(memory, rows.into_iter()), expected);
    let live = model.keys().map(|(.., name)| fold(name.as_bytes())).collect::<std::collections::BTreeSet<_>>();
    assert!(!settled || memory.names.live_docs as usize == live.len());
    for number in 0..3u8 {
        let blob = BlobId::new([number; 32]);
        let contents = memory.contents.of_blob(&blob).into_iter();
        let rows = contents.flat_map(|content| memory.rows_of_content(content).collect::<Vec<_>>()).count();
        let files = model.values().filter(|(_, entry)| *entry == kind(3, number)).count();
        assert_eq!(rows, files);
    }
    if settled {
        check_directories(memory, model);
    }
}

fn check_directories(memory: &Memory, model: &Model) {
    for (slot, record) in memory.shares.slots.iter().enumerate() {
        for directory in DIRECTORIES {
            let inside =
                |other: &str| directory.is_empty() || other == directory || other.starts_with(&format!("{directory}/"));
            let below: Vec<_> = model
                .iter()
                .filter(|((of, other, _), _)| *of == slot as u32 && inside(other))
                .map(|(_, (_, kind))| *kind)
                .collect();
            let mut totals = Totals::default();
            for kind in &below {
                if let EntryKind::File { size, .. } = kind {
                    totals.add(Totals { files: 1, bytes: *size });
                }
            }
            let node = memory.directories.find(&memory.names, record.root, directory.as_bytes());
            assert_eq!(node.is_some(), !below.is_empty() || directory.is_empty(), "{directory}");
            let Some(node) = node else { continue };
            assert_eq!((memory.directories.totals(node), memory.slot_of_node(node)), (totals, slot as u32));
            if let Some(name) = directory.rsplit('/').next().filter(|name| !name.is_empty()) {
                let doc = memory.names.doc_of(memory.names.find(name.as_bytes()).unwrap());
                assert!(memory.nodes_of_doc(doc).any(|other| other == node));
            }
        }
    }
}

proptest! {
    #[test]
    fn entries_come_and_go(
        operations in proptest::collection::vec((0u32..2, 0usize..5, 0usize..6, 0u8..7, 0u8..3), 0..300),
        swept in 0usize..40,
    ) {
        let mut memory = with_slots(2);
        let mut model = Model::new();
        for (number, (slot, directory, name, change, blob)) in operations.into_iter().enumerate() {
            let (directory, name) = (DIRECTORIES[directory], NAMES[name]);
            let key = (slot, directory, name);
            let mut old = None;
            let mut note = |entry: &Entry<'_>| old = Some(describe(slot, entry));
            let before = model.get(&key).map(|value| model_lines(&[(key, *value)].into()).remove(0));
            if change < 5 {
                let value = (number as i64, kind(change, blob));
                let (directory, name) = (directory.as_bytes(), name.as_bytes());
                let entry = Entry { directory, name, mtime_ns: value.0, kind: value.1 };
                memory.upsert(slot, &entry, &mut note).unwrap();
                model.insert(key, value);
            } else {
                memory.remove(slot, directory.as_bytes(), name.as_bytes(), &mut note);
                model.remove(&key);
            }
            prop_assert_eq!(old, before);
        }
        memory.settle();
        check(&memory, &model, true);
        let mut finder = Finder::default();
        for (slot, directory, name) in DIRECTORIES.iter().flat_map(|directory| NAMES.map(|name| (0, *directory, name))) {
            let found = finder.find(&memory, slot, directory.as_bytes(), name.as_bytes());
            prop_assert_eq!(found.is_some(), model.contains_key(&(slot, directory, name)));
            prop_assert_eq!(found, memory.find(slot, directory.as_bytes(), name.as_bytes()));
        }
        while memory.sweep(1, swept.max(1)) {}
        let root = memory.directories.add_root(1).unwrap();
        memory.shares.slot_mut(1).root = root;
        model.retain(|(slot, ..), _| *slot == 0);
        check(&memory, &model, true);
    }
}

#[test]
fn a_million_copies_come_and_go_quickly_enough_to_test() {
    let mut memory = with_slots(2);
    for slot in 0..2 {
        for number in 0..20_000u32 {
            let name = format!("copy-{number:05}");
            let kind = EntryKind::File { size: 0, executable: false, blob: Some(BlobId::empty()) };
            memory.upsert(slot, &Entry { directory: b"d", name: name.as_bytes(), mtime_ns: 0, kind }, |_| ()).unwrap();
        }
    }
    memory.settle();
    let content = memory.contents.of_blob(&BlobId::empty())[0];
    assert_eq!(memory.rows_of_content(content).count(), 40_000);
    while memory.sweep(0, 1_000) {}
    assert_eq!(memory.rows_of_content(content).count(), 20_000);
    while memory.sweep(1, 1_000) {}
    assert!(memory.contents.of_blob(&BlobId::empty()).is_empty());
}
