//! One peer's session: from a stranger's first request to the end of the connection.
//!
//! Questions that memory answers never come here: the connection's task answers them where it reads them. The session
//! is one task. What else it is asked runs as futures within it: answers overtake each other and whatever waits for the
//! disk; changes of one share run in the order in which they came. A panic ends this session
//! and no other.

mod answers;
mod at_once;
mod greeting;
mod registration;
mod swarming;
mod watching;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use haul_core::ids::{PeerId, ShareId};
use haul_core::registry::addresses::Origin;
use haul_core::registry::leases::ConnectionId;
use haul_core::registry::session::{SessionState, Verdict};
use haul_core::time::Timestamp;
use haul_core::wire::index::{IndexAnswer, IndexRequest, Refusal};
use haul_net::connection::{Connection, Inbound, InboundRequest, Inbox};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::admission::{Allowance, ConnectionCount};
use crate::state::IndexState;
use crate::store::{Asker, IndexStore};
use at_once::AtOnce;
use registration::Registration;
use swarming::Swarming;
use watching::Watching;

/// A connection whose handshake is done.
#[derive(Debug)]
pub struct Caller {
    /// The connection.
    pub connection: Connection,
    /// What it asks.
    pub inbox: Inbox,
    /// Where it comes from.
    pub origin: Origin,
    /// The address of this index that it goes to, if it is a socket's.
    pub reached: Option<IpAddr>,
    /// Counts the connection while it is served; none within this process.
    pub counted: Option<ConnectionCount>,
}

/// Serves one connection until it ends or `stop`. Returns once nothing of the session is left.
pub async fn run<S: IndexStore>(state: Arc<IndexState<S>>, caller: Caller, stop: CancellationToken) {
    let connection = caller.connection.clone();
    let peer = connection.remote();
    let id = Arc::new(Mutex::new(None));
    let session = serve(Arc::clone(&state), caller, stop.clone(), Arc::clone(&id));
    if AssertUnwindSafe(session).catch_unwind().await.is_err() {
        tracing::error!(peer = peer.short(), "a session failed unexpectedly; only this connection is closed");
        connection.close("an internal error of the index");
    }
    let id = id.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    // When the index itself stops, leases go on: a peer whose index restarts quickly was never away.
    if let Some(id) = id
        && !stop.is_cancelled()
    {
        Box::pin(state.disconnect(id, peer)).await;
    }
}

type OpenedAs = Arc<Mutex<Option<ConnectionId>>>;

async fn serve<S: IndexStore>(
    state: Arc<IndexState<S>>,
    mut caller: Caller,
    stop: CancellationToken,
    opened_as: OpenedAs,
) {
    let greeting = tokio::select! {
        biased;
        () = stop.cancelled() => Err("the index is shutting down".to_owned()),
        // Boxed, so that an open session does not keep room for it.
        greeting = Box::pin(greeting::greet(&state, &mut caller, &opened_as)) => greeting,
    };
    let (machine, session) = match greeting {
        Ok(opened) => opened,
        Err(reason) => return caller.connection.close(reason),
    };
    session.connection.answer_at_once(Arc::new(AtOnce::new(Arc::clone(&session.visitor))));
    let mut work = Work { session: Arc::new(session), machine, jobs: FuturesUnordered::new(), lanes: HashMap::new() };
    let reason = tokio::select! {
        biased;
        () = stop.cancelled() => "the index is shutting down".to_owned(),
        reason = work.run(&mut caller.inbox) => reason,
    };
    work.session.connection.close(reason);
    Box::pin(work.finish(&stop, &opened_as)).await;
}

/// Who asks, and what an answer depends on. It does not hold the connection open.
#[derive(Debug)]
pub(crate) struct Visitor<S> {
    state: Arc<IndexState<S>>,
    id: ConnectionId,
    peer: PeerId,
    asker: Asker,
    origin: Origin,
    reached: Option<IpAddr>,
    /// A guest's end.
    until: Option<Timestamp>,
    /// When the newest grant was issued.
    granted: Mutex<Timestamp>,
    allowance: Arc<Allowance>,
}

/// An open session, as its jobs see it.
#[derive(Debug)]
pub(crate) struct Session<S> {
    visitor: Arc<Visitor<S>>,
    connection: Connection,
    registration: Registration,
    watching: Watching,
    swarming: Swarming,
    /// For questions whose answers may be large: no more of these are made than can wait to be written.
    large_answers: Semaphore,
}

impl<S> Deref for Session<S> {
    type Target = Visitor<S>;
    fn deref(&self) -> &Visitor<S> {
        &self.visitor
    }
}

