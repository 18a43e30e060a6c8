//! Walks a share's folder in parallel and tells what is there: entries, and names that cannot be shared with a reason.
//!
//! Only `.haulignore` files and the share's own exclude patterns hide anything; hidden files are shared. Folders with
//! keys (`.ssh`, `.gnupg`), haul's own state and unfinished downloads are left out. Only folders are opened, below the
//! root and never through a link: FIFOs, devices and sockets are told by their kind, links are entries that nobody
//! follows.
//!
//! A folder is a piece of work: one thread reads it as a whole and looks at its entries relative to it, which spares
//! the kernel the way from the root for each of them.

mod rules;

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex};

use haul_core::limits;
use haul_core::path::{SharePath, check_name, check_path};
use ignore::gitignore::Gitignore;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, Stat};
use rustix::io::Errno;
use rustix::process::Uid;

use super::Skipped;
use super::manifest::{FileItem, Kind, Trust, join};
use super::open::{Root, is_passing, nanoseconds, stamp_from};
use crate::files::is_part_name;
use rules::Rules;
pub(crate) use rules::{IGNORE_FILE, exclude_rules};

/// Entries that one walking thread collects before it hands them over.
const BATCH: usize = 512;
/// Bytes of directory entries that the kernel is asked for at once: some hundred names.
const LISTING_BYTES: usize = 32 * 1024;
/// Folders and files with secrets, by name. Naming one as the root of a share shares it.
const SECRET_NAMES: [&[u8]; 8] =
    [b".ssh", b".gnupg", b"id_rsa", b"id_dsa", b"id_ecdsa", b"id_ed25519", b"id_ecdsa_sk", b"id_ed25519_sk"];

/// What the walk met.
#[derive(Debug)]
pub(crate) enum Found {
    /// Entries of one folder; not more than [`BATCH`].
    Entries { directory: Arc<[u8]>, met: Vec<Met> },
    /// Not shared.
    Skip(Skipped),
    /// The root itself cannot be read, or nothing can be opened for now.
    RootFailed(String),
}

/// One entry. Of files the blob is never known here.
#[derive(Debug)]
pub(crate) struct Met {
    pub(crate) name: Arc<[u8]>,
    pub(crate) kind: Kind,
    pub(crate) device: u64,
}

/// Folders that no share holds unless it begins there. They are told by what they are: a way to them through links or
/// mounts has other names. Those that are made during the walk are told by their place.
struct Private {
    ids: Vec<(u64, u64)>,
    places: Vec<PathBuf>,
}

impl Private {
    fn new(folders: &[PathBuf]) -> Self {
        let id = |folder: &PathBuf| rustix::fs::stat(folder).ok().map(|stat| (stat.st_dev, stat.st_ino));
        Self {
            ids: folders.iter().filter_map(id).collect(),
            places: folders.iter().map(|path| place_of(path)).collect(),
        }
    }

    fn holds(&self, open: &Open, name: &[u8], stat: &Stat) -> bool {
        self.ids.contains(&(stat.st_dev, stat.st_ino))
            || self.places.iter().any(|place| {
                place.file_name().is_some_and(|own| own.as_bytes() == name)
                    && place.parent() == Some(open.absolute.as_path())
            })
    }
}

/// A path without links, as far as it leads to something.
fn place_of(path: &Path) -> PathBuf {
    match (std::fs::canonicalize(path), path.parent(), path.file_name()) {
        (Ok(place), ..) => place,
        (Err(_), Some(parent), Some(name)) => place_of(parent).join(name),
        _ => path.to_path_buf(),
    }
}

/// What to walk.
#[derive(Clone, Debug)]
pub(crate) struct WalkPlan<'a> {
    pub(crate) root: &'a Path,
    pub(crate) excludes: &'a [String],
    pub(crate) private: &'a [PathBuf],
    pub(crate) threads: usize,
}

