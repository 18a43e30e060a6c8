//! The simulated world: all peers and connections, and the loop that handles one event after the other.

use core::time::Duration;

use haul_core::blob::BlobGeometry;
use haul_core::limits::LEAF_BYTES;

use super::dice::Dice;
use super::events::{Event, Events, Micros, NodeId};
use super::index::{Index, Message, Messages, Sources};
use super::link::{Flow, FlowId, Item};
use super::node::{Node, Sink};
use super::simple::Simple;
use super::{Outcome, Scenario, Sinks, Spent};

/// After this long in virtual time a run is given up.
const END: Micros = 3600 * 1_000_000;
/// From a peer's saying that it leaves to its going.
const LEAVE_US: Micros = 3_000_000;
/// It says so again and again, as a real peer does.
const LEAVING_AGAIN_US: Micros = 250_000;

pub(super) struct World<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) geometry: BlobGeometry,
    /// Peers fetch with the machine of haul-core.
    pub(super) machines: bool,
    /// Units of a piece. A unit is what one event sends: a leaf, or several of simple sinks.
    pub(super) per_piece: u32,
    pub(super) unit_bytes: u64,
    pub(super) latency: Micros,
    pub(super) control: Micros,
    pub(super) now: Micros,
    pub(super) events: Events,
    pub(super) nodes: Vec<Node>,
    pub(super) flows: Vec<Flow>,
    pub(super) messages: Messages,
    /// None when it has died.
    pub(super) index: Option<Index>,
    pub(super) dice: Dice,
    /// Units that were no use.
    pub(super) wasted: u64,
    /// Verified bytes, and those among them that came from the receiver's site.
    pub(super) received: u64,
    pub(super) received_near: u64,
    /// Peers that are to finish and have not.
    pub(super) unfinished: usize,
    plans: (u64, u64, Duration),
}

impl<'a> World<'a> {
    pub(super) fn new(scenario: &'a Scenario) -> Self {
        let geometry = whole_pieces(scenario.size);
        let machines = scenario.sinks == Sinks::Machine;
        let unit = if machines { 1 } else { scenario.quantum.clamp(1, geometry.piece_leaves()) };
        let (pieces, per_piece) = (geometry.pieces(), (geometry.piece_leaves() / unit) as u32);
        let node = |spec: &super::PeerSpec| Node::new(spec.seed, pieces, per_piece, spec.up, spec.down);
        Self {
            scenario,
            geometry,
            machines,
            per_piece,
            unit_bytes: unit * LEAF_BYTES,
            latency: scenario.latency.as_micros() as Micros,
            control: scenario.control.as_micros() as Micros,
            now: 0,
            events: Events::default(),
            nodes: scenario.peers.iter().map(node).collect(),
            flows: Vec::new(),
            messages: Messages::default(),
            index: Some(Index::new(geometry, scenario.random, scenario.mode)),
            dice: Dice(scenario.random),
            wasted: 0,
            received: 0,
            received_near: 0,
            unfinished: scenario.peers.iter().filter(|peer| stays(peer)).count(),
            plans: (0, 0, Duration::ZERO),
        }
    }

