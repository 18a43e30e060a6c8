//! `haul bench report`: the student report's benchmark, for any number of peers, beside a null server and beside the
//! program in `bench/report_baseline`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow, bail, ensure};
use clap::{Args, ValueHint};
use haul_core::trust::Ticket;
use haul_net::identity::SecretKey;
use tokio::process::Command;

use super::level::{Level, Measured};
use super::mix::Mix;
use super::results::{Results, Row, SAMPLES_HEADER, Summary, samples_csv};
use super::servers::{Role, ServerProcess};
use super::session::Session;
use super::{Record, disk, pictures, tables};
use crate::output::Output;

/// With a common start, level k starts this long after level k - 1.
const LEVEL_GAP: Duration = Duration::from_secs(20);
/// A level that takes longer has failed.
const LEVEL_LIMIT: Duration = Duration::from_mins(10);

/// Arguments of `haul bench report`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ReportArgs {
    /// Numbers of peers at the same time: N means 1..N
    #[arg(long, value_name = "N|A..B", default_value = "1..3", value_parser = levels)]
    peers: Levels,
    /// Requests that each peer keeps unanswered, several separated by commas
    #[arg(long, value_name = "K", default_value = "1,16", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=250))]
    in_flight: Vec<u16>,
    /// How often everything is measured, each time with fresh servers; tables and pictures show medians
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// With --index: start the first level at this time, seconds since 1970, on all machines alike
    #[arg(long, value_name = "UNIX_SECONDS")]
    start_at: Option<u64>,
    /// With --index: the index's process, if it runs on this machine, to read its CPU time
    #[arg(long, value_name = "PID")]
    index_pid: Option<u32>,
    /// The Python program (its run.py), to run it between our rounds; or a results.json of it
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    baseline: Option<PathBuf>,
    /// Write results.json, samples.csv, tables.md and pictures into this folder; the index keeps its state there too
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: PathBuf,
}

/// Numbers of peers, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Levels(Vec<usize>);

fn levels(text: &str) -> Result<Levels, String> {
    let (first, last) = text.split_once("..").unwrap_or(("1", text));
    let number = |text: &str| text.parse::<usize>().map_err(|_| format!("'{text}' is not a number of peers"));
    let (first, last) = (number(first)?, number(last)?);
    if first == 0 || first > last {
        Err("expected N or A..B, at least 1".to_owned())
    } else {
        Ok(Levels((first..=last).collect()))
    }
}

/// Runs it; `index` is the ticket of an index that runs elsewhere. Prints a line per cell, or JSON.
pub(crate) async fn run(args: &ReportArgs, index: Option<&str>, output: &Output) -> anyhow::Result<()> {
    let ticket = index.map(|text| text.parse::<Ticket>().context("--index takes a ticket")).transpose()?;
    ensure!(ticket.is_some() || args.start_at.is_none(), "--start-at needs --index");
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let mut report = Report::new(args, ticket, output)?;
    for round in 0..args.rounds {
        report.round(round).await?;
    }
    report.write()
}

struct Report<'a> {
    args: &'a ReportArgs,
    output: &'a Output,
    ticket: Option<Ticket>,
    /// Of the peers, in order; the same ones in all levels.
    keys: Vec<SecretKey>,
    results: Results,
    samples: String,
    disk: Vec<f64>,
    levels_done: u32,
}

impl<'a> Report<'a> {
    fn new(args: &'a ReportArgs, ticket: Option<Ticket>, output: &'a Output) -> anyhow::Result<Self> {
        let most = args.peers.0.last().copied().unwrap_or_default();
        let keys = (0..most).map(|_| SecretKey::generate()).collect::<Result<Vec<_>, _>>()?;
        let mut results = Results::new();
        results.machine = machine();
        results.versions = versions();
        let samples = SAMPLES_HEADER.to_owned();
        Ok(Self { args, output, ticket, keys, results, samples, disk: Vec::new(), levels_done: 0 })
    }

