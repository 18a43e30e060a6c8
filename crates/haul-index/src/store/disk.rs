//! The database: what is acknowledged, as it came.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `meta` | `format` | u32, little endian |
//! | `peers` | peer key (32) | postcard [`PeerRecord`] |
//! | `shares` | peer key (32) ‖ share id (16) | postcard [`ShareRecord`] |
//! | `pages` | (generation, number) | a page as it came from the wire |
//!
//! A generation is one list of one share: pages in the order of their numbers, later ones amend earlier ones. Only the
//! share's record says which generation counts and up to which number; pages of others are left-overs of transactions
//! that did not commit, and go when the store opens.

use std::path::Path;

use bytes::Bytes;
use haul_core::ids::{PeerId, ShareId};
use haul_core::manifest::ShareState;
use haul_core::wire::{Label, decode, encode};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use super::StoreError;

const META: TableDefinition<'_, &str, u32> = TableDefinition::new("meta");
const PEERS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("peers");
const SHARES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("shares");
const PAGES: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("pages");

/// Version of the tables.
const FORMAT: u32 = 1;
/// Name of the file in the store's directory.
const FILE: &str = "index.redb";

/// What is kept of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PeerRecord {
    pub(super) name: Label,
    /// The boot on whose clock `lease_end` stands.
    pub(super) boot_id: [u8; 16],
    /// Milliseconds on the boot clock; 0 for a peer that left.
    pub(super) lease_end: u64,
    /// Shares that were open.
    pub(super) open: Vec<ShareId>,
}

/// What is kept of a share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ShareRecord {
    pub(super) name: Label,
    pub(super) groups: Vec<Label>,
    pub(super) state: ShareState,
    pub(super) generation: u64,
    pub(super) next_seq: u64,
    pub(super) base_bytes: u64,
    pub(super) amended_bytes: u64,
}

/// One step of a transaction of the database.
#[derive(Debug)]
pub(super) enum Write {
    Pages { generation: u64, pages: Vec<(u64, Bytes)> },
    DropGeneration(u64),
    PutShare { peer: PeerId, share: ShareId, record: ShareRecord },
    DropShare { peer: PeerId, share: ShareId },
    PutPeer { peer: PeerId, record: PeerRecord },
    DropPeer(PeerId),
}

impl Write {
    /// Bytes that it adds, about.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Pages { pages, .. } => pages.iter().map(|(_, page)| page.len() + 64).sum(),
            _ => 512,
        }
    }
}

/// The database of one store.
#[derive(Debug)]
pub(super) struct Disk {
    database: Database,
}

pub(super) fn failed(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Storage(error.into().to_string())
}

/// What reading back yields, in this order: all peers, all shares.
pub(super) trait Reader {
    fn peer(&mut self, peer: PeerId, record: PeerRecord) -> Result<(), StoreError>;
    /// Calls for a share; then its pages come in order, then [`Reader::share_end`].
    fn share(&mut self, peer: PeerId, share: ShareId, record: &ShareRecord) -> Result<(), StoreError>;
    fn page(&mut self, page: &[u8]) -> Result<(), StoreError>;
    fn share_end(&mut self) -> Result<(), StoreError>;
}

