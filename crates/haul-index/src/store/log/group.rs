//! A group as it goes to disk: header, meta, and pages, which are not copied unless they are small.

use std::io::IoSlice;
use std::ops::Range;

use haul_core::wire::encode;

use super::catalog::Catalog;
use super::format::{CHECK_BYTES, Header, Key, Kind, Record, encode_head};
use crate::store::StoreError;
use crate::store::disk::Write;

/// Pages below this many bytes are copied, so that many go into one system call; a larger one gets a slice of its own.
const COPY_BELOW: usize = 4 * 1024;
/// Zeros that a small group writes behind itself when it comes to the end of the file. The next groups overwrite them, and
/// a sync of bytes that the file has already writes no metadata (measured: docs/storage.md).
const ZEROS: usize = 64 * 1024;

static ZERO: [u8; ZEROS] = [0; ZEROS];

enum Piece<'a> {
    Copied(Range<usize>),
    Page(&'a [u8]),
}

/// What one sync makes durable.
#[derive(Default)]
pub(in crate::store) struct Group<'a> {
    /// What it changes.
    pub(in crate::store) records: Vec<Record>,
    /// Generations that nobody needs afterwards. The log does not say so: what no share names is dropped when it is read.
    pub(in crate::store) dropped: Vec<u64>,
    meta: Vec<u8>,
    copied: Vec<u8>,
    pieces: Vec<Piece<'a>>,
    body_bytes: usize,
}

impl<'a> Group<'a> {
    pub(in crate::store) fn new(writes: &'a [Write], key: &Key) -> Self {
        let mut group = Self::default();
        for write in writes {
            group.add(write, key);
        }
        group.meta = encode(&group.records);
        group
    }

    fn add(&mut self, write: &'a Write, key: &Key) {
        let record = match write {
            Write::Pages { generation, pages } => {
                for (number, page) in pages {
                    self.copy(&key.page(*generation, *number, page));
                    self.page(page);
                }
                let pages = pages.iter().map(|(number, page)| (*number, page.len() as u32)).collect();
                Record::Pages { generation: *generation, pages }
            }
            Write::Moved(pages) => {
                for page in pages {
                    self.page(&page.checked);
                }
                let length = |checked: usize| checked.saturating_sub(CHECK_BYTES) as u32;
                let pages =
                    pages.iter().map(|page| (page.generation, page.number, length(page.checked.len()))).collect();
                Record::Moved { pages }
            }
            Write::DropGeneration(generation) => {
                self.dropped.push(*generation);
                return;
            }
            Write::PutShare { peer, share, record } => {
                Record::PutShare { peer: *peer, share: *share, record: record.clone() }
            }
            Write::DropShare { peer, share } => Record::DropShare { peer: *peer, share: *share },
            Write::PutPeer { peer, record } => Record::PutPeer { peer: *peer, record: record.clone() },
            Write::DropPeer(peer) => Record::DropPeer { peer: *peer },
        };
        self.records.push(record);
    }

    fn page(&mut self, page: &'a [u8]) {
        if page.len() < COPY_BELOW {
            self.copy(page);
        } else {
            self.body_bytes += page.len();
            self.pieces.push(Piece::Page(page));
        }
    }

    fn copy(&mut self, bytes: &[u8]) {
        let start = self.copied.len();
        self.copied.extend_from_slice(bytes);
        self.body_bytes += bytes.len();
        match self.pieces.last_mut() {
            Some(Piece::Copied(range)) => range.end = self.copied.len(),
            _ => self.pieces.push(Piece::Copied(start..self.copied.len())),
        }
    }

    /// Bytes of header, meta and pages.
    pub(in crate::store) fn bytes(&self) -> u64 {
        (super::format::HEADER_BYTES + self.meta.len() + self.body_bytes) as u64
    }

    /// Its first body byte, if it stands at `offset`.
    pub(in crate::store) fn body_offset(&self, offset: u64) -> u32 {
        offset as u32 + (super::format::HEADER_BYTES + self.meta.len()) as u32
    }

    /// Calls `write` with the bytes of the group, and with zeros behind it if it is small and ends after `written`, where
    /// the file's own bytes end. Returns where the file ends then.
    pub(in crate::store) fn write<E>(
        &self,
        at: Place,
        written: u64,
        write: impl FnOnce(&mut [IoSlice<'_>]) -> Result<(), E>,
    ) -> Result<u64, E> {
        let header = Header::new(Kind::Changes, at.number, &self.meta, self.body_bytes as u32, at.key);
        let header = header.encode(at.key, at.segment, at.offset);
        let mut slices = vec![IoSlice::new(&header), IoSlice::new(&self.meta)];
        slices.extend(self.pieces.iter().map(|piece| match piece {
            Piece::Copied(range) => IoSlice::new(self.copied.get(range.clone()).unwrap_or_default()),
            Piece::Page(page) => IoSlice::new(page),
        }));
        let mut end = at.offset + self.bytes();
        if end > written && self.bytes() < ZEROS as u64 {
            slices.push(IoSlice::new(&ZERO));
            end += ZEROS as u64;
        }
        write(&mut slices)?;
        Ok(end.max(written))
    }
}

/// Where a group goes.
#[derive(Clone, Copy)]
pub(in crate::store) struct Place<'a> {
    pub(in crate::store) key: &'a Key,
    pub(in crate::store) segment: u32,
    pub(in crate::store) offset: u64,
    /// Of the group.
    pub(in crate::store) number: u64,
}

/// The start of a segment: its head and the catalog after group `number`.
pub(in crate::store) fn start_of_segment(
    catalog: &Catalog,
    key: &Key,
    segment: u32,
    number: u64,
) -> Result<Vec<u8>, StoreError> {
    let mut bytes = encode_head(segment, key).to_vec();
    let meta = encode(&catalog.snapshot());
    if u32::try_from(meta.len()).is_err() {
        return Err(StoreError::Storage("the index's catalog is larger than 4 GiB".into()));
    }
    let header = Header::new(Kind::Catalog, number, &meta, 0, key);
    bytes.extend_from_slice(&header.encode(key, segment, bytes.len() as u64));
    bytes.extend_from_slice(&meta);
    Ok(bytes)
}
