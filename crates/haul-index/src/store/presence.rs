//! Who is there: connect, open, close, leave, forget, and the leases that outlive a restart.

use std::collections::hash_map::Entry;
use std::sync::atomic::Ordering;
use std::time::Duration;

use haul_core::ids::{PeerId, ShareId};
use haul_core::limits;
use haul_core::manifest::ShareState;
use haul_core::time::Moment;
use haul_core::wire::Label;

use super::disk::{PeerRecord, Write};
use super::embedded::{EmbeddedStore, lock};
use super::memory::Memory;
use super::memory::shares::{Peer, Share};
use super::registration::record_of;
use super::{Opened, ShareOffer, StoreError};

/// How often leases are noted on disk.
const NOTE_INTERVAL: Duration = Duration::from_secs(5);

impl EmbeddedStore {
    pub(super) fn connect_peer(&self, id: PeerId, name: &Label) {
        self.drop_transactions(|_, transaction| transaction.peer == id);
        let mut memory = self.shared.write();
        let number = memory.shares.ensure_peer(id, name);
        hide(&mut memory, number);
        let peer = &mut memory.shares.peers[number as usize];
        peer.name = name.clone();
        peer.connected = true;
        peer.dirty = true;
    }

    pub(super) async fn open_share(&self, id: PeerId, offer: ShareOffer) -> Result<Opened, StoreError> {
        // A change of the list that is under way ends first: it writes the same record. Loading changes nothing; a
        // share that comes back as it was need not wait for that.
        let changing = {
            let memory = self.shared.read();
            let share = memory.shares.peer(&id).and_then(|peer| peer.shares.get(&offer.id));
            share.filter(|share| !is_loading_unchanged(share, &offer)).map(|share| share.changing.clone())
        };
        let guard = match changing {
            Some(changing) => Some(changing.lock_owned().await),
            None => None,
        };
        let turn = self.writer.turn().await?;
        let (opened, write) = self.open_in_memory(id, &offer)?;
        if let Some(write) = write {
            turn.write(vec![write], move || drop(guard)).await?;
        }
        Ok(opened)
    }

    fn open_in_memory(&self, id: PeerId, offer: &ShareOffer) -> Result<(Opened, Option<Write>), StoreError> {
        let mut memory = self.shared.write();
        let peer = memory.shares.peer_mut(&id).filter(|peer| is_here(peer)).ok_or(StoreError::NotOpen)?;
        peer.dirty = true;
        let count = peer.shares.len();
        let share = match peer.shares.entry(offer.id) {
            Entry::Occupied(share) => share.into_mut(),
            Entry::Vacant(_) if count >= limits::SHARES_PER_PEER => {
                return Err(StoreError::TooMuch("a peer has at most 1,000 shares".into()));
            }
            Entry::Vacant(place) => place.insert(Share {
                name: offer.name.clone(),
                groups: offer.groups.clone(),
                held: None,
                loaded: true,
                open: false,
                usable: true,
                changing: std::sync::Arc::default(),
            }),
        };
        let renamed = share.name != offer.name || share.groups != offer.groups;
        share.name.clone_from(&offer.name);
        share.groups.clone_from(&offer.groups);
        let opened = compare(share.held.map(|held| held.state), &offer.state);
        share.open = true;
        share.usable = opened != Opened::Replace;
        let (open, held) = (share.usable, share.held);
        let write = share.held.filter(|_| renamed).map(|held| record_of(share, &held));
        if let Some(held) = held {
            let slot = memory.shares.slot_mut(held.slot);
            slot.name.clone_from(&offer.name);
            slot.groups.clone_from(&offer.groups);
            slot.open = open;
            memory.shares.refresh(held.slot);
        }
        Ok((opened, write.map(|record| Write::PutShare { peer: id, share: offer.id, record })))
    }

    /// Hides a share.
    pub(super) fn close_share(&self, id: PeerId, share_id: ShareId) -> Result<(), StoreError> {
        self.drop_transactions(|_, transaction| transaction.peer == id && transaction.share == share_id);
        let mut memory = self.shared.write();
        let peer = memory.shares.peer_mut(&id).ok_or(StoreError::NotOpen)?;
        peer.dirty = true;
        let share = peer.shares.get_mut(&share_id).ok_or(StoreError::NotOpen)?;
        share.open = false;
        if let Some(held) = share.held {
            memory.shares.slot_mut(held.slot).open = false;
            memory.shares.refresh(held.slot);
        }
        Ok(())
    }

    /// Deletes a share that is hidden already.
    pub(super) async fn forget_share(&self, id: PeerId, share_id: ShareId) -> Result<(), StoreError> {
        let changing =
            self.shared.read().shares.peer(&id).and_then(|peer| Some(peer.shares.get(&share_id)?.changing.clone()));
        let Some(changing) = changing else { return Ok(()) };
        let guard = changing.lock_owned().await;
        let turn = self.writer.turn().await?;
        let deleted = {
            // The writes are queued under the lock: a new share of the same id cannot come before them.
            let mut memory = self.shared.write();
            let Some(share) = memory.shares.peer_mut(&id).and_then(|peer| peer.shares.remove(&share_id)) else {
                return Ok(());
            };
            let mut writes = vec![Write::DropShare { peer: id, share: share_id }];
            if let Some(held) = share.held {
                memory.shares.doom(held.slot);
                writes.push(Write::DropGeneration(held.generation));
            }
            turn.write(writes, move || drop(guard))
        };
        deleted.await
    }

