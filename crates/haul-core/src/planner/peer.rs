//! What the planner knows of one peer: what it holds, what it is to fetch from whom, whom it is to serve, its links.

use alloc::vec::Vec;

use super::dues::Dues;
use super::meter::Meter;
use super::pieces::PieceSet;
use super::stripes::{MOST_STRIPES, NOBODY};
use super::{Hints, Slot};
use crate::ids::PeerId;
use crate::time::Moment;

/// A piece that a sink is to fetch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want {
    pub(super) piece: u32,
    pub(super) source: Slot,
    pub(super) since: Moment,
    /// Bytes of it that were not reported yet, as far as reports show.
    pub(super) left: u64,
}

/// A piece that a source is to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Give {
    pub(super) sink: Slot,
    pub(super) piece: u32,
    /// Since when it could be given: planned, and held.
    pub(super) since: Moment,
}

#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) live: bool,
    /// Too many sinks could not get what it said it holds: no source until that lapses ([`super::failures`]).
    pub(super) struck: bool,
    /// Will go soon: still a source, but what it holds does not count as a copy.
    pub(super) leaving: bool,
    /// Unless it says so again.
    pub(super) leaving_until: Moment,
    /// Holds everything, and its uplink is for pieces that only complete peers hold.
    pub(super) spared: bool,
    pub(super) site: u32,
    pub(super) have: PieceSet,
    /// What it holds and what it is to fetch.
    pub(super) taken: PieceSet,
    /// In the order in which it fetches.
    pub(super) wants: Vec<Want>,
    pub(super) gives: Vec<Give>,
    /// What was planned for it and not reported yet.
    pub(super) dues: Dues,
    /// Whom it takes each stripe from: a peer, `ROOT` or `NOBODY`.
    pub(super) above: [Slot; MOST_STRIPES],
    /// Who takes which stripe from it.
    pub(super) below: Vec<(u8, Slot)>,
    /// How many may.
    pub(super) room: u32,
    /// Bits of the stripes in whose trees it stands inside.
    pub(super) homes: u32,
    /// Peers that it has a connection with, or will have.
    pub(super) neighbours: Vec<Slot>,
    pub(super) up: Meter,
    pub(super) down: Meter,
    /// Sources that failed this peer; a copy of what [`super::failures`] says.
    pub(super) avoided: Vec<PeerId>,
    /// When somebody last reported bytes of it.
    pub(super) gave: Option<Moment>,
    /// When it last reported bytes of somebody.
    pub(super) got: Option<Moment>,
    /// Its plan has changed since it was told.
    pub(super) changed: bool,
    pub(super) told: Option<Moment>,
    /// Deliveries that it could have made for a while and has not, as of the last run.
    pub(super) late: u32,
    /// When it last took a delivery over from somebody who fell behind.
    pub(super) helped: Option<Moment>,
    /// Where it stands in the list of live peers.
    pub(super) place: u32,
}

impl Peer {
    pub(super) fn new(now: Moment, id: PeerId, have: PieceSet, hints: Hints, piece_bytes: u64) -> Self {
        Self {
            id,
            live: true,
            struck: false,
            leaving: false,
            leaving_until: Moment(0),
            spared: false,
            site: hints.site,
            taken: have.clone(),
            have,
            wants: Vec::new(),
            gives: Vec::new(),
            dues: Dues::default(),
            above: [NOBODY; MOST_STRIPES],
            below: Vec::new(),
            room: 0,
            homes: 0,
            neighbours: Vec::new(),
            up: Meter::new(now, piece_bytes, hints.up),
            down: Meter::new(now, piece_bytes, None),
            avoided: Vec::new(),
            gave: None,
            got: None,
            changed: false,
            told: None,
            late: 0,
            helped: None,
            place: 0,
        }
    }

    /// Whether it may be asked for what it holds or will hold.
    pub(super) fn may_give(&self) -> bool {
        self.live && !self.struck
    }

    /// Whether what it holds counts as a copy that stays.
    pub(super) fn counts(&self) -> bool {
        self.live && !self.struck && !self.leaving
    }

    /// Whom it takes the pieces of each of so many stripes from.
    pub(super) fn above_in(&self, stripes: usize) -> &[Slot] {
        self.above.get(..stripes).unwrap_or(&self.above)
    }

    /// Whether it still lacks something.
    pub(super) fn is_sink(&self) -> bool {
        self.live && !self.have.is_full()
    }

    /// Whom it is to get this piece from.
    pub(super) fn source_of(&self, piece: u32) -> Option<Slot> {
        self.wants.iter().find(|want| want.piece == piece).map(|want| want.source)
    }

    /// Whom it is to give this piece.
    pub(super) fn sinks_of(&self, piece: u32) -> Vec<Slot> {
        self.gives.iter().filter(|give| give.piece == piece).map(|give| give.sink).collect()
    }

    /// Pieces that it was to give before that moment, and could have: it holds them.
    pub(super) fn ready_gives(&self, before: Moment) -> usize {
        self.gives.iter().filter(|give| give.since < before && self.have.contains(give.piece)).count()
    }

    /// Notes that it holds a piece which it is to give.
    pub(super) fn ready_to_give(&mut self, now: Moment, piece: u32) {
        for give in self.gives.iter_mut().filter(|give| give.piece == piece) {
            give.since = now;
            self.up.begin(now);
        }
    }

    /// Whether it could have given this piece to this sink before that moment.
    pub(super) fn could_give(&self, sink: Slot, piece: u32, before: Moment) -> bool {
        let ready = |give: &Give| give.sink == sink && give.piece == piece && give.since < before;
        self.have.contains(piece) && self.gives.iter().any(ready)
    }

    /// Takes a delivery out of what it is to give.
    pub(super) fn forget_give(&mut self, sink: Slot, piece: u32) {
        if let Some(at) = self.gives.iter().position(|give| give.sink == sink && give.piece == piece) {
            self.gives.swap_remove(at);
        }
    }
}
