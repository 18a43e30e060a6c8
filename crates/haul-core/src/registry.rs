//! What an index decides about its peers: who is online, what a session may ask, which addresses are told to whom.

pub mod addresses;
pub mod budget;
pub mod leases;
pub mod session;
