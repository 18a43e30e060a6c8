//! Joining by ticket and certificate, and every way in which it is refused.

use std::time::Duration;

use haul_core::trust::{Grant, IndexCertificate, MemberCertificate, Role};
use haul_core::wire::index::{IndexAnswer, IndexPush, IndexRequest, Membership, Refusal};
use haul_core::wire::{ByteString, List};
use haul_index::Invitation;
use haul_net::connection::Inbound;
use haul_net::trust::parse_checked;

use crate::support::{Files, Fixture, PATIENCE, Peer, key, label, peer_id, share};

#[tokio::test]
async fn a_ticket_makes_a_member_with_everything_it_needs() {
    let f = Fixture::start().await;
    let ticket = f.ticket(Role::Member).await;
    assert_eq!((ticket.network, ticket.role), (f.network(), Role::Member));
    assert_eq!(ticket.addresses, [f.index.addresses()[0].to_string()]);
    let peer = f.stranger(1).await;
    let IndexAnswer::Introduced { certificate } = peer.ask(IndexRequest::Introduce { network: f.network() }).await
    else {
        panic!("not introduced")
    };
    let shown: IndexCertificate = parse_checked(&certificate, &f.network()).unwrap();
    assert_eq!((shown.network, shown.index), (f.network(), peer.connection.remote()));
    let welcome = peer.hello(Membership::Ticket(ticket.secret)).await.unwrap();
    let member: MemberCertificate = parse_checked(&welcome.certificate, &f.network()).unwrap();
    assert_eq!((member.peer, member.name.as_str(), member.role), (peer_id(1), "lab-3", Role::Member));
    let grant: Grant = parse_checked(&welcome.grant, &shown.index).unwrap();
    assert_eq!((grant.peer, grant.serial, grant.network), (peer_id(1), member.serial, f.network()));
    assert!(grant.issued <= welcome.time.after(PATIENCE) && grant.expires > welcome.time);
    assert!(welcome.observed.starts_with("127.0.0.1:"));
    assert_eq!(welcome.lease_ms, 90_000);
    let IndexAnswer::Renewed(renewed) = peer.ask(IndexRequest::Renew).await else { panic!("not renewed") };
    assert_eq!(renewed.grant, None, "the first one is fresh");
}

#[tokio::test]
async fn tickets_that_do_not_let_in_say_why_and_close() {
    let f = Fixture::start().await;
    let peer = f.stranger(1).await;
    assert_eq!(peer.hello(Membership::Ticket([9; 16])).await, Err(Refusal::TicketUnknown));
    peer.closed().await;

    let short = Invitation { life: Duration::from_millis(1), ..Invitation::default() };
    let ticket = f.index.invite(short).await.unwrap();
    while haul_net::clock::wall_now() < ticket.expires {
        tokio::task::yield_now().await;
    }
    let peer = f.stranger(1).await;
    assert_eq!(peer.hello(Membership::Ticket(ticket.secret)).await, Err(Refusal::TicketExpired));

    let once = f.index.invite(Invitation { uses: 1, ..Invitation::default() }).await.unwrap();
    for _ in 0..2 {
        f.stranger(1).await.hello(Membership::Ticket(once.secret)).await.expect("counted once per key");
    }
    let peer = f.stranger(2).await;
    assert_eq!(peer.hello(Membership::Ticket(once.secret)).await, Err(Refusal::TicketUsedUp));
    peer.closed().await;
}

#[tokio::test]
async fn certificates_of_others_and_of_other_networks_are_refused() {
    let (f, other) = (Fixture::start().await, Fixture::start().await);
    let (_, foreign) = other.joined(1, Role::Admin).await;
    let (_, own) = f.member(2).await;
    for certificate in [foreign.certificate, own.certificate, ByteString(vec![1, 2, 3])] {
        let peer = f.stranger(1).await;
        assert_eq!(peer.hello(Membership::Certificate(certificate)).await, Err(Refusal::BadCertificate));
        peer.closed().await;
    }
}

#[tokio::test]
async fn another_version_is_named() {
    let f = Fixture::start().await;
    let peer = f.stranger(1).await;
    let IndexRequest::Hello(mut hello) = Peer::hello_request("x", Membership::Ticket([0; 16])) else { unreachable!() };
    hello.version = 99;
    assert_eq!(peer.refused(IndexRequest::Hello(hello)).await, Refusal::Version { speaks: 1 });
}

#[tokio::test]
async fn a_second_claimant_of_a_name_gets_a_suffix_and_keeps_it() {
    let f = Fixture::start().await;
    let (_one, _) = f.member(1).await;
    let (two, welcome) = f.member(2).await;
    let named = |bytes: &ByteString| parse_checked::<MemberCertificate>(bytes, &f.network()).unwrap().name;
    let digits = key(2).public().to_string()[3..7].to_owned();
    assert_eq!(named(&welcome.certificate), format!("lab-3~{digits}"));
    drop(two);
    let (_two, again) = f.returning(2, &welcome.certificate).await;
    assert_eq!(again.certificate, welcome.certificate);
}

