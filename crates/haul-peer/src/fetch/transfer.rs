//! One blob on its way: the loop between the download machine, the requests, the workers and the disk.

mod happening;
mod telling;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use haul_core::blob::{BlobGeometry, LeafSet};
use haul_core::download::{Action, Download, Have, Offence, RequestEnd, RequestId, Setback};
use haul_core::ids::{BlobId, PeerId};
use haul_core::limits::{CHECKPOINT_BYTES, CHECKPOINT_INTERVAL, LEAF_BYTES};
use haul_core::time::Moment;
use haul_net::clock::boot_now;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::held::Held;
use super::output::{Output, verify_local};
use super::passing::{Passed, Passing};
use super::providers::{Providers, Search};
use super::requests::{Arrived, Asking, SheetAnswer, ask_leaves, ask_sheet};
use super::writing::{WriteQueue, Written};
use super::{Downloader, FetchError, FetchProgress, Found, noting};
use crate::fetch::pool::{ConnectError, Lease};
use crate::files::FileError;
use crate::partial::Checker;
use crate::swarm::SwarmNews;
use crate::timeline::{Note, Timeline};

/// Events that wait for the loop; most hold a batch of leaves with a permit, so memory is bounded by those.
const EVENTS: usize = 64;
/// Batches between arrival and the end of writing: 32 MiB.
const BATCHES: usize = 32;
/// Data is made durable after this many bytes …
const DURABLE_BYTES: u64 = 1024 * 1024 * 1024;
/// … or this long.
const DURABLE_INTERVAL: Duration = Duration::from_secs(10);

/// What happened.
pub(super) enum Event {
    Sheet { request: RequestId, provider: PeerId, sheet: Option<u64>, answer: SheetAnswer },
    Leaves { request: RequestId, provider: PeerId, leaves: Vec<Arrived>, permit: OwnedSemaphorePermit },
    Ended { request: RequestId, provider: PeerId, end: RequestEnd },
    Written(Result<Vec<Written>, FileError>),
    Local(Vec<(u64, bool)>),
    Checkpointed(Result<(), FileError>),
    Connected { provider: PeerId, result: Result<Lease, ConnectError> },
    Found(Result<Found, String>),
    Size { provider: PeerId, size: Option<u64> },
    Swarm(SwarmNews),
    Holds { provider: PeerId, have: Have },
    Queued { request: RequestId, provider: PeerId, place: u32 },
    Allowed(u64),
}

/// How a transfer ended, if not by an error.
pub(super) enum Outcome {
    /// Every leaf that was wanted is there.
    Complete,
    /// Nobody could help under this size, but somebody believes in another.
    OtherSizes(BTreeSet<u64>),
}

/// What a transfer starts with.
pub(super) struct Start<'a> {
    pub(super) downloader: &'a Downloader,
    pub(super) blob: BlobId,
    pub(super) geometry: BlobGeometry,
    /// Leaves that nobody has to be asked for.
    pub(super) verified: LeafSet,
    /// Leaves to verify from the part file.
    pub(super) local: LeafSet,
    pub(super) output: Output,
    pub(super) search: Search,
    pub(super) progress: &'a watch::Sender<FetchProgress>,
    pub(super) cancel: &'a CancellationToken,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Bytes of verified leaves per provider.
    pub(super) gave: BTreeMap<PeerId, u64>,
    pub(super) banned: Vec<(PeerId, String)>,
    /// Bytes that were verified from the part file.
    pub(super) local: u64,
}

impl Tally {
    /// Takes up what came of another attempt.
    pub(super) fn add(&mut self, other: Self) {
        for (provider, bytes) in other.gave {
            *self.gave.entry(provider).or_default() += bytes;
        }
        self.banned.extend(other.banned);
        self.local += other.local;
    }

    pub(super) fn fetched(&self) -> u64 {
        self.gave.values().sum()
    }
}

/// A transfer that has ended.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    pub(super) tally: Tally,
    pub(super) checker: Arc<Checker>,
    /// Its part in the swarm, to serve on.
    pub(super) passed: Option<Passed>,
}

