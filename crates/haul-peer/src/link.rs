//! The link to the index: one task that keeps a session open, and a handle that everybody asks through.
//!
//! ```text
//!   NotJoined ──join──▶ Connecting ──Welcome──▶ Connected ──lost──▶ Waiting ─┐
//!       ▲                   ▲  └──────failed──────────────────────▶ Waiting │
//!       └──leave────────────┴───────────────jitter or a command─────────────┘
//! ```
//!
//! While there is no session, this peer goes on serving and downloading: [`Standing`] judges grants without the index.

pub mod backoff;
pub mod cards;
mod hold;
pub mod membership;
pub mod session;
pub mod standing;
mod swarms;
mod watches;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use haul_core::ids::{BlobId, NetworkId, PeerId};
use haul_core::time::Timestamp;
use haul_core::trust::Ticket;
use haul_core::wire::index::{IndexAnswer, IndexRequest, PeerCard, Refusal, SwarmPeer};
use haul_core::wire::{Label, List};
use haul_net::identity::SecretKey;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::share::Shares;
use crate::swarm::{Seat, SwarmNews};
pub use membership::{Membership, MembershipError};
pub use session::{AttemptError, MemoryIndex, Session, refusal_words};
pub use standing::Standing;
pub use watches::{News, WatchStream};

/// How long a command waits for a session that is about to open.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks whether others still need what only this peer has.
const LEAVING_LOOK: Duration = Duration::from_millis(250);
/// How long such a look may take: an index that is gone knows of nobody who needs anything.
const LEAVING_ANSWER: Duration = Duration::from_secs(2);
/// How long one answer of the index may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// How long one question waits in all while the index is busy.
const BUSY_PATIENCE: Duration = Duration::from_secs(30);
/// What chance adds to a wait at most, as a part of it.
const BUSY_JITTER: f64 = 0.5;

/// What the link needs to know.
pub struct LinkSettings {
    /// This peer's key.
    pub key: Arc<SecretKey>,
    /// The name that it would like.
    pub name: Label,
    /// Where it serves; 0 if it does not.
    pub peer_port: u16,
    /// Further addresses of its own.
    pub addresses: Vec<String>,
    /// The file that keeps the membership; none keeps nothing.
    pub file: Option<PathBuf>,
    /// An index in this process, asked instead of all addresses.
    pub memory: Option<MemoryIndex>,
    /// Addresses of indexes that are known besides the stored ones, for tickets.
    pub index_addresses: Vec<String>,
    /// Registered on every session.
    pub shares: Option<Arc<Shares>>,
}

/// How the link is.
#[derive(Clone, Debug)]
pub enum LinkState {
    /// No network yet.
    NotJoined,
    /// On the way, for the first time or after a loss.
    Connecting {
        /// Since when there is no session.
        since: Timestamp,
    },
    /// A session is open.
    Connected(Arc<Session>),
    /// The last attempt failed; another follows by itself.
    Waiting {
        /// Since when there is no session.
        since: Timestamp,
        /// Why the last attempt failed.
        error: AttemptError,
        /// Counts the attempts.
        attempt: u64,
    },
    /// The daemon is stopping.
    Stopped,
}

/// Why the index did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No network yet.
    #[error("this peer is in no network yet")]
    NotJoined,
    /// No session.
    #[error("the index cannot be reached since {}: {reason}", crate::text::rfc3339(*since))]
    Unreachable {
        /// Since when.
        since: Timestamp,
        /// Why, in words.
        reason: String,
    },
    /// Who answers is not an index of this network.
    #[error("who answers is not an index of this network: {0}")]
    Untrusted(String),
    /// The index refuses the session.
    #[error("the index refuses this peer: {}", refusal_words(.0))]
    Shut(Refusal),
    /// The index refuses this request.
    #[error("the index refuses: {}", refusal_words(.0))]
    Refused(Refusal),
    /// The answer fits no question.
    #[error("the index gave an answer that does not fit the question")]
    Unexpected,
    /// A network already.
    #[error("this peer is a member of the network {} already", .0.short())]
    OtherNetwork(NetworkId),
    /// The certificate cannot be written.
    #[error("cannot store the certificate: {0}")]
    Storage(String),
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
}

