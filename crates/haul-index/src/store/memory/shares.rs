//! Peers, their shares, and the slots that rows point to; the views that say which slots an asker may see.
//!
//! Presence and access are one test: a view has, for one set of groups, a bit per slot for "may see" and a bit for
//! "may see, open, and its peer connected". Leaving, crashing, closing or a change of groups flips bits; no row is
//! touched.

use std::collections::HashMap;
use std::sync::Arc;

use haul_core::ids::{PeerId, ShareId};
use haul_core::manifest::ShareState;
use haul_core::time::Moment;
use haul_core::wire::Label;

use super::bitmap::Bitmap;

/// Group sets whose views are kept; the rarest case of more drops all and starts again.
const VIEWS: usize = 256;
/// The group that everybody belongs to.
const EVERYONE: &str = "everyone";

/// What a slot is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum SlotState {
    /// Waits for a share.
    Free,
    /// Filled by a transaction that has not committed.
    Filling,
    /// Holds a share's list.
    Live,
    /// Its rows wait to be swept; nobody sees them.
    Doomed,
}

/// The list of one share, or of one transaction that replaces it.
#[derive(Debug)]
pub(in crate::store) struct Slot {
    pub(in crate::store) state: SlotState,
    /// Counts into the peers.
    pub(in crate::store) peer: u32,
    pub(in crate::store) name: Label,
    pub(in crate::store) groups: Vec<Label>,
    pub(in crate::store) open: bool,
    /// Node of its root directory.
    pub(in crate::store) root: u32,
    pub(in crate::store) files: u64,
    pub(in crate::store) bytes: u64,
}

/// What the store holds of a share.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Held {
    pub(in crate::store) slot: u32,
    pub(in crate::store) state: ShareState,
    /// Names the pages on disk.
    pub(in crate::store) generation: u64,
    pub(in crate::store) next_seq: u64,
    pub(in crate::store) base_bytes: u64,
    pub(in crate::store) amended_bytes: u64,
}

#[derive(Debug)]
pub(in crate::store) struct Share {
    pub(in crate::store) name: Label,
    pub(in crate::store) groups: Vec<Label>,
    pub(in crate::store) held: Option<Held>,
    /// All of what is held is in memory.
    pub(in crate::store) loaded: bool,
    /// Opened by its peer since it connected.
    pub(in crate::store) open: bool,
    /// What is held may be shown: the peer's list is not an unrelated one.
    pub(in crate::store) usable: bool,
    /// Held by whoever changes the list, from the check to the change in memory.
    pub(in crate::store) changing: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
pub(in crate::store) struct Peer {
    pub(in crate::store) id: PeerId,
    pub(in crate::store) name: Label,
    pub(in crate::store) connected: bool,
    /// Connected only as far as its lease from before a restart goes.
    pub(in crate::store) restored_until: Option<Moment>,
    pub(in crate::store) lease_end: Moment,
    /// Its record on disk is behind.
    pub(in crate::store) dirty: bool,
    pub(in crate::store) shares: HashMap<ShareId, Share>,
}

/// What the members of one set of groups see.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct View {
    /// May see, whether there or away.
    pub(in crate::store) allowed: Bitmap,
    /// May see, and it is there.
    pub(in crate::store) shown: Bitmap,
}

#[derive(Debug, Default)]
pub(in crate::store) struct Shares {
    pub(in crate::store) peers: Vec<Peer>,
    by_id: HashMap<PeerId, u32>,
    pub(in crate::store) slots: Vec<Slot>,
    /// Peers by slot, once more: a lookup reads nothing else of a slot.
    owners: Vec<u32>,
    pub(in crate::store) doomed: Vec<u32>,
    free: Vec<u32>,
    views: HashMap<Vec<Label>, Arc<View>>,
}

impl Shares {
    pub(in crate::store) fn find(&self, peer: &PeerId) -> Option<u32> {
        self.by_id.get(peer).copied()
    }

    pub(in crate::store) fn peer(&self, peer: &PeerId) -> Option<&Peer> {
        self.peers.get(self.find(peer)? as usize)
    }

