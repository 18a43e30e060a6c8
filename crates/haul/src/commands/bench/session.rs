//! A peer of the benchmark: a connection to an index with an open session, or to the null server.

use anyhow::{Context as _, bail, ensure};
use haul_core::ids::PeerId;
use haul_core::ids::PublicKey;
use haul_core::trust::{IndexCertificate, Ticket};
use haul_core::wire::index::{Hello, IndexAnswer, IndexRequest, Membership};
use haul_core::wire::{self, Label, List};
use haul_net::connection::{Connection, Inbox};
use haul_net::dialer::dial;
use haul_net::identity::SecretKey;
use haul_net::tls::Alpn;

/// A peer that is connected.
#[derive(Debug)]
pub(crate) struct Session {
    connection: Connection,
    /// Nobody pushes yet; the inbox must only not go away.
    _inbox: Inbox,
    peer: PeerId,
}

impl Session {
    /// Joins the ticket's network as a new peer, the way every peer does: the index shows that the network trusts it,
    /// then the ticket shows that the peer was invited.
    pub(crate) async fn join(ticket: &Ticket, key: &SecretKey, name: &str) -> anyhow::Result<Self> {
        let address = ticket.addresses.first().context("the ticket names no address")?;
        let session = Self::connect(address, key, None).await?;
        let certificate = match session.ask(&IndexRequest::Introduce { network: ticket.network }).await? {
            IndexAnswer::Introduced { certificate } => certificate,
            other => bail!("the index does not introduce itself: {other:?}"),
        };
        let certificate: IndexCertificate = haul_net::trust::parse_checked(&certificate, &ticket.network)?;
        ensure!(certificate.index == session.connection.remote(), "the index has a certificate for another key");
        let hello = Hello {
            version: wire::VERSION,
            features: 0,
            name: Label::from_lossy(name),
            membership: Membership::Ticket(ticket.secret),
            // Nobody fetches anything in this benchmark, but lookups should carry an address.
            peer_port: 4_478,
            addresses: List::default(),
        };
        match session.ask(&IndexRequest::Hello(hello)).await? {
            IndexAnswer::Welcome(_) => Ok(session),
            other => bail!("the index does not welcome this peer: {other:?}"),
        }
    }

    /// Connects without a session.
    pub(crate) async fn connect(address: &str, key: &SecretKey, expect: Option<PublicKey>) -> anyhow::Result<Self> {
        let (connection, inbox) = dial(address, key, Alpn::Index, expect).await?;
        Ok(Self { connection, _inbox: inbox, peer: key.public() })
    }

    /// Ends the session: all that it registered is hidden.
    pub(crate) async fn leave(self) -> anyhow::Result<()> {
        match self.ask(&IndexRequest::Leave).await? {
            IndexAnswer::Left => Ok(()),
            other => bail!("the index does not let this peer leave: {other:?}"),
        }
    }

    /// The connection.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The peer's key.
    pub(crate) fn peer(&self) -> PeerId {
        self.peer
    }

    async fn ask(&self, request: &IndexRequest) -> anyhow::Result<IndexAnswer> {
        Ok(self.connection.request(request).await?)
    }
}
