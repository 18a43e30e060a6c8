//! Loads against a running index: many peers in one process, each with its own key and connection, checked answers,
//! the server's CPU time. `bench/index` runs them beside other programs.

mod checks;
mod churn;
mod count;
mod crowd;
mod gauge;
mod idle;
mod keys;
mod lookup;
mod mixed;
mod names;
mod oracle;
mod outcome;
mod pace;
mod paths;
mod population;
mod queries;
mod register;
mod registering;
mod returning;
mod search;
mod timing;
mod turnover;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueHint};
use haul_core::trust::Ticket;

use crate::output::Output;
use checks::Checker;
use crowd::Door;
use outcome::Outcome;
use paths::Paths;
use population::Population;

pub(crate) use churn::{ChurnArgs, run as churn};
pub(crate) use count::{CountArgs, run as count};
pub(crate) use idle::{IdleArgs, run as idle};
pub(crate) use lookup::{LookupArgs, run as lookup};
pub(crate) use mixed::{MixedArgs, run as mixed};
pub(crate) use names::{NamesArgs, run as names};
pub(crate) use register::{RegisterArgs, run as register};
pub(crate) use registering::group_name;
pub(crate) use search::{SearchArgs, run as search};
pub(crate) use verify::{VerifyArgs, run as verify};

/// The crowd that registers.
const PEERS: &str = "peer";
/// The crowd that only asks.
const ASKERS: &str = "asker";

/// What is registered, and where results go. Tools that ask take the same values as the one that registered.
#[derive(Clone, Debug, Args)]
pub(crate) struct LoadArgs {
    /// Peers that register, each with a key of its own
    #[arg(long, value_name = "N", default_value_t = 100)]
    peers: u32,
    /// Files of each peer
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    files_per_peer: u32,
    /// Providers of a blob on average; most have one, few up to ten
    #[arg(long, value_name = "X", default_value_t = 1.5)]
    copies: f64,
    /// Groups that see the shares, in turn; 0 = everyone. The ticket must name them: bench serve index --groups
    #[arg(long, value_name = "N", default_value_t = 3)]
    groups: u32,
    /// Real paths, one per line; without it paths are made up
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    paths: Option<PathBuf>,
    /// Keys, blobs and the order of questions follow from it
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The index's process, if it runs on this machine, to read its CPU time and memory
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Bring the peers here first: they registered earlier and are connected no more
    #[arg(long)]
    with_peers: bool,
    /// What `bench register --journal` wrote; with it, returning peers need not work out what they hold
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    states: Option<PathBuf>,
    /// Write results.json into this folder
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,
}

/// A load that is ready to begin.
struct Setting {
    population: Arc<Population>,
    paths: Arc<Paths>,
    peers: Door,
    askers: Door,
    checker: Arc<Checker>,
}

impl Setting {
    /// Reads the paths and derives the rest.
    fn new(args: &LoadArgs, index: Option<&str>) -> anyhow::Result<Self> {
        let ticket = index.context("give a ticket of the index: --index TICKET")?;
        let ticket: Ticket = ticket.parse().context("--index takes a ticket")?;
        let population = Population::new(args.seed, args.peers, args.files_per_peer, args.copies);
        let population = Arc::new(population.map_err(|reason| anyhow!(reason))?);
        let paths = Paths::read(args.paths.as_deref()).context("the list of paths cannot be read")?;
        paths.suffice(&population).map_err(|reason| anyhow!(reason))?;
        let paths = Arc::new(paths);
        let peers = Door::new(ticket.clone(), Arc::clone(&population), PEERS);
        let askers = Door::new(ticket, Arc::clone(&population), ASKERS);
        let checker = Arc::new(Checker::new(Arc::clone(&population), Arc::clone(&paths), &peers)?);
        Ok(Self { population, paths, peers, askers, checker })
    }
}

impl Setting {
    /// The same after so many turnovers.
    fn after(&self, turn: u64) -> anyhow::Result<Self> {
        let population = Arc::new(self.population.after(turn));
        let checker = Checker::new(Arc::clone(&population), Arc::clone(&self.paths), &self.peers)?;
        let (paths, peers, askers) = (Arc::clone(&self.paths), self.peers.clone(), self.askers.clone());
        Ok(Self { population, paths, peers, askers, checker: Arc::new(checker) })
    }
}

impl LoadArgs {
    /// Results with the parameters that all tools share.
    fn outcome(&self, tool: &'static str, population: &Population) -> Outcome {
        let mut outcome = Outcome::new(tool);
        outcome.parameter("peers", self.peers);
        outcome.parameter("entries_per_peer", population.entries_of_peer());
        outcome.parameter("entries", population.entries());
        outcome.parameter("blobs", population.files());
        outcome.parameter("copies", self.copies);
        outcome.parameter("groups", self.groups);
        outcome.parameter("real_paths", self.paths.is_some());
        outcome.parameter("seed", self.seed);
        outcome
    }

    fn finish(&self, outcome: &Outcome, output: &Output) -> anyhow::Result<()> {
        outcome.finish(self.out.as_deref(), output)
    }
}

#[cfg(test)]
mod tests;
