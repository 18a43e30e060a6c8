//! Matches that wait for one session to take them: few, and with a mark where some were lost.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use haul_core::limits;
use haul_core::wire::index::Hit;
use tokio::sync::Notify;

/// Matches in one message: with the longest names and paths they fill a third of a frame.
const HITS_PER_MATCH: usize = 200;

/// Of one peer at most this part of the room that is left for all may wait, so that members who do not take theirs leave
/// room for the others...
const PART_OF_ROOM: usize = 8;
/// ... but so many may always wait, however much others leave.
const ALWAYS: usize = 16;

const _: () =
    assert!(HITS_PER_MATCH * (limits::PATH_BYTES + limits::NAME_BYTES + 3 * 64 + 128) < limits::FRAME_BYTES / 2);

/// Matches of one watch, ready to be pushed.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    /// The peer's number of the watch.
    pub watch: u64,
    /// At most as many as fit into a frame.
    pub hits: Vec<Hit>,
    /// Whether others were lost.
    pub missed: bool,
}

/// Where the matches of one session wait.
#[derive(Debug, Default)]
pub struct Mailbox {
    waiting: Mutex<Waiting>,
    changed: Notify,
    room: Room,
}

/// Counts matches that wait.
#[derive(Clone, Debug, Default)]
pub(super) struct Room {
    /// In all mailboxes of an index.
    pub(super) in_all: Arc<AtomicUsize>,
    /// In those of one peer: a guest may have several sessions.
    pub(super) of_peer: Arc<AtomicUsize>,
}

impl Room {
    fn has_some(&self) -> bool {
        let left = limits::MATCHES_WAITING_IN_ALL.saturating_sub(self.in_all.load(Ordering::Relaxed));
        self.of_peer.load(Ordering::Relaxed) < limits::MATCHES_WAITING.min(left / PART_OF_ROOM).max(ALWAYS)
    }

    fn add(&self, hits: usize) {
        self.in_all.fetch_add(hits, Ordering::Relaxed);
        self.of_peer.fetch_add(hits, Ordering::Relaxed);
    }

