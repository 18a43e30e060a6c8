//! One download over real sockets: TLS between keys, three peers that share the file.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "transfer_support/world.rs"]
mod world;

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use haul_core::wire::index::PeerCard;
use haul_net::connection::Connection;
use haul_net::dialer::dial;
use haul_net::identity::SecretKey;
use haul_net::tls::Alpn;
use haul_peer::fetch::pool::PeerDialer;
use haul_peer::fetch::{Downloader, PeerPool};
use haul_peer::serve::Server;
use tokio_util::sync::CancellationToken;
use world::{World, blob_of, content, no_progress, request};

struct TcpDialer(Arc<SecretKey>);

impl PeerDialer for TcpDialer {
    fn dial<'a>(&'a self, card: &'a PeerCard) -> BoxFuture<'a, Result<Connection, String>> {
        async move {
            let address = card.addresses.first().ok_or("no address")?;
            let dialled = dial(address, &self.0, Alpn::Peer, Some(card.id)).await;
            dialled.map(|(connection, _)| connection).map_err(|error| error.to_string())
        }
        .boxed()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_peers_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = content(24 * 1024 * 1024 + 1);
    let mut world = World::new();
    let me = Arc::new(SecretKey::generate().unwrap());
    world.me = SecretKey::from_seed(*me.seed()).unwrap();
    world.grant.send_replace(Some(world.paper(|_| {})));
    let mut cards = Vec::new();
    for name in ["one", "two", "three"] {
        let root = folder.path().join(name);
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("file"), &bytes).unwrap();
        let (mut card, shares) = world.add_share(name, &root, &folder.path().join(format!("state-{name}")));
        let (address, key) = world.listen(Server::new(shares, world.check()));
        (card.addresses, card.id) = (vec![address], key);
        cards.push(card);
    }
    // One card names a key that does not answer at its address: that peer is left alone.
    cards[2].id = SecretKey::generate().unwrap().public();
    let pool = PeerPool::new(Arc::new(TcpDialer(me)), world.grant.subscribe());
    let closing = CancellationToken::new();
    let running = tokio::spawn(pool.clone().run(closing.clone()));
    let downloader = Downloader::new(pool.clone(), world.finder(), None);
    let target = folder.path().join("got");
    let mut wanted = request(blob_of(&bytes).0, &target);
    wanted.size = Some(bytes.len() as u64);
    wanted.providers = cards.clone();
    wanted.only_these = true;
    let done = downloader.fetch_blob(wanted, no_progress(), CancellationToken::new()).await.unwrap();
    assert!(std::fs::read(&target).unwrap() == bytes);
    assert!(!done.providers.contains(&cards[2].id) && done.banned.is_empty());
    assert_eq!(pool.connected_peers(), 2, "the connections stay for the next download");
    closing.cancel();
    running.await.unwrap();
    assert_eq!(pool.connected_peers(), 0);
}
