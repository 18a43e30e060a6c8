//! The download of one blob: which leaves to ask of whom, stalls, retries, end game, and who lied.
//!
//! The machine knows no bytes. Its driver connects to providers, does what [`Download::poll_action`] says, verifies
//! what arrives and reports back. Until the last leaf is verified the size is only a claim, and a sheet that fits the
//! id may still belong to a tree of another shape; therefore one provider alone, the *prover*, first gives sheets and
//! last leaf. Afterwards every leaf is asked of everybody, and a leaf that does not verify names its liar.

mod assign;
mod held;
mod provider;
mod spread;
#[cfg(test)]
mod tests;
mod words;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use crate::blob::{BlobGeometry, LeafSet};
use crate::ids::PeerId;
use crate::limits::{LEAF_WAIT, SHEET_LEAVES};
use crate::time::Moment;
use crate::wire::peer::LeafRange;
pub use provider::Setback;
use provider::{FAILURES, Provider, ProviderState};
pub use words::{Action, Arrival, Have, Offence, RequestEnd, RequestId, Starvation, Verdict};

/// Without a leaf or sheet for this long, a provider of unknown rate counts as stalled.
const STALL_UNKNOWN: Duration = Duration::from_secs(5);
/// The same for the prover, for whom everybody else waits.
const STALL_PROVER: Duration = Duration::from_secs(3);
/// How often late leaves are looked for while somebody is idle.
const LATE_CHECK: Duration = Duration::from_millis(200);

/// Until a provider without a free upload slot, or with a queue that is full, is asked again.
const BUSY_AGAIN: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
enum Wanted {
    Sheet(Option<u64>),
    Leaves(VecDeque<u64>),
}

#[derive(Clone, Debug)]
struct Request {
    provider: PeerId,
    wanted: Wanted,
    asked: Moment,
    answered: bool,
    /// The provider may not hold the leaves yet.
    waits: bool,
    /// The plan wants it.
    planned: bool,
}

/// Who works on a leaf that is not verified yet.
#[derive(Clone, Debug, Default)]
struct Claim {
    requests: Vec<RequestId>,
    verifying: bool,
}

/// The machine; see the module.
#[derive(Clone, Debug)]
pub struct Download {
    geometry: BlobGeometry,
    verified: LeafSet,
    /// Verified, asked for, being verified, or to be checked locally.
    taken: LeafSet,
    local: LeafSet,
    /// No leaf below this one is free.
    low: u64,
    /// No leaf below this one is in `local`.
    local_low: u64,
    /// Leaves from here on are not asked for yet (but for the last one).
    horizon: u64,
    /// Pieces are taken in an order that spreads copies.
    spread: bool,
    /// This peer, if it is known who that is.
    me: Option<PeerId>,
    plan: Option<spread::Plan>,
    holders: Option<spread::Holders>,
    /// Pieces that this downloader has begun to fetch from complete providers, on behalf of all.
    begun: BTreeSet<u64>,
    /// The last leaf was verified, whatever became of it.
    proven: bool,
    root_ready: bool,
    sheets: LeafSet,
    sheets_asked: BTreeMap<Option<u64>, RequestId>,
    prover: Option<PeerId>,
    providers: BTreeMap<PeerId, Provider>,
    requests: BTreeMap<RequestId, Request>,
    claims: BTreeMap<u64, Claim>,
    next_request: u64,
    random: u64,
    actions: VecDeque<Action>,
    starved: Option<Starvation>,
    finished: bool,
    discarded: u64,
    /// Leaves that may be asked for now, if a limit of bandwidth holds; none is as many as there are.
    allowance: Option<u64>,
    /// There might be something to ask for, but the allowance is used up.
    held: bool,
    now: Moment,
}

impl Download {
    /// A download of a blob whose size is claimed to be that of `geometry`.
    ///
    /// `verified` leaves are there already. Leaves in `local` are perhaps in the part file: they are checked there
    /// before anybody is asked for them. Both sets range over the geometry's leaves. `seed` breaks ties.
    pub fn new(geometry: BlobGeometry, verified: LeafSet, local: &LeafSet, seed: u64) -> Self {
        let leaves = geometry.leaves();
        let mut taken = verified.clone();
        let mut unsure = LeafSet::new(leaves);
        for leaf in members(local) {
            if taken.insert(leaf) {
                unsure.insert(leaf);
            }
        }
        let mut download = Self {
            geometry,
            verified,
            taken,
            local: unsure,
            low: 0,
            local_low: 0,
            horizon: leaves,
            spread: false,
            me: None,
            plan: None,
            holders: None,
            begun: BTreeSet::new(),
            proven: false,
            root_ready: geometry.sheets() <= 1,
            sheets: LeafSet::new(geometry.sheets()),
            sheets_asked: BTreeMap::new(),
            prover: None,
            providers: BTreeMap::new(),
            requests: BTreeMap::new(),
            claims: BTreeMap::new(),
            next_request: 0,
            random: seed | 1,
            actions: VecDeque::new(),
            starved: None,
            finished: false,
            discarded: 0,
            allowance: None,
            held: false,
            now: Moment(0),
        };
        download.check_local(None);
        download.conclude();
        download
    }

