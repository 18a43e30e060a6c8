//! What a peer asks of a neighbour when it acts alone.

use super::events::{FlowId, NodeId};
use super::node::{Flow, Node};

/// What a peer sees: its own state and what its neighbours hold. (In truth they tell it with a delay; here at once, in
/// favour of acting alone.)
pub(super) struct View<'a> {
    pub(super) nodes: &'a [Node],
    pub(super) sink: NodeId,
    pub(super) source: NodeId,
    pub(super) flows: &'a [Flow],
}

impl View<'_> {
    fn has_asked(&self, flow: FlowId) -> bool {
        !self.flows[flow as usize].asked.is_empty()
    }
}

/// A way to choose.
pub(super) trait Picker {
    /// A piece that the source holds and the sink neither has nor has asked for; none if there is none.
    fn pick(&self, view: &View<'_>, dice: &mut Dice) -> Option<u32>;
}

/// The one that fewest neighbours hold, among some.
pub(super) struct Rarest;

/// Any.
pub(super) struct Any;

/// Pieces compared by [`Rarest`].
const COMPARED: usize = 24;

impl Picker for Rarest {
    fn pick(&self, view: &View<'_>, dice: &mut Dice) -> Option<u32> {
        let sink = &view.nodes[view.sink as usize];
        let first = dice.below(u64::from(sink.pieces.pieces())) as u32;
        let others = || sink.neighbours.iter().map(|node| &view.nodes[*node as usize]).filter(|node| node.here);
        let copies = |piece: &u32| others().filter(|node| node.pieces.contains(*piece)).count();
        let source = &view.nodes[view.source as usize];
        if source.pieces.is_full() {
            // Complete peers are for what nobody else has begun to fetch, one piece at a time: have-sets tell of leaves.
            if sink.flows_in.get(&view.source).is_some_and(|flow| view.has_asked(*flow)) {
                return None;
            }
            let whole = (sink.quanta.pieces() / sink.pieces.pieces()) as u16;
            let begun = |piece: &u32| others().any(|node| !node.pieces.is_full() && node.left[*piece as usize] < whole);
            let fresh: Vec<u32> = useful(view, first).filter(|piece| !begun(piece)).collect();
            let chosen = fresh.get(dice.below(fresh.len() as u64) as usize).copied();
            return chosen.or_else(|| {
                let idle = sink.asked.is_empty();
                useful(view, first).find(|_| idle).or_else(|| late(view, first))
            });
        }
        useful(view, first).take(COMPARED).min_by_key(copies).or_else(|| late(view, first))
    }
}

impl Picker for Any {
    fn pick(&self, view: &View<'_>, dice: &mut Dice) -> Option<u32> {
        let pieces = view.nodes[view.sink as usize].pieces.pieces();
        let first = dice.below(u64::from(pieces)) as u32;
        useful(view, first).next().or_else(|| late(view, first))
    }
}

fn useful<'a>(view: &View<'a>, first: u32) -> impl Iterator<Item = u32> + use<'a> {
    let sink = &view.nodes[view.sink as usize];
    let source = &view.nodes[view.source as usize];
    let pieces = sink.pieces.pieces();
    (first..pieces).chain(0..first).filter(|piece| {
        source.pieces.contains(*piece) && !sink.pieces.contains(*piece) && !sink.asked.contains_key(piece)
    })
}

/// Near the end, when all that is lacking has been asked for: a piece that was asked of one other only.
fn late(view: &View<'_>, first: u32) -> Option<u32> {
    let sink = &view.nodes[view.sink as usize];
    let source = &view.nodes[view.source as usize];
    if sink.pieces.count() as usize + sink.asked.len() < sink.pieces.pieces() as usize {
        return None;
    }
    let single = |(_, flows): &(&u32, &Vec<u32>)| flows.len() == 1;
    let mut pieces =
        sink.asked.iter().filter(single).map(|(piece, _)| *piece).filter(|piece| source.pieces.contains(*piece));
    let count = pieces.clone().count();
    pieces.nth(first as usize % count.max(1))
}

/// Numbers that look random and follow from the seed (`SplitMix64`).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, count: u64) -> u64 {
        if count == 0 { 0 } else { self.next() % count }
    }
}
