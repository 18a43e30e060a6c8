//! The threads of the shares: one walks, some hash, one keeps what they found. They end together.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use haul_core::ids::{BlobId, ShareId};
use haul_core::outline::Outline;
use haul_core::path::SharePath;

use super::cache::{self, HashCache, Known, Remember, View};
use super::folder::Folder;
use super::hash::{HashError, HashRun, Hashed, Helpers, Segments, hash_file, spot_check};
use super::manifest::{FileItem, Key, Kind, Trust};
use super::open::{Roots, stamp_of};
use super::{OpenError, Shares, scan};

/// Files that the queue holds ready for the hashing threads.
const QUEUE_FILES: usize = 4_096;
/// Batches of results that wait to be kept.
const RESULTS: usize = 64;
/// Results that are kept in one write at most.
const KEEP_FILES: usize = 8_000;
/// Results wait no longer than this to be kept.
const KEEP_INTERVAL: Duration = Duration::from_millis(300);
/// A file that changed while it was hashed rests this long.
const RETRY: Duration = Duration::from_secs(3);
/// After a change was seen, further ones are awaited this long …
const DEBOUNCE: Duration = Duration::from_millis(500);
/// … or this many times the length of the last walk, so that walking takes a small part of the time.
const DEBOUNCE_WALKS: u32 = 10;

/// How often to look whether a share that is away has come back.
const RETURN_CHECK: Duration = Duration::from_secs(15);

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
    unknown: bool,
}

/// What became of a job.
pub(crate) struct Outcome {
    job: Job,
    path: Vec<u8>,
    result: Result<Found, Failure>,
}

struct Found {
    hashed: Hashed,
    executable: bool,
    file_system: u64,
    settled: bool,
    /// The cache has the outline already.
    outline_kept: bool,
}

enum Failure {
    Gone,
    Unreadable(String),
    Later,
    Stopped,
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
    fn kept(&self, jobs: usize) {
        let mut list = self.list.lock().expect("no panic while held");
        list.out = list.out.saturating_sub(jobs);
        drop(list);
        self.wake.notify_all();
    }

