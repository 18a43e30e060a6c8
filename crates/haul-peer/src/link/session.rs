//! Opening a session: reach an index, make sure that the network trusts it, show the own membership, check what comes
//! back. Nothing that proves anything about this peer is sent to an index that the network has not signed.

use std::sync::Arc;
use std::time::Duration;

use haul_core::ids::{NetworkId, PeerId, PublicKey};
use haul_core::time::Timestamp;
use haul_core::trust::{Grant, IndexCertificate, MemberCertificate, Ticket};
use haul_core::wire::index::{Hello, IndexAnswer, IndexRequest, Membership as Proof, Refusal, Welcome};
use haul_core::wire::{ByteString, Label, List, VERSION};
use haul_net::clock;
use haul_net::connection::{Connection, ConnectionSettings, Inbox};
use haul_net::dialer::dial;
use haul_net::identity::SecretKey;
use haul_net::tls::Alpn;
use haul_net::transport::BoxTransport;
use haul_net::trust::parse_checked;

use super::cards::Cards;
use super::standing::Word;
use crate::register::{IndexSession, SessionEnded};

/// Time for one address: handshake, introduction and greeting.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(8);

/// An index in the same process.
#[derive(Clone)]
pub struct MemoryIndex {
    /// Its key.
    pub key: PublicKey,
    /// Makes a transport to it for the peer with this key; none when it has stopped.
    pub connect: Arc<dyn Fn(PeerId) -> Option<BoxTransport> + Send + Sync>,
}

impl std::fmt::Debug for MemoryIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryIndex").field("key", &self.key).finish_non_exhaustive()
    }
}

/// An open session.
#[derive(Debug)]
pub struct Session {
    /// The connection to the index.
    pub connection: Connection,
    /// The index's key.
    pub index: PublicKey,
    /// The address that answered; none for an index in this process.
    pub address: Option<String>,
    /// What the network says about this peer.
    pub certificate: MemberCertificate,
    /// The same, signed.
    pub certificate_bytes: Vec<u8>,
    /// Since when, by the wall clock.
    pub opened: Timestamp,
    /// The address under which the index sees this peer.
    pub observed: String,
    /// Cards of peers by their numbers in this session.
    pub cards: Cards,
}

impl IndexSession for Arc<Session> {
    async fn ask(&self, request: &IndexRequest) -> Result<IndexAnswer, SessionEnded> {
        self.connection.request(request).await.map_err(|error| SessionEnded(error.to_string()))
    }
}

/// Why an attempt to open a session failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttemptError {
    /// Nobody answers, or the connection broke.
    #[error("{0}")]
    Unreachable(String),
    /// Somebody answers whom the network has not signed.
    #[error("{0}")]
    Untrusted(String),
    /// The index says no.
    #[error("{}", refusal_words(.0))]
    Refused(Refusal),
    /// The answer makes no sense.
    #[error("the index at {0} does not speak this version of the protocol")]
    Unexpected(String),
}

/// What a refusal means, in words that end a sentence.
pub fn refusal_words(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Version { speaks } => {
            format!("it speaks version {speaks} of the protocol and this haul speaks {VERSION}")
        }
        Refusal::WrongNetwork => "it serves another network".into(),
        Refusal::NoSession => "there is no session with it".into(),
        Refusal::BadCertificate => "it does not accept this peer's certificate".into(),
        Refusal::Revoked => "this peer was removed from the network".into(),
        Refusal::TicketUnknown => "it does not know this ticket".into(),
        Refusal::TicketExpired => "the ticket has ended".into(),
        Refusal::TicketUsedUp => "the ticket was used as often as allowed".into(),
        Refusal::NotAllowed => "your role does not allow it".into(),
        Refusal::NotOpen => "the share is not open there".into(),
        Refusal::StateMismatch => "its list of the share differs".into(),
        Refusal::BadPage(why) => format!("it refused a page: {why}"),
        Refusal::BadQuery(why) => why.clone(),
        Refusal::NotFound => "it knows nothing of this name".into(),
        Refusal::TooMuch(why) => format!("that is over a limit: {why}"),
        Refusal::Busy { retry_after_ms } => format!("it is busy; it asks to wait {} s", retry_after_ms.div_ceil(1_000)),
        Refusal::Storage(why) => format!("its storage fails: {why}"),
    }
}

