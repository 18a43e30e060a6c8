//! The index server: who is online, who has what, under which names.

pub mod store;
