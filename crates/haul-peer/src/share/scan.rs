//! Brings a manifest in line with the disk, and recognises a root that is not what it was.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use haul_core::ids::BlobId;
use haul_core::limits;

use super::cache::{HashCache, Known};
use super::folder::{Editor, Folder};
use super::manifest::{FileItem, Key, Kind, Manifest, Trust};
use super::open::file_system_id;
use super::walk::{self, Found, WalkPlan};
use super::{ShareSettings, Skipped};

/// A share that loses more than half of its entries and at least this many at once turns away. Below it, tidying up
/// a small folder would need the owner's word each time.
const LOSS_FLOOR: u64 = 32;
/// Batches that the walk may be ahead of the manifest.
const BATCHES_AHEAD: usize = 64;

/// Walks the share once. Returns early, without removing anything, when told to stop.
pub(crate) fn scan(folder: &Folder, cache: &HashCache, settings: &ShareSettings, stop: &AtomicBool) {
    let file_system = match check_root(folder) {
        Ok(file_system) => file_system,
        Err(reason) => return folder.set_away(reason),
    };
    let (walk, before) = {
        let mut state = folder.lock();
        state.scanning = true;
        state.walk = state.walk.wrapping_add(1);
        state.clear_skipped();
        (state.walk, state.manifest.totals().entries)
    };
    folder.notify();
    let mut scan = Scan { folder, cache, walk, seen: 0, file_systems: HashMap::new(), root_failed: None };
    if let Some(name) = &folder.record.single {
        scan.apply(vec![single_entry(&folder.record.root, name)]);
    } else {
        scan.walk_folder(settings, stop);
    }
    if stop.load(Ordering::Relaxed) {
        folder.lock().scanning = false;
        return;
    }
    let gone = scan.root_failed.take().or_else(|| match check_root(folder) {
        Ok(now) if now == file_system => None,
        Ok(_) => Some("another file system was mounted there".into()),
        Err(reason) => Some(reason),
    });
    match gone.or_else(|| scan.mass_loss(before)) {
        Some(reason) => folder.set_away(reason),
        None => scan.finish(file_system),
    }
}

/// Whether the root is the one that the share was made of; its file system's id.
fn check_root(folder: &Folder) -> Result<u64, String> {
    let root = &folder.record.root;
    let path = folder.path();
    let metadata = std::fs::symlink_metadata(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let fits = if folder.record.single.is_some() { metadata.is_file() } else { metadata.is_dir() };
    if !fits {
        return Err(format!("{} is not what it was when it was shared", path.display()));
    }
    let file_system = file_system_id(root).map_err(|error| format!("{}: {error}", root.display()))?;
    let state = folder.lock();
    if state.file_system != 0 && state.file_system != file_system && !state.accept {
        return Err(format!("{} is on another file system than before; is a disk missing?", root.display()));
    }
    Ok(file_system)
}

fn single_entry(root: &Path, name: &haul_core::path::SharePath) -> Found {
    use std::os::unix::fs::MetadataExt;
    match std::fs::symlink_metadata(root.join(std::ffi::OsStr::from_bytes(name.as_bytes()))) {
        Ok(metadata) if metadata.is_file() => Found::Entry {
            key: Key::new(&[], name.as_bytes()),
            kind: Kind::File(walk::file_item(&metadata)),
            device: metadata.dev(),
        },
        Ok(_) => Found::RootFailed("no regular file any more".into()),
        Err(error) => Found::RootFailed(error.to_string()),
    }
}

struct Scan<'a> {
    folder: &'a Folder,
    cache: &'a HashCache,
    walk: u32,
    seen: u64,
    file_systems: HashMap<u64, u64>,
    root_failed: Option<String>,
}

