//! Everything that a question needs, in memory: rows, names, contents, directories, postings, slots.
//!
//! A row is one entry of one share: 40 bytes that point to its slot, directory, name and content and link it into two
//! chains, the rows of its document and the rows of its content. Adding and removing a row costs a few look-ups
//! whatever the size of the rest.

pub(super) mod bitmap;
pub(super) mod chunked;
pub(super) mod contents;
pub(super) mod directories;
pub(super) mod names;
pub(super) mod postings;
pub(super) mod shares;

use std::collections::HashMap;

use haul_core::ids::BlobId;
use haul_core::manifest::{Entry, EntryKind, RegistrationDigest};
use haul_core::wire::index::HitKind;

use super::StoreError;
use chunked::Table;
use contents::Contents;
use directories::{ChildAt, Directories, Node};
use names::Names;
use shares::{Shares, SlotState};

/// No row, node or name.
pub(super) const NONE: u32 = u32::MAX;

/// Unused names below this many are left alone.
const WORN_NAMES: u32 = 100_000;

const SLOT_MASK: u32 = (1 << 29) - 1;
const KIND_SHIFT: u32 = 29;
const EXECUTABLE: u32 = 1 << 31;

/// One entry of one share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// Slot in bits 0-28, kind in 29-30, executable in 31.
    slot_and_kind: u32,
    pub(super) directory: u32,
    pub(super) name: u32,
    /// None for directories and links.
    pub(super) content: u32,
    pub(super) mtime_ns: i64,
    in_doc: Links,
    in_content: Links,
}

#[derive(Clone, Copy, Debug)]
struct Links {
    before: u32,
    after: u32,
}

const UNLINKED: Links = Links { before: NONE, after: NONE };

impl Row {
    pub(super) fn slot(&self) -> u32 {
        self.slot_and_kind & SLOT_MASK
    }

    pub(super) fn kind(&self) -> HitKind {
        match self.slot_and_kind >> KIND_SHIFT & 3 {
            0 => HitKind::File,
            1 => HitKind::Directory,
            _ => HitKind::Symlink,
        }
    }

    pub(super) fn executable(&self) -> bool {
        self.slot_and_kind & EXECUTABLE != 0
    }
}

/// The engine.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) names: Names,
    rows: Table<Row>,
    free_rows: Vec<u32>,
    pub(super) contents: Contents,
    pub(super) directories: Directories,
    /// Targets of symbolic links, by row.
    targets: HashMap<u32, Box<[u8]>>,
    pub(super) shares: Shares,
}

fn full() -> StoreError {
    StoreError::TooMuch("this index cannot hold more names: spread the shares over several indexes".into())
}

impl Memory {
    pub(super) fn row(&self, row: u32) -> &Row {
        &self.rows[row]
    }

