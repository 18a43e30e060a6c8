//! Peers that go soon.

use super::{Planner, Slot};
use crate::ids::PeerId;

impl Planner {
    /// How many pieces are on this peer that has said it leaves, on nobody who stays, and lacked by somebody who does: those
    /// that are lost if it goes now.
    pub fn needed(&self, peer: &PeerId) -> u64 {
        let Some(&slot) = self.slots.get(peer) else { return 0 };
        let stays = |other: &&Slot| self.peers[**other as usize].counts();
        let has_all = self.complete.iter().any(|other| stays(&other));
        let is_wanted = self.live.iter().filter(stays).any(|other| self.peers[*other as usize].is_sink());
        if has_all || !is_wanted {
            return 0;
        }
        let is_needed = |piece: &u32| {
            let spread = self.spread[*piece as usize];
            spread.holders == 0 && spread.lacking + spread.coming > 0
        };
        self.peers[slot as usize].have.iter().filter(is_needed).count() as u64
    }
}
