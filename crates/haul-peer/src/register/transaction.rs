//! Changes of one share on their way: begin, pages, commit, without waiting for each answer.

use std::pin::Pin;

use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use haul_core::ids::ShareId;
use haul_core::limits;
use haul_core::manifest::ShareState;
use haul_core::wire::ByteString;
use haul_core::wire::index::{IndexAnswer, IndexRequest, Refusal};
use tokio::sync::OwnedSemaphorePermit;

use super::{IndexSession, Line, SessionEnded};

/// Why an exchange with the index came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// Start over with another session.
    Ended(SessionEnded),
    /// The index does not want it.
    Refused(Refusal),
    /// The index does not keep to the protocol.
    Unexpected,
}

impl From<SessionEnded> for Failure {
    fn from(ended: SessionEnded) -> Self {
        Self::Ended(ended)
    }
}

type Pending = Pin<Box<dyn Future<Output = Result<IndexAnswer, SessionEnded>> + Send>>;

/// See the module. Dropped, it leaves what was staged to the index, which drops it when the share is opened again.
pub(super) struct Transaction<S> {
    line: Line<S>,
    tx: u64,
    next_page: u32,
    changes: u64,
    /// Answers come in order, for the index handles the requests of one share in order.
    pending: FuturesOrdered<Pending>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl<S: IndexSession> Transaction<S> {
    /// Starts to amend `base`, or to replace everything.
    pub(super) async fn begin(line: &Line<S>, share: ShareId, base: Option<ShareState>) -> Self {
        // The semaphore is never closed.
        let permit = line.transactions.clone().acquire_owned().await.ok();
        let tx = line.transaction_number();
        let pending = FuturesOrdered::new();
        let mut this = Self { line: line.clone(), tx, next_page: 0, changes: 0, pending, _permit: permit };
        this.send(IndexRequest::Begin { share, tx, base });
        this
    }

    /// Sends a page with this many records; waits while enough is on its way.
    pub(super) async fn page(&mut self, bytes: Vec<u8>, records: u64) -> Result<(), Failure> {
        while self.pending.len() > limits::PAGES_IN_FLIGHT {
            self.settle_one().await?;
        }
        self.send(IndexRequest::Page { tx: self.tx, seq: self.next_page, bytes: ByteString(bytes) });
        self.next_page += 1;
        self.changes += records;
        Ok(())
    }

    /// Makes it visible; `state` is what the index holds then.
    pub(super) async fn commit(mut self, state: ShareState) -> Result<(), Failure> {
        self.send(IndexRequest::Commit { tx: self.tx, state, changes: self.changes });
        let mut last = None;
        while !self.pending.is_empty() {
            last = Some(self.settle_one().await?);
        }
        match last {
            Some(IndexAnswer::Committed { state: held }) if held == state => Ok(()),
            _ => Err(Failure::Unexpected),
        }
    }

    fn send(&mut self, request: IndexRequest) {
        let session = self.line.session.clone();
        self.pending.push_back(Box::pin(async move { session.ask(&request).await }));
    }

    async fn settle_one(&mut self) -> Result<IndexAnswer, Failure> {
        match self.pending.next().await {
            Some(Ok(IndexAnswer::Refused(refusal))) => Err(Failure::Refused(refusal)),
            Some(Ok(answer @ (IndexAnswer::Begun | IndexAnswer::Staged { .. } | IndexAnswer::Committed { .. }))) => {
                Ok(answer)
            }
            Some(Ok(_)) | None => Err(Failure::Unexpected),
            Some(Err(ended)) => Err(ended.into()),
        }
    }
}
