//! Hashes files with their outline in one pass, and notices when a file changes under the reader.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use haul_core::blob::BlobGeometry;
use haul_core::ids::BlobId;
use haul_core::limits::LEAF_BYTES;
use haul_core::outline::{ChainingValue, Outline, OutlineBuilder, leaf_value};

use super::FileStamp;
use super::open::stamp_of;
use crate::reading::read_at;

/// One read: large enough that the call costs little beside hashing, small enough that the bytes are still in the
/// core's own cache when they are hashed.
const READ_BYTES: usize = 256 * 1024;
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

/// Threads that help with large files when they have nothing else to do.
pub(crate) trait Helpers: Sync {
    /// There is something to help with.
    fn ask(&self, segments: &Arc<Segments>);
    /// There is not any more.
    fn thank(&self, segments: &Arc<Segments>);
}

/// How to hash.
#[derive(Clone, Copy)]
pub(crate) struct HashRun<'a> {
    pub(crate) stop: &'a AtomicBool,
    /// Whoever may help with a large file.
    pub(crate) helpers: &'a dyn Helpers,
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
        for value in leaf_values(file, stamp, geometry, run)? {
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

/// Values of all leaves; of a large file with the help of whoever has nothing else to do.
fn leaf_values(
    file: &File,
    stamp: FileStamp,
    geometry: BlobGeometry,
    run: HashRun<'_>,
) -> Result<Vec<ChainingValue>, HashError> {
    if geometry.size() <= SEGMENT_BYTES {
        let mut buffer = Vec::new();
        return segment_values(file, 0..geometry.size(), &mut buffer, run.stop, run.progress);
    }
    let segments = Arc::new(Segments {
        file: file.try_clone()?,
        stamp,
        next: AtomicU64::new(0),
        parts: Mutex::default(),
        helper_left: Condvar::new(),
    });
    run.helpers.ask(&segments);
    let own = segments.work(run.stop, run.progress);
    run.helpers.thank(&segments);
    segments.collect(own)
}

/// A large file whose parts several threads hash.
#[derive(Debug)]
pub(crate) struct Segments {
    file: File,
    stamp: FileStamp,
    next: AtomicU64,
    parts: Mutex<Parts>,
    helper_left: Condvar,
}

#[derive(Debug, Default)]
struct Parts {
    /// Number of the segment, and its values.
    done: Vec<(u64, Vec<ChainingValue>)>,
    helpers: usize,
    failed: Option<HashError>,
}

impl Segments {
    /// Whether a helper would find something to do.
    pub(crate) fn has_more(&self) -> bool {
        self.next.load(Ordering::Relaxed) < self.count()
    }

    /// Helps with one segment. After it there may be something else to do, which comes first.
    pub(crate) fn help(&self, stop: &AtomicBool) {
        self.lock().helpers += 1;
        let _leaving = Leaving(self);
        if let Err(error) = self.next_segment(&mut Vec::new(), stop, &|_| {}) {
            self.lock().failed.get_or_insert(error);
        }
    }

    fn count(&self) -> u64 {
        self.stamp.size.div_ceil(SEGMENT_BYTES)
    }

    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().expect("no panic while held")
    }

    fn work(&self, stop: &AtomicBool, progress: &(dyn Fn(u64) + Sync)) -> Result<(), HashError> {
        let mut buffer = Vec::new();
        while self.next_segment(&mut buffer, stop, progress)? {}
        Ok(())
    }

    /// Hashes a segment that nobody has begun. False if there is none.
    fn next_segment(
        &self,
        buffer: &mut Vec<u8>,
        stop: &AtomicBool,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<bool, HashError> {
        let segment = self.next.fetch_add(1, Ordering::Relaxed);
        if segment >= self.count() {
            return Ok(false);
        }
        let start = segment * SEGMENT_BYTES;
        let range = start..(start + SEGMENT_BYTES).min(self.stamp.size);
        let hashed = self.check_unchanged().and_then(|()| segment_values(&self.file, range, buffer, stop, progress));
        let values = hashed.inspect_err(|_| {
            // The others stop at their next segment.
            self.next.store(self.count(), Ordering::Relaxed);
        })?;
        self.lock().done.push((segment, values));
        Ok(true)
    }

    /// What grows is not read to its end in vain.
    fn check_unchanged(&self) -> Result<(), HashError> {
        if stamp_of(&self.file)? == self.stamp { Ok(()) } else { Err(HashError::Changed) }
    }

    /// Waits for the helpers, and puts the values in order.
    fn collect(&self, own: Result<(), HashError>) -> Result<Vec<ChainingValue>, HashError> {
        let parts = self.helper_left.wait_while(self.lock(), |parts| parts.helpers > 0);
        let mut parts = std::mem::take(&mut *parts.expect("no panic while held"));
        own?;
        if let Some(error) = parts.failed {
            return Err(error);
        }
        parts.done.sort_unstable_by_key(|(segment, _)| *segment);
        Ok(parts.done.into_iter().flat_map(|(_, values)| values).collect())
    }
}

/// Counts a helper out, however it leaves.
struct Leaving<'a>(&'a Segments);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.lock().helpers -= 1;
        self.0.helper_left.notify_all();
    }
}