    /// The geometry that this download assumes.
    pub fn geometry(&self) -> BlobGeometry {
        self.geometry
    }

    /// The leaves that are verified.
    pub fn verified(&self) -> &LeafSet {
        &self.verified
    }

    /// Whether the last leaf was verified: the size is no claim any more.
    pub fn size_is_proven(&self) -> bool {
        self.proven || self.verified.contains(self.geometry.leaves() - 1)
    }

    /// Leaves that arrived and were dropped because they were there already.
    pub fn discarded(&self) -> u64 {
        self.discarded
    }

    /// Why nothing can be asked of anybody, if that is so.
    pub fn starved(&self) -> Option<Starvation> {
        self.starved
    }

    /// Bytes per second that a provider has given lately; 0 while unknown.
    pub fn rate_of(&self, provider: &PeerId) -> u64 {
        self.providers.get(provider).map_or(0, Provider::rate)
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn next_timeout(&self) -> Option<Moment> {
        if self.finished {
            return None;
        }
        let stalls = self.providers.iter().filter_map(|(id, provider)| match provider.state {
            ProviderState::Ready if provider.is_busy() => Some(self.stall_moment(id, provider)),
            ProviderState::Waiting(until) => Some(until),
            _ => None,
        });
        let late = (!self.claims.is_empty() && self.somebody_is_idle()).then(|| self.now.after(LATE_CHECK));
        stalls.chain(late).chain(self.plan_moment()).min()
    }

    /// Leaves from `horizon` on are not asked for, except the last one: bounds what an in-order reader has to keep.
    pub fn set_horizon(&mut self, now: Moment, horizon: u64) {
        self.now = now;
        self.horizon = horizon.min(self.geometry.leaves());
        self.assign();
    }

    /// A provider is connected, or holds more than before. Banned ones stay banned.
    pub fn handle_provider(&mut self, now: Moment, provider: PeerId, have: Have) {
        self.now = now;
        if let Have::Leaves(leaves) = &have
            && leaves.leaves() != self.geometry.leaves()
        {
            return;
        }
        let known = self.providers.entry(provider).or_insert_with(|| Provider::new(now));
        known.have = have;
        if matches!(known.state, ProviderState::Lost) {
            known.revive(now);
        }
        self.settle_prover();
        self.assign();
    }

    /// The connection to a provider is over, so it is asked for nothing more. Its requests end by themselves, each once
    /// all that had arrived before is reported: what came counts, and only the rest is asked of others.
    pub fn handle_provider_lost(&mut self, now: Moment, provider: PeerId) {
        self.now = now;
        if let Some(known) = self.providers.get_mut(&provider).filter(|known| known.state != ProviderState::Banned) {
            let owes = known.state == ProviderState::Ready && known.is_busy() && known.have == Have::All;
            known.state = ProviderState::Lost;
            self.blame_if(provider, owes);
        }
        self.settle_prover();
        self.assign();
    }

    /// A provider is there but of no use here: its requests are cancelled, its leaves are asked of others. Nobody is
    /// blamed.
    pub fn handle_provider_of_no_use(&mut self, now: Moment, provider: PeerId) {
        self.now = now;
        self.drop_provider(provider, ProviderState::Lost);
        self.assign();
    }

    /// A sheet arrived and was checked.
    pub fn handle_sheet(&mut self, now: Moment, request: RequestId, good: bool) {
        self.now = now;
        let Some(Request { provider, wanted: Wanted::Sheet(sheet), asked, .. }) = self.requests.get(&request).cloned()
        else {
            return;
        };
        self.forget_request(request);
        if good {
            if let Some(known) = self.providers.get_mut(&provider) {
                known.sheet_arrived(now, asked);
            }
            match sheet {
                None => self.root_ready = true,
                Some(sheet) => {
                    self.sheets.insert(sheet);
                    self.check_local(Some(sheet));
                }
            }
        } else {
            self.ban(provider, Offence::Sheet);
        }
        self.settle_prover();
        self.assign();
    }

    /// A leaf arrived; the answer says what to do with it.
    pub fn handle_arrival(&mut self, now: Moment, request: RequestId, leaf: u64) -> Arrival {
        self.now = now;
        let Some(Request { provider, wanted: Wanted::Leaves(wanted), asked, answered, waits, .. }) =
            self.requests.get_mut(&request)
        else {
            self.discarded += 1;
            return Arrival::Discard;
        };
        // Leaves come in the order asked for, so the first place is where to look first.
        let Some(place) = wanted.iter().position(|other| *other == leaf) else {
            self.discarded += 1;
            return Arrival::Discard;
        };
        wanted.remove(place);
        // What the provider itself waited for says nothing about the way to it.
        let first = !core::mem::replace(answered, true) && !*waits;
        let (provider, asked) = (*provider, *asked);
        let bytes = self.geometry.leaf_bytes(leaf) as u64;
        if let Some(known) = self.providers.get_mut(&provider) {
            known.leaf_arrived(now, first.then_some(asked), bytes);
        }
        let arrival = match self.claims.get_mut(&leaf) {
            Some(claim) if !claim.verifying => {
                claim.verifying = true;
                claim.requests.retain(|other| *other != request);
                Arrival::Verify
            }
            _ => {
                self.discarded += 1;
                Arrival::Discard
            }
        };
        self.assign();
        arrival
    }

    /// What became of a leaf of this provider that [`Self::handle_arrival`] wanted verified. Report a good one once it
    /// is written.
    pub fn handle_verified(&mut self, now: Moment, provider: PeerId, leaf: u64, verdict: Verdict) {
        self.now = now;
        let Some(claim) = self.claims.remove(&leaf) else { return };
        if verdict == Verdict::Good {
            self.verified.insert(leaf);
            for request in claim.requests {
                self.no_longer_wanted(request, leaf);
            }
            if let Some(known) = self.providers.get_mut(&provider) {
                known.failures = 0;
            }
        } else {
            if claim.requests.is_empty() {
                self.release(leaf);
            } else {
                self.claims.insert(leaf, Claim { requests: claim.requests, verifying: false });
            }
            if verdict == Verdict::Bad {
                self.ban(provider, Offence::Leaf(leaf));
            }
        }
        self.conclude();
        self.settle_prover();
        self.assign();
    }

    /// A verified leaf is not what it was any more where it was written: it is asked for again.
    pub fn handle_damaged(&mut self, now: Moment, leaf: u64) {
        self.now = now;
        self.proven = self.size_is_proven();
        if self.verified.remove(leaf) {
            self.release(leaf);
            self.finished = false;
            self.actions.retain(|action| *action != Action::Finished);
        }
        self.assign();
    }

    /// A leaf of the part file was checked.
    pub fn handle_local(&mut self, now: Moment, leaf: u64, good: bool) {
        self.now = now;
        if self.claims.remove(&leaf).is_none() {
            return;
        }
        if good {
            self.verified.insert(leaf);
        } else {
            self.release(leaf);
        }
        self.conclude();
        self.settle_prover();
        self.assign();
    }

    /// A request is over, for better or worse. Leaves that it did not bring are asked of others.
    pub fn handle_end(&mut self, now: Moment, request: RequestId, end: RequestEnd) {
        self.now = now;
        let Some(ended) = self.requests.get(&request) else { return };
        let Request { provider, asked, waits, .. } = *ended;
        let incomplete = match &ended.wanted {
            Wanted::Sheet(_) => true,
            Wanted::Leaves(leaves) => !leaves.is_empty(),
        };
        self.forget_request(request);
        let Some(known) = self.providers.get(&provider) else { return };
        // It waited for the leaves itself, and gave what it got.
        let waited = waits && known.progress() > asked;
        let holds_all = known.have == Have::All;
        match end {
            RequestEnd::Served if !incomplete || waited => {}
            RequestEnd::Served => {
                self.back_off(provider);
                if !waits || self.providers.get(&provider).is_some_and(|known| known.failures > 1) {
                    self.blame(provider);
                }
            }
            // Who has much to do has not failed, however often it says so.
            RequestEnd::Busy => {
                if known.state == ProviderState::Ready {
                    self.drop_provider(provider, ProviderState::Waiting(now.after(BUSY_AGAIN)));
                }
            }
            // Who downloads the blob itself may just not have begun.
            RequestEnd::NotHeld if !holds_all => self.back_off(provider),
            RequestEnd::Interrupted => {}
            // That a connection is lost was said of the provider already.
            RequestEnd::Failed if known.state != ProviderState::Ready => {}
            RequestEnd::Failed => {
                self.back_off(provider);
                self.blame_if(provider, holds_all);
            }
            RequestEnd::NotHeld | RequestEnd::Changed | RequestEnd::OtherSize => {
                self.drop_provider(provider, ProviderState::Lost);
                self.blame_if(provider, holds_all);
            }
        }
        self.settle_prover();
        self.assign();
    }

    /// The driver itself could take nothing until now: whoever gave nothing meanwhile has not stalled.
    pub fn handle_own_delay(&mut self, now: Moment) {
        for provider in self.providers.values_mut().filter(|provider| provider.is_busy()) {
            provider.excuse(now);
        }
    }

    /// Time has passed: stalls are noticed, back-offs end, late leaves are asked of others.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.now = now;
        let mut stalled = Vec::new();
        for (id, provider) in &self.providers {
            if provider.state == ProviderState::Ready && provider.is_busy() && self.stall_moment(id, provider) <= now {
                stalled.push(*id);
            }
        }
        for id in stalled {
            if let Some(provider) = self.providers.get_mut(&id) {
                let setback = provider.stalled(now);
                self.actions.push_back(Action::Setback { provider: id, setback });
            }
            self.back_off(id);
            self.blame(id);
        }
        for provider in self.providers.values_mut() {
            if matches!(provider.state, ProviderState::Waiting(until) if until <= now) {
                provider.wake(now);
            }
        }
        self.assign();
    }

