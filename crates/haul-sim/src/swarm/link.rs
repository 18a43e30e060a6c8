//! One connection, and the requests that its source serves on it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use haul_core::download::RequestEnd;
use haul_core::limits::LEAF_WAIT;
use haul_core::slots::SlotId;

use super::events::{Micros, NodeId};

/// A connection's number.
pub(super) type FlowId = u32;

/// Leaves that a source has handed to a connection ahead of what the uplink sends, and that cannot be taken back. Real
/// connections over slow links queue four, half of them on their way through TLS, and the kernel has up to two more.
const HANDED_OVER: usize = 4;

/// What an uplink sends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Item {
    /// Of a request for leaves.
    Unit { request: u64, unit: u32 },
    /// A sheet of the outline.
    Sheet { request: u64, bytes: u32 },
    /// A request is over. Comes right behind what it has brought.
    End { request: u64, end: RequestEnd },
}

/// A request on its way to the source.
#[derive(Debug)]
pub(super) struct Ask {
    /// In the order wanted.
    pub(super) units: Vec<Range<u32>>,
    /// What the source lacks follows as it gets it; without, it is left out.
    pub(super) wait: bool,
}

/// A request at the source.
#[derive(Debug)]
pub(super) struct Served {
    /// What can be sent.
    pub(super) ready: VecDeque<u32>,
    /// How many others it waits for.
    pub(super) lacking: u32,
    pub(super) in_turn: bool,
    /// Until then it waits for the next.
    pub(super) patience: Micros,
    /// Its upload slot, or its place in the queue for one.
    pub(super) slot: Option<SlotId>,
    /// It may be served.
    pub(super) granted: bool,
}

/// A connection: what a sink asks of a source.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) source: NodeId,
    pub(super) sink: NodeId,
    pub(super) closed: bool,
    /// The connection stands from then on.
    pub(super) open_from: Micros,
    /// On their way to the source.
    pub(super) asks: BTreeMap<u64, Ask>,
    /// At the source.
    pub(super) served: BTreeMap<u64, Served>,
    /// Those that have something to send; the oldest is served as long as it has.
    turn: BTreeSet<u64>,
    /// What goes out next.
    out: VecDeque<Item>,
    /// Waits for its turn on the uplink.
    pub(super) in_turn: bool,
    /// What a turn on the uplink counts, and those that it had.
    stride: Micros,
    share: u64,
    /// Sent and not delivered, and how much of that there may be.
    pub(super) under_way: u32,
    pub(super) window: u32,
    /// It has had something to send at every moment since its source looked last.
    pub(super) blocked: bool,
    /// Leaves that the sink knows its source to hold, if it has asked.
    pub(super) known_held: Option<u64>,
}

impl Flow {
    pub(super) fn new(source: NodeId, sink: NodeId, open_from: Micros, window: u32, stride: Micros) -> Self {
        Self {
            source,
            sink,
            closed: false,
            open_from,
            asks: BTreeMap::new(),
            served: BTreeMap::new(),
            turn: BTreeSet::new(),
            out: VecDeque::new(),
            in_turn: false,
            stride,
            share: 0,
            under_way: 0,
            window,
            blocked: false,
            known_held: None,
        }
    }

    /// A request may have something to send, or nothing any more.
    pub(super) fn put_in_turn(&mut self, request: u64) {
        let Some(served) = self.served.get_mut(&request) else { return };
        let has_news = !served.ready.is_empty() || served.lacking == 0;
        if served.granted && has_news && !std::mem::replace(&mut served.in_turn, true) {
            self.turn.insert(request);
        }
    }

    /// Where it stands among the connections of an uplink whose last one has had so much.
    pub(super) fn share_from(&mut self, last: u64) -> u64 {
        self.share = self.share.max(last);
        self.share
    }

    /// It had a turn.
    pub(super) fn had_turn(&mut self) {
        self.share += self.stride;
    }

    /// A message overtakes leaves.
    pub(super) fn send_first(&mut self, item: Item) {
        self.out.push_front(item);
    }

    /// Gives a request up: what it lacks is left out.
    pub(super) fn give_up(&mut self, request: u64, end: RequestEnd) {
        self.out.push_back(Item::End { request, end });
    }

    pub(super) fn has_output(&mut self, now: Micros) -> bool {
        self.hand_over(now);
        !self.out.is_empty()
    }

    pub(super) fn next_output(&mut self, now: Micros) -> Option<Item> {
        self.hand_over(now);
        let next = self.out.pop_front();
        self.hand_over(now);
        self.blocked &= !self.out.is_empty();
        next
    }

    fn hand_over(&mut self, now: Micros) {
        while self.out.len() < HANDED_OVER
            && let Some(request) = self.turn.pop_first()
        {
            let Some(served) = self.served.get_mut(&request) else { continue };
            if let Some(unit) = served.ready.pop_front() {
                self.out.push_back(Item::Unit { request, unit });
                served.patience = now + LEAF_WAIT.as_micros() as Micros;
            }
            served.in_turn = !served.ready.is_empty();
            if served.in_turn {
                self.turn.insert(request);
            } else if served.lacking == 0 {
                self.out.push_back(Item::End { request, end: RequestEnd::Served });
            }
        }
    }
}
