//! Reading pages: from where they lie, each checked, neighbours together.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::device::read_at;
use super::format::{CHECK_BYTES, Key, Place};
use super::scan::Files;
use crate::store::StoreError;

/// Bytes that one read takes of pages that lie side by side.
const READ: u64 = 256 * 1024;
/// Bytes between two pages that are read along: small commits stand behind their headers, and among those of others.
const GAP: u64 = 4 * 1024;

/// A page with the check in front of it; none if it does not check.
pub(super) fn read_page(
    file: &File,
    key: &Key,
    generation: u64,
    number: u64,
    place: Place,
) -> io::Result<Option<Bytes>> {
    let checked = Bytes::from(read_at(file, u64::from(place.offset), place.bytes() as usize)?);
    Ok(checks(key, generation, number, place, &checked).then_some(checked))
}

fn checks(key: &Key, generation: u64, number: u64, place: Place, checked: &[u8]) -> bool {
    let Some((check, page)) = checked.split_first_chunk::<CHECK_BYTES>() else { return false };
    page.len() == place.length as usize && *check == key.page(generation, number, page)
}

/// The pages of one generation in order. After an error nothing follows.
#[derive(Debug)]
pub(in crate::store) struct Pages {
    places: std::vec::IntoIter<(u64, Place)>,
    files: HashMap<u32, Arc<File>>,
    key: Key,
    generation: u64,
    next: u64,
    end: u64,
    /// Bytes of some pages side by side, and where they start.
    read: (Option<(u32, u64)>, Bytes),
}

impl Pages {
    /// Pages below `end`; the files stay open, so the pages can be read even if they are moved or dropped meanwhile.
    pub(in crate::store) fn new(places: Vec<(u64, Place)>, files: &Files, key: Key, generation: u64, end: u64) -> Self {
        let mut used = HashMap::new();
        for (_, place) in &places {
            if let Some(file) = files.get(&place.segment) {
                used.entry(place.segment).or_insert_with(|| Arc::clone(file));
            }
        }
        let read = (None, Bytes::new());
        Self { places: places.into_iter(), files: used, key, generation, next: 0, end, read }
    }

    fn read(&mut self) -> Result<Bytes, StoreError> {
        let (generation, expected) = (self.generation, self.next);
        let missing = || {
            StoreError::Storage(format!(
                "the index's files are damaged: page {expected} of list {generation} is missing"
            ))
        };
        let (_, place) = self.places.next().filter(|(number, _)| *number == expected).ok_or_else(missing)?;
        let checked = self.bytes(place)?;
        if !checks(&self.key, generation, expected, place, &checked) {
            return Err(StoreError::Storage(format!(
                "the index's files are damaged: page {expected} of list {generation} in segment {} does not check",
                place.segment
            )));
        }
        Ok(checked.slice(CHECK_BYTES..))
    }

    fn bytes(&mut self, place: Place) -> Result<Bytes, StoreError> {
        let offset = u64::from(place.offset);
        if let (Some((segment, start)), bytes) = &self.read
            && *segment == place.segment
            && offset >= *start
            && place.end() <= start + bytes.len() as u64
        {
            let from = (offset - start) as usize;
            return Ok(bytes.slice(from..from + place.bytes() as usize));
        }
        let mut end = place.end();
        for (_, neighbour) in self.places.as_slice() {
            let start = u64::from(neighbour.offset);
            let near = neighbour.segment == place.segment && (end..=end + GAP).contains(&start);
            if !near || neighbour.end() - offset > READ {
                break;
            }
            end = neighbour.end();
        }
        let failed = |error: &dyn std::fmt::Display| {
            StoreError::Storage(format!("cannot read segment {} of the index's log: {error}", place.segment))
        };
        let file = self.files.get(&place.segment).ok_or_else(|| failed(&"the file is gone"))?;
        let bytes = Bytes::from(read_at(file, offset, (end - offset) as usize).map_err(|error| failed(&error))?);
        let first = bytes.slice(..bytes.len().min(place.bytes() as usize));
        self.read = (Some((place.segment, offset)), bytes);
        Ok(first)
    }
}

impl Iterator for Pages {
    type Item = Result<Bytes, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        let page = self.read();
        self.next = if page.is_ok() { self.next + 1 } else { self.end };
        Some(page)
    }
}
