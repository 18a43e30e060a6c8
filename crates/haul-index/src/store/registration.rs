//! Transactions: changes are staged, checked against the digest, made durable, and then visible, all or none.
//!
//! An amendment stages its pages here; they reach disk with the share's record in one transaction of the database. A
//! replacement fills a slot that nobody sees and a generation that no record names, so it may be of any size; its
//! commit switches both.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use haul_core::ids::{PeerId, ShareId};
use haul_core::limits;
use haul_core::manifest::{Change, Page, RegistrationDigest, ShareState};
use tokio::sync::OwnedMutexGuard;

use super::disk::{ShareRecord, Write};
use super::embedded::{EmbeddedStore, Shared, lock};
use super::load::load_share;
use super::memory::amendment::Amendment;
use super::memory::shares::{Held, Share, Slot, SlotState};
use super::memory::{Finder, Memory, NONE};
use super::presence::is_here;
use super::upkeep::is_worn;
use super::{StoreError, TransactionId, background};

/// Bytes of a replacement's pages that wait in memory before they go to disk.
const FLUSH_BYTES: usize = 1024 * 1024;

#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) peer: PeerId,
    pub(super) share: ShareId,
    changes: u64,
    bytes: u64,
    kind: Kind,
    /// Committed or dropped; a page that still arrives is refused.
    ended: bool,
}

#[derive(Debug)]
enum Kind {
    Amend {
        base: ShareState,
        pages: Vec<Bytes>,
        keys: HashSet<u64>,
    },
    Replace(Filling),
    /// A page of a replacement is being added; whoever does that has the rest.
    Busy,
}

/// What waits for a page of the same transaction that is being added may come again then.
const BUSY: Duration = Duration::from_millis(10);

/// Changes that are made under one lock: some tens of microseconds.
pub(super) const STEP: usize = 64;

#[derive(Debug)]
struct Filling {
    slot: u32,
    generation: u64,
    next_seq: u64,
    waiting: Vec<(u64, Bytes)>,
    waiting_bytes: usize,
    digest: RegistrationDigest,
    /// A write of its pages failed.
    failed: Arc<AtomicBool>,
}

impl Filling {
    fn take_pages(&mut self) -> Write {
        self.waiting_bytes = 0;
        Write::Pages { generation: self.generation, pages: std::mem::take(&mut self.waiting) }
    }
}

impl Transaction {
    /// Stages a page of an amendment, or hands out what a page of a replacement is added to.
    fn stage(&mut self, checked: &Page<'_>, page: &Bytes) -> Result<Option<Filling>, StoreError> {
        let Kind::Amend { pages, keys, .. } = &mut self.kind else {
            return match std::mem::replace(&mut self.kind, Kind::Busy) {
                Kind::Replace(filling) => Ok(Some(filling)),
                _ => Err(StoreError::Busy { retry_after: BUSY }),
            };
        };
        let count = self.changes + checked.len() as u64;
        if count > limits::AMEND_ENTRIES as u64 {
            return Err(StoreError::TooMuch(
                "an amendment has at most 50,000 entries: commit and begin another".into(),
            ));
        }
        // A refused page leaves nothing behind.
        if checked.changes().any(|change| keys.contains(&key_hash(&change))) {
            return Err(twice());
        }
        keys.extend(checked.changes().map(|change| key_hash(&change)));
        pages.push(page.clone());
        self.changes = count;
        self.bytes += page.len() as u64;
        Ok(None)
    }
}

impl EmbeddedStore {
    pub(super) fn begin_transaction(
        &self,
        peer: PeerId,
        share: ShareId,
        base: Option<ShareState>,
    ) -> Result<TransactionId, StoreError> {
        self.drop_transactions(|_, transaction| transaction.peer == peer && transaction.share == share);
        let mut memory = self.shared.write();
        let record = open_share(&memory, peer, share)?;
        let kind = match base {
            Some(base) if record.held.is_some_and(|held| held.state == base) => {
                Kind::Amend { base, pages: Vec::new(), keys: HashSet::new() }
            }
            Some(_) => return Err(StoreError::StateMismatch),
            None => {
                let slot = Slot {
                    state: SlotState::Filling,
                    peer: memory.shares.find(&peer).ok_or(StoreError::NotOpen)?,
                    name: record.name.clone(),
                    groups: record.groups.clone(),
                    open: false,
                    root: NONE,
                    files: 0,
                    bytes: 0,
                };
                Kind::Replace(Filling {
                    slot: memory.take_slot(slot)?,
                    generation: self.new_generation(),
                    next_seq: 0,
                    waiting: Vec::new(),
                    waiting_bytes: 0,
                    digest: RegistrationDigest::default(),
                    failed: Arc::default(),
                })
            }
        };
        let id = self.new_transaction();
        let transaction = Transaction { peer, share, changes: 0, bytes: 0, kind, ended: false };
        lock(&self.transactions).insert(id, Arc::new(Mutex::new(transaction)));
        Ok(id)
    }

