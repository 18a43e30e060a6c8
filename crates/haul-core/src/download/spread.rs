//! Which leaves to take next in a swarm: what the index planned, else the rarest piece.
//!
//! While everybody holds everything, a download goes from the front to the back; in a swarm, from a place of its own round
//! to there, for many begin in one moment and know nothing of each other yet. Where others hold parts, copies of
//! what is rare are worth more than the next leaf in order: whoever has it can pass it on. Whoever has everything is asked
//! for what nobody else has, and those who know each other begin with different pieces of it. A plan of the index knows
//! all have-sets and goes first; without one, or once it has ended, each downloader chooses for itself.

use alloc::vec::Vec;
use core::ops::Range;
use core::time::Duration;

use super::provider::{Provider, ProviderState};
use super::{Action, Download, Have, Request, Wanted};
use crate::blob::{BlobGeometry, LeafSet};
use crate::ids::PeerId;
use crate::limits::PIECE_RANGES;
use crate::planner::splitmix64;
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
/// Planned leaves that are asked for in one request: a piece of most blobs. Requests share their connection, so that of a
/// few small ones beside a large one none would be through soon.
pub(super) const PLANNED_UNIT: u64 = 16;

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
    /// Leaves that somebody holds who is downloading himself.
    parts: LeafSet,
}

impl Download {
    /// Once others are known to download the blob too, takes pieces in an order that spreads copies, instead of from the
    /// front. For downloads whose verified leaves others may ask for.
    pub fn set_spread(&mut self, now: Moment, spread: bool) {
        self.now = now;
        self.spread = spread;
        self.assign();
    }

    /// The key by which others know this peer. With it, those who download together without a plan begin with different
    /// pieces, each according to its place among them.
    pub fn set_me(&mut self, me: PeerId) {
        self.me = Some(me);
    }

    /// Where a download begins that knows of nobody else yet: all who begin with it do so elsewhere.
    pub(super) fn origin(&self) -> u64 {
        let Some(me) = self.me.filter(|_| self.spread) else { return 0 };
        let (parts, _) = me.as_bytes().as_chunks::<8>();
        let mut number = parts.iter().fold(0, |number, part| number ^ u64::from_le_bytes(*part));
        splitmix64(&mut number) % u64::from(self.geometry.pieces()) * self.geometry.piece_leaves()
    }

    /// This downloader's place among those that it knows, by their keys, and how many they are with it.
    fn place(&self) -> (u64, u64) {
        let Some(me) = self.me else { return (0, 1) };
        let others = self.providers.iter().filter(|(_, known)| known.have != Have::All && known.is_there());
        let (before, all) = others.fold((0, 1), |(before, all), (id, _)| (before + u64::from(*id < me), all + 1));
        (before, all)
    }

    /// Whether others download the blob too, as far as is known here.
    pub(super) fn is_shared(&self) -> bool {
        let downloads = |provider: &Provider| provider.have != Have::All && provider.is_there();
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
        let Some(provider) = self.providers.get(&id) else { return Vec::new() };
        if matches!(&provider.have, Have::Leaves(set) if !set.exceeds(&self.taken)) {
            return Vec::new();
        }
        self.count_holders();
        let start = self.random_below(self.geometry.pieces() as usize) as u64;
        let (Some(provider), Some(holders)) = (self.providers.get(&id), &self.holders) else { return Vec::new() };
        if provider.have != Have::All {
            return self.leaves_of_pieces(provider, unit, start, None, |fresh, _, count| (fresh, count));
        }
        // What others can pass on is not asked of whoever has everything: its uplink is for what nobody else has. And those
        // who download together begin with different pieces, for nobody knows what others have just asked for.
        let (place, all) = self.place();
        let order = |_: bool, piece: u64, _: u16| {
            let by_others = holders.parts.bits(piece * self.geometry.piece_leaves()) & self.bits_of(piece) != 0;
            let begun = self.begun.contains(&piece);
            let class = (piece + all - place) % all;
            (by_others && !begun, class, !begun)
        };
        let leaves = self.leaves_of_pieces(provider, unit, start, Some(&holders.parts), order);
        if !leaves.is_empty() || self.parts_are_coming() {
            let pieces = leaves.iter().map(|leaf| leaf / self.geometry.piece_leaves());
            self.begun.extend(pieces);
            return leaves;
        }
        // But nobody stays idle for that.
        self.leaves_of_pieces(provider, unit, start, None, |fresh, _, count| (fresh, count))
    }

