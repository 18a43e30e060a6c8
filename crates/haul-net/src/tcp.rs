//! A TCP socket as TLS wants it: its options, and a read buffer that exists only while bytes are arriving.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use haul_core::limits::UNSENT_BYTES;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes of one read from the kernel. TLS reads 4 KiB at a time, which would cost a system call each.
const READ_BYTES: usize = 64 * 1024;
/// Unsent bytes in the kernel above which a socket takes no more: what the link carries in this time …
const UNSENT: Duration = Duration::from_millis(100);
/// … but at least this, two leaves, which is also the beginning, and at most [`UNSENT_BYTES`].
const UNSENT_LEAST: u32 = 128 * 1024;
/// An idle connection is probed after this long …
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// … this often …
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// … this many times.
const KEEPALIVE_PROBES: u32 = 3;
/// A connection whose sent bytes are not acknowledged for this long is dead.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(30);

thread_local! {
    /// The buffer that the next socket of this thread reads into.
    static SPARE: Cell<Vec<u8>> = Cell::default();
}

/// A connected socket.
pub(crate) struct Socket {
    stream: TcpStream,
    input: Vec<u8>,
    /// Bytes of `input` that are already consumed.
    consumed: usize,
    /// Unsent bytes above which the kernel takes no more.
    unsent: u32,
    /// Bytes that it took since a while ago.
    written: usize,
    since: Instant,
}

impl Socket {
    /// Sets the options that every connection has.
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES);
        socket.set_tcp_keepalive(&keepalive)?;
        #[cfg(target_os = "linux")]
        {
            socket.set_tcp_user_timeout(Some(ACKNOWLEDGE_TIMEOUT))?;
            socket.set_tcp_notsent_lowat(UNSENT_LEAST)?;
        }
        Ok(Self { stream, input: Vec::new(), consumed: 0, unsent: UNSENT_LEAST, written: 0, since: Instant::now() })
    }

    /// Fills the empty input buffer; zero bytes are the end of the stream.
    fn poll_input(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input.clear();
        self.consumed = 0;
        match self.stream.poll_read_ready(context) {
            Poll::Ready(ready) => ready?,
            Poll::Pending => {
                self.give_back();
                return Poll::Pending;
            }
        }
        if self.input.capacity() == 0 {
            self.input = SPARE.take();
            self.input.reserve_exact(READ_BYTES);
        }
        // A read that does not fill the buffer says that the kernel has no more, so the next one is not even tried.
        let polled = pin!(self.stream.read_buf(&mut self.input)).poll(context);
        if polled.is_pending() {
            self.give_back();
        }
        polled.map_ok(|_bytes| ())
    }

    /// Counts what the kernel took, and lets it take as much ahead as the link is fast.
    fn note_written(&mut self, written: &Poll<io::Result<usize>>) {
        let Poll::Ready(Ok(bytes)) = written else { return };
        self.written += bytes;
        if self.written < 4 * self.unsent as usize {
            return;
        }
        let per_second = self.written as f64 / self.since.elapsed().as_secs_f64().max(1e-6);
        (self.written, self.since) = (0, Instant::now());
        let unsent = (per_second * UNSENT.as_secs_f64()).clamp(UNSENT_LEAST.into(), UNSENT_BYTES.into()) as u32;
        // Each change is a system call.
        if unsent >= self.unsent / 2 * 3 || unsent <= self.unsent / 3 * 2 {
            self.unsent = unsent;
            #[cfg(target_os = "linux")]
            if let Err(error) = SockRef::from(&self.stream).set_tcp_notsent_lowat(unsent) {
                tracing::debug!(%error, "cannot bound what the kernel holds unsent");
            }
        }
    }

    /// Lends the empty buffer to the other sockets of this thread.
    fn give_back(&mut self) {
        if self.input.capacity() == READ_BYTES {
            SPARE.set(std::mem::take(&mut self.input));
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.consumed == this.input.len() {
            ready!(this.poll_input(context))?;
        }
        let waiting = this.input.get(this.consumed..).unwrap_or_default();
        let bytes = waiting.len().min(buffer.remaining());
        buffer.put_slice(waiting.get(..bytes).unwrap_or_default());
        this.consumed += bytes;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.note_written(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.note_written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
