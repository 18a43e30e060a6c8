//! What bytes from outside cost in memory: reading n bytes allocates at most 4n + 64 KiB, whatever they claim.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout)]

#[path = "common/sockets.rs"]
mod common;

use allocation_counter::measure;
use haul_core::ids::{BlobId, PublicKey, ShareId};
use haul_core::limits;
use haul_core::manifest::{Change, Entry, EntryKind, Page, PageBuilder, ShareState};
use haul_core::path::SharePath;
use haul_core::time::Timestamp;
use haul_core::wire::frame::{FrameHeader, FrameKind, HEADER_BYTES};
use haul_core::wire::index::{
    BlobPlaces, Hello, Hit, HitKind, Hits, IndexAnswer, IndexPush, IndexRequest, Located, LocatedBlob, LookupKeys,
    Membership, PeerCard, Place, Providers, Renewed, Welcome,
};
use haul_core::wire::locate::read_locate;
use haul_core::wire::peer::{LeafRange, PeerRequest};
use haul_core::wire::{ByteString, Label, List, VERSION, decode, encode};
use haul_net::connection::{Connection, ConnectionSettings, Inbound};
use haul_net::identity::SecretKey;
use haul_net::transport::memory_pair;
use proptest::prelude::*;
use proptest::sample::Index;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn bound(bytes: usize) -> u64 {
    (4 * bytes + 64 * 1024) as u64
}

/// Decoding these bytes as `Q` stays within the bound, counting every allocation, whether it succeeds or not.
fn check<Q: DeserializeOwned>(bytes: &[u8]) -> bool {
    let mut decoded = None;
    let info = measure(|| decoded = decode::<Q>(bytes).ok());
    assert!(info.bytes_total <= bound(bytes.len()), "{} bytes allocated for {}", info.bytes_total, bytes.len());
    decoded.is_some()
}

fn key() -> PublicKey {
    SecretKey::from_seed([1; 32]).unwrap().public()
}

fn text(bytes: usize) -> ByteString {
    ByteString(vec![b'x'; bytes])
}

fn label() -> Label {
    Label::new("x".repeat(limits::LABEL_BYTES)).unwrap()
}

/// The largest and the most divided form of every request of an index.
fn index_requests() -> Vec<Vec<u8>> {
    let state = ShareState::default();
    let share = ShareId([1; 16]);
    let hello = Hello {
        version: VERSION,
        features: 0,
        name: label(),
        membership: Membership::Certificate(text(2_000)),
        peer_port: 1,
        addresses: List::new(vec![String::new(); limits::ADDRESSES]),
    };
    let blobs = LookupKeys::Blobs(List::new(vec![BlobId::empty(); limits::LOOKUP_KEYS]));
    let names = LookupKeys::Names(List::new(vec![text(0); limits::LOOKUP_KEYS]));
    let path = SharePath::new(b"a/b/c").unwrap();
    [
        IndexRequest::Introduce { network: key() },
        IndexRequest::Hello(hello),
        IndexRequest::Open { share, name: label(), groups: List::new(vec![label(); limits::GROUPS]), state },
        IndexRequest::Begin { share, tx: u64::MAX, base: Some(state) },
        IndexRequest::Page { tx: 1, seq: 1, bytes: text(limits::PAGE_BYTES) },
        IndexRequest::Commit { tx: 1, state, changes: 1 },
        IndexRequest::Close { share, forget: true },
        IndexRequest::Renew,
        IndexRequest::Lookup { keys: blobs, max: 1, away: true },
        IndexRequest::Lookup { keys: names, max: 1, away: true },
        IndexRequest::Search {
            query: "x".repeat(limits::QUERY_BYTES),
            limit: 1,
            cursor: Some(text(100)),
            away: false,
            exact: false,
        },
        IndexRequest::Browse { peer: key(), share: Some(label()), path, recursive: true, cursor: Some(text(9)) },
        IndexRequest::Peers { after: Some(key()) },
        IndexRequest::Stats,
        IndexRequest::Remove { peer: key() },
        IndexRequest::Leave,
        IndexRequest::Watch { watch: u64::MAX, query: "x".repeat(limits::QUERY_BYTES) },
        IndexRequest::Unwatch { watch: u64::MAX },
        IndexRequest::Locate { blobs: List::new(vec![BlobId::empty(); limits::LOOKUP_KEYS]), max: 1, away: true },
        IndexRequest::Cards { numbers: List::new(vec![1; limits::CARDS]) },
    ]
    .iter()
    .map(encode)
    .collect()
}