pub(super) struct Transfer<'a> {
    start: Inputs<'a>,
    machine: Download,
    checker: Arc<Checker>,
    output: Output,
    providers: Providers,
    passing: Passing,
    /// What asks providers of parts for more of them.
    followers: BTreeMap<PeerId, AbortHandle>,
    tally: Tally,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    /// Requests, look-ups, calls: ended at any moment.
    tasks: JoinSet<()>,
    /// Writing, checkpoints, and looking at what the part file holds: waited for.
    workers: JoinSet<()>,
    requests: BTreeMap<RequestId, AbortHandle>,
    batches: Arc<Semaphore>,
    writing: WriteQueue,
    other_sizes: BTreeSet<u64>,
    finished: bool,
    done_bytes: u64,
    checkpoint: Checkpoint,
    told: telling::Told,
    held: Held,
}

struct Inputs<'a> {
    downloader: &'a Downloader,
    blob: BlobId,
    geometry: BlobGeometry,
    progress: &'a watch::Sender<FetchProgress>,
    cancel: &'a CancellationToken,
    timeline: Timeline,
}

struct Checkpoint {
    running: bool,
    last: Moment,
    last_durable: Moment,
    bytes: u64,
    durable_bytes: u64,
    /// The last one counts leaves that the disk has not kept.
    wrong: bool,
}

impl<'a> Transfer<'a> {
    pub(super) fn new(start: Start<'a>) -> Self {
        let Start { downloader, blob, geometry, verified, local, output, search, progress, cancel } = start;
        let now = boot_now();
        let timeline = search.timeline.clone();
        let seed = u64::from_le_bytes(std::array::from_fn(|n| blob.as_bytes()[n])) ^ now.0;
        let done_bytes = bytes_of(geometry, &verified);
        let (sender, events) = mpsc::channel(EVENTS);
        let mut machine = Download::new(geometry, verified, &local, seed);
        let horizon = match &output {
            Output::File(_) => geometry.leaves(),
            Output::Reader(reader) => reader.horizon(),
        };
        machine.set_horizon(now, horizon);
        let checker = Checker::new(blob, geometry);
        let (passing, news) = if search.only_these {
            (Passing::alone(blob, &checker, now), None)
        } else {
            Passing::begin(downloader, blob, &checker, &output, now)
        };
        let mut tasks = JoinSet::new();
        let mut providers = Providers::new(search, now);
        if let Some(news) = news {
            if let Some(me) = downloader.me {
                machine.set_me(me);
            }
            machine.set_spread(now, true);
            providers.expect_swarm(now);
            tasks.spawn(forward(news, sender.clone()));
        }
        Self {
            machine,
            checker,
            output,
            passing,
            followers: BTreeMap::new(),
            providers,
            tally: Tally::default(),
            events,
            sender,
            tasks,
            workers: JoinSet::new(),
            requests: BTreeMap::new(),
            batches: Arc::new(Semaphore::new(BATCHES)),
            writing: WriteQueue::default(),
            other_sizes: BTreeSet::new(),
            finished: false,
            done_bytes,
            checkpoint: Checkpoint {
                running: false,
                last: now,
                last_durable: now,
                bytes: 0,
                durable_bytes: 0,
                wrong: false,
            },
            told: telling::Told::new(now, done_bytes),
            held: Held::new(downloader),
            start: Inputs { downloader, blob, geometry, progress, cancel, timeline },
        }
    }

    /// Runs to the end. Whatever the end is, no task of the transfer is left, and a part file holds its progress.
    pub(super) async fn run(mut self) -> Result<Ended, FetchError> {
        let result = self.work().await;
        self.requests.clear();
        self.tasks.shutdown().await;
        self.join_workers().await;
        if !self.finished {
            // Damage that others have met counts, however this ends.
            self.repair();
        }
        if let (Output::File(part), false) = (&self.output, self.finished) {
            let (part, verified) = (Arc::clone(part), self.machine.verified().clone());
            // A download that stops keeps what it has; if even that cannot be written, the first error says more.
            let _ = tokio::task::spawn_blocking(move || part.checkpoint(&verified, false)).await;
        }
        self.tell(true);
        self.passing.report(self.machine.verified(), boot_now(), true);
        let passed = if self.finished { self.passing.end() } else { None };
        Ok(Ended { outcome: result?, tally: self.tally, checker: self.checker, passed })
    }

