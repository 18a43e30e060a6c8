//! All entries replaced again and again, and the server's memory meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::future::BoxFuture;
use futures_util::stream;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use haul_core::wire::index::{IndexAnswer, IndexRequest};
use tokio::task::JoinHandle;

use super::crowd::{Member, Renewals};
use super::gauge::{Gauge, Memory};
use super::registering::Prepared;
use super::returning::Offer;
use super::{LoadArgs, Outcome, Setting, register};

/// Peers that replace their entries at the same time.
const AT_ONCE: usize = 8;
/// How often memory is read.
const LOOK: Duration = Duration::from_millis(100);
/// Entries that are looked up and searched at the end.
const CHECKS: u32 = 500;

/// Registers everything, then `turnovers` times: each peer deletes its share and registers it with the same names and
/// other contents.
pub(super) async fn run(
    setting: &Setting,
    load: &LoadArgs,
    turnovers: u64,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let server = load.server_pid.context("memory is read from the server: --server-pid PID")?;
    outcome.parameter("turnovers", turnovers);
    let members = setting.peers.enter_all(0, load.peers).await.context("connecting")?;
    let _renewals = Renewals::start(&members);
    let entries = setting.population.entries() as f64;
    let empty = Memory::of(server).context("the server's memory cannot be read")?.anonymous as f64;
    outcome.figure("memory_empty_bytes", empty);
    let watch = Watch::start(server);
    let gauge = Gauge::start(load.server_pid);
    let mut steady = Vec::new();
    for turn in 0..=turnovers {
        let all = members.iter().map(|member| replace(setting, member, turn, load.groups).boxed());
        let all: Vec<BoxFuture<'_, _>> = all.collect();
        stream::iter(all).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        gauge.spent_until_quiet().await;
        let now = Memory::of(server).context("the server is gone")?.anonymous as f64;
        steady.push((now - empty) / entries);
    }
    outcome.cost("replaced", entries * (turnovers + 1) as f64, &gauge.spent());
    let samples = watch.stop().await?;
    let worst = samples.iter().copied().fold(0.0, f64::max);
    outcome.figure("memory_worst_bytes_per_entry", (worst - empty) / entries);
    outcome.figure("memory_worst_bytes_per_entry_with_empty", worst / entries);
    outcome.figure("memory_first_bytes_per_entry", steady.first().copied().unwrap_or_default());
    let last = steady.last().copied().unwrap_or_default();
    outcome.figure("memory_steady_bytes_per_entry", last);
    outcome.figure("memory_steady_bytes_per_entry_with_empty", last + empty / entries);
    outcome.samples("memory_after_each_turnover_bytes_per_entry", steady);
    outcome.samples("memory_anonymous_bytes_every_100_ms", samples);
    let last = setting.after(turnovers)?;
    // Only now: nobody renewed its lease meanwhile.
    let asker = setting.askers.enter(0).await?;
    register::check_all(&last, &asker, CHECKS, outcome).await
}

async fn replace(setting: &Setting, member: &Member, turn: u64, groups: u32) -> anyhow::Result<()> {
    let population = setting.population.after(turn);
    let prepared = Prepared::new(&population, &setting.paths, member.number(), groups);
    let offer = Offer::new(&prepared);
    if turn > 0 {
        let forget = IndexRequest::Close { share: prepared.share(), forget: true };
        ensure!(member.session().ask(&forget).await? == IndexAnswer::Closed, "not an answer to Close");
    }
    member.session().ask(&offer.request()).await?;
    prepared.send(member.session(), |_, _| ()).await.with_context(|| format!("peer {}", member.number()))
}

/// Reads the memory of a process all the time, on a thread of its own: the worst moment counts.
struct Watch {
    stop: Arc<AtomicBool>,
    task: Option<JoinHandle<Vec<f64>>>,
}

impl Watch {
    fn start(process: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::task::spawn_blocking(move || {
            let mut samples = Vec::new();
            let mut next = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                samples.extend(Memory::of(process).map(|memory| memory.anonymous as f64));
                next += LOOK;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            samples
        });
        Self { stop, task: Some(task) }
    }

    async fn stop(mut self) -> anyhow::Result<Vec<f64>> {
        self.stop.store(true, Ordering::Relaxed);
        let task = self.task.take().context("it was stopped before")?;
        Ok(task.await?)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
