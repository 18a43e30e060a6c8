//! Chance that follows from a seed.

use haul_core::planner::splitmix64;

/// Numbers that look random.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        splitmix64(&mut self.0)
    }

    pub(super) fn below(&mut self, count: u64) -> u64 {
        if count == 0 { 0 } else { self.next() % count }
    }
}
