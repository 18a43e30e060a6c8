//! Whom a simulated downloader knows and has called: the rules of the real one.

use std::collections::BTreeMap;

use super::events::NodeId;
use super::link::FlowId;

/// Connections at once with peers that have everything.
const COMPLETE: usize = 16;
/// The same with peers that are downloading themselves.
const PARTIAL: usize = 32;

/// How it stands with another peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// It may be called.
    Due,
    /// It is being called.
    Calling,
    Connected(FlowId),
    /// It is gone, or has sent something wrong: never again.
    Over,
}

#[derive(Debug)]
struct Known {
    /// It is downloading the blob itself.
    partial: bool,
    /// The last plan names it.
    planned: bool,
    call: Call,
}

/// All that it knows.
#[derive(Debug, Default)]
pub(super) struct Peers(BTreeMap<NodeId, Known>);

impl Peers {
    /// Learns of another; true if it is connected already, and known to have everything.
    pub(super) fn learn(&mut self, peer: NodeId, complete: bool) -> bool {
        let new = Known { partial: !complete, planned: false, call: Call::Due };
        let known = self.0.entry(peer).or_insert(new);
        known.partial &= !complete;
        matches!(known.call, Call::Connected(_)) && !known.partial
    }

    /// The index has planned with these, and with none of those before.
    pub(super) fn planned(&mut self, sources: impl Iterator<Item = NodeId>) {
        for known in self.0.values_mut() {
            known.planned = false;
        }
        for source in sources {
            if let Some(known) = self.0.get_mut(&source) {
                known.planned = true;
            }
        }
    }

    /// Whom to call now; the calls count as begun.
    pub(super) fn calls_due(&mut self) -> Vec<NodeId> {
        let mut due = Vec::new();
        for (partial, most) in [(false, COMPLETE), (true, PARTIAL)] {
            let in_use =
                |known: &&Known| known.partial == partial && matches!(known.call, Call::Calling | Call::Connected(_));
            let mut room = most.saturating_sub(self.0.values().filter(in_use).count());
            for (peer, known) in self.0.iter_mut().filter(|(_, known)| known.partial == partial) {
                if known.call == Call::Due && (room > 0 || known.planned) {
                    known.call = Call::Calling;
                    due.push(*peer);
                    room = room.saturating_sub(1);
                }
            }
        }
        due
    }

    pub(super) fn set(&mut self, peer: NodeId, call: Call) {
        if let Some(known) = self.0.get_mut(&peer).filter(|known| known.call != Call::Over) {
            known.call = call;
        }
    }

    pub(super) fn is_partial(&self, peer: NodeId) -> bool {
        self.0.get(&peer).is_some_and(|known| known.partial)
    }

    pub(super) fn connection(&self, peer: NodeId) -> Option<FlowId> {
        match self.0.get(&peer)?.call {
            Call::Connected(flow) => Some(flow),
            Call::Due | Call::Calling | Call::Over => None,
        }
    }
}
