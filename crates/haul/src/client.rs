//! Asks the daemon: HTTP over its unix socket, or over memory when a single command runs without one. Answers are
//! read line by line as they come.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};

use bytes::{Bytes, BytesMut};
use haul_peer::api::codes::ErrorCode;
use haul_peer::api::frames::{BodyFrame, FrameReader};
use haul_peer::api::records::{ErrorRecord, Line, Record};
use haul_peer::daemon::detached::Detached;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use crate::errors::Failure;

/// Longest line that an answer may have: a record with the longest names is far below.
const LINE_BYTES: usize = 4 * 1024 * 1024;

/// Whom to ask.
pub(crate) enum Daemon {
    /// The one behind this socket.
    Socket(PathBuf),
    /// One in this process, for this command alone; none once it has ended.
    Detached(Box<Mutex<Option<Detached>>>),
}

impl Daemon {
    /// `GET /v1/…`.
    pub(crate) async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    /// `DELETE /v1/…`.
    pub(crate) async fn delete(&self, path: &str) -> Result<Answer, Failure> {
        self.ask(Method::DELETE, path, Bytes::new()).await
    }

    /// `POST /v1/…`.
    pub(crate) async fn post(&self, path: &str, body: &impl Serialize) -> Result<Answer, Failure> {
        let body = serde_json::to_vec(body).expect("requests serialize to JSON");
        self.ask(Method::POST, path, body.into()).await
    }

    /// `POST /v1/…` without a body.
    pub(crate) async fn order(&self, path: &str) -> Result<Answer, Failure> {
        self.ask(Method::POST, path, Bytes::new()).await
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, Failure> {
        match self {
            Self::Socket(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(|error| no_daemon(socket, &error))?;
                Answer::open(stream, method, path, body).await
            }
            Self::Detached(detached) => {
                let stream = detached.lock().await.as_ref().map(Detached::connect);
                let stream = stream.ok_or_else(|| Failure::new(ErrorCode::Stopping, "this command is about to end"))?;
                Answer::open(stream, method, path, body).await
            }
        }
    }

    /// Leaves the index, if this process opened a session with it.
    pub(crate) async fn finish(&self) {
        if let Self::Detached(detached) = self
            && let Some(detached) = detached.lock().await.take()
            && let Err(ended) = detached.finish().await
        {
            tracing::warn!(%ended, "the session did not end as it should");
        }
    }
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => f.debug_tuple("Socket").field(path).finish(),
            Self::Detached(_) => f.write_str("Detached"),
        }
    }
}

/// One part of a path of the API, with everything but letters, digits and `-._~` encoded.
pub(crate) fn encode(part: &str) -> String {
    let mut encoded = String::with_capacity(part.len());
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn no_daemon(socket: &Path, error: &io::Error) -> Failure {
    let place = socket.display().to_string();
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Failure::new(ErrorCode::OtherUser, "the haul that runs here belongs to another user")
                .about(place, error)
                .next("start your own: haul up")
        }
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Failure::new(ErrorCode::DaemonUnreachable, "no haul is running here")
                .about(place, if error.kind() == io::ErrorKind::NotFound { "is not there" } else { "nobody answers" })
                .next("start one: haul up        for one command without it: --index TICKET")
        }
        _ => {
            Failure::new(ErrorCode::DaemonUnreachable, "the haul that runs here cannot be reached").about(place, error)
        }
    }
}

type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An answer as it comes in. Dropping it gives the request up.
pub(crate) struct Answer {
    body: Incoming,
    /// Moves the connection's bytes whenever the answer is waited for.
    driver: Option<Driver>,
    buffer: BytesMut,
    is_success: bool,
    _sender: SendRequest<Full<Bytes>>,
}

/// A line of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// As it came, without the line end.
    pub(crate) raw: String,
    /// What it says; none for a type that this version does not know.
    pub(crate) record: Option<Record>,
}

