//! What there is to do for the threads of the shares: which share to walk when, which files to hash.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use haul_core::ids::ShareId;

use super::Shares;
use super::folder::Folder;
use super::hash::{Helpers, Segments};
use super::manifest::{Key, Trust};

/// Files that the queue holds ready for the hashing threads.
const QUEUE_FILES: usize = 4_096;
/// A file that changed while it was hashed rests this long.
pub(super) const RETRY: Duration = Duration::from_secs(3);
/// After a change was seen, further ones are awaited this long …
const DEBOUNCE: Duration = Duration::from_millis(500);
/// … or this many times the length of the last walk, so that walking takes a small part of the time.
pub(super) const DEBOUNCE_WALKS: u32 = 10;
/// Files that a hashing thread takes at once: enough that handing them over costs little beside hashing them …
const TAKE_FILES: usize = 64;
/// … or so many bytes of them, and the last file more.
const TAKE_BYTES: u64 = 1024 * 1024;

/// A file to hash.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) folder: Arc<Folder>,
    pub(crate) key: Key,
    /// Bytes, as far as is known.
    pub(crate) size: u64,
    /// The walk has asked the hash cache for exactly this file, and it knew nothing.
    pub(super) unknown: bool,
}

/// What there is to do, for all threads.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    list: Mutex<List>,
    wake: Condvar,
    pub(crate) stop: AtomicBool,
}

#[derive(Debug, Default)]
struct List {
    /// When to walk which share.
    walks: BTreeMap<ShareId, Instant>,
    durations: BTreeMap<ShareId, Duration>,
    /// Asked for by somebody who waits.
    urgent: VecDeque<(ShareId, Key)>,
    queue: VecDeque<Job>,
    /// Large files that are being hashed, for those who have no job of their own.
    shared: Vec<Arc<Segments>>,
    /// Jobs that were handed out and whose outcome is not kept yet.
    out: usize,
    /// Where the search for files to hash goes on, per share.
    cursors: BTreeMap<ShareId, Key>,
}

impl Agenda {
    pub(crate) fn walk_at(&self, share: ShareId, when: Instant) {
        let mut list = self.list.lock().expect("no panic while held");
        let due = list.walks.entry(share).or_insert(when);
        *due = when.min(*due);
        drop(list);
        self.wake.notify_all();
    }

    /// Something below the share's root changed.
    pub(crate) fn changed(&self, share: ShareId) {
        let last = self.list.lock().expect("no panic while held").durations.get(&share).copied().unwrap_or_default();
        self.walk_at(share, Instant::now() + DEBOUNCE.max(last * DEBOUNCE_WALKS));
    }

    /// A walk of this share took so long.
    pub(super) fn walked(&self, share: ShareId, took: Duration) {
        self.list.lock().expect("no panic while held").durations.insert(share, took);
    }

    /// The share is gone.
    pub(super) fn forget(&self, share: ShareId) {
        self.list.lock().expect("no panic while held").durations.remove(&share);
    }

    pub(crate) fn hash_first(&self, share: ShareId, key: Key) {
        let mut list = self.list.lock().expect("no panic while held");
        if list.urgent.len() < QUEUE_FILES {
            list.urgent.push_back((share, key));
        }
        drop(list);
        self.wake.notify_all();
    }

    pub(crate) fn wake(&self) {
        // Taken and released so that nobody is between looking and waiting.
        drop(self.list.lock().expect("no panic while held"));
        self.wake.notify_all();
    }

    /// The outcomes of so many jobs are kept.
    pub(super) fn kept(&self, jobs: usize) {
        let mut list = self.list.lock().expect("no panic while held");
        list.out = list.out.saturating_sub(jobs);
        drop(list);
        self.wake.notify_all();
    }

