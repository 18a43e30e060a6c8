//! An index that says what a test tells it to, over in-memory transports. It checks little and counts everything.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use haul_core::ids::{BlobId, PeerId, UserId};
use haul_core::time::Timestamp;
use haul_core::trust::{Grant, IndexCertificate, MemberCertificate, Role, Ticket};
use haul_core::wire::ByteString;
use haul_core::wire::index::{
    Hits, IndexAnswer, IndexPush, IndexRequest, Listing, Located, LocatedBlob, Membership, PeerCard, Providers,
    Refusal, Renewed, Stats, Welcome,
};
use haul_net::clock;
use haul_net::connection::{Connection, ConnectionSettings, Inbound, Inbox};
use haul_net::identity::SecretKey;
use haul_net::transport::memory_pair;
use haul_net::trust::sign;
use haul_peer::link::MemoryIndex;

pub const SECRET: [u8; 16] = [7; 16];

/// What it answers.
#[derive(Default)]
pub struct Script {
    pub hits: Vec<Hits>,
    pub providers: Providers,
    pub listings: Vec<Listing>,
    pub peers: Vec<PeerCard>,
    pub stats: Stats,
    pub refuse_hello: Option<Refusal>,
    pub revoked: Vec<(PeerId, u64)>,
    pub role: Option<Role>,
    /// Waits that it asks for before it answers questions again, one per question.
    pub busy: Vec<std::time::Duration>,
}

pub struct FakeIndex {
    pub network: SecretKey,
    pub index: SecretKey,
    /// Signs the index certificate; another than `network` makes an impostor.
    pub signer: SecretKey,
    pub script: Mutex<Script>,
    pub down: AtomicBool,
    pub connects: AtomicU64,
    pub seen: Mutex<BTreeMap<&'static str, u64>>,
    connections: Mutex<Vec<Connection>>,
}

impl FakeIndex {
    pub fn new() -> Arc<Self> {
        Self::signed_by(SecretKey::generate().unwrap(), None)
    }

    pub fn signed_by(network: SecretKey, signer: Option<SecretKey>) -> Arc<Self> {
        let signer = signer.unwrap_or_else(|| SecretKey::from_seed(*network.seed()).unwrap());
        Arc::new(Self {
            network,
            index: SecretKey::generate().unwrap(),
            signer,
            script: Mutex::default(),
            down: AtomicBool::new(false),
            connects: AtomicU64::new(0),
            seen: Mutex::default(),
            connections: Mutex::default(),
        })
    }

    pub fn ticket(&self) -> Ticket {
        Ticket {
            network: self.network.public(),
            secret: SECRET,
            expires: clock::wall_now().after(std::time::Duration::from_hours(1)),
            role: Role::Admin,
            addresses: vec!["127.0.0.1:4477".into()],
        }
    }

    /// For the settings of a link: dials count, and fail while the index is down.
    pub fn memory(self: &Arc<Self>) -> MemoryIndex {
        let this = self.clone();
        MemoryIndex {
            key: self.index.public(),
            connect: Arc::new(move |peer| {
                this.connects.fetch_add(1, Ordering::SeqCst);
                if this.down.load(Ordering::SeqCst) {
                    return None;
                }
                let (near, far) = memory_pair();
                let (connection, inbox) = Connection::start(far, peer, ConnectionSettings::server(None));
                this.connections.lock().unwrap().push(connection.clone());
                tokio::spawn(this.clone().serve(connection, inbox, peer));
                Some(Box::new(near))
            }),
        }
    }

    pub fn count(&self, what: &str) -> u64 {
        self.seen.lock().unwrap().get(what).copied().unwrap_or_default()
    }

    /// Pushes to everybody who is connected.
    pub fn push_all(&self, push: &IndexPush) {
        for connection in self.connections.lock().unwrap().iter() {
            connection.push(push).unwrap();
        }
    }

    /// Breaks all connections without a word about why.
    pub fn drop_all(&self) {
        for connection in self.connections.lock().unwrap().drain(..) {
            connection.close("gone");
        }
    }

    async fn serve(self: Arc<Self>, connection: Connection, mut inbox: Inbox, peer: PeerId) {
        while let Some(inbound) = inbox.next().await {
            let Inbound::Request(request) = inbound else { continue };
            let Ok(asked) = request.decode::<IndexRequest>() else { break };
            let answer = self.answer(asked, &connection, peer);
            if request.answer(&answer).await.is_err() {
                break;
            }
        }
    }

