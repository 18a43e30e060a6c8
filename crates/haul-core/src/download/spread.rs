//! Which leaves to take next in a swarm: what the index planned, else the rarest piece.
//!
//! While everybody holds everything, a download goes from the front to the back. Where others hold parts, copies of
//! what is rare are worth more than the next leaf in order: whoever has it can pass it on. A plan of the index knows
//! all have-sets and goes first; without one, or once it has ended, each downloader chooses for itself.

use alloc::vec::Vec;
use core::ops::Range;
use core::time::Duration;

use super::provider::{Provider, ProviderState};
use super::{Action, Download, Have, Request, Wanted};
use crate::blob::BlobGeometry;
use crate::ids::PeerId;
use crate::limits::PIECE_RANGES;
use crate::time::Moment;

/// How old the counts of holders may be: a have-set that has grown meanwhile changes little.
const COUNTS_AGE: Duration = Duration::from_millis(100);
/// A plan that leaves nothing to do is waited out for so long: the next one is on its way unless the index is gone.
const PLAN_PATIENCE: Duration = Duration::from_secs(1);
/// A source that has brought nothing for so long gives back what a new plan names elsewhere: less would ask twice for
/// leaves that are on their way over an uplink which many share.
const SILENT: Duration = Duration::from_secs(2);
/// Planned leaves that may be open with one source. Whether it has them yet or not, the planner has seen to it that its
/// uplink can carry them; a window by the rate so far would keep a shared uplink as slow as it once was.
pub(super) const PLANNED_LEAVES: u64 = 64;

/// A plan of the index.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Followed until then.
    until: Moment,
    /// Sources with their runs of leaves, in the order in which to ask for them.
    sources: Vec<(PeerId, Vec<Range<u64>>)>,
    /// Since when it leaves nothing to do.
    done_since: Option<Moment>,
}

impl Plan {
    fn names(&self, provider: &PeerId, leaf: u64) -> bool {
        self.sources.iter().any(|(source, runs)| source == provider && runs.iter().any(|run| run.contains(&leaf)))
    }
}

/// How many providers hold each piece.
#[derive(Clone, Debug)]
pub(super) struct Holders {
    counted: Moment,
    pieces: Vec<u16>,
}

impl Download {
    /// Once others are known to download the blob too, takes pieces in an order that spreads copies, instead of from the
    /// front. For downloads whose verified leaves others may ask for.
    pub fn set_spread(&mut self, now: Moment, spread: bool) {
        self.now = now;
        self.spread = spread;
        self.assign();
    }

    /// Whether others download the blob too, as far as is known here.
    pub(super) fn is_shared(&self) -> bool {
        let downloads = |provider: &Provider| {
            provider.have != Have::All && matches!(provider.state, ProviderState::Ready | ProviderState::Waiting(_))
        };
        self.spread && self.providers.values().any(downloads)
    }

    /// A plan has come: which runs of leaves to ask of whom, until then. It replaces the one before. Requests that it
    /// does not name, and that have brought nothing yet, are cancelled; leaves that it names at another source are taken
    /// back from a source that has fallen silent.
    pub fn handle_plan(&mut self, now: Moment, until: Moment, sources: Vec<(PeerId, Vec<Range<u64>>)>) {
        self.now = now;
        let done_since = self.plan_in_date().and_then(|plan| plan.done_since);
        let plan = Plan { until, sources, done_since };
        // The proof of the size is nobody's to plan. And a plan of which nothing can be done takes no work away.
        if self.size_is_proven() && self.has_work(&plan) {
            self.take_back(&plan);
        }
        self.plan = Some(plan);
        self.assign();
    }

    /// Whether something of the plan is missing here that one of its sources can be asked for.
    fn has_work(&self, plan: &Plan) -> bool {
        let missing = |runs: &[Range<u64>]| runs.iter().cloned().flatten().any(|leaf| !self.verified.contains(leaf));
        plan.sources.iter().any(|(source, runs)| self.is_ready(source) && missing(runs))
    }

