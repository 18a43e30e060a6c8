//! Entries of a share, the pages that carry them, and the state that says whether two sides hold the same list.
//!
//! The record of an entry is canonical: the same bytes are hashed into the registration digest, sent, and stored.
//!
//! ```text
//! page      = directory group, one or more
//! group     = u16 dir_len ‖ dir ‖ u16 count ‖ record × count        (integers little endian)
//! record    = u8 tag ‖ u8 name_len ‖ name ‖ body
//! tag       = bits 0-1: 0 file, 1 directory, 2 symlink, 3 removed
//!             bit 2: executable (files only); bit 3: hashed (files only); other bits 0
//! body      = file:      u64 size ‖ i64 mtime_ns ‖ blob (32 bytes, only if hashed)
//!             directory: i64 mtime_ns
//!             symlink:   i64 mtime_ns ‖ u16 target_len ‖ target
//!             removed:   nothing
//! digest of one entry = BLAKE3(u16 dir_len ‖ dir ‖ record)
//! ```
//!
//! Groups on a page are sorted by directory bytes and records in a group by name bytes, both strictly ascending, so a
//! list of changes has one form and no duplicates.

use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::BlobId;
use crate::limits;
use crate::path::{self, PathError};

const TAG_KIND: u8 = 0b0011;
const TAG_EXECUTABLE: u8 = 0b0100;
const TAG_HASHED: u8 = 0b1000;

/// What an entry is, with what only that kind has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind<'a> {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// Whether the owner may execute it.
        executable: bool,
        /// Its content; none while it is being hashed.
        blob: Option<BlobId>,
    },
    /// A directory, listed even when empty.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Where it points, as stored in the link.
        target: &'a [u8],
    },
}

/// One line of a share's manifest, borrowed from a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Path of the directory that holds it, within the share.
    pub directory: &'a [u8],
    /// Its name in that directory.
    pub name: &'a [u8],
    /// Time of last modification, nanoseconds since 1970; may be negative.
    pub mtime_ns: i64,
    /// Kind and what belongs to it.
    pub kind: EntryKind<'a>,
}

/// One record of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// The entry is there now, new or changed.
    Upsert(Entry<'a>),
    /// The path is gone.
    Remove {
        /// Path of the directory that held it.
        directory: &'a [u8],
        /// Its name in that directory.
        name: &'a [u8],
    },
}

impl<'a> Change<'a> {
    /// Directory and name: the key by which changes are sorted.
    pub fn key(&self) -> (&'a [u8], &'a [u8]) {
        match self {
            Self::Upsert(entry) => (entry.directory, entry.name),
            Self::Remove { directory, name } => (directory, name),
        }
    }
}

/// Why bytes are not a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageError {
    /// The bytes end inside a record, or a group is empty.
    Truncated,
    /// A tag with unknown or contradictory bits.
    Tag,
    /// A directory, name or link target that is not allowed.
    Path(PathError),
    /// Groups or records out of order, or twice the same.
    Order,
    /// More than [`limits::PAGE_ENTRIES`] records or [`limits::PAGE_BYTES`] bytes.
    TooLarge,
    /// A file larger than [`limits::BLOB_BYTES`].
    Size,
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("a page ends inside a record"),
            Self::Tag => f.write_str("a record has an unknown tag"),
            Self::Path(error) => write!(f, "a record has a bad path: {error}"),
            Self::Order => f.write_str("records are out of order or doubled"),
            Self::TooLarge => f.write_str("a page has more than 1,000 entries or 256 KiB"),
            Self::Size => f.write_str("a file is larger than a blob can be"),
        }
    }
}

impl core::error::Error for PageError {}

impl From<PathError> for PageError {
    fn from(error: PathError) -> Self {
        Self::Path(error)
    }
}

/// A page whose every record has been checked; iterating cannot fail any more.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    bytes: &'a [u8],
    changes: usize,
}

impl<'a> Page<'a> {
    /// Checks the whole page: form, names, order, limits.
    pub fn check(bytes: &'a [u8]) -> Result<Self, PageError> {
        if bytes.len() > limits::PAGE_BYTES {
            return Err(PageError::TooLarge);
        }
        let mut reader = PageReader::new(bytes);
        let mut changes = 0;
        let mut last: Option<(&[u8], &[u8])> = None;
        while let Some(change) = reader.next_change(true)? {
            let key = change.key();
            if last.is_some_and(|last| last >= key) {
                return Err(PageError::Order);
            }
            last = Some(key);
            changes += 1;
            if changes > limits::PAGE_ENTRIES {
                return Err(PageError::TooLarge);
            }
        }
        Ok(Self { bytes, changes })
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.changes
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.changes == 0
    }

