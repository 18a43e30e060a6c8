//! The list of downloads: runs them, says why one waits and what to do, and continues unfinished ones after a restart.
//!
//! The list owns the task of every download. Whoever asked for one only follows it; when the daemon stops, running
//! downloads end with their progress kept and start again with the next daemon.

mod job;
mod report;
mod stored;
mod timeline;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use haul_core::bandwidth::Rule;
use haul_core::time::Timestamp;
use haul_net::clock;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::api::codes::ErrorCode;
use crate::api::known::Known;
use crate::api::problem::Problem;
use crate::api::records::{DoneRecord, Notice, ProgressRecord, Record, TransferRecord, TransferState};
use crate::bandwidth::{Bandwidth, Place};
use crate::fetch::{Downloader, FetchProgress};
use crate::timeline::{Note, Timeline};
pub use job::{Job, JobKind};
pub use report::problem_of;

/// Downloads that run at once; further ones wait for a place.
const RUNNING_AT_ONCE: usize = 8;
/// Finished downloads that stay in the list.
const FINISHED_KEPT: usize = 200;
/// Downloads in the list that are not finished.
const UNFINISHED: usize = 10_000;

/// How a download stands.
#[derive(Clone, Debug)]
pub struct Phase {
    /// State.
    pub state: TransferState,
    /// Why it ended without success.
    pub problem: Option<Problem>,
    /// What came out.
    pub done: Option<DoneRecord>,
    /// What was left out of a directory, or who sent what did not belong to it.
    pub warnings: Vec<Notice>,
}

impl Phase {
    fn new(state: TransferState, problem: Option<Problem>) -> Self {
        Self { state, problem, done: None, warnings: Vec::new() }
    }
}

struct Item {
    job: Job,
    added: Timestamp,
    phase: watch::Sender<Phase>,
    progress: watch::Receiver<FetchProgress>,
    cancel: CancellationToken,
    /// What the next end by `cancel` means.
    stop_as: TransferState,
    /// What happened so far, over all runs.
    timeline: Timeline,
}

/// The list.
pub struct Transfers {
    file: Option<PathBuf>,
    downloader: Downloader,
    known: Arc<Known>,
    items: Mutex<Items>,
    places: Semaphore,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    writing: tokio::sync::Mutex<()>,
}

/// A download that was put on the list.
struct Entered {
    id: u64,
    /// It was not there, and is to be started.
    is_new: bool,
    /// What it replaces: an earlier one for the same target.
    before: Option<(u64, Item)>,
}

#[derive(Default)]
struct Items {
    by_id: BTreeMap<u64, Item>,
    last: u64,
}

impl std::fmt::Debug for Transfers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transfers").finish_non_exhaustive()
    }
}

impl Transfers {
    /// A list kept in `file`, or in memory only. Unfinished downloads of an earlier run start again.
    pub fn open(
        file: Option<PathBuf>,
        downloader: Downloader,
        known: Arc<Known>,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let stored = file.as_deref().map(stored::load).unwrap_or_default();
        let this = Arc::new(Self {
            file,
            downloader,
            known,
            items: Mutex::default(),
            places: Semaphore::new(RUNNING_AT_ONCE),
            tasks: TaskTracker::new(),
            shutdown,
            writing: tokio::sync::Mutex::new(()),
        });
        for entry in stored {
            this.known.peers(&entry.job.providers);
            let mut items = this.lock();
            items.last = items.last.max(entry.transfer);
            let phase = Phase::new(entry.state, entry.problem);
            items.by_id.insert(entry.transfer, Item::new(entry.job, entry.added, phase));
            drop(items);
            if matches!(entry.state, TransferState::Waiting | TransferState::Running) {
                this.start(entry.transfer, true);
            }
        }
        this
    }

    /// Adds a download and starts it. One of the same content for the same target is joined if it runs, and taken up
    /// again if it does not.
    pub async fn add(self: &Arc<Self>, job: Job) -> Result<u64, Problem> {
        let Entered { id, is_new, .. } = self.enter(job)?;
        if is_new {
            self.start(id, false);
            self.save().await;
        }
        Ok(id)
    }

