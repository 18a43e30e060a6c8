//! Every message of both protocols as the bytes in `tests/fixtures`, which later versions must go on reading; and
//! what decoders make of bytes that were cut, flipped, joined or made up.
//!
//! After a deliberate addition: `HAUL_WRITE_FIXTURES=1 cargo test -p haul-core --test wire_fixtures`, and look at the
//! difference: lines may be added, none may change.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fmt::Debug;
use std::fmt::Write as _;
use std::path::PathBuf;

use data_encoding::HEXLOWER;
use haul_core::ids::{BlobId, PublicKey, ShareId};
use haul_core::manifest::{Entry, EntryKind, RegistrationDigest, ShareState};
use haul_core::path::SharePath;
use haul_core::time::Timestamp;
use haul_core::trust::Role;
use haul_core::wire::index::{
    BlobPlaces, Hello, Hit, HitKind, Hits, IndexAnswer, IndexPush, IndexRequest, Joined, Listing, Located, LocatedBlob,
    LookupKeys, Membership, PeerCard, PieceRange, Place, PlannedSource, Providers, Received, Refusal, Renewed, Stats,
    SwarmPeer, Welcome,
};
use haul_core::wire::peer::{LeafRange, PeerAnswer, PeerRequest};
use haul_core::wire::{ByteString, Label, List, decode, encode, encode_to};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn key(n: u8) -> PublicKey {
    PublicKey::new([n; 32]).unwrap()
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn bytes(text: &str) -> ByteString {
    ByteString::from(text.as_bytes())
}

fn path(text: &str) -> SharePath {
    SharePath::new(text.as_bytes().to_vec()).unwrap()
}

fn blob() -> BlobId {
    BlobId::new([0xb3; 32])
}

fn state() -> ShareState {
    let mut digest = RegistrationDigest::default();
    digest.add(&Entry { directory: b"d", name: b"n", mtime_ns: -1, kind: EntryKind::Directory });
    ShareState { revision: 300, digest }
}

fn groups() -> List<Label, 32> {
    List::new(vec![label("lab"), label("méd")])
}

fn index_requests() -> Vec<IndexRequest> {
    let share = ShareId([5; 16]);
    let hello = |membership| {
        IndexRequest::Hello(Hello {
            version: 1,
            features: 0,
            name: label("lab-3"),
            membership,
            peer_port: 4478,
            addresses: List::new(vec!["192.0.2.1:4478".to_owned()]),
        })
    };
    vec![
        IndexRequest::Introduce { network: key(1) },
        hello(Membership::Certificate(bytes("certificate"))),
        hello(Membership::Ticket([6; 16])),
        IndexRequest::Open { share, name: label("docs"), groups: groups(), state: state() },
        IndexRequest::Begin { share, tx: 7, base: Some(state()) },
        IndexRequest::Begin { share, tx: 7, base: None },
        IndexRequest::Page { tx: 7, seq: 1_000, bytes: bytes("page") },
        IndexRequest::Commit { tx: 7, state: state(), changes: u64::MAX },
        IndexRequest::Close { share, forget: true },
        IndexRequest::Renew,
        IndexRequest::Lookup { keys: LookupKeys::Blobs(List::new(vec![blob()])), max: 256, away: false },
        IndexRequest::Lookup { keys: LookupKeys::Names(List::new(vec![bytes("a.txt")])), max: 1, away: true },
        IndexRequest::Search {
            query: "llama 70b".to_owned(),
            limit: 50,
            cursor: Some(bytes("c")),
            away: false,
            exact: false,
        },
        IndexRequest::Browse {
            peer: key(2),
            share: Some(label("docs")),
            path: path("a/b"),
            recursive: true,
            cursor: None,
        },
        IndexRequest::Peers { after: Some(key(2)) },
        IndexRequest::Stats,
        IndexRequest::Invite { uses: 50, life_ms: 86_400_000, role: Role::Member, groups: groups(), one_user: true },
        IndexRequest::Remove { peer: key(2) },
        IndexRequest::Leave,
        IndexRequest::Watch { watch: 300, query: "llama -beta".to_owned() },
        IndexRequest::Unwatch { watch: 300 },
        IndexRequest::Locate { blobs: List::new(vec![blob()]), max: 64, away: true },
        IndexRequest::Cards { numbers: List::new(vec![0, 300]) },
        IndexRequest::Join {
            blob: blob(),
            size: 1 << 28,
            pieces: vec![PieceRange { first: 3, count: 1 }].try_into().unwrap(),
            uplink: Some(6_250_000),
        },
        IndexRequest::Have {
            blob: blob(),
            pieces: vec![PieceRange { first: 0, count: 300 }].try_into().unwrap(),
            received: List::new(vec![Received { from: key(2), bytes: 70_000 }]),
            failed: List::new(vec![key(9)]),
            uplink: Some(300),
        },
        IndexRequest::Depart { blob: blob() },
        IndexRequest::Leaving,
    ]
}

fn refusals() -> Vec<Refusal> {
    vec![
        Refusal::Version { speaks: 1 },
        Refusal::WrongNetwork,
        Refusal::NoSession,
        Refusal::BadCertificate,
        Refusal::Revoked,
        Refusal::TicketUnknown,
        Refusal::TicketExpired,
        Refusal::TicketUsedUp,
        Refusal::NotAllowed,
        Refusal::NotOpen,
        Refusal::StateMismatch,
        Refusal::BadPage("order".to_owned()),
        Refusal::BadQuery("empty".to_owned()),
        Refusal::NotFound,
        Refusal::TooMuch("shares".to_owned()),
        Refusal::Busy { retry_after_ms: 250 },
        Refusal::Storage("full".to_owned()),
    ]
}

fn card() -> PeerCard {
    PeerCard {
        id: key(2),
        name: label("lab-3"),
        addresses: vec!["192.0.2.1:4478".to_owned()],
        online: true,
        seen: Timestamp(1_700_000_000_000),
        files: 3,
        bytes: 1 << 40,
    }
}

fn listing() -> Listing {
    Listing { page: bytes("page"), cursor: Some(bytes("c")) }
}

fn hits() -> Hits {
    let hit = Hit {
        kind: HitKind::File,
        name: bytes("a.txt"),
        blob: Some(blob()),
        size: 1_000,
        files: None,
        mtime_ns: -1,
        peer: key(2),
        peer_name: label("lab-3"),
        share: label("docs"),
        path: path("a.txt"),
        names: 1,
        contents: 3,
        copies: 2,
        online: 1,
        near: false,
    };
    let directory = Hit { kind: HitKind::Directory, blob: None, files: Some(300), near: true, ..hit.clone() };
    Hits {
        hits: vec![hit, directory],
        cursor: None,
        total: 2,
        exact: true,
        coverage_permille: 1_000,
        examined: 9,
        index_us: 40,
    }
}

fn index_answers() -> Vec<IndexAnswer> {
    let place = Place { peer: 0, share: label("docs"), path: path("a.txt"), mtime_ns: 5, executable: true };
    let places = BlobPlaces { blob: Some(blob()), size: 10, places: vec![place], total: 1 };
    let mut answers = vec![
        IndexAnswer::Introduced { certificate: bytes("certificate") },
        IndexAnswer::Welcome(Welcome {
            network: key(1),
            certificate: bytes("member"),
            grant: bytes("grant"),
            index_certificate: bytes("index"),
            time: Timestamp(1_700_000_000_000),
            lease_ms: 90_000,
            revoked: vec![(key(9), 4)],
            observed: "192.0.2.1:50000".to_owned(),
        }),
        IndexAnswer::Same,
        IndexAnswer::Amend { from: state() },
        IndexAnswer::Replace,
        IndexAnswer::Begun,
        IndexAnswer::Staged { seq: 1_000 },
        IndexAnswer::Committed { state: state() },
        IndexAnswer::Closed,
        IndexAnswer::Renewed(Renewed { grant: Some(bytes("grant")), time: Timestamp(1), revoked: vec![] }),
        IndexAnswer::Providers(Providers {
            peers: vec![card()],
            answers: vec![vec![places], vec![]],
            coverage_permille: 1_000,
        }),
        IndexAnswer::Hits(hits()),
        IndexAnswer::Listing(listing()),
        IndexAnswer::Peers { peers: vec![card()], more: true },
        IndexAnswer::Stats(Stats {
            peers: 1,
            peers_online: 2,
            shares: 3,
            files: 4,
            bytes: 5,
            blobs: Some(6),
            searches: 7,
            lookups: 8,
            uptime_ms: 9,
        }),
        IndexAnswer::Invited { secret: [6; 16], expires: Timestamp(2) },
        IndexAnswer::Removed,
        IndexAnswer::Left,
    ];
    answers.extend(refusals().into_iter().map(IndexAnswer::Refused));
    answers.extend([IndexAnswer::Watching, IndexAnswer::Unwatched]);
    let located = |size, total, end| LocatedBlob { size, total, end };
    answers.push(IndexAnswer::Located(Located {
        peers: vec![3, 300],
        blobs: vec![located(1_000_000, 1_024, 2), located(0, 0, 2)],
        coverage_permille: 999,
    }));
    answers.push(IndexAnswer::Cards { cards: vec![Some(card()), None] });
    let peers = vec![SwarmPeer { card: card(), complete: true }];
    answers.push(IndexAnswer::Joined(Joined { groups: groups(), peers }));
    answers.extend([IndexAnswer::Noted, IndexAnswer::Departed, IndexAnswer::Needed { pieces: 300 }]);
    answers
}

fn index_pushes() -> Vec<IndexPush> {
    vec![
        IndexPush::Revoked { time: Timestamp(3), revoked: vec![(key(9), 4)] },
        IndexPush::Match { watch: 300, hits: hits().hits, missed: false },
        IndexPush::Match { watch: 300, hits: vec![], missed: true },
        IndexPush::Providers { blob: blob(), peers: vec![SwarmPeer { card: card(), complete: false }] },
        IndexPush::Plan {
            blob: blob(),
            lease_ms: 5_000,
            sources: List::new(vec![PlannedSource {
                from: key(2),
                pieces: List::new(vec![PieceRange { first: 300, count: 2 }]),
            }]),
        },
    ]
}

fn peer_requests() -> Vec<PeerRequest> {
    vec![
        PeerRequest::Grant { grant: bytes("grant"), index_certificate: bytes("index") },
        PeerRequest::Outline { blob: blob(), sheet: Some(1) },
        PeerRequest::Pieces { blob: blob(), ranges: List::new(vec![LeafRange { first: 0, count: 300 }]), wait: true },
        PeerRequest::Blobs { blobs: List::new(vec![blob()]) },
        PeerRequest::Bitfield { blob: blob(), beyond: Some(300) },
        PeerRequest::List { share: label("docs"), path: path("a"), recursive: false, cursor: Some(bytes("c")) },
    ]
}

fn peer_answers() -> Vec<PeerAnswer> {
    vec![
        PeerAnswer::Granted,
        PeerAnswer::Outline { size: 70_000, values: ByteString(vec![1; 64]) },
        PeerAnswer::Served,
        PeerAnswer::Bitfield { size: 70_000, leaves: Some(ByteString(vec![3])) },
        PeerAnswer::Listing(listing()),
        PeerAnswer::Queued { place: 2, reason: "slots".to_owned() },
        PeerAnswer::Changed,
        PeerAnswer::NotHeld,
        PeerAnswer::NotGranted { reason: "ended".to_owned() },
        PeerAnswer::Bad { reason: "range".to_owned() },
    ]
}

fn fixture_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// One line per message: its bytes in hex, then what they say, for people.
fn check_fixture<M: Serialize + DeserializeOwned + Debug + PartialEq>(file: &str, messages: &[M]) {
    let mut text = String::new();
    for message in messages {
        let encoded = encode(message);
        assert_eq!(decode::<M>(&encoded).as_ref(), Ok(message));
        let mut appended = vec![1, 2];
        encode_to(message, &mut appended);
        assert_eq!(appended, [&[1, 2], encoded.as_slice()].concat());
        writeln!(text, "{} {message:?}", HEXLOWER.encode(&encoded)).unwrap();
    }
    let path = fixture_path(file);
    if std::env::var_os("HAUL_WRITE_FIXTURES").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    for (kept, now) in kept.lines().zip(text.lines()) {
        assert_eq!(kept.split(' ').next(), now.split(' ').next(), "the bytes of this message changed: {now}");
    }
    assert_eq!(kept.lines().count(), text.lines().count(), "{file} lacks a message, or has one too many");
}

#[test]
fn messages_have_the_bytes_that_they_always_had() {
    check_fixture("index-requests-1.txt", &index_requests());
    check_fixture("index-answers-1.txt", &index_answers());
    check_fixture("index-pushes-1.txt", &index_pushes());
    check_fixture("peer-requests-1.txt", &peer_requests());
    check_fixture("peer-answers-1.txt", &peer_answers());
}

fn all_bytes() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = index_requests().iter().map(encode).collect();
    all.extend(index_answers().iter().map(encode));
    all.extend(index_pushes().iter().map(encode));
    all.extend(peer_requests().iter().map(encode));
    all.extend(peer_answers().iter().map(encode));
    all
}

