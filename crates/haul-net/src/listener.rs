//! The accept loop: deadlines, caps, and the choice of protocol from the ClientHello.

use std::io;
use std::net::SocketAddr;

use haul_core::ids::PublicKey;

use crate::identity::SecretKey;
use crate::tls::{Alpn, HttpsConfig};
use crate::transport::BoxTransport;

/// A connection whose handshake is done.
pub enum Accepted {
    /// The native protocol: give it to [`crate::connection::Connection::start`].
    Native {
        /// The encrypted stream.
        transport: BoxTransport,
        /// The key that the other side proved to hold.
        remote: PublicKey,
        /// Where it is.
        addr: SocketAddr,
    },
    /// A browser: the decrypted stream speaks HTTP/1.1.
    Https {
        /// The encrypted stream.
        transport: BoxTransport,
        /// Where it is.
        addr: SocketAddr,
    },
}

/// Sockets that accept connections.
pub struct Listener {
    addresses: Vec<SocketAddr>,
}

impl Listener {
    /// Listens on all of these addresses. Port 0 is any free port.
    pub async fn bind(
        addresses: &[SocketAddr],
        key: &SecretKey,
        alpn: Alpn,
        https: Option<HttpsConfig>,
    ) -> io::Result<Self> {
        let _ = (key, alpn, https);
        Ok(Self { addresses: addresses.to_vec() })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The next connection whose handshake is done. Never fails: what goes wrong ends that connection only. May be
    /// dropped and called again.
    pub async fn accept(&mut self) -> Accepted {
        std::future::pending().await
    }
}
