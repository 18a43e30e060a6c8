//! Asks the kernel to tell when something below a share changes. Walks remain the floor: a watch only makes them sooner.
//!
//! inotify watches single folders, so every folder of a share gets a watch of its own, from the list that the walk has
//! made. Only changes are asked for: hashing and serving open every file, and being told of that would cost more than
//! opening it. What a watch tells is only which share to walk, so it does not matter where a folder has moved to.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread::JoinHandle;

use haul_core::ids::ShareId;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::Shares;
use super::folder::Folder;
use super::manifest::Kind;
use super::scan::absolute_path;

/// Folders that are watched in all; each costs the kernel about a kilobyte and a share of a limit per user.
const WATCHED_FOLDERS: usize = 16 * 1024;
/// Bytes of events that are read at once; one with the longest name takes 272.
const EVENT_BYTES: usize = 16 * 1024;

/// The watches of all shares; dropped, they end.
pub(crate) struct Watching {
    watcher: Option<Watcher>,
    /// The watches of each share; none where the kernel has refused them.
    held: BTreeMap<ShareId, HashSet<i32>>,
}

struct Watcher {
    inotify: Arc<OwnedFd>,
    meaning: Arc<Mutex<Meaning>>,
    /// Readable once the listener has to end.
    end: Arc<OwnedFd>,
    listener: Option<JoinHandle<()>>,
}

/// What an event of a watch means.
#[derive(Default)]
struct Meaning {
    /// Shares may overlap, and then have watches in common.
    shares: HashMap<i32, Vec<ShareId>>,
    /// Folders came, went or moved in these, or were not all watched when they were walked.
    unsettled: BTreeSet<ShareId>,
}

impl Watching {
    pub(crate) fn new(shares: &Arc<Shares>) -> Self {
        let watcher = shares.settings.watch.then(|| Watcher::new(Arc::downgrade(shares)));
        let told = |error: &Errno| tracing::warn!(%error, "cannot watch for changes; folders are walked regularly");
        Self { watcher: watcher.and_then(|watcher| watcher.inspect_err(told).ok()), held: BTreeMap::new() }
    }

    /// Whether folders of a share came or went since the last call. Asked before a walk begins: what the walk may miss
    /// is for the next one.
    pub(crate) fn take_unsettled(&self, id: ShareId) -> bool {
        self.watcher.as_ref().is_some_and(|watcher| watcher.lock().unsettled.remove(&id))
    }

    /// Watches the folders of a share that has been walked, and was unsettled or not before the walk. True if some were
    /// not watched before: what changed in them between the walk and now has to be found by another walk.
    pub(crate) fn begin(&mut self, folder: &Folder, was_unsettled: bool) -> bool {
        let id = folder.record.id;
        let Some(watcher) = &self.watcher else { return false };
        if folder.lock().away.is_some() {
            self.end(id);
            return false;
        }
        if self.held.contains_key(&id) && !was_unsettled {
            return false;
        }
        let folders = folders_of(folder);
        let others: usize = self.held.iter().filter(|(other, _)| **other != id).map(|(_, held)| held.len()).sum();
        if others + folders.len() > WATCHED_FOLDERS {
            self.end(id);
            return false;
        }
        let before = self.held.remove(&id).unwrap_or_default();
        let now = watcher.watch(&folders).unwrap_or_else(|error| {
            // A part that is watched would tell half the truth at the full price.
            tracing::info!(share = %folder.record.name, reason = in_words(error), "not watched; it is walked regularly");
            HashSet::new()
        });
        let more = now.difference(&before).next().is_some();
        watcher.assign(id, &before, &now, more);
        self.held.insert(id, now);
        more
    }

    /// Watches a share no longer.
    pub(crate) fn end(&mut self, id: ShareId) {
        if let (Some(watcher), Some(held)) = (&self.watcher, self.held.remove(&id)) {
            watcher.assign(id, &held, &HashSet::new(), false);
        }
    }
}

fn in_words(error: Errno) -> String {
    match error {
        Errno::NOSPC => "this user has as many watches as the kernel allows (fs.inotify.max_user_watches)".to_owned(),
        error => std::io::Error::from(error).to_string(),
    }
}

/// The root and all folders below it; of a share of one file the folder that holds it.
fn folders_of(folder: &Folder) -> Vec<PathBuf> {
    let root = &folder.record.root;
    let mut folders = vec![root.clone()];
    if folder.record.single.is_none() {
        let state = folder.lock();
        let below = state.manifest.iter().filter(|(_, _, item)| matches!(item.kind, Kind::Directory { .. }));
        folders.extend(below.map(|(directory, name, _)| absolute_path(root, directory, name)));
    }
    folders
}

impl Watcher {
    fn new(shares: Weak<Shares>) -> Result<Self, Errno> {
        let inotify = Arc::new(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?);
        let end = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let meaning = Arc::<Mutex<Meaning>>::default();
        let listener = {
            let (inotify, end, meaning) = (inotify.clone(), end.clone(), meaning.clone());
            let listen = move || {
                if let Err(error) = listen(&shares, &meaning, &inotify, &end) {
                    tracing::warn!(%error, "changes are not told any more; folders are walked regularly");
                }
            };
            std::thread::Builder::new().name("haul-watch".into()).spawn(listen).map_err(|_| Errno::AGAIN)?
        };
        Ok(Self { inotify, meaning, end, listener: Some(listener) })
    }

