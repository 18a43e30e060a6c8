//! What a directory of a peer holds, read from its listing and checked before anything is created.

use std::collections::BTreeMap;

use haul_core::ids::BlobId;
use haul_core::limits::{LEAF_BYTES, PAGE_ENTRIES, SMALL_LEAVES};
use haul_core::manifest::{Change, EntryKind, Page};
use haul_core::path::SharePath;
use haul_core::wire::peer::{PeerAnswer, PeerRequest};

use super::pool::Lease;
use super::{DirectoryRequest, FetchError};
use crate::files::is_part_name;

/// Entries of one directory download: at about 200 bytes each, 2 GiB of listing.
const ENTRIES: usize = 10_000_000;

/// A file to fetch. Its path is relative to the requested directory.
#[derive(Clone, Debug)]
pub(super) struct WantedFile {
    pub(super) path: SharePath,
    pub(super) blob: BlobId,
    pub(super) size: u64,
    pub(super) executable: bool,
    pub(super) mtime_ns: i64,
}

/// All that a directory becomes.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// With the time of last modification.
    pub(super) folders: Vec<(SharePath, i64)>,
    /// Files of at most one leaf.
    pub(super) small: Vec<WantedFile>,
    pub(super) large: Vec<WantedFile>,
    /// Path, target, time.
    pub(super) links: Vec<(SharePath, Vec<u8>, i64)>,
    /// Files whose hash is not known yet.
    pub(super) unhashed: Vec<SharePath>,
    /// Names that downloads here are kept under: what a stranger puts there would count as what was fetched before.
    pub(super) reserved: Vec<SharePath>,
}

impl Plan {
    pub(super) fn bytes(&self) -> u64 {
        // Sizes are claims of the peer that lists them.
        self.files().fold(0, |sum, file| sum.saturating_add(file.size))
    }

    pub(super) fn files(&self) -> impl Iterator<Item = &WantedFile> {
        self.small.iter().chain(&self.large)
    }
}

/// Reads the whole listing.
pub(super) async fn list(lease: &Lease, request: &DirectoryRequest) -> Result<Plan, FetchError> {
    let mut entries = BTreeMap::new();
    let mut cursor = None;
    loop {
        let ask = PeerRequest::List {
            share: request.share.clone(),
            path: request.path.clone(),
            recursive: true,
            cursor: cursor.clone(),
        };
        let answer = lease.connection().request::<_, PeerAnswer>(&ask).await;
        let listing = match answer.map_err(|error| FetchError::Listing(error.to_string()))? {
            PeerAnswer::Listing(listing) => listing,
            PeerAnswer::NotHeld => return Err(FetchError::NoSuchDirectory),
            other => return Err(FetchError::Listing(format!("the peer answered {other:?}"))),
        };
        let page = Page::check(&listing.page).map_err(|error| FetchError::Listing(error.to_string()))?;
        let before = entries.len();
        take_page(&page, &request.path, &mut entries)?;
        // Each page brings something new, so a peer cannot keep this loop going for ever.
        if listing.cursor.is_some() && (entries.len() == before || entries.len() > ENTRIES - PAGE_ENTRIES) {
            return Err(FetchError::Listing("it does not end".into()));
        }
        cursor = listing.cursor;
        if cursor.is_none() {
            return plan(entries);
        }
    }
}

enum Listed {
    Folder(i64),
    File { blob: Option<BlobId>, size: u64, executable: bool, mtime_ns: i64 },
    Link { target: Vec<u8>, mtime_ns: i64 },
}

fn take_page(page: &Page<'_>, root: &SharePath, entries: &mut BTreeMap<SharePath, Listed>) -> Result<(), FetchError> {
    for change in page.changes() {
        let Change::Upsert(entry) = change else { continue };
        let path = relative(root, entry.directory, entry.name)
            .ok_or_else(|| FetchError::Listing("it names paths outside of the directory".into()))?;
        let listed = match entry.kind {
            EntryKind::Directory => Listed::Folder(entry.mtime_ns),
            EntryKind::File { size, executable, blob } => {
                Listed::File { blob, size, executable, mtime_ns: entry.mtime_ns }
            }
            EntryKind::Symlink { target } => Listed::Link { target: target.to_vec(), mtime_ns: entry.mtime_ns },
        };
        if entries.insert(path, listed).is_some() {
            return Err(FetchError::Listing("it names a path twice".into()));
        }
    }
    Ok(())
}

/// The path of an entry below `root`; none if it is not below.
fn relative(root: &SharePath, directory: &[u8], name: &[u8]) -> Option<SharePath> {
    let below = if root.is_root() {
        directory
    } else if directory == root.as_bytes() {
        b""
    } else {
        directory.strip_prefix(root.as_bytes())?.strip_prefix(b"/")?
    };
    SharePath::new(below).ok()?.join(name).ok()
}

fn plan(entries: BTreeMap<SharePath, Listed>) -> Result<Plan, FetchError> {
    let mut plan = Plan::default();
    let mut last: &[u8] = &[];
    for path in entries.keys() {
        let (folder, _) = path.split();
        // Most lie where the one before them does.
        let is_new = std::mem::replace(&mut last, folder) != folder;
        let listed = is_new.then(|| SharePath::new(folder).unwrap_or_default()).and_then(|folder| entries.get(&folder));
        if let Some(Listed::File { .. } | Listed::Link { .. }) = listed {
            let path = path.display();
            return Err(FetchError::Listing(format!("{path:?} lies in something that is not a folder")));
        }
    }
    for (path, listed) in entries {
        if path.components().any(is_part_name) {
            plan.reserved.push(path);
            continue;
        }
        match listed {
            Listed::Folder(mtime_ns) => plan.folders.push((path, mtime_ns)),
            Listed::Link { target, mtime_ns } => plan.links.push((path, target, mtime_ns)),
            Listed::File { blob: None, .. } => plan.unhashed.push(path),
            Listed::File { blob: Some(blob), size, executable, mtime_ns } => {
                let file = WantedFile { path, blob, size, executable, mtime_ns };
                if size <= SMALL_LEAVES * LEAF_BYTES { plan.small.push(file) } else { plan.large.push(file) }
            }
        }
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_no_disk_holds_are_summed_up_all_the_same() {
        let path = SharePath::default();
        let file = WantedFile { path, blob: BlobId::new([1; 32]), size: u64::MAX / 2, executable: false, mtime_ns: 0 };
        let plan = Plan { large: vec![file; 3], ..Plan::default() };
        assert_eq!(plan.bytes(), u64::MAX);
    }
}
