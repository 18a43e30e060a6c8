//! `haul up` and `haul peer`: a peer, in `up` with an index of its own unless it belongs to another one's network.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use haul_core::trust::{Role, Ticket};
use haul_core::wire::Label;
use haul_index::{Invitation, RunningIndex};
use haul_net::identity::SecretKey;
use haul_peer::api::codes::ErrorCode;
use haul_peer::api::records::{Ready, Record};
use haul_peer::api::requests::AddShareRequest;
use haul_peer::config::{Config, Home, Value};
use haul_peer::daemon::{Daemon, DaemonConfig, PartEnded, RunningDaemon, StartError};
use haul_peer::link::MemoryIndex;
use tokio_util::sync::CancellationToken;

use super::stop::Signals;
use super::{announce, flags, follow, index_state, is_default, lock, log, shown, start_index, stop_index, ticket};
use crate::args::{PeerArgs, UpArgs};
use crate::commands::shares;
use crate::context::Context;
use crate::errors::Failure;
use crate::exit::Exit;
use crate::tickets;

/// The ticket of the first member never leaves this process.
const FIRST_TICKET_LIFE: Duration = Duration::from_mins(1);

/// What was asked for on the command line.
struct Wish {
    shares: Vec<PathBuf>,
    flags: Vec<(&'static str, Value)>,
    join: Option<String>,
    yes: bool,
    /// Whether an index may run in this process.
    may_have_index: bool,
}

/// Runs `haul up`.
pub(crate) async fn up(context: &Context, args: &UpArgs) -> Result<Exit, Failure> {
    let addresses = [("listen", args.listen), ("index_listen", args.index_listen), ("web_listen", args.web_listen)];
    let wish = Wish {
        shares: args.shares.clone(),
        flags: with_name(flags(&addresses), args.name.as_ref()),
        join: args.join.clone(),
        yes: args.yes,
        may_have_index: true,
    };
    stay(context, wish).await
}

/// Runs `haul peer`.
pub(crate) async fn peer(context: &Context, args: &PeerArgs) -> Result<Exit, Failure> {
    let wish = Wish {
        shares: args.shares.clone(),
        flags: with_name(flags(&[("listen", args.listen), ("web_listen", args.web_listen)]), args.name.as_ref()),
        join: args.join.clone(),
        yes: args.yes,
        may_have_index: false,
    };
    stay(context, wish).await
}

fn with_name(mut flags: Vec<(&'static str, Value)>, name: Option<&String>) -> Vec<(&'static str, Value)> {
    flags.extend(name.map(|name| ("name", Value::Text(name.clone()))));
    flags
}

async fn stay(context: &Context, wish: Wish) -> Result<Exit, Failure> {
    let mut signals = Signals::listen()?;
    log::start(context);
    let home = context.home()?;
    let config = load(context, &wish)?;
    let join = join_ticket(&wish, &config)?;
    let wanted = wish.shares.iter().cloned().chain(config.list("shares").iter().map(PathBuf::from));
    let shares = wanted.map(|path| shares::add_request(&path, wish.yes)).collect::<Result<Vec<_>, _>>()?;
    // The daemon takes the lock for good; this look comes before the index opens its files.
    drop(lock(&home)?);
    let index = if wish.may_have_index && join.is_none() && !is_member_elsewhere(&home)? {
        Some(Arc::new(start_index(&home, &config).await?))
    } else {
        None
    };
    let outcome = run_peer(context, &mut signals, Plan { home, config, join, shares, index: index.as_ref() }).await;
    // The peer has ended, so nobody else holds the index; it ends last, to hear the peer leave.
    if let Some(index) = index.and_then(Arc::into_inner) {
        outcome.and(signals.force(stop_index(index)).await)?;
    } else {
        outcome?;
    }
    Ok(Exit::DONE)
}

fn load(context: &Context, wish: &Wish) -> Result<Config, Failure> {
    crate::commands::load_config(context, &wish.flags)
}

/// The ticket of `--join` or the configuration (`HAUL_TICKET` is a layer of it).
fn join_ticket(wish: &Wish, config: &Config) -> Result<Option<Ticket>, Failure> {
    let source = match (&wish.join, config.text("ticket")) {
        (Some(source), _) => source,
        (None, Some(source)) => source,
        (None, None) => return Ok(None),
    };
    let ticket = tickets::read(source)?;
    Ok(Some(ticket.parse().expect("the ticket was checked when it was read")))
}

/// Whether this home belongs to a network that is not its own index's.
fn is_member_elsewhere(home: &Home) -> Result<bool, Failure> {
    let Some(joined) = Daemon::stored_network(home).map_err(|error| not_started(&error))? else { return Ok(false) };
    let own = SecretKey::load(&index_state(home).join("network.key"));
    let own = own.map_err(|error| Failure::new(ErrorCode::Disk, "the network's key cannot be read").because(error))?;
    Ok(own.is_none_or(|key| key.public() != joined))
}

struct Plan<'a> {
    home: Home,
    config: Config,
    join: Option<Ticket>,
    shares: Vec<AddShareRequest>,
    index: Option<&'a Arc<RunningIndex>>,
}

/// Runs the peer until a signal, or until a part of it ends by itself.
async fn run_peer(context: &Context, signals: &mut Signals, plan: Plan<'_>) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    let daemon = signals.unless(start_daemon(context, &plan, &stop)).await?;
    let ready = complete(daemon.ready().clone(), plan.index).await;
    let link = daemon.context().link.clone();
    let mut running = pin!(daemon.join());
    let serve = async {
        share_all(context, &plan.shares).await?;
        announce::peer(context, &ready?)?;
        follow::shares(context).await?;
        std::future::pending().await
    };
    let index_stopped = async {
        match plan.index {
            Some(index) => index.stopped().await,
            None => std::future::pending().await,
        }
    };
    let outcome = tokio::select! {
        failed = serve => failed,
        signal = signals.wait(index_stopped) => signal,
        ended = &mut running => return ended.map_err(|error| ended_early(&error)),
    };
    if outcome.is_ok() {
        // A further signal ends the stay, not the leaving.
        tokio::select! {
            () = link.leaving(announce::needed(context)) => {}
            () = signals.next() => {}
            ended = &mut running => return ended.map_err(|error| ended_early(&error)),
        }
    }
    stop.cancel();
    let ended = signals.force(async { running.await.map_err(|error| ended_early(&error)) }).await;
    outcome.and(ended)
}

fn ended_early(error: &PartEnded) -> Failure {
    Failure::new(ErrorCode::Internal, "a part of haul ended by itself, so all of it ended")
        .because(error)
        .next("start it again; its log says more with -v")
}

/// Starts the daemon. Of the usual ports, those that are taken give way to free ones: several peers run on a machine.
async fn start_daemon(context: &Context, plan: &Plan<'_>, stop: &CancellationToken) -> Result<RunningDaemon, Failure> {
    let mut settings = DaemonConfig::new(plan.home.clone());
    settings.name = plan.config.text("name").and_then(|name| Label::new(name).ok());
    settings.listen = plan.config.address("listen").into_iter().collect();
    settings.web_listen = plan.config.address("web_listen");
    settings.advertise = plan.config.list("advertise").to_vec();
    settings.limits = plan.config.limits();
    settings.join.clone_from(&plan.join);
    settings.ticket_when_ready = plan.index.is_none();
    if let Some(index) = plan.index {
        settings.index_addresses = index.ticket_addresses();
        settings.memory_index = Some(memory_index(index));
        settings.join = first_ticket(index, &plan.home).await?;
    }
    loop {
        let error = match Daemon::start(settings.clone(), stop.child_token()).await {
            Ok(daemon) => return Ok(daemon),
            Err(error) => error,
        };
        let StartError::Listen { address, .. } = &error else { return Err(not_started(&error)) };
        let mut gave_way = false;
        let usual = [("listen", settings.listen.first_mut()), ("web_listen", settings.web_listen.as_mut())];
        for (key, place) in usual {
            if let Some(place) = place.filter(|place| place.port() != 0 && place.to_string() == *address)
                && is_default(&plan.config, key)
            {
                place.set_port(0);
                gave_way = true;
            }
        }
        if !gave_way {
            return Err(not_started(&error));
        }
        if context.output.is_human() && !context.output.quiet {
            context.output.note(format!("  {address} is taken; another port is used"));
        }
    }
}

/// The first member of a network is the peer beside its index; it may invite and remove others.
async fn first_ticket(index: &RunningIndex, home: &Home) -> Result<Option<Ticket>, Failure> {
    if Daemon::stored_network(home).map_err(|error| not_started(&error))?.is_some() {
        return Ok(None);
    }
    let invitation =
        Invitation { uses: 1, life: FIRST_TICKET_LIFE, role: Role::Admin, groups: Vec::new(), one_user: false };
    let ticket = index.invite(invitation).await;
    ticket.map(Some).map_err(|error| Failure::new(ErrorCode::Disk, "the network could not be begun").because(error))
}

/// The index as the link of this process reaches it. Weak: the one who started the index ends it.
fn memory_index(index: &Arc<RunningIndex>) -> MemoryIndex {
    let weak = Arc::downgrade(index);
    MemoryIndex {
        key: index.index_key(),
        connect: Arc::new(move |peer| Some(Box::new(weak.upgrade()?.connect_in_memory(peer)))),
    }
}

fn not_started(error: &StartError) -> Failure {
    Failure::from_problem(error.problem())
}

/// What the index of this process adds to the ready line.
async fn complete(mut ready: Ready, index: Option<&Arc<RunningIndex>>) -> Result<Ready, Failure> {
    if let Some(index) = index {
        ready.network = Some(index.network().to_string());
        ready.index = Some(index.index_key().to_string());
        ready.index_addr = index.addresses().first().map(|address| shown(*address));
        ready.ticket = Some(ticket(index).await?);
    }
    Ok(ready)
}

/// Adds what is not shared yet.
async fn share_all(context: &Context, requests: &[AddShareRequest]) -> Result<(), Failure> {
    if requests.is_empty() {
        return Ok(());
    }
    let daemon = context.daemon().await?;
    let mut known = Vec::new();
    for line in daemon.get("/v1/shares").await?.all().await? {
        if let Some(Record::Share(share)) = line.record {
            known.push(share.path);
        }
    }
    for request in requests.iter().filter(|request| !known.contains(&request.path)) {
        shares::add_asking(context, daemon, request.clone(), &mut |_| Ok(())).await?;
    }
    Ok(())
}