    /// The rows of a document.
    pub(super) fn rows_of_doc(&self, doc: u32) -> impl Iterator<Item = u32> + '_ {
        let mut next = self.names.doc(doc).first;
        std::iter::from_fn(move || {
            let row = (next != NONE).then_some(next)?;
            next = self.rows[row].in_doc.after;
            Some(row)
        })
    }

    /// The rows of a content.
    pub(super) fn rows_of_content(&self, content: u32) -> impl Iterator<Item = u32> + '_ {
        let mut next = self.contents.get(content).first;
        std::iter::from_fn(move || {
            let row = (next != NONE).then_some(next)?;
            next = self.rows[row].in_content.after;
            Some(row)
        })
    }

    /// Where the row of a name stands in a directory, or would.
    pub(super) fn find_child(&self, node: u32, name: &[u8]) -> Result<ChildAt, ChildAt> {
        self.directories.node(node).children.find(|row| self.names.text(self.rows[row].name).cmp(name))
    }

    /// The row of a path.
    pub(super) fn find(&self, slot: u32, directory: &[u8], name: &[u8]) -> Option<u32> {
        let node = self.directories.find(&self.names, self.shares.slot(slot).root, directory)?;
        let at = self.find_child(node, name).ok()?;
        self.directories.node(node).children.get(at)
    }

    /// Adds or changes an entry; returns whether it was new.
    pub(super) fn upsert(&mut self, slot: u32, entry: &Entry<'_>) -> Result<bool, StoreError> {
        let root = self.shares.slot(slot).root;
        let node = self.directories.ensure(&mut self.names, root, entry.directory).ok_or_else(full)?;
        match self.find_child(node, entry.name) {
            Ok(at) => {
                if let Some(row) = self.directories.node(node).children.get(at) {
                    self.clear(row);
                    self.fill(row, entry);
                }
                Ok(false)
            }
            Err(at) => {
                let Some(name) = self.names.intern(entry.name) else {
                    self.directories.prune(&mut self.names, node);
                    return Err(full());
                };
                let row = self.place(Row {
                    slot_and_kind: slot,
                    directory: node,
                    name,
                    content: NONE,
                    mtime_ns: 0,
                    in_doc: UNLINKED,
                    in_content: UNLINKED,
                });
                self.directories.node_mut(node).children.insert(at, row);
                self.link_doc(row);
                self.fill(row, entry);
                Ok(true)
            }
        }
    }

    /// Removes an entry if it is there.
    pub(super) fn remove(&mut self, slot: u32, directory: &[u8], name: &[u8]) {
        let Some(node) = self.directories.find(&self.names, self.shares.slot(slot).root, directory) else { return };
        let Ok(at) = self.find_child(node, name) else { return };
        let row = self.directories.node_mut(node).children.remove(at);
        self.drop_row(row);
        self.directories.prune(&mut self.names, node);
    }

    /// Removes up to `limit` rows of a slot; returns whether rows are left.
    pub(super) fn sweep(&mut self, slot: u32, limit: usize) -> bool {
        let root = self.shares.slot(slot).root;
        let mut left = limit;
        let mut node = root;
        loop {
            while let Some(row) = self.directories.node_mut(node).children.pop() {
                self.drop_row(row);
                left -= 1;
                if left == 0 {
                    return true;
                }
            }
            let Node { parent, subdirs, .. } = self.directories.node(node);
            if let Some(child) = subdirs.last() {
                node = *child;
            } else if node == root {
                self.directories.remove_root(root);
                return false;
            } else {
                let parent = *parent;
                self.directories.prune(&mut self.names, node);
                // Pruning may have freed parents too; the root is never freed.
                node = if self.directories.node(parent).subdirs.is_empty() { root } else { parent };
            }
        }
    }

    /// Whether names that nothing uses fill so much memory that building everything anew pays.
    pub(super) fn is_worn(&self) -> bool {
        let unused = self.names.unused;
        unused >= WORN_NAMES && unused > self.names.count() / 2
    }

    /// Builds everything anew without unused names. Slots keep their numbers, rows do not. About 4 s for a million
    /// rows.
    pub(super) fn rebuild(&mut self) {
        let mut old = std::mem::take(self);
        self.shares = std::mem::take(&mut old.shares);
        for slot in 0..self.shares.slots.len() as u32 {
            let record = self.shares.slot_mut(slot);
            if record.state == SlotState::Free {
                continue;
            }
            (record.files, record.bytes) = (0, 0);
            let old_root = std::mem::replace(&mut record.root, self.directories.add_root());
            if record.state != SlotState::Doomed {
                self.copy_below(slot, &old, old_root);
            }
        }
    }

    fn copy_below(&mut self, slot: u32, old: &Self, node: u32) {
        let mut path = Vec::new();
        let mut nodes = vec![node];
        while let Some(node) = nodes.pop() {
            old.directories.path(&old.names, node, &mut path);
            for row in old.directories.node(node).children.from((0, 0)) {
                // It fitted before, with more names.
                let fitted = self.upsert(slot, &old.entry_in(row, &path));
                debug_assert!(fitted.is_ok(), "{fitted:?}");
            }
            nodes.extend(&old.directories.node(node).subdirs);
        }
    }

    /// Runs `with` on the entry of a row.
    pub(super) fn with_entry<R>(&self, row: u32, with: impl FnOnce(&Entry<'_>) -> R) -> R {
        let mut directory = Vec::new();
        let record = &self.rows[row];
        self.directories.path(&self.names, record.directory, &mut directory);
        with(&self.entry_in(row, &directory))
    }

    /// The entry of a row whose directory has this path.
    pub(super) fn entry_in<'a>(&'a self, row: u32, directory: &'a [u8]) -> Entry<'a> {
        let record = &self.rows[row];
        let kind = match record.kind() {
            HitKind::File => {
                let content = self.contents.get(record.content);
                EntryKind::File { size: content.size(), executable: record.executable(), blob: content.blob() }
            }
            HitKind::Directory => EntryKind::Directory,
            HitKind::Symlink => EntryKind::Symlink { target: self.targets.get(&row).map_or(&[], |target| target) },
        };
        Entry { directory, name: self.names.text(record.name), mtime_ns: record.mtime_ns, kind }
    }

    /// Takes the entry at a path, if any, out of a digest.
    pub(super) fn subtract(&self, slot: u32, key: (&[u8], &[u8]), digest: &mut RegistrationDigest) {
        if let Some(row) = self.find(slot, key.0, key.1) {
            digest.subtract(&self.entry_in(row, key.0));
        }
    }

    /// The blob of a row.
    pub(super) fn blob(&self, row: &Row) -> Option<BlobId> {
        if row.content == NONE { None } else { self.contents.get(row.content).blob() }
    }

    fn place(&mut self, row: Row) -> u32 {
        if let Some(free) = self.free_rows.pop() {
            self.rows[free] = row;
            free
        } else {
            self.rows.push(row)
        }
    }

    /// Sets what can change of an entry.
    fn fill(&mut self, row: u32, entry: &Entry<'_>) {
        let slot = self.rows[row].slot();
        let kind = match entry.kind {
            EntryKind::File { size, executable, blob } => {
                let content = self.contents.intern(blob, size);
                self.rows[row].content = content;
                self.link_content(row);
                let record = self.shares.slot_mut(slot);
                record.files += 1;
                record.bytes = record.bytes.saturating_add(size);
                u32::from(executable) * EXECUTABLE
            }
            EntryKind::Directory => 1 << KIND_SHIFT,
            EntryKind::Symlink { target } => {
                self.targets.insert(row, target.into());
                2 << KIND_SHIFT
            }
        };
        let record = &mut self.rows[row];
        record.slot_and_kind = slot | kind;
        record.mtime_ns = entry.mtime_ns;
    }

    /// Takes out what [`Self::fill`] put in.
    fn clear(&mut self, row: u32) {
        let record = self.rows[row];
        match record.kind() {
            HitKind::File => {
                let size = self.contents.get(record.content).size();
                self.unlink_content(row);
                let slot = self.shares.slot_mut(record.slot());
                slot.files -= 1;
                slot.bytes = slot.bytes.saturating_sub(size);
            }
            HitKind::Directory => {}
            HitKind::Symlink => {
                self.targets.remove(&row);
            }
        }
        self.rows[row].slot_and_kind = record.slot();
    }

    /// Frees a row that is no child of its directory any more.
    fn drop_row(&mut self, row: u32) {
        self.clear(row);
        let record = self.rows[row];
        let doc = self.names.name(record.name).doc;
        self.unlink(record.in_doc, |memory, number| &mut memory.rows[number].in_doc);
        let head = self.names.doc_mut(doc);
        head.rows -= 1;
        if head.first == row {
            head.first = record.in_doc.after;
        }
        self.names.live_docs -= u32::from(self.names.doc(doc).rows == 0);
        self.names.release(record.name);
        self.free_rows.push(row);
    }

    fn link_doc(&mut self, row: u32) {
        let doc = self.names.name(self.rows[row].name).doc;
        let head = self.names.doc_mut(doc);
        let after = std::mem::replace(&mut head.first, row);
        head.rows += 1;
        self.names.live_docs += u32::from(self.names.doc(doc).rows == 1);
        self.rows[row].in_doc = Links { before: NONE, after };
        if after != NONE {
            self.rows[after].in_doc.before = row;
        }
    }

    fn link_content(&mut self, row: u32) {
        let head = self.contents.get_mut(self.rows[row].content);
        let after = std::mem::replace(&mut head.first, row);
        head.rows += 1;
        self.rows[row].in_content = Links { before: NONE, after };
        if after != NONE {
            self.rows[after].in_content.before = row;
        }
    }

    fn unlink_content(&mut self, row: u32) {
        let record = self.rows[row];
        self.unlink(record.in_content, |memory, number| &mut memory.rows[number].in_content);
        let head = self.contents.get_mut(record.content);
        head.rows -= 1;
        if head.first == row {
            head.first = record.in_content.after;
        }
        if head.rows == 0 {
            self.contents.release(record.content);
        }
        self.rows[row].content = NONE;
    }

    fn unlink(&mut self, links: Links, links_of: impl Fn(&mut Self, u32) -> &mut Links) {
        if links.before != NONE {
            links_of(self, links.before).after = links.after;
        }
        if links.after != NONE {
            links_of(self, links.after).before = links.before;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::postings::Candidates;
    use super::shares::Slot;
    use super::*;
    use haul_core::ids::PeerId;
    use haul_core::wire::Label;

    fn file(name: &str, size: u64) -> Entry<'_> {
        let kind = EntryKind::File { size, executable: true, blob: Some(BlobId::new([size as u8; 32])) };
        Entry { directory: b"a/b", name: name.as_bytes(), mtime_ns: -5, kind }
    }

    fn lines(memory: &Memory) -> Vec<String> {
        (0..memory.names.doc_count())
            .flat_map(|doc| memory.rows_of_doc(doc).collect::<Vec<_>>())
            .map(|row| memory.with_entry(row, |entry| format!("{} {entry:?}", memory.row(row).slot())))
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    #[test]
    fn a_rebuilt_memory_holds_the_same_and_less() {
        let mut memory = Memory::default();
        let label = Label::new("x").unwrap();
        let peer = memory.shares.ensure_peer(PeerId::new([9; 32]).unwrap(), &label);
        for state in [SlotState::Live, SlotState::Doomed, SlotState::Filling] {
            let root = memory.directories.add_root();
            let slot =
                Slot { state, peer, name: label.clone(), groups: Vec::new(), open: false, root, files: 0, bytes: 0 };
            memory.shares.take_slot(slot);
        }
        for number in 0..200 {
            memory.upsert(0, &file(&format!("kept-{number}"), number)).unwrap();
            memory.upsert(0, &file(&format!("gone-{number}"), number)).unwrap();
            memory.upsert(1, &file(&format!("doomed-{number}"), number)).unwrap();
            memory.upsert(2, &file(&format!("kept-{number}"), number)).unwrap();
            memory.remove(0, b"a/b", format!("gone-{number}").as_bytes());
        }
        let link = Entry { name: b"link", kind: EntryKind::Symlink { target: b"there" }, ..file("", 0) };
        memory.upsert(2, &link).unwrap();
        let kept: Vec<String> = lines(&memory).into_iter().filter(|line| !line.starts_with("1 ")).collect();
        assert_eq!(memory.names.unused, 200);
        memory.rebuild();
        assert_eq!(lines(&memory), kept);
        assert_eq!((memory.names.unused, memory.names.live_docs), (0, 201));
        assert_eq!(memory.shares.slot(0).files, 200);
        assert_eq!(memory.names.postings.candidates([b"gone".as_slice()], 1_000), Candidates::Some(Vec::new()));
        // What was doomed is still swept.
        assert!(!memory.sweep(1, 10));
        assert!(memory.sweep(0, 150) && !memory.sweep(0, 150));
        assert_eq!(lines(&memory).len(), 201);
    }
}
