//! `haul bench`: measures haul on this machine.

use clap::Args;

use super::Context;
use crate::errors::Failure;
use crate::exit::Exit;

/// Arguments of `haul bench`.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct BenchArgs {}

/// Runs it.
#[expect(clippy::unused_async, reason = "the measurements will wait")]
pub(crate) async fn run(_context: &Context, _args: &BenchArgs) -> Result<Exit, Failure> {
    Err(Failure::new("not-built", "haul bench is not part of this build yet", Exit::USAGE))
}
