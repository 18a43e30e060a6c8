//! How fast a swarm could be at all.

use core::time::Duration;

use super::Scenario;

/// The fluid bound of Kumar and Ross (`HotWeb` 2006) for peers that are there from the start and stay:
/// `max{F/u_s, F/d_min, N F/(u_s + sum u_i)}`. `size` is F.
pub fn fluid_bound(scenario: &Scenario, size: u64) -> Duration {
    let sinks: Vec<_> = scenario.peers.iter().filter(|peer| !peer.seed).collect();
    let seeds: u64 = scenario.peers.iter().filter(|peer| peer.seed).map(|peer| peer.up).sum();
    let all: u64 = scenario.peers.iter().map(|peer| peer.up).sum();
    let slowest = sinks.iter().map(|peer| peer.down).min().unwrap_or(u64::MAX);
    let size = size as f64;
    let bound = (size / seeds as f64).max(size / slowest as f64).max(sinks.len() as f64 * size / all as f64);
    Duration::from_secs_f64(bound)
}

/// The same in stages, for peers that come and go: time goes in small steps, in each of which everybody who is there
/// advances at the rate that the bound allows for those present, and who is behind advances first.
///
/// Nobody is faster than its downlink, fresh bytes come from the seeds only and at their rate, and all that is received
/// in a step has been sent in it. Leavers go when they have received their part. Peers that break count as if they
/// stayed: they only make it later.
pub fn staged_bound(scenario: &Scenario, size: u64) -> Duration {
    let size = size as f64;
    let mut got: Vec<f64> = scenario.peers.iter().map(|peer| if peer.seed { size } else { 0.0 }).collect();
    let mut gone = vec![false; got.len()];
    let mut fresh = 0.0_f64;
    for step in 0..STEPS {
        let time = f64::from(step) * STEP;
        let joins = |at: usize| scenario.peers[at].joins.as_secs_f64();
        let waiting = (0..got.len()).any(|at| joins(at) > time);
        let here: Vec<usize> = (0..got.len()).filter(|at| !gone[*at] && joins(*at) <= time).collect();
        let lacking: Vec<usize> = here.iter().copied().filter(|at| got[*at] < size * 0.999_999).collect();
        if lacking.is_empty() && !waiting {
            return Duration::from_secs_f64(time);
        }
        let seeds: u64 = here.iter().map(|at| &scenario.peers[*at]).filter(|peer| peer.seed).map(|peer| peer.up).sum();
        let capacity = here.iter().map(|at| scenario.peers[*at].up as f64).sum::<f64>() * STEP;
        fresh = (fresh + seeds as f64 * STEP).min(size);
        let most = |at: usize| (scenario.peers[at].down as f64 * STEP).min((fresh - got[at]).max(0.0));
        let parts = fill_up(&lacking, &got, &most, capacity);
        for (at, part) in lacking.iter().zip(parts) {
            got[*at] += part;
        }
        for at in here {
            let peer = &scenario.peers[at];
            let full = peer.leaves_at.is_some_and(|part| got[at] >= size * f64::from(part) / 100.0);
            let spent = peer.leaves_after.is_some_and(|part| time * peer.up as f64 >= size * f64::from(part) / 100.0);
            gone[at] |= (full && !peer.seed) || spent;
        }
    }
    Duration::MAX
}

/// Seconds of a step of [`staged_bound`], and after how many it gives up.
const STEP: f64 = 0.01;
const STEPS: u32 = 10_000_000;

/// Shares `capacity` so that the hindmost rise to one level, each by at most what `most` says.
fn fill_up(lacking: &[usize], got: &[f64], most: &dyn Fn(usize) -> f64, capacity: f64) -> Vec<f64> {
    let parts = |level: f64| lacking.iter().map(move |at| (level - got[*at]).clamp(0.0, most(*at)));
    let (mut low, mut high) = (0.0, lacking.iter().map(|at| got[*at] + most(*at)).fold(0.0, f64::max));
    if parts(high).sum::<f64>() > capacity {
        for _ in 0..50 {
            let level = f64::midpoint(low, high);
            if parts(level).sum::<f64>() > capacity { high = level } else { low = level }
        }
        return parts(low).collect();
    }
    parts(high).collect()
}
