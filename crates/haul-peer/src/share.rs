//! Folders and files that this peer shares: what is in them, what their bytes hash to, and how to open them safely.
//!
//! [`Shares`] is the one entry point. [`Shares::run`] walks, watches and hashes until it is told to stop; everything
//! else may be called from any thread at any time. Calls that touch the disk ([`Shares::add`], [`Shares::open_file`],
//! [`Shares::outline`]) block: run them on a blocking thread.

mod add;
mod cache;
mod folder;
mod hash;
mod listing;
mod manifest;
pub mod open;
mod scan;
mod state;
mod walk;
mod watching;
mod work;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use haul_core::ids::{BlobId, DirectoryId, ShareId};
use haul_core::outline::Outline;
use haul_core::path::SharePath;
use haul_core::wire::Label;
use haul_core::wire::index::Listing;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::partial::{Partials, visible};
use crate::swarm::SwarmSeat;
use cache::HashCache;
pub(crate) use folder::{Folder, Overview};
pub(crate) use manifest::Key as ManifestKey;
use manifest::{FileItem, Key, Kind, Trust};
pub(crate) use open::Roots;
use open::{Root, stamp_from, stamp_of};
use state::{StateDb, guarded};
use work::{Agenda, StopOnDrop};

/// Where the shares keep their state, and how eagerly they look for changes.
#[derive(Clone, Debug)]
pub struct ShareSettings {
    /// Folder of `shares.redb`: the list of shares and their entries. Losing it costs a registration in full.
    pub state_dir: PathBuf,
    /// Folder of `hashes.redb`: hashes and outlines of files. Losing it costs hashing again.
    pub cache_dir: PathBuf,
    /// Folders that are never shared from above: haul's own state. Sharing one of them needs `sure`.
    pub private_dirs: Vec<PathBuf>,
    /// The owner's home folder: sharing it as a whole needs `sure`.
    pub home: Option<PathBuf>,
    /// Time between walks of a share that nothing is known to have changed in.
    pub rescan_every: Duration,
    /// Whether to watch for changes, as far as the kernel's watches reach.
    pub watch: bool,
    /// Threads that hash.
    pub hash_threads: usize,
}

impl ShareSettings {
    /// Settings with these folders and the defaults for the rest.
    pub fn new(state_dir: impl Into<PathBuf>, cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            cache_dir: cache_dir.into(),
            private_dirs: Vec::new(),
            home: None,
            rescan_every: Duration::from_mins(10),
            watch: true,
            hash_threads: std::thread::available_parallelism().map_or(1, usize::from).min(8),
        }
    }
}

/// A folder or file to share.
#[derive(Clone, Debug)]
pub struct NewShare {
    /// The folder or file.
    pub path: PathBuf,
    /// Its name; none takes the folder's own.
    pub name: Option<Label>,
    /// Groups that see it; empty means everyone.
    pub groups: Vec<Label>,
    /// Patterns in the form of a `.haulignore` line.
    pub excludes: Vec<String>,
    /// The owner has confirmed a root that is risky to share.
    pub sure: bool,
}

impl NewShare {
    /// Shares this folder or file with everyone under its own name.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), name: None, groups: Vec::new(), excludes: Vec::new(), sure: false }
    }
}

/// Why a root is risky to share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Risk {
    /// It is `/`.
    Everything,
    /// It is a home folder, or holds one.
    Home,
    /// It lies in haul's own state, or holds nothing else.
    Private,
}

/// Why a share was not added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// Ask the owner, then add again with `sure`.
    #[error("{} {}; confirm it to share it all the same", path.display(), match risk {
        Risk::Everything => "is the whole machine",
        Risk::Home => "is a home folder with everything in it",
        Risk::Private => "holds haul's own keys and state",
    })]
    NeedsConfirmation {
        /// The folder.
        path: PathBuf,
        /// What is risky.
        risk: Risk,
    },
    /// Another folder has the name already.
    #[error("the name {name} already stands for {}; give this share another name", path.display())]
    NameTaken {
        /// The name.
        name: Label,
        /// What it stands for.
        path: PathBuf,
    },
    /// Neither a folder nor a regular file.
    #[error("{} is neither a folder nor a regular file", .0.display())]
    NotShareable(PathBuf),
    /// A pattern that does not parse.
    #[error("cannot read the exclude pattern: {0}")]
    BadPattern(String),
    /// [`haul_core::limits::SHARES_PER_PEER`] are there.
    #[error("this peer has {} shares already; remove one first", haul_core::limits::SHARES_PER_PEER)]
    TooMany,
    /// The path cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Unreadable {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The list of shares cannot be written.
    #[error("cannot keep the list of shares: {0}")]
    Storage(String),
}

