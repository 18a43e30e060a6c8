//! The threads of the shares: one walks, some hash, one keeps what they found. They end together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use haul_core::ids::{BlobId, ShareId};
use haul_core::outline::Outline;
use haul_core::path::SharePath;

use super::agenda::{DEBOUNCE_WALKS, Job, RETRY, Task};
use super::cache::{self, HashCache, Known, Remember, View};
use super::folder::Unreadable;
use super::hash::{HashError, HashRun, Hashed, hash_file, spot_check};
use super::manifest::{FileItem, Kind, Trust};
use super::open::{self, Roots, stamp_of};
use super::{OpenError, Shares, scan};

/// Batches of results that wait to be kept.
const RESULTS: usize = 64;
/// Results that are kept in one write at most.
const KEEP_FILES: usize = 8_000;
/// Results wait no longer than this to be kept.
const KEEP_INTERVAL: Duration = Duration::from_millis(300);
/// A file that changed while it was hashed rests this many times as long as that took.
const REST_HASHES: u32 = 10;
/// A file that could not be read is left out of the share this long, so that a bad place on a disk neither is read nor
/// comes and goes with each walk.
const UNREADABLE_REST: Duration = Duration::from_mins(10);
/// How often to look whether a share that is away has come back.
const RETURN_CHECK: Duration = Duration::from_secs(15);

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
    /// Not where it was: a walk has to look.
    Gone,
    Unreadable(String),
    /// After a rest.
    Later(Duration),
    Stopped,
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if open::is_passing(&error) { Self::Later(RETRY) } else { Self::Unreadable(error.to_string()) }
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
            agenda.forget(id);
            continue;
        };
        let began = Instant::now();
        let was_unsettled = watching.take_unsettled(id);
        scan::scan(&folder, &shares.cache, &shares.settings, agenda);
        agenda.walked(id, began.elapsed());
        agenda.wake();
        if agenda.stopped() {
            return;
        }
        if watching.begin(&folder, was_unsettled) {
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
    let had_giant = jobs.iter().any(Job::is_giant);
    let mut series = Series { shares, roots: Roots::default(), known: shares.cache.view(), file_system: None };
    let hash = |job: Job| {
        let path = scan::absolute(&job.folder.record.root, &job.key);
        let result = hash_found(&mut series, &job, &path);
        Outcome { job, path, result }
    };
    let outcomes = jobs.into_iter().map(hash).collect();
    shares.agenda.hashed(had_giant);
    outcomes
}

fn hash_found(series: &mut Series<'_>, job: &Job, path: &[u8]) -> Result<Found, Failure> {
    let shares = series.shares;
    let share_path = SharePath::new(job.key.path()).map_err(|_| Failure::Gone)?;
    let below = series.roots.at(&job.folder.record.root).map_err(|_| Failure::Gone)?;
    let (file, stat) = below.open_regular(&share_path).map_err(|error| match error {
        OpenError::Io(error) => error.into(),
        OpenError::Gone | OpenError::Changed => Failure::Gone,
    })?;
    let file_system = match series.file_system {
        Some((device, id)) if device == stat.st_dev => id,
        _ => open::file_system_of(&file).map_err(std::io::Error::from)?,
    };
    series.file_system = Some((stat.st_dev, file_system));
    let began_ns = (shares.clock)();
    let stamp = open::stamp_from(&stat);
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
    let began = Instant::now();
    let run = HashRun { stop: &shares.agenda.stop, helpers: &shares.agenda, progress: &|_| {} };
    match hash_file(&file, stamp, run) {
        Ok(hashed) => Ok(Found { hashed, executable, file_system, settled, outline_kept: false }),
        // A file that grows all the time must not keep a thread busy all the time.
        Err(HashError::Changed) => Err(Failure::Later(RETRY.max(began.elapsed() * REST_HASHES))),
        Err(HashError::Stopped) => Err(Failure::Stopped),
        Err(HashError::Io(error)) => Err(error.into()),
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
        let mut is_gone = false;
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
                    Err(Failure::Later(rest)) => drop(state.deferred.insert(job.key, Instant::now() + rest)),
                    Err(Failure::Stopped) => {}
                    Err(Failure::Gone) => {
                        is_gone = true;
                        state.deferred.insert(job.key, Instant::now() + RETRY);
                    }
                    Err(Failure::Unreadable(reason)) => {
                        state.skip(scan::skipped(&job.key, reason.clone()));
                        state.manifest.remove(&job.key);
                        let unreadable =
                            Unreadable { stamp: known.stamp, until: Instant::now() + UNREADABLE_REST, reason };
                        state.unreadable.insert(job.key, unreadable);
                    }
                }
            }
        }
        editor.commit();
        if is_gone {
            shares.agenda.changed(folder.record.id);
        }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::share::{NewShare, ShareSettings};

    #[test]
    fn only_walks_take_files_out_and_an_unreadable_one_stays_out_until_it_changes() {
        let home = tempfile::tempdir().unwrap();
        let shares = Shares::open(ShareSettings::new(home.path().join("state"), home.path().join("cache"))).unwrap();
        let data = home.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("file"), "file").unwrap();
        let name = shares.add(NewShare::new(&data)).unwrap().name;
        let files_after = |failure: Failure| {
            let job = shares.agenda.jobs_now(&shares).unwrap().pop().unwrap();
            keep(&shares, vec![Outcome { job, path: Vec::new(), result: Err(failure) }]);
            shares.agenda.kept(1);
            shares.status(&name).unwrap().files
        };
        let folder = shares.folders().pop().unwrap();
        let rested = || {
            folder.lock().deferred.clear();
            shares.agenda.wake();
        };
        shares.scan_now(&name).unwrap();
        assert_eq!(files_after(Failure::Gone), 1);
        assert!(shares.agenda.jobs_now(&shares).is_none(), "it rests");
        rested();
        assert_eq!(files_after(std::io::Error::from(Errno::MFILE).into()), 1);
        rested();
        assert_eq!(files_after(std::io::Error::from(Errno::IO).into()), 0);
        let walked = shares.scan_now(&name).unwrap();
        assert_eq!((walked.files, walked.skipped), (0, 1));
        assert_eq!(shares.skipped(&name).first().unwrap().reason, std::io::Error::from(Errno::IO).to_string());
        std::fs::write(data.join("file"), "other file").unwrap();
        let walked = shares.scan_now(&name).unwrap();
        assert_eq!((walked.files, walked.skipped), (1, 0));
    }
}
