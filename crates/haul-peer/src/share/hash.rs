//! Hashes files with their outline in one pass, and notices when a file changes under the reader.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use haul_core::blob::BlobGeometry;
use haul_core::ids::BlobId;
use haul_core::limits::LEAF_BYTES;
use haul_core::outline::{ChainingValue, Outline, OutlineBuilder, leaf_value};

use super::FileStamp;
use super::open::stamp_of;
use crate::reading::read_at;

/// One read: large enough that reading costs little beside hashing.
const READ_BYTES: usize = 1024 * 1024;
/// What one thread hashes of a large file at a time.
const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// Leaves that are compared when only the change time of a file speaks against its known hash.
const SPOT_LEAVES: u64 = 3;

/// Why there is no hash.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HashError {
    /// The file was written while it was read; try later.
    #[error("the file changed while it was hashed")]
    Changed,
    /// Told to stop.
    #[error("stopped")]
    Stopped,
    /// Reading failed.
    #[error("cannot read: {0}")]
    Io(#[from] io::Error),
}

impl From<rustix::io::Errno> for HashError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

/// A file's content, and the stamp that it had all the time.
#[derive(Debug)]
pub(crate) struct Hashed {
    pub(crate) stamp: FileStamp,
    pub(crate) blob: BlobId,
    pub(crate) outline: Outline,
}

/// How to hash.
#[derive(Clone, Copy)]
pub(crate) struct HashRun<'a> {
    pub(crate) stop: &'a AtomicBool,
    /// Threads inside one file.
    pub(crate) threads: usize,
    /// Told of bytes as they are read.
    pub(crate) progress: &'a (dyn Fn(u64) + Sync),
}

/// Hashes a file from its beginning to its size. `stamp` is what it was when it was opened, just now.
pub(crate) fn hash_file(file: &File, stamp: FileStamp, run: HashRun<'_>) -> Result<Hashed, HashError> {
    let Some(geometry) = BlobGeometry::new(stamp.size) else {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge).into());
    };
    let (blob, outline) = if geometry.leaves() == 1 {
        let bytes = read_at(file, 0, geometry.leaf_bytes(0)).map_err(unread)?;
        (run.progress)(stamp.size);
        // The one leaf is the root: it has no chaining value to keep.
        (BlobId::new(*blake3::hash(&bytes).as_bytes()), Outline::default())
    } else {
        let mut builder = OutlineBuilder::new();
        for value in leaf_values(file, geometry, run)? {
            builder.push_value(value);
        }
        builder.finish()
    };
    if stamp_of(file)? != stamp {
        return Err(HashError::Changed);
    }
    Ok(Hashed { stamp, blob, outline })
}

/// Whether some leaves, chosen by `seed`, are those of the outline: enough to accept a file that was only renamed.
pub(crate) fn spot_check(file: &File, size: u64, blob: &BlobId, outline: &Outline, seed: u64) -> io::Result<bool> {
    let Some(geometry) = BlobGeometry::new(size) else { return Ok(false) };
    for turn in 0..SPOT_LEAVES.min(geometry.leaves()) {
        let random = blake3::hash(&[seed.to_le_bytes(), turn.to_le_bytes()].concat());
        let random = random.as_bytes().first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let leaf = random % geometry.leaves();
        let mut bytes = vec![0; geometry.leaf_bytes(leaf)];
        match file.read_exact_at(&mut bytes, geometry.leaf_range(leaf).start) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            other => other?,
        }
        let fits = if geometry.leaves() == 1 {
            blake3::hash(&bytes).as_bytes() == blob.as_bytes()
        } else {
            outline.value(leaf) == Some(&leaf_value(leaf, &bytes))
        };
        if !fits {
            return Ok(false);
        }
    }
    Ok(true)
}

fn leaf_values(file: &File, geometry: BlobGeometry, run: HashRun<'_>) -> Result<Vec<ChainingValue>, HashError> {
    let segments = geometry.size().div_ceil(SEGMENT_BYTES);
    let threads = (run.threads as u64).clamp(1, segments);
    if threads == 1 {
        return segment_values(file, 0, geometry.size(), run);
    }
    let next = AtomicU64::new(0);
    let done: Mutex<Vec<(u64, Vec<ChainingValue>)>> = Mutex::new(Vec::new());
    let work = || -> Result<(), HashError> {
        loop {
            let segment = next.fetch_add(1, Ordering::Relaxed);
            if segment >= segments {
                return Ok(());
            }
            let start = segment * SEGMENT_BYTES;
            let values = segment_values(file, start, (start + SEGMENT_BYTES).min(geometry.size()), run);
            if values.is_err() {
                // The others stop at their next segment.
                next.store(segments, Ordering::Relaxed);
            }
            let values = values?;
            done.lock().expect("no panic while held").push((segment, values));
        }
    };
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        helpers.into_iter().map(|helper| helper.join().expect("hashing does not panic")).fold(own, Result::and)
    })?;
    let mut done = done.into_inner().expect("no panic while held");
    done.sort_unstable_by_key(|(segment, _)| *segment);
    Ok(done.into_iter().flat_map(|(_, values)| values).collect())
}

