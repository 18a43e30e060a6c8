//! Where verified leaves go: into a part file at their places, or to a reader in order.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use haul_core::download::Verdict;
use haul_core::limits::LEAF_BYTES;
use haul_core::wire::peer::LeafRange;
use tokio::sync::mpsc;

use crate::files::PartFile;
use crate::partial::Checker;

/// Leaves that an in-order reader may have waiting: 16 MiB.
const HELD_LEAVES: u64 = 256;

/// Where leaves go.
pub(super) enum Output {
    /// Into a part file.
    File(Arc<PartFile>),
    /// To a reader.
    Reader(Reader),
}

/// Verifies leaves that an earlier download left on disk. Blocks.
pub(super) fn verify_local(checker: &Checker, epoch: u64, part: &PartFile, ranges: &[LeafRange]) -> Vec<(u64, bool)> {
    let leaves = ranges.iter().flat_map(|range| range.first..range.first + range.count);
    leaves
        .map(|leaf| {
            let good = part.read_leaf(leaf).is_ok_and(|bytes| checker.verify(leaf, &bytes) == (epoch, Verdict::Good));
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
