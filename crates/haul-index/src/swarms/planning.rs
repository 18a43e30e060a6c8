//! The planner of those members of a swarm that pass the blob on to the same groups, and of those that share it.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use haul_core::blob::BlobGeometry;
use haul_core::ids::PeerId;
use haul_core::limits;
use haul_core::planner::{Dealing, Hints, PieceSet, Planner, PlannerAction, Runs};
use haul_core::time::Moment;

use super::swarm::some_of;
use super::{Plan, Report};

/// What somebody who joins holds.
#[derive(Debug)]
pub(super) enum Held {
    /// All of it.
    Everything,
    /// Some of it.
    Part(PieceSet),
    /// Some of it; so many pieces are missing, and which ones is not kept.
    Unplanned(u32),
}

impl Held {
    /// None if some of these pieces are beyond the end of the blob.
    pub(super) fn of(runs: &Runs, geometry: BlobGeometry) -> Option<Self> {
        let pieces = geometry.pieces();
        if runs.end() > pieces {
            return None;
        }
        if runs.count() == pieces {
            return Some(Self::Everything);
        }
        let mut set = PieceSet::new(pieces);
        set.insert_runs(runs);
        Some(Self::Part(set))
    }

    pub(super) fn missing(&self) -> u32 {
        match self {
            Self::Everything => 0,
            Self::Part(set) => set.pieces() - set.count(),
            Self::Unplanned(missing) => *missing,
        }
    }

    /// The same for somebody who is not planned for.
    pub(super) fn unplanned(self) -> Self {
        match self.missing() {
            0 => Self::Everything,
            missing => Self::Unplanned(missing),
        }
    }
}

/// One planner with what its driver has to remember.
#[derive(Debug)]
pub(super) struct Planning {
    geometry: BlobGeometry,
    /// None: everybody acts alone.
    dealing: Option<Dealing>,
    seed: u64,
    stage: Stage,
    /// Who shares the blob and is no member, with its site.
    owners: BTreeMap<PeerId, u32>,
    /// With what each has said of its uplink, before there was a planner or since, and its site.
    members: BTreeMap<PeerId, Hints>,
}

#[derive(Debug)]
enum Stage {
    /// One alone chooses best for itself among those that have everything. From the second downloader on, plans are made to
    /// the last.
    Waiting {
        complete: BTreeSet<PeerId>,
        sink: Option<(PeerId, PieceSet)>,
    },
    Planned(Box<Planner>),
    /// The planner failed: everybody acts alone.
    Failed,
}

impl Planning {
    pub(super) fn new(geometry: BlobGeometry, dealing: Option<Dealing>, seed: u64) -> Self {
        let stage = Stage::Waiting { complete: BTreeSet::new(), sink: None };
        Self { geometry, dealing, seed, stage, owners: BTreeMap::new(), members: BTreeMap::new() }
    }

    /// Somebody joins. Who does not fit into `room` cells acts alone.
    pub(super) fn join(&mut self, now: Moment, peer: PeerId, held: Held, hints: Hints, room: u64) {
        // Whoever shared it all may hold less now.
        if self.owners.remove(&peer).is_some() {
            self.with_planner(|planner| planner.handle_depart(now, peer));
        }
        let hints = Hints { up: known(hints.up), ..hints };
        self.members.insert(peer, hints);
        let pieces = self.geometry.pieces();
        match &mut self.stage {
            Stage::Waiting { complete, sink } => match held {
                Held::Everything => {
                    complete.insert(peer);
                }
                Held::Part(set) if sink.is_some() => self.begin(now, peer, set, room),
                Held::Part(set) if u64::from(pieces) <= room => *sink = Some((peer, set)),
                Held::Part(_) | Held::Unplanned(_) => {}
            },
            Stage::Planned(_) if u64::from(pieces) <= room => {
                let set = match held {
                    Held::Everything => PieceSet::full(pieces),
                    Held::Part(set) => set,
                    Held::Unplanned(_) => return,
                };
                self.with_planner(|planner| planner.handle_join(now, peer, &set, hints));
            }
            Stage::Planned(_) | Stage::Failed => {}
        }
    }

