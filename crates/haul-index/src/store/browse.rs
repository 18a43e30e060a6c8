//! Directories as pages: children, or everything below, from a cursor on.

use std::cmp::Ordering;

use haul_core::limits;
use haul_core::manifest::{Change, Entry, EntryKind, PageBuilder};
use haul_core::wire::index::Listing;
use haul_core::wire::{ByteString, decode, encode};

use super::memory::Memory;
use super::memory::shares::View;
use super::{BrowseQuestion, StoreError};

/// Directory and name of the last entry of an answer.
type Cursor = (Vec<u8>, Vec<u8>);

pub(super) fn browse(memory: &Memory, view: &View, question: &BrowseQuestion<'_>) -> Result<Listing, StoreError> {
    let after = match question.cursor {
        None => None,
        Some(bytes) => {
            let (directory, name): (ByteString, ByteString) = decode(bytes).map_err(|_| StoreError::BadCursor)?;
            Some((directory.0, name.0))
        }
    };
    let peer = memory.shares.peer(&question.peer).filter(|peer| peer.connected).ok_or(StoreError::NotFound)?;
    let mut shown: Vec<_> = peer
        .shares
        .iter()
        .filter_map(|(id, share)| Some((&share.name, *id, share.held?.slot)))
        .filter(|(_, _, slot)| view.shown.get(*slot))
        .collect();
    shown.sort_unstable();
    let Some(wanted) = question.share else {
        let names = shown.iter().map(|(name, _, _)| name.as_str().as_bytes());
        return Ok(list_shares(names, after.as_ref()));
    };
    let slot =
        shown.iter().find(|(name, _, _)| *name == wanted).map(|(_, _, slot)| *slot).ok_or(StoreError::NotFound)?;
    let root = memory.shares.slot(slot).root;
    let path = question.path.as_bytes();
    let Some(node) = memory.directories.find(&memory.names, root, path) else {
        // An empty directory is an entry of the one above.
        let (directory, name) = question.path.split();
        let row = memory.find(slot, directory, name).map(|row| memory.row(row).kind());
        return match row {
            Some(haul_core::wire::index::HitKind::Directory) => Ok(Listing::default()),
            _ => Err(StoreError::NotFound),
        };
    };
    let mut walk = Walk::new(memory, after, limits::BROWSE_ENTRIES, 1);
    let ended = if question.recursive { walk.below(node, &mut path.to_vec()) } else { walk.children(node, path) };
    Ok(walk.finish(ended))
}

/// One directory entry per share, at the root. Shares of one name are listed once.
fn list_shares<'a>(names: impl Iterator<Item = &'a [u8]>, after: Option<&Cursor>) -> Listing {
    let mut page = PageBuilder::new();
    let mut last: Option<&[u8]> = None;
    for name in names {
        if last == Some(name) || after.is_some_and(|(_, after)| name <= after.as_slice()) {
            continue;
        }
        let entry = Entry { directory: &[], name, mtime_ns: 0, kind: EntryKind::Directory };
        if !page.push(&Change::Upsert(entry)) {
            let cursor = last.map(|last| cursor(&[], last));
            return Listing { page: ByteString(page.finish()), cursor };
        }
        last = Some(name);
    }
    Listing { page: ByteString(page.finish()), cursor: None }
}

fn cursor(directory: &[u8], name: &[u8]) -> ByteString {
    ByteString(encode(&(ByteString::from(directory), ByteString::from(name))))
}