impl Answer {
    async fn open<S>(stream: S, method: Method, path: &str, body: Bytes) -> Result<Self, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        let mut driver: Option<Driver> = Some(Box::pin(async move {
            // A broken connection is seen by the one who waits for its answer.
            let _ = connection.await;
        }));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "haul")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .expect("the path is made of encoded parts");
        let response = beside(&mut driver, sender.send_request(request)).await.map_err(|error| broken(&error))?;
        let is_success = response.status().is_success();
        Ok(Self { body: response.into_body(), driver, buffer: BytesMut::new(), is_success, _sender: sender })
    }

    /// The next line; none at the end. An error record is the `Err`.
    pub(crate) async fn next(&mut self) -> Result<Option<Received>, Failure> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(searched + end + 1);
                return self.received(&line[..line.len() - 1]).map(Some);
            }
            searched = self.buffer.len();
            if searched > LINE_BYTES {
                return Err(strange());
            }
            match self.more().await? {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None if self.buffer.is_empty() => return Ok(None),
                None => {
                    let line = self.buffer.split();
                    return self.received(&line).map(Some);
                }
            }
        }
    }

    /// All of it, for answers of a few lines.
    pub(crate) async fn all(mut self) -> Result<Vec<Received>, Failure> {
        let mut lines = Vec::new();
        while let Some(line) = self.next().await? {
            lines.push(line);
        }
        Ok(lines)
    }

    /// The next frame of an answer to `cat`: bytes of the file, or its last record. None at a regular end.
    pub(crate) async fn next_frame(&mut self, reader: &mut FrameReader) -> Result<Option<Framed>, Failure> {
        loop {
            match reader.next_frame().map_err(|_| strange())? {
                Some(BodyFrame::Data(bytes)) => return Ok(Some(Framed::Data(bytes))),
                Some(BodyFrame::Record(line)) => {
                    return self.received(line.trim_end().as_bytes()).map(|line| Some(Framed::Line(Box::new(line))));
                }
                None => {}
            }
            match self.more().await? {
                Some(bytes) => reader.push(&bytes),
                None if reader.is_mid_frame() => return Err(strange()),
                None => return Ok(None),
            }
        }
    }

    async fn more(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            match beside(&mut self.driver, self.body.frame()).await {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken(&error)),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    fn received(&self, line: &[u8]) -> Result<Received, Failure> {
        let raw = std::str::from_utf8(line).map_err(|_| strange())?.to_owned();
        match serde_json::from_str::<Line>(&raw) {
            Ok(Line { record: Record::Error(record), .. }) => Err(Failure::from_record(record, Some(raw))),
            Ok(line) => Ok(Received { raw, record: Some(line.record) }),
            Err(_) => match unknown_error(&raw) {
                Some(failure) => Err(failure),
                None if self.is_success && raw.starts_with('{') => Ok(Received { raw, record: None }),
                None => Err(strange().because(raw)),
            },
        }
    }
}

/// A part of an answer to `cat`.
pub(crate) enum Framed {
    /// Bytes of the file.
    Data(Vec<u8>),
    /// A record.
    Line(Box<Received>),
}

/// An error with a code that this version does not know keeps its words and its exit code.
fn unknown_error(raw: &str) -> Option<Failure> {
    let value: serde_json::Value = serde_json::from_str(raw).ok()?;
    let text = |key: &str| value.get(key).and_then(|text| text.as_str()).map(str::to_owned);
    (text("type")? == "error").then(|| {
        let code = ErrorCode::Internal;
        let exit = value.get("exit").and_then(serde_json::Value::as_u64).and_then(|exit| u8::try_from(exit).ok());
        Failure::from_record(
            ErrorRecord {
                code,
                message: text("message").unwrap_or_default(),
                causes: Vec::new(),
                next: text("next"),
                exit: exit.unwrap_or(code.exit()),
            },
            Some(raw.to_owned()),
        )
    })
}

