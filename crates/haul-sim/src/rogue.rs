//! A provider that registers a real blob and then misbehaves while serving it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use haul_core::blob::BlobGeometry;
use haul_core::ids::{BlobId, PeerId, ShareId};
use haul_core::limits::{FRAME_BYTES, LEAF_BYTES};
use haul_core::manifest::{Change, Entry, EntryKind, PageBuilder, RegistrationDigest, ShareState};
use haul_core::outline::{Outline, OutlineBuilder};
use haul_core::trust::Ticket;
use haul_core::wire::index::{Hello, IndexAnswer, IndexRequest, Membership};
use haul_core::wire::peer::{PeerAnswer, PeerRequest};
use haul_core::wire::{ByteString, Label, List, VERSION};
use haul_net::connection::{Connection, ConnectionSettings, Inbound, InboundRequest, Inbox};
use haul_net::dialer::dial;
use haul_net::identity::SecretKey;
use haul_net::listener::{Accepted, Listener};
use haul_net::tls::Alpn;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How it breaks its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Serves everything as registered.
    Honest,
    /// Flips a bit in every leaf.
    Corrupt,
    /// Says that it holds everything and has served, and sends nothing.
    Withhold,
    /// Takes requests and never sends a leaf.
    Stall,
    /// Closes the connection after this many leaves.
    Vanish(u64),
    /// Takes this long over every leaf.
    Slow(Duration),
}

/// Why a rogue could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It could not listen, reach the index, or make a key.
    #[error("{0}")]
    Setup(String),
    /// The index answered something else than expected.
    #[error("the index answered {0:?}")]
    Answer(Box<IndexAnswer>),
}

/// A misbehaving provider that runs until it is dropped or [`Rogue::stop`]ped.
pub struct Rogue {
    peer: PeerId,
    session: Connection,
    _inbox: Inbox,
    served: Arc<AtomicU64>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

struct Content {
    id: BlobId,
    bytes: Bytes,
    outline: Outline,
    behaviour: Behaviour,
    served: Arc<AtomicU64>,
}

impl Rogue {
    /// Joins by `ticket` as `label`, and registers `bytes` as the file `name` of a share `rogue`.
    pub async fn join(
        ticket: &Ticket,
        label: &str,
        name: &str,
        bytes: Bytes,
        behaviour: Behaviour,
    ) -> Result<Self, JoinError> {
        let key = SecretKey::generate().map_err(setup)?;
        let local = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::bind(&[local], &key, Alpn::Peer, None).map_err(setup)?;
        let port = listener.addresses().first().map_or(0, std::net::SocketAddr::port);
        let address = ticket.addresses.first().ok_or_else(|| setup("the ticket has no address"))?;
        let (session, inbox) = dial(address, &key, Alpn::Index, None).await.map_err(setup)?;

        let mut builder = OutlineBuilder::new();
        bytes.chunks(LEAF_BYTES as usize).for_each(|leaf| builder.push(leaf));
        let (id, outline) = builder.finish();
        register(&session, ticket, label, port, name, (id, bytes.len() as u64)).await?;

        let served = Arc::new(AtomicU64::new(0));
        let content = Arc::new(Content { id, bytes, outline, behaviour, served: Arc::clone(&served) });
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(accept(listener, content, tasks.clone(), shutdown.clone()));
        Ok(Self { peer: key.public(), session, _inbox: inbox, served, shutdown, tasks })
    }