    /// Leaves that a worker has begun with are written, and count.
    async fn join_workers(&mut self) {
        loop {
            let event = tokio::select! {
                event = self.events.recv() => event,
                worker = self.workers.join_next() => match worker {
                    Some(_) => continue,
                    None => break,
                },
            };
            self.count_late(event);
        }
        while let Ok(event) = self.events.try_recv() {
            self.count_late(Some(event));
        }
    }

    fn count_late(&mut self, event: Option<Event>) {
        if let Some(Event::Written(Ok(written))) = event {
            self.written(written);
        }
    }

    async fn work(&mut self) -> Result<Outcome, FetchError> {
        loop {
            // Finished tasks are taken off the books; they report by events.
            while self.tasks.try_join_next().is_some() || self.workers.try_join_next().is_some() {}
            self.keep_to_limit();
            self.repair();
            self.perform();
            if self.finished && self.reader_is_done() {
                return Ok(Outcome::Complete);
            }
            self.find_providers();
            if let Some(outcome) = self.hopeless() {
                return outcome;
            }
            self.maybe_checkpoint();
            self.pass_on();
            self.tell(false);
            let wake = self.next_wake();
            // What has arrived waits for the disk, and so does whoever sends.
            let disk_is_behind = self.batches.available_permits() == 0;
            let reader = match &self.output {
                // Under another size the download begins once more, so nothing is handed on before the proof.
                Output::Reader(reader) if reader.has_next() && self.machine.size_is_proven() => Some(reader.sender()),
                _ => None,
            };
            tokio::select! {
                () = self.start.cancel.cancelled() => return Err(FetchError::Cancelled),
                event = self.events.recv() => {
                    if let Some(event) = event {
                        self.happen(event)?;
                    }
                }
                room = room_for(reader) => {
                    let room = room.ok_or(FetchError::ReaderGone)?;
                    self.feed_reader(room);
                }
                () = tokio::time::sleep(wake) => {}
            }
            let now = boot_now();
            if disk_is_behind {
                self.machine.handle_own_delay(now);
            }
            if self.machine.next_timeout().is_some_and(|due| due <= now) {
                self.machine.handle_timeout(now);
            }
        }
    }

    /// What the disk has not kept is fetched again.
    fn repair(&mut self) {
        let (damaged, Output::File(part)) = (self.passing.take_damaged(), &self.output) else { return };
        if damaged.is_empty() {
            return;
        }
        part.forget(&damaged);
        self.checkpoint.wrong = true;
        for leaf in damaged {
            self.start.timeline.note(boot_now(), Note::Damaged { at: leaf * LEAF_BYTES });
            self.done_bytes = self.done_bytes.saturating_sub(self.start.geometry.leaf_bytes(leaf) as u64);
            self.finished = false;
            self.machine.handle_damaged(boot_now(), leaf);
        }
    }

    /// Serves what is verified to others, and tells the index of it.
    fn pass_on(&mut self) {
        self.passing.offer(self.start.downloader, &self.output);
        if self.machine.size_is_proven() {
            self.passing.prove(self.machine.verified());
        }
        self.passing.report(self.machine.verified(), boot_now(), false);
    }

    fn reader_is_done(&self) -> bool {
        match &self.output {
            Output::File(_) => true,
            Output::Reader(reader) => reader.is_done(),
        }
    }

    fn feed_reader(&mut self, room: mpsc::OwnedPermit<Bytes>) {
        let Output::Reader(reader) = &mut self.output else { return };
        if let Some(bytes) = reader.take_next() {
            room.send(bytes);
        }
        let horizon = reader.horizon();
        self.machine.set_horizon(boot_now(), horizon);
    }

