//! The providers of one download: who is known, who is connected, when to look again, when to give up.

use std::collections::BTreeMap;
use std::time::Duration;

use haul_core::download::{RequestId, Starvation};
use haul_core::ids::PeerId;
use haul_core::time::Moment;
use haul_core::wire::index::{PeerCard, SwarmPeer};

use super::pool::{ConnectError, Lease};
use super::{CHANGED, Found, noting};
use crate::timeline::{How, Note, Timeline};

/// Trouble of a provider that has the content no more.
const NOT_HELD: &str = "does not have it any more";
/// Providers connected at once for one blob; more wait until one fails. Sixteen fill any link that one disk can feed.
const CONNECTED: usize = 16;
/// The same of providers that are downloading themselves: the index names that many, chosen by chance.
const NEIGHBOURS: usize = 32;
/// Attempts to connect to one provider without anything gained.
const ATTEMPTS: u32 = 5;
/// First wait before a provider is called again; doubles.
const RECALL: Duration = Duration::from_millis(500);
/// Up to four minutes: whoever is named again and again, at whatever address, does not have it called without end.
const RECALL_DOUBLINGS: u32 = 9;
/// First wait between look-ups while nobody can help; doubles up to [`LOOKUP_REGULAR`].
const LOOKUP_FIRST: Duration = Duration::from_secs(1);
/// Between look-ups while all goes well: new providers may have come.
const LOOKUP_REGULAR: Duration = Duration::from_secs(30);

/// Time for the index to tell who is in the swarm, before nobody counts as there.
const SWARM_ANSWER: Duration = Duration::from_secs(3);
/// Time for others to come into a swarm that this download has joined: many begin in the same moment, and whoever cannot
/// reach the owner may reach one of them.
const SWARM_COMPANY: Duration = Duration::from_secs(1);

/// Where a download looks for providers.
#[derive(Clone, Debug)]
pub(super) struct Search {
    /// Known from the start.
    pub(super) cards: Vec<PeerCard>,
    /// Nobody else is looked up.
    pub(super) only_these: bool,
    /// Whether `cards` come from a look-up just now.
    pub(super) fresh: bool,
    /// How long to go on without anybody who can help.
    pub(super) patience: Duration,
    /// Where it is noted whom it found, and how they are.
    pub(super) timeline: Timeline,
}

#[derive(Debug)]
struct Known {
    card: PeerCard,
    lease: Option<Lease>,
    connecting: bool,
    /// Calls without anything gained since it was named last: too many of them end the calling.
    attempts: u32,
    /// The same since it gave something: how long to wait grows with them, however often it is named.
    in_vain: u32,
    next_attempt: Moment,
    trouble: Option<String>,
    banned: bool,
    /// It is downloading the blob itself.
    partial: bool,
    /// The index wants it to be asked.
    planned: bool,
    /// Requests that wait for an upload slot there, with their places.
    queued: BTreeMap<RequestId, u32>,
}

#[allow(clippy::struct_excessive_bools, reason = "each is one fact; their combinations are all possible")]
pub(super) struct Providers {
    search: Search,
    known: BTreeMap<PeerId, Known>,
    starved: bool,
    starved_since: Option<Moment>,
    looked_up_since: bool,
    lookup_running: bool,
    lookup_wait: Duration,
    next_lookup: Moment,
    lookup_failure: Option<String>,
    ever_connected: bool,
    /// Connected providers that the machine should hear of again.
    again: Vec<PeerId>,
    /// Until then the index may tell who is in the swarm.
    swarm_until: Option<Moment>,
}

impl Providers {
    pub(super) fn new(search: Search, now: Moment) -> Self {
        let next_lookup = if search.fresh || search.only_these { now.after(LOOKUP_FIRST) } else { now };
        let mut providers = Self {
            known: BTreeMap::new(),
            starved: false,
            starved_since: None,
            looked_up_since: search.fresh || search.only_these,
            lookup_running: false,
            lookup_wait: LOOKUP_FIRST,
            next_lookup,
            lookup_failure: None,
            ever_connected: false,
            again: Vec::new(),
            swarm_until: None,
            search,
        };
        let cards = providers.search.cards.clone();
        let how = if providers.search.only_these { How::Asked } else { How::Index };
        providers.learn(whole(cards), how, now);
        providers
    }

