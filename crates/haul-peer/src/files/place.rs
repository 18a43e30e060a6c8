//! A place for a file: a folder that is held open, and a name in it. Whatever happens to the path meanwhile, all steps
//! of a download happen in the same folder.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::error::FileError;

/// Mode of new files before the process's mask.
const FILE_MODE: Mode = Mode::from_raw_mode(0o666);

/// Where a file goes.
#[derive(Clone, Debug)]
pub struct Place {
    pub(super) folder: Arc<OwnedFd>,
    pub(super) name: OsString,
    /// For messages.
    pub(super) shown: PathBuf,
}

impl Place {
    /// The place of this path, whose folder must exist. A path without a name (`/`, `..`) is no place for a file.
    pub fn of(path: &Path) -> Result<Self, FileError> {
        let Some(name) = path.file_name() else { return Err(FileError::NotAFile(path.to_path_buf())) };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let opened = rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| FileError::from_errno("open the folder of", path, errno))?;
        Ok(Self { folder: Arc::new(opened), name: name.to_os_string(), shown: path.to_path_buf() })
    }

    pub(super) fn in_folder(folder: Arc<OwnedFd>, name: &OsStr, shown: PathBuf) -> Self {
        Self { folder, name: name.to_os_string(), shown }
    }

    /// The same folder, another name.
    pub(super) fn beside(&self, name: &OsStr) -> Self {
        Self { folder: Arc::clone(&self.folder), name: name.to_os_string(), shown: self.shown.with_file_name(name) }
    }

    /// The path, for messages.
    pub fn path(&self) -> &Path {
        &self.shown
    }

    pub(super) fn error(&self, what: &'static str, errno: Errno) -> FileError {
        FileError::from_errno(what, &self.shown, errno)
    }

    /// Opens without following a link at the name.
    pub(super) fn open(&self, flags: OFlags) -> Result<File, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::openat(&*self.folder, &self.name, flags, FILE_MODE).map(File::from)
    }

    /// Opens the regular file there for reading.
    pub fn open_to_read(&self) -> std::io::Result<File> {
        Ok(self.open(OFlags::RDONLY)?)
    }

    /// What the name stands for; none for nothing.
    pub(super) fn stat(&self) -> Result<Option<Stat>, Errno> {
        match rustix::fs::statat(&*self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    pub(super) fn remove(&self) -> Result<(), Errno> {
        match rustix::fs::unlinkat(&*self.folder, &self.name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    /// Gives what is at this place the name of `target`, in the same folder. Without `force` nothing is replaced.
    pub(super) fn rename_to(&self, target: &Self, force: bool) -> Result<(), FileError> {
        if force {
            return rustix::fs::renameat(&*self.folder, &self.name, &*target.folder, &target.name)
                .map_err(|errno| target.error("rename the part file to", errno));
        }
        let renamed =
            rustix::fs::renameat_with(&*self.folder, &self.name, &*target.folder, &target.name, RenameFlags::NOREPLACE);
        match renamed {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => Err(FileError::Exists(target.shown.clone())),
            // A file system that cannot rename so; a link never replaces either. Folders cannot be linked.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => self.link_to(target),
            Err(errno) => Err(target.error("rename the part file to", errno)),
        }
    }

    fn link_to(&self, target: &Self) -> Result<(), FileError> {
        match rustix::fs::linkat(&*self.folder, &self.name, &*target.folder, &target.name, AtFlags::empty()) {
            Ok(()) => self.remove().map_err(|errno| self.error("remove", errno)),
            Err(Errno::EXIST) => Err(FileError::Exists(target.shown.clone())),
            Err(errno) => Err(target.error("link the part file to", errno)),
        }
    }

    /// Makes the names in the folder durable.
    pub(super) fn sync_folder(&self) -> Result<(), FileError> {
        match rustix::fs::fsync(&*self.folder) {
            // Some network file systems cannot; the data itself is safe.
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(errno) => Err(self.error("make durable the folder of", errno)),
        }
    }
}

pub(super) fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}
