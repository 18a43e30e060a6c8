//! Asks the kernel to tell when something below a share changes. Walks remain the floor: a watch only makes them sooner.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use haul_core::ids::ShareId;
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::Shares;
use super::folder::Folder;

/// Folders that are watched in all; each costs the kernel about a kilobyte and a share of a limit per user.
const WATCHED_FOLDERS: u64 = 16 * 1024;

type Roots = Arc<Mutex<BTreeMap<ShareId, PathBuf>>>;

/// The watches of all shares; dropped, they end.
pub(crate) struct Watching {
    watcher: Option<RecommendedWatcher>,
    roots: Roots,
    folders: BTreeMap<ShareId, u64>,
}

impl Watching {
    pub(crate) fn new(shares: &Arc<Shares>) -> Self {
        let roots = Roots::default();
        let mut watcher = None;
        if shares.settings.watch {
            let (weak, roots) = (Arc::downgrade(shares), roots.clone());
            watcher = notify::recommended_watcher(move |event| hear(&weak, &roots, event))
                .inspect_err(|error| tracing::warn!(%error, "cannot watch for changes; folders are walked regularly"))
                .ok();
        }
        Self { watcher, roots, folders: BTreeMap::new() }
    }

    /// Watches a share that has been walked. True if that is new.
    pub(crate) fn begin(&mut self, folder: &Folder) -> bool {
        let id = folder.record.id;
        let Some(watcher) = &mut self.watcher else { return false };
        let (count, away) = {
            let state = folder.lock();
            (state.manifest.totals().directories + 1, state.away.is_some())
        };
        if away {
            self.end(id);
            return false;
        }
        let sum: u64 = self.folders.values().sum();
        if self.folders.contains_key(&id) || sum + count > WATCHED_FOLDERS {
            return false;
        }
        let mode = if folder.record.single.is_some() { RecursiveMode::NonRecursive } else { RecursiveMode::Recursive };
        match watcher.watch(&folder.record.root, mode) {
            Ok(()) => {
                self.folders.insert(id, count);
                self.roots.lock().expect("no panic while held").insert(id, folder.record.root.clone());
                true
            }
            Err(error) => {
                tracing::info!(share = %folder.record.name, %error, "not watched; it is walked regularly");
                // A part may be watched already; it would tell half the truth at the full price.
                let _ = watcher.unwatch(&folder.record.root);
                self.folders.insert(id, 0);
                false
            }
        }
    }

    /// Watches a share no longer.
    pub(crate) fn end(&mut self, id: ShareId) {
        self.folders.remove(&id);
        let root = self.roots.lock().expect("no panic while held").remove(&id);
        if let (Some(watcher), Some(root)) = (&mut self.watcher, root) {
            // Its folder may be gone, and its watches with it.
            let _ = watcher.unwatch(&root);
        }
    }
}

fn hear(shares: &Weak<Shares>, roots: &Roots, event: notify::Result<notify::Event>) {
    let Some(shares) = shares.upgrade() else { return };
    let roots = roots.lock().expect("no panic while held");
    let lost = match &event {
        Ok(event) if event.need_rescan() => true,
        Ok(event) => {
            let matters = match event.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
                EventKind::Access(_) => false,
                _ => true,
            };
            if !matters || event.paths.iter().all(|path| is_own(path)) {
                return;
            }
            false
        }
        Err(_) => true,
    };
    let paths = event.map(|event| event.paths).unwrap_or_default();
    for (id, root) in roots.iter() {
        if lost || paths.iter().any(|path| path.starts_with(root)) {
            shares.agenda.changed(*id);
        }
    }
}

/// Writes to downloads that are not finished change nothing that is shared.
fn is_own(path: &Path) -> bool {
    path.file_name().is_some_and(|name| crate::files::is_part_name(name.as_bytes()))
}
