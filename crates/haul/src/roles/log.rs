//! The log of a process that stays, on standard error: warnings, with `-v` what happens, with `-vv` how. `HAUL_LOG`
//! takes filters as `tracing` knows them.

use tracing_subscriber::EnvFilter;

use crate::context::Context;

/// Starts it.
pub(super) fn start(context: &Context) {
    let level = match context.output.verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let wanted = std::env::var("HAUL_LOG").ok().filter(|text| !text.is_empty());
    let filter = EnvFilter::try_new(wanted.as_deref().unwrap_or(level)).unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false);
    // A second log in one process (a test) keeps the first.
    let _ = log.try_init();
}
