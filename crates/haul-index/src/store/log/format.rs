//! Bytes of a segment: its head, the headers of groups, what a group says, and the checks over all of them.
//!
//! Checks are keyed with random bytes of the store. Pages are bytes from outside, and a reader that looks for the next
//! group behind damage goes through them: without the key nobody can make a page that reads as a group.

use haul_core::ids::{PeerId, ShareId};
use haul_core::wire::decode;
use serde::{Deserialize, Serialize};

use crate::store::disk::{PeerRecord, ShareRecord};

/// Version of the segments.
pub(in crate::store) const FORMAT: u32 = 1;
/// Bytes of a segment's head.
pub(in crate::store) const HEAD_BYTES: usize = 64;
/// Bytes of a group before its meta.
pub(in crate::store) const HEADER_BYTES: usize = 56;
/// Bytes of a check: as hard to meet by chance or by guessing as a random 128-bit number.
pub(in crate::store) const CHECK_BYTES: usize = 16;
/// First bytes of a group. Not ASCII and no start of a page, so that looking for it rarely stops in vain.
pub(in crate::store) const MARK: [u8; 4] = [0xf1, b'g', b'r', b'p'];

const MAGIC: [u8; 8] = *b"haul-log";

pub(in crate::store) type Check = [u8; CHECK_BYTES];

fn first_bytes(hasher: &blake3::Hasher) -> Check {
    let mut check = [0; CHECK_BYTES];
    hasher.finalize_xof().fill(&mut check);
    check
}

/// Random bytes that all checks of one store are keyed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Key(pub(in crate::store) [u8; 32]);

impl Key {
    fn check(&self, domain: [u8; 4], parts: &[&[u8]]) -> Check {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&domain);
        for part in parts {
            hasher.update(part);
        }
        first_bytes(&hasher)
    }

    /// Check of a page, which stands before it. It says which page it is, not where it lies: a page moves as it is.
    pub(in crate::store) fn page(&self, generation: u64, number: u64, page: &[u8]) -> Check {
        self.check(*b"page", &[&generation.to_le_bytes(), &number.to_le_bytes(), page])
    }
}

/// What the first bytes of a file say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Head {
    /// A segment of this version.
    Segment { number: u32, key: Key },
    /// A segment of another version of haul.
    Version(u32),
    /// No head at all, or a damaged one.
    Unreadable,
}

/// The head of a segment.
pub(in crate::store) fn encode_head(number: u32, key: &Key) -> [u8; HEAD_BYTES] {
    let fields = [&MAGIC[..], &FORMAT.to_le_bytes(), &number.to_le_bytes(), &key.0].concat();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&fields);
    let mut head = [0; HEAD_BYTES];
    for (to, from) in head.iter_mut().zip(fields.iter().chain(&first_bytes(&hasher))) {
        *to = *from;
    }
    head
}

/// Reads the start of a file.
pub(in crate::store) fn decode_head(bytes: &[u8]) -> Head {
    let mut reader = Reader(bytes);
    let parts =
        (|| Some((reader.array::<8>()?, reader.u32()?, reader.u32()?, reader.array::<32>()?, reader.array()?)))();
    let Some((MAGIC, version, number, key, check)) = parts else { return Head::Unreadable };
    let mut hasher = blake3::Hasher::new();
    hasher.update(bytes.get(..HEAD_BYTES - CHECK_BYTES).unwrap_or_default());
    match version {
        // The check tells a damaged version from another one: every version keeps it.
        _ if first_bytes(&hasher) != check => Head::Unreadable,
        FORMAT => Head::Segment { number, key: Key(key) },
        other => Head::Version(other),
    }
}

/// What a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Kind {
    /// Changes, as one sync made them durable; its number is one more than that of the group before.
    Changes,
    /// The whole catalog after the group of this number.
    Catalog,
}

/// What stands before a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Header {
    pub(in crate::store) kind: Kind,
    pub(in crate::store) number: u64,
    pub(in crate::store) meta_bytes: u32,
    pub(in crate::store) body_bytes: u32,
    meta_check: Check,
}

impl Header {
    pub(in crate::store) fn new(kind: Kind, number: u64, meta: &[u8], body_bytes: u32, key: &Key) -> Self {
        Self { kind, number, meta_bytes: meta.len() as u32, body_bytes, meta_check: key.check(*b"meta", &[meta]) }
    }

