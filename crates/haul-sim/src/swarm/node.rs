//! One peer of the simulation.

use std::collections::{BTreeMap, BTreeSet};

use haul_core::blob::LeafSet;
use haul_core::limits::UPLOAD_SLOTS;
use haul_core::planner::PieceSet;
use haul_core::slots::{SlotId, SlotQueue};
use haul_core::uplink::Uplink;

use super::events::{Micros, NodeId};
use super::fetch::Fetch;
use super::link::{FlowId, Item};
use super::simple::Simple;

/// A peer.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) here: bool,
    /// Everybody has noticed that it went.
    pub(super) gone: bool,
    /// Has said that it leaves.
    pub(super) leaving: bool,
    up: u64,
    down: u64,
    /// What it passes on: leaves, or so many at a time as one event sends.
    pub(super) held: LeafSet,
    pub(super) pieces: PieceSet,
    /// Units of each piece that it lacks.
    pub(super) left: Vec<u16>,
    /// The index has said whom it may pass the blob on to.
    pub(super) offers: bool,
    /// Connections with something to send, by what they have had; equal ones in turn.
    pub(super) turn: BTreeSet<(u64, u64, FlowId)>,
    /// Turns that were given.
    pub(super) turns: u64,
    /// What the connection that was served last has had.
    pub(super) share: u64,
    pub(super) sending: Option<(FlowId, Item)>,
    /// Bytes of small answers that go out with the next leaf.
    pub(super) answers: u64,
    /// When the downlink is through with what has arrived.
    pub(super) down_free: Micros,
    /// Requests that wait for a unit.
    pub(super) waiters: BTreeMap<u32, Vec<(FlowId, u64)>>,
    /// Who waits for it to hold more.
    pub(super) followers: Vec<FlowId>,
    pub(super) slots: SlotQueue<NodeId>,
    pub(super) slot_requests: BTreeMap<SlotId, (FlowId, u64)>,
    /// Connections from others.
    pub(super) flows_in: BTreeMap<NodeId, FlowId>,
    pub(super) flows_out: Vec<FlowId>,
    pub(super) sink: Sink,
    pub(super) reports: Reports,
    pub(super) uplink: Uplink,
    pub(super) joined: Micros,
    pub(super) finished: Option<Micros>,
    pub(super) sent_bytes: u64,
    pub(super) sent_outline: u64,
}

/// How a peer fetches.
#[derive(Debug)]
pub(super) enum Sink {
    /// Not, or not any more.
    None,
    /// With the machine of haul-core.
    Machine(Box<Fetch>),
    Simple(Simple),
}

/// What a peer has to tell the index.
#[derive(Debug, Default)]
pub(super) struct Reports {
    pub(super) told: Micros,
    pub(super) due: Micros,
    /// The index has not answered the last one.
    pub(super) asked: bool,
    pub(super) gained: BTreeSet<u32>,
    pub(super) received: BTreeMap<NodeId, u64>,
    pub(super) failed: BTreeSet<NodeId>,
    /// Bytes per second of the uplink, if the index does not know yet, and what it was told last.
    pub(super) uplink: Option<u64>,
    pub(super) uplink_told: u64,
}

impl Reports {
    pub(super) fn is_empty(&self) -> bool {
        self.gained.is_empty() && self.received.is_empty() && self.failed.is_empty() && self.uplink.is_none()
    }
}

impl Node {
    pub(super) fn new(seed: bool, pieces: u32, per_piece: u32, up: u64, down: u64) -> Self {
        let units = u64::from(pieces * per_piece);
        let mut held = LeafSet::new(units);
        for unit in 0..if seed { units } else { 0 } {
            held.insert(unit);
        }
        Self {
            here: false,
            gone: false,
            leaving: false,
            up: up.max(1),
            down: down.max(1),
            held,
            pieces: if seed { PieceSet::full(pieces) } else { PieceSet::new(pieces) },
            left: vec![if seed { 0 } else { per_piece as u16 }; pieces as usize],
            offers: seed,
            turn: BTreeSet::new(),
            turns: 0,
            share: 0,
            sending: None,
            answers: 0,
            down_free: 0,
            waiters: BTreeMap::new(),
            followers: Vec::new(),
            slots: SlotQueue::new(UPLOAD_SLOTS),
            slot_requests: BTreeMap::new(),
            flows_in: BTreeMap::new(),
            flows_out: Vec::new(),
            sink: Sink::None,
            reports: Reports::default(),
            uplink: Uplink::default(),
            joined: 0,
            finished: None,
            sent_bytes: 0,
            sent_outline: 0,
        }
    }

    pub(super) fn up_time(&self, bytes: u64) -> Micros {
        (bytes * 1_000_000 / self.up).max(1)
    }

    pub(super) fn down_time(&self, bytes: u64) -> Micros {
        (bytes * 1_000_000 / self.down).max(1)
    }

    pub(super) fn fetch(&mut self) -> Option<&mut Fetch> {
        match &mut self.sink {
            Sink::Machine(fetch) => Some(fetch),
            Sink::Simple(_) | Sink::None => None,
        }
    }

    pub(super) fn simple(&mut self) -> Option<&mut Simple> {
        match &mut self.sink {
            Sink::Simple(simple) => Some(simple),
            Sink::Machine(_) | Sink::None => None,
        }
    }
}
