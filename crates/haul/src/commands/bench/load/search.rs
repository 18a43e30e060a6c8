//! `haul bench search`: queries cut from real names, the index's own time and the asker's.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueHint};
use haul_core::limits;
use haul_core::query::{Query, parse};
use haul_core::wire;
use haul_core::wire::index::{Hits, IndexAnswer, IndexRequest};

use super::super::session::Session;
use super::crowd::Renewals;
use super::gauge::Gauge;
use super::keys::Dice;
use super::lookup::strangers;
use super::oracle::Truth;
use super::pace::{self, wait_until};
use super::queries::{CLASSES, Case, Class};
use super::returning::{Churn, bring_back};
use super::timing::Histogram;
use super::{LoadArgs, Outcome, Setting, oracle, queries};
use crate::output::Output;

/// Arguments of `haul bench search`.
#[derive(Clone, Debug, Args)]
pub(crate) struct SearchArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// Queries of each class
    #[arg(long, value_name = "N", default_value_t = 30)]
    per_class: usize,
    /// How often all queries are asked, each time in another order
    #[arg(long, value_name = "N", default_value_t = 10)]
    rounds: u64,
    /// Hits of an answer at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=limits::SEARCH_HITS as i64))]
    limit: u32,
    /// Words may match directory parts too, if too few names fit; otherwise base names only, as with `plocate -b`
    #[arg(long)]
    anywhere: bool,
    /// Open loop: so many queries per second, at times fixed beforehand; latency counts from these times
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// All peers come here, and this percentage of them leaves and returns in every second
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    churn: f64,
    /// Do not compare answers with a scan of all names
    #[arg(long)]
    unchecked: bool,
    /// Write the queries into this file, one per line: class, tab, words and filter as text
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    queries_out: Option<PathBuf>,
    /// Ask a null server (bench serve null) instead: ADDRESS@KEY
    #[arg(long, value_name = "ADDRESS@KEY")]
    null: Option<String>,
}

/// Runs it.
pub(crate) async fn run(args: &SearchArgs, index: Option<&str>, output: &Output) -> anyhow::Result<()> {
    let setting = Setting::new(&args.load, index)?;
    let mut outcome = args.load.outcome("search", &setting.population);
    outcome.parameter("limit", args.limit);
    outcome.parameter("anywhere", args.anywhere);
    outcome.parameter("rate", args.rate);
    outcome.parameter("churn_percent_per_second", args.churn);
    outcome.parameter("null", args.null.is_some());
    let cases = queries::cut(args.load.seed, args.per_class, &setting.population, &setting.paths);
    let set = Set::new(args, cases)?;
    let (session, _renewals) = if let Some(null) = &args.null {
        (strangers(null, 1).await?.pop().context("no connection")?, None)
    } else {
        let members = setting.askers.enter_all(0, 1).await?;
        let renewals = Renewals::start(&members);
        let member = members.into_iter().next().context("no connection")?;
        (Arc::new(member.into_session()), Some(renewals))
    };
    let with_peers = args.load.with_peers || args.churn > 0.0;
    let peers = if with_peers { Some(bring_back(&setting, &args.load).await?) } else { None };
    if args.null.is_none() && !args.unchecked {
        check(&set, &setting, &session, args, &mut outcome).await?;
    }
    set.publish(&mut outcome, args)?;
    // Peers that nobody disturbs stay until all is measured.
    let (churn, _resting) = match peers {
        Some(peers) if args.churn > 0.0 => {
            let per_second = f64::from(args.load.peers) * args.churn / 100.0;
            (Some(Churn::start(peers, setting.peers.clone(), per_second, args.load.seed)), None)
        }
        resting => (None, resting),
    };
    let measured = measure(&set, &session, args, &mut outcome).await?;
    if let Some(churn) = churn {
        outcome.figure("peers_left_and_returned", churn.stop().await? as f64);
    }
    measured.tell(&mut outcome);
    args.load.finish(&outcome, output)
}

/// The queries as they are asked.
struct Set {
    cases: Vec<Case>,
    parsed: Vec<Query>,
    requests: Vec<bytes::Bytes>,
}

