//! The accept loop: deadlines, caps, and the choice of protocol from the `ClientHello`.
//!
//! Handshakes run as tasks that the listener owns and joins; dropping it ends them. A socket that says nothing is gone
//! at the deadline, or a second after it came if others wait. Running out of file descriptors slows the loop down and
//! never ends it.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use haul_core::ids::PublicKey;
use haul_core::limits;
use rustix::io::Errno;
use rustls::ServerConfig;
use rustls::server::Acceptor;
use socket2::{Domain, Protocol, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::LazyConfigAcceptor;

use crate::identity::SecretKey;
use crate::tcp::Socket;
use crate::tls::{self, Alpn, HttpsConfig};
use crate::transport::BoxTransport;

/// Connections that the kernel holds while the loop is busy.
const BACKLOG: i32 = 1024;
/// Pause after the system had no file descriptor or memory for a connection.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// With the cap reached, a handshake older than this makes room for the next.
const PATIENCE_WHEN_FULL: Duration = Duration::from_secs(1);
/// Handshakes of so much time may begin at once after a quiet while.
const BURST: Duration = Duration::from_millis(100);
/// A fatal alert `no_application_protocol` as a plain TLS record (RFC 8446 sections 5.1 and 6, RFC 7301).
const ALERT_NO_PROTOCOL: [u8; 7] = [21, 3, 3, 0, 2, 2, 120];

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
        /// The address of this machine that it reached.
        local: Option<SocketAddr>,
    },
    /// A browser: the decrypted stream speaks HTTP/1.1.
    Https {
        /// The encrypted stream.
        transport: BoxTransport,
        /// Where it is.
        addr: SocketAddr,
    },
}

/// What happened at a listener so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerCounts {
    /// Handshakes that succeeded.
    pub accepted: u64,
    /// Handshakes that failed or came to no end in time.
    pub failed: u64,
    /// Times that the system had no file descriptor or memory for a connection.
    pub exhausted: u64,
}

/// Sockets that accept connections.
pub struct Listener {
    sockets: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    protocols: Arc<Protocols>,
    handshakes: JoinSet<Option<Accepted>>,
    /// Handshakes in the order in which they began; finished ones leave when they come to the front.
    order: VecDeque<(Instant, AbortHandle)>,
    handshake_deadline: Duration,
    handshakes_pending: usize,
    paused_until: Option<Instant>,
    ramp: Ramp,
    /// A descriptor to give up when there is no other: it lets the waiting connection be taken and closed.
    reserve: Option<File>,
    counts: ListenerCounts,
}

fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
}

/// A steady rate with a little room for bursts: each handshake takes the next place on a time line, which may run ahead
/// of the clock by [`BURST`].
#[derive(Debug)]
struct Ramp {
    each: Duration,
    line: Option<Instant>,
}

impl Ramp {
    fn new(per_second: u32) -> Self {
        Self { each: Duration::from_secs(1) / per_second.max(1), line: None }
    }

    /// When the next handshake may begin; none if it may now.
    fn wait_until(&self, now: Instant) -> Option<Instant> {
        self.line.and_then(|line| line.checked_sub(BURST)).filter(|due| *due > now)
    }

    fn note(&mut self, now: Instant) {
        self.line = Some(self.line.map_or(now, |line| line.max(now)) + self.each);
    }
}

struct Protocols {
    alpn: Alpn,
    native: Arc<ServerConfig>,
    https: Option<HttpsConfig>,
}