    /// Up to `unit` free leaves of this provider, but for some, by pieces in an order that says whether a piece is fresh,
    /// which one it is, and how many hold it.
    fn leaves_of_pieces<K: Ord>(
        &self,
        provider: &Provider,
        unit: u64,
        start: u64,
        but: Option<&LeafSet>,
        order: impl Fn(bool, u64, u16) -> K,
    ) -> Vec<u64> {
        let pieces = u64::from(self.geometry.pieces());
        let free_in = |piece: u64| {
            let others = but.map_or(0, |leaves| leaves.bits(piece * self.geometry.piece_leaves()));
            self.free_in_piece(provider, piece) & !others
        };
        let mut chosen: Vec<(K, u64)> = Vec::new();
        for piece in (start..pieces).chain(0..start).filter(|piece| free_in(*piece) != 0) {
            let fresh = self.taken_in_piece(piece) == 0;
            let count = self.holders.as_ref().and_then(|holders| holders.pieces.get(piece as usize)).copied();
            chosen.push((order(fresh, piece, count.unwrap_or(0)), piece));
        }
        // A stable sort: among equals the random start decides.
        chosen.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut leaves = Vec::new();
        for (_, piece) in chosen.into_iter().take(PIECE_RANGES / 2) {
            let first = piece * self.geometry.piece_leaves();
            let free = free_in(piece);
            // Two that fetch the same piece of one that has everything bring different leaves of it.
            let from = if but.is_some() { start % self.geometry.piece_leaves() } else { 0 };
            leaves.extend((from..64).chain(0..from).filter(|bit| free >> bit & 1 == 1).map(|bit| first + bit));
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
        let all = self.bits_of(piece);
        let held = match &provider.have {
            Have::All => all,
            Have::Leaves(set) => set.bits(leaves.start) & all,
        };
        held & !self.taken.bits(leaves.start)
    }

    /// The leaves of a piece as bits from its first one on.
    fn bits_of(&self, piece: u64) -> u64 {
        let leaves = piece_range(self.geometry, piece);
        u64::MAX >> (u64::from(u64::BITS) - (leaves.end - leaves.start))
    }

    fn taken_in_piece(&self, piece: u64) -> u64 {
        self.taken.bits(piece_range(self.geometry, piece).start) & self.bits_of(piece)
    }

    fn count_holders(&mut self) {
        if self.holders.as_ref().is_some_and(|holders| self.now.since(holders.counted) < COUNTS_AGE) {
            return;
        }
        let mut pieces = alloc::vec![0u16; self.geometry.pieces() as usize];
        let mut parts = LeafSet::new(self.geometry.leaves());
        for provider in self.providers.values() {
            if let (true, Have::Leaves(set)) = (provider.is_there(), &provider.have) {
                parts.unite(set);
                for (piece, count) in (0..).zip(&mut pieces) {
                    // One leaf stands for the piece: pieces are begun and finished within moments.
                    *count += u16::from(set.contains(piece_range(self.geometry, piece).start));
                }
            }
        }
        let mut begun = core::mem::take(&mut self.begun);
        begun.retain(|piece| self.taken_in_piece(*piece) != self.bits_of(*piece));
        self.begun = begun;
        self.holders = Some(Holders { counted: self.now, pieces, parts });
    }
}

fn piece_range(geometry: BlobGeometry, piece: u64) -> Range<u64> {
    let start = piece * geometry.piece_leaves();
    start..(start + geometry.piece_leaves()).min(geometry.leaves())
}
