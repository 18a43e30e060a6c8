//! `haul bench idle`: peers that are connected and do nothing but renew their leases.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::crowd::Renewals;
use super::gauge::{Gauge, Memory};
use super::{LoadArgs, Setting};
use crate::output::Output;

/// Arguments of `haul bench idle`.
#[derive(Clone, Debug, Args)]
pub(crate) struct IdleArgs {
    #[command(flatten)]
    load: LoadArgs,
    /// How long the peers are idle; renewals come every 30 s
    #[arg(long, value_name = "S", default_value_t = 60.0)]
    seconds: f64,
}

/// Runs it: `--peers` connect, nothing is registered.
pub(crate) async fn run(args: &IdleArgs, index: Option<&str>, output: &Output) -> anyhow::Result<()> {
    let setting = Setting::new(&args.load, index)?;
    let mut outcome = args.load.outcome("idle", &setting.population);
    let server = args.load.server_pid.context("memory is read from the server: --server-pid PID")?;
    let read = || Memory::of(server).context("the server's memory cannot be read");
    let before = read()?;
    let gauge = Gauge::start(Some(server));
    let members = setting.peers.enter_all(0, args.load.peers).await.context("connecting")?;
    outcome.cost("connect", f64::from(args.load.peers), &gauge.spent());
    gauge.spent_until_quiet().await;
    let connected = read()?;
    let _renewals = Renewals::start(&members);
    let gauge = Gauge::start(Some(server));
    tokio::time::sleep(Duration::from_secs_f64(args.seconds)).await;
    let spent = gauge.spent();
    let after = read()?;
    let each = |memory: Memory| memory.anonymous.saturating_sub(before.anonymous) as f64 / f64::from(args.load.peers);
    outcome.figure("memory_bytes_per_connection", each(connected));
    outcome.figure("memory_bytes_per_connection_after_renewals", each(after));
    let cpu = spent.server_cpu.context("the server's CPU time cannot be read")?;
    outcome.figure("core_share", cpu.as_secs_f64() / spent.wall.as_secs_f64());
    outcome.cost("idle", f64::from(args.load.peers), &spent);
    let open = members.iter().filter(|member| member.session().connection().close_reason().is_none()).count();
    outcome.figure("still_connected", open as f64);
    args.load.finish(&outcome, output)
}
