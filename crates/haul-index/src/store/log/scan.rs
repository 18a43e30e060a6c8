//! Reading the log back: the newest catalog that can be read, and every group after it.
//!
//! What can be wrong, and what follows:
//! - The last group of a segment does not check: it was being written when the process or the machine stopped, or its
//!   sync failed. Nobody was told that it is durable; it does not count.
//! - A group in the middle does not check: what it said is lost, and it may have been anything. All records of peers and
//!   shares from before it are forgotten, so no share is shown as it was before; their peers register again.
//! - The catalog of a segment does not check: the segment before has one, and its groups, and nothing is lost.
//! - A page does not check: only whoever reads it notices, and drops its share.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::Arc;

use memchr::memmem;

use super::catalog::Catalog;
use super::device::Window;
use super::format::{HEAD_BYTES, HEADER_BYTES, Header, Key, MARK, Meta, Record};
use super::pages::read_page;

/// Files of the segments by number.
pub(in crate::store) type Files = BTreeMap<u32, Arc<File>>;

/// What the log says.
#[derive(Debug, Default)]
pub(in crate::store) struct Recovered {
    pub(in crate::store) catalog: Catalog,
    /// Number of the last group.
    pub(in crate::store) number: u64,
    /// The newest segment was being made: it holds nothing.
    pub(in crate::store) unfinished: Option<u32>,
}

/// A group that checks, its pages not looked at.
struct Found {
    header: Header,
    meta: Meta,
    body_offset: u64,
}

struct Groups<'a> {
    window: Window<'a>,
    key: &'a Key,
    segment: u32,
    offset: u64,
    /// Bytes that are no group: in front of the last one that was found, or at the end.
    garbage: bool,
}

impl<'a> Groups<'a> {
    fn new(file: &'a File, key: &'a Key, segment: u32, offset: u64) -> Self {
        Self { window: Window::new(file), key, segment, offset, garbage: false }
    }

    /// The next group that checks.
    fn next(&mut self) -> io::Result<Option<Found>> {
        self.garbage = false;
        loop {
            if let Some(found) = self.here()? {
                self.offset += found.header.group_bytes();
                return Ok(Some(found));
            }
            if !self.skip()? {
                return Ok(None);
            }
        }
    }

    fn here(&mut self) -> io::Result<Option<Found>> {
        let bytes = self.window.get(self.offset, HEADER_BYTES)?;
        let Some(header) = Header::decode(bytes, self.key, self.segment, self.offset) else { return Ok(None) };
        let meta_offset = self.offset + HEADER_BYTES as u64;
        let meta = self.window.get(meta_offset, header.meta_bytes as usize)?;
        let known = header.fits(meta, self.key).then(|| Meta::decode(header.kind, meta)).flatten();
        let body_offset = meta_offset + u64::from(header.meta_bytes);
        Ok(known.map(|meta| Found { header, meta, body_offset }))
    }

    /// Goes on to the next mark; false if there is none.
    fn skip(&mut self) -> io::Result<bool> {
        const STEP: usize = 64 * 1024;
        let mut from = self.offset + 1;
        self.garbage |= self.window.get(self.offset, 1)?.first().is_some_and(|byte| *byte != 0);
        loop {
            let bytes = self.window.get(from, STEP)?;
            let found = memmem::find(bytes, &MARK);
            let passed = bytes.get(..found.unwrap_or(bytes.len())).unwrap_or_default();
            self.garbage |= passed.iter().any(|byte| *byte != 0);
            if let Some(found) = found {
                self.offset = from + found as u64;
                return Ok(true);
            }
            if bytes.len() < STEP {
                return Ok(false);
            }
            from += (STEP - MARK.len() + 1) as u64;
        }
    }
}

/// Reads the log.
pub(in crate::store) fn recover(files: &Files, key: &Key) -> io::Result<Recovered> {
    let mut state = State::default();
    let mut first = (0, HEAD_BYTES as u64);
    for (segment, file) in files.iter().rev() {
        let mut groups = Groups::new(file, key, *segment, HEAD_BYTES as u64);
        if let Some(Found { header, meta: Meta::Catalog(snapshot), body_offset }) = groups.here()? {
            state.recovered.catalog = Catalog::from_snapshot(snapshot);
            state.number = Some(header.number);
            first = (*segment, body_offset);
            break;
        }
        if state.newest_groups.is_none() {
            state.newest_groups = Some(groups.next()?.is_some());
        }
        if state.newest_groups == Some(true) || files.keys().next_back() != Some(segment) {
            tracing::error!(
                segment,
                "the catalog of a segment of the index's log is damaged; it is put together from older ones"
            );
        }
    }
    if state.newest_groups == Some(false) {
        state.recovered.unfinished = files.keys().next_back().copied();
    }
    for (segment, file) in files.range(first.0..) {
        if state.recovered.unfinished == Some(*segment) {
            continue;
        }
        let offset = if *segment == first.0 { first.1 } else { HEAD_BYTES as u64 };
        state.read(*segment, file, key, offset)?;
    }
    state.recovered.number = state.number.unwrap_or_default();
    state.recovered.catalog.drop_left_overs();
    Ok(state.recovered)
}

#[derive(Default)]
struct State {
    recovered: Recovered,
    /// Of the last group that counts; none before the first.
    number: Option<u64>,
    /// Whether the newest segment, whose catalog cannot be read, has groups.
    newest_groups: Option<bool>,
}

impl State {
    fn read(&mut self, segment: u32, file: &File, key: &Key, offset: u64) -> io::Result<()> {
        let mut groups = Groups::new(file, key, segment, offset);
        // A group followed by another one was durable before that was written.
        let mut last: Option<(u64, Vec<Record>, u64)> = None;
        while let Some(Found { header, meta, body_offset }) = groups.next()? {
            // A catalog stands only at the start, and is read already.
            let Meta::Changes(records) = meta else { continue };
            if let Some((number, records, offset)) = last.replace((header.number, records, body_offset)) {
                self.apply(segment, number, records, offset);
            }
        }
        let mut torn = groups.garbage;
        if let Some((number, records, offset)) = last {
            if bodies_check(file, key, segment, &records, offset)? {
                self.apply(segment, number, records, offset);
            } else {
                torn = true;
            }
        }
        if torn {
            tracing::warn!(
                segment,
                "the last group of a segment of the index's log was not written to its end; it is left out"
            );
        }
        Ok(())
    }

    fn apply(&mut self, segment: u32, number: u64, records: Vec<Record>, body_offset: u64) {
        if self.number.is_none_or(|last| last.checked_add(1) != Some(number)) {
            tracing::error!(
                segment,
                expected = self.number.map_or(0, |last| last + 1),
                number,
                "groups of the index's log are lost; peers will register again"
            );
            self.recovered.catalog.lose();
        }
        self.number = Some(number);
        self.recovered.catalog.apply(records, segment, body_offset as u32);
    }
}

/// Whether all pages of a group check.
fn bodies_check(file: &File, key: &Key, segment: u32, records: &[Record], offset: u64) -> io::Result<bool> {
    let mut offset = offset as u32;
    for record in records {
        let pages: Vec<(u64, u64, u32)> = match record {
            Record::Pages { generation, pages } => {
                pages.iter().map(|(number, length)| (*generation, *number, *length)).collect()
            }
            Record::Moved { pages } => pages.clone(),
            _ => continue,
        };
        for (generation, number, length) in pages {
            let place = super::format::Place { segment, offset, length };
            if read_page(file, key, generation, number, place)?.is_none() {
                return Ok(false);
            }
            offset = place.end() as u32;
        }
    }
    Ok(true)
}
