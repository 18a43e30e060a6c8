//! The store of one process: rows, bitmaps and postings in memory, pages on disk.
//!
//! Questions take the read lock of the memory and run to their end. A change is checked under it, made durable by the
//! writing thread, and then applied by that thread under the write lock, so the order in memory is the order on disk.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use haul_core::ids::{BlobId, PeerId, ShareId};
use haul_core::manifest::ShareState;
use haul_core::time::Moment;
use haul_core::wire::Label;
use haul_core::wire::index::{Hits, Listing, Located, LookupKeys};
use tokio::task::JoinHandle;

use super::disk::{Disk, SEGMENT_BYTES};
use super::load::{Waiting, load_first, load_rest, register};
use super::log::device::Device;
use super::memory::Memory;
use super::memory::shares::{SlotState, View};
use super::registration::Transaction;
use super::trigrams::SearchSettings;
use super::writer::Writer;
use super::{
    Asker, BrowseQuestion, Found, IndexStore, Opened, Owners, PeerTotals, SearchQuestion, ShareOffer, StoreError,
    StoreStats, TransactionId, VisibleTotals,
};
use super::{browse, locate, lookup, search};

/// What a test or an operator may set.
#[derive(Clone)]
pub struct StoreSettings {
    /// Bytes after which a file of the log is full.
    pub segment_bytes: u64,
    /// Names the boot of this machine.
    pub boot_id: [u8; 16],
    /// Reads the boot clock.
    pub now: Arc<dyn Fn() -> Moment + Send + Sync>,
    /// How the search index grows.
    pub search: SearchSettings,
    /// Bytes of pages that are read before the store opens; the rest follows in the background.
    pub load_at_once: u64,
}

/// About 70,000 entries: they take a tenth of a second, and an index of no more is never seen in part.
const LOAD_AT_ONCE: u64 = 4 * 1024 * 1024;

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES,
            boot_id: boot_id(),
            now: Arc::new(boot_now),
            search: SearchSettings::default(),
            load_at_once: LOAD_AT_ONCE,
        }
    }
}

impl fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreSettings").field("boot_id", &self.boot_id).finish_non_exhaustive()
    }
}

/// The clock that counts suspended time and never jumps.
fn boot_now() -> Moment {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Moment(time.tv_sec as u64 * 1_000 + time.tv_nsec as u64 / 1_000_000)
}

/// The kernel's name for this boot; zeros where there is none, and then no lease outlives a restart.
fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or_default().to_be_bytes()
}

/// What the writing thread shares with everybody who asks.
#[derive(Debug)]
pub(super) struct Shared {
    memory: RwLock<Memory>,
    /// The store is going away: background work ends.
    pub(super) closing: AtomicBool,
    /// Generations whose pages on disk nobody needs.
    pub(super) garbage: Mutex<Vec<u64>>,
    /// Who waits to read.
    waiting: AtomicUsize,
    /// Bytes of pages that are not in memory yet, and one more until the last list is complete.
    unloaded: AtomicU64,
    /// What that was at first.
    to_load: AtomicU64,
}

/// How often somebody with more to change lets the others go first between two steps. One that cannot run meanwhile must
/// not stop the change.
const YIELDS: usize = 8;

impl Shared {
    pub(super) fn new(memory: Memory) -> Self {
        Self {
            memory: RwLock::new(memory),
            closing: AtomicBool::new(false),
            garbage: Mutex::default(),
            waiting: AtomicUsize::new(0),
            unloaded: AtomicU64::new(0),
            to_load: AtomicU64::new(0),
        }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Memory> {
        match self.memory.try_read() {
            Ok(memory) => memory,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                self.waiting.fetch_add(1, Ordering::Relaxed);
                let memory = self.memory.read().unwrap_or_else(PoisonError::into_inner);
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                memory
            }
        }
    }

    /// Lets those who wait to read go first: between two steps of a long change, which would else take the lock again
    /// before they wake up.
    pub(super) fn make_way(&self) {
        for _ in 0..YIELDS {
            if self.waiting.load(Ordering::Relaxed) == 0 {
                return;
            }
            std::thread::yield_now();
        }
    }