    /// The same under a limit of its own, which holds from the first byte on.
    pub async fn add_limited(self: &Arc<Self>, job: Job, limit: Rule, bandwidth: &Bandwidth) -> Result<u64, Problem> {
        let Entered { id, is_new, before } = self.enter(job)?;
        if let Err(error) = bandwidth.set_now(Place::Transfer(id), None, limit) {
            if is_new {
                let mut items = self.lock();
                items.by_id.remove(&id);
                items.by_id.extend(before);
            }
            return Err(Problem::new(ErrorCode::Usage, error.to_string()).next("haul limit clear"));
        }
        if is_new {
            self.start(id, false);
            self.save().await;
        }
        if let Err(error) = bandwidth.keep().await {
            warn!(%error, transfer = id, "the limit of a transfer");
        }
        Ok(id)
    }

    /// Puts a download on the list.
    fn enter(&self, job: Job) -> Result<Entered, Problem> {
        let mut items = self.lock();
        let mut same_target = None;
        let mut timeline = None;
        let same = items
            .by_id
            .iter()
            .find(|(_, item)| item.job.target == job.target && item.phase.borrow().state != TransferState::Done);
        if let Some((id, item)) = same {
            if matches!(item.phase.borrow().state, TransferState::Running | TransferState::Waiting) {
                if item.job.same_content(&job) {
                    return Ok(Entered { id: *id, is_new: false, before: None });
                }
                let message = format!("transfer {id} already writes to {}", job.target.display());
                return Err(Problem::new(ErrorCode::Exists, message).next("see it: haul transfers"));
            }
            // The same download once more goes on with its timeline.
            timeline = item.job.same_content(&job).then(|| item.timeline.clone());
            same_target = Some(*id);
        }
        let finished = |item: &Item| matches!(item.phase.borrow().state, TransferState::Done | TransferState::Canceled);
        let before = same_target.and_then(|id| items.by_id.remove_entry(&id));
        if items.by_id.values().filter(|item| !finished(item)).count() >= UNFINISHED {
            items.by_id.extend(before);
            return Err(Problem::new(ErrorCode::Usage, format!("{UNFINISHED} transfers are not finished yet"))
                .next("give some up: haul transfers cancel N"));
        }
        let done: Vec<u64> = items.by_id.iter().filter(|(_, item)| finished(item)).map(|(id, _)| *id).collect();
        for old in done.iter().take(done.len().saturating_sub(FINISHED_KEPT)) {
            items.by_id.remove(old);
        }
        items.last += 1;
        let id = items.last;
        let phase = Phase::new(TransferState::Waiting, None);
        let mut item = Item::new(job, clock::wall_now(), phase);
        item.timeline = timeline.unwrap_or(item.timeline);
        items.by_id.insert(id, item);
        Ok(Entered { id, is_new: true, before })
    }

    /// Follows a download.
    pub fn follow(&self, id: u64) -> Option<(watch::Receiver<Phase>, watch::Receiver<FetchProgress>)> {
        let items = self.lock();
        let item = items.by_id.get(&id)?;
        Some((item.phase.subscribe(), item.progress.clone()))
    }

    /// Stops a download that runs or waits, and keeps what it has.
    pub async fn pause(&self, id: u64) -> Result<(), Problem> {
        self.stop(id, TransferState::Paused).await
    }

    /// Gives a download up. What arrived stays beside its target, for [`Transfers::retry`].
    pub async fn cancel(&self, id: u64) -> Result<(), Problem> {
        self.stop(id, TransferState::Canceled).await
    }

    /// As [`Transfers::pause`], for one who cannot wait: the list is written when the download has ended.
    pub fn pause_soon(&self, id: u64) {
        let mut items = self.lock();
        if let Some(item) = items.by_id.get_mut(&id) {
            item.stop_as = TransferState::Paused;
            item.cancel.cancel();
        }
    }

