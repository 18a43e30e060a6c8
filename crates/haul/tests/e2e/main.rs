//! End-to-end tests: real processes, real sockets, real files.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, missing_docs)]

mod benching;
mod clock;
mod damage;
mod disk;
mod explaining;
mod folder;
mod hostile;
mod kill;
mod leaving;
mod limiting;
mod lost_writes;
mod mounted;
mod names;
mod providers;
mod refusals;
mod returning;
mod roles;
mod scale;
mod stopping;
mod support;
mod swarm;
mod sweep;
mod walkthrough;
mod watching;
mod without_index;
