//! `haul bench register`: many peers register their files, as on a first walk.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use clap::{Args, ValueHint};
use futures_util::future::BoxFuture;
use futures_util::stream;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use haul_core::manifest::ShareState;
use haul_core::wire::index::IndexAnswer;

use super::crowd::{Member, Renewals};
use super::gauge::{Gauge, Memory};
use super::keys::Dice;
use super::registering::{Held, Prepared, held};
use super::returning::Offer;
use super::timing::Histogram;
use super::{LoadArgs, Outcome, Setting};
use crate::output::Output;

/// Files that are looked up and searched at the moment when a checked peer's last commit is acknowledged.
const CHECKS_AT_ACK: u64 = 4;

/// Arguments of `haul bench register`.
#[derive(Clone, Debug, Args)]
pub(crate) struct RegisterArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// Peers that register at the same time
    #[arg(long, value_name = "N", default_value_t = 32)]
    at_once: usize,
    /// Peers whose files are asked for by another connection right after the acknowledgement
    #[arg(long, value_name = "N", default_value_t = 10)]
    checked_peers: u32,
    /// Files that are looked up and searched at the end
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    checks: u32,
    /// Stay connected afterwards, until standard input ends
    #[arg(long)]
    hold: bool,
    /// Append each acknowledged commit to this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    journal: Option<PathBuf>,
}

/// Runs it.
pub(crate) async fn run(args: &RegisterArgs, index: Option<&str>, output: &Output) -> anyhow::Result<()> {
    let setting = Setting::new(&args.load, index)?;
    let mut outcome = args.load.outcome("register", &setting.population);
    outcome.parameter("at_once", args.at_once as u64);
    let (members, asker) = {
        let gauge = Gauge::start(args.load.server_pid);
        let members = setting.peers.enter_all(0, args.load.peers).await.context("connecting")?;
        outcome.cost("connect", f64::from(args.load.peers), &gauge.spent());
        (members, setting.askers.enter(0).await?)
    };
    let _renewals = Renewals::start(&members);
    let before = args.load.server_pid.and_then(Memory::of);
    let registration = Registration { setting: &setting, args, asker: &asker, shared: Mutex::default() };
    registration.run(&members, &mut outcome).await?;
    if let (Some(before), Some(after)) = (before, args.load.server_pid.and_then(Memory::of)) {
        let entries = setting.population.entries() as f64;
        outcome.figure("memory_anonymous_bytes", after.anonymous as f64);
        outcome.figure("memory_resident_bytes", after.resident as f64);
        let grown = after.anonymous.saturating_sub(before.anonymous);
        outcome.figure("memory_anonymous_bytes_per_entry", grown as f64 / entries);
    }
    check_all(&setting, &asker, args.checks, &mut outcome).await?;
    args.load.finish(&outcome, output)?;
    if args.hold {
        tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink())).await??;
    }
    Ok(())
}

/// The registrations of all peers while they run.
struct Registration<'a> {
    setting: &'a Setting,
    args: &'a RegisterArgs,
    asker: &'a Member,
    shared: Mutex<Shared>,
}

#[derive(Default)]
struct Shared {
    commits: Histogram,
    checked: u64,
    journal: String,
}

