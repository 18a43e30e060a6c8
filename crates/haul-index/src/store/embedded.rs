//! The store of one process: rows, bitmaps and postings in memory, pages on disk.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use haul_core::ids::{PeerId, ShareId};
use haul_core::manifest::ShareState;
use haul_core::time::Moment;
use haul_core::wire::Label;
use haul_core::wire::index::{Hits, Listing, LookupKeys};

use super::{
    Asker, BrowseQuestion, Found, IndexStore, Opened, PeerTotals, SearchQuestion, ShareOffer, StoreError, StoreStats,
    TransactionId,
};

/// What a test or an operator may set.
#[derive(Clone)]
pub struct StoreSettings {
    /// Bytes of pages that the database keeps in memory.
    pub cache_bytes: usize,
    /// Names the boot of this machine.
    pub boot_id: [u8; 16],
    /// Reads the boot clock.
    pub now: Arc<dyn Fn() -> Moment + Send + Sync>,
}

impl fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreSettings").field("cache_bytes", &self.cache_bytes).finish_non_exhaustive()
    }
}

/// An [`IndexStore`] in this process with its files in one directory.
#[derive(Debug)]
pub struct EmbeddedStore {}

impl EmbeddedStore {
    /// Opens or creates the store in `dir` and reads everything that was acknowledged.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let _ = dir;
        Ok(Self {})
    }
}

fn unbuilt<T>() -> Result<T, StoreError> {
    Err(StoreError::Storage("not built yet".into()))
}

impl IndexStore for EmbeddedStore {
    async fn connect(&self, _peer: PeerId, _name: Label) -> Result<(), StoreError> {
        unbuilt()
    }
    async fn open(&self, _peer: PeerId, _share: ShareOffer) -> Result<Opened, StoreError> {
        unbuilt()
    }
    async fn begin(
        &self,
        _peer: PeerId,
        _share: ShareId,
        _base: Option<ShareState>,
    ) -> Result<TransactionId, StoreError> {
        unbuilt()
    }
    async fn stage(&self, _tx: TransactionId, _page: Bytes) -> Result<(), StoreError> {
        unbuilt()
    }
    async fn commit(&self, _tx: TransactionId, _state: ShareState, _changes: u64) -> Result<ShareState, StoreError> {
        unbuilt()
    }
    async fn abort(&self, _tx: TransactionId) {}
    async fn close(&self, _peer: PeerId, _share: ShareId, _forget: bool) -> Result<(), StoreError> {
        unbuilt()
    }
    async fn heartbeat(&self, _peer: PeerId, _lease_end: Moment) -> Result<(), StoreError> {
        unbuilt()
    }
    async fn leave(&self, _peer: PeerId) -> Result<(), StoreError> {
        unbuilt()
    }
    async fn forget(&self, _peer: PeerId) -> Result<(), StoreError> {
        unbuilt()
    }
    async fn lookup(&self, _asker: &Asker, _keys: &LookupKeys, _max: usize, _away: bool) -> Result<Found, StoreError> {
        unbuilt()
    }
    async fn search(&self, _asker: &Asker, _question: SearchQuestion<'_>) -> Result<Hits, StoreError> {
        unbuilt()
    }
    async fn browse(&self, _asker: &Asker, _question: BrowseQuestion<'_>) -> Result<Listing, StoreError> {
        unbuilt()
    }
    async fn totals(&self, _asker: &Asker, _peer: PeerId) -> PeerTotals {
        PeerTotals::default()
    }
    async fn maintain(&self, _budget: Duration) -> Result<bool, StoreError> {
        Ok(false)
    }
    fn visibility(&self) -> Duration {
        Duration::ZERO
    }
    fn stats(&self) -> StoreStats {
        StoreStats::default()
    }
}
