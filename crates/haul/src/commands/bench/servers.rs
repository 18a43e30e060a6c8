//! The servers that are measured: child processes of this program, so that their CPU time is their own. A child serves
//! until its standard input ends, which also happens when its parent dies.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use haul_core::wire::Label;
use haul_index::{Index, IndexConfig, Invitation};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::{load, null_server};

/// Time for a child to answer, and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Arguments of the child.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServeArgs {
    /// What to be
    #[arg(value_enum)]
    role: Role,
    /// State of the index
    #[arg(long)]
    state: PathBuf,
    /// How many peers may join
    #[arg(long)]
    uses: u32,
    /// Groups that the ticket's holders join: bench-0, bench-1, …
    #[arg(long, default_value_t = 0)]
    groups: u32,
    /// Listen here
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

/// What a child is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// A real index.
    Index,
    /// Framing and TLS alone.
    Null,
}

/// What the child prints once it serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// `host:port`.
    pub(crate) address: String,
    /// The key that its connections show.
    pub(crate) key: String,
    /// For an index.
    pub(crate) ticket: Option<String>,
}

/// The child's main function.
pub(crate) async fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let stdin = tokio::task::spawn_blocking(|| std::io::stdin().lock().read_to_end(&mut Vec::new()));
    match args.role {
        Role::Index => {
            let index = Index::start(IndexConfig::new(&args.state, vec![args.listen]), shutdown.clone()).await?;
            let groups = (0..args.groups).map(|group| Label::from_lossy(&load::group_name(group))).collect();
            let ticket = index.invite(Invitation { uses: args.uses, groups, ..Invitation::default() }).await?;
            let address = index.addresses().first().context("the index listens nowhere")?.to_string();
            print_ready(&Ready { address, key: index.index_key().to_string(), ticket: Some(ticket.to_string()) })?;
            stdin.await??;
            index.join().await?;
        }
        Role::Null => {
            let server = null_server::NullServer::bind(args.listen)?;
            print_ready(&Ready {
                address: server.address()?.to_string(),
                key: server.key().to_string(),
                ticket: None,
            })?;
            let running = tokio::spawn(server.run(shutdown.clone()));
            stdin.await??;
            shutdown.cancel();
            running.await?;
        }
    }
    Ok(())
}

fn print_ready(ready: &Ready) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", serde_json::to_string(ready)?)?;
    Ok(stdout.flush()?)
}

/// A running child.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    child: Child,
    ready: Ready,
    state: PathBuf,
}

impl ServerProcess {
    /// Starts one with fresh state below `directory`.
    pub(crate) async fn start(role: Role, peers: usize, directory: &Path) -> anyhow::Result<Self> {
        let state = directory.join("state");
        let role = role.to_possible_value().context("a role without a name")?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bench", "serve", role.get_name(), "--uses", &peers.to_string(), "--state"])
            .arg(&state)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("the server of the benchmark does not start")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let line = tokio::time::timeout(PATIENCE, BufReader::new(stdout).lines().next_line()).await;
        let Some(line) = line.context("the server of the benchmark does not answer")?? else {
            bail!("the server of the benchmark ended at once; what it said stands above");
        };
        Ok(Self { ready: serde_json::from_str(&line)?, child, state })
    }

    /// What it said.
    pub(crate) fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Its process.
    pub(crate) fn process(&self) -> Option<u32> {
        self.child.id()
    }

    /// Ends it and removes its state.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.context("the server does not end")??;
        if !status.success() {
            bail!("the server of the benchmark ended with {status}");
        }
        Ok(())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // A state folder that stays behind would only be in the way of the next run, which says so.
        let _ = std::fs::remove_dir_all(&self.state);
    }
}
