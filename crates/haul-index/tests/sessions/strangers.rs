//! Strangers and broken bytes: nothing is learnt, nobody else is touched.

use haul_core::ids::PeerId;
use haul_core::limits;
use haul_core::manifest::ShareState;
use haul_core::path::SharePath;
use haul_core::trust::Role;
use haul_core::wire::frame::{FrameHeader, FrameKind};
use haul_core::wire::index::{IndexAnswer, IndexRequest, LookupKeys, Membership, Refusal};
use haul_core::wire::{ByteString, List, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Files, Fixture, PATIENCE, Peer, key, label, peer_id, share};

fn everything_but_hello() -> Vec<IndexRequest> {
    let id = share(1);
    let peer: PeerId = peer_id(1);
    vec![
        IndexRequest::Open { share: id, name: label("x"), groups: List::default(), state: ShareState::default() },
        IndexRequest::Begin { share: id, tx: 1, base: None },
        IndexRequest::Page { tx: 1, seq: 0, bytes: ByteString::default() },
        IndexRequest::Commit { tx: 1, state: ShareState::default(), changes: 0 },
        IndexRequest::Close { share: id, forget: true },
        IndexRequest::Renew,
        IndexRequest::Lookup {
            keys: LookupKeys::Names(List::new(vec![ByteString::from(b"secret.txt".as_slice())])),
            max: 1,
            away: true,
        },
        IndexRequest::Search { query: "secret".to_owned(), limit: 1, cursor: None, away: true, exact: false },
        IndexRequest::Browse { peer, share: None, path: SharePath::default(), recursive: true, cursor: None },
        IndexRequest::Peers { after: None },
        IndexRequest::Stats,
        IndexRequest::Invite { uses: 1, life_ms: 1_000, role: Role::Admin, groups: List::default(), one_user: false },
        IndexRequest::Remove { peer },
        IndexRequest::Leave,
        IndexRequest::Locate { blobs: List::default(), max: 1, away: true },
        IndexRequest::Cards { numbers: List::new(vec![0]) },
    ]
}

#[tokio::test]
async fn a_stranger_learns_nothing_whatever_it_asks() {
    let f = Fixture::start().await;
    for request in everything_but_hello() {
        for introduce in [false, true] {
            let stranger = f.stranger(9).await;
            if introduce {
                stranger.ask(IndexRequest::Introduce { network: f.network() }).await;
            }
            assert_eq!(stranger.refused(request.clone()).await, Refusal::NoSession, "{request:?}");
            stranger.closed().await;
        }
    }
    let stranger = f.stranger(9).await;
    assert_eq!(stranger.refused(IndexRequest::Introduce { network: peer_id(7) }).await, Refusal::WrongNetwork);
    stranger.closed().await;
}

#[tokio::test]
async fn a_guest_may_look_but_not_change() {
    let f = Fixture::start().await;
    let (guest, _) = f.joined(1, Role::Guest).await;
    let (member, _) = f.member(2).await;
    assert_eq!(guest.search("anything").await.total, 0);
    assert_eq!(guest.count("anything").await, 0);
    let allowed = ["Renew", "Lookup", "Search", "Browse", "Peers", "Stats", "Leave", "Locate", "Cards"];
    for request in everything_but_hello() {
        let text = format!("{request:?}");
        if !allowed.iter().any(|name| text.starts_with(name)) {
            assert_eq!(guest.refused(request).await, Refusal::NotAllowed, "{text}");
        }
    }
    let IndexAnswer::Peers { peers, .. } = member.ask(IndexRequest::Peers { after: None }).await else {
        panic!("no peers")
    };
    assert!(peers.iter().all(|card| card.id != peer_id(1)), "guests are not listed");
}

#[tokio::test]
async fn two_sessions_of_one_guest_live_side_by_side() {
    let f = Fixture::start().await;
    let (one, welcome) = f.joined(1, Role::Guest).await;
    let (two, _) = f.returning(1, &welcome.certificate).await;
    assert_eq!(one.search("x").await.total, 0);
    assert_eq!(two.search("x").await.total, 0);
}

/// Writes raw bytes where frames should be, and reads until the index closes.
async fn speak_raw(f: &Fixture, n: u8, bytes: &[u8]) -> Vec<u8> {
    let mut transport = f.index.connect_in_memory(key(n).public());
    // The index may have closed before all is written.
    let _ = transport.write_all(bytes).await;
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, transport.read_to_end(&mut answer)).await.expect("closed in time").unwrap();
    answer
}

#[tokio::test]
async fn broken_frames_close_their_connection_and_no_other() {
    let f = Fixture::start().await;
    let (witness, _) = f.member(1).await;
    let request = |body: Vec<u8>| {
        let header = FrameHeader { body_bytes: body.len(), kind: FrameKind::Request, id: 1 };
        [header.encode().to_vec(), body].concat()
    };
    let long = request(vec![0; limits::FRAME_BYTES_BEFORE_MEMBERSHIP]);
    let mut trailing = encode(&IndexRequest::Renew);
    trailing.push(0);
    let push = FrameHeader { body_bytes: 0, kind: FrameKind::Push, id: 0 }.encode().to_vec();
    let bad: [(&str, Vec<u8>); 7] = [
        ("over 4 KiB", long),
        ("shorter than its header", vec![1, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("unknown kind", vec![5, 0, 0, 0, 99, 0, 0, 0, 0]),
        ("length of all ones", vec![255; 64]),
        ("unknown request", request(vec![200])),
        ("bytes left over", request(trailing)),
        ("a push before Hello", push),
    ];
    for (what, bytes) in bad {
        let answer = speak_raw(&f, 9, &bytes).await;
        assert!(answer.len() < 200, "{what}: {} bytes came back", answer.len());
        assert_eq!(witness.search("x").await.total, 0, "{what}");
    }
}

#[tokio::test]
async fn broken_requests_of_a_member_close_its_session_only() {
    let f = Fixture::start().await;
    let (witness, _) = f.member(1).await;
    let (member, welcome) = f.member(2).await;
    member.register(share(1), &Files::named(1, &["here.txt"])).await;
    // A request that is no request: its enum has no such variant.
    let broken: Result<IndexAnswer, _> = member.connection.request(&250u8).await;
    assert!(broken.is_err());
    member.closed().await;
    while witness.count("here.txt").await != 0 {
        tokio::task::yield_now().await;
    }
    let (member, _) = f.returning(2, &welcome.certificate).await;
    assert!(matches!(member.ask(IndexRequest::Stats).await, IndexAnswer::Stats(_)));
    let repeated = member.ask(Peer::hello_request("x", Membership::Certificate(welcome.certificate))).await;
    assert_eq!(repeated, IndexAnswer::Refused(Refusal::NotAllowed), "a session opens once");
    member.closed().await;
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_gone_at_the_deadline() {
    let f = Fixture::start().await;
    let begun = tokio::time::Instant::now();
    let silent = f.stranger_in_memory(9);
    silent.connection.closed().await;
    let waited = begun.elapsed();
    assert!(waited <= limits::FIRST_REQUEST_DEADLINE * 2, "{waited:?}");
    // Introduce alone does not buy more time.
    let slow = f.stranger_in_memory(8);
    slow.ask(IndexRequest::Introduce { network: f.network() }).await;
    let begun = tokio::time::Instant::now();
    slow.connection.closed().await;
    assert!(begun.elapsed() <= limits::FIRST_REQUEST_DEADLINE * 2);
}
