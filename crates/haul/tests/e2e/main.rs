//! End-to-end tests: real processes, real sockets, real files.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, missing_docs)]

mod folder;
mod kill;
mod providers;
mod roles;
mod scale;
mod support;
mod walkthrough;
