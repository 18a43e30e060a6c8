//! Transfers: how each stands, its progress, its end, and the limits that hold it.

use serde::{Deserialize, Serialize};

use super::super::codes::ErrorCode;

/// What a download is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransferState {
    /// It waits; `reason` says for what.
    Waiting,
    /// Bytes come in.
    Running,
    /// Its owner paused it.
    Paused,
    /// Complete and verified.
    Done,
    /// It ended without success; what was verified is kept.
    Failed,
    /// Its owner gave it up.
    Canceled,
}

/// A download in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferRecord {
    /// Number in the list, for `haul transfers pause|resume|cancel|retry|explain`.
    pub transfer: u64,
    /// What was asked for.
    pub what: String,
    /// Content, once known.
    pub id: Option<String>,
    /// Where it goes.
    pub path: String,
    /// State.
    pub state: TransferState,
    /// Bytes verified and written.
    pub done: u64,
    /// Bytes in all, once known.
    pub total: Option<u64>,
    /// Rate.
    pub bps: u64,
    /// Peers that give bytes now.
    pub providers: u32,
    /// Why it is in this state, in words.
    pub reason: Option<String>,
    /// What its owner can do.
    pub next: Option<String>,
    /// Code of the error that ended it.
    pub code: Option<ErrorCode>,
    /// When it was added.
    pub added: String,
    /// Peers that are connected for it or gave to it, over all its runs, most first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<ProviderShare>,
}

/// A limit of bandwidth, one way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitRecord {
    /// The group that it is for; null with a null transfer is everything.
    pub group: Option<String>,
    /// The transfer that it is for.
    pub transfer: Option<u64>,
    /// `up` or `down`.
    pub direction: String,
    /// Bytes per second now; null is without a limit.
    pub bps: Option<u64>,
    /// Its rules as they could be written; the last that fits the hour counts.
    pub rules: Vec<String>,
    /// `haul limit` or `configuration`.
    pub origin: String,
}

/// How far a download is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressRecord {
    /// Number in the list of transfers; null for one that is not in it.
    pub transfer: Option<u64>,
    /// Content.
    pub id: Option<String>,
    /// Name for people.
    pub name: String,
    /// Bytes received.
    pub done: u64,
    /// Of these, verified.
    pub verified: u64,
    /// Bytes in all, once known.
    pub total: Option<u64>,
    /// Rate.
    pub bps: u64,
    /// Peers that give bytes now.
    pub providers: u32,
    /// Of a directory: files that are complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_done: Option<u64>,
    /// Of a directory: files in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_total: Option<u64>,
    /// Bytes by peer, most first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<ProviderShare>,
}

/// What one peer gave to a download.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderShare {
    /// Key of the peer.
    pub peer: String,
    /// Its name.
    pub name: String,
    /// Verified bytes from it.
    pub bytes: u64,
    /// Leaves from it that did not match.
    pub corrupt: u64,
    /// Of a transfer in the list: rate at which it gives now; left out if it gives nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bps: Option<u64>,
}

/// A download is complete.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoneRecord {
    /// Content: `b3:` of a file, `d3:` of a directory.
    pub id: Option<String>,
    /// Where it is.
    pub path: String,
    /// Bytes in all.
    pub bytes: u64,
    /// Milliseconds that it took.
    pub ms: u64,
    /// Bytes that were there, verified, before this run.
    pub resumed_from: u64,
    /// Bytes that this run received.
    pub fetched: u64,
    /// Peers that gave bytes.
    pub providers: u32,
    /// Always true: nothing else is ever called done.
    pub verified: bool,
    /// Of a directory: its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Bytes by peer, most first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<ProviderShare>,
}