    /// Hides everything of a peer, which counts as away from now on.
    pub(super) fn hide_peer(&self, id: PeerId) -> Result<(), StoreError> {
        self.drop_transactions(|_, transaction| transaction.peer == id);
        let mut memory = self.shared.write();
        let number = memory.shares.find(&id).ok_or(StoreError::NotOpen)?;
        hide(&mut memory, number);
        Ok(())
    }

    pub(super) fn note_lease(&self, id: PeerId, lease_end: Moment) -> Result<(), StoreError> {
        {
            let mut memory = self.shared.write();
            let peer = memory.shares.peer_mut(&id).filter(|peer| is_here(peer)).ok_or(StoreError::NotOpen)?;
            peer.lease_end = lease_end;
            peer.dirty = true;
        }
        let now = self.now();
        let due = lock(&self.noted).is_none_or(|noted| now.since(noted) >= NOTE_INTERVAL);
        if due {
            *lock(&self.noted) = Some(now);
            self.note_peers();
        }
        Ok(())
    }

    /// Notes on disk what changed about peers, without waiting; what does not fit into the queue is noted later.
    pub(super) fn note_peers(&self) {
        let records = self.take_peer_notes();
        if records.is_empty() || self.writer.offer(records) {
            return;
        }
        for peer in &mut self.shared.write().shares.peers {
            peer.dirty = true;
        }
    }

    /// The records of all peers that changed since the last time.
    pub(super) fn take_peer_notes(&self) -> Vec<Write> {
        let mut memory = self.shared.write();
        memory
            .shares
            .peers
            .iter_mut()
            .filter_map(|peer| std::mem::take(&mut peer.dirty).then(|| self.peer_note(peer)))
            .collect()
    }

    /// Notes one peer on disk and waits for it.
    pub(super) async fn note_peer(&self, id: PeerId) -> Result<(), StoreError> {
        let turn = self.writer.turn().await?;
        let noted = {
            let mut memory = self.shared.write();
            let Some(peer) = memory.shares.peer_mut(&id) else { return Ok(()) };
            peer.dirty = false;
            turn.write(vec![self.peer_note(peer)], || ())
        };
        noted.await
    }

    /// Deletes what the disk has of a peer, unless it has come back meanwhile.
    pub(super) async fn drop_peer_note(&self, id: PeerId) -> Result<(), StoreError> {
        let turn = self.writer.turn().await?;
        let dropped = {
            let mut memory = self.shared.write();
            let Some(peer) = memory.shares.peer_mut(&id).filter(|peer| !peer.connected && peer.shares.is_empty())
            else {
                return Ok(());
            };
            peer.dirty = false;
            turn.write(vec![Write::DropPeer(id)], || ())
        };
        dropped.await
    }

    fn peer_note(&self, peer: &Peer) -> Write {
        let open = peer.shares.iter().filter(|(_, share)| share.open && share.usable).map(|(id, _)| *id).collect();
        let lease_end = if peer.connected { peer.lease_end.0 } else { 0 };
        let record = PeerRecord { name: peer.name.clone(), boot_id: self.settings.boot_id, lease_end, open };
        Write::PutPeer { peer: peer.id, record }
    }

    /// Ends leases from before the start that have run out.
    pub(super) fn expire_restored(&self) {
        let now = self.now();
        if now.0 < self.restored_until.load(Ordering::Relaxed) {
            return;
        }
        let mut memory = self.shared.write();
        let mut next = u64::MAX;
        for number in 0..memory.shares.peers.len() as u32 {
            match memory.shares.peers[number as usize].restored_until {
                Some(end) if end <= now => hide(&mut memory, number),
                Some(end) => next = next.min(end.0),
                None => {}
            }
        }
        self.restored_until.store(next, Ordering::Relaxed);
    }
}

/// Whether the peer itself is connected, not only its lease from before a restart.
pub(super) fn is_here(peer: &Peer) -> bool {
    peer.connected && peer.restored_until.is_none()
}

/// Whether a share that is not loaded yet comes back as it was.
fn is_loading_unchanged(share: &Share, offer: &ShareOffer) -> bool {
    !share.loaded
        && share.held.is_some_and(|held| held.state == offer.state)
        && share.name == offer.name
        && share.groups == offer.groups
}

fn hide(memory: &mut Memory, number: u32) {
    let peer = &mut memory.shares.peers[number as usize];
    peer.connected = false;
    peer.restored_until = None;
    peer.lease_end = Moment::default();
    peer.dirty = true;
    for share in peer.shares.values_mut() {
        share.open = false;
    }
    for slot in memory.shares.slots_of(number) {
        memory.shares.slot_mut(slot).open = false;
    }
    memory.shares.refresh_peer(number);
}

fn compare(held: Option<ShareState>, offered: &ShareState) -> Opened {
    match held {
        Some(held) if held == *offered => Opened::Same,
        Some(held) if held.revision < offered.revision => Opened::Amend(held),
        _ => Opened::Replace,
    }
}
