//! `haul bench mixed`: lookups at times fixed beforehand, first alone, then while one peer registers a large share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use clap::Args;

use super::crowd::{Door, Renewals};
use super::gauge::Gauge;
use super::lookup::{Answered, Load, Pool};
use super::paths::Paths;
use super::population::Population;
use super::registering::Prepared;
use super::returning::{Offer, bring_back};
use super::timing::Histogram;
use super::{LoadArgs, Setting};
use crate::output::Output;

/// The crowd of the one large peer.
const BULK: &str = "bulk";

/// Arguments of `haul bench mixed`.
#[derive(Clone, Debug, Args)]
pub(crate) struct MixedArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// Lookup requests per second
    #[arg(long, value_name = "R", default_value_t = 2_000.0)]
    rate: f64,
    /// Blobs in one request
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: u16,
    /// Connections that look up
    #[arg(long, value_name = "N", default_value_t = 16)]
    connections: u32,
    /// How long to measure before the registration
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    seconds: f64,
    /// Entries that the one peer registers
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    entries: u32,
}

/// Runs it.
pub(crate) async fn run(args: &MixedArgs, index: Option<&str>, output: &Output) -> anyhow::Result<()> {
    let setting = Setting::new(&args.load, index)?;
    let mut outcome = args.load.outcome("mixed", &setting.population);
    outcome.parameter("rate", args.rate);
    outcome.parameter("batch", args.batch);
    outcome.parameter("connections", args.connections);
    outcome.parameter("registered_entries", args.entries);
    let _peers = if args.load.with_peers { Some(bring_back(&setting, &args.load).await?) } else { None };
    let pool = Pool::uniform(args.load.seed, usize::from(args.batch), &setting);
    let members = setting.askers.enter_all(0, args.connections).await.context("connecting")?;
    let _renewals = Renewals::start(&members);
    let askers = members.into_iter().map(|member| Arc::new(member.into_session())).collect();
    let load = Load::new(pool, &setting.checker, askers, true);

    load.open_loop(args.rate, Duration::from_secs(1), args.load.seed, None).await.context("warming up")?;
    let gauge = Gauge::start(args.load.server_pid);
    let calm = load.open_loop(args.rate, Duration::from_secs_f64(args.seconds), args.load.seed, None).await?;
    outcome.cost("calm_requests", calm.len() as f64, &gauge.spent());
    let calm = histogram(calm.iter());
    outcome.latency("calm", &calm);

    let bulk = bulk(args, &setting).await?;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let gauge = Gauge::start(args.load.server_pid);
    let begun = Instant::now();
    let registering = async {
        let done = bulk.register().await;
        let took = begun.elapsed();
        let _ = stop.send(true);
        done.map(|()| took)
    };
    let limit = Duration::from_mins(5);
    let loaded = load.open_loop(args.rate, limit, args.load.seed + 1, Some(stopped));
    let (took, loaded) = tokio::join!(registering, loaded);
    let (took, loaded) = (took?, loaded?);
    outcome.cost("loaded_registered", f64::from(args.entries), &gauge.spent());
    outcome.figure("registration_s", took.as_secs_f64());
    let loaded = histogram(loaded.iter().filter(|answer| answer.due < took));
    outcome.latency("loaded", &loaded);
    let (calm_p99, loaded_p99) = (calm.percentile(990) as f64, loaded.percentile(990) as f64);
    outcome.figure("p99_loaded_over_calm", loaded_p99 / calm_p99.max(1.0));
    args.load.finish(&outcome, output)
}

fn histogram<'a>(answers: impl Iterator<Item = &'a Answered>) -> Histogram {
    let mut histogram = Histogram::default();
    answers.for_each(|answer| histogram.add(answer.nanos));
    histogram
}

/// The one large peer, connected, its share open and its pages made.
struct Bulk {
    member: super::crowd::Member,
    prepared: Prepared,
}

async fn bulk(args: &MixedArgs, setting: &Setting) -> anyhow::Result<Bulk> {
    let population =
        Population::new(args.load.seed + 1_000_003, 1, args.entries, 1.0).map_err(|reason| anyhow!(reason))?;
    let population = Arc::new(population);
    let door = Door::new(setting.peers.ticket().clone(), Arc::clone(&population), BULK);
    let member = door.enter(0).await?;
    let prepared = Prepared::new(&population, &Paths::Generated, 0, 0);
    member.session().ask(&Offer::new(&prepared).request()).await?;
    Ok(Bulk { member, prepared })
}

impl Bulk {
    async fn register(self) -> anyhow::Result<()> {
        self.prepared.send(self.member.session(), |_, _| ()).await
    }
}
