//! The command line against a daemon that is played: what is printed, which exit code, what the daemon is asked.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod daemon;
mod errors;
mod finding;
mod generated;
mod getting;
mod scripts;
mod watching;
