//! The list of downloads on disk: one JSON file, replaced whole. A damaged file is set aside, never a reason not to
//! start: what was downloaded so far lies in the part files beside the targets.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use haul_core::path::SharePath;
use haul_core::time::Timestamp;
use haul_core::wire::index::PeerCard;
use haul_core::wire::{Label, decode, encode as encode_message};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{Item, Job, JobKind};
use crate::api::codes::ErrorCode;
use crate::api::problem::Problem;
use crate::api::records::TransferState;
use crate::text::{hex, unhex};

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    transfers: Vec<StoredItem>,
}

#[derive(Serialize, Deserialize)]
struct StoredItem {
    transfer: u64,
    what: String,
    blob: Option<StoredBlob>,
    directory: Option<StoredDirectory>,
    /// Hexadecimal: paths need not be text.
    target: String,
    force: bool,
    outside_links: bool,
    wait: bool,
    only_these: bool,
    /// Cards of peers as on the wire, in hexadecimal.
    providers: Vec<String>,
    state: TransferState,
    code: Option<ErrorCode>,
    message: Option<String>,
    added_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredBlob {
    id: String,
    size: Option<u64>,
    executable: bool,
    mtime_ns: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct StoredDirectory {
    share: String,
    path: String,
}

/// A download of an earlier run.
pub(super) struct Loaded {
    pub(super) transfer: u64,
    pub(super) job: Job,
    pub(super) state: TransferState,
    pub(super) problem: Option<Problem>,
    pub(super) added: Timestamp,
}

pub(super) fn encode<'a>(items: impl Iterator<Item = (&'a u64, &'a Item)>) -> Vec<u8> {
    let transfers = items
        // Finished ones are told while the daemon runs; the file is for what is still to do.
        .filter(|(_, item)| item.phase.borrow().state != TransferState::Done)
        .map(|(id, item)| {
            let phase = item.phase.borrow();
            let (blob, directory) = match &item.job.kind {
                JobKind::Blob { blob, size, executable, mtime_ns } => (
                    Some(StoredBlob {
                        id: blob.to_string(),
                        size: *size,
                        executable: *executable,
                        mtime_ns: *mtime_ns,
                    }),
                    None,
                ),
                JobKind::Directory { share, path } => {
                    (None, Some(StoredDirectory { share: share.to_string(), path: hex(path.as_bytes()) }))
                }
            };
            StoredItem {
                transfer: *id,
                what: item.job.what.clone(),
                blob,
                directory,
                target: hex(item.job.target.as_os_str().as_bytes()),
                force: item.job.force,
                outside_links: item.job.outside_links,
                wait: item.job.wait,
                only_these: item.job.only_these,
                providers: item.job.providers.iter().map(|card| hex(&encode_message(card))).collect(),
                state: phase.state,
                code: phase.problem.as_ref().map(|problem| problem.code),
                message: phase.problem.as_ref().map(|problem| problem.message.clone()),
                added_ms: item.added.0,
            }
        })
        .collect();
    let mut bytes = serde_json::to_vec_pretty(&File { version: 1, transfers }).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

pub(super) fn load(path: &Path) -> Vec<Loaded> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            warn!(%error, path = %path.display(), "the list of transfers cannot be read");
            return Vec::new();
        }
    };
    match serde_json::from_slice::<File>(&bytes) {
        Ok(file) if file.version == 1 => file.transfers.into_iter().filter_map(StoredItem::take).collect(),
        _ => {
            let aside = path.with_extension("damaged");
            warn!(path = %path.display(), "the list of transfers is damaged; it is set aside and a new one begins");
            drop(std::fs::rename(path, aside));
            Vec::new()
        }
    }
}

impl StoredItem {
    fn take(self) -> Option<Loaded> {
        let kind = match (self.blob, self.directory) {
            (Some(blob), None) => JobKind::Blob {
                blob: blob.id.parse().ok()?,
                size: blob.size,
                executable: blob.executable,
                mtime_ns: blob.mtime_ns,
            },
            (None, Some(directory)) => JobKind::Directory {
                share: Label::new(directory.share).ok()?,
                path: SharePath::new(unhex(&directory.path)?).ok()?,
            },
            _ => return None,
        };
        let providers = self.providers.iter().filter_map(|card| decode::<PeerCard>(&unhex(card)?).ok()).collect();
        let job = Job {
            what: self.what,
            kind,
            target: PathBuf::from(std::ffi::OsString::from_vec(unhex(&self.target)?)),
            force: self.force,
            outside_links: self.outside_links,
            wait: self.wait,
            only_these: self.only_these,
            providers,
        };
        let problem = self.code.map(|code| Problem::new(code, self.message.unwrap_or_default()));
        Some(Loaded { transfer: self.transfer, job, state: self.state, problem, added: Timestamp(self.added_ms) })
    }
}
