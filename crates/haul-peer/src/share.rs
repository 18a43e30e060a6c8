//! Folders and files that this peer shares: what is in them, what their bytes hash to, and how to open them safely.
//!
//! [`Shares`] is the one entry point. [`Shares::run`] walks, watches and hashes until it is told to stop; everything
//! else may be called from any thread at any time. Calls that touch the disk ([`Shares::add`], [`Shares::open_file`],
//! [`Shares::outline`]) block: run them on a blocking thread.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use haul_core::ids::{BlobId, DirectoryId, ShareId};
use haul_core::outline::Outline;
use haul_core::path::SharePath;
use haul_core::wire::Label;
use haul_core::wire::index::Listing;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

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
}

/// Everything that this peer shares.
#[derive(Debug)]
pub struct Shares {
    settings: ShareSettings,
    changed: watch::Sender<u64>,
}

impl Shares {
    /// Loads the list of shares with their entries as they were last known.
    pub fn open(settings: ShareSettings) -> Result<Arc<Self>, StartError> {
        Ok(Arc::new(Self { settings, changed: watch::Sender::new(0) }))
    }

    /// Walks, watches and hashes until shutdown; returns when its threads have ended.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let _ = &self.settings;
        shutdown.cancelled().await;
    }

    /// Adds a folder or file; the walk follows. A path that is shared already keeps its share, under the same name.
    pub fn add(&self, share: NewShare) -> Result<ShareStatus, AddError> {
        Err(AddError::NotShareable(share.path))
    }

    /// Ends a share: it is forgotten here at once, and by the index as soon as it can be told.
    pub fn remove(&self, name: &Label) -> Result<(), ShareError> {
        Err(ShareError::Unknown(name.clone()))
    }

    /// All shares by name.
    pub fn list(&self) -> Vec<ShareStatus> {
        Vec::new()
    }

    /// One share.
    pub fn status(&self, name: &Label) -> Option<ShareStatus> {
        self.list().into_iter().find(|status| status.name == *name)
    }

    /// Walks the share again soon. It is also the owner's word that a folder which lost most entries is meant so.
    pub fn rescan(&self, name: &Label) -> Result<(), ShareError> {
        Err(ShareError::Unknown(name.clone()))
    }

    /// Names of a share that are not shared; at most 1,000 are kept.
    pub fn skipped(&self, _name: &Label) -> Vec<Skipped> {
        Vec::new()
    }

    /// A file here with this content, in a share that everyone sees.
    pub fn locate(&self, blob: &BlobId) -> Option<LocalFile> {
        self.locate_for(blob, &[])
    }

    /// A file here with this content, in a share that a member of these groups sees.
    pub fn locate_for(&self, _blob: &BlobId, _groups: &[Label]) -> Option<LocalFile> {
        None
    }

    /// The file of this path, hashed or not; its blob comes with it once known.
    pub fn locate_path(&self, _share: &Label, _path: &SharePath) -> Option<(Option<BlobId>, u64)> {
        None
    }

    /// Hashes this file before all others.
    pub fn hash_first(&self, _share: &Label, _path: &SharePath) {}

    /// Opens a located file below its root: never through a symbolic link, only a regular file, only if it is still
    /// the file that was hashed. Compare [`Shares::still_same`] after reading.
    pub fn open_file(&self, _file: &LocalFile) -> Result<File, OpenError> {
        Err(OpenError::Gone)
    }

    /// Whether the open file is still what was hashed.
    pub fn still_same(&self, _open: &File, _file: &LocalFile) -> bool {
        false
    }

    /// The outline of a blob that [`Shares::locate`] finds. Empty for a blob of one leaf. None while it has to be
    /// computed again; that starts with this call.
    pub fn outline(&self, _blob: &BlobId) -> Option<Arc<Outline>> {
        None
    }

    /// The file is not what was hashed: withdraws its blob and hashes it again.
    pub fn report_changed(&self, _file: &LocalFile) {}

    /// One page of a directory of a share. `cursor` continues an earlier listing.
    pub fn list_directory(
        &self,
        _share: &Label,
        _path: &SharePath,
        _recursive: bool,
        _cursor: Option<&[u8]>,
    ) -> Result<Listing, ListError> {
        Err(ListError::NotFound)
    }

    /// The id of a directory; none while a file below it is not hashed, or if there is no such directory.
    pub fn directory_id(&self, _share: &Label, _path: &SharePath) -> Option<DirectoryId> {
        None
    }

    /// Serves a finished download from its place until this process ends or the file changes.
    pub fn offer_download(&self, _path: &Path, _blob: BlobId, _outline: Outline) -> Result<(), OpenError> {
        Ok(())
    }

    /// Counts up whenever a share was added, removed or changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
