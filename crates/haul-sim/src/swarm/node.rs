//! One peer and one connection of the simulation.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use haul_core::planner::PieceSet;

use super::events::{FlowId, Micros, NodeId};

/// A peer.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) here: bool,
    /// Has said that it leaves.
    pub(super) leaving: bool,
    /// Microseconds that a quantum takes on the uplink and on the downlink.
    pub(super) up_us: Micros,
    pub(super) down_us: Micros,
    /// Quanta that it holds.
    pub(super) quanta: PieceSet,
    pub(super) pieces: PieceSet,
    /// Quanta of each piece that it lacks.
    pub(super) left: Vec<u16>,
    /// Flows with something to send, in turn.
    pub(super) turn: VecDeque<FlowId>,
    pub(super) sending: Option<(FlowId, u32)>,
    /// When the downlink is through with what has arrived.
    pub(super) down_free: Micros,
    /// Flows to others that wait for quanta of a piece.
    pub(super) waiters: BTreeMap<u32, Vec<FlowId>>,
    /// Flows from others.
    pub(super) flows_in: BTreeMap<NodeId, FlowId>,
    pub(super) flows_out: Vec<FlowId>,
    /// Pieces asked for, and of whom.
    pub(super) asked: BTreeMap<u32, Vec<FlowId>>,
    pub(super) banned: Vec<NodeId>,
    /// Whom it knows, for when it acts alone.
    pub(super) neighbours: Vec<NodeId>,
    /// Until when it follows its plan.
    pub(super) lease: Micros,
    /// Acts alone.
    pub(super) alone: bool,
    /// When it looks next for something to ask while it acts alone.
    pub(super) poll_due: Micros,
    pub(super) reported: Micros,
    pub(super) report_due: Micros,
    pub(super) gained: BTreeSet<u32>,
    pub(super) joined: Micros,
    pub(super) finished: Option<Micros>,
    pub(super) sent_quanta: u64,
}

impl Node {
    pub(super) fn new(seed: bool, pieces: u32, per_piece: u32, up_us: Micros, down_us: Micros) -> Self {
        let set = |count| if seed { PieceSet::full(count) } else { PieceSet::new(count) };
        Self {
            here: false,
            leaving: false,
            up_us,
            down_us,
            quanta: set(pieces * per_piece),
            pieces: set(pieces),
            left: vec![if seed { 0 } else { per_piece as u16 }; pieces as usize],
            turn: VecDeque::new(),
            sending: None,
            down_free: 0,
            waiters: BTreeMap::new(),
            flows_in: BTreeMap::new(),
            flows_out: Vec::new(),
            asked: BTreeMap::new(),
            banned: Vec::new(),
            neighbours: Vec::new(),
            lease: 0,
            alone: false,
            poll_due: 0,
            reported: 0,
            report_due: 0,
            gained: BTreeSet::new(),
            joined: 0,
            finished: None,
            sent_quanta: 0,
        }
    }
}

/// A connection in one direction: what a sink asks of a source.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) source: NodeId,
    pub(super) sink: NodeId,
    pub(super) closed: bool,
    /// The connection stands from then on.
    pub(super) open_from: Micros,
    /// At the source: pieces asked for.
    pub(super) wanted: Vec<u32>,
    /// At the source: quanta that can be sent.
    pub(super) ready: VecDeque<u32>,
    pub(super) in_turn: bool,
    /// Quanta sent and not delivered, and how many there may be.
    pub(super) under_way: u32,
    pub(super) window: u32,
    /// At the sink: planned and not asked for yet.
    pub(super) to_ask: VecDeque<u32>,
    /// At the sink: asked for and not complete.
    pub(super) asked: Vec<u32>,
    /// Quanta delivered since the last report.
    pub(super) received: u32,
}
