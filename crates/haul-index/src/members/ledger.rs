//! The tables on disk behind [`super::Members`], in one redb file. Nothing else here names the database.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | counters | name | u64: `serial` = last certificate serial |
//! | members | peer 32 | [`MemberRecord`] |
//! | removals | peer 32 | [`RemovalRecord`] |
//! | tickets | BLAKE3 of the secret, 32 | [`TicketRecord`] |
//! | ticket uses | BLAKE3 of the secret 32, peer 32 | nothing |
//! | presence | peer 32 | [`PresenceRecord`] |
//!
//! Records are postcard, each an enum that starts with its version, so that later versions can be told apart.

use std::io::ErrorKind;
use std::path::Path;

use haul_core::ids::PeerId;
use haul_core::time::Timestamp;
use haul_core::trust::Role;
use haul_core::wire;
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

type Records<K> = TableDefinition<'static, K, &'static [u8]>;

const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");
const MEMBERS: Records<[u8; 32]> = TableDefinition::new("members");
const REMOVALS: Records<[u8; 32]> = TableDefinition::new("removals");
const TICKETS: Records<[u8; 32]> = TableDefinition::new("tickets");
const TICKET_USES: TableDefinition<([u8; 32], [u8; 32]), ()> = TableDefinition::new("ticket uses");
const PRESENCE: Records<[u8; 32]> = TableDefinition::new("presence");
const SERIAL: &str = "serial";
const FORMAT: &str = "format";
/// Version of the tables; a newer one is refused instead of damaged.
const FORMAT_VERSION: u64 = 1;

/// A ticket is known by the BLAKE3 hash of its secret.
pub(super) type TicketKey = [u8; 32];

/// A member as it stands on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum MemberRecord {
    /// The first form.
    V1 {
        serial: u64,
        issued: Timestamp,
        role: Role,
        name: String,
        groups: Vec<String>,
        /// Guests end with their ticket.
        until: Option<Timestamp>,
        /// Whose machine it is, if it does not stand for itself.
        user: Option<[u8; 32]>,
    },
}

/// A removed member as it stands on disk, for ever: certificates do not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum RemovalRecord {
    /// Certificates up to this serial are void.
    V1 { serial: u64, at: Timestamp },
}

/// A ticket as it stands on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum TicketRecord {
    /// The first form.
    V1 { made: Timestamp, expires: Timestamp, uses: u32, used: u32, role: Role, groups: Vec<String>, one_user: bool },
}

/// What was last known of a peer's presence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum PresenceRecord {
    /// `lease_end` is a moment of that boot; 0 means away.
    V1 { boot: [u8; 16], lease_end: u64, seen: Timestamp, origin: Option<String>, port: u16, claims: Vec<String> },
}

/// The storage failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LedgerError(String);

impl LedgerError {
    fn new(error: impl Into<redb::Error>) -> Self {
        Self(error.into().to_string())
    }
}

macro_rules! from_redb {
    ($($error:ident),*) => { $(impl From<redb::$error> for LedgerError {
        fn from(error: redb::$error) -> Self { Self::new(error) }
    })* };
}
from_redb!(DatabaseError, TransactionError, TableError, StorageError, CommitError, SetDurabilityError);

/// Everything on disk, read once at the start.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) serial: u64,
    pub(super) members: Vec<(PeerId, MemberRecord)>,
    pub(super) removals: Vec<(PeerId, RemovalRecord)>,
    pub(super) tickets: Vec<(TicketKey, TicketRecord)>,
    pub(super) ticket_uses: Vec<(TicketKey, PeerId)>,
    pub(super) presence: Vec<(PeerId, PresenceRecord)>,
}

/// One change of the tables.
#[derive(Debug)]
pub(super) enum Write {
    Serial(u64),
    Member(PeerId, Option<MemberRecord>),
    Removal(PeerId, Option<RemovalRecord>),
    Ticket(TicketKey, Option<TicketRecord>),
    TicketUse(TicketKey, PeerId, bool),
    Presence(PeerId, Option<PresenceRecord>),
}

/// The open tables.
#[derive(Debug)]
pub(super) struct Ledger {
    database: Database,
}

