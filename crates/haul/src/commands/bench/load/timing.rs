//! Latencies of a load, counted in a histogram: fine enough for percentiles, small enough for hundreds of millions.

use serde::{Deserialize, Serialize};

/// Sub-buckets of each power of two: values are kept to within 1/64.
const STEPS: u64 = 64;
const STEP_BITS: u32 = STEPS.ilog2();
/// Values from here on fall into the last bucket: an hour in nanoseconds.
const BUCKETS: usize = ((42 - STEP_BITS as usize) + 1) * STEPS as usize;

/// Counts of nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    sum: u128,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], count: 0, sum: 0, max: 0 }
    }
}

/// A histogram as results.json holds it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// Samples.
    pub(crate) count: u64,
    /// Arithmetic mean in microseconds.
    pub(crate) mean_us: f64,
    /// Median in microseconds.
    pub(crate) p50_us: f64,
    /// 99th percentile in microseconds.
    pub(crate) p99_us: f64,
    /// 99.9th percentile in microseconds.
    pub(crate) p999_us: f64,
    /// The largest in microseconds.
    pub(crate) max_us: f64,
    /// Raw: the filled buckets as (lower end in nanoseconds, samples).
    pub(crate) buckets: Vec<(u64, u64)>,
}

impl Latency {
    /// Microseconds that one sample in so many exceeds.
    pub(crate) fn exceeded_once_in(&self, seldom: u32) -> f64 {
        let rank = self.count - self.count / u64::from(seldom.max(1));
        let mut seen = 0;
        let reached = |(_, count): &&(u64, u64)| {
            seen += count;
            seen >= rank
        };
        self.buckets.iter().find(reached).map_or(0.0, |(nanos, _)| *nanos as f64 / 1e3)
    }
}

impl Histogram {
    /// Adds a sample.
    pub(crate) fn add(&mut self, nanos: u64) {
        if let Some(bucket) = self.counts.get_mut(bucket(nanos).min(BUCKETS - 1)) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum += u128::from(nanos);
        self.max = self.max.max(nanos);
    }

    /// Adds all samples of another one.
    pub(crate) fn absorb(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(own, other)| *own += other);
        self.count += other.count;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }

    /// Samples.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Nearest rank, in nanoseconds: the lower end of the bucket, never above the largest sample.
    pub(crate) fn percentile(&self, permille: u64) -> u64 {
        let rank = (self.count * permille).div_ceil(1_000).max(1);
        let mut seen = 0;
        for (number, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return lower_end(number).min(self.max);
            }
        }
        0
    }

    /// Statistics and raw counts.
    pub(crate) fn latency(&self) -> Latency {
        let micros = |nanos: u64| nanos as f64 / 1e3;
        Latency {
            count: self.count,
            mean_us: self.sum as f64 / self.count.max(1) as f64 / 1e3,
            p50_us: micros(self.percentile(500)),
            p99_us: micros(self.percentile(990)),
            p999_us: micros(self.percentile(999)),
            max_us: micros(self.max),
            buckets: (0..).zip(&self.counts).filter(|(_, n)| **n > 0).map(|(at, n)| (lower_end(at), *n)).collect(),
        }
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < STEPS {
        return nanos as usize;
    }
    let shift = nanos.ilog2() - STEP_BITS;
    (u64::from(shift) * STEPS + (nanos >> shift)) as usize
}

fn lower_end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    (bucket - shift * STEPS) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_narrow() {
        for nanos in (0..5_000).chain((0..1_000).map(|n| n * 7_777_777)) {
            let number = bucket(nanos);
            let (low, high) = (lower_end(number), lower_end(number + 1));
            assert!(low <= nanos && nanos < high, "{nanos} is not in {low}..{high}");
            assert!(high - low <= 1 + low / STEPS, "{low}..{high} is wide");
        }
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let mut histogram = Histogram::default();
        (1..=1_000).for_each(|n| histogram.add(n * 1_000));
        let latency = histogram.latency();
        assert_eq!(latency.count, 1_000);
        for (found, exact) in [(latency.p50_us, 500.0), (latency.p99_us, 990.0), (latency.p999_us, 999.0)] {
            assert!(found <= exact && found > exact * (1.0 - 1.0 / 32.0), "{found} instead of {exact}");
        }
        assert!((latency.mean_us - 500.5).abs() < 0.01 && (latency.max_us - 1_000.0).abs() < 0.01);
        assert!((latency.exceeded_once_in(2) - latency.p50_us).abs() < 1.0);
        assert!((latency.exceeded_once_in(100) - latency.p99_us).abs() < 1.0);
        let mut twice = histogram.clone();
        twice.absorb(&histogram);
        assert_eq!((twice.count(), twice.percentile(500)), (2_000, histogram.percentile(500)));
        assert_eq!(Histogram::default().percentile(500), 0);
        histogram.add(u64::MAX);
        assert_eq!(histogram.latency().buckets.iter().map(|(_, count)| count).sum::<u64>(), 1_001);
    }
}
