//! Locate and Cards: who has a blob, by numbers that are told once.

use haul_core::ids::BlobId;
use haul_core::wire::List;
use haul_core::wire::index::{IndexAnswer, IndexRequest, Located, LocatedBlob, PeerCard};

use crate::support::{Files, Fixture, Peer, peer_id, share};

fn blob(name: &str) -> BlobId {
    BlobId::new(*blake3::hash(name.as_bytes()).as_bytes())
}

async fn locate(peer: &Peer, names: &[&str], max: u32, away: bool) -> Located {
    let blobs = List::new(names.iter().map(|name| blob(name)).collect());
    match peer.ask(IndexRequest::Locate { blobs, max, away }).await {
        IndexAnswer::Located(located) => located,
        other => panic!("unexpected {other:?}"),
    }
}

async fn cards(peer: &Peer, numbers: &[u32]) -> Vec<Option<PeerCard>> {
    match peer.ask(IndexRequest::Cards { numbers: List::new(numbers.to_vec()) }).await {
        IndexAnswer::Cards { cards } => cards,
        other => panic!("unexpected {other:?}"),
    }
}

#[tokio::test]
async fn blobs_are_located_by_numbers_that_have_cards() {
    let f = Fixture::start().await;
    let (asker, _) = f.member(1).await;
    let (one, _) = f.member(2).await;
    let (other, _) = f.member(3).await;
    one.register(share(1), &Files::named(1, &["a.txt", "b.txt"])).await;
    // The same blob twice on one peer: two places, one peer.
    one.register(share(2), &Files::named(1, &["a.txt"])).await;
    other.register(share(3), &Files::named(1, &["a.txt"])).await;
    let located = locate(&asker, &["a.txt", "nowhere", "b.txt"], 10, false).await;
    assert_eq!(located.coverage_permille, 1_000);
    let counts: Vec<_> = located.blobs.iter().map(|blob| (blob.size, blob.total, blob.end)).collect();
    assert_eq!(counts, [(10, 3, 2), (0, 0, 2), (10, 1, 3)]);
    let told = cards(&asker, &located.peers).await;
    let mut ids: Vec<_> = told.iter().flatten().map(|card| (card.id, card.online, card.addresses.len())).collect();
    assert_eq!(ids.pop(), Some((peer_id(2), true, 1)));
    ids.sort();
    let mut both = vec![(peer_id(2), true, 1), (peer_id(3), true, 1)];
    both.sort();
    assert_eq!(ids, both);
    assert_eq!(locate(&asker, &["a.txt"], 1, false).await.peers.len(), 1);
    assert_eq!(cards(&asker, &[u32::MAX, 1_000_000]).await, [None, None]);

    assert_eq!(other.ask(IndexRequest::Leave).await, IndexAnswer::Left);
    let online = locate(&asker, &["a.txt"], 10, false).await;
    assert_eq!(online.blobs, [LocatedBlob { size: 10, total: 2, end: 1 }]);
    let away = locate(&asker, &["a.txt"], 10, true).await;
    assert_eq!((away.peers.len(), &away.peers[..1]), (2, &online.peers[..]), "who is there comes first");
    let gone = cards(&asker, &away.peers[1..]).await;
    assert!(matches!(&gone[..], [Some(card)] if card.id == peer_id(3) && !card.online && card.addresses.is_empty()));
}
