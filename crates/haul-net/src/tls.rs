//! TLS 1.3 with raw public keys on both sides (RFC 7250), and configurations for HTTPS.

/// What is spoken behind TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// Between a peer and an index.
    Index,
    /// Between two peers.
    Peer,
}

impl Alpn {
    /// Its name in the handshake.
    pub fn name(self) -> &'static [u8] {
        match self {
            Self::Index => b"haul-index/1",
            Self::Peer => b"haul-peer/1",
        }
    }
}

/// How HTTPS is served: certificate and key.
#[derive(Clone)]
pub struct HttpsConfig {}