    pub(super) async fn stage_page(&self, id: TransactionId, page: Bytes) -> Result<(), StoreError> {
        let checked = Page::check(&page).map_err(|error| StoreError::BadPage(error.to_string()))?;
        let transaction = lock(&self.transactions).get(&id).cloned().ok_or(StoreError::NotOpen)?;
        let turn = self.writer.turn().await?;
        let filling = {
            let mut transaction = lock(&transaction);
            if transaction.ended {
                return Err(StoreError::NotOpen);
            }
            transaction.stage(&checked, &page)?
        };
        let Some(filling) = filling else { return Ok(()) };
        // Whatever happens meanwhile, the slot must not stay.
        let mut guard = DiscardGuard { store: self, filling: Some(filling) };
        let filled = self.fill(&mut guard, &checked).await;
        let mut transaction = lock(&transaction);
        if transaction.ended {
            return Err(StoreError::NotOpen);
        }
        let mut filling = guard.filling.take().ok_or(StoreError::NotOpen)?;
        if filled.is_ok() {
            transaction.changes += checked.len() as u64;
            transaction.bytes += page.len() as u64;
            filling.waiting.push((filling.next_seq, page.clone()));
            filling.next_seq += 1;
            filling.waiting_bytes += page.len();
            if filling.waiting_bytes >= FLUSH_BYTES {
                let failed = Arc::clone(&filling.failed);
                turn.send(vec![filling.take_pages()], move |result| {
                    failed.fetch_or(result.is_err(), Ordering::Relaxed);
                });
            }
        }
        transaction.kind = Kind::Replace(filling);
        filled
    }

    /// Adds a page to an unseen slot, step by step. A page that is refused for what is on it has added nothing.
    async fn fill(&self, guard: &mut DiscardGuard<'_>, page: &Page<'_>) -> Result<(), StoreError> {
        let filling = guard.filling.as_mut().ok_or(StoreError::NotOpen)?;
        refuse_doubles(&self.shared.read(), filling.slot, page)?;
        let mut changes = page.changes();
        loop {
            let step: Vec<Change<'_>> = changes.by_ref().take(STEP).collect();
            if step.is_empty() {
                return Ok(());
            }
            self.shared.read().read_ahead(&step);
            let added = add(&mut self.shared.write(), filling, &step);
            if added.is_err() {
                // A part of the page is there.
                filling.failed.store(true, Ordering::Relaxed);
                return added;
            }
            self.shared.make_way();
            tokio::task::yield_now().await;
        }
    }

    pub(super) async fn commit_transaction(
        &self,
        id: TransactionId,
        state: ShareState,
        changes: u64,
    ) -> Result<ShareState, StoreError> {
        let ended = {
            let transaction = lock(&self.transactions).remove(&id).ok_or(StoreError::NotOpen)?;
            let mut transaction = lock(&transaction);
            transaction.ended = true;
            let nothing = Kind::Amend { base: ShareState::default(), pages: Vec::new(), keys: HashSet::new() };
            Ended {
                peer: transaction.peer,
                share: transaction.share,
                changes: transaction.changes,
                bytes: transaction.bytes,
                kind: std::mem::replace(&mut transaction.kind, nothing),
            }
        };
        if ended.changes != changes {
            self.discard(ended.kind);
            return Err(StoreError::StateMismatch);
        }
        match ended.kind {
            Kind::Amend { base, pages, .. } => {
                self.commit_amendment(ended.peer, ended.share, base, state, pages, ended.bytes).await
            }
            Kind::Busy => Err(StoreError::NotOpen),
            Kind::Replace(filling) => {
                // Whatever goes wrong, and if the asker goes away meanwhile: the slot and its pages must not stay.
                let mut guard = DiscardGuard { store: self, filling: Some(filling) };
                self.commit_replacement(ended.peer, ended.share, state, &mut guard, ended.bytes).await
            }
        }
    }

