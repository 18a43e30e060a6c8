//! `haul bench churn`: what it costs that peers leave and come back unchanged, and what memory is left after all
//! entries have been replaced several times.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use haul_core::wire::index::{IndexAnswer, IndexRequest};

use super::crowd::Member;
use super::gauge::Gauge;
use super::keys::Dice;
use super::returning::{Offer, bring_back};
use super::timing::Histogram;
use super::{LoadArgs, Outcome, Setting, turnover};
use crate::output::Output;

/// A peer whose files are still shown this long after it left counts as an error.
const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of `haul bench churn`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ChurnArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// Peers that leave and return, one after the other
    #[arg(long, value_name = "N", default_value_t = 200)]
    events: u32,
    /// How often one share is hidden and shown again on one connection
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    reopenings: u32,
    /// Instead: register everything, then replace all entries so many times; memory is read all the time
    #[arg(long, value_name = "N")]
    turnovers: Option<u64>,
}

/// Runs it.
pub(crate) async fn run(args: &ChurnArgs, index: Option<&str>, output: &Output) -> anyhow::Result<()> {
    let setting = Setting::new(&args.load, index)?;
    let mut outcome = args.load.outcome("churn", &setting.population);
    match args.turnovers {
        Some(turnovers) => turnover::run(&setting, &args.load, turnovers, &mut outcome).await?,
        None => leave_and_return(&setting, args, &mut outcome).await?,
    }
    args.load.finish(&outcome, output)
}

async fn leave_and_return(setting: &Setting, args: &ChurnArgs, outcome: &mut Outcome) -> anyhow::Result<()> {
    let observer = setting.askers.enter(0).await?;
    let returned = bring_back(setting, &args.load).await?;
    let _renewals = returned.renewals;
    let mut peers = returned.peers;
    let (member, offer) = peers.first().context("there is a peer")?;
    reopen(member, offer, args, outcome).await?;
    let mut times = Times::default();
    let mut dice = Dice::new(args.load.seed);
    let gauge = Gauge::start(args.load.server_pid);
    for _ in 0..args.events {
        let place = dice.below(peers.len() as u64) as usize;
        let (member, offer) = peers.swap_remove(place);
        let member = times.event(setting, &observer, member, &offer).await?;
        peers.push((member, offer));
    }
    outcome.cost("leave_and_return_with_handshake", f64::from(args.events), &gauge.spent());
    times.tell(outcome);
    Ok(())
}

/// Close and Open of one unchanged share, many times: what the index spends on them, and the bytes of their frames.
async fn reopen(member: &Member, offer: &Offer, args: &ChurnArgs, outcome: &mut Outcome) -> anyhow::Result<()> {
    let close = IndexRequest::Close { share: offer.share(), forget: false };
    let before = member.session().connection().traffic();
    offer.open(member).await?;
    let after = member.session().connection().traffic();
    outcome.figure("return_frame_bytes_up", (after.bytes_out - before.bytes_out) as f64);
    outcome.figure("return_frame_bytes_down", (after.bytes_in - before.bytes_in) as f64);
    let gauge = Gauge::start(args.load.server_pid);
    for _ in 0..args.reopenings {
        match member.session().ask(&close).await? {
            IndexAnswer::Closed => offer.open(member).await?,
            other => bail!("not an answer to Close: {other:?}"),
        }
    }
    outcome.cost("hide_and_show", f64::from(args.reopenings), &gauge.spent());
    Ok(())
}

#[derive(Default)]
struct Times {
    invisible: Histogram,
    handshake: Histogram,
    shown: Histogram,
    session_bytes: Vec<f64>,
}

impl Times {
    async fn event(
        &mut self,
        setting: &Setting,
        observer: &Member,
        member: Member,
        offer: &Offer,
    ) -> anyhow::Result<Member> {
        let number = member.number();
        // The last file of the block has no copies elsewhere.
        let file = u64::from(number + 1) * u64::from(setting.population.block()) - 1;
        ensure!(setting.population.holder_count(file) == 1, "with so few files or so many copies nothing is alone");
        let (request, _) = setting.checker.locate(&[file]);
        ensure!(shown(observer, &request).await?, "a file of peer {number} is not shown before it leaves");
        let closing = Instant::now();
        let leaving = tokio::spawn(member.vanish());
        while shown(observer, &request).await? {
            ensure!(closing.elapsed() < PATIENCE, "peer {number} left and is still shown");
        }
        self.invisible.add(closing.elapsed().as_nanos() as u64);
        let gone = leaving.await?;
        let begun = Instant::now();
        let member = setting.peers.enter_again(gone).await?;
        self.handshake.add(begun.elapsed().as_nanos() as u64);
        let opening = Instant::now();
        offer.open(&member).await?;
        self.shown.add(opening.elapsed().as_nanos() as u64);
        ensure!(shown(observer, &request).await?, "a file of peer {number} is not shown after it returned");
        let traffic = member.session().connection().traffic();
        self.session_bytes.push((traffic.bytes_in + traffic.bytes_out) as f64);
        Ok(member)
    }

    fn tell(self, outcome: &mut Outcome) {
        outcome.latency("until_invisible", &self.invisible);
        outcome.latency("handshake_and_hello", &self.handshake);
        outcome.latency("open_until_shown", &self.shown);
        let count = self.session_bytes.len().max(1) as f64;
        outcome.figure("return_bytes_with_hello", self.session_bytes.iter().sum::<f64>() / count);
        outcome.samples("return_bytes_with_hello", self.session_bytes);
    }
}

async fn shown(observer: &Member, request: &IndexRequest) -> anyhow::Result<bool> {
    match observer.session().ask(request).await? {
        IndexAnswer::Located(located) => Ok(!located.peers_of(0).is_empty()),
        other => bail!("not an answer to Locate: {other:?}"),
    }
}
