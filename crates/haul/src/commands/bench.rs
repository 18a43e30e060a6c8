//! `haul bench`: measures haul on this machine.

mod mix;
mod pictures;
mod plot;
mod results;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use haul_peer::api::codes::ErrorCode;

use crate::context::Context;
use crate::errors::Failure;
use crate::exit::Exit;
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
    /// Draw the pictures of results.json files again
    Plot(PlotArgs),
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
#[expect(clippy::unused_async, reason = "the measurements will wait")]
pub(crate) async fn run(_context: &Context, args: &BenchArgs) -> Result<Exit, Failure> {
    match &args.command {
        BenchCommand::Plot(args) => plot_results(args),
    }
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