    /// Does what the machine wants.
    fn perform(&mut self) {
        while let Some(action) = self.machine.poll_action() {
            match action {
                Action::RequestSheet { request, provider, sheet } => {
                    if let Some(asking) = self.asking(request, provider) {
                        let task = self.tasks.spawn(ask_sheet(asking, sheet));
                        self.requests.insert(request, task);
                    }
                }
                Action::RequestLeaves { request, provider, ranges, wait } => {
                    if let Some(asking) = self.asking(request, provider) {
                        let task = self.tasks.spawn(ask_leaves(asking, ranges, wait, Arc::clone(&self.batches)));
                        self.requests.insert(request, task);
                    }
                }
                Action::CheckLocal { ranges } => self.check_local(ranges),
                Action::Cancel { request } => {
                    // Dropping the stream tells the other side.
                    if let Some(task) = self.requests.remove(&request) {
                        task.abort();
                    }
                    self.providers.request_over(request);
                }
                Action::ForgetSheets => {
                    self.checker.forget();
                    self.start.timeline.note(boot_now(), Note::OutlineForgotten);
                }
                Action::Setback { provider, setback } => {
                    if let Setback::Stalled { silence, .. } = setback {
                        self.providers.trouble(provider, format!("has sent nothing for {} s", silence.as_secs()));
                    }
                    self.note_of(provider, noting::of_setback(setback));
                }
                Action::Blame { provider } => self.passing.failed(provider),
                Action::Ban { provider, offence } => self.ban(provider, offence),
                Action::Finished => self.finished = true,
                Action::Starved(_) => {}
            }
        }
    }

    /// Under a limit of bandwidth, leaves are asked for as the limit lets.
    fn keep_to_limit(&mut self) {
        let now = boot_now();
        self.machine.set_limited(now, self.held.is_limited());
        if let Some(allowance) = self.held.next_allowance(self.machine.is_held(), now) {
            let sender = self.sender.clone();
            self.tasks.spawn(async move {
                let _ = sender.send(Event::Allowed(allowance.await)).await;
            });
        }
    }

    fn asking(&mut self, request: RequestId, provider: PeerId) -> Option<Asking> {
        let Some(lease) = self.providers.lease(&provider) else {
            let now = boot_now();
            self.providers.lost(&provider, now);
            self.machine.handle_provider_lost(now, provider);
            self.machine.handle_end(now, request, RequestEnd::Failed);
            return None;
        };
        Some(Asking {
            request,
            provider,
            blob: self.start.blob,
            lease,
            checker: Arc::clone(&self.checker),
            events: self.sender.clone(),
        })
    }

    fn ban(&mut self, provider: PeerId, offence: Offence) {
        let what = match offence {
            Offence::Sheet => "sent a list of leaf hashes that does not belong to this content".to_string(),
            Offence::Leaf(leaf) => format!("sent wrong bytes at {}", leaf * LEAF_BYTES),
        };
        tracing::warn!(peer = %provider, blob = %self.start.blob, "banned for this content: it {what}");
        self.providers.trouble(provider, format!("banned: it {what}"));
        self.passing.failed(provider);
        self.providers.ban(&provider);
        if let Some(follower) = self.followers.remove(&provider) {
            follower.abort();
        }
        self.tally.banned.push((provider, what));
        self.note_of(provider, noting::of_offence(offence));
    }

    fn check_local(&mut self, ranges: Vec<haul_core::wire::peer::LeafRange>) {
        let Output::File(part) = &self.output else { return };
        let (part, checker, sender) = (Arc::clone(part), Arc::clone(&self.checker), self.sender.clone());
        let epoch = checker.epoch();
        self.workers.spawn(async move {
            let work = tokio::task::spawn_blocking(move || verify_local(&checker, epoch, &part, &ranges));
            if let Ok(results) = work.await {
                let _ = sender.send(Event::Local(results)).await;
            }
        });
    }