/// Walks until the end or `stop`. Batches come in no particular order.
pub(crate) fn walk(plan: &WalkPlan<'_>, stop: &AtomicBool, found: &SyncSender<Vec<Found>>) {
    let root = match Root::open(plan.root) {
        Ok(root) => root,
        // The receiver may have stopped; then nobody wants to know.
        Err(error) => return drop(found.send(vec![Found::RootFailed(root_in_words(error))])),
    };
    let excludes = exclude_rules(plan.root, plan.excludes).unwrap_or_else(|_| Gitignore::empty());
    let private = Private::new(plan.private);
    let ahead = Ahead::new(Folder { path: Arc::from([]), rules: None });
    let walker = || {
        let user = rustix::process::geteuid();
        let mut walker = Walker {
            plan,
            root: &root,
            excludes: &excludes,
            private: &private,
            ahead: &ahead,
            found,
            batch: Batch::default(),
            buffer: Vec::new(),
            user,
        };
        walker.run(stop);
    };
    std::thread::scope(|scope| {
        for _ in 1..plan.threads.max(1) {
            // Where no more threads can be had at the moment, fewer walk.
            if std::thread::Builder::new().spawn_scoped(scope, walker).is_err() {
                break;
            }
        }
        walker();
    });
}

/// A folder to look into.
struct Folder {
    /// Below the root.
    path: Arc<[u8]>,
    /// Of the ignore files above it.
    rules: Option<Arc<Rules>>,
}

/// Folders that nobody has looked into yet.
struct Ahead {
    list: Mutex<(Vec<Folder>, usize)>,
    more: Condvar,
}

impl Ahead {
    fn new(first: Folder) -> Self {
        Self { list: Mutex::new((vec![first], 0)), more: Condvar::new() }
    }

    /// The next folder; waits while others may still find some. None at the end.
    fn next(&self) -> Option<Folder> {
        let mut list = self.list.lock().expect("no panic while held");
        loop {
            if let Some(folder) = list.0.pop() {
                list.1 += 1;
                return Some(folder);
            }
            if list.1 == 0 {
                return None;
            }
            list = self.more.wait(list).expect("no panic while held");
        }
    }

    /// One folder has been looked into, and holds these.
    fn done(&self, found: Vec<Folder>) {
        let mut list = self.list.lock().expect("no panic while held");
        list.0.extend(found);
        list.1 -= 1;
        drop(list);
        self.more.notify_all();
    }
}

/// What one thread has found and not handed over.
#[derive(Default)]
struct Batch {
    found: Vec<Found>,
    entries: usize,
}

struct Walker<'a> {
    plan: &'a WalkPlan<'a>,
    root: &'a Root,
    excludes: &'a Gitignore,
    private: &'a Private,
    ahead: &'a Ahead,
    found: &'a SyncSender<Vec<Found>>,
    batch: Batch,
    /// For the kernel to write directory entries to; stays empty.
    buffer: Vec<u8>,
    user: Uid,
}

/// A folder that is being looked into.
struct Open {
    folder: OwnedFd,
    directory: Arc<[u8]>,
    /// Components of `directory`.
    depth: usize,
    /// From the root of the file system, as patterns ask for it.
    absolute: PathBuf,
    rules: Option<Arc<Rules>>,
}

/// A name in a folder, and what it names if the file system tells that at once.
type Named = (Arc<[u8]>, FileType);

/// Why a folder is not looked into.
struct Unread {
    reason: String,
    /// Nothing is wrong with the folder.
    is_passing: bool,
}

impl From<String> for Unread {
    fn from(reason: String) -> Self {
        Self { reason, is_passing: false }
    }
}

impl From<Errno> for Unread {
    fn from(error: Errno) -> Self {
        Self { reason: in_words(error), is_passing: is_passing(&error.into()) }
    }
}

/// Nobody wants to know more.
struct Enough;

