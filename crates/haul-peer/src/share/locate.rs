//! Files of this machine by their content: finding, opening and doubting them, and their outlines.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use haul_core::ids::{BlobId, ShareId};
use haul_core::outline::Outline;
use haul_core::path::SharePath;
use haul_core::wire::Label;

use super::folder::Folder;
use super::manifest::{FileItem, Key, Kind, Trust};
use super::open::{Root, Roots, file_system_of, is_passing, open_error, stamp_from, stamp_of};
use super::{OpenError, Shares};
use crate::partial::visible;
use crate::reading::read_at;

/// Outlines kept in memory: those of the files that are being served.
const OUTLINES_KEPT: usize = 32;

/// Identifies the state of a file on disk: if it is the same before and after reading, so is the content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileStamp {
    /// Inode number.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Last modification, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Last change of content or attributes, nanoseconds since 1970. Cannot be set by programs.
    pub ctime_ns: i64,
}

/// A file of this machine that holds a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFile {
    /// The blob.
    pub blob: BlobId,
    /// Its share; none for a finished download that is served from its place.
    pub share: Option<ShareId>,
    /// Groups that may see it; empty means everyone.
    pub groups: Vec<Label>,
    /// Folder below which it is opened.
    pub root: PathBuf,
    /// Path below the root.
    pub path: SharePath,
    /// Whether its owner may execute it.
    pub executable: bool,
    /// What it was when it was hashed.
    pub stamp: FileStamp,
}

impl LocalFile {
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.stamp.size
    }

    /// Reads all of it as one of a series, if it is what was hashed.
    pub(crate) fn read_whole(&self, roots: &mut Roots) -> Result<Vec<u8>, OpenError> {
        let opened = roots.at(&self.root).and_then(|below| below.open_to_read(&self.path));
        let file = File::from(opened.map_err(open_error)?);
        let read = read_at(&file, 0, self.size() as usize);
        // One look is enough: with the stamp of the hash behind it, nothing has changed since.
        let stamp = stamp_of(&file).map_err(std::io::Error::from);
        match read.and_then(|bytes| Ok((bytes, stamp?))) {
            Ok((bytes, stamp)) if stamp == self.stamp => Ok(bytes),
            Err(error) if is_passing(&error) => Err(OpenError::Io(error)),
            // What cannot be read is hashed again, which finds out why and says so.
            Ok(_) | Err(_) => Err(OpenError::Changed),
        }
    }
}

impl Shares {
    /// A file here with this content, for this machine's own use: a finished download, or one in a share that everyone
    /// sees.
    pub fn locate(&self, blob: &BlobId) -> Option<LocalFile> {
        let downloaded = || self.offers.read().expect("no panic while held").get(blob).map(|offer| offer.file.clone());
        self.locate_for(blob, &[]).or_else(downloaded)
    }

    /// A file here with this content that a member of these groups may have.
    pub fn locate_for(&self, blob: &BlobId, groups: &[Label]) -> Option<LocalFile> {
        let shared = self.folders().into_iter().find_map(|folder| {
            if !visible(&folder.record.groups, groups) {
                return None;
            }
            let state = folder.lock();
            if state.away.is_some() || state.removed {
                return None;
            }
            let (key, file) = state.manifest.find_blob(blob)?;
            local_file(&folder, &key, file, *blob)
        });
        shared.or_else(|| {
            let offers = self.offers.read().expect("no panic while held");
            let offer = offers.get(blob)?;
            offer.is_for(groups).then(|| offer.file.clone())
        })
    }

    /// The file of this path: its blob once known, and its size.
    pub fn locate_path(&self, share: &Label, path: &SharePath) -> Option<(Option<BlobId>, u64)> {
        let folder = self.named(share).ok()?;
        let (directory, name) = path.split();
        let state = folder.lock();
        let file = state.manifest.get(directory, name)?.file()?;
        Some((file.blob, file.stamp.size))
    }

    /// Hashes this file before all others.
    pub fn hash_first(&self, share: &Label, path: &SharePath) {
        let Ok(folder) = self.named(share) else { return };
        let (directory, name) = path.split();
        let waiting = folder
            .lock()
            .manifest
            .get(directory, name)
            .is_some_and(|item| item.file().is_some_and(FileItem::needs_hash));
        if waiting {
            self.agenda.hash_first(folder.record.id, Key::new(directory, name));
        }
    }

