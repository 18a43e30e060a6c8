//! The planner of those members of a swarm that pass the blob on to the same groups, and of those that share it.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

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
    /// None once it has failed.
    planner: Option<Planner>,
    /// Who shares the blob and is no member.
    owners: BTreeSet<PeerId>,
    members: BTreeSet<PeerId>,
    /// Whether there were enough downloaders once: then plans go on to the last.
    begun: bool,
}

impl Planning {
    pub(super) fn new(geometry: BlobGeometry, seed: u64) -> Self {
        let planner = Some(Planner::new(geometry, seed));
        Self { planner, owners: BTreeSet::new(), members: BTreeSet::new(), begun: false }
    }

    pub(super) fn join(&mut self, now: Moment, peer: PeerId, pieces: &PieceSet) {
        self.owners.remove(&peer);
        self.members.insert(peer);
        // Where a swarm is too large for the planner, those that come last act alone.
        self.with_planner(|planner| planner.handle_join(now, peer, pieces, Hints::default()));
    }

    pub(super) fn depart(&mut self, now: Moment, peer: PeerId) {
        self.members.remove(&peer);
        self.with_planner(|planner| planner.handle_depart(now, peer));
    }

    pub(super) fn report(&mut self, now: Moment, peer: PeerId, report: &Report) {
        self.with_planner(|planner| {
            planner.handle_have(now, peer, &report.pieces, &report.received);
            for source in &report.failed {
                planner.handle_failed(now, peer, *source);
            }
        });
    }

    /// Takes over who shares the blob; those that are new.
    pub(super) fn set_owners(&mut self, now: Moment, owners: BTreeSet<PeerId>) -> Vec<PeerId> {
        let gone: Vec<PeerId> = self.owners.difference(&owners).copied().collect();
        let new: Vec<PeerId> = owners.difference(&self.owners).copied().collect();
        self.with_planner(|planner| {
            for peer in gone {
                planner.handle_depart(now, peer);
            }
            let all = PieceSet::full(planner.pieces());
            for peer in &new {
                planner.handle_join(now, *peer, &all, Hints::default());
            }
        });
        self.owners = owners;
        new
    }

    /// Plans if it is time; each sink with its plan.
    pub(super) fn plan(&mut self, now: Moment) -> Vec<(PeerId, Plan)> {
        let mut begun = self.begun;
        let plans = self.with_planner(|planner| {
            begun |= planner.sinks() >= SINKS;
            let mut plans = Vec::new();
            if !begun {
                return plans;
            }
            if planner.next_timeout().is_some_and(|due| due <= now) {
                planner.handle_timeout(now);
            }
            while let Some(action) = planner.poll_action() {
                match action {
                    PlannerAction::Plan { sink, lease, sources } => plans.push((sink, (lease, sources))),
                    PlannerAction::Strike { peer } => {
                        tracing::info!(peer = peer.short(), "a peer gave two others nothing of what it should hold");
                    }
                }
            }
            plans
        });
        self.begun = begun;
        plans.unwrap_or_default()
    }

    /// Every call of the planner: one that fails costs the plans of this swarm, whose members act alone from then on, and
    /// nothing else. None without a planner.
    fn with_planner<R>(&mut self, work: impl FnOnce(&mut Planner) -> R) -> Option<R> {
        let planner = self.planner.as_mut()?;
        match catch_unwind(AssertUnwindSafe(|| work(planner))) {
            Ok(done) => Some(done),
            Err(_) => {
                tracing::error!("a planner failed unexpectedly; the members of its swarm act alone now. Report this");
                self.planner = None;
                None
            }
        }
    }

    /// Whether nobody takes part any more.
    pub(super) fn is_over(&self) -> bool {
        self.members.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use haul_core::ids::PublicKey;

    use super::*;

    #[test]
    fn a_planner_that_fails_costs_its_own_plans_only() {
        let geometry = BlobGeometry::new(64 * 1024 * 1024).unwrap();
        let mut planning = Planning::new(geometry, 1);
        let peers: Vec<PeerId> = (1..=2).map(|n| PublicKey::new([n; 32]).unwrap()).collect();
        for peer in &peers {
            planning.join(Moment(0), *peer, &PieceSet::new(geometry.pieces()));
        }
        planning.set_owners(Moment(0), BTreeSet::from([PublicKey::new([3; 32]).unwrap()]));
        assert_eq!(planning.plan(Moment(0)).len(), 2);
        planning.with_planner(|_| panic!("planted"));
        assert!(planning.plan(Moment(10_000)).is_empty());
        planning.report(Moment(10_000), peers[0], &Report::default());
        for peer in &peers {
            planning.depart(Moment(10_000), *peer);
        }
        assert!(planning.is_over());
    }
}
