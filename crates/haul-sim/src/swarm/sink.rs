//! The fetching side: following a plan, or acting alone; taking what arrives; reporting.

use haul_core::planner::Runs;

use super::events::{Event, FlowId, NodeId};
use super::index::Message;
use super::node::Flow;
use super::pick::View;
use super::world::{World, stays};

/// Leaves that may wait at a source on one connection.
const LEAVES_WAITING: u64 = 64;
/// Pieces asked of one neighbour at a time by a peer that acts alone: the next is there before the first ends.
const ALONE_PIECES: usize = 2;
/// How often a peer that acts alone looks for what others have gained.
const ALONE_POLL_US: u64 = 100_000;
/// Round trips until a connection stands: TCP, TLS, the grant.
const SETUP_ROUND_TRIPS: u64 = 3;
/// Least time between two reports that are sent early.
const REPORT_PAUSE_US: u64 = 100_000;

impl World<'_> {
    /// The connection from a source, set up if there is none.
    pub(super) fn flow(&mut self, source: NodeId, sink: NodeId) -> FlowId {
        if let Some(flow) = self.nodes[sink as usize].flows_in.get(&source) {
            return *flow;
        }
        let flow = self.flows.len() as FlowId;
        // Twice the bandwidth-delay product and some more, as a window is that does not limit.
        let up_us = self.nodes[source as usize].up_us.max(1);
        let window = (4 * self.latency / up_us) as u32 + 4;
        self.flows.push(Flow {
            source,
            sink,
            closed: false,
            open_from: self.now + SETUP_ROUND_TRIPS * 2 * self.latency,
            wanted: Vec::new(),
            ready: std::collections::VecDeque::new(),
            in_turn: false,
            under_way: 0,
            window,
            to_ask: std::collections::VecDeque::new(),
            asked: Vec::new(),
            received: 0,
        });
        self.nodes[sink as usize].flows_in.insert(source, flow);
        self.nodes[source as usize].flows_out.push(flow);
        flow
    }

    /// A plan arrived: it replaces the one before.
    pub(super) fn on_plan(&mut self, sink: NodeId, sources: Vec<(NodeId, Vec<u32>)>, lease_us: u64) {
        if !self.nodes[sink as usize].here {
            return;
        }
        self.nodes[sink as usize].lease = self.now + lease_us;
        self.nodes[sink as usize].alone = false;
        self.events.at(self.now + lease_us, Event::Poll(sink));
        for flow in self.nodes[sink as usize].flows_in.values() {
            self.flows[*flow as usize].to_ask.clear();
        }
        let mut planned: Vec<(u32, FlowId)> = Vec::new();
        for (source, pieces) in sources {
            if self.nodes[sink as usize].banned.contains(&source) {
                continue;
            }
            let flow = self.flow(source, sink);
            planned.extend(pieces.iter().map(|piece| (*piece, flow)));
            let node = &self.nodes[sink as usize];
            let lacking = pieces.into_iter().filter(|piece| {
                let asked = node.asked.get(piece).is_some_and(|flows| flows.contains(&flow));
                !node.pieces.contains(*piece) && !asked
            });
            self.flows[flow as usize].to_ask = lacking.collect();
        }
        planned.sort_unstable();
        let asked: Vec<(u32, FlowId)> = self.nodes[sink as usize]
            .asked
            .iter()
            .flat_map(|(piece, flows)| flows.iter().map(|flow| (*piece, *flow)))
            .filter(|pair| planned.binary_search(pair).is_err())
            .collect();
        for (piece, flow) in asked {
            self.withdraw(flow, piece);
        }
        let flows: Vec<FlowId> = self.nodes[sink as usize].flows_in.values().copied().collect();
        for flow in flows {
            self.ask_more(flow);
        }
    }

    /// Asks for planned pieces as long as the connection may have more of them waiting.
    fn ask_more(&mut self, flow: FlowId) {
        let most = (LEAVES_WAITING / self.piece_leaves).max(1) as usize;
        while self.flows[flow as usize].asked.len() < most
            && let Some(piece) = self.flows[flow as usize].to_ask.pop_front()
        {
            if !self.nodes[self.flows[flow as usize].sink as usize].pieces.contains(piece) {
                self.ask(flow, piece);
            }
        }
    }

    fn ask(&mut self, flow: FlowId, piece: u32) {
        let link = &mut self.flows[flow as usize];
        if link.closed {
            return;
        }
        link.asked.push(piece);
        self.nodes[link.sink as usize].asked.entry(piece).or_default().push(flow);
        let arrives = self.now.max(link.open_from) + self.latency;
        self.events.at(arrives, Event::Asked { flow, piece });
    }

    /// Takes a request back.
    pub(super) fn withdraw(&mut self, flow: FlowId, piece: u32) {
        self.forget(flow, piece);
        self.events
            .at(self.now.max(self.flows[flow as usize].open_from) + self.latency, Event::Cancelled { flow, piece });
    }

    fn forget(&mut self, flow: FlowId, piece: u32) {
        let link = &mut self.flows[flow as usize];
        link.asked.retain(|asked| *asked != piece);
        let node = &mut self.nodes[link.sink as usize];
        if let Some(flows) = node.asked.get_mut(&piece) {
            flows.retain(|other| *other != flow);
            if flows.is_empty() {
                node.asked.remove(&piece);
            }
        }
    }

    /// Something arrived.
    pub(super) fn on_delivered(&mut self, flow: FlowId, quantum: u32) {
        let link = &mut self.flows[flow as usize];
        link.under_way -= 1;
        let (source, sink) = (link.source, link.sink);
        self.take_turn(flow);
        self.serve(source);
        if !self.nodes[sink as usize].here || self.flows[flow as usize].closed {
            return;
        }
        if self.scenario.peers[source as usize].lies {
            self.wasted += 1;
            self.ban(flow);
            return;
        }
        self.flows[flow as usize].received += 1;
        let node = &mut self.nodes[sink as usize];
        if !node.quanta.insert(quantum) {
            self.wasted += 1;
            return;
        }
        let piece = quantum / self.per_piece;
        node.left[piece as usize] -= 1;
        let complete = node.left[piece as usize] == 0;
        self.wake_waiters(sink, quantum);
        if complete {
            self.on_piece(sink, piece, flow);
        }
    }

    fn on_piece(&mut self, sink: NodeId, piece: u32, by: FlowId) {
        let node = &mut self.nodes[sink as usize];
        node.pieces.insert(piece);
        node.gained.insert(piece);
        for flow in node.asked.get(&piece).cloned().unwrap_or_default() {
            if flow == by {
                self.forget(flow, piece);
                self.flows[flow as usize].wanted.retain(|wanted| *wanted != piece);
            } else {
                self.withdraw(flow, piece);
            }
        }
        let node = &mut self.nodes[sink as usize];
        if node.pieces.is_full() {
            node.finished = Some(self.now);
            self.unfinished -= usize::from(stays(&self.scenario.peers[sink as usize]));
            self.report(sink);
        }
        self.leave_if_full_enough(sink);
        if self.follows_plan(sink) {
            self.ask_more(by);
            let node = &self.nodes[sink as usize];
            let short = node.asked.len() <= 2 && !node.pieces.is_full();
            if short && self.now >= node.reported + REPORT_PAUSE_US {
                self.report(sink);
            }
        } else {
            self.act_alone(sink);
        }
    }

    fn follows_plan(&self, sink: NodeId) -> bool {
        self.planned && self.now < self.nodes[sink as usize].lease
    }

    /// Looks whether the plan still holds; acts alone if not.
    pub(super) fn on_poll(&mut self, sink: NodeId) {
        let node = &self.nodes[sink as usize];
        if !node.here || node.pieces.is_full() || self.now < node.poll_due || self.follows_plan(sink) {
            return;
        }
        if !std::mem::replace(&mut self.nodes[sink as usize].alone, true) {
            self.drop_plan(sink);
        }
        self.act_alone(sink);
        self.nodes[sink as usize].poll_due = self.now + ALONE_POLL_US;
        self.events.at(self.now + ALONE_POLL_US, Event::Poll(sink));
    }

    /// The plan has lapsed: what was planned and is not asked for yet is forgotten, and nobody waits for pieces that a
    /// source was to get by the same plan.
    fn drop_plan(&mut self, sink: NodeId) {
        let flows: Vec<FlowId> = self.nodes[sink as usize].flows_in.values().copied().collect();
        for flow in flows {
            let link = &mut self.flows[flow as usize];
            link.to_ask.clear();
            let source = &self.nodes[link.source as usize];
            let waiting: Vec<u32> =
                link.asked.iter().copied().filter(|piece| !source.pieces.contains(*piece)).collect();
            for piece in waiting {
                self.withdraw(flow, piece);
            }
        }
    }

    /// Asks each neighbour for something that it holds.
    fn act_alone(&mut self, sink: NodeId) {
        for at in 0..self.nodes[sink as usize].neighbours.len() {
            let source = self.nodes[sink as usize].neighbours[at];
            if !self.nodes[source as usize].here || self.nodes[sink as usize].banned.contains(&source) {
                continue;
            }
            let open = self.nodes[sink as usize].flows_in.get(&source).copied();
            let mut room = ALONE_PIECES.saturating_sub(open.map_or(0, |flow| self.flows[flow as usize].asked.len()));
            while room > 0 {
                let view = View { nodes: &self.nodes, flows: &self.flows, sink, source };
                let Some(piece) = self.picker.pick(&view, &mut self.dice) else { break };
                let flow = self.flow(source, sink);
                if self.flows[flow as usize].asked.contains(&piece) {
                    break;
                }
                self.ask(flow, piece);
                room -= 1;
            }
        }
    }

    /// A source sent something wrong: never again.
    fn ban(&mut self, flow: FlowId) {
        let (source, sink) = (self.flows[flow as usize].source, self.flows[flow as usize].sink);
        self.nodes[sink as usize].banned.push(source);
        self.drop_flow(flow);
        self.tell_index(Message::Failed { sink, source });
    }

    /// A connection is over: what was asked on it is not coming.
    pub(super) fn drop_flow(&mut self, flow: FlowId) {
        let link = &mut self.flows[flow as usize];
        link.closed = true;
        link.to_ask.clear();
        link.ready.clear();
        for piece in link.asked.clone() {
            self.forget(flow, piece);
        }
        let link = &self.flows[flow as usize];
        self.nodes[link.sink as usize].flows_in.remove(&link.source);
        self.nodes[link.source as usize].flows_out.retain(|other| *other != flow);
    }

    /// A report is due, unless one was sent early.
    pub(super) fn on_report(&mut self, sink: NodeId) {
        let node = &self.nodes[sink as usize];
        if !node.here || node.pieces.is_full() {
            return;
        }
        if self.now < node.report_due {
            self.events.at(node.report_due, Event::Report(sink));
            return;
        }
        self.report(sink);
        self.events.at(self.nodes[sink as usize].report_due, Event::Report(sink));
    }

    /// Reports to the index what was gained and received since the last report.
    fn report(&mut self, sink: NodeId) {
        let report_us = self.scenario.report.as_micros() as u64;
        let node = &mut self.nodes[sink as usize];
        node.reported = self.now;
        node.report_due = self.now + report_us;
        if !self.planned {
            node.gained.clear();
            return;
        }
        let mut gained = Runs::default();
        node.gained.retain(|piece| !gained.push(*piece));
        let mut received = Vec::new();
        for (source, flow) in &node.flows_in {
            let quanta = std::mem::take(&mut self.flows[*flow as usize].received);
            if quanta > 0 {
                received.push((*source, u64::from(quanta) * self.quantum_bytes));
            }
        }
        self.tell_index(Message::Have { sink, gained, received });
    }
}
