//! The floor under every answer: haul's TLS and framing, and nothing behind them. Requests are not even decoded; each
//! is answered at once by as many bytes as an index answers it with.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use haul_core::ids::{PeerId, PublicKey};
use haul_core::limits;
use haul_core::path::SharePath;
use haul_core::time::Timestamp;
use haul_core::wire::index::{
    BlobPlaces, Hit, HitKind, Hits, IndexAnswer, IndexRequest, LookupKeys, PeerCard, Place, Providers,
};
use haul_core::wire::{self, ByteString, Label, List};
use haul_net::connection::{AnswerAtOnce, Connection, ConnectionSettings, Inbound, Inbox};
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
    // As an index does: on the connection's own task.
    let answers = Arc::new(Answers::new(connection.remote()));
    connection.answer_at_once(Arc::clone(&answers) as Arc<dyn AnswerAtOnce>);
    drop(connection);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            inbound = inbox.next() => match inbound {
                // It came before the service was there.
                Some(Inbound::Request(request)) => {
                    let mut bytes = Vec::new();
                    answers.answer(request.body(), &mut bytes);
                    let Ok(answer) = wire::decode::<IndexAnswer>(&bytes) else { return };
                    if request.answer(&answer).await.is_err() {
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
    search: (u8, Vec<u8>),
    lookup: (u8, Vec<u8>),
    /// Its length follows from the number of blobs.
    locate: u8,
    other: Vec<u8>,
}

impl Answers {
    fn new(peer: PeerId) -> Self {
        let search = IndexRequest::Search { query: String::new(), limit: 0, cursor: None, away: false, exact: false };
        let keys = LookupKeys::Names(List::default());
        let lookup = IndexRequest::Lookup { keys, max: 0, away: false };
        Self {
            search: (first_byte(&search), filler(wire::encode(&typical_hits(peer)).len())),
            lookup: (first_byte(&lookup), filler(wire::encode(&typical_providers(peer)).len())),
            locate: first_byte(&IndexRequest::Locate { blobs: List::default(), max: 0, away: false }),
            other: wire::encode(&IndexAnswer::Begun),
        }
    }
}

impl AnswerAtOnce for Answers {
    fn answer(&self, request: &[u8], answer: &mut Vec<u8>) -> Option<u32> {
        match request.first() {
            Some(byte) if *byte == self.search.0 => answer.extend_from_slice(&self.search.1),
            Some(byte) if *byte == self.lookup.0 => answer.extend_from_slice(&self.lookup.1),
            // A blob is 32 bytes of the request and, with two peers, eleven of the answer.
            Some(byte) if *byte == self.locate => answer.extend(filler(4 + request.len() / 32 * LOCATED_BYTES)),
            _ => answer.extend_from_slice(&self.other),
        }
        Some(0)
    }
}

fn first_byte(request: &IndexRequest) -> u8 {
    wire::encode(request).first().copied().unwrap_or_default()
}

/// A message of about this many bytes that says nothing.
fn filler(bytes: usize) -> Vec<u8> {
    wire::encode(&IndexAnswer::Introduced { certificate: ByteString(vec![0; bytes.saturating_sub(3)]) })
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
            files: None,
            mtime_ns: mix::file_mtime_ns(file),
            peer,
            peer_name: Label::from_lossy("bench-1"),
            share: Label::from_lossy("bench-1"),
            path: SharePath::new(name.as_bytes()).unwrap_or_default(),
            names: 1,
            contents: 1,
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
            let length = wire::encode(&answer).len();
            assert!(filler(length).len().abs_diff(length) <= 1);
        }
        let answers = Answers::new(peer);
        let answer = |request: &IndexRequest| {
            let mut bytes = Vec::new();
            answers.answer(&wire::encode(request), &mut bytes).unwrap();
            bytes
        };
        let keys = LookupKeys::Blobs(List::new(vec![mix::file_blob("x")]));
        assert_eq!(answer(&IndexRequest::Lookup { keys, max: 5, away: true }), answers.lookup.1);
        assert_eq!(answer(&IndexRequest::Leave), wire::encode(&IndexAnswer::Begun));
        let blobs = List::new(vec![mix::file_blob("x"); 64]);
        let locate = answer(&IndexRequest::Locate { blobs, max: 10, away: false });
        assert!(locate.len().abs_diff(64 * LOCATED_BYTES) < 8);
    }
}
