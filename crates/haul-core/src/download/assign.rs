//! Which leaves and sheets to ask of whom.
//!
//! Units grow with a provider's rate and shrink with what is left, so that all finish together. When nothing is free
//! any more, an idle provider doubles only those leaves that are predicted to be late.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::ops::Range;
use core::time::Duration;

use super::provider::{Provider, ProviderState};
use super::spread::{PLANNED_LEAVES, PLANNED_UNIT};
use super::{Action, Download, Have, Request, RequestId, Setback, Starvation, Wanted, ranges};
use crate::ids::PeerId;
use crate::limits::{PIECE_RANGES, SHEET_LEAVES};

/// Requests open with one provider: enough that the next is there before the last ends.
const REQUESTS: usize = 4;
/// Largest unit in leaves: 8 MiB.
const LARGEST_UNIT: u64 = 128;
/// Sheets asked for ahead of the leaves in turn.
const SHEETS_AHEAD: u64 = 2;
/// A leaf may be asked of this many providers at once.
const COPIES: usize = 2;
/// A leaf is late if its provider needs this much longer than twice the time of the idle one.
const LATE_MARGIN: Duration = Duration::from_millis(100);
/// The same in a swarm, where uplinks are scarce and shared by many.
const LATE_MARGIN_IN_SWARM: Duration = Duration::from_secs(1);
/// Bytes per second assumed of a provider that has shown nothing yet.
const GUESSED_RATE: u64 = 1024 * 1024;

impl Download {
    /// Gives work to everybody who has room for it, then says whether nobody had.
    pub(super) fn assign(&mut self) {
        if self.finished {
            return;
        }
        self.held = false;
        self.choose_prover();
        self.low = self.taken.next_missing(self.low).unwrap_or(self.geometry.leaves());
        while self.local_low < self.geometry.leaves() && !self.local.contains(self.local_low) {
            self.local_low += 1;
        }
        let ready: Vec<PeerId> = self
            .providers
            .iter()
            .filter(|(id, provider)| provider.state == ProviderState::Ready && self.may_work(id))
            .map(|(id, _)| *id)
            .collect();
        let first = self.random_below(ready.len());
        for id in ready.iter().cycle().skip(first).take(ready.len()) {
            while self.assign_one(*id) {}
        }
        self.note_plan_done();
        self.note_starvation();
    }

    /// Until the size is proven only the prover works, and no longer than it may prove it.
    fn may_work(&self, id: &PeerId) -> bool {
        let last = self.geometry.leaves() - 1;
        let may_prove =
            || self.taken.contains(last) || self.providers.get(id).is_some_and(|provider| provider.have.contains(last));
        self.size_is_proven() || self.prover == Some(*id) && may_prove()
    }

    fn choose_prover(&mut self) {
        if self.size_is_proven() || self.prover.is_some() {
            return;
        }
        let last = self.geometry.leaves() - 1;
        let able: Vec<PeerId> = self
            .providers
            .iter()
            .filter(|(_, provider)| provider.state == ProviderState::Ready && provider.have.contains(last))
            .map(|(id, _)| *id)
            .collect();
        let chosen = self.random_below(able.len());
        self.prover = able.get(chosen).copied();
    }

    pub(super) fn random_below(&mut self, count: usize) -> usize {
        // xorshift64: ties need no better randomness.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        if count == 0 { 0 } else { (self.random % count as u64) as usize }
    }