    /// Opens a located file below its root: never through a symbolic link, only a regular file, only if it is still
    /// the file that was hashed. Compare [`Shares::still_same`] after reading.
    pub fn open_file(&self, file: &LocalFile) -> Result<File, OpenError> {
        let (opened, stat) = Root::open(&file.root).map_err(open_error)?.open_regular(&file.path)?;
        if stamp_from(&stat) == file.stamp { Ok(opened) } else { Err(OpenError::Changed) }
    }

    /// Whether the open file is still what was hashed.
    pub fn still_same(&self, open: &File, file: &LocalFile) -> bool {
        stamp_of(open).is_ok_and(|stamp| stamp == file.stamp)
    }

    /// The outline of a blob that [`Shares::locate`] finds. Empty for a blob of one leaf. None while it has to be
    /// computed again; that starts with this call.
    pub fn outline(&self, blob: &BlobId) -> Option<Arc<Outline>> {
        if let Some(offer) = self.offers.read().expect("no panic while held").get(blob) {
            return Some(offer.outline.clone());
        }
        if let Some((_, outline)) = self.recent_outlines().iter().find(|(kept, _)| kept == blob) {
            return Some(outline.clone());
        }
        let file = self.locate_any(blob)?;
        let Some(outline) = self.cache.outline(blob, file.size()) else {
            self.hash_again(&file, Trust::Doubtful);
            return None;
        };
        let outline = Arc::new(outline);
        let mut recent = self.recent_outlines();
        recent.push_front((*blob, outline.clone()));
        recent.truncate(OUTLINES_KEPT);
        Some(outline)
    }

    fn recent_outlines(&self) -> MutexGuard<'_, VecDeque<(BlobId, Arc<Outline>)>> {
        self.outlines.lock().expect("no panic while held")
    }

    /// Whatever the groups: for work on our own files.
    fn locate_any(&self, blob: &BlobId) -> Option<LocalFile> {
        self.folders().into_iter().find_map(|folder| {
            let state = folder.lock();
            let (key, file) = state.manifest.find_blob(blob)?;
            local_file(&folder, &key, file, *blob)
        })
    }

    /// The file is not what was hashed: withdraws its blob and hashes it again.
    pub fn report_changed(&self, file: &LocalFile) {
        self.forget_hash(file);
        if file.share.is_none() {
            self.offers.write().expect("no panic while held").remove(&file.blob);
            return;
        }
        let Some((folder, key)) = self.place_of(file) else { return };
        let editor = folder.edit_now();
        {
            let mut state = editor.state();
            let Some(item) = state.manifest.get_key(&key) else { return };
            let seen_by = item.seen_by;
            match item.file().copied() {
                Some(known) if known.blob == Some(file.blob) && known.stamp == file.stamp => {
                    let unknown = FileItem { blob: None, trust: Trust::Firm, ..known };
                    state.manifest.put(&key, Kind::File(unknown), seen_by);
                }
                _ => return,
            }
        }
        editor.commit();
        self.agenda.hash_first(folder.record.id, key);
        self.agenda.walk_at(folder.record.id, Instant::now() + Duration::from_secs(1));
    }

    /// A file that still has its stamp would be taken for what it is not whenever the cache is asked.
    fn forget_hash(&self, file: &LocalFile) {
        let Ok(open) = self.open_file(file) else { return };
        let Ok(file_system) = file_system_of(&open) else { return };
        if let Err(error) = self.cache.forget(file_system, &file.stamp) {
            tracing::warn!(%error, "the hash cache cannot be written; a wrong hash may come back");
        }
    }

    fn hash_again(&self, file: &LocalFile, trust: Trust) {
        let Some((folder, key)) = self.place_of(file) else { return };
        folder.lock().manifest.set_trust(&key, trust);
        self.agenda.hash_first(folder.record.id, key);
    }

    fn place_of(&self, file: &LocalFile) -> Option<(Arc<Folder>, Key)> {
        let folder = self.folder(file.share?)?;
        let (directory, name) = file.path.split();
        Some((folder, Key::new(directory, name)))
    }
}

fn local_file(folder: &Folder, key: &Key, file: &FileItem, blob: BlobId) -> Option<LocalFile> {
    Some(LocalFile {
        blob,
        share: Some(folder.record.id),
        groups: folder.record.groups.clone(),
        root: folder.record.root.clone(),
        path: SharePath::new(key.path()).ok()?,
        executable: file.executable,
        stamp: file.stamp,
    })
}
