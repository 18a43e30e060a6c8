//! Folders and files that this peer shares: what is in them, what their bytes hash to, and how to open them safely.
//!
//! [`Shares`] is the one entry point. [`Shares::run`] walks, watches and hashes until it is told to stop; everything
//! else may be called from any thread at any time. Calls that touch the disk ([`Shares::add`], [`Shares::open_file`],
//! [`Shares::outline`]) block: run them on a blocking thread.

mod add;
mod agenda;
mod cache;
mod errors;
mod folder;
mod hash;
mod listing;
mod locate;
mod manifest;
mod offers;
pub mod open;
mod scan;
mod settings;
mod state;
mod status;
mod walk;
mod watching;
mod work;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use haul_core::ids::{BlobId, ShareId};
use haul_core::outline::Outline;
use haul_core::wire::Label;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::partial::Partials;
use agenda::{Agenda, StopOnDrop};
use cache::HashCache;
pub use errors::{AddError, ListError, OpenError, Risk, ShareError, StartError};
pub(crate) use folder::{Folder, Overview};
pub use locate::{FileStamp, LocalFile};
pub(crate) use manifest::Key as ManifestKey;
pub use offers::Download;
use offers::Offer;
pub(crate) use open::Roots;
pub use settings::{NewShare, ShareSettings};
use state::{StateDb, guarded};
pub use status::{ShareState, ShareStatus, Skipped};

/// Everything that this peer shares.
pub struct Shares {
    settings: ShareSettings,
    database: Arc<StateDb>,
    cache: HashCache,
    folders: RwLock<BTreeMap<ShareId, Arc<Folder>>>,
    /// Held while the list of shares changes.
    listing: Mutex<()>,
    offers: RwLock<HashMap<BlobId, Offer>>,
    partials: Arc<Partials>,
    outlines: Mutex<VecDeque<(BlobId, Arc<Outline>)>>,
    agenda: Agenda,
    changed: watch::Sender<u64>,
    /// Wall clock in nanoseconds since 1970, as files are stamped with.
    clock: Box<dyn Fn() -> i64 + Send + Sync>,
}

impl fmt::Debug for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shares").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The file system's own wall clock, nanoseconds since 1970.
fn file_clock() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    open::nanoseconds(now.tv_sec, now.tv_nsec)
}

impl Shares {
    /// Loads the list of shares with their entries as they were last known.
    pub fn open(settings: ShareSettings) -> Result<Arc<Self>, StartError> {
        Self::open_with_clock(settings, Box::new(file_clock))
    }

    /// As [`Self::open`], with another wall clock (nanoseconds since 1970) to compare times of files with.
    pub fn open_with_clock(
        settings: ShareSettings,
        clock: Box<dyn Fn() -> i64 + Send + Sync>,
    ) -> Result<Arc<Self>, StartError> {
        let failed = |path: &Path, reason: String| StartError::State { path: path.to_path_buf(), reason };
        for folder in [&settings.state_dir, &settings.cache_dir] {
            std::fs::create_dir_all(folder).map_err(|error| failed(folder, error.to_string()))?;
        }
        let state_file = settings.state_dir.join("shares.redb");
        let database =
            guarded(|| StateDb::open(&state_file)).map_err(|error| failed(&state_file, error.to_string()))?;
        let cache_file = settings.cache_dir.join("hashes.redb");
        let cache = HashCache::open(&cache_file).map_err(|error| failed(&cache_file, error.to_string()))?;
        let stored = guarded(|| database.load()).map_err(|error| failed(&state_file, error.to_string()))?;
        let database = Arc::new(database);
        let changed = watch::Sender::new(0);
        let mut folders = BTreeMap::new();
        for share in stored {
            let Some(folder) = Folder::stored(share, database.clone(), changed.clone()) else { continue };
            if cache.is_new {
                folder.lock().manifest.doubt_outlined();
            }
            folders.insert(folder.record.id, Arc::new(folder));
        }
        Ok(Arc::new(Self {
            settings,
            database,
            cache,
            folders: RwLock::new(folders),
            listing: Mutex::new(()),
            offers: RwLock::default(),
            partials: Arc::default(),
            outlines: Mutex::default(),
            agenda: Agenda::default(),
            changed,
            clock,
        }))
    }