impl Ledger {
    /// Opens or creates the file and reads everything. redb panics on some pages that hold garbage; here that is an
    /// error like others.
    pub(super) fn open(path: &Path) -> Result<(Self, Contents), LedgerError> {
        // Taken for a new file, it would admit again whoever was removed.
        if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0) {
            return Err(LedgerError(
                "it is empty: put back a copy of it, or delete it if nobody was ever removed from this network".into(),
            ));
        }
        std::panic::catch_unwind(|| {
            let ledger = Self::open_tables(path)?;
            let contents = ledger.read()?;
            Ok((ledger, contents))
        })
        .unwrap_or_else(|_| Err(damaged("its pages are damaged")))
    }

    fn open_tables(path: &Path) -> Result<Self, LedgerError> {
        let database = Database::create(path).map_err(|error| match &error {
            redb::DatabaseError::Storage(redb::StorageError::Corrupted(_)) => damaged(&error),
            redb::DatabaseError::Storage(redb::StorageError::Io(read)) if read.kind() == ErrorKind::InvalidData => {
                damaged(&error)
            }
            _ => error.into(),
        })?;
        let transaction = begin(&database)?;
        {
            let mut counters = transaction.open_table(COUNTERS)?;
            let format = counters.get(FORMAT)?.map(|value| value.value());
            match format {
                None => drop(counters.insert(FORMAT, FORMAT_VERSION)?),
                Some(FORMAT_VERSION) => {}
                Some(other) => {
                    return Err(LedgerError(format!("it has the format {other} of a newer haul; use that version")));
                }
            }
            transaction.open_table(MEMBERS)?;
            transaction.open_table(REMOVALS)?;
            transaction.open_table(TICKETS)?;
            transaction.open_table(TICKET_USES)?;
            transaction.open_table(PRESENCE)?;
        }
        transaction.commit()?;
        Ok(Self { database })
    }

    /// Reads everything. A record that is not understood is an error: guessing would admit or expel somebody.
    fn read(&self) -> Result<Contents, LedgerError> {
        let transaction = self.database.begin_read()?;
        let serial = transaction.open_table(COUNTERS)?.get(SERIAL)?.map_or(0, |value| value.value());
        let mut ticket_uses = Vec::new();
        for row in transaction.open_table(TICKET_USES)?.iter()? {
            let (ticket, peer) = row?.0.value();
            ticket_uses.push((ticket, peer_id(peer)?));
        }
        Ok(Contents {
            serial,
            members: read_peers(&transaction.open_table(MEMBERS)?)?,
            removals: read_peers(&transaction.open_table(REMOVALS)?)?,
            tickets: read_records(&transaction.open_table(TICKETS)?)?,
            ticket_uses,
            presence: read_peers(&transaction.open_table(PRESENCE)?)?,
        })
    }

    /// Makes all changes durable, or none.
    pub(super) fn write(&self, writes: &[Write]) -> Result<(), LedgerError> {
        let transaction = begin(&self.database)?;
        apply(&transaction, writes)?;
        transaction.commit()?;
        Ok(())
    }
}

/// Nothing stands in for it: whoever was removed is told apart by it alone.
fn damaged(what: impl std::fmt::Display) -> LedgerError {
    LedgerError(format!("{what}: put back a copy of it"))
}

fn begin(database: &Database) -> Result<WriteTransaction, LedgerError> {
    let mut transaction = database.begin_write()?;
    // A database that was not closed opens without being read through.
    transaction.set_quick_repair(true);
    Ok(transaction)
}

fn apply(transaction: &WriteTransaction, writes: &[Write]) -> Result<(), LedgerError> {
    for write in writes {
        match write {
            Write::Serial(serial) => {
                transaction.open_table(COUNTERS)?.insert(SERIAL, serial)?;
            }
            Write::Member(peer, record) => {
                put(&mut transaction.open_table(MEMBERS)?, peer.as_bytes(), record.as_ref())?;
            }
            Write::Removal(peer, record) => {
                put(&mut transaction.open_table(REMOVALS)?, peer.as_bytes(), record.as_ref())?;
            }
            Write::Ticket(ticket, record) => {
                put(&mut transaction.open_table(TICKETS)?, ticket, record.as_ref())?;
            }
            Write::TicketUse(ticket, peer, used) => {
                let mut table = transaction.open_table(TICKET_USES)?;
                let key = (*ticket, *peer.as_bytes());
                if *used { drop(table.insert(key, ())?) } else { drop(table.remove(key)?) }
            }
            Write::Presence(peer, record) => {
                put(&mut transaction.open_table(PRESENCE)?, peer.as_bytes(), record.as_ref())?;
            }
        }
    }
    Ok(())
}

fn put<R: Serialize>(
    table: &mut Table<'_, [u8; 32], &'static [u8]>,
    key: &[u8; 32],
    record: Option<&R>,
) -> Result<(), LedgerError> {
    match record {
        Some(record) => drop(table.insert(*key, wire::encode(record).as_slice())?),
        None => drop(table.remove(*key)?),
    }
    Ok(())
}

fn read_records<R: DeserializeOwned>(
    table: &impl ReadableTable<[u8; 32], &'static [u8]>,
) -> Result<Vec<([u8; 32], R)>, LedgerError> {
    let mut records = Vec::new();
    for row in table.iter()? {
        let (key, value) = row?;
        let record = wire::decode(value.value())
            .map_err(|error| LedgerError(format!("it is damaged: a record is not understood ({error})")))?;
        records.push((key.value(), record));
    }
    Ok(records)
}

fn read_peers<R: DeserializeOwned>(
    table: &impl ReadableTable<[u8; 32], &'static [u8]>,
) -> Result<Vec<(PeerId, R)>, LedgerError> {
    read_records(table)?.into_iter().map(|(key, record)| Ok((peer_id(key)?, record))).collect()
}

fn peer_id(bytes: [u8; 32]) -> Result<PeerId, LedgerError> {
    PeerId::new(bytes).map_err(|error| LedgerError(format!("it is damaged: {error}")))
}
