//! Remembers what files hash to, across renames, moves of whole folders, restarts and shares.
//!
//! A row is found by (file system, inode, size, mtime), or else by path if size and mtime are the same. It counts
//! without a look at the file only if the change time is the same too: content cannot change without it. A rename
//! changes it as well, so then three leaves of the file are compared with the outline. A file written less than two
//! seconds before it was hashed is not remembered, for a later write may leave the same times.
//! The database may be deleted whenever haul does not run.

use std::path::Path;

use haul_core::blob::BlobGeometry;
use haul_core::ids::BlobId;
use haul_core::limits::LEAF_BYTES;
use haul_core::outline::Outline;
use redb::{Database, ReadOnlyTable, ReadableDatabase, TableDefinition};

use super::FileStamp;
use super::state::{CACHE_BYTES, StateError, guarded};

/// File system, inode, size, mtime.
type FileKey = [u8; 32];
/// Change time and blob.
type FileRow = [u8; 40];
/// First bytes of the path's hash.
type PathKey = [u8; 16];

const FILES: TableDefinition<'_, &FileKey, &FileRow> = TableDefinition::new("files");
const PATHS: TableDefinition<'_, &PathKey, &FileKey> = TableDefinition::new("paths");
const OUTLINES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("outlines");

/// Writes this close to the start of hashing may be followed by others with the same times.
pub(crate) const SETTLED_NS: i64 = 2_000_000_000;

/// What the cache knows of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// The hash of exactly this content.
    Hit(BlobId),
    /// Likely this; compare some leaves with the outline.
    Likely(BlobId),
}

/// A file that was hashed.
#[derive(Clone, Debug)]
pub(crate) struct Remember<'a> {
    pub(crate) file_system: u64,
    pub(crate) stamp: FileStamp,
    /// Its absolute path.
    pub(crate) path: &'a [u8],
    pub(crate) blob: BlobId,
    /// None if it is there already.
    pub(crate) outline: Option<&'a Outline>,
    /// Whether the file may be found again by its stamp; the outline is kept in any case.
    pub(crate) settled: bool,
}

/// Whether the stamp of a file, as it was when hashing started, vouches for it: a later write would change it. Times are
/// not near then, before or after. The change time cannot be set by programs; it counts where it is so coarse that later
/// writes, whose modification time may be set back, leave it as it is.
pub(crate) fn is_settled(stamp: &FileStamp, hashing_began_ns: i64) -> bool {
    let near = |time: i64| time.saturating_sub(hashing_began_ns).unsigned_abs() < SETTLED_NS.unsigned_abs();
    let coarse = stamp.ctime_ns % 1_000_000_000 == 0;
    !(near(stamp.mtime_ns) || coarse && near(stamp.ctime_ns))
}

/// The database.
#[derive(Debug)]
pub(crate) struct HashCache {
    database: Database,
    /// It was made just now: outlines that were known before are lost.
    pub(crate) is_new: bool,
}

impl HashCache {
    /// Opens the file. A damaged one is replaced: it only costs time. Other failures say nothing about what it holds.
    pub(crate) fn open(file: &Path) -> Result<Self, StateError> {
        let was_there = file.exists();
        // redb panics on some pages that hold garbage.
        let damage = match std::panic::catch_unwind(|| Self::open_once(file)) {
            Ok(Ok(database)) => return Ok(Self { database, is_new: !was_there }),
            Ok(Err(error)) if is_damage(&error) => error.to_string(),
            Ok(Err(error)) => return Err(StateError(error.to_string())),
            Err(_) => "its pages are damaged".into(),
        };
        tracing::warn!(%damage, "the hash cache cannot be read and is started anew");
        std::fs::remove_file(file).map_err(|error| StateError(error.to_string()))?;
        let database = Self::open_once(file).map_err(|error| StateError(error.to_string()))?;
        Ok(Self { database, is_new: true })
    }