    async fn stop(&self, id: u64, stop_as: TransferState) -> Result<(), Problem> {
        let mut phase = {
            let mut items = self.lock();
            let item = items.by_id.get_mut(&id).ok_or_else(|| no_such(id))?;
            let state = item.phase.borrow().state;
            match state {
                TransferState::Running | TransferState::Waiting => {
                    item.stop_as = stop_as;
                    item.cancel.cancel();
                }
                TransferState::Done => return Err(done_already(id)),
                TransferState::Failed | TransferState::Canceled if stop_as == TransferState::Paused => {
                    return Err(Problem::new(ErrorCode::Usage, format!("transfer {id} does not run"))
                        .next(format!("run it again: haul transfers retry {id}")));
                }
                _ if state == stop_as => {}
                _ => {
                    item.timeline.note(clock::boot_now(), stopped(stop_as));
                    item.phase.send_modify(|phase| phase.state = stop_as);
                }
            }
            item.phase.subscribe()
        };
        // The task ends soon after its token; an error means that the item is gone, which is an end too.
        drop(phase.wait_for(|phase| !matches!(phase.state, TransferState::Running | TransferState::Waiting)).await);
        self.save().await;
        Ok(())
    }

    /// Starts a download again that was paused, failed or was given up. It waits for providers if there are none.
    pub async fn resume(self: &Arc<Self>, id: u64) -> Result<(), Problem> {
        match self.state(id)? {
            TransferState::Running | TransferState::Waiting => return Ok(()),
            TransferState::Done => return Err(done_already(id)),
            _ => self.start(id, true),
        }
        self.save().await;
        Ok(())
    }

    /// Runs a download again that failed, was given up or paused, just as it was asked for; it uses what arrived before.
    pub async fn retry(self: &Arc<Self>, id: u64) -> Result<(), Problem> {
        match self.state(id)? {
            TransferState::Running | TransferState::Waiting => {
                return Err(Problem::new(ErrorCode::Usage, format!("transfer {id} has not ended"))
                    .next(format!("see what it waits for: haul transfers explain {id}")));
            }
            TransferState::Done => return Err(done_already(id)),
            _ => self.start(id, false),
        }
        self.save().await;
        Ok(())
    }

    fn state(&self, id: u64) -> Result<TransferState, Problem> {
        self.lock().by_id.get(&id).map(|item| item.phase.borrow().state).ok_or_else(|| no_such(id))
    }

    /// What happened in a transfer, as records.
    pub fn timeline(&self, id: u64) -> Result<Vec<Record>, Problem> {
        let items = self.lock();
        let item = items.by_id.get(&id).ok_or_else(|| no_such(id))?;
        Ok(timeline::records(id, item, &self.known))
    }

    /// All downloads, oldest first.
    pub fn list(&self) -> Vec<TransferRecord> {
        let items = self.lock();
        items.by_id.iter().map(|(id, item)| report::transfer(*id, item, &self.known)).collect()
    }

    /// One download.
    pub fn record(&self, id: u64) -> Option<TransferRecord> {
        let items = self.lock();
        items.by_id.get(&id).map(|item| report::transfer(id, item, &self.known))
    }

    /// The progress of a download for people.
    pub fn progress_record(&self, id: u64, name: &str, progress: &FetchProgress) -> ProgressRecord {
        let content = self.lock().by_id.get(&id).and_then(|item| item.job.id());
        report::progress(Some(id), content, name, progress, &self.known)
    }

    /// Running downloads, and those that wait or are paused.
    pub fn counts(&self) -> (u64, u64) {
        let items = self.lock();
        let count = |wanted: &[TransferState]| {
            items.by_id.values().filter(|item| wanted.contains(&item.phase.borrow().state)).count() as u64
        };
        (count(&[TransferState::Running]), count(&[TransferState::Waiting, TransferState::Paused]))
    }

    /// Bytes that came from other peers since the start, as far as the list goes back.
    pub fn received(&self) -> u64 {
        self.lock().by_id.values().map(|item| item.timeline.received()).sum()
    }