    /// Everything once: for each number of requests in flight the Python program, then level by level the disk, the null
    /// server and haul.
    async fn round(&mut self, round: usize) -> anyhow::Result<()> {
        for in_flight in &self.args.in_flight {
            let in_flight = usize::from(*in_flight);
            self.python(in_flight, round).await.context("the Python program")?;
            for peers in self.args.peers.0.clone() {
                if self.ticket.is_none() {
                    self.disk.extend(disk::sync_times(&self.args.out).context("measuring the disk")?);
                    let measured = self.local_level(Role::Null, peers, in_flight, round).await;
                    self.keep(measured.context("the null server")?);
                }
                let measured = match self.ticket.clone() {
                    Some(ticket) => self.remote_level(&ticket, peers, in_flight, round).await,
                    None => self.local_level(Role::Index, peers, in_flight, round).await,
                };
                self.keep(measured.context("haul")?);
            }
        }
        Ok(())
    }

    fn keep(&mut self, measured: Measured) {
        for row in &measured.rows {
            self.output.note(progress(row));
        }
        self.results.rows.extend(measured.rows);
        self.samples.push_str(&samples_csv(&measured.samples));
    }

    /// One level against a fresh server on this machine.
    async fn local_level(&self, role: Role, peers: usize, in_flight: usize, round: usize) -> anyhow::Result<Measured> {
        let server = ServerProcess::start(role, peers, &self.args.out).await?;
        let (address, ticket) = (server.ready().address.clone(), server.ready().ticket.as_deref());
        let ticket: Option<Ticket> = ticket.map(str::parse).transpose().context("the index made a bad ticket")?;
        let mut sessions = Vec::new();
        for (number, key) in self.keys.iter().take(peers).enumerate() {
            sessions.push(match &ticket {
                Some(ticket) => Session::join(ticket, key, &format!("bench-{}", number + 1)).await?,
                None => Session::connect(&address, key, Some(server.ready().key.parse()?)).await?,
            });
        }
        let program = if role == Role::Index { "haul" } else { "null" };
        let mix = Mix { run: "r0".to_owned(), peers };
        let level = Level { program, mix, in_flight, round, server: server.process() };
        let measured = run_level(&level, &sessions).await?;
        if role == Role::Index {
            leave_all(sessions).await?;
        } else {
            drop(sessions);
        }
        server.stop().await?;
        Ok(measured)
    }

    /// One level against an index that runs elsewhere; other machines may do the same at the same time.
    async fn remote_level(
        &mut self,
        ticket: &Ticket,
        peers: usize,
        in_flight: usize,
        round: usize,
    ) -> anyhow::Result<Measured> {
        let mut sessions = Vec::new();
        for (number, key) in self.keys.iter().take(peers).enumerate() {
            sessions.push(Session::join(ticket, key, &format!("bench-{}", number + 1)).await?);
        }
        // Names of this machine, so that each finds exactly its own.
        let run = self.keys.first().map(|key| key.public().short().replace("pk:", "m")).unwrap_or_default();
        let level = Level { program: "haul", mix: Mix { run, peers }, in_flight, round, server: self.args.index_pid };
        if let Some(start) = self.args.start_at {
            wait_until(Duration::from_secs(start) + LEVEL_GAP * self.levels_done).await?;
        }
        self.levels_done += 1;
        let measured = run_level(&level, &sessions).await?;
        leave_all(sessions).await?;
        Ok(measured)
    }

    async fn python(&mut self, in_flight: usize, round: usize) -> anyhow::Result<()> {
        let Some(baseline) = self.args.baseline.as_deref() else { return Ok(()) };
        if baseline.extension().is_none_or(|extension| extension != "py") {
            if self.results.rows.iter().all(|row| row.cell.program != "python") {
                let read = Results::read(baseline).with_context(|| format!("cannot read {}", baseline.display()))?;
                self.results.absorb(read);
            }
            return Ok(());
        }
        let out = self.args.out.join("python");
        let (Some(first), Some(last)) = (self.args.peers.0.first(), self.args.peers.0.last()) else { return Ok(()) };
        let status = Command::new("python3")
            .arg(baseline)
            .args(["--quiet", "--peers", &format!("{first}..{last}"), "--in-flight", &in_flight.to_string()])
            .args(["--first-round", &round.to_string(), "--out"])
            .arg(&out)
            .kill_on_drop(true)
            .status()
            .await
            .context("python3 does not start")?;
        ensure!(status.success(), "it ended with {status}");
        let results = Results::read(&out.join("results.json"))?;
        results.rows.iter().for_each(|row| self.output.note(progress(row)));
        self.results.rows.extend(results.rows);
        self.results.versions.extend(results.versions);
        let samples = fs::read_to_string(out.join("samples.csv"))?;
        self.samples.push_str(samples.strip_prefix(SAMPLES_HEADER).context("samples.csv has another header")?);
        fs::remove_dir_all(&out)?;
        Ok(())
    }

