//! The tasks of a running index: accepting, leases, maintenance, watches; and the order in which they end.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use haul_core::ids::PeerId;
use haul_core::limits;
use haul_core::registry::addresses::Origin;
use haul_core::registry::budget::Budget;
use haul_net::clock;
use haul_net::connection::{Connection, ConnectionSettings};
use haul_net::listener::{Accepted, Listener};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::RunError;
use crate::session::{self, Caller};
use crate::state::IndexState;
use crate::store::IndexStore;
use crate::watches;
use crate::web::Web;

/// Time for sessions, and then for their connections, to end.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// How often leases are looked at. The timer stands still while the machine sleeps, so it cannot be set for the end of
/// a lease; it is set often instead, and looks at the boot clock.
const LEASE_TICK: Duration = Duration::from_secs(1);
/// Ticks between notes of lease ends on disk.
const NOTE_TICKS: u32 = 5;
/// Work of the store at a time, so that sessions on the same thread wait no longer.
const MAINTENANCE_BUDGET: Duration = Duration::from_millis(10);
const MAINTENANCE_IDLE: Duration = Duration::from_secs(1);
const MAINTENANCE_RETRY: Duration = Duration::from_secs(10);
/// How often it is looked who shares what is downloaded: whoever came is used, whoever left is not planned for.
const OWNERS_TICK: Duration = Duration::from_secs(1);
/// Microseconds of planning that may be made up for: what is due in two ticks.
const PLANNING_SAVED: u64 = limits::PLANNING_PER_SECOND / 5;
/// How often tickets, guests and the index certificate are looked at.
const HOUSEKEEPING: Duration = Duration::from_hours(1);

/// A connection from within this process.
#[derive(Debug)]
pub struct MemoryArrival {
    /// The peer, whose key this process vouches for.
    pub peer: PeerId,
    /// This side's end.
    pub transport: DuplexStream,
}

/// Where connections come from.
pub struct Listeners {
    /// Sockets, if it listens on any.
    pub sockets: Option<Listener>,
    /// Connections from within this process.
    pub memory: mpsc::Receiver<MemoryArrival>,
}

/// Serves until `shutdown`, then ends everything in order. Cancels `shutdown` if it stops by itself.
pub async fn run<S: IndexStore>(
    state: Arc<IndexState<S>>,
    listeners: Listeners,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let (accepting, serving, background) =
        (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let tasks = Tasks { sessions: TaskTracker::new(), connections: TaskTracker::new() };
    let mut children = JoinSet::new();
    let accept = accept(Arc::clone(&state), listeners, tasks.clone(), accepting.clone(), serving.clone());
    children.spawn(named("accept", accept.boxed()));
    children.spawn(named("lease", keep_leases(Arc::clone(&state), background.clone()).boxed()));
    children.spawn(named("maintenance", maintain(Arc::clone(&state), background.clone()).boxed()));
    children.spawn(named("watch", keep_watch(Arc::clone(&state), background.clone()).boxed()));
    children.spawn(named("swarm", keep_swarms(Arc::clone(&state), background.clone()).boxed()));
    let ended_early = tokio::select! {
        () = shutdown.cancelled() => None,
        ended = children.join_next() => ended.and_then(Result::ok).or(Some("unnamed")),
    };
    shutdown.cancel();

    accepting.cancel();
    // The accept task ends by itself; the others wait for their token.
    let mut stuck = None;
    while ended_early != Some("accept") {
        match timeout(STOP_DEADLINE, children.join_next()).await {
            Ok(Some(Ok("accept")) | None) => break,
            Ok(Some(_)) => {}
            Err(_) => {
                stuck = Some("accepting");
                break;
            }
        }
    }
    serving.cancel();
    for (name, owned) in [("a session", &tasks.sessions), ("a connection", &tasks.connections)] {
        owned.close();
        if timeout(STOP_DEADLINE, owned.wait()).await.is_err() {
            stuck = Some(name);
        }
    }
    background.cancel();
    if timeout(STOP_DEADLINE, async { while children.join_next().await.is_some() {} }).await.is_err() {
        stuck = Some("maintenance");
        children.shutdown().await;
    }
    match (ended_early, stuck) {
        (Some(name), _) => Err(RunError::TaskEnded(name)),
        (None, Some(name)) => Err(RunError::Stuck(name)),
        (None, None) => Ok(()),
    }
}

#[derive(Clone)]
struct Tasks {
    sessions: TaskTracker,
    connections: TaskTracker,
}

/// A panic ends a task as a return does; its name tells which one.
async fn named(name: &'static str, task: BoxFuture<'static, ()>) -> &'static str {
    if AssertUnwindSafe(task).catch_unwind().await.is_err() {
        tracing::error!(name, "a task of the index failed unexpectedly");
    }
    name
}