fn peer_requests() -> Vec<Vec<u8>> {
    let blob = BlobId::empty();
    let range = LeafRange { first: 1, count: 1 };
    let path = SharePath::new(b"a/b/c").unwrap();
    [
        PeerRequest::Grant { grant: text(1_000), index_certificate: text(1_000) },
        PeerRequest::Outline { blob, sheet: Some(1) },
        PeerRequest::Pieces { blob, ranges: List::new(vec![range; limits::PIECE_RANGES]), wait: true },
        PeerRequest::Blobs { blobs: List::new(vec![blob; limits::SMALL_BLOBS]) },
        PeerRequest::Bitfield { blob, beyond: None },
        PeerRequest::List { share: label(), path, recursive: true, cursor: Some(text(100)) },
    ]
    .iter()
    .map(encode)
    .collect()
}

#[test]
fn every_request_decodes_within_the_bound() {
    assert!(index_requests().iter().all(|bytes| check::<IndexRequest>(bytes)));
    assert!(peer_requests().iter().all(|bytes| check::<PeerRequest>(bytes)));
}

#[test]
fn no_number_in_a_request_is_believed() {
    // Varints of 2^14 - 1, 2^28 - 1 and 2^32 - 1, over each of the first bytes: wherever a length stands, one hits it.
    for number in [&[0xff, 0x7f][..], &[0xff, 0xff, 0xff, 0x7f], &[0xff, 0xff, 0xff, 0xff, 0x0f]] {
        for valid in index_requests().into_iter().chain(peer_requests()) {
            for place in 0..valid.len().min(250) {
                let bytes = [&valid[..place], number, &valid[place + 1..]].concat();
                check::<IndexRequest>(&bytes);
                check::<PeerRequest>(&bytes);
            }
        }
    }
}

fn hit() -> Hit {
    Hit {
        kind: HitKind::File,
        name: text(3),
        blob: Some(BlobId::empty()),
        size: 1,
        files: None,
        mtime_ns: 1,
        peer: key(),
        peer_name: label(),
        share: label(),
        path: SharePath::new(b"a/b/c").unwrap(),
        names: 1,
        contents: 1,
        copies: 1,
        online: 1,
        near: false,
    }
}

fn index_pushes() -> Vec<Vec<u8>> {
    let hits = vec![hit(); 3];
    [
        IndexPush::Revoked { time: Timestamp(1), revoked: vec![(key(), 1); 3] },
        IndexPush::Match { watch: u64::MAX, hits, missed: true },
    ]
    .iter()
    .map(encode)
    .collect()
}

/// A page with files, a link, a folder and a remove, each with what it may have.
fn pages() -> Vec<Vec<u8>> {
    let file = EntryKind::File { size: u64::from(u32::MAX), executable: true, blob: Some(BlobId::empty()) };
    let entry = |directory, name, kind| Change::Upsert(Entry { directory, name, mtime_ns: -1, kind });
    let mut page = PageBuilder::new();
    let changes = [
        entry(b"", b"a", EntryKind::Directory),
        entry(b"", b"b", EntryKind::Symlink { target: b"a" }),
        entry(b"a", b"c", file),
        Change::Remove { directory: b"a", name: b"d" },
        entry(b"a/b", b"e", EntryKind::File { size: 0, executable: false, blob: None }),
    ];
    for change in &changes {
        assert!(page.push(change));
    }
    vec![page.finish()]
}

/// Checking a page, and going through it if it is one, allocates nothing: it is read where it is.
fn check_page(bytes: &[u8]) {
    let info = measure(|| {
        if let Ok(page) = Page::check(bytes) {
            assert!(page.changes().count() <= bytes.len());
        }
    });
    assert!(info.bytes_total <= 1024, "{} bytes for a page of {}", info.bytes_total, bytes.len());
}

/// The reader of Locate that is written by hand takes what the one for all messages takes, and fills the list as far.
fn check_locate(bytes: &[u8]) {
    let mut blobs = Vec::new();
    let mut options = None;
    let info = measure(|| options = read_locate(bytes, &mut blobs));
    assert!(info.bytes_total <= bound(bytes.len()), "{} bytes for {}", info.bytes_total, bytes.len());
    match decode::<IndexRequest>(bytes) {
        Ok(IndexRequest::Locate { blobs: known, max, away }) => {
            let options = options.unwrap();
            assert_eq!((options.max, options.away, &blobs), (max, away, &known.into_vec()));
        }
        _ => assert!(options.is_none(), "{bytes:?}"),
    }
}

