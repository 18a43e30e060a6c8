//! Directories as pages: children, or everything below, from a cursor on.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::time::Duration;

use haul_core::limits;
use haul_core::manifest::{Change, Entry, EntryKind, PageBuilder};
use haul_core::wire::index::Listing;
use haul_core::wire::{ByteString, decode, encode};

use super::memory::Memory;
use super::memory::lists::At;
use super::memory::shares::View;
use super::{BrowseQuestion, StoreError};

/// After a restart, when to ask again for a share whose list is still read from disk: few take longer than seconds.
const LOADING: Duration = Duration::from_millis(500);

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
        .filter_map(|(id, share)| Some((&share.name, *id, share.held?.slot, share.loaded)))
        .filter(|(_, _, slot, _)| view.shown.get(*slot))
        .collect();
    shown.sort_unstable();
    let Some(wanted) = question.share else {
        let names = shown.iter().map(|(name, ..)| name.as_str().as_bytes());
        return Ok(list_shares(names, after.as_ref()));
    };
    let (.., slot, loaded) = *shown.iter().find(|(name, ..)| *name == wanted).ok_or(StoreError::NotFound)?;
    if !loaded {
        // Half a listing would look like a whole one, and whoever fetches the folder would miss the other half.
        return Err(StoreError::Busy { retry_after: LOADING });
    }
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
    let mut walk = Walk::new(memory, after, limits::BROWSE_ENTRIES);
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

/// Fills a page with rows in the order of pages: directory bytes, then name bytes.
pub(super) struct Walk<'a> {
    memory: &'a Memory,
    after: Option<Cursor>,
    /// Entries of the page.
    limit: usize,
    page: PageBuilder,
    last: Option<(Vec<u8>, u32)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(memory: &'a Memory, after: Option<Cursor>, limit: usize) -> Self {
        Self { memory, after, limit, page: PageBuilder::new(), last: None }
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
        self.page.len() < self.limit && self.page.push(change)
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
        let (mut waiting, start) = self.start(node, path);
        for child in memory.subdirs_from(node, start) {
            let fitted = self.below_waiting(&mut waiting, Some(&self.name_of(child)), path)
                && self.at_child(child, path, |walk, path| walk.children(child, path));
            if !fitted {
                return false;
            }
            waiting.push(child);
        }
        self.below_waiting(&mut waiting, None, path)
    }

    /// Adds what is below those subdirectories that wait for it and come before a name. Each one's name starts with
    /// that of the one before, so the last comes first.
    fn below_waiting(&mut self, waiting: &mut Vec<u32>, before: Option<&[u8]>, path: &mut Vec<u8>) -> bool {
        while let Some(child) = waiting
            .pop_if(|child| before.is_none_or(|name| compare((&self.name_of(*child), true), (name, false)).is_lt()))
        {
            let below = |walk: &mut Self, path: &mut Vec<u8>| walk.is_behind(path) || walk.subdirectories(child, path);
            if !self.at_child(child, path, below) {
                return false;
            }
        }
        true
    }

    /// Subdirectories of which only what is below is still to come, and where those stand that are to come whole.
    fn start(&self, node: u32, path: &[u8]) -> (Vec<u32>, At) {
        let memory = self.memory;
        let Some(ended) = self.ended_in(path) else { return (Vec::new(), (0, 0)) };
        let before_slash = ended.iter().enumerate().skip(1).filter(|(_, byte)| **byte < b'/');
        let waiting = before_slash.filter_map(|(len, _)| {
            let name = memory.names.find(ended.split_at(len).0)?;
            memory.directories.child(node, name)
        });
        let (Ok(at) | Err(at)) = memory.find_subdir(node, ended);
        (waiting.collect(), at)
    }

    /// The name of the subdirectory in which, or below which, an earlier answer ended.
    fn ended_in(&self, path: &[u8]) -> Option<&[u8]> {
        let (directory, _) = self.after.as_ref()?;
        let below =
            if path.is_empty() { directory.as_slice() } else { directory.strip_prefix(path)?.strip_prefix(b"/")? };
        below.split(|byte| *byte == b'/').next()
    }

    fn name_of(&self, node: u32) -> Cow<'a, [u8]> {
        self.memory.names.text(self.memory.directories.node(node).name)
    }

    /// Runs `with` on the path of a subdirectory.
    fn at_child<R>(&mut self, child: u32, path: &mut Vec<u8>, with: impl FnOnce(&mut Self, &mut Vec<u8>) -> R) -> R {
        let length = path.len();
        if length > 0 {
            path.push(b'/');
        }
        path.extend_from_slice(&self.name_of(child));
        let result = with(self, path);
        path.truncate(length);
        result
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

    /// The page, unless it is empty.
    pub(super) fn take_page(mut self) -> Option<Vec<u8>> {
        (!self.page.is_empty()).then(|| self.page.finish())
    }

    pub(super) fn finish(mut self, ended: bool) -> Listing {
        let cursor = if ended { None } else { self.last_key().map(|(directory, name)| cursor(&directory, &name)) };
        Listing { page: ByteString(self.page.finish()), cursor }
    }
}

/// Compares two paths as bytes; `true` adds a slash at the end.
fn compare((a, a_slash): (&[u8], bool), (b, b_slash): (&[u8], bool)) -> Ordering {
    let slash = |more: bool| more.then_some(&b'/');
    a.iter().chain(slash(a_slash)).cmp(b.iter().chain(slash(b_slash)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use haul_core::manifest::Page;
    use proptest::prelude::*;

    use super::super::memory::tests::with_slots;
    use super::*;

    proptest! {
        /// Names with bytes below the slash are where the order of directories differs from that of their names.
        #[test]
        fn pages_follow_each_other_in_order_wherever_they_end(
            paths in proptest::collection::vec(("(a(-|-a|\\.|!b|aa)?(/(a|a-|a-b|b|!)){0,2})?", "[ab]"), 0..60),
            limit in 1usize..7,
            gone in proptest::collection::vec(any::<bool>(), 60),
        ) {
            let mut memory = with_slots(1);
            let mut want = BTreeSet::new();
            for (directory, name) in &paths {
                let (directory, name) = (directory.as_bytes(), name.as_bytes());
                let entry = Entry { directory, name, mtime_ns: 1, kind: EntryKind::Directory };
                memory.upsert(0, &entry, |_| ()).unwrap();
                want.insert((directory.to_vec(), name.to_vec()));
            }
            memory.settle();
            let root = memory.shares.slot(0).root;
            let mut after: Option<Cursor> = None;
            for gone in gone.into_iter().chain(std::iter::repeat(false)) {
                let mut walk = Walk::new(&memory, after.clone(), limit);
                let ended = walk.below(root, &mut Vec::new());
                let last = walk.last_key();
                let page = walk.finish(ended).page;
                let page = Page::check(&page).unwrap();
                let got: Vec<Cursor> =
                    page.changes().map(|change| (change.key().0.to_vec(), change.key().1.to_vec())).collect();
                let behind = want.iter().filter(|key| after.as_ref().is_none_or(|after| *key > after));
                prop_assert_eq!(&got, &behind.take(limit).cloned().collect::<Vec<_>>());
                if ended {
                    break;
                }
                // An entry at which an answer ended may be gone when the next one is asked for.
                let (directory, name) = last.clone().unwrap();
                if gone {
                    memory.remove(0, &directory, &name, |_| ());
                    want.remove(&(directory, name));
                }
                after = last;
            }
        }
    }
}