    /// The index was asked who is in the swarm.
    pub(super) fn expect_swarm(&mut self, now: Moment) {
        self.swarm_until = Some(now.after(SWARM_ANSWER));
    }

    /// It has taken this download in.
    pub(super) fn swarm_is_joined(&mut self, now: Moment) {
        self.swarm_until = Some(now.after(SWARM_COMPANY));
    }

    /// It keeps no swarm for it.
    pub(super) fn no_swarm(&mut self) {
        self.swarm_until = None;
    }

    /// The index tells of others in the swarm.
    pub(super) fn told_of(&mut self, peers: Vec<SwarmPeer>, now: Moment) {
        self.learn(peers, How::Push, now);
    }

    /// The index has planned with these, and with none of those before.
    pub(super) fn planned(&mut self, sources: impl Iterator<Item = PeerId>) {
        for known in self.known.values_mut() {
            known.planned = false;
        }
        for source in sources {
            if let Some(known) = self.known.get_mut(&source) {
                known.planned = true;
            }
        }
    }

    fn learn(&mut self, peers: Vec<SwarmPeer>, how: How, now: Moment) {
        for SwarmPeer { card, complete } in peers {
            if card.addresses.is_empty() && !card.online {
                continue;
            }
            self.search.timeline.note_of(now, card.id, Note::Found { how });
            let known = self.known.entry(card.id).or_insert_with(|| Known {
                card: card.clone(),
                lease: None,
                connecting: false,
                attempts: 0,
                in_vain: 0,
                next_attempt: now,
                trouble: None,
                banned: false,
                partial: !complete,
                planned: false,
                queued: BTreeMap::new(),
            });
            // Whoever had everything once is not asked for its bitfield again.
            known.partial &= !complete;
            known.card = card;
            if known.lease.is_some() && !known.banned {
                self.again.push(known.card.id);
            } else {
                // The index sees it online: worth a call, however often it failed before.
                known.attempts = known.attempts.min(ATTEMPTS - 1);
            }
        }
    }

    /// Connected providers that were named once more since the last call.
    pub(super) fn named_again(&mut self) -> Vec<PeerId> {
        std::mem::take(&mut self.again)
    }

    /// Whether to look up now, if so the look-up counts as begun.
    pub(super) fn lookup_due(&mut self, starved: Option<Starvation>, now: Moment) -> bool {
        self.swarm_until.take_if(|until| *until <= now);
        self.starved = starved.is_some();
        // Only a good leaf ends a drought: asking those that have nothing once more does not.
        if self.starved && self.starved_since.is_none() {
            self.starved_since = Some(now);
            if self.ever_connected {
                self.next_lookup = self.next_lookup.min(now.after(LOOKUP_FIRST));
            }
        }
        if self.lookup_running || now < self.next_lookup {
            return false;
        }
        self.lookup_running = true;
        true
    }

    /// Whether only the given providers may be asked; a look-up then finds just these.
    pub(super) fn only_these(&self) -> Option<Vec<PeerCard>> {
        self.search.only_these.then(|| self.search.cards.clone())
    }

    pub(super) fn found(&mut self, found: Result<Found, String>, now: Moment) {
        self.lookup_running = false;
        self.looked_up_since = true;
        self.next_lookup = now.after(if self.starved { self.lookup_wait } else { LOOKUP_REGULAR });
        self.lookup_wait = (self.lookup_wait * 2).min(LOOKUP_REGULAR);
        match found {
            Ok(found) => {
                self.lookup_failure = None;
                let asked = self.search.only_these;
                if !asked {
                    self.search.timeline.note(now, Note::LookedUp { providers: found.providers.len() as u64 });
                }
                self.learn(whole(found.providers), if asked { How::Asked } else { How::Index }, now);
            }
            Err(reason) => {
                self.search.timeline.note(now, Note::LookupFailed { reason: reason.clone() });
                self.lookup_failure = Some(reason);
            }
        }
    }

