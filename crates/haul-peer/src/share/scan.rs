//! Brings a manifest in line with the disk, and recognises a root that is not what it was.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use haul_core::ids::BlobId;
use haul_core::limits;
use rustix::fs::FileType;

use super::agenda::Agenda;
use super::cache::{HashCache, Known};
use super::folder::{Editor, Folder};
use super::manifest::{FileItem, Item, Key, Kind, Trust};
use super::open::file_system_id;
use super::walk::{self, Found, Met, WalkPlan};
use super::{ShareSettings, Skipped};

/// A share that loses more than half of its entries and at least this many at once turns away. Below it, tidying up
/// a small folder would need the owner's word each time.
const LOSS_FLOOR: u64 = 32;
/// Batches that the walk may be ahead of the manifest.
const BATCHES_AHEAD: usize = 64;

/// Walks the share once. Returns early, without removing anything, when told to stop.
pub(crate) fn scan(folder: &Folder, cache: &HashCache, settings: &ShareSettings, agenda: &Agenda) {
    let file_system = match check_root(folder) {
        Ok(file_system) => file_system,
        Err(reason) => return folder.set_away(reason),
    };
    let began = Instant::now();
    let (walk, before) = {
        let mut state = folder.lock();
        state.scanning = true;
        state.walk = state.walk.wrapping_add(1);
        state.clear_skipped();
        state.unreadable.retain(|_, unreadable| unreadable.until > began);
        (state.walk, state.manifest.totals().entries)
    };
    folder.notify();
    let mut scan = Scan { folder, cache, agenda, walk, seen: 0, file_systems: HashMap::new(), root_failed: None };
    if let Some(name) = &folder.record.single {
        scan.apply(vec![single_entry(&folder.record.root, name)]);
    } else {
        scan.walk_folder(settings);
    }
    if agenda.stop.load(Ordering::Relaxed) {
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
    match rustix::fs::lstat(root.join(std::ffi::OsStr::from_bytes(name.as_bytes()))) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
            let file =
                Met { name: name.as_bytes().into(), kind: Kind::File(walk::file_item(&stat)), device: stat.st_dev };
            Found::Entries { directory: Arc::from([]), met: vec![file] }
        }
        Ok(_) => Found::RootFailed("no regular file any more".into()),
        Err(error) => Found::RootFailed(std::io::Error::from(error).to_string()),
    }
}

struct Scan<'a> {
    folder: &'a Folder,
    cache: &'a HashCache,
    agenda: &'a Agenda,
    walk: u32,
    seen: u64,
    file_systems: HashMap<u64, u64>,
    root_failed: Option<String>,
}

