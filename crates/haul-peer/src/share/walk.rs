//! Walks a share's folder in parallel and tells what is there: entries, and names that cannot be shared with a reason.
//!
//! Only `.haulignore` files and the share's own exclude patterns hide anything; hidden files are shared. Folders with
//! keys (`.ssh`, `.gnupg`), haul's own state and unfinished downloads are left out. Nothing is opened: FIFOs, devices
//! and sockets are told by their kind, links are entries that nobody follows.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;

use haul_core::limits;
use haul_core::path::{check_name, check_path};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use ignore::{DirEntry, ParallelVisitor, ParallelVisitorBuilder, WalkBuilder, WalkState};

use super::manifest::{FileItem, Key};
use super::manifest::{Kind, Trust};
use super::open::nanoseconds;
use super::{FileStamp, Skipped};
use crate::files::is_part_name;

/// The only ignore file that counts.
pub(crate) const IGNORE_FILE: &str = ".haulignore";
/// Findings that one walking thread collects before it hands them over.
const BATCH: usize = 512;
/// Folders and files with secrets, by name. Naming one as the root of a share shares it.
const SECRET_NAMES: [&[u8]; 8] =
    [b".ssh", b".gnupg", b"id_rsa", b"id_dsa", b"id_ecdsa", b"id_ed25519", b"id_ecdsa_sk", b"id_ed25519_sk"];

/// One thing that the walk met.
#[derive(Debug)]
pub(crate) enum Found {
    /// An entry. Of files the blob is never known here.
    Entry { key: Key, kind: Kind, device: u64 },
    /// Not shared.
    Skip(Skipped),
    /// The root itself cannot be read.
    RootFailed(String),
}

/// What to walk.
#[derive(Clone, Debug)]
pub(crate) struct WalkPlan<'a> {
    pub(crate) root: &'a Path,
    pub(crate) excludes: &'a [String],
    pub(crate) private: &'a [PathBuf],
    pub(crate) threads: usize,
}

/// Checks exclude patterns.
pub(crate) fn exclude_rules(root: &Path, patterns: &[String]) -> Result<Gitignore, ignore::Error> {
    let mut builder = GitignoreBuilder::new(root);
    for pattern in patterns {
        builder.add_line(None, pattern)?;
    }
    builder.build()
}

/// Walks until the end or `stop`. Batches come in no particular order.
pub(crate) fn walk(plan: &WalkPlan<'_>, stop: &AtomicBool, found: &SyncSender<Vec<Found>>) {
    let excludes = exclude_rules(plan.root, plan.excludes).unwrap_or_else(|_| Gitignore::empty());
    let private = plan.private.to_vec();
    let mut builder = WalkBuilder::new(plan.root);
    builder
        .standard_filters(false)
        .follow_links(false)
        .add_custom_ignore_filename(IGNORE_FILE)
        // One level beyond the limit, so that what lies too deep is told.
        .max_depth(Some(limits::PATH_COMPONENTS + 1))
        .threads(plan.threads)
        .filter_entry(move |entry| entry.depth() == 0 || wanted(entry, &excludes, &private));
    let mut visitors = Visitors { plan, stop, found };
    builder.build_parallel().visit(&mut visitors);
}

/// Whether the walk looks at it at all. Secrets pass here as entries to be told as skipped.
fn wanted(entry: &DirEntry, excludes: &Gitignore, private: &[PathBuf]) -> bool {
    let is_folder = entry.file_type().is_some_and(|kind| kind.is_dir());
    if excludes.matched(entry.path(), is_folder).is_ignore() || is_part_name(entry.file_name().as_bytes()) {
        return false;
    }
    !(is_folder && private.iter().any(|folder| folder == entry.path()))
}

struct Visitors<'a> {
    plan: &'a WalkPlan<'a>,
    stop: &'a AtomicBool,
    found: &'a SyncSender<Vec<Found>>,
}

impl<'a> ParallelVisitorBuilder<'a> for Visitors<'a> {
    fn build(&mut self) -> Box<dyn ParallelVisitor + 'a> {
        let is_root = rustix::process::geteuid().is_root();
        Box::new(Visitor { plan: self.plan, stop: self.stop, found: self.found.clone(), batch: Vec::new(), is_root })
    }
}

struct Visitor<'a> {
    plan: &'a WalkPlan<'a>,
    stop: &'a AtomicBool,
    found: SyncSender<Vec<Found>>,
    batch: Vec<Found>,
    is_root: bool,
}