/// What a finished job leaves to do.
enum Done {
    Nothing,
    /// The next change of this share may run.
    Share(ShareId),
    /// The session ends.
    End(&'static str),
}

type Job = BoxFuture<'static, Done>;

struct Work<S> {
    session: Arc<Session<S>>,
    machine: SessionState,
    jobs: FuturesUnordered<Job>,
    /// Changes that wait behind the one that runs, for each share that has one running.
    lanes: HashMap<ShareId, VecDeque<(InboundRequest, IndexRequest)>>,
}

impl<S: IndexStore> Work<S> {
    /// Until the connection or the session ends; returns why.
    async fn run(&mut self, inbox: &mut Inbox) -> String {
        loop {
            tokio::select! {
                biased;
                Some(done) = self.jobs.next(), if !self.jobs.is_empty() => match done {
                    Done::Nothing => {}
                    Done::Share(share) => self.next_in_lane(share),
                    Done::End(reason) => return reason.to_owned(),
                },
                inbound = inbox.next() => match inbound {
                    None => return "the connection ended".to_owned(),
                    // No message of this version; later ones may have some.
                    Some(Inbound::Push(_)) => {}
                    Some(Inbound::Request(request)) => {
                        if let Err(reason) = Box::pin(self.take(request)).await {
                            return reason;
                        }
                    }
                },
            }
        }
    }

    async fn take(&mut self, inbound: InboundRequest) -> Result<(), String> {
        let request = match inbound.decode::<IndexRequest>() {
            Ok(request) => request,
            Err(error) => return Err(format!("a request is not understood: {error}")),
        };
        match self.machine.handle_request(self.session.state.authority.network(), &request) {
            Verdict::Serve => self.start(inbound, request),
            Verdict::Refuse(refusal) => self.refuse(inbound, refusal),
            Verdict::Close(refusal) => {
                let reason = format!("refused: {refusal:?}");
                let _ = inbound.answer(&IndexAnswer::Refused(refusal)).await;
                return Err(reason);
            }
            Verdict::Introduce | Verdict::CheckHello => return Err("the session is open already".to_owned()),
        }
        Ok(())
    }

    fn start(&mut self, inbound: InboundRequest, request: IndexRequest) {
        // At once, so that they take effect in the order in which they came.
        if let Some(answer) = watching::answer(&self.session, &request) {
            if let Some(delivery) = watching::delivery(&self.session) {
                self.jobs.push(delivery);
            }
            self.answer(inbound, answer);
            return;
        }
        if swarming::is_about_swarms(&request)
            && let Some(delivery) = swarming::delivery(&self.session)
        {
            self.jobs.push(delivery);
        }
        match self.session.registration.lane(&request) {
            None => {
                let session = Arc::clone(&self.session);
                self.jobs.push(answers::answer(session, inbound, request).boxed());
            }
            Some(Err(refusal)) => self.refuse(inbound, refusal),
            Some(Ok(share)) => {
                if let Some(waiting) = self.lanes.get_mut(&share) {
                    waiting.push_back((inbound, request));
                } else {
                    self.lanes.insert(share, VecDeque::new());
                    self.start_change(share, inbound, request);
                }
            }
        }
    }

    fn next_in_lane(&mut self, share: ShareId) {
        match self.lanes.get_mut(&share).and_then(VecDeque::pop_front) {
            Some((inbound, request)) => self.start_change(share, inbound, request),
            None => drop(self.lanes.remove(&share)),
        }
    }

    fn start_change(&mut self, share: ShareId, inbound: InboundRequest, request: IndexRequest) {
        let session = Arc::clone(&self.session);
        let job = async move {
            let answer = registration::change(&session, request).await;
            let _ = inbound.answer(&answer).await;
            Done::Share(share)
        };
        self.jobs.push(job.boxed());
    }

    fn refuse(&mut self, inbound: InboundRequest, refusal: Refusal) {
        self.answer(inbound, IndexAnswer::Refused(refusal));
    }

    /// Answers as a job too: the session goes on reading while the other side does not.
    fn answer(&mut self, inbound: InboundRequest, answer: IndexAnswer) {
        let job = async move {
            let _ = inbound.answer(&answer).await;
            Done::Nothing
        };
        self.jobs.push(job.boxed());
    }

    /// Hides the peer at once, while what had begun comes to its end; what waited is dropped.
    async fn finish(mut self, stop: &CancellationToken, opened_as: &OpenedAs) {
        self.lanes.clear();
        self.session.watching.end();
        self.session.swarming.end();
        let session = Arc::clone(&self.session);
        let id = opened_as.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let leave = async {
            if let Some(id) = id
                && !stop.is_cancelled()
            {
                session.state.disconnect(id, session.peer).await;
            }
        };
        let jobs = async { while self.jobs.next().await.is_some() {} };
        tokio::join!(leave, jobs);
        session.registration.abort_all(&session.state.store).await;
    }
}
