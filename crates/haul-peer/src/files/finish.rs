//! The last step of a download: attributes and the final name; and what stands at that name before.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use haul_core::ids::BlobId;
use haul_core::limits::LEAF_BYTES;
use rustix::fs::{Advice, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::error::FileError;
use super::names::part_names;
use super::place::{Place, is_regular};

/// Nanosecond field that leaves a time as it is.
const OMIT: i64 = rustix::fs::UTIME_OMIT;

/// What a received file carries besides its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileTraits {
    /// Whoever may read it may execute it.
    pub executable: bool,
    /// Time of last modification, nanoseconds since 1970; none leaves the present.
    pub mtime_ns: Option<i64>,
}

/// What stands at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Nothing.
    Nothing,
    /// A regular file with this content.
    Same,
    /// A regular file with other content.
    Other,
    /// Something that is not a regular file.
    NotAFile,
}

/// Compares what stands at a place with a blob of this size. Reads the file only if the size is the same.
pub fn existing(place: &Place, blob: &BlobId, size: u64) -> Result<Existing, FileError> {
    let Some(stat) = place.stat().map_err(|errno| place.error("look at", errno))? else {
        return Ok(Existing::Nothing);
    };
    if !is_regular(&stat) {
        return Ok(Existing::NotAFile);
    }
    if u64::try_from(stat.st_size) != Ok(size) {
        return Ok(Existing::Other);
    }
    let mut file = match place.open(OFlags::RDONLY) {
        Ok(file) => file,
        Err(Errno::ACCESS | Errno::LOOP) => return Ok(Existing::Other),
        Err(errno) => return Err(place.error("read", errno)),
    };
    let same = hash_file(&mut file).map_err(|error| FileError::from_io("read", place.path(), error))? == *blob;
    Ok(if same { Existing::Same } else { Existing::Other })
}

fn hash_file(file: &mut File) -> std::io::Result<BlobId> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 4 * LEAF_BYTES as usize];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(BlobId::new(*hasher.finalize().as_bytes())),
            count => hasher.update(buffer.get(..count).unwrap_or_default()),
        };
    }
}

/// Writes a small file whose bytes are verified: under another name first, then at its place. Without `durable` the
/// caller makes it so later, together with others.
pub fn create_small(
    place: &Place,
    bytes: &[u8],
    traits: FileTraits,
    force: bool,
    durable: bool,
) -> Result<(), FileError> {
    let part = place.beside(&part_names(&place.name).part);
    let opened = part.open(OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC);
    let mut file = opened.map_err(|errno| place.error("create", errno))?;
    let failed_sync = |error| FileError::from_io("make durable", place.path(), error);
    let written = file
        .write_all(bytes)
        .map_err(|error| FileError::from_io("write", place.path(), error))
        .and_then(|()| apply(&file, traits, place))
        .and_then(|()| if durable { file.sync_all() } else { Ok(()) }.map_err(failed_sync))
        .and_then(|()| part.rename_to(place, force));
    if let Err(error) = written {
        // Bytes of one leaf are not worth keeping; the failure that matters is the one before.
        let _ = part.remove();
        return Err(error);
    }
    if durable { place.sync_folder() } else { Ok(()) }
}

/// After a sync that failed: whoever reads the file again reads the disk, and not pages that never reached it.
pub(super) fn forget_cached(file: impl AsFd) {
    // Advice: where it is not taken, reading again proves less than it could.
    let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
}

/// Sets mode and time.
pub(super) fn apply(file: &File, traits: FileTraits, place: &Place) -> Result<(), FileError> {
    if traits.executable {
        let stat = rustix::fs::fstat(file).map_err(|errno| place.error("look at", errno))?;
        let mode = stat.st_mode & 0o777;
        // Whoever may read may execute: the process's mask has cut the reading already.
        let mode = Mode::from_raw_mode(mode | (mode & 0o444) >> 2);
        rustix::fs::fchmod(file, mode).map_err(|errno| place.error("make executable", errno))?;
    }
    if let Some(mtime_ns) = traits.mtime_ns {
        // A time that the file system cannot hold is no reason to lose the file.
        let _ = rustix::fs::futimens(file, &timestamps(mtime_ns));
    }
    Ok(())
}

pub(super) fn timestamps(mtime_ns: i64) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: OMIT },
        last_modification: Timespec {
            tv_sec: mtime_ns.div_euclid(1_000_000_000),
            tv_nsec: mtime_ns.rem_euclid(1_000_000_000),
        },
    }
}
