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
use tokio::sync::{mpsc, watch};

use super::super::session::Session;
use super::checks::{Asked, Checker};
use super::crowd::Renewals;
use super::gauge::Gauge;
use super::keys::{KeyChoice, Keys};
use super::pace::{self, wait_until};
use super::returning::bring_back;
use super::timing::Histogram;
use super::{LoadArgs, Setting};
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
    #[arg(long, value_name = "N", default_value_t = POOL)]
    pool: usize,
    /// Ask a null server (bench serve null) instead: ADDRESS@KEY; its answers cannot be checked
    #[arg(long, value_name = "ADDRESS@KEY")]
    null: Option<String>,
}

/// Requests, encoded once, with what must come back.
pub(super) struct Pool {
    requests: Vec<(bytes::Bytes, Vec<Asked>)>,
}

/// Different requests unless somebody says otherwise.
const POOL: usize = 32_768;

impl Pool {
    fn new(mut keys: Keys, batch: usize, count: usize, checker: &Checker) -> Self {
        let one = |_| {
            let files: Vec<u64> = (0..batch).map(|_| keys.next_file()).collect();
            let (request, asked) = checker.locate(&files);
            (bytes::Bytes::from(wire::encode(&request)), asked)
        };
        Self { requests: (0..count.max(1)).map(one).collect() }
    }

    /// Asks for all blobs alike.
    pub(super) fn uniform(seed: u64, batch: usize, setting: &Setting) -> Self {
        let keys = Keys::new(seed, KeyChoice::Uniform, setting.population.files(), None);
        Self::new(keys, batch, POOL, &setting.checker)
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
    let keys = Keys::new(args.load.seed, args.keys, setting.population.files(), args.hot);
    let pool = Pool::new(keys, usize::from(args.batch), args.pool, &setting.checker);
    let _peers = if args.load.with_peers { Some(bring_back(&setting, &args.load).await?) } else { None };
    let (askers, _renewals) = if let Some(null) = &args.null {
        (strangers(null, args.connections).await?, None)
    } else {
        let members = setting.askers.enter_all(0, args.connections).await.context("connecting")?;
        let renewals = Renewals::start(&members);
        (members.into_iter().map(|member| Arc::new(member.into_session())).collect(), Some(renewals))
    };
    let load = Load::new(pool, &setting.checker, askers, args.null.is_none());
    measure(&load, args, args.warm_up).await.context("warming up")?;
    let gauge = Gauge::start(args.load.server_pid);
    let (latencies, answer_bytes) = measure(&load, args, args.seconds).await?;
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

async fn measure(load: &Load, args: &LookupArgs, seconds: f64) -> anyhow::Result<Measured> {
    let length = Duration::from_secs_f64(seconds);
    let Some(rate) = args.rate else { return load.closed_loop(usize::from(args.in_flight), length).await };
    let mut all = (Histogram::default(), 0);
    for answer in load.open_loop(rate, length, args.load.seed, None).await? {
        all.0.add(answer.nanos);
        all.1 += answer.bytes;
    }
    Ok(all)
}

/// Connections and what they ask.
pub(super) struct Load {
    pool: Arc<Pool>,
    checker: Arc<Checker>,
    askers: Vec<Arc<Session>>,
    checked: bool,
}

/// Latencies of requests, and bytes of their answers.
type Measured = (Histogram, u64);

/// An answer of an open loop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answered {
    /// When its request was due, from the start.
    pub(super) due: Duration,
    /// From then to the checked answer.
    pub(super) nanos: u64,
    bytes: u64,
}

impl Load {
    /// Answers are compared with the population if `compare`.
    pub(super) fn new(pool: Pool, checker: &Arc<Checker>, askers: Vec<Arc<Session>>, compare: bool) -> Self {
        Self { pool: Arc::new(pool), checker: Arc::clone(checker), askers, checked: compare }
    }

    /// Each connection keeps so many requests unanswered until the time is over.
    async fn closed_loop(&self, in_flight: usize, length: Duration) -> anyhow::Result<Measured> {
        let end = Instant::now() + length;
        let step = self.pool.requests.len() / self.askers.len().max(1);
        let tasks = self.askers.iter().enumerate().map(|(number, asker)| {
            let worker = self.worker(asker);
            let first = number * step;
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

    /// Requests are sent when they are due, whether others are answered or not. Once `stop` says so no more are sent.
    pub(super) async fn open_loop(
        &self,
        rate: f64,
        length: Duration,
        seed: u64,
        stop: Option<watch::Receiver<bool>>,
    ) -> anyhow::Result<Vec<Answered>> {
        let times = pace::schedule(seed, rate, length);
        let (done, mut answers) = mpsc::unbounded_channel();
        let start = Instant::now();
        let mut sent = 0;
        for (number, due) in times.into_iter().enumerate() {
            let at = start + due;
            wait_until(at).await;
            if stop.as_ref().is_some_and(|stop| *stop.borrow()) {
                break;
            }
            let session = self.askers.get(number % self.askers.len().max(1)).context("no connection")?;
            let (worker, done) = (self.worker(session), done.clone());
            tokio::spawn(async move {
                let answer = worker.ask(number).await;
                let nanos = at.elapsed().as_nanos() as u64;
                let _ = done.send(answer.map(|bytes| Answered { due, nanos, bytes }));
            });
            sent += 1;
        }
        drop(done);
        let mut all = Vec::with_capacity(sent);
        while let Some(answer) = answers.recv().await {
            all.push(answer?);
        }
        ensure!(all.len() == sent, "{} answers to {sent} requests", all.len());
        Ok(all)
    }

    fn worker(&self, asker: &Arc<Session>) -> Worker {
        Worker {
            session: Arc::clone(asker),
            checked: self.checked,
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
