//! What can go wrong with a file that is received, in words that say what to do.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Why a file could not be received into its place. What was verified so far stays in the part file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The target is there and has other content.
    #[error("{} exists and has other content; choose another name with -o, or replace it with --force", .0.display())]
    Exists(PathBuf),
    /// The target is a folder, device or something else that a file cannot replace.
    #[error("{} exists and is not a regular file; choose another name with -o", .0.display())]
    NotAFile(PathBuf),
    /// Another download writes to the same target.
    #[error("another download is writing to {}; wait for it or choose another name with -o", .0.display())]
    Locked(PathBuf),
    /// The part file is not the one that was written: somebody has removed or replaced it.
    #[error("{} was removed or replaced while it was written; run the same command again", .0.display())]
    Replaced(PathBuf),
    /// Not enough room.
    #[error("no space: {} needs {need} bytes and its disk has {free} free; free some and run the same command again", path.display())]
    NoSpace {
        /// The target.
        path: PathBuf,
        /// Bytes still to write.
        need: u64,
        /// Bytes free.
        free: u64,
    },
    /// The disk, or the user's quota, is full.
    #[error("the disk of {} is full; free some space and run the same command again: it continues where it stopped", .0.display())]
    DiskFull(PathBuf),
    /// The file system cannot be written.
    #[error("{} is on a read-only file system; choose another folder with -o", .0.display())]
    ReadOnly(PathBuf),
    /// Not allowed to write there.
    #[error("no permission to write {}; choose another folder with -o", .0.display())]
    Permission(PathBuf),
    /// The folder is not there.
    #[error("the folder of {} does not exist; create it or choose another with -o", .0.display())]
    NoFolder(PathBuf),
    /// The system refused something else.
    #[error("cannot {what} {}: {error}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

impl FileError {
    /// Sorts a failure of the system.
    pub(crate) fn from_io(what: &'static str, path: &Path, error: io::Error) -> Self {
        let path = path.to_path_buf();
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => Self::DiskFull(path),
            Some(Errno::ROFS) => Self::ReadOnly(path),
            Some(Errno::ACCESS | Errno::PERM) => Self::Permission(path),
            Some(Errno::NOENT | Errno::NOTDIR) => Self::NoFolder(path),
            Some(Errno::ISDIR | Errno::LOOP) => Self::NotAFile(path),
            _ => Self::Io { what, path, error },
        }
    }

    pub(crate) fn from_errno(what: &'static str, path: &Path, error: Errno) -> Self {
        Self::from_io(what, path, error.into())
    }

    /// Whether the disk is the reason (exit code 7), not a name that is taken.
    pub fn is_storage(&self) -> bool {
        !matches!(self, Self::Exists(_) | Self::NotAFile(_) | Self::Locked(_))
    }
}
