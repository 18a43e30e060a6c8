//! A peer: shares folders, serves ranges of files, downloads from many peers at once, and keeps a session with the index.
//!
//! Modules point down this list: daemon -> api, web -> link, fetch, serve, register -> share, files ->
//! partial, swarm, config, timeline -> bandwidth, reading.

pub mod api;
pub mod bandwidth;
pub mod config;
pub mod daemon;
pub mod fetch;
pub mod files;
pub mod link;
pub mod partial;
mod reading;
pub mod register;
pub mod serve;
pub mod share;
pub mod swarm;
pub mod text;
pub mod timeline;
pub mod transfers;
pub mod web;
