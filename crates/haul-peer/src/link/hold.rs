//! The task behind the link: opens sessions, holds them by renewing, and lets go of them.

use std::sync::Arc;
use std::time::Duration;

use haul_core::limits;
use haul_core::registry::leases::renew_after;
use haul_core::time::Timestamp;
use haul_core::trust::Ticket;
use haul_core::wire;
use haul_core::wire::index::{IndexAnswer, IndexPush, IndexRequest, Refusal};
use haul_net::clock;
use haul_net::connection::{Inbound, Inbox};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::backoff::{Backoff, chance};
use super::membership::{self, Membership};
use super::session::{AttemptError, Caller, Opened, Session};
use super::{Command, LinkError, LinkSettings, LinkState, Shared, error_of};
use crate::register;

/// A renewal that is not answered by then means that the session is lost.
const RENEWAL_DEADLINE: Duration = Duration::from_secs(15);
/// Time for the index to confirm a Leave while this peer stops.
const LEAVE_DEADLINE: Duration = Duration::from_secs(3);
/// Shortest time between two attempts, however often commands ask for one.
const ATTEMPT_GAP: Duration = Duration::from_secs(1);
/// Wait after a refusal that will not change by itself.
const REFUSED_WAIT: Duration = Duration::from_mins(5);
/// A session that lasted this long makes the next failure the first one again.
const STEADY: Duration = Duration::from_secs(30);

type Reply = oneshot::Sender<Result<(), LinkError>>;

/// Why a session is over.
enum Ending {
    Shutdown,
    Left(Reply),
    Lost(String, Option<Duration>),
}

pub(super) struct Keeper {
    settings: LinkSettings,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    shutdown: CancellationToken,
    /// A ticket that somebody waits to join with.
    joining: Option<(Box<Ticket>, Reply)>,
    backoff: Backoff,
    attempts: u64,
    /// Since when there is no session.
    alone_since: Timestamp,
}

impl Keeper {
    pub(super) fn new(
        settings: LinkSettings,
        shared: Arc<Shared>,
        commands: mpsc::Receiver<Command>,
        shutdown: CancellationToken,
    ) -> Self {
        let alone_since = clock::wall_now();
        Self {
            settings,
            shared,
            commands,
            shutdown,
            joining: None,
            backoff: Backoff::default(),
            attempts: 0,
            alone_since,
        }
    }

    pub(super) async fn run(mut self) {
        while !self.shutdown.is_cancelled() {
            if self.joining.is_none() && self.shared.membership.borrow().is_none() {
                self.set(LinkState::NotJoined);
                self.idle(None).await;
                continue;
            }
            self.set(LinkState::Connecting { since: self.alone_since });
            self.attempts += 1;
            let shutdown = self.shutdown.clone();
            let attempt = tokio::select! {
                attempt = self.attempt() => attempt,
                () = shutdown.cancelled() => break,
            };
            match attempt {
                Ok(opened) => self.follow(opened).await,
                Err(error) => self.failed(error).await,
            }
        }
        self.commands.close();
        while let Ok(Command::Join(_, reply) | Command::Leave(reply)) = self.commands.try_recv() {
            answer(reply, Err(LinkError::Stopping));
        }
        if let Some((_, reply)) = self.joining.take() {
            answer(reply, Err(LinkError::Stopping));
        }
        self.shared.watches.stop();
        self.set(LinkState::Stopped);
    }

    fn set(&self, state: LinkState) {
        self.shared.state.send_replace(state);
    }

    async fn attempt(&self) -> Result<Opened, AttemptError> {
        let membership = self.shared.membership.borrow().clone();
        let ticket = self.joining.as_ref().map(|(ticket, _)| ticket.as_ref());
        let Some(network) = ticket.map(|ticket| ticket.network).or(membership.as_ref().map(|known| known.network))
        else {
            return Err(AttemptError::Unreachable("this peer is in no network".into()));
        };
        let mut addresses: Vec<String> = ticket.map(|ticket| ticket.addresses.clone()).unwrap_or_default();
        addresses.extend(membership.iter().flat_map(|known| known.addresses.iter().cloned()));
        let caller = Caller {
            key: &self.settings.key,
            name: &self.settings.name,
            peer_port: self.settings.peer_port,
            addresses: &self.settings.addresses,
            network,
            known_index: membership.as_ref().map(|known| known.index),
            certificate: membership.as_ref().map(|known| known.certificate_bytes.as_slice()),
            ticket,
        };
        caller.open(self.settings.memory.as_ref(), &addresses).await
    }

