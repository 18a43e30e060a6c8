//! What haul decides, without any input or output.
//!
//! This crate holds names, limits, wire messages, canonical bytes, verification geometry, the download machine,
//! registry decisions and the query language. It is `no_std`: there is no clock, socket, file, thread or source of
//! randomness here. Time and seeds are arguments.
//!
//! **Driving contract** of every machine in this crate: feed it with `handle_*(now, …)`, drain `poll_action()` until it
//! returns `None`, and call `handle_timeout(now)` no later than the instant that `next_timeout()` names.
//!
//! Modules point down this list and never up:
//!
//! | module | what it is |
//! | --- | --- |
//! | [`download`] | which leaves to ask of whom, stalls, end game, bans: one machine per blob |
//! | [`bandwidth`] | rates and their weekly schedule; the buckets that keep them |
//! | [`slots`] | whose request is served next: upload slots, shared fairly among users |
//! | [`planner`] | who fetches which pieces from whom: one machine per swarm, at the index |
//! | [`uplink`] | what this peer's uplink carries, from what it sends while others wait |
//! | [`registry`] | leases and presence: who is online |
//! | [`query`] | the query language: folding, parsing, ranking |
//! | [`wire`] | frames and messages of both protocols |
//! | [`trust`] | certificates, grants, tickets: canonical bytes and text forms |
//! | [`directory`] | canonical listing of a directory and its id |
//! | [`manifest`] | entries, pages of changes, registration state |
//! | [`outline`] | leaf chaining values, sheets, verification against the blob id |
//! | [`blob`] | geometry of a blob: leaves, pieces, sheets; bitfields |
//! | [`path`] | share paths as checked bytes |
//! | [`text`] | names from strangers as text that can be shown |
//! | [`ids`], [`time`], [`limits`] | checked names, instants, every maximum with its reason |
#![no_std]
#![forbid(unsafe_code)]
// Whatever comes from outside is decoded here: no index may be out of bounds.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod bandwidth;
pub mod blob;
pub mod directory;
pub mod download;
pub mod ids;
pub mod limits;
pub mod manifest;
pub mod outline;
pub mod path;
pub mod planner;
pub mod query;
pub mod registry;
pub mod slots;
pub mod text;
pub mod time;
pub mod trust;
pub mod uplink;
pub mod wire;
