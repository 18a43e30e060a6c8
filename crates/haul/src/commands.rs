//! One module per verb. Each takes its arguments and the context, and gives an exit code or a failure.

pub(crate) mod bench;

use crate::args::{Command, Global};
use crate::errors::Failure;
use crate::exit::Exit;
use crate::home::Home;

/// What every command is given.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// Global options.
    pub(crate) global: Global,
}

impl Context {
    /// The context of these options.
    pub(crate) fn new(global: Global) -> Self {
        Self { global }
    }

    /// This haul's folders.
    pub(crate) fn home(&self) -> Result<Home, Failure> {
        Home::find(self.global.home.as_deref()).ok_or_else(|| {
            Failure::new("no-home", "there is no folder to keep state in", Exit::USAGE)
                .because("HOME is not set")
                .next("set HAUL_HOME to a folder of yours")
        })
    }
}

/// Runs a verb.
pub(crate) async fn run(context: &Context, command: Option<Command>) -> Result<Exit, Failure> {
    match command {
        Some(Command::Bench(args)) => bench::run(context, &args).await,
        _ => Err(Failure::new("not-built", "this verb is not part of this build yet", Exit::USAGE)),
    }
}
