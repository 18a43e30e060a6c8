//! Opens files below a share's root and nowhere else, whatever happens to the tree meanwhile.
//!
//! `openat2` lets the kernel refuse every symbolic link and every way out. Where it is missing (before Linux 5.6, or
//! filtered by a sandbox), the path is walked one component at a time, each opened from its parent without following.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use haul_core::path::SharePath;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::{FileStamp, OpenError};

/// `openat2` gives up with EAGAIN when a rename anywhere races with it; this often it is worth another try.
const RACE_RETRIES: usize = 16;

/// Opens a folder on the way to something, and never a link.
const STEP: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a file without waiting for whoever writes to a FIFO, and never takes a terminal over.
const TO_READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// How a path is resolved below a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolver {
    /// In one call of the kernel.
    Openat2,
    /// Component by component.
    Components,
}

impl Resolver {
    /// The better one that this kernel allows, found out once.
    pub fn probed() -> Self {
        static PROBED: OnceLock<Resolver> = OnceLock::new();
        *PROBED.get_or_init(|| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            match rustix::fs::openat2(CWD, ".", flags, Mode::empty(), beneath()) {
                Err(Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::TOOBIG) => Self::Components,
                _ => Self::Openat2,
            }
        })
    }
}

fn beneath() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS
}

/// An open folder below which paths are opened.
#[derive(Debug)]
pub struct Root {
    folder: OwnedFd,
    resolver: Resolver,
}

impl Root {
    /// Opens the folder. Its path is the one that links led to when the owner chose it: a link that stands there now
    /// was put there since, and is not followed.
    pub fn open(folder: &Path) -> rustix::io::Result<Self> {
        Self::open_with(folder, Resolver::probed())
    }

    /// Opens the folder to resolve paths in this way.
    pub fn open_with(folder: &Path, resolver: Resolver) -> rustix::io::Result<Self> {
        let folder = match resolver {
            Resolver::Openat2 => {
                let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
                rustix::fs::openat2(CWD, folder, STEP, Mode::empty(), resolve)?
            }
            Resolver::Components => {
                let mut at: Option<OwnedFd> = None;
                for component in folder.components() {
                    let from = at.as_ref().map_or(CWD, AsFd::as_fd);
                    at = Some(rustix::fs::openat(from, component.as_os_str(), STEP, Mode::empty())?);
                }
                at.ok_or(Errno::NOENT)?
            }
        };
        Ok(Self { folder, resolver })
    }

    /// Opens a regular file for reading, and tells what it is now. Never blocks on a FIFO and never follows a link.
    pub fn open_regular(&self, path: &SharePath) -> Result<(File, Stat), OpenError> {
        with_stat(self.open_at(path.as_bytes(), TO_READ, Mode::empty()))
    }

    /// Opens anything below the root without following links; `OFlags::CREATE` is allowed too.
    pub fn open_below(&self, path: &SharePath, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        self.open_at(path.as_bytes(), flags, mode)
    }

    fn open_at(&self, path: &[u8], flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if self.resolver == Resolver::Openat2 {
            let name: &[u8] = if path.is_empty() { b"." } else { path };
            for _ in 0..RACE_RETRIES {
                match rustix::fs::openat2(&self.folder, name, flags, mode, beneath()) {
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    answer => return answer,
                }
            }
        }
        by_components(self.folder.as_fd(), path, flags, mode)
    }
}

/// The roots of a series of files, each opened once for all files in a row that lie below it. It is not kept longer than
/// the series: a folder that takes the root's place meanwhile is seen by the next one.
#[derive(Debug, Default)]
pub struct Roots {
    last: Option<(PathBuf, Below)>,
}

impl Roots {
    /// To open files below this folder.
    pub fn at(&mut self, folder: &Path) -> rustix::io::Result<&mut Below> {
        let (_, below) = match self.last.take().filter(|(path, _)| path.as_os_str() == folder.as_os_str()) {
            Some(last) => self.last.insert(last),
            None => self.last.insert((folder.to_path_buf(), Below::new(Root::open(folder)?))),
        };
        Ok(below)
    }
}