/// Values of the leaves between two offsets; the first is a multiple of the leaf size.
fn segment_values(
    file: &File,
    range: Range<u64>,
    buffer: &mut Vec<u8>,
    stop: &AtomicBool,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<ChainingValue>, HashError> {
    let bytes = range.end - range.start;
    let mut values = Vec::with_capacity(bytes.div_ceil(LEAF_BYTES) as usize);
    buffer.resize(READ_BYTES.min(bytes as usize), 0);
    let mut at = range.start;
    while at < range.end {
        if stop.load(Ordering::Relaxed) {
            return Err(HashError::Stopped);
        }
        let length = buffer.len().min((range.end - at) as usize);
        let bytes = buffer.get_mut(..length).expect("within the buffer");
        read_exactly(file, bytes, at)?;
        for leaf in bytes.chunks(LEAF_BYTES as usize) {
            values.push(leaf_value(range.start / LEAF_BYTES + values.len() as u64, leaf));
        }
        at += length as u64;
        progress(length as u64);
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

    /// So many helpers for each large file.
    #[derive(Default)]
    struct Threads {
        count: usize,
        running: Mutex<Vec<std::thread::JoinHandle<()>>>,
    }

    static ALONE: Threads = Threads { count: 0, running: Mutex::new(Vec::new()) };

    impl Helpers for Threads {
        fn ask(&self, segments: &Arc<Segments>) {
            let help = || {
                let segments = segments.clone();
                std::thread::spawn(move || segments.help(&AtomicBool::new(false)))
            };
            self.running.lock().unwrap().extend((0..self.count).map(|_| help()));
        }

        fn thank(&self, segments: &Arc<Segments>) {
            assert!(!segments.has_more());
            self.running.lock().unwrap().drain(..).for_each(|helper| helper.join().unwrap());
        }
    }

    #[test]
    fn a_helper_that_fails_fails_the_hash() {
        /// Helps before anybody else, with a file that has become shorter.
        struct Truncates<'a>(&'a File);

        impl Helpers for Truncates<'_> {
            fn ask(&self, segments: &Arc<Segments>) {
                self.0.set_len(0).unwrap();
                segments.help(&AtomicBool::new(false));
            }

            fn thank(&self, _: &Arc<Segments>) {}
        }

        let file = written(&pattern(SEGMENT_BYTES as usize + 1));
        let run = HashRun { stop: &AtomicBool::new(false), helpers: &Truncates(&file), progress: &|_| {} };
        assert!(matches!(hash_file(&file, stamp_of(&file).unwrap(), run), Err(HashError::Changed)));
    }

    #[test]
    fn a_helper_does_one_segment_at_a_time() {
        /// One look for something else to do after each segment.
        struct Counts(AtomicUsize);

        impl Helpers for Counts {
            fn ask(&self, segments: &Arc<Segments>) {
                while segments.has_more() {
                    segments.help(&AtomicBool::new(false));
                    self.0.fetch_add(1, Ordering::Relaxed);
                }
            }

            fn thank(&self, _: &Arc<Segments>) {}
        }

        let file = tempfile::tempfile().unwrap();
        file.set_len(2 * SEGMENT_BYTES + 1).unwrap();
        let helpers = Counts(AtomicUsize::new(0));
        let run = HashRun { stop: &AtomicBool::new(false), helpers: &helpers, progress: &|_| {} };
        hash_file(&file, stamp_of(&file).unwrap(), run).unwrap();
        assert_eq!(helpers.0.into_inner(), 3);
    }

    #[test]
    fn any_number_of_threads_gives_the_plain_hash() {
        let bytes = pattern(2 * SEGMENT_BYTES as usize + 3 * LEAF_BYTES as usize + 1);
        let file = written(&bytes);
        let stop = AtomicBool::new(false);
        let mut outlines = Vec::new();
        for threads in [1, 2, 7] {
            let helpers = Threads { count: threads - 1, running: Mutex::default() };
            let run = HashRun { stop: &stop, helpers: &helpers, progress: &|_| {} };
            let hashed = hash_file(&file, stamp_of(&file).unwrap(), run).unwrap();
            assert_eq!(hashed.blob.as_bytes(), blake3::hash(&bytes).as_bytes());
            assert!(helpers.running.into_inner().unwrap().is_empty());
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
            let run = HashRun { stop: &AtomicBool::new(false), helpers: &ALONE, progress: &meddle };
            assert!(matches!(hash_file(&file, stamp_of(&file).unwrap(), run), Err(HashError::Changed)), "{what}");
        }
    }

    #[test]
    fn a_large_file_that_grows_is_not_read_to_its_end() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 * SEGMENT_BYTES).unwrap();
        let read = AtomicU64::new(0);
        let grow = |bytes| {
            if read.fetch_add(bytes, Ordering::Relaxed) == 0 {
                file.set_len(4 * SEGMENT_BYTES).unwrap();
            }
        };
        let run = HashRun { stop: &AtomicBool::new(false), helpers: &ALONE, progress: &grow };
        assert!(matches!(hash_file(&file, stamp_of(&file).unwrap(), run), Err(HashError::Changed)));
        assert_eq!(read.into_inner(), SEGMENT_BYTES);
    }

    #[test]
    fn hashing_stops_when_told() {
        let file = written(&pattern(5_000_000));
        let stop = AtomicBool::new(false);
        let progress = |_| stop.store(true, Ordering::Relaxed);
        let run = HashRun { stop: &stop, helpers: &ALONE, progress: &progress };
        assert!(matches!(hash_file(&file, stamp_of(&file).unwrap(), run), Err(HashError::Stopped)));
    }

    #[test]
    fn spot_checks_tell_other_content() {
        for size in [1, 100, LEAF_BYTES as usize, 40 * LEAF_BYTES as usize + 9] {
            let bytes = pattern(size);
            let file = written(&bytes);
            let run = HashRun { stop: &AtomicBool::new(false), helpers: &ALONE, progress: &|_| {} };
            let Hashed { blob, outline, .. } = hash_file(&file, stamp_of(&file).unwrap(), run).unwrap();
            assert!(spot_check(&file, size as u64, &blob, &outline, 7).unwrap());
            let other: Vec<u8> = bytes.iter().map(|byte| byte ^ 1).collect();
            assert!(!spot_check(&written(&other), size as u64, &blob, &outline, 7).unwrap());
            // The size is compared by the caller; a file that ends early must not be an error.
            assert!(!spot_check(&written(&[]), size as u64, &blob, &outline, 7).unwrap());
        }
    }
}
