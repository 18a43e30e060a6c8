//! The index of the simulation: the real planner, behind messages that take their time.

use std::time::{Duration, Instant};

use haul_core::blob::BlobGeometry;
use haul_core::ids::PeerId;
use haul_core::planner::{Hints, PieceRange, PieceSet, Planner, PlannerAction, Runs};
use haul_core::time::Moment;

use super::events::{Event, Micros, NodeId};
use super::world::World;

/// What goes between a peer and the index.
#[derive(Debug)]
pub(super) enum Message {
    Joined { peer: NodeId, have: PieceSet },
    Have { sink: NodeId, gained: Runs, received: Vec<(NodeId, u64)> },
    Failed { sink: NodeId, source: NodeId },
    Leaving { peer: NodeId },
    Gone { peer: NodeId },
    Plan { sink: NodeId, sources: Vec<(NodeId, Vec<u32>)>, lease: Duration },
}

/// The planner with what has to be known around it.
pub(super) struct Index {
    planner: Planner,
    /// For when its timeout is entered as an event.
    due: Option<Micros>,
    pub(super) spent: Duration,
    pub(super) plans: u64,
}

impl Index {
    pub(super) fn new(geometry: BlobGeometry, seed: u64) -> Self {
        Self { planner: Planner::new(geometry, seed), due: None, spent: Duration::ZERO, plans: 0 }
    }

    pub(super) fn assigned(&self) -> u64 {
        self.planner.assigned()
    }
}

impl World<'_> {
    /// Sends a message to the index.
    pub(super) fn tell_index(&mut self, message: Message) {
        if self.index.is_some() {
            self.send(message);
        }
    }

    fn send(&mut self, message: Message) {
        let number = self.messages.insert(message);
        self.events.at(self.now + self.control, Event::Message(number));
    }

    pub(super) fn on_message(&mut self, number: u32) {
        let Some(message) = self.messages.take(number) else { return };
        let now = Moment(self.now / 1000);
        if let Message::Plan { sink, sources, lease } = message {
            self.on_plan(sink, sources, lease.as_micros() as u64);
            return;
        }
        let Some(index) = &mut self.index else { return };
        let started = Instant::now();
        match message {
            Message::Joined { peer, have } => {
                let hints = Hints { site: self.scenario.peers[peer as usize].site, ..Hints::default() };
                index.planner.handle_join(now, peer_id(peer), &have, hints);
            }
            Message::Have { sink, gained, received } => {
                let received: Vec<_> = received.into_iter().map(|(source, bytes)| (peer_id(source), bytes)).collect();
                index.planner.handle_have(now, peer_id(sink), &gained, &received);
            }
            Message::Failed { sink, source } => index.planner.handle_failed(now, peer_id(sink), peer_id(source)),
            Message::Leaving { peer } => index.planner.handle_leaving(now, peer_id(peer)),
            Message::Gone { peer } => index.planner.handle_depart(now, peer_id(peer)),
            Message::Plan { .. } => {}
        }
        index.spent += started.elapsed();
        self.arm_planner();
    }

    /// Enters the planner's timeout as an event, unless an earlier one is entered.
    fn arm_planner(&mut self) {
        let Some(index) = &mut self.index else { return };
        let Some(due) = index.planner.next_timeout() else { return };
        let due = (due.0 * 1000).max(self.now);
        if index.due.is_none_or(|entered| due < entered) {
            index.due = Some(due);
            self.events.at(due, Event::PlannerDue);
        }
    }

    pub(super) fn on_planner_due(&mut self) {
        let Some(index) = &mut self.index else { return };
        if index.due.is_none_or(|due| self.now < due) {
            return;
        }
        index.due = None;
        let started = Instant::now();
        index.planner.handle_timeout(Moment(self.now.div_ceil(1000)));
        let mut plans = Vec::new();
        while let Some(action) = index.planner.poll_action() {
            plans.push(action);
        }
        index.spent += started.elapsed();
        for action in plans {
            if let PlannerAction::Plan { sink, lease, sources } = action {
                let pieces = |runs: Vec<PieceRange>| runs.into_iter().flat_map(PieceRange::pieces).collect();
                let sources = sources.into_iter().map(|(source, runs)| (node_of(source), pieces(runs))).collect();
                if let Some(index) = &mut self.index {
                    index.plans += 1;
                }
                self.send(Message::Plan { sink: node_of(sink), sources, lease });
            }
        }
        self.arm_planner();
    }
}

/// Messages under way, by number.
#[derive(Debug, Default)]
pub(super) struct Messages {
    slots: Vec<Option<Message>>,
    free: Vec<u32>,
}

impl Messages {
    fn insert(&mut self, message: Message) -> u32 {
        if let Some(number) = self.free.pop() {
            self.slots[number as usize] = Some(message);
            return number;
        }
        self.slots.push(Some(message));
        (self.slots.len() - 1) as u32
    }

    fn take(&mut self, number: u32) -> Option<Message> {
        self.free.push(number);
        self.slots[number as usize].take()
    }
}

/// The key of a simulated peer: its number, in bytes that pass for a key.
fn peer_id(node: NodeId) -> PeerId {
    let mut bytes = [0x42; 32];
    bytes[..4].copy_from_slice(&node.to_be_bytes());
    PeerId::new(bytes).expect("not of small order: most bytes are 0x42")
}

fn node_of(peer: PeerId) -> NodeId {
    let bytes = peer.as_bytes();
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
