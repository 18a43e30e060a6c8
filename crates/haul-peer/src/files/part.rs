//! The part file of one blob: locked, written at positions, with progress that survives a crash.

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use haul_core::blob::{BlobGeometry, LeafSet};
use haul_core::ids::BlobId;
use haul_core::limits::{BLOB_BYTES, LEAF_BYTES};
use haul_net::clock;
use rustix::fs::{FlockOperation, OFlags, SeekFrom};
use rustix::io::Errno;

use super::error::FileError;
use super::finish::{FileTraits, apply, forget_cached};
use super::names::part_names;
use super::place::{Place, is_regular};
use super::progress::Progress;
use crate::reading::read_at;

/// How often a part file that another download finished meanwhile is looked for again.
const OPEN_ATTEMPTS: u32 = 3;

/// A part file, locked against other downloads of the same target.
#[derive(Debug)]
pub struct PartFile {
    file: File,
    target: Place,
    part: Place,
    progress: Place,
    new_progress: Place,
    blob: BlobId,
    geometry: BlobGeometry,
    /// Leaves known to be on stable storage.
    durable: Mutex<LeafSet>,
    /// Leaves that are not what was written, until a checkpoint leaves them out.
    forgotten: Mutex<Vec<u64>>,
    /// A sync has failed: what the kernel shows of the others may be on no disk, whatever later syncs say.
    doubtful: AtomicBool,
}

/// What an earlier download left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// Leaves that are there and verified.
    pub verified: LeafSet,
    /// Leaves that may be there and have to be verified from disk.
    pub local: LeafSet,
}

impl PartFile {
    /// Opens or creates the part file of this blob at this place, and takes over what counts of an earlier one.
    pub fn open(target: Place, blob: BlobId, geometry: BlobGeometry) -> Result<(Self, Resumed), FileError> {
        let names = part_names(&target.name);
        let part = target.beside(&names.part);
        let file = open_locked(&part, &target)?;
        let opened = Self {
            file,
            progress: target.beside(&names.progress),
            new_progress: target.beside(&names.new_progress),
            durable: Mutex::new(LeafSet::new(geometry.leaves())),
            forgotten: Mutex::default(),
            doubtful: AtomicBool::new(false),
            target,
            part,
            blob,
            geometry,
        };
        let resumed = opened.resume()?;
        if let Err(full) = opened.check_space() {
            if resumed.verified.count() == 0 && resumed.local.count() == 0 {
                opened.discard()?;
            }
            return Err(full);
        }
        Ok((opened, resumed))
    }

    fn resume(&self) -> Result<Resumed, FileError> {
        let leaves = self.geometry.leaves();
        let nothing = Resumed { verified: LeafSet::new(leaves), local: LeafSet::new(leaves) };
        let length = self.file.metadata().map_err(|error| self.io("look at", error))?.len();
        let progress = self.read_progress()?;
        let ours = match &progress {
            Some(Ok(progress)) => progress.blob == self.blob && progress.geometry == self.geometry,
            // Damaged progress, or none yet: the bytes may still be ours.
            Some(Err(_)) | None => true,
        };
        if !ours || length > self.geometry.size() {
            self.start_over()?;
            return Ok(nothing);
        }
        let Some(Ok(mut progress)) = progress else {
            return Ok(Resumed { local: self.leaves_with_data(length)?, ..nothing });
        };
        let mut cut = false;
        for leaf in length / LEAF_BYTES..leaves {
            // Whatever cut the file: what is not there does not count.
            if self.geometry.leaf_range(leaf).end > length {
                progress.durable.remove(leaf);
                cut |= progress.written.remove(leaf);
            }
        }
        if cut {
            // The first leaf that is written may give the file its length back, and holes would count as leaves.
            self.forget_progress()?;
        }
        *self.durable.lock().unwrap_or_else(PoisonError::into_inner) = progress.durable.clone();
        if clock::same_boot(&progress.boot_id) {
            return Ok(Resumed { verified: progress.written, ..nothing });
        }
        let mut local = progress.written;
        for leaf in (0..leaves).filter(|leaf| progress.durable.contains(*leaf)) {
            local.remove(leaf);
        }
        Ok(Resumed { verified: progress.durable, local })
    }

    fn read_progress(&self) -> Result<Option<Result<Progress, super::ProgressError>>, FileError> {
        read_progress(&self.progress, &self.target, self.geometry.leaves())
    }

    /// Leaves that lie wholly or partly in written parts of the file: holes hold nothing to verify.
    fn leaves_with_data(&self, length: u64) -> Result<LeafSet, FileError> {
        let mut leaves = LeafSet::new(self.geometry.leaves());
        let mut from = 0;
        while from < length {
            let start = match rustix::fs::seek(&self.file, SeekFrom::Data(from)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break,
                Err(errno) => return Err(self.target.error("look through the part file of", errno)),
            };
            let end = rustix::fs::seek(&self.file, SeekFrom::Hole(start)).unwrap_or(length).max(start + 1);
            for leaf in start / LEAF_BYTES..end.div_ceil(LEAF_BYTES) {
                leaves.insert(leaf);
            }
            from = end;
        }
        Ok(leaves)
    }

