//! The log: append-only segment files that hold pages and records (byte table: docs/storage.md).
//!
//! A segment is written once, from its start to its end. It starts with the whole catalog (who has which shares, which
//! pages lie where), so that opening reads one catalog and the groups after it, and nothing of older segments but the
//! pages themselves. A group is what one sync made durable; it counts as a whole or not at all.

pub(super) mod catalog;
pub(super) mod clean;
pub(super) mod device;
pub(super) mod format;
pub(super) mod group;
pub(super) mod pages;
pub(super) mod scan;

#[cfg(test)]
mod tests;