    fn stall_moment(&self, id: &PeerId, provider: &Provider) -> Moment {
        let unknown = if self.prover == Some(*id) { STALL_PROVER } else { STALL_UNKNOWN };
        let waits = provider.requests.iter().all(|id| self.requests.get(id).is_some_and(|request| request.waits));
        let allowed = provider.allowed_silence(unknown);
        let moment = provider.progress().after(allowed);
        if waits {
            // It waits itself, and says so in time if nothing comes.
            return moment.max(provider.progress().after(LEAF_WAIT + STALL_PROVER));
        }
        // The last leaf was asked for first: what comes in its place does not bring the proof.
        let proof = self.proof_asked(id).filter(|_| !provider.is_queued());
        proof.map_or(moment, |asked| moment.min(asked.after(allowed)))
    }

    /// When this prover was asked for the last leaf, while it has not come.
    fn proof_asked(&self, id: &PeerId) -> Option<Moment> {
        let claim = self.claims.get(&(self.geometry.leaves() - 1)).filter(|_| !self.size_is_proven())?;
        let request = claim.requests.iter().filter_map(|request| self.requests.get(request));
        request.filter(|request| request.provider == *id).map(|request| request.asked).min()
    }

    fn ban(&mut self, provider: PeerId, offence: Offence) {
        let already = self.providers.get(&provider).is_some_and(|known| known.state == ProviderState::Banned);
        if !already {
            self.drop_provider(provider, ProviderState::Banned);
            self.actions.push_back(Action::Ban { provider, offence });
        }
    }