/// Answers with a little of everything in every list.
fn index_answers() -> Vec<Vec<u8>> {
    let blob = BlobId::empty();
    let path = SharePath::new(b"a/b/c").unwrap();
    let card = PeerCard {
        id: key(),
        name: label(),
        addresses: vec!["127.0.0.1:4478".into()],
        online: true,
        seen: Timestamp(1),
        files: 1,
        bytes: 1,
    };
    let place = Place { peer: 0, share: label(), path: path.clone(), mtime_ns: 1, executable: false };
    let places = BlobPlaces { blob: Some(blob), size: 1, places: vec![place; 2], total: 2 };
    let welcome = Welcome {
        network: key(),
        certificate: text(9),
        grant: text(9),
        index_certificate: text(9),
        time: Timestamp(1),
        lease_ms: 1,
        revoked: vec![(key(), 1); 2],
        observed: "127.0.0.1".into(),
    };
    [
        IndexAnswer::Welcome(welcome),
        IndexAnswer::Renewed(Renewed { grant: Some(text(9)), time: Timestamp(1), revoked: vec![(key(), 1); 2] }),
        IndexAnswer::Providers(Providers {
            peers: vec![card.clone(); 2],
            answers: vec![vec![places; 2]; 2],
            coverage_permille: 1_000,
        }),
        IndexAnswer::Hits(Hits { hits: vec![hit(); 2], ..Hits::default() }),
        IndexAnswer::Peers { peers: vec![card.clone(); 2], more: false },
        IndexAnswer::Located(Located {
            peers: vec![1; 2],
            blobs: vec![LocatedBlob::default(); 2],
            ..Located::default()
        }),
        IndexAnswer::Cards { cards: vec![Some(card), None] },
        IndexAnswer::Watching,
        IndexAnswer::Unwatched,
    ]
    .iter()
    .map(encode)
    .collect()
}

#[test]
fn no_number_in_an_answer_is_believed() {
    // 2^14 - 1 elements could stand in the bytes that follow; each would take many times its least size in memory.
    let (number, rest) = ([0xff, 0x7f], [0xff; 0x4000]);
    for valid in index_answers() {
        assert!(check::<IndexAnswer>(&valid));
        for place in 0..valid.len() {
            check::<IndexAnswer>(&[&valid[..place], &number, &valid[place + 1..], &rest].concat());
        }
    }
}

#[test]
fn the_largest_located_answer_decodes_within_the_bound() {
    let answer = |peers| {
        let blobs = vec![LocatedBlob::default(); limits::LOOKUP_KEYS];
        encode(&IndexAnswer::Located(Located { peers: vec![1; peers], blobs, ..Located::default() }))
    };
    assert!(check::<IndexAnswer>(&answer(limits::LOCATED_PEERS)));
    assert!(!check::<IndexAnswer>(&answer(limits::LOCATED_PEERS + 1)));
}

/// Arbitrary bytes, and valid ones truncated, flipped, spliced, and with a huge number written over them.
fn hostile(valid: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<Index>(), any::<Index>(), any::<Index>(), any::<Index>(), 0..5u8, any::<u8>());
    let changed = change.prop_map(move |(one, other, place, end, kind, byte)| {
        let mut bytes = one.get(&valid).clone();
        let other = other.get(&valid);
        let place = place.index(bytes.len().min(200));
        match kind {
            0 => bytes.truncate(place),
            1 => bytes[place] ^= byte,
            2 => bytes = [&bytes[..place], &other[end.index(other.len())..]].concat(),
            // The largest varint that a length can be.
            3 => drop(bytes.splice(place..=place, [0xff, 0xff, 0xff, 0xff, 0x0f])),
            _ => bytes[place] = 0xff,
        }
        bytes
    });
    prop_oneof![1 => proptest::collection::vec(any::<u8>(), 0..300), 4 => changed]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]
    #[test]
    fn hostile_index_requests(bytes in hostile(index_requests())) {
        check::<IndexRequest>(&bytes);
    }

    #[test]
    fn hostile_peer_requests(bytes in hostile(peer_requests())) {
        check::<PeerRequest>(&bytes);
    }

    #[test]
    fn hostile_index_answers(bytes in hostile(index_answers())) {
        check::<IndexAnswer>(&bytes);
    }

    #[test]
    fn hostile_index_pushes(bytes in hostile(index_pushes())) {
        check::<IndexPush>(&bytes);
    }

    #[test]
    fn hostile_pages(bytes in hostile(pages())) {
        check_page(&bytes);
    }

    #[test]
    fn hostile_locates(bytes in hostile(locates())) {
        check_locate(&bytes);
    }
}