impl Listener {
    /// Listens on all of these addresses. Port 0 is any free port; `[::]` takes IPv4 too, and becomes
    /// `0.0.0.0` where there is no IPv6. Must be called within a tokio runtime.
    pub fn bind(addresses: &[SocketAddr], key: &SecretKey, alpn: Alpn, https: Option<HttpsConfig>) -> io::Result<Self> {
        let native = tls::native_server(key, alpn).map_err(io::Error::other)?;
        let mut sockets: Vec<TcpListener> = Vec::new();
        let mut bound = Vec::new();
        for address in addresses {
            let socket = listen(*address)?;
            bound.push(socket.local_addr()?);
            sockets.push(socket);
        }
        Ok(Self {
            sockets,
            addresses: bound,
            protocols: Arc::new(Protocols { alpn, native, https }),
            handshakes: JoinSet::new(),
            order: VecDeque::new(),
            handshake_deadline: limits::HANDSHAKE_DEADLINE,
            handshakes_pending: limits::HANDSHAKES_PENDING,
            paused_until: None,
            ramp: Ramp::new(limits::HANDSHAKES_PER_SECOND.saturating_mul(cores())),
            reserve: File::open("/dev/null").ok(),
            counts: ListenerCounts::default(),
        })
    }

    /// Replaces the deadline of a handshake and the cap on those under way at once.
    pub fn set_limits(&mut self, handshake_deadline: Duration, handshakes_pending: usize) {
        self.handshake_deadline = handshake_deadline;
        self.handshakes_pending = handshakes_pending.max(1);
    }

    /// Replaces the rate at which handshakes begin.
    pub fn set_ramp(&mut self, handshakes_per_second: u32) {
        self.ramp = Ramp::new(handshakes_per_second);
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What happened so far.
    pub fn counts(&self) -> ListenerCounts {
        self.counts
    }

    /// Handshakes under way.
    pub fn pending(&self) -> usize {
        self.handshakes.len()
    }

    /// The next connection whose handshake is done. Never fails: what goes wrong ends that connection only. May be
    /// dropped and called again.
    pub async fn accept(&mut self) -> Accepted {
        loop {
            let room = self.handshakes.len() < self.handshakes_pending;
            let slow_down = self.ramp.wait_until(Instant::now());
            let wake = self.paused_until.or_else(|| if room { slow_down } else { self.next_eviction() });
            tokio::select! {
                Some(done) = self.handshakes.join_next(), if !self.handshakes.is_empty() => {
                    if let Ok(Some(accepted)) = done {
                        self.counts.accepted += 1;
                        return accepted;
                    }
                    self.counts.failed += 1;
                }
                connected = accept_any(&self.sockets), if room && self.paused_until.is_none() && slow_down.is_none() => match connected {
                    Ok((stream, addr)) => self.begin(stream, addr),
                    Err(error) => self.handle_accept_error(&error),
                },
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                    if self.paused_until.take().is_none() && !room {
                        self.evict();
                    }
                }
            }
        }
    }

    /// Stops listening and ends the handshakes under way.
    pub async fn close(mut self) {
        self.sockets.clear();
        self.handshakes.shutdown().await;
    }

    fn begin(&mut self, stream: TcpStream, addr: SocketAddr) {
        let protocols = Arc::clone(&self.protocols);
        let deadline = self.handshake_deadline;
        let began = Instant::now();
        self.ramp.note(began);
        let handle = self.handshakes.spawn(async move {
            match timeout(deadline, Box::pin(protocols.handshake(stream, addr))).await {
                Ok(Ok(accepted)) => Some(accepted),
                Ok(Err(error)) => {
                    tracing::debug!(%addr, %error, "handshake failed");
                    None
                }
                Err(_) => {
                    tracing::debug!(%addr, "handshake took too long");
                    None
                }
            }
        });
        self.order.push_back((began, handle));
        while self.order.front().is_some_and(|(_, handle)| handle.is_finished()) {
            self.order.pop_front();
        }
    }

    /// When the oldest handshake has had its time, should the cap stay reached.
    fn next_eviction(&mut self) -> Option<Instant> {
        while self.order.front().is_some_and(|(_, handle)| handle.is_finished()) {
            self.order.pop_front();
        }
        self.order.front().map(|(began, _)| *began + PATIENCE_WHEN_FULL)
    }

    fn evict(&mut self) {
        if let Some((_, oldest)) = self.order.pop_front() {
            oldest.abort();
        }
    }

