//! Adversaries for haul's tests: members of a network that do not keep their word.
//!
//! They speak the real protocols over real sockets, so what they attack is the program as it ships.

pub mod rogue;
