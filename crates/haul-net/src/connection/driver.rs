//! The one task of a connection: reads, writes, and closes in order.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::reader::Reader;
use super::shared::Shared;
use super::writer::Writer;
use super::{CloseReason, Handle, Inbound};
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

pub(super) async fn drive(
    transport: BoxTransport,
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Inbound>,
    handle: Weak<Handle>,
) {
    let _finish = Finish(Arc::clone(&shared));
    let (read, write) = tokio::io::split(transport);
    let mut reader = Reader::new(read, Arc::clone(&shared), inbox, handle);
    let mut writer = Writer::new(write, Arc::clone(&shared));
    let reason = tokio::select! {
        reason = reader.run() => reason,
        reason = writer.run() => reason,
        reason = shared.closing() => reason,
        () = silence(&shared) => CloseReason::Silent,
    };
    shared.close(reason);
    let reason = shared.reason_of_end();
    shared.fail_waiting();
    tracing::debug!(remote = ?shared.remote, addr = ?shared.settings.remote_addr, %reason, "connection closes");
    if let Some(goodbye) = goodbye(&reason) {
        if !matches!(reason, CloseReason::Local(_) | CloseReason::Unused) {
            shared.output.clear();
        }
        let last_words = async {
            // What comes in meanwhile is read away, or two sides that say goodbye at once could wait for each other.
            tokio::select! {
                written = timeout(LAST_WORDS, writer.finish(&goodbye)) => matches!(written, Ok(Ok(()))),
                () = reader.drain() => false,
            }
        };
        if last_words.await {
            let _ = timeout(LINGER, reader.drain()).await;
        }
    }
}

/// Waits until the first request is overdue; for ever if it came or none is expected.
async fn silence(shared: &Shared) {
    if let Some(deadline) = shared.settings.first_request {
        sleep(deadline).await;
        if !shared.was_asked() {
            return;
        }
    }
    std::future::pending::<()>().await;
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
