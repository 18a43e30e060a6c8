//! A folder that is being filled: every step goes down from its root by names that are never links.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use haul_core::path::SharePath;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::error::FileError;
use super::finish::{FileTraits, apply, create_small, timestamps};
use super::names::part_names;
use super::place::Place;

const FOLDER_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o777);

/// A write of a download that has just failed may still be under way and hold the lock: it ends within milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The folder, held open.
#[derive(Debug)]
pub struct Tree {
    root: Arc<OwnedFd>,
    place: Place,
    target: Place,
    /// Whether the tree is the target itself, into which files are merged one by one.
    merge: bool,
    /// Nothing is in it yet that it did not create itself.
    new: bool,
    /// The folder used last: entries come sorted by folder.
    last: Option<(Vec<u8>, Arc<OwnedFd>)>,
}

impl Tree {
    /// The part folder of a target, created or continued. The target must not exist.
    pub fn part_of(target: Place) -> Result<Self, FileError> {
        if target.stat().map_err(|errno| target.error("look at", errno))?.is_some() {
            return Err(FileError::Exists(target.shown.clone()));
        }
        let place = target.beside(&part_names(&target.name).part);
        let there = place.stat().map_err(|errno| target.error("look at", errno))?.is_some();
        let root = make_folder(&place.folder, &place.name).map_err(|errno| place.error("create the folder", errno))?;
        lock(&root, &target)?;
        Ok(Self { root: Arc::new(root), place, target, merge: false, new: !there, last: None })
    }

    /// An existing folder that files are merged into.
    pub fn existing(target: Place) -> Result<Self, FileError> {
        let root = rustix::fs::openat(&*target.folder, &target.name, FOLDER_FLAGS, Mode::empty())
            .map_err(|errno| target.error("open the folder", errno))?;
        Ok(Self { root: Arc::new(root), place: target.clone(), target, merge: true, new: false, last: None })
    }

    /// Another handle on the same folder, for another thread.
    #[must_use]
    pub fn handle(&self) -> Self {
        Self {
            root: Arc::clone(&self.root),
            place: self.place.clone(),
            target: self.target.clone(),
            merge: self.merge,
            new: self.new,
            last: None,
        }
    }

    /// Whether it was not there before: nothing of it is complete.
    pub fn is_new(&self) -> bool {
        self.new
    }

    /// Whether something stands at the target.
    pub fn target_exists(target: &Place) -> Result<bool, FileError> {
        Ok(target.stat().map_err(|errno| target.error("look at", errno))?.is_some())
    }

    /// The place of a file below the root. Its folders are created as needed.
    pub fn place(&mut self, path: &SharePath) -> Result<Place, FileError> {
        let (folder, name) = path.split();
        let opened = self.folder(folder)?;
        Ok(Place::in_folder(opened, OsStr::from_bytes(name), self.shown(path.as_bytes())))
    }

    /// The place of a file below the root if its folder is there; nothing is created.
    pub fn find(&self, path: &SharePath) -> Option<Place> {
        let (folder, name) = path.split();
        let mut at = Arc::clone(&self.root);
        for component in folder.split(|byte| *byte == b'/').filter(|component| !component.is_empty()) {
            at = Arc::new(rustix::fs::openat(&*at, OsStr::from_bytes(component), FOLDER_FLAGS, Mode::empty()).ok()?);
        }
        Some(Place::in_folder(at, OsStr::from_bytes(name), self.shown(path.as_bytes())))
    }

    /// Creates a folder and those above it.
    pub fn create_folder(&mut self, path: &SharePath) -> Result<(), FileError> {
        self.folder(path.as_bytes()).map(drop)
    }

