//! `haul bench lookup`: who has these blobs, many at a time, every answer checked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use futures_util::future::try_join_all;
use haul_core::limits;
use haul_core::wire;
use haul_core::wire::index::IndexAnswer;
use haul_net::identity::SecretKey;
use tokio::sync::mpsc;

use super::super::session::Session;
use super::checks::{Asked, Checker};
use super::crowd::Renewals;
use super::gauge::Gauge;
use super::keys::{KeyChoice, Keys};
use super::population::Population;
use super::returning::bring_back;
use super::timing::Histogram;
use super::{LoadArgs, Setting, pace};
use crate::output::Output;

/// Arguments of `haul bench lookup`.
#[derive(Clone, Debug, Args)]
pub(crate) struct LookupArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// How often which blob is asked for
    #[arg(long, value_enum, default_value = "uniform")]
    keys: KeyChoice,
    /// Ask for this many different blobs only
    #[arg(long, value_name = "N")]
    hot: Option<u64>,
    /// Blobs in one request
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=limits::LOOKUP_KEYS as i64))]
    batch: u16,
    /// Connections, each a peer of its own
    #[arg(long, value_name = "N", default_value_t = 4)]
    connections: u32,
    /// Unanswered requests on each connection
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=250))]
    in_flight: u16,
    /// Open loop: so many requests per second in all, at times fixed beforehand; latency counts from these times
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// How long to measure
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    seconds: f64,
    /// How long to run before
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    warm_up: f64,
    /// Different requests, made beforehand and sent in turn
    #[arg(long, value_name = "N", default_value_t = 32_768)]
    pool: usize,
    /// Ask a null server (bench serve null) instead: ADDRESS@KEY; its answers cannot be checked
    #[arg(long, value_name = "ADDRESS@KEY")]
    null: Option<String>,
}

/// Requests, encoded once, with what must come back.
struct Pool {
    requests: Vec<(bytes::Bytes, Vec<Asked>)>,
}

impl Pool {
    fn new(args: &LookupArgs, checker: &Checker, population: &Population) -> Self {
        let mut keys = Keys::new(args.load.seed, args.keys, population.files(), args.hot);
        let one = |_| {
            let files: Vec<u64> = (0..args.batch).map(|_| keys.next_file()).collect();
            let (request, asked) = checker.locate(&files);
            (bytes::Bytes::from(wire::encode(&request)), asked)
        };
        Self { requests: (0..args.pool.max(1)).map(one).collect() }
    }

    fn get(&self, number: usize) -> Option<&(bytes::Bytes, Vec<Asked>)> {
        self.requests.get(number % self.requests.len().max(1))
    }
}

/// Runs it.
pub(crate) async fn run(args: &LookupArgs, index: Option<&str>, output: &Output) -> anyhow::Result<()> {
    let setting = Setting::new(&args.load, index)?;
    let mut outcome = args.load.outcome("lookup", &setting.population);
    outcome.parameter("keys", format!("{:?}", args.keys).to_lowercase());
    outcome.parameter("hot", args.hot);
    outcome.parameter("batch", args.batch);
    outcome.parameter("connections", args.connections);
    outcome.parameter("in_flight", args.in_flight);
    outcome.parameter("rate", args.rate);
    outcome.parameter("null", args.null.is_some());
    let pool = Arc::new(Pool::new(args, &setting.checker, &setting.population));
    let _peers = if args.load.with_peers { Some(bring_back(&setting, args.load.groups).await?) } else { None };
    let (askers, _renewals) = if let Some(null) = &args.null {
        (strangers(null, args.connections).await?, None)
    } else {
        let members = setting.askers.enter_all(0, args.connections).await.context("connecting")?;
        let renewals = Renewals::start(&members);
        (members.into_iter().map(|member| Arc::new(member.into_session())).collect(), Some(renewals))
    };
    let run = Run { pool, checker: Arc::clone(&setting.checker), askers, args };
    run.measure(Duration::from_secs_f64(args.warm_up)).await.context("warming up")?;
    let gauge = Gauge::start(args.load.server_pid);
    let (latencies, answer_bytes) = run.measure(Duration::from_secs_f64(args.seconds)).await?;
    let spent = gauge.spent();
    let requests = latencies.count() as f64;
    outcome.cost("requests", requests, &spent);
    outcome.cost("lookups", requests * f64::from(args.batch), &spent);
    outcome.figure("answer_bytes_per_lookup", answer_bytes as f64 / requests / f64::from(args.batch));
    outcome.latency(if args.rate.is_some() { "open_loop" } else { "closed_loop" }, &latencies);
    args.load.finish(&outcome, output)
}

