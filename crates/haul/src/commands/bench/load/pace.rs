//! When requests of an open-loop load are due: fixed before the first one is sent, whatever the server does.

use std::time::{Duration, Instant};

use super::keys::Dice;

/// Times from the start, ascending: arrivals at random with a fixed mean rate (a Poisson process), as many independent
/// askers make them.
pub(crate) fn schedule(seed: u64, per_second: f64, length: Duration) -> Vec<Duration> {
    let mut dice = Dice::new(seed);
    let mut times = Vec::with_capacity((per_second * length.as_secs_f64() * 1.1) as usize);
    let mut at = 0.0;
    loop {
        at += -(1.0 - dice.fraction()).ln() / per_second;
        if at >= length.as_secs_f64() {
            return times;
        }
        times.push(Duration::from_secs_f64(at));
    }
}

/// The runtime's clock ticks in milliseconds: so long before its time a request stays awake.
const AWAKE: Duration = Duration::from_millis(3);

/// Waits until `at` to the microsecond: sleeps at first, then lets others work until it is time.
pub(crate) async fn wait_until(at: Instant) {
    if let Some(early) = at.checked_sub(AWAKE)
        && early > Instant::now()
    {
        tokio::time::sleep_until(early.into()).await;
    }
    while at > Instant::now() {
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_keeps_its_rate_and_repeats() {
        let times = schedule(3, 10_000.0, Duration::from_secs(2));
        assert!((19_000..21_000).contains(&times.len()), "{}", times.len());
        assert!(times.is_sorted() && times.last().is_some_and(|last| *last < Duration::from_secs(2)));
        assert_eq!(times, schedule(3, 10_000.0, Duration::from_secs(2)));
        // Bursts and gaps: nearly 1 in e gaps is longer than the mean.
        let long = times.windows(2).filter(|pair| pair[1] > pair[0] + Duration::from_micros(100)).count();
        assert!((0.33..0.41).contains(&(long as f64 / times.len() as f64)));
    }

    #[tokio::test]
    async fn nothing_is_sent_before_its_time() {
        for at in [Duration::ZERO, Duration::from_micros(300), Duration::from_millis(5)] {
            let due = Instant::now() + at;
            wait_until(due).await;
            assert!(Instant::now() >= due);
        }
    }
}
