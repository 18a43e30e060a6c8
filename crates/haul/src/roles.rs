//! The processes that stay: `haul up`, `haul index`, `haul peer`. Each starts its parts in order, says that it is
//! ready, runs until SIGTERM or SIGINT, and ends its parts in the opposite order.

mod announce;
mod follow;
mod log;
mod peer;
mod stop;

use std::net::SocketAddr;
use std::path::PathBuf;

use haul_index::{Index, IndexConfig, Invitation, RunError, RunningIndex, StartError};
use haul_peer::api::codes::ErrorCode;
use haul_peer::api::records::Ready;
use haul_peer::config::{Config, Home, Value};
use haul_peer::daemon::home::{HomeError, HomeLock};
use tokio_util::sync::CancellationToken;

pub(crate) use self::peer::{peer, up};
use self::stop::Signals;
use crate::args::IndexArgs;
use crate::commands::load_config;
use crate::context::Context;
use crate::errors::Failure;
use crate::exit::Exit;

/// Runs `haul index`.
pub(crate) async fn index(context: &Context, args: &IndexArgs) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    log::start(context);
    let home = context.home()?;
    let config = load_config(context, &flags(&[("index_listen", args.listen)]))?;
    let _lock = lock(&home)?;
    let index = start_index(&home, &config).await?;
    let ready = Ready {
        network: Some(index.network().to_string()),
        index: Some(index.index_key().to_string()),
        index_addr: index.addresses().first().map(|address| shown(*address)),
        ticket: Some(ticket(&index).await?),
        ..Ready::default()
    };
    let announced = announce::index(context, &ready);
    let ended = match announced {
        Ok(()) => signals.wait(index.stopped()).await,
        Err(failure) => Err(failure),
    };
    signals.force(stop_index(index)).await?;
    ended.map(|()| Exit::DONE)
}

/// Starts the index of this home. If its usual port is taken, it takes a free one.
async fn start_index(home: &Home, config: &Config) -> Result<RunningIndex, Failure> {
    let mut settings = IndexConfig::new(index_state(home), config.address("index_listen").into_iter().collect());
    settings.advertise = config.list("advertise").to_vec();
    settings.plans = config.swarm_plans();
    loop {
        // Its end is asked for by `join` alone, after the peer beside it has left.
        let error = match Index::start(settings.clone(), CancellationToken::new()).await {
            Ok(index) => return Ok(index),
            Err(error) => error,
        };
        match (&error, settings.listen.first_mut()) {
            (StartError::Listen { .. }, Some(place)) if place.port() != 0 && is_default(config, "index_listen") => {
                tracing::warn!(%error, "the usual port is taken; another one is used");
                place.set_port(0);
            }
            (StartError::Listen { .. }, _) => {
                return Err(Failure::new(ErrorCode::Config, "the index cannot listen where it should")
                    .because(&error)
                    .next("another place: --index-listen IP:PORT, port 0 = any free one"));
            }
            (StartError::State { .. }, _) => {
                return Err(Failure::new(ErrorCode::Disk, "the index cannot start").because(&error));
            }
        }
    }
}

/// Whether nobody chose this value.
fn is_default(config: &Config, key: &str) -> bool {
    config.rows().any(|(name, _, origin)| name == key && origin == "default")
}

/// Where the index of this home keeps its state.
fn index_state(home: &Home) -> PathBuf {
    home.state.join("index")
}

async fn stop_index(index: RunningIndex) -> Result<(), Failure> {
    index.join().await.map_err(|error| match &error {
        RunError::TaskEnded(_) | RunError::Stuck(_) => {
            Failure::new(ErrorCode::Internal, "the index did not end as it should").because(&error)
        }
    })
}

/// An invitation for the ready line.
async fn ticket(index: &RunningIndex) -> Result<String, Failure> {
    let ticket = index.invite(Invitation::default()).await;
    let ticket = ticket.map_err(|error| Failure::new(ErrorCode::Disk, "no ticket can be made").because(error))?;
    Ok(ticket.to_string())
}

/// One process at a time uses a home.
fn lock(home: &Home) -> Result<HomeLock, Failure> {
    HomeLock::take(home).map_err(|error| match &error {
        HomeError::Locked { .. } => Failure::new(ErrorCode::HomeLocked, "haul runs here already")
            .because(&error)
            .next("ask it: haul status        for another peer on this machine: export HAUL_HOME=/another/folder"),
        HomeError::Io { .. } => {
            Failure::new(ErrorCode::Disk, "haul's folders cannot be used").because(&error).next("see: haul config show")
        }
    })
}

/// Addresses on the command line as a layer of the configuration.
fn flags(addresses: &[(&'static str, Option<SocketAddr>)]) -> Vec<(&'static str, Value)> {
    addresses.iter().filter_map(|(key, address)| Some((*key, Value::Text((*address)?.to_string())))).collect()
}

/// An address that can be dialled from this machine: the unspecified address listens everywhere and is nowhere.
fn shown(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    address.to_string()
}
