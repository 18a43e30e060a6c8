//! One blob on its way: the loop between the download machine, the requests, the workers and the disk.

mod telling;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use haul_core::blob::{BlobGeometry, LeafSet};
use haul_core::download::{Action, Arrival, Download, Have, Offence, RequestEnd, RequestId, Setback, Verdict};
use haul_core::ids::{BlobId, PeerId};
use haul_core::limits::{CHECKPOINT_BYTES, CHECKPOINT_INTERVAL, LEAF_BYTES};
use haul_core::time::Moment;
use haul_core::wire::index::PlannedSource;
use haul_core::wire::peer::{PeerAnswer, PeerRequest};
use haul_net::clock::boot_now;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::held::Held;
use super::output::{Output, verify_local};
use super::passing::{Passed, Passing};
use super::providers::{Providers, Search};
use super::requests::{Arrived, Asking, Following, SheetAnswer, ask_leaves, ask_sheet, follow};
use super::writing::{Batch, WriteQueue, Written};
use super::{CHANGED, Downloader, FetchError, FetchProgress, Found, noting};
use crate::fetch::pool::{ConnectError, Lease};
use crate::files::FileError;
use crate::partial::Checker;
use crate::swarm::{SwarmNews, leaves_of};
use crate::timeline::{How, Note, Timeline};

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
        let (passing, news) = if search.only_these {
            (Passing::alone(blob, geometry, now), None)
        } else {
            Passing::begin(downloader, blob, geometry, &output, machine.verified(), now)
        };
        let mut tasks = JoinSet::new();
        let mut providers = Providers::new(search, now);
        if let Some(news) = news {
            machine.set_spread(now, true);
            providers.expect_swarm(now);
            tasks.spawn(forward(news, sender.clone()));
        }
        Self {
            machine,
            checker: Checker::new(blob, geometry),
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
            checkpoint: Checkpoint { running: false, last: now, last_durable: now, bytes: 0, durable_bytes: 0 },
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
            let reader = match &self.output {
                Output::Reader(reader) if reader.has_next() => Some(reader.sender()),
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
            if self.machine.next_timeout().is_some_and(|due| due <= now) {
                self.machine.handle_timeout(now);
            }
        }
    }

    /// What the disk has not kept is fetched again.
    fn repair(&mut self) {
        let (damaged, Output::File(part)) = (self.passing.take_damaged(), &self.output) else { return };
        part.forget(&damaged);
        for leaf in damaged {
            self.start.timeline.note(boot_now(), Note::Damaged { at: leaf * LEAF_BYTES });
            self.done_bytes = self.done_bytes.saturating_sub(self.start.geometry.leaf_bytes(leaf) as u64);
            self.finished = false;
            self.machine.handle_damaged(boot_now(), leaf);
        }
    }

    /// Serves what is verified to others, and tells the index of it.
    fn pass_on(&mut self) {
        self.passing.offer(self.start.downloader, &self.output, &self.checker);
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

    fn happen(&mut self, event: Event) -> Result<(), FetchError> {
        let now = boot_now();
        match event {
            Event::Sheet { request, provider, sheet, answer } => self.sheet(request, provider, sheet, answer),
            Event::Leaves { request, provider, leaves, permit } => self.leaves(request, provider, leaves, permit),
            Event::Ended { request, provider, end } => self.ended(request, provider, end),
            Event::Written(written) => self.written(written?),
            Event::Local(results) => {
                for (leaf, good) in results {
                    if good {
                        let bytes = self.start.geometry.leaf_bytes(leaf) as u64;
                        self.tally.local += bytes;
                        self.passing.add(&[leaf]);
                        self.note_bytes(bytes);
                    }
                    self.machine.handle_local(now, leaf, good);
                }
            }
            Event::Checkpointed(result) => {
                self.checkpoint.running = false;
                result?;
            }
            Event::Connected { provider, result } => {
                let ours = matches!(result, Err(ConnectError::NoGrant));
                if self.providers.connected(provider, result, now) {
                    self.provider_is_there(provider);
                } else if !ours {
                    self.passing.failed(provider);
                }
            }
            Event::Swarm(news) => self.swarm(news),
            Event::Holds { provider, have } => {
                if self.providers.is_partial(&provider) {
                    self.machine.handle_provider(now, provider, have);
                }
            }
            Event::Queued { request, .. } if !self.requests.contains_key(&request) => {}
            Event::Queued { request, provider, place } => {
                self.providers.queued(provider, request, place);
                self.machine.handle_queued(now, request);
            }
            Event::Allowed(bytes) => {
                self.held.answered();
                self.machine.allow(now, bytes / LEAF_BYTES);
            }
            Event::Size { provider, size } => self.judge_size(provider, size),
            Event::Found(found) => {
                self.providers.found(found, now);
                self.named_again();
            }
        }
        Ok(())
    }

    fn named_again(&mut self) {
        for provider in self.providers.named_again() {
            if !self.providers.is_partial(&provider) {
                self.machine.handle_provider(boot_now(), provider, Have::All);
            }
        }
    }

    /// A provider is connected. What one that is downloading itself holds has to be asked for, again and again.
    fn provider_is_there(&mut self, provider: PeerId) {
        let now = boot_now();
        if !self.providers.is_partial(&provider) {
            return self.machine.handle_provider(now, provider, Have::All);
        }
        let nothing = Have::Leaves(LeafSet::new(self.start.geometry.leaves()));
        self.machine.handle_provider(now, provider, nothing);
        if let Some(lease) = self.providers.lease(&provider) {
            let following = Following {
                provider,
                blob: self.start.blob,
                geometry: self.start.geometry,
                lease,
                events: self.sender.clone(),
            };
            let task = self.tasks.spawn(follow(following));
            if let Some(before) = self.followers.insert(provider, task) {
                before.abort();
            }
        }
    }

    fn swarm(&mut self, news: SwarmNews) {
        let now = boot_now();
        match news {
            SwarmNews::Joined { groups } => {
                self.start.timeline.note(now, Note::InSwarm);
                self.providers.swarm_is_joined(now);
                self.held.joined(&groups);
                self.passing.joined(groups);
            }
            SwarmNews::Alone => self.providers.no_swarm(),
            SwarmNews::Peers(peers) => {
                self.providers.told_of(peers, now);
                self.named_again();
            }
            SwarmNews::Plan { lease, sources } => {
                self.providers.planned(sources.iter().map(|source| source.from));
                self.start.timeline.note(now, Note::Planned { sources: sources.len() as u64 });
                for source in &sources {
                    self.start.timeline.note_of(now, source.from, Note::Found { how: How::Plan });
                }
                let leaves = |source: &PlannedSource| (source.from, leaves_of(self.start.geometry, &source.pieces));
                let sources = sources.iter().map(leaves).collect();
                self.machine.handle_plan(now, now.after(lease), sources);
            }
        }
    }

    fn sheet(&mut self, request: RequestId, provider: PeerId, sheet: Option<u64>, answer: SheetAnswer) {
        match answer {
            SheetAnswer::Values { size, values } if size == self.start.geometry.size() => {
                // An answer that was cancelled meanwhile must not count for the next prover.
                if self.requests.remove(&request).is_some() {
                    let good = self.checker.accept(sheet, &values);
                    if good {
                        self.note_of(provider, Note::Outline);
                    }
                    self.machine.handle_sheet(boot_now(), request, good);
                }
            }
            SheetAnswer::Values { size, .. } => {
                self.claims_other_size(provider, size);
                self.ended(request, provider, RequestEnd::OtherSize);
            }
            SheetAnswer::End(end) => self.ended(request, provider, end),
        }
    }

    fn leaves(&mut self, request: RequestId, provider: PeerId, leaves: Vec<Arrived>, permit: OwnedSemaphorePermit) {
        let (now, current) = (boot_now(), self.checker.epoch());
        let mut good = Vec::with_capacity(leaves.len());
        for Arrived { leaf, bytes, epoch, verdict } in leaves {
            if self.machine.handle_arrival(now, request, leaf) == Arrival::Discard {
                self.start.timeline.wasted(provider, bytes.len() as u64);
                continue;
            }
            match (if epoch == current { verdict } else { Verdict::Unknown }, &mut self.output) {
                (Verdict::Good, Output::File(_)) => good.push((leaf, bytes)),
                (Verdict::Good, Output::Reader(reader)) => {
                    reader.keep(leaf, bytes);
                    self.verified(provider, &[leaf]);
                }
                (verdict, _) => self.refused(provider, leaf, verdict),
            }
        }
        if !good.is_empty() {
            self.write(Batch { provider, epoch: current, leaves: good, _permit: permit });
        }
    }

    /// A leaf that cannot be used.
    fn refused(&mut self, provider: PeerId, leaf: u64, verdict: Verdict) {
        self.start.timeline.wasted(provider, self.start.geometry.leaf_bytes(leaf) as u64);
        if verdict == Verdict::Bad && self.start.geometry.sheets() == 0 {
            // Without an outline nothing has shown yet what size this provider believes in.
            self.ask_size(provider);
        } else {
            self.machine.handle_verified(boot_now(), provider, leaf, verdict);
        }
    }

    fn write(&mut self, batch: Batch) {
        let Output::File(part) = &self.output else { return };
        if self.writing.push(batch) {
            let (writing, part, sender) = (self.writing.clone(), Arc::clone(part), self.sender.clone());
            self.workers.spawn_blocking(move || writing.drain(&part, &sender));
        }
    }

    fn written(&mut self, written: Vec<Written>) {
        let current = self.checker.epoch();
        for Written { provider, epoch, leaves } in written {
            if epoch == current {
                self.verified(provider, &leaves);
            } else {
                let now = boot_now();
                for leaf in leaves {
                    self.start.timeline.wasted(provider, self.start.geometry.leaf_bytes(leaf) as u64);
                    self.machine.handle_verified(now, provider, leaf, Verdict::Unknown);
                }
            }
        }
    }

    /// Leaves of this provider are verified, and written if they are to be.
    fn verified(&mut self, provider: PeerId, leaves: &[u64]) {
        let now = boot_now();
        let bytes = leaves.iter().map(|leaf| self.start.geometry.leaf_bytes(*leaf) as u64).sum();
        self.start.timeline.gave(now, provider, bytes, leaves.len() as u64);
        self.passing.add(leaves);
        self.passing.gave(provider, bytes);
        *self.tally.gave.entry(provider).or_default() += bytes;
        self.providers.gave(provider);
        self.note_bytes(bytes);
        for leaf in leaves {
            self.machine.handle_verified(now, provider, *leaf, Verdict::Good);
        }
    }

    fn ask_size(&mut self, provider: PeerId) {
        let Some(lease) = self.providers.lease(&provider) else { return self.judge_size(provider, None) };
        let (sender, blob) = (self.sender.clone(), self.start.blob);
        self.tasks.spawn(async move {
            let size = match lease.connection().request(&PeerRequest::Bitfield { blob, beyond: None }).await {
                Ok(PeerAnswer::Bitfield { size, .. }) => Some(size),
                _ => None,
            };
            let _ = sender.send(Event::Size { provider, size }).await;
        });
    }

    /// The provider of a bad only leaf has told its size, if it did.
    fn judge_size(&mut self, provider: PeerId, size: Option<u64>) {
        let now = boot_now();
        if size == Some(self.start.geometry.size()) {
            return self.machine.handle_verified(now, provider, 0, Verdict::Bad);
        }
        if let Some(size) = size {
            self.claims_other_size(provider, size);
        }
        self.machine.handle_verified(now, provider, 0, Verdict::Unknown);
        self.machine.handle_provider_of_no_use(now, provider);
    }

    fn note_bytes(&mut self, bytes: u64) {
        self.done_bytes += bytes;
        self.checkpoint.bytes += bytes;
        self.checkpoint.durable_bytes += bytes;
    }

    fn ended(&mut self, request: RequestId, provider: PeerId, end: RequestEnd) {
        self.requests.remove(&request);
        self.providers.request_over(request);
        let now = boot_now();
        match end {
            RequestEnd::Served | RequestEnd::OtherSize => {}
            RequestEnd::NotHeld => self.providers.not_held(provider),
            RequestEnd::Changed => self.providers.trouble(provider, CHANGED.into()),
            RequestEnd::Busy => self.providers.trouble(provider, "is busy".into()),
            RequestEnd::Failed => self.providers.trouble(provider, "broke off".into()),
        }
        // Before the end of the request: the others of a lost connection then end by themselves.
        if self.providers.lost(&provider, now) {
            self.machine.handle_provider_lost(now, provider);
        }
        self.machine.handle_end(now, request, end);
        // Of a connection that has ended that is noted, not each request that broke with it.
        let connected = self.providers.lease(&provider).is_some();
        if let Some(note) = noting::of_end(end).filter(|note| connected || *note != Note::BrokeOff) {
            self.note_of(provider, note);
        }
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
        let due = state.bytes >= CHECKPOINT_BYTES || now.since(state.last) >= CHECKPOINT_INTERVAL;
        if state.running || state.bytes == 0 || !due || self.finished {
            return;
        }
        let durable = state.durable_bytes >= DURABLE_BYTES || now.since(state.last_durable) >= DURABLE_INTERVAL;
        state.running = true;
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
