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
/// … or so many bytes of them; a larger file goes alone, for those before it would wait until it is hashed.
const TAKE_BYTES: u64 = 1024 * 1024;
/// A larger file is a giant: hashing it takes a second on the fastest disks and processors, and may take hours. One at
/// a time has a thread of its own, and is helped with by those who have nothing else to do, so that files which appear
/// meanwhile need not wait. Smaller files have a thread each: with helpers only, all would wait at the end of each.
const GIANT_BYTES: u64 = 1024 * 1024 * 1024;

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

impl Job {
    pub(super) fn is_giant(&self) -> bool {
        self.size > GIANT_BYTES
    }
}

/// What there is to do, for all threads.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    list: Mutex<List>,
    /// The walking thread waits here …
    walks: Condvar,
    /// … and the hashing threads here.
    hashes: Condvar,
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
    /// Giants that wait until no other is being hashed.
    giants: VecDeque<Job>,
    /// A giant is being hashed.
    giant_out: bool,
    /// There was nothing more to hash: unless something is told, it is no use to look before then.
    idle_until: Option<Instant>,
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
        self.walks.notify_all();
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
        self.hashes.notify_all();
    }

    /// There may be more to hash.
    pub(crate) fn wake(&self) {
        // Taken, so that nobody is between looking and waiting.
        self.list.lock().expect("no panic while held").idle_until = None;
        self.hashes.notify_all();
    }

    /// The outcomes of so many jobs are kept.
    pub(super) fn kept(&self, jobs: usize) {
        let mut list = self.list.lock().expect("no panic while held");
        list.out = list.out.saturating_sub(jobs);
        list.idle_until = None;
        drop(list);
        self.hashes.notify_all();
    }

    /// These jobs are hashed, or never will be.
    pub(super) fn hashed(&self, had_giant: bool) {
        if had_giant {
            self.list.lock().expect("no panic while held").giant_out = false;
            self.hashes.notify_all();
        }
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
                Some((_, due)) => self.walks.wait_timeout(list, due - now).expect("no panic while held").0,
                None => self.walks.wait(list).expect("no panic while held"),
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
                    list = self.hashes.wait_timeout(list, wait).expect("no panic while held").0;
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
        self.hashes.notify_all();
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
        let now = Instant::now();
        let mut jobs: Vec<Job> = self.take_urgent(shares).into_iter().collect();
        if jobs.is_empty() {
            if self.queue.is_empty() && self.idle_until.is_none_or(|until| until <= now) {
                self.refill(shares, now);
                let found_nothing = self.queue.is_empty() && self.cursors.is_empty();
                self.idle_until = found_nothing.then(|| now + RETRY);
            }
            jobs = self.take_queued();
        }
        if jobs.is_empty() && !self.giant_out {
            jobs.extend(self.giants.pop_front());
        }
        self.out += jobs.len();
        self.giant_out |= jobs.iter().any(Job::is_giant);
        if jobs.is_empty() {
            return Err(self.idle_until.map_or(RETRY, |until| until.saturating_duration_since(now)));
        }
        Ok(jobs)
    }

    /// What somebody waits for; a giant only comes before the other giants.
    fn take_urgent(&mut self, shares: &Shares) -> Option<Job> {
        while let Some((share, key)) = self.urgent.pop_front() {
            let queued = [&mut self.queue, &mut self.giants].into_iter().find_map(|queue| {
                let at = queue.iter().position(|job| job.key == key && job.folder.record.id == share)?;
                queue.remove(at)
            });
            match queued.or_else(|| urgent_job(shares, share, key)) {
                Some(job) if job.is_giant() && self.giant_out => self.giants.push_front(job),
                Some(job) => return Some(job),
                None => {}
            }
        }
        None
    }

    fn take_queued(&mut self) -> Vec<Job> {
        // The last ones are shared by all threads.
        let most = (self.queue.len() / 8).clamp(1, TAKE_FILES);
        let sums = self.queue.iter().scan(0_u64, |sum, job| {
            *sum = sum.saturating_add(job.size);
            Some(*sum)
        });
        let count = sums.take(most).take_while(|sum| *sum <= TAKE_BYTES).count().max(1);
        self.queue.drain(..count.min(self.queue.len())).collect()
    }

    fn refill(&mut self, shares: &Shares, now: Instant) {
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
                    let job = Job { folder: folder.clone(), key, size: file.stamp.size, unknown };
                    if job.is_giant() { &mut self.giants } else { &mut self.queue }.push_back(job);
                }
            }
        }
    }
}

