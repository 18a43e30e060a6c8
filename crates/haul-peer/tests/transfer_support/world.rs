//! A small network in memory: providers that serve real shares or misbehave on purpose, and a downloader.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use haul_core::blob::BlobGeometry;
use haul_core::ids::{BlobId, PeerId, UserId};
use haul_core::limits::LEAF_BYTES;
use haul_core::outline::{Outline, OutlineBuilder};
use haul_core::time::Timestamp;
use haul_core::trust::{Grant, IndexCertificate};
use haul_core::wire::index::PeerCard;
use haul_core::wire::peer::{PeerAnswer, PeerRequest};
use haul_core::wire::{ByteString, Label};
use haul_net::clock::{boot_now, wall_now};
use haul_net::connection::{Connection, ConnectionSettings, Inbound, Inbox};
use haul_net::identity::SecretKey;
use haul_net::listener::{Accepted, Listener};
use haul_net::tls::Alpn;
use haul_net::transport::memory_pair;
use haul_net::trust::sign;
use haul_peer::fetch::pool::{GrantPaper, PeerDialer};
use haul_peer::fetch::{Downloader, FetchProgress, FetchRequest, FindProviders, Found, PeerPool};
use haul_peer::serve::{GrantCheck, Server};
use haul_peer::share::{NewShare, ShareSettings, Shares};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub type Handler = Arc<dyn Fn(Connection, Inbox) -> BoxFuture<'static, ()> + Send + Sync>;

/// Everything of one test.
pub struct World {
    pub network: SecretKey,
    pub index: SecretKey,
    pub me: SecretKey,
    pub shutdown: CancellationToken,
    handlers: Arc<Mutex<BTreeMap<PeerId, Handler>>>,
    cards: Arc<Mutex<Vec<PeerCard>>>,
    pub size: Arc<Mutex<Option<u64>>>,
    pub grant: watch::Sender<Option<GrantPaper>>,
}

struct MemoryDialer {
    me: PeerId,
    handlers: Arc<Mutex<BTreeMap<PeerId, Handler>>>,
}

impl PeerDialer for MemoryDialer {
    fn dial<'a>(&'a self, card: &'a PeerCard) -> BoxFuture<'a, Result<Connection, String>> {
        async move {
            let handler = self.handlers.lock().unwrap().get(&card.id).cloned().ok_or("nobody listens there")?;
            let (near, far) = memory_pair();
            let (server, inbox) = Connection::start(far, self.me, ConnectionSettings::server(None));
            tokio::spawn(handler(server, inbox));
            let (connection, _) = Connection::start(near, card.id, ConnectionSettings::default());
            Ok(connection)
        }
        .boxed()
    }
}

struct Table {
    cards: Arc<Mutex<Vec<PeerCard>>>,
    size: Arc<Mutex<Option<u64>>>,
}

impl FindProviders for Table {
    fn find(&self, _blob: BlobId) -> BoxFuture<'_, Result<Found, String>> {
        let found = Found { size: *self.size.lock().unwrap(), providers: self.cards.lock().unwrap().clone() };
        async move { Ok(found) }.boxed()
    }
}