#[tokio::test]
async fn members_come_back_after_a_restart_and_after_the_members_are_lost() {
    let f = Fixture::start().await;
    let (peer, welcome) = f.joined(1, Role::Admin).await;
    drop(peer);
    let f = f.restart().await;
    let (peer, again) = f.returning(1, &welcome.certificate).await;
    assert_eq!(again.certificate, welcome.certificate);
    drop(peer);
    let Fixture { dir, index } = f;
    index.join().await.unwrap();
    std::fs::remove_file(dir.path().join("index/members.redb")).unwrap();
    let f = Fixture::start_in(dir).await;
    let (peer, _) = f.returning(1, &welcome.certificate).await;
    let invite =
        IndexRequest::Invite { uses: 1, life_ms: 1_000, role: Role::Member, groups: List::default(), one_user: false };
    assert!(matches!(peer.ask(invite).await, IndexAnswer::Invited { .. }), "still an admin");
}

#[tokio::test]
async fn admins_invite_and_others_do_not() {
    let f = Fixture::start().await;
    let (admin, _) = f.joined(1, Role::Admin).await;
    let groups = List::new(vec![label("wet-lab")]);
    let invite = IndexRequest::Invite { uses: 1, life_ms: 60_000, role: Role::Member, groups, one_user: false };
    let IndexAnswer::Invited { secret, .. } = admin.ask(invite.clone()).await else { panic!("not invited") };
    let peer = f.stranger(2).await;
    let welcome = peer.hello_as("two", Membership::Ticket(secret)).await.unwrap();
    let member: MemberCertificate = parse_checked(&welcome.certificate, &f.network()).unwrap();
    assert_eq!(member.groups, ["wet-lab"]);
    assert_eq!(peer.refused(invite).await, Refusal::NotAllowed);
    assert_eq!(peer.refused(IndexRequest::Remove { peer: peer_id(1) }).await, Refusal::NotAllowed);
}

#[tokio::test]
async fn removal_ends_the_session_and_tells_everybody() {
    let f = Fixture::start().await;
    let (admin, _) = f.joined(1, Role::Admin).await;
    let (mut witness, _) = f.member(2).await;
    let (removed, welcome) = f.member(3).await;
    removed.register(share(1), &Files::named(1, &["theirs.txt"])).await;
    assert_eq!(witness.count("theirs.txt").await, 1);
    assert_eq!(admin.refused(IndexRequest::Remove { peer: peer_id(1) }).await, Refusal::NotAllowed, "not oneself");
    assert_eq!(admin.refused(IndexRequest::Remove { peer: peer_id(9) }).await, Refusal::NotFound);
    assert_eq!(admin.ask(IndexRequest::Remove { peer: peer_id(3) }).await, IndexAnswer::Removed);
    assert_eq!(witness.count("theirs.txt").await, 0, "hidden before the answer");
    assert!(removed.closed().await.contains("removed"));
    let member: MemberCertificate = parse_checked(&welcome.certificate, &f.network()).unwrap();
    let listed =
        |revoked: &[(_, u64)]| matches!(revoked, [(peer, serial)] if *peer == peer_id(3) && *serial >= member.serial);
    let pushed = tokio::time::timeout(PATIENCE, witness.inbox.next()).await.unwrap();
    let Some(Inbound::Push(bytes)) = pushed else { panic!("no push") };
    let IndexPush::Revoked { revoked, .. } = haul_core::wire::decode(&bytes).unwrap() else { panic!("another push") };
    assert!(listed(&revoked));
    let IndexAnswer::Renewed(renewed) = witness.ask(IndexRequest::Renew).await else { panic!("not renewed") };
    assert!(listed(&renewed.revoked));
    let peer = f.stranger(3).await;
    assert_eq!(peer.hello(Membership::Certificate(welcome.certificate)).await, Err(Refusal::Revoked));
    let f = f.restart().await;
    let (_four, welcome) = f.member(4).await;
    assert!(listed(&welcome.revoked), "remembered over a restart");
    // Invited again, it starts from nothing: its registrations were deleted.
    let (peer, _) = f.member(3).await;
    assert_eq!(peer.open(share(1), Files::named(1, &["theirs.txt"]).state).await, IndexAnswer::Replace);
}

#[tokio::test]
async fn the_peer_in_the_same_process_joins_over_memory() {
    let f = Fixture::start().await;
    let ticket = f.ticket(Role::Admin).await;
    let peer = f.stranger_in_memory(1);
    let welcome = peer.hello(Membership::Ticket(ticket.secret)).await.unwrap();
    assert_eq!(welcome.observed, "");
    // Who asks over a socket is told the address at which it reached the index.
    let (other, _) = f.member(2).await;
    let IndexAnswer::Peers { peers, more } = other.ask(IndexRequest::Peers { after: None }).await else {
        panic!("no peers")
    };
    let card = peers.iter().find(|card| card.id == peer_id(1)).unwrap();
    assert!(card.online && !more && peers.len() == 2);
    assert_eq!(card.addresses, ["127.0.0.1:4478"]);
}
