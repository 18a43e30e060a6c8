//! How long to wait before the index is tried again.
//!
//! Full jitter from the first retry on (Brooker, "Exponential Backoff And Jitter"): after a restart of the index all
//! peers lose it in the same moment, and only chance keeps them from returning in the same moment.

use std::time::Duration;

/// Upper end of the first wait.
const FIRST: Duration = Duration::from_millis(500);
/// Upper end of every later wait: the lease lasts three of these.
const LONGEST: Duration = Duration::from_secs(30);

/// Counts failures in a row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after another failure. `chance` is uniform in 0..1; the other side's wish to be left alone for
    /// `retry_after` comes on top.
    pub fn fail(&mut self, chance: f64, retry_after: Option<Duration>) -> Duration {
        let longest = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        retry_after.unwrap_or_default().saturating_add(longest.mul_f64(chance.clamp(0.0, 1.0)))
    }

    /// Forgets the failures.
    pub fn succeed(&mut self) {
        self.failures = 0;
    }
}

/// Uniform in 0..1, from the system's random bytes; the middle if it has none.
pub fn chance() -> f64 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wait_is_already_spread() {
        let mut early = Backoff::default();
        let mut late = Backoff::default();
        assert_eq!(early.fail(0.0, None), Duration::ZERO);
        assert_eq!(late.fail(0.5, None), Duration::from_millis(250));
        assert_eq!(late.fail(1.0, None), Duration::from_secs(1));
        for _ in 0..100 {
            assert!(late.fail(1.0, None) <= LONGEST);
        }
        assert_eq!(late.fail(1.0, None), LONGEST);
        assert_eq!(late.fail(0.0, Some(Duration::from_secs(7))), Duration::from_secs(7));
        late.succeed();
        assert_eq!(late.fail(1.0, None), FIRST);
        assert!((0.0..1.0).contains(&chance()));
    }
}
