//! A running index in a temporary folder, and peers that speak the protocol by hand.

use std::path::Path;
use std::time::Duration;

use haul_core::ids::{BlobId, NetworkId, PublicKey, ShareId};
use haul_core::manifest::{Change, Entry, EntryKind, PageBuilder, RegistrationDigest, ShareState};
use haul_core::trust::{Role, Ticket};
use haul_core::wire::index::{
    Hello, Hits, IndexAnswer, IndexRequest, LookupKeys, Membership, Providers, Refusal, Welcome,
};
use haul_core::wire::{ByteString, Label, List};
use haul_index::{Index, IndexConfig, Invitation, RunningIndex};
use haul_net::connection::{Connection, ConnectionSettings, Inbox};
use haul_net::dialer::dial;
use haul_net::identity::SecretKey;
use haul_net::tls::Alpn;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Longer than any test takes; a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Fixture {
    pub dir: TempDir,
    pub index: RunningIndex,
}

pub fn config(dir: &Path) -> IndexConfig {
    IndexConfig::new(dir.join("index"), vec!["127.0.0.1:0".parse().unwrap()])
}

impl Fixture {
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    pub async fn start_in(dir: TempDir) -> Self {
        let index = Index::start(config(dir.path()), CancellationToken::new()).await.unwrap();
        Self { dir, index }
    }

    /// Stops in order, and starts again over the same folder.
    pub async fn restart(self) -> Self {
        let Self { dir, index } = self;
        index.join().await.unwrap();
        Self::start_in(dir).await
    }

    pub async fn ticket(&self, role: Role) -> Ticket {
        self.index.invite(Invitation { role, ..Invitation::default() }).await.unwrap()
    }

    pub async fn dial(&self, key: &SecretKey) -> (Connection, Inbox) {
        let address = self.index.addresses()[0].to_string();
        dial(&address, key, Alpn::Index, Some(self.index.index_key())).await.unwrap()
    }

    /// A connection that has said nothing yet.
    pub async fn stranger(&self, n: u8) -> Peer {
        let (connection, inbox) = self.dial(&key(n)).await;
        Peer { connection, inbox, key: key(n) }
    }

    /// The same within this process.
    pub fn stranger_in_memory(&self, n: u8) -> Peer {
        let transport = self.index.connect_in_memory(key(n).public());
        let (connection, inbox) = Connection::start(transport, self.index.index_key(), ConnectionSettings::default());
        Peer { connection, inbox, key: key(n) }
    }

    /// A peer with an open session, joined by a fresh ticket.
    pub async fn member(&self, n: u8) -> (Peer, Welcome) {
        self.joined(n, Role::Member).await
    }

    pub async fn joined(&self, n: u8, role: Role) -> (Peer, Welcome) {
        let ticket = self.ticket(role).await;
        let peer = self.stranger(n).await;
        let welcome = peer.hello(Membership::Ticket(ticket.secret)).await.unwrap();
        (peer, welcome)
    }

    /// A member that comes back by its certificate.
    pub async fn returning(&self, n: u8, certificate: &ByteString) -> (Peer, Welcome) {
        let peer = self.stranger(n).await;
        let welcome = peer.hello(Membership::Certificate(certificate.clone())).await.unwrap();
        (peer, welcome)
    }

    pub fn network(&self) -> NetworkId {
        self.index.network()
    }
}

pub fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32]).unwrap()
}

pub fn peer_id(n: u8) -> PublicKey {
    key(n).public()
}

pub fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

pub fn share(n: u8) -> ShareId {
    ShareId([n; 16])
}

pub struct Peer {
    pub connection: Connection,
    pub inbox: Inbox,
    #[allow(dead_code)]
    pub key: SecretKey,
}

impl Peer {
    pub async fn ask(&self, request: IndexRequest) -> IndexAnswer {
        let asked = self.connection.request::<_, IndexAnswer>(&request);
        tokio::time::timeout(PATIENCE, asked).await.expect("an answer in time").unwrap()
    }