impl Disk {
    pub(super) fn open(dir: &Path, cache_bytes: usize) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir)
            .map_err(|error| StoreError::Storage(format!("cannot make the folder {}: {error}", dir.display())))?;
        let database = Database::builder().set_cache_size(cache_bytes).create(dir.join(FILE)).map_err(failed)?;
        let disk = Self { database };
        disk.prepare()?;
        Ok(disk)
    }

    fn prepare(&self) -> Result<(), StoreError> {
        let transaction = self.database.begin_write().map_err(failed)?;
        {
            let mut meta = transaction.open_table(META).map_err(failed)?;
            let format = meta.get("format").map_err(failed)?.map(|format| format.value());
            match format {
                None => {
                    meta.insert("format", FORMAT).map_err(failed)?;
                }
                Some(FORMAT) => {}
                Some(other) => {
                    return Err(StoreError::Storage(format!(
                        "the index's files have format {other}, this program reads {FORMAT}: use the program that wrote them, or move them away and let the peers register again"
                    )));
                }
            }
            transaction.open_table(PEERS).map_err(failed)?;
            transaction.open_table(SHARES).map_err(failed)?;
            transaction.open_table(PAGES).map_err(failed)?;
        }
        transaction.commit().map_err(failed)
    }

    /// Reads everything back. Returns the first generation that was never used, and the generations that no share
    /// names.
    pub(super) fn read(&self, reader: &mut impl Reader) -> Result<(u64, Vec<u64>), StoreError> {
        let transaction = self.database.begin_read().map_err(failed)?;
        for entry in transaction.open_table(PEERS).map_err(failed)?.iter().map_err(failed)? {
            let (key, value) = entry.map_err(failed)?;
            let (peer, _) = parse_key(key.value())?;
            reader.peer(peer, decode_record(value.value())?)?;
        }
        let pages = transaction.open_table(PAGES).map_err(failed)?;
        let mut used = std::collections::BTreeSet::new();
        for entry in transaction.open_table(SHARES).map_err(failed)?.iter().map_err(failed)? {
            let (key, value) = entry.map_err(failed)?;
            let (peer, share) = parse_key(key.value())?;
            let record: ShareRecord = decode_record(value.value())?;
            reader.share(peer, share, &record)?;
            for page in pages.range((record.generation, 0)..(record.generation, record.next_seq)).map_err(failed)? {
                reader.page(page.map_err(failed)?.1.value())?;
            }
            reader.share_end()?;
            used.insert(record.generation);
        }
        let mut unused = Vec::new();
        let mut next = 0;
        while let Some(page) = pages.range((next, 0)..).map_err(failed)?.next() {
            let generation = page.map_err(failed)?.0.value().0;
            if !used.contains(&generation) {
                unused.push(generation);
            }
            next = generation + 1;
        }
        let next = next.max(used.last().map_or(0, |last| last + 1));
        Ok((next, unused))
    }

    /// Performs all writes, durable when it returns.
    pub(super) fn write(&self, writes: &[Write]) -> Result<(), StoreError> {
        let mut transaction = self.database.begin_write().map_err(failed)?;
        // Opening after a crash then costs no walk through all pages.
        transaction.set_quick_repair(true);
        {
            let mut peers = transaction.open_table(PEERS).map_err(failed)?;
            let mut shares = transaction.open_table(SHARES).map_err(failed)?;
            let mut pages = transaction.open_table(PAGES).map_err(failed)?;
            for write in writes {
                match write {
                    Write::Pages { generation, pages: list } => {
                        for (number, page) in list {
                            pages.insert((*generation, *number), page.as_ref()).map_err(failed)?;
                        }
                    }
                    Write::DropGeneration(generation) => {
                        pages.retain_in((*generation, 0)..(*generation + 1, 0), |_, _| false).map_err(failed)?;
                    }
                    Write::PutShare { peer, share, record } => {
                        shares.insert(share_key(peer, share).as_slice(), encode(record).as_slice()).map_err(failed)?;
                    }
                    Write::DropShare { peer, share } => {
                        shares.remove(share_key(peer, share).as_slice()).map_err(failed)?;
                    }
                    Write::PutPeer { peer, record } => {
                        peers.insert(peer.as_bytes().as_slice(), encode(record).as_slice()).map_err(failed)?;
                    }
                    Write::DropPeer(peer) => {
                        peers.remove(peer.as_bytes().as_slice()).map_err(failed)?;
                    }
                }
            }
        }
        transaction.commit().map_err(failed)
    }
}

fn share_key(peer: &PeerId, share: &ShareId) -> Vec<u8> {
    [peer.as_bytes().as_slice(), &share.0].concat()
}

/// Peer, and share if the key has one.
fn parse_key(key: &[u8]) -> Result<(PeerId, ShareId), StoreError> {
    let damaged = || StoreError::Storage("the index's files are damaged: a key has a wrong form".into());
    let (peer, share) = key.split_first_chunk::<32>().ok_or_else(damaged)?;
    let peer = PeerId::new(*peer).map_err(|_| damaged())?;
    let share = if share.is_empty() { [0; 16] } else { share.try_into().map_err(|_| damaged())? };
    Ok((peer, ShareId(share)))
}

fn decode_record<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    decode(bytes).map_err(|_| StoreError::Storage("the index's files are damaged: a record does not decode".into()))
}