    /// The records in order.
    pub fn changes(&self) -> impl Iterator<Item = Change<'a>> + use<'a> {
        let mut reader = PageReader::new(self.bytes);
        core::iter::from_fn(move || reader.next_change(false).ok().flatten())
    }
}

struct PageReader<'a> {
    rest: &'a [u8],
    directory: &'a [u8],
    left_in_group: u16,
    started: bool,
}

impl<'a> PageReader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, directory: &[], left_in_group: 0, started: false }
    }

    /// The next record. Each call consumes at least two bytes or ends. Order of groups is checked with `check`: a
    /// repeated directory would let two equal keys hide behind a group border.
    fn next_change(&mut self, check: bool) -> Result<Option<Change<'a>>, PageError> {
        if self.left_in_group == 0 {
            if self.rest.is_empty() {
                return Ok(None);
            }
            let length = self.u16()?;
            let directory = self.take(length as usize)?;
            self.left_in_group = self.u16()?;
            if check {
                path::check_path(directory)?;
                if self.left_in_group == 0 {
                    return Err(PageError::Truncated);
                }
                if self.started && self.directory >= directory {
                    return Err(PageError::Order);
                }
            }
            self.directory = directory;
            self.started = true;
        }
        self.left_in_group = self.left_in_group.saturating_sub(1);
        self.record(check).map(Some)
    }

    fn record(&mut self, check: bool) -> Result<Change<'a>, PageError> {
        let tag = self.array::<1>()?[0];
        let name_length = self.array::<1>()?[0];
        let name = self.take(name_length as usize)?;
        let directory = self.directory;
        if check {
            path::check_name(name)?;
            let joined = directory.len() + usize::from(!directory.is_empty()) + name.len();
            let depth = 1 + if directory.is_empty() { 0 } else { directory.split(|byte| *byte == b'/').count() };
            if joined > limits::PATH_BYTES || depth > limits::PATH_COMPONENTS {
                return Err(PageError::Path(PathError::PathTooLong));
            }
        }
        let kind = tag & TAG_KIND;
        let flags = tag & !TAG_KIND;
        if flags & !(TAG_EXECUTABLE | TAG_HASHED) != 0 || (kind != 0 && flags != 0) {
            return Err(PageError::Tag);
        }
        let (mtime_ns, kind) = match kind {
            0 => {
                let size = u64::from_le_bytes(self.array()?);
                if check && size > limits::BLOB_BYTES {
                    return Err(PageError::Size);
                }
                let mtime_ns = i64::from_le_bytes(self.array()?);
                let blob = if flags & TAG_HASHED != 0 { Some(BlobId::new(self.array()?)) } else { None };
                (mtime_ns, EntryKind::File { size, executable: flags & TAG_EXECUTABLE != 0, blob })
            }
            1 => (i64::from_le_bytes(self.array()?), EntryKind::Directory),
            2 => {
                let mtime_ns = i64::from_le_bytes(self.array()?);
                let length = self.u16()?;
                let target = self.take(length as usize)?;
                if check {
                    check_target(target)?;
                }
                (mtime_ns, EntryKind::Symlink { target })
            }
            _ => return Ok(Change::Remove { directory, name }),
        };
        Ok(Change::Upsert(Entry { directory, name, mtime_ns, kind }))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], PageError> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(PageError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], PageError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(PageError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    fn u16(&mut self) -> Result<u16, PageError> {
        Ok(u16::from_le_bytes(self.array()?))
    }
}

/// A link target is any non-empty byte string without NUL, up to [`limits::LINK_TARGET_BYTES`].
pub fn check_target(target: &[u8]) -> Result<(), PathError> {
    match target {
        [] => Err(PathError::Empty),
        _ if target.len() > limits::LINK_TARGET_BYTES => Err(PathError::PathTooLong),
        _ if target.contains(&0) => Err(PathError::Byte),
        _ => Ok(()),
    }
}

/// Builds pages from changes that arrive sorted by (directory, name).
#[derive(Debug, Default)]
pub struct PageBuilder {
    bytes: Vec<u8>,
    /// Where the open group's directory and its count stand.
    group: Option<(core::ops::Range<usize>, usize)>,
    changes: usize,
}

impl PageBuilder {
    /// A builder without records.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a record if the page has room for it, else returns false: finish this page and start another.
    ///
    /// Changes must come in ascending order of (directory, name); [`Page::check`] of the other side refuses the page
    /// otherwise.
    pub fn push(&mut self, change: &Change<'_>) -> bool {
        let (directory, name) = change.key();
        // An upper bound is enough: group header, tag, name, the largest body.
        let target = match change {
            Change::Upsert(Entry { kind: EntryKind::Symlink { target }, .. }) => target.len(),
            _ => 0,
        };
        let room = directory.len() + name.len() + target + 64;
        if self.changes == limits::PAGE_ENTRIES || self.bytes.len() + room > limits::PAGE_BYTES {
            return false;
        }
        self.open_group(directory);
        push_record(&mut self.bytes, change);
        self.changes += 1;
        if let Some((_, count_at)) = &self.group
            && let Some(count) = self.bytes.get_mut(*count_at..).and_then(|bytes| bytes.first_chunk_mut::<2>())
        {
            *count = (u16::from_le_bytes(*count) + 1).to_le_bytes();
        }
        true
    }