async fn accept<S: IndexStore>(
    state: Arc<IndexState<S>>,
    mut listeners: Listeners,
    tasks: Tasks,
    accepting: CancellationToken,
    serving: CancellationToken,
) {
    let web = Web::default();
    loop {
        let caller = tokio::select! {
            biased;
            () = accepting.cancelled() => break,
            accepted = next_socket(&mut listeners.sockets) => match accepted {
                Accepted::Native { transport, remote, addr, local } => {
                    let counted = state.admission.connect(addr.ip());
                    let settings =
                        ConnectionSettings { tasks: tasks.connections.clone(), ..ConnectionSettings::server(Some(addr)) };
                    let (connection, inbox) = Connection::start(transport, remote, settings);
                    if counted.is_none() {
                        connection.close("too many connections from your address; close some, or try again later");
                        continue;
                    }
                    let reached = local.map(|local| local.ip());
                    Caller { connection, inbox, origin: Origin::Address(addr.ip()), reached, counted }
                }
                Accepted::Https { transport, addr } => {
                    if let Some(room) = web.admit() {
                        tasks.sessions.spawn(web.clone().serve(transport, addr, room, serving.clone()));
                    }
                    continue;
                }
            },
            Some(MemoryArrival { peer, transport }) = listeners.memory.recv() => {
                let settings =
                    ConnectionSettings { tasks: tasks.connections.clone(), ..ConnectionSettings::server(None) };
                let (connection, inbox) = Connection::start(transport, peer, settings);
                Caller { connection, inbox, origin: Origin::SameProcess, reached: None, counted: None }
            }
        };
        tasks.sessions.spawn(session::run(Arc::clone(&state), caller, serving.clone()));
    }
    if let Some(listener) = listeners.sockets {
        listener.close().await;
    }
}

async fn next_socket(sockets: &mut Option<Listener>) -> Accepted {
    match sockets {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// Ends leases that are over, and notes for the next start which ones run.
async fn keep_leases<S: IndexStore>(state: Arc<IndexState<S>>, stop: CancellationToken) {
    let mut ticks = interval(LEASE_TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut until_note = NOTE_TICKS;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        state.expire(clock::boot_now()).await;
        until_note -= 1;
        if until_note == 0 {
            until_note = NOTE_TICKS;
            note_leases(&state).await;
        }
    }
    note_leases(&state).await;
}

async fn note_leases<S: IndexStore>(state: &Arc<IndexState<S>>) {
    let notes = state.presence.take_notes();
    if notes.is_empty() {
        return;
    }
    for (peer, note) in &notes {
        if let Some(end) = note.lease_end
            && let Err(error) = state.store.heartbeat(*peer, end).await
        {
            // A share that was never opened has nothing to note.
            tracing::debug!(%error, peer = peer.short(), "a lease was not noted in the store");
        }
    }
    let state = Arc::clone(state);
    let written = tokio::task::spawn_blocking(move || state.members.note_presence(&notes)).await;
    if let Ok(Err(error)) = written {
        tracing::warn!(%error, "leases were not noted; after a restart these peers count as away until they return");
    }
}

async fn maintain<S: IndexStore>(state: Arc<IndexState<S>>, stop: CancellationToken) {
    let mut housekeeping = interval(HOUSEKEEPING);
    housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = housekeeping.tick() => keep_house(&state).await,
            () = sleep(pause) => {
                pause = match state.store.maintain(MAINTENANCE_BUDGET).await {
                    // As long as it worked: at most half of a core.
                    Ok(true) => MAINTENANCE_BUDGET,
                    Ok(false) => MAINTENANCE_IDLE,
                    Err(error) => {
                        tracing::error!(%error, "maintenance of the store failed; it is tried again");
                        MAINTENANCE_RETRY
                    }
                };
            }
        }
    }
}

async fn keep_watch<S: IndexStore>(state: Arc<IndexState<S>>, stop: CancellationToken) {
    watches::run_searches(&state.watches, &state.store, &stop).await;
}

/// Plans for swarms, a fifth of the time at most, and looks again and again who shares what is downloaded. Sleeps while
/// nobody downloads.
async fn keep_swarms<S: IndexStore>(state: Arc<IndexState<S>>, stop: CancellationToken) {
    let mut tick = interval(limits::PLAN_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looked = clock::boot_now();
    let mut share = Budget::new(looked, limits::PLANNING_PER_SECOND, PLANNING_SAVED);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = state.swarms.some_download() => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let now = clock::boot_now();
        if now.since(looked) >= OWNERS_TICK {
            looked = now;
            for (content, groups) in state.swarms.downloaded() {
                state.find_owners(content, &groups).await;
            }
        }
        let mut since = Instant::now();
        let mut may_go_on = || {
            let spent = since.elapsed().as_micros() as u64;
            since = Instant::now();
            share.handle_cost(spent);
            share.handle_question(clock::boot_now()).is_ok()
        };
        state.swarms.plan(clock::boot_now(), &mut may_go_on);
        may_go_on();
    }
}

async fn keep_house<S: IndexStore>(state: &Arc<IndexState<S>>) {
    let state = Arc::clone(state);
    let done = tokio::task::spawn_blocking(move || {
        let now = clock::wall_now();
        if let Err(error) = state.members.sweep(now) {
            tracing::warn!(%error, "tickets that ended were not swept");
        }
        if let Err(error) = state.authority.renew(now) {
            tracing::error!(%error, "the index certificate was not renewed");
        }
    });
    if let Err(error) = done.await {
        tracing::error!(%error, "housekeeping failed unexpectedly");
    }
}
