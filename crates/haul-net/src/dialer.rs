//! From an address and a key to a connection: resolve, connect, TLS, check the key.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use haul_core::ids::PublicKey;
use haul_core::limits;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::connection::{Connection, ConnectionSettings, Inbox};
use crate::identity::SecretKey;
use crate::tcp::Socket;
use crate::tls::{self, Alpn, NativeClient};
use crate::transport::BoxTransport;

/// Time for the name service.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);
/// Time for TCP to connect to one address: three attempts of the kernel.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried.
const ADDRESSES_TRIED: usize = 8;

/// Why there is no connection. Each text says what failed at which address; what to do next depends on who asked.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The text is not `host:port`.
    #[error("{0:?} is not an address of the form host:port")]
    Address(String),
    /// The name is not known.
    #[error("the name {host:?} cannot be resolved: {cause}")]
    Resolve {
        /// The name.
        host: String,
        /// What the name service says.
        cause: String,
    },
    /// Nobody answers there.
    #[error("cannot connect to {address}: {cause}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        cause: io::Error,
    },
    /// Something else than haul answers there, or it refuses us.
    #[error("{address} answers, but not as haul does: {cause}")]
    Handshake {
        /// Where.
        address: SocketAddr,
        /// What went wrong.
        cause: io::Error,
    },
    /// Another haul answers there.
    #[error("{address} has another key than expected: {shown} instead of {expected}")]
    WrongKey {
        /// Where.
        address: SocketAddr,
        /// The key that was asked for.
        expected: PublicKey,
        /// The key that it showed.
        shown: PublicKey,
    },
    /// Our own key cannot be used.
    #[error("the own key cannot be used for TLS: {0}")]
    OwnKey(String),
}

impl DialError {
    /// With several addresses, the error that tells most is shown.
    fn weight(&self) -> u8 {
        match self {
            Self::Connect { .. } => 0,
            Self::Handshake { .. } => 1,
            _ => 2,
        }
    }
}

/// Connects to `host:port`, proves to hold `key`, and takes the other side only if it proves to hold `expect`, or, if
/// none is expected, any key: then the caller checks [`Connection::remote`].
pub async fn dial(
    address: &str,
    key: &SecretKey,
    alpn: Alpn,
    expect: Option<PublicKey>,
) -> Result<(Connection, Inbox), DialError> {
    dial_with(address, key, alpn, expect, ConnectionSettings::default()).await
}

/// Like [`dial`], with settings: the task group that joins the connection's task, say. The address is filled in.
pub async fn dial_with(
    address: &str,
    key: &SecretKey,
    alpn: Alpn,
    expect: Option<PublicKey>,
    settings: ConnectionSettings,
) -> Result<(Connection, Inbox), DialError> {
    let mut worst: Option<DialError> = None;
    for remote_addr in resolve(address).await? {
        match dial_address(remote_addr, key, alpn, expect).await {
            Ok((transport, remote)) => {
                let settings = ConnectionSettings { remote_addr: Some(remote_addr), ..settings };
                return Ok(Connection::start(transport, remote, settings));
            }
            Err(error) => {
                if worst.as_ref().is_none_or(|worst| error.weight() > worst.weight()) {
                    worst = Some(error);
                }
            }
        }
    }
    Err(worst.unwrap_or_else(|| DialError::Resolve { host: address.to_owned(), cause: "it has no address".into() }))
}

async fn resolve(address: &str) -> Result<Vec<SocketAddr>, DialError> {
    if let Ok(address) = address.parse() {
        return Ok(vec![address]);
    }
    let (host, port) = address.rsplit_once(':').ok_or_else(|| DialError::Address(address.to_owned()))?;
    if host.is_empty() || host.contains([':', '/', ' ']) || port.parse::<u16>().is_err() {
        return Err(DialError::Address(address.to_owned()));
    }
    let failed = |cause: String| DialError::Resolve { host: host.to_owned(), cause };
    match timeout(RESOLVE_DEADLINE, tokio::net::lookup_host(address)).await {
        Ok(Ok(addresses)) => Ok(addresses.take(ADDRESSES_TRIED).collect()),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed("the name service does not answer".into())),
    }
}

async fn dial_address(
    address: SocketAddr,
    key: &SecretKey,
    alpn: Alpn,
    expect: Option<PublicKey>,
) -> Result<(BoxTransport, PublicKey), DialError> {
    let not_connected = |cause| DialError::Connect { address, cause };
    let stream = timeout(CONNECT_DEADLINE, TcpStream::connect(address))
        .await
        .map_err(|_| not_connected(io::Error::new(io::ErrorKind::TimedOut, "no answer within 5 s")))?
        .and_then(Socket::new)
        .map_err(not_connected)?;
    let client = NativeClient::new(key, alpn, expect).map_err(|error| DialError::OwnKey(error.to_string()))?;
    // The name is sent nowhere and checked by nobody; the key is what counts.
    let name = ServerName::IpAddress(address.ip().into());
    let mut connector = TlsConnector::from(std::sync::Arc::clone(&client.config))
        .connect_with(name, stream, |tls| tls.set_buffer_limit(Some(tls::RECORDS_BYTES)));
    let refused = |cause| match (expect, client.shown()) {
        (Some(expected), Some(shown)) if shown != expected => DialError::WrongKey { address, expected, shown },
        _ => DialError::Handshake { address, cause },
    };
    let handshake = timeout(limits::HANDSHAKE_DEADLINE, &mut connector);
    let stream = match handshake.await {
        Ok(done) => done.map_err(refused)?,
        Err(_) => return Err(refused(io::Error::new(io::ErrorKind::TimedOut, "the handshake took more than 5 s"))),
    };
    let session = stream.get_ref().1;
    if session.alpn_protocol() != Some(alpn.name()) {
        return Err(refused(io::Error::other("it does not speak this protocol")));
    }
    let proved = tls::proved_key(session.peer_certificates());
    match proved.filter(|proved| expect.is_none_or(|expect| expect == *proved)) {
        Some(remote) => Ok((Box::new(stream), remote)),
        None => Err(refused(io::Error::other("it proved no key"))),
    }
}
