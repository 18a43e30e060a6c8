//! The one task of a connection: reads, writes, and closes in order.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};

use super::queue::Putter;
use super::reader::Reader;
use super::shared::Shared;
use super::writer::Writer;
use super::{CloseReason, Handle};
use crate::transport::BoxTransport;

/// Time to write what is queued, and the goodbye, when a connection closes.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Time that the other side has to close after our goodbye. Without waiting, the kernel could throw away what the
/// other side has not read yet.
const LINGER: Duration = Duration::from_secs(1);

/// Ends the connection for everyone who waits, also if the task is dropped or panics.
struct Finish(Arc<Shared>);

impl Drop for Finish {
    fn drop(&mut self) {
        self.0.close(CloseReason::Broken("its task was stopped".into()));
        self.0.fail_waiting();
        self.0.finish();
    }
}

pub(super) async fn drive(mut transport: BoxTransport, shared: Arc<Shared>, inbox: Putter, handle: Weak<Handle>) {
    let _finish = Finish(Arc::clone(&shared));
    let mut reader = Reader::new(Arc::clone(&shared), inbox, handle);
    let mut writer = Writer::new(Arc::clone(&shared));
    let mut silence = shared.settings.first_request.map(|deadline| Box::pin(sleep(deadline)));
    let reason = poll_fn(|context| {
        if let Some(reason) = shared.close_reason() {
            return Poll::Ready(reason);
        }
        // What was read just now is answered by the same turn's write.
        if let Poll::Ready(reason) = reader.poll(context, &mut transport, &mut writer) {
            return Poll::Ready(reason);
        }
        if let Poll::Ready(reason) = writer.poll(context, &mut transport) {
            return Poll::Ready(reason);
        }
        poll_silence(context, &mut silence, &shared)
    })
    .await;
    shared.close(reason);
    let reason = shared.reason_of_end();
    shared.fail_waiting();
    tracing::debug!(remote = ?shared.remote, addr = ?shared.settings.remote_addr, %reason, "connection closes");
    if let Some(goodbye) = goodbye(&reason) {
        if !matches!(reason, CloseReason::Local(_) | CloseReason::Unused) {
            shared.output.clear();
        }
        // What comes in meanwhile is read away, or two sides that say goodbye at once could wait for each other.
        let last_words = poll_fn(|context| match poll_drain(context, &mut transport) {
            Poll::Ready(()) => Poll::Ready(false),
            Poll::Pending => writer.poll_finish(context, &mut transport, &goodbye).map(|end| end.is_ok()),
        });
        if timeout(LAST_WORDS, last_words).await == Ok(true) {
            let _ = timeout(LINGER, poll_fn(|context| poll_drain(context, &mut transport))).await;
        }
    }
}

/// Ready once the first request is overdue; the timer is gone once it came.
fn poll_silence(
    context: &mut Context<'_>,
    silence: &mut Option<Pin<Box<Sleep>>>,
    shared: &Shared,
) -> Poll<CloseReason> {
    if shared.was_asked() {
        *silence = None;
    }
    match silence {
        Some(deadline) => deadline.as_mut().poll(context).map(|()| CloseReason::Silent),
        None => Poll::Pending,
    }
}

/// Reads and forgets; ready once the other side has closed too, so that what we sent is not lost with the socket.
fn poll_drain(context: &mut Context<'_>, transport: &mut BoxTransport) -> Poll<()> {
    let mut bytes = [0; 4 * 1024];
    loop {
        let mut room = ReadBuf::new(&mut bytes);
        match Pin::new(&mut *transport).poll_read(context, &mut room) {
            Poll::Ready(Ok(())) if !room.filled().is_empty() => {}
            Poll::Ready(_) => return Poll::Ready(()),
            Poll::Pending => return Poll::Pending,
        }
    }
}

/// What the other side is told; nothing if it knows or cannot hear.
fn goodbye(reason: &CloseReason) -> Option<String> {
    match reason {
        CloseReason::Local(text) => Some(text.clone()),
        CloseReason::Unused => Some("done".into()),
        CloseReason::Frame(error) => Some(error.to_string()),
        CloseReason::Violation(violation) => Some(violation.to_string()),
        CloseReason::Silent => Some(reason.to_string()),
        CloseReason::Remote(_) | CloseReason::Vanished | CloseReason::Stalled | CloseReason::Broken(_) => None,
    }
}
