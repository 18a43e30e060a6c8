//! What is acknowledged, on disk: records of peers and shares, and pages as they came, in a log ([`super::log`]).
//!
//! A generation is one list of one share: pages in the order of their numbers, later ones amend earlier ones. Only the
//! share's record says which generation counts and up to which number; pages of others are left-overs of transactions
//! that did not commit, and count no more when the log opens again.

use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use haul_core::ids::{PeerId, ShareId};
use haul_core::manifest::ShareState;
use haul_core::wire::Label;
use serde::{Deserialize, Serialize};

use super::StoreError;
use super::embedded::lock;
use super::log::catalog::Catalog;
use super::log::clean::Cleaning;
use super::log::device::{Device, Folder, read_at};
use super::log::format::{FORMAT, HEAD_BYTES, Head, Key, decode_head};
use super::log::group::{Group, Place, start_of_segment};
use super::log::pages::Pages;
use super::log::scan::{Files, recover};

/// Bytes after which a segment takes no more groups. One sync of a folder and one catalog per 64 MiB cost nothing; cleaning
/// one takes a fraction of a second.
pub(super) const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// A segment is at least this many times as large as the catalog that it starts with.
const CATALOG_SHARE: u64 = 4;

/// What is kept of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PeerRecord {
    pub(super) name: Label,
    /// The boot on whose clock `lease_end` stands.
    pub(super) boot_id: [u8; 16],
    /// Milliseconds on the boot clock; 0 for a peer that left.
    pub(super) lease_end: u64,
    /// Shares that were open.
    pub(super) open: Vec<ShareId>,
}

/// What is kept of a share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ShareRecord {
    pub(super) name: Label,
    pub(super) groups: Vec<Label>,
    pub(super) state: ShareState,
    pub(super) generation: u64,
    pub(super) next_seq: u64,
    pub(super) base_bytes: u64,
    pub(super) amended_bytes: u64,
}

/// One step of a change.
#[derive(Debug)]
pub(super) enum Write {
    Pages {
        generation: u64,
        pages: Vec<(u64, Bytes)>,
    },
    /// Pages that leave their segment.
    Moved(Vec<MovedPage>),
    DropGeneration(u64),
    /// Drops the generation that the record named before, if it is another one.
    PutShare {
        peer: PeerId,
        share: ShareId,
        record: ShareRecord,
    },
    /// Drops its generation too.
    DropShare {
        peer: PeerId,
        share: ShareId,
    },
    PutPeer {
        peer: PeerId,
        record: PeerRecord,
    },
    DropPeer(PeerId),
}

/// A page with its check.
#[derive(Debug)]
pub(super) struct MovedPage {
    pub(super) generation: u64,
    pub(super) number: u64,
    pub(super) checked: Bytes,
}

impl Write {
    /// Bytes that it adds, about.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Pages { pages, .. } => pages.iter().map(|(_, page)| page.len() + 64).sum(),
            Self::Moved(pages) => pages.iter().map(|page| page.checked.len() + 64).sum(),
            _ => 512,
        }
    }
}

/// The log of one store.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) folder: Folder,
    pub(super) key: Key,
    device: Device,
    segment_bytes: u64,
    tail: Mutex<Tail>,
    pub(super) held: Mutex<Held>,
    pub(super) cleaning: Mutex<Cleaning>,
}

/// Where the next group goes.
#[derive(Debug)]
struct Tail {
    /// None before the first write and after one that failed: what the end of that file holds is not known, so the next
    /// write starts a segment, with a catalog of what is durable.
    open: Option<Open>,
    /// Number of the last group.
    number: u64,
    next_segment: u32,
}

#[derive(Debug)]
struct Open {
    segment: u32,
    file: Arc<std::fs::File>,
    offset: u64,
    /// Where the file ends: behind the zeros that were written ahead.
    written: u64,
    limit: u64,
}

/// What is durable.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) catalog: Catalog,
    pub(super) files: Files,
}

fn failed(what: &str, path: &Path, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Storage(format!("cannot {what} {}: {error}", path.display()))
}

impl Disk {
    /// Opens or creates the log in `dir`, with segments of about so many bytes, and reads everything but the pages. A second
    /// process that opens the same folder gets an error.
    pub(super) fn open(dir: &Path, device: Device, segment_bytes: u64) -> Result<(Self, Catalog), StoreError> {
        let folder = Folder::lock(dir)?;
        let (mut files, key) = open_segments(dir, &folder)?;
        let next_segment = files.keys().next_back().map_or(1, |last| last.saturating_add(1));
        let recovered = recover(&files, &key).map_err(|error| failed("read the index's log in", dir, &error))?;
        if let Some(unfinished) = recovered.unfinished {
            tracing::info!(segment = unfinished, "a segment of the index's log was being made; it holds nothing");
            files.remove(&unfinished);
            folder.discard(unfinished).map_err(|error| failed("delete a file in", dir, &error))?;
        }
        let catalog = recovered.catalog.clone();
        let disk = Self {
            folder,
            key,
            device,
            segment_bytes,
            tail: Mutex::new(Tail { open: None, number: recovered.number, next_segment }),
            held: Mutex::new(Held { catalog: recovered.catalog, files }),
            cleaning: Mutex::default(),
        };
        Ok((disk, catalog))
    }

    /// The pages of a generation below `end`, in order.
    pub(super) fn pages(&self, generation: u64, end: u64) -> Pages {
        let held = lock(&self.held);
        Pages::new(held.catalog.pages(generation, end), &held.files, self.key, generation, end)
    }

