//! The serving side: requests wait for leaves that the source has not got yet, and the uplink serves connections in turn.

use haul_core::blob::LeafSet;
use haul_core::download::{Have, RequestEnd};
use haul_core::limits::{LEAF_WAIT, SHEET_LEAVES, SLOT_NEWS};
use haul_core::slots::{SlotAction, SlotId};
use haul_core::uplink;

use super::events::{Event, Micros, NodeId};
use super::index::Message;
use super::link::{Ask, Flow, FlowId, Item, Served};
use super::world::World;

/// Round trips until a connection stands: TCP, TLS, the grant.
const SETUP_ROUND_TRIPS: u64 = 3;
/// Bytes of a chaining value.
const VALUE_BYTES: u64 = 32;
/// Bytes of an answer around a set of leaves, with what TLS and TCP add.
const ANSWER_BYTES: u64 = 100;

impl World<'_> {
    /// The connection from a source, set up if there is none.
    pub(super) fn flow(&mut self, source: NodeId, sink: NodeId) -> FlowId {
        if let Some(flow) = self.nodes[sink as usize].flows_in.get(&source) {
            return *flow;
        }
        let flow = self.flows.len() as FlowId;
        // Twice the bandwidth-delay product and some more, as a window is that does not limit.
        let unit_us = self.nodes[source as usize].up_time(self.unit_bytes);
        let window = (4 * self.latency / unit_us) as u32 + 4;
        let open_from = self.now + SETUP_ROUND_TRIPS * 2 * self.latency;
        self.flows.push(Flow::new(source, sink, open_from, window, self.stride(source, sink)));
        self.nodes[sink as usize].flows_in.insert(source, flow);
        self.nodes[source as usize].flows_out.push(flow);
        flow
    }

    /// How much a turn on the uplink counts for a connection: its round trip in microseconds, with what waits in front of both uplinks,
    /// for TCP shares links in inverse proportion to it; a sink with several connections has as many turns for one. Nothing
    /// where nothing waits: all are served in turn.
    fn stride(&self, source: NodeId, sink: NodeId) -> Micros {
        let Some(queue) = self.scenario.queue else { return 0 };
        let waits: Micros = [source, sink].iter().map(|end| self.nodes[*end as usize].up_time(queue)).sum();
        let uplink = self.scenario.peers[sink as usize].up;
        (2 * self.latency + waits) / uplink::connections(Some(uplink)) as Micros
    }

    /// When something that a sink says now is at the source.
    pub(super) fn at_source(&self, flow: FlowId) -> Micros {
        self.now.max(self.flows[flow as usize].open_from) + self.latency
    }

    /// Sends a request for leaves.
    pub(super) fn ask(&mut self, flow: FlowId, request: u64, ask: Ask) {
        self.flows[flow as usize].asks.insert(request, ask);
        self.events.at(self.at_source(flow), Event::Asked { flow, request });
    }

    /// Takes a request back.
    pub(super) fn cancel(&mut self, flow: FlowId, request: u64) {
        self.events.at(self.at_source(flow), Event::Cancelled { flow, request });
    }

    /// A request arrived: what is there can be sent, the rest follows.
    pub(super) fn on_asked(&mut self, flow: FlowId, request: u64) {
        let link = &mut self.flows[flow as usize];
        let Some(ask) = link.asks.remove(&request).filter(|_| !link.closed) else { return };
        let (source, patience) = (link.source, self.now + LEAF_WAIT.as_micros() as Micros);
        let holder = &mut self.nodes[source as usize];
        if !holder.offers {
            link.send_first(Item::End { request, end: RequestEnd::NotHeld });
            return self.send_on(flow);
        }
        let mut served = Served { ready: [].into(), lacking: 0, in_turn: false, patience, slot: None, granted: true };
        for unit in ask.units.into_iter().flatten() {
            if holder.held.contains(unit.into()) {
                served.ready.push_back(unit);
            } else if ask.wait {
                served.lacking += 1;
                holder.waiters.entry(unit).or_default().push((flow, request));
            }
        }
        if self.machines && served.lacking > 0 {
            self.events.at(patience, Event::Patience { flow, request });
        }
        // Who is downloading serves without slots, but all that it has.
        let needs_slot = self.machines && holder.held.is_full();
        link.served.insert(request, served);
        if needs_slot {
            self.wait_for_slot(flow, request);
        } else {
            self.go_on(flow, request);
        }
    }

    fn wait_for_slot(&mut self, flow: FlowId, request: u64) {
        let link = &mut self.flows[flow as usize];
        let (source, sink) = (link.source, link.sink);
        let Some(served) = link.served.get_mut(&request) else { return };
        let holder = &mut self.nodes[source as usize];
        if let Ok(id) = holder.slots.handle_ask(sink) {
            served.slot = Some(id);
            served.granted = false;
            holder.slot_requests.insert(id, (flow, request));
            self.deal_slots(source);
            self.on_queued(flow, request);
        } else {
            self.end_busy(flow, request);
        }
    }

    /// Says again that there is no slot yet.
    pub(super) fn on_queued(&mut self, flow: FlowId, request: u64) {
        let link = &self.flows[flow as usize];
        if link.closed || link.served.get(&request).is_none_or(|served| served.granted) {
            return;
        }
        self.events.at(self.now + self.latency, Event::QueueNews { flow, request });
        self.events.at(self.now + SLOT_NEWS.as_micros() as Micros, Event::Queued { flow, request });
    }

    fn deal_slots(&mut self, node: NodeId) {
        while let Some(action) = self.nodes[node as usize].slots.poll_action() {
            let (SlotAction::Granted(id) | SlotAction::Dropped(id)) = action;
            let Some((flow, request)) = self.nodes[node as usize].slot_requests.get(&id).copied() else { continue };
            if matches!(action, SlotAction::Granted(_)) {
                if let Some(served) = self.flows[flow as usize].served.get_mut(&request) {
                    served.granted = true;
                }
                self.go_on(flow, request);
            } else {
                self.nodes[node as usize].slot_requests.remove(&id);
                self.end_busy(flow, request);
            }
        }
    }

    fn end_busy(&mut self, flow: FlowId, request: u64) {
        let link = &mut self.flows[flow as usize];
        link.served.remove(&request);
        link.send_first(Item::End { request, end: RequestEnd::Busy });
        self.send_on(flow);
    }

    fn give_slot_back(&mut self, node: NodeId, slot: Option<SlotId>) {
        if let Some(id) = slot {
            let holder = &mut self.nodes[node as usize];
            holder.slot_requests.remove(&id);
            holder.slots.handle_done(id);
            self.deal_slots(node);
        }
    }

    /// A sheet is asked for: it is given by whoever has verified something under it.
    pub(super) fn on_sheet_asked(&mut self, flow: FlowId, request: u64, sheet: Option<u64>) {
        let link = &mut self.flows[flow as usize];
        if link.closed {
            return;
        }
        let holder = &self.nodes[link.source as usize];
        let known = |sheet| self.geometry.sheet_leaves(sheet).any(|leaf| holder.held.contains(leaf));
        let item = if holder.held.count() > 0 && sheet.is_none_or(known) {
            let values = sheet.map_or(self.geometry.sheets(), |sheet| {
                let leaves = self.geometry.sheet_leaves(sheet);
                leaves.end - leaves.start
            });
            debug_assert!(values <= SHEET_LEAVES, "a sheet has no more");
            Item::Sheet { request, bytes: (values * VALUE_BYTES) as u32 }
        } else {
            Item::End { request, end: RequestEnd::NotHeld }
        };
        link.send_first(item);
        self.send_on(flow);
    }

    pub(super) fn on_cancelled(&mut self, flow: FlowId, request: u64) {
        let link = &mut self.flows[flow as usize];
        let source = link.source;
        if let Some(served) = link.served.remove(&request) {
            self.give_slot_back(source, served.slot);
        }
    }

    /// What a request waits for has not come for long: it ends without.
    pub(super) fn on_patience(&mut self, flow: FlowId, request: u64) {
        let now = self.now;
        let link = &mut self.flows[flow as usize];
        let Some(served) = link.served.get_mut(&request).filter(|served| served.lacking > 0) else { return };
        if served.patience > now || served.in_turn {
            let again = served.patience.max(now + 1);
            self.events.at(again, Event::Patience { flow, request });
            return;
        }
        link.give_up(request, RequestEnd::Served);
        self.send_on(flow);
    }

    /// A request may go on.
    fn go_on(&mut self, flow: FlowId, request: u64) {
        self.flows[flow as usize].put_in_turn(request);
        self.send_on(flow);
    }

    fn send_on(&mut self, flow: FlowId) {
        self.take_turn(flow);
        self.serve(self.flows[flow as usize].source);
    }

    /// An uplink is through with something.
    pub(super) fn on_sent(&mut self, node: NodeId) {
        let Some((flow, item)) = self.nodes[node as usize].sending.take() else { return };
        let bytes = self.bytes_of(item);
        let sender = &mut self.nodes[node as usize];
        match item {
            Item::Sheet { .. } => sender.sent_outline += bytes,
            Item::Unit { .. } | Item::End { .. } => sender.sent_bytes += bytes,
        }
        let sink = &mut self.nodes[self.flows[flow as usize].sink as usize];
        // The downlink takes what arrives in order; windows keep what waits for it short.
        let arrival = self.now + self.latency;
        sink.down_free = sink.down_free.max(arrival) + sink.down_time(bytes);
        let delivered = sink.down_free;
        self.events.at(delivered, Event::Delivered { flow, item });
        self.take_turn(flow);
        self.leave_if_spent(node);
        self.serve(node);
    }

    fn bytes_of(&self, item: Item) -> u64 {
        match item {
            Item::Unit { .. } => self.unit_bytes,
            Item::Sheet { bytes, .. } => bytes.into(),
            Item::End { .. } => 0,
        }
    }

    /// A connection with something to send and room in its window joins the queue of its source's uplink.
    pub(super) fn take_turn(&mut self, flow: FlowId) {
        let link = &mut self.flows[flow as usize];
        if !link.closed && !link.in_turn && link.under_way < link.window && link.has_output(self.now) {
            link.in_turn = true;
            let holder = &mut self.nodes[link.source as usize];
            holder.turns += 1;
            holder.turn.insert((link.share_from(holder.share), holder.turns, flow));
        }
    }

    /// Sends what is next if the uplink is free.
    pub(super) fn serve(&mut self, node: NodeId) {
        while self.nodes[node as usize].sending.is_none()
            && self.nodes[node as usize].here
            && let Some((share, _, flow)) = self.nodes[node as usize].turn.pop_first()
        {
            self.nodes[node as usize].share = share;
            let link = &mut self.flows[flow as usize];
            link.in_turn = false;
            let Some(item) = link.next_output(self.now).filter(|_| !link.closed) else { continue };
            if let Item::End { request, .. } = item {
                self.send_end(flow, request, item);
                continue;
            }
            // Simple sinks take back at once what they have from elsewhere.
            let sink = &self.nodes[link.sink as usize];
            if let (false, Item::Unit { unit, .. }) = (self.machines, item)
                && sink.held.contains(unit.into())
            {
                self.take_turn(flow);
                continue;
            }
            link.under_way += 1;
            link.had_turn();
            let bytes = self.bytes_of(item);
            let sender = &mut self.nodes[node as usize];
            sender.sending = Some((flow, item));
            let bytes = bytes + std::mem::take(&mut sender.answers);
            let through = self.now + sender.up_time(bytes);
            self.events.at(through, Event::Sent(node));
        }
    }

    /// The end of a request takes no time, and comes behind all that was sent before.
    fn send_end(&mut self, flow: FlowId, request: u64, item: Item) {
        let link = &mut self.flows[flow as usize];
        let (source, sink) = (link.source, link.sink);
        let slot = link.served.remove(&request).and_then(|served| served.slot);
        let arrives = (self.now + self.latency).max(self.nodes[sink as usize].down_free);
        if self.machines {
            self.events.at(arrives, Event::Delivered { flow, item });
        }
        self.give_slot_back(source, slot);
        self.take_turn(flow);
    }

    /// A peer has something new to pass on: requests that wait for it can go on, and who asked what it holds is told.
    pub(super) fn pass_on(&mut self, node: NodeId, unit: u32) {
        if let Some(waiters) = self.nodes[node as usize].waiters.remove(&unit) {
            for (flow, request) in waiters {
                let link = &mut self.flows[flow as usize];
                if let Some(served) = link.served.get_mut(&request) {
                    served.lacking -= 1;
                    served.ready.push_back(unit);
                    link.put_in_turn(request);
                    self.take_turn(flow);
                }
            }
            self.serve(node);
        }
        for flow in std::mem::take(&mut self.nodes[node as usize].followers) {
            self.tell_held(flow);
        }
    }

    /// A sink asks what its source holds. The answer waits until that is more than it knows.
    pub(super) fn on_held_asked(&mut self, flow: FlowId) {
        let link = &self.flows[flow as usize];
        let holder = &mut self.nodes[link.source as usize];
        if link.closed || !holder.here {
            return;
        }
        let waits = holder.offers && link.known_held.is_some_and(|known| holder.held.count() <= known);
        if waits {
            holder.followers.push(flow);
        } else {
            self.tell_held(flow);
        }
    }

    fn tell_held(&mut self, flow: FlowId) {
        let link = &self.flows[flow as usize];
        if link.closed {
            return;
        }
        let holder = &mut self.nodes[link.source as usize];
        let have = match &holder.held {
            _ if !holder.offers => None,
            held if held.is_full() => Some(Have::All),
            held => Some(Have::Leaves(held.clone())),
        };
        let bytes = ANSWER_BYTES + held_bytes(have.as_ref());
        holder.answers += bytes;
        let number = self.messages.insert(Message::Holds { flow, have });
        self.events.at(self.now + self.latency, Event::Message(number));
    }

    /// A connection is over.
    pub(super) fn close_flow(&mut self, flow: FlowId) {
        let link = &mut self.flows[flow as usize];
        link.closed = true;
        let (source, sink) = (link.source, link.sink);
        for (_, served) in std::mem::take(&mut link.served) {
            self.give_slot_back(source, served.slot);
        }
        self.nodes[sink as usize].flows_in.remove(&source);
        self.nodes[source as usize].flows_out.retain(|other| *other != flow);
    }
}

/// Bytes of what a peer says that it holds.
pub(super) fn held_bytes(have: Option<&Have>) -> u64 {
    let bytes = |held: &LeafSet| held.leaves().div_ceil(64) * 8;
    match have {
        Some(Have::Leaves(held)) => bytes(held),
        Some(Have::All) | None => 0,
    }
}