    fn write(mut self) -> anyhow::Result<()> {
        if !self.disk.is_empty() {
            self.results.disk_sync = Some(Summary::of(&self.disk));
        }
        let out = &self.args.out;
        let several = pictures::several_in_flight(&self.results);
        let mut text = tables::cells(&self.results);
        let goals = tables::goals(&self.results, several);
        if !goals.is_empty() {
            let _ = write!(text, "\n{}", tables::goals_table(&goals));
        }
        fs::write(out.join("results.json"), self.results.to_json())?;
        fs::write(out.join("samples.csv"), &self.samples)?;
        fs::write(out.join("tables.md"), &text)?;
        if let Err(error) = pictures::write(&self.results, several, out) {
            bail!("cannot draw: {error}");
        }
        let text = if self.output.is_json() { self.json_lines()? } else { text };
        self.output.line(text.trim_end()).map_err(|_| anyhow!("nobody reads the output"))
    }

    /// A record for each row.
    fn json_lines(&self) -> anyhow::Result<String> {
        let mut text = String::new();
        for row in &self.results.rows {
            let _ = writeln!(text, "{}", serde_json::to_string(&Record::of(row))?);
        }
        Ok(text)
    }
}

async fn run_level(level: &Level, sessions: &[Session]) -> anyhow::Result<Measured> {
    let limit = tokio::time::timeout(LEVEL_LIMIT, level.run(sessions)).await;
    limit.with_context(|| format!("a level did not end within {} minutes", LEVEL_LIMIT.as_secs() / 60))?
}

async fn leave_all(sessions: Vec<Session>) -> anyhow::Result<()> {
    for session in sessions {
        session.leave().await?;
    }
    Ok(())
}

async fn wait_until(since_1970: Duration) -> anyhow::Result<()> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    match since_1970.checked_sub(now) {
        Some(left) => tokio::time::sleep(left).await,
        None => bail!(
            "the common start has passed by {:?}; the machines would not run together",
            now.saturating_sub(since_1970)
        ),
    }
    Ok(())
}

fn progress(row: &Row) -> String {
    let cell = &row.cell;
    format!(
        "round {} {:6} {:13} peers {:3} in flight {:3}  mean {:9.1} µs  p99 {:9.1} µs  {:9.0}/s",
        row.round,
        cell.program,
        cell.operation,
        cell.peers,
        cell.in_flight,
        row.times.mean_us,
        row.times.p99_us,
        row.ops_per_s,
    )
}

/// This program, how it was built, and from which commit.
pub(crate) fn versions() -> BTreeMap<String, String> {
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    let mut versions = BTreeMap::from([
        ("haul".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("build".to_owned(), build.to_owned()),
    ]);
    versions.extend(commit().map(|commit| ("commit".to_owned(), commit)));
    versions
}

/// CPU, cores, kernel, load.
pub(crate) fn machine() -> BTreeMap<String, serde_json::Value> {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    BTreeMap::from([
        ("cpu".to_owned(), model.map_or("unknown", |(_, name)| name.trim()).into()),
        ("cores".to_owned(), cores.into()),
        ("kernel".to_owned(), kernel.into()),
        ("load_before".to_owned(), load.split(' ').next().unwrap_or_default().into()),
    ])
}

/// The commit that is checked out where this runs, with `-dirty` if files differ from it.
fn commit() -> Option<String> {
    let describe = std::process::Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output();
    let text = String::from_utf8(describe.ok().filter(|output| output.status.success())?.stdout).ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_peers() {
        assert_eq!(levels("3"), Ok(Levels(vec![1, 2, 3])));
        assert_eq!(levels("2..4"), Ok(Levels(vec![2, 3, 4])));
        for bad in ["0", "3..2", "a", "1..", "..3", "-1"] {
            assert!(levels(bad).is_err(), "{bad}");
        }
    }
}
