//! The entries of one share in memory, sorted as pages need them, with the revision of each.
//!
//! Changes are made in batches: [`Manifest::put`] and [`Manifest::remove`] change entries at the coming revision, and
//! [`Manifest::seal`] makes that revision the current one if anything changed that others can see. A removed entry
//! leaves a tombstone, so that a later delta can name it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use haul_core::ids::BlobId;
use haul_core::manifest::{Change, Entry, EntryKind, ShareState};

use super::FileStamp;

/// Changes whose keys are remembered by revision: a delta within them needs no look at the other entries.
const JOURNAL_KEYS: usize = 128 * 1024;
/// Tombstones beyond half the entries and this many are dropped all together.
const TOMBSTONES_KEPT: u64 = 10_000;

/// Directory and name of an entry: the order of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) directory: Arc<[u8]>,
    pub(crate) name: Arc<[u8]>,
}

impl Key {
    pub(crate) fn new(directory: &[u8], name: &[u8]) -> Self {
        Self { directory: directory.into(), name: name.into() }
    }

    /// The path within the share.
    pub(crate) fn path(&self) -> Vec<u8> {
        join(&self.directory, &self.name)
    }
}

/// Joins checked directory and name bytes.
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend_from_slice(directory);
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// How far the known hash of a file can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Hashed while it had this stamp.
    Firm,
    /// As `Firm`, but it was written so shortly before that a later write may hide behind the same times: the next
    /// walk has it hashed again.
    Fresh,
    /// To be hashed again; served meanwhile, because nothing speaks against it.
    Recheck,
    /// To be hashed again before it is served.
    Doubtful,
}

/// A regular file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileItem {
    pub(crate) stamp: FileStamp,
    pub(crate) executable: bool,
    pub(crate) blob: Option<BlobId>,
    pub(crate) trust: Trust,
}

impl FileItem {
    /// Whether a hashing thread has something to do.
    pub(crate) fn needs_hash(&self) -> bool {
        self.blob.is_none() || matches!(self.trust, Trust::Recheck | Trust::Doubtful)
    }

    fn servable_blob(&self) -> Option<BlobId> {
        self.blob.filter(|_| self.trust != Trust::Doubtful)
    }
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File(FileItem),
    Directory { mtime_ns: i64 },
    Symlink { mtime_ns: i64, target: Box<[u8]> },
    Removed,
}

impl Kind {
    /// The entry as others see it; none for a tombstone.
    pub(crate) fn entry<'a>(&'a self, directory: &'a [u8], name: &'a [u8]) -> Option<Entry<'a>> {
        let (mtime_ns, kind) = match self {
            Self::File(FileItem { stamp, executable, blob, .. }) => {
                (stamp.mtime_ns, EntryKind::File { size: stamp.size, executable: *executable, blob: *blob })
            }
            Self::Directory { mtime_ns } => (*mtime_ns, EntryKind::Directory),
            Self::Symlink { mtime_ns, target } => (*mtime_ns, EntryKind::Symlink { target }),
            Self::Removed => return None,
        };
        Some(Entry { directory, name, mtime_ns, kind })
    }
}

/// An entry with what only its peer knows.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) kind: Kind,
    /// Revision of the last change that others can see.
    pub(crate) revision: u64,
    /// The walk that saw it last.
    pub(crate) seen_by: u32,
}

impl Item {
    pub(crate) fn file(&self) -> Option<&FileItem> {
        match &self.kind {
            Kind::File(file) => Some(file),
            _ => None,
        }
    }

    /// What a page says of it.
    pub(crate) fn change<'a>(&'a self, directory: &'a [u8], name: &'a [u8]) -> Change<'a> {
        self.kind.entry(directory, name).map_or(Change::Remove { directory, name }, Change::Upsert)
    }
}

/// Sums over a manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) entries: u64,
    pub(crate) directories: u64,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) hashed: u64,
    /// Files for the hashing threads.
    pub(crate) to_hash: u64,
    pub(crate) tombstones: u64,
}