/// Values of the leaves between two offsets; `start` is a multiple of the leaf size.
fn segment_values(file: &File, start: u64, end: u64, run: HashRun<'_>) -> Result<Vec<ChainingValue>, HashError> {
    let mut values = Vec::with_capacity((end - start).div_ceil(LEAF_BYTES) as usize);
    let mut buffer = vec![0; READ_BYTES.min((end - start) as usize)];
    let mut at = start;
    while at < end {
        if run.stop.load(Ordering::Relaxed) {
            return Err(HashError::Stopped);
        }
        let length = buffer.len().min((end - at) as usize);
        let bytes = buffer.get_mut(..length).expect("within the buffer");
        read_exactly(file, bytes, at)?;
        for leaf in bytes.chunks(LEAF_BYTES as usize) {
            values.push(leaf_value(start / LEAF_BYTES + values.len() as u64, leaf));
        }
        at += length as u64;
        (run.progress)(length as u64);
    }
    Ok(values)
}

fn read_exactly(file: &File, bytes: &mut [u8], at: u64) -> Result<(), HashError> {
    file.read_exact_at(bytes, at).map_err(unread)
}

fn unread(error: io::Error) -> HashError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => HashError::Changed,
        _ => HashError::Io(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom, Write};
    use std::sync::atomic::AtomicUsize;

    fn pattern(size: usize) -> Vec<u8> {
        (0..size).map(|n| ((n * 131 + n / 509) % 253) as u8).collect()
    }

    fn written(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn any_number_of_threads_gives_the_plain_hash() {
        let bytes = pattern(2 * SEGMENT_BYTES as usize + 3 * LEAF_BYTES as usize + 1);
        let file = written(&bytes);
        let stop = AtomicBool::new(false);
        let mut outlines = Vec::new();
        for threads in [1, 2, 7] {
            let read = AtomicU64::new(0);
            let progress = |bytes| {
                read.fetch_add(bytes, Ordering::Relaxed);
            };
            let hashed =
                hash_file(&file, stamp_of(&file).unwrap(), HashRun { stop: &stop, threads, progress: &progress })
                    .unwrap();
            assert_eq!(hashed.blob.as_bytes(), blake3::hash(&bytes).as_bytes());
            assert_eq!(read.into_inner(), bytes.len() as u64);
            outlines.push(hashed.outline);
        }
        assert!(outlines.windows(2).all(|pair| pair.first() == pair.last()));
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_has_no_hash() {
        for (what, size) in [("append", 5_000_000), ("truncate", 5_000_000), ("overwrite", 5_000_000)] {
            let file = written(&pattern(size));
            let turn = AtomicUsize::new(0);
            let meddle = |_| {
                if turn.fetch_add(1, Ordering::Relaxed) == 1 {
                    let mut writer = &file;
                    match what {
                        "append" => writer.seek(SeekFrom::End(0)).and_then(|_| writer.write_all(b"more")).unwrap(),
                        "truncate" => file.set_len(4_000_000).unwrap(),
                        // Bytes that have been read already.
                        _ => file.write_all_at(b"other", 100).unwrap(),
                    }
                }
            };
            let run = HashRun { stop: &AtomicBool::new(false), threads: 1, progress: &meddle };
            assert!(matches!(hash_file(&file, stamp_of(&file).unwrap(), run), Err(HashError::Changed)), "{what}");
        }
    }

    #[test]
    fn hashing_stops_when_told() {
        let file = written(&pattern(5_000_000));
        let stop = AtomicBool::new(false);
        let progress = |_| stop.store(true, Ordering::Relaxed);
        let run = HashRun { stop: &stop, threads: 1, progress: &progress };
        assert!(matches!(hash_file(&file, stamp_of(&file).unwrap(), run), Err(HashError::Stopped)));
    }

    #[test]
    fn spot_checks_tell_other_content() {
        for size in [1, 100, LEAF_BYTES as usize, 40 * LEAF_BYTES as usize + 9] {
            let bytes = pattern(size);
            let file = written(&bytes);
            let run = HashRun { stop: &AtomicBool::new(false), threads: 1, progress: &|_| {} };
            let Hashed { blob, outline, .. } = hash_file(&file, stamp_of(&file).unwrap(), run).unwrap();
            assert!(spot_check(&file, size as u64, &blob, &outline, 7).unwrap());
            let other: Vec<u8> = bytes.iter().map(|byte| byte ^ 1).collect();
            assert!(!spot_check(&written(&other), size as u64, &blob, &outline, 7).unwrap());
            // The size is compared by the caller; a file that ends early must not be an error.
            assert!(!spot_check(&written(&[]), size as u64, &blob, &outline, 7).unwrap());
        }
    }
}
