//! One module per verb. Each takes the context and its arguments, and gives an exit code or a failure.

pub(crate) mod bench;
mod browse;
mod cat;
mod generate;
mod get;
mod limit;
mod lookup;
mod membership;
mod search;
mod settings;
pub(crate) mod shares;
mod start;
mod status;
mod top;
mod transfers;
mod watch;
pub(crate) mod what;

pub(crate) use browse::split_place;
pub(crate) use lookup::quoted;
pub(crate) use settings::{load as load_config, load_of as load_config_of};

use std::time::Duration;

use haul_peer::api::codes::ErrorCode;

use crate::args::{Command, ConfigCommand, ConfigShowArgs, NetworkCommand, ShareCommand};
use crate::client::Received;
use crate::context::Context;
use crate::errors::Failure;
use crate::exit::Exit;
use crate::roles;

/// Runs a verb, or shows where to start. `--timeout` ends it, except those that run until they are stopped, and `get`,
/// which pauses first.
pub(crate) async fn run(context: &Context, command: Option<Command>) -> Result<Exit, Failure> {
    let Some(command) = command else { return start::overview(context).await };
    let has_own_end = matches!(
        command,
        Command::Up(_) | Command::Index(_) | Command::Peer(_) | Command::Shell | Command::Bench(_) | Command::Get(_)
    );
    match context.global.timeout {
        Some(timeout) if !has_own_end => {
            tokio::time::timeout(timeout, dispatch(context, command)).await.unwrap_or_else(|_| Err(late(timeout)))
        }
        _ => dispatch(context, command).await,
    }
}

async fn dispatch(context: &Context, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Shell => crate::shell::run(context).await,
        Command::Index(args) => roles::index(context, &args).await,
        Command::Up(args) => roles::up(context, &args).await,
        Command::Peer(args) => roles::peer(context, &args).await,
        Command::Search(args) => search::run(context, &args).await,
        Command::Watch(args) => watch::run(context, &args).await,
        Command::Lookup(args) => lookup::run(context, &args).await,
        Command::Get(args) => get::run(context, &args).await,
        Command::Browse(args) => browse::run(context, &args).await,
        Command::Cat(args) => cat::run(context, &args).await,
        Command::Share { command } => shares::run(context, &command.unwrap_or(ShareCommand::Ls)).await,
        Command::Status => status::run(context).await,
        Command::Peers(args) => status::peers(context, &args).await,
        Command::Top => top::run(context).await,
        Command::Transfers(args) => transfers::run(context, &args).await,
        Command::Limit(args) => limit::run(context, &args).await,
        Command::Invite(args) => membership::invite(context, &args).await,
        Command::Join(args) => membership::join(context, &args).await,
        Command::Leave => membership::leave(context).await,
        Command::Network { command } => membership::network(context, &command.unwrap_or(NetworkCommand::Show)).await,
        Command::Link(args) => lookup::link(context, &args).await,
        Command::Bench(args) => bench::run(context, &args).await,
        Command::Explain(args) => settings::explain(context, &args),
        Command::Config { command } => {
            settings::config(context, &command.unwrap_or_else(|| ConfigCommand::Show(ConfigShowArgs::default())))
        }
        Command::Completions(args) => generate::completions(context, &args),
        Command::Man(args) => generate::man(context, &args),
        Command::Version => settings::version(context),
    }
}

fn late(timeout: Duration) -> Failure {
    Failure::new(ErrorCode::Timeout, format!("this took longer than {}", crate::output::text::took(timeout)))
        .next("allow more: --timeout TIME")
}

/// With `--json` prints the daemon's line as it came.
fn pass_on(context: &Context, line: &Received) -> Result<(), Failure> {
    if context.output.is_json() { context.output.line(&line.raw) } else { Ok(()) }
}
