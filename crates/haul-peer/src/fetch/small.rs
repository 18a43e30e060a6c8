//! The small files of a directory: fetched in batches over all providers, several batches in flight, written as they
//! come. No file costs a round trip of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use haul_core::ids::{BlobId, PeerId};
use haul_core::limits::{LEAF_BYTES, SMALL_LEAVES};
use haul_core::wire::index::PeerCard;
use haul_core::wire::peer::{PeerAnswer, PeerRequest, QUEUE_NEWS};
use haul_core::wire::{List, decode};
use haul_net::clock::boot_now;
use haul_net::connection::StreamItem;
use tokio::task::JoinSet;

use super::blob::blocking;
use super::held::quantum;
use super::listing::WantedFile;
use super::pool::Lease;
use super::requests::{at_most_a_leaf, queue_news};
use super::{DirectoryRequest, Downloader, FetchError, noting};
use crate::bandwidth::{Bandwidth, Route};
use crate::files::{FileTraits, Tree};
use crate::timeline::{How, Lie, Note, Timeline};

/// Blobs in one request: enough to hide a round trip of 50 ms at 5,000 files per second.
const BATCH: usize = 256;
/// Bytes in one request, and the last file more: with several providers all end at about the same time.
const BATCH_BYTES: u64 = 16 * 1024 * 1024;
/// Requests in flight with one provider.
const IN_FLIGHT: usize = 3;
/// Files that are verified and written together on a worker thread …
const WRITE: usize = 128;
/// … or bytes of them.
const WRITE_BYTES: u64 = 1024 * 1024;

/// Until a provider whose queue is full is asked again.
const BUSY_AGAIN: Duration = Duration::from_secs(2);

/// Files with the same content, fetched once.
pub(super) type Group = Vec<WantedFile>;

/// What is shared between the requests.
pub(super) struct Work {
    queue: Mutex<VecDeque<(BlobId, Group)>>,
    /// What no batch brought: fetched one by one afterwards.
    left: Mutex<Vec<Group>>,
    gave: Mutex<BTreeMap<PeerId, u64>>,
    banned: Mutex<BTreeMap<PeerId, String>>,
    done: Arc<Counters>,
    timeline: Timeline,
    bandwidth: Arc<Bandwidth>,
    route: Route,
}

impl Work {
    /// Bytes that the next request may ask for.
    async fn allowance(&self) -> u64 {
        let down = &self.bandwidth.down;
        if down.is_limited() { down.take(&self.route, quantum(down, &self.route)).await } else { u64::MAX }
    }

    /// Waits until the limits let so many bytes more come.
    async fn wait_for(&self, bytes: u64) {
        let mut taken = 0;
        while taken < bytes && self.bandwidth.down.is_limited() {
            taken += self.bandwidth.down.take(&self.route, bytes - taken).await;
        }
    }
}

/// What is complete so far.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) files: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// Bytes of small files that were written, and nothing was done to make durable.
    pub(super) written: AtomicU64,
    /// The place of the last request that said it waits for an upload slot; 0 once something came.
    pub(super) queued: AtomicU32,
}

/// What came of it.
pub(super) struct SmallDone {
    pub(super) left: Vec<Group>,
    pub(super) gave: BTreeMap<PeerId, u64>,
    pub(super) banned: BTreeMap<PeerId, String>,
}

/// Fetches these files from these providers into the tree; what others lack is asked of the first one, which listed it.
pub(super) async fn fetch(
    downloader: &Downloader,
    files: Vec<WantedFile>,
    providers: Vec<PeerCard>,
    tree: &Tree,
    done: Arc<Counters>,
    timeline: Timeline,
) -> Result<SmallDone, FetchError> {
    let work = Arc::new(Work {
        queue: Mutex::new(group(files)),
        left: Mutex::default(),
        gave: Mutex::default(),
        banned: Mutex::default(),
        done,
        timeline,
        bandwidth: Arc::clone(&downloader.bandwidth),
        route: downloader.route.clone(),
    });
    let listed_by = providers.first().cloned();
    let others = providers.len() > 1;
    run_round(&work, downloader, providers, tree).await?;
    let missing = std::mem::take(&mut *lock(&work.left));
    if others && !missing.is_empty() {
        let again = missing.into_iter().filter_map(|group| Some((group.first()?.blob, group)));
        lock(&work.queue).extend(again);
        run_round(&work, downloader, listed_by.into_iter().collect(), tree).await?;
    }
    let mut left = std::mem::take(&mut *lock(&work.left));
    left.extend(lock(&work.queue).drain(..).map(|(_, group)| group));
    let (gave, banned) = (std::mem::take(&mut *lock(&work.gave)), std::mem::take(&mut *lock(&work.banned)));
    Ok(SmallDone { left, gave, banned })
}