/// None if there is no such file, or it is out already.
fn urgent_job(shares: &Shares, share: ShareId, key: Key) -> Option<Job> {
    let folder = shares.folder(share)?;
    let size = {
        let mut state = folder.lock();
        let size = state.manifest.get_key(&key)?.file()?.stamp.size;
        state.in_flight.insert(key.clone()).then_some(size)?
    };
    Some(Job { folder, key, size, unknown: false })
}

/// Says stop when it goes.
pub(crate) struct StopOnDrop<'a>(pub(crate) &'a Agenda);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
        self.0.wake();
        self.0.walks.notify_all();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use haul_core::wire::Label;

    use super::*;
    use crate::share::{NewShare, ShareSettings};

    /// Sparse files of these names and sizes in a share that was walked.
    fn walked(files: &[(&str, u64)]) -> (tempfile::TempDir, Arc<Shares>, Label) {
        let home = tempfile::tempdir().unwrap();
        let shares = Shares::open(ShareSettings::new(home.path().join("state"), home.path().join("cache"))).unwrap();
        let data = home.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let name = shares.add(NewShare::new(&data)).unwrap().name;
        make(&home, files);
        shares.scan_now(&name).unwrap();
        (home, shares, name)
    }

    fn make(home: &tempfile::TempDir, files: &[(&str, u64)]) {
        for (name, size) in files {
            std::fs::File::create(home.path().join("data").join(name)).unwrap().set_len(*size).unwrap();
        }
    }

    /// Names of the files that a thread is given next.
    fn taken(shares: &Shares) -> Vec<String> {
        let jobs = shares.agenda.jobs_now(shares).unwrap_or_default();
        jobs.iter().map(|job| String::from_utf8_lossy(&job.key.name).into_owned()).collect()
    }

    #[test]
    fn one_giant_at_a_time_is_out_and_the_small_come_first() {
        let (home, shares, name) = walked(&[("a", GIANT_BYTES + 1), ("b", GIANT_BYTES + 2), ("c", 1)]);
        assert_eq!(taken(&shares), ["c"]);
        assert_eq!(taken(&shares), ["a"]);
        assert!(taken(&shares).is_empty());
        make(&home, &[("d", 1)]);
        shares.scan_now(&name).unwrap();
        shares.hash_first(&name, &haul_core::path::SharePath::new("b").unwrap());
        assert_eq!(taken(&shares), ["d"]);
        shares.agenda.hashed(true);
        assert_eq!(taken(&shares), ["b"]);
    }

    #[test]
    fn a_large_file_goes_alone_and_who_is_waited_for_leaves_the_queue() {
        let small: Vec<String> = (10..40).map(|n| format!("f{n}")).collect();
        let mut files: Vec<(&str, u64)> = small.iter().map(|name| (name.as_str(), 1)).collect();
        files.insert(2, ("f11-large", TAKE_BYTES));
        let (_home, shares, name) = walked(&files);
        assert_eq!(taken(&shares), ["f10", "f11"]);
        shares.hash_first(&name, &haul_core::path::SharePath::new("f30").unwrap());
        assert_eq!(taken(&shares), ["f30"]);
        assert_eq!(taken(&shares), ["f11-large"]);
        assert_eq!(taken(&shares), ["f12", "f13", "f14"]);
    }
}
