//! Exit codes: what a script learns from haul without reading its output.

use std::process::ExitCode;

/// The exit code of a run. Errors bring theirs along ([`haul_peer::api::codes::ErrorCode::exit`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit(pub(crate) u8);

impl Exit {
    /// Done.
    pub(crate) const DONE: Self = Self(0);
    /// Nothing found, or nobody has it.
    pub(crate) const NOTHING: Self = Self(1);
    /// Wrong use or configuration (clap's own code).
    pub(crate) const USAGE: Self = Self(2);
    /// The index or the daemon cannot be reached.
    pub(crate) const UNREACHABLE: Self = Self(3);
    /// `--timeout` passed.
    pub(crate) const TIMEOUT: Self = Self(8);
    /// Interrupted by ^C; what was fetched is kept.
    pub(crate) const INTERRUPTED: Self = Self(130);
    /// The same by SIGTERM.
    pub(crate) const TERMINATED: Self = Self(143);
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}