    /// Whether these many outcomes are all that can be waited for.
    pub(super) fn are_all(&self, outcomes: usize) -> bool {
        let list = self.list.lock().expect("no panic while held");
        list.queue.is_empty() && list.out <= outcomes
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The next share to walk; waits for one. None at the end.
    pub(super) fn next_walk(&self) -> Option<ShareId> {
        let mut list = self.list.lock().expect("no panic while held");
        loop {
            if self.stopped() {
                return None;
            }
            let next = list.walks.iter().min_by_key(|(_, due)| **due).map(|(share, due)| (*share, *due));
            let now = Instant::now();
            list = match next {
                Some((share, due)) if due <= now => {
                    list.walks.remove(&share);
                    return Some(share);
                }
                Some((_, due)) => self.wake.wait_timeout(list, due - now).expect("no panic while held").0,
                None => self.wake.wait(list).expect("no panic while held"),
            };
        }
    }

    /// The next files to hash, or one to help with; waits for it. None at the end.
    pub(super) fn next_task(&self, shares: &Shares) -> Option<Task> {
        let mut list = self.list.lock().expect("no panic while held");
        loop {
            if self.stopped() {
                return None;
            }
            match list.take_jobs(shares) {
                Ok(jobs) => return Some(Task::Hash(jobs)),
                Err(wait) => {
                    if let Some(segments) = list.shared.iter().find(|segments| segments.has_more()) {
                        return Some(Task::Help(segments.clone()));
                    }
                    list = self.wake.wait_timeout(list, wait).expect("no panic while held").0;
                }
            }
        }
    }

    /// The next files to hash, if there are some now.
    pub(super) fn jobs_now(&self, shares: &Shares) -> Option<Vec<Job>> {
        self.list.lock().expect("no panic while held").take_jobs(shares).ok()
    }
}

impl Helpers for Agenda {
    fn ask(&self, segments: &Arc<Segments>) {
        self.list.lock().expect("no panic while held").shared.push(segments.clone());
        self.wake.notify_all();
    }

    fn thank(&self, segments: &Arc<Segments>) {
        self.list.lock().expect("no panic while held").shared.retain(|other| !Arc::ptr_eq(other, segments));
    }
}

/// What a hashing thread does next.
pub(super) enum Task {
    Hash(Vec<Job>),
    Help(Arc<Segments>),
}

impl List {
    /// Jobs, or how long to wait at most before the next look.
    fn take_jobs(&mut self, shares: &Shares) -> Result<Vec<Job>, Duration> {
        while let Some((share, key)) = self.urgent.pop_front() {
            if let Some(folder) = shares.folder(share)
                && folder.lock().in_flight.insert(key.clone())
            {
                self.out += 1;
                return Ok(vec![Job { folder, key, size: 0, unknown: false }]);
            }
        }
        if self.queue.is_empty() {
            self.refill(shares);
        }
        // The last ones are shared by all threads.
        let most = (self.queue.len() / 8).clamp(1, TAKE_FILES);
        let before = self.queue.iter().scan(0, |sum, job| Some(std::mem::replace(sum, *sum + job.size)));
        let count = before.take(most).take_while(|before| *before < TAKE_BYTES).count();
        let jobs: Vec<Job> = self.queue.drain(..count).collect();
        self.out += jobs.len();
        if jobs.is_empty() { Err(RETRY) } else { Ok(jobs) }
    }

    fn refill(&mut self, shares: &Shares) {
        let now = Instant::now();
        for folder in shares.folders() {
            let mut state = folder.lock();
            if state.away.is_some() || state.removed || state.manifest.totals().to_hash == 0 {
                continue;
            }
            let after = self.cursors.get(&folder.record.id);
            let keys = state.manifest.to_hash(after, QUEUE_FILES);
            match keys.last() {
                // At the end: from the start next time.
                Some((last, _)) if keys.len() == QUEUE_FILES => {
                    drop(self.cursors.insert(folder.record.id, last.clone()));
                }
                _ => drop(self.cursors.remove(&folder.record.id)),
            }
            state.deferred.retain(|_, until| *until > now);
            for (key, file) in keys {
                if !state.deferred.contains_key(&key) && state.in_flight.insert(key.clone()) {
                    let unknown = file.blob.is_none() && file.trust == Trust::Firm;
                    self.queue.push_back(Job { folder: folder.clone(), key, size: file.stamp.size, unknown });
                }
            }
        }
    }
}

/// Says stop when it goes.
pub(crate) struct StopOnDrop<'a>(pub(crate) &'a Agenda);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
        self.0.wake();
    }
}