impl Registration<'_> {
    async fn run(&self, members: &[Member], outcome: &mut Outcome) -> anyhow::Result<()> {
        let groups = self.args.load.groups;
        let prepare =
            |member: &Member| Prepared::new(&self.setting.population, &self.setting.paths, member.number(), groups);
        let prepared: Vec<Prepared> = members.iter().map(prepare).collect();
        outcome.figure("page_bytes", prepared.iter().map(Prepared::page_bytes).sum::<u64>() as f64);
        let gauge = Gauge::start(self.args.load.server_pid);
        let all = members.iter().zip(prepared);
        let all: Vec<BoxFuture<'_, _>> = all.map(|(member, own)| self.register(member, own).boxed()).collect();
        stream::iter(all).buffer_unordered(self.args.at_once.max(1)).try_collect::<Vec<()>>().await?;
        let acknowledged = gauge.spent();
        let entries = self.setting.population.entries() as f64;
        outcome.cost("registered", entries, &acknowledged);
        outcome.cost("settled", entries, &gauge.spent_until_quiet().await);
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.latency("commit", &shared.commits);
        outcome.figure("checked_at_ack", shared.checked as f64);
        Ok(())
    }

    async fn register(&self, member: &Member, prepared: Prepared) -> anyhow::Result<()> {
        let number = member.number();
        if held(&member.session().ask(&Offer::new(&prepared).request()).await?)? == Held::Same {
            // Registered by an earlier run: nothing is new.
            return Ok(());
        }
        let sent = prepared.send(member.session(), |state, nanos| self.committed(number, state, nanos));
        sent.await.with_context(|| format!("peer {number}"))?;
        if number < self.args.checked_peers {
            self.check_at_ack(number).await.with_context(|| format!("right after the acknowledgement to {number}"))?;
        }
        Ok(())
    }

    fn committed(&self, peer: u32, state: ShareState, nanos: u64) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.commits.add(nanos);
        if let Some(path) = &self.args.journal {
            shared.journal.clear();
            let state = haul_core::wire::encode(&state);
            let _ = writeln!(shared.journal, "{peer} {}", hex(&state));
            // Before the next commit begins, so that it tells of all that was acknowledged when the server dies.
            let file = OpenOptions::new().create(true).append(true).open(path);
            let _ = file.and_then(|mut file| file.write_all(shared.journal.as_bytes()));
        }
    }

    /// Another connection must find the peer's own files; other holders of them may still be on their way.
    async fn check_at_ack(&self, peer: u32) -> anyhow::Result<()> {
        let (population, checker) = (&self.setting.population, &self.setting.checker);
        let block = u64::from(population.block());
        let mut dice = Dice::new(u64::from(peer));
        for _ in 0..CHECKS_AT_ACK {
            let file = u64::from(peer) * block + dice.below(block);
            let (request, _) = checker.locate(&[file]);
            let IndexAnswer::Located(located) = self.asker.session().ask(&request).await? else {
                bail!("not an answer to Locate");
            };
            if located.peers_of(0).is_empty() {
                bail!("file {file} has no provider");
            }
            if checker.is_searchable(file) {
                let IndexAnswer::Hits(hits) = self.asker.session().ask(&checker.search_for(file)).await? else {
                    bail!("not an answer to Search");
                };
                checker.found(file, &hits)?;
            }
            self.shared.lock().unwrap_or_else(PoisonError::into_inner).checked += 1;
        }
        Ok(())
    }
}

/// Looks up and searches files at random: all must be answered exactly.
pub(super) async fn check_all(
    setting: &Setting,
    asker: &Member,
    checks: u32,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let checker = Arc::clone(&setting.checker);
    let mut dice = Dice::new(setting.population.files());
    let (mut lookups, mut searches, mut crowded) = (0_u32, 0_u32, 0_u32);
    for _ in 0..checks {
        let file = dice.below(setting.population.files());
        let (request, expected) = checker.locate(&[file]);
        let answer = asker.session().ask(&request).await?;
        checker.check(asker.session(), &expected, answer).await?;
        lookups += 1;
        if checker.is_searchable(file) {
            let IndexAnswer::Hits(hits) = asker.session().ask(&checker.search_for(file)).await? else {
                bail!("not an answer to Search");
            };
            match checker.found(file, &hits)? {
                Some(()) => searches += 1,
                None => crowded += 1,
            }
        }
    }
    outcome.figure("checked_lookups", f64::from(lookups));
    outcome.figure("checked_searches", f64::from(searches));
    outcome.figure("checked_searches_of_too_common_names", f64::from(crowded));
    Ok(())
}

/// Bytes as digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
