//! Passing on what a download has verified so far, and telling the index of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use haul_core::blob::{BlobGeometry, LeafSet};
use haul_core::ids::{BlobId, PeerId};
use haul_core::limits::{HAVE_RANGES, SHEET_LEAVES, SWARM_BYTES};
use haul_core::time::Moment;
use haul_core::wire::Label;
use haul_core::wire::index::{PieceRange, Received};
use tokio::sync::mpsc;

use super::Downloader;
use super::output::Output;
use crate::partial::{Checker, Offered, Partial};
use crate::swarm::{Report, Seat, SwarmNews, SwarmSeat, whole_pieces};

/// Least time between two reports to the index: what comes meanwhile goes together.
const REPORT: Duration = Duration::from_millis(100);

/// A download's part in the swarm of its blob. Without a seat it does nothing.
pub(super) struct Passing {
    blob: BlobId,
    geometry: BlobGeometry,
    /// Only leaves whose sheet is known can be given to others.
    checker: Arc<Checker>,
    seat: Option<Box<dyn SwarmSeat>>,
    /// Who may have it, once the index has said so.
    groups: Option<Vec<Label>>,
    offered: Option<Offered>,
    /// Pieces that the index was told of.
    told: LeafSet,
    told_at: Moment,
    /// What came from whom, and who failed, since then.
    received: BTreeMap<PeerId, u64>,
    failed: BTreeSet<PeerId>,
    /// Whether the blob's size is proved, so that what is verified is the blob's.
    proven: bool,
}

/// What is left of it after the last leaf: to serve on.
pub(super) struct Passed {
    pub(super) groups: Vec<Label>,
    pub(super) seat: Box<dyn SwarmSeat>,
    /// Serves until the file has its final name.
    pub(super) offered: Option<Offered>,
}

impl Passing {
    /// Joins the swarm of a blob that is worth it, if the download can pass it on.
    pub(super) fn begin(
        downloader: &Downloader,
        blob: BlobId,
        checker: &Arc<Checker>,
        output: &Output,
        now: Moment,
    ) -> (Self, Option<mpsc::UnboundedReceiver<SwarmNews>>) {
        let size = checker.geometry().size();
        let able = matches!(output, Output::File(_)) && downloader.shares.is_some() && size >= SWARM_BYTES;
        let mut passing = Self::alone(blob, checker, now);
        // What an earlier download left is told of once its sheets are known.
        let seat = able.then(|| downloader.finder.join(blob, size)).flatten();
        let Some(Seat { seat, news }) = seat else { return (passing, None) };
        passing.seat = Some(seat);
        (passing, Some(news))
    }

    /// A download that takes part in no swarm.
    pub(super) fn alone(blob: BlobId, checker: &Arc<Checker>, now: Moment) -> Self {
        let geometry = checker.geometry();
        let told = LeafSet::new(geometry.pieces().into());
        Self {
            blob,
            geometry,
            checker: Arc::clone(checker),
            seat: None,
            groups: None,
            offered: None,
            told,
            told_at: now,
            received: BTreeMap::new(),
            failed: BTreeSet::new(),
            proven: false,
        }
    }

    /// The index has taken this peer in.
    pub(super) fn joined(&mut self, groups: Vec<Label>) {
        if let Some(offered) = &self.offered {
            offered.set_groups(&groups);
        }
        self.groups = Some(groups);
    }

    /// Begins to serve, once it is known who may have it. Until the size is proved there is nothing to have, but others
    /// may wait for it here.
    pub(super) fn offer(&mut self, downloader: &Downloader, output: &Output) {
        let (None, Some(groups), Some(shares), Output::File(part)) =
            (&self.offered, &self.groups, &downloader.shares, output)
        else {
            return;
        };
        // If it cannot be opened once more it is not passed on; the download itself goes on.
        if let Ok(file) = part.reader() {
            let partial = Partial::new(Arc::clone(&self.checker), file, groups.clone());
            self.offered = Some(shares.partials().offer(self.blob, partial));
        }
    }

    /// The size is proved: what is verified is passed on from now on.
    pub(super) fn prove(&mut self, verified: &LeafSet) {
        if let Some(offered) = self.offered.as_ref().filter(|_| !self.proven) {
            let (known, mut held) = (self.checker.sheets(), LeafSet::new(self.geometry.leaves()));
            for sheet in (0..known.leaves()).filter(|sheet| known.contains(*sheet)) {
                for leaf in verified_in(self.geometry, sheet, verified) {
                    held.insert(leaf);
                }
            }
            offered.prove(&held);
            self.proven = true;
        }
    }

    /// A sheet has come: what of it was here before is passed on too.
    pub(super) fn add_sheet(&self, sheet: u64, verified: &LeafSet) {
        let leaves: Vec<u64> = verified_in(self.geometry, sheet, verified).collect();
        if !leaves.is_empty() {
            self.add(&leaves);
        }
    }

    /// These leaves are written.
    pub(super) fn add(&self, leaves: &[u64]) {
        if let Some(offered) = self.offered.as_ref().filter(|_| self.proven) {
            offered.add(leaves);
        }
    }

    /// Written leaves that were read back as something else since the last call.
    pub(super) fn take_damaged(&self) -> Vec<u64> {
        self.offered.as_ref().map(|offered| offered.take_damaged()).unwrap_or_default()
    }

