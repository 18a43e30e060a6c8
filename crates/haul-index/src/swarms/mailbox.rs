//! What a session is to be told of its swarms: others, and plans. What comes meanwhile goes together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use haul_core::ids::{BlobId, PeerId};
use haul_core::planner::PieceRange;
use tokio::sync::Notify;

/// A plan of one sink: how long it holds, and whom to ask for which pieces.
pub type Plan = (Duration, Vec<(PeerId, Vec<PieceRange>)>);

/// What is new in one swarm.
#[derive(Debug, Default)]
pub struct News {
    /// Others, with whether they hold all of the blob.
    pub peers: BTreeMap<PeerId, bool>,
    /// The newest plan.
    pub plan: Option<Plan>,
}

/// What one session is to be told.
#[derive(Debug, Default)]
pub struct Mailbox {
    news: Mutex<BTreeMap<BlobId, News>>,
    arrived: Notify,
    closed: AtomicBool,
}

impl Mailbox {
    /// The next news; none once it is closed.
    pub async fn next(&self) -> Option<(BlobId, News)> {
        loop {
            if self.closed.load(Ordering::Acquire) {
                return None;
            }
            if let Some(news) = self.lock().pop_first() {
                return Some(news);
            }
            self.arrived.notified().await;
        }
    }

    /// Nothing more is wanted.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.arrived.notify_one();
    }

    /// News that could not be sent yet; what is newer stays.
    pub fn put_back(&self, blob: BlobId, news: News) {
        let mut waiting = self.lock();
        let kept = waiting.entry(blob).or_default();
        for (peer, complete) in news.peers {
            kept.peers.entry(peer).or_insert(complete);
        }
        if kept.plan.is_none() {
            kept.plan = news.plan;
        }
    }

    pub(super) fn put_peer(&self, blob: BlobId, peer: PeerId, complete: bool) {
        self.lock().entry(blob).or_default().peers.insert(peer, complete);
        self.arrived.notify_one();
    }

    pub(super) fn put_plan(&self, blob: BlobId, plan: Plan) {
        self.lock().entry(blob).or_default().plan = Some(plan);
        self.arrived.notify_one();
    }

    #[cfg(test)]
    pub(super) fn take(&self, blob: &BlobId) -> News {
        self.lock().remove(blob).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BlobId, News>> {
        // Every change leaves whole values behind.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