    /// Number of records so far.
    pub fn len(&self) -> usize {
        self.changes
    }

    /// Whether there is no record yet.
    pub fn is_empty(&self) -> bool {
        self.changes == 0
    }

    /// The page's bytes; the builder is empty afterwards.
    pub fn finish(&mut self) -> Vec<u8> {
        self.group = None;
        self.changes = 0;
        core::mem::take(&mut self.bytes)
    }

    fn open_group(&mut self, directory: &[u8]) {
        let same = self.group.as_ref().is_some_and(|(range, _)| self.bytes.get(range.clone()) == Some(directory));
        if same {
            return;
        }
        push_length(&mut self.bytes, directory.len());
        let start = self.bytes.len();
        self.bytes.extend_from_slice(directory);
        let count_at = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.group = Some((start..count_at, count_at));
    }
}

fn push_length(bytes: &mut Vec<u8>, length: usize) {
    bytes.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes());
}

fn push_record(bytes: &mut Vec<u8>, change: &Change<'_>) {
    let (_, name) = change.key();
    let tag = match change {
        Change::Remove { .. } => 3,
        Change::Upsert(entry) => match entry.kind {
            EntryKind::File { executable, blob, .. } => {
                u8::from(executable) * TAG_EXECUTABLE + u8::from(blob.is_some()) * TAG_HASHED
            }
            EntryKind::Directory => 1,
            EntryKind::Symlink { .. } => 2,
        },
    };
    bytes.push(tag);
    bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    bytes.extend_from_slice(name);
    let Change::Upsert(entry) = change else { return };
    if let EntryKind::File { size, .. } = entry.kind {
        bytes.extend_from_slice(&size.to_le_bytes());
    }
    bytes.extend_from_slice(&entry.mtime_ns.to_le_bytes());
    match entry.kind {
        EntryKind::File { blob: Some(blob), .. } => bytes.extend_from_slice(blob.as_bytes()),
        EntryKind::Symlink { target } => {
            push_length(bytes, target.len());
            bytes.extend_from_slice(target);
        }
        EntryKind::File { blob: None, .. } | EntryKind::Directory => {}
    }
}

/// Sum modulo 2^256 of the hashes of a share's entries.
///
/// It answers one question between a peer and its index: has my own share changed? A second list with the same sum
/// can be computed, so it is never a name, a link, a cache key, or compared between peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RegistrationDigest([u64; 4]);

impl RegistrationDigest {
    /// Adds an entry.
    pub fn add(&mut self, entry: &Entry<'_>) {
        self.combine(entry_hash(entry), u64::overflowing_add);
    }

    /// Takes an entry out again.
    pub fn subtract(&mut self, entry: &Entry<'_>) {
        self.combine(entry_hash(entry), u64::overflowing_sub);
    }

    fn combine(&mut self, hash: [u64; 4], operation: fn(u64, u64) -> (u64, bool)) {
        let mut carry = false;
        for (word, other) in self.0.iter_mut().zip(hash) {
            let (partial, first) = operation(*word, other);
            let (result, second) = operation(partial, u64::from(carry));
            *word = result;
            carry = first || second;
        }
    }
}

fn entry_hash(entry: &Entry<'_>) -> [u64; 4] {
    let mut bytes = Vec::with_capacity(entry.directory.len() + entry.name.len() + 64);
    push_length(&mut bytes, entry.directory.len());
    bytes.extend_from_slice(entry.directory);
    push_record(&mut bytes, &Change::Upsert(*entry));
    let hash = blake3::hash(&bytes);
    let mut words = [0; 4];
    for (word, chunk) in words.iter_mut().zip(hash.as_bytes().as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*chunk);
    }
    words
}

