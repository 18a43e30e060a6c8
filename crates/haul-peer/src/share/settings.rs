//! What the owner says: where state lies, what to share, and how.

use std::path::PathBuf;
use std::time::Duration;

use haul_core::wire::Label;

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