impl Walker<'_> {
    fn run(&mut self, stop: &AtomicBool) {
        let mut wanted = true;
        // Told to stop, it goes on taking folders, so that the others come to an end too.
        while let Some(folder) = self.ahead.next() {
            let mut below = Vec::new();
            wanted = wanted && !stop.load(Ordering::Relaxed) && self.look_into(folder, &mut below).is_ok();
            self.ahead.done(if wanted { below } else { Vec::new() });
        }
        if wanted {
            let _ = self.hand_over();
        }
    }

    fn hand_over(&mut self) -> Result<(), Enough> {
        let batch = std::mem::take(&mut self.batch);
        if batch.found.is_empty() { Ok(()) } else { self.found.send(batch.found).map_err(|_| Enough) }
    }

    fn tell(&mut self, found: Found) -> Result<(), Enough> {
        self.batch.entries += match &found {
            Found::Entries { met, .. } => met.len(),
            Found::Skip(_) | Found::RootFailed(_) => 1,
        };
        self.batch.found.push(found);
        if self.batch.entries < BATCH { Ok(()) } else { self.hand_over() }
    }

    fn look_into(&mut self, folder: Folder, below: &mut Vec<Folder>) -> Result<(), Enough> {
        let opened = self.open(&folder).and_then(|(open, names)| Ok((with_own_rules(open, &names)?, names)));
        let ((open, unread), names) = match opened {
            Ok(opened) => opened,
            // What cannot be opened for now is still shared: such a walk takes nothing out.
            Err(unread) if unread.is_passing || folder.path.is_empty() => {
                return self.tell(Found::RootFailed(unread.reason));
            }
            Err(unread) => return self.tell(skip(&folder.path, unread.reason)),
        };
        if let Some(error) = unread {
            let path = join(&open.directory, IGNORE_FILE.as_bytes());
            self.tell(skip(&path, format!("a line cannot be read: {error}")))?;
        }
        let mut met = Vec::new();
        for (name, kind) in names {
            if !self.is_wanted(&open, &name, kind) {
                continue;
            }
            match self.meet(&open, &name) {
                Ok(None) => {}
                Ok(Some((kind, device))) => {
                    if matches!(kind, Kind::Directory { .. }) {
                        below.push(Folder { path: join(&open.directory, &name).into(), rules: open.rules.clone() });
                    }
                    met.push(Met { name, kind, device });
                }
                Err(reason) => self.tell(skip(&join(&open.directory, &name), reason))?,
            }
            if met.len() == BATCH {
                self.tell(Found::Entries { directory: open.directory.clone(), met: std::mem::take(&mut met) })?;
            }
        }
        if met.is_empty() { Ok(()) } else { self.tell(Found::Entries { directory: open.directory, met }) }
    }

    /// The open folder and the names in it, with their kinds if the file system tells them.
    fn open(&mut self, folder: &Folder) -> Result<(Open, Vec<Named>), Unread> {
        let path = SharePath::new(folder.path.to_vec()).map_err(|error| error.to_string())?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
        let opened = self.root.open_below(&path, flags, Mode::empty())?;
        let mut names = Vec::new();
        self.buffer.reserve(LISTING_BYTES);
        let mut listing = RawDir::new(&opened, self.buffer.spare_capacity_mut());
        while let Some(entry) = listing.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push((Arc::from(name), entry.file_type()));
            }
        }
        let absolute = self.plan.root.join(std::ffi::OsStr::from_bytes(&folder.path));
        let depth = folder.path.split(|byte| *byte == b'/').filter(|component| !component.is_empty()).count();
        let (directory, rules) = (folder.path.clone(), folder.rules.clone());
        Ok((Open { folder: opened, directory, depth, absolute, rules }, names))
    }

    /// Whether the walk looks at it at all. Secrets pass here as entries to be told as skipped.
    fn is_wanted(&self, open: &Open, name: &[u8], kind: FileType) -> bool {
        if is_part_name(name) {
            return false;
        }
        if open.rules.is_none() && self.excludes.is_empty() {
            return true;
        }
        let kind = match kind {
            FileType::Unknown => stat(open, name).map_or(kind, |stat| FileType::from_raw_mode(stat.st_mode)),
            known => known,
        };
        let is_folder = kind == FileType::Directory;
        let path = open.absolute.join(std::ffi::OsStr::from_bytes(name));
        let hidden = open.rules.as_ref().is_some_and(|rules| rules.hide(&path, is_folder))
            || self.excludes.matched(&path, is_folder).is_ignore();
        !hidden
    }

    /// The entry with the device that it is on, or why it is not shared. None for what is private.
    fn meet(&self, open: &Open, name: &[u8]) -> Result<Option<(Kind, u64)>, String> {
        if SECRET_NAMES.contains(&name) {
            return Err("holds secrets; share it by itself if you mean to".into());
        }
        check_name(name).map_err(|error| error.to_string())?;
        // The folder's own path is a checked one.
        if open.depth >= limits::PATH_COMPONENTS || open.directory.len() + 1 + name.len() > limits::PATH_BYTES {
            check_path(&join(&open.directory, name)).map_err(|error| error.to_string())?;
        }
        let stat = stat(open, name).map_err(in_words)?;
        let mtime_ns = nanoseconds(stat.st_mtime, stat.st_mtime_nsec as i64);
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File(self.file(open, name, &stat)?),
            FileType::Directory if self.private.holds(open, name, &stat) => return Ok(None),
            FileType::Directory => Kind::Directory { mtime_ns },
            FileType::Symlink => Kind::Symlink { mtime_ns, target: target(open, name)? },
            FileType::Fifo => return Err("a FIFO".into()),
            FileType::Socket => return Err("a socket".into()),
            _ => return Err("a device".into()),
        };
        Ok(Some((kind, stat.st_dev)))
    }

    fn file(&self, open: &Open, name: &[u8], stat: &Stat) -> Result<FileItem, String> {
        let file = file_item(stat);
        if file.stamp.size > limits::BLOB_BYTES {
            return Err("larger than 8 TiB".into());
        }
        // Files that everybody may read need no question, nor do our own that we may read; most are either.
        let is_own = stat.st_uid == self.user.as_raw();
        let readable = self.user.is_root()
            || stat.st_mode & 0o444 == 0o444
            || is_own && stat.st_mode & 0o400 != 0
            || rustix::fs::accessat(&open.folder, name, rustix::fs::Access::READ_OK, AtFlags::EACCESS).is_ok();
        if readable { Ok(file) } else { Err("not readable for this user".into()) }
    }
}

