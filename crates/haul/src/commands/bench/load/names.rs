//! `haul bench names`: the paths of a load as text, for programs that are measured beside haul.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, anyhow, ensure};
use clap::{Args, ValueHint};

use super::LoadArgs;
use super::paths::Paths;
use super::population::Population;

/// Arguments of `haul bench names`.
#[derive(Clone, Debug, Args)]
pub(crate) struct NamesArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// Write here: number of the peer, tab, blob, tab, size, tab, path; one line for each entry
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    to: PathBuf,
    /// Paths only, each file once
    #[arg(long)]
    plain: bool,
}

/// Runs it.
pub(crate) fn run(args: &NamesArgs) -> anyhow::Result<()> {
    let load = &args.load;
    let population = Population::new(load.seed, load.peers, load.files_per_peer, load.copies);
    let population = population.map_err(|reason| anyhow!(reason))?;
    let paths = Paths::read(load.paths.as_deref()).context("the list of paths cannot be read")?;
    paths.suffice(&population).map_err(|reason| anyhow!(reason))?;
    let mut to = BufWriter::new(File::create(&args.to)?);
    if args.plain {
        for file in 0..population.files() {
            to.write_all(&paths.of(&population, file))?;
            to.write_all(b"\n")?;
        }
        return Ok(to.flush()?);
    }
    for peer in 0..population.peers() {
        for file in population.files_of(peer) {
            let blob = population.blob(file);
            let path = paths.of(&population, file);
            ensure!(!path.contains(&b'\t'), "a path with a tab");
            write!(to, "{peer}\t{blob}\t{}\t", Population::size(&blob))?;
            to.write_all(&path)?;
            to.write_all(b"\n")?;
        }
    }
    Ok(to.flush()?)
}