/// Who has one blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Providers {
    /// Bytes of the blob; none if nobody has it.
    pub size: Option<u64>,
    /// Places where it is, up to [`haul_core::limits::LOCATED_PLACES`].
    pub places: u32,
    /// The peers, online ones first.
    pub cards: Vec<PeerCard>,
}

enum Command {
    Join(Box<Ticket>, oneshot::Sender<Result<(), LinkError>>),
    Leave(oneshot::Sender<Result<(), LinkError>>),
}

struct Shared {
    me: PeerId,
    state: watch::Sender<LinkState>,
    membership: watch::Sender<Option<Membership>>,
    standing: Arc<Standing>,
    commands: mpsc::Sender<Command>,
    nudge: Notify,
    index_addresses: Vec<String>,
    watches: Arc<watches::Watches>,
    swarms: Arc<swarms::Swarms>,
    /// The last time that the index asked to wait for.
    waits: watch::Sender<Duration>,
}

/// Asks the index. Clones are cheap.
#[derive(Clone)]
pub struct IndexLink {
    shared: Arc<Shared>,
}

/// Starts the link; the task ends after `shutdown`, having left the index cleanly.
pub fn start(
    settings: LinkSettings,
    shutdown: CancellationToken,
) -> Result<(IndexLink, JoinHandle<()>), MembershipError> {
    let (commands, receiver) = mpsc::channel(16);
    let stored = match &settings.file {
        Some(path) => membership::load(path, settings.key.public())?,
        None => None,
    };
    let standing = Arc::new(Standing::default());
    let membership = stored.map(|(membership, word, heard)| {
        standing.restore(word, heard);
        membership
    });
    let first = match &membership {
        Some(_) => LinkState::Connecting { since: haul_net::clock::wall_now() },
        None => LinkState::NotJoined,
    };
    let shared = Arc::new(Shared {
        me: settings.key.public(),
        state: watch::Sender::new(first),
        membership: watch::Sender::new(membership),
        standing,
        commands,
        nudge: Notify::new(),
        waits: watch::Sender::default(),
        index_addresses: settings.index_addresses.clone(),
        watches: Arc::default(),
        swarms: Arc::default(),
    });
    let task = tokio::spawn(hold::Keeper::new(settings, shared.clone(), receiver, shutdown).run());
    Ok((IndexLink { shared }, task))
}

impl IndexLink {
    /// Asks and waits for the answer. A session that opens within moments is waited for, and a question on which the
    /// session broke is asked once more: none of the questions that go through here changes anything twice.
    pub async fn ask(&self, request: &IndexRequest) -> Result<IndexAnswer, LinkError> {
        self.on_session(|session| async move { answer_of(&session, request).await }).await
    }

    /// Who has these blobs, up to `max` peers each, online ones first; `away` ones only if asked for. Blobs beyond
    /// [`haul_core::limits::LOOKUP_KEYS`] are not asked for.
    pub async fn locate(&self, blobs: &[BlobId], max: u32, away: bool) -> Result<Vec<Providers>, LinkError> {
        let request = IndexRequest::Locate { blobs: List::new(blobs.to_vec()), max, away };
        // Numbers of peers are good for one session only, so both questions go to the same.
        let request = &request;
        self.on_session(|session| async move {
            let IndexAnswer::Located(located) = answer_of(&session, request).await? else {
                return Err(LinkError::Unexpected);
            };
            let cards = session.cards.of(&session, &located.peers, !away).await?;
            let providers = located.blobs.iter().enumerate().map(|(position, blob)| Providers {
                size: (blob.total > 0).then_some(blob.size),
                places: blob.total,
                cards: located.peers_of(position).iter().filter_map(|number| cards.get(number).cloned()).collect(),
            });
            Ok(providers.collect())
        })
        .await
    }

    /// A peer did not answer at the addresses of its card: the next [`Self::locate`] that finds it asks for them again.
    pub fn forget_card(&self, peer: &PeerId) {
        if let LinkState::Connected(session) = &*self.shared.state.borrow() {
            session.cards.forget(peer);
        }
    }

    /// Changes whenever a question has to wait because the index is busy: how long.
    pub fn waits(&self) -> watch::Receiver<Duration> {
        self.shared.waits.subscribe()
    }