    /// Whether what is still to write fits on the disk.
    fn check_space(&self) -> Result<(), FileError> {
        let stat = rustix::fs::fstat(&self.file).map_err(|errno| self.target.error("look at", errno))?;
        let disk = rustix::fs::fstatvfs(&self.file).map_err(|errno| self.target.error("look at the disk of", errno))?;
        let there = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        let need = self.geometry.size().saturating_sub(there);
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if need > free {
            return Err(FileError::NoSpace { path: self.target.shown.clone(), need, free });
        }
        Ok(())
    }

    /// Empties the part file, to be filled by a copy. What is known of its leaves is forgotten before, and durably: a copy
    /// that breaks off, even by a power cut, must not leave leaves that count as verified.
    pub(crate) fn start_over(&self) -> Result<(), FileError> {
        self.forget_progress()?;
        self.file.set_len(0).map_err(|error| self.io("empty the part file of", error))
    }

    /// Whatever happens next, nothing counts that is not verified from disk.
    fn forget_progress(&self) -> Result<(), FileError> {
        let removed = self.progress.remove().map_err(|errno| self.target.error("remove the progress of", errno));
        removed.and_then(|()| self.target.sync_folder())
    }

    /// Writes verified leaves that follow each other at the place of the first.
    pub fn write_leaves<'b>(&self, first: u64, leaves: impl IntoIterator<Item = &'b [u8]>) -> Result<(), FileError> {
        let mut slices: Vec<IoSlice<'_>> = leaves.into_iter().map(IoSlice::new).collect();
        let (mut rest, mut at) = (slices.as_mut_slice(), first * LEAF_BYTES);
        while !rest.is_empty() {
            match rustix::io::pwritev(&self.file, rest, at) {
                Ok(0) => return Err(self.io("write", io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    IoSlice::advance_slices(&mut rest, written);
                    at += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.io("write", errno.into())),
            }
        }
        Ok(())
    }

    /// Reads a leaf back.
    pub fn read_leaf(&self, leaf: u64) -> io::Result<Vec<u8>> {
        read_at(&self.file, leaf * LEAF_BYTES, self.geometry.leaf_bytes(leaf))
    }

    /// These leaves are not what was written, durable or not: the next checkpoint leaves them out. Waits for no disk.
    pub(crate) fn forget(&self, leaves: &[u64]) {
        self.forgotten.lock().unwrap_or_else(PoisonError::into_inner).extend(leaves);
    }

    /// Writes down which leaves count. `durable` brings their bytes to stable storage before. After a sync that failed
    /// there is no durable checkpoint any more, and whoever goes on verifies from disk what was not durable before.
    pub fn checkpoint(&self, written: &LeafSet, durable: bool) -> Result<(), FileError> {
        let mut safe = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        let forgotten = std::mem::take(&mut *self.forgotten.lock().unwrap_or_else(PoisonError::into_inner));
        for leaf in &forgotten {
            safe.remove(*leaf);
        }
        let mut failure = None;
        if durable {
            match self.sync(File::sync_data) {
                Ok(()) => safe.clone_from(written),
                Err(error) => failure = Some(error),
            }
        }
        let doubtful = self.doubtful.load(Ordering::SeqCst);
        let progress = Progress {
            boot_id: if doubtful { [0; 16] } else { clock::boot_id() },
            blob: self.blob,
            geometry: self.geometry,
            durable: safe.clone(),
            written: written.clone(),
        };
        let stored = self.store_progress(&progress, durable);
        if stored.is_err() && (doubtful || !forgotten.is_empty()) {
            // What stands there counts leaves that must not count.
            let _ = self.forget_progress();
        }
        failure.map_or(stored, Err)
    }

    /// Brings the file to stable storage, unless that has failed before: the kernel tells of a lost write once, calls
    /// its pages clean, and shows them as they were until it needs their memory.
    fn sync(&self, sync: impl FnOnce(&File) -> io::Result<()>) -> Result<(), FileError> {
        if self.doubtful.load(Ordering::SeqCst) {
            return Err(self.io("make durable", Errno::IO.into()));
        }
        sync(&self.file).map_err(|error| {
            self.doubtful.store(true, Ordering::SeqCst);
            forget_cached(&self.file);
            self.io("make durable", error)
        })
    }

    fn store_progress(&self, progress: &Progress, durable: bool) -> Result<(), FileError> {
        let opened = self.new_progress.open(OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC);
        let file = opened.map_err(|errno| self.target.error("write the progress of", errno))?;
        file.write_all_at(&progress.to_bytes(), 0).map_err(|error| self.io("write the progress of", error))?;
        if durable {
            file.sync_all().map_err(|error| self.io("make durable the progress of", error))?;
        }
        self.new_progress.rename_to(&self.progress, true)
    }

    /// All leaves are verified: makes them durable and gives the file its name. Without `force` an existing file stays,
    /// and the part file too. If it fails the next attempt finds everything there.
    pub fn finish(self, traits: FileTraits, force: bool) -> Result<(), FileError> {
        self.make_durable(traits)?;
        self.name(force)
    }

    /// All leaves are verified: makes them durable, under the name of the part file.
    pub(crate) fn make_durable(&self, traits: FileTraits) -> Result<(), FileError> {
        let size = self.file.set_len(self.geometry.size()).map_err(|error| self.io("write", error));
        let done = size.and_then(|()| apply(&self.file, traits, &self.target)).and_then(|()| self.sync(File::sync_all));
        self.or_go_on_later(done)
    }

    /// Gives a durable file its name.
    pub(crate) fn name(self, force: bool) -> Result<(), FileError> {
        // First, so that a kill between the two leaves nothing beside the finished file, only a part file to verify.
        let removed = self.progress.remove().map_err(|errno| self.target.error("remove the progress of", errno));
        if !is_named(&self.file, &self.part, &self.target)? {
            // Nothing is known of what stands there.
            return Err(FileError::Replaced(self.part.shown.clone()));
        }
        let named = removed.and_then(|()| self.part.rename_to(&self.target, force));
        self.or_go_on_later(named)?;
        self.target.sync_folder()
    }

    /// If the end fails, the next attempt finds every leaf noted.
    fn or_go_on_later(&self, done: Result<(), FileError>) -> Result<(), FileError> {
        if done.is_err() {
            // The first error says more.
            let _ = self.checkpoint(&LeafSet::full(self.geometry.leaves()), false);
        }
        done
    }

    /// Forgets the download: nothing of it stays.
    pub fn discard(self) -> Result<(), FileError> {
        let _ = self.progress.remove();
        self.part.remove().map_err(|errno| self.target.error("remove the part file of", errno))
    }

    /// The open part file, to be filled by a copy.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The part file, opened once more to read from. It does not hold the lock, so whoever keeps it stops no later
    /// download of the target.
    pub(crate) fn reader(&self) -> io::Result<File> {
        Ok(self.part.open(OFlags::RDONLY)?)
    }

    /// The target, for messages.
    pub fn target(&self) -> &Place {
        &self.target
    }

    fn io(&self, what: &'static str, error: io::Error) -> FileError {
        FileError::from_io(what, &self.target.shown, error)
    }
}