/// Connections to a null server.
pub(super) async fn strangers(null: &str, count: u32) -> anyhow::Result<Vec<Arc<Session>>> {
    let (address, key) = null.rsplit_once('@').context("--null takes ADDRESS@KEY")?;
    let expect = key.parse()?;
    let mut askers = Vec::new();
    for _ in 0..count {
        askers.push(Arc::new(Session::connect(address, &SecretKey::generate()?, Some(expect)).await?));
    }
    Ok(askers)
}

struct Run<'a> {
    pool: Arc<Pool>,
    checker: Arc<Checker>,
    askers: Vec<Arc<Session>>,
    args: &'a LookupArgs,
}

/// Latencies of requests, and bytes of their answers.
type Measured = (Histogram, u64);

impl Run<'_> {
    async fn measure(&self, length: Duration) -> anyhow::Result<Measured> {
        match self.args.rate {
            Some(rate) => self.open_loop(rate, length).await,
            None => self.closed_loop(length).await,
        }
    }

    /// Each connection keeps so many requests unanswered until the time is over.
    async fn closed_loop(&self, length: Duration) -> anyhow::Result<Measured> {
        let end = Instant::now() + length;
        let step = self.pool.requests.len() / self.askers.len().max(1);
        let tasks = self.askers.iter().enumerate().map(|(number, asker)| {
            let worker = self.worker(asker);
            let (first, in_flight) = (number * step, usize::from(self.args.in_flight));
            tokio::spawn(async move {
                let lanes = (0..in_flight).map(|lane| worker.lane(first + lane, in_flight, end));
                try_join_all(lanes).await
            })
        });
        let mut all = (Histogram::default(), 0);
        for measured in try_join_all(tasks).await? {
            measured?.into_iter().for_each(|one| absorb(&mut all, &one));
        }
        Ok(all)
    }

    /// Requests are sent when they are due, whether others are answered or not.
    async fn open_loop(&self, rate: f64, length: Duration) -> anyhow::Result<Measured> {
        let times = pace::schedule(self.args.load.seed, rate, length);
        let (done, mut answers) = mpsc::unbounded_channel();
        let start = Instant::now();
        let sent = times.len();
        for (number, at) in times.into_iter().enumerate() {
            let due = start + at;
            // The clock of the runtime is coarse: what is due within a millisecond is sent at once, late by less than
            // its own latency counts.
            if due > Instant::now() {
                tokio::time::sleep_until(due.into()).await;
            }
            let asker = self.askers.get(number % self.askers.len().max(1)).context("no connection")?;
            let (worker, done) = (self.worker(asker), done.clone());
            tokio::spawn(async move {
                let answer = worker.ask(number).await;
                let _ = done.send(answer.map(|bytes| (due.elapsed().as_nanos() as u64, bytes)));
            });
        }
        drop(done);
        let mut all = (Histogram::default(), 0);
        while let Some(answer) = answers.recv().await {
            let (nanos, bytes) = answer?;
            all.0.add(nanos);
            all.1 += bytes;
        }
        ensure!(all.0.count() as usize == sent, "{} answers to {sent} requests", all.0.count());
        Ok(all)
    }

    fn worker(&self, asker: &Arc<Session>) -> Worker {
        Worker {
            session: Arc::clone(asker),
            checked: self.args.null.is_none(),
            pool: Arc::clone(&self.pool),
            checker: Arc::clone(&self.checker),
        }
    }
}

fn absorb(all: &mut Measured, one: &Measured) {
    all.0.absorb(&one.0);
    all.1 += one.1;
}

/// One connection as its requests see it.
struct Worker {
    session: Arc<Session>,
    checked: bool,
    pool: Arc<Pool>,
    checker: Arc<Checker>,
}

impl Worker {
    /// One request after the other.
    async fn lane(&self, first: usize, step: usize, end: Instant) -> anyhow::Result<Measured> {
        let mut measured = (Histogram::default(), 0);
        let mut number = first;
        let mut sent = Instant::now();
        while sent < end {
            measured.1 += self.ask(number).await?;
            let now = Instant::now();
            measured.0.add((now - sent).as_nanos() as u64);
            sent = now;
            number += step;
        }
        Ok(measured)
    }

    /// Asks and checks; gives the bytes of the answer.
    async fn ask(&self, number: usize) -> anyhow::Result<u64> {
        let (request, asked) = self.pool.get(number).context("no requests")?;
        let body = self.session.connection().request_encoded(request.clone()).await?;
        if self.checked {
            match wire::decode::<IndexAnswer>(&body)? {
                IndexAnswer::Refused(refusal) => bail!("refused: {refusal:?}"),
                answer => self.checker.check(&self.session, asked, answer).await?,
            }
        }
        Ok(body.len() as u64)
    }
}
