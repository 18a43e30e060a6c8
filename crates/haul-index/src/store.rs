//! What an index keeps, in domain verbs. No engine type appears in a signature.
//!
//! Presence rule: an entry counts (in hits, totals, providers, near matches, listings) only if its peer is connected,
//! its share is open and the asker may see the share. `away` in a question drops the first two conditions, never the
//! third.

mod background;
mod browse;
mod disk;
mod embedded;
mod load;
mod locate;
mod log;
mod lookup;
mod memory;
mod merge;
mod presence;
mod registration;
mod search;
mod trigrams;
mod upkeep;
mod writer;

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use haul_core::ids::{BlobId, PeerId, ShareId};
use haul_core::manifest::ShareState;
use haul_core::path::SharePath;
use haul_core::query::Query;
use haul_core::time::Moment;
use haul_core::wire::Label;
use haul_core::wire::index::{Hits, Listing, Located, LookupKeys, Place};

pub use embedded::{EmbeddedStore, StoreSettings};
pub use trigrams::SearchSettings;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such peer, share or transaction.
    #[error("not open")]
    NotOpen,
    /// The base of an amendment, or the digest or count at commit, is not what the store has.
    #[error("the state differs from what the store has")]
    StateMismatch,
    /// A page that breaks the rules of its transaction.
    #[error("bad page: {0}")]
    BadPage(String),
    /// Over a limit.
    #[error("too much: {0}")]
    TooMuch(String),
    /// A cursor that this store did not make.
    #[error("not a cursor of this index")]
    BadCursor,
    /// No peer, share or directory of this name.
    #[error("not found")]
    NotFound,
    /// Come back later.
    #[error("busy, come back in {retry_after:?}")]
    Busy {
        /// Not before.
        retry_after: Duration,
    },
    /// The storage underneath failed; what was acknowledged is kept.
    #[error("storage failed: {0}")]
    Storage(String),
}

/// A share as its peer opens it.
#[derive(Clone, Debug)]
pub struct ShareOffer {
    /// The share.
    pub id: ShareId,
    /// Its name, unique on its peer.
    pub name: Label,
    /// Groups that see it; empty means everyone.
    pub groups: Vec<Label>,
    /// State of the peer's list.
    pub state: ShareState,
}

/// What a store answers to an opened share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Both hold the same list; visible now.
    Same,
    /// The store holds this older state, visible now.
    Amend(ShareState),
    /// The store holds nothing usable.
    Replace,
}

/// A transaction of one store, until commit, abort or the end of the peer's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TransactionId(pub u64);

/// Who asks: visibility depends on it.
#[derive(Clone, Debug)]
pub struct Asker {
    /// The asking peer.
    pub peer: PeerId,
    /// The groups it belongs to, besides everyone.
    pub groups: Vec<Label>,
}

/// The group that every member is in.
const EVERYONE: &str = "everyone";

impl Asker {
    /// Whether a share with these groups is visible to this one; no groups mean everyone.
    pub fn may_see(&self, groups: &[Label]) -> bool {
        groups.is_empty() || groups.iter().any(|group| group.as_str() == EVERYONE || self.groups.contains(group))
    }
}

/// Where one blob is, as a store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobFound {
    /// The blob; none for a file without a hash yet.
    pub blob: Option<BlobId>,
    /// Bytes.
    pub size: u64,
    /// Places as many as asked for; `Place::peer` counts into [`Found::peers`].
    pub places: Vec<Place>,
    /// Places in all that the asker may see.
    pub total: u32,
}

/// Answer to a lookup: one list per key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Each peer once.
    pub peers: Vec<PeerId>,
    /// In the order of the keys.
    pub answers: Vec<Vec<BlobFound>>,
    /// Share of the index that took part, in thousandths.
    pub coverage_permille: u16,
    /// Rows that were looked at: what the lookup has cost.
    pub walked: u64,
}

impl Default for Found {
    fn default() -> Self {
        Self { peers: Vec::new(), answers: Vec::new(), coverage_permille: 1_000, walked: 0 }
    }
}

/// A search, ready to run.
#[derive(Clone, Debug)]
pub struct SearchQuestion<'a> {
    /// What.
    pub query: &'a Query,
    /// Hits at most.
    pub limit: usize,
    /// Behind the last hit of an earlier answer.
    pub cursor: Option<&'a [u8]>,
    /// Entries of peers that are away count too.
    pub away: bool,
    /// Wall clock in nanoseconds since 1970, for `age:`.
    pub now_ns: i64,
    /// Every hit is counted, however many there are.
    pub exact: bool,
}

/// A directory to list.
#[derive(Clone, Debug)]
pub struct BrowseQuestion<'a> {
    /// The peer.
    pub peer: PeerId,
    /// The share; none lists the shares.
    pub share: Option<&'a Label>,
    /// Path within the share.
    pub path: &'a SharePath,
    /// All below instead of the children.
    pub recursive: bool,
    /// Behind the last entry of an earlier answer.
    pub cursor: Option<&'a [u8]>,
}