impl ParallelVisitor for Visitor<'_> {
    fn visit(&mut self, entry: Result<DirEntry, ignore::Error>) -> WalkState {
        if self.stop.load(Ordering::Relaxed) {
            return WalkState::Quit;
        }
        let mut next = WalkState::Continue;
        match entry {
            Ok(entry) if entry.depth() == 0 => self.report_rules(&entry),
            Ok(entry) => {
                self.report_rules(&entry);
                let met = self.meet(&entry);
                if matches!(met, Found::Skip(_)) {
                    next = WalkState::Skip;
                }
                self.batch.push(met);
            }
            Err(error) => {
                let met = self.failed(&error);
                self.batch.push(met);
            }
        }
        if self.batch.len() >= BATCH && self.found.send(std::mem::take(&mut self.batch)).is_err() {
            return WalkState::Quit;
        }
        next
    }
}

impl Drop for Visitor<'_> {
    fn drop(&mut self) {
        if !self.batch.is_empty() {
            // The receiver may have stopped; then nobody wants the rest.
            let _ = self.found.send(std::mem::take(&mut self.batch));
        }
    }
}

impl Visitor<'_> {
    fn relative<'p>(&self, path: &'p Path) -> &'p [u8] {
        path.strip_prefix(self.plan.root).unwrap_or(path).as_os_str().as_bytes()
    }

    fn skip(&self, path: &Path, reason: impl Into<String>) -> Found {
        Found::Skip(Skipped { path: self.relative(path).to_vec(), reason: reason.into() })
    }

    fn report_rules(&mut self, entry: &DirEntry) {
        if let Some(error) = entry.error() {
            let met = self.skip(&entry.path().join(IGNORE_FILE), format!("a line cannot be read: {error}"));
            self.batch.push(met);
        }
    }

    fn failed(&self, error: &ignore::Error) -> Found {
        let path = path_of(error).unwrap_or(Path::new(""));
        let reason = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
        if path == self.plan.root { Found::RootFailed(reason) } else { self.skip(path, reason) }
    }

    fn meet(&self, entry: &DirEntry) -> Found {
        let path = entry.path();
        let relative = self.relative(path);
        let (directory, name) = haul_core::path::split(relative);
        if SECRET_NAMES.contains(&name) {
            return self.skip(path, "holds secrets; share it by itself if you mean to");
        }
        if let Err(error) = check_name(name).and(check_path(relative)) {
            return self.skip(path, error.to_string());
        }
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            Err(error) => return self.failed_at(path, &error),
        };
        let mtime_ns = nanoseconds(metadata.mtime(), metadata.mtime_nsec());
        let kind = metadata.file_type();
        let kind = if kind.is_dir() {
            Kind::Directory { mtime_ns }
        } else if kind.is_symlink() {
            match std::fs::read_link(path) {
                Ok(target) => match haul_core::manifest::check_target(target.as_os_str().as_bytes()) {
                    Ok(()) => Kind::Symlink { mtime_ns, target: target.as_os_str().as_bytes().into() },
                    Err(error) => return self.skip(path, format!("the link's target does not fit: {error}")),
                },
                Err(error) => return self.skip(path, error.to_string()),
            }
        } else if kind.is_file() {
            match self.file(path, &metadata) {
                Ok(file) => Kind::File(file),
                Err(reason) => return self.skip(path, reason),
            }
        } else {
            return self.skip(path, special(kind));
        };
        Found::Entry { key: Key::new(directory, name), kind, device: metadata.dev() }
    }

    fn failed_at(&self, path: &Path, error: &ignore::Error) -> Found {
        self.skip(path, error.io_error().map_or_else(|| error.to_string(), ToString::to_string))
    }

    fn file(&self, path: &Path, metadata: &std::fs::Metadata) -> Result<FileItem, String> {
        if metadata.size() > limits::BLOB_BYTES {
            return Err("larger than 8 TiB".into());
        }
        // Files that everybody may read need no question, and most are.
        let readable = self.is_root
            || metadata.mode() & 0o444 == 0o444
            || rustix::fs::accessat(rustix::fs::CWD, path, rustix::fs::Access::READ_OK, rustix::fs::AtFlags::EACCESS)
                .is_ok();
        if readable { Ok(file_item(metadata)) } else { Err("not readable for this user".into()) }
    }
}

/// A file that is not hashed yet.
pub(crate) fn file_item(metadata: &std::fs::Metadata) -> FileItem {
    let stamp = FileStamp {
        inode: metadata.ino(),
        size: metadata.size(),
        mtime_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
        ctime_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
    };
    FileItem { stamp, executable: metadata.mode() & 0o100 != 0, blob: None, trust: Trust::Firm }
}

fn special(kind: std::fs::FileType) -> &'static str {
    if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

fn path_of(error: &ignore::Error) -> Option<&Path> {
    match error {
        ignore::Error::WithPath { path, .. } => Some(path),
        ignore::Error::WithDepth { err, .. } | ignore::Error::WithLineNumber { err, .. } => path_of(err),
        _ => None,
    }
}
