//! Everybody comes back at once: handshakes begin at a bounded rate, and everybody gets in.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "common/sockets.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{key, listener, start};
use haul_net::dialer::dial;
use haul_net::tls::Alpn;
use tokio::task::JoinSet;

const PEERS: usize = 60;
const PER_SECOND: u32 = 100;

#[tokio::test]
async fn a_storm_is_let_in_at_the_rate_and_nobody_is_turned_away() {
    let (mut listener, address) = listener(Alpn::Index, None);
    listener.set_ramp(PER_SECOND);
    let began = Instant::now();
    let mut dialing = JoinSet::new();
    for number in 0..PEERS {
        let address = address.clone();
        dialing.spawn(async move { dial(&address, &key(2 + number as u8), Alpn::Index, None).await.unwrap() });
    }
    let mut accepted = Vec::new();
    while accepted.len() < PEERS {
        accepted.push(start(listener.accept().await));
    }
    let took = began.elapsed();
    let dialed = dialing.join_all().await;
    // Ten may begin at once; the others wait for their place.
    let least = Duration::from_secs(1) * (PEERS as u32 - 11) / PER_SECOND;
    assert!(took >= least, "{took:?} for {PEERS} at {PER_SECOND} per second");
    assert_eq!((dialed.len(), listener.counts().failed), (PEERS, 0));
    assert!(dialed.iter().all(|(connection, _)| connection.close_reason().is_none()));
}
