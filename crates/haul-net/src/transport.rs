//! What a connection runs on: any ordered stream of bytes. TCP with TLS comes from the listener and the dialer; memory
//! joins two ends within one process, with the same behaviour.

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};

/// An ordered, reliable stream of bytes in both directions.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Transport for T {}

/// A transport of any kind.
pub type BoxTransport = Box<dyn Transport>;

/// Bytes under way in one direction of a memory transport: like a socket buffer, so a reader that stops is felt.
const MEMORY_BYTES: usize = 256 * 1024;

/// Two ends of one memory transport.
pub fn memory_pair() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(MEMORY_BYTES)
}
