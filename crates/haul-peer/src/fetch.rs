//! Downloading: drives the pure download machine over connections to several peers at once.
//!
//! [`Downloader`] is the entry point. Every leaf is verified while its bytes are hot, on a blocking thread, before it
//! is written; nothing that failed verification ever has the final name. Dropping the future of a download, or
//! cancelling its token, leaves a part file from which the next one continues.

mod blob;
mod directory;
mod held;
mod listing;
mod noting;
mod output;
mod passing;
pub mod pool;
mod progress;
mod providers;
mod requests;
mod small;
mod transfer;
mod writing;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use haul_core::ids::{BlobId, PeerId};
use haul_core::path::SharePath;
use haul_core::wire::Label;
use haul_core::wire::index::PeerCard;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::bandwidth::{Bandwidth, Route, Scope};
use crate::files::FileError;
use crate::share::Shares;
use crate::swarm::Seat;
use crate::timeline::Timeline;
pub use pool::PeerPool;
pub use progress::{CHANGED, FetchProgress, ProviderProgress};

/// Who holds a blob, as far as the index tells.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Bytes of the blob, if the index knows.
    pub size: Option<u64>,
    /// Peers that hold it, best first.
    pub providers: Vec<PeerCard>,
}

/// Finds providers. The daemon asks its index; tests answer from a table.
pub trait FindProviders: Send + Sync + 'static {
    /// Who holds the blob now. The error is a reason in words; the download goes on with those it knows.
    fn find(&self, blob: BlobId) -> BoxFuture<'_, Result<Found, String>>;
    /// A provider that was found could not be reached: what is remembered of its addresses may be wrong.
    fn unreachable(&self, _peer: PeerId) {}
    /// A place in the swarm of a blob of this size. None if there is no index to ask, or another download has the place.
    fn join(&self, _blob: BlobId, _size: u64) -> Option<Seat> {
        None
    }
}

/// A blob to download into a file.
#[derive(Clone, Debug)]
pub struct FetchRequest {
    /// The blob.
    pub blob: BlobId,
    /// Its size, if the index named one. A hint: it is proved before anything counts.
    pub size: Option<u64>,
    /// The file that it becomes. Its folder must exist.
    pub target: PathBuf,
    /// Whether the file becomes executable.
    pub executable: bool,
    /// Its time of last modification, nanoseconds since 1970; none leaves the present.
    pub mtime_ns: Option<i64>,
    /// Whether a file that is there with other content is replaced.
    pub force: bool,
    /// Providers that are known already.
    pub providers: Vec<PeerCard>,
    /// Whether only `providers` are asked, and nobody is looked up (`--from PEER`).
    pub only_these: bool,
    /// How long to go on without any provider that can help, once some were there. [`Duration::MAX`] waits for ever,
    /// also for the first one.
    pub patience: Duration,
    /// Where what happens is noted.
    pub timeline: Timeline,
}

impl FetchRequest {
    /// A download with defaults: not executable, no replacing, all providers, 15 s of patience.
    pub fn new(blob: BlobId, target: impl Into<PathBuf>) -> Self {
        Self {
            blob,
            size: None,
            target: target.into(),
            executable: false,
            mtime_ns: None,
            force: false,
            providers: Vec::new(),
            only_these: false,
            patience: DEFAULT_PATIENCE,
            timeline: Timeline::default(),
        }
    }
}

/// See [`FetchRequest::patience`].
pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(15);

/// A blob, or a part of it, to read in order (`cat`, `-o -`).
#[derive(Clone, Debug)]
pub struct StreamRequest {
    /// The blob.
    pub blob: BlobId,
    /// Its size, if the index named one.
    pub size: Option<u64>,
    /// Which bytes; cut to the blob's size. None is all.
    pub range: Option<std::ops::Range<u64>>,
    /// As in [`FetchRequest`].
    pub providers: Vec<PeerCard>,
    /// As in [`FetchRequest`].
    pub only_these: bool,
    /// As in [`FetchRequest`].
    pub patience: Duration,
}

/// A directory of a peer's share to download.
#[derive(Clone, Debug)]
pub struct DirectoryRequest {
    /// The peer that lists it.
    pub peer: PeerCard,
    /// The share.
    pub share: Label,
    /// The directory in the share; the root is the whole share.
    pub path: SharePath,
    /// The folder that it becomes; its parent must exist.
    pub target: PathBuf,
    /// Whether an existing folder of that name is merged into, replacing files with other content.
    pub force: bool,
    /// Whether links that lead outside of the folder are recreated too. Nothing is ever written through a link, but
    /// whoever opens one later follows it.
    pub outside_links: bool,
    /// Whether only `peer` is asked for contents, and nobody is looked up.
    pub only_this: bool,
    /// As in [`FetchRequest`].
    pub patience: Duration,
    /// As in [`FetchRequest`].
    pub timeline: Timeline,
}

