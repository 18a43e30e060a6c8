//! A swarm in virtual time: peers with links of given rates, the real planner behind a slow control path, and nobody's
//! sockets.
//!
//! What is modelled: uplinks that serve their requests leaf by leaf in turn, as fair connections do; downlinks that take
//! what arrives in order, with windows that push back; one-way latency, connection set-up, the way of reports and plans
//! to and from the index; forwarding of a leaf as soon as it is there; peers that join, leave, break and lie. What is
//! not: losses of packets and what congestion control makes of them, CPU time, disks. Same scenario, same seed: same
//! events. With a coarser quantum than a leaf, forwarding is later than in truth, so figures are on the safe side.

mod bound;
mod events;
mod index;
mod node;
mod pick;
mod scenario;
mod sink;
mod source;
#[cfg(test)]
mod tests;
mod world;

use core::time::Duration;

pub use bound::{fluid_bound, staged_bound};
pub use scenario::{Mode, PeerSpec, Scenario, rate};

/// What came of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// When each peer that stayed to the end had everything, counted from the start, ascending; complete ones from the
    /// start on are left out.
    pub finished: Vec<Duration>,
    /// The same, counted from when the peer joined.
    pub took: Vec<Duration>,
    /// Peers that stayed and still lacked something when nothing moved any more.
    pub unfinished: usize,
    /// Bytes that the first peer, the seed, sent.
    pub seed_bytes: u64,
    /// Bytes that arrived at somebody who had them already, or did not verify.
    pub wasted_bytes: u64,
    /// Bytes of the blob, in whole pieces.
    pub size: u64,
    /// Plans that were sent to sinks.
    pub plans: u64,
    /// Deliveries that the planner planned, those planned anew included.
    pub assigned: u64,
    /// Most other peers that one peer ever had a request with.
    pub partners: usize,
    /// Events handled.
    pub events: u64,
    /// Real time spent in the planner. Not part of what a seed repeats.
    pub planner_time: Spent,
}

/// Real time; two of them always count as equal, so that outcomes can be compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent(pub Duration);

impl PartialEq for Spent {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Outcome {
    /// When the last peer had everything.
    pub fn last(&self) -> Duration {
        self.finished.last().copied().unwrap_or_default()
    }

    /// When half of them had.
    pub fn median(&self) -> Duration {
        self.finished.get(self.finished.len() / 2).copied().unwrap_or_default()
    }
}

/// Runs a scenario to its end.
pub fn run(scenario: &Scenario) -> Outcome {
    world::World::new(scenario).run()
}
