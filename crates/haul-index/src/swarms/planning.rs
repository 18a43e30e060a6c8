//! The planner of those members of a swarm that pass the blob on to the same groups, and of those that share it.

use std::collections::BTreeSet;

use haul_core::blob::BlobGeometry;
use haul_core::ids::PeerId;
use haul_core::planner::{Hints, PieceSet, Planner, PlannerAction};
use haul_core::time::Moment;

use super::{Plan, Report};

/// Downloaders from which on plans are made. One alone chooses best for itself among those that have everything.
const SINKS: usize = 2;

/// One planner with what its driver has to remember.
#[derive(Debug)]
pub(super) struct Planning {
    planner: Planner,
    /// Who shares the blob and is no member.
    owners: BTreeSet<PeerId>,
    members: BTreeSet<PeerId>,
    /// Whether there were enough downloaders once: then plans go on to the last.
    begun: bool,
}

impl Planning {
    pub(super) fn new(geometry: BlobGeometry, seed: u64) -> Self {
        let planner = Planner::new(geometry, seed);
        Self { planner, owners: BTreeSet::new(), members: BTreeSet::new(), begun: false }
    }

    pub(super) fn join(&mut self, now: Moment, peer: PeerId, pieces: &PieceSet) {
        self.owners.remove(&peer);
        self.members.insert(peer);
        // Where a swarm is too large for the planner, those that come last act alone.
        self.planner.handle_join(now, peer, pieces, Hints::default());
    }

    pub(super) fn depart(&mut self, now: Moment, peer: PeerId) {
        self.members.remove(&peer);
        self.planner.handle_depart(now, peer);
    }

    pub(super) fn report(&mut self, now: Moment, peer: PeerId, report: &Report) {
        self.planner.handle_have(now, peer, &report.pieces, &report.received);
        for source in &report.failed {
            self.planner.handle_failed(now, peer, *source);
        }
    }

    /// Takes over who shares the blob; those that are new.
    pub(super) fn set_owners(&mut self, now: Moment, owners: BTreeSet<PeerId>) -> Vec<PeerId> {
        let gone: Vec<PeerId> = self.owners.difference(&owners).copied().collect();
        let new: Vec<PeerId> = owners.difference(&self.owners).copied().collect();
        for peer in gone {
            self.planner.handle_depart(now, peer);
        }
        let all = PieceSet::full(self.planner.pieces());
        for peer in &new {
            self.planner.handle_join(now, *peer, &all, Hints::default());
        }
        self.owners = owners;
        new
    }

    /// Plans if it is time; each sink with its plan.
    pub(super) fn plan(&mut self, now: Moment) -> Vec<(PeerId, Plan)> {
        self.begun |= self.planner.sinks() >= SINKS;
        let mut plans = Vec::new();
        if !self.begun {
            return plans;
        }
        if self.planner.next_timeout().is_some_and(|due| due <= now) {
            self.planner.handle_timeout(now);
        }
        while let Some(action) = self.planner.poll_action() {
            match action {
                PlannerAction::Plan { sink, lease, sources } => plans.push((sink, (lease, sources))),
                PlannerAction::Strike { peer } => {
                    tracing::info!(peer = peer.short(), "a peer gave two others nothing of what it should hold");
                }
            }
        }
        plans
    }

    /// Whether nobody takes part any more.
    pub(super) fn is_over(&self) -> bool {
        self.members.is_empty()
    }
}
