//! Adversaries and simulations for haul's tests.
//!
//! [`rogue`]s are members of a network that do not keep their word. They speak the real protocols over real sockets, so
//! what they attack is the program as it ships. A [`swarm`] is thousands of peers in virtual time around the real
//! planner.

pub mod rogue;
pub mod swarm;