    fn lock(&self) -> MutexGuard<'_, Meaning> {
        self.meaning.lock().expect("no panic while held")
    }

    /// Watches these folders. One that is watched already keeps its watch.
    fn watch(&self, folders: &[PathBuf]) -> Result<HashSet<i32>, Errno> {
        let changes = WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        let flags = changes | WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW | WatchFlags::EXCL_UNLINK;
        let mut watches = HashSet::with_capacity(folders.len());
        for folder in folders {
            match inotify::add_watch(&self.inotify, folder, flags) {
                Ok(watch) => drop(watches.insert(watch)),
                // Gone since the walk, which the folder above tells; or nothing in it can be meaning.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => {}
                Err(error) => {
                    self.forget(watches.iter().copied().filter(|watch| !self.lock().shares.contains_key(watch)));
                    return Err(error);
                }
            }
        }
        Ok(watches)
    }

    fn forget(&self, watches: impl Iterator<Item = i32>) {
        for watch in watches {
            // The folder may be gone, and its watch with it.
            let _ = inotify::remove_watch(&self.inotify, watch);
        }
    }

    /// The share has these watches instead of those before.
    fn assign(&self, id: ShareId, before: &HashSet<i32>, watches: &HashSet<i32>, unsettled: bool) {
        let mut meaning = self.lock();
        for watch in watches.difference(before) {
            meaning.shares.entry(*watch).or_default().push(id);
        }
        let mut unused = Vec::new();
        for watch in before.difference(watches) {
            if let Some(shares) = meaning.shares.get_mut(watch) {
                shares.retain(|share| *share != id);
                if shares.is_empty() {
                    meaning.shares.remove(watch);
                    unused.push(*watch);
                }
            }
        }
        if unsettled {
            meaning.unsettled.insert(id);
        }
        drop(meaning);
        self.forget(unused.into_iter());
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.end, &1u64.to_ne_bytes());
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

/// Tells the agenda which shares changed, until the end.
fn listen(shares: &Weak<Shares>, meaning: &Mutex<Meaning>, inotify: &OwnedFd, end: &OwnedFd) -> Result<(), Errno> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); EVENT_BYTES];
    let mut events = Reader::new(inotify, &mut buffer);
    loop {
        let mut ready = [PollFd::new(end, PollFlags::IN), PollFd::new(inotify, PollFlags::IN)];
        match poll(&mut ready, None) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        let [end, _] = ready;
        let ended = !end.revents().is_empty();
        let Some(shares) = shares.upgrade().filter(|_| !ended) else { return Ok(()) };
        let mut changed = BTreeSet::new();
        loop {
            match events.next() {
                Ok(event) => hear(&mut meaning.lock().expect("no panic while held"), &event, &mut changed),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
            if events.is_buffer_empty() {
                break;
            }
        }
        for id in changed {
            shares.agenda.changed(id);
        }
    }
}

fn hear(meaning: &mut Meaning, event: &inotify::Event<'_>, changed: &mut BTreeSet<ShareId>) {
    let what = event.events();
    if what.contains(ReadFlags::QUEUE_OVERFLOW) {
        // Anything may have happened anywhere.
        let all: BTreeSet<ShareId> = meaning.shares.values().flatten().copied().collect();
        meaning.unsettled.extend(&all);
        changed.extend(all);
        return;
    }
    // Writes to downloads that are not finished change nothing that is meaning.
    if event.file_name().is_some_and(|name| crate::files::is_part_name(name.to_bytes())) {
        return;
    }
    let ids = meaning.shares.get(&event.wd()).cloned().unwrap_or_default();
    let of_folders = ReadFlags::ISDIR | ReadFlags::IGNORED | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF;
    if what.intersects(of_folders) {
        meaning.unsettled.extend(&ids);
    }
    if what.contains(ReadFlags::IGNORED) {
        // The kernel has removed the watch, and may give its number to no other.
        meaning.shares.remove(&event.wd());
    }
    changed.extend(ids);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::share::{NewShare, ShareSettings, scan};

    #[test]
    fn a_folder_made_while_a_walk_misses_it_is_watched_after_the_next() {
        let home = tempfile::tempdir().unwrap();
        let shares = Shares::open(ShareSettings::new(home.path().join("state"), home.path().join("cache"))).unwrap();
        let data = home.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let id = shares.add(NewShare::new(&data)).unwrap().id;
        let folder = shares.folder(id).unwrap();
        let mut watching = Watching::new(&shares);
        let mut walk = |meanwhile: &dyn Fn(&Watching)| {
            let was_unsettled = watching.take_unsettled(id);
            scan::scan(&folder, &shares.cache, &shares.settings, &shares.agenda);
            meanwhile(&watching);
            watching.begin(&folder, was_unsettled)
        };
        assert!(walk(&|_| {}), "the root is watched");
        walk(&|watching| {
            std::fs::create_dir(data.join("missed")).unwrap();
            // As the event tells; it may come as well, now or later.
            watching.watcher.as_ref().unwrap().lock().unsettled.insert(id);
        });
        assert!(walk(&|_| {}), "the folder is watched");
    }
}
