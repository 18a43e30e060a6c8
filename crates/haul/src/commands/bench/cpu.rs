//! CPU time of another process, from /proc.

use std::fs;
use std::time::Duration;

/// Linux shows times in /proc/PID/stat in hundredths of a second on every machine.
const TICK: Duration = Duration::from_millis(10);

/// CPU time of a process so far, read in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CpuReading {
    /// To the nanosecond, but without threads that have ended.
    running_threads: Duration,
    /// In ticks, complete.
    process: Duration,
}

impl CpuReading {
    /// Reads it now; none if there is no such process, or no /proc.
    pub(crate) fn take(process: u32) -> Option<Self> {
        let mut running_threads = Duration::ZERO;
        for thread in fs::read_dir(format!("/proc/{process}/task")).ok()? {
            // A thread may end between the listing and the reading.
            let Ok(text) = fs::read_to_string(thread.ok()?.path().join("schedstat")) else { continue };
            running_threads += Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?);
        }
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        Some(Self { running_threads, process: TICK * stat_ticks(&stat)? })
    }

    /// Time used since an earlier reading: the fine one, unless a thread has ended with more than the coarse one's
    /// error.
    pub(crate) fn since(&self, earlier: &Self) -> Duration {
        let fine = self.running_threads.saturating_sub(earlier.running_threads);
        let coarse = self.process.saturating_sub(earlier.process);
        if coarse > fine + 2 * TICK { coarse } else { fine }
    }
}

/// User and system ticks: the 14th and 15th fields. The second one, the name in brackets, may hold spaces.
fn stat_ticks(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<u32>);
    Some(times.next()?.ok()? + times.next()?.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "77 (a) (b c) S 1 2 3 4 5 6 7 8 9 10 30 12 13 14 15";
        assert_eq!(stat_ticks(stat), Some(42));
        assert_eq!(stat_ticks("77 (x) S 1"), None);
    }

    #[test]
    fn work_of_this_process_is_seen() {
        let before = CpuReading::take(std::process::id()).expect("this is Linux");
        let mut value = 1_u64;
        while CpuReading::take(std::process::id()).expect("this is Linux").since(&before) < Duration::from_millis(5) {
            value = std::hint::black_box(value.wrapping_mul(3));
        }
        let gone = CpuReading { running_threads: Duration::ZERO, process: before.process + 5 * TICK };
        assert_eq!(gone.since(&before), 5 * TICK);
    }
}
