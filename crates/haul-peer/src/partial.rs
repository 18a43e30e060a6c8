//! Blobs on their way here, as far as they can be passed on already: verified leaves, read back from the part file.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use haul_core::blob::{BlobGeometry, LeafSet};
use haul_core::download::Verdict;
use haul_core::ids::BlobId;
use haul_core::limits::LEAF_BYTES;
use haul_core::outline::{ChainingValue, Outline, OutlineCheck};
use haul_core::wire::Label;
use tokio::sync::watch;

use crate::reading::read_at;

/// The sheets known so far, and how often they were forgotten.
#[derive(Debug)]
pub(crate) struct Checker {
    blob: BlobId,
    geometry: BlobGeometry,
    state: RwLock<(u64, OutlineCheck)>,
}

impl Checker {
    pub(crate) fn new(blob: BlobId, geometry: BlobGeometry) -> Arc<Self> {
        let state = RwLock::new((0, OutlineCheck::new(blob, geometry)));
        Arc::new(Self { blob, geometry, state })
    }

    pub(crate) fn accept(&self, sheet: Option<u64>, values: &[ChainingValue]) -> bool {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match sheet {
            None => state.1.accept_root_sheet(values),
            Some(sheet) => state.1.accept_sheet(sheet, values),
        }
    }

    pub(crate) fn forget(&self) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        *state = (state.0 + 1, OutlineCheck::new(self.blob, self.geometry));
    }

    /// Names the sheets known now: a verdict of another epoch says nothing any more.
    pub(crate) fn epoch(&self) -> u64 {
        self.state.read().unwrap_or_else(PoisonError::into_inner).0
    }

    /// The verdict on a leaf, and the epoch whose sheets gave it.
    pub(crate) fn verify(&self, leaf: u64, bytes: &[u8]) -> (u64, Verdict) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let verdict = match state.1.can_verify(leaf) {
            false => Verdict::Unknown,
            true if state.1.verify(leaf, bytes) => Verdict::Good,
            true => Verdict::Bad,
        };
        (state.0, verdict)
    }

    pub(crate) fn geometry(&self) -> BlobGeometry {
        self.geometry
    }

    /// The values of a sheet, or of the root sheet, once they are known.
    pub(crate) fn values(&self, sheet: Option<u64>) -> Option<Vec<ChainingValue>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.1.values(sheet).map(<[ChainingValue]>::to_vec)
    }

    /// The sheets known.
    pub(crate) fn sheets(&self) -> LeafSet {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut known = LeafSet::new(self.geometry.sheets());
        for sheet in (0..self.geometry.sheets()).filter(|sheet| state.1.has_sheet(*sheet)) {
            known.insert(sheet);
        }
        known
    }

    pub(crate) fn outline(&self) -> Option<Outline> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).1.outline()
    }
}

/// One blob on its way here.
#[derive(Debug)]
pub struct Partial {
    geometry: BlobGeometry,
    groups: RwLock<Vec<Label>>,
    file: File,
    checker: Arc<Checker>,
    held: RwLock<LeafSet>,
    /// Leaves whose bytes were something else when they were read back, to be fetched again.
    damaged: Mutex<Vec<u64>>,
    /// Leaves held; none once the download has ended and no more will come.
    count: watch::Sender<Option<u64>>,
}

impl Partial {
    /// A blob of which nothing may be passed on yet, for members of `groups`; no groups mean everyone.
    pub(crate) fn new(checker: Arc<Checker>, file: File, groups: Vec<Label>) -> Self {
        let geometry = checker.geometry();
        let held = RwLock::new(LeafSet::new(geometry.leaves()));
        let (groups, count) = (RwLock::new(groups), watch::Sender::new(Some(0)));
        Self { geometry, groups, file, checker, held, damaged: Mutex::default(), count }
    }

    /// Its leaves.
    pub(crate) fn geometry(&self) -> BlobGeometry {
        self.geometry
    }

