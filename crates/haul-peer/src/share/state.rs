//! What survives a restart: the list of shares, their entries with revisions, and the states that an index was told of.
//!
//! Everything that is about to be sent to an index is durable here first, so after a crash the index never holds a
//! state that this peer does not know, except for entries that the peer is going to send again anyway.
//! Tables and keys stand in docs/storage.md.

use std::path::Path;

use haul_core::ids::{BlobId, ShareId};
use haul_core::manifest::{RegistrationDigest, ShareState};
use haul_core::wire::{ByteString, Label};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use super::FileStamp;
use super::manifest::{FileItem, Item, Key, Kind, Manifest, Trust};

const SHARES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("shares");
const ENTRIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("entries");
const STATES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("states");
const FORGET: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("forget");

/// States that an index was told of, per share; older ones are dropped and lead to a registration in full.
const STATES_KEPT: usize = 256;

/// Pages of one database that are kept in memory. Entries live in the manifest, so the database is mostly written.
pub(crate) const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// A failure of the database, in words.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct StateError(pub(crate) String);

macro_rules! from_redb {
    ($($error:ident),*) => {
        $(impl From<redb::$error> for StateError {
            fn from(error: redb::$error) -> Self {
                Self(error.to_string())
            }
        })*
    };
}
from_redb!(DatabaseError, TransactionError, TableError, StorageError, CommitError);

/// The row of a share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShareRow {
    pub(crate) name: Label,
    /// Folder, as bytes of the file system.
    pub(crate) root: ByteString,
    /// Only this file in the folder.
    pub(crate) single: Option<ByteString>,
    pub(crate) groups: Vec<Label>,
    pub(crate) excludes: Vec<String>,
    /// File system of the root when it was walked last; 0 before the first walk.
    pub(crate) file_system: u64,
    pub(crate) state: ShareState,
    pub(crate) floor: u64,
    /// A walk has reached its end.
    pub(crate) walked: bool,
}

/// A share as it was stored.
pub(crate) struct StoredShare {
    pub(crate) id: ShareId,
    pub(crate) row: ShareRow,
    pub(crate) manifest: Manifest,
    pub(crate) told: Vec<ShareState>,
}

/// Rows of one batch: keys, each with its value or none to delete it.
pub(crate) type Rows = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Works with a database. redb panics on some pages that hold garbage; here that is an error like others.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, StateError>) -> Result<T, StateError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(StateError("its pages are damaged".into())))
}

/// The database.
#[derive(Debug)]
pub(crate) struct StateDb {
    database: Database,
}

impl StateDb {
    pub(crate) fn open(file: &Path) -> Result<Self, StateError> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(file)?;
        let write = database.begin_write()?;
        write.open_table(SHARES)?;
        write.open_table(ENTRIES)?;
        write.open_table(STATES)?;
        write.open_table(FORGET)?;
        write.commit()?;
        Ok(Self { database })
    }

    /// All shares with their manifests. Rows that cannot be read are left out; the walk finds their files again.
    pub(crate) fn load(&self) -> Result<Vec<StoredShare>, StateError> {
        let read = self.database.begin_read()?;
        let (shares, entries, states) = (read.open_table(SHARES)?, read.open_table(ENTRIES)?, read.open_table(STATES)?);
        let mut loaded = Vec::new();
        for row in shares.iter()? {
            let (id, row) = row?;
            let (Ok(id), Ok(row)) =
                (<[u8; 16]>::try_from(id.value()), haul_core::wire::decode::<ShareRow>(row.value()))
            else {
                tracing::warn!("a share's row in the state cannot be read and is left out");
                continue;
            };
            let id = ShareId(id);
            let mut manifest = Manifest::stored(row.state, row.floor);
            let (start, end) = share_range(id);
            for entry in entries.range(start.as_slice()..end.as_slice())? {
                let (key, value) = entry?;
                if let (Some(key), Some(item)) = (key_from(key.value()), item_from(value.value())) {
                    manifest.load(&key, item);
                }
            }
            let mut told = Vec::new();
            for state in states.range(start.as_slice()..end.as_slice())? {
                told.extend(haul_core::wire::decode::<ShareState>(state?.1.value()).ok());
            }
            loaded.push(StoredShare { id, row, manifest, told });
        }
        Ok(loaded)
    }

    /// Writes the row of a share together with changed entries, durably.
    pub(crate) fn save(&self, id: ShareId, row: &ShareRow, rows: &Rows) -> Result<(), StateError> {
        let write = self.database.begin_write()?;
        {
            write.open_table(SHARES)?.insert(id.0.as_slice(), haul_core::wire::encode(row).as_slice())?;
            let mut entries = write.open_table(ENTRIES)?;
            for (key, value) in rows {
                match value {
                    Some(value) => drop(entries.insert(key.as_slice(), value.as_slice())?),
                    None => drop(entries.remove(key.as_slice())?),
                }
            }
        }
        write.commit()?;
        Ok(())
    }

    /// Notes a state before an index is told of it.
    pub(crate) fn tell(&self, id: ShareId, state: ShareState) -> Result<(), StateError> {
        let write = self.database.begin_write()?;
        {
            let mut states = write.open_table(STATES)?;
            let mut key = id.0.to_vec();
            key.extend_from_slice(&state.revision.to_be_bytes());
            states.insert(key.as_slice(), haul_core::wire::encode(&state).as_slice())?;
            let (start, end) = share_range(id);
            let kept: Vec<Vec<u8>> = states
                .range(start.as_slice()..end.as_slice())?
                .filter_map(|row| row.ok().map(|(key, _)| key.value().to_vec()))
                .collect();
            for old in kept.iter().take(kept.len().saturating_sub(STATES_KEPT)) {
                states.remove(old.as_slice())?;
            }
        }
        write.commit()?;
        Ok(())
    }

    /// Deletes a share, and remembers that the index has to forget it.
    pub(crate) fn remove(&self, id: ShareId) -> Result<(), StateError> {
        let write = self.database.begin_write()?;
        {
            write.open_table(SHARES)?.remove(id.0.as_slice())?;
            let (start, end) = share_range(id);
            let range = start.as_slice()..end.as_slice();
            write.open_table(ENTRIES)?.retain_in(range.clone(), |_, _| false)?;
            write.open_table(STATES)?.retain_in(range, |_, _| false)?;
            write.open_table(FORGET)?.insert(id.0.as_slice(), [].as_slice())?;
        }
        write.commit()?;
        Ok(())
    }

    /// Shares that the index has to forget.
    pub(crate) fn to_forget(&self) -> Result<Vec<ShareId>, StateError> {
        let read = self.database.begin_read()?;
        let forget = read.open_table(FORGET)?;
        let mut ids = Vec::new();
        for row in forget.iter()? {
            ids.extend(<[u8; 16]>::try_from(row?.0.value()).ok().map(ShareId));
        }
        Ok(ids)
    }

    /// The index has forgotten it.
    pub(crate) fn forgotten(&self, id: ShareId) -> Result<(), StateError> {
        let write = self.database.begin_write()?;
        write.open_table(FORGET)?.remove(id.0.as_slice())?;
        write.commit()?;
        Ok(())
    }
}