    /// Ends after shutdown, when all downloads have ended and the list is written.
    pub async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.save().await;
    }

    fn start(self: &Arc<Self>, id: u64, again: bool) {
        let (sender, receiver) = watch::channel(FetchProgress::default());
        let started = {
            let mut items = self.lock();
            items.by_id.get_mut(&id).map(|item| {
                item.progress = receiver;
                item.cancel = self.shutdown.child_token();
                item.stop_as = TransferState::Paused;
                item.phase.send_replace(Phase::new(TransferState::Waiting, None));
                let mut job = item.job.clone();
                // What was there before belongs to this download: it may take it up.
                job.wait |= again;
                (job, item.cancel.clone(), item.timeline.clone())
            })
        };
        if let Some((job, cancel, timeline)) = started {
            let this = self.clone();
            self.tasks.spawn(async move { this.run(id, job, timeline, sender, cancel).await });
        }
    }

    async fn run(
        &self,
        id: u64,
        job: Job,
        timeline: Timeline,
        progress: watch::Sender<FetchProgress>,
        cancel: CancellationToken,
    ) {
        if self.places.available_permits() == 0 {
            timeline.note(clock::boot_now(), Note::Queued);
        }
        let place = tokio::select! {
            place = self.places.acquire() => place.ok(),
            () = cancel.cancelled() => None,
        };
        let outcome = match place {
            None => Err(Problem::new(ErrorCode::Interrupted, "stopped before it began")),
            Some(_place) => {
                self.set(id, Phase::new(TransferState::Running, None));
                timeline.note(clock::boot_now(), Note::Begun);
                let latest = progress.subscribe();
                let downloader = self.downloader.of_transfer(id);
                let result = job.run(&downloader, &self.known, timeline.clone(), progress, cancel.clone()).await;
                let seen = latest.borrow().clone();
                match result {
                    Ok(done) => {
                        let warnings = report::warnings(&done, &self.known);
                        Ok((report::done(&job, done, &seen, &self.known), warnings))
                    }
                    Err(error) => Err(problem_of(&error, &job.name(), &job.what, &seen, &self.known)),
                }
            }
        };
        let stop_as = self.lock().by_id.get(&id).map_or(TransferState::Paused, |item| item.stop_as);
        let phase = match outcome {
            Ok((done, warnings)) => Phase { state: TransferState::Done, problem: None, done: Some(done), warnings },
            // The next daemon goes on with it.
            Err(problem) if self.shutdown.is_cancelled() => Phase::new(TransferState::Waiting, Some(problem)),
            Err(problem) if cancel.is_cancelled() => Phase::new(stop_as, Some(problem)),
            Err(problem) => Phase::new(TransferState::Failed, Some(problem)),
        };
        timeline.note(clock::boot_now(), end_of(&phase));
        self.set(id, phase);
        self.save().await;
    }

    fn set(&self, id: u64, phase: Phase) {
        if let Some(item) = self.lock().by_id.get(&id) {
            item.phase.send_replace(phase);
        }
    }

    async fn save(&self) {
        let Some(path) = self.file.clone() else { return };
        // One writer at a time, each with the list as it is when its turn comes.
        let _turn = self.writing.lock().await;
        let bytes = stored::encode(self.lock().by_id.iter());
        let written = tokio::task::spawn_blocking(move || crate::daemon::home::write_private(&path, &bytes)).await;
        if let Ok(Err(error)) = written {
            warn!(%error, "the list of transfers is not written");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Items> {
        // Every change is one insert, removal or assignment.
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Item {
    fn new(job: Job, added: Timestamp, phase: Phase) -> Self {
        Self {
            job,
            added,
            phase: watch::Sender::new(phase),
            progress: watch::channel(FetchProgress::default()).1,
            cancel: CancellationToken::new(),
            stop_as: TransferState::Paused,
            timeline: Timeline::new(clock::wall_now(), clock::boot_now()),
        }
    }
}

/// The end of a run, for its timeline.
fn end_of(phase: &Phase) -> Note {
    match (phase.state, &phase.done, &phase.problem) {
        (_, Some(done), _) => Note::Done { bytes: done.bytes, fetched: done.fetched, ms: done.ms },
        (TransferState::Failed, _, Some(problem)) => Note::Failed { reason: problem.message.clone() },
        (state, ..) => stopped(state),
    }
}

fn stopped(state: TransferState) -> Note {
    match state {
        TransferState::Paused => Note::Paused,
        TransferState::Canceled => Note::Canceled,
        _ => Note::Stopped,
    }
}

fn done_already(id: u64) -> Problem {
    Problem::new(ErrorCode::Usage, format!("transfer {id} is done already")).next("haul transfers")
}

fn no_such(id: u64) -> Problem {
    Problem::new(ErrorCode::NoSuch, format!("there is no transfer {id}")).next("haul transfers")
}