impl Scan<'_> {
    fn walk_folder(&mut self, settings: &ShareSettings, stop: &AtomicBool) {
        let plan = WalkPlan {
            root: &self.folder.record.root,
            excludes: &self.folder.record.excludes,
            private: &settings.private_dirs,
            threads: settings.hash_threads,
        };
        let (sender, receiver) = sync_channel(BATCHES_AHEAD);
        std::thread::scope(|scope| {
            scope.spawn(move || walk::walk(&plan, stop, &sender));
            self.receive(&receiver);
        });
    }

    /// Applies what comes, and commits as often as names shall become searchable.
    fn receive(&mut self, receiver: &Receiver<Vec<Found>>) {
        let mut more = true;
        while more {
            let mut batch = Vec::new();
            let began = Instant::now();
            while batch.len() < limits::WALK_COMMIT_ENTRIES - 1_000 {
                let left = limits::WALK_COMMIT_INTERVAL.saturating_sub(began.elapsed());
                match receiver.recv_timeout(left.max(Duration::from_millis(1))) {
                    Ok(found) => batch.extend(found),
                    Err(RecvTimeoutError::Timeout) if batch.is_empty() => {}
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => {
                        more = false;
                        break;
                    }
                }
            }
            if !batch.is_empty() {
                self.apply(batch);
            }
        }
    }

    fn apply(&mut self, batch: Vec<Found>) {
        let editor = self.folder.edit();
        let mut asked: Vec<(Key, FileItem, u64)> = Vec::new();
        for part in batch.chunks(512) {
            let mut state = editor.state();
            for found in part {
                match found {
                    Found::Skip(skipped) => state.skip(skipped.clone()),
                    Found::RootFailed(reason) => self.root_failed = Some(reason.clone()),
                    Found::Entry { key, kind, device } => {
                        self.seen += 1;
                        match settle(&state.manifest, key, kind) {
                            Settled::Unchanged => state.manifest.mark_seen(key, self.walk),
                            Settled::Put(kind) => drop(state.manifest.put(key, kind, self.walk)),
                            Settled::Ask(file) => asked.push((key.clone(), file, *device)),
                        }
                    }
                }
            }
        }
        self.ask_cache(&editor, asked);
        editor.commit();
    }

    /// Files whose stamp is new: the cache may know them, perhaps under another name.
    fn ask_cache(&mut self, editor: &Editor<'_>, asked: Vec<(Key, FileItem, u64)>) {
        if asked.is_empty() {
            return;
        }
        let known = self.cache.view();
        let answered: Vec<(Key, FileItem)> = asked
            .into_iter()
            .map(|(key, file, device)| {
                let path = absolute(&self.folder.record.root, &key);
                let file_system = *self
                    .file_systems
                    .entry(device)
                    .or_insert_with(|| file_system_id(Path::new(std::ffi::OsStr::from_bytes(&path))).unwrap_or(device));
                match known.as_ref().and_then(|known| known.look_up(file_system, &file.stamp, &path)) {
                    Some(Known::Hit(blob)) => (key, FileItem { blob: Some(blob), trust: Trust::Firm, ..file }),
                    Some(Known::Likely(_)) | None => (key, file),
                }
            })
            .collect();
        for part in answered.chunks(512) {
            let mut state = editor.state();
            for (key, file) in part {
                state.manifest.put(key, Kind::File(*file), self.walk);
            }
        }
    }

    fn mass_loss(&self, before: u64) -> Option<String> {
        let lost = before.saturating_sub(self.seen);
        let accepted = self.folder.lock().accept;
        (lost >= LOSS_FLOOR && self.seen < before.div_ceil(2) && !accepted).then(|| {
            let name = &self.folder.record.name;
            format!("{lost} of {before} entries are gone at once; if that is meant so: haul share rescan {name}")
        })
    }

    fn finish(self, file_system: u64) {
        let editor = self.folder.edit();
        let unseen = editor.state().manifest.unseen(self.walk);
        for part in unseen.chunks(512) {
            let mut state = editor.state();
            for key in part {
                state.manifest.remove(key);
            }
        }
        {
            let mut state = editor.state();
            state.scanning = false;
            state.walked = true;
            state.away = None;
            state.accept = false;
            state.file_system = file_system;
        }
        editor.commit();
    }
}

enum Settled {
    Unchanged,
    Put(Kind),
    /// A file without a hash that the cache may know.
    Ask(FileItem),
}

/// What the manifest should say about something that the walk met.
fn settle(manifest: &Manifest, key: &Key, met: &Kind) -> Settled {
    let old = manifest.get_key(key);
    let Kind::File(met) = met else {
        return match old {
            Some(item) if item.kind == *met => Settled::Unchanged,
            _ => Settled::Put(met.clone()),
        };
    };
    if met.stamp.size == 0 {
        let file = FileItem { blob: Some(BlobId::empty()), trust: Trust::Firm, ..*met };
        return match old {
            Some(item) if item.file() == Some(&file) => Settled::Unchanged,
            _ => Settled::Put(Kind::File(file)),
        };
    }
    let Some(known @ FileItem { blob: Some(_), .. }) = old.and_then(|item| item.file()) else {
        return Settled::Ask(*met);
    };
    if known.stamp == met.stamp && known.executable == met.executable {
        return match known.trust {
            Trust::Fresh => Settled::Put(Kind::File(FileItem { trust: Trust::Recheck, ..*known })),
            _ => Settled::Unchanged,
        };
    }
    let same_but_for_ctime = super::FileStamp { ctime_ns: met.stamp.ctime_ns, ..known.stamp } == met.stamp;
    if same_but_for_ctime {
        // A rename, a link or a change of mode: most likely the same content, but not served before a look at it.
        return Settled::Put(Kind::File(FileItem { blob: known.blob, trust: Trust::Doubtful, ..*met }));
    }
    Settled::Ask(*met)
}

/// The absolute path of an entry, as bytes.
pub(crate) fn absolute(root: &Path, key: &Key) -> Vec<u8> {
    super::manifest::join(root.as_os_str().as_bytes(), &key.path())
}

/// For messages about entries.
pub(crate) fn skipped(key: &Key, reason: impl Into<String>) -> Skipped {
    Skipped { path: key.path(), reason: reason.into() }
}