    /// Starts look-ups and connections that are due.
    fn find_providers(&mut self) {
        let now = boot_now();
        let starved = self.machine.starved();
        if self.providers.lookup_due(starved, now) {
            let (finder, blob) = (Arc::clone(&self.start.downloader.finder), self.start.blob);
            let (only_these, sender) = (self.providers.only_these(), self.sender.clone());
            self.tasks.spawn(async move {
                let found = match only_these {
                    Some(providers) => Ok(Found { size: None, providers }),
                    None => finder.find(blob).await,
                };
                let _ = sender.send(Event::Found(found)).await;
            });
        }
        for card in self.providers.connections_due(now) {
            let (pool, finder) = (Arc::clone(&self.start.downloader.pool), Arc::clone(&self.start.downloader.finder));
            let sender = self.sender.clone();
            self.tasks.spawn(async move {
                let provider = card.id;
                let result = pool.connect(&card).await;
                if result.is_err() {
                    finder.unreachable(provider);
                }
                let _ = sender.send(Event::Connected { provider, result }).await;
            });
        }
    }

    /// The end, if nobody can help and nothing more can be tried.
    fn hopeless(&mut self) -> Option<Result<Outcome, FetchError>> {
        if self.finished || !self.providers.is_hopeless(self.machine.starved(), boot_now()) {
            return None;
        }
        if !self.other_sizes.is_empty() && !self.machine.size_is_proven() {
            return Some(Ok(Outcome::OtherSizes(std::mem::take(&mut self.other_sizes))));
        }
        let reason = self.providers.reason();
        Some(Err(FetchError::NoProvider { reason, banned: self.tally.banned.clone() }))
    }

    fn maybe_checkpoint(&mut self) {
        let Output::File(part) = &self.output else { return };
        let now = boot_now();
        let state = &mut self.checkpoint;
        let is_worth_it = state.bytes >= CHECKPOINT_BYTES || now.since(state.last) >= CHECKPOINT_INTERVAL;
        let due = state.wrong || state.bytes > 0 && is_worth_it;
        if state.running || !due || self.finished {
            return;
        }
        let durable =
            state.wrong || state.durable_bytes >= DURABLE_BYTES || now.since(state.last_durable) >= DURABLE_INTERVAL;
        state.running = true;
        state.wrong = false;
        state.last = now;
        state.bytes = 0;
        if durable {
            state.last_durable = now;
            state.durable_bytes = 0;
        }
        let (part, verified, sender) = (Arc::clone(part), self.machine.verified().clone(), self.sender.clone());
        self.workers.spawn(async move {
            let work = tokio::task::spawn_blocking(move || part.checkpoint(&verified, durable));
            if let Ok(result) = work.await {
                let _ = sender.send(Event::Checkpointed(result)).await;
            }
        });
    }

    fn next_wake(&self) -> Duration {
        let now = boot_now();
        let mut wake = now.after(Duration::from_secs(1));
        if let Some(due) = self.machine.next_timeout() {
            wake = wake.min(due);
        }
        if let Some(due) = self.providers.next_due() {
            wake = wake.min(due);
        }
        // A due moment in the past must not spin: one millisecond is the clock's own step.
        wake.since(now).max(Duration::from_millis(1))
    }
}

/// News of the swarm as events.
async fn forward(mut news: mpsc::UnboundedReceiver<SwarmNews>, events: mpsc::Sender<Event>) {
    while let Some(news) = news.recv().await {
        if events.send(Event::Swarm(news)).await.is_err() {
            break;
        }
    }
}

/// Bytes of a set of leaves.
pub(super) fn bytes_of(geometry: BlobGeometry, leaves: &LeafSet) -> u64 {
    let last = geometry.leaves() - 1;
    let short = LEAF_BYTES - geometry.leaf_bytes(last) as u64;
    leaves.count() * LEAF_BYTES - if leaves.contains(last) { short } else { 0 }
}

/// Waits for room at the reader; never ready without one, none if it is gone.
async fn room_for(reader: Option<mpsc::Sender<Bytes>>) -> Option<mpsc::OwnedPermit<Bytes>> {
    match reader {
        Some(reader) => reader.reserve_owned().await.ok(),
        None => std::future::pending().await,
    }
}