    /// The second downloader has come.
    fn begin(&mut self, now: Moment, peer: PeerId, set: PieceSet, room: u64) {
        let (Stage::Waiting { complete, sink }, Some(dealing)) = (&mut self.stage, self.dealing) else { return };
        let peers = (complete.len() + self.owners.len() + 2) as u64;
        // What the first one holds is counted already, and no more.
        if (limits::SWARM_BOOK_CELLS + peers) * u64::from(self.geometry.pieces()) > room {
            return;
        }
        let (complete, sink) = (std::mem::take(complete), sink.take());
        self.stage = Stage::Planned(Box::new(Planner::with_dealing(self.geometry, self.seed, dealing)));
        let all = PieceSet::full(self.geometry.pieces());
        let whole = complete.iter().chain(self.owners.keys()).map(|peer| (*peer, self.hints(peer)));
        let whole: Vec<(PeerId, Hints)> = whole.collect();
        let sinks = sink.into_iter().chain([(peer, set)]).map(|(peer, set)| (peer, set, self.hints(&peer)));
        let sinks: Vec<(PeerId, PieceSet, Hints)> = sinks.collect();
        self.with_planner(|planner| {
            for (peer, hints) in whole {
                planner.handle_join(now, peer, &all, hints);
            }
            for (peer, set, hints) in sinks {
                planner.handle_join(now, peer, &set, hints);
            }
        });
    }

    /// What is known of a member, or of somebody who only shares the blob and says nothing.
    fn hints(&self, peer: &PeerId) -> Hints {
        let of_owner = || self.owners.get(peer).map(|site| Hints { site: *site, ..Hints::default() });
        self.members.get(peer).copied().or_else(of_owner).unwrap_or_default()
    }

    pub(super) fn depart(&mut self, now: Moment, peer: PeerId) {
        self.members.remove(&peer);
        if let Stage::Waiting { complete, sink } = &mut self.stage {
            complete.remove(&peer);
            sink.take_if(|(other, _)| *other == peer);
        }
        self.with_planner(|planner| planner.handle_depart(now, peer));
    }

    /// Whether a peer shares the blob and is no member.
    pub(super) fn is_owner(&self, peer: &PeerId) -> bool {
        self.owners.contains_key(peer)
    }

    /// A peer goes soon; how many pieces are lost if it goes now. None without plans: there is nobody who would copy them.
    pub(super) fn leaving(&mut self, now: Moment, peer: &PeerId) -> Option<u64> {
        self.with_planner(|planner| {
            planner.handle_leaving(now, *peer);
            planner.needed(peer)
        })
    }

    /// A member reports. The pieces must be pieces of this blob.
    pub(super) fn report(&mut self, now: Moment, peer: PeerId, report: &Report) {
        if let Stage::Waiting { complete, sink } = &mut self.stage
            && let Some((other, set)) = sink
            && *other == peer
        {
            set.insert_runs(&report.pieces);
            if set.is_full() {
                complete.insert(peer);
                *sink = None;
            }
        }
        if let (Some(hints), Some(_)) = (self.members.get_mut(&peer), report.uplink) {
            hints.up = known(report.uplink);
        }
        self.with_planner(|planner| {
            if let Some(rate) = report.uplink {
                planner.handle_uplink(now, peer, rate);
            }
            planner.handle_have(now, peer, &report.pieces, &report.received);
            for source in &report.failed {
                planner.handle_failed(now, peer, *source);
            }
        });
    }