    /// Bytes of the group, header included.
    pub(in crate::store) fn group_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.meta_bytes) + u64::from(self.body_bytes)
    }

    /// The header of a group that stands at `offset` of a segment, and nowhere else.
    pub(in crate::store) fn encode(&self, key: &Key, segment: u32, offset: u64) -> Vec<u8> {
        let kind = match self.kind {
            Kind::Changes => 0_u32,
            Kind::Catalog => 1,
        };
        let mut bytes = [
            &MARK[..],
            &kind.to_le_bytes(),
            &self.number.to_le_bytes(),
            &self.meta_bytes.to_le_bytes(),
            &self.body_bytes.to_le_bytes(),
            &self.meta_check,
        ]
        .concat();
        let check = key.check(*b"head", &[&segment.to_le_bytes(), &offset.to_le_bytes(), &bytes]);
        bytes.extend_from_slice(&check);
        bytes
    }

    /// Reads a header; none if this is no header, or not the one of this place.
    pub(in crate::store) fn decode(bytes: &[u8], key: &Key, segment: u32, offset: u64) -> Option<Self> {
        let mut reader = Reader(bytes);
        if reader.array()? != MARK {
            return None;
        }
        let kind = match reader.u32()? {
            0 => Kind::Changes,
            1 => Kind::Catalog,
            _ => return None,
        };
        let number = u64::from_le_bytes(reader.array()?);
        let (meta_bytes, body_bytes) = (reader.u32()?, reader.u32()?);
        let meta_check = reader.array()?;
        let checked = bytes.get(..HEADER_BYTES - CHECK_BYTES)?;
        let check = key.check(*b"head", &[&segment.to_le_bytes(), &offset.to_le_bytes(), checked]);
        (reader.array()? == check).then_some(Self { kind, number, meta_bytes, body_bytes, meta_check })
    }

    /// Whether these are the bytes after the header.
    pub(in crate::store) fn fits(&self, meta: &[u8], key: &Key) -> bool {
        meta.len() == self.meta_bytes as usize && key.check(*b"meta", &[meta]) == self.meta_check
    }
}

/// Where a page lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Place {
    pub(in crate::store) segment: u32,
    /// Of its check; the page follows.
    pub(in crate::store) offset: u32,
    /// Bytes of the page.
    pub(in crate::store) length: u32,
}

impl Place {
    /// Bytes of the page with its check.
    pub(in crate::store) fn bytes(&self) -> u64 {
        CHECK_BYTES as u64 + u64::from(self.length)
    }

    /// The byte after the page.
    pub(in crate::store) fn end(&self) -> u64 {
        u64::from(self.offset) + self.bytes()
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) enum Record {
    /// Pages (number, length) of a generation. They follow the meta, each behind its check, in this order.
    Pages {
        generation: u64,
        pages: Vec<(u64, u32)>,
    },
    /// Pages (generation, number, length) that lie here from now on; they follow like those of [`Record::Pages`].
    Moved {
        pages: Vec<(u64, u64, u32)>,
    },
    PutShare {
        peer: PeerId,
        share: ShareId,
        record: ShareRecord,
    },
    DropShare {
        peer: PeerId,
        share: ShareId,
    },
    PutPeer {
        peer: PeerId,
        record: PeerRecord,
    },
    DropPeer {
        peer: PeerId,
    },
}

/// The catalog as a group of its own, everything in ascending order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) struct Snapshot {
    pub(in crate::store) next_generation: u64,
    pub(in crate::store) peers: Vec<(PeerId, PeerRecord)>,
    pub(in crate::store) shares: Vec<(PeerId, ShareId, ShareRecord)>,
    pub(in crate::store) generations: Vec<(u64, Vec<(u64, Place)>)>,
}

/// What a group says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) enum Meta {
    Changes(Vec<Record>),
    Catalog(Snapshot),
}

impl Meta {
    /// None if the bytes say nothing that this version knows.
    pub(in crate::store) fn decode(kind: Kind, bytes: &[u8]) -> Option<Self> {
        match kind {
            Kind::Changes => decode(bytes).ok().map(Self::Changes),
            Kind::Catalog => decode(bytes).ok().map(Self::Catalog),
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }
}