    fn open_once(file: &Path) -> Result<Database, redb::Error> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(file)?;
        let write = database.begin_write()?;
        write.open_table(FILES)?;
        write.open_table(PATHS)?;
        write.open_table(OUTLINES)?;
        write.commit()?;
        Ok(database)
    }

    /// What is known now, to look up several files; none if the database fails.
    pub(crate) fn view(&self) -> Option<View> {
        guarded(|| {
            let read = self.database.begin_read()?;
            Ok(View { files: read.open_table(FILES)?, paths: read.open_table(PATHS)? })
        })
        .ok()
    }

    /// The outline of a blob of more than one leaf, checked against its id.
    pub(crate) fn outline(&self, blob: &BlobId, size: u64) -> Option<Outline> {
        if size <= LEAF_BYTES {
            return Some(Outline::default());
        }
        let geometry = BlobGeometry::new(size)?;
        let read = || -> Result<Option<Outline>, StateError> {
            let row = self.database.begin_read()?.open_table(OUTLINES)?.get(blob.as_bytes().as_slice())?;
            Ok(row.and_then(|row| Outline::from_bytes(*blob, geometry, row.value())))
        };
        guarded(read).ok().flatten()
    }

    /// Keeps what was hashed, in one durable write.
    pub(crate) fn remember(&self, files: &[Remember<'_>]) -> Result<(), StateError> {
        guarded(|| self.try_remember(files))
    }

    /// Forgets what a file with this stamp hashes to.
    pub(crate) fn forget(&self, file_system: u64, stamp: &FileStamp) -> Result<(), StateError> {
        guarded(|| {
            let write = self.database.begin_write()?;
            write.open_table(FILES)?.remove(&file_key(file_system, stamp))?;
            write.commit()?;
            Ok(())
        })
    }

    fn try_remember(&self, files: &[Remember<'_>]) -> Result<(), StateError> {
        let write = self.database.begin_write()?;
        {
            // In the order of the tables: neighbours go to the same page while it is at hand.
            let settled = files.iter().filter(|file| file.settled);
            let mut known: Vec<(FileKey, &Remember<'_>)> =
                settled.map(|file| (file_key(file.file_system, &file.stamp), file)).collect();
            known.sort_unstable_by_key(|(key, _)| *key);
            let mut rows = write.open_table(FILES)?;
            for (key, file) in &known {
                rows.insert(key, &file_row(file))?;
            }
            let mut places: Vec<(PathKey, FileKey)> =
                known.iter().map(|(key, file)| (path_key(file.path), *key)).collect();
            places.sort_unstable();
            let mut paths = write.open_table(PATHS)?;
            for (place, key) in &places {
                let old = paths.insert(place, key)?.map(|old| *old.value());
                // Another stamp of the same inode: it was written in place, and nothing has the old stamp any more.
                if let Some(old) = old.filter(|old| old != key && old.first_chunk::<16>() == key.first_chunk()) {
                    rows.remove(&old)?;
                }
            }
            let mut outlines = write.open_table(OUTLINES)?;
            for file in files.iter().filter(|file| file.stamp.size > LEAF_BYTES) {
                if let Some(outline) = file.outline {
                    outlines.insert(file.blob.as_bytes().as_slice(), outline.to_bytes().as_slice())?;
                }
            }
        }
        write.commit()?;
        Ok(())
    }
}

/// Whether the file holds what cannot be used, now or later.
fn is_damage(error: &redb::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, UnexpectedEof};
    match error {
        redb::Error::Io(error) => matches!(error.kind(), InvalidData | UnexpectedEof),
        redb::Error::Corrupted(_)
        | redb::Error::RepairAborted
        | redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. } => true,
        _ => false,
    }
}

/// What the cache knew at one moment.
pub(crate) struct View {
    files: ReadOnlyTable<&'static FileKey, &'static FileRow>,
    paths: ReadOnlyTable<&'static PathKey, &'static FileKey>,
}

impl View {
    /// Looks a file up by its stamp, then by its path. Failures count as not known.
    pub(crate) fn look_up(&self, file_system: u64, stamp: &FileStamp, path: &[u8]) -> Option<Known> {
        guarded(|| self.try_look_up(file_system, stamp, path)).ok().flatten()
    }

    fn try_look_up(&self, file_system: u64, stamp: &FileStamp, path: &[u8]) -> Result<Option<Known>, StateError> {
        if let Some(row) = self.files.get(&file_key(file_system, stamp))? {
            let (ctime_ns, blob) = time_and_blob(row.value());
            let exact = ctime_ns == stamp.ctime_ns;
            return Ok(Some(if exact { Known::Hit(blob) } else { Known::Likely(blob) }));
        }
        let Some(key) = self.paths.get(&path_key(path))?.map(|key| *key.value()) else {
            return Ok(None);
        };
        let same_size_and_time = key.get(16..) == file_key(0, stamp).get(16..);
        let row = if same_size_and_time { self.files.get(&key)? } else { None };
        Ok(row.map(|row| Known::Likely(time_and_blob(row.value()).1)))
    }
}

