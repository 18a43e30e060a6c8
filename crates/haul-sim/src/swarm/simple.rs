//! Sinks that do what their plans say and nothing else: for swarms that are too large for the machine of haul-core.

use std::collections::{BTreeMap, VecDeque};

use haul_core::planner::PieceRange;

use super::events::{Event, Micros, NodeId};
use super::index::Sources;
use super::link::{Ask, FlowId};
use super::world::World;

/// Leaves that may be asked for on one connection.
const LEAVES_OPEN: u64 = 64;
/// Least time between two reports that are sent early.
const EARLY: Micros = 100_000;

/// What a sink wants.
#[derive(Debug, Default)]
pub(super) struct Simple {
    /// Pieces asked for, with their requests.
    asked: BTreeMap<u32, Vec<(FlowId, u64)>>,
    /// Planned and not asked for yet.
    to_ask: BTreeMap<FlowId, VecDeque<u32>>,
    banned: Vec<NodeId>,
    requests: u64,
}

impl Simple {
    fn open_on(&self, flow: FlowId) -> usize {
        self.asked.values().flatten().filter(|(other, _)| *other == flow).count()
    }

    fn has_asked(&self, flow: FlowId, piece: u32) -> bool {
        self.asked.get(&piece).is_some_and(|requests| requests.iter().any(|(other, _)| *other == flow))
    }
}

impl World<'_> {
    /// A plan replaces the one before.
    pub(super) fn follow_plan(&mut self, sink: NodeId, sources: Sources) {
        let mut planned: BTreeMap<FlowId, VecDeque<u32>> = BTreeMap::new();
        for (source, runs) in sources {
            let banned = self.nodes[sink as usize].simple().is_none_or(|simple| simple.banned.contains(&source));
            if !banned && !self.nodes[source as usize].gone {
                let flow = self.flow(source, sink);
                planned.entry(flow).or_default().extend(runs.into_iter().flat_map(PieceRange::pieces));
            }
        }
        let named = |flow: &FlowId, piece: &u32| planned.get(flow).is_some_and(|pieces| pieces.contains(piece));
        let Some(simple) = self.nodes[sink as usize].simple() else { return };
        let mut dropped = Vec::new();
        simple.asked.retain(|piece, requests| {
            dropped.extend(requests.iter().filter(|(flow, _)| !named(flow, piece)));
            requests.retain(|(flow, _)| named(flow, piece));
            !requests.is_empty()
        });
        let flows: Vec<FlowId> = planned.keys().copied().collect();
        simple.to_ask = planned;
        for (flow, request) in dropped {
            self.cancel(flow, request);
        }
        for flow in flows {
            self.ask_more(sink, flow);
        }
    }

    /// Asks for planned pieces as long as the connection may have more of them open.
    fn ask_more(&mut self, sink: NodeId, flow: FlowId) {
        let most = (LEAVES_OPEN / self.geometry.piece_leaves()).max(1) as usize;
        while let Some(simple) = self.nodes[sink as usize].simple()
            && simple.open_on(flow) < most
            && let Some(piece) = simple.to_ask.get_mut(&flow).and_then(VecDeque::pop_front)
        {
            if simple.has_asked(flow, piece) {
                continue;
            }
            let request = simple.requests;
            let node = &mut self.nodes[sink as usize];
            let first = piece * self.per_piece;
            let lacking = (first..first + self.per_piece).filter(|unit| !node.held.contains((*unit).into()));
            let units: Vec<_> = lacking.map(|unit| unit..unit + 1).collect();
            let Some(simple) = node.simple().filter(|_| !units.is_empty()) else { continue };
            simple.requests += 1;
            simple.asked.entry(piece).or_default().push((flow, request));
            self.ask(flow, request, Ask { units, wait: true });
        }
    }

    /// Something arrived.
    pub(super) fn simple_delivered(&mut self, flow: FlowId, unit: u32) {
        let (source, sink) = (self.flows[flow as usize].source, self.flows[flow as usize].sink);
        if self.scenario.peers[source as usize].lies {
            self.wasted += 1;
            return self.ban(flow);
        }
        self.note_received(sink, source);
        if self.nodes[sink as usize].held.contains(unit.into()) {
            self.wasted += 1;
        } else if self.gain(sink, unit) {
            self.piece_is_there(sink, unit / self.per_piece, flow);
        }
    }

    fn piece_is_there(&mut self, sink: NodeId, piece: u32, by: FlowId) {
        let Some(simple) = self.nodes[sink as usize].simple() else { return };
        let requests = simple.asked.remove(&piece).unwrap_or_default();
        for (flow, request) in requests.into_iter().filter(|(flow, _)| *flow != by) {
            self.cancel(flow, request);
        }
        if self.nodes[sink as usize].pieces.is_full() {
            return self.finish(sink);
        }
        self.ask_more(sink, by);
        let told = self.nodes[sink as usize].reports.told;
        let short = self.nodes[sink as usize].simple().is_some_and(|simple| simple.asked.len() <= 2);
        if short && self.now >= told + EARLY {
            self.report_in_time(sink);
        }
    }

    /// A source sent something wrong: never again.
    fn ban(&mut self, flow: FlowId) {
        let (source, sink) = (self.flows[flow as usize].source, self.flows[flow as usize].sink);
        if let Some(simple) = self.nodes[sink as usize].simple() {
            simple.banned.push(source);
        }
        self.simple_lost(flow);
        self.close_flow(flow);
    }

    /// A connection is over: what was asked on it is not coming.
    pub(super) fn simple_lost(&mut self, flow: FlowId) {
        let (source, sink) = (self.flows[flow as usize].source, self.flows[flow as usize].sink);
        let Some(simple) = self.nodes[sink as usize].simple() else { return };
        simple.to_ask.remove(&flow);
        let before = simple.open_on(flow);
        simple.asked.retain(|_, requests| {
            requests.retain(|(other, _)| *other != flow);
            !requests.is_empty()
        });
        if before > 0 {
            self.nodes[sink as usize].reports.failed.insert(source);
            self.report(sink, true);
        }
    }

    /// A report is due, unless one was sent early.
    pub(super) fn on_report(&mut self, sink: NodeId) {
        let node = &mut self.nodes[sink as usize];
        if !node.here || node.simple().is_none() {
            return;
        }
        if self.now >= node.reports.due {
            self.report_in_time(sink);
        }
        self.events.at(self.nodes[sink as usize].reports.due, Event::Report(sink));
    }

    fn report_in_time(&mut self, sink: NodeId) {
        let pause = self.scenario.report.as_micros() as Micros;
        let reports = &mut self.nodes[sink as usize].reports;
        (reports.due, reports.told) = (self.now + pause, self.now);
        self.report(sink, true);
    }
}
