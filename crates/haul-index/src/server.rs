//! The running index server: it owns every task, starts them in order and ends them in order.
//!
//! Start: state, keys, members, store, sockets; then the tasks. End: no new connections; sessions close; their
//! connections are gone; leases are noted for the next start; the store is dropped. If a task that should run until
//! the end stops earlier, everything stops.

mod places;
mod tasks;

use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use haul_core::ids::{NetworkId, PeerId, PublicKey};
use haul_core::trust::Ticket;
use haul_core::wire::index::Refusal;
use haul_net::clock;
use haul_net::listener::Listener;
use haul_net::tls::{Alpn, HttpsConfig, PemPair};
use haul_net::transport::memory_pair;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::config::{IndexConfig, Invitation};
use crate::members::Members;
use crate::presence::Presence;
use crate::state::{IndexState, blocking};
use crate::store::EmbeddedStore;
use crate::store::IndexStore;
pub use tasks::{Listeners, MemoryArrival, run};

const HTTPS_CERTIFICATE: &str = "https.certificate.pem";
const HTTPS_KEY: &str = "https.key.pem";
/// In-memory connections that wait to be accepted. One process has one peer.
const MEMORY_ARRIVALS: usize = 16;

/// Why an index does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state folder, a key or a database in it cannot be used.
    #[error("the index cannot use its state in {path}: {reason}")]
    State {
        /// The file or folder.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// An address that cannot be listened on.
    #[error("the index cannot listen on {address}: {reason}; choose another one with --index-listen")]
    Listen {
        /// The addresses.
        address: String,
        /// What the system said.
        reason: String,
    },
}

/// Why an index stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A task that should run until the end did not.
    #[error("the index stopped because its {0} task ended unexpectedly; start it again and report this")]
    TaskEnded(&'static str),
    /// A part did not end in time.
    #[error("the index stopped, but {0} did not end in time")]
    Stuck(&'static str),
}

/// Why there is no ticket.
#[derive(Debug, thiserror::Error)]
pub enum InviteError {
    /// More uses, a longer life or more tickets than allowed.
    #[error("{0}")]
    TooMuch(String),
    /// The ticket could not be stored.
    #[error("the index cannot write its members: {0}")]
    Storage(String),
}

/// The index server.
#[derive(Debug)]
pub struct Index;

impl Index {
    /// Opens or creates the state and serves until `shutdown`; returns once connections are accepted.
    ///
    /// `shutdown` stops it from outside; [`RunningIndex::join`] stops it and waits. Must be called within a tokio
    /// runtime.
    pub async fn start(config: IndexConfig, shutdown: CancellationToken) -> Result<RunningIndex, StartError> {
        let store = |dir: &Path| {
            let path = dir.join("store");
            EmbeddedStore::open(&path).map_err(|error| state_error(&path, error))
        };
        Self::start_with(config, shutdown, store).await
    }

    /// The same over any store: `open` gets the state folder.
    pub async fn start_with<S: IndexStore>(
        config: IndexConfig,
        shutdown: CancellationToken,
        open: impl FnOnce(&Path) -> Result<S, StartError> + Send + 'static,
    ) -> Result<RunningIndex, StartError> {
        let shutdown = shutdown.child_token();
        let settings = config.clone();
        let opened = tokio::task::spawn_blocking(move || open_state(&settings, open)).await;
        let (state, https) = opened.map_err(|error| state_error(&config.state_dir, error))??;
        let listener = bind(&config, &state, https)?;
        let addresses = listener.as_ref().map(|listener| listener.addresses().to_vec()).unwrap_or_default();
        let (memory, arrivals) = mpsc::channel(MEMORY_ARRIVALS);
        let (network, index_key) = (state.authority.network(), state.authority.index_key());
        let inviter: Arc<dyn Invite> = Arc::new(Inviter(Arc::clone(&state)));
        let ticket_addresses = places::for_tickets(&config.advertise, &addresses);
        let listeners = Listeners { sockets: listener, memory: arrivals };
        let task = tokio::spawn(run(state, listeners, shutdown.clone()));
        tracing::info!(network = network.short(), ?addresses, "the index serves");
        Ok(RunningIndex { network, index_key, addresses, ticket_addresses, shutdown, memory, inviter, task })
    }
}

type Opened<S> = (Arc<IndexState<S>>, HttpsConfig);

/// Everything that waits for the disk before the start.
fn open_state<S: IndexStore>(
    config: &IndexConfig,
    open: impl FnOnce(&Path) -> Result<S, StartError>,
) -> Result<Opened<S>, StartError> {
    let dir = &config.state_dir;
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| state_error(dir, error))?;
    let authority = Authority::open(dir, clock::wall_now()).map_err(|error| state_error(dir, error))?;
    let authority = Arc::new(authority);
    let members_file = dir.join("members.redb");
    let (members, mut notes) =
        Members::open(&members_file, Arc::clone(&authority)).map_err(|error| state_error(&members_file, error))?;
    notes.retain(|(peer, _)| members.find(peer).is_some());
    let store = open(dir)?;
    let presence = Presence::new(config.claims_allowed.clone(), clock::boot_id());
    presence.restore(clock::boot_now(), notes);
    let https = https_config(dir, config)?;
    Ok((Arc::new(IndexState::new(authority, members, store, presence, config.plans)), https))
}