    /// Makes one request of this provider; false if there is no room or no work.
    fn assign_one(&mut self, id: PeerId) -> bool {
        let Some(provider) = self.providers.get(&id) else { return false };
        if provider.requests.len() >= REQUESTS {
            return false;
        }
        if let Some(sheet) = self.next_sheet(&provider.have) {
            self.request_sheet(id, sheet);
            return true;
        }
        let allowed = self.allowance.unwrap_or(u64::MAX);
        if allowed == 0 {
            self.held |= !self.taken.is_full();
            return false;
        }
        if self.size_is_proven() && !self.acts_alone() {
            return self.assign_planned(id, allowed);
        }
        let Some(provider) = self.providers.get(&id) else { return false };
        if provider.open_leaves >= provider.window {
            return false;
        }
        let unit = self.unit(provider).min(allowed);
        // The last leaf proves the size, so it comes first in any order.
        let shared = self.is_shared();
        let mut leaves = if shared && self.size_is_proven() {
            self.rarest_leaves(id, unit)
        } else {
            self.free_leaves(provider, unit)
        };
        if self.spread && !self.size_is_proven() {
            // Everybody who joins would begin at the front with the same leaves, of one that has everything: its uplink
            // is for what nobody else has.
            leaves.retain(|leaf| *leaf + 1 == self.geometry.leaves());
        }
        let Some(provider) = self.providers.get(&id) else { return false };
        // In a swarm, who has nothing of use now will have soon; a leaf asked of two is sent twice.
        if leaves.is_empty() && !provider.is_busy() && (!shared || self.taken.is_full()) {
            leaves = self.late_leaves(id, provider, unit);
            self.note_late(&leaves);
        }
        if leaves.is_empty() {
            return false;
        }
        self.request_leaves(id, leaves, false, false);
        true
    }

    /// Makes one request that the plan wants of this provider.
    fn assign_planned(&mut self, id: PeerId, allowed: u64) -> bool {
        let Some(provider) = self.providers.get(&id) else { return false };
        let waits = provider.have != Have::All;
        let room = PLANNED_LEAVES.saturating_sub(provider.open_leaves);
        // Who has everything serves all that is asked of it side by side: the next piece is asked for when this one is
        // nearly through, or as many as the rate needs. Pieces that are through one after the other are passed on sooner.
        let full = if waits { room < PLANNED_UNIT } else { provider.open_leaves >= provider.window };
        if full || room == 0 {
            return false;
        }
        let leaves = self.planned_leaves(id, PLANNED_UNIT.min(allowed));
        if leaves.is_empty() {
            return false;
        }
        self.request_leaves(id, leaves, waits, true);
        true
    }

    /// Leaves for the next request: a part of the provider's window, and no more than its share of half of what is
    /// left.
    fn unit(&self, provider: &Provider) -> u64 {
        let rates: u64 = self
            .providers
            .values()
            .filter(|other| other.state == ProviderState::Ready)
            .map(|other| other.rate().max(GUESSED_RATE / 16))
            .sum();
        let left = self.geometry.leaves() - self.taken.count();
        let rate = u128::from(provider.rate().max(GUESSED_RATE / 16));
        let share = (u128::from(left) * rate / u128::from(2 * rates.max(1))) as u64;
        let by_window = provider.window.div_ceil(REQUESTS as u64).clamp(1, LARGEST_UNIT);
        by_window.min(share.max(1)).min(provider.window - provider.open_leaves)
    }

    /// The sheet that is wanted next, if this provider could help with it; the inner none is the root sheet.
    #[allow(clippy::option_option, reason = "the wire names the root sheet so")]
    fn next_sheet(&self, have: &Have) -> Option<Option<u64>> {
        if self.geometry.sheets() == 0 {
            return None;
        }
        if !self.root_ready {
            return (!self.sheets_asked.contains_key(&None)).then_some(None);
        }
        let last = self.geometry.sheets() - 1;
        if !self.size_is_proven() && !self.sheets.contains(last) {
            return (!self.sheets_asked.contains_key(&Some(last))).then_some(Some(last));
        }
        let wanted = |sheet: &u64| {
            let known = self.sheets.contains(*sheet) || self.sheets_asked.contains_key(&Some(*sheet));
            !known && self.may_help_with(have, self.geometry.sheet_leaves(*sheet))
        };
        let ahead = if self.spread { self.geometry.sheets() } else { SHEETS_AHEAD };
        let needed = self.first_unfinished_sheet().and_then(|first| (first..=last.min(first + ahead)).find(wanted));
        needed.or_else(|| self.sheet_to_pass_on(have)).map(Some)
    }

