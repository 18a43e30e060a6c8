//! What the daemon gives to downloads and to serving: dialing over TCP, providers from the index, the peer port.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use haul_core::ids::{BlobId, NetworkId, PeerId};
use haul_core::wire::index::PeerCard;
use haul_net::connection::{Connection, ConnectionSettings};
use haul_net::dialer::dial;
use haul_net::identity::SecretKey;
use haul_net::listener::{Accepted, Listener};
use haul_net::tls::Alpn;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::api::known::Known;
use crate::api::uploads::Uploads;
use crate::bandwidth::Bandwidth;
use crate::fetch::pool::PeerDialer;
use crate::fetch::{FindProviders, Found};
use crate::link::IndexLink;
use crate::serve::{GrantCheck, Server, Slots};
use crate::share::Shares;
use crate::swarm::Seat;

/// Providers asked for at once. More are found by asking again while a download runs.
const PROVIDERS: u32 = 64;
/// Connections from other peers at once. Each holds a file descriptor and up to a window of bytes. When half of them are in use, a
/// peer gets two: one that is still to be noticed dead, and one in its place.
const CONNECTIONS: usize = 1_024;
const OF_ONE_WHEN_MANY: usize = 2;

/// Dials a peer at its addresses, best first.
pub(super) struct TcpDialer {
    pub(super) key: Arc<SecretKey>,
}

impl PeerDialer for TcpDialer {
    fn dial<'a>(&'a self, card: &'a PeerCard) -> BoxFuture<'a, Result<Connection, String>> {
        Box::pin(async move {
            if card.addresses.is_empty() {
                return Err("it is away or tells no address".into());
            }
            let mut failures = Vec::new();
            for address in &card.addresses {
                match dial(address, &self.key, Alpn::Peer, Some(card.id)).await {
                    // Peers are asked here and never ask back over the same connection.
                    Ok((connection, _inbox)) => return Ok(connection),
                    Err(error) => failures.push(error.to_string()),
                }
            }
            Err(failures.join("; "))
        })
    }
}

/// Asks the index who has a blob; while it is gone, remembers who had it.
pub(super) struct Finder {
    pub(super) link: IndexLink,
    pub(super) known: Arc<Known>,
}

impl Finder {
    async fn size_of_absent(&self, blob: BlobId) -> Option<u64> {
        let located = self.link.locate(&[blob], 1, true).await.ok()?;
        located.first()?.size
    }
}

impl FindProviders for Finder {
    fn find(&self, blob: BlobId) -> BoxFuture<'_, Result<Found, String>> {
        Box::pin(async move {
            let (size, mut providers) = match self.link.locate(&[blob], PROVIDERS, false).await {
                Ok(mut located) => match located.pop() {
                    Some(found) => {
                        self.known.located(blob, &found);
                        (found.size, found.cards)
                    }
                    None => return Err("the index gave an answer that does not fit the question".into()),
                },
                Err(error) => match self.known.holders(&blob) {
                    Some((size, cards)) if !cards.is_empty() => (Some(size), cards),
                    _ => return Err(error.to_string()),
                },
            };
            providers.retain(|card| card.id != self.link.me());
            let size = match size {
                // Its owners are away, but others may have downloaded it from them.
                None => self.size_of_absent(blob).await,
                known => known,
            };
            Ok(Found { size, providers })
        })
    }

    fn unreachable(&self, peer: PeerId) {
        self.link.forget_card(&peer);
    }

    fn join(&self, blob: BlobId, size: u64) -> Option<Seat> {
        self.link.join_swarm(blob, size)
    }
}

type Checks = watch::Receiver<Option<(NetworkId, Arc<GrantCheck>)>>;

/// Serves whoever connects to the peer port.
pub(super) struct Acceptor {
    listener: Listener,
    shares: Arc<Shares>,
    checks: Checks,
    uploads: Arc<Uploads>,
    bandwidth: Arc<Bandwidth>,
    slots: Arc<Slots>,
}

impl Acceptor {
    pub(super) fn new(
        listener: Listener,
        shares: Arc<Shares>,
        checks: Checks,
        uploads: Arc<Uploads>,
        bandwidth: Arc<Bandwidth>,
    ) -> Self {
        let slots = Slots::new(Arc::clone(&bandwidth));
        Self { listener, shares, checks, uploads, bandwidth, slots }
    }

    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        let mut serving = shutdown.child_token();
        let mut server = self.server();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                changed = self.checks.changed() => {
                    // Another network, or none: what was granted in the old one ends with it.
                    serving.cancel();
                    serving = shutdown.child_token();
                    server = self.server();
                    if changed.is_err() {
                        shutdown.cancelled().await;
                        break;
                    }
                }
                accepted = self.listener.accept(), if tasks.len() < CONNECTIONS => {
                    let (Accepted::Native { transport, remote, addr, .. }, Some(server)) = (accepted, server.clone()) else {
                        debug!("a connection came before this peer is in a network");
                        continue;
                    };
                    let (connection, inbox) =
                        Connection::start(transport, remote, ConnectionSettings::server(Some(addr)));
                    if tasks.len() >= CONNECTIONS / 2 && self.uploads.of_peer(&remote) >= OF_ONE_WHEN_MANY {
                        connection.close("too many connections");
                        continue;
                    }
                    let (counted, stop) = (self.uploads.count(connection.clone()), serving.clone());
                    tasks.spawn(async move {
                        let _counted = counted;
                        server.serve(connection, inbox, stop).await;
                    });
                }
                () = tokio::time::sleep(std::time::Duration::from_millis(50)), if tasks.len() >= CONNECTIONS => {}
            }
        }
        self.listener.close().await;
        tasks.close();
        tasks.wait().await;
    }

    fn server(&mut self) -> Option<Arc<Server>> {
        let check = self.checks.borrow_and_update().clone();
        check.map(|(_, check)| Server::limited(self.shares.clone(), check, self.bandwidth.clone(), self.slots.clone()))
    }
}