/// What one peer offers, as one asker sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerTotals {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What one asker may see of all peers, there or away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VisibleTotals {
    /// Shares.
    pub shares: u64,
    /// Files.
    pub files: u64,
    /// Their bytes, every copy counted.
    pub bytes: u64,
    /// Distinct blobs; none if some share is hidden from the asker: they are only counted all together.
    pub blobs: Option<u64>,
}

/// Totals of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Shares held.
    pub shares: u64,
    /// Files held, hidden ones included.
    pub files: u64,
    /// Their bytes, every copy counted.
    pub bytes: u64,
    /// Distinct blobs.
    pub blobs: u64,
    /// Distinct names in the search index.
    pub names: u64,
    /// Bytes of its files on this machine.
    pub disk_bytes: u64,
    /// Bytes of the search index in memory, without the names themselves.
    pub search_bytes: u64,
    /// How much of what is on disk is in memory, in thousandths: less than 1,000 for a while after a start.
    pub loaded_permille: u16,
}

/// Who has one content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners {
    /// Places that the asker may see, as far as they are counted.
    pub total: u32,
    /// Their peers, those that are there first.
    pub peers: Vec<u32>,
}

/// The index's memory. Two implementations (embedded, cluster) pass one conformance suite.
pub trait IndexStore: Send + Sync + 'static {
    /// The peer is there; none of its shares is open yet. A repeated connect closes what was open.
    fn connect(&self, peer: PeerId, name: Label) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Opens a share: what the store holds of it is visible from now on.
    fn open(&self, peer: PeerId, share: ShareOffer) -> impl Future<Output = Result<Opened, StoreError>> + Send;
    /// Starts to amend `base`, or to replace everything.
    fn begin(
        &self,
        peer: PeerId,
        share: ShareId,
        base: Option<ShareState>,
    ) -> impl Future<Output = Result<TransactionId, StoreError>> + Send;
    /// Stages one page, checked but not visible.
    fn stage(&self, tx: TransactionId, page: Bytes) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Makes the staged changes durable and visible, all or none. The digest afterwards must be `state`'s.
    fn commit(
        &self,
        tx: TransactionId,
        state: ShareState,
        changes: u64,
    ) -> impl Future<Output = Result<ShareState, StoreError>> + Send;
    /// Drops what was staged.
    fn abort(&self, tx: TransactionId) -> impl Future<Output = ()> + Send;
    /// Hides a share, or deletes it.
    fn close(&self, peer: PeerId, share: ShareId, forget: bool) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Notes that the peer's lease runs until then, so that a restart on the same boot keeps counting it as online.
    fn heartbeat(&self, peer: PeerId, lease_end: Moment) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// The peer is gone: everything of it is hidden at once; its open transactions are dropped.
    fn leave(&self, peer: PeerId) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Deletes everything of the peer.
    fn forget(&self, peer: PeerId) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Who has these blobs or names.
    fn lookup(
        &self,
        asker: &Asker,
        keys: &LookupKeys,
        max: usize,
        away: bool,
    ) -> impl Future<Output = Result<Found, StoreError>> + Send;
    /// Who has these blobs, in short: each peer once per blob, those that are there first, `max` at most and
    /// [`haul_core::limits::LOCATED_PEERS`] for all blobs together; places counted up to
    /// [`haul_core::limits::LOCATED_PLACES`]. Peers are named by numbers of this store, from 0 without gaps, which keep
    /// their meaning while the process runs.
    fn locate(
        &self,
        asker: &Asker,
        blobs: &[BlobId],
        max: usize,
        away: bool,
    ) -> impl Future<Output = Result<Located, StoreError>> + Send;
    /// Who has this blob in this size, whatever sizes others claim: each peer once, up to
    /// [`haul_core::limits::LOCATED_PLACES`] places looked at. `peers` are numbers as in [`Self::locate`].
    fn owners(
        &self,
        asker: &Asker,
        blob: BlobId,
        size: u64,
        away: bool,
    ) -> impl Future<Output = Result<Owners, StoreError>> + Send;
    /// The peers with these numbers of [`Self::locate`].
    fn peer_ids(&self, numbers: &[u32]) -> Vec<Option<PeerId>>;
    /// Finds names.
    fn search(
        &self,
        asker: &Asker,
        question: SearchQuestion<'_>,
    ) -> impl Future<Output = Result<Hits, StoreError>> + Send;
    /// Lists a directory.
    fn browse(
        &self,
        asker: &Asker,
        question: BrowseQuestion<'_>,
    ) -> impl Future<Output = Result<Listing, StoreError>> + Send;
    /// What a peer offers.
    fn totals(&self, asker: &Asker, peer: PeerId) -> impl Future<Output = PeerTotals> + Send;
    /// What all peers offer.
    fn visible(&self, asker: &Asker) -> impl Future<Output = VisibleTotals> + Send;
    /// Sweeps, merges and compacts for about `budget`; returns whether work is left.
    fn maintain(&self, budget: Duration) -> impl Future<Output = Result<bool, StoreError>> + Send;
    /// Whether lookups, searches and listings are answered from memory, without waiting for anything.
    fn answers_at_once(&self) -> bool;
    /// How long after an acknowledged change other connections may still see the old state. Embedded: zero.
    fn visibility(&self) -> Duration;
    /// Totals, whoever may see what.
    fn stats(&self) -> StoreStats;
}