    pub async fn refused(&self, request: IndexRequest) -> Refusal {
        match self.ask(request).await {
            IndexAnswer::Refused(refusal) => refusal,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    pub fn hello_request(name: &str, membership: Membership) -> IndexRequest {
        IndexRequest::Hello(Hello {
            version: haul_core::wire::VERSION,
            features: 0,
            name: label(name),
            membership,
            peer_port: 4478,
            addresses: List::default(),
        })
    }

    pub async fn hello(&self, membership: Membership) -> Result<Welcome, Refusal> {
        self.hello_as("lab-3", membership).await
    }

    pub async fn hello_as(&self, name: &str, membership: Membership) -> Result<Welcome, Refusal> {
        match self.ask(Self::hello_request(name, membership)).await {
            IndexAnswer::Welcome(welcome) => Ok(welcome),
            IndexAnswer::Refused(refusal) => Err(refusal),
            other => panic!("unexpected {other:?}"),
        }
    }

    pub async fn closed(&self) -> String {
        tokio::time::timeout(PATIENCE, self.connection.closed()).await.expect("closed in time").to_string()
    }

    pub async fn open(&self, id: ShareId, state: ShareState) -> IndexAnswer {
        self.ask(IndexRequest::Open { share: id, name: label("docs"), groups: List::default(), state }).await
    }

    /// Registers a share with these files from nothing.
    pub async fn register(&self, id: ShareId, files: &Files) {
        assert_eq!(self.open(id, files.state).await, IndexAnswer::Replace);
        assert_eq!(self.ask(IndexRequest::Begin { share: id, tx: 1, base: None }).await, IndexAnswer::Begun);
        self.stage(1, files).await;
        let commit = IndexRequest::Commit { tx: 1, state: files.state, changes: files.count };
        assert_eq!(self.ask(commit).await, IndexAnswer::Committed { state: files.state });
    }

    pub async fn stage(&self, tx: u64, files: &Files) {
        for (seq, page) in files.pages.iter().enumerate() {
            let seq = seq as u32;
            let request = IndexRequest::Page { tx, seq, bytes: ByteString(page.clone()) };
            assert_eq!(self.ask(request).await, IndexAnswer::Staged { seq });
        }
    }

    pub async fn search(&self, query: &str) -> Hits {
        let request =
            IndexRequest::Search { query: query.to_owned(), limit: 50, cursor: None, away: false, exact: false };
        match self.ask(request).await {
            IndexAnswer::Hits(hits) => hits,
            other => panic!("unexpected {other:?}"),
        }
    }

    pub async fn lookup(&self, name: &str) -> Providers {
        let keys = LookupKeys::Names(List::new(vec![ByteString::from(name.as_bytes())]));
        match self.ask(IndexRequest::Lookup { keys, max: 10, away: false }).await {
            IndexAnswer::Providers(providers) => providers,
            other => panic!("unexpected {other:?}"),
        }
    }

    /// How many files of this exact name the index tells of.
    pub async fn count(&self, name: &str) -> u32 {
        self.lookup(name).await.answers[0].iter().map(|blob| blob.total).sum()
    }
}

/// The files of a share, as pages and state.
pub struct Files {
    pub pages: Vec<Vec<u8>>,
    pub state: ShareState,
    pub count: u64,
}

impl Files {
    /// Files of these names at the root, hashed.
    pub fn named(revision: u64, names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        Self::new(revision, names)
    }

    pub fn new(revision: u64, names: Vec<String>) -> Self {
        let content = |name: String| {
            let blob = BlobId::new(*blake3::hash(name.as_bytes()).as_bytes());
            (name, blob, 10)
        };
        Self::with_contents(revision, names.into_iter().map(content).collect())
    }

    /// Files of these names, blobs and sizes.
    pub fn with_contents(revision: u64, mut contents: Vec<(String, BlobId, u64)>) -> Self {
        contents.sort();
        let mut files = Self { pages: Vec::new(), state: ShareState::default(), count: 0 };
        let mut digest = RegistrationDigest::default();
        let mut builder = PageBuilder::new();
        for (name, blob, size) in &contents {
            let entry = Entry {
                directory: b"",
                name: name.as_bytes(),
                mtime_ns: 1,
                kind: EntryKind::File { size: *size, executable: false, blob: Some(*blob) },
            };
            digest.add(&entry);
            if !builder.push(&Change::Upsert(entry)) {
                files.pages.push(builder.finish());
                assert!(builder.push(&Change::Upsert(entry)));
            }
            files.count += 1;
        }
        if !builder.is_empty() {
            files.pages.push(builder.finish());
        }
        files.state = ShareState { revision, digest };
        files
    }
}