    /// A provider gave verified bytes.
    pub(super) fn gave(&mut self, provider: PeerId, bytes: u64) {
        if self.seat.is_some() {
            *self.received.entry(provider).or_default() += bytes;
        }
    }

    /// A provider did not give what it should hold.
    pub(super) fn failed(&mut self, provider: PeerId) {
        if self.seat.is_some() {
            self.failed.insert(provider);
        }
    }

    /// Tells the index what is new, if it is time, or if this is the last report.
    pub(super) fn report(&mut self, verified: &LeafSet, now: Moment, last: bool) {
        let due = last || now.since(self.told_at) >= REPORT;
        let Some(seat) = self.seat.as_ref().filter(|_| due) else { return };
        let sheets = self.checker.sheets();
        // A complete file is served with an outline of its own.
        let complete = verified.is_full() && last;
        let known = |piece: u32| {
            let sheet = u64::from(piece) * self.geometry.piece_leaves() / SHEET_LEAVES;
            complete || sheets.contains(sheet)
        };
        let pieces = new_runs(&self.told, &whole_pieces(self.geometry, verified), known);
        let received = std::mem::take(&mut self.received).into_iter();
        let received = received.map(|(from, bytes)| Received { from, bytes }).collect();
        let report = Report { pieces, received, failed: std::mem::take(&mut self.failed).into_iter().collect() };
        self.told_at = now;
        if report != Report::default() {
            self.told = told_after(&self.told, &report.pieces);
            seat.have(&report);
        }
    }

    /// The blob is complete.
    pub(super) fn end(self) -> Option<Passed> {
        Some(Passed { groups: self.groups?, seat: self.seat?, offered: self.offered })
    }
}

fn told_after(told: &LeafSet, pieces: &[PieceRange]) -> LeafSet {
    let mut told = told.clone();
    for piece in pieces.iter().flat_map(|run| run.pieces()) {
        told.insert(piece.into());
    }
    told
}

/// Leaves of a sheet that are verified.
fn verified_in(geometry: BlobGeometry, sheet: u64, verified: &LeafSet) -> impl Iterator<Item = u64> {
    geometry.sheet_leaves(sheet).filter(|leaf| verified.contains(*leaf))
}

/// The known pieces of these runs that were not told yet.
fn new_runs(told: &LeafSet, whole: &[PieceRange], known: impl Fn(u32) -> bool) -> Vec<PieceRange> {
    let mut runs = Vec::new();
    let new = |piece: &u32| !told.contains((*piece).into()) && known(*piece);
    for piece in whole.iter().flat_map(|run| run.pieces()).filter(new) {
        PieceRange::push(&mut runs, piece);
    }
    runs.truncate(HAVE_RANGES);
    runs
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use haul_core::limits::LEAF_BYTES;
    use haul_core::outline::{OutlineBuilder, leaf_value};
    use haul_net::clock::boot_now;

    use super::*;
    use crate::partial::Partials;

    #[derive(Debug, Default)]
    struct Told(std::sync::Mutex<Vec<PieceRange>>);

    impl SwarmSeat for Arc<Told> {
        fn have(&self, report: &Report) {
            self.0.lock().unwrap().extend(&report.pieces);
        }

        fn groups(&self) -> Option<Vec<Label>> {
            None
        }
    }

    #[test]
    fn what_was_here_before_is_offered_and_told_of_once_its_sheet_is_known() {
        let leaves = 2 * SHEET_LEAVES;
        let mut builder = OutlineBuilder::new();
        (0..leaves).for_each(|leaf| builder.push_value(leaf_value(leaf, b"leaf")));
        let (blob, outline) = builder.finish();
        let checker = Checker::new(blob, BlobGeometry::new(leaves * LEAF_BYTES).unwrap());
        let mut passing = Passing::alone(blob, &checker, boot_now());
        let told = Arc::<Told>::default();
        passing.seat = Some(Box::new(Arc::clone(&told)));
        let partials = Arc::<Partials>::default();
        let partial = Partial::new(Arc::clone(&checker), tempfile::tempfile().unwrap(), Vec::new());
        passing.offered = Some(partials.offer(blob, partial));

        let mut verified = LeafSet::new(leaves);
        for leaf in (0..64).chain(leaves - 32..leaves) {
            verified.insert(leaf);
        }
        let held = |passing: &Passing| passing.offered.as_ref().unwrap().held().count();
        assert!(checker.accept(None, &outline.root_sheet()) && checker.accept(Some(1), outline.sheet(1).unwrap()));
        passing.prove(&verified);
        passing.report(&verified, boot_now(), true);
        let pieces = |first, count| PieceRange { first, count };
        let last = u32::try_from(leaves / 16).unwrap() - 2;
        assert_eq!((held(&passing), told.0.lock().unwrap().clone()), (32, vec![pieces(last, 2)]));
        assert!(checker.accept(Some(0), outline.sheet(0).unwrap()));
        passing.add_sheet(0, &verified);
        passing.report(&verified, boot_now(), true);
        assert_eq!((held(&passing), told.0.lock().unwrap().clone()), (96, vec![pieces(last, 2), pieces(0, 4)]));
    }
}