    /// A session opened: stores what it brought, holds it, and cleans up behind it.
    async fn follow(&mut self, (session, inbox, word, _lease): Opened) {
        let ticket_addresses = self.joining.as_ref().map(|(ticket, _)| ticket.addresses.clone()).unwrap_or_default();
        let mut addresses: Vec<String> = session.address.iter().cloned().collect();
        addresses.extend(self.shared.membership.borrow().iter().flat_map(|known| known.addresses.iter().cloned()));
        addresses.extend(ticket_addresses);
        let mut seen = std::collections::BTreeSet::new();
        addresses.retain(|address| seen.insert(address.clone()));
        addresses.truncate(limits::ADDRESSES);
        let membership = Membership {
            network: word.network,
            certificate: session.certificate.clone(),
            certificate_bytes: session.certificate_bytes.clone(),
            index: session.index,
            addresses,
        };
        self.shared.standing.hear(word);
        self.shared.membership.send_replace(Some(membership));
        let stored = self.store().await;
        info!(index = %session.index.short(), "session with the index is open");
        let opened = Instant::now();
        self.set(LinkState::Connected(session.clone()));
        if let Some((_, reply)) = self.joining.take() {
            answer(reply, stored);
        } else if let Err(error) = stored {
            warn!(%error, "the membership is not stored");
        }
        let ending = self.hold(&session, inbox).await;
        self.alone_since = clock::wall_now();
        if opened.elapsed() >= STEADY {
            self.backoff.succeed();
        }
        match ending {
            Ending::Shutdown => self.shared.standing.lose(clock::boot_now()),
            Ending::Left(reply) => {
                let forgotten = self.forget().await;
                self.set(LinkState::NotJoined);
                answer(reply, forgotten);
            }
            Ending::Lost(reason, retry_after) => {
                warn!(reason, "the session with the index is lost");
                self.shared.standing.lose(clock::boot_now());
                let wait = self.backoff.fail(chance(), retry_after);
                let error = AttemptError::Unreachable(reason);
                self.set(LinkState::Waiting { since: self.alone_since, error, attempt: self.attempts });
                self.idle(Some((wait, true))).await;
            }
        }
    }

    async fn failed(&mut self, error: AttemptError) {
        debug!(%error, "no session with the index");
        if let Some((_, reply)) = self.joining.take() {
            answer(reply, Err(error_of(self.alone_since, &error)));
            if self.shared.membership.borrow().is_none() {
                return;
            }
        }
        let (wait, nudged) = match &error {
            AttemptError::Refused(Refusal::Busy { retry_after_ms }) => {
                (self.backoff.fail(chance(), Some(Duration::from_millis(*retry_after_ms))), false)
            }
            AttemptError::Refused(_) | AttemptError::Untrusted(_) => (REFUSED_WAIT.mul_f64(0.5 + chance()), false),
            _ => (self.backoff.fail(chance(), None), true),
        };
        self.set(LinkState::Waiting { since: self.alone_since, error, attempt: self.attempts });
        self.idle(Some((wait, nudged))).await;
    }