/// Opens a series of files below a root. A folder is opened once for all files in a row that lie in it, but the first.
#[derive(Debug)]
pub struct Below {
    root: Root,
    /// The folder of the last file.
    folder: (Vec<u8>, Option<Root>),
}

impl Below {
    fn new(root: Root) -> Self {
        Self { root, folder: Default::default() }
    }

    /// As [`Root::open_regular`].
    pub fn open_regular(&mut self, path: &SharePath) -> Result<(File, Stat), OpenError> {
        with_stat(self.open_to_read(path))
    }

    /// Opens whatever is there for reading, without a look at it: whoever reads compares its stamp afterwards. Never
    /// blocks on a FIFO and never follows a link.
    pub fn open_to_read(&mut self, path: &SharePath) -> rustix::io::Result<OwnedFd> {
        let (directory, name) = path.split();
        if directory.is_empty() || self.folder.0 != directory {
            self.folder = (directory.to_vec(), None);
            return self.root.open_at(path.as_bytes(), TO_READ, Mode::empty());
        }
        let folder = match self.folder.1.take() {
            Some(folder) => folder,
            None => Root { folder: self.root.open_at(directory, STEP, Mode::empty())?, resolver: self.root.resolver },
        };
        self.folder.1.insert(folder).open_at(name, TO_READ, Mode::empty())
    }
}

fn with_stat(opened: rustix::io::Result<OwnedFd>) -> Result<(File, Stat), OpenError> {
    let file = opened.map_err(open_error)?;
    let stat = rustix::fs::fstat(&file).map_err(open_error)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(OpenError::Gone);
    }
    Ok((File::from(file), stat))
}

fn by_components(folder: BorrowedFd<'_>, path: &[u8], flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
    let (directory, name) = haul_core::path::split(path);
    let mut at: Option<OwnedFd> = None;
    for component in directory.split(|byte| *byte == b'/').filter(|component| !component.is_empty()) {
        let from = at.as_ref().map_or(folder, AsFd::as_fd);
        at = Some(rustix::fs::openat(from, component, STEP, Mode::empty())?);
    }
    let from = at.as_ref().map_or(folder, AsFd::as_fd);
    let name: &[u8] = if name.is_empty() { b"." } else { name };
    rustix::fs::openat(from, name, flags, mode)
}

/// Whether an error says something about this process or machine at the moment, and nothing about the file.
pub(crate) fn is_passing(error: &std::io::Error) -> bool {
    let passing = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::AGAIN, Errno::INTR];
    Errno::from_io_error(error).is_some_and(|error| passing.contains(&error))
}

pub(crate) fn open_error(error: Errno) -> OpenError {
    match error {
        // LOOP: a link stands there. XDEV: the way leads out. NXIO: a socket, or a device without a driver.
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NXIO | Errno::NODEV => OpenError::Gone,
        error => OpenError::Io(error.into()),
    }
}

/// The stamp of an open file.
pub(crate) fn stamp_of(file: impl AsFd) -> rustix::io::Result<FileStamp> {
    rustix::fs::fstat(file).map(|stat| stamp_from(&stat))
}

/// The stamp in a stat.
pub(crate) fn stamp_from(stat: &Stat) -> FileStamp {
    FileStamp {
        inode: stat.st_ino,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec as i64),
        ctime_ns: nanoseconds(stat.st_ctime, stat.st_ctime_nsec as i64),
    }
}

/// Seconds and nanoseconds as nanoseconds since 1970; saturates in the years 1677 and 2262.
pub(crate) fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

/// Stands for all file systems without an id of their own, such as NFS: their device number differs after each mount.
const NO_ID: u64 = 1;

/// The id of the file system that holds a path: stable over mounts where the file system has one of its own. Never 0.
pub(crate) fn file_system_id(path: &Path) -> rustix::io::Result<u64> {
    rustix::fs::statvfs(path).map(|about| own_id(about.f_fsid))
}

/// As [`file_system_id`], of an open file.
pub(crate) fn file_system_of(file: impl AsFd) -> rustix::io::Result<u64> {
    rustix::fs::fstatvfs(file).map(|about| own_id(about.f_fsid))
}

fn own_id(id: u64) -> u64 {
    if id == 0 { NO_ID } else { id }
}

#[cfg(test)]
#[path = "open/tests.rs"]
mod tests;
