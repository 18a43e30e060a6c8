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
use super::finish::{FileTraits, apply, create_small, forget_cached, timestamps};
use super::names::part_names;
use super::place::Place;

const FOLDER_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o777);

/// A write of a download that has just failed may still be under way and hold the lock: it ends within milliseconds.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Folders on the way that stay open. The next file's folder is mostly a brother or a cousin of the last one's, and a
/// download has some two dozen handles at most: a tree of any depth leaves a process room for other files.
const WAY_KEPT: usize = 4;

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
    /// The folder used last, and the nearest of those above it, each with its path: entries come sorted by folder.
    way: Vec<(Vec<u8>, Arc<OwnedFd>)>,
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
        Ok(Self { root: Arc::new(root), place, target, merge: false, new: !there, way: Vec::new() })
    }

    /// An existing folder that files are merged into.
    pub fn existing(target: Place) -> Result<Self, FileError> {
        let root = rustix::fs::openat(&*target.folder, &target.name, FOLDER_FLAGS, Mode::empty())
            .map_err(|errno| target.error("open the folder", errno))?;
        Ok(Self { root: Arc::new(root), place: target.clone(), target, merge: true, new: false, way: Vec::new() })
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
            way: Vec::new(),
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

    /// Brings what is written so far to the disk; blocks until it is there, or has failed. Errors are left to the sync at the end:
    /// the folder is opened anew, which neither takes the error from that one nor keeps the folder locked.
    pub fn write_back(&self) -> impl FnOnce() + Send + 'static {
        let root = rustix::fs::openat(&*self.root, ".", FOLDER_FLAGS, Mode::empty());
        move || {
            let _ = root.and_then(rustix::fs::syncfs);
        }
    }

    /// Makes everything durable and gives the folder its name.
    pub fn finish(self) -> Result<(), FileError> {
        if let Err(errno) = rustix::fs::syncfs(&*self.root) {
            forget_below(&self.root);
            return Err(self.target.error("make durable", errno));
        }
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
        while self.way.last().is_some_and(|(passed, _)| !is_at_or_below(path, passed)) {
            self.way.pop();
        }
        let (mut passed, mut at) = self.way.last().cloned().unwrap_or_else(|| (Vec::new(), Arc::clone(&self.root)));
        let rest = path.get(passed.len()..).unwrap_or_default();
        for component in rest.split(|byte| *byte == b'/').filter(|component| !component.is_empty()) {
            let made = make_folder(&at, OsStr::from_bytes(component));
            at = Arc::new(made.map_err(|errno| FileError::from_errno("create the folder", &self.shown(path), errno))?);
            if !passed.is_empty() {
                passed.push(b'/');
            }
            passed.extend_from_slice(component);
            if self.way.len() == WAY_KEPT {
                self.way.remove(0);
            }
            self.way.push((passed.clone(), Arc::clone(&at)));
        }
        Ok(at)
    }
}

fn is_at_or_below(path: &[u8], folder: &[u8]) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b'/'))
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

