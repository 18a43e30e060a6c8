//! A session's watches: starting and ending them, what its registrations mean to others', and pushing its own matches.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use haul_core::ids::PeerId;
use haul_core::registry::leases::ConnectionId;
use haul_core::wire::index::{IndexAnswer, IndexPush, IndexRequest};
use haul_net::clock;
use haul_net::connection::SendError;
use tokio::time::sleep;

use super::{Done, Job, Session};
use crate::store::IndexStore;
use crate::watches::{Batch, Mailbox, Watches};

/// Between two pushes of one session: what comes meanwhile goes together, and a reader has time for 256 of them.
const PUSH_GAP: Duration = Duration::from_millis(20);
/// When so much is unwritten that a push was refused, until it is tried again.
const PUSH_RETRY: Duration = Duration::from_millis(100);

/// The watches of one session; they end with it.
#[derive(Debug)]
pub(super) struct Watching {
    watches: Arc<Watches>,
    owner: ConnectionId,
    /// From the first watch on: most sessions have none.
    mailbox: OnceLock<Arc<Mailbox>>,
    /// Whether the job that pushes runs.
    delivering: AtomicBool,
}

impl Watching {
    pub(super) fn new(watches: Arc<Watches>, owner: ConnectionId) -> Self {
        Self { watches, owner, mailbox: OnceLock::new(), delivering: AtomicBool::new(false) }
    }

    fn mailbox(&self, peer: PeerId) -> &Arc<Mailbox> {
        self.mailbox.get_or_init(|| self.watches.mailbox(peer))
    }

    /// Ends all watches, and the job that pushes.
    pub(super) fn end(&self) {
        if let Some(mailbox) = self.mailbox.get() {
            mailbox.close();
        }
        self.watches.end_session(self.owner);
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // A session that failed unexpectedly did not come to its own end.
        self.end();
    }
}

/// The answer to Watch and Unwatch; none to anything else.
pub(super) fn answer<S: IndexStore>(session: &Session<S>, request: &IndexRequest) -> Option<IndexAnswer> {
    let watching = &session.watching;
    Some(match request {
        IndexRequest::Watch { watch, query } => {
            let mailbox = watching.mailbox(session.asker.peer);
            match watching.watches.add(watching.owner, &session.asker, mailbox, *watch, query) {
                Ok(()) => IndexAnswer::Watching,
                Err(refusal) => IndexAnswer::Refused(refusal),
            }
        }
        IndexRequest::Unwatch { watch } => {
            watching.watches.remove(watching.owner, *watch);
            IndexAnswer::Unwatched
        }
        _ => return None,
    })
}

/// The job that pushes matches, once.
pub(super) fn delivery<S: IndexStore>(session: &Arc<Session<S>>) -> Option<Job> {
    if session.watching.delivering.swap(true, Ordering::Relaxed) {
        return None;
    }
    Some(deliver(Arc::clone(session)).boxed())
}

async fn deliver<S: IndexStore>(session: Arc<Session<S>>) -> Done {
    let mailbox = session.watching.mailbox(session.asker.peer);
    while let Some(Batch { watch, hits, missed }) = mailbox.next().await {
        let push = IndexPush::Match { watch, hits, missed };
        match session.connection.push(&push) {
            Ok(()) => sleep(PUSH_GAP).await,
            // The other side reads slowly: nobody waits for it but this job, and what does not fit gets its mark.
            Err(SendError::Full) => {
                let IndexPush::Match { watch, hits, missed } = push else { break };
                mailbox.put_back(Batch { watch, hits, missed });
                sleep(PUSH_RETRY).await;
            }
            Err(error) => {
                tracing::debug!(%error, "matches were not pushed");
                break;
            }
        }
    }
    Done::Nothing
}

/// Wall clock in nanoseconds since 1970.
pub(super) fn now_ns() -> i64 {
    clock::wall_now().0.saturating_mul(1_000_000).try_into().unwrap_or(i64::MAX)
}