    /// Asks on the open session; once more on the next one if it broke meanwhile. While the index is busy, waits as long
    /// as it asks to and a little longer by chance, up to [`BUSY_PATIENCE`] in all.
    async fn on_session<T, F>(&self, ask: impl Fn(Arc<Session>) -> F) -> Result<T, LinkError>
    where
        F: Future<Output = Result<T, LinkError>>,
    {
        let (mut retried, mut waited) = (false, Duration::ZERO);
        loop {
            let session = self.session().await?;
            match ask(Arc::clone(&session)).await {
                Err(LinkError::Refused(Refusal::Busy { retry_after_ms })) if waited < BUSY_PATIENCE => {
                    // Others were asked to wait at the same moment: not all of them should come back in one.
                    let wait = Duration::from_millis(retry_after_ms).mul_f64(1.0 + BUSY_JITTER * backoff::chance());
                    if waited + wait > BUSY_PATIENCE {
                        return Err(LinkError::Refused(Refusal::Busy { retry_after_ms }));
                    }
                    waited += wait;
                    tracing::info!(?wait, "the index is busy");
                    self.shared.waits.send_replace(wait);
                    tokio::time::sleep(wait).await;
                }
                Err(LinkError::Unreachable { .. }) if !retried && session.connection.close_reason().is_some() => {
                    retried = true;
                    self.gone(&session).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Starts a watch: the index tells of new names that fit, until the stream is dropped. Needs a session to begin
    /// with; later it outlives sessions.
    pub async fn start_watch(&self, query: String) -> Result<WatchStream, LinkError> {
        self.session().await?;
        Ok(self.shared.watches.start(query))
    }

    /// A place in the swarm of a blob of this size; none if another download has it. It needs no session: it is taken as
    /// soon as there is one.
    pub fn join_swarm(&self, blob: BlobId, size: u64) -> Option<Seat> {
        self.shared.swarms.join(blob, size)
    }

    /// What the uplink of this peer carries for swarms, in bytes per second; none while nothing is known of it. The index is
    /// told for every place.
    pub fn tell_uplink(&self, rate: Option<u64>) {
        self.shared.swarms.set_uplink(rate);
    }

    /// Tells the index that this peer goes soon, and waits until nobody needs what only it has, at most
    /// [`haul_core::limits::LEAVING_PATIENCE`]. `tell` is called at every look that finds some. Without a session, or
    /// an index that answers, there is nothing to wait for.
    pub async fn leaving(&self, mut tell: impl FnMut()) {
        let look = async {
            while let LinkState::Connected(session) = self.state() {
                match tokio::time::timeout(LEAVING_ANSWER, answer_of(&session, &IndexRequest::Leaving)).await {
                    Ok(Ok(IndexAnswer::Needed { pieces: 1.. })) => tell(),
                    Ok(Err(LinkError::Refused(Refusal::Busy { .. }))) => {}
                    _ => return,
                }
                tokio::time::sleep(LEAVING_LOOK).await;
            }
        };
        // Whoever could not be served by then asks others, and waits for this peer to come back.
        let _ = tokio::time::timeout(haul_core::limits::LEAVING_PATIENCE, look).await;
    }

    /// Who takes part in the swarm of a blob; none if it cannot be known now.
    pub async fn swarm_of(&self, blob: BlobId, size: u64) -> Option<Vec<SwarmPeer>> {
        let mut seat = self.join_swarm(blob, size)?;
        match tokio::time::timeout(PATIENCE, seat.news.recv()).await.ok()?? {
            SwarmNews::Peers(peers) => Some(peers),
            SwarmNews::Joined { .. } | SwarmNews::Alone | SwarmNews::Plan { .. } => None,
        }
    }

    /// The open session, or why there is none.
    pub async fn session(&self) -> Result<Arc<Session>, LinkError> {
        let mut state = self.shared.state.subscribe();
        let first = state.borrow_and_update().clone();
        let seen = match &first {
            LinkState::Connected(session) => return Ok(session.clone()),
            LinkState::NotJoined => return Err(LinkError::NotJoined),
            LinkState::Stopped => return Err(LinkError::Stopping),
            LinkState::Waiting { error: AttemptError::Unreachable(_), attempt, .. } => {
                self.shared.nudge.notify_one();
                Some(*attempt)
            }
            LinkState::Waiting { since, error, .. } => return Err(error_of(*since, error)),
            LinkState::Connecting { .. } => None,
        };
        let outcome = state.wait_for(|state| match state {
            LinkState::Connecting { .. } => false,
            LinkState::Waiting { attempt, .. } => Some(*attempt) != seen,
            _ => true,
        });
        let last = match tokio::time::timeout(PATIENCE, outcome).await {
            Ok(Ok(state)) => state.clone(),
            Ok(Err(_)) => return Err(LinkError::Stopping),
            Err(_) => first,
        };
        match last {
            LinkState::Connected(session) => Ok(session),
            LinkState::NotJoined => Err(LinkError::NotJoined),
            LinkState::Stopped => Err(LinkError::Stopping),
            LinkState::Waiting { since, error, .. } => Err(error_of(since, &error)),
            LinkState::Connecting { since } => {
                Err(LinkError::Unreachable { since, reason: "no address has answered yet".into() })
            }
        }
    }

    /// Waits until this session is not the current one any more.
    async fn gone(&self, session: &Arc<Session>) {
        let mut state = self.shared.state.subscribe();
        // An error means that the link has ended, so the session is gone too.
        let _ended = state
            .wait_for(|state| !matches!(state, LinkState::Connected(current) if Arc::ptr_eq(current, session)))
            .await;
    }

    /// Joins a network with a ticket.
    pub async fn join(&self, ticket: Ticket) -> Result<(), LinkError> {
        self.command(|reply| Command::Join(Box::new(ticket), reply)).await
    }

    /// Leaves the network: the index hides all entries of this peer, and the certificate is thrown away.
    pub async fn leave(&self) -> Result<(), LinkError> {
        self.command(Command::Leave).await
    }

    async fn command(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<(), LinkError>>) -> Command,
    ) -> Result<(), LinkError> {
        let (reply, answer) = oneshot::channel();
        self.shared.commands.send(make(reply)).await.map_err(|_| LinkError::Stopping)?;
        answer.await.map_err(|_| LinkError::Stopping)?
    }

    /// How the link is now.
    pub fn state(&self) -> LinkState {
        self.shared.state.borrow().clone()
    }

    /// Follows the state.
    pub fn watch(&self) -> watch::Receiver<LinkState> {
        self.shared.state.subscribe()
    }

    /// The network that this peer is a member of.
    pub fn membership(&self) -> Option<Membership> {
        self.shared.membership.borrow().clone()
    }

    /// What is known about trust in the network.
    pub fn standing(&self) -> Arc<Standing> {
        self.shared.standing.clone()
    }

    /// This peer's key.
    pub fn me(&self) -> PeerId {
        self.shared.me
    }

    /// Addresses of indexes of this network, best first, each once.
    pub fn index_addresses(&self) -> Vec<String> {
        let mut addresses = self.shared.index_addresses.clone();
        addresses.extend(self.membership().into_iter().flat_map(|membership| membership.addresses));
        let mut seen = std::collections::BTreeSet::new();
        addresses.retain(|address| seen.insert(address.clone()));
        addresses
    }
}

/// Asks on this session and waits for the answer.
async fn answer_of(session: &Session, request: &IndexRequest) -> Result<IndexAnswer, LinkError> {
    let asked = tokio::time::timeout(ANSWER_DEADLINE, session.connection.request(request)).await;
    let reason = match asked {
        Ok(Ok(IndexAnswer::Refused(refusal))) => return Err(LinkError::Refused(refusal)),
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(haul_net::connection::RequestError::Closed(reason))) => reason.to_string(),
        Ok(Err(_)) => return Err(LinkError::Unexpected),
        Err(_) => format!("no answer within {} s", ANSWER_DEADLINE.as_secs()),
    };
    Err(LinkError::Unreachable { since: haul_net::clock::wall_now(), reason })
}

fn error_of(since: Timestamp, error: &AttemptError) -> LinkError {
    match error {
        AttemptError::Unreachable(reason) => LinkError::Unreachable { since, reason: reason.clone() },
        AttemptError::Untrusted(reason) => LinkError::Untrusted(reason.clone()),
        AttemptError::Refused(Refusal::Busy { .. }) | AttemptError::Unexpected(_) => {
            LinkError::Unreachable { since, reason: error.to_string() }
        }
        AttemptError::Refused(refusal) => LinkError::Shut(refusal.clone()),
    }
}
