//! A process without file descriptors: the listener closes what it cannot take, waits, and goes on.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "common/sockets.rs"]
mod common;

use std::fs::File;
use std::time::{Duration, Instant};

use common::{key, listener, start};
use haul_net::dialer::dial;
use haul_net::listener::Accepted;
use haul_net::tls::Alpn;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

#[tokio::test]
async fn a_listener_survives_running_out_of_file_descriptors() {
    let (mut listener, address) = listener(Alpn::Peer, None);
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(128);
    setrlimit(Resource::Nofile, limit).unwrap();
    let mut hogs = Vec::new();
    while let Ok(hog) = File::open("/dev/null") {
        hogs.push(hog);
    }
    // One descriptor for the dialing side of this test, none for the accepting side.
    hogs.pop();
    let refused = async {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.read_u8().await
    };
    tokio::select! {
        biased;
        closed = refused => assert!(closed.is_err(), "the connection is closed, not left waiting"),
        _ = listener.accept() => panic!("nothing can be accepted"),
    }
    let exhausted = listener.counts().exhausted;
    assert!(exhausted >= 1);
    // It does not spin: while nothing changes, it tries at its own pace.
    let waiting = TcpStream::connect(&address).await.unwrap();
    let _ = tokio::time::timeout(Duration::from_millis(500), listener.accept()).await;
    assert!(listener.counts().exhausted - exhausted <= 10, "{:?}", listener.counts());
    drop((waiting, hogs));
    let began = Instant::now();
    let key = key(2);
    let (dialed, accepted): (_, Accepted) = tokio::join!(dial(&address, &key, Alpn::Peer, None), listener.accept());
    assert_eq!(start(accepted).0.remote(), dialed.map(|_| key.public()).unwrap());
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}
