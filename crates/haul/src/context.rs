//! What every command is given: the options, the output, the daemon to ask, the numbers that this terminal remembers.

use std::sync::Arc;

use haul_peer::api::codes::ErrorCode;
use haul_peer::config::Home;

use crate::args::{Color, Global};
use crate::client::Daemon;
use crate::errors::Failure;
use crate::numbers::Numbers;
use crate::output::Output;

/// The context of a command.
#[derive(Debug)]
pub(crate) struct Context {
    /// Global options.
    pub(crate) global: Global,
    /// Where results go.
    pub(crate) output: Output,
    /// What `1` means in `haul get 1`.
    pub(crate) numbers: Arc<Numbers>,
}

impl Context {
    /// The context of these options.
    pub(crate) fn new(global: Global) -> Self {
        let output = Output::new(&global);
        let numbers = Arc::new(Numbers::of_terminal(&output, home(&global).ok().as_ref()));
        Self { global, output, numbers }
    }

    /// The context of one command of a shell: options of both count, numbers are the shell's.
    pub(crate) fn within(&self, own: Global) -> Self {
        let outer = &self.global;
        let global = Global {
            json: (outer.json && !own.plain) || own.json,
            plain: (outer.plain && !own.json) || own.plain,
            quiet: outer.quiet || own.quiet,
            verbose: outer.verbose.max(own.verbose),
            color: if own.color == Color::Auto { outer.color } else { own.color },
            timeout: own.timeout.or(outer.timeout),
            index: outer.index.clone(),
            home: outer.home.clone(),
        };
        let output = Output::new(&global);
        Self { global, output, numbers: Arc::clone(&self.numbers) }
    }

    /// This haul's folders.
    pub(crate) fn home(&self) -> Result<Home, Failure> {
        home(&self.global)
    }

    /// The daemon to ask.
    pub(crate) fn daemon(&self) -> Result<Daemon, Failure> {
        Ok(Daemon::Socket(self.home()?.socket()))
    }
}

fn home(global: &Global) -> Result<Home, Failure> {
    if let Some(root) = &global.home {
        return Ok(Home::at(std::path::absolute(root)?));
    }
    Home::resolve(|name| std::env::var_os(name)).map_err(|error| {
        Failure::new(ErrorCode::Config, "there is no folder to keep haul's state in")
            .because(error)
            .next("name one: export HAUL_HOME=/path/to/folder")
    })
}
