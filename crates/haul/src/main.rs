//! The `haul` command. This crate reads arguments, talks to the daemon (or is it), and prints; what haul decides and
//! does lives in the crates below.

mod args;
mod commands;
mod errors;
mod exit;
mod home;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;
use crate::exit::Exit;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return errors::usage(&error).into(),
    };
    run(cli).into()
}

fn run(cli: Cli) -> Exit {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return errors::report(&cli.global, &errors::Failure::from_start(&error)),
    };
    let context = commands::Context::new(cli.global);
    match runtime.block_on(commands::run(&context, cli.command)) {
        Ok(exit) => exit,
        Err(failure) => errors::report(&context.global, &failure),
    }
}
