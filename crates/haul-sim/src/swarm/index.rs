//! The index of the simulation: the real planner, behind messages that take their time.

use std::time::{Duration, Instant};

use haul_core::blob::BlobGeometry;
use haul_core::download::Have;
use haul_core::ids::PeerId;
use haul_core::planner::{Dealing, Hints, PieceRange, PieceSet, Planner, PlannerAction, Runs};
use haul_core::time::Moment;

use super::Mode;
use super::events::{Event, Micros, NodeId};
use super::link::FlowId;
use super::members::Members;
use super::world::World;

/// Whom to ask for which pieces.
pub(super) type Sources = Vec<(NodeId, Vec<PieceRange>)>;

/// What goes between a peer and the index, or as a small answer between two peers.
#[derive(Debug)]
pub(super) enum Message {
    /// To the index: a peer takes part.
    Joined { peer: NodeId, have: PieceSet },
    /// To the index: what a sink has, from whom it came, and who failed it.
    Have { sink: NodeId, gained: Runs, received: Vec<(NodeId, u64)>, failed: Vec<NodeId>, uplink: Option<u64> },
    /// To the index: a peer goes soon.
    Leaving { peer: NodeId },
    /// To the index: a peer is gone.
    Gone { peer: NodeId },
    /// To a sink: others, with whether they hold all of the blob. The first answers that it joined.
    Peers { to: NodeId, peers: Vec<(NodeId, bool)>, answers_join: bool },
    /// To a sink, with those of the sources that it does not know.
    Plan { sink: NodeId, strangers: Vec<(NodeId, bool)>, sources: Sources, lease: Duration },
    /// To a sink: what the source of a connection holds, if it passes anything on yet.
    Holds { flow: FlowId, have: Option<Have> },
}

/// The planner with what has to be known around it.
pub(super) struct Index {
    /// None if nobody plans.
    planner: Option<Planner>,
    /// Those that came before the second sink did: one alone is not planned for.
    waiting: Vec<(NodeId, PieceSet, Hints)>,
    pub(super) members: Members,
    /// For when its timeout is entered as an event.
    due: Option<Micros>,
    pub(super) spent: Duration,
    pub(super) plans: u64,
}

impl Index {
    pub(super) fn new(geometry: BlobGeometry, seed: u64, mode: Mode) -> Self {
        let planner = match mode {
            Mode::Planned => Some(Dealing::Planned),
            Mode::Random => Some(Dealing::Random),
            Mode::Alone => None,
        };
        Self {
            planner: planner.map(|dealing| Planner::with_dealing(geometry, seed, dealing)),
            waiting: Vec::new(),
            members: Members::default(),
            due: None,
            spent: Duration::ZERO,
            plans: 0,
        }
    }

    pub(super) fn assigned(&self) -> u64 {
        self.planner.as_ref().map_or(0, Planner::assigned)
    }

    fn join(&mut self, now: Moment, peer: NodeId, have: PieceSet, hints: Hints) {
        let Some(planner) = &mut self.planner else { return };
        if planner.peers() > 0 {
            planner.handle_join(now, peer_id(peer), &have, hints);
            return;
        }
        self.waiting.push((peer, have, hints));
        if self.waiting.iter().filter(|(_, have, _)| !have.is_full()).count() >= 2 {
            for (peer, have, hints) in std::mem::take(&mut self.waiting) {
                planner.handle_join(now, peer_id(peer), &have, hints);
            }
        }
    }

    fn have(&mut self, now: Moment, sink: NodeId, gained: &Runs, received: &[(NodeId, u64)], failed: &[NodeId]) {
        if let Some((_, have, _)) = self.waiting.iter_mut().find(|(peer, ..)| *peer == sink) {
            have.insert_runs(gained);
        }
        let Some(planner) = &mut self.planner else { return };
        let received: Vec<_> = received.iter().map(|(source, bytes)| (peer_id(*source), *bytes)).collect();
        planner.handle_have(now, peer_id(sink), gained, &received);
        for source in failed {
            planner.handle_failed(now, peer_id(sink), peer_id(*source));
        }
    }