    /// Waits for a command, for the time to try again, or for somebody who needs the index now.
    async fn idle(&mut self, wait: Option<(Duration, bool)>) {
        let started = Instant::now();
        let nudged = wait.is_some_and(|(_, nudged)| nudged);
        let sleep = async {
            match wait {
                Some((wait, _)) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        // Commands may ask for an attempt, but attempts keep their distance.
        let nudge = async {
            self.shared.nudge.notified().await;
            tokio::time::sleep(ATTEMPT_GAP.saturating_sub(started.elapsed())).await;
        };
        tokio::select! {
            () = self.shutdown.cancelled() => {}
            () = sleep => {}
            () = nudge, if nudged => {}
            command = self.commands.recv() => match command {
                Some(command) => self.obey(command).await,
                None => self.shutdown.cancelled().await,
            },
        }
    }

    /// A command while there is no session.
    async fn obey(&mut self, command: Command) {
        match command {
            Command::Join(ticket, reply) => {
                let other = self.shared.membership.borrow().as_ref().map(|known| known.network);
                match other.filter(|network| *network != ticket.network) {
                    Some(network) => answer(reply, Err(LinkError::OtherNetwork(network))),
                    None => self.joining = Some((ticket, reply)),
                }
            }
            Command::Leave(reply) => {
                let joined = self.shared.membership.borrow().is_some();
                let left = if joined { self.forget().await } else { Err(LinkError::NotJoined) };
                answer(reply, left);
            }
        }
    }

    /// Renews until the session is over.
    async fn hold(&mut self, session: &Arc<Session>, inbox: Inbox) -> Ending {
        let registering = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(follow(self.shared.clone(), session.clone(), inbox));
        if let Some(shares) = self.settings.shares.clone() {
            let (session, token) = (session.clone(), registering.clone());
            tasks.spawn(async move { register::run(shares, session, token).await.0 });
        }
        let ending = loop {
            let index_time = self.shared.standing.index_time(clock::boot_now()).unwrap_or_default();
            let timer = tokio::time::sleep(renew_after(index_time, chance()));
            tokio::pin!(timer);
            let ending = loop {
                tokio::select! {
                    () = self.shutdown.cancelled() => break Some(Ending::Shutdown),
                    reason = session.connection.closed() => break Some(Ending::Lost(reason.to_string(), None)),
                    Some(ended) = tasks.join_next() => {
                        let reason = ended.unwrap_or_else(|error| format!("a task of the session failed: {error}"));
                        break Some(Ending::Lost(reason, None));
                    }
                    command = self.commands.recv() => match command {
                        Some(Command::Leave(reply)) => break Some(Ending::Left(reply)),
                        Some(Command::Join(ticket, reply)) => self.join_again(&ticket, reply).await,
                        None => break Some(Ending::Shutdown),
                    },
                    () = &mut timer => break None,
                }
            };
            match ending {
                Some(ending) => break ending,
                None => {
                    if let Err(ending) = self.renew(session).await {
                        break ending;
                    }
                }
            }
        };
        registering.cancel();
        if matches!(ending, Ending::Shutdown | Ending::Left(_)) {
            let leaving = session.connection.request::<_, IndexAnswer>(&IndexRequest::Leave);
            if tokio::time::timeout(LEAVE_DEADLINE, leaving).await.is_err() {
                debug!("the index did not confirm the farewell");
            }
        }
        session.connection.close("leaving");
        while tasks.join_next().await.is_some() {}
        ending
    }

    async fn renew(&self, session: &Session) -> Result<(), Ending> {
        let asked = tokio::time::timeout(RENEWAL_DEADLINE, session.connection.request(&IndexRequest::Renew)).await;
        match asked {
            Ok(Ok(IndexAnswer::Renewed(renewed))) => {
                let fresh = renewed.grant.is_some();
                self.shared.standing.renew(renewed.grant, renewed.time, clock::boot_now(), renewed.revoked);
                if fresh && let Err(error) = self.store().await {
                    warn!(%error, "the grant is not stored");
                }
                Ok(())
            }
            Ok(Ok(IndexAnswer::Refused(Refusal::Busy { retry_after_ms }))) => {
                Err(Ending::Lost("the index is busy".into(), Some(Duration::from_millis(retry_after_ms))))
            }
            Ok(Ok(IndexAnswer::Refused(refusal))) => Err(Ending::Lost(super::refusal_words(&refusal), None)),
            Ok(Ok(_)) => Err(Ending::Lost("the index answered a renewal with something else".into(), None)),
            Ok(Err(error)) => Err(Ending::Lost(error.to_string(), None)),
            Err(_) => Err(Ending::Lost("the index did not answer a renewal".into(), None)),
        }
    }

    /// A ticket for the network of the open session brings addresses at most.
    async fn join_again(&self, ticket: &Ticket, reply: Reply) {
        let known = self.shared.membership.borrow().clone();
        let result = match known {
            Some(mut known) if known.network == ticket.network => {
                for address in &ticket.addresses {
                    if !known.addresses.contains(address) && known.addresses.len() < limits::ADDRESSES {
                        known.addresses.push(address.clone());
                    }
                }
                self.shared.membership.send_replace(Some(known));
                self.store().await
            }
            Some(known) => Err(LinkError::OtherNetwork(known.network)),
            None => Err(LinkError::NotJoined),
        };
        answer(reply, result);
    }

    async fn store(&self) -> Result<(), LinkError> {
        let (Some(path), Some(membership), Some(word)) =
            (self.settings.file.clone(), self.shared.membership.borrow().clone(), self.shared.standing.word())
        else {
            return Ok(());
        };
        let written = tokio::task::spawn_blocking(move || membership::store(&path, &membership, &word)).await;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(LinkError::Storage(error.to_string())),
            Err(error) => Err(LinkError::Storage(error.to_string())),
        }
    }

    async fn forget(&self) -> Result<(), LinkError> {
        self.shared.standing.forget();
        if let Some(shares) = &self.settings.shares {
            shares.withdraw_downloads();
        }
        self.shared.membership.send_replace(None);
        let Some(path) = self.settings.file.clone() else { return Ok(()) };
        match tokio::fs::remove_file(path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(LinkError::Storage(error.to_string())),
            _ => Ok(()),
        }
    }
}

/// Serves one session: what stands at the index is placed there, and what it pushes is handed out. Returns why it ended.
async fn follow(shared: Arc<Shared>, session: Arc<Session>, mut inbox: Inbox) -> String {
    let (watches, swarms) = (&shared.watches, &shared.swarms);
    watches.begin_session();
    swarms.begin_session();
    let reading = async {
        while let Some(inbound) = inbox.next().await {
            // An index asks nothing of a peer; revocations come with every renewal, too.
            let Inbound::Push(bytes) = inbound else { continue };
            match wire::decode(&bytes) {
                Ok(IndexPush::Match { watch, hits, missed }) => watches.deliver(watch, hits, missed),
                Ok(push) => swarms.deliver(push),
                Err(error) => debug!(%error, "a push of the index is not understood"),
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = watches.carry_out_orders(&session) => {}
        () = swarms.carry_out_orders(&session) => {}
    }
    session.connection.closed().await.to_string()
}

/// Replies; one who asked and went away needs no answer.
fn answer(reply: Reply, result: Result<(), LinkError>) {
    drop(reply.send(result));
}