/// The items of one directory by name.
pub(crate) type Names = BTreeMap<Arc<[u8]>, Item>;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Manifest {
    directories: BTreeMap<Arc<[u8]>, Names>,
    /// By the first bytes of the blob; equal content is rare enough to look at each.
    by_blob: BTreeSet<(u64, Key)>,
    one_empty_file: Option<Key>,
    state: ShareState,
    floor: u64,
    journal: VecDeque<(u64, Key)>,
    /// The journal is complete for revisions above this one.
    journal_floor: u64,
    touched: Vec<Key>,
    visible_changes: u64,
    totals: Totals,
}

impl Manifest {
    /// A manifest as it was stored; items follow by [`Self::load`].
    pub(crate) fn stored(state: ShareState, floor: u64) -> Self {
        Self { state, floor, journal_floor: state.revision, ..Self::default() }
    }

    /// Puts a stored item in its place.
    pub(crate) fn load(&mut self, key: &Key, item: Item) {
        self.count(key, &item.kind, true);
        let key = self.shared_key(key);
        self.directories.entry(key.directory).or_default().insert(key.name, item);
    }

    pub(crate) fn state(&self) -> ShareState {
        self.state
    }

    /// Deltas from revisions below this one are not possible.
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    pub(crate) fn get(&self, directory: &[u8], name: &[u8]) -> Option<&Item> {
        self.directories.get(directory)?.get(name)
    }

    pub(crate) fn get_key(&self, key: &Key) -> Option<&Item> {
        self.get(&key.directory, &key.name)
    }

    fn item_mut(&mut self, key: &Key) -> Option<&mut Item> {
        self.directories.get_mut(&key.directory)?.get_mut(&key.name)
    }

    /// Sets an entry, seen by the walk `seen_by`. Returns whether others can see a change.
    pub(crate) fn put(&mut self, key: &Key, kind: Kind, seen_by: u32) -> bool {
        let old = self.item_mut(key).map(|item| std::mem::replace(&mut item.kind, Kind::Removed));
        let visible = match &old {
            None => kind != Kind::Removed,
            Some(old) => old.entry(&key.directory, &key.name) != kind.entry(&key.directory, &key.name),
        };
        let silent = old.as_ref().is_some_and(|old| *old == kind);
        if let Some(old) = &old {
            self.count(key, old, false);
        }
        self.count(key, &kind, true);
        if visible {
            if let Some(entry) = old.as_ref().and_then(|old| old.entry(&key.directory, &key.name)) {
                self.state.digest.subtract(&entry);
            }
            if let Some(entry) = kind.entry(&key.directory, &key.name) {
                self.state.digest.add(&entry);
            }
        }
        let revision = self.state.revision + 1;
        let key = self.shared_key(key);
        let item = self.directories.entry(key.directory.clone()).or_default().entry(key.name.clone()).or_insert(Item {
            kind: Kind::Removed,
            revision,
            seen_by,
        });
        item.kind = kind;
        item.seen_by = seen_by;
        if visible {
            item.revision = revision;
            self.visible_changes += 1;
            self.journal.push_back((revision, key.clone()));
            if self.journal.len() > JOURNAL_KEYS
                && let Some((dropped, _)) = self.journal.pop_front()
            {
                self.journal_floor = dropped;
            }
        }
        if !silent {
            self.touched.push(key);
        }
        visible
    }

    /// Leaves a tombstone instead of the entry.
    pub(crate) fn remove(&mut self, key: &Key) -> bool {
        match self.get_key(key) {
            Some(Item { kind: Kind::Removed, .. }) | None => false,
            Some(item) => {
                let seen_by = item.seen_by;
                self.put(key, Kind::Removed, seen_by)
            }
        }
    }

    /// The items of one directory, for a walk to compare and to note which it saw; other changes go through
    /// [`Self::put`].
    pub(crate) fn directory_mut(&mut self, directory: &[u8]) -> Option<&mut Names> {
        self.directories.get_mut(directory)
    }

