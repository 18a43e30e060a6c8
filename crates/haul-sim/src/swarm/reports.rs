//! What sinks gain, and how they tell the index.

use std::time::Duration;

use haul_core::limits::{SWARM_SOURCES, UPLINK_NEWS, UPLINK_SAMPLE};
use haul_core::planner::Runs;

use super::events::{Event, Micros, NodeId};
use super::index::Message;
use super::node::Sink;
use super::world::{World, stays};

/// Least time between two reports.
const PAUSE: Duration = Duration::from_millis(100);

impl World<'_> {
    /// A unit is there and verified: it can be passed on. True if its piece is complete.
    pub(super) fn gain(&mut self, sink: NodeId, unit: u32) -> bool {
        let node = &mut self.nodes[sink as usize];
        let piece = unit / self.per_piece;
        node.held.insert(unit.into());
        node.left[piece as usize] -= 1;
        let complete = node.left[piece as usize] == 0;
        if complete {
            node.pieces.insert(piece);
            node.reports.gained.insert(piece);
        }
        self.pass_on(sink, unit);
        if complete {
            self.leave_if_full_enough(sink);
        }
        complete
    }

    /// Everything is there.
    pub(super) fn finish(&mut self, sink: NodeId) {
        self.nodes[sink as usize].finished = Some(self.now);
        self.unfinished -= usize::from(stays(&self.scenario.peers[sink as usize]));
        self.nodes[sink as usize].sink = Sink::None;
        self.report(sink, true);
    }

    pub(super) fn note_received(&mut self, sink: NodeId, source: NodeId) {
        *self.nodes[sink as usize].reports.received.entry(source).or_default() += self.unit_bytes;
        let [from, to] = [source, sink].map(|node| self.scenario.peers[node as usize].site);
        self.received += self.unit_bytes;
        self.received_near += if from == to { self.unit_bytes } else { 0 };
    }

    /// Tells the index what is new, unless it was told just now or has not answered the last report.
    pub(super) fn report(&mut self, sink: NodeId, at_once: bool) {
        let reports = &mut self.nodes[sink as usize].reports;
        if reports.is_empty() || (!at_once && self.now < reports.told + PAUSE.as_micros() as Micros) {
            return;
        }
        if reports.asked {
            return;
        }
        reports.told = self.now;
        reports.asked = self.machines;
        let mut gained = Runs::default();
        reports.gained.retain(|piece| !gained.push(*piece));
        let received = std::iter::from_fn(|| reports.received.pop_first()).take(SWARM_SOURCES).collect();
        let failed = std::iter::from_fn(|| reports.failed.pop_first()).take(SWARM_SOURCES).collect();
        let uplink = reports.uplink.take();
        reports.uplink_told = uplink.unwrap_or(reports.uplink_told);
        self.tell_index(Message::Have { sink, gained, received, failed, uplink });
        if self.machines {
            self.events.at(self.now + 2 * self.control, Event::Answered(sink));
        }
    }

    /// A peer looks at what its uplink carries; the index is told what is new.
    pub(super) fn on_look(&mut self, node: NodeId) {
        if !self.nodes[node as usize].here {
            return;
        }
        self.events.at(self.now + UPLINK_SAMPLE.as_micros() as Micros, Event::Look(node));
        let (now, mut blocked) = (self.moment(), 0);
        for flow in &self.nodes[node as usize].flows_out {
            let flow = &mut self.flows[*flow as usize];
            blocked += usize::from(flow.blocked);
            flow.blocked = flow.has_output(self.now);
        }
        let looker = &mut self.nodes[node as usize];
        looker.uplink.observe(now, looker.sent_bytes, blocked);
        let told = looker.reports.uplink_told;
        if let Some(rate) = looker.uplink.rate().filter(|rate| rate.abs_diff(told) > told / UPLINK_NEWS) {
            looker.reports.uplink = Some(rate);
            self.report(node, false);
        }
    }

    /// The index has taken a report: what came meanwhile follows at once.
    pub(super) fn on_answered(&mut self, sink: NodeId) {
        self.nodes[sink as usize].reports.asked = false;
        if self.nodes[sink as usize].here {
            self.report(sink, true);
        }
    }
}