    fn answer(&self, request: IndexRequest, connection: &Connection, peer: PeerId) -> IndexAnswer {
        let mut script = self.script.lock().unwrap();
        let mut seen = self.seen.lock().unwrap();
        let mut count = |what| *seen.entry(what).or_default() += 1;
        let is_question =
            matches!(request, IndexRequest::Stats | IndexRequest::Search { .. } | IndexRequest::Lookup { .. });
        if is_question && !script.busy.is_empty() {
            let wait = script.busy.remove(0);
            return IndexAnswer::Refused(Refusal::Busy { retry_after_ms: wait.as_millis() as u64 });
        }
        match request {
            IndexRequest::Introduce { .. } => {
                count("introduce");
                IndexAnswer::Introduced { certificate: ByteString(self.index_certificate()) }
            }
            IndexRequest::Hello(hello) => {
                count("hello");
                let is_new = matches!(hello.membership, Membership::Ticket(_));
                count(if is_new { "ticket" } else { "certificate" });
                if let Some(refusal) = script.refuse_hello.clone() {
                    return IndexAnswer::Refused(refusal);
                }
                if matches!(hello.membership, Membership::Ticket(secret) if secret != SECRET) {
                    return IndexAnswer::Refused(Refusal::TicketUnknown);
                }
                connection.set_frame_limit(haul_core::limits::FRAME_BYTES);
                IndexAnswer::Welcome(self.welcome(peer, hello.name.as_str(), &script))
            }
            IndexRequest::Renew => {
                count("renew");
                IndexAnswer::Renewed(Renewed {
                    grant: Some(ByteString(self.grant(peer))),
                    time: clock::wall_now(),
                    revoked: script.revoked.clone(),
                })
            }
            IndexRequest::Open { .. } => {
                count("open");
                IndexAnswer::Replace
            }
            IndexRequest::Begin { .. } => IndexAnswer::Begun,
            IndexRequest::Page { seq, .. } => IndexAnswer::Staged { seq },
            IndexRequest::Commit { state, .. } => {
                count("commit");
                IndexAnswer::Committed { state }
            }
            IndexRequest::Close { .. } => IndexAnswer::Closed,
            IndexRequest::Join { .. } => IndexAnswer::Refused(Refusal::NotFound),
            IndexRequest::Have { .. } => IndexAnswer::Refused(Refusal::NotOpen),
            IndexRequest::Depart { .. } => IndexAnswer::Departed,
            IndexRequest::Leaving => IndexAnswer::Needed { pieces: 0 },
            IndexRequest::Lookup { .. } => {
                count("lookup");
                IndexAnswer::Providers(script.providers.clone())
            }
            IndexRequest::Locate { blobs, .. } => {
                count("locate");
                IndexAnswer::Located(located(&script.providers, &blobs))
            }
            IndexRequest::Cards { numbers } => {
                count("cards");
                let card = |number: &u32| script.providers.peers.get(*number as usize).cloned();
                IndexAnswer::Cards { cards: numbers.iter().map(card).collect() }
            }
            IndexRequest::Search { .. } => {
                count("search");
                if script.hits.is_empty() {
                    return IndexAnswer::Hits(Hits { exact: true, coverage_permille: 1_000, ..Hits::default() });
                }
                IndexAnswer::Hits(script.hits.remove(0))
            }
            IndexRequest::Browse { .. } => {
                if script.listings.is_empty() {
                    return IndexAnswer::Refused(Refusal::NotFound);
                }
                IndexAnswer::Listing(script.listings.remove(0))
            }
            IndexRequest::Peers { .. } => IndexAnswer::Peers { peers: script.peers.clone(), more: false },
            IndexRequest::Stats => IndexAnswer::Stats(script.stats.clone()),
            IndexRequest::Invite { life_ms, role, .. } => {
                if script.role == Some(Role::Member) {
                    return IndexAnswer::Refused(Refusal::NotAllowed);
                }
                count(if role == Role::Guest { "invite-guest" } else { "invite" });
                IndexAnswer::Invited { secret: SECRET, expires: Timestamp(clock::wall_now().0 + life_ms) }
            }
            IndexRequest::Remove { .. } => IndexAnswer::Removed,
            IndexRequest::Leave => {
                count("leave");
                IndexAnswer::Left
            }
            IndexRequest::Watch { .. } => {
                count("watch");
                IndexAnswer::Watching
            }
            IndexRequest::Unwatch { .. } => {
                count("unwatch");
                IndexAnswer::Unwatched
            }
        }
    }

    fn index_certificate(&self) -> Vec<u8> {
        let statement = IndexCertificate {
            network: self.network.public(),
            index: self.index.public(),
            not_after: clock::wall_now().after(std::time::Duration::from_hours(24)),
        };
        sign(&self.signer, statement).to_bytes()
    }

    pub fn grant(&self, peer: PeerId) -> Vec<u8> {
        let now = clock::wall_now();
        let grant = Grant {
            network: self.network.public(),
            peer,
            serial: 1,
            issued: now,
            expires: now.after(haul_core::limits::GRANT),
            user: UserId::alone(&peer),
            groups: Vec::new(),
        };
        sign(&self.index, grant).to_bytes()
    }

    fn welcome(&self, peer: PeerId, name: &str, script: &Script) -> Welcome {
        let certificate = MemberCertificate {
            network: self.network.public(),
            peer,
            serial: 1,
            issued: clock::wall_now(),
            role: script.role.unwrap_or(Role::Admin),
            user: UserId::alone(&peer),
            name: name.into(),
            groups: Vec::new(),
        };
        Welcome {
            network: self.network.public(),
            certificate: ByteString(sign(&self.signer, certificate).to_bytes()),
            grant: ByteString(self.grant(peer)),
            index_certificate: ByteString(self.index_certificate()),
            time: clock::wall_now(),
            lease_ms: 90_000,
            revoked: script.revoked.clone(),
            observed: String::new(),
        }
    }
}

/// The scripted providers as a Locate tells them; the first ones stand for every blob.
fn located(providers: &Providers, blobs: &[BlobId]) -> Located {
    let mut located = Located::default();
    for _ in blobs {
        let places = providers.answers.iter().flatten().next();
        located.peers.extend(places.iter().flat_map(|places| &places.places).map(|place| place.peer));
        let (size, total) = places.map_or((0, 0), |places| (places.size, places.total));
        located.blobs.push(LocatedBlob { size, total, end: located.peers.len() as u32 });
    }
    located
}
