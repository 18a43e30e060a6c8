//! Opening: the memory is rebuilt from the pages on disk, and every list is checked against its digest.

use haul_core::ids::{PeerId, ShareId};
use haul_core::manifest::{Change, Page, RegistrationDigest};
use haul_core::time::Moment;
use haul_core::wire::Label;

use super::StoreError;
use super::disk::{Disk, ShareRecord};
use super::log::catalog::Catalog;
use super::memory::shares::{Held, Share, Slot, SlotState};
use super::memory::{Memory, NONE};
use super::merge::index_all;

pub(super) struct Loaded {
    pub(super) memory: Memory,
    pub(super) next_generation: u64,
    pub(super) restored_until: u64,
}

/// Reads everything. Peers whose lease from this boot still runs count as connected until it ends.
pub(super) fn load(disk: &Disk, catalog: Catalog, boot_id: &[u8; 16], now: Moment) -> Result<Loaded, StoreError> {
    let mut memory = Memory::default();
    memory.names.trigrams.set_loading();
    for (peer, record) in &catalog.peers {
        memory.shares.ensure_peer(*peer, &record.name);
    }
    for ((peer, share), record) in &catalog.shares {
        load_share(&mut memory, disk, *peer, *share, record)?;
    }
    index_all(&mut memory);
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
    Ok(Loaded { memory, next_generation: catalog.next_generation, restored_until })
}

/// Reads the list of one share. A list that is not what it was when it was committed is left out.
fn load_share(
    memory: &mut Memory,
    disk: &Disk,
    peer: PeerId,
    share: ShareId,
    record: &ShareRecord,
) -> Result<(), StoreError> {
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
    let digest = load_pages(memory, disk, slot, record)?;
    let complete = digest == Some(record.state.digest);
    let held = Held {
        slot,
        state: record.state,
        generation: record.generation,
        next_seq: record.next_seq,
        base_bytes: record.base_bytes,
        amended_bytes: record.amended_bytes,
    };
    if !complete {
        // The peer still has its list: forget ours, and it sends everything again.
        tracing::error!(%share, "the pages of a share do not add up to its digest; dropping them");
        memory.shares.doom(slot);
    }
    let loaded = Share {
        name: record.name.clone(),
        groups: record.groups.clone(),
        held: complete.then_some(held),
        open: false,
        usable: true,
        changing: std::sync::Arc::default(),
    };
    memory.shares.peers[number as usize].shares.insert(share, loaded);
    Ok(())
}

/// Applies the pages of a share; returns their digest, or none if one of them cannot be used.
fn load_pages(
    memory: &mut Memory,
    disk: &Disk,
    slot: u32,
    record: &ShareRecord,
) -> Result<Option<RegistrationDigest>, StoreError> {
    let mut digest = RegistrationDigest::default();
    for page in disk.pages(record.generation, record.next_seq) {
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                tracing::error!(%error, "a page of the index's log is lost");
                return Ok(None);
            }
        };
        let Ok(page) = Page::check(&page) else { return Ok(None) };
        for change in page.changes() {
            match change {
                Change::Upsert(entry) => {
                    memory.upsert(slot, &entry, |old| digest.subtract(old))?;
                    digest.add(&entry);
                }
                Change::Remove { directory, name } => {
                    memory.remove(slot, directory, name, |old| digest.subtract(old));
                }
            }
        }
        memory.settle();
    }
    Ok(Some(digest))
}
