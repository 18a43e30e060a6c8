//! `haul bench count`: how many files have a common word in their names, exactly.

use std::time::Instant;

use anyhow::{Context as _, bail};
use clap::Args;
use haul_core::query::parse;
use haul_core::wire::index::{Hits, IndexAnswer, IndexRequest};

use super::crowd::Member;
use super::gauge::Gauge;
use super::returning::bring_back;
use super::timing::Histogram;
use super::{LoadArgs, Setting, oracle, queries};
use crate::output::Output;

/// Arguments of `haul bench count`.
#[derive(Clone, Debug, Args)]
pub(crate) struct CountArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// Take the common word whose number of files is nearest to this
    #[arg(long, value_name = "N", default_value_t = 42_000)]
    near: u64,
    /// How often to ask
    #[arg(long, value_name = "N", default_value_t = 200)]
    times: u32,
}

/// Runs it.
pub(crate) async fn run(args: &CountArgs, index: Option<&str>, output: &Output) -> anyhow::Result<()> {
    let setting = Setting::new(&args.load, index)?;
    let mut outcome = args.load.outcome("count", &setting.population);
    let asker = setting.askers.enter(0).await?;
    let _peers = if args.load.with_peers { Some(bring_back(&setting, &args.load).await?) } else { None };
    let words = queries::common_words(args.load.seed, &setting.population, &setting.paths);
    let text = |word: &String| format!("name:{word} type:file");
    let parsed = words.iter().map(|word| parse(&text(word))).collect::<Result<Vec<_>, _>>()?;
    let truths = oracle::scan(&parsed, &setting.population, &setting.paths);
    let nearest = words.iter().zip(&truths).min_by_key(|(_, truth)| truth.files.abs_diff(args.near));
    let (word, truth) = nearest.context("no common word")?;
    outcome.parameter("word", word.as_str());
    outcome.figure("true_count", truth.files as f64);
    let request = IndexRequest::Search { query: text(word), limit: 1, cursor: None, away: false, exact: true };
    let (mut client, mut server) = (Histogram::default(), Histogram::default());
    let gauge = Gauge::start(args.load.server_pid);
    let mut last = Hits::default();
    for _ in 0..args.times {
        let begun = Instant::now();
        last = ask(&asker, &request).await?;
        client.add(begun.elapsed().as_nanos() as u64);
        server.add(last.index_us * 1_000);
    }
    outcome.cost("counts", f64::from(args.times), &gauge.spent());
    outcome.figure("counted", last.total as f64);
    outcome.figure("said_to_be_exact", f64::from(u8::from(last.exact)));
    if last.exact && last.total != truth.files {
        bail!("{word}: {} files counted and said to be exact; there are {}", last.total, truth.files);
    }
    if !last.exact {
        outcome.remark("the index says that its count is not exact");
    }
    outcome.latency("client", &client);
    outcome.latency("server", &server);
    args.load.finish(&outcome, output)
}

async fn ask(asker: &Member, request: &IndexRequest) -> anyhow::Result<Hits> {
    match asker.session().ask(request).await? {
        IndexAnswer::Hits(hits) => Ok(hits),
        other => bail!("not an answer to Search: {other:?}"),
    }
}
