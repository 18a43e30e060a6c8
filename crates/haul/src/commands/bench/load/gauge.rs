//! What a load costs: CPU time and memory of the server, CPU time of this process, time stolen from the machine.

use std::fs;
use std::time::{Duration, Instant};

use super::super::cpu::CpuReading;

/// A server counts as quiet after this many looks without work …
const QUIET_LOOKS: u32 = 5;
/// … this far apart …
const LOOK: Duration = Duration::from_millis(100);
/// … each with at most this much CPU time: answering renewals is no work.
const QUIET_CPU: Duration = Duration::from_millis(2);
/// A server that is never quiet is given up after this long.
const QUIET_LIMIT: Duration = Duration::from_mins(3);

/// Readings at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Gauge {
    server: Option<u32>,
    started: Instant,
    server_cpu: Option<CpuReading>,
    own_cpu: Option<CpuReading>,
    machine: Option<MachineTicks>,
}

/// What happened since a gauge was started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Spent {
    /// By the clock.
    pub(crate) wall: Duration,
    /// CPU time of the server; none where it cannot be read.
    pub(crate) server_cpu: Option<Duration>,
    /// CPU time of this process.
    pub(crate) client_cpu: Duration,
    /// Share of the machine's time that went to other machines on the same host.
    pub(crate) steal: f64,
}

impl Spent {
    /// Whether this process had no more CPU time to give: then it limits the rate by the clock, though not the
    /// rate by the server's CPU time.
    pub(crate) fn client_saturated(&self) -> bool {
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        self.client_cpu.as_secs_f64() > 0.95 * cores * self.wall.as_secs_f64()
    }
}

impl Gauge {
    /// Starts to measure; `server` is the process of the index, if it runs on this machine.
    pub(crate) fn start(server: Option<u32>) -> Self {
        Self {
            server,
            server_cpu: server.and_then(CpuReading::take),
            own_cpu: CpuReading::take(std::process::id()),
            machine: MachineTicks::read(),
            started: Instant::now(),
        }
    }

    /// What was spent until now.
    pub(crate) fn spent(&self) -> Spent {
        let wall = self.started.elapsed();
        let since = |before: Option<CpuReading>, process| Some(CpuReading::take(process)?.since(&before?));
        Spent {
            wall,
            server_cpu: self.server.and_then(|server| since(self.server_cpu, server)),
            client_cpu: since(self.own_cpu, std::process::id()).unwrap_or_default(),
            steal: self.machine.zip(MachineTicks::read()).map_or(0.0, |(before, after)| after.steal_since(&before)),
        }
    }

    /// Waits until the server works no more (merges are done), and gives what was spent until its last work.
    pub(crate) async fn spent_until_quiet(&self) -> Spent {
        let Some(server) = self.server else { return self.spent() };
        let limit = Instant::now() + QUIET_LIMIT;
        let mut last_work = self.spent();
        let mut quiet = 0;
        while quiet < QUIET_LOOKS && Instant::now() < limit {
            let before = CpuReading::take(server);
            tokio::time::sleep(LOOK).await;
            let worked = CpuReading::take(server).zip(before).is_some_and(|(after, b)| after.since(&b) > QUIET_CPU);
            if worked {
                quiet = 0;
                last_work = self.spent();
            } else {
                quiet += 1;
            }
        }
        last_work
    }
}

/// Memory of a process in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Not backed by a file: heap and stacks, huge pages included.
    pub(crate) anonymous: u64,
    /// All that is in memory.
    pub(crate) resident: u64,
}

impl Memory {
    /// Reads it now; none if there is no such process.
    pub(crate) fn of(process: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1_024)
        };
        Some(Self { anonymous: field("Anonymous:")?, resident: field("Rss:")? })
    }
}

/// Totals of /proc/stat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MachineTicks {
    all: u64,
    stolen: u64,
}

impl MachineTicks {
    fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/stat").ok()?)
    }

    /// The first line: user nice system idle iowait irq softirq steal …
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
        Some(Self { all: ticks.iter().sum(), stolen: *ticks.get(7)? })
    }

    fn steal_since(&self, before: &Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        self.stolen.saturating_sub(before.stolen) as f64 / all as f64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn memory_and_steal_are_read() {
        let text = "0-f ---p 0 00:00 0 [rollup]\nRss:    200 kB\nPss_Anon:   7 kB\nAnonymous:   100 kB\n";
        assert_eq!(Memory::parse(text), Some(Memory { anonymous: 102_400, resident: 204_800 }));
        assert!(Memory::of(std::process::id()).unwrap().anonymous > 0);
        let before = MachineTicks::parse("cpu  1 1 1 1 1 1 1 1 0 0\ncpu0 1\n").unwrap();
        let after = MachineTicks::parse("cpu  51 1 1 41 1 1 1 11 0 0\ncpu0 1\n").unwrap();
        assert!((after.steal_since(&before) - 0.1).abs() < 1e-9);
    }

    #[test]
    fn this_process_is_seen_working() {
        let gauge = Gauge::start(Some(std::process::id()));
        let mut value = 1_u64;
        while gauge.spent().client_cpu < Duration::from_millis(3) {
            value = std::hint::black_box(value.wrapping_mul(3));
        }
        let spent = gauge.spent();
        assert!(spent.server_cpu.unwrap() >= Duration::from_millis(3) && spent.wall >= Duration::from_millis(1));
        let idle = Spent { wall: Duration::from_secs(100), ..spent };
        assert!(!idle.client_saturated());
        assert!(Spent { client_cpu: Duration::from_secs(64_000), ..idle }.client_saturated());
    }
}