/// Files with the same content together, in the order of paths that they come in: providers and this side touch their disks in
/// order.
fn group(files: Vec<WantedFile>) -> VecDeque<(BlobId, Group)> {
    let mut places = HashMap::with_capacity(files.len());
    let mut groups: VecDeque<(BlobId, Group)> = VecDeque::with_capacity(files.len());
    for file in files {
        let place = *places.entry(file.blob).or_insert(groups.len());
        match groups.get_mut(place) {
            Some((_, group)) => group.push(file),
            None => groups.push_back((file.blob, vec![file])),
        }
    }
    groups
}

/// Works on the queue with these providers until it is empty, or none of them can go on.
async fn run_round(
    work: &Arc<Work>,
    downloader: &Downloader,
    providers: Vec<PeerCard>,
    tree: &Tree,
) -> Result<(), FetchError> {
    let mut tasks = JoinSet::new();
    for card in providers {
        for _ in 0..IN_FLIGHT {
            let (work, pool, card) = (Arc::clone(work), Arc::clone(&downloader.pool), card.clone());
            let tree = tree.handle();
            tasks.spawn(async move {
                // A provider that cannot be reached leaves its part to the others.
                let lease = pool.connect(&card).await;
                let note = lease.as_ref().map_or_else(noting::of_call, |_| Note::Joined);
                work.timeline.note_of(boot_now(), card.id, note);
                let Ok(lease) = lease else { return Ok(()) };
                serve_queue(&work, &lease, card.id, tree).await
            });
        }
    }
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(result) => result?,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return Err(FetchError::Cancelled),
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes batches until the queue is empty or the provider fails.
async fn serve_queue(work: &Arc<Work>, lease: &Lease, peer: PeerId, tree: Tree) -> Result<(), FetchError> {
    let mut tree = Some(tree);
    loop {
        let allowed = work.allowance().await;
        let mut batch: BTreeMap<u64, (BlobId, Group)> = {
            let mut queue = lock(&work.queue);
            let count = next_batch(&queue, allowed);
            (0..).zip(queue.drain(..count)).collect()
        };
        let bytes: u64 = batch.values().map(|(_, group)| size_of(group)).sum();
        work.wait_for(bytes.saturating_sub(allowed)).await;
        if batch.is_empty() || lock(&work.banned).contains_key(&peer) {
            lock(&work.queue).extend(batch.into_values());
            return Ok(());
        }
        let complete = fetch_batch(work, lease, peer, &mut batch, &mut tree).await?;
        if complete {
            // What it does not have is asked of others, one by one.
            lock(&work.left).extend(batch.into_values().map(|(_, group)| group));
        } else {
            lock(&work.queue).extend(batch.into_values());
            return Ok(());
        }
    }
}

/// How many from the front of the queue to ask for at once.
fn next_batch(queue: &VecDeque<(BlobId, Group)>, allowed: u64) -> usize {
    let before =
        queue.iter().take(BATCH).scan(0, |sum, (_, group)| Some(std::mem::replace(sum, *sum + size_of(group))));
    before.take_while(|before| *before < BATCH_BYTES.min(allowed)).count()
}

fn size_of(group: &Group) -> u64 {
    group.first().map_or(0, |file| file.size)
}

/// The blob whose leaves are coming.
#[derive(Default)]
struct Arriving {
    place: u64,
    leaves: u64,
    bytes: BytesMut,
}

impl Arriving {
    /// Adds a leaf. The blob, if this was its last one; what does not follow what came before begins another.
    fn add(&mut self, index: u64, bytes: Bytes, size: impl Fn(u64) -> Option<u64>) -> Option<(u64, Bytes)> {
        let (place, leaf) = (index / SMALL_LEAVES, index % SMALL_LEAVES);
        let size = size(place)?;
        let bytes = at_most_a_leaf(bytes);
        if leaf == 0 && size <= LEAF_BYTES {
            return Some((place, bytes));
        }
        if leaf == 0 {
            *self =
                Self { place, leaves: 0, bytes: BytesMut::with_capacity(size.min(SMALL_LEAVES * LEAF_BYTES) as usize) };
        }
        if (self.place, self.leaves) != (place, leaf) {
            return None;
        }
        self.leaves += 1;
        self.bytes.extend_from_slice(&bytes);
        (self.leaves == size.div_ceil(LEAF_BYTES)).then(|| (place, std::mem::take(&mut self.bytes).freeze()))
    }
}

/// One request; what came is taken out of the batch. False if the provider failed or lied.
async fn fetch_batch(
    work: &Arc<Work>,
    lease: &Lease,
    peer: PeerId,
    batch: &mut BTreeMap<u64, (BlobId, Group)>,
    tree: &mut Option<Tree>,
) -> Result<bool, FetchError> {
    let blobs = batch.values().map(|(blob, _)| *blob).collect();
    let Ok(mut stream) = lease.connection().open_stream(&PeerRequest::Blobs { blobs: List::new(blobs) }).await else {
        return Ok(false);
    };
    let mut arrived: Vec<(BlobId, Group, Bytes)> = Vec::new();
    let (mut arriving, mut waiting) = (Arriving::default(), 0);
    loop {
        let has_room = arrived.len() < WRITE && waiting < WRITE_BYTES;
        let ready = if has_room { stream.next().now_or_never() } else { None };
        let item = if let Some(item) = ready {
            item
        } else {
            if !write(work, peer, std::mem::take(&mut arrived), tree, batch).await? {
                return Ok(false);
            }
            waiting = 0;
            stream.next().await
        };
        let complete = match item {
            Ok(StreamItem::Data { index: QUEUE_NEWS, bytes }) => {
                work.done.queued.store(queue_news(&bytes).unwrap_or_default(), Ordering::Relaxed);
                continue;
            }
            Ok(StreamItem::Data { index, bytes }) => {
                work.done.queued.store(0, Ordering::Relaxed);
                // What was not asked for, or comes twice, is dropped.
                let size = |place| batch.get(&place)?.1.first().map(|file| file.size);
                if let Some((place, bytes)) = arriving.add(index, bytes, size)
                    && let Some((blob, group)) = batch.remove(&place)
                {
                    waiting += bytes.len() as u64;
                    arrived.push((blob, group, bytes));
                }
                continue;
            }
            Ok(StreamItem::End(message)) => {
                if matches!(decode(&message), Ok(PeerAnswer::Queued { .. })) {
                    // Its queue is full: the same is asked again a little later.
                    tokio::time::sleep(BUSY_AGAIN).await;
                    lock(&work.queue).extend(std::mem::take(batch).into_values());
                }
                true
            }
            Err(_) => false,
        };
        return Ok(write(work, peer, arrived, tree, batch).await? && complete);
    }
}

/// Verifies and writes on a worker thread. False if something was wrong: its sender is banned, and what it sent goes
/// back into the batch.
async fn write(
    work: &Arc<Work>,
    peer: PeerId,
    arrived: Vec<(BlobId, Group, Bytes)>,
    tree: &mut Option<Tree>,
    batch: &mut BTreeMap<u64, (BlobId, Group)>,
) -> Result<bool, FetchError> {
    if arrived.is_empty() {
        return Ok(true);
    }
    let mut handle = tree.take().expect("one write at a time");
    let counters = Arc::clone(&work.done);
    let (handle, result) = blocking(move || {
        let result = write_now(&mut handle, arrived, &counters);
        (handle, result)
    })
    .await?;
    *tree = Some(handle);
    let Written { bytes, files, wasted, wrong } = result?;
    work.timeline.gave(boot_now(), peer, bytes, files);
    work.timeline.wasted(peer, wasted);
    *lock(&work.gave).entry(peer).or_default() += bytes;
    let honest = wrong.is_empty();
    if !honest {
        lock(&work.banned).insert(peer, "sent wrong bytes for a small file".into());
        let file = wrong.first().and_then(|(_, group)| Some(group.first()?.path.display()));
        let timeline = file.map_or_else(|| work.timeline.clone(), |file| work.timeline.of_file(&file));
        timeline.note_of(boot_now(), peer, Note::Banned { lie: Lie::SmallFile });
    }
    // Numbers above those of the request cannot meet them.
    batch.extend((u64::MAX / 2..).zip(wrong));
    Ok(honest)
}

/// What became of files that arrived.
#[derive(Default)]
struct Written {
    /// Bytes and number of those that verified, each content once.
    bytes: u64,
    files: u64,
    /// Bytes of those that did not.
    wasted: u64,
    wrong: Vec<(BlobId, Group)>,
}

fn write_now(
    tree: &mut Tree,
    arrived: Vec<(BlobId, Group, Bytes)>,
    counters: &Counters,
) -> Result<Written, FetchError> {
    let mut written = Written::default();
    for (blob, group, bytes) in arrived {
        if *blake3::hash(&bytes).as_bytes() != *blob.as_bytes() {
            written.wasted += bytes.len() as u64;
            written.wrong.push((blob, group));
            continue;
        }
        written.bytes += bytes.len() as u64;
        written.files += 1;
        for file in &group {
            let traits = FileTraits { executable: file.executable, mtime_ns: Some(file.mtime_ns) };
            tree.create_file(&file.path, &bytes, traits)?;
            counters.files.fetch_add(1, Ordering::Relaxed);
            counters.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            counters.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
    }
    Ok(written)
}

/// Providers to spread small files over: the peer itself, and those that hold the first few blobs too.
pub(super) async fn providers_for(
    downloader: &Downloader,
    request: &DirectoryRequest,
    files: &[WantedFile],
) -> Vec<PeerCard> {
    let peer = &request.peer;
    let mut cards = vec![peer.clone()];
    let mut seen = BTreeSet::from([peer.id]);
    if request.only_this || files.len() < BATCH {
        return cards;
    }
    for file in files.iter().step_by((files.len() / SAMPLES).max(1)).take(SAMPLES) {
        let Ok(found) = downloader.finder.find(file.blob).await else { break };
        cards.extend(found.providers.into_iter().filter(|card| seen.insert(card.id)));
    }
    cards.truncate(PROVIDERS);
    for card in cards.iter().skip(1) {
        request.timeline.note_of(boot_now(), card.id, Note::Found { how: How::Index });
    }
    cards
}

/// Blobs that are looked up to find further providers.
const SAMPLES: usize = 4;
/// Providers that small files are spread over.
const PROVIDERS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_of_small_files_are_joined_in_their_order_only() {
        let leaf = |byte: u8, bytes: u64| Bytes::from(vec![byte; bytes as usize]);
        let sizes = BTreeMap::from([(0, 9), (1, 2 * LEAF_BYTES + 1), (2, 0), (3, LEAF_BYTES + 5)]);
        let size = |place: u64| sizes.get(&place).copied();
        let mut arriving = Arriving::default();
        let mut add = |place: u64, number: u64, bytes| arriving.add(place * SMALL_LEAVES + number, bytes, size);
        assert_eq!(add(0, 0, leaf(1, 9)), Some((0, leaf(1, 9))));
        assert_eq!(add(1, 0, leaf(2, LEAF_BYTES)), None);
        assert_eq!(add(1, 1, leaf(2, LEAF_BYTES)), None);
        assert_eq!(add(1, 2, leaf(2, 1)), Some((1, leaf(2, 2 * LEAF_BYTES + 1))));
        assert_eq!(add(2, 0, Bytes::new()), Some((2, Bytes::new())));
        // Without its first leaf, out of order, of nobody's, or longer than a leaf.
        assert_eq!(add(3, 1, leaf(3, 5)), None);
        assert_eq!(add(3, 0, leaf(3, LEAF_BYTES)), None);
        assert_eq!(add(1, 2, leaf(2, 1)), None);
        assert_eq!(add(4, 0, leaf(3, 5)), None);
        assert_eq!(
            add(3, 1, leaf(3, LEAF_BYTES + 1)),
            Some((3, leaf(3, LEAF_BYTES))),
            "cut short, so it will not verify"
        );
    }
}