    fn handle_accept_error(&mut self, error: &io::Error) {
        let exhausted =
            [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].map(|errno| Some(errno.raw_os_error()));
        if !exhausted.contains(&error.raw_os_error()) {
            // That one connection broke before it was taken.
            tracing::debug!(%error, "a connection broke while it was accepted");
            return;
        }
        if self.counts.exhausted == 0 {
            tracing::warn!(%error, "no resources for further connections; raise the limit of open files");
        }
        self.counts.exhausted += 1;
        // The first waiting connection is closed, so that its owner knows; then the others wait a little.
        if self.reserve.take().is_some() {
            for socket in &self.sockets {
                let refused = rustix::net::accept_with(socket, rustix::net::SocketFlags::NONBLOCK);
                drop(refused);
            }
        }
        self.reserve = File::open("/dev/null").ok();
        self.paused_until = Some(Instant::now() + EXHAUSTED_PAUSE);
    }
}

impl Protocols {
    async fn handshake(&self, stream: TcpStream, addr: SocketAddr) -> io::Result<Accepted> {
        let local = stream.local_addr().ok().map(canonical);
        let mut start = LazyConfigAcceptor::new(Acceptor::default(), Socket::new(stream)?).await?;
        let (mut native, mut http, mut any) = (false, false, false);
        for name in start.client_hello().alpn().into_iter().flatten() {
            any = true;
            native |= name == self.alpn.name();
            http |= name == tls::HTTP;
        }
        if native {
            let stream = accept_tls(start, Arc::clone(&self.native)).await?;
            let session = stream.get_ref().1;
            let remote = tls::proved_key(session.peer_certificates())
                .filter(|_| session.alpn_protocol() == Some(self.alpn.name()))
                .ok_or_else(|| io::Error::other("no key was proved"))?;
            return Ok(Accepted::Native { transport: Box::new(stream), remote, addr, local });
        }
        match &self.https {
            Some(https) if http || !any => {
                let stream = accept_tls(start, Arc::clone(&https.config)).await?;
                Ok(Accepted::Https { transport: Box::new(stream), addr })
            }
            _ => {
                start.io.write_all(&ALERT_NO_PROTOCOL).await?;
                start.io.shutdown().await?;
                Err(io::Error::other("no protocol in common"))
            }
        }
    }
}

async fn accept_tls(
    start: tokio_rustls::StartHandshake<Socket>,
    config: Arc<ServerConfig>,
) -> io::Result<tokio_rustls::server::TlsStream<Socket>> {
    start.into_stream_with(config, |tls| tls.set_buffer_limit(Some(tls::RECORDS_BYTES))).await
}

/// Accepts on whichever socket is ready first.
async fn accept_any(sockets: &[TcpListener]) -> io::Result<(TcpStream, SocketAddr)> {
    std::future::poll_fn(|context| {
        for socket in sockets {
            if let std::task::Poll::Ready(accepted) = socket.poll_accept(context) {
                return std::task::Poll::Ready(accepted.map(|(stream, addr)| (stream, canonical(addr))));
            }
        }
        std::task::Poll::Pending
    })
    .await
}

/// An IPv4 address that came in over a dual-stack socket is an IPv4 address.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match listen_on(address) {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && no_ipv6(&error) => {
            listen_on(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
        }
        result => result,
    }
}

fn no_ipv6(error: &io::Error) -> bool {
    [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].map(|errno| Some(errno.raw_os_error())).contains(&error.raw_os_error())
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // A restart takes the port back at once.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_let_in_at_the_rate_and_a_few_come_at_once() {
        let mut ramp = Ramp::new(1_000);
        let began = Instant::now();
        let mut now = began;
        for number in 0..5_000 {
            if let Some(due) = ramp.wait_until(now) {
                assert!(number > 100, "the first hundred wait for nobody");
                now = due;
            }
            assert_eq!(ramp.wait_until(now), None);
            ramp.note(now);
        }
        let took = now.duration_since(began).as_millis();
        assert!((4_890..=5_000).contains(&took), "{took} ms");
        // After a quiet while there is room for as many again.
        now += Duration::from_secs(9);
        for _ in 0..100 {
            assert_eq!(ramp.wait_until(now), None);
            ramp.note(now);
        }
    }
}