    async fn commit_amendment(
        &self,
        peer: PeerId,
        share: ShareId,
        base: ShareState,
        state: ShareState,
        pages: Vec<Bytes>,
        bytes: u64,
    ) -> Result<ShareState, StoreError> {
        let changing = Arc::clone(&open_share(&self.shared.read(), peer, share)?.changing);
        let changing = self.loaded(peer, share, changing.lock_owned().await).await?;
        let held = open_share(&self.shared.read(), peer, share)?.held;
        let held = held.filter(|held| held.state == base).ok_or(StoreError::StateMismatch)?;
        if self.digest_after(&held, &pages).await != state.digest {
            return Err(StoreError::StateMismatch);
        }
        let turn = self.writer.turn().await?;
        let shared = Arc::clone(&self.shared);
        let applied = {
            let memory = self.shared.read();
            let record = open_share(&memory, peer, share)?;
            let after = Held {
                state,
                next_seq: held.next_seq + pages.len() as u64,
                amended_bytes: held.amended_bytes + bytes,
                ..held
            };
            let numbered = (held.next_seq..).zip(pages.iter().cloned()).collect();
            let writes = vec![
                Write::Pages { generation: held.generation, pages: numbered },
                Write::PutShare { peer, share, record: record_of(record, &after) },
            ];
            turn.write(writes, move || {
                let result = apply(&shared, peer, share, &pages, after);
                drop(changing);
                result
            })
        };
        applied.await??;
        Ok(state)
    }

    /// The digest that a held list would have after these pages. The caller holds the share's `changing`.
    async fn digest_after(&self, held: &Held, pages: &[Bytes]) -> RegistrationDigest {
        let mut digest = held.state.digest;
        let mut changes = changes(pages).peekable();
        while changes.peek().is_some() {
            {
                let memory = self.shared.read();
                let mut finder = Finder::default();
                for change in changes.by_ref().take(STEP) {
                    finder.subtract(&memory, held.slot, change.key(), &mut digest);
                    if let Change::Upsert(entry) = change {
                        digest.add(&entry);
                    }
                }
            }
            tokio::task::yield_now().await;
        }
        digest
    }

    /// Loads a list before its turn if it is not in memory yet.
    async fn loaded(
        &self,
        peer: PeerId,
        share: ShareId,
        changing: OwnedMutexGuard<()>,
    ) -> Result<OwnedMutexGuard<()>, StoreError> {
        if open_share(&self.shared.read(), peer, share)?.loaded {
            return Ok(changing);
        }
        let (shared, disk) = (Arc::clone(&self.shared), Arc::clone(&self.disk));
        // The lock goes along: loading goes on even if the asker has gone.
        let load = move || {
            load_share(&shared, &disk, peer, share, |_| ());
            changing
        };
        let loading = tokio::task::spawn_blocking(load).await;
        loading.map_err(|error| StoreError::Storage(format!("loading a share has stopped: {error}")))
    }

    async fn commit_replacement(
        &self,
        peer: PeerId,
        share: ShareId,
        state: ShareState,
        guard: &mut DiscardGuard<'_>,
        bytes: u64,
    ) -> Result<ShareState, StoreError> {
        let changing = Arc::clone(&open_share(&self.shared.read(), peer, share)?.changing);
        let changing = changing.lock_owned().await;
        let turn = self.writer.turn().await?;
        let switched = {
            let memory = self.shared.read();
            let record = open_share(&memory, peer, share)?;
            let filling = guard.filling.as_ref().ok_or(StoreError::NotOpen)?;
            if filling.digest != state.digest {
                return Err(StoreError::StateMismatch);
            }
            if filling.failed.load(Ordering::Relaxed) {
                return Err(StoreError::Storage("pages of this transaction could not be written: begin again".into()));
            }
            let mut filling = guard.filling.take().ok_or(StoreError::NotOpen)?;
            let after = Held {
                slot: filling.slot,
                state,
                generation: filling.generation,
                next_seq: filling.next_seq,
                base_bytes: bytes,
                amended_bytes: 0,
            };
            let mut writes =
                vec![filling.take_pages(), Write::PutShare { peer, share, record: record_of(record, &after) }];
            writes.extend(record.held.map(|held| Write::DropGeneration(held.generation)));
            let shared = Arc::clone(&self.shared);
            let failed = filling.failed;
            let (answer, end) = tokio::sync::oneshot::channel();
            turn.send_unless(failed, writes, move |result| {
                let mut memory = shared.write();
                let result = match result {
                    Ok(()) => switch(&mut memory, peer, share, after),
                    Err(error) => {
                        memory.shares.doom(after.slot);
                        lock(&shared.garbage).push(after.generation);
                        Err(error)
                    }
                };
                drop((memory, changing));
                // Nobody listens any more if the asker has gone.
                let _ = answer.send(result);
            });
            end
        };
        switched.await.unwrap_or_else(|_| Err(StoreError::Storage("the writing thread has stopped".into())))?;
        Ok(state)
    }

