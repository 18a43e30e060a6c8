//! What the log says: peers, shares, and where the pages of each generation lie.

use std::collections::{BTreeMap, BTreeSet};

use haul_core::ids::{PeerId, ShareId};

use super::format::{CHECK_BYTES, Place, Record, Snapshot};
use crate::store::disk::{PeerRecord, ShareRecord};

/// Pages of one generation by ascending number.
type Pages = Vec<(u64, Place)>;

/// Everything that is known without reading a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Catalog {
    pub(in crate::store) peers: BTreeMap<PeerId, PeerRecord>,
    pub(in crate::store) shares: BTreeMap<(PeerId, ShareId), ShareRecord>,
    generations: BTreeMap<u64, Pages>,
    /// Bytes of each segment that somebody needs.
    live: BTreeMap<u32, u64>,
    /// The first generation that was never used.
    pub(in crate::store) next_generation: u64,
}

impl Catalog {
    pub(super) fn from_snapshot(snapshot: Snapshot) -> Self {
        let mut catalog = Self {
            peers: snapshot.peers.into_iter().collect(),
            shares: snapshot.shares.into_iter().map(|(peer, share, record)| ((peer, share), record)).collect(),
            next_generation: snapshot.next_generation,
            ..Self::default()
        };
        for (generation, pages) in snapshot.generations {
            for (number, place) in pages {
                catalog.place(generation, number, place);
            }
        }
        catalog
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            next_generation: self.next_generation,
            peers: self.peers.iter().map(|(peer, record)| (*peer, record.clone())).collect(),
            shares: self.shares.iter().map(|((peer, share), record)| (*peer, *share, record.clone())).collect(),
            generations: self.generations.iter().map(|(generation, pages)| (*generation, pages.clone())).collect(),
        }
    }

    /// Applies a group whose pages lie from `offset` on.
    pub(in crate::store) fn apply(&mut self, records: Vec<Record>, segment: u32, offset: u32) {
        let mut offset = offset;
        let mut next = |length: u32| {
            let place = Place { segment, offset, length };
            // Wraps only in a file of nonsense, whose places then lead nowhere.
            offset = offset.wrapping_add(CHECK_BYTES as u32).wrapping_add(length);
            place
        };
        for record in records {
            match record {
                Record::Pages { generation, pages } => {
                    for (number, length) in pages {
                        self.place(generation, number, next(length));
                    }
                }
                Record::Moved { pages } => {
                    for (generation, number, length) in pages {
                        let place = next(length);
                        // Dropped between its reading and its writing: nobody needs the copy.
                        if self.page(generation, number).is_some() {
                            self.place(generation, number, place);
                        }
                    }
                }
                Record::PutShare { peer, share, record } => {
                    let generation = record.generation;
                    self.next_generation = self.next_generation.max(generation.saturating_add(1));
                    let old = self.shares.insert((peer, share), record);
                    if let Some(old) = old.filter(|old| old.generation != generation) {
                        self.drop_generation(old.generation);
                    }
                }
                Record::DropShare { peer, share } => {
                    if let Some(old) = self.shares.remove(&(peer, share)) {
                        self.drop_generation(old.generation);
                    }
                }
                Record::PutPeer { peer, record } => {
                    self.peers.insert(peer, record);
                }
                Record::DropPeer { peer } => {
                    self.peers.remove(&peer);
                }
            }
        }
    }

    fn place(&mut self, generation: u64, number: u64, place: Place) {
        self.next_generation = self.next_generation.max(generation.saturating_add(1));
        *self.live.entry(place.segment).or_default() += place.bytes();
        let pages = self.generations.entry(generation).or_default();
        match pages.binary_search_by_key(&number, |(number, _)| *number) {
            Ok(at) => {
                if let Some((_, old)) = pages.get_mut(at) {
                    let old = std::mem::replace(old, place);
                    unneeded(&mut self.live, &old);
                }
            }
            Err(at) => pages.insert(at, (number, place)),
        }
    }

    /// Forgets the pages of a generation.
    pub(in crate::store) fn drop_generation(&mut self, generation: u64) {
        for (_, place) in self.generations.remove(&generation).unwrap_or_default() {
            unneeded(&mut self.live, &place);
        }
    }

    /// Forgets who had what: something that changed it is lost. Peers register again.
    pub(super) fn lose(&mut self) {
        self.peers.clear();
        self.shares.clear();
    }

    /// Forgets pages that no share's record counts: left-overs of transactions that did not commit.
    pub(super) fn drop_left_overs(&mut self) {
        let used: BTreeSet<u64> = self.shares.values().map(|share| share.generation).collect();
        let unused: Vec<u64> = self.generations.keys().copied().filter(|number| !used.contains(number)).collect();
        for generation in unused {
            self.drop_generation(generation);
        }
    }

    fn page(&self, generation: u64, number: u64) -> Option<Place> {
        let pages = self.generations.get(&generation)?;
        let at = pages.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        pages.get(at).map(|(_, place)| *place)
    }

    /// Whether this page still lies there.
    pub(super) fn lies_at(&self, generation: u64, number: u64, place: Place) -> bool {
        self.page(generation, number) == Some(place)
    }

    /// Pages of a generation below `end`.
    pub(in crate::store) fn pages(&self, generation: u64, end: u64) -> Pages {
        let pages = self.generations.get(&generation).map(Vec::as_slice).unwrap_or_default();
        pages.iter().copied().filter(|(number, _)| *number < end).collect()
    }

    /// All pages of a segment that are needed.
    pub(super) fn pages_in(&self, segment: u32) -> Vec<(u64, u64, Place)> {
        let all = self
            .generations
            .iter()
            .flat_map(|(generation, pages)| pages.iter().map(move |(number, place)| (*generation, *number, *place)));
        all.filter(|(_, _, place)| place.segment == segment).collect()
    }

    /// Bytes of a segment that are needed.
    pub(super) fn live(&self, segment: u32) -> u64 {
        self.live.get(&segment).copied().unwrap_or_default()
    }
}

fn unneeded(live: &mut BTreeMap<u32, u64>, place: &Place) {
    if let Some(bytes) = live.get_mut(&place.segment) {
        *bytes = bytes.saturating_sub(place.bytes());
        if *bytes == 0 {
            live.remove(&place.segment);
        }
    }
}
