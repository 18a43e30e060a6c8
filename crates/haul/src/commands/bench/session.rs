//! A peer of the benchmark: a connection to an index with an open session, or to the null server.

use anyhow::{Context as _, bail, ensure};
use haul_core::ids::PeerId;
use haul_core::ids::PublicKey;
use haul_core::trust::{IndexCertificate, Ticket};
use haul_core::wire::index::{Hello, IndexAnswer, IndexRequest, Membership, Welcome};
use haul_core::wire::{self, ByteString, Label, List};
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
    /// With it the peer comes back; none for a connection without a session.
    certificate: Option<ByteString>,
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
        session.enter(name, Membership::Ticket(ticket.secret)).await
    }

    /// Comes back as the member that this key is: one request, as every peer does that knows its index.
    pub(crate) async fn back(
        address: &str,
        index: PublicKey,
        key: &SecretKey,
        name: &str,
        certificate: ByteString,
    ) -> anyhow::Result<Self> {
        let session = Self::connect(address, key, Some(index)).await?;
        session.enter(name, Membership::Certificate(certificate)).await
    }

    /// Opens the session.
    pub(crate) async fn enter(mut self, name: &str, membership: Membership) -> anyhow::Result<Self> {
        let hello = Hello {
            version: wire::VERSION,
            features: 0,
            name: Label::from_lossy(name),
            membership,
            // Nobody fetches anything in this benchmark, but lookups should carry an address.
            peer_port: 4_478,
            addresses: List::default(),
        };
        match self.ask(&IndexRequest::Hello(hello)).await? {
            IndexAnswer::Welcome(Welcome { certificate, .. }) => self.certificate = Some(certificate),
            other => bail!("the index does not welcome this peer: {other:?}"),
        }
        Ok(self)
    }

    /// Connects without a session.
    pub(crate) async fn connect(address: &str, key: &SecretKey, expect: Option<PublicKey>) -> anyhow::Result<Self> {
        let (connection, inbox) = dial(address, key, Alpn::Index, expect).await?;
        Ok(Self { connection, _inbox: inbox, peer: key.public(), certificate: None })
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

    /// The member's certificate, once the session is open.
    pub(crate) fn certificate(&self) -> Option<&ByteString> {
        self.certificate.as_ref()
    }

    /// Asks; a refusal is an error.
    pub(crate) async fn ask(&self, request: &IndexRequest) -> anyhow::Result<IndexAnswer> {
        match self.connection.request(request).await? {
            IndexAnswer::Refused(refusal) => bail!("refused: {refusal:?}"),
            answer => Ok(answer),
        }
    }
}