    fn uplink(&mut self, now: Moment, peer: NodeId, rate: Option<u64>) {
        if let (Some(planner), Some(rate)) = (&mut self.planner, rate) {
            planner.handle_uplink(now, peer_id(peer), rate);
        }
    }

    fn depart(&mut self, now: Moment, peer: NodeId) {
        self.waiting.retain(|(other, ..)| *other != peer);
        if let Some(planner) = &mut self.planner {
            planner.handle_depart(now, peer_id(peer));
        }
    }
}

impl World<'_> {
    /// Sends a message to the index.
    pub(super) fn tell_index(&mut self, message: Message) {
        if self.index.is_some() {
            self.send(message);
        }
    }

    pub(super) fn send(&mut self, message: Message) {
        let number = self.messages.insert(message);
        self.events.at(self.now + self.control, Event::Message(number));
    }

    pub(super) fn on_message(&mut self, number: u32) {
        match self.messages.take(number) {
            Some(Message::Plan { sink, strangers, sources, lease }) => self.on_plan(sink, &strangers, sources, lease),
            Some(Message::Peers { to, peers, answers_join }) => self.on_peers(to, &peers, answers_join),
            Some(Message::Holds { flow, have }) => self.on_holds(flow, have),
            Some(message) => self.at_index(message),
            None => {}
        }
    }

    fn at_index(&mut self, message: Message) {
        let now = Moment(self.now / 1000);
        let Some(index) = &mut self.index else { return };
        let started = Instant::now();
        match message {
            Message::Joined { peer, have } => {
                let spec = &self.scenario.peers[peer as usize];
                let hints = Hints { up: spec.told.then_some(spec.up), site: spec.site };
                index.join(now, peer, have, hints);
                index.spent += started.elapsed();
                self.introduce(peer);
            }
            Message::Have { sink, gained, received, failed, uplink } => {
                index.uplink(now, sink, uplink);
                index.have(now, sink, &gained, &received, &failed);
                index.spent += started.elapsed();
                self.note_gained(sink, gained.count());
            }
            Message::Leaving { peer } => {
                if let Some(planner) = &mut index.planner {
                    planner.handle_leaving(now, peer_id(peer));
                }
            }
            Message::Gone { peer } => {
                index.members.remove(peer);
                index.depart(now, peer);
                index.spent += started.elapsed();
            }
            Message::Plan { .. } | Message::Peers { .. } | Message::Holds { .. } => {}
        }
        self.arm_planner();
    }

    /// Enters the planner's timeout as an event, unless an earlier one is entered.
    fn arm_planner(&mut self) {
        let Some(index) = &mut self.index else { return };
        let Some(due) = index.planner.as_ref().and_then(Planner::next_timeout) else { return };
        let due = (due.0 * 1000).max(self.now);
        if index.due.is_none_or(|entered| due < entered) {
            index.due = Some(due);
            self.events.at(due, Event::PlannerDue);
        }
    }

    pub(super) fn on_planner_due(&mut self) {
        let Some(index) = &mut self.index else { return };
        let Some(planner) = index.planner.as_mut().filter(|_| index.due.is_some_and(|due| due <= self.now)) else {
            return;
        };
        index.due = None;
        let started = Instant::now();
        planner.handle_timeout(Moment(self.now.div_ceil(1000)));
        let mut plans = Vec::new();
        while let Some(action) = planner.poll_action() {
            plans.push(action);
        }
        index.spent += started.elapsed();
        for action in plans {
            if let PlannerAction::Plan { sink, lease, sources } = action {
                let sink = node_of(sink);
                let sources: Sources = sources.into_iter().map(|(source, runs)| (node_of(source), runs)).collect();
                let strangers = self.strangers(sink, &sources);
                if let Some(index) = &mut self.index {
                    index.plans += 1;
                }
                self.send(Message::Plan { sink, strangers, sources, lease });
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
    pub(super) fn insert(&mut self, message: Message) -> u32 {
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
pub(super) fn peer_id(node: NodeId) -> PeerId {
    let mut bytes = [0x42; 32];
    bytes[..4].copy_from_slice(&node.to_be_bytes());
    PeerId::new(bytes).expect("not of small order: most bytes are 0x42")
}

pub(super) fn node_of(peer: PeerId) -> NodeId {
    let bytes = peer.as_bytes();
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}