    /// Providers to call now; the calls count as begun.
    pub(super) fn connections_due(&mut self, now: Moment) -> Vec<PeerCard> {
        let mut due = Vec::new();
        for partial in [false, true] {
            let mut room = self.room(partial);
            for known in self.known.values_mut().filter(|known| known.partial == partial) {
                if (room > 0 || known.planned) && known.may_be_called() && known.next_attempt <= now {
                    known.connecting = true;
                    due.push(known.card.clone());
                    room = room.saturating_sub(1);
                }
            }
        }
        due
    }

    /// How many more providers of a kind may be connected. Those of a plan, of which there are few, have room always.
    fn room(&self, partial: bool) -> usize {
        let in_use = |known: &&Known| known.partial == partial && (known.lease.is_some() || known.connecting);
        let most = if partial { NEIGHBOURS } else { CONNECTED };
        most.saturating_sub(self.known.values().filter(in_use).count())
    }

    /// Whether a provider is downloading the blob itself.
    pub(super) fn is_partial(&self, provider: &PeerId) -> bool {
        self.known.get(provider).is_some_and(|known| known.partial)
    }

    /// The outcome of a call; whether the provider can be asked now.
    pub(super) fn connected(&mut self, provider: PeerId, result: Result<Lease, ConnectError>, now: Moment) -> bool {
        let Some(known) = self.known.get_mut(&provider) else { return false };
        known.connecting = false;
        if known.banned {
            return false;
        }
        match result {
            Ok(lease) => {
                known.lease = Some(lease);
                self.ever_connected = true;
                self.search.timeline.note_of(now, provider, Note::Joined);
                true
            }
            Err(error) => {
                self.search.timeline.note_of(now, provider, noting::of_call(&error));
                known.trouble = Some(error.to_string());
                known.call_later(now);
                false
            }
        }
    }

    /// The connection to a provider, if it is open.
    pub(super) fn lease(&self, provider: &PeerId) -> Option<Lease> {
        let lease = self.known.get(provider)?.lease.clone()?;
        lease.connection().close_reason().is_none().then_some(lease)
    }

    /// Whether the provider's connection has ended; it is called again later.
    pub(super) fn lost(&mut self, provider: &PeerId, now: Moment) -> bool {
        let Some(known) = self.known.get_mut(provider) else { return false };
        let ended = known.lease.as_ref().and_then(|lease| lease.connection().close_reason());
        let Some(reason) = ended else { return false };
        known.lease = None;
        self.search.timeline.note_of(now, *provider, Note::Lost { reason: reason.to_string() });
        known.queued.clear();
        known.trouble = Some(reason.to_string());
        known.call_later(now);
        true
    }

    pub(super) fn trouble(&mut self, provider: PeerId, trouble: String) {
        if let Some(known) = self.known.get_mut(&provider) {
            known.trouble = Some(trouble);
        }
    }

    /// A provider has no upload slot free; this is the place in its queue.
    pub(super) fn queued(&mut self, provider: PeerId, request: RequestId, place: u32) {
        if let Some(known) = self.known.get_mut(&provider) {
            known.queued.insert(request, place);
            known.trouble = known.place().map(slot_words);
        }
    }

    /// A request is over: it waits for no slot any more.
    pub(super) fn request_over(&mut self, request: RequestId) {
        for known in self.known.values_mut() {
            if known.queued.remove(&request).is_some() {
                known.trouble = known.place().map(slot_words);
            }
        }
    }

    /// What is waited for, if nobody gives anything and somebody will when it is this peer's turn.
    pub(super) fn waiting_for_slot(&self) -> Option<String> {
        let connected = || self.known.values().filter(|known| known.lease.is_some());
        if connected().any(|known| known.queued.is_empty() && known.trouble.is_none()) {
            return None;
        }
        let next = connected().filter_map(|known| Some((known.place()?, known))).min_by_key(|(place, _)| *place);
        next.map(|(place, known)| format!("waiting for a slot at {}: place {place}", known.card.name))
    }