    /// Entries, tombstones left out, that this walk did not see.
    pub(crate) fn unseen(&self, walk: u32) -> Vec<Key> {
        let unseen = |item: &Item| item.seen_by != walk && item.kind != Kind::Removed;
        self.iter().filter(|(_, _, item)| unseen(item)).map(|(directory, name, _)| key(directory, name)).collect()
    }

    /// Changes since the last [`Self::seal`] that others can see.
    pub(crate) fn unsealed(&self) -> u64 {
        self.visible_changes
    }

    /// Ends the batch: the keys whose stored rows have to be written anew, gone ones included.
    pub(crate) fn seal(&mut self) -> Vec<Key> {
        if std::mem::take(&mut self.visible_changes) > 0 {
            self.state.revision += 1;
            if self.totals.tombstones > TOMBSTONES_KEPT + self.totals.entries / 2 {
                self.drop_tombstones();
            }
        }
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    fn drop_tombstones(&mut self) {
        let touched = &mut self.touched;
        for (directory, names) in &mut self.directories {
            names.retain(|name, item| {
                let removed = item.kind == Kind::Removed;
                if removed {
                    touched.push(key(directory, name));
                }
                !removed
            });
        }
        self.directories.retain(|_, names| !names.is_empty());
        self.totals.tombstones = 0;
        self.floor = self.state.revision;
        self.journal.clear();
        self.journal_floor = self.state.revision;
    }

    /// All items in order, tombstones included.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<[u8]>, &Arc<[u8]>, &Item)> {
        self.directories
            .iter()
            .flat_map(|(directory, names)| names.iter().map(move |(name, item)| (directory, name, item)))
    }