fn file_key(file_system: u64, stamp: &FileStamp) -> FileKey {
    let mut key = [0; 32];
    let parts = [file_system, stamp.inode, stamp.size, stamp.mtime_ns as u64];
    for (place, part) in key.as_chunks_mut::<8>().0.iter_mut().zip(parts) {
        *place = part.to_be_bytes();
    }
    key
}

fn path_key(path: &[u8]) -> PathKey {
    let hash = blake3::hash(path);
    hash.as_bytes().first_chunk().copied().unwrap_or_default()
}

fn file_row(file: &Remember<'_>) -> FileRow {
    let mut row = [0; 40];
    let (time, blob) = row.split_at_mut(8);
    time.copy_from_slice(&file.stamp.ctime_ns.to_be_bytes());
    blob.copy_from_slice(file.blob.as_bytes());
    row
}

fn time_and_blob(row: &FileRow) -> (i64, BlobId) {
    let time = row.first_chunk::<8>().copied().unwrap_or_default();
    let blob = row.last_chunk::<32>().copied().unwrap_or_default();
    (i64::from_be_bytes(time), BlobId::new(blob))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn times_near_the_start_of_hashing_vouch_for_nothing() {
        const SECOND: i64 = 1_000_000_000;
        let now = 1_700_000_000 * SECOND;
        let settled = |mtime_ns, ctime_ns| is_settled(&FileStamp { mtime_ns, ctime_ns, ..FileStamp::default() }, now);
        assert!(settled(now - 2 * SECOND, now - 1));
        assert!(!settled(now - 2 * SECOND + 1, now - 1) && !settled(now, now) && !settled(now + SECOND, now));
        assert!(settled(now + 3600 * SECOND, now - 1), "in the future, not hashed anew for ever");
        assert!(!settled(0, now), "a change time of whole seconds");
        assert!(settled(0, now - 3 * SECOND));
        assert!(settled(i64::MAX, i64::MIN) && settled(i64::MIN, i64::MAX));
    }

    #[test]
    fn only_a_damaged_cache_is_started_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hashes.redb");
        let cache = HashCache::open(&file).unwrap();
        assert!(HashCache::open(&file).is_err(), "open already");
        drop(cache);
        assert!(!HashCache::open(&file).unwrap().is_new);
        std::fs::write(&file, [b'x'; 5_000]).unwrap();
        assert!(HashCache::open(&file).unwrap().is_new);
    }

    #[test]
    fn a_file_written_in_place_leaves_no_row_of_what_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let cache = HashCache::open(&folder.path().join("hashes.redb")).unwrap();
        let stamp = |inode, mtime_ns| FileStamp { inode, size: 1, mtime_ns, ctime_ns: mtime_ns };
        let remember = |stamp| {
            let blob = BlobId::empty();
            let row = Remember { file_system: 1, stamp, path: b"/f", blob, outline: None, settled: true };
            cache.remember(&[row]).unwrap();
        };
        let is_known = |stamp| cache.view().unwrap().look_up(1, &stamp, b"/elsewhere").is_some();
        remember(stamp(7, 1));
        remember(stamp(7, 2));
        assert!(!is_known(stamp(7, 1)) && is_known(stamp(7, 2)));
        remember(stamp(8, 3));
        assert!(is_known(stamp(7, 2)), "it may have another name now");
    }

    #[test]
    fn a_cache_with_damaged_pages_is_started_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hashes.redb");
        assert!(HashCache::open(&file).unwrap().is_new);
        assert!(!HashCache::open(&file).unwrap().is_new);
        let bytes = file.metadata().unwrap().len();
        for page in (1..bytes.div_ceil(4096)).rev() {
            let damaged = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
            damaged.write_all_at(&[0xa5; 600], page * 4096).unwrap();
            drop(damaged);
            let cache = HashCache::open(&file).unwrap();
            cache.remember(&[]).unwrap();
        }
    }
}