    fn take_back(&mut self, plan: &Plan) {
        let mut idle = Vec::new();
        let mut moved = Vec::new();
        for (id, request) in &self.requests {
            let Wanted::Leaves(leaves) = &request.wanted else { continue };
            if !request.answered {
                if !leaves.iter().any(|leaf| plan.names(&request.provider, *leaf)) {
                    idle.push(*id);
                }
            } else if self.providers.get(&request.provider).is_some_and(|known| known.silence(self.now) >= SILENT) {
                let elsewhere = |leaf: u64| {
                    let other = |source: &PeerId| *source != request.provider && self.is_ready(source);
                    plan.sources.iter().any(|(source, _)| other(source) && plan.names(source, leaf))
                };
                let lost = |leaf: &u64| !plan.names(&request.provider, *leaf) && elsewhere(*leaf);
                moved.extend(leaves.iter().copied().filter(lost).map(|leaf| (*id, leaf)));
            }
        }
        for request in idle {
            self.forget_request(request);
            self.actions.push_back(Action::Cancel { request });
        }
        for (request, leaf) in moved {
            self.unclaim(leaf, request);
            self.no_longer_wanted(request, leaf);
        }
    }

    fn is_ready(&self, provider: &PeerId) -> bool {
        self.providers.get(provider).is_some_and(|known| known.state == ProviderState::Ready)
    }

    fn plan_in_date(&self) -> Option<&Plan> {
        self.plan.as_ref().filter(|plan| self.now < plan.until)
    }

    /// When this downloader has to look at its plan again.
    pub(super) fn plan_moment(&self) -> Option<Moment> {
        let plan = self.plan_in_date()?;
        let late = plan.done_since.map(|since| since.after(PLAN_PATIENCE)).filter(|late| *late > self.now);
        Some(late.unwrap_or(plan.until).min(plan.until))
    }

    /// Whether this downloader chooses for itself: there is no plan, or it is done with and the next one is late.
    pub(super) fn acts_alone(&self) -> bool {
        let late = |plan: &Plan| plan.done_since.is_some_and(|since| self.now.since(since) >= PLAN_PATIENCE);
        self.plan_in_date().is_none_or(late)
    }

    /// Notes since when the plan leaves nothing to do. What this downloader has asked for by itself meanwhile does not
    /// count, so it goes on by itself until a plan brings work.
    pub(super) fn note_plan_done(&mut self) {
        let Some(plan) = self.plan_in_date() else { return };
        let open = |(source, runs): &(PeerId, Vec<Range<u64>>)| {
            self.is_ready(source) && runs.iter().cloned().flatten().any(|leaf| !self.taken.contains(leaf))
        };
        let under_way = |request: &Request| request.planned || matches!(request.wanted, Wanted::Sheet(_));
        let done = !self.requests.values().any(under_way) && !plan.sources.iter().any(open);
        let now = self.now;
        if let Some(plan) = &mut self.plan {
            plan.done_since = done.then(|| plan.done_since.unwrap_or(now));
        }
    }

    /// Leaves that the plan wants of this source.
    pub(super) fn planned_leaves(&self, id: PeerId, unit: u64) -> Vec<u64> {
        let Some(plan) = self.plan_in_date() else { return Vec::new() };
        let runs = plan.sources.iter().filter(|(source, _)| *source == id).flat_map(|(_, runs)| runs);
        let wanted = runs.cloned().flatten().filter(|leaf| !self.taken.contains(*leaf) && self.can_verify(*leaf));
        let mut taken: Vec<u64> = Vec::new();
        let mut starts = 0;
        for leaf in wanted.take(unit as usize) {
            starts += usize::from(taken.last().is_none_or(|before| before + 1 != leaf));
            if starts > PIECE_RANGES {
                break;
            }
            taken.push(leaf);
        }
        taken
    }