    /// So many bytes of pages are left to load.
    pub(super) fn begin_loading(&self, bytes: u64) {
        let unloaded = if bytes == 0 { 0 } else { bytes + 1 };
        self.to_load.store(unloaded, Ordering::Relaxed);
        self.unloaded.store(unloaded, Ordering::Relaxed);
    }

    pub(super) fn note_loaded(&self, bytes: u64) {
        self.unloaded.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn end_loading(&self) {
        self.unloaded.store(0, Ordering::Release);
    }

    /// Share of what is on disk that is in memory, in thousandths; 1,000 only when all is.
    pub(super) fn coverage_permille(&self) -> u16 {
        match self.unloaded.load(Ordering::Acquire) {
            0 => 1_000,
            unloaded => {
                let total = self.to_load.load(Ordering::Relaxed).max(1);
                (1_000 - unloaded.saturating_mul(1_000) / total).min(999) as u16
            }
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An [`IndexStore`] in this process with its files in one directory.
#[derive(Debug)]
pub struct EmbeddedStore {
    pub(super) shared: Arc<Shared>,
    pub(super) writer: Writer,
    pub(super) disk: Arc<Disk>,
    pub(super) settings: StoreSettings,
    pub(super) transactions: Mutex<HashMap<TransactionId, Arc<Mutex<Transaction>>>>,
    next_transaction: AtomicU64,
    next_generation: AtomicU64,
    /// When peers were last noted on disk.
    pub(super) noted: Mutex<Option<Moment>>,
    /// End of the earliest lease that was taken over from before the start; [`u64::MAX`] if there is none.
    pub(super) restored_until: AtomicU64,
    /// The merge of search segments that runs.
    pub(super) merging: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    /// Reads lists from disk after the start.
    loader: Option<std::thread::JoinHandle<()>>,
}

impl EmbeddedStore {
    /// Opens or creates the store in `dir`. Peers and shares are known when it returns; what they share is read in the
    /// background if it is more than a little, and answers say meanwhile which part of it they cover. Blocks; a second
    /// process that opens the same directory gets an error.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(dir, StoreSettings::default())
    }

    /// As [`Self::open`], with settings.
    pub fn open_with(dir: &Path, settings: StoreSettings) -> Result<Self, StoreError> {
        let (mut store, waiting) = Self::open_unloaded(dir, settings)?;
        if !waiting.is_empty() {
            let (shared, disk) = (Arc::clone(&store.shared), Arc::clone(&store.disk));
            // Those who ask get a part until it has come to its end, so it takes turns with them and does not give way: a
            // busy core would leave it a tenth.
            let loader = std::thread::Builder::new()
                .name("haul-index-loader".into())
                .spawn(move || load_rest(&shared, &disk, waiting))
                .map_err(|error| StoreError::Storage(format!("cannot start the loading thread: {error}")))?;
            store.loader = Some(loader);
        }
        Ok(store)
    }

    /// As [`Self::open_with`], with what is left to load.
    pub(super) fn open_unloaded(dir: &Path, settings: StoreSettings) -> Result<(Self, Vec<Waiting>), StoreError> {
        let (disk, catalog) = Disk::open(dir, Device::default(), settings.segment_bytes)?;
        let disk = Arc::new(disk);
        let mut known = register(catalog, &settings.boot_id, (settings.now)())?;
        known.memory.names.trigrams.configure(settings.search);
        let shared = Arc::new(Shared::new(known.memory));
        let waiting = load_first(&shared, &disk, known.waiting, settings.load_at_once);
        let writer = Writer::start(Arc::clone(&disk))?;
        let store = Self {
            shared,
            writer,
            disk,
            settings,
            transactions: Mutex::default(),
            next_transaction: AtomicU64::new(1),
            next_generation: AtomicU64::new(known.next_generation),
            noted: Mutex::new(None),
            restored_until: AtomicU64::new(known.restored_until),
            merging: tokio::sync::Mutex::new(None),
            loader: None,
        };
        Ok((store, waiting))
    }

    /// Bytes of memory by what they are for, without the search index. For measurements and reports.
    pub fn memory_use(&self) -> Vec<(&'static str, usize)> {
        self.shared.read().bytes()
    }

    pub(super) fn new_transaction(&self) -> TransactionId {
        TransactionId(self.next_transaction.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn new_generation(&self) -> u64 {
        self.next_generation.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn now(&self) -> Moment {
        (self.settings.now)()
    }

    /// Somebody who asks.
    pub(super) fn asking<'a>(&'a self, asker: &'a Asker) -> Asking<'a> {
        self.expire_restored();
        let mut groups = Cow::Borrowed(asker.groups.as_slice());
        if !groups.is_sorted_by(|before, after| before < after) {
            let groups = groups.to_mut();
            groups.sort_unstable();
            groups.dedup();
        }
        Asking { shared: &self.shared, groups }
    }

    /// Runs a question on the memory as the asker sees it.
    fn ask<R>(&self, asker: &Asker, question: impl FnOnce(&Memory, &View) -> R) -> R {
        self.asking(asker).look(question)
    }
}

/// Somebody who asks: looks at the memory as a member of some groups may see it, as often as a question needs.
pub(super) struct Asking<'a> {
    shared: &'a Shared,
    /// Sorted.
    groups: Cow<'a, [Label]>,
}

impl Asking<'_> {
    /// Whether lists are still being loaded.
    pub(super) fn knows_a_part(&self) -> bool {
        self.shared.coverage_permille() < 1_000
    }

    /// Runs something while nobody changes the memory.
    pub(super) fn look<R>(&self, with: impl FnOnce(&Memory, &View) -> R) -> R {
        loop {
            let memory = self.shared.read();
            if let Some(view) = memory.shares.cached_view(&self.groups) {
                return with(&memory, &view);
            }
            drop(memory);
            self.shared.write().shares.make_view(self.groups.to_vec());
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        if let Some(loader) = self.loader.take()
            && loader.join().is_err()
        {
            tracing::error!("the index's loading thread has panicked");
        }
        let records = self.take_peer_notes();
        if !records.is_empty() {
            self.writer.offer(records);
        }
    }
}

impl IndexStore for EmbeddedStore {
    async fn connect(&self, peer: PeerId, name: Label) -> Result<(), StoreError> {
        self.connect_peer(peer, &name);
        Ok(())
    }

    async fn open(&self, peer: PeerId, share: ShareOffer) -> Result<Opened, StoreError> {
        self.open_share(peer, share).await
    }

    async fn begin(&self, peer: PeerId, share: ShareId, base: Option<ShareState>) -> Result<TransactionId, StoreError> {
        self.begin_transaction(peer, share, base)
    }

    async fn stage(&self, tx: TransactionId, page: Bytes) -> Result<(), StoreError> {
        self.stage_page(tx, page).await
    }

    async fn commit(&self, tx: TransactionId, state: ShareState, changes: u64) -> Result<ShareState, StoreError> {
        self.commit_transaction(tx, state, changes).await
    }

    async fn abort(&self, tx: TransactionId) {
        self.drop_transactions(|id, _| id == tx);
    }

    async fn close(&self, peer: PeerId, share: ShareId, forget: bool) -> Result<(), StoreError> {
        self.close_share(peer, share)?;
        if forget { self.forget_share(peer, share).await } else { self.note_peer(peer).await }
    }

    async fn heartbeat(&self, peer: PeerId, lease_end: Moment) -> Result<(), StoreError> {
        self.note_lease(peer, lease_end)
    }

    async fn leave(&self, peer: PeerId) -> Result<(), StoreError> {
        self.hide_peer(peer)?;
        self.note_peer(peer).await
    }

    async fn forget(&self, peer: PeerId) -> Result<(), StoreError> {
        self.hide_peer(peer)?;
        let shares: Vec<ShareId> =
            self.shared.read().shares.peer(&peer).map(|peer| peer.shares.keys().copied().collect()).unwrap_or_default();
        for share in shares {
            self.forget_share(peer, share).await?;
        }
        self.drop_peer_note(peer).await
    }

    async fn lookup(&self, asker: &Asker, keys: &LookupKeys, max: usize, away: bool) -> Result<Found, StoreError> {
        // Before the question: what is loaded meanwhile may have been missed.
        let coverage_permille = self.shared.coverage_permille();
        let found = self.ask(asker, |memory, view| lookup::lookup(memory, view, keys, max, away));
        Ok(Found { coverage_permille, ..found })
    }

    async fn locate(&self, asker: &Asker, blobs: &[BlobId], max: usize, away: bool) -> Result<Located, StoreError> {
        let coverage_permille = self.shared.coverage_permille();
        let located = self.ask(asker, |memory, view| locate::locate(memory, view, blobs, max, away));
        Ok(Located { coverage_permille, ..located })
    }

    async fn owners(&self, asker: &Asker, blob: BlobId, size: u64, away: bool) -> Result<Owners, StoreError> {
        Ok(self.ask(asker, |memory, view| locate::owners(memory, view, blob, size, away)))
    }

    fn peer_ids(&self, numbers: &[u32]) -> Vec<Option<PeerId>> {
        let memory = self.shared.read();
        numbers.iter().map(|number| memory.shares.peers.get(*number as usize).map(|peer| peer.id)).collect()
    }

    async fn search(&self, asker: &Asker, question: SearchQuestion<'_>) -> Result<Hits, StoreError> {
        let start = Instant::now();
        let coverage_permille = self.shared.coverage_permille();
        let mut hits = search::search(&self.asking(asker), &question)?;
        hits.coverage_permille = coverage_permille;
        hits.index_us = start.elapsed().as_micros() as u64;
        Ok(hits)
    }

    async fn browse(&self, asker: &Asker, question: BrowseQuestion<'_>) -> Result<Listing, StoreError> {
        self.ask(asker, |memory, view| browse::browse(memory, view, &question))
    }

    async fn totals(&self, asker: &Asker, peer: PeerId) -> PeerTotals {
        self.ask(asker, |memory, view| {
            let slots = memory.shares.find(&peer).map(|peer| memory.shares.slots_of(peer)).unwrap_or_default();
            slots.into_iter().filter(|slot| view.shown.get(*slot)).fold(PeerTotals::default(), |totals, slot| {
                let slot = memory.shares.slot(slot);
                PeerTotals { files: totals.files + slot.files, bytes: totals.bytes.saturating_add(slot.bytes) }
            })
        })
    }

    async fn visible(&self, asker: &Asker) -> VisibleTotals {
        self.ask(asker, |memory, view| {
            let mut totals = VisibleTotals { blobs: Some(memory.contents.hashed), ..VisibleTotals::default() };
            for (slot, record) in (0..).zip(&memory.shares.slots) {
                if view.allowed.get(slot) {
                    totals.shares += 1;
                    totals.files += record.files;
                    totals.bytes = totals.bytes.saturating_add(record.bytes);
                } else if record.state == SlotState::Live {
                    totals.blobs = None;
                }
            }
            totals
        })
    }

    async fn maintain(&self, budget: Duration) -> Result<bool, StoreError> {
        self.maintain_for(budget).await
    }

    fn answers_at_once(&self) -> bool {
        true
    }

    fn visibility(&self) -> Duration {
        Duration::ZERO
    }

    fn stats(&self) -> StoreStats {
        // Whoever writes may hold up who asks the disk.
        let disk_bytes = self.disk.bytes();
        let memory = self.shared.read();
        let mut stats = StoreStats {
            blobs: memory.contents.hashed,
            names: u64::from(memory.names.live_docs),
            disk_bytes,
            loaded_permille: self.shared.coverage_permille(),
            search_bytes: memory.names.trigrams.bytes() as u64,
            ..StoreStats::default()
        };
        let held = memory.shares.peers.iter().flat_map(|peer| peer.shares.values()).filter_map(|share| share.held);
        for slot in held.map(|held| memory.shares.slot(held.slot)) {
            stats.shares += 1;
            stats.files += slot.files;
            stats.bytes = stats.bytes.saturating_add(slot.bytes);
        }
        stats
    }
}
