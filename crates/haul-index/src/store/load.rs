//! Opening: peers and shares are known at once, their lists follow from the pages on disk, each checked against its
//! digest. Meanwhile questions are answered from what is there, and say that it is not all.
//!
//! Lists of peers whose lease still runs come first. Whoever loads a list holds the share's `changing`, so a list that
//! is replaced, forgotten or amended before its turn is met in one state only.

use std::sync::atomic::Ordering;

use haul_core::ids::{PeerId, ShareId};
use haul_core::manifest::{Change, Page, RegistrationDigest};
use haul_core::time::Moment;
use haul_core::wire::Label;

use super::StoreError;
use super::disk::{Disk, ShareRecord};
use super::embedded::Shared;
use super::log::catalog::Catalog;
use super::memory::shares::{Held, Share, Slot, SlotState};
use super::memory::{Memory, NONE};
use super::merge::index_all;
use super::registration::STEP;
use super::upkeep::is_worn;

/// What is known before any page is read.
pub(super) struct Known {
    pub(super) memory: Memory,
    pub(super) next_generation: u64,
    /// End of the earliest lease that was taken over.
    pub(super) restored_until: u64,
    /// Lists to load, the most urgent first.
    pub(super) waiting: Vec<Waiting>,
}

/// A list that is not in memory yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    peer: PeerId,
    share: ShareId,
    /// Of its pages.
    pub(super) bytes: u64,
}

/// Registers peers and shares. Peers whose lease from this boot still runs count as connected until it ends.
pub(super) fn register(catalog: Catalog, boot_id: &[u8; 16], now: Moment) -> Result<Known, StoreError> {
    let mut memory = Memory::default();
    let mut waiting = Vec::new();
    for (peer, record) in &catalog.peers {
        memory.shares.ensure_peer(*peer, &record.name);
    }
    for ((peer, share), record) in &catalog.shares {
        register_share(&mut memory, *peer, *share, record)?;
        waiting.push(Waiting { peer: *peer, share: *share, bytes: record.base_bytes + record.amended_bytes });
    }
    let mut restored_until = u64::MAX;
    for peer in &mut memory.shares.peers {
        // What was just read need not be written again.
        peer.dirty = false;
    }
    for (id, record) in catalog.peers {
        // All zeros is no boot: nothing says that the clock is the same.
        if record.boot_id != *boot_id || *boot_id == [0; 16] || record.lease_end <= now.0 {
            continue;
        }
        let Some(number) = memory.shares.find(&id) else { continue };
        restored_until = restored_until.min(record.lease_end);
        let peer = &mut memory.shares.peers[number as usize];
        peer.connected = true;
        peer.restored_until = Some(Moment(record.lease_end));
        peer.lease_end = Moment(record.lease_end);
        let mut slots = Vec::new();
        for share in &record.open {
            if let Some(share) = peer.shares.get_mut(share) {
                share.open = true;
                slots.extend(share.held.map(|held| held.slot));
            }
        }
        for slot in slots {
            memory.shares.slot_mut(slot).open = true;
        }
        memory.shares.refresh_peer(number);
    }
    let is_there = |id: &PeerId| memory.shares.peer(id).is_some_and(|peer| peer.connected);
    waiting.sort_by_key(|waiting| !is_there(&waiting.peer));
    Ok(Known { memory, next_generation: catalog.next_generation, restored_until, waiting })
}

fn register_share(memory: &mut Memory, peer: PeerId, share: ShareId, record: &ShareRecord) -> Result<(), StoreError> {
    let number = memory.shares.ensure_peer(peer, &Label::from_lossy(&peer.short()));
    let slot = memory.take_slot(Slot {
        state: SlotState::Live,
        peer: number,
        name: record.name.clone(),
        groups: record.groups.clone(),
        open: false,
        root: NONE,
        files: 0,
        bytes: 0,
    })?;
    let held = Held {
        slot,
        state: record.state,
        generation: record.generation,
        next_seq: record.next_seq,
        base_bytes: record.base_bytes,
        amended_bytes: record.amended_bytes,
    };
    let registered = Share {
        name: record.name.clone(),
        groups: record.groups.clone(),
        held: Some(held),
        loaded: false,
        open: false,
        usable: true,
        changing: std::sync::Arc::default(),
    };
    memory.shares.peers[number as usize].shares.insert(share, registered);
    Ok(())
}