    pub(in crate::store) fn peer_mut(&mut self, peer: &PeerId) -> Option<&mut Peer> {
        let number = self.find(peer)?;
        self.peers.get_mut(number as usize)
    }

    /// The number of a peer, made if it is new.
    pub(in crate::store) fn ensure_peer(&mut self, id: PeerId, name: &Label) -> u32 {
        if let Some(peer) = self.find(&id) {
            return peer;
        }
        let number = self.peers.len() as u32;
        self.peers.push(Peer {
            id,
            name: name.clone(),
            connected: false,
            restored_until: None,
            lease_end: Moment::default(),
            dirty: true,
            shares: HashMap::new(),
        });
        self.by_id.insert(id, number);
        number
    }

    pub(in crate::store) fn slot(&self, slot: u32) -> &Slot {
        &self.slots[slot as usize]
    }

    pub(in crate::store) fn slot_mut(&mut self, slot: u32) -> &mut Slot {
        &mut self.slots[slot as usize]
    }

    /// The number of the peer whose slot it is.
    pub(in crate::store) fn owner(&self, slot: u32) -> u32 {
        self.owners[slot as usize]
    }

    pub(in crate::store) fn peer_of(&self, slot: u32) -> &Peer {
        &self.peers[self.slot(slot).peer as usize]
    }

    /// Takes a free slot or makes one; nobody sees it yet.
    pub(in crate::store) fn take_slot(&mut self, slot: Slot) -> u32 {
        let owner = slot.peer;
        let number = if let Some(number) = self.free.pop() {
            self.slots[number as usize] = slot;
            self.owners[number as usize] = owner;
            number
        } else {
            self.slots.push(slot);
            self.owners.push(owner);
            self.slots.len() as u32 - 1
        };
        self.refresh(number);
        number
    }

    /// Hides a slot for good; a sweep removes its rows.
    pub(in crate::store) fn doom(&mut self, slot: u32) {
        self.slot_mut(slot).state = SlotState::Doomed;
        self.doomed.push(slot);
        self.refresh(slot);
    }

    /// A swept slot may be used again.
    pub(in crate::store) fn release_slot(&mut self, slot: u32) {
        self.slot_mut(slot).state = SlotState::Free;
        self.free.push(slot);
    }

    /// Sets the bits of a slot in all views.
    pub(in crate::store) fn refresh(&mut self, slot: u32) {
        let record = &self.slots[slot as usize];
        let live = record.state == SlotState::Live;
        let there = record.open && self.peers[record.peer as usize].connected;
        for (groups, view) in &mut self.views {
            let allowed = live && may_see(&record.groups, groups);
            let view = Arc::make_mut(view);
            view.allowed.set(slot, allowed);
            view.shown.set(slot, allowed && there);
        }
    }

    /// Sets the bits of all slots of a peer.
    pub(in crate::store) fn refresh_peer(&mut self, peer: u32) {
        for slot in self.slots_of(peer) {
            self.refresh(slot);
        }
    }

    /// The slots of a peer's shares.
    pub(in crate::store) fn slots_of(&self, peer: u32) -> Vec<u32> {
        self.peers[peer as usize].shares.values().filter_map(|share| share.held.map(|held| held.slot)).collect()
    }

    pub(in crate::store) fn cached_view(&self, groups: &[Label]) -> Option<Arc<View>> {
        self.views.get(groups).cloned()
    }

    /// The view of a sorted set of groups, made if it is new.
    pub(in crate::store) fn make_view(&mut self, groups: Vec<Label>) -> Arc<View> {
        if self.views.len() >= VIEWS {
            self.views.clear();
        }
        self.views.entry(groups.clone()).or_default();
        for slot in 0..self.slots.len() as u32 {
            self.refresh(slot);
        }
        self.views.get(&groups).cloned().unwrap_or_default()
    }
}

fn may_see(share: &[Label], asker: &[Label]) -> bool {
    share.is_empty() || share.iter().any(|group| group.as_str() == EVERYONE || asker.contains(group))
}
