//! The order of hits, and cursors as places in it.
//!
//! The order depends on what is registered alone, not on numbers inside the memory, so a cursor survives a restart and
//! two stores agree.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use haul_core::wire::ByteString;
use serde::{Deserialize, Serialize};

use crate::store::memory::Memory;
use crate::store::{SearchQuestion, StoreError};

/// A hit before it is presented.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Better is smaller: the class of the match, or the distance of a near one.
    pub(super) class: u8,
    /// Logarithm of copies to base 2.
    pub(super) weight: u8,
    /// Bytes of the folded name.
    pub(super) len: u16,
    pub(super) doc: u32,
    pub(super) group: Group,
    pub(super) copies: u32,
    pub(super) online: u32,
}

/// What makes one hit of several rows of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Group {
    /// All rows of a content.
    Content(u32),
    /// A row alone: without a hash, without bytes, directory or link.
    Row(u32),
}

/// What stands behind the name in the order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Tie {
    Content([u8; 32], u64),
    Row { peer: [u8; 32], share: String, directory: ByteString, name: ByteString },
}

/// A place in the order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Position {
    class: u8,
    /// Inverted: more copies come first.
    weight: u8,
    len: u16,
    name: String,
    tie: Tie,
}

#[derive(Serialize, Deserialize)]
struct Cursor {
    /// Of the question: another one cannot continue here.
    question: u64,
    position: Position,
}

impl Candidate {
    fn scale(&self) -> (u8, u8, u16) {
        (self.class, u8::MAX - self.weight, self.len)
    }

    pub(super) fn position(&self, memory: &Memory) -> Position {
        let (class, weight, len) = self.scale();
        Position { class, weight, len, name: memory.names.folded(self.doc).to_owned(), tie: tie(memory, self.group) }
    }
}

/// The order of two candidates. Texts are fetched only for ties.
pub(super) fn compare(memory: &Memory, a: &Candidate, b: &Candidate) -> Ordering {
    a.scale()
        .cmp(&b.scale())
        .then_with(|| {
            if a.doc == b.doc { Ordering::Equal } else { memory.names.folded(a.doc).cmp(memory.names.folded(b.doc)) }
        })
        .then_with(|| compare_groups(memory, a.group, b.group))
}

pub(super) fn is_behind(memory: &Memory, candidate: &Candidate, position: &Position) -> bool {
    let place = (position.class, position.weight, position.len);
    match candidate.scale().cmp(&place) {
        Ordering::Equal => candidate.position(memory) > *position,
        ordering => ordering == Ordering::Greater,
    }
}

fn compare_groups(memory: &Memory, a: Group, b: Group) -> Ordering {
    if let (Group::Row(a), Group::Row(b)) = (a, b) {
        return compare_rows(memory, a, b);
    }
    tie(memory, a).cmp(&tie(memory, b))
}

/// Orders rows by peer, share name, directory and name.
pub(in crate::store) fn compare_rows(memory: &Memory, a: u32, b: u32) -> Ordering {
    let (row_a, row_b) = (memory.row(a), memory.row(b));
    let slots = if row_a.slot() == row_b.slot() {
        Ordering::Equal
    } else {
        let key = |slot: u32| (*memory.shares.peer_of(slot).id.as_bytes(), &memory.shares.slot(slot).name);
        key(row_a.slot()).cmp(&key(row_b.slot()))
    };
    slots.then_with(|| {
        if row_a.directory == row_b.directory {
            return memory.names.compare_names(row_a.name, row_b.name);
        }
        let (mut path_a, mut path_b) = (Vec::new(), Vec::new());
        memory.directories.path(&memory.names, row_a.directory, &mut path_a);
        memory.directories.path(&memory.names, row_b.directory, &mut path_b);
        path_a.cmp(&path_b).then_with(|| memory.names.compare_names(row_a.name, row_b.name))
    })
}

fn tie(memory: &Memory, group: Group) -> Tie {
    match group {
        Group::Content(content) => {
            let content = memory.contents.get(content);
            Tie::Content(content.blob().map_or([0; 32], |blob| *blob.as_bytes()), content.size())
        }
        Group::Row(row) => {
            let slot = memory.row(row).slot();
            memory.with_entry(row, |entry| Tie::Row {
                peer: *memory.shares.peer_of(slot).id.as_bytes(),
                share: memory.shares.slot(slot).name.as_str().to_owned(),
                directory: entry.directory.into(),
                name: entry.name.into(),
            })
        }
    }
}

/// Tells questions apart; it guards against mistakes, not against anybody.
fn question_hash(question: &SearchQuestion<'_>) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    format!("{:?}", question.query).hash(&mut hasher);
    question.away.hash(&mut hasher);
    hasher.finish()
}

pub(super) fn write_cursor(memory: &Memory, last: &Candidate, question: &SearchQuestion<'_>) -> ByteString {
    let cursor = Cursor { question: question_hash(question), position: last.position(memory) };
    ByteString(haul_core::wire::encode(&cursor))
}

pub(super) fn read_cursor(bytes: &[u8], question: &SearchQuestion<'_>) -> Result<Position, StoreError> {
    let cursor: Cursor = haul_core::wire::decode(bytes).map_err(|_| StoreError::BadCursor)?;
    if cursor.question == question_hash(question) { Ok(cursor.position) } else { Err(StoreError::BadCursor) }
}