    /// Writes a file whose bytes are verified. What stood there before is replaced: in a part folder it was incomplete,
    /// and merging was asked for.
    pub fn create_file(&mut self, path: &SharePath, bytes: &[u8], traits: FileTraits) -> Result<(), FileError> {
        let place = self.place(path)?;
        if self.merge {
            return create_small(&place, bytes, traits, true, false);
        }
        // The whole folder gets its name at the end, so a file in it needs no name of its own before.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mut file: File = match place.open(flags) {
            Err(Errno::EXIST) => {
                place.remove().map_err(|errno| place.error("replace", errno))?;
                place.open(flags)
            }
            other => other,
        }
        .map_err(|errno| place.error("create", errno))?;
        file.write_all(bytes).map_err(|error| FileError::from_io("write", place.path(), error))?;
        apply(&file, traits, &place)
    }

    /// Creates a symbolic link; what stands there already stays, unless it is another link.
    pub fn create_link(&mut self, path: &SharePath, target: &[u8], mtime_ns: i64) -> Result<(), FileError> {
        let place = self.place(path)?;
        let target = OsStr::from_bytes(target);
        match rustix::fs::symlinkat(target, &*place.folder, &place.name) {
            Ok(()) => {}
            Err(Errno::EXIST) => match rustix::fs::readlinkat(&*place.folder, &place.name, Vec::new()) {
                Ok(found) if found.as_bytes() == target.as_bytes() => return Ok(()),
                Ok(_) => {
                    place.remove().map_err(|errno| place.error("replace", errno))?;
                    rustix::fs::symlinkat(target, &*place.folder, &place.name)
                        .map_err(|errno| place.error("create the link", errno))?;
                }
                Err(_) => return Err(FileError::Exists(place.shown)),
            },
            Err(errno) => return Err(place.error("create the link", errno)),
        }
        let times = timestamps(mtime_ns);
        let _ = rustix::fs::utimensat(&*place.folder, &place.name, &times, AtFlags::SYMLINK_NOFOLLOW);
        Ok(())
    }

    /// Whether this link stands there.
    pub fn has_link(&self, path: &SharePath, target: &[u8]) -> bool {
        let found = self.find(path).map(|place| rustix::fs::readlinkat(&*place.folder, &place.name, Vec::new()));
        matches!(found, Some(Ok(found)) if found.as_bytes() == target)
    }

    /// Whether a folder stands there.
    pub fn has_folder(&self, path: &SharePath) -> bool {
        self.find(path)
            .is_some_and(|place| rustix::fs::openat(&*place.folder, &place.name, FOLDER_FLAGS, Mode::empty()).is_ok())
    }

    /// Sets a folder's time of last modification, once nothing in it changes any more.
    pub fn set_folder_time(&mut self, path: &SharePath, mtime_ns: i64) {
        if let Ok(folder) = self.folder(path.as_bytes()) {
            // Not worth failing for.
            let _ = rustix::fs::futimens(&*folder, &timestamps(mtime_ns));
        }
    }

    /// Makes everything durable and gives the folder its name.
    pub fn finish(self) -> Result<(), FileError> {
        rustix::fs::syncfs(&*self.root).map_err(|errno| self.target.error("make durable", errno))?;
        if self.merge {
            return Ok(());
        }
        self.place.rename_to(&self.target, false)?;
        self.target.sync_folder()
    }

    /// Bytes free on its disk.
    pub fn free_bytes(&self) -> Result<u64, FileError> {
        let disk = rustix::fs::fstatvfs(&*self.root);
        let disk = disk.map_err(|errno| self.target.error("look at the disk of", errno))?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// The target's path, for messages.
    pub fn target(&self) -> &Path {
        &self.target.shown
    }

    fn shown(&self, path: &[u8]) -> PathBuf {
        self.place.shown.join(OsStr::from_bytes(path))
    }

    fn folder(&mut self, path: &[u8]) -> Result<Arc<OwnedFd>, FileError> {
        if path.is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        if let Some((last, folder)) = &self.last
            && last == path
        {
            return Ok(Arc::clone(folder));
        }
        let mut at = Arc::clone(&self.root);
        for component in path.split(|byte| *byte == b'/') {
            let made = make_folder(&at, OsStr::from_bytes(component));
            at = Arc::new(made.map_err(|errno| FileError::from_errno("create the folder", &self.shown(path), errno))?);
        }
        self.last = Some((path.to_vec(), Arc::clone(&at)));
        Ok(at)
    }
}

fn make_folder(folder: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    match rustix::fs::openat(folder, name, FOLDER_FLAGS, Mode::empty()) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    match rustix::fs::mkdirat(folder, name, FOLDER_MODE) {
        Ok(()) | Err(Errno::EXIST) => rustix::fs::openat(folder, name, FOLDER_FLAGS, Mode::empty()),
        Err(errno) => Err(errno),
    }
}

/// Blocks for up to [`LOCK_PATIENCE`].
fn lock(root: &OwnedFd, target: &Place) -> Result<(), FileError> {
    let began = Instant::now();
    loop {
        match rustix::fs::flock(root, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) | Err(Errno::NOLCK | Errno::OPNOTSUPP) => return Ok(()),
            Err(Errno::WOULDBLOCK) if began.elapsed() < LOCK_PATIENCE => std::thread::sleep(LOCK_PAUSE),
            Err(Errno::WOULDBLOCK) => return Err(FileError::Locked(target.shown.clone())),
            Err(errno) => return Err(target.error("lock", errno)),
        }
    }
}

/// Whether a link at `path`, relative to a folder, can only lead to places inside of that folder.
///
/// `..` counts only at the front: behind a name it would start from wherever that name leads, were it a link.
pub fn link_stays_inside(path: &SharePath, target: &[u8]) -> bool {
    if target.is_empty() || target.starts_with(b"/") {
        return false;
    }
    let depth = path.components().count().saturating_sub(1);
    let mut ups = 0;
    let mut descended = false;
    for component in target.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." if descended => return false,
            b".." => ups += 1,
            _ => descended = true,
        }
    }
    ups <= depth
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn links_that_could_lead_outside_are_recognised() {
        let inside =
            |path: &str, target: &str| link_stays_inside(&SharePath::new(path.as_bytes()).unwrap(), target.as_bytes());
        for (path, target) in [("a", "b"), ("a/b", "../c"), ("a/b/c", "../../d/e"), ("a", "./b/c"), ("a/b", "..")] {
            assert!(inside(path, target), "{path} -> {target}");
        }
        for (path, target) in [
            ("a", ".."),
            ("a", "/etc/passwd"),
            ("a/b", "../../c"),
            ("a", "b/../../c"),
            ("a", "b/../c"),
            ("a/b", ".././../c"),
            ("a", ""),
        ] {
            assert!(!inside(path, target), "{path} -> {target}");
        }
    }

    #[test]
    fn a_folder_that_is_a_link_is_not_entered() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let mut tree = Tree::part_of(Place::of(&folder.path().join("got")).unwrap()).unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join(".got.haul-part/evil")).unwrap();
        let path = SharePath::new(*b"evil/file").unwrap();
        assert!(tree.create_file(&path, b"x", FileTraits::default()).is_err());
        // The last component may not be a link either.
        std::os::unix::fs::symlink(outside.path().join("f"), folder.path().join(".got.haul-part/f")).unwrap();
        tree.create_file(&SharePath::new(*b"f").unwrap(), b"x", FileTraits::default()).unwrap();
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(matches!(Tree::part_of(Place::of(&folder.path().join("got")).unwrap()), Err(FileError::Locked(_))));
    }
}