/// There is no share of this name, or its record cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// No such share.
    #[error("there is no share named {0}; see `haul share ls`")]
    Unknown(Label),
    /// The list of shares cannot be written.
    #[error("cannot keep the list of shares: {0}")]
    Storage(String),
}

/// Why the shares cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state's database cannot be opened.
    #[error("cannot open {}: {reason}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Why a file cannot be opened for serving.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not there any more, or cannot be reached below its root.
    #[error("the file is gone")]
    Gone,
    /// It is not the file that was hashed.
    #[error("the file has changed since it was hashed")]
    Changed,
    /// Reading failed.
    #[error("cannot read the file: {0}")]
    Io(std::io::Error),
}

/// Why there is no listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// No such share or directory, or the share is away.
    #[error("no such directory here")]
    NotFound,
    /// A cursor that this peer did not make.
    #[error("not a cursor of this listing")]
    BadCursor,
}

/// What a share is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareState {
    /// Its folder is being walked.
    Scanning,
    /// Some files are not hashed yet.
    Hashing,
    /// All hashed; the index has not confirmed the latest changes.
    Registering,
    /// All hashed and durable at the index.
    Ready,
    /// Its folder cannot be reached, is another one, or lost more than half its entries at once.
    Away,
}

impl ShareState {
    /// The word of the JSON contract, which counts registering as the end of hashing.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scanning => "scanning",
            Self::Hashing | Self::Registering => "hashing",
            Self::Ready => "ready",
            Self::Away => "away",
        }
    }
}

/// A share as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShareStatus {
    /// Its id.
    pub id: ShareId,
    /// Its name.
    pub name: Label,
    /// Folder or file on this machine.
    pub path: PathBuf,
    /// Groups that see it; empty means everyone.
    pub groups: Vec<Label>,
    /// Regular files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files whose hash is known.
    pub hashed: u64,
    /// Names that cannot be shared; see [`Shares::skipped`].
    pub skipped: u64,
    /// Files that the index has durably.
    pub registered: u64,
    /// What it is doing.
    pub state: ShareState,
    /// Why it is away or not kept up to date, in words.
    pub reason: Option<String>,
}

/// A name that is not shared, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Path below the share's root, as bytes of the file system.
    pub path: Vec<u8>,
    /// In words.
    pub reason: String,
}

/// Identifies the state of a file on disk: if it is the same before and after reading, so is the content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileStamp {
    /// Inode number.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Last modification, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Last change of content or attributes, nanoseconds since 1970. Cannot be set by programs.
    pub ctime_ns: i64,
}

/// A file of this machine that holds a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFile {
    /// The blob.
    pub blob: BlobId,
    /// Its share; none for a finished download that is served from its place.
    pub share: Option<ShareId>,
    /// Groups that may see it; empty means everyone.
    pub groups: Vec<Label>,
    /// Folder below which it is opened.
    pub root: PathBuf,
    /// Path below the root.
    pub path: SharePath,
    /// Whether its owner may execute it.
    pub executable: bool,
    /// What it was when it was hashed.
    pub stamp: FileStamp,
}

impl LocalFile {
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.stamp.size
    }

    /// Opens it as one of a series, if it is still what was hashed.
    pub(crate) fn open(&self, roots: &mut Roots) -> Result<File, OpenError> {
        let root = roots.at(&self.root).map_err(|_| OpenError::Gone)?;
        let (opened, stat) = root.open_regular(&self.path)?;
        if stamp_from(&stat) == self.stamp { Ok(opened) } else { Err(OpenError::Changed) }
    }
}

/// Outlines kept in memory: those of the files that are being served.
const OUTLINES_KEPT: usize = 32;

/// A finished download, served from its place.
#[derive(Debug)]
struct Offer {
    file: LocalFile,
    outline: Arc<Outline>,
    /// Who may have it; none keeps it for this machine.
    groups: Option<Vec<Label>>,
    /// Kept for as long as it is served.
    seat: Option<Box<dyn SwarmSeat>>,
}

impl Offer {
    /// With a place in the swarm, the index decides anew in each session who may have it.
    fn is_for(&self, groups: &[Label]) -> bool {
        let told = self.seat.as_ref().map(|seat| seat.groups());
        let shared_with = told.unwrap_or_else(|| self.groups.clone());
        shared_with.is_some_and(|shared_with| visible(&shared_with, groups))
    }
}