/// A finished download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchDone {
    /// The file or folder; empty for a stream.
    pub path: PathBuf,
    /// Bytes of the content.
    pub bytes: u64,
    /// Milliseconds from the call to the end.
    pub ms: u64,
    /// Bytes that were there already when it began: earlier progress, the finished file itself, or a local copy.
    pub resumed_from: u64,
    /// Bytes of leaves and small files that came over the network.
    pub fetched: u64,
    /// Peers that gave something.
    pub providers: Vec<PeerId>,
    /// Peers that sent what does not belong to the blob, and what it was.
    pub banned: Vec<(PeerId, String)>,
    /// Files; 1 for a single one.
    pub files: u64,
    /// What was left out of a directory, and why: links that lead outside, files without a hash yet.
    pub skipped: Vec<(String, String)>,
}

/// Why a download did not finish. Unless it says otherwise, progress is kept and the same call continues it.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody who is online holds it, or all who do have failed.
    #[error("no provider: {reason}")]
    NoProvider {
        /// What is known about each that was tried.
        reason: String,
        /// Who sent what does not belong to the blob.
        banned: Vec<(PeerId, String)>,
    },
    /// The target cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The directory cannot be listed.
    #[error("cannot list the directory: {0}")]
    Listing(String),
    /// The directory is not there.
    #[error("the peer has no such directory, or does not share it with you")]
    NoSuchDirectory,
    /// It was cancelled.
    #[error("cancelled; the same command continues it")]
    Cancelled,
    /// The reader of a stream is gone.
    #[error("the reader of the stream has gone")]
    ReaderGone,
    /// A size over what this version can handle.
    #[error("{0} bytes are more than one blob can have")]
    TooLarge(u64),
}

/// Downloads blobs and directories. Cheap to clone.
#[derive(Clone)]
pub struct Downloader {
    pool: Arc<PeerPool>,
    finder: Arc<dyn FindProviders>,
    shares: Option<Arc<Shares>>,
    bandwidth: Arc<Bandwidth>,
    /// This peer.
    me: Option<PeerId>,
    /// The buckets of this download.
    route: Route,
}

impl std::fmt::Debug for Downloader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Downloader").finish_non_exhaustive()
    }
}

impl Downloader {
    /// A downloader over these connections. With `shares`, content that this machine has is copied instead of fetched.
    pub fn new(pool: Arc<PeerPool>, finder: Arc<dyn FindProviders>, shares: Option<Arc<Shares>>) -> Self {
        Self { pool, finder, shares, bandwidth: Arc::default(), me: None, route: Route::default() }
    }

    /// The same for the peer of this key: those who download together then begin with different pieces.
    #[must_use]
    pub fn known_as(self, me: PeerId) -> Self {
        Self { me: Some(me), ..self }
    }

    /// The same under these limits of bandwidth.
    #[must_use]
    pub fn limited(self, bandwidth: Arc<Bandwidth>) -> Self {
        Self { bandwidth, ..self }
    }

    /// The same for a download in the list, which may have a limit of its own.
    #[must_use]
    pub fn of_transfer(&self, id: u64) -> Self {
        Self { route: Route { own: Some(Scope::Transfer(id)), groups: None }, ..self.clone() }
    }

    /// Downloads a blob into a file.
    pub async fn fetch_blob(
        &self,
        request: FetchRequest,
        progress: watch::Sender<FetchProgress>,
        cancel: CancellationToken,
    ) -> Result<FetchDone, FetchError> {
        blob::fetch(self, request, &progress, &cancel).await
    }

    /// Sends a blob's bytes in order, each verified before it is sent.
    pub async fn stream_blob(
        &self,
        request: StreamRequest,
        to: mpsc::Sender<Bytes>,
        progress: watch::Sender<FetchProgress>,
        cancel: CancellationToken,
    ) -> Result<FetchDone, FetchError> {
        blob::stream(self, request, to, &progress, &cancel).await
    }

    /// Downloads a directory into a folder, which appears under its name when it is complete.
    pub async fn fetch_directory(
        &self,
        request: DirectoryRequest,
        progress: watch::Sender<FetchProgress>,
        cancel: CancellationToken,
    ) -> Result<FetchDone, FetchError> {
        directory::fetch(self, request, &progress, &cancel).await
    }
}
