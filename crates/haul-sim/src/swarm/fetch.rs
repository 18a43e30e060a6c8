//! The fetching side: the download machine of haul-core, driven as a peer drives it.
//!
//! Leaves are verified and written in no time. Who is to be called, and when the index is told what, follows the same rules
//! as in haul-peer; what its driver does for files, people and limits is left out.

use std::collections::BTreeMap;
use std::time::Duration;

use haul_core::blob::LeafSet;
use haul_core::download::{Action, Arrival, Download, Have, RequestEnd, RequestId, Verdict};
use haul_core::ids::PeerId;
use haul_core::time::Moment;

use super::events::{Event, Micros, NodeId};
use super::index::{Sources, node_of, peer_id};
use super::link::{Ask, FlowId, Item};
use super::node::Sink;
use super::peers::{Call, Peers};
use super::source::held_bytes;
use super::world::World;

/// Between two questions for what a provider of parts holds …
const FOLLOW_PAUSE: Duration = Duration::from_millis(100);
/// … and the longer the answers, the rarer.
const FOLLOW_MICROS_PER_BYTE: u64 = 16;
/// Until a provider that passes nothing on yet is asked again.
const FOLLOW_AGAIN: Duration = Duration::from_millis(500);
/// The driver looks after its machine so often, whatever happens.
const LONGEST_SLEEP: Micros = 1_000_000;

/// One download.
#[derive(Debug)]
pub(super) struct Fetch {
    machine: Download,
    /// Open requests, with their connections.
    requests: BTreeMap<RequestId, FlowId>,
    peers: Peers,
    /// Somebody may have to be called.
    may_call: bool,
    /// For when its timeout is entered as an event.
    due: Micros,
}

