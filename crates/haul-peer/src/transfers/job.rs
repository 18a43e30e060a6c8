//! One download as it was asked for, and how it is run.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use haul_core::ids::BlobId;
use haul_core::path::SharePath;
use haul_core::wire::Label;
use haul_core::wire::index::PeerCard;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::known::Known;
use crate::fetch::{
    DEFAULT_PATIENCE, DirectoryRequest, Downloader, FetchDone, FetchError, FetchProgress, FetchRequest,
};
use crate::timeline::Timeline;

/// What is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// One content.
    Blob {
        /// Which.
        blob: BlobId,
        /// Its size, as told.
        size: Option<u64>,
        /// Whether the file becomes executable.
        executable: bool,
        /// Its time of last change.
        mtime_ns: Option<i64>,
    },
    /// A directory of the first provider.
    Directory {
        /// The share.
        share: Label,
        /// Within it.
        path: SharePath,
    },
}

/// One download as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// In the words of the one who asked.
    pub what: String,
    /// What is fetched.
    pub kind: JobKind,
    /// The file or folder that it becomes.
    pub target: PathBuf,
    /// Replace what is there.
    pub force: bool,
    /// Recreate links that lead outside of a folder.
    pub outside_links: bool,
    /// Wait for providers.
    pub wait: bool,
    /// Only `providers` are asked.
    pub only_these: bool,
    /// Providers known from the start.
    pub providers: Vec<PeerCard>,
}

impl Job {
    /// The content, if it is one.
    pub fn id(&self) -> Option<String> {
        match &self.kind {
            JobKind::Blob { blob, .. } => Some(blob.to_string()),
            JobKind::Directory { .. } => None,
        }
    }

    /// Whether both are for the same content, however it was asked for.
    pub fn same_content(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (JobKind::Blob { blob, .. }, JobKind::Blob { blob: other, .. }) => blob == other,
            (one @ JobKind::Directory { .. }, another @ JobKind::Directory { .. }) => {
                let peer = |job: &Self| job.providers.first().map(|card| card.id);
                one == another && peer(self) == peer(other)
            }
            _ => false,
        }
    }

    /// The name of the target, for people.
    pub fn name(&self) -> String {
        self.target.file_name().unwrap_or(self.target.as_os_str()).to_string_lossy().into_owned()
    }

    pub(super) async fn run(
        &self,
        downloader: &Downloader,
        known: &Arc<Known>,
        timeline: Timeline,
        progress: watch::Sender<FetchProgress>,
        cancel: CancellationToken,
    ) -> Result<FetchDone, FetchError> {
        let patience = if self.wait { Duration::MAX } else { DEFAULT_PATIENCE };
        // Newer cards of the same peers have their present addresses.
        let providers: Vec<PeerCard> =
            self.providers.iter().map(|card| known.card(&card.id).unwrap_or_else(|| card.clone())).collect();
        match &self.kind {
            JobKind::Blob { blob, size, executable, mtime_ns } => {
                let request = FetchRequest {
                    size: *size,
                    executable: *executable,
                    mtime_ns: *mtime_ns,
                    force: self.force,
                    providers,
                    only_these: self.only_these,
                    patience,
                    timeline,
                    ..FetchRequest::new(*blob, &self.target)
                };
                downloader.fetch_blob(request, progress, cancel).await
            }
            JobKind::Directory { share, path } => {
                let Some(peer) = providers.into_iter().next() else { return Err(FetchError::NoSuchDirectory) };
                let request = DirectoryRequest {
                    peer,
                    share: share.clone(),
                    path: path.clone(),
                    target: self.target.clone(),
                    force: self.force,
                    outside_links: self.outside_links,
                    only_this: self.only_these,
                    patience,
                    timeline,
                };
                downloader.fetch_directory(request, progress, cancel).await
            }
        }
    }
}