    /// A sheet of leaves that were here before: without it nobody else can be given them.
    fn sheet_to_pass_on(&self, have: &Have) -> Option<u64> {
        if !self.spread || !self.size_is_proven() {
            return None;
        }
        let first = self.sheets.next_missing(0)?;
        let wanted = |sheet: &u64| {
            let known = self.sheets.contains(*sheet) || self.sheets_asked.contains_key(&Some(*sheet));
            !known && have.contains_some(self.geometry.sheet_leaves(*sheet))
        };
        (first..self.geometry.sheets()).find(wanted)
    }

    /// Whether something of these leaves is held there and not verified here. They begin at a multiple of 64.
    fn may_help_with(&self, have: &Have, leaves: Range<u64>) -> bool {
        let words = leaves.clone().step_by(64);
        let missing = |first: u64| {
            let all = u64::MAX >> (64 - (leaves.end - first).min(64));
            all & !self.verified.bits(first)
        };
        match have {
            Have::All => words.into_iter().any(|first| missing(first) != 0),
            Have::Leaves(set) => {
                set.count() > 0 && words.into_iter().any(|first| missing(first) & set.bits(first) != 0)
            }
        }
    }

    /// The sheet of the first leaf that is not verified and below the horizon.
    fn first_unfinished_sheet(&self) -> Option<u64> {
        let leaf = self.low.min(self.local_low);
        (leaf < self.horizon).then(|| Self::sheet_of(leaf))
    }

    /// Up to `unit` free leaves that can be verified and that this provider holds, the last leaf of the blob first.
    fn free_leaves(&self, provider: &Provider, unit: u64) -> Vec<u64> {
        let mut leaves = Vec::new();
        let mut runs = 0;
        let last = self.geometry.leaves() - 1;
        if !self.taken.contains(last) && self.can_verify(last) && provider.have.contains(last) {
            leaves.push(last);
            runs = 1;
        }
        let (origin, end) = (self.origin().max(self.low), self.horizon.min(last));
        for part in [origin..end, self.low..origin.min(end)] {
            self.add_free(&mut leaves, &mut runs, part, provider, unit);
        }
        leaves
    }

    /// Adds free leaves of a part of the blob, as far as a request may name them.
    fn add_free(&self, leaves: &mut Vec<u64>, runs: &mut usize, part: Range<u64>, provider: &Provider, unit: u64) {
        let mut from = part.start;
        while (leaves.len() as u64) < unit
            && let Some(leaf) = self.taken.next_missing(from).filter(|leaf| *leaf < part.end)
        {
            from = leaf + 1;
            if !self.can_verify(leaf) {
                from = (Self::sheet_of(leaf) + 1) * SHEET_LEAVES;
                continue;
            }
            if !provider.have.contains(leaf) {
                continue;
            }
            let starts_run = leaves.last().is_none_or(|before| before + 1 != leaf);
            if starts_run && *runs == PIECE_RANGES {
                break;
            }
            *runs += usize::from(starts_run);
            leaves.push(leaf);
        }
    }

    /// Leaves of others that this idle provider would bring much sooner, latest first.
    fn late_leaves(&self, id: PeerId, provider: &Provider, unit: u64) -> Vec<u64> {
        let mut late: Vec<(Duration, u64)> = Vec::new();
        for request in self.requests.values().filter(|request| request.provider != id) {
            let (Wanted::Leaves(leaves), Some(owner)) = (&request.wanted, self.providers.get(&request.provider)) else {
                continue;
            };
            let silence = owner.silence(self.now).max(owner.queued_for(self.now));
            for (place, leaf) in leaves.iter().enumerate() {
                let single =
                    self.claims.get(leaf).is_some_and(|claim| !claim.verifying && claim.requests.len() < COPIES);
                if single && provider.have.contains(*leaf) {
                    // Silence beyond what the rate predicts is a sign that the prediction is too kind.
                    late.push((owner.time_for(place as u64 + 1, GUESSED_RATE) + silence, *leaf));
                }
            }
        }
        late.sort_unstable_by(|a, b| b.cmp(a));
        late.truncate(unit.max(1) as usize);
        let mut leaves = Vec::new();
        for (expected, leaf) in late {
            let mine = provider.time_for(leaves.len() as u64 + 1, GUESSED_RATE);
            let margin = if self.is_shared() { LATE_MARGIN_IN_SWARM } else { LATE_MARGIN };
            if expected > 2 * mine + margin {
                leaves.push(leaf);
            }
        }
        leaves.sort_unstable();
        leaves.truncate(PIECE_RANGES);
        leaves
    }