    /// From now on it is for members of these groups.
    pub(crate) fn set_groups(&self, groups: &[Label]) {
        groups.clone_into(&mut self.groups.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn is_for(&self, groups: &[Label]) -> bool {
        visible(&self.groups.read().unwrap_or_else(PoisonError::into_inner), groups)
    }

    /// The blob's size is proved, and these leaves are in the file.
    pub(crate) fn prove(&self, verified: &LeafSet) {
        self.held.write().unwrap_or_else(PoisonError::into_inner).clone_from(verified);
        self.count.send_replace(Some(verified.count()));
    }

    /// These leaves, too, are verified and written; the size is proved.
    pub(crate) fn add(&self, leaves: &[u64]) {
        let count = {
            let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
            for leaf in leaves {
                held.insert(*leaf);
            }
            held.count()
        };
        self.count.send_replace(Some(count));
    }

    /// The leaves held.
    pub(crate) fn held(&self) -> LeafSet {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Of these leaves, up to `most` that are held, in their order.
    pub(crate) fn ready(&self, wanted: &[u64], most: usize) -> Vec<u64> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        wanted.iter().copied().filter(|leaf| held.contains(*leaf)).take(most).collect()
    }

    /// Counts the leaves held; ends when the download does.
    pub(crate) fn growth(&self) -> watch::Receiver<Option<u64>> {
        self.count.subscribe()
    }

    /// The bytes of a leaf that is held. They are verified again: what a disk or somebody else has changed since they
    /// were written is not passed on; the download fetches it once more. Blocks.
    pub(crate) fn read(&self, leaf: u64) -> io::Result<Vec<u8>> {
        let read = read_at(&self.file, leaf * LEAF_BYTES, self.geometry.leaf_bytes(leaf));
        let verdict = read.as_ref().map_or(Verdict::Bad, |bytes| self.checker.verify(leaf, bytes).1);
        if verdict == Verdict::Good {
            return read;
        }
        if verdict == Verdict::Bad && self.held.write().unwrap_or_else(PoisonError::into_inner).remove(leaf) {
            self.damaged.lock().unwrap_or_else(PoisonError::into_inner).push(leaf);
            tracing::warn!(blob = %self.checker.blob, leaf, "what was written is not what was verified: is the disk damaged?");
        }
        Err(read.err().unwrap_or_else(|| io::ErrorKind::InvalidData.into()))
    }

    /// Leaves that have turned out not to be held since the last call.
    pub(crate) fn take_damaged(&self) -> Vec<u64> {
        std::mem::take(&mut *self.damaged.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the download has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.count.borrow().is_none()
    }

    /// A sheet of its outline, if it is known here and the size is proved.
    pub(crate) fn values(&self, sheet: Option<u64>) -> Option<Vec<ChainingValue>> {
        let proven = self.held.read().unwrap_or_else(PoisonError::into_inner).count() > 0;
        self.checker.values(sheet).filter(|_| proven)
    }
}

/// All blobs on their way here that may be passed on.
#[derive(Debug, Default)]
pub struct Partials {
    blobs: RwLock<HashMap<BlobId, Arc<Partial>>>,
}

impl Partials {
    /// What is here of a blob, for a member of these groups.
    pub(crate) fn find(&self, blob: &BlobId, groups: &[Label]) -> Option<Arc<Partial>> {
        let blobs = self.blobs.read().unwrap_or_else(PoisonError::into_inner);
        blobs.get(blob).filter(|partial| partial.is_for(groups)).cloned()
    }

    /// Passes a blob on until the guard is dropped.
    pub(crate) fn offer(self: &Arc<Self>, blob: BlobId, partial: Partial) -> Offered {
        let partial = Arc::new(partial);
        self.blobs.write().unwrap_or_else(PoisonError::into_inner).insert(blob, Arc::clone(&partial));
        Offered { blob, partial, partials: Arc::clone(self) }
    }
}

/// A blob that is passed on while its download runs.
#[derive(Debug)]
pub(crate) struct Offered {
    blob: BlobId,
    partial: Arc<Partial>,
    partials: Arc<Partials>,
}

impl Offered {
    /// Passes it on no longer. Reads that were begun before may still find damage.
    pub(crate) fn end(self) -> Arc<Partial> {
        Arc::clone(&self.partial)
    }
}

impl std::ops::Deref for Offered {
    type Target = Partial;
    fn deref(&self) -> &Partial {
        &self.partial
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        let mut blobs = self.partials.blobs.write().unwrap_or_else(PoisonError::into_inner);
        // Another download of the same blob may have taken the place.
        if blobs.get(&self.blob).is_some_and(|known| Arc::ptr_eq(known, &self.partial)) {
            blobs.remove(&self.blob);
        }
        drop(blobs);
        self.partial.count.send_replace(None);
    }
}

/// Whether somebody in these groups sees something for those groups; none means everyone.
pub(crate) fn visible(shared_with: &[Label], groups: &[Label]) -> bool {
    shared_with.is_empty() || shared_with.iter().any(|group| groups.contains(group))
}
