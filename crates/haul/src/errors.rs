//! Failures as people and scripts see them: what failed, why, what to do next, and a stable code.

use crate::args::Global;
use crate::exit::Exit;

/// A failure of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Stable word, explained by `haul explain`.
    pub(crate) code: String,
    /// What failed.
    pub(crate) message: String,
    /// Why: one line for each source that was tried.
    pub(crate) causes: Vec<String>,
    /// What to do next, starting with a command where there is one.
    pub(crate) next: Option<String>,
    /// What the process ends with.
    pub(crate) exit: Exit,
}

impl Failure {
    /// A failure without causes.
    pub(crate) fn new(code: &str, message: impl Into<String>, exit: Exit) -> Self {
        Self { code: code.to_owned(), message: message.into(), causes: Vec::new(), next: None, exit }
    }

    /// The same with a further cause.
    #[must_use]
    pub(crate) fn because(mut self, cause: impl ToString) -> Self {
        self.causes.push(cause.to_string());
        self
    }

    /// The same with what to do next.
    #[must_use]
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// The runtime did not start.
    pub(crate) fn from_start(error: &std::io::Error) -> Self {
        Self::new("no-threads", "haul could not start its threads", Exit::DISK).because(error)
    }
}

/// Prints what clap has to say (help and version go to standard output) and gives its exit code.
pub(crate) fn usage(error: &clap::Error) -> Exit {
    let _ = error.print();
    Exit(u8::try_from(error.exit_code()).unwrap_or(Exit::USAGE.0))
}

/// Prints a failure and gives the exit code.
#[expect(clippy::print_stderr, reason = "this crate prints")]
pub(crate) fn report(_global: &Global, failure: &Failure) -> Exit {
    eprintln!("error: {}   [{}]", failure.message, failure.code);
    failure.exit
}
