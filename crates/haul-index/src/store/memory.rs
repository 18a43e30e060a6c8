//! Everything that a question needs, in memory: rows, names, contents, directories, slots.
//!
//! A row is one entry of one share: 20 bytes that point to its directory, name and content. Documents and contents
//! list their rows, directories their children, so adding and removing a row costs a few look-ups whatever the size of
//! the rest. An entry of Debian's paths with a blob of its own takes about 102 bytes in all, the search index apart.

pub(super) mod ahead;
pub(super) mod amendment;
pub(super) mod bitmap;
pub(super) mod chunked;
pub(super) mod contents;
pub(super) mod directories;
pub(super) mod hash_index;
pub(super) mod lists;
pub(super) mod names;
pub(super) mod rows;
#[cfg(test)]
mod scale;
pub(super) mod shares;
#[cfg(test)]
pub(super) mod tests;
pub(super) mod texts;

use std::collections::HashMap;

use haul_core::ids::BlobId;
use haul_core::manifest::{Entry, EntryKind, RegistrationDigest};
use haul_core::wire::index::HitKind;

use super::StoreError;
use contents::Contents;
use directories::{Directories, Totals};
use lists::{At, Lists};
use names::{NODE, Names};
use rows::{Facts, Row, Rows};
use shares::{Shares, Slot};

/// No row, node or name.
pub(super) const NONE: u32 = u32::MAX;

/// Hidden rows, and directories, that are read to learn whether a directory shows something: some microseconds.
const HIDDEN_READ: usize = 1_000;

/// The engine.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) names: Names,
    rows: Rows,
    lists: Lists,
    pub(super) contents: Contents,
    pub(super) directories: Directories,
    /// Targets of symbolic links, by row.
    targets: HashMap<u32, Box<[u8]>>,
    pub(super) shares: Shares,
    arrival: Arrival,
    /// Rows that stand in their directory, by those that take their place.
    replaced: HashMap<u32, u32>,
}

/// Where entries arrived last: most go into the same directory as the one before.
#[derive(Debug, Default)]
struct Arrival {
    /// Slot and node of `path`; none after a directory went.
    place: Option<(u32, u32)>,
    path: Vec<u8>,
    /// Counted for the node alone so far, not for those above.
    owed: Totals,
}

/// Finds entries of one slot, quickly if those of one directory follow each other. Only while nothing changes.
#[derive(Debug, Default)]
pub(super) struct Finder {
    path: Vec<u8>,
    known: bool,
    node: Option<u32>,
}

fn full() -> StoreError {
    StoreError::TooMuch("this index cannot hold more names: spread the shares over several indexes".into())
}

impl Memory {
    pub(super) fn row(&self, row: u32) -> Row {
        self.rows.get(row)
    }

    /// The slot of a row, which itself is not read.
    pub(super) fn slot_of_row(&self, row: u32) -> u32 {
        self.rows.slot(row)
    }