/// Loads lists one after the other up to about so many bytes, before anybody asks; returns the others.
pub(super) fn load_first(shared: &Shared, disk: &Disk, mut waiting: Vec<Waiting>, bytes: u64) -> Vec<Waiting> {
    shared.write().names.trigrams.set_loading();
    let mut left = bytes;
    let now = waiting.iter().take_while(|next| {
        let fits = left.checked_sub(next.bytes);
        left = fits.unwrap_or(0);
        fits.is_some()
    });
    let rest = waiting.split_off(now.count());
    for Waiting { peer, share, .. } in waiting {
        load_share(shared, disk, peer, share, |_| ());
    }
    index_all(&mut shared.write());
    shared.begin_loading(rest.iter().map(|waiting| waiting.bytes).sum());
    rest
}

/// Loads all lists that wait, while questions are answered and changes are made. Blocks.
pub(super) fn load_rest(shared: &Shared, disk: &Disk, waiting: Vec<Waiting>) {
    for Waiting { peer, share, bytes } in waiting {
        let changing = {
            let memory = shared.read();
            memory.shares.peer(&peer).and_then(|peer| peer.shares.get(&share)).map(|share| share.changing.clone())
        };
        let mut left = bytes;
        if let Some(changing) = changing {
            let _changing = changing.blocking_lock();
            load_share(shared, disk, peer, share, |bytes| {
                let bytes = bytes.min(left);
                left -= bytes;
                shared.note_loaded(bytes);
            });
        }
        if shared.is_closing() {
            return;
        }
        shared.note_loaded(left);
    }
    shared.end_loading();
}

/// Loads a list unless it has been loaded or replaced. A list that is not what it was when it was committed is left
/// out. The caller holds the share's `changing`. `progress` gets the bytes of each page.
pub(super) fn load_share(shared: &Shared, disk: &Disk, peer: PeerId, share: ShareId, progress: impl FnMut(u64)) {
    let held = {
        let memory = shared.read();
        let share = memory.shares.peer(&peer).and_then(|peer| peer.shares.get(&share));
        share.filter(|share| !share.loaded).and_then(|share| share.held)
    };
    let Some(held) = held else { return };
    let digest = load_pages(shared, disk, &held, progress);
    if shared.is_closing() {
        return;
    }
    let mut memory = shared.write();
    let record = memory.shares.peer_mut(&peer).and_then(|peer| peer.shares.get_mut(&share));
    let Some(record) = record else { return };
    record.loaded = true;
    if digest != Some(held.state.digest) {
        // The peer still has its list: forget ours, and it sends everything again.
        tracing::error!(%share, "the pages of a share do not add up to its digest; dropping them");
        record.held = None;
        memory.shares.doom(held.slot);
    } else if is_worn(&held) {
        memory.shares.worn.store(true, Ordering::Relaxed);
    }
}

/// Applies the pages of a list; returns their digest, or none if one of them cannot be used.
fn load_pages(shared: &Shared, disk: &Disk, held: &Held, mut progress: impl FnMut(u64)) -> Option<RegistrationDigest> {
    let mut digest = RegistrationDigest::default();
    for page in disk.pages(held.generation, held.next_seq) {
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                tracing::error!(%error, "a page of the index's log is lost");
                return None;
            }
        };
        let checked = Page::check(&page).ok()?;
        let mut step = Vec::with_capacity(STEP);
        let mut changes = checked.changes();
        loop {
            step.clear();
            step.extend(changes.by_ref().take(STEP));
            if step.is_empty() {
                break;
            }
            shared.read().read_ahead(&step);
            let added = load_step(&mut shared.write(), held.slot, &mut digest, &step);
            if let Err(error) = added {
                tracing::error!(%error, "a share does not fit into the memory's tables any more");
                return None;
            }
            if shared.is_closing() {
                return None;
            }
            shared.make_way();
        }
        progress(page.len() as u64);
    }
    Some(digest)
}

