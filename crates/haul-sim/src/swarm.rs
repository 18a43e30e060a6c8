//! A swarm in virtual time: peers with links of given rates, the real planner behind a slow control path, the real download
//! machine in every peer, and nobody's sockets.
//!
//! What is modelled: uplinks that serve their connections leaf by leaf in turn, as fair connections do; what a source has
//! handed over to a connection and cannot take back; downlinks that take what arrives in order, with windows that push
//! back; one-way latency, connection set-up, upload slots; outlines and what peers tell each other of what they hold, on
//! the same uplinks; the way of reports and plans to and from the index; forwarding of a leaf as soon as it is there;
//! peers that join, leave, break and lie. What is not: losses of packets and what congestion control makes of them, CPU
//! time, disks. Same scenario, same seed: same events.
//!
//! Swarms of thousands are too much for machines. Their sinks can be simple ones, which follow plans and need no outline;
//! with a coarser quantum than a leaf, forwarding is later than in truth.

mod bound;
mod dice;
mod events;
mod fetch;
mod index;
mod link;
mod members;
mod node;
mod peers;
mod reports;
mod scenario;
mod simple;
mod source;
#[cfg(test)]
mod tests;
mod world;

use core::time::Duration;

pub use bound::{fluid_bound, staged_bound};
pub use scenario::{Mode, PeerSpec, Scenario, Sinks, rate};

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
    /// Bytes of leaves that the first peer, the seed, sent.
    pub seed_bytes: u64,
    /// Bytes of outlines that it sent.
    pub seed_outline: u64,
    /// Bytes that arrived at somebody who had them already, or did not verify.
    pub wasted_bytes: u64,
    /// Part of the verified bytes that came from the receiver's own site.
    pub near_share: f64,
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