    /// Bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        let files: Vec<_> = lock(&self.held).files.values().cloned().collect();
        files.iter().filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
    }

    /// Performs all writes or none, durable when it returns: one write, one sync.
    pub(super) fn write(&self, writes: &[Write]) -> Result<(), StoreError> {
        let group = Group::new(writes, &self.key);
        let mut tail = lock(&self.tail);
        let placed = if group.records.is_empty() { None } else { Some(self.append(&mut tail, &group)?) };
        let mut held = lock(&self.held);
        if let Some((segment, offset)) = placed {
            held.catalog.apply(group.records, segment, offset);
        }
        for generation in group.dropped {
            held.catalog.drop_generation(generation);
        }
        Ok(())
    }

    /// Returns where the pages of the group are.
    fn append(&self, tail: &mut Tail, group: &Group<'_>) -> Result<(u32, u32), StoreError> {
        if group.bytes() > u64::from(u32::MAX) / 2 {
            return Err(StoreError::TooMuch("a change of 2 GiB at once".into()));
        }
        let mut open = match tail.open.take() {
            Some(open) if open.offset + group.bytes() <= open.limit => open,
            _ => self.start_segment(tail)?,
        };
        let at = Place { key: &self.key, segment: open.segment, offset: open.offset, number: tail.number + 1 };
        let written = group.write(at, open.written, |slices| {
            (self.device.write)(&open.file, slices, open.offset)?;
            (self.device.sync)(&open.file)
        });
        // From here to the end of this block: on an error the tail stays without a segment.
        let written = written.map_err(|error| failed("write to", &self.folder.segment_path(open.segment), &error))?;
        let placed = (open.segment, group.body_offset(open.offset));
        open.written = written;
        open.offset += group.bytes();
        tail.number += 1;
        tail.open = Some(open);
        Ok(placed)
    }

    /// Makes a new file with the catalog of what is durable.
    fn start_segment(&self, tail: &mut Tail) -> Result<Open, StoreError> {
        let segment = tail.next_segment;
        let path = self.folder.segment_path(segment);
        tail.next_segment = segment
            .checked_add(1)
            .ok_or_else(|| StoreError::Storage("the index's log has no numbers for segments left".into()))?;
        let start = start_of_segment(&lock(&self.held).catalog, &self.key, segment, tail.number)?;
        let file = self.folder.create(segment).map_err(|error| failed("make", &path, &error))?;
        let made = (self.device.write)(&file, &mut [std::io::IoSlice::new(&start)], 0)
            .and_then(|()| (self.device.sync)(&file))
            .and_then(|()| (self.device.sync_folder)(self.folder.file()));
        if let Err(error) = made {
            // It must not stay as the newest one while groups go on elsewhere; and there may be no room for it.
            if let Err(error) = self.folder.remove(segment) {
                tracing::error!(%error, path = %path.display(), "cannot delete an unfinished file of the index's log");
            }
            return Err(failed("write to", &path, &error));
        }
        let file = Arc::new(file);
        lock(&self.held).files.insert(segment, Arc::clone(&file));
        let offset = start.len() as u64;
        let limit = self.segment_bytes.max(offset.saturating_mul(CATALOG_SHARE));
        Ok(Open { segment, file, offset, written: offset, limit })
    }

    /// Where the next group goes in the newest segment.
    #[cfg(test)]
    pub(super) fn end(&self) -> Option<u64> {
        lock(&self.tail).open.as_ref().map(|open| open.offset)
    }

    /// Bytes after which a segment is full.
    pub(super) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }
}

/// Opens all segments and finds the key that their checks are made with: a new one if there are none.
fn open_segments(dir: &Path, folder: &Folder) -> Result<(Files, Key), StoreError> {
    let mut files = Files::new();
    let mut key = None;
    let mut unreadable = Vec::new();
    for number in folder.segments().map_err(|error| failed("read the folder", dir, &error))?.into_iter().rev() {
        let path = folder.segment_path(number);
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(|error| failed("open", &path, &error))?;
        let head = read_at(&file, 0, HEAD_BYTES).map_err(|error| failed("read", &path, &error))?;
        match decode_head(&head) {
            Head::Segment { number: named, .. } if named != number => {
                return Err(StoreError::Storage(format!(
                    "{} is segment {named} of an index's log under a wrong name: rename it back, or move it away and let the peers register again",
                    path.display()
                )));
            }
            Head::Segment { key: other, .. } if key.is_some_and(|key| key != other) => {
                return Err(StoreError::Storage(format!("{} belongs to another index: move it away", path.display())));
            }
            Head::Segment { key: own, .. } => key = Some(own),
            Head::Version(version) => {
                return Err(StoreError::Storage(format!(
                    "{} has format {version}, this program reads {FORMAT}: use the program that wrote it, or move the folder away and let the peers register again",
                    path.display()
                )));
            }
            Head::Unreadable => unreadable.push((number, head)),
        }
        files.insert(number, Arc::new(file));
    }
    let newest = files.keys().next_back().copied();
    for (number, head) in unreadable {
        // A file that was being made when the machine stopped; the others may hold pages, which check one by one.
        let unfinished = Some(number) == newest && head.iter().all(|byte| *byte == 0);
        if key.is_none() && !unfinished {
            files.remove(&number);
            folder.set_aside(number).map_err(|error| failed("rename a file in", dir, &error))?;
        } else if !unfinished {
            tracing::error!(path = %folder.segment_path(number).display(), "the start of this file is damaged");
        }
    }
    if let Some(key) = key {
        return Ok((files, key));
    }
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| StoreError::Storage(format!("no random bytes: {error}")))?;
    Ok((files, Key(random)))
}
