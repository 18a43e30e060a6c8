//! Swarms: who may join, who is told of whom, and what a lost session leaves.

use std::collections::BTreeMap;

use haul_core::ids::{BlobId, PeerId};
use haul_core::trust::Role;
use haul_core::wire::index::{
    IndexAnswer, IndexPush, IndexRequest, Joined, Membership, PieceRange, PlannedSource, Refusal, Runs, SwarmPeer,
};
use haul_core::wire::{Label, List};
use haul_index::Invitation;
use haul_net::connection::Inbound;

use crate::support::{Files, Fixture, PATIENCE, Peer, label, peer_id, share};

/// What [`Files`] makes of a name; its size there is 10 bytes: one leaf, one piece.
fn blob(name: &str) -> BlobId {
    BlobId::new(*blake3::hash(name.as_bytes()).as_bytes())
}

fn join(name: &str) -> IndexRequest {
    IndexRequest::Join { blob: blob(name), size: 10, pieces: Runs::default(), uplink: None }
}

fn have(name: &str, first: u32) -> IndexRequest {
    let pieces = vec![PieceRange { first, count: 1 }].try_into().unwrap();
    IndexRequest::Have { blob: blob(name), pieces, received: List::default(), failed: List::default(), uplink: None }
}

async fn joined(peer: &Peer, name: &str) -> Joined {
    match peer.ask(join(name)).await {
        IndexAnswer::Joined(joined) => joined,
        other => panic!("unexpected {other:?}"),
    }
}

/// Whom the next push about a swarm names besides peer 1, with whether they hold everything.
async fn told(peer: &mut Peer) -> Vec<(PeerId, bool)> {
    loop {
        let inbound = tokio::time::timeout(PATIENCE, peer.inbox.next()).await.expect("a push in time");
        let Some(Inbound::Push(bytes)) = inbound else { panic!("no push") };
        if let IndexPush::Providers { peers, .. } = haul_core::wire::decode(&bytes).unwrap() {
            assert!(peers.iter().all(|peer| !peer.card.addresses.is_empty()));
            let named = peers.into_iter().map(|SwarmPeer { card, complete }| (card.id, complete));
            let others: Vec<_> = named.filter(|named| *named != (peer_id(1), true)).collect();
            if !others.is_empty() {
                return others;
            }
        }
    }
}

/// The first plan that comes: pieces from each peer.
async fn planned(peer: &mut Peer) -> BTreeMap<PeerId, u32> {
    loop {
        let inbound = tokio::time::timeout(PATIENCE, peer.inbox.next()).await.expect("a push in time");
        let Some(Inbound::Push(bytes)) = inbound else { panic!("no push") };
        if let IndexPush::Plan { sources, .. } = haul_core::wire::decode(&bytes).unwrap() {
            let pieces = |source: &PlannedSource| source.pieces.iter().map(|run| run.count).sum();
            return sources.iter().map(|source| (source.from, pieces(source))).collect();
        }
    }
}

async fn member_of(f: &Fixture, n: u8, group: &str) -> Peer {
    let groups: Vec<Label> = vec![label(group)];
    let ticket = f.index.invite(Invitation { role: Role::Member, groups, ..Invitation::default() }).await.unwrap();
    let peer = f.stranger(n).await;
    peer.hello(Membership::Ticket(ticket.secret)).await.unwrap();
    peer
}

#[tokio::test]
async fn members_of_a_swarm_are_told_of_each_other() {
    let f = Fixture::start().await;
    let (owner, _) = f.member(1).await;
    owner.register(share(1), &Files::named(1, &["set.bin"])).await;
    let (mut one, _) = f.member(2).await;
    let (two, _) = f.member(3).await;
    let alone = joined(&one, "set.bin").await;
    assert!(alone.groups.is_empty() && alone.peers.is_empty(), "everyone sees it, nobody else downloads it");
    let both = joined(&two, "set.bin").await;
    assert_eq!(both.peers.len(), 1);
    assert_eq!((both.peers[0].card.id, both.peers[0].complete), (peer_id(2), false));
    assert_eq!(told(&mut one).await, [(peer_id(3), false)]);
    assert_eq!(two.ask(have("set.bin", 0)).await, IndexAnswer::Noted);
    assert_eq!(told(&mut one).await, [(peer_id(3), true)]);
    assert!(matches!(two.refused(have("set.bin", 1)).await, Refusal::TooMuch(_)), "there is one piece");
    let (three, _) = f.member(4).await;
    assert_eq!(two.ask(IndexRequest::Depart { blob: blob("set.bin") }).await, IndexAnswer::Departed);
    drop(two);
    assert_eq!(joined(&three, "set.bin").await.peers.len(), 1, "who departed is not named");
    assert_eq!(told(&mut one).await, [(peer_id(4), false)]);
}