fn share_range(id: ShareId) -> (Vec<u8>, Vec<u8>) {
    let start = id.0.to_vec();
    let mut end = start.clone();
    // Behind every key of the share: no directory has this many bytes, so a zero byte comes before the end of them.
    end.extend_from_slice(&[0xff; haul_core::limits::PATH_BYTES + 1]);
    (start, end)
}

/// Rows of these keys as they are in the manifest now.
pub(crate) fn rows_of(id: ShareId, manifest: &Manifest, keys: &[Key]) -> Rows {
    keys.iter().map(|key| (row_key(id, key), manifest.get_key(key).map(item_bytes))).collect()
}

/// Rows of everything, after writing failed before.
pub(crate) fn all_rows(id: ShareId, manifest: &Manifest) -> Rows {
    let row = |directory: &[u8], name: &[u8], item| (row_key(id, &Key::new(directory, name)), Some(item_bytes(item)));
    manifest.iter().map(|(directory, name, item)| row(directory, name, item)).collect()
}

fn row_key(id: ShareId, key: &Key) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(17 + key.directory.len() + key.name.len());
    bytes.extend_from_slice(&id.0);
    bytes.extend_from_slice(&key.directory);
    bytes.push(0);
    bytes.extend_from_slice(&key.name);
    bytes
}

fn key_from(bytes: &[u8]) -> Option<Key> {
    let path = bytes.get(16..)?;
    let end = path.iter().position(|byte| *byte == 0)?;
    Some(Key::new(path.get(..end)?, path.get(end + 1..)?))
}

fn item_bytes(item: &Item) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(88);
    bytes.extend_from_slice(&item.revision.to_le_bytes());
    match &item.kind {
        Kind::File(file) => {
            let trust = match file.trust {
                Trust::Firm => 0,
                Trust::Fresh => 1,
                Trust::Recheck => 2,
                Trust::Doubtful => 3,
            };
            bytes.extend_from_slice(&[0, u8::from(file.executable), trust, u8::from(file.blob.is_some())]);
            for number in [file.stamp.inode, file.stamp.size] {
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            for time in [file.stamp.mtime_ns, file.stamp.ctime_ns] {
                bytes.extend_from_slice(&time.to_le_bytes());
            }
            bytes.extend_from_slice(file.blob.as_ref().map_or(&[], |blob| blob.as_bytes().as_slice()));
        }
        Kind::Directory { mtime_ns } => {
            bytes.push(1);
            bytes.extend_from_slice(&mtime_ns.to_le_bytes());
        }
        Kind::Symlink { mtime_ns, target } => {
            bytes.push(2);
            bytes.extend_from_slice(&mtime_ns.to_le_bytes());
            bytes.extend_from_slice(target);
        }
        Kind::Removed => bytes.push(3),
    }
    bytes
}