    /// All items in order behind `after`, tombstones included.
    pub(crate) fn iter_after<'a>(
        &'a self,
        after: Option<&'a Key>,
    ) -> impl Iterator<Item = (&'a Arc<[u8]>, &'a Arc<[u8]>, &'a Item)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let first =
            after.and_then(|after| self.directories.get_key_value(&after.directory).map(|found| (after, found)));
        let rest_of_first = first.into_iter().flat_map(|(after, (directory, names))| {
            names
                .range::<Arc<[u8]>, _>((Excluded(&after.name), Unbounded))
                .map(move |(name, item)| (directory, name, item))
        });
        let start = after.map_or(Unbounded, |after| Excluded(&after.directory));
        let rest = self
            .directories
            .range::<Arc<[u8]>, _>((start, Unbounded))
            .flat_map(|(directory, names)| names.iter().map(move |(name, item)| (directory, name, item)));
        rest_of_first.chain(rest)
    }

    /// The directories `path` and all below it, in order.
    pub(crate) fn below<'a>(&'a self, path: &'a [u8]) -> impl Iterator<Item = (&'a Arc<[u8]>, &'a Names)> {
        // Bytes below `/` sort between `a` and `a/`, so `a!` stands between a directory and its own directories.
        let mut inside = path.to_vec();
        if !path.is_empty() {
            inside.push(b'/');
        }
        let start: Arc<[u8]> = inside.as_slice().into();
        let own = self.directories.get_key_value(path).into_iter();
        let deeper = self
            .directories
            .range::<Arc<[u8]>, _>(start..)
            .take_while(move |(directory, _)| directory.starts_with(&inside))
            .filter(move |(directory, _)| directory.len() != path.len());
        own.chain(deeper)
    }

    /// Keys of the changes since a revision, in order. None if that revision is below the floor, or if there are more
    /// than `limit`: sending everything is the way then.
    pub(crate) fn changes_since(&self, since: u64, limit: usize) -> Option<Vec<Key>> {
        if since < self.floor || since > self.state.revision {
            return None;
        }
        let mut keys = Vec::new();
        if since >= self.journal_floor {
            // Revisions ascend in the journal.
            let newer = self.journal.iter().rev().take_while(|(revision, _)| *revision > since);
            keys.extend(newer.map(|(_, key)| key.clone()));
            keys.sort_unstable();
            keys.dedup();
        } else {
            let newer = self.iter().filter(|(_, _, item)| item.revision > since);
            keys.extend(newer.take(limit + 1).map(|(directory, name, _)| key(directory, name)));
        }
        (keys.len() <= limit).then_some(keys)
    }

    /// A file with this content that may be served.
    pub(crate) fn find_blob(&self, blob: &BlobId) -> Option<(Key, &FileItem)> {
        let fits = |key: &Key| {
            let file = self.get_key(key)?.file()?;
            (file.servable_blob() == Some(*blob)).then(|| (key.clone(), file))
        };
        if *blob == BlobId::empty() {
            return self.one_empty_file.as_ref().and_then(fits);
        }
        let prefix = blob_prefix(blob);
        let first = Key::new(&[], &[]);
        self.by_blob.range((prefix, first)..).take_while(|(found, _)| *found == prefix).find_map(|(_, key)| fits(key))
    }

    /// Files to hash behind `after`, as many as `limit`.
    pub(crate) fn to_hash(&self, after: Option<&Key>, limit: usize) -> Vec<(Key, FileItem)> {
        self.iter_after(after)
            .filter_map(|(directory, name, item)| {
                let file = item.file().filter(|file| file.needs_hash())?;
                Some((key(directory, name), *file))
            })
            .take(limit)
            .collect()
    }

    /// The outlines are lost: every file of more than one leaf has to be hashed again before it can be served.
    pub(crate) fn doubt_outlined(&mut self) {
        let outlined = |item: &Item| {
            item.file().is_some_and(|file| file.blob.is_some() && file.stamp.size > haul_core::limits::LEAF_BYTES)
        };
        let keys: Vec<Key> = self
            .iter()
            .filter(|(_, _, item)| outlined(item))
            .map(|(directory, name, _)| key(directory, name))
            .collect();
        for key in keys {
            self.set_trust(&key, Trust::Doubtful);
        }
    }

    /// Changes only how far the known hash is relied on.
    pub(crate) fn set_trust(&mut self, key: &Key, trust: Trust) {
        let Some((file, seen_by)) = self.get_key(key).and_then(|item| Some((*item.file()?, item.seen_by))) else {
            return;
        };
        self.put(key, Kind::File(FileItem { trust, ..file }), seen_by);
    }

    fn shared_key(&self, key: &Key) -> Key {
        let directory = self.directories.get_key_value(&key.directory);
        let directory = directory.map_or_else(|| key.directory.clone(), |(directory, _)| directory.clone());
        Key { directory, name: key.name.clone() }
    }

    fn count(&mut self, key: &Key, kind: &Kind, add: bool) {
        let step =
            |total: &mut u64, by: u64| *total = if add { total.wrapping_add(by) } else { total.wrapping_sub(by) };
        if *kind == Kind::Removed {
            step(&mut self.totals.tombstones, 1);
            return;
        }
        step(&mut self.totals.entries, 1);
        match kind {
            Kind::File(file) => {
                step(&mut self.totals.files, 1);
                step(&mut self.totals.bytes, file.stamp.size);
                step(&mut self.totals.hashed, u64::from(file.blob.is_some()));
                step(&mut self.totals.to_hash, u64::from(file.needs_hash()));
                match file.blob {
                    Some(_) if file.stamp.size == 0 => self.one_empty_file = Some(key.clone()),
                    Some(blob) if add => drop(self.by_blob.insert((blob_prefix(&blob), key.clone()))),
                    Some(blob) => drop(self.by_blob.remove(&(blob_prefix(&blob), key.clone()))),
                    None => {}
                }
            }
            Kind::Directory { .. } => step(&mut self.totals.directories, 1),
            Kind::Symlink { .. } | Kind::Removed => {}
        }
    }
}

fn key(directory: &Arc<[u8]>, name: &Arc<[u8]>) -> Key {
    Key { directory: directory.clone(), name: name.clone() }
}

fn blob_prefix(blob: &BlobId) -> u64 {
    blob.as_bytes().first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
#[path = "manifest/tests.rs"]
mod tests;
