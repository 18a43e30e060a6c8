//! What this peer remembers of answers of the index: names of peers, and who had which blob. It makes records readable
//! and lets downloads go on while the index is gone. Bounded; nothing here is trusted for content.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use haul_core::ids::{BlobId, PeerId};
use haul_core::wire::index::{PeerCard, Providers};

/// Peers remembered.
const PEERS: usize = 10_000;
/// Blobs remembered.
const BLOBS: usize = 4_096;
/// Providers remembered of one blob.
const PROVIDERS: usize = 16;

/// Who has a blob, as last heard.
#[derive(Clone, Debug, Default)]
pub struct Holders {
    /// Bytes.
    pub size: u64,
    /// Providers, best first.
    pub peers: Vec<PeerId>,
}

#[derive(Debug, Default)]
struct Inner {
    cards: BTreeMap<PeerId, PeerCard>,
    blobs: BTreeMap<BlobId, Holders>,
    order: VecDeque<BlobId>,
}

impl Inner {
    fn remember(&mut self, blob: BlobId, holders: Holders) {
        if self.blobs.insert(blob, holders).is_none() {
            self.order.push_back(blob);
        }
        if self.order.len() > BLOBS
            && let Some(oldest) = self.order.pop_front()
        {
            self.blobs.remove(&oldest);
        }
    }
}

/// The memory.
#[derive(Debug, Default)]
pub struct Known {
    inner: Mutex<Inner>,
}

impl Known {
    /// Remembers cards of peers.
    pub fn peers<'a>(&self, cards: impl IntoIterator<Item = &'a PeerCard>) {
        let mut inner = self.lock();
        for card in cards {
            if inner.cards.len() >= PEERS && !inner.cards.contains_key(&card.id) {
                continue;
            }
            // An away peer is told without addresses; the old ones may still be right when it is back.
            let mut card = card.clone();
            if card.addresses.is_empty()
                && let Some(old) = inner.cards.get(&card.id)
            {
                card.addresses.clone_from(&old.addresses);
            }
            inner.cards.insert(card.id, card);
        }
    }

    /// Remembers the answer to a lookup.
    pub fn providers(&self, providers: &Providers) {
        self.peers(&providers.peers);
        let mut inner = self.lock();
        for places in providers.answers.iter().flatten() {
            let Some(blob) = places.blob else { continue };
            let peers: Vec<PeerId> = places
                .places
                .iter()
                .filter_map(|place| providers.peers.get(place.peer as usize))
                .map(|card| card.id)
                .take(PROVIDERS)
                .collect();
            if peers.is_empty() {
                continue;
            }
            inner.remember(blob, Holders { size: places.size, peers });
        }
    }

    /// Remembers who has a blob.
    pub fn located(&self, blob: BlobId, found: &crate::link::Providers) {
        self.peers(&found.cards);
        let peers: Vec<PeerId> = found.cards.iter().map(|card| card.id).take(PROVIDERS).collect();
        if let Some(size) = found.size.filter(|_| !peers.is_empty()) {
            self.lock().remember(blob, Holders { size, peers });
        }
    }

    /// Who had this blob.
    pub fn holders(&self, blob: &BlobId) -> Option<(u64, Vec<PeerCard>)> {
        let inner = self.lock();
        let holders = inner.blobs.get(blob)?;
        let cards = holders.peers.iter().filter_map(|peer| inner.cards.get(peer).cloned()).collect();
        Some((holders.size, cards))
    }

    /// The card of a peer.
    pub fn card(&self, peer: &PeerId) -> Option<PeerCard> {
        self.lock().cards.get(peer).cloned()
    }

    /// The name of a peer, or its short key.
    pub fn name(&self, peer: &PeerId) -> String {
        self.lock().cards.get(peer).map_or_else(|| peer.short(), |card| card.name.to_string())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A panic between the few assignments leaves at most a blob too many.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