    fn remove(&self, hits: usize) {
        self.in_all.fetch_sub(hits, Ordering::Relaxed);
        self.of_peer.fetch_sub(hits, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Waiting {
    watches: BTreeMap<u64, Pending>,
    hits: usize,
    /// The watch that was served last: the next one has its turn.
    last: u64,
    closed: bool,
}

#[derive(Debug, Default)]
struct Pending {
    hits: VecDeque<Hit>,
    missed: bool,
}

impl Mailbox {
    /// One of several that share their room.
    pub(super) fn new(room: Room) -> Self {
        Self { waiting: Mutex::default(), changed: Notify::new(), room }
    }

    /// Adds a match, if the watch is still live; false when it is lost because too many wait. Never waits.
    pub(super) fn offer(&self, watch: u64, live: &AtomicBool, hit: Hit) -> bool {
        let mut waiting = self.lock();
        // Asked under the lock: whoever ends a watch drops what waits of it afterwards, and nothing comes behind that.
        if waiting.closed || !live.load(Ordering::Relaxed) {
            return false;
        }
        let room = self.room.has_some();
        let pending = waiting.watches.entry(watch).or_default();
        if room {
            pending.hits.push_back(hit);
            waiting.hits += 1;
            self.room.add(1);
        } else {
            pending.missed = true;
        }
        drop(waiting);
        self.changed.notify_one();
        room
    }

    /// Marks that matches were lost.
    pub(super) fn miss(&self, watch: u64, live: &AtomicBool) {
        let mut waiting = self.lock();
        if !waiting.closed && live.load(Ordering::Relaxed) {
            waiting.watches.entry(watch).or_default().missed = true;
            drop(waiting);
            self.changed.notify_one();
        }
    }

    /// Drops what waits of a watch that ended.
    pub(super) fn forget(&self, watch: u64) {
        let mut waiting = self.lock();
        if let Some(pending) = waiting.watches.remove(&watch) {
            waiting.hits -= pending.hits.len();
            self.room.remove(pending.hits.len());
        }
    }

    /// The next matches; watches take turns. None once it is closed.
    pub async fn next(&self) -> Option<Batch> {
        loop {
            {
                let mut waiting = self.lock();
                if waiting.closed {
                    return None;
                }
                if let Some(batch) = waiting.take() {
                    self.room.remove(batch.hits.len());
                    return Some(batch);
                }
            }
            self.changed.notified().await;
        }
    }

    /// Takes back what could not be sent yet; it is the first of its watch again.
    pub fn put_back(&self, batch: Batch) {
        let mut waiting = self.lock();
        if waiting.closed {
            return;
        }
        waiting.hits += batch.hits.len();
        self.room.add(batch.hits.len());
        let pending = waiting.watches.entry(batch.watch).or_default();
        pending.missed |= batch.missed;
        for hit in batch.hits.into_iter().rev() {
            pending.hits.push_front(hit);
        }
    }

    /// Takes nothing any more, and drops what waits.
    pub fn close(&self) {
        let dropped = std::mem::replace(&mut *self.lock(), Waiting { closed: true, ..Waiting::default() });
        self.room.remove(dropped.hits);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.close();
    }
}

impl Waiting {
    fn take(&mut self) -> Option<Batch> {
        let behind = self.last.checked_add(1).and_then(|next| self.watches.range(next..).next());
        let watch = *behind.or_else(|| self.watches.first_key_value())?.0;
        let pending = self.watches.get_mut(&watch)?;
        let count = pending.hits.len().min(HITS_PER_MATCH);
        let hits: Vec<Hit> = pending.hits.drain(..count).collect();
        let more = !pending.hits.is_empty();
        let missed = std::mem::take(&mut pending.missed);
        if !more {
            self.watches.remove(&watch);
        }
        self.hits -= hits.len();
        self.last = watch;
        Some(Batch { watch, hits, missed })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::watches::tests::hit;

    static LIVE: AtomicBool = AtomicBool::new(true);

    #[tokio::test]
    async fn nothing_comes_behind_the_end_of_a_watch() {
        let (mailbox, live) = (Mailbox::default(), AtomicBool::new(true));
        assert!(mailbox.offer(1, &live, hit("before")));
        // A matcher on another thread has this watch in its hands while it ends.
        live.store(false, Ordering::Relaxed);
        mailbox.forget(1);
        assert!(!mailbox.offer(1, &live, hit("behind")));
        mailbox.miss(1, &live);
        assert!(mailbox.offer(2, &LIVE, hit("of another")));
        assert_eq!(mailbox.next().await.unwrap().watch, 2);
        assert_eq!(mailbox.lock().hits, 0);
    }

    #[tokio::test]
    async fn watches_take_turns_and_losses_are_marked() {
        let mailbox = Mailbox::default();
        for n in 0..limits::MATCHES_WAITING {
            assert!(mailbox.offer(if n < 300 { 1 } else { u64::MAX }, &LIVE, hit(&n.to_string())));
        }
        assert!(!mailbox.offer(1, &LIVE, hit("lost")));
        mailbox.miss(7, &LIVE);
        let mut taken = Vec::new();
        for _ in 0..7 {
            let batch = mailbox.next().await.unwrap();
            taken.push((batch.watch, batch.hits.len(), batch.missed));
        }
        let last = u64::MAX;
        assert_eq!(
            taken,
            [
                (1, 200, true),
                (7, 0, true),
                (last, 200, false),
                (1, 100, false),
                (last, 200, false),
                (last, 200, false),
                (last, 100, false)
            ]
        );
        assert!(mailbox.offer(1, &LIVE, hit("room again")));
    }

    #[tokio::test]
    async fn those_who_take_nothing_leave_room_for_the_others() {
        let in_all = Arc::new(AtomicUsize::new(0));
        let another = || Mailbox::new(Room { in_all: Arc::clone(&in_all), ..Room::default() });
        let mailboxes: Vec<_> = (0..500).map(|_| another()).collect();
        let hit = hit("a name");
        for mailbox in &mailboxes {
            while mailbox.offer(1, &LIVE, hit.clone()) {}
        }
        let most = limits::MATCHES_WAITING_IN_ALL + mailboxes.len() * ALWAYS;
        assert!(in_all.load(Ordering::Relaxed) <= most);
        let (reader, mut taken) = (another(), 0);
        while reader.offer(1, &LIVE, hit.clone()) {
            taken += 1;
        }
        assert_eq!(taken, ALWAYS);
        drop((mailboxes, reader));
        assert_eq!(in_all.load(Ordering::Relaxed), 0);
        let alone = another();
        assert!((0..limits::MATCHES_WAITING).all(|_| alone.offer(1, &LIVE, hit.clone())));
        alone.next().await.unwrap();
        alone.forget(1);
        assert_eq!(in_all.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_peer_has_no_more_room_in_many_sessions_than_in_one() {
        let room = Room::default();
        let mailboxes: Vec<_> = (0..3).map(|_| Mailbox::new(room.clone())).collect();
        let offered = |mailbox: &Mailbox| (0..9_999).take_while(|_| mailbox.offer(1, &LIVE, hit("a name"))).count();
        assert_eq!(mailboxes.iter().map(offered).sum::<usize>(), limits::MATCHES_WAITING);
        assert!(Mailbox::new(Room { in_all: room.in_all, ..Room::default() }).offer(1, &LIVE, hit("of another peer")));
        mailboxes[0].close();
        assert_eq!(offered(&mailboxes[1]), limits::MATCHES_WAITING);
    }

    #[tokio::test]
    async fn what_is_put_back_comes_first_again() {
        let mailbox = Mailbox::default();
        for name in ["a", "b"] {
            mailbox.offer(1, &LIVE, hit(name));
        }
        let batch = mailbox.next().await.unwrap();
        mailbox.offer(1, &LIVE, hit("c"));
        mailbox.put_back(batch);
        let again = mailbox.next().await.unwrap();
        assert_eq!(again.hits, [hit("a"), hit("b"), hit("c")]);
        mailbox.offer(1, &LIVE, hit("d"));
        mailbox.forget(1);
        mailbox.offer(2, &LIVE, hit("e"));
        assert_eq!(mailbox.next().await.unwrap().watch, 2);
        mailbox.close();
        assert_eq!(mailbox.next().await, None);
        assert!(!mailbox.offer(1, &LIVE, hit("f")));
    }
}