/// Takes the folder's own ignore file into account; also why some of its lines do not count.
fn with_own_rules(mut open: Open, names: &[Named]) -> Result<(Open, Option<ignore::Error>), Unread> {
    if !names.iter().any(|(name, _)| name.as_ref() == IGNORE_FILE.as_bytes()) {
        return Ok((open, None));
    }
    let (rules, unread) = Rules::read(&open.folder, &open.absolute, open.rules.take())?;
    open.rules = Some(Arc::new(rules));
    Ok((open, unread))
}

fn stat(open: &Open, name: &[u8]) -> rustix::io::Result<Stat> {
    rustix::fs::statat(&open.folder, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn target(open: &Open, name: &[u8]) -> Result<Box<[u8]>, String> {
    let target = rustix::fs::readlinkat(&open.folder, name, Vec::new()).map_err(in_words)?;
    haul_core::manifest::check_target(target.to_bytes())
        .map_err(|error| format!("the link's target does not fit: {error}"))?;
    Ok(target.to_bytes().into())
}

/// A file that is not hashed yet.
pub(crate) fn file_item(stat: &Stat) -> FileItem {
    FileItem { stamp: stamp_from(stat), executable: stat.st_mode & 0o100 != 0, blob: None, trust: Trust::Firm }
}

fn skip(path: &[u8], reason: impl Into<String>) -> Found {
    Found::Skip(Skipped { path: path.to_vec(), reason: reason.into() })
}

fn root_in_words(error: Errno) -> String {
    match error {
        Errno::LOOP | Errno::NOTDIR => "its path leads through a link now; share the folder again where it is".into(),
        error => in_words(error),
    }
}

fn in_words(error: Errno) -> String {
    std::io::Error::from(error).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_says_nothing_about_a_folder() {
        assert!(Unread::from(Errno::MFILE).is_passing && Unread::from(Errno::NOMEM).is_passing);
        assert!(!Unread::from(Errno::ACCESS).is_passing && !Unread::from(Errno::IO).is_passing);
    }
}