    /// The rows of a document, ascending.
    pub(super) fn rows_of_doc(&self, doc: u32) -> impl Iterator<Item = u32> + '_ {
        self.lists.iter(self.names.items(doc)).take_while(|item| *item < NODE).filter(|row| !self.rows.is_hidden(*row))
    }

    /// Whether a document has this row, and it is not hidden.
    pub(super) fn has_row(&self, doc: u32, row: u32) -> bool {
        self.lists.find(self.names.items(doc), |item| item.cmp(&row)).is_ok() && !self.rows.is_hidden(row)
    }

    /// How many rows and directories a document has.
    pub(super) fn item_count(&self, doc: u32) -> usize {
        self.lists.len(self.names.items(doc))
    }

    /// How many rows a document has.
    pub(super) fn row_count_of_doc(&self, doc: u32) -> usize {
        self.lists.count_below(self.names.items(doc), NODE)
    }

    /// How many rows a hashed content has.
    pub(super) fn row_count_of_content(&self, content: u32) -> usize {
        self.lists.len(self.contents.rows(content))
    }

    /// The directory of a row.
    pub(super) fn directory_of_row(&self, row: u32) -> u32 {
        self.rows.directory(row)
    }

    /// The content of a row; none for directories and links.
    pub(super) fn content_of_row(&self, row: u32) -> u32 {
        self.rows.content(row)
    }

    /// The document of a row.
    pub(super) fn doc_of_row(&self, row: u32) -> u32 {
        self.names.doc_of(self.rows.name(row))
    }

    /// Whether some row in a directory or below is not hidden. Nearly always nothing is, and then nothing is read.
    /// Of very many that are hidden only the first are read, and then the others count as not hidden.
    pub(super) fn shows_something(&self, node: u32) -> bool {
        let mut left = HIDDEN_READ;
        !self.rows.any_hidden() || self.shows_within(node, &mut left)
    }

    fn shows_within(&self, node: u32, left: &mut usize) -> bool {
        let rows = self.directories.node(node).children.iter_from(&self.lists, (0, 0));
        for row in rows.map(Some).chain([None]) {
            if *left == 0 || row.is_some_and(|row| self.visible(row).is_some()) {
                return true;
            }
            *left -= 1;
        }
        self.subdirs(node).any(|subdir| self.shows_within(subdir, left))
    }

    /// Bytes of a file, or of all files below a directory.
    pub(super) fn size_of_row(&self, row: &Row) -> Option<u64> {
        match row.kind() {
            HitKind::File => Some(self.contents.get(row.content).size()),
            HitKind::Directory => Some(self.totals_of_entry(row).bytes),
            HitKind::Symlink => None,
        }
    }

    /// Files and bytes below the directory that a row is the entry of. While a large amendment is prepared, some of
    /// its files may count already.
    pub(super) fn totals_of_entry(&self, row: &Row) -> Totals {
        let node = self.directories.child(row.directory, row.name).filter(|node| self.shows_something(*node));
        node.map(|node| self.directories.totals(node)).unwrap_or_default()
    }

    /// The directories whose name is a document.
    pub(super) fn nodes_of_doc(&self, doc: u32) -> impl Iterator<Item = u32> + '_ {
        self.lists.numbers_from(self.names.items(doc), NODE).map(|item| item & !NODE)
    }

    /// How many directories have a document as their name.
    pub(super) fn node_count_of_doc(&self, doc: u32) -> usize {
        self.item_count(doc) - self.row_count_of_doc(doc)
    }

    /// The slot of a directory.
    #[cfg(test)]
    pub(super) fn slot_of_node(&self, node: u32) -> u32 {
        self.directories.node(node).slot
    }

    /// The rows of a hashed content, ascending; files without a hash are not listed.
    pub(super) fn rows_of_content(&self, content: u32) -> impl Iterator<Item = u32> + '_ {
        self.lists.iter(self.contents.rows(content)).filter(|row| !self.rows.is_hidden(*row))
    }

    /// Reads where a list of rows stands; the result says nothing. See [`ahead`].
    pub(super) fn touch_rows(&self, list: u32) -> u32 {
        self.lists.touch(list)
    }

    /// As [`Self::rows_of_content`] of such a list, if none is hidden and they stand in one piece: most are so few.
    pub(super) fn rows_in_one_piece<'a>(&'a self, list: &'a u32) -> Option<&'a [u32]> {
        if self.rows.any_hidden() { None } else { self.lists.in_one_piece(list) }
    }

    /// The rows of a directory in the order of their names, from a place on.
    pub(super) fn children_from(&self, node: u32, at: At) -> impl Iterator<Item = u32> + '_ {
        let children = self.directories.node(node).children.iter_from(&self.lists, at);
        children.filter_map(|row| self.visible(row))
    }

    /// The subdirectories of a directory in the order of their names.
    pub(super) fn subdirs(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        self.subdirs_from(node, (0, 0))
    }

    /// The subdirectories of a directory in the order of their names, from a place on.
    pub(super) fn subdirs_from(&self, node: u32, at: At) -> impl Iterator<Item = u32> + '_ {
        self.lists.iter_from(self.directories.subdirs(node), at)
    }

    /// Where the subdirectory of a name stands, or would.
    pub(super) fn find_subdir(&self, node: u32, name: &[u8]) -> Result<At, At> {
        self.directories.find_subdir(&self.names, &self.lists, node, name)
    }

    /// Where the row of a name stands in a directory, or would.
    pub(super) fn find_child(&self, node: u32, name: &[u8]) -> Result<At, At> {
        let children = self.directories.node(node).children;
        children.find(&self.lists, |row| self.names.compare(self.rows.name(row), name))
    }

    /// The row of a path.
    pub(super) fn find(&self, slot: u32, directory: &[u8], name: &[u8]) -> Option<u32> {
        Finder::default().find(self, slot, directory, name)
    }

    /// What is to be seen where a row stands in its directory.
    fn visible(&self, row: u32) -> Option<u32> {
        if !self.rows.is_hidden(row) {
            return Some(row);
        }
        self.replaced.get(&row).copied().filter(|row| !self.rows.is_hidden(*row))
    }

    /// The row that stands at a place that [`Self::find_child`] found, hidden or not.
    fn child_at(&self, node: u32, at: At) -> Option<u32> {
        self.directories.node(node).children.iter_from(&self.lists, at).next()
    }

    /// Takes a free slot or makes one, and makes its root.
    pub(super) fn take_slot(&mut self, slot: Slot) -> Result<u32, StoreError> {
        let number = self.shares.take_slot(slot);
        if let Some(root) = self.directories.add_root(number) {
            self.shares.slot_mut(number).root = root;
            Ok(number)
        } else {
            self.shares.release_slot(number);
            Err(full())
        }
    }

    /// Adds or changes an entry; `old` gets the one that was there. [`Self::settle`] follows after the last of many.
    pub(super) fn upsert(
        &mut self,
        slot: u32,
        entry: &Entry<'_>,
        old: impl FnOnce(&Entry<'_>),
    ) -> Result<(), StoreError> {
        let node = self.arrive(slot, entry.directory)?;
        match self.find_child(node, entry.name) {
            Ok(at) => {
                let Some(row) = self.child_at(node, at) else { return Ok(()) };
                self.with_entry_in(row, entry.directory, old);
                let gone = self.clear(row);
                self.uncount(slot, gone);
                self.arrival.owed.subtract(gone);
                let new = self.fill(row, entry);
                self.count(slot, new);
            }
            Err(at) => {
                let row = self.add_row(slot, node, entry.name)?;
                self.directories.children_mut(node).insert(&mut self.lists, at, row);
                let new = self.fill(row, entry);
                self.count(slot, new);
            }
        }
        Ok(())
    }

    /// A new row that has its name but no place among the children yet.
    fn add_row(&mut self, slot: u32, node: u32, name: &[u8]) -> Result<u32, StoreError> {
        let Some(name) = Some(name).filter(|_| self.lists.have_room()).and_then(|name| self.names.intern(name)) else {
            self.prune(node);
            return Err(full());
        };
        let Some(row) = self.rows.add(slot, node, name) else {
            self.names.forget_unlinked(name);
            self.prune(node);
            return Err(full());
        };
        self.names.link(&mut self.lists, name, row);
        Ok(row)
    }

    /// Removes an entry if it is there; `old` gets it.
    pub(super) fn remove(&mut self, slot: u32, directory: &[u8], name: &[u8], old: impl FnOnce(&Entry<'_>)) {
        let root = self.shares.slot(slot).root;
        let Some(node) = self.directories.find(&self.names, root, directory) else { return };
        let Ok(at) = self.find_child(node, name) else { return };
        let Some(row) = self.directories.children_mut(node).remove(&mut self.lists, at) else { return };
        self.with_entry_in(row, directory, old);
        let gone = self.clear(row);
        self.uncount(slot, gone);
        self.settle();
        self.directories.change_totals(node, |totals| totals.subtract(gone));
        self.drop_row(row);
        self.prune(node);
    }

    /// Brings the totals of directories up to date after entries have been added or changed.
    pub(super) fn settle(&mut self) {
        let owed = std::mem::take(&mut self.arrival.owed);
        if let Some((_, node)) = self.arrival.place
            && owed != Totals::default()
        {
            self.directories.change_totals(node, |totals| totals.add(owed));
        }
    }

    /// Removes up to `limit` rows of a slot that nobody sees; returns whether rows are left. Totals of its directories
    /// are not kept up any more.
    pub(super) fn sweep(&mut self, slot: u32, limit: usize) -> bool {
        self.settle();
        let root = self.shares.slot(slot).root;
        let mut left = limit;
        let mut node = root;
        loop {
            while let Some(row) = self.directories.children_mut(node).pop(&mut self.lists) {
                // Whoever sweeps a slot has hidden it as a whole.
                let gone = self.clear(row);
                self.uncount(slot, gone);
                self.drop_row(row);
                left -= 1;
                if left == 0 {
                    return true;
                }
            }
            let last = self.lists.last(self.directories.subdirs(node));
            let child = last.and_then(|at| self.lists.iter_from(self.directories.subdirs(node), at).next());
            if let Some(child) = child {
                node = child;
            } else if node == root {
                self.arrival.place = None;
                self.directories.remove_root(root);
                self.rows.forget_slot(slot);
                return false;
            } else {
                node = self.prune(node);
            }
        }
    }

    /// Runs `with` on the entry of a row.
    pub(super) fn with_entry<R>(&self, row: u32, with: impl FnOnce(&Entry<'_>) -> R) -> R {
        let mut directory = Vec::new();
        self.directories.path(&self.names, self.rows.directory(row), &mut directory);
        self.with_entry_in(row, &directory, with)
    }

    /// Runs `with` on the entry of a row whose directory has this path.
    pub(super) fn with_entry_in<R>(&self, row: u32, directory: &[u8], with: impl FnOnce(&Entry<'_>) -> R) -> R {
        let record = self.rows.get(row);
        let kind = match record.kind() {
            HitKind::File => {
                let content = self.contents.get(record.content);
                EntryKind::File { size: content.size(), executable: record.executable(), blob: content.blob() }
            }
            HitKind::Directory => EntryKind::Directory,
            HitKind::Symlink => EntryKind::Symlink { target: self.targets.get(&row).map_or(&[], |target| target) },
        };
        let name = self.names.text(record.name);
        with(&Entry { directory, name: &name, mtime_ns: record.mtime_ns, kind })
    }

    /// The blob of a row.
    pub(super) fn blob(&self, row: &Row) -> Option<BlobId> {
        if row.content == NONE { None } else { self.contents.get(row.content).blob() }
    }

    /// The directory of a slot for an entry that arrives, made if it is missing.
    fn arrive(&mut self, slot: u32, directory: &[u8]) -> Result<u32, StoreError> {
        if let Some((known, node)) = self.arrival.place
            && known == slot
            && self.arrival.path == directory
        {
            return Ok(node);
        }
        self.settle();
        self.arrival.place = None;
        let root = self.shares.slot(slot).root;
        let Self { directories, names, lists, arrival, .. } = self;
        let node = directories.ensure(names, lists, root, directory).ok_or_else(full)?;
        arrival.path.clear();
        arrival.path.extend_from_slice(directory);
        arrival.place = Some((slot, node));
        Ok(node)
    }

    /// Removes a directory that holds nothing any more, and those above; returns the nearest that stays.
    fn prune(&mut self, node: u32) -> u32 {
        let stays = self.directories.prune(&mut self.names, &mut self.lists, node);
        if stays != node {
            self.arrival.place = None;
        }
        stays
    }

    fn count(&mut self, slot: u32, new: Totals) {
        let slot = self.shares.slot_mut(slot);
        slot.files += u64::from(new.files);
        slot.bytes = slot.bytes.wrapping_add(new.bytes);
    }

    fn uncount(&mut self, slot: u32, gone: Totals) {
        let slot = self.shares.slot_mut(slot);
        slot.files -= u64::from(gone.files);
        slot.bytes = slot.bytes.wrapping_sub(gone.bytes);
    }

    /// Sets what can change of an entry; its directory is the one where entries arrive. Returns what it counts.
    fn fill(&mut self, row: u32, entry: &Entry<'_>) -> Totals {
        let mut totals = Totals::default();
        let mut facts = Facts { kind: HitKind::Directory, executable: false, content: NONE, mtime_ns: entry.mtime_ns };
        match entry.kind {
            EntryKind::File { size, executable, blob } => {
                let content = self.contents.intern(blob, size);
                self.contents.link(&mut self.lists, content, row);
                facts = Facts { kind: HitKind::File, executable, content, ..facts };
                totals = Totals { files: 1, bytes: size };
            }
            EntryKind::Directory => {}
            EntryKind::Symlink { target } => {
                self.targets.insert(row, target.into());
                facts.kind = HitKind::Symlink;
            }
        }
        self.rows.set(row, facts);
        self.arrival.owed.add(totals);
        totals
    }

    /// Takes out what [`Self::fill`] put in; returns what it counted.
    fn clear(&mut self, row: u32) -> Totals {
        let record = self.rows.get(row);
        match record.kind() {
            HitKind::File => {
                let bytes = self.contents.get(record.content).size();
                self.contents.unlink(&mut self.lists, record.content, row);
                return Totals { files: 1, bytes };
            }
            HitKind::Symlink => {
                self.targets.remove(&row);
            }
            HitKind::Directory => {}
        }
        Totals::default()
    }

    /// Frees a row that is no child of its directory any more and has been cleared.
    fn drop_row(&mut self, row: u32) {
        self.names.unlink(&mut self.lists, self.rows.name(row), row);
        self.rows.free(row);
    }

    /// Bytes by what they are for.
    pub(super) fn bytes(&self) -> Vec<(&'static str, usize)> {
        let [texts, names, name_tables] = self.names.bytes();
        let [contents, content_table] = self.contents.bytes();
        vec![
            ("rows", self.rows.bytes()),
            ("lists", self.lists.bytes()),
            ("texts", texts),
            ("names", names),
            ("name tables", name_tables),
            ("contents", contents),
            ("content table", content_table),
            ("directories", self.directories.bytes()),
        ]
    }
}

impl Finder {
    /// The row of a path.
    pub(super) fn find(&mut self, memory: &Memory, slot: u32, directory: &[u8], name: &[u8]) -> Option<u32> {
        if !self.known || self.path != directory {
            self.node = memory.directories.find(&memory.names, memory.shares.slot(slot).root, directory);
            self.known = true;
            self.path.clear();
            self.path.extend_from_slice(directory);
        }
        let node = self.node?;
        let at = memory.find_child(node, name).ok()?;
        memory.child_at(node, at).and_then(|row| memory.visible(row))
    }

    /// Takes the entry at a path, if any, out of a digest.
    pub(super) fn subtract(
        &mut self,
        memory: &Memory,
        slot: u32,
        key: (&[u8], &[u8]),
        digest: &mut RegistrationDigest,
    ) {
        if let Some(row) = self.find(memory, slot, key.0, key.1) {
            memory.with_entry_in(row, key.0, |entry| digest.subtract(entry));
        }
    }
}
