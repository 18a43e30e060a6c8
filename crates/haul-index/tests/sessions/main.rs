//! Sessions at a running index, over sockets with TLS and over memory.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub)]

mod browsers;
mod faults;
mod joining;
mod locating;
mod presence;
mod registering;
mod strangers;
mod support;
mod swarming;
mod watching;
