//! Searches over real names: the hits of a plain loop over all entries must be the hits of the engine, and at scale they
//! must come fast. `HAUL_PATHS` names a list of paths, one per line, sorted by bytes; without it a small made-up list
//! is used.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing, clippy::panic)]

#[path = "searching/crowded.rs"]
mod crowded;
#[path = "searching/hunt.rs"]
mod hunt;
#[path = "searching/killed.rs"]
mod killed;
#[path = "searching/oracle.rs"]
mod oracle;
#[path = "searching/paths.rs"]
mod paths;
#[path = "searching/questions.rs"]
mod questions;
#[path = "searching/scale.rs"]
mod scale;

/// As in the program, so that figures are its own.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