/// What a side holds of a share: how often it changed, and the digest of what it is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ShareState {
    /// Counts the peer's changes; 0 is the empty list.
    pub revision: u64,
    /// Digest of all entries.
    pub digest: RegistrationDigest,
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn file<'a>(directory: &'a [u8], name: &'a [u8], size: u64) -> Change<'a> {
        Change::Upsert(Entry {
            directory,
            name,
            mtime_ns: -1,
            kind: EntryKind::File { size, executable: true, blob: Some(BlobId::empty()) },
        })
    }

    #[test]
    fn golden_page() {
        let mut builder = PageBuilder::new();
        assert!(builder.push(&Change::Upsert(Entry {
            directory: b"",
            name: b"d",
            mtime_ns: 1,
            kind: EntryKind::Directory
        })));
        assert!(builder.push(&Change::Remove { directory: b"d", name: b"gone" }));
        assert!(builder.push(&Change::Upsert(Entry {
            directory: b"d",
            name: b"new",
            mtime_ns: 2,
            kind: EntryKind::File { size: 3, executable: false, blob: None }
        })));
        assert!(builder.push(&Change::Upsert(Entry {
            directory: b"d",
            name: b"to",
            mtime_ns: -2,
            kind: EntryKind::Symlink { target: b"../x" }
        })));
        let bytes = builder.finish();
        let hex = data_encoding::HEXLOWER.encode(&bytes);
        assert_eq!(
            hex,
            "000001000101640100000000000000\
             0100640300\
             0304676f6e65\
             00036e657703000000000000000200000000000000\
             0202746ffeffffffffffffff04002e2e2f78"
        );
        assert_eq!(Page::check(&bytes).map(|page| page.len()), Ok(4));
    }

    #[test]
    fn order_and_doubles_are_refused() {
        for pair in [
            [file(b"", b"b", 1), file(b"", b"a", 1)],
            [file(b"", b"a", 1), file(b"", b"a", 2)],
            [file(b"b", b"a", 1), file(b"a", b"a", 1)],
        ] {
            let mut builder = PageBuilder::new();
            assert!(pair.iter().all(|change| builder.push(change)));
            assert_eq!(Page::check(&builder.finish()).err(), Some(PageError::Order));
        }
    }

    #[test]
    fn limits_hold() {
        let mut builder = PageBuilder::new();
        let names: Vec<_> = (0..=limits::PAGE_ENTRIES).map(|n| alloc::format!("{n:06}")).collect();
        for (n, name) in names.iter().enumerate() {
            assert_eq!(builder.push(&file(b"", name.as_bytes(), 0)), n < limits::PAGE_ENTRIES);
        }
        let mut builder = PageBuilder::new();
        let long = vec![b'n'; 250];
        let mut pushed = 0;
        while builder.push(&file(&alloc::format!("{pushed:0>770}").into_bytes(), &long, 0)) {
            pushed += 1;
        }
        let bytes = builder.finish();
        assert!(bytes.len() <= limits::PAGE_BYTES && bytes.len() > limits::PAGE_BYTES - 2048);
        let mut builder = PageBuilder::new();
        builder.push(&file(b"", b"huge", limits::BLOB_BYTES + 1));
        assert_eq!(Page::check(&builder.finish()).err(), Some(PageError::Size));
    }

    #[test]
    fn digest_does_not_depend_on_order_and_can_be_undone() {
        let entries: Vec<_> = (0..50u64)
            .map(|n| match file(b"x", b"y", n) {
                Change::Upsert(entry) => entry,
                Change::Remove { .. } => unreachable!(),
            })
            .collect();
        let mut forward = RegistrationDigest::default();
        let mut backward = RegistrationDigest::default();
        for entry in &entries {
            forward.add(entry);
        }
        for entry in entries.iter().rev() {
            backward.add(entry);
        }
        assert_eq!(forward, backward);
        assert_ne!(forward, RegistrationDigest::default());
        for entry in &entries {
            forward.subtract(entry);
        }
        assert_eq!(forward, RegistrationDigest::default());
    }

    proptest! {
        #[test]
        fn pages_round_trip(names in proptest::collection::btree_set(("[a-c]{0,3}", "[a-z]{1,8}"), 1..80), size in 0u64..1 << 40) {
            let mut builder = PageBuilder::new();
            let changes: Vec<_> = names.iter().enumerate().map(|(n, (directory, name))| match n % 4 {
                0 => Change::Remove { directory: directory.as_bytes(), name: name.as_bytes() },
                1 => Change::Upsert(Entry { directory: directory.as_bytes(), name: name.as_bytes(), mtime_ns: n as i64, kind: EntryKind::Directory }),
                _ => file(directory.as_bytes(), name.as_bytes(), size),
            }).collect();
            for change in &changes {
                prop_assert!(builder.push(change));
            }
            let bytes = builder.finish();
            let page = Page::check(&bytes).expect("own page");
            prop_assert_eq!(page.changes().collect::<Vec<_>>(), changes);
        }

        #[test]
        fn damaged_pages_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..200, flip in 0usize..1600) {
            if let Some(byte) = bytes.get_mut(flip / 8) { *byte ^= 1 << (flip % 8); }
            bytes.truncate(cut);
            if let Ok(page) = Page::check(&bytes) {
                prop_assert_eq!(page.changes().count(), page.len());
            }
        }
    }
}
