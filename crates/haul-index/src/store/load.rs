//! Opening: the memory is rebuilt from the pages on disk, and every list is checked against its digest.

use std::collections::HashMap;

use haul_core::ids::{PeerId, ShareId};
use haul_core::manifest::{Change, Page, RegistrationDigest, ShareState};
use haul_core::time::Moment;
use haul_core::wire::Label;

use super::StoreError;
use super::disk::{Disk, PeerRecord, Reader, ShareRecord};
use super::memory::shares::{Held, Share, Slot, SlotState};
use super::memory::{Memory, NONE};

pub(super) struct Loaded {
    pub(super) memory: Memory,
    pub(super) next_generation: u64,
    pub(super) unused_generations: Vec<u64>,
    pub(super) restored_until: u64,
}

/// Reads everything. Peers whose lease from this boot still runs count as connected until it ends.
pub(super) fn load(disk: &Disk, boot_id: &[u8; 16], now: Moment) -> Result<Loaded, StoreError> {
    let mut loader = Loader { memory: Memory::default(), records: HashMap::new(), current: None };
    let (next_generation, unused_generations) = disk.read(&mut loader)?;
    let Loader { mut memory, records, .. } = loader;
    let mut restored_until = u64::MAX;
    for peer in &mut memory.shares.peers {
        // What was just read need not be written again.
        peer.dirty = false;
    }
    for (id, record) in records {
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
    Ok(Loaded { memory, next_generation, unused_generations, restored_until })
}

struct Current {
    peer: PeerId,
    share: ShareId,
    slot: u32,
    state: ShareState,
    digest: RegistrationDigest,
    /// A page of it is no page any more.
    broken: bool,
}

struct Loader {
    memory: Memory,
    records: HashMap<PeerId, PeerRecord>,
    current: Option<Current>,
}

fn damaged(what: &str) -> StoreError {
    StoreError::Storage(format!("the index's files are damaged: {what}"))
}

impl Reader for Loader {
    fn peer(&mut self, peer: PeerId, record: PeerRecord) -> Result<(), StoreError> {
        self.memory.shares.ensure_peer(peer, &record.name);
        self.records.insert(peer, record);
        Ok(())
    }

    fn share(&mut self, peer: PeerId, share: ShareId, record: &ShareRecord) -> Result<(), StoreError> {
        let number = self.memory.shares.ensure_peer(peer, &Label::from_lossy(&peer.short()));
        let slot = self.memory.take_slot(Slot {
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
        let share_record = Share {
            name: record.name.clone(),
            groups: record.groups.clone(),
            held: Some(held),
            open: false,
            usable: true,
            changing: std::sync::Arc::default(),
        };
        self.memory.shares.peers[number as usize].shares.insert(share, share_record);
        self.current = Some(Current {
            peer,
            share,
            slot,
            state: record.state,
            digest: RegistrationDigest::default(),
            broken: false,
        });
        Ok(())
    }

    fn page(&mut self, page: &[u8]) -> Result<(), StoreError> {
        let current = self.current.as_mut().ok_or_else(|| damaged("a page without a share"))?;
        let Ok(page) = Page::check(page) else {
            current.broken = true;
            return Ok(());
        };
        for change in page.changes() {
            let digest = &mut current.digest;
            match change {
                Change::Upsert(entry) => {
                    self.memory.upsert(current.slot, &entry, |old| digest.subtract(old))?;
                    digest.add(&entry);
                }
                Change::Remove { directory, name } => {
                    self.memory.remove(current.slot, directory, name, |old| digest.subtract(old));
                }
            }
        }
        self.memory.settle();
        Ok(())
    }

    fn share_end(&mut self) -> Result<(), StoreError> {
        let Some(current) = self.current.take() else { return Ok(()) };
        if current.broken || current.digest != current.state.digest {
            // The peer still has its list: forget ours, and it sends everything again.
            tracing::error!(share = %current.share, "the pages of a share do not add up to its digest; dropping them");
            self.memory.shares.doom(current.slot);
            let peer = self.memory.shares.peer_mut(&current.peer);
            if let Some(share) = peer.and_then(|peer| peer.shares.get_mut(&current.share)) {
                share.held = None;
            }
        }
        Ok(())
    }
}