    fn blame(&mut self, provider: PeerId) {
        self.blame_if(provider, true);
    }

    fn blame_if(&mut self, provider: PeerId, to_blame: bool) {
        if to_blame {
            self.actions.push_back(Action::Blame { provider });
        }
    }

    /// The provider did not deliver: its work goes to others, and it is asked again later.
    fn back_off(&mut self, provider: PeerId) {
        let state = match self.providers.get_mut(&provider) {
            Some(known) if known.state == ProviderState::Ready => known.failed(self.now),
            _ => return,
        };
        if state == ProviderState::Lost {
            let setback = Setback::GivenUp { failures: FAILURES };
            self.actions.push_back(Action::Setback { provider, setback });
        }
        self.drop_provider(provider, state);
    }

    fn drop_provider(&mut self, provider: PeerId, state: ProviderState) {
        let Some(known) = self.providers.get_mut(&provider) else { return };
        if known.state == ProviderState::Banned {
            return;
        }
        known.state = state;
        let requests: Vec<RequestId> = known.requests.iter().copied().collect();
        for request in requests {
            self.forget_request(request);
            self.actions.push_back(Action::Cancel { request });
        }
        if self.prover == Some(provider) && !self.size_is_proven() {
            self.prover = None;
            self.forget_sheets();
        }
    }