    pub(super) fn run(mut self) -> Outcome {
        for (node, spec) in self.scenario.peers.iter().enumerate() {
            self.events.at(spec.joins.as_micros() as Micros, Event::Join(node as NodeId));
            if let Some(breaks) = spec.breaks {
                self.events.at(breaks.as_micros() as Micros, Event::Break(node as NodeId));
            }
        }
        if let Some(dies) = self.scenario.planner_dies {
            self.events.at(dies.as_micros() as Micros, Event::PlannerDies);
        }
        while self.unfinished > 0
            && let Some((time, event)) = self.events.next()
            && time < END
        {
            self.now = time;
            self.handle(event);
        }
        self.outcome()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Join(node) => self.on_join(node),
            Event::Break(node) => self.on_break(node),
            Event::Leave(node) => self.leave(node),
            Event::Leaving(node) => self.say_leaving(node),
            Event::Notice(node) => self.on_notice(node),
            Event::Asked { flow, request } => self.on_asked(flow, request),
            Event::SheetAsked { flow, request, sheet } => self.on_sheet_asked(flow, request, sheet),
            Event::Cancelled { flow, request } => self.on_cancelled(flow, request),
            Event::Patience { flow, request } => self.on_patience(flow, request),
            Event::Queued { flow, request } => self.on_queued(flow, request),
            Event::QueueNews { flow, request } => self.on_queue_news(flow, request),
            Event::Sent(node) => self.on_sent(node),
            Event::Delivered { flow, item } => self.on_delivered(flow, item),
            Event::Connected(flow) => self.on_connected(flow),
            Event::HeldAsked(flow) => self.on_held_asked(flow),
            Event::Report(node) => self.on_report(node),
            Event::Look(node) => self.on_look(node),
            Event::Answered(node) => self.on_answered(node),
            Event::Due(node) => self.on_due(node),
            Event::Message(number) => self.on_message(number),
            Event::PlannerDue => self.on_planner_due(),
            Event::PlannerDies => self.retire_index(),
        }
    }

    fn on_join(&mut self, node: NodeId) {
        let (now, seed) = (self.now, self.scenario.peers[node as usize].seed);
        let joiner = &mut self.nodes[node as usize];
        joiner.here = true;
        joiner.joined = now;
        let have = joiner.pieces.clone();
        self.tell_index(Message::Joined { peer: node, have });
        if seed {
            return;
        }
        if self.machines {
            return self.begin_fetch(node);
        }
        let report_us = self.scenario.report.as_micros() as u64;
        let first_report = now + report_us / 2 + self.dice.below(report_us);
        let joiner = &mut self.nodes[node as usize];
        joiner.offers = true;
        joiner.reports.due = first_report;
        joiner.sink = Sink::Simple(Simple::default());
        self.events.at(first_report, Event::Report(node));
    }

    /// A plan arrived: it replaces the one before.
    pub(super) fn on_plan(&mut self, sink: NodeId, strangers: &[(NodeId, bool)], sources: Sources, lease: Duration) {
        match &self.nodes[sink as usize].sink {
            _ if !self.nodes[sink as usize].here => {}
            Sink::Machine(_) => self.fetch_by_plan(sink, strangers, sources, lease),
            Sink::Simple(_) => self.follow_plan(sink, sources),
            Sink::None => {}
        }
    }

    fn on_delivered(&mut self, flow: FlowId, item: Item) {
        let link = &mut self.flows[flow as usize];
        let (source, sink) = (link.source, link.sink);
        if !matches!(item, Item::End { .. }) {
            link.under_way -= 1;
            self.take_turn(flow);
            self.serve(source);
        }
        if !self.nodes[sink as usize].here || self.flows[flow as usize].closed {
            return;
        }
        match (&self.nodes[sink as usize].sink, item) {
            (Sink::Machine(_), item) => self.fetch_delivered(flow, item),
            (Sink::Simple(_), Item::Unit { unit, .. }) => self.simple_delivered(flow, unit),
            (Sink::None, Item::Unit { .. }) => self.wasted += 1,
            (Sink::Simple(_) | Sink::None, Item::Sheet { .. } | Item::End { .. }) => {}
        }
    }

    fn on_break(&mut self, node: NodeId) {
        let broken = &mut self.nodes[node as usize];
        if broken.here {
            broken.here = false;
            self.events.at(self.now + self.scenario.notice.as_micros() as Micros, Event::Notice(node));
        }
    }

    /// Everybody sees that a peer is gone: connections end.
    fn on_notice(&mut self, node: NodeId) {
        self.nodes[node as usize].gone = true;
        for flow in self.nodes[node as usize].flows_out.clone() {
            self.close_flow(flow);
            let sink = self.flows[flow as usize].sink;
            match &self.nodes[sink as usize].sink {
                _ if !self.nodes[sink as usize].here => {}
                Sink::Machine(_) => self.fetch_lost(flow),
                Sink::Simple(_) => self.simple_lost(flow),
                Sink::None => {}
            }
        }
        let flows: Vec<_> = self.nodes[node as usize].flows_in.values().copied().collect();
        for flow in flows {
            self.close_flow(flow);
        }
        self.nodes[node as usize].sink = Sink::None;
        self.tell_index(Message::Gone { peer: node });
    }

    /// Leaves in good order, and everybody sees it at once.
    fn leave(&mut self, node: NodeId) {
        if std::mem::replace(&mut self.nodes[node as usize].here, false) {
            self.on_notice(node);
        }
    }

    pub(super) fn leave_if_spent(&mut self, node: NodeId) {
        let (sent, size) = (self.nodes[node as usize].sent_bytes, self.geometry.size());
        if self.scenario.peers[node as usize].leaves_after.is_some_and(|part| sent * 100 >= size * u64::from(part)) {
            self.leave(node);
        }
    }

    /// Who leaves half-way says so, and goes a few seconds later.
    pub(super) fn leave_if_full_enough(&mut self, node: NodeId) {
        let (count, pieces) = (self.nodes[node as usize].pieces.count(), self.nodes[node as usize].pieces.pieces());
        let leaves = self.scenario.peers[node as usize].leaves_at.is_some_and(|part| count * 100 >= pieces * part);
        if leaves && !std::mem::replace(&mut self.nodes[node as usize].leaving, true) {
            self.events.at(self.now + LEAVE_US, Event::Leave(node));
            self.say_leaving(node);
        }
    }

    fn say_leaving(&mut self, node: NodeId) {
        if self.nodes[node as usize].here {
            self.tell_index(Message::Leaving { peer: node });
            self.events.at(self.now + LEAVING_AGAIN_US, Event::Leaving(node));
        }
    }

    fn retire_index(&mut self) {
        if let Some(index) = self.index.take() {
            self.plans = (index.plans, index.assigned(), index.spent);
        }
    }

    fn outcome(mut self) -> Outcome {
        self.retire_index();
        let staying = self.scenario.peers.iter().zip(&self.nodes).filter(|(spec, _)| stays(spec));
        let mut finished = Vec::new();
        let mut took = Vec::new();
        for (_, node) in staying {
            if let Some(end) = node.finished {
                finished.push(Duration::from_micros(end));
                took.push(Duration::from_micros(end - node.joined));
            }
        }
        finished.sort_unstable();
        took.sort_unstable();
        let partners = |node: &Node| {
            let mut others: Vec<NodeId> = node.flows_in.keys().copied().collect();
            others.extend(node.flows_out.iter().map(|flow| self.flows[*flow as usize].sink));
            others.sort_unstable();
            others.dedup();
            others.len()
        };
        Outcome {
            finished,
            took,
            unfinished: self.unfinished,
            seed_bytes: self.nodes.first().map_or(0, |seed| seed.sent_bytes),
            seed_outline: self.nodes.first().map_or(0, |seed| seed.sent_outline),
            wasted_bytes: self.wasted * self.unit_bytes,
            near_share: self.received_near as f64 / self.received.max(1) as f64,
            size: self.geometry.size(),
            plans: self.plans.0,
            assigned: self.plans.1,
            partners: self.nodes.iter().map(partners).max().unwrap_or(0),
            events: self.events.count(),
            planner_time: Spent(self.plans.2),
        }
    }
}

/// Whether a peer is to have everything in the end.
pub(super) fn stays(peer: &super::PeerSpec) -> bool {
    !peer.seed && peer.breaks.is_none() && peer.leaves_at.is_none()
}

/// The geometry of a blob of this size, made up to whole pieces.
fn whole_pieces(size: u64) -> BlobGeometry {
    let geometry = BlobGeometry::new(size.max(1)).expect("a size that a blob can have");
    BlobGeometry::new(u64::from(geometry.pieces()) * geometry.piece_leaves() * LEAF_BYTES).expect("a little more")
}
