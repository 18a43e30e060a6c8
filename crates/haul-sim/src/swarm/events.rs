//! What happens when: a queue of events in virtual time, first come first served at the same instant.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Microseconds of virtual time.
pub(super) type Micros = u64;

/// A peer's number in the scenario.
pub(super) type NodeId = u32;

/// A connection's number.
pub(super) type FlowId = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// A peer comes.
    Join(NodeId),
    /// A peer breaks.
    Break(NodeId),
    /// A peer that said that it leaves is gone.
    Leave(NodeId),
    /// It says again that it leaves.
    Leaving(NodeId),
    /// Everybody notices that it did.
    Notice(NodeId),
    /// A source sees a request for a piece.
    Asked { flow: FlowId, piece: u32 },
    /// A source sees that a piece is not wanted any more.
    Cancelled { flow: FlowId, piece: u32 },
    /// An uplink is through with a quantum.
    Sent(NodeId),
    /// A quantum is at its sink.
    Delivered { flow: FlowId, quantum: u32 },
    /// A downloader's report is due.
    Report(NodeId),
    /// A peer looks whether its plan still holds.
    Poll(NodeId),
    /// A message is at the index, or a plan at its sink.
    Message(u32),
    /// The planner's timeout.
    PlannerDue,
    /// The planner dies.
    PlannerDies,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Events {
    heap: BinaryHeap<Reverse<(Micros, u64, Event)>>,
    count: u64,
}

impl Events {
    pub(super) fn at(&mut self, time: Micros, event: Event) {
        self.count += 1;
        self.heap.push(Reverse((time, self.count, event)));
    }

    pub(super) fn next(&mut self) -> Option<(Micros, Event)> {
        self.heap.pop().map(|Reverse((time, _, event))| (time, event))
    }

    /// Events entered so far.
    pub(super) fn count(&self) -> u64 {
        self.count
    }
}
