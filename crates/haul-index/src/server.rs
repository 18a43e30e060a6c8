//! The running index server: it owns every task, starts them in order and ends them in order.

use std::net::SocketAddr;

use haul_core::ids::{NetworkId, PeerId, PublicKey};
use haul_core::trust::Ticket;
use tokio::io::DuplexStream;
use tokio_util::sync::CancellationToken;

use crate::config::{IndexConfig, Invitation};

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
    #[error("the index cannot listen: {0}")]
    Listen(String),
}

/// Why an index stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A task that should run until the end did not.
    #[error("the index stopped because its {0} task ended unexpectedly; start it again and report this")]
    TaskEnded(&'static str),
    /// A task did not end in time.
    #[error("the index did not stop within {0:?}")]
    Stuck(std::time::Duration),
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
    /// `shutdown` stops it from outside; [`RunningIndex::join`] stops it and waits.
    pub async fn start(config: IndexConfig, shutdown: CancellationToken) -> Result<RunningIndex, StartError> {
        let _ = shutdown;
        Err(StartError::State { path: config.state_dir.display().to_string(), reason: "not built yet".into() })
    }
}

/// An index that serves. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct RunningIndex {
    network: NetworkId,
    index_key: PublicKey,
    addresses: Vec<SocketAddr>,
    shutdown: CancellationToken,
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
        self.addresses.iter().map(ToString::to_string).collect()
    }

    /// The other end of a new connection inside this process, for the peer with this key.
    ///
    /// The caller vouches for the key; it starts a `haul_net` connection to [`RunningIndex::index_key`] on it and
    /// says Hello as over a socket. May be called again after the connection closed.
    pub fn connect_in_memory(&self, peer: PeerId) -> DuplexStream {
        let _ = peer;
        tokio::io::duplex(1).0
    }

    /// Makes a ticket that carries [`RunningIndex::ticket_addresses`].
    pub async fn invite(&self, invitation: Invitation) -> Result<Ticket, InviteError> {
        let _ = invitation;
        Err(InviteError::Storage("not built yet".into()))
    }

    /// Ends when the index has stopped by itself or by its token. Cancel-safe.
    pub async fn stopped(&self) {
        self.shutdown.cancelled().await;
    }

    /// Stops serving, in order, and waits until nothing of it runs.
    pub async fn join(self) -> Result<(), RunError> {
        self.shutdown.cancel();
        Ok(())
    }
}