    /// Tells whose leaves are asked of somebody else too.
    fn note_late(&mut self, leaves: &[u64]) {
        let mut late: BTreeMap<PeerId, u64> = BTreeMap::new();
        for owner in leaves.iter().filter_map(|leaf| self.claims.get(leaf)?.requests.first()) {
            if let Some(request) = self.requests.get(owner) {
                *late.entry(request.provider).or_default() += 1;
            }
        }
        for (provider, leaves) in late {
            let setback = Setback::Late { leaves, rate: self.rate_of(&provider) };
            self.actions.push_back(Action::Setback { provider, setback });
        }
    }

    fn new_request(&mut self, provider: PeerId, wanted: Wanted, waits: bool, planned: bool) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        let leaves = match &wanted {
            Wanted::Sheet(_) => 0,
            Wanted::Leaves(leaves) => leaves.len() as u64,
        };
        if let Some(known) = self.providers.get_mut(&provider) {
            known.request_made(self.now, id, leaves);
        }
        self.requests.insert(id, Request { provider, wanted, asked: self.now, answered: false, waits, planned });
        id
    }

    fn request_sheet(&mut self, provider: PeerId, sheet: Option<u64>) {
        let request = self.new_request(provider, Wanted::Sheet(sheet), false, false);
        self.sheets_asked.insert(sheet, request);
        self.actions.push_back(Action::RequestSheet { request, provider, sheet });
    }

    fn request_leaves(&mut self, provider: PeerId, leaves: Vec<u64>, wait: bool, planned: bool) {
        let runs = ranges(&leaves);
        if let Some(allowance) = &mut self.allowance {
            *allowance = allowance.saturating_sub(leaves.len() as u64);
        }
        let request = self.new_request(provider, Wanted::Leaves(VecDeque::from(leaves.clone())), wait, planned);
        for leaf in leaves {
            self.taken.insert(leaf);
            self.claims.entry(leaf).or_default().requests.push(request);
        }
        self.actions.push_back(Action::RequestLeaves { request, provider, ranges: runs, wait });
    }

    fn note_starvation(&mut self) {
        let busy = self.held || !self.requests.is_empty() || !self.claims.is_empty();
        let starved = if self.finished || busy || !self.acts_alone() { None } else { self.starvation() };
        if starved != self.starved
            && let Some(reason) = starved
        {
            self.actions.push_back(Action::Starved(reason));
        }
        self.starved = starved;
    }

    fn starvation(&self) -> Option<Starvation> {
        let mut states = self.providers.values().map(|provider| provider.state);
        let any = |wanted: fn(&ProviderState) -> bool| self.providers.values().any(|provider| wanted(&provider.state));
        if any(|state| matches!(state, ProviderState::Waiting(_))) {
            Some(Starvation::Waiting)
        } else if any(|state| *state == ProviderState::Ready) {
            // With an in-order reader, nothing to ask for may only mean that the reader is behind.
            let reader_is_behind = self.low >= self.horizon && self.size_is_proven();
            (!reader_is_behind).then_some(Starvation::LeavesMissing)
        } else if !self.providers.is_empty() && states.all(|state| state == ProviderState::Banned) {
            Some(Starvation::AllBanned)
        } else {
            Some(Starvation::NoProvider)
        }
    }
}
