//! What a download tells while it runs.

use haul_core::ids::PeerId;

/// Trouble of a provider whose file is not what it registered any more.
pub const CHANGED: &str = "its file has changed";

/// The state of a running download. Senders overwrite it; readers see the newest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchProgress {
    /// Bytes verified, including those that were there before.
    pub done: u64,
    /// Bytes in all; 0 while unknown.
    pub total: u64,
    /// Files complete, and files in all; 0 and 1 for a single file.
    pub files_done: u64,
    /// See `files_done`.
    pub files: u64,
    /// Bytes per second over the last seconds.
    pub bytes_per_second: u64,
    /// What each provider gave.
    pub providers: Vec<ProviderProgress>,
    /// Why nothing moves, in words; none while it does.
    pub reason: Option<String>,
    /// What its owner can do about the reason, if it is something else than to give up.
    pub next: Option<String>,
}

/// One provider of a running download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderProgress {
    /// Who.
    pub peer: PeerId,
    /// Bytes of it that verified.
    pub bytes: u64,
    /// Its state in words, if it does not give anything: why it failed or was banned.
    pub trouble: Option<String>,
}