    /// Drops open transactions and what they staged.
    pub(super) fn drop_transactions(&self, which: impl Fn(TransactionId, &Transaction) -> bool) {
        let open: Vec<_> = lock(&self.transactions).iter().map(|(id, open)| (*id, Arc::clone(open))).collect();
        for (id, transaction) in open {
            let mut transaction = lock(&transaction);
            if transaction.ended || !which(id, &transaction) {
                continue;
            }
            transaction.ended = true;
            lock(&self.transactions).remove(&id);
            let nothing = Kind::Amend { base: ShareState::default(), pages: Vec::new(), keys: HashSet::new() };
            self.discard(std::mem::replace(&mut transaction.kind, nothing));
        }
    }

    fn discard(&self, kind: Kind) {
        if let Kind::Replace(filling) = kind {
            self.shared.write().shares.doom(filling.slot);
            lock(&self.shared.garbage).push(filling.generation);
        }
    }
}

struct Ended {
    peer: PeerId,
    share: ShareId,
    changes: u64,
    bytes: u64,
    kind: Kind,
}

struct DiscardGuard<'a> {
    store: &'a EmbeddedStore,
    filling: Option<Filling>,
}

impl Drop for DiscardGuard<'_> {
    fn drop(&mut self) {
        if let Some(filling) = self.filling.take() {
            self.store.discard(Kind::Replace(filling));
        }
    }
}

/// The share, if its peer is here and has opened it.
fn open_share(memory: &Memory, peer: PeerId, share: ShareId) -> Result<&Share, StoreError> {
    memory
        .shares
        .peer(&peer)
        .filter(|peer| is_here(peer))
        .and_then(|peer| peer.shares.get(&share))
        .filter(|share| share.open)
        .ok_or(StoreError::NotOpen)
}

fn twice() -> StoreError {
    StoreError::BadPage("a path is on two pages of one transaction".into())
}

/// Tells paths of one transaction apart. Two paths of the same 64 bits would be refused as doubled: of 50,000, once in
/// 10^10 transactions.
fn key_hash(change: &Change<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    change.key().hash(&mut hasher);
    hasher.finish()
}

/// A new list names each path once and has nothing to remove.
fn refuse_doubles(memory: &Memory, slot: u32, page: &Page<'_>) -> Result<(), StoreError> {
    let mut finder = Finder::default();
    for change in page.changes() {
        match change {
            Change::Remove { .. } => return Err(StoreError::BadPage("a new list has nothing to remove".into())),
            Change::Upsert(entry) if finder.find(memory, slot, entry.directory, entry.name).is_some() => {
                return Err(twice());
            }
            Change::Upsert(_) => {}
        }
    }
    Ok(())
}