/// The size of this blob, if an earlier download to this place has proved it: it has verified the last leaf.
pub fn proven_size(target: &Place, blob: &BlobId) -> Option<u64> {
    let progress = target.beside(&part_names(&target.name).progress);
    let progress = read_progress(&progress, target, BLOB_BYTES / LEAF_BYTES).ok()??.ok()?;
    let proven = progress.blob == *blob && progress.written.contains(progress.geometry.leaves() - 1);
    proven.then(|| progress.geometry.size())
}

/// Reads the progress of a blob of so many leaves at most; none if there is none.
fn read_progress(
    place: &Place,
    target: &Place,
    leaves: u64,
) -> Result<Option<Result<Progress, super::ProgressError>>, FileError> {
    let file = match place.open(OFlags::RDONLY) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(target.error("read the progress of", errno)),
    };
    let failed = |error| FileError::from_io("read the progress of", &target.shown, error);
    let length = file.metadata().map_err(failed)?.len();
    // Two bits per leaf; nothing longer is ours, and nothing longer is read.
    if length > 1024 + leaves.div_ceil(64) * 16 {
        return Ok(Some(Err(super::ProgressError)));
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, 0).map_err(failed)?;
    Ok(Some(Progress::from_bytes(&bytes)))
}

/// Opens the part file and locks it. Between opening and locking another download may have finished and renamed it;
/// then the name stands for another file, or none.
fn open_locked(part: &Place, target: &Place) -> Result<File, FileError> {
    for _ in 0..OPEN_ATTEMPTS {
        let file = part
            .open(OFlags::RDWR | OFlags::CREATE)
            .map_err(|errno| FileError::from_errno("create the part file of", &target.shown, errno))?;
        let stat = rustix::fs::fstat(&file).map_err(|errno| target.error("look at", errno))?;
        if !is_regular(&stat) {
            return Err(FileError::NotAFile(part.shown.clone()));
        }
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // File systems without locks have no other download either, as far as can be known.
            Ok(()) | Err(Errno::NOLCK | Errno::OPNOTSUPP) => {}
            Err(Errno::WOULDBLOCK) => return Err(FileError::Locked(target.shown.clone())),
            Err(errno) => return Err(target.error("lock", errno)),
        }
        if is_named(&file, part, target)? {
            return Ok(file);
        }
    }
    Err(FileError::Locked(target.shown.clone()))
}

/// Whether this file is the one that the name stands for.
fn is_named(file: &File, part: &Place, target: &Place) -> Result<bool, FileError> {
    let stat = rustix::fs::fstat(file).map_err(|errno| target.error("look at", errno))?;
    let named = part.stat().map_err(|errno| target.error("look at", errno))?;
    Ok(named.is_some_and(|named| named.st_ino == stat.st_ino && named.st_dev == stat.st_dev))
}