/// A finished download to serve on.
#[derive(Debug)]
pub struct Download {
    /// What it is.
    pub blob: BlobId,
    /// Its outline; empty for a blob of one leaf.
    pub outline: Outline,
    /// Who may have it, as the index says: no groups mean everyone. Without its word the file is for this machine only.
    pub groups: Option<Vec<Label>>,
    /// Its place in the swarm, if it has one.
    pub seat: Option<Box<dyn SwarmSeat>>,
}

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

    /// A file here with this content, for this machine's own use: a finished download, or one in a share that everyone
    /// sees.
    pub fn locate(&self, blob: &BlobId) -> Option<LocalFile> {
        let downloaded = || self.offers.read().expect("no panic while held").get(blob).map(|offer| offer.file.clone());
        self.locate_for(blob, &[]).or_else(downloaded)
    }

    /// A file here with this content that a member of these groups may have.
    pub fn locate_for(&self, blob: &BlobId, groups: &[Label]) -> Option<LocalFile> {
        let shared = self.folders().into_iter().find_map(|folder| {
            if !visible(&folder.record.groups, groups) {
                return None;
            }
            let state = folder.lock();
            if state.away.is_some() || state.removed {
                return None;
            }
            let (key, file) = state.manifest.find_blob(blob)?;
            local_file(&folder, &key, file, *blob)
        });
        shared.or_else(|| {
            let offers = self.offers.read().expect("no panic while held");
            let offer = offers.get(blob)?;
            offer.is_for(groups).then(|| offer.file.clone())
        })
    }

    /// The file of this path: its blob once known, and its size.
    pub fn locate_path(&self, share: &Label, path: &SharePath) -> Option<(Option<BlobId>, u64)> {
        let folder = self.named(share).ok()?;
        let (directory, name) = path.split();
        let state = folder.lock();
        let file = state.manifest.get(directory, name)?.file()?;
        Some((file.blob, file.stamp.size))
    }

    /// Hashes this file before all others.
    pub fn hash_first(&self, share: &Label, path: &SharePath) {
        let Ok(folder) = self.named(share) else { return };
        let (directory, name) = path.split();
        let waiting = folder
            .lock()
            .manifest
            .get(directory, name)
            .is_some_and(|item| item.file().is_some_and(FileItem::needs_hash));
        if waiting {
            self.agenda.hash_first(folder.record.id, Key::new(directory, name));
        }
    }

    /// Opens a located file below its root: never through a symbolic link, only a regular file, only if it is still
    /// the file that was hashed. Compare [`Shares::still_same`] after reading.
    pub fn open_file(&self, file: &LocalFile) -> Result<File, OpenError> {
        file.open(&mut Roots::default())
    }

    /// Whether the open file is still what was hashed.
    pub fn still_same(&self, open: &File, file: &LocalFile) -> bool {
        stamp_of(open).is_ok_and(|stamp| stamp == file.stamp)
    }

    /// The outline of a blob that [`Shares::locate`] finds. Empty for a blob of one leaf. None while it has to be
    /// computed again; that starts with this call.
    pub fn outline(&self, blob: &BlobId) -> Option<Arc<Outline>> {
        if let Some(offer) = self.offers.read().expect("no panic while held").get(blob) {
            return Some(offer.outline.clone());
        }
        if let Some((_, outline)) = self.recent_outlines().iter().find(|(kept, _)| kept == blob) {
            return Some(outline.clone());
        }
        let file = self.locate_any(blob)?;
        let Some(outline) = self.cache.outline(blob, file.size()) else {
            self.hash_again(&file, Trust::Doubtful);
            return None;
        };
        let outline = Arc::new(outline);
        let mut recent = self.recent_outlines();
        recent.push_front((*blob, outline.clone()));
        recent.truncate(OUTLINES_KEPT);
        Some(outline)
    }

    fn recent_outlines(&self) -> std::sync::MutexGuard<'_, VecDeque<(BlobId, Arc<Outline>)>> {
        self.outlines.lock().expect("no panic while held")
    }

    /// Whatever the groups: for work on our own files.
    fn locate_any(&self, blob: &BlobId) -> Option<LocalFile> {
        self.folders().into_iter().find_map(|folder| {
            let state = folder.lock();
            let (key, file) = state.manifest.find_blob(blob)?;
            local_file(&folder, &key, file, *blob)
        })
    }

    /// The file is not what was hashed: withdraws its blob and hashes it again.
    pub fn report_changed(&self, file: &LocalFile) {
        if file.share.is_none() {
            self.offers.write().expect("no panic while held").remove(&file.blob);
            return;
        }
        let Some((folder, key)) = self.place_of(file) else { return };
        let editor = folder.edit_now();
        {
            let mut state = editor.state();
            let Some(item) = state.manifest.get_key(&key) else { return };
            let seen_by = item.seen_by;
            match item.file().copied() {
                Some(known) if known.blob == Some(file.blob) && known.stamp == file.stamp => {
                    let unknown = FileItem { blob: None, trust: Trust::Firm, ..known };
                    state.manifest.put(&key, Kind::File(unknown), seen_by);
                }
                _ => return,
            }
        }
        editor.commit();
        self.agenda.hash_first(folder.record.id, key);
        self.agenda.walk_at(folder.record.id, Instant::now() + Duration::from_secs(1));
    }

    fn hash_again(&self, file: &LocalFile, trust: Trust) {
        let Some((folder, key)) = self.place_of(file) else { return };
        folder.lock().manifest.set_trust(&key, trust);
        self.agenda.hash_first(folder.record.id, key);
    }

    fn place_of(&self, file: &LocalFile) -> Option<(Arc<Folder>, Key)> {
        let folder = self.folder(file.share?)?;
        let (directory, name) = file.path.split();
        Some((folder, Key::new(directory, name)))
    }

    /// One page of a directory of a share, for a member of these groups. `cursor` continues an earlier listing.
    pub fn list_directory(
        &self,
        share: &Label,
        path: &SharePath,
        recursive: bool,
        cursor: Option<&[u8]>,
        groups: &[Label],
    ) -> Result<Listing, ListError> {
        let folder = self.named(share).map_err(|_| ListError::NotFound)?;
        if !visible(&folder.record.groups, groups) {
            return Err(ListError::NotFound);
        }
        let state = folder.lock();
        if state.away.is_some() {
            return Err(ListError::NotFound);
        }
        listing::list(&state.manifest, path.as_bytes(), recursive, cursor)
    }

    /// The id of a directory; none while a file below it is not hashed, or if there is no such directory.
    pub fn directory_id(&self, share: &Label, path: &SharePath) -> Option<DirectoryId> {
        let folder = self.named(share).ok()?;
        let state = folder.lock();
        listing::id_of(&state.manifest, path.as_bytes())
    }

    /// Serves a finished download from its place until this process ends or the file changes. The hash is remembered
    /// too, so that a share which holds the file need not read it again.
    pub fn offer_download(&self, path: &Path, download: Download) -> Result<(), OpenError> {
        use std::os::unix::ffi::OsStrExt;
        let Download { blob, outline, groups, seat } = download;
        let path = std::fs::canonicalize(path).map_err(|_| OpenError::Gone)?;
        let (Some(root), Some(name)) = (path.parent(), path.file_name()) else { return Err(OpenError::Gone) };
        let name = SharePath::new(name.as_bytes()).map_err(|_| OpenError::Gone)?;
        let (_, stat) = Root::open(root).map_err(|_| OpenError::Gone)?.open_regular(&name)?;
        let stamp = stamp_from(&stat);
        let file_system = open::file_system_id(&path).unwrap_or(stat.st_dev);
        let row = cache::Remember {
            file_system,
            stamp,
            path: path.as_os_str().as_bytes(),
            blob,
            outline: Some(&outline),
            settled: cache::is_settled(&stamp, (self.clock)()),
        };
        if let Err(error) = self.cache.remember(&[row]) {
            tracing::warn!(%error, "the hash cache cannot be written");
        }
        let executable = stat.st_mode & 0o100 != 0;
        let root = root.to_path_buf();
        let file = LocalFile { blob, share: None, groups: Vec::new(), root, path: name, executable, stamp };
        let offer = Offer { file, outline: Arc::new(outline), groups, seat };
        self.offers.write().expect("no panic while held").insert(blob, offer);
        Ok(())
    }

    /// The network was left: finished downloads are for this machine only again.
    pub fn withdraw_downloads(&self) {
        for offer in self.offers.write().expect("no panic while held").values_mut() {
            offer.groups = None;
            offer.seat = None;
        }
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

fn local_file(folder: &Folder, key: &Key, file: &FileItem, blob: BlobId) -> Option<LocalFile> {
    Some(LocalFile {
        blob,
        share: Some(folder.record.id),
        groups: folder.record.groups.clone(),
        root: folder.record.root.clone(),
        path: SharePath::new(key.path()).ok()?,
        executable: file.executable,
        stamp: file.stamp,
    })
}
