//! Asks a daemon over its socket or over a stream in memory, as the command line does.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::path::Path;

use haul_peer::api::records::{ErrorRecord, Line, Record};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

pub async fn raw(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: &str,
    path: &str,
    body: &str,
) -> Bytes {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let request = Request::builder().method(method).uri(path).header("host", "haul");
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    let answer = async {
        let response = sender.send_request(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        drop(sender);
        body
    };
    let (body, _closed) = tokio::join!(answer, connection);
    body
}

pub fn records(body: &[u8]) -> Vec<Record> {
    let text = std::str::from_utf8(body).unwrap();
    text.lines().map(|line| serde_json::from_str::<Line>(line).unwrap().record).collect()
}

pub async fn ask(socket: &Path, method: &str, path: &str, body: serde_json::Value) -> Vec<Record> {
    let stream = UnixStream::connect(socket).await.unwrap();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    records(&raw(stream, method, path, &body).await)
}

pub fn error(records: &[Record]) -> ErrorRecord {
    match records.last() {
        Some(Record::Error(error)) => error.clone(),
        other => panic!("no error at the end: {other:?}"),
    }
}

/// An answer that goes on, read record by record.
pub struct Lines {
    lines: tokio::io::Lines<tokio::io::BufReader<UnixStream>>,
}

impl Lines {
    /// The next record; skips what stands around the lines.
    pub async fn next(&mut self) -> Record {
        loop {
            let line = self.lines.next_line().await.unwrap().expect("a further line");
            if let Ok(line) = serde_json::from_str::<Line>(&line) {
                return line.record;
            }
        }
    }
}

/// Asks for an answer that goes on. Dropping it hangs up.
pub async fn follow(socket: &Path, path: &str, body: &serde_json::Value) -> Lines {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let body = body.to_string();
    let request = format!("POST {path} HTTP/1.1\r\nhost: haul\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    Lines { lines: tokio::io::BufReader::new(stream).lines() }
}