impl Scan<'_> {
    fn walk_folder(&mut self, settings: &ShareSettings) {
        let plan = WalkPlan {
            root: &self.folder.record.root,
            excludes: &self.folder.record.excludes,
            private: &settings.private_dirs,
            threads: settings.hash_threads,
        };
        let (sender, receiver) = sync_channel(BATCHES_AHEAD);
        std::thread::scope(|scope| {
            let stop = &self.agenda.stop;
            let walk = move || walk::walk(&plan, stop, &sender);
            match std::thread::Builder::new().spawn_scoped(scope, walk) {
                Ok(_) => self.receive(&receiver),
                Err(error) => self.root_failed = Some(format!("no thread can be had to walk it: {error}")),
            }
        });
    }

    /// Applies what comes, and commits as often as names shall become searchable.
    fn receive(&mut self, receiver: &Receiver<Vec<Found>>) {
        let mut more = true;
        while more {
            let mut batch = Vec::new();
            let mut entries = 0;
            let began = Instant::now();
            while entries < limits::WALK_COMMIT_ENTRIES - 1_000 {
                let left = limits::WALK_COMMIT_INTERVAL.saturating_sub(began.elapsed());
                match receiver.recv_timeout(left.max(Duration::from_millis(1))) {
                    Ok(found) => {
                        entries += found.iter().map(entries_in).sum::<usize>();
                        batch.extend(found);
                    }
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
        for found in batch {
            match found {
                Found::Skip(skipped) => editor.state().skip(skipped),
                Found::RootFailed(reason) => self.root_failed = Some(reason),
                Found::Entries { directory, met } => self.compare(&editor, directory, met, &mut asked),
            }
        }
        self.ask_cache(&editor, asked);
        editor.commit();
        // What has to be hashed can begin while the walk goes on.
        self.agenda.wake();
    }

    /// Entries of one folder: notes those that are as they were, and puts those of which all is known.
    fn compare(
        &mut self,
        editor: &Editor<'_>,
        directory: Arc<[u8]>,
        met: Vec<Met>,
        asked: &mut Vec<(Key, FileItem, u64)>,
    ) {
        self.seen += met.len() as u64;
        let mut state = editor.state();
        let state = &mut *state;
        let (mut changed, mut left_out) = (Vec::new(), Vec::new());
        let mut known = state.manifest.directory_mut(&directory);
        for Met { name, kind, device } in met {
            let key = || Key { directory: directory.clone(), name: name.clone() };
            if !state.unreadable.is_empty()
                && let Kind::File(file) = &kind
                && let Some(unreadable) = state.unreadable.get(&key()).filter(|known| known.stamp == file.stamp)
            {
                left_out.push(skipped(&key(), unreadable.reason.clone()));
                continue;
            }
            let old = known.as_mut().and_then(|names| names.get_mut(&name));
            let settled = settle(old.as_deref(), kind);
            match (settled, old) {
                (Settled::Unchanged, Some(item)) => item.seen_by = self.walk,
                (Settled::Unchanged, None) => {}
                (Settled::Put(kind), _) => changed.push((key(), kind)),
                (Settled::Ask(file), _) => asked.push((key(), file, device)),
            }
        }
        for (key, kind) in changed {
            state.manifest.put(&key, kind, self.walk);
        }
        for skipped in left_out {
            state.skip(skipped);
        }
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
                    // Nothing to ask for again when it is hashed.
                    None => (key, FileItem { trust: Trust::Firm, ..file }),
                    Some(Known::Likely(_)) => (key, FileItem { trust: Trust::Doubtful, ..file }),
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

fn entries_in(found: &Found) -> usize {
    match found {
        Found::Entries { met, .. } => met.len(),
        Found::Skip(_) | Found::RootFailed(_) => 1,
    }
}

enum Settled {
    Unchanged,
    Put(Kind),
    /// A file without a hash that the cache may know.
    Ask(FileItem),
}

/// What the manifest should say about something that the walk met.
fn settle(old: Option<&Item>, met: Kind) -> Settled {
    let Kind::File(met) = met else {
        return match old {
            Some(item) if item.kind == met => Settled::Unchanged,
            _ => Settled::Put(met),
        };
    };
    if met.stamp.size == 0 {
        let file = FileItem { blob: Some(BlobId::empty()), trust: Trust::Firm, ..met };
        return match old {
            Some(item) if item.file() == Some(&file) => Settled::Unchanged,
            _ => Settled::Put(Kind::File(file)),
        };
    }
    let Some(known @ FileItem { blob: Some(_), .. }) = old.and_then(|item| item.file()) else {
        return Settled::Ask(met);
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
        return Settled::Put(Kind::File(FileItem { blob: known.blob, trust: Trust::Doubtful, ..met }));
    }
    Settled::Ask(met)
}

/// The absolute path of an entry.
pub(crate) fn absolute_path(root: &Path, directory: &[u8], name: &[u8]) -> PathBuf {
    let mut path = root.to_path_buf();
    path.extend([directory, name].map(std::ffi::OsStr::from_bytes).iter().filter(|part| !part.is_empty()));
    path
}

/// The absolute path of an entry, as bytes.
pub(crate) fn absolute(root: &Path, key: &Key) -> Vec<u8> {
    super::manifest::join(root.as_os_str().as_bytes(), &key.path())
}

/// For messages about entries.
pub(crate) fn skipped(key: &Key, reason: impl Into<String>) -> Skipped {
    Skipped { path: key.path(), reason: reason.into() }
}
