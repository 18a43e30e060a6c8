//! The simulated world: all peers and connections, and the loop that handles one event after the other.

use core::time::Duration;

use haul_core::blob::BlobGeometry;
use haul_core::limits::{LEAF_BYTES, SWARM_NEIGHBOURS};

use super::events::{Event, Events, Micros, NodeId};
use super::index::{Index, Message, Messages};
use super::node::{Flow, Node};
use super::pick::{Any, Dice, Picker, Rarest};
use super::{Mode, Outcome, Scenario, Spent};

/// Peers that the index names to a newcomer for the time when it acts alone.
const NAMED: usize = 16;
/// After this long in virtual time a run is given up.
const END: Micros = 3600 * 1_000_000;
/// From a peer's saying that it leaves to its going.
const LEAVE_US: Micros = 3_000_000;
/// It says so again and again, as a real peer does.
const LEAVING_AGAIN_US: Micros = 250_000;

pub(super) struct World<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) piece_leaves: u64,
    /// Quanta of a piece.
    pub(super) per_piece: u32,
    pub(super) quantum_bytes: u64,
    pub(super) latency: Micros,
    pub(super) control: Micros,
    pub(super) now: Micros,
    pub(super) events: Events,
    pub(super) nodes: Vec<Node>,
    pub(super) flows: Vec<Flow>,
    pub(super) messages: Messages,
    /// None when nobody plans, or not any more.
    pub(super) index: Option<Index>,
    pub(super) planned: bool,
    pub(super) picker: Box<dyn Picker>,
    pub(super) dice: Dice,
    /// Quanta that were no use.
    pub(super) wasted: u64,
    /// Peers that are to finish and have not.
    pub(super) unfinished: usize,
    plans: (u64, u64, Duration),
    here: Vec<NodeId>,
}

impl<'a> World<'a> {
    pub(super) fn new(scenario: &'a Scenario) -> Self {
        let geometry = BlobGeometry::new(scenario.size).expect("a size that a blob can have");
        let quantum = scenario.quantum.clamp(1, geometry.piece_leaves());
        let (pieces, per_piece) = (geometry.pieces(), (geometry.piece_leaves() / quantum) as u32);
        let quantum_bytes = quantum * LEAF_BYTES;
        let time = |rate: u64| (quantum_bytes * 1_000_000 / rate.max(1)).max(1);
        let node = |spec: &super::PeerSpec| Node::new(spec.seed, pieces, per_piece, time(spec.up), time(spec.down));
        let planned = scenario.mode == Mode::Planned;
        let picker: Box<dyn Picker> = if scenario.mode == Mode::Random { Box::new(Any) } else { Box::new(Rarest) };
        Self {
            scenario,
            piece_leaves: geometry.piece_leaves(),
            per_piece,
            quantum_bytes,
            latency: scenario.latency.as_micros() as Micros,
            control: scenario.control.as_micros() as Micros,
            now: 0,
            events: Events::default(),
            nodes: scenario.peers.iter().map(node).collect(),
            flows: Vec::new(),
            messages: Messages::default(),
            index: planned.then(|| Index::new(geometry, scenario.random)),
            planned,
            picker,
            dice: Dice(scenario.random),
            wasted: 0,
            unfinished: scenario.peers.iter().filter(|peer| stays(peer)).count(),
            plans: (0, 0, Duration::ZERO),
            here: Vec::new(),
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
            Event::Asked { flow, piece } => self.on_asked(flow, piece),
            Event::Cancelled { flow, piece } => self.on_cancelled(flow, piece),
            Event::Sent(node) => self.on_sent(node),
            Event::Delivered { flow, quantum } => self.on_delivered(flow, quantum),
            Event::Report(node) => self.on_report(node),
            Event::Poll(node) => self.on_poll(node),
            Event::Message(number) => self.on_message(number),
            Event::PlannerDue => self.on_planner_due(),
            Event::PlannerDies => self.retire_index(),
        }
    }

    fn on_join(&mut self, node: NodeId) {
        for _ in 0..4 * NAMED {
            if self.nodes[node as usize].neighbours.len() >= NAMED.min(self.here.len()) || self.here.is_empty() {
                break;
            }
            let other = self.here[self.dice.below(self.here.len() as u64) as usize];
            let full = self.nodes[other as usize].neighbours.len() >= SWARM_NEIGHBOURS;
            if !full && !self.nodes[node as usize].neighbours.contains(&other) {
                self.nodes[node as usize].neighbours.push(other);
                self.nodes[other as usize].neighbours.push(node);
            }
        }
        self.here.push(node);
        let report_us = self.scenario.report.as_micros() as u64;
        let first_report = self.now + report_us / 2 + self.dice.below(report_us);
        let joiner = &mut self.nodes[node as usize];
        joiner.here = true;
        joiner.joined = self.now;
        joiner.report_due = first_report;
        // Without a plan by then it acts alone.
        joiner.lease = self.now + 5_000_000;
        let have = joiner.pieces.clone();
        let lease = joiner.lease;
        self.tell_index(Message::Joined { peer: node, have });
        self.events.at(first_report, Event::Report(node));
        self.events.at(if self.planned { lease } else { self.now + 2 * self.control }, Event::Poll(node));
    }

    fn on_break(&mut self, node: NodeId) {
        let broken = &mut self.nodes[node as usize];
        if broken.here {
            broken.here = false;
            self.events.at(self.now + self.scenario.notice.as_micros() as Micros, Event::Notice(node));
        }
    }

    /// Everybody sees that a peer is gone: connections end, and sinks tell the index that it failed them.
    fn on_notice(&mut self, node: NodeId) {
        for flow in self.nodes[node as usize].flows_out.clone() {
            let sink = self.flows[flow as usize].sink;
            let asked = !self.flows[flow as usize].asked.is_empty();
            self.drop_flow(flow);
            if asked && self.nodes[sink as usize].here {
                self.tell_index(Message::Failed { sink, source: node });
            }
        }
        let flows: Vec<_> = self.nodes[node as usize].flows_in.values().copied().collect();
        for flow in flows {
            self.drop_flow(flow);
        }
        self.here.retain(|other| *other != node);
        self.tell_index(Message::Gone { peer: node });
    }

    /// Leaves in good order, and everybody sees it at once.
    fn leave(&mut self, node: NodeId) {
        self.nodes[node as usize].here = false;
        self.on_notice(node);
    }

    pub(super) fn leave_if_spent(&mut self, node: NodeId) {
        let sent = self.nodes[node as usize].sent_quanta * self.quantum_bytes;
        let size =
            u64::from(self.nodes[node as usize].pieces.pieces()) * u64::from(self.per_piece) * self.quantum_bytes;
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
            seed_bytes: self.nodes.first().map_or(0, |seed| seed.sent_quanta) * self.quantum_bytes,
            wasted_bytes: self.wasted * self.quantum_bytes,
            size: self.nodes.first().map_or(0, |seed| u64::from(seed.quanta.pieces())) * self.quantum_bytes,
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