    /// Whoever said that its file has changed does not have the content any more either: that reason stays.
    pub(super) fn not_held(&mut self, provider: PeerId) {
        if self.known.get(&provider).is_some_and(|known| known.trouble.as_deref() != Some(CHANGED)) {
            self.trouble(provider, NOT_HELD.into());
        }
    }

    pub(super) fn ban(&mut self, provider: &PeerId) {
        if let Some(known) = self.known.get_mut(provider) {
            known.banned = true;
            known.lease = None;
        }
    }

    /// A good leaf came.
    pub(super) fn gave(&mut self, provider: PeerId) {
        self.lookup_wait = LOOKUP_FIRST;
        self.starved_since = None;
        self.looked_up_since = false;
        if let Some(known) = self.known.get_mut(&provider).filter(|known| !known.banned) {
            (known.attempts, known.in_vain) = (0, 0);
            known.queued.clear();
            // Leaves that were under way when it lost the content may still verify.
            known.trouble.take_if(|trouble| trouble != CHANGED && trouble != NOT_HELD);
        }
    }

    /// Whether to give up: nobody can help, and it is not worth waiting longer.
    pub(super) fn is_hopeless(&self, starved: Option<Starvation>, now: Moment) -> bool {
        let Some(since) = self.starved_since else { return false };
        let busy =
            self.swarm_until.is_some() || self.lookup_running || self.known.values().any(|known| known.connecting);
        let uncalled = self.known.values().any(|known| known.may_be_called() && known.attempts == 0);
        if starved.is_none() || busy || !self.looked_up_since || uncalled || self.search.patience == Duration::MAX {
            return false;
        }
        let nothing_to_wait_for = !self.ever_connected || starved == Some(Starvation::AllBanned);
        nothing_to_wait_for || now.since(since) >= self.search.patience
    }

    /// When something is due next.
    pub(super) fn next_due(&self) -> Option<Moment> {
        let room = [self.room(false), self.room(true)];
        let has_room = |known: &&Known| known.planned || if known.partial { room[1] > 0 } else { room[0] > 0 };
        let waiting = self.known.values().filter(|known| known.may_be_called()).filter(has_room);
        let calls = waiting.map(|known| known.next_attempt).min();
        let lookup = (!self.lookup_running).then_some(self.next_lookup);
        let end = self.starved_since.map(|since| since.after(self.search.patience));
        [calls, lookup, end, self.swarm_until].into_iter().flatten().min()
    }

    /// What is known about those that were tried.
    pub(super) fn reason(&self) -> String {
        let mut parts: Vec<String> = Vec::new();
        for known in self.known.values() {
            let trouble = known.trouble.as_deref().unwrap_or("gave nothing");
            parts.push(format!("{} {trouble}", known.card.name));
        }
        if let Some(failure) = &self.lookup_failure {
            parts.push(format!("looking for others failed: {failure}"));
        }
        if parts.is_empty() { "nobody who is online has it".into() } else { parts.join("; ") }
    }

    /// Why nothing moves, and what happens next.
    pub(super) fn waiting_for(&self, starved: Starvation) -> String {
        if self.known.values().any(|known| known.connecting) {
            return "connecting".into();
        }
        match starved {
            Starvation::NoProvider if self.known.is_empty() => "looking for providers".into(),
            Starvation::NoProvider => format!("waiting for a provider: {}", self.reason()),
            Starvation::AllBanned => "every provider sent wrong bytes; looking for others".into(),
            Starvation::LeavesMissing => "the providers that are connected lack the rest; looking for others".into(),
            Starvation::Waiting => format!("trying again soon: {}", self.reason()),
        }
    }

    /// Why nothing comes although something is asked for.
    pub(super) fn still_for(&self) -> String {
        let troubled = self.known.values().filter(|known| known.trouble.is_some());
        if troubled.count() == 0 {
            return "nothing comes at present of what was asked for".into();
        }
        format!("nothing comes at present: {}", self.reason())
    }