fn load_step(
    memory: &mut Memory,
    slot: u32,
    digest: &mut RegistrationDigest,
    changes: &[Change<'_>],
) -> Result<(), StoreError> {
    for change in changes {
        match change {
            Change::Upsert(entry) => {
                memory.upsert(slot, entry, |old| digest.subtract(old))?;
                digest.add(entry);
            }
            Change::Remove { directory, name } => {
                memory.remove(slot, directory, name, |old| digest.subtract(old));
            }
        }
    }
    memory.settle();
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;
    use std::sync::Arc;

    use bytes::Bytes;
    use haul_core::ids::BlobId;
    use haul_core::manifest::{Entry, EntryKind, PageBuilder, ShareState};
    use haul_core::path::SharePath;
    use haul_core::query::parse;
    use haul_core::wire::List;
    use haul_core::wire::index::{Hits, LookupKeys};

    use super::*;
    use crate::store::embedded::{EmbeddedStore, StoreSettings};
    use crate::store::{Asker, BrowseQuestion, IndexStore, Opened, SearchQuestion, ShareOffer};

    const FILES: usize = 200;

    fn peer(number: u8) -> PeerId {
        PeerId::new([number; 32]).unwrap()
    }

    fn blob(share: u8) -> BlobId {
        BlobId::new([share; 32])
    }

    fn offer(share: u8, state: ShareState) -> ShareOffer {
        let name = Label::new(format!("share-{share}")).unwrap();
        ShareOffer { id: ShareId([share; 16]), name, groups: Vec::new(), state }
    }

    /// Commits files to a share: all of it, or behind `base`.
    async fn commit(store: &EmbeddedStore, share: u8, base: Option<ShareState>, part: &str) -> ShareState {
        let mut digest = base.map(|base| base.digest).unwrap_or_default();
        let mut page = PageBuilder::new();
        for number in 0..FILES {
            let name = format!("file-{number:03}.bin");
            let kind = EntryKind::File { size: 1, executable: false, blob: Some(blob(share)) };
            let entry = Entry { directory: part.as_bytes(), name: name.as_bytes(), mtime_ns: 1, kind };
            digest.add(&entry);
            assert!(page.push(&Change::Upsert(entry)));
        }
        let id = ShareId([share; 16]);
        let tx = store.begin(peer(share), id, base).await.unwrap();
        store.stage(tx, Bytes::from(page.finish())).await.unwrap();
        let state = ShareState { revision: base.map_or(1, |base| base.revision + 1), digest };
        store.commit(tx, state, FILES as u64).await.unwrap()
    }

    async fn fill(dir: &Path, shares: u8) -> Vec<ShareState> {
        let store = EmbeddedStore::open(dir).unwrap();
        let mut states = Vec::new();
        for share in 1..=shares {
            store.connect(peer(share), Label::new("lab").unwrap()).await.unwrap();
            store.open(peer(share), offer(share, ShareState { revision: 1, ..ShareState::default() })).await.unwrap();
            let state = commit(&store, share, None, "first").await;
            states.push(commit(&store, share, Some(state), "second").await);
        }
        states
    }

    async fn searched(store: &EmbeddedStore, text: &str) -> Hits {
        let query = parse(text).unwrap();
        let asker = Asker { peer: peer(1), groups: Vec::new() };
        let question = SearchQuestion { query: &query, limit: 1_000, cursor: None, away: true, now_ns: 0, exact: true };
        store.search(&asker, question).await.unwrap()
    }

    async fn found(store: &EmbeddedStore) -> (u64, u16) {
        let hits = searched(store, "file").await;
        let copies = hits.hits.iter().map(|hit| u64::from(hit.copies)).sum();
        (copies, hits.coverage_permille)
    }

    async fn browsed(store: &EmbeddedStore, share: u8) -> Result<(), StoreError> {
        let asker = Asker { peer: peer(1), groups: Vec::new() };
        let (name, path) = (Label::new(format!("share-{share}")).unwrap(), SharePath::default());
        let question =
            BrowseQuestion { peer: peer(share), share: Some(&name), path: &path, recursive: true, cursor: None };
        store.browse(&asker, question).await.map(|listing| assert!(!listing.page.is_empty()))
    }

    async fn places(store: &EmbeddedStore, share: u8) -> (u32, u16) {
        let asker = Asker { peer: peer(1), groups: Vec::new() };
        let keys = LookupKeys::Blobs(List::new(vec![blob(share)]));
        let found = store.lookup(&asker, &keys, 10, true).await.unwrap();
        let located = store.locate(&asker, &[blob(share)], 10, true).await.unwrap();
        assert_eq!(located.coverage_permille, found.coverage_permille);
        (found.answers[0].first().map_or(0, |answer| answer.total), found.coverage_permille)
    }

    #[tokio::test]
    async fn while_lists_are_loaded_answers_are_partial_and_changes_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let states = fill(dir.path(), 5).await;
        let each = 2 * FILES as u64;
        let settings = StoreSettings { load_at_once: 0, ..StoreSettings::default() };
        let (store, waiting) = EmbeddedStore::open_unloaded(dir.path(), settings).unwrap();
        assert_eq!((found(&store).await, places(&store, 1).await), ((0, 0), (0, 0)));
        assert_eq!((store.stats().shares, store.stats().loaded_permille), (5, 0));
        // One returns unchanged, one is amended, one replaced, one forgotten, one stays away: all before their turn.
        for share in 1..5u8 {
            store.connect(peer(share), Label::new("lab").unwrap()).await.unwrap();
            let state = states[usize::from(share) - 1];
            assert_eq!(store.open(peer(share), offer(share, state)).await.unwrap(), Opened::Same);
        }
        assert!(matches!(browsed(&store, 1).await, Err(StoreError::Busy { .. })), "half a listing is none");
        commit(&store, 2, Some(states[1]), "third").await;
        assert_eq!(places(&store, 2).await.0, 3 * FILES as u32);
        commit(&store, 3, None, "anew").await;
        store.close(peer(4), ShareId([4; 16]), true).await.unwrap();
        let (copies, coverage) = found(&store).await;
        assert!(copies < 3 * each + FILES as u64 && coverage < 1_000, "{copies} {coverage}");
        assert_eq!(searched(&store, "filx-000").await.hits, [], "what fits may not be loaded yet");
        let (shared, disk) = (Arc::clone(&store.shared), Arc::clone(&store.disk));
        tokio::task::spawn_blocking(move || load_rest(&shared, &disk, waiting)).await.unwrap();
        let expected = [each, each + FILES as u64, FILES as u64, 0, each];
        assert_eq!(found(&store).await, (expected.iter().sum(), 1_000));
        for (share, expected) in (1..).zip(expected) {
            assert_eq!(places(&store, share).await, (expected as u32, 1_000));
        }
        browsed(&store, 1).await.unwrap();
        assert!(searched(&store, "filx-000").await.hits.iter().any(|hit| hit.near));
        assert_eq!((store.stats().files, store.stats().loaded_permille), (expected.iter().sum(), 1_000));
        // And so it is on disk.
        drop(store);
        let store = EmbeddedStore::open(dir.path()).unwrap();
        assert_eq!(found(&store).await, (expected.iter().sum(), 1_000));
    }

    #[tokio::test]
    async fn lists_that_wait_are_loaded_in_the_background() {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), 3).await;
        let settings = StoreSettings { load_at_once: 0, ..StoreSettings::default() };
        let store = EmbeddedStore::open_with(dir.path(), settings.clone()).unwrap();
        while store.stats().loaded_permille < 1_000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(found(&store).await, (6 * FILES as u64, 1_000));
        drop(store);
        // A store that goes away while it loads gives its folder free.
        drop(EmbeddedStore::open_with(dir.path(), settings).unwrap());
        assert_eq!(found(&EmbeddedStore::open(dir.path()).unwrap()).await, (6 * FILES as u64, 1_000));
    }
}