    /// Walks, watches and hashes until shutdown; returns when its threads have ended.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        self.agenda.stop.store(false, Ordering::Relaxed);
        let shares = self.clone();
        let threads = tokio::task::spawn_blocking(move || work::work(&shares));
        // The threads end however this does: a future that is dropped cannot wait for them.
        let stop = StopOnDrop(&self.agenda);
        shutdown.cancelled().await;
        drop(stop);
        if threads.await.is_err() {
            tracing::error!("a thread that walks or hashes has failed; its last words are above");
        }
    }

    /// Ends a share: it is forgotten here at once, and by the index as soon as it can be told.
    pub fn remove(&self, name: &Label) -> Result<(), ShareError> {
        let _listing = self.listing.lock().expect("no panic while the list changes");
        let folder = self.named(name)?;
        folder.set_removed();
        let removed = folder.between_batches(|_| self.database.remove(folder.record.id));
        self.folders.write().expect("no panic while held").remove(&folder.record.id);
        folder.notify();
        self.agenda.walk_at(folder.record.id, Instant::now());
        removed.map_err(|error| ShareError::Storage(error.to_string()))
    }

    /// All shares by name.
    pub fn list(&self) -> Vec<ShareStatus> {
        let mut list: Vec<ShareStatus> = self.folders().iter().map(|folder| folder.status()).collect();
        list.sort_by(|one, other| one.name.cmp(&other.name));
        list
    }

    /// One share.
    pub fn status(&self, name: &Label) -> Option<ShareStatus> {
        self.named(name).ok().map(|folder| folder.status())
    }

    /// Walks the share again soon. It is also the owner's word that a folder which lost most entries is meant so.
    pub fn rescan(&self, name: &Label) -> Result<(), ShareError> {
        let folder = self.named(name)?;
        folder.lock().accept = true;
        self.agenda.walk_at(folder.record.id, Instant::now());
        Ok(())
    }

    /// Walks the share on the calling thread, without the owner's word of [`Self::rescan`]. Not beside [`Self::run`].
    pub fn scan_now(&self, name: &Label) -> Result<ShareStatus, ShareError> {
        let folder = self.named(name)?;
        scan::scan(&folder, &self.cache, &self.settings, &self.agenda);
        Ok(folder.status())
    }

    /// Hashes on the calling thread until nothing is left that can be hashed now. Not beside [`Self::run`].
    pub fn hash_now(&self) {
        work::hash_all_now(self);
    }

    /// Names of a share that are not shared; at most 1,000 are kept.
    pub fn skipped(&self, name: &Label) -> Vec<Skipped> {
        self.named(name).map(|folder| folder.skipped()).unwrap_or_default()
    }

    /// Blobs on their way here.
    pub(crate) fn partials(&self) -> &Arc<Partials> {
        &self.partials
    }

    /// Counts up whenever a share was added, removed or changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn folders(&self) -> Vec<Arc<Folder>> {
        self.folders.read().expect("no panic while held").values().cloned().collect()
    }

    pub(crate) fn folder(&self, id: ShareId) -> Option<Arc<Folder>> {
        self.folders.read().expect("no panic while held").get(&id).cloned()
    }

    fn named(&self, name: &Label) -> Result<Arc<Folder>, ShareError> {
        let folders = self.folders.read().expect("no panic while held");
        let found = folders.values().find(|folder| folder.record.name == *name);
        found.cloned().ok_or_else(|| ShareError::Unknown(name.clone()))
    }

    /// Shares that the index has to forget.
    pub(crate) fn to_forget(&self) -> Vec<ShareId> {
        self.database.to_forget().unwrap_or_default()
    }

    /// The index has forgotten it.
    pub(crate) fn forgotten(&self, id: ShareId) {
        if let Err(error) = self.database.forgotten(id) {
            tracing::warn!(%error, "cannot note that the index has forgotten a share; it will be told again");
        }
    }

    /// Chooses leaves for comparison; nobody can guess them before.
    fn seed(&self) -> u64 {
        getrandom::u64().unwrap_or_else(|_| (self.clock)() as u64)
    }
}
