//! Where verified leaves go: into a part file at their places, or to a reader in order.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use haul_core::blob::BlobGeometry;
use haul_core::download::Verdict;
use haul_core::ids::BlobId;
use haul_core::limits::LEAF_BYTES;
use haul_core::outline::{ChainingValue, OutlineCheck};
use haul_core::wire::peer::LeafRange;
use tokio::sync::mpsc;

use crate::files::{FileError, PartFile};

/// Leaves that an in-order reader may have waiting: 16 MiB.
const HELD_LEAVES: u64 = 256;

/// The sheets known so far, and how often they were forgotten.
#[derive(Debug)]
pub(super) struct Checker {
    blob: BlobId,
    geometry: BlobGeometry,
    state: RwLock<(u64, OutlineCheck)>,
}

impl Checker {
    pub(super) fn new(blob: BlobId, geometry: BlobGeometry) -> Arc<Self> {
        let state = RwLock::new((0, OutlineCheck::new(blob, geometry)));
        Arc::new(Self { blob, geometry, state })
    }

    pub(super) fn accept(&self, sheet: Option<u64>, values: &[ChainingValue]) -> bool {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match sheet {
            None => state.1.accept_root_sheet(values),
            Some(sheet) => state.1.accept_sheet(sheet, values),
        }
    }

    pub(super) fn forget(&self) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        *state = (state.0 + 1, OutlineCheck::new(self.blob, self.geometry));
    }

    /// Names the sheets that leaves arriving now belong to.
    pub(super) fn epoch(&self) -> u64 {
        self.state.read().unwrap_or_else(PoisonError::into_inner).0
    }

    pub(super) fn verify(&self, epoch: u64, leaf: u64, bytes: &[u8]) -> Verdict {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if state.0 != epoch || !state.1.can_verify(leaf) {
            return Verdict::Unknown;
        }
        if state.1.verify(leaf, bytes) { Verdict::Good } else { Verdict::Bad }
    }

    pub(super) fn outline(&self) -> Option<haul_core::outline::Outline> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).1.outline()
    }
}

/// Where leaves go.
pub(super) enum Output {
    /// Into a part file.
    File(Arc<PartFile>),
    /// To a reader.
    Reader(Reader),
}

/// A leaf after verification. The bytes are kept only for a reader.
pub(super) struct Checked {
    pub(super) leaf: u64,
    pub(super) verdict: Verdict,
    pub(super) bytes: Option<Bytes>,
}

/// Verifies leaves and writes the good ones. Blocks: for a worker thread.
pub(super) fn verify_and_write(
    checker: &Checker,
    epoch: u64,
    part: Option<&PartFile>,
    leaves: Vec<(u64, Bytes)>,
) -> Result<Vec<Checked>, FileError> {
    let mut results = Vec::with_capacity(leaves.len());
    for (leaf, bytes) in leaves {
        let verdict = checker.verify(epoch, leaf, &bytes);
        let bytes = match part {
            Some(part) => {
                if verdict == Verdict::Good {
                    part.write_leaf(leaf, &bytes)?;
                }
                None
            }
            None => Some(bytes),
        };
        results.push(Checked { leaf, verdict, bytes });
    }
    Ok(results)
}

/// Verifies leaves that an earlier download left on disk. Blocks.
pub(super) fn verify_local(checker: &Checker, epoch: u64, part: &PartFile, ranges: &[LeafRange]) -> Vec<(u64, bool)> {
    let leaves = ranges.iter().flat_map(|range| range.first..range.first + range.count);
    leaves
        .map(|leaf| {
            let good = part.read_leaf(leaf).is_ok_and(|bytes| checker.verify(epoch, leaf, &bytes) == Verdict::Good);
            (leaf, good)
        })
        .collect()
}

/// Hands verified leaves to a reader in order.
pub(super) struct Reader {
    to: mpsc::Sender<Bytes>,
    /// Bytes of the blob that are wanted.
    range: Range<u64>,
    next: u64,
    /// Behind the last leaf that is wanted.
    end: u64,
    held: BTreeMap<u64, Bytes>,
}

impl Reader {
    pub(super) fn new(to: mpsc::Sender<Bytes>, range: Range<u64>) -> Self {
        let next = range.start / LEAF_BYTES;
        let end = if range.is_empty() { next } else { range.end.div_ceil(LEAF_BYTES) };
        Self { to, range, next, end, held: BTreeMap::new() }
    }

    pub(super) fn sender(&self) -> mpsc::Sender<Bytes> {
        self.to.clone()
    }

    pub(super) fn keep(&mut self, leaf: u64, bytes: Bytes) {
        if leaf >= self.next && leaf < self.end {
            self.held.insert(leaf, bytes);
        }
    }

    pub(super) fn has_next(&self) -> bool {
        self.held.contains_key(&self.next)
    }

    pub(super) fn is_done(&self) -> bool {
        self.next >= self.end
    }

    /// The next bytes, cut to the wanted range.
    pub(super) fn take_next(&mut self) -> Option<Bytes> {
        let bytes = self.held.remove(&self.next)?;
        let start = self.next * LEAF_BYTES;
        self.next += 1;
        let from = self.range.start.saturating_sub(start).min(bytes.len() as u64) as usize;
        let to = (self.range.end - start).min(bytes.len() as u64) as usize;
        Some(bytes.slice(from..to.max(from)))
    }

    /// Leaves from here on would have to wait too long.
    pub(super) fn horizon(&self) -> u64 {
        self.next + HELD_LEAVES
    }
}