    /// A prover whose connection is lost, or that does not hold the last leaf any more, takes its sheets with it, once
    /// nothing that it gave can prove the size any more.
    fn settle_prover(&mut self) {
        let Some(prover) = self.prover.filter(|_| !self.size_is_proven()) else { return };
        let last = self.geometry.leaves() - 1;
        let is_verified_now = self.claims.get(&last).is_some_and(|claim| claim.verifying);
        let is_there = |known: &Provider| known.state != ProviderState::Lost && known.have.contains(last);
        let may_give = |known: &Provider| known.is_busy() || is_there(known);
        if !is_verified_now && !self.providers.get(&prover).is_some_and(may_give) {
            self.prover = None;
            self.forget_sheets();
        }
    }

    fn forget_sheets(&mut self) {
        self.sheets = LeafSet::new(self.geometry.sheets());
        self.root_ready = self.geometry.sheets() <= 1;
        self.actions.push_back(Action::ForgetSheets);
    }

    /// Takes a request off the books; what it still had to bring is free again.
    fn forget_request(&mut self, id: RequestId) {
        let Some(request) = self.requests.remove(&id) else { return };
        let open = match request.wanted {
            Wanted::Sheet(sheet) => {
                self.sheets_asked.remove(&sheet);
                0
            }
            Wanted::Leaves(leaves) => {
                for leaf in &leaves {
                    self.unclaim(*leaf, id);
                }
                leaves.len() as u64
            }
        };
        if let Some(provider) = self.providers.get_mut(&request.provider) {
            provider.request_over(id, open);
        }
    }

    fn unclaim(&mut self, leaf: u64, request: RequestId) {
        let Some(claim) = self.claims.get_mut(&leaf) else { return };
        claim.requests.retain(|other| *other != request);
        if claim.requests.is_empty() && !claim.verifying {
            self.claims.remove(&leaf);
            self.release(leaf);
        }
    }

    fn release(&mut self, leaf: u64) {
        self.taken.remove(leaf);
        self.low = self.low.min(leaf);
    }

    /// The leaf came from elsewhere. A request that waits for nothing else is cancelled.
    fn no_longer_wanted(&mut self, id: RequestId, leaf: u64) {
        let Some(Request { provider, wanted: Wanted::Leaves(leaves), .. }) = self.requests.get_mut(&id) else { return };
        let before = leaves.len();
        leaves.retain(|other| *other != leaf);
        let (provider, gone, empty) = (*provider, before - leaves.len(), leaves.is_empty());
        if let Some(known) = self.providers.get_mut(&provider) {
            known.open_leaves -= gone as u64;
        }
        if empty {
            self.forget_request(id);
            self.actions.push_back(Action::Cancel { request: id });
        }
    }

    /// Asks the driver to check local leaves whose sheet is known now.
    fn check_local(&mut self, sheet: Option<u64>) {
        let range = match sheet {
            Some(sheet) => self.geometry.sheet_leaves(sheet),
            None if self.geometry.sheets() == 0 => 0..1,
            None => return,
        };
        let leaves: Vec<u64> = range.filter(|leaf| self.local.remove(*leaf)).collect();
        for leaf in &leaves {
            self.claims.insert(*leaf, Claim { requests: Vec::new(), verifying: true });
        }
        if !leaves.is_empty() {
            self.actions.push_back(Action::CheckLocal { ranges: ranges(&leaves) });
        }
    }

    fn conclude(&mut self) {
        if self.finished || !self.verified.is_full() {
            return;
        }
        self.finished = true;
        let open: BTreeSet<RequestId> = self.requests.keys().copied().collect();
        for request in open {
            self.forget_request(request);
            self.actions.push_back(Action::Cancel { request });
        }
        self.actions.push_back(Action::Finished);
    }

    fn sheet_of(leaf: u64) -> u64 {
        leaf / SHEET_LEAVES
    }

    fn can_verify(&self, leaf: u64) -> bool {
        self.geometry.sheets() == 0 || self.sheets.contains(Self::sheet_of(leaf))
    }

    fn somebody_is_idle(&self) -> bool {
        self.providers.values().any(|provider| provider.state == ProviderState::Ready && !provider.is_busy())
    }
}

/// The members of a set in ascending order.
fn members(set: &LeafSet) -> impl Iterator<Item = u64> + '_ {
    (0..set.leaves()).filter(|leaf| set.contains(*leaf))
}

/// Leaves in the given order as runs.
fn ranges<'a>(leaves: impl IntoIterator<Item = &'a u64>) -> Vec<LeafRange> {
    let mut runs: Vec<LeafRange> = Vec::new();
    for leaf in leaves {
        match runs.last_mut() {
            Some(run) if run.first + run.count == *leaf => run.count += 1,
            _ => runs.push(LeafRange { first: *leaf, count: 1 }),
        }
    }
    runs
}