fn https_config(dir: &Path, config: &IndexConfig) -> Result<HttpsConfig, StartError> {
    let load = |certificate: &Path, key: &Path| {
        let read = |path: &Path| std::fs::read(path).map_err(|error| state_error(path, error));
        HttpsConfig::from_pem(&read(certificate)?, &read(key)?).map_err(|error| state_error(certificate, error))
    };
    if let Some((certificate, key)) = &config.https {
        return load(certificate, key);
    }
    let (certificate, key) = (dir.join(HTTPS_CERTIFICATE), dir.join(HTTPS_KEY));
    if certificate.exists() && key.exists() {
        match load(&certificate, &key) {
            Ok(loaded) => return Ok(loaded),
            // Browsers ask once more; nothing else knows it.
            Err(error) => tracing::warn!(%error, "the certificate of the pages is damaged, and is made anew"),
        }
    }
    let names = places::own_names(&config.advertise, &config.listen);
    let made = PemPair::self_signed(&names).map_err(|error| state_error(&certificate, error))?;
    places::write_secret(&key, &made.key).map_err(|error| state_error(&key, error))?;
    std::fs::write(&certificate, made.certificate).map_err(|error| state_error(&certificate, error))?;
    load(&certificate, &key)
}

fn bind<S: IndexStore>(
    config: &IndexConfig,
    state: &IndexState<S>,
    https: HttpsConfig,
) -> Result<Option<Listener>, StartError> {
    if config.listen.is_empty() {
        return Ok(None);
    }
    let listener = Listener::bind(&config.listen, state.authority.index_secret(), Alpn::Index, Some(https));
    listener.map(Some).map_err(|error| StartError::Listen {
        address: config.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        reason: error.to_string(),
    })
}

fn state_error(path: &Path, reason: impl ToString) -> StartError {
    StartError::State { path: path.display().to_string(), reason: reason.to_string() }
}

/// What [`RunningIndex`] needs of the state, whatever the store.
trait Invite: Send + Sync {
    fn invite(&self, invitation: &Invitation) -> Result<([u8; 16], haul_core::time::Timestamp), Refusal>;
}

struct Inviter<S>(Arc<IndexState<S>>);

impl<S: IndexStore> Invite for Inviter<S> {
    fn invite(&self, invitation: &Invitation) -> Result<([u8; 16], haul_core::time::Timestamp), Refusal> {
        self.0.members.invite(clock::wall_now(), invitation)
    }
}

/// An index that serves. Dropping it stops it without waiting.
pub struct RunningIndex {
    network: NetworkId,
    index_key: PublicKey,
    addresses: Vec<SocketAddr>,
    ticket_addresses: Vec<String>,
    shutdown: CancellationToken,
    memory: mpsc::Sender<MemoryArrival>,
    inviter: Arc<dyn Invite>,
    task: JoinHandle<Result<(), RunError>>,
}

impl RunningIndex {
    /// The network that it serves.
    pub fn network(&self) -> NetworkId {
        self.network
    }

    /// The server's own key: what its connections show.
    pub fn index_key(&self) -> PublicKey {
        self.index_key
    }

    /// Where it listens, with the ports that it got.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What tickets say: `host:port`, best first.
    pub fn ticket_addresses(&self) -> Vec<String> {
        self.ticket_addresses.clone()
    }

    /// The other end of a new connection inside this process, for the peer with this key.
    ///
    /// The caller vouches for the key; it starts a `haul_net` connection to [`RunningIndex::index_key`] on it and
    /// says Hello as over a socket. May be called again after the connection closed. Once the index has stopped, or
    /// while too many such connections wait, the connection ends at once.
    pub fn connect_in_memory(&self, peer: PeerId) -> DuplexStream {
        let (theirs, ours) = memory_pair();
        // An arrival that is not taken is dropped, and that closes the other end.
        let _ = self.memory.try_send(MemoryArrival { peer, transport: ours });
        theirs
    }

    /// Makes a ticket that carries [`RunningIndex::ticket_addresses`].
    pub async fn invite(&self, invitation: Invitation) -> Result<Ticket, InviteError> {
        let inviter = Arc::clone(&self.inviter);
        let role = invitation.role;
        let (secret, expires) =
            blocking(move || inviter.invite(&invitation)).await.map_err(|refusal| match refusal {
                Refusal::TooMuch(reason) => InviteError::TooMuch(reason),
                Refusal::Storage(reason) => InviteError::Storage(reason),
                other => InviteError::Storage(format!("{other:?}")),
            })?;
        Ok(Ticket { network: self.network, secret, expires, role, addresses: self.ticket_addresses() })
    }

    /// Ends when the index has stopped or is stopping, by itself or by its token. Cancel-safe.
    pub async fn stopped(&self) {
        self.shutdown.cancelled().await;
    }

    /// Stops serving, in order, and waits until nothing of it runs.
    pub async fn join(mut self) -> Result<(), RunError> {
        self.shutdown.cancel();
        (&mut self.task).await.unwrap_or(Err(RunError::TaskEnded("main")))
    }
}

impl Drop for RunningIndex {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl std::fmt::Debug for RunningIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningIndex")
            .field("network", &self.network)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}
