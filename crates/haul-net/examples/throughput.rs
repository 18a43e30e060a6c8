//! One stream of leaves over loopback TLS, both ends in this process: megabytes per second, three times. Then small
//! requests: time per request, one and 64 in flight.
//! `cargo run --release -p haul-net --example throughput [MiB]`
#![allow(clippy::print_stdout, clippy::expect_used)]

use std::time::Instant;

use bytes::Bytes;
use haul_net::connection::{Connection, ConnectionSettings, Inbound, StreamItem};
use haul_net::dialer::dial;
use haul_net::identity::SecretKey;
use haul_net::listener::{Accepted, Listener};
use haul_net::tls::Alpn;

const LEAF: usize = 64 * 1024;
const REQUESTS: u32 = 64_000;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let mebibytes: u64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(4_096);
    let leaves = mebibytes * 1024 * 1024 / LEAF as u64;
    let key = SecretKey::generate().expect("random bytes");
    let loopback = ([127, 0, 0, 1], 0).into();
    let mut listener = Listener::bind(&[loopback], &key, Alpn::Peer, None).expect("a free port");
    let address = listener.addresses().first().expect("one address").to_string();
    for _ in 0..3 {
        let (dialing, accepted) = tokio::join!(dial(&address, &key, Alpn::Peer, None), listener.accept());
        let (dialer, _inbox) = dialing.expect("a connection");
        let Accepted::Native { transport, remote, .. } = accepted else { continue };
        let (_server, mut inbox) = Connection::start(transport, remote, ConnectionSettings::default());
        let sending = tokio::spawn(async move {
            let Some(Inbound::Request(request)) = inbox.next().await else { return };
            let stream = request.into_stream();
            let leaf = Bytes::from(vec![0x5a; LEAF]);
            for index in 0..leaves {
                stream.send(index, leaf.clone()).await.expect("the receiver takes everything");
            }
            stream.end(&leaves).await.expect("the receiver takes the end");
        });
        let began = Instant::now();
        let mut stream = dialer.open_stream(&0u8).await.expect("a stream");
        let mut bytes = 0;
        while let StreamItem::Data { bytes: leaf, .. } = stream.next().await.expect("the sender sends everything") {
            bytes += leaf.len();
        }
        let seconds = began.elapsed().as_secs_f64();
        println!("{mebibytes} MiB in {seconds:.3} s: {:.0} MB/s", bytes as f64 / seconds / 1e6);
        sending.await.expect("the sender ends");
    }
    for in_flight in [1, 64] {
        let (dialing, accepted) = tokio::join!(dial(&address, &key, Alpn::Peer, None), listener.accept());
        let (dialer, _inbox) = dialing.expect("a connection");
        let Accepted::Native { transport, remote, .. } = accepted else { continue };
        let (_server, mut inbox) = Connection::start(transport, remote, ConnectionSettings::default());
        let answering = tokio::spawn(async move {
            while let Some(Inbound::Request(request)) = inbox.next().await {
                request.answer(&1u32).await.expect("the asker waits");
            }
        });
        let began = Instant::now();
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..in_flight {
            let dialer = dialer.clone();
            asking.spawn(async move {
                for _ in 0..REQUESTS / in_flight {
                    dialer.request::<u32, u32>(&1).await.expect("an answer");
                }
            });
        }
        asking.join_all().await;
        let seconds = began.elapsed().as_secs_f64();
        println!("{REQUESTS} requests, {in_flight} in flight: {:.1} us each", seconds * 1e6 / f64::from(REQUESTS));
        dialer.close("done");
        answering.await.expect("the server ends");
    }
}