impl World<'_> {
    /// A download begins: who shares the blob is known from a lookup.
    pub(super) fn begin_fetch(&mut self, sink: NodeId) {
        let leaves = self.geometry.leaves();
        let nothing = LeafSet::new(leaves);
        let mut machine = Download::new(self.geometry, nothing.clone(), &nothing, self.dice.next());
        machine.set_me(peer_id(sink));
        machine.set_spread(self.moment(), true);
        let mut peers = Peers::default();
        for (seed, node) in (0..).zip(&self.nodes).filter(|(at, node)| *at != sink && node.here && node.held.is_full())
        {
            if self.scenario.peers[seed as usize].seed && !node.gone {
                peers.learn(seed, true);
            }
        }
        let fetch = Fetch { machine, requests: BTreeMap::new(), peers, may_call: true, due: Micros::MAX };
        let node = &mut self.nodes[sink as usize];
        node.sink = Sink::Machine(Box::new(fetch));
        // Nothing is told before the index has taken it in.
        node.reports.asked = true;
        self.on_look(sink);
        self.go_on_fetching(sink);
    }

    pub(super) fn moment(&self) -> Moment {
        Moment(self.now / 1000)
    }

    /// Lets the machine know something, then does what it wants.
    fn drive(&mut self, sink: NodeId, happening: impl FnOnce(&mut Download, Moment)) {
        let now = self.moment();
        if let Some(fetch) = self.nodes[sink as usize].fetch() {
            happening(&mut fetch.machine, now);
            self.go_on_fetching(sink);
        }
    }

    /// What a driver does after every event.
    fn go_on_fetching(&mut self, sink: NodeId) {
        let mut finished = false;
        while let Some(action) = self.nodes[sink as usize].fetch().and_then(|fetch| fetch.machine.poll_action()) {
            finished |= action == Action::Finished;
            self.perform(sink, action);
        }
        if finished {
            return self.finish(sink);
        }
        self.call_peers(sink);
        self.report(sink, false);
        self.arm(sink);
    }

    fn perform(&mut self, sink: NodeId, action: Action) {
        match action {
            Action::RequestSheet { request, provider, sheet } => {
                if let Some(flow) = self.asking(sink, request, provider) {
                    self.events.at(self.at_source(flow), Event::SheetAsked { flow, request: request.0, sheet });
                }
            }
            Action::RequestLeaves { request, provider, ranges, wait } => {
                if let Some(flow) = self.asking(sink, request, provider) {
                    let units = ranges.iter().map(|run| run.first as u32..(run.first + run.count) as u32).collect();
                    self.ask(flow, request.0, Ask { units, wait });
                }
            }
            Action::Cancel { request } => {
                let flow = self.nodes[sink as usize].fetch().and_then(|fetch| fetch.requests.remove(&request));
                if let Some(flow) = flow {
                    self.cancel(flow, request.0);
                }
            }
            Action::Blame { provider } => drop(self.nodes[sink as usize].reports.failed.insert(node_of(provider))),
            Action::Ban { provider, .. } => {
                self.nodes[sink as usize].reports.failed.insert(node_of(provider));
                if let Some(fetch) = self.nodes[sink as usize].fetch() {
                    fetch.peers.set(node_of(provider), Call::Over);
                }
            }
            // Nothing is in a part file, and nothing is verified later than it arrives.
            Action::CheckLocal { .. }
            | Action::ForgetSheets
            | Action::Setback { .. }
            | Action::Starved(_)
            | Action::Finished => {}
        }
    }

    /// The connection for a new request; without one it has failed.
    fn asking(&mut self, sink: NodeId, request: RequestId, provider: PeerId) -> Option<FlowId> {
        let now = self.moment();
        let fetch = self.nodes[sink as usize].fetch()?;
        let flow = fetch.peers.connection(node_of(provider));
        if let Some(flow) = flow {
            fetch.requests.insert(request, flow);
        } else {
            fetch.machine.handle_provider_lost(now, provider);
            fetch.machine.handle_end(now, request, RequestEnd::Failed);
        }
        flow
    }

    fn call_peers(&mut self, sink: NodeId) {
        let Some(fetch) = self.nodes[sink as usize].fetch().filter(|fetch| fetch.may_call) else { return };
        fetch.may_call = false;
        for source in fetch.peers.calls_due() {
            if self.nodes[source as usize].gone {
                self.peer_is_over(sink, source);
                self.nodes[sink as usize].reports.failed.insert(source);
            } else {
                let flow = self.flow(source, sink);
                self.events.at(self.flows[flow as usize].open_from, Event::Connected(flow));
            }
        }
    }

    fn peer_is_over(&mut self, sink: NodeId, source: NodeId) {
        if let Some(fetch) = self.nodes[sink as usize].fetch() {
            fetch.peers.set(source, Call::Over);
            fetch.may_call = true;
        }
    }

    /// A connection stands. What one that is downloading itself holds has to be asked for, again and again.
    pub(super) fn on_connected(&mut self, flow: FlowId) {
        let link = &self.flows[flow as usize];
        let (source, sink) = (link.source, link.sink);
        if link.closed || !self.nodes[source as usize].here || !self.nodes[sink as usize].here {
            return;
        }
        let leaves = self.geometry.leaves();
        let Some(fetch) = self.nodes[sink as usize].fetch() else { return };
        fetch.peers.set(source, Call::Connected(flow));
        let partial = fetch.peers.is_partial(source);
        if partial {
            self.events.at(self.at_source(flow), Event::HeldAsked(flow));
        }
        let have = if partial { Have::Leaves(LeafSet::new(leaves)) } else { Have::All };
        self.drive(sink, |machine, now| machine.handle_provider(now, peer_id(source), have));
    }

    /// A source has told what it holds.
    pub(super) fn on_holds(&mut self, flow: FlowId, have: Option<Have>) {
        let pause = match &have {
            Some(Have::All) => None,
            Some(Have::Leaves(_)) => {
                Some(FOLLOW_PAUSE + Duration::from_micros(FOLLOW_MICROS_PER_BYTE * held_bytes(have.as_ref())))
            }
            None => Some(FOLLOW_AGAIN),
        };
        let link = &mut self.flows[flow as usize];
        let (source, sink) = (link.source, link.sink);
        if let Some(Have::Leaves(leaves)) = &have {
            link.known_held = Some(leaves.count());
        }
        let here = self.nodes[sink as usize].here && !self.flows[flow as usize].closed;
        let Some(fetch) = self.nodes[sink as usize].fetch().filter(|_| here) else { return };
        // Banned ones are followed no more.
        if fetch.peers.connection(source).is_none() {
            return;
        }
        let partial = fetch.peers.is_partial(source);
        if let Some(pause) = pause {
            self.events.at(self.now + pause.as_micros() as Micros + self.latency, Event::HeldAsked(flow));
        }
        if let Some(have) = have.filter(|_| partial) {
            self.drive(sink, |machine, now| machine.handle_provider(now, peer_id(source), have));
        }
    }

    /// The index tells of others.
    pub(super) fn on_peers(&mut self, to: NodeId, peers: &[(NodeId, bool)], answers_join: bool) {
        if answers_join {
            self.nodes[to as usize].offers = true;
            self.nodes[to as usize].reports.asked = false;
        }
        if self.nodes[to as usize].here && self.nodes[to as usize].fetch().is_some() {
            self.learn(to, peers);
            self.go_on_fetching(to);
        }
    }

    fn learn(&mut self, sink: NodeId, peers: &[(NodeId, bool)]) {
        let now = self.moment();
        let Some(fetch) = self.nodes[sink as usize].fetch() else { return };
        fetch.may_call = true;
        for (peer, complete) in peers {
            if fetch.peers.learn(*peer, *complete) {
                fetch.machine.handle_provider(now, peer_id(*peer), Have::All);
            }
        }
    }

    pub(super) fn fetch_by_plan(
        &mut self,
        sink: NodeId,
        strangers: &[(NodeId, bool)],
        sources: Sources,
        lease: Duration,
    ) {
        self.learn(sink, strangers);
        let (unit, leaves) = (self.geometry.piece_leaves(), self.geometry.leaves());
        if let Some(fetch) = self.nodes[sink as usize].fetch() {
            fetch.peers.planned(sources.iter().map(|(source, _)| *source));
        }
        let run = |first: u32, count: u32| {
            let first = u64::from(first);
            first * unit..((first + u64::from(count)) * unit).min(leaves)
        };
        let leaves_of = |(source, runs): (NodeId, Vec<haul_core::planner::PieceRange>)| {
            (peer_id(source), runs.iter().map(|piece| run(piece.first, piece.count)).collect())
        };
        let sources = sources.into_iter().map(leaves_of).collect();
        self.drive(sink, |machine, now| machine.handle_plan(now, now.after(lease), sources));
    }

    /// Something came from a source.
    pub(super) fn fetch_delivered(&mut self, flow: FlowId, item: Item) {
        let (source, sink) = (self.flows[flow as usize].source, self.flows[flow as usize].sink);
        match item {
            Item::Unit { request, unit } => self.leaf_arrived(source, sink, RequestId(request), unit),
            Item::Sheet { request, .. } => {
                let request = RequestId(request);
                if self.forget_request(sink, request) {
                    self.drive(sink, |machine, now| machine.handle_sheet(now, request, true));
                }
            }
            Item::End { request, end } => {
                let request = RequestId(request);
                if self.forget_request(sink, request) {
                    self.drive(sink, |machine, now| machine.handle_end(now, request, end));
                }
            }
        }
    }

    fn forget_request(&mut self, sink: NodeId, request: RequestId) -> bool {
        self.nodes[sink as usize].fetch().is_some_and(|fetch| fetch.requests.remove(&request).is_some())
    }

    fn leaf_arrived(&mut self, source: NodeId, sink: NodeId, request: RequestId, leaf: u32) {
        let (now, lies) = (self.moment(), self.scenario.peers[source as usize].lies);
        let fetch = self.nodes[sink as usize].fetch().filter(|fetch| fetch.requests.contains_key(&request));
        let Some(fetch) = fetch else {
            // Nobody listens any more.
            self.wasted += 1;
            return;
        };
        let arrival = fetch.machine.handle_arrival(now, request, leaf.into());
        if arrival == Arrival::Discard || lies {
            self.wasted += 1;
        }
        if arrival == Arrival::Discard {
            return self.go_on_fetching(sink);
        }
        let proven = fetch.machine.size_is_proven();
        let verdict = if lies { Verdict::Bad } else { Verdict::Good };
        fetch.machine.handle_verified(now, peer_id(source), leaf.into(), verdict);
        if !lies {
            self.note_received(sink, source);
            if proven {
                self.gain(sink, leaf);
            } else {
                self.prove(sink);
            }
        }
        self.go_on_fetching(sink);
    }

    /// What was verified before the size was proved is passed on once it is.
    fn prove(&mut self, sink: NodeId) {
        let Some(fetch) = self.nodes[sink as usize].fetch().filter(|fetch| fetch.machine.size_is_proven()) else {
            return;
        };
        let verified = fetch.machine.verified().clone();
        for leaf in (0..verified.leaves()).filter(|leaf| verified.contains(*leaf)) {
            self.gain(sink, leaf as u32);
        }
    }

    /// A request waits for an upload slot, and hears that it still does.
    pub(super) fn on_queue_news(&mut self, flow: FlowId, request: u64) {
        let (sink, request) = (self.flows[flow as usize].sink, RequestId(request));
        let open = |world: &mut Self| {
            world.nodes[sink as usize].fetch().is_some_and(|fetch| fetch.requests.contains_key(&request))
        };
        if self.nodes[sink as usize].here && open(self) {
            self.drive(sink, |machine, now| machine.handle_queued(now, request));
        }
    }

    /// A source is gone, and its connection with it.
    pub(super) fn fetch_lost(&mut self, flow: FlowId) {
        let (source, sink) = (self.flows[flow as usize].source, self.flows[flow as usize].sink);
        let now = self.moment();
        self.peer_is_over(sink, source);
        let Some(fetch) = self.nodes[sink as usize].fetch() else { return };
        fetch.machine.handle_provider_lost(now, peer_id(source));
        let broken: Vec<RequestId> =
            fetch.requests.iter().filter(|(_, other)| **other == flow).map(|(request, _)| *request).collect();
        for request in broken {
            fetch.requests.remove(&request);
            fetch.machine.handle_end(now, request, RequestEnd::Failed);
        }
        self.go_on_fetching(sink);
    }

    /// Enters the machine's timeout as an event, unless an earlier one is entered.
    fn arm(&mut self, sink: NodeId) {
        let now = self.now;
        let Some(fetch) = self.nodes[sink as usize].fetch() else { return };
        let due = fetch.machine.next_timeout().map_or(Micros::MAX, |due| due.0 * 1000);
        let due = due.clamp(now + 1000, now + LONGEST_SLEEP);
        if due < fetch.due {
            fetch.due = due;
            self.events.at(due, Event::Due(sink));
        }
    }

    pub(super) fn on_due(&mut self, sink: NodeId) {
        let (now, moment, here) = (self.now, self.moment(), self.nodes[sink as usize].here);
        let Some(fetch) = self.nodes[sink as usize].fetch().filter(|fetch| here && fetch.due <= now) else { return };
        fetch.due = Micros::MAX;
        if fetch.machine.next_timeout().is_some_and(|due| due <= moment) {
            fetch.machine.handle_timeout(moment);
        }
        self.go_on_fetching(sink);
    }
}