fn item_from(bytes: &[u8]) -> Option<Item> {
    let (revision, rest) = bytes.split_first_chunk::<8>()?;
    let (tag, rest) = rest.split_first()?;
    let kind = match tag {
        0 => Kind::File(file_from(rest)?),
        1 => Kind::Directory { mtime_ns: i64::from_le_bytes(*rest.first_chunk()?) },
        2 => {
            let (mtime_ns, target) = rest.split_first_chunk::<8>()?;
            Kind::Symlink { mtime_ns: i64::from_le_bytes(*mtime_ns), target: target.into() }
        }
        3 => Kind::Removed,
        _ => return None,
    };
    Some(Item { kind, revision: u64::from_le_bytes(*revision), seen_by: 0 })
}

fn file_from(bytes: &[u8]) -> Option<FileItem> {
    let ([executable, trust, hashed], rest) = bytes.split_first_chunk::<3>()?;
    let (inode, rest) = rest.split_first_chunk::<8>()?;
    let (size, rest) = rest.split_first_chunk::<8>()?;
    let (mtime_ns, rest) = rest.split_first_chunk::<8>()?;
    let (ctime_ns, rest) = rest.split_first_chunk::<8>()?;
    let stamp = FileStamp {
        inode: u64::from_le_bytes(*inode),
        size: u64::from_le_bytes(*size),
        mtime_ns: i64::from_le_bytes(*mtime_ns),
        ctime_ns: i64::from_le_bytes(*ctime_ns),
    };
    let blob = if *hashed == 1 { Some(BlobId::new(rest.try_into().ok()?)) } else { None };
    let trust = match trust {
        0 => Trust::Firm,
        1 => Trust::Fresh,
        2 => Trust::Recheck,
        _ => Trust::Doubtful,
    };
    Some(FileItem { stamp, executable: *executable == 1, blob, trust })
}

/// The digest of nothing, as a name for readers.
pub(crate) fn empty_state() -> ShareState {
    ShareState { revision: 0, digest: RegistrationDigest::default() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn rows_round_trip_and_nonsense_is_no_row() {
        let stamp = FileStamp { inode: 7, size: 9, mtime_ns: -5, ctime_ns: 1 << 60 };
        let file = FileItem { stamp, executable: true, blob: Some(BlobId::empty()), trust: Trust::Doubtful };
        let unknown = FileItem { executable: false, blob: None, trust: Trust::Fresh, ..file };
        let kinds = [
            Kind::File(file),
            Kind::File(unknown),
            Kind::Directory { mtime_ns: 3 },
            Kind::Symlink { mtime_ns: -3, target: b"../x".as_slice().into() },
            Kind::Removed,
        ];
        for kind in kinds {
            let bytes = item_bytes(&Item { kind: kind.clone(), revision: 12, seen_by: 4 });
            let back = item_from(&bytes).unwrap();
            assert_eq!((back.kind, back.revision, back.seen_by), (kind, 12, 0));
            for end in 0..bytes.len() {
                if let Some(part) = item_from(&bytes[..end]) {
                    assert!(matches!(part.kind, Kind::Symlink { .. }), "only a link's target has any length");
                }
            }
        }
        let key = Key::new(b"a/\xff", b"name");
        assert_eq!(key_from(&row_key(ShareId([3; 16]), &key)), Some(key));
        assert_eq!(key_from(&[0; 10]), None);
    }

    #[test]
    fn shares_do_not_touch_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let database = StateDb::open(&folder.path().join("shares.redb")).unwrap();
        let ids = [ShareId([1; 16]), ShareId([2; 16]), ShareId([0xff; 16])];
        let row = |name: &str| ShareRow {
            name: Label::new(name).unwrap(),
            root: ByteString(b"/x\xff".to_vec()),
            single: None,
            groups: Vec::new(),
            excludes: Vec::new(),
            file_system: 1,
            state: ShareState { revision: 5, ..empty_state() },
            floor: 0,
            walked: true,
        };
        for id in ids {
            let mut manifest = Manifest::default();
            for name in [&b"a"[..], b"\xff\xff"] {
                manifest.put(&Key::new(name, name), Kind::Directory { mtime_ns: 0 }, 0);
            }
            let touched = manifest.seal();
            database.save(id, &row("x"), &rows_of(id, &manifest, &touched)).unwrap();
            for revision in 0..260 {
                database.tell(id, ShareState { revision, ..empty_state() }).unwrap();
            }
        }
        database.remove(ids[1]).unwrap();
        let loaded = database.load().unwrap();
        assert_eq!(loaded.iter().map(|share| share.id).collect::<Vec<_>>(), [ids[0], ids[2]]);
        for share in loaded {
            assert_eq!((share.manifest.totals().directories, share.told.len()), (2, STATES_KEPT));
            assert_eq!(share.told.last().unwrap().revision, 259);
            assert_eq!(share.row, row("x"));
        }
        assert_eq!(database.to_forget().unwrap(), [ids[1]]);
        database.forgotten(ids[1]).unwrap();
        assert!(database.to_forget().unwrap().is_empty());
    }
}