    /// Takes over who shares the blob, of many some; those that are new, and those that are not there any more.
    pub(super) fn set_owners(
        &mut self,
        now: Moment,
        mut owners: BTreeMap<PeerId, u32>,
        random: u64,
        room: u64,
    ) -> (Vec<PeerId>, Vec<PeerId>) {
        // Who has come to another site is new.
        let stays = |owner: &PeerId, site: &u32| owners.get(owner) == Some(site);
        let gone: Vec<PeerId> =
            self.owners.iter().filter(|(owner, site)| !stays(owner, site)).map(|(owner, _)| *owner).collect();
        self.owners.retain(|owner, site| stays(owner, site));
        owners.retain(|owner, _| !self.owners.contains_key(owner));
        let free = limits::SWARM_SOURCES.saturating_sub(self.owners.len());
        let new = some_of(owners.keys().copied().collect(), free, random);
        self.owners.extend(new.iter().filter_map(|owner| owners.remove_entry(owner)));
        // Who goes leaves room.
        let planned = |planner: &mut Planner| gone.iter().filter(|owner| planner.rates(owner).is_some()).count();
        let left = self.with_planner(planned).unwrap_or_default();
        let joining = new.iter().take((room / u64::from(self.geometry.pieces())) as usize + left);
        let joining: Vec<(PeerId, Hints)> = joining.map(|peer| (*peer, self.hints(peer))).collect();
        let pieces = self.geometry.pieces();
        self.with_planner(|planner| {
            for peer in &gone {
                planner.handle_depart(now, *peer);
            }
            let all = PieceSet::full(pieces);
            for (peer, hints) in joining {
                planner.handle_join(now, peer, &all, hints);
            }
        });
        (new, gone)
    }

    /// Plans if it is time; each sink with its plan.
    pub(super) fn plan(&mut self, now: Moment) -> Vec<(PeerId, Plan)> {
        let plans = self.with_planner(|planner| {
            let mut plans = Vec::new();
            if planner.next_timeout().is_some_and(|due| due <= now) {
                planner.handle_timeout(now);
            }
            while let Some(action) = planner.poll_action() {
                match action {
                    PlannerAction::Plan { sink, lease, sources } => plans.push((sink, (lease, sources))),
                    PlannerAction::Strike { peer } => {
                        tracing::info!(
                            peer = peer.short(),
                            "a peer gave several others nothing of what it should hold"
                        );
                    }
                }
            }
            plans
        });
        plans.unwrap_or_default()
    }

    /// Nobody downloads any more: nothing of a planner is needed until two do again.
    pub(super) fn rest(&mut self) {
        if let Stage::Planned(planner) = &self.stage
            && planner.sinks() == 0
        {
            let complete = self.members.keys().copied().filter(|peer| planner.rates(peer).is_some()).collect();
            self.stage = Stage::Waiting { complete, sink: None };
        }
    }

    /// Peers times pieces that are kept, and what is kept of each piece besides.
    pub(super) fn cells(&self) -> u64 {
        let peers = match &self.stage {
            Stage::Waiting { sink, .. } => u64::from(sink.is_some()),
            Stage::Planned(planner) => limits::SWARM_BOOK_CELLS + planner.peers() as u64,
            Stage::Failed => 0,
        };
        peers * u64::from(self.geometry.pieces())
    }

    /// Every call of the planner: one that fails costs the plans of this swarm, whose members act alone from then on, and
    /// nothing else. None without a planner.
    fn with_planner<R>(&mut self, work: impl FnOnce(&mut Planner) -> R) -> Option<R> {
        let Stage::Planned(planner) = &mut self.stage else { return None };
        let done = catch_unwind(AssertUnwindSafe(|| work(planner))).ok();
        if done.is_none() {
            tracing::error!("a planner failed unexpectedly; the members of its swarm act alone now. Report this");
            self.stage = Stage::Failed;
        }
        done
    }

    /// Whether nobody takes part any more.
    pub(super) fn is_over(&self) -> bool {
        self.members.is_empty()
    }
}

/// Nothing is known of an uplink that is said to carry nothing.
fn known(uplink: Option<u64>) -> Option<u64> {
    uplink.filter(|rate| *rate > 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use haul_core::ids::PublicKey;

    use super::*;

    #[test]
    fn a_planner_that_fails_costs_its_own_plans_only() {
        let geometry = BlobGeometry::new(64 * 1024 * 1024).unwrap();
        let mut planning = Planning::new(geometry, Some(Dealing::Planned), 1);
        let peers: Vec<PeerId> = (1..=2).map(|n| PublicKey::new([n; 32]).unwrap()).collect();
        for peer in &peers {
            planning.join(Moment(0), *peer, Held::Part(PieceSet::new(geometry.pieces())), Hints::default(), u64::MAX);
        }
        planning.set_owners(Moment(0), BTreeMap::from([(PublicKey::new([3; 32]).unwrap(), 0)]), 1, u64::MAX);
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
