//! Peers that go soon.

use super::Planner;
use crate::ids::PeerId;

impl Planner {
    /// How many pieces are on this peer, on nobody else who stays, and lacked by somebody: those that are lost if it goes
    /// now.
    pub fn needed(&self, peer: &PeerId) -> u64 {
        let Some(&slot) = self.slots.get(peer) else { return 0 };
        if self.complete.iter().any(|other| *other != slot && self.peers[*other as usize].counts()) {
            return 0;
        }
        let leaver = &self.peers[slot as usize];
        // What a complete peer holds is in no piece's count.
        let own = u32::from(leaver.counts() && !leaver.have.is_full());
        let is_needed = |piece: &u32| {
            let spread = self.spread[*piece as usize];
            spread.holders == own && spread.lacking + spread.coming > 0
        };
        leaver.have.iter().filter(is_needed).count() as u64
    }
}
