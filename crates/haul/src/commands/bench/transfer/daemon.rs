//! The peers that are measured: `haul up` processes of this very program, each with a home of its own, and what is asked
//! of them over their sockets as other commands ask it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use haul_peer::api::records::{DoneRecord, Line, Ready, Record, ShareActivity, ShareRecord};
use haul_peer::api::requests::{AddShareRequest, GetRequest};
use haul_peer::config::Home;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::super::cpu::CpuReading;
use crate::client::Daemon;
use crate::errors::Failure;

/// Time for a daemon to be ready, and to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time for a share to be hashed and registered: an hour hashes terabytes.
const SHARE_PATIENCE: Duration = Duration::from_hours(1);
/// How often a share's state is asked for: each question costs the daemon about 0.1 ms.
const LOOK_PAUSE: Duration = Duration::from_millis(5);
/// How long a killed process may take to be gone; in the middle of an fsync it ends after it.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
const KILL_PAUSE: Duration = Duration::from_millis(5);
/// Of what a daemon said on standard error, this much is told when it fails.
const TOLD_BYTES: usize = 800;

/// A running `haul up`. Its process ends with this value.
#[derive(Debug)]
pub(super) struct PeerProcess {
    name: String,
    child: Child,
    home: PathBuf,
    daemon: Daemon,
    ready: Ready,
}

impl PeerProcess {
    /// Starts one on the loopback with a fresh home below `directory`; with an index of its own unless it joins one.
    pub(super) async fn start(directory: &Path, name: &str, ticket: Option<&str>) -> anyhow::Result<Self> {
        let home = directory.join(name);
        fs::create_dir(&home)?;
        let mut command = Command::new(std::env::current_exe()?);
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("HAUL_") {
                command.env_remove(variable);
            }
        }
        command.args(["up", "--json", "--name", name, "--listen", "127.0.0.1:0", "--web-listen", "127.0.0.1:0"]);
        match ticket {
            Some(ticket) => command.arg("--join").env("HAUL_TICKET", ticket),
            None => command.args(["--index-listen", "127.0.0.1:0"]),
        };
        // A group of its own: a ^C in the terminal is for the benchmark, which ends its peers itself.
        command.env("HAUL_HOME", &home).stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut child = command.stderr(File::create(complaints(&home))?).spawn().context("haul up does not start")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let daemon = Daemon::Socket(Home::at(home.clone()).socket());
        let mut peer = Self { name: name.to_owned(), child, home, daemon, ready: Ready::default() };
        let line = tokio::time::timeout(PATIENCE, BufReader::new(stdout).lines().next_line()).await;
        let line = line.map_err(|_| peer.told("was not ready in time"))??;
        let line = line.ok_or_else(|| peer.told("ended at once"))?;
        match serde_json::from_str(&line) {
            Ok(Line { record: Record::Ready(ready), .. }) => peer.ready = ready,
            _ => bail!(peer.told(&format!("said something else than that it is ready: {line}"))),
        }
        Ok(peer)
    }

    /// An error with what the daemon had to say about it.
    fn told(&self, what: &str) -> anyhow::Error {
        let text = fs::read_to_string(complaints(&self.home)).unwrap_or_default();
        let start = text.char_indices().rev().nth(TOLD_BYTES).map_or(0, |(at, _)| at);
        let said = text.get(start..).unwrap_or_default().trim();
        let error = anyhow!("the peer {} {what}", self.name);
        if said.is_empty() { error } else { anyhow!("{said}").context(error) }
    }

    /// Lets others join its network.
    pub(super) fn ticket(&self) -> anyhow::Result<&str> {
        self.ready.ticket.as_deref().context("the index gave no ticket")
    }

    /// Its key.
    pub(super) fn key(&self) -> anyhow::Result<&str> {
        self.ready.peer.as_deref().context("the peer has no key")
    }

    /// CPU time so far; none where it cannot be read.
    pub(super) fn cpu(&self) -> Option<CpuReading> {
        CpuReading::take(self.child.id()?)
    }

    /// Shares a folder, and waits until all of it is hashed and durable at the index; it must have so many files.
    pub(super) async fn share(&self, folder: &Path, files: u64) -> anyhow::Result<()> {
        let path = folder.to_str().context("the folder's path is not UTF-8")?.to_owned();
        let name = folder.file_name().and_then(|name| name.to_str()).context("a folder has a name")?;
        let request = AddShareRequest { path, name: Some(name.to_owned()), force: true, ..AddShareRequest::default() };
        let answer = self.daemon.post("/v1/shares", &request).await.map_err(|failure| self.failed(&failure))?;
        answer.all().await.map_err(|failure| self.failed(&failure))?;
        let end = Instant::now() + SHARE_PATIENCE;
        loop {
            let share = self.shares().await?.into_iter().find(|share| share.name == name);
            let share = share.ok_or_else(|| self.told("does not know its own share"))?;
            if share.state == ShareActivity::Ready {
                let found = (share.files, share.hashed, share.skipped);
                ensure!(found == (files, files, 0), self.told(&format!("shares not all of {files} files: {share:?}")));
                return Ok(());
            }
            ensure!(Instant::now() < end, self.told(&format!("did not end hashing: {share:?}")));
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    async fn shares(&self) -> anyhow::Result<Vec<ShareRecord>> {
        let answer = self.daemon.get("/v1/shares").await.map_err(|failure| self.failed(&failure))?;
        let lines = answer.all().await.map_err(|failure| self.failed(&failure))?;
        let share = |record| if let Some(Record::Share(share)) = record { Some(share) } else { None };
        Ok(lines.into_iter().filter_map(|line| share(line.record)).collect())
    }

    /// Fetches to a place where nothing is; returns when all is verified, durable and has its final name.
    pub(super) async fn get(&self, what: &str, target: &Path) -> anyhow::Result<DoneRecord> {
        let output = target.to_str().context("the folder's path is not UTF-8")?.to_owned();
        let request = GetRequest { what: what.to_owned(), output, ..GetRequest::default() };
        let mut answer = self.daemon.post("/v1/get", &request).await.map_err(|failure| self.failed(&failure))?;
        let mut done = None;
        while let Some(line) = answer.next().await.map_err(|failure| self.failed(&failure))? {
            if let Some(Record::Done(record)) = line.record {
                done = Some(record);
            }
        }
        let done = done.ok_or_else(|| self.told("did not say that the download is done"))?;
        ensure!(done.resumed_from == 0, "bytes were there before: {done:?}");
        Ok(done)
    }

    fn failed(&self, failure: &Failure) -> anyhow::Error {
        let causes = failure.record.causes.iter().map(|cause| format!("; {} {}", cause.name, cause.message));
        self.told(&format!("failed: {}{}", failure.record.message, causes.collect::<String>()))
    }

    /// Asks it to leave, and removes its home.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        let process = self.child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
        if let Some(process) = process {
            rustix::process::kill_process(process, rustix::process::Signal::TERM)?;
        }
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = ended.map_err(|_| self.told("does not end"))??;
        ensure!(status.success(), self.told(&format!("ended with {status}")));
        fs::remove_dir_all(&self.home)?;
        Ok(())
    }
}

impl Drop for PeerProcess {
    /// Kills it if it still runs, and waits: until it is gone it may write into a folder that is to be removed.
    fn drop(&mut self) {
        let end = Instant::now() + KILL_PATIENCE;
        let _ = self.child.start_kill();
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(KILL_PAUSE);
        }
    }
}

fn complaints(home: &Path) -> PathBuf {
    home.join("stderr.txt")
}
