//! What happens when: a queue of events in virtual time, first come first served at the same instant.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::link::{FlowId, Item};

/// Microseconds of virtual time.
pub(super) type Micros = u64;

/// A peer's number in the scenario.
pub(super) type NodeId = u32;

#[derive(Clone, Copy, Debug)]
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
    /// A source sees a request for leaves.
    Asked { flow: FlowId, request: u64 },
    /// A source sees a request for a sheet of the outline; none is the root sheet.
    SheetAsked { flow: FlowId, request: u64, sheet: Option<u64> },
    /// A source sees that a request is not wanted any more.
    Cancelled { flow: FlowId, request: u64 },
    /// A source's patience with a request for leaves that do not come may be at its end.
    Patience { flow: FlowId, request: u64 },
    /// A request that waits for an upload slot hears of it, if it still does.
    Queued { flow: FlowId, request: u64 },
    /// That news is at the sink.
    QueueNews { flow: FlowId, request: u64 },
    /// An uplink is through with what it was sending.
    Sent(NodeId),
    /// Something is at its sink.
    Delivered { flow: FlowId, item: Item },
    /// A connection stands.
    Connected(FlowId),
    /// A source is asked which leaves it holds.
    HeldAsked(FlowId),
    /// A downloader's report is due.
    Report(NodeId),
    /// A downloader looks at what its uplink carries.
    Look(NodeId),
    /// The index has answered a downloader's report.
    Answered(NodeId),
    /// A downloader's timeout.
    Due(NodeId),
    /// A message is at the index or at a peer.
    Message(u32),
    /// The planner's timeout.
    PlannerDue,
    /// The planner dies.
    PlannerDies,
}

#[derive(Debug)]
struct Entry {
    time: Micros,
    number: u64,
    event: Event,
}

impl Ord for Entry {
    /// The earliest is the greatest: it comes out of the heap first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.time, other.number).cmp(&(self.time, self.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Events {
    heap: BinaryHeap<Entry>,
    count: u64,
}

impl Events {
    pub(super) fn at(&mut self, time: Micros, event: Event) {
        self.count += 1;
        self.heap.push(Entry { time, number: self.count, event });
    }

    pub(super) fn next(&mut self) -> Option<(Micros, Event)> {
        self.heap.pop().map(|entry| (entry.time, entry.event))
    }

    /// Events entered so far.
    pub(super) fn count(&self) -> u64 {
        self.count
    }
}
