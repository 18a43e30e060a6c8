//! What every command is given: the options, the output, the daemon to ask, the numbers that this terminal remembers.

use std::sync::Arc;

use haul_peer::api::codes::ErrorCode;
use haul_peer::config::Home;
use haul_peer::daemon::detached::{Detached, DetachedConfig};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::args::{Color, Global};
use crate::client::Daemon;
use crate::errors::Failure;
use crate::numbers::Numbers;
use crate::output::Output;
use crate::tickets;

/// The context of a command.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// Global options.
    pub(crate) global: Global,
    /// Where results go.
    pub(crate) output: Output,
    /// What `1` means in `haul get 1`.
    pub(crate) numbers: Arc<Numbers>,
    daemon: Arc<OnceCell<Daemon>>,
}

impl Context {
    /// The context of these options.
    pub(crate) fn new(global: Global) -> Self {
        let output = Output::new(&global);
        let numbers = Arc::new(Numbers::of_terminal(&output, home(&global).ok().as_ref()));
        Self { global, output, numbers, daemon: Arc::default() }
    }

    /// The same with the numbers of a shell.
    pub(crate) fn of_shell(&self) -> Self {
        Self {
            global: self.global.clone(),
            output: self.output.clone(),
            numbers: Arc::new(Numbers::of_shell()),
            daemon: Arc::clone(&self.daemon),
        }
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
        Self { global, output, numbers: Arc::clone(&self.numbers), daemon: Arc::clone(&self.daemon) }
    }

    /// This haul's folders.
    pub(crate) fn home(&self) -> Result<Home, Failure> {
        home(&self.global)
    }

    /// The daemon to ask: the one of this home, or, with `--index`, a short-lived one of this command.
    pub(crate) async fn daemon(&self) -> Result<&Daemon, Failure> {
        self.daemon.get_or_try_init(|| connect(&self.global)).await
    }

    /// Ends what [`Self::daemon`] started.
    pub(crate) async fn finish(&self) {
        if let Some(daemon) = self.daemon.get() {
            daemon.finish().await;
        }
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

async fn connect(global: &Global) -> Result<Daemon, Failure> {
    let home = home(global)?;
    let Some(source) = &global.index else { return Ok(Daemon::Socket(home.socket())) };
    let ticket = tickets::read(source)?.parse().expect("the ticket was checked when it was read");
    let limits = crate::commands::load_config_of(&home, &[])?.limits();
    let settings = DetachedConfig { home, ticket, name: None, limits, memory_index: None };
    let started = Detached::start(settings, CancellationToken::new()).await;
    let detached = started.map_err(|error| Failure::from_problem(error.problem()))?;
    Ok(Daemon::Detached(Box::new(tokio::sync::Mutex::new(Some(detached)))))
}
