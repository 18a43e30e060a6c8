//! A share as its owner sees it.

use std::path::PathBuf;

use haul_core::ids::ShareId;
use haul_core::wire::Label;

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
    /// Names that cannot be shared; see [`Shares::skipped`](super::Shares::skipped).
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
