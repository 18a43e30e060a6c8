//! What a watch has told already: a set of hashes that forgets the oldest.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};

use haul_core::limits;

/// A set in two halves: when the younger one is full, it becomes the older one, which is forgotten.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Keyed at random, so that nobody can make names that collide.
    keys: RandomState,
    young: HashSet<u64>,
    old: HashSet<u64>,
}

impl Seen {
    /// The hash of anything, for the other methods.
    pub(super) fn key(&self, thing: impl Hash) -> u64 {
        self.keys.hash_one(thing)
    }

    pub(super) fn contains(&self, key: u64) -> bool {
        self.young.contains(&key) || self.old.contains(&key)
    }

    pub(super) fn insert(&mut self, key: u64) {
        if self.young.len() >= limits::MATCHES_REMEMBERED / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_and_the_newest_never() {
        let mut seen = Seen::default();
        for n in 0..10_000_u64 {
            let key = seen.key(n);
            assert!(!seen.contains(key));
            seen.insert(key);
            let newest = n.saturating_sub(limits::MATCHES_REMEMBERED as u64 / 2 - 1)..=n;
            assert!([*newest.start(), n].iter().all(|n| seen.contains(seen.key(*n))));
            assert!(seen.young.len() + seen.old.len() <= limits::MATCHES_REMEMBERED);
        }
        assert!(!seen.contains(seen.key(0_u64)));
    }
}
