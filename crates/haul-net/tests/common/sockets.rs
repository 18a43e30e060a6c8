//! What the tests over sockets share.
#![allow(missing_docs, dead_code, unreachable_pub, clippy::unwrap_used, clippy::indexing_slicing)]

use haul_core::ids::PublicKey;
use haul_net::connection::{Connection, ConnectionSettings, Inbox};
use haul_net::dialer::dial;
use haul_net::identity::SecretKey;
use haul_net::listener::{Accepted, Listener};
use haul_net::tls::{Alpn, HttpsConfig};

pub fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32]).unwrap()
}

/// Listens on loopback with key 1.
pub fn listener(alpn: Alpn, https: Option<HttpsConfig>) -> (Listener, String) {
    let listener = Listener::bind(&["127.0.0.1:0".parse().unwrap()], &key(1), alpn, https).unwrap();
    let address = listener.addresses()[0].to_string();
    (listener, address)
}

/// Both ends of one connection over TLS: dialed with key 2, accepted with key 1.
pub async fn connected() -> ((Connection, Inbox), (Connection, Inbox)) {
    let (mut listener, address) = listener(Alpn::Peer, None);
    let own = key(2);
    let (dialed, accepted) = tokio::join!(dial(&address, &own, Alpn::Peer, Some(key(1).public())), listener.accept());
    (dialed.unwrap(), start(accepted))
}

pub fn start(accepted: Accepted) -> (Connection, Inbox) {
    let (transport, remote, addr) = native(accepted);
    Connection::start(
        transport,
        remote,
        ConnectionSettings { remote_addr: Some(addr), ..ConnectionSettings::default() },
    )
}

pub fn native(accepted: Accepted) -> (haul_net::transport::BoxTransport, PublicKey, std::net::SocketAddr) {
    match accepted {
        Accepted::Native { transport, remote, addr, .. } => (transport, remote, addr),
        Accepted::Https { .. } => panic!("expected the native protocol"),
    }
}
