//! Limits of bandwidth: rates as people write them, their weekly schedule, and the buckets that keep them.
//!
//! A limit holds for payload: bytes of leaves and small files. What frames and encryption add is about a thousandth.

mod buckets;
mod rule;

pub use buckets::{Buckets, Granted, WantId, burst};
pub use rule::{DAY_MINUTES, Direction, Rule, RuleError, Schedule, WEEK_MINUTES, When, parse_rate, rate_text};
