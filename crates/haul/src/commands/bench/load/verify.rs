//! `haul bench verify`: after a restart, how soon an index answers, how soon exactly, and whether anything that it
//! acknowledged is lost.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueHint};
use haul_core::wire::index::IndexAnswer;

use super::crowd::{Door, Member};
use super::keys::Dice;
use super::population::Population;
use super::registering::{Held, held};
use super::returning::{Offer, bring_back, newest};
use super::{LoadArgs, Outcome, PEERS, Setting};
use crate::output::Output;

/// Pause between attempts to connect, and between looks for the file that says that the index starts.
const RETRY: Duration = Duration::from_millis(2);
/// The index is started within this time.
const START_LIMIT: Duration = Duration::from_mins(10);

/// Arguments of `haul bench verify`.
#[derive(Clone, Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// Entries that are looked up and searched in each pass
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    samples: u32,
    /// Give up if not all is exact after this many seconds
    #[arg(long, value_name = "S", default_value_t = 90.0)]
    patience: f64,
    /// A file that appears when the index is started and says when, in seconds since 1970; nobody is asked before
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    since_file: PathBuf,
    /// The journal of a registration that was cut off (register --journal): all of it must be there
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "journal_seed")]
    journal: Option<PathBuf>,
    /// The seed of that registration, which had the same number of peers
    #[arg(long, value_name = "N")]
    journal_seed: Option<u64>,
}

/// Files in one lookup.
const LOCATED_TOGETHER: usize = 64;

/// Answers of one pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pass {
    exact: u32,
    /// Incomplete, and said to be so.
    marked: u32,
    wrong: u32,
}

impl Pass {
    fn add(&mut self, other: Self) {
        self.exact += other.exact;
        self.marked += other.marked;
        self.wrong += other.wrong;
    }
}

/// Runs it.
pub(crate) async fn run(args: &VerifyArgs, index: Option<&str>, output: &Output) -> anyhow::Result<()> {
    let setting = Setting::new(&args.load, index)?;
    let mut outcome = args.load.outcome("verify", &setting.population);
    outcome.parameter("samples", args.samples);
    let files = sampled(&setting, args);
    let started = started(args).await?;
    let since =
        || Ok::<_, anyhow::Error>(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64() - started);
    let asker = loop {
        match setting.askers.enter(0).await {
            Ok(asker) => break asker,
            Err(error) if since()? > args.patience => return Err(error.context("the index does not answer")),
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    };
    outcome.figure("connected_s", since()?);
    let _peers = if args.load.with_peers { Some(bring_back(&setting, &args.load).await?) } else { None };
    let mut all = Pass::default();
    let (mut passes, mut first_good) = (0_u32, None);
    let exact_from = loop {
        let began = since()?;
        ensure!(began < args.patience, "after {began:.1} s not all answers are exact: {all:?}");
        let mut pass = Pass::default();
        for files in files.chunks(LOCATED_TOGETHER) {
            pass.add(locate(&setting, &asker, files).await?);
            for file in files {
                pass.add(search(&setting, &asker, *file).await?);
                if pass.wrong == 0 && first_good.is_none() {
                    first_good = Some(since()?);
                }
            }
        }
        passes += 1;
        all.add(pass);
        if pass.wrong == 0 && pass.marked == 0 {
            break began;
        }
    };
    outcome.figure("first_good_s", first_good.unwrap_or_default());
    outcome.figure("exact_from_s", exact_from);
    outcome.figure("answers_exact", f64::from(all.exact));
    outcome.figure("answers_marked_partial", f64::from(all.marked));
    outcome.figure("answers_wrong", f64::from(all.wrong));
    outcome.figure("passes", f64::from(passes));
    if let (Some(journal), Some(seed)) = (&args.journal, args.journal_seed) {
        check_journal(&fs::read_to_string(journal)?, seed, &setting, args, &mut outcome).await?;
    }
    args.load.finish(&outcome, output)
}

/// Waits for the file that says when the index was started.
async fn started(args: &VerifyArgs) -> anyhow::Result<f64> {
    let limit = std::time::Instant::now() + START_LIMIT;
    loop {
        match fs::read_to_string(&args.since_file) {
            Ok(text) => return text.trim().parse().context("the file of --since-file holds no number"),
            Err(_) if std::time::Instant::now() < limit => tokio::time::sleep(RETRY).await,
            Err(error) => return Err(error).context("the index was not started"),
        }
    }
}

/// Files whose names can be searched and are hardly common, so that each is looked up and searched.
fn sampled(setting: &Setting, args: &VerifyArgs) -> Vec<u64> {
    let mut dice = Dice::new(args.load.seed ^ 0x7e57);
    let throws = (0..u64::from(args.samples) * 50).map(|_| dice.below(setting.population.files()));
    throws.filter(|file| setting.checker.is_telling(*file)).take(args.samples as usize).collect()
}

/// Looks several files up at once; one wrong answer makes all of this request wrong.
async fn locate(setting: &Setting, asker: &Member, files: &[u64]) -> anyhow::Result<Pass> {
    let (checker, count) = (&setting.checker, files.len() as u32);
    let (request, expected) = checker.locate(files);
    let answer = asker.session().ask(&request).await?;
    let marked = matches!(&answer, IndexAnswer::Located(located) if located.coverage_permille < 1_000);
    if checker.check(asker.session(), &expected, answer).await.is_ok() {
        return Ok(Pass { exact: count, ..Pass::default() });
    }
    Ok(if marked { Pass { marked: count, ..Pass::default() } } else { Pass { wrong: count, ..Pass::default() } })
}

async fn search(setting: &Setting, asker: &Member, file: u64) -> anyhow::Result<Pass> {
    let IndexAnswer::Hits(hits) = asker.session().ask(&setting.checker.search_for(file)).await? else {
        bail!("not an answer to Search");
    };
    let marked = !hits.exact || hits.coverage_permille < 1_000;
    Ok(match (setting.checker.found(file, &hits).is_ok(), marked) {
        (true, _) => Pass { exact: 1, ..Pass::default() },
        (false, true) => Pass { marked: 1, ..Pass::default() },
        (false, false) => Pass { wrong: 1, ..Pass::default() },
    })
}

/// Every peer of the journal comes back and offers its newest acknowledged state: the index has that or a newer one.
async fn check_journal(
    journal: &str,
    seed: u64,
    setting: &Setting,
    args: &VerifyArgs,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let states = newest(journal)?;
    let population = Population::new(seed, args.load.peers, args.load.files_per_peer, args.load.copies);
    let population = std::sync::Arc::new(population.map_err(|reason| anyhow::anyhow!(reason))?);
    let door = Door::new(setting.peers.ticket().clone(), population.clone(), PEERS);
    let (mut same, mut newer, mut lost) = (0_u32, 0_u32, 0_u32);
    for (peer, state) in &states {
        let member = door.enter(*peer).await?;
        let offer = Offer::of(population.share(*peer), super::registering::group(*peer, args.load.groups), *state);
        match held(&member.session().ask(&offer.request()).await?)? {
            Held::Same => same += 1,
            Held::Other(found) if found.revision > state.revision => newer += 1,
            Held::Other(_) | Held::Nothing => lost += 1,
        }
    }
    outcome.figure("acknowledged_peers", states.len() as f64);
    outcome.figure("acknowledged_same", f64::from(same));
    outcome.figure("acknowledged_newer", f64::from(newer));
    outcome.figure("acknowledged_lost", f64::from(lost));
    ensure!(lost == 0, "{lost} of {} acknowledged shares are lost", states.len());
    Ok(())
}