#[tokio::test]
async fn a_swarm_of_one_group_is_closed_to_others() {
    let f = Fixture::start().await;
    let owner = member_of(&f, 1, "lab").await;
    let files = Files::named(1, &["set.bin"]);
    let open = IndexRequest::Open {
        share: share(1),
        name: label("docs"),
        groups: List::new(vec![label("lab")]),
        state: files.state,
    };
    assert_eq!(owner.ask(open).await, IndexAnswer::Replace);
    owner.ask(IndexRequest::Begin { share: share(1), tx: 1, base: None }).await;
    owner.stage(1, &files).await;
    owner.ask(IndexRequest::Commit { tx: 1, state: files.state, changes: files.count }).await;
    let (stranger, _) = f.member(2).await;
    assert_eq!(stranger.refused(join("set.bin")).await, Refusal::NotFound);
    assert_eq!(stranger.refused(join("nothing")).await, Refusal::NotFound, "both look alike");
    let colleague = member_of(&f, 3, "lab").await;
    assert_eq!(joined(&colleague, "set.bin").await.groups.into_vec(), [label("lab")]);
    // Away, it is still known to whom it belongs.
    drop(owner);
    let late = member_of(&f, 4, "lab").await;
    let others = joined(&late, "set.bin").await;
    assert_eq!((others.peers.len(), others.groups.into_vec()), (1, vec![label("lab")]));
}

#[tokio::test]
async fn a_lost_session_departs_and_an_unknown_swarm_is_refused() {
    let f = Fixture::start().await;
    let (owner, _) = f.member(1).await;
    owner.register(share(1), &Files::named(1, &["set.bin"])).await;
    let (one, _) = f.member(2).await;
    assert_eq!(one.refused(have("set.bin", 0)).await, Refusal::NotOpen);
    joined(&one, "set.bin").await;
    let other_size = IndexRequest::Join { blob: blob("set.bin"), size: 11, pieces: Runs::default(), uplink: None };
    let (two, _) = f.member(3).await;
    assert_eq!(two.refused(other_size).await, Refusal::NotFound, "nobody says so");
    one.connection.close("gone");
    one.connection.closed().await;
    // The index learns of it in its own time.
    while !joined(&two, "set.bin").await.peers.is_empty() {
        tokio::task::yield_now().await;
    }
    let (guest, _) = f.joined(5, Role::Guest).await;
    assert_eq!(guest.refused(join("set.bin")).await, Refusal::NotAllowed);
}

#[tokio::test]
async fn those_that_claim_a_wrong_size_keep_nobody_out_however_many_they_are() {
    let f = Fixture::start().await;
    let (liar, _) = f.member(1).await;
    let wrong = (0..5).map(|n| (format!("{n}"), blob("set.bin"), 11)).collect();
    liar.register(share(1), &Files::with_contents(1, wrong)).await;
    let (owner, _) = f.member(2).await;
    owner.register(share(1), &Files::named(1, &["set.bin"])).await;
    let (one, _) = f.member(3).await;
    let (two, _) = f.member(4).await;
    // Who believes the liar is by itself.
    let other_size = IndexRequest::Join { blob: blob("set.bin"), size: 11, pieces: Runs::default(), uplink: None };
    let IndexAnswer::Joined(misled) = one.ask(other_size).await else { panic!("not joined") };
    assert!(misled.peers.is_empty());
    assert!(joined(&two, "set.bin").await.peers.is_empty());
    // And may change its mind.
    let others = joined(&one, "set.bin").await.peers;
    assert_eq!(others.iter().map(|peer| peer.card.id).collect::<Vec<_>>(), [peer_id(4)]);
    assert_eq!(one.ask(have("set.bin", 0)).await, IndexAnswer::Noted);
}

#[tokio::test]
async fn plans_follow_what_members_say_of_their_uplinks() {
    const SIZE: u64 = 64 * 1024 * 1024;
    const SLOW: u64 = 400_000;
    let f = Fixture::start().await;
    let (owner, _) = f.member(1).await;
    owner.register(share(1), &Files::with_contents(1, vec![("set.bin".into(), blob("set.bin"), SIZE)])).await;
    let join = |pieces: Vec<PieceRange>, uplink| {
        let pieces = pieces.try_into().unwrap();
        IndexRequest::Join { blob: blob("set.bin"), size: SIZE, pieces, uplink }
    };
    let all = || vec![PieceRange { first: 0, count: 64 }];
    let ((says_when_joining, _), (says_later, _)) = (f.member(2).await, f.member(3).await);
    let ((mut one, _), (mut two, _)) = (f.member(4).await, f.member(5).await);
    let joins = |answer| assert!(matches!(answer, IndexAnswer::Joined(_)), "{answer:?}");
    joins(says_when_joining.ask(join(all(), Some(SLOW))).await);
    joins(says_later.ask(join(all(), None)).await);
    let (pieces, received, failed) = (Runs::default(), List::default(), List::default());
    let later = IndexRequest::Have { blob: blob("set.bin"), pieces, received, failed, uplink: Some(SLOW) };
    assert_eq!(says_later.ask(later).await, IndexAnswer::Noted);
    joins(one.ask(join(Vec::new(), None)).await);
    joins(two.ask(join(Vec::new(), None)).await);
    let plans = [planned(&mut one).await, planned(&mut two).await];
    let [of_owner, of_first, of_second] =
        [1, 2, 3].map(|n| plans.iter().filter_map(|plan| plan.get(&peer_id(n))).sum::<u32>());
    assert!(of_owner > 0 && 2 * of_owner >= 3 * of_first.max(of_second), "{of_owner}, {of_first} and {of_second}");
}