    /// Every provider with what it gave and its trouble.
    pub(super) fn told(&self, gave: &BTreeMap<PeerId, u64>) -> impl Iterator<Item = (PeerId, u64, Option<String>)> {
        self.known.iter().map(|(peer, known)| (*peer, gave.get(peer).copied().unwrap_or(0), known.trouble.clone()))
    }
}

/// The state of a provider in whose queue a request waits.
pub(super) fn slot_words(place: u32) -> String {
    format!("waiting for a slot: place {place}")
}

/// Cards of peers that hold everything.
fn whole(cards: Vec<PeerCard>) -> Vec<SwarmPeer> {
    cards.into_iter().map(|card| SwarmPeer { card, complete: true }).collect()
}

impl Known {
    /// The place of its request that is served first.
    fn place(&self) -> Option<u32> {
        self.queued.values().copied().min()
    }

    fn may_be_called(&self) -> bool {
        self.lease.is_none() && !self.connecting && !self.banned && self.attempts < ATTEMPTS
    }

    fn call_later(&mut self, now: Moment) {
        self.next_attempt = now.after(RECALL * (1 << self.in_vain.min(RECALL_DOUBLINGS)));
        self.attempts += 1;
        self.in_vain += 1;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use haul_core::ids::PublicKey;
    use haul_core::time::Timestamp;
    use haul_core::wire::Label;

    use super::*;

    fn named(n: u8) -> SwarmPeer {
        let mut bytes = [7; 32];
        bytes[0] = n;
        let card = PeerCard {
            id: PublicKey::new(bytes).unwrap(),
            name: Label::new("x").unwrap(),
            addresses: vec!["192.0.2.1:1".into()],
            online: true,
            seen: Timestamp(0),
            files: 0,
            bytes: 0,
        };
        SwarmPeer { card, complete: true }
    }

    fn nobody() -> Providers {
        let (patience, timeline) = (Duration::from_secs(15), Timeline::default());
        let search = Search { cards: vec![], only_these: false, fresh: true, patience, timeline };
        Providers::new(search, Moment(0))
    }

    #[test]
    fn a_source_that_is_planned_is_called_however_many_others_are_connected() {
        let mut providers = nobody();
        providers.told_of((0..CONNECTED as u8).map(named).collect(), Moment(0));
        assert_eq!(providers.connections_due(Moment(0)).len(), CONNECTED);
        let late = named(200);
        providers.told_of(vec![late.clone()], Moment(10));
        assert_eq!(providers.connections_due(Moment(10)), []);
        providers.planned([late.card.id].into_iter());
        assert_eq!(providers.connections_due(Moment(20)), [late.card]);
    }

    #[test]
    fn whoever_reaches_nobody_waits_a_moment_for_others_of_the_swarm() {
        let mut providers = nobody();
        let owner = named(1);
        providers.told_of(vec![owner.clone()], Moment(0));
        providers.swarm_is_joined(Moment(0));
        providers.connections_due(Moment(0));
        providers.connected(owner.card.id, Err(ConnectError::NoGrant), Moment(0));
        let starved = Some(Starvation::NoProvider);
        let gives_up = |providers: &mut Providers, now: Moment| {
            if providers.lookup_due(starved, now) {
                providers.found(Err("nobody else".into()), now);
            }
            providers.is_hopeless(starved, now)
        };
        assert!(!gives_up(&mut providers, Moment(999)));
        assert!(gives_up(&mut providers, Moment(1_001)));
        providers.swarm_is_joined(Moment(1_001));
        assert!(!gives_up(&mut providers, Moment(1_002)));
        providers.no_swarm();
        assert!(gives_up(&mut providers, Moment(1_003)), "there is nobody to wait for");
    }

    #[test]
    fn one_that_is_named_again_and_again_is_called_more_and_more_rarely() {
        let mut providers = nobody();
        let mut calls = 0;
        for second in 0..3_600 {
            let now = Moment(second * 1_000);
            providers.told_of(vec![named(1)], now);
            for card in providers.connections_due(now) {
                calls += 1;
                providers.connected(card.id, Err(ConnectError::NoGrant), now);
            }
        }
        assert!((10..30).contains(&calls), "{calls} calls in an hour");
    }
}