/// Who asks, and with what.
pub(super) struct Caller<'a> {
    pub(super) key: &'a SecretKey,
    pub(super) name: &'a Label,
    pub(super) peer_port: u16,
    pub(super) addresses: &'a [String],
    pub(super) network: NetworkId,
    /// The index key that was trusted last.
    pub(super) known_index: Option<PublicKey>,
    pub(super) certificate: Option<&'a [u8]>,
    pub(super) ticket: Option<&'a Ticket>,
}

/// A session, its inbox, and what the index said.
pub(super) type Opened = (Arc<Session>, Inbox, Word, Duration);

impl Caller<'_> {
    /// Tries the addresses in order; the index in this process, if there is one, stands for all of them.
    pub(super) async fn open(
        &self,
        memory: Option<&MemoryIndex>,
        addresses: &[String],
    ) -> Result<Opened, AttemptError> {
        if let Some(index) = memory {
            let transport = (index.connect)(self.key.public())
                .ok_or_else(|| AttemptError::Unreachable("the index in this process has stopped".into()))?;
            let (connection, inbox) = Connection::start(transport, index.key, ConnectionSettings::default());
            return self.within_deadline("this process", None, async { Ok((connection, inbox)) }).await;
        }
        let mut failures: Vec<AttemptError> = Vec::new();
        for address in addresses {
            let dialing = async {
                dial(address, self.key, Alpn::Index, None)
                    .await
                    .map_err(|error| AttemptError::Unreachable(error.to_string()))
            };
            match self.within_deadline(address, Some(address.clone()), dialing).await {
                Ok(opened) => return Ok(opened),
                Err(error) => failures.push(error),
            }
        }
        // The failure that says most: a refusal over a stranger over silence.
        let weight = |error: &AttemptError| match error {
            AttemptError::Refused(_) => 3,
            AttemptError::Untrusted(_) => 2,
            AttemptError::Unexpected(_) => 1,
            AttemptError::Unreachable(_) => 0,
        };
        if failures.iter().all(|error| weight(error) == 0) {
            let reasons: Vec<String> = failures.iter().map(ToString::to_string).collect();
            let reason = if reasons.is_empty() { "no address of an index is known".into() } else { reasons.join("; ") };
            return Err(AttemptError::Unreachable(reason));
        }
        failures.sort_by_key(weight);
        Err(failures.pop().unwrap_or_else(|| AttemptError::Unreachable("no address of an index is known".into())))
    }

    async fn within_deadline(
        &self,
        place: &str,
        address: Option<String>,
        dialing: impl Future<Output = Result<(Connection, Inbox), AttemptError>>,
    ) -> Result<Opened, AttemptError> {
        let attempt = async {
            let (connection, inbox) = dialing.await?;
            self.greet(connection, inbox, place, address).await
        };
        tokio::time::timeout(ATTEMPT_DEADLINE, attempt).await.unwrap_or_else(|_| {
            Err(AttemptError::Unreachable(format!("{place}: no answer within {} s", ATTEMPT_DEADLINE.as_secs())))
        })
    }

    async fn greet(
        &self,
        connection: Connection,
        inbox: Inbox,
        place: &str,
        address: Option<String>,
    ) -> Result<Opened, AttemptError> {
        let index = connection.remote();
        if self.known_index != Some(index) {
            self.introduce(&connection, place).await?;
        }
        let welcome = match self.certificate {
            None => self.hello(&connection, place, self.ticket_proof()?).await?,
            Some(certificate) => {
                let shown = self.hello(&connection, place, Proof::Certificate(ByteString::from(certificate))).await;
                match (shown, self.ticket) {
                    // A removed member that was invited again has a ticket for a new certificate.
                    (Err(AttemptError::Refused(Refusal::BadCertificate | Refusal::Revoked)), Some(_)) => {
                        self.hello(&connection, place, self.ticket_proof()?).await?
                    }
                    (shown, _) => shown?,
                }
            }
        };
        let (certificate, word) = self.check(&welcome, index, place)?;
        let session = Session {
            connection,
            index,
            address,
            certificate,
            certificate_bytes: welcome.certificate.0,
            opened: clock::wall_now(),
            observed: welcome.observed,
            cards: Cards::default(),
        };
        Ok((Arc::new(session), inbox, word, Duration::from_millis(welcome.lease_ms)))
    }

    fn ticket_proof(&self) -> Result<Proof, AttemptError> {
        let ticket = self.ticket.ok_or(AttemptError::Refused(Refusal::TicketUnknown))?;
        Ok(Proof::Ticket(ticket.secret))
    }

    /// Asks an unknown key to prove that the network trusts it. Its certificate is dated by this machine's clock, which
    /// is all there is before index time is known.
    async fn introduce(&self, connection: &Connection, place: &str) -> Result<(), AttemptError> {
        let answer = self.request(connection, place, &IndexRequest::Introduce { network: self.network }).await?;
        let bytes = match answer {
            IndexAnswer::Introduced { certificate } => certificate,
            IndexAnswer::Refused(refusal) => return Err(AttemptError::Refused(refusal)),
            _ => return Err(AttemptError::Unexpected(place.into())),
        };
        let certificate: IndexCertificate = parse_checked(&bytes, &self.network).map_err(|error| {
            AttemptError::Untrusted(format!(
                "{place}: the index shows a certificate that the network has not given: {error}"
            ))
        })?;
        if certificate.network != self.network || certificate.index != connection.remote() {
            return Err(AttemptError::Untrusted(format!("{place}: the certificate belongs to another index")));
        }
        if certificate.not_after <= clock::wall_now() {
            return Err(AttemptError::Untrusted(format!(
                "{place}: the certificate of the index ended at {}, by this machine's clock",
                crate::text::rfc3339(certificate.not_after)
            )));
        }
        Ok(())
    }

    async fn hello(&self, connection: &Connection, place: &str, membership: Proof) -> Result<Welcome, AttemptError> {
        let hello = Hello {
            version: VERSION,
            features: 0,
            name: self.name.clone(),
            membership,
            peer_port: self.peer_port,
            addresses: List::new(self.addresses.to_vec()),
        };
        match self.request(connection, place, &IndexRequest::Hello(hello)).await? {
            IndexAnswer::Welcome(welcome) => Ok(welcome),
            IndexAnswer::Refused(refusal) => Err(AttemptError::Refused(refusal)),
            _ => Err(AttemptError::Unexpected(place.into())),
        }
    }

    async fn request(
        &self,
        connection: &Connection,
        place: &str,
        request: &IndexRequest,
    ) -> Result<IndexAnswer, AttemptError> {
        connection.request(request).await.map_err(|error| AttemptError::Unreachable(format!("{place}: {error}")))
    }

    /// Checks every signature of a welcome: what is stored and shown to others later must be good.
    fn check(
        &self,
        welcome: &Welcome,
        index: PublicKey,
        place: &str,
    ) -> Result<(MemberCertificate, Word), AttemptError> {
        let wrong = |what: &str| {
            AttemptError::Untrusted(format!("{place}: the index gave {what} that is not signed as it should be"))
        };
        let me = self.key.public();
        let certificate: MemberCertificate =
            parse_checked(&welcome.certificate, &self.network).map_err(|_| wrong("a member certificate"))?;
        let trust: IndexCertificate =
            parse_checked(&welcome.index_certificate, &self.network).map_err(|_| wrong("a certificate of itself"))?;
        let grant: Grant = parse_checked(&welcome.grant, &index).map_err(|_| wrong("a grant"))?;
        let fits = welcome.network == self.network
            && (certificate.network, certificate.peer) == (self.network, me)
            && (trust.network, trust.index) == (self.network, index)
            && (grant.network, grant.peer) == (self.network, me);
        if !fits {
            return Err(AttemptError::Untrusted(format!("{place}: the index gave papers of another peer or network")));
        }
        if trust.not_after <= welcome.time {
            return Err(AttemptError::Untrusted(format!("{place}: the certificate of the index has ended")));
        }
        let word = Word {
            network: self.network,
            grant: welcome.grant.clone(),
            index_certificate: welcome.index_certificate.clone(),
            time: welcome.time,
            at: clock::boot_now(),
            revoked: welcome.revoked.clone(),
        };
        Ok((certificate, word))
    }
}
