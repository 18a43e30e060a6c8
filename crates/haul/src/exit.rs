//! Exit codes: what a script learns from haul without reading its output.

use std::process::ExitCode;

/// The exit code of a run.
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
    /// A transfer did not complete; it can go on.
    pub(crate) const INCOMPLETE: Self = Self(4);
    /// Content did not match its hash after all tries.
    pub(crate) const CORRUPT: Self = Self(5);
    /// Not allowed: ticket, policy, wrong key.
    pub(crate) const DENIED: Self = Self(6);
    /// The local disk is full, not writable or gone.
    pub(crate) const DISK: Self = Self(7);
    /// `--timeout` passed.
    pub(crate) const TIMEOUT: Self = Self(8);
    /// Interrupted by ^C; what was fetched is kept.
    pub(crate) const INTERRUPTED: Self = Self(130);
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}