/// No decoder panics, and what one takes can be encoded and read again as the same.
fn survive(bytes: &[u8]) {
    fn one<M: Serialize + DeserializeOwned + Debug + PartialEq>(bytes: &[u8]) {
        if let Ok(message) = decode::<M>(bytes) {
            assert_eq!(decode::<M>(&encode(&message)), Ok(message));
        }
    }
    one::<IndexRequest>(bytes);
    one::<IndexAnswer>(bytes);
    one::<IndexPush>(bytes);
    one::<PeerRequest>(bytes);
    one::<PeerAnswer>(bytes);
}

#[test]
fn a_message_that_is_cut_or_longer_is_none() {
    fn check<M: DeserializeOwned + Serialize + Debug>(messages: &[M]) {
        for message in messages {
            let whole = encode(message);
            for cut in 0..whole.len() {
                assert!(decode::<M>(&whole[..cut]).is_err(), "{message:?} cut at {cut}");
            }
            assert!(decode::<M>(&[whole.as_slice(), &[0]].concat()).is_err(), "{message:?} and a byte");
        }
    }
    check(&index_requests());
    check(&index_answers());
    check(&peer_requests());
    check(&peer_answers());
}

#[test]
fn every_flipped_bit_is_survived() {
    for mut message in all_bytes() {
        for bit in 0..message.len() * 8 {
            message[bit / 8] ^= 1 << (bit % 8);
            survive(&message);
            message[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn lists_over_their_limit_are_refused_before_they_are_read() {
    for (count, taken) in [(256, true), (257, false)] {
        let names: List<ByteString, 1_000> = List::new(vec![bytes("x"); count]);
        let mut lookup = encode(&(8u32, 1u32, names));
        lookup.extend([1, 0]);
        assert_eq!(decode::<IndexRequest>(&lookup).is_ok(), taken, "{count} names");
    }
    // A count that no memory could hold, with nothing behind it.
    let huge = encode(&(8u32, 0u32, u64::from(u32::MAX)));
    assert!(decode::<IndexRequest>(&huge).is_err());
}

proptest! {
    #[test]
    fn arbitrary_and_spliced_bytes_are_survived(
        made_up in proptest::collection::vec(any::<u8>(), 0..300),
        first in 0usize..60,
        second in 0usize..60,
        cut in 0usize..200,
    ) {
        survive(&made_up);
        let all = all_bytes();
        let (a, b) = (&all[first % all.len()], &all[second % all.len()]);
        survive(&[&a[..cut.min(a.len())], &b[cut.min(b.len())..]].concat());
        survive(&[&a[..cut.min(a.len())], made_up.as_slice()].concat());
    }
}
