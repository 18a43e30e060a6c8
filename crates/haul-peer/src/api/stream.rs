//! Answers that come line by line. The operation lives inside the body of its answer: when the one who asked goes away,
//! the body is dropped and the operation with it.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;

use super::frames;
use super::problem::Problem;
use super::records::Record;

/// Lines that wait for a slow reader before the operation waits for it.
const LINES_AHEAD: usize = 64;

/// Takes the records of one answer.
#[derive(Clone, Debug)]
pub struct Records {
    lines: mpsc::Sender<Bytes>,
    framed: bool,
}

/// The reader of the answer has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaderGone;

impl Records {
    /// Sends a record; waits while the reader is slow.
    pub async fn send(&self, record: Record) -> Result<(), ReaderGone> {
        let line = record.to_line();
        let bytes = if self.framed { framed(b'R', line.as_bytes()) } else { Bytes::from(line) };
        self.lines.send(bytes).await.map_err(|_| ReaderGone)
    }

    /// Sends bytes of a file, in an answer of frames only.
    pub async fn send_data(&self, data: &[u8]) -> Result<(), ReaderGone> {
        for part in data.chunks(frames::FRAME_PAYLOAD_BYTES) {
            self.lines.send(framed(b'D', part)).await.map_err(|_| ReaderGone)?;
        }
        Ok(())
    }
}

impl From<ReaderGone> for Problem {
    fn from(_: ReaderGone) -> Self {
        Self::new(super::codes::ErrorCode::Interrupted, "the one who asked has gone")
    }
}

fn framed(kind: u8, payload: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(payload.len() + 5);
    frame.extend_from_slice(&frames::header(kind, payload.len()));
    frame.extend_from_slice(payload);
    Bytes::from(frame)
}

/// An answer of lines. `operation` gets the place for its records; what it returns as a problem is the last line.
pub fn lines<F>(operation: impl FnOnce(Records) -> F) -> Response
where
    F: Future<Output = Result<(), Problem>> + Send + 'static,
{
    answer(operation, false, "application/x-ndjson")
}

/// An answer of frames, see [`frames`].
pub fn framed_lines<F>(operation: impl FnOnce(Records) -> F) -> Response
where
    F: Future<Output = Result<(), Problem>> + Send + 'static,
{
    answer(operation, true, frames::CONTENT_TYPE)
}

fn answer<F>(operation: impl FnOnce(Records) -> F, framed: bool, content_type: &'static str) -> Response
where
    F: Future<Output = Result<(), Problem>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    let records = Records { lines: sender, framed };
    let running = operation(records.clone());
    let operation = Box::pin(async move {
        if let Err(problem) = running.await {
            // A reader that has gone needs no reason.
            let _gone = records.send(problem.into_record()).await;
        }
    });
    let mut response = Response::new(Body::from_stream(Answer { operation: Some(operation), lines: receiver }));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

struct Answer {
    operation: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    lines: mpsc::Receiver<Bytes>,
}

impl Stream for Answer {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Poll::Ready(Some(line)) = self.lines.poll_recv(context) {
            return Poll::Ready(Some(Ok(line)));
        }
        if let Some(operation) = self.operation.as_mut()
            && operation.as_mut().poll(context).is_ready()
        {
            // Its sender goes with it, so the queue ends behind the last line.
            self.operation = None;
        }
        self.lines.poll_recv(context).map(|line| line.map(Ok))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http_body_util::BodyExt;

    use super::*;
    use crate::api::codes::ErrorCode;
    use crate::api::records::Notice;

    #[tokio::test]
    async fn more_lines_than_fit_and_the_problem_at_the_end() {
        let response = lines(|records| async move {
            for n in 0..LINES_AHEAD * 3 {
                records.send(Record::Warning(Notice { message: n.to_string(), next: None })).await?;
            }
            Err(Problem::new(ErrorCode::NotFound, "at last"))
        });
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        assert_eq!(text.lines().count(), LINES_AHEAD * 3 + 1);
        assert!(text.lines().last().unwrap().contains("\"code\":\"not-found\""));
    }

    #[tokio::test]
    async fn frames_carry_bytes_and_records() {
        let response = framed_lines(|records| async move {
            records.send_data(&[1, 2, 3]).await?;
            Err(Problem::new(ErrorCode::Corrupt, "x"))
        });
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let mut reader = frames::FrameReader::default();
        reader.push(&body);
        assert_eq!(reader.next_frame(), Ok(Some(frames::BodyFrame::Data(vec![1, 2, 3]))));
        assert!(matches!(reader.next_frame(), Ok(Some(frames::BodyFrame::Record(line))) if line.contains("corrupt")));
    }
}
