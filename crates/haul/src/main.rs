//! The `haul` command. This crate reads arguments, talks to the daemon (or is it), and prints; what haul decides and
//! does lives in the crates below.

#![expect(clippy::format_push_string, reason = "lines for people are short, and writing to a String cannot fail")]

mod args;
mod client;
mod commands;
mod context;
mod errors;
mod exit;
mod explain;
#[cfg(test)]
mod hints;
mod numbers;
mod output;
mod roles;
mod shell;
mod tickets;

use std::process::ExitCode;

use clap::Parser;
use haul_peer::api::codes::ErrorCode;

use crate::args::Cli;
use crate::context::Context;
use crate::errors::Failure;
use crate::exit::Exit;

/// Gives back what is freed, and finds room faster: an index takes and frees much at a time, on several threads.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return errors::usage(&error).into(),
    };
    let context = Context::new(cli.global);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::new(ErrorCode::Internal, "haul could not start its threads").because(error);
            return failure.report(&context.output).into();
        }
    };
    let run = async {
        let outcome = commands::run(&context, cli.command).await;
        context.finish().await;
        outcome
    };
    let exit = match runtime.block_on(run) {
        Ok(exit) => exit,
        Err(failure) => failure.report(&context.output),
    };
    // A read of standard input cannot be called off; it must not keep a command alive that is done.
    runtime.shutdown_background();
    exit.into()
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(ErrorCode::Disk, "a file could not be read or written").because(error)
    }
}

const _: () = assert!(Exit::USAGE.0 == ErrorCode::Usage.exit());
