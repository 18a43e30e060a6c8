//! Finished downloads, served from their places.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use haul_core::ids::BlobId;
use haul_core::outline::Outline;
use haul_core::path::SharePath;
use haul_core::wire::Label;

use super::hash::{HashRun, hash_file};
use super::open::{self, Root, stamp_from};
use super::{LocalFile, OpenError, Shares, cache};
use crate::partial::visible;
use crate::swarm::SwarmSeat;

/// A finished download, served from its place.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) file: LocalFile,
    pub(super) outline: Arc<Outline>,
    /// Who may have it; none keeps it for this machine.
    groups: Option<Vec<Label>>,
    /// Kept for as long as it is served.
    seat: Option<Box<dyn SwarmSeat>>,
}

impl Offer {
    /// With a place in the swarm, the index decides anew in each session who may have it.
    pub(super) fn is_for(&self, groups: &[Label]) -> bool {
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

impl Shares {
    /// Serves a finished download from its place until this process ends or the file changes. The hash is remembered
    /// too, so that a share which holds the file need not read it again.
    pub fn offer_download(&self, path: &Path, download: Download) -> Result<(), OpenError> {
        use std::os::unix::ffi::OsStrExt;
        let Download { blob, outline, groups, seat } = download;
        let path = std::fs::canonicalize(path).map_err(|_| OpenError::Gone)?;
        let (Some(root), Some(name)) = (path.parent(), path.file_name()) else { return Err(OpenError::Gone) };
        let name = SharePath::new(name.as_bytes()).map_err(|_| OpenError::Gone)?;
        let (_, stat) = Root::open(root).map_err(open::open_error)?.open_regular(&name)?;
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

    /// Hashes a finished download. None if it is not this blob, or hashing is to stop.
    pub(crate) fn outline_of_download(&self, file: &File, blob: &BlobId) -> Option<Outline> {
        let run = HashRun { stop: &self.agenda.stop, helpers: &self.agenda, progress: &|_| {} };
        let hashed = hash_file(file, open::stamp_of(file).ok()?, run).ok()?;
        (hashed.blob == *blob).then_some(hashed.outline)
    }

    /// The network was left: finished downloads are for this machine only again.
    pub fn withdraw_downloads(&self) {
        for offer in self.offers.write().expect("no panic while held").values_mut() {
            offer.groups = None;
            offer.seat = None;
        }
    }
}