impl World {
    /// Serves over TLS on this machine, under a key of its own; where.
    pub fn listen(&self, server: Arc<Server>) -> (String, PeerId) {
        let key = SecretKey::generate().unwrap();
        let mut listener = Listener::bind(&["127.0.0.1:0".parse().unwrap()], &key, Alpn::Peer, None).unwrap();
        let address = listener.addresses()[0].to_string();
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = shutdown.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                if let Accepted::Native { transport, remote, addr, .. } = accepted {
                    let settings = ConnectionSettings::server(Some(addr));
                    let (connection, inbox) = Connection::start(transport, remote, settings);
                    tokio::spawn(server.clone().serve(connection, inbox, shutdown.clone()));
                }
            }
        });
        (address, key.public())
    }

    pub fn new() -> Self {
        let world = Self {
            network: SecretKey::generate().unwrap(),
            index: SecretKey::generate().unwrap(),
            me: SecretKey::generate().unwrap(),
            shutdown: CancellationToken::new(),
            handlers: Arc::default(),
            cards: Arc::default(),
            size: Arc::default(),
            grant: watch::Sender::new(None),
        };
        world.grant.send_replace(Some(world.paper(|_| {})));
        world
    }

    /// A grant for the downloader, changed as the test likes before it is signed.
    pub fn paper(&self, change: impl FnOnce(&mut Grant)) -> GrantPaper {
        let now = wall_now();
        let certificate = IndexCertificate {
            network: self.network.public(),
            index: self.index.public(),
            not_after: now.after(Duration::from_hours(1)),
        };
        let mut grant = Grant {
            network: self.network.public(),
            peer: self.me.public(),
            serial: 1,
            issued: now,
            expires: now.after(Duration::from_mins(5)),
            user: UserId::alone(&self.me.public()),
            groups: Vec::new(),
        };
        change(&mut grant);
        GrantPaper {
            grant: ByteString(sign(&self.index, grant).to_bytes()),
            index_certificate: ByteString(sign(&self.network, certificate).to_bytes()),
        }
    }

    pub fn check(&self) -> Arc<GrantCheck> {
        let check = GrantCheck::new(self.network.public(), Duration::from_hours(1));
        check.in_touch(wall_now(), boot_now());
        check
    }

    pub fn add(&self, name: &str, handler: Handler) -> PeerCard {
        let id = SecretKey::generate().unwrap().public();
        let card = PeerCard {
            id,
            name: Label::new(name).unwrap(),
            addresses: vec!["memory:1".into()],
            online: true,
            seen: Timestamp(0),
            files: 0,
            bytes: 0,
        };
        self.handlers.lock().unwrap().insert(id, handler);
        self.cards.lock().unwrap().push(card.clone());
        card
    }

    /// A peer that serves this folder as the share `name`.
    pub fn add_share(&self, name: &str, folder: &Path, state: &Path) -> (PeerCard, Arc<Shares>) {
        let mut settings = ShareSettings::new(state, state);
        settings.watch = false;
        let shares = Shares::open(settings).unwrap();
        let label = Label::new(name).unwrap();
        shares.add(NewShare { name: Some(label.clone()), ..NewShare::new(folder) }).unwrap();
        shares.scan_now(&label).unwrap();
        shares.hash_now();
        let server = Server::new(shares.clone(), self.check());
        let shutdown = self.shutdown.clone();
        let handler: Handler =
            Arc::new(move |connection, inbox| server.clone().serve(connection, inbox, shutdown.clone()).boxed());
        (self.add(name, handler), shares)
    }

    pub fn finder(&self) -> Arc<dyn FindProviders> {
        Arc::new(Table { cards: self.cards.clone(), size: self.size.clone() })
    }

    pub fn downloader(&self) -> Downloader {
        self.downloader_with(None)
    }

    pub fn downloader_with(&self, shares: Option<Arc<Shares>>) -> Downloader {
        let dialer = MemoryDialer { me: self.me.public(), handlers: self.handlers.clone() };
        let pool = PeerPool::new(Arc::new(dialer), self.grant.subscribe());
        Downloader::new(pool, self.finder(), shares)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub fn no_progress() -> watch::Sender<FetchProgress> {
    watch::Sender::new(FetchProgress::default())
}

/// Bytes in which no two leaves are alike.
pub fn content(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(b"content").finalize_xof().fill(&mut bytes);
    bytes
}

pub fn blob_of(bytes: &[u8]) -> (BlobId, Outline) {
    let mut builder = OutlineBuilder::new();
    bytes.chunks(LEAF_BYTES as usize).for_each(|leaf| builder.push(leaf));
    builder.finish()
}

/// How a scripted provider misbehaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    None,
    /// Flips a bit in every leaf from this one of its leaves on, counted over all requests.
    Corrupts(u64),
    /// Sends nothing more after so many leaves, and keeps the connection open.
    Stalls(u64),
    /// Closes the connection after so many leaves, and refuses to talk again.
    Vanishes(u64),
    /// Values of the outline are wrong.
    WrongSheet,
    /// Does not have it.
    NotHeld,
    /// Sends leaves in ascending order, whatever order was asked for.
    Sorts,
}

/// A provider that holds one blob in memory.
pub struct Scripted {
    pub bytes: Bytes,
    pub blob: BlobId,
    pub outline: Outline,
    pub fault: Fault,
    pub sent: AtomicU64,
    /// Pause before each leaf.
    pub pause: Duration,
}