/// Waits for `future` while `driver` moves the bytes that it needs.
async fn beside<T>(driver: &mut Option<Driver>, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    poll_fn(|context| {
        if driver.as_mut().is_some_and(|driver| driver.as_mut().poll(context).is_ready()) {
            *driver = None;
        }
        future.as_mut().poll(context)
    })
    .await
}

fn broken(error: &hyper::Error) -> Failure {
    Failure::new(ErrorCode::DaemonUnreachable, "the daemon closed the connection before it had answered")
        .because(error)
        .next("see whether it still runs: haul status")
}

fn strange() -> Failure {
    Failure::new(ErrorCode::DaemonUnreachable, "the daemon's answer is not understood: it may be of another version")
        .next("compare: haul version, haul status")
}

#[cfg(test)]
mod tests {
    use haul_peer::api::records::Summary;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Answers one request on `stream` with `pieces`, each in a write of its own, and closes.
    async fn serve(mut stream: tokio::io::DuplexStream, head: &str, pieces: &[&[u8]]) -> String {
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).await.expect("a request");
            request.push(byte[0]);
        }
        stream.write_all(head.as_bytes()).await.expect("written");
        for piece in pieces {
            stream.write_all(piece).await.expect("written");
            stream.flush().await.expect("written");
            tokio::task::yield_now().await;
        }
        String::from_utf8(request).expect("text")
    }

    async fn ask(head: &str, pieces: &[&[u8]]) -> Result<Vec<Received>, Failure> {
        let (here, there) = tokio::io::duplex(64);
        let question = async { Answer::open(here, Method::GET, "/v1/peers", Bytes::new()).await?.all().await };
        let (request, answer) = tokio::join!(serve(there, head, pieces), question);
        assert!(request.starts_with("GET /v1/peers HTTP/1.1\r\n"), "{request}");
        answer
    }

    const OK: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";

    #[tokio::test]
    async fn lines_are_read_whatever_their_portions() {
        let summary = Record::Summary(Summary { hits: 3, ..Summary::default() }).to_line();
        let (start, end) = summary.as_bytes().split_at(20);
        let lines = ask(OK, &[b"{\"v\":1,\"type\":\"new-thing\"}\n", start, end]).await.expect("an answer");
        assert_eq!(lines.len(), 2);
        assert!(lines[0].record.is_none(), "types of later versions are passed on");
        assert_eq!(lines[1].raw, summary.trim_end());
        assert!(matches!(&lines[1].record, Some(Record::Summary(summary)) if summary.hits == 3));
    }

    #[tokio::test]
    async fn an_error_record_is_the_failure() {
        let line = b"{\"v\":1,\"type\":\"error\",\"code\":\"disk\",\"message\":\"full\",\"causes\":[],\"next\":null,\"exit\":7}\n";
        let failure = ask("HTTP/1.1 500 No\r\nconnection: close\r\n\r\n", &[line]).await.expect_err("failed");
        assert_eq!((failure.code(), failure.exit_code().0), (ErrorCode::Disk, 7));
        let later = b"{\"v\":1,\"type\":\"error\",\"code\":\"moon-phase\",\"message\":\"wrong moon\",\"exit\":6}\n";
        let failure = ask(OK, &[later]).await.expect_err("failed");
        assert_eq!((failure.record.message.as_str(), failure.exit_code().0), ("wrong moon", 6));
    }

    #[tokio::test]
    async fn what_is_no_record_is_said_to_be_strange() {
        let failure = ask("HTTP/1.1 404 No\r\nconnection: close\r\n\r\n", &[b"Not Found"]).await.expect_err("failed");
        assert_eq!(failure.code(), ErrorCode::DaemonUnreachable);
        let failure = ask("HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n", &[b"{\"v\":1"]).await.expect_err("cut off");
        assert_eq!(failure.code(), ErrorCode::DaemonUnreachable);
    }

    #[test]
    fn parts_of_paths_are_encoded() {
        assert_eq!(encode("My Files/ü"), "My%20Files%2F%C3%BC");
    }
}