    /// Its key.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Leaves sent so far, bad ones included.
    pub fn leaves_served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Leaves the network and ends all tasks.
    pub async fn stop(self) {
        self.session.close("stopped");
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn setup(error: impl ToString) -> JoinError {
    JoinError::Setup(error.to_string())
}

fn label(text: &str) -> Label {
    Label::from_lossy(text)
}

async fn ask(session: &Connection, request: IndexRequest) -> Result<IndexAnswer, JoinError> {
    session.request(&request).await.map_err(setup)
}

async fn register(
    session: &Connection,
    ticket: &Ticket,
    peer_label: &str,
    peer_port: u16,
    name: &str,
    (id, size): (BlobId, u64),
) -> Result<(), JoinError> {
    let hello = Hello {
        version: VERSION,
        features: 0,
        name: label(peer_label),
        membership: Membership::Ticket(ticket.secret),
        peer_port,
        addresses: List::default(),
    };
    match ask(session, IndexRequest::Hello(hello)).await? {
        IndexAnswer::Welcome(_) => session.set_frame_limit(FRAME_BYTES),
        other => return Err(JoinError::Answer(Box::new(other))),
    }
    let kind = EntryKind::File { size, executable: false, blob: Some(id) };
    let entry = Entry { directory: b"", name: name.as_bytes(), mtime_ns: 0, kind };
    let (mut pages, mut digest) = (PageBuilder::new(), RegistrationDigest::default());
    pages.push(&Change::Upsert(entry));
    digest.add(&entry);
    let state = ShareState { revision: 1, digest };
    let share = ShareId(session.remote().as_bytes().first_chunk().copied().unwrap_or_default());
    let open = IndexRequest::Open { share, name: label("rogue"), groups: List::default(), state };
    let steps = [
        (open, IndexAnswer::Replace),
        (IndexRequest::Begin { share, tx: 1, base: None }, IndexAnswer::Begun),
        (IndexRequest::Page { tx: 1, seq: 0, bytes: ByteString(pages.finish()) }, IndexAnswer::Staged { seq: 0 }),
        (IndexRequest::Commit { tx: 1, state, changes: 1 }, IndexAnswer::Committed { state }),
    ];
    for (request, expected) in steps {
        let answer = ask(session, request).await?;
        if answer != expected {
            return Err(JoinError::Answer(Box::new(answer)));
        }
    }
    Ok(())
}

async fn accept(mut listener: Listener, content: Arc<Content>, tasks: TaskTracker, shutdown: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        if let Accepted::Native { transport, remote, addr, .. } = accepted {
            let mut settings = ConnectionSettings::server(Some(addr));
            settings.tasks = tasks.clone();
            settings.frame_limit = FRAME_BYTES;
            let (connection, inbox) = Connection::start(transport, remote, settings);
            tasks.spawn(serve(connection, inbox, Arc::clone(&content), shutdown.clone()));
        }
    }
}

async fn serve(connection: Connection, mut inbox: Inbox, content: Arc<Content>, shutdown: CancellationToken) {
    let talk = async {
        while let Some(Inbound::Request(request)) = inbox.next().await {
            if content.answer(request).await.is_none() {
                break;
            }
        }
    };
    tokio::select! {
        () = talk => {}
        () = shutdown.cancelled() => {}
    }
    connection.close("gone");
}

impl Content {
    /// Answers one request; none if the connection shall close.
    async fn answer(&self, request: InboundRequest) -> Option<()> {
        let size = self.bytes.len() as u64;
        let answer = match request.decode().ok()? {
            PeerRequest::Grant { .. } => PeerAnswer::Granted,
            PeerRequest::Outline { blob, sheet } if blob == self.id => {
                let values = match sheet {
                    Some(sheet) => self.outline.sheet(sheet)?.concat(),
                    None => self.outline.root_sheet().concat(),
                };
                PeerAnswer::Outline { size, values: ByteString(values) }
            }
            PeerRequest::Bitfield { blob, .. } if blob == self.id => PeerAnswer::Bitfield { size, leaves: None },
            PeerRequest::Pieces { blob, ranges, .. } if blob == self.id => {
                let stream = request.into_stream();
                if self.behaviour == Behaviour::Withhold {
                    return stream.end(&PeerAnswer::Served).await.ok();
                }
                for leaf in ranges.iter().flat_map(|range| range.first..range.first.saturating_add(range.count)) {
                    stream.send(leaf, self.leaf(leaf).await?).await.ok()?;
                }
                return stream.end(&PeerAnswer::Served).await.ok();
            }
            _ => PeerAnswer::NotHeld,
        };
        request.answer(&answer).await.ok()
    }

    async fn leaf(&self, leaf: u64) -> Option<Bytes> {
        let geometry = BlobGeometry::new(self.bytes.len() as u64)?;
        if leaf >= geometry.leaves() {
            return None;
        }
        let range = geometry.leaf_range(leaf);
        let bytes = self.bytes.slice(range.start as usize..range.end as usize);
        let before = self.served.fetch_add(1, Ordering::Relaxed);
        match self.behaviour {
            Behaviour::Honest | Behaviour::Withhold => Some(bytes),
            Behaviour::Corrupt => {
                let mut bytes = bytes.to_vec();
                *bytes.first_mut()? ^= 1;
                Some(Bytes::from(bytes))
            }
            Behaviour::Stall => std::future::pending().await,
            Behaviour::Vanish(after) => (before < after).then_some(bytes),
            Behaviour::Slow(pause) => {
                tokio::time::sleep(pause).await;
                Some(bytes)
            }
        }
    }
}