impl Scripted {
    pub fn new(bytes: &[u8], fault: Fault) -> Arc<Self> {
        Self::paced(bytes, fault, Duration::ZERO)
    }

    pub fn paced(bytes: &[u8], fault: Fault, pause: Duration) -> Arc<Self> {
        let (blob, outline) = blob_of(bytes);
        Arc::new(Self { bytes: Bytes::copy_from_slice(bytes), blob, outline, fault, sent: AtomicU64::new(0), pause })
    }

    pub fn handler(self: &Arc<Self>) -> Handler {
        let scripted = self.clone();
        Arc::new(move |connection, inbox| {
            let scripted = scripted.clone();
            async move { scripted.serve(connection, inbox).await }.boxed()
        })
    }

    async fn serve(self: Arc<Self>, connection: Connection, mut inbox: Inbox) {
        connection.set_frame_limit(haul_core::limits::FRAME_BYTES);
        if matches!(self.fault, Fault::Vanishes(limit) if self.sent.load(Ordering::SeqCst) >= limit) {
            return connection.close("gone");
        }
        while let Some(inbound) = inbox.next().await {
            let Inbound::Request(request) = inbound else { return };
            let scripted = self.clone();
            tokio::spawn(async move {
                match request.decode::<PeerRequest>().unwrap() {
                    PeerRequest::Grant { .. } => drop(request.answer(&PeerAnswer::Granted).await),
                    PeerRequest::Bitfield { .. } => {
                        let size = scripted.bytes.len() as u64;
                        let _ = request.answer(&PeerAnswer::Bitfield { size, leaves: None }).await;
                    }
                    PeerRequest::Outline { sheet, .. } => {
                        let _ = request.answer(&scripted.sheet(sheet)).await;
                    }
                    PeerRequest::Pieces { ranges, .. } => {
                        let leaves: Vec<u64> =
                            ranges.iter().flat_map(|range| range.first..range.first + range.count).collect();
                        scripted.pieces(leaves, request).await;
                    }
                    _ => drop(request.answer(&PeerAnswer::NotHeld).await),
                }
            });
        }
    }

    fn sheet(&self, sheet: Option<u64>) -> PeerAnswer {
        if self.fault == Fault::NotHeld {
            return PeerAnswer::NotHeld;
        }
        let mut values = match sheet {
            None => self.outline.root_sheet().concat(),
            Some(sheet) => self.outline.sheet(sheet).unwrap_or_default().concat(),
        };
        if self.fault == Fault::WrongSheet {
            values[0] ^= 1;
        }
        PeerAnswer::Outline { size: self.bytes.len() as u64, values: ByteString(values) }
    }

    async fn pieces(&self, mut leaves: Vec<u64>, request: haul_net::connection::InboundRequest) {
        let stream = request.into_stream();
        if self.fault == Fault::Sorts {
            leaves.sort_unstable();
        }
        let geometry = BlobGeometry::new(self.bytes.len() as u64).unwrap();
        for leaf in leaves {
            if !self.pause.is_zero() {
                tokio::time::sleep(self.pause).await;
            }
            let range = geometry.leaf_range(leaf);
            let mut bytes = self.bytes.slice(range.start as usize..range.end as usize);
            let number = self.sent.fetch_add(1, Ordering::SeqCst);
            match self.fault {
                Fault::Corrupts(from) if number >= from => {
                    let mut wrong = bytes.to_vec();
                    wrong[0] ^= 1;
                    bytes = wrong.into();
                }
                Fault::Stalls(limit) if number >= limit => std::future::pending().await,
                Fault::Vanishes(limit) if number >= limit => return stream.connection().close("gone"),
                _ => {}
            }
            if stream.send(leaf, bytes).await.is_err() {
                return;
            }
        }
        let _ = stream.end(&PeerAnswer::Served).await;
    }
}

pub fn request(blob: BlobId, target: &Path) -> FetchRequest {
    let mut request = FetchRequest::new(blob, target);
    request.patience = Duration::ZERO;
    request
}

/// Names in a folder, hidden ones too.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into()).collect();
    names.sort();
    names
}
