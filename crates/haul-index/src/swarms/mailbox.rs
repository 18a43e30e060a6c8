//! What a session is to be told of its swarms: others, and plans. What comes meanwhile goes together.

use std::collections::BTreeMap;
use std::ops::Bound;
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

#[derive(Debug, Default)]
struct Waiting {
    news: BTreeMap<BlobId, News>,
    /// The blob that had its turn last: the next one is behind it.
    last: Option<BlobId>,
}

impl Waiting {
    fn next(&mut self) -> Option<(BlobId, News)> {
        let behind = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.news.range((behind, Bound::Unbounded)).next().or_else(|| self.news.first_key_value());
        let blob = *next?.0;
        self.last = Some(blob);
        self.news.remove_entry(&blob)
    }
}

/// What one session is to be told.
#[derive(Debug, Default)]
pub struct Mailbox {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    closed: AtomicBool,
}

impl Mailbox {
    /// The next news; none once it is closed.
    pub async fn next(&self) -> Option<(BlobId, News)> {
        loop {
            if self.is_closed() {
                return None;
            }
            if let Some(news) = self.lock().next() {
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

    /// Whether nothing more is wanted: the session is over.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// News that could not be sent yet; what is newer stays.
    pub fn put_back(&self, blob: BlobId, news: News) {
        let mut waiting = self.lock();
        let kept = waiting.news.entry(blob).or_default();
        for (peer, complete) in news.peers {
            kept.peers.entry(peer).or_insert(complete);
        }
        if kept.plan.is_none() {
            kept.plan = news.plan;
        }
    }

    pub(super) fn put_peer(&self, blob: BlobId, peer: PeerId, complete: bool) {
        self.lock().news.entry(blob).or_default().peers.insert(peer, complete);
        self.arrived.notify_one();
    }

    pub(super) fn put_plan(&self, blob: BlobId, plan: Plan) {
        self.lock().news.entry(blob).or_default().plan = Some(plan);
        self.arrived.notify_one();
    }

    #[cfg(test)]
    pub(super) fn take(&self, blob: &BlobId) -> News {
        self.lock().news.remove(blob).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Every change leaves whole values behind.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_blob_has_its_turn_however_much_there_is_to_say_of_the_first() {
        let (mailbox, plan) = (Mailbox::default(), || (Duration::from_secs(5), Vec::new()));
        let blobs: Vec<BlobId> = (0..4).map(|n| BlobId::new([n; 32])).collect();
        for blob in &blobs {
            mailbox.put_plan(*blob, plan());
        }
        let mut told = Vec::new();
        for _ in 0..8 {
            told.extend(mailbox.next().await.map(|(blob, _)| blob));
            // A new plan of the first ones comes before the next push.
            mailbox.put_plan(blobs[0], plan());
            mailbox.put_plan(blobs[1], plan());
        }
        assert!(blobs.iter().all(|blob| told.contains(blob)), "{told:?}");
        assert_eq!(told[..4], blobs);
    }
}