/// After a sync that failed, which files are not on the disk is not known: all are read from it when they are compared.
fn forget_below(folder: &OwnedFd) {
    let Ok(entries) = rustix::fs::Dir::read_from(folder) else { return };
    for entry in entries.flatten().filter(|entry| ![c".", c".."].contains(&entry.file_name())) {
        let open = |flags| rustix::fs::openat(folder, entry.file_name(), flags, Mode::empty());
        if let Ok(below) = open(FOLDER_FLAGS) {
            forget_below(&below);
        } else if let Ok(file) = open(OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC) {
            forget_cached(file);
        }
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

    proptest::proptest! {
        #[test]
        fn whatever_path_is_accepted_lies_below(bytes in proptest::collection::vec(
            proptest::sample::select(b"a./\\:\0\n~".as_slice()), 0..12,
        )) {
            let base = tempfile::tempdir().unwrap();
            let root = base.path().join("x/y/got");
            std::fs::create_dir_all(&root).unwrap();
            if let Ok(path) = SharePath::new(bytes.clone()) {
                let mut tree = Tree::existing(Place::of(&root).unwrap()).unwrap();
                let created = tree.create_file(&path, b"x", FileTraits::default());
                proptest::prop_assert!(created.is_ok() != path.is_root(), "{:?}", created);
                proptest::prop_assert!(path.is_root() || root.join(OsStr::from_bytes(&bytes)).is_file());
            }
            for folder in ["", "x", "x/y"] {
                let names = std::fs::read_dir(base.path().join(folder)).unwrap().count();
                proptest::prop_assert_eq!(names, 1, "outside");
            }
        }
    }

    #[test]
    fn links_swapped_in_while_files_are_created_never_lead_outside() {
        swap_while_creating(2_000);
    }

    #[test]
    #[ignore = "long: cargo xtask nightly"]
    fn links_swapped_in_for_long_never_lead_outside() {
        swap_while_creating(200_000);
    }

    /// The folder `a` and a link to a folder of the same shape change places all the time, while files are created,
    /// replaced and looked for below `a`.
    fn swap_while_creating(rounds: usize) {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use std::sync::atomic::{AtomicBool, Ordering};
        let base = tempfile::tempdir().unwrap();
        let (root, outside) = (base.path().join("got"), base.path().join("outside"));
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::create_dir_all(outside.join("b")).unwrap();
        std::fs::write(outside.join("b/file"), "mine").unwrap();
        std::os::unix::fs::symlink(&outside, root.join("evil")).unwrap();
        let (stop, path) = (AtomicBool::new(false), SharePath::new(*b"a/b/file").unwrap());
        let (mut created, mut found, mut read) = (0, 0, Vec::new());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (a, evil) = (root.join("a"), root.join("evil"));
                while !stop.load(Ordering::Relaxed) {
                    renameat_with(CWD, &a, CWD, &evil, RenameFlags::EXCHANGE).unwrap();
                }
            });
            for _ in 0..rounds {
                // Opened anew, as it remembers the folder used last.
                let mut tree = Tree::existing(Place::of(&root).unwrap()).unwrap();
                created += usize::from(tree.create_file(&path, b"theirs", FileTraits::default()).is_ok());
                if let Some(Ok(mut file)) = tree.find(&path).map(|place| place.open_to_read()) {
                    found += 1;
                    read.clear();
                    if std::io::Read::read_to_end(&mut file, &mut read).is_err() || read != b"theirs" {
                        break;
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!((read, std::fs::read(outside.join("b/file")).unwrap()), (b"theirs".to_vec(), b"mine".to_vec()));
        let names = |folder: &Path| std::fs::read_dir(folder).unwrap().count();
        assert_eq!((names(&outside), names(&outside.join("b"))), (1, 1), "nothing is created outside");
        assert!(created > 0 && created < rounds && found > 0, "the race has to go both ways: {created} {found}");
    }

    #[test]
    fn files_in_any_order_land_where_their_paths_say() {
        let base = tempfile::tempdir().unwrap();
        let mut tree = Tree::part_of(Place::of(&base.path().join("got")).unwrap()).unwrap();
        let deep = "d/".repeat(WAY_KEPT + 2);
        let folders =
            ["a/b/c/", "a/", "a/bb/", "", "a/b/", "ab/", "a/b/c/", &deep, "d/", &deep, "a/b-/c/", "ab/a/b/", "d/d/"];
        for (number, folder) in folders.iter().enumerate() {
            let path = format!("{folder}{number}");
            let bytes = path.as_bytes();
            tree.create_file(&SharePath::new(bytes).unwrap(), bytes, FileTraits::default()).unwrap();
            assert_eq!(std::fs::read(base.path().join(".got.haul-part").join(&path)).unwrap(), bytes);
            assert!(tree.way.len() <= WAY_KEPT);
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
