//! The index server: who is online, who has what, under which names.
//!
//! Modules point down this list and never up:
//!
//! | module | what it is |
//! | --- | --- |
//! | [`server`] | owns all tasks: start, accept, shut down |
//! | [`web`] | what a browser is shown |
//! | [`session`] | one peer's session: decode, decide, store, answer |
//! | [`state`] | what all sessions share |
//! | [`presence`] | who is online, from where |
//! | [`admission`] | what one peer may take at the expense of others |
//! | [`watches`] | standing searches: who is told of which new entries |
//! | [`swarms`] | who downloads what, so that they find each other |
//! | [`store`] | what an index keeps, in domain verbs, and its embedded implementation |
//! | [`members`] | who belongs to the network: members, names, tickets, removals |
//! | [`authority`] | the keys of network and index, and what they sign |
//! | [`config`] | what a server is told before it starts |

pub mod admission;
pub mod authority;
pub mod config;
pub mod members;
pub mod presence;
pub mod server;
pub mod session;
pub mod state;
pub mod store;
pub mod swarms;
pub mod watches;
pub mod web;

/// As in the program, so that what tests measure is its own.
#[cfg(all(test, target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

pub use config::{IndexConfig, Invitation};
pub use server::{Index, InviteError, RunError, RunningIndex, StartError};
