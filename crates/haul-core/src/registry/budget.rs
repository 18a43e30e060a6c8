//! What one peer may ask of an index: a bucket of work that fills at a steady rate.
//!
//! The cost of a question is known once it is answered, so a question is admitted while there is anything in the bucket,
//! and its cost may leave a debt. Whoever is in debt is told when it will be over, and that is true unless it has more
//! questions on their way.

use core::time::Duration;

use crate::time::Moment;

/// One peer's bucket, in units of work.
#[derive(Clone, Debug)]
pub struct Budget {
    per_second: u64,
    most: u64,
    /// Thousandths of a unit, so that a millisecond of a slow rate counts.
    level: i64,
    at: Moment,
}

impl Budget {
    /// A full bucket, which holds `most` units and gets `per_second` units a second.
    pub fn new(now: Moment, per_second: u64, most: u64) -> Self {
        Self { per_second: per_second.max(1), most, level: milli(most), at: now }
    }

    /// Whether a question may be asked now; if not, how long to wait.
    pub fn handle_question(&mut self, now: Moment) -> Result<(), Duration> {
        self.fill(now);
        if self.level > 0 {
            return Ok(());
        }
        // One millisecond fills `per_second` thousandths of a unit; one more brings the level above zero.
        let debt = self.level.unsigned_abs() + 1;
        Err(Duration::from_millis(debt.div_ceil(self.per_second)))
    }

    /// A question that was admitted has cost this much.
    pub fn handle_cost(&mut self, units: u64) {
        self.level = self.level.saturating_sub(milli(units));
    }

    fn fill(&mut self, now: Moment) {
        let millis = now.0.saturating_sub(self.at.0);
        if millis > 0 {
            self.at = now;
            let more = i64::try_from(millis.saturating_mul(self.per_second)).unwrap_or(i64::MAX);
            self.level = self.level.saturating_add(more).min(milli(self.most));
        }
    }
}

fn milli(units: u64) -> i64 {
    i64::try_from(units.saturating_mul(1_000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    #[test]
    fn a_full_bucket_admits_until_it_is_empty_and_says_when_it_is_not() {
        let mut budget = Budget::new(Moment(5), 1_000, 10);
        for _ in 0..4 {
            assert_eq!(budget.handle_question(Moment(5)), Ok(()));
            budget.handle_cost(3);
        }
        // Two units in debt, at one unit a millisecond.
        assert_eq!(budget.handle_question(Moment(5)), Err(Duration::from_millis(3)));
        assert!(budget.handle_question(Moment(7)).is_err());
        assert_eq!(budget.handle_question(Moment(8)), Ok(()));
    }

    #[test]
    fn nothing_overflows() {
        let mut budget = Budget::new(Moment(0), u64::MAX, u64::MAX);
        for _ in 0..3 {
            budget.handle_cost(u64::MAX);
        }
        assert!(budget.handle_question(Moment(0)).is_err());
        assert_eq!(budget.handle_question(Moment(u64::MAX)), Err(Duration::from_millis(1)));
    }

    proptest! {
        #[test]
        fn waiting_as_told_is_enough_and_no_more_is_done_than_allowed(
            per_second in 1..100_000u64,
            most in 1..1_000_000u64,
            steps in proptest::collection::vec((0..2_000u64, 0..100_000u64), 1..60),
        ) {
            let mut now = Moment(1_000);
            let mut budget = Budget::new(now, per_second, most);
            let mut done: Vec<u64> = Vec::new();
            for (pause, cost) in steps {
                now = now.after(Duration::from_millis(pause));
                if let Err(wait) = budget.handle_question(now) {
                    prop_assert!(!wait.is_zero());
                    let early = now.after(wait.saturating_sub(Duration::from_millis(1)));
                    prop_assert!(budget.clone().handle_question(early).is_err(), "told to wait too long");
                    now = now.after(wait);
                    prop_assert_eq!(budget.handle_question(now), Ok(()));
                }
                budget.handle_cost(cost);
                done.push(cost);
                // All but the last question was paid for.
                let paid: u64 = done.iter().rev().skip(1).sum();
                let allowed = most + per_second * now.since(Moment(1_000)).as_millis() as u64 / 1_000 + 1;
                let debts = done.iter().max().copied().unwrap_or_default();
                prop_assert!(paid <= allowed + debts, "{} of {}", paid, allowed);
            }
        }
    }
}
