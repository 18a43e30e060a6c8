//! `haul bench`: measures haul on this machine.

mod cases;
mod cpu;
mod curves;
mod disk;
mod level;
mod load;
mod mix;
mod null_server;
mod pictures;
mod plot;
mod report;
mod results;
mod servers;
mod session;
mod tables;
mod transfer;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use serde::Serialize;

use haul_peer::api::codes::ErrorCode;

use crate::context::Context;
use crate::errors::Failure;
use crate::exit::Exit;
use crate::output::Output;
use results::Results;

/// Arguments of `haul bench`.
#[derive(Clone, Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

/// `haul bench …`.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// The student report's benchmark: searches, registrations and lookups by several peers at the same time
    Report(report::ReportArgs),
    /// Sharing and transfers on this machine, by real peers, beside what its disk and network can do
    Transfer(transfer::TransferArgs),
    /// Many peers register their files at a running index (--index TICKET)
    Register(load::RegisterArgs),
    /// Look blobs up at an index, many at a time
    Lookup(load::LookupArgs),
    /// Search an index for words of its names
    Search(load::SearchArgs),
    /// Let peers leave and return, or replace all entries again and again
    Churn(load::ChurnArgs),
    /// Look up while one peer registers a large share
    Mixed(load::MixedArgs),
    /// Connect many peers that do nothing
    Idle(load::IdleArgs),
    /// Count the files with a common word in their names
    Count(load::CountArgs),
    /// Check an index that was just restarted
    #[command(hide = true)]
    Verify(load::VerifyArgs),
    /// Write the paths that a load registers
    #[command(hide = true)]
    Names(load::NamesArgs),
    /// Draw the pictures of results.json files again
    Plot(PlotArgs),
    /// Draw curves, one point for each size
    #[command(hide = true)]
    Curves(curves::CurvesArgs),
    /// Be a server that another benchmark measures
    #[command(hide = true)]
    Serve(servers::ServeArgs),
}

/// A row as `--json` prints it.
#[derive(Serialize)]
struct Record<'a, Row> {
    v: u32,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    row: &'a Row,
}

impl<'a, Row> Record<'a, Row> {
    fn of(row: &'a Row) -> Self {
        Self { v: 1, kind: "bench", row }
    }
}

/// Arguments of `haul bench plot`.
#[derive(Clone, Debug, Args)]
pub(crate) struct PlotArgs {
    /// One or more results.json, drawn together
    #[arg(required = true, value_name = "RESULTS", value_hint = ValueHint::FilePath)]
    results: Vec<PathBuf>,
    /// Write the pictures into this folder
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: PathBuf,
}

/// Runs it.
pub(crate) async fn run(context: &Context, args: &BenchArgs) -> Result<Exit, Failure> {
    let (index, output) = (context.global.index.as_deref(), &context.output);
    let done = match &args.command {
        BenchCommand::Plot(args) => return plot_results(args),
        BenchCommand::Transfer(args) => return transfer::run(args, output).await,
        BenchCommand::Report(args) => report::run(args, index, output).await,
        BenchCommand::Curves(args) => curves::run(args),
        BenchCommand::Serve(args) => servers::serve(args).await,
        load => run_load(load.clone(), index.map(str::to_owned), output.clone()).await,
    };
    done.map(|()| Exit::DONE).map_err(|error| failed(&error))
}

fn failed(error: &anyhow::Error) -> Failure {
    let failure = Failure::new(ErrorCode::Incomplete, "the benchmark stopped at its first failure");
    error.chain().fold(failure, Failure::because)
}

/// Runs a load as a task of its own: it then shares its thread with the connections that it drives, and on one core
/// neither waits for the other to be scheduled.
async fn run_load(load: BenchCommand, index: Option<String>, output: Output) -> anyhow::Result<()> {
    let task = async move {
        let (index, output) = (index.as_deref(), &output);
        match &load {
            BenchCommand::Register(args) => load::register(args, index, output).await,
            BenchCommand::Lookup(args) => load::lookup(args, index, output).await,
            BenchCommand::Search(args) => load::search(args, index, output).await,
            BenchCommand::Churn(args) => load::churn(args, index, output).await,
            BenchCommand::Mixed(args) => load::mixed(args, index, output).await,
            BenchCommand::Idle(args) => load::idle(args, index, output).await,
            BenchCommand::Count(args) => load::count(args, index, output).await,
            BenchCommand::Verify(args) => load::verify(args, index, output).await,
            BenchCommand::Names(args) => load::names(args),
            BenchCommand::Report(_)
            | BenchCommand::Transfer(_)
            | BenchCommand::Plot(_)
            | BenchCommand::Curves(_)
            | BenchCommand::Serve(_) => Ok(()),
        }
    };
    tokio::spawn(task).await.map_err(anyhow::Error::from)?
}

fn plot_results(args: &PlotArgs) -> Result<Exit, Failure> {
    let failed = |path: &PathBuf, error: &dyn std::fmt::Display| {
        Failure::new(ErrorCode::Disk, format!("{} cannot be used", path.display())).because(error)
    };
    let mut together = Results::new();
    for path in &args.results {
        let results = Results::read(path).map_err(|error| failed(path, &error))?;
        together.disk_sync = together.disk_sync.or(results.disk_sync);
        together.absorb(results);
    }
    std::fs::create_dir_all(&args.out).map_err(|error| failed(&args.out, &error))?;
    let in_flight = pictures::several_in_flight(&together);
    pictures::write(&together, in_flight, &args.out).map_err(|error| failed(&args.out, &error))?;
    Ok(Exit::DONE)
}
