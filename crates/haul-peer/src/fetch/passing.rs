//! Passing on what a download has verified so far, and telling the index of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use haul_core::blob::{BlobGeometry, LeafSet};
use haul_core::ids::{BlobId, PeerId};
use haul_core::limits::{HAVE_RANGES, SWARM_BYTES};
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
        geometry: BlobGeometry,
        output: &Output,
        verified: &LeafSet,
        now: Moment,
    ) -> (Self, Option<mpsc::UnboundedReceiver<SwarmNews>>) {
        let able = matches!(output, Output::File(_)) && downloader.shares.is_some() && geometry.size() >= SWARM_BYTES;
        let mut passing = Self::alone(blob, geometry, now);
        let pieces = whole_pieces(geometry, verified);
        let seat = able.then(|| downloader.finder.join(blob, geometry.size(), pieces.clone())).flatten();
        let Some(Seat { seat, news }) = seat else { return (passing, None) };
        passing.told = told_after(&passing.told, &pieces);
        passing.seat = Some(seat);
        (passing, Some(news))
    }

    /// A download that takes part in no swarm.
    pub(super) fn alone(blob: BlobId, geometry: BlobGeometry, now: Moment) -> Self {
        let told = LeafSet::new(geometry.pieces().into());
        Self {
            blob,
            geometry,
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
    pub(super) fn offer(&mut self, downloader: &Downloader, output: &Output, checker: &Arc<Checker>) {
        let (None, Some(groups), Some(shares), Output::File(part)) =
            (&self.offered, &self.groups, &downloader.shares, output)
        else {
            return;
        };
        // If it cannot be opened once more it is not passed on; the download itself goes on.
        if let Ok(file) = part.reader() {
            let partial = Partial::new(Arc::clone(checker), file, groups.clone());
            self.offered = Some(shares.partials().offer(self.blob, partial));
        }
    }

    /// The size is proved: what is verified is passed on from now on.
    pub(super) fn prove(&mut self, verified: &LeafSet) {
        if let Some(offered) = self.offered.as_ref().filter(|_| !self.proven) {
            offered.prove(verified);
            self.proven = true;
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

    /// Tells the index what is new, if it is time.
    pub(super) fn report(&mut self, verified: &LeafSet, now: Moment, at_once: bool) {
        let due = at_once || now.since(self.told_at) >= REPORT;
        let Some(seat) = self.seat.as_ref().filter(|_| due) else { return };
        let pieces = new_runs(&self.told, &whole_pieces(self.geometry, verified));
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

/// The pieces of these runs that were not told yet.
fn new_runs(told: &LeafSet, whole: &[PieceRange]) -> Vec<PieceRange> {
    let mut runs = Vec::new();
    for piece in whole.iter().flat_map(|run| run.pieces()).filter(|piece| !told.contains((*piece).into())) {
        PieceRange::push(&mut runs, piece);
    }
    runs.truncate(HAVE_RANGES);
    runs
}
