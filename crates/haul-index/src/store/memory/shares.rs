//! Peers, their shares, and the slots that rows point to; the views that say which slots an asker may see.
//!
//! Presence and access are one test: a view has, for one set of groups, a bit per slot for "may see" and a bit for
//! "may see, open, and its peer connected". Leaving, crashing, closing or a change of groups flips bits; no row is
//! touched.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

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
    /// Slots that not everyone may see.
    restricted: HashSet<u32>,
    /// Some share may have so many amendments that its list should be rewritten.
    pub(in crate::store) worn: AtomicBool,
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
        let there = self.is_there(slot);
        let record = &self.slots[slot as usize];
        if record.state == SlotState::Live && !may_see(&record.groups, &[]) {
            self.restricted.insert(slot);
        } else {
            self.restricted.remove(&slot);
        }
        for (groups, view) in &mut self.views {
            Arc::make_mut(view).set(slot, is_allowed(record, groups), there);
        }
    }

    /// Sets in all views which slots of a peer are there. Who may see them stays as it is, so that a peer of a
    /// thousand shares, each with many groups, leaves as quickly as any other.
    pub(in crate::store) fn refresh_peer(&mut self, peer: u32) {
        for slot in self.slots_of(peer) {
            let there = self.is_there(slot);
            for view in self.views.values_mut() {
                let view = Arc::make_mut(view);
                view.shown.set(slot, there && view.allowed.get(slot));
            }
        }
    }

    /// Whether every share may be seen by everyone.
    pub(in crate::store) fn all_are_public(&self) -> bool {
        self.restricted.is_empty()
    }

    fn is_there(&self, slot: u32) -> bool {
        let record = &self.slots[slot as usize];
        record.open && self.peers[record.peer as usize].connected
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
        let mut view = View::default();
        for (slot, record) in (0..).zip(&self.slots) {
            view.set(slot, is_allowed(record, &groups), self.is_there(slot));
        }
        if self.views.len() >= VIEWS {
            self.views.clear();
        }
        let view = Arc::new(view);
        self.views.insert(groups, Arc::clone(&view));
        view
    }
}

impl View {
    fn set(&mut self, slot: u32, allowed: bool, there: bool) {
        self.allowed.set(slot, allowed);
        self.shown.set(slot, allowed && there);
    }
}

fn is_allowed(slot: &Slot, groups: &[Label]) -> bool {
    slot.state == SlotState::Live && may_see(&slot.groups, groups)
}

fn may_see(share: &[Label], asker: &[Label]) -> bool {
    share.is_empty() || share.iter().any(|group| group.as_str() == EVERYONE || asker.contains(group))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::with_slots;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Views that were kept up to date say what views say that are made anew.
        #[test]
        fn a_view_follows_every_change(changes in proptest::collection::vec((0u32..6, 0u8..6), 0..60)) {
            let group = |name: &str| Label::new(name).unwrap();
            let askers = [vec![], vec![group("blue")], vec![group("blue"), group("red")]];
            let mut memory = with_slots(6);
            let shares = &mut memory.shares;
            for slot in 0..6u32 {
                let state = ShareState::default();
                let held = Held { slot, state, generation: 0, next_seq: 0, base_bytes: 0, amended_bytes: 0 };
                let (name, changing) = (group("x"), Arc::default());
                let share = Share { name, groups: vec![], held: Some(held), loaded: true, open: true, usable: true, changing };
                shares.peers[0].shares.insert(ShareId([slot as u8; 16]), share);
            }
            for asker in &askers {
                shares.make_view(asker.clone());
            }
            for (slot, change) in changes {
                match change {
                    0 => shares.slot_mut(slot).groups = vec![group("red")],
                    1 => shares.slot_mut(slot).groups = vec![group("everyone"), group("red")],
                    2 => shares.slot_mut(slot).open ^= true,
                    3 => shares.slot_mut(slot).state = SlotState::Doomed,
                    4 => shares.slot_mut(slot).state = SlotState::Live,
                    _ => {
                        shares.peers[0].connected ^= true;
                        shares.refresh_peer(0);
                        continue;
                    }
                }
                shares.refresh(slot);
            }
            let kept = askers.each_ref().map(|asker| shares.cached_view(asker).unwrap());
            shares.views.clear();
            for (asker, kept) in askers.into_iter().zip(kept) {
                let new = shares.make_view(asker);
                for slot in 0..6 {
                    prop_assert_eq!(kept.allowed.get(slot), new.allowed.get(slot));
                    prop_assert_eq!(kept.shown.get(slot), new.shown.get(slot));
                }
            }
        }
    }
}