impl Set {
    fn new(args: &SearchArgs, cases: Vec<Case>) -> anyhow::Result<Self> {
        let (mut parsed, mut requests) = (Vec::new(), Vec::new());
        for case in &cases {
            let query = case.text(!args.anywhere);
            parsed.push(parse(&query).with_context(|| format!("{query} does not parse"))?);
            let request = IndexRequest::Search { query, limit: args.limit, cursor: None, away: false, exact: false };
            requests.push(bytes::Bytes::from(wire::encode(&request)));
        }
        Ok(Self { cases, parsed, requests })
    }

    fn publish(&self, outcome: &mut Outcome, args: &SearchArgs) -> anyhow::Result<()> {
        for class in CLASSES {
            let of_class = self.cases.iter().filter(|case| case.class == class);
            outcome.texts(class.name(), of_class.map(|case| case.text(!args.anywhere)).collect());
        }
        if let Some(path) = &args.queries_out {
            let line = |case: &Case| {
                let filter = case.filter.clone().unwrap_or_default();
                format!("{}\t{}\t{filter}\n", case.class.name(), case.words.join(" "))
            };
            fs::write(path, self.cases.iter().map(line).collect::<String>())
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

async fn ask(session: &Session, request: &bytes::Bytes) -> anyhow::Result<IndexAnswer> {
    match wire::decode(&session.connection().request_encoded(request.clone()).await?)? {
        IndexAnswer::Refused(refusal) => bail!("refused: {refusal:?}"),
        answer => Ok(answer),
    }
}

async fn hits(session: &Session, request: &bytes::Bytes) -> anyhow::Result<Hits> {
    match ask(session, request).await? {
        IndexAnswer::Hits(hits) => Ok(hits),
        other => bail!("not an answer to Search: {other:?}"),
    }
}

/// Compares the answer to every query with a scan of all names. With words that may match directory parts, only the
/// hits themselves can be told wrong.
async fn check(
    set: &Set,
    setting: &Setting,
    session: &Session,
    args: &SearchArgs,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let truths = oracle::scan(&set.parsed, &setting.population, &setting.paths);
    let mut counts: BTreeMap<(&str, Class), Vec<f64>> = BTreeMap::new();
    let mut cut_short = 0;
    for (((case, query), request), truth) in set.cases.iter().zip(&set.parsed).zip(&set.requests).zip(&truths) {
        let hits = hits(session, request).await?;
        for (what, files) in [("matching_files", truth.files), ("matching_ascii_files", truth.ascii_files)] {
            counts.entry((what, case.class)).or_default().push(files as f64);
        }
        cut_short += u64::from(!hits.exact && hits.hits.len() < args.limit as usize);
        if !args.anywhere && (hits.exact || hits.hits.len() == args.limit as usize) {
            let right = oracle::check(query, args.limit as usize, truth, &hits);
            right.with_context(|| format!("the answer to {}", case.text(true)))?;
        }
    }
    let unexpected = truths.iter().zip(&set.cases);
    let unexpected = unexpected.filter(|(truth, case)| case.class == Class::NoHit && truth.files > 0).count();
    if unexpected > 0 {
        outcome.remark(format!("{unexpected} queries of no_hit match something"));
    }
    if cut_short > 0 {
        outcome.remark(format!("{cut_short} answers were cut short by the query's budget and not compared"));
    }
    for ((what, class), counts) in counts {
        outcome.samples(&format!("{what}_{}", class.name()), counts);
    }
    outcome.figure("checked_queries", set.cases.len() as f64);
    let exact: u64 = truths.iter().map(|truth: &Truth| truth.files).sum();
    outcome.figure("matching_files", exact as f64);
    Ok(())
}

/// Times by class.
#[derive(Default)]
struct Measured {
    client: BTreeMap<Class, Histogram>,
    server: BTreeMap<Class, Histogram>,
    hits: u64,
    examined: u64,
}

impl Measured {
    fn add(&mut self, class: Class, client: Duration, answer: &IndexAnswer) {
        self.client.entry(class).or_default().add(client.as_nanos() as u64);
        if let IndexAnswer::Hits(hits) = answer {
            self.server.entry(class).or_default().add(hits.index_us * 1_000);
            self.hits += hits.hits.len() as u64;
            self.examined += hits.examined;
        }
    }

    fn tell(&self, outcome: &mut Outcome) {
        for (side, times) in [("client", &self.client), ("server", &self.server)] {
            let mut all = Histogram::default();
            for (class, histogram) in times {
                all.absorb(histogram);
                outcome.latency(&format!("{side}_{}", class.name()), histogram);
            }
            if all.count() > 0 {
                outcome.latency(&format!("{side}_all"), &all);
            }
        }
        outcome.figure("hits", self.hits as f64);
        outcome.figure("examined", self.examined as f64);
    }
}

/// All queries, `rounds` times, each time shuffled.
async fn measure(
    set: &Set,
    session: &Arc<Session>,
    args: &SearchArgs,
    outcome: &mut Outcome,
) -> anyhow::Result<Measured> {
    let order = order(set.cases.len(), args.rounds, args.load.seed);
    for request in &set.requests {
        ask(session, request).await.context("warming up")?;
    }
    let gauge = Gauge::start(args.load.server_pid);
    let measured = match args.rate {
        None => one_by_one(set, session, &order).await?,
        Some(rate) => open_loop(set, session, &order, rate, args.load.seed).await?,
    };
    outcome.cost("queries", order.len() as f64, &gauge.spent());
    Ok(measured)
}

async fn one_by_one(set: &Set, session: &Session, order: &[usize]) -> anyhow::Result<Measured> {
    let mut measured = Measured::default();
    for number in order {
        let (case, request) = set.cases.get(*number).zip(set.requests.get(*number)).context("no such query")?;
        let begun = Instant::now();
        let body = session.connection().request_encoded(request.clone()).await?;
        let time = begun.elapsed();
        measured.add(case.class, time, &refused(wire::decode(&body)?)?);
    }
    Ok(measured)
}

async fn open_loop(
    set: &Set,
    session: &Arc<Session>,
    order: &[usize],
    rate: f64,
    seed: u64,
) -> anyhow::Result<Measured> {
    let length = Duration::from_secs_f64(order.len() as f64 / rate);
    let times = pace::schedule(seed, rate, length);
    let (done, mut answers) = tokio::sync::mpsc::unbounded_channel();
    let (start, expected) = (Instant::now(), times.len());
    for (at, number) in times.into_iter().zip(order.iter().cycle()) {
        let due = start + at;
        wait_until(due).await;
        let (case, request) = set.cases.get(*number).zip(set.requests.get(*number)).context("no such query")?;
        let (session, request, class, done) = (Arc::clone(session), request.clone(), case.class, done.clone());
        tokio::spawn(async move {
            let body = session.connection().request_encoded(request).await;
            let _ = done.send((class, due.elapsed(), body));
        });
    }
    drop(done);
    let (mut measured, mut received) = (Measured::default(), 0);
    while let Some((class, time, body)) = answers.recv().await {
        measured.add(class, time, &refused(wire::decode(&body?)?)?);
        received += 1;
    }
    ensure!(received == expected, "{received} answers to {expected} queries");
    Ok(measured)
}

fn refused(answer: IndexAnswer) -> anyhow::Result<IndexAnswer> {
    match answer {
        IndexAnswer::Refused(refusal) => bail!("refused: {refusal:?}"),
        answer => Ok(answer),
    }
}

/// `rounds` shuffles of `0..count`, one behind the other.
fn order(count: usize, rounds: u64, seed: u64) -> Vec<usize> {
    let mut order = Vec::new();
    for round in 0..rounds {
        let mut dice = Dice::new(seed ^ round << 16);
        let mut numbers: Vec<usize> = (0..count).collect();
        for at in (1..count).rev() {
            numbers.swap(at, dice.below(at as u64 + 1) as usize);
        }
        order.extend(numbers);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_asks_everything_in_another_order() {
        let all = order(50, 3, 1);
        let rounds: Vec<&[usize]> = all.chunks(50).collect();
        assert_eq!(rounds.len(), 3);
        for round in &rounds {
            let mut sorted = round.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..50).collect::<Vec<_>>());
        }
        assert_ne!(rounds.first(), rounds.last());
    }
}