fn locates() -> Vec<Vec<u8>> {
    let blobs = |count| List::new(vec![BlobId::empty(); count]);
    let locate = |count, max| encode(&IndexRequest::Locate { blobs: blobs(count), max, away: max > 1 });
    vec![locate(0, 0), locate(1, 1), locate(3, u32::MAX), locate(limits::LOOKUP_KEYS, 256)]
}

/// Bytes that a connection allocates from its start to its end when these arrive in between.
fn connection_allocates(bytes: &[u8]) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let run = || {
        runtime.block_on(async {
            let (mut raw, transport) = memory_pair();
            let (connection, mut inbox) = Connection::start(transport, key(), ConnectionSettings::default());
            let (mut reading, mut writing) = tokio::io::split(&mut raw);
            let write = async {
                let _ = writing.write_all(bytes).await;
                let _ = writing.shutdown().await;
            };
            let serve = async { while let Some(Inbound::Push(_) | Inbound::Request(_)) = inbox.next().await {} };
            let mut scrap = [0; 512];
            let read = async { while let Ok(1..) = reading.read(&mut scrap).await {} };
            tokio::join!(write, serve, read, connection.closed());
        });
    };
    measure(run).bytes_total
}

#[test]
fn frames_allocate_what_arrives_and_not_what_they_claim() {
    let idle = connection_allocates(&[]);
    assert!(idle < 64 * 1024, "a connection that gets nothing allocates {idle} bytes");
    let frame = |kind, id, claimed: usize, sent: usize| {
        let header = FrameHeader { body_bytes: claimed, kind, id }.encode();
        [&header[..], &vec![1; sent]].concat()
    };
    let largest = limits::FRAME_BYTES - limits::FRAME_HEADER_BYTES;
    for sent in [0, 1, 100, 10_000, 100_000, largest] {
        let bytes = frame(FrameKind::Push, 0, largest, sent);
        // The memory transport holds the same bytes once more, in a buffer that doubles.
        let transport = 4 * bytes.len().min(256 * 1024) as u64;
        let used = connection_allocates(&bytes) - idle;
        assert!(used <= bound(bytes.len()) + transport, "{used} bytes for {} of {largest}", sent + HEADER_BYTES);
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_connection_keeps_no_buffer_while_it_is_idle() {
    let runtime = runtime();
    let bytes: Vec<u8> = (0..10)
        .flat_map(|_| {
            let header = FrameHeader { body_bytes: 20_000, kind: FrameKind::Push, id: 0 }.encode();
            [&header[..], &vec![1; 20_000]].concat()
        })
        .collect();
    let receive = || {
        let (mut raw, mut transport) = memory_pair();
        // The transport's own buffer has its size before anything is measured.
        runtime.block_on(async {
            raw.write_all(&bytes).await.unwrap();
            transport.read_exact(&mut vec![0; bytes.len()]).await.unwrap();
        });
        let enter = runtime.enter();
        let (connection, mut inbox) = Connection::start(transport, key(), ConnectionSettings::default());
        drop(enter);
        let info = measure(|| {
            runtime.block_on(async {
                raw.write_all(&bytes).await.unwrap();
                for _ in 0..10 {
                    assert!(matches!(inbox.next().await, Some(Inbound::Push(body)) if body.len() == 20_000));
                }
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
            });
        });
        (info, connection)
    };
    // The first connection leaves a chunk for all connections of its thread.
    let _first = receive();
    let (info, connection) = receive();
    assert!(info.bytes_current < 8 * 1024, "{} bytes are kept", info.bytes_current);
    assert_eq!(connection.close_reason(), None);
}

#[test]
fn an_idle_connection_over_tls_is_small() {
    const PAIRS: i64 = 16;
    let runtime = runtime();
    let mut pairs = Vec::new();
    let info = measure(|| {
        for _ in 0..PAIRS {
            let pair = runtime.block_on(async {
                let ((dialer, dialer_inbox), (server, mut inbox)) = common::connected().await;
                let text = "x".repeat(100_000);
                let (answer, ()) = tokio::join!(dialer.request::<String, u32>(&text), async {
                    let Some(Inbound::Request(request)) = inbox.next().await else { panic!("expected a request") };
                    request.answer(&1u32).await.unwrap();
                });
                assert_eq!(answer, Ok(1));
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                ((dialer, dialer_inbox), (server, inbox))
            });
            pairs.push(pair);
        }
    });
    let each = info.bytes_current / PAIRS;
    println!("an idle connection over TLS holds {each} bytes, both sides together");
    assert!(each < 48 * 1024, "{each} bytes");
}