    /// Whether these many outcomes are all that can be waited for.
    fn are_all(&self, outcomes: usize) -> bool {
        let list = self.list.lock().expect("no panic while held");
        list.queue.is_empty() && list.out <= outcomes
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The next share to walk; waits for one. None at the end.
    fn next_walk(&self) -> Option<ShareId> {
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
    fn next_task(&self, shares: &Shares) -> Option<Task> {
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
    fn jobs_now(&self, shares: &Shares) -> Option<Vec<Job>> {
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
enum Task {
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

/// Runs all threads until the agenda says stop.
pub(crate) fn work(shares: &Arc<Shares>) {
    let agenda = &shares.agenda;
    let (results, kept) = sync_channel::<Vec<Outcome>>(RESULTS);
    std::thread::scope(|scope| {
        scope.spawn(|| walk_all(shares));
        for _ in 0..shares.settings.hash_threads.max(1) {
            let results = results.clone();
            scope.spawn(move || {
                while let Some(task) = agenda.next_task(shares) {
                    match task {
                        Task::Help(segments) => segments.help(&agenda.stop),
                        Task::Hash(jobs) => {
                            if results.send(hash_jobs(shares, jobs)).is_err() {
                                return;
                            }
                        }
                    }
                }
            });
        }
        drop(results);
        keep_all(shares, &kept);
    });
}

fn walk_all(shares: &Arc<Shares>) {
    let agenda = &shares.agenda;
    let mut watching = super::watching::Watching::new(shares);
    for folder in shares.folders() {
        agenda.walk_at(folder.record.id, Instant::now());
    }
    while let Some(id) = agenda.next_walk() {
        let Some(folder) = shares.folder(id) else {
            watching.end(id);
            agenda.list.lock().expect("no panic while held").durations.remove(&id);
            continue;
        };
        let began = Instant::now();
        scan::scan(&folder, &shares.cache, &shares.settings, agenda);
        agenda.list.lock().expect("no panic while held").durations.insert(id, began.elapsed());
        agenda.wake();
        if agenda.stopped() {
            return;
        }
        if watching.begin(&folder) {
            // What changed between the walk and the first watch has to be found by a walk.
            agenda.changed(id);
        }
        let every = shares.settings.rescan_every;
        let away = folder.lock().away.is_some();
        let wait = if away { RETURN_CHECK.max(began.elapsed() * DEBOUNCE_WALKS).min(every) } else { every };
        agenda.walk_at(id, Instant::now() + wait);
    }
}

/// What hashing several files in a row has in common.
struct Series<'a> {
    shares: &'a Shares,
    roots: Roots,
    known: Option<View>,
    /// Device of the last file, and the id of its file system.
    file_system: Option<(u64, u64)>,
}

fn hash_jobs(shares: &Shares, jobs: Vec<Job>) -> Vec<Outcome> {
    let mut series = Series { shares, roots: Roots::default(), known: shares.cache.view(), file_system: None };
    let hash = |job: Job| {
        let path = scan::absolute(&job.folder.record.root, &job.key);
        let result = hash_found(&mut series, &job, &path);
        Outcome { job, path, result }
    };
    jobs.into_iter().map(hash).collect()
}

fn hash_found(series: &mut Series<'_>, job: &Job, path: &[u8]) -> Result<Found, Failure> {
    let shares = series.shares;
    let share_path = SharePath::new(job.key.path()).map_err(|_| Failure::Gone)?;
    let root = series.roots.at(&job.folder.record.root).map_err(|_| Failure::Gone)?;
    let (file, stat) = root.open_regular(&share_path).map_err(|error| match error {
        OpenError::Io(error) => Failure::Unreadable(error.to_string()),
        OpenError::Gone | OpenError::Changed => Failure::Gone,
    })?;
    let file_system = match series.file_system {
        Some((device, id)) if device == stat.st_dev => id,
        _ => super::open::file_system_of(&file).map_err(|error| Failure::Unreadable(error.to_string()))?,
    };
    series.file_system = Some((stat.st_dev, file_system));
    let began_ns = (shares.clock)();
    let stamp = super::open::stamp_from(&stat);
    let executable = stat.st_mode & 0o100 != 0;
    let settled = cache::is_settled(&stamp, began_ns);
    let ask = series.known.as_ref().filter(|_| !job.unknown);
    let known = ask.and_then(|known| known.look_up(file_system, &stamp, path));
    if let Some((blob, outline)) = recognise(shares, known, stamp.size)
        && spot_check(&file, stamp.size, &blob, &outline, shares.seed()).unwrap_or(false)
        && stamp_of(&file).is_ok_and(|after| after == stamp)
    {
        let hashed = Hashed { stamp, blob, outline };
        return Ok(Found { hashed, executable, file_system, settled, outline_kept: true });
    }
    let run = HashRun { stop: &shares.agenda.stop, helpers: &shares.agenda, progress: &|_| {} };
    match hash_file(&file, stamp, run) {
        Ok(hashed) => Ok(Found { hashed, executable, file_system, settled, outline_kept: false }),
        Err(HashError::Changed) => Err(Failure::Later),
        Err(HashError::Stopped) => Err(Failure::Stopped),
        Err(HashError::Io(error)) => Err(Failure::Unreadable(error.to_string())),
    }
}

/// A hash that the file likely has, with the outline to compare it with.
fn recognise(shares: &Shares, known: Option<Known>, size: u64) -> Option<(BlobId, Outline)> {
    let (Known::Hit(blob) | Known::Likely(blob)) = known?;
    Some((blob, shares.cache.outline(&blob, size)?))
}

/// Keeps results in batches, at once when nothing more is on its way.
fn keep_all(shares: &Shares, results: &Receiver<Vec<Outcome>>) {
    let mut batch = Vec::new();
    let mut since = Instant::now();
    loop {
        match results.recv_timeout(if batch.is_empty() { Duration::from_mins(1) } else { Duration::from_millis(20) }) {
            Ok(outcomes) => {
                if batch.is_empty() {
                    since = Instant::now();
                }
                batch.extend(outcomes);
                let full = batch.len() >= KEEP_FILES || since.elapsed() >= KEEP_INTERVAL;
                if !full && !shares.agenda.are_all(batch.len()) {
                    continue;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                keep(shares, std::mem::take(&mut batch));
                return;
            }
        }
        let outcomes = batch.len();
        keep(shares, std::mem::take(&mut batch));
        shares.agenda.kept(outcomes);
    }
}

fn keep(shares: &Shares, batch: Vec<Outcome>) {
    remember(&shares.cache, &batch);
    let mut by_share: BTreeMap<ShareId, Vec<Outcome>> = BTreeMap::new();
    for outcome in batch {
        by_share.entry(outcome.job.folder.record.id).or_default().push(outcome);
    }
    for outcomes in by_share.into_values() {
        let Some(folder) = outcomes.first().map(|outcome| outcome.job.folder.clone()) else { continue };
        let editor = folder.edit();
        {
            let mut state = editor.state();
            for Outcome { job, result, .. } in outcomes {
                state.in_flight.remove(&job.key);
                let Some(item) = state.manifest.get_key(&job.key) else { continue };
                let seen_by = item.seen_by;
                let Some(known) = item.file().copied() else { continue };
                match result {
                    // A walk has met a later version; that one is hashed next.
                    Ok(found) if known.stamp.ctime_ns > found.hashed.stamp.ctime_ns => {}
                    Ok(found) => {
                        let trust = if found.settled { Trust::Firm } else { Trust::Fresh };
                        let (stamp, blob) = (found.hashed.stamp, Some(found.hashed.blob));
                        let file = FileItem { stamp, executable: found.executable, blob, trust };
                        state.manifest.put(&job.key, Kind::File(file), seen_by);
                    }
                    Err(Failure::Later) => drop(state.deferred.insert(job.key, Instant::now() + RETRY)),
                    Err(Failure::Stopped) => {}
                    Err(Failure::Gone) => drop(state.manifest.remove(&job.key)),
                    Err(Failure::Unreadable(reason)) => {
                        state.skip(scan::skipped(&job.key, reason));
                        state.manifest.remove(&job.key);
                    }
                }
            }
        }
        editor.commit();
    }
}

fn remember(cache: &HashCache, batch: &[Outcome]) {
    let rows: Vec<Remember<'_>> = batch
        .iter()
        .filter_map(|outcome| {
            let found = outcome.result.as_ref().ok()?;
            Some(Remember {
                file_system: found.file_system,
                stamp: found.hashed.stamp,
                path: &outcome.path,
                blob: found.hashed.blob,
                outline: (!found.outline_kept).then_some(&found.hashed.outline),
                settled: found.settled,
            })
        })
        .collect();
    if !rows.is_empty()
        && let Err(error) = cache.remember(&rows)
    {
        tracing::warn!(%error, "the hash cache cannot be written; files will be hashed again");
    }
}

/// Hashes on the calling thread until nothing is left that can be hashed now.
pub(crate) fn hash_all_now(shares: &Shares) {
    loop {
        let mut batch = Vec::new();
        while batch.len() < KEEP_FILES
            && let Some(jobs) = shares.agenda.jobs_now(shares)
        {
            batch.extend(hash_jobs(shares, jobs));
        }
        if batch.is_empty() {
            return;
        }
        let outcomes = batch.len();
        keep(shares, batch);
        shares.agenda.kept(outcomes);
    }
}