    /// Up to `unit` free leaves of the rarest pieces that this provider has something of; begun ones first, so that
    /// there are whole pieces to tell of.
    pub(super) fn rarest_leaves(&mut self, id: PeerId, unit: u64) -> Vec<u64> {
        self.count_holders();
        let pieces = u64::from(self.geometry.pieces());
        let start = self.random_below(pieces as usize) as u64;
        let (Some(provider), Some(holders)) = (self.providers.get(&id), &self.holders) else { return Vec::new() };
        let mut chosen: Vec<(bool, u16, u64)> = Vec::new();
        for piece in (start..pieces).chain(0..start) {
            let free = self.free_in_piece(provider, piece);
            if free != 0 {
                let fresh = self.taken_in_piece(piece) == 0;
                let count = holders.pieces.get(piece as usize).copied().unwrap_or(0);
                chosen.push((fresh, count, piece));
            }
        }
        // What others can pass on is not asked of whoever has everything: its uplink is for what nobody else has. But
        // nobody stays idle for that.
        if provider.have == Have::All && self.parts_are_coming() {
            chosen.retain(|(_, holders, _)| *holders == 0);
        }
        // A stable sort: among equals the random start decides.
        chosen.sort_by_key(|(fresh, count, _)| (*fresh, *count));
        let mut leaves = Vec::new();
        for (_, _, piece) in chosen.into_iter().take(PIECE_RANGES / 2) {
            let first = piece * self.geometry.piece_leaves();
            let free = self.free_in_piece(provider, piece);
            leaves.extend((0..64u64).filter(|bit| free >> bit & 1 == 1).map(|bit| first + bit));
            if leaves.len() as u64 >= unit {
                break;
            }
        }
        leaves.truncate(unit as usize);
        leaves
    }

    /// Whether something is asked of a provider that is downloading itself.
    fn parts_are_coming(&self) -> bool {
        self.providers.values().any(|provider| provider.have != Have::All && provider.open_leaves > 0)
    }

    /// The leaves of a piece, as bits from its first one on, that are free, verifiable and held by this provider.
    fn free_in_piece(&self, provider: &Provider, piece: u64) -> u64 {
        let leaves = piece_range(self.geometry, piece);
        if !self.can_verify(leaves.start) {
            return 0;
        }
        let all = u64::MAX >> (u64::from(u64::BITS) - (leaves.end - leaves.start));
        let held = match &provider.have {
            Have::All => all,
            Have::Leaves(set) => set.bits(leaves.start) & all,
        };
        held & !self.taken.bits(leaves.start)
    }

    fn taken_in_piece(&self, piece: u64) -> u64 {
        let leaves = piece_range(self.geometry, piece);
        let all = u64::MAX >> (u64::from(u64::BITS) - (leaves.end - leaves.start));
        self.taken.bits(leaves.start) & all
    }

    fn count_holders(&mut self) {
        if self.holders.as_ref().is_some_and(|holders| self.now.since(holders.counted) < COUNTS_AGE) {
            return;
        }
        let mut pieces = alloc::vec![0u16; self.geometry.pieces() as usize];
        for provider in self.providers.values() {
            let there = matches!(provider.state, ProviderState::Ready | ProviderState::Waiting(_));
            if let (true, Have::Leaves(set)) = (there, &provider.have) {
                for (piece, count) in (0..).zip(&mut pieces) {
                    // One leaf stands for the piece: pieces are begun and finished within moments.
                    *count += u16::from(set.contains(piece_range(self.geometry, piece).start));
                }
            }
        }
        self.holders = Some(Holders { counted: self.now, pieces });
    }
}

fn piece_range(geometry: BlobGeometry, piece: u64) -> Range<u64> {
    let start = piece * geometry.piece_leaves();
    start..(start + geometry.piece_leaves()).min(geometry.leaves())
}