/// Fills pages with rows in the order of pages: directory bytes, then name bytes.
pub(super) struct Walk<'a> {
    memory: &'a Memory,
    after: Option<Cursor>,
    /// Entries per page.
    limit: usize,
    /// Pages that may still follow the one being filled.
    more_pages: usize,
    page: PageBuilder,
    full: Vec<Vec<u8>>,
    last: Option<(Vec<u8>, u32)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(memory: &'a Memory, after: Option<Cursor>, limit: usize, pages: usize) -> Self {
        let more_pages = pages.saturating_sub(1);
        Self { memory, after, limit, more_pages, page: PageBuilder::new(), full: Vec::new(), last: None }
    }

    /// Adds the rows of one directory; returns whether all fitted.
    fn children(&mut self, node: u32, path: &[u8]) -> bool {
        let memory = self.memory;
        let start = match &self.after {
            Some((directory, _)) if directory.as_slice() > path => return true,
            Some((directory, name)) if directory == path => match memory.find_child(node, name) {
                Ok((run, at)) => (run, at + 1),
                Err(at) => at,
            },
            _ => (0, 0),
        };
        for row in memory.children_from(node, start) {
            if !memory.with_entry_in(row, path, |entry| self.push(&Change::Upsert(*entry))) {
                return false;
            }
            match &mut self.last {
                Some((last, last_row)) if last == path => *last_row = row,
                _ => self.last = Some((path.to_vec(), row)),
            }
        }
        true
    }

    fn push(&mut self, change: &Change<'_>) -> bool {
        if self.page.len() < self.limit && self.page.push(change) {
            return true;
        }
        if self.more_pages == 0 {
            return false;
        }
        self.more_pages -= 1;
        self.full.push(self.page.finish());
        self.page.push(change)
    }

    /// Adds everything below a directory; `path` is its path, and is so again afterwards.
    ///
    /// Directories sort by their whole path as bytes, so `a` comes first, then `a-b`, then `a/c`: a directory's own
    /// rows stand at its name, what is below it at its name and a slash.
    pub(super) fn below(&mut self, node: u32, path: &mut Vec<u8>) -> bool {
        self.children(node, path) && self.subdirectories(node, path)
    }

    fn subdirectories(&mut self, node: u32, path: &mut Vec<u8>) -> bool {
        let memory = self.memory;
        let name = |node: u32| memory.names.text(memory.directories.node(node).name);
        let mut visits: Vec<_> =
            memory.subdirs(node).flat_map(|node| [(name(node), node, false), (name(node), node, true)]).collect();
        visits.sort_unstable_by(|(a, _, a_below), (b, _, b_below)| compare((a, *a_below), (b, *b_below)));
        for (name, child, below) in visits {
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            let fitted = if below {
                self.is_behind(path) || self.subdirectories(child, path)
            } else {
                self.children(child, path)
            };
            path.truncate(length);
            if !fitted {
                return false;
            }
        }
        true
    }

    /// Whether everything below a directory was in an earlier answer.
    fn is_behind(&self, path: &[u8]) -> bool {
        self.after.as_ref().is_some_and(|(directory, _)| {
            let inside = directory.starts_with(path) && directory.get(path.len()) == Some(&b'/');
            let ordering = compare((path, true), (directory, false));
            ordering == Ordering::Less && !inside
        })
    }

    pub(super) fn last_key(&self) -> Option<Cursor> {
        let (directory, row) = self.last.as_ref()?;
        Some((directory.clone(), self.memory.names.text(self.memory.row(*row).name).into_owned()))
    }

    pub(super) fn finish(mut self, ended: bool) -> Listing {
        let cursor = if ended { None } else { self.last_key().map(|(directory, name)| cursor(&directory, &name)) };
        Listing { page: ByteString(self.page.finish()), cursor }
    }

    /// All pages; none is empty.
    pub(super) fn take_pages(mut self) -> Vec<Vec<u8>> {
        if !self.page.is_empty() {
            self.full.push(self.page.finish());
        }
        self.full
    }
}

/// Compares two paths as bytes; `true` adds a slash at the end.
fn compare((a, a_slash): (&[u8], bool), (b, b_slash): (&[u8], bool)) -> Ordering {
    let slash = |more: bool| more.then_some(&b'/');
    a.iter().chain(slash(a_slash)).cmp(b.iter().chain(slash(b_slash)))
}