/// Adds entries to an unseen slot.
fn add(memory: &mut Memory, filling: &mut Filling, changes: &[Change<'_>]) -> Result<(), StoreError> {
    for change in changes {
        if let Change::Upsert(entry) = change {
            memory.upsert(filling.slot, entry, |_| ())?;
            filling.digest.add(entry);
        }
    }
    memory.settle();
    Ok(())
}

/// Makes a durable amendment visible, all of it at once however long it is.
fn apply(shared: &Shared, peer: PeerId, share: ShareId, pages: &[Bytes], after: Held) -> Result<(), StoreError> {
    let mut amendment = Amendment::new(after.slot);
    let mut changes = changes(pages).peekable();
    let held = loop {
        let mut memory = shared.write();
        let prepared = changes.by_ref().take(STEP).try_for_each(|change| amendment.prepare(&mut memory, &change));
        memory.settle();
        if let Err(error) = prepared {
            amendment.give_up(&mut memory);
            break Err(error);
        }
        if changes.peek().is_none() {
            amendment.switch(&mut memory);
            break hold(&mut memory, peer, share, after);
        }
        drop(memory);
        background::pause();
        shared.make_way();
    };
    while amendment.clear_up(&mut shared.write(), STEP) {
        background::pause();
        shared.make_way();
    }
    held
}

/// Makes a durable replacement visible and gives up the old list.
fn switch(memory: &mut Memory, peer: PeerId, share: ShareId, after: Held) -> Result<(), StoreError> {
    let old = memory.shares.peer(&peer).and_then(|peer| peer.shares.get(&share)).and_then(|share| share.held);
    if let Some(old) = old {
        memory.shares.doom(old.slot);
    }
    memory.shares.slot_mut(after.slot).state = SlotState::Live;
    hold(memory, peer, share, after)
}

/// Notes what is held now, and shows it if the share is still open.
fn hold(memory: &mut Memory, peer: PeerId, share: ShareId, after: Held) -> Result<(), StoreError> {
    let record =
        memory.shares.peer_mut(&peer).and_then(|peer| peer.shares.get_mut(&share)).ok_or(StoreError::NotOpen)?;
    record.held = Some(after);
    record.loaded = true;
    // What the peer itself has just committed may be shown.
    record.usable = true;
    let (open, name, groups) = (record.open, record.name.clone(), record.groups.clone());
    let slot = memory.shares.slot_mut(after.slot);
    slot.open = open;
    slot.name = name;
    slot.groups = groups;
    memory.shares.refresh(after.slot);
    memory.shares.worn.fetch_or(is_worn(&after), Ordering::Relaxed);
    Ok(())
}

pub(super) fn record_of(share: &Share, held: &Held) -> ShareRecord {
    ShareRecord {
        name: share.name.clone(),
        groups: share.groups.clone(),
        state: held.state,
        generation: held.generation,
        next_seq: held.next_seq,
        base_bytes: held.base_bytes,
        amended_bytes: held.amended_bytes,
    }
}

fn changes(pages: &[Bytes]) -> impl Iterator<Item = Change<'_>> {
    // Staging checked them all.
    pages.iter().filter_map(|page| Page::check(page).ok()).flat_map(|page| page.changes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use haul_core::manifest::{Entry, EntryKind, PageBuilder};
    use haul_core::wire::Label;

    use super::*;
    use crate::store::{IndexStore, ShareOffer};

    #[tokio::test]
    async fn nothing_stays_of_a_replacement_whose_pages_could_not_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path()).unwrap();
        let (peer, id, name) = (PeerId::new([7; 32]).unwrap(), ShareId([1; 16]), Label::new("lab").unwrap());
        store.connect(peer, name.clone()).await.unwrap();
        store.open(peer, ShareOffer { id, name, groups: Vec::new(), state: ShareState::default() }).await.unwrap();
        let tx = store.begin(peer, id, None).await.unwrap();
        let entry = Entry { directory: b"", name: b"name", mtime_ns: 1, kind: EntryKind::Directory };
        let mut page = PageBuilder::new();
        assert!(page.push(&Change::Upsert(entry)));
        store.stage(tx, Bytes::from(page.finish())).await.unwrap();
        {
            let open = lock(&store.transactions).get(&tx).cloned().unwrap();
            let Kind::Replace(filling) = &lock(&open).kind else { panic!("it replaces") };
            filling.failed.store(true, Ordering::Relaxed);
        }
        let mut state = ShareState { revision: 1, ..ShareState::default() };
        state.digest.add(&entry);
        assert!(matches!(store.commit(tx, state, 1).await, Err(StoreError::Storage(_))));
        assert_eq!(lock(&store.shared.garbage).len(), 1);
        while store.maintain(Duration::from_millis(10)).await.unwrap() {}
        let memory = store.shared.read();
        assert!(memory.shares.slots.iter().all(|slot| slot.state == SlotState::Free));
        assert_eq!(memory.names.live_docs, 0);
    }
}
