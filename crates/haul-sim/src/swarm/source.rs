//! The serving side: requests wait for quanta that the source has not got yet, and the uplink serves them in turn.

use super::events::{Event, FlowId, NodeId};
use super::world::World;

impl World<'_> {
    /// A request arrived: what is there can be sent, for the rest the flow waits.
    pub(super) fn on_asked(&mut self, flow: FlowId, piece: u32) {
        let link = &mut self.flows[flow as usize];
        if link.closed || link.wanted.contains(&piece) {
            return;
        }
        link.wanted.push(piece);
        let source = link.source;
        let (holder, sink) = (&self.nodes[source as usize], &self.nodes[self.flows[flow as usize].sink as usize]);
        let first = piece * self.per_piece;
        for quantum in first..first + self.per_piece {
            if holder.quanta.contains(quantum) && !sink.quanta.contains(quantum) {
                self.flows[flow as usize].ready.push_back(quantum);
            }
        }
        if holder.left[piece as usize] > 0 {
            self.nodes[source as usize].waiters.entry(piece).or_default().push(flow);
        }
        self.take_turn(flow);
        self.serve(source);
    }

    pub(super) fn on_cancelled(&mut self, flow: FlowId, piece: u32) {
        let link = &mut self.flows[flow as usize];
        link.wanted.retain(|wanted| *wanted != piece);
        let per_piece = self.per_piece;
        link.ready.retain(|quantum| quantum / per_piece != piece);
        let source = link.source;
        if let Some(waiters) = self.nodes[source as usize].waiters.get_mut(&piece) {
            waiters.retain(|waiter| *waiter != flow);
        }
    }

    /// An uplink is through with a quantum.
    pub(super) fn on_sent(&mut self, node: NodeId) {
        let Some((flow, quantum)) = self.nodes[node as usize].sending.take() else { return };
        self.nodes[node as usize].sent_quanta += 1;
        let link = &self.flows[flow as usize];
        let sink = &mut self.nodes[link.sink as usize];
        // The downlink takes what arrives in order; windows keep what waits for it short.
        let arrival = self.now + self.latency;
        sink.down_free = sink.down_free.max(arrival) + sink.down_us;
        let delivered = sink.down_free;
        self.events.at(delivered, Event::Delivered { flow, quantum });
        self.take_turn(flow);
        self.leave_if_spent(node);
        self.serve(node);
    }

    /// A flow with something to send and room in its window joins the queue of its source's uplink.
    pub(super) fn take_turn(&mut self, flow: FlowId) {
        let link = &mut self.flows[flow as usize];
        if !link.closed && !link.in_turn && !link.ready.is_empty() && link.under_way < link.window {
            link.in_turn = true;
            self.nodes[link.source as usize].turn.push_back(flow);
        }
    }

    /// Sends the next quantum if the uplink is free.
    pub(super) fn serve(&mut self, node: NodeId) {
        if self.nodes[node as usize].sending.is_some() || !self.nodes[node as usize].here {
            return;
        }
        while let Some(flow) = self.nodes[node as usize].turn.pop_front() {
            self.flows[flow as usize].in_turn = false;
            if let Some(quantum) = self.next_ready(flow) {
                self.flows[flow as usize].under_way += 1;
                let sender = &mut self.nodes[node as usize];
                sender.sending = Some((flow, quantum));
                self.events.at(self.now + sender.up_us, Event::Sent(node));
                return;
            }
        }
    }

    /// The next quantum of a flow that its sink still lacks.
    fn next_ready(&mut self, flow: FlowId) -> Option<u32> {
        let link = &mut self.flows[flow as usize];
        if link.closed {
            return None;
        }
        let sink = &self.nodes[link.sink as usize];
        while let Some(quantum) = link.ready.pop_front() {
            if !sink.quanta.contains(quantum) {
                return Some(quantum);
            }
        }
        None
    }

    /// A source got a quantum: flows that wait for it can have it.
    pub(super) fn wake_waiters(&mut self, node: NodeId, quantum: u32) {
        let piece = quantum / self.per_piece;
        let holder = &mut self.nodes[node as usize];
        let Some(waiters) = holder.waiters.remove(&piece) else { return };
        let complete = holder.left[piece as usize] == 0;
        for flow in &waiters {
            self.flows[*flow as usize].ready.push_back(quantum);
            self.take_turn(*flow);
        }
        if !complete {
            self.nodes[node as usize].waiters.insert(piece, waiters);
        }
        self.serve(node);
    }
}
