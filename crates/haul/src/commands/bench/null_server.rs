//! The floor under every answer: haul's TLS and framing, and nothing behind them. Requests are not even decoded; each
//! is answered at once by as many bytes as an index answers it with.

use std::borrow::Cow;
use std::net::SocketAddr;

use anyhow::Context as _;
use haul_core::ids::{PeerId, PublicKey};
use haul_core::limits;
use haul_core::path::SharePath;
use haul_core::time::Timestamp;
use haul_core::wire::index::{
    BlobPlaces, Hit, HitKind, Hits, IndexAnswer, IndexRequest, LookupKeys, PeerCard, Place, Providers,
};
use haul_core::wire::{self, ByteString, Label, List};
use haul_net::connection::{Connection, ConnectionSettings, Inbound, Inbox};
use haul_net::identity::SecretKey;
use haul_net::listener::{Accepted, Listener};
use haul_net::tls::Alpn;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::mix;

/// Bytes that one blob takes in an answer to a Locate.
const LOCATED_BYTES: usize = 11;
/// Hits of a typical search of the mix.
const HITS: usize = 6;

/// A server that knows nothing.
pub(crate) struct NullServer {
    listener: Listener,
    key: SecretKey,
}

impl NullServer {
    /// Listens.
    pub(crate) fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let key = SecretKey::generate()?;
        let listener = Listener::bind(&[address], &key, Alpn::Index, None)?;
        Ok(Self { listener, key })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> anyhow::Result<SocketAddr> {
        self.listener.addresses().first().copied().context("the null server listens nowhere")
    }

    /// The key that it shows.
    pub(crate) fn key(&self) -> PublicKey {
        self.key.public()
    }

    /// Serves until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => {
                    let Accepted::Native { transport, remote, addr, .. } = accepted else { continue };
                    let settings = ConnectionSettings {
                        tasks: tasks.clone(),
                        frame_limit: limits::FRAME_BYTES,
                        ..ConnectionSettings::server(Some(addr))
                    };
                    let (connection, inbox) = Connection::start(transport, remote, settings);
                    tasks.spawn(answer_all(connection, inbox, shutdown.clone()));
                }
            }
        }
        self.listener.close().await;
        tasks.close();
        tasks.wait().await;
    }
}

async fn answer_all(connection: Connection, mut inbox: Inbox, shutdown: CancellationToken) {
    let answers = Answers::new(connection.remote());
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            inbound = inbox.next() => match inbound {
                Some(Inbound::Request(request)) => {
                    let answer = answers.to(request.body());
                    if request.answer(&*answer).await.is_err() {
                        return;
                    }
                }
                Some(Inbound::Push(_)) => {}
                None => return,
            }
        }
    }
}

/// Answers of the right length, by the first byte of a request: which message it is.
struct Answers {
    search: (u8, IndexAnswer),
    lookup: (u8, IndexAnswer),
    /// Its length follows from the number of blobs.
    locate: u8,
    other: IndexAnswer,
}

impl Answers {
    fn new(peer: PeerId) -> Self {
        let search = IndexRequest::Search { query: String::new(), limit: 0, cursor: None, away: false };
        let keys = LookupKeys::Names(List::default());
        let lookup = IndexRequest::Lookup { keys, max: 0, away: false };
        Self {
            search: (first_byte(&search), filler(&typical_hits(peer))),
            lookup: (first_byte(&lookup), filler(&typical_providers(peer))),
            locate: first_byte(&IndexRequest::Locate { blobs: List::default(), max: 0, away: false }),
            other: IndexAnswer::Begun,
        }
    }

    fn to(&self, request: &[u8]) -> Cow<'_, IndexAnswer> {
        match request.first() {
            Some(byte) if *byte == self.search.0 => Cow::Borrowed(&self.search.1),
            Some(byte) if *byte == self.lookup.0 => Cow::Borrowed(&self.lookup.1),
            Some(byte) if *byte == self.locate => {
                // A blob is 32 bytes of the request and, with two peers, eleven of the answer.
                let blobs = request.len() / 32;
                Cow::Owned(IndexAnswer::Introduced { certificate: ByteString(vec![0; 1 + blobs * LOCATED_BYTES]) })
            }
            _ => Cow::Borrowed(&self.other),
        }
    }
}

fn first_byte(request: &IndexRequest) -> u8 {
    wire::encode(request).first().copied().unwrap_or_default()
}

/// A message of the length of another one whose encoding is a plain copy.
fn filler(answer: &IndexAnswer) -> IndexAnswer {
    let length = wire::encode(answer).len().saturating_sub(3);
    IndexAnswer::Introduced { certificate: ByteString(vec![0; length]) }
}

fn typical_hits(peer: PeerId) -> IndexAnswer {
    let mix = mix::Mix { run: "r0".to_owned(), peers: 1 };
    let hit = |file| {
        let name = mix.file_name(0, file);
        Hit {
            kind: HitKind::File,
            name: name.as_bytes().into(),
            blob: Some(mix::file_blob(&name)),
            size: name.len() as u64,
            mtime_ns: mix::file_mtime_ns(file),
            peer,
            peer_name: Label::from_lossy("bench-1"),
            share: Label::from_lossy("bench-1"),
            path: SharePath::new(name.as_bytes()).unwrap_or_default(),
            names: 1,
            copies: 1,
            online: 1,
            near: false,
        }
    };
    let total = HITS as u64;
    IndexAnswer::Hits(Hits { hits: (0..HITS).map(hit).collect(), total, exact: true, ..Hits::default() })
}

fn typical_providers(peer: PeerId) -> IndexAnswer {
    let mix = mix::Mix { run: "r0".to_owned(), peers: 1 };
    let name = mix.file_name(0, 1);
    let path = SharePath::new(name.as_bytes()).unwrap_or_default();
    let share = Label::from_lossy("bench-1");
    let place = Place { peer: 0, share, path, mtime_ns: mix::file_mtime_ns(1), executable: false };
    let card = PeerCard {
        id: peer,
        name: Label::from_lossy("bench-1"),
        addresses: vec!["127.0.0.1:4478".to_owned()],
        online: true,
        seen: Timestamp(u64::from(u32::MAX) << 9),
        files: 200,
        bytes: 10_000,
    };
    let found = BlobPlaces { blob: Some(mix::file_blob(&name)), size: 30, places: vec![place], total: 1 };
    IndexAnswer::Providers(Providers { peers: vec![card], answers: vec![vec![found]], coverage_permille: 1_000 })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn fillers_have_the_length_of_real_answers() {
        let peer = PublicKey::new([7; 32]).unwrap();
        for answer in [typical_hits(peer), typical_providers(peer)] {
            assert!(wire::encode(&filler(&answer)).len().abs_diff(wire::encode(&answer).len()) <= 1);
        }
        let answers = Answers::new(peer);
        let keys = LookupKeys::Blobs(List::new(vec![mix::file_blob("x")]));
        let lookup = wire::encode(&IndexRequest::Lookup { keys, max: 5, away: true });
        assert_eq!(*answers.to(&lookup), answers.lookup.1);
        assert_eq!(*answers.to(&wire::encode(&IndexRequest::Leave)), IndexAnswer::Begun);
        let blobs = List::new(vec![mix::file_blob("x"); 64]);
        let locate = wire::encode(&IndexRequest::Locate { blobs, max: 10, away: false });
        assert!(wire::encode(&*answers.to(&locate)).len().abs_diff(64 * LOCATED_BYTES) < 8);
    }
}
