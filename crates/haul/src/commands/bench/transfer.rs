//! `haul bench transfer`: what sharing and transfers cost on this machine. Peers are processes of this very program on
//! the loopback; beside them, in the same rounds, stands what each part cannot be faster than. Whatever happens, the
//! peers end and the folder goes.

mod content;
mod daemon;
mod figures;
mod floors;
mod place;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Args, ValueHint};
use futures_util::future::try_join_all;
use haul_core::query::parse_size;
use haul_peer::api::codes::ErrorCode;
use rustix::time::{ClockId, clock_gettime};
use tokio::signal::unix::{SignalKind, signal};

use super::Record;
use super::cpu::CpuReading;
use crate::errors::Failure;
use crate::exit::Exit;
use crate::output::{Format, Output};
use content::{Content, Stop};
use daemon::PeerProcess;
use figures::{Case, Parameters, Row, TransferResults};
use place::{Place, Scratch};

/// What a peer may keep in its home, without what it fetches: keys, databases, hashes of the files.
const HOME_BYTES: u64 = 32 << 20;
/// What a small file may take beyond its bytes: the rest of its last block, its share of folders.
const BLOCK_BYTES: u64 = 4_096;

/// Arguments of `haul bench transfer`.
#[derive(Clone, Debug, Args)]
pub(crate) struct TransferArgs {
    /// Size of the large file
    #[arg(long, value_name = "SIZE", default_value = "1Gi", value_parser = large)]
    large: u64,
    /// Small files, sized like those of a source tree
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    files: u32,
    /// Peers that give to one, and peers that take from one at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(2..=16))]
    peers: u16,
    /// How often everything is measured, each time with fresh peers; the table shows medians
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// The same as --large 64Mi --files 1000 --peers 2 --rounds 1
    #[arg(long, conflicts_with_all = ["large", "files", "peers", "rounds"])]
    quick: bool,
    /// Measure in this folder, on the disk that it lies on; default: the one for temporary files
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    dir: Option<PathBuf>,
    /// Write results.json into this folder
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,
}

fn large(text: &str) -> Result<u64, String> {
    parse_size(text).filter(|bytes| *bytes > 0).ok_or_else(|| "expected a size, for example 500M or 4Gi".to_owned())
}

/// Runs it until its end, its first failure, ^C (exit code 130) or SIGTERM (143).
pub(crate) async fn run(args: &TransferArgs, output: &Output) -> Result<Exit, Failure> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let place = Place::look(&args.dir.clone().unwrap_or_else(std::env::temp_dir))?;
    let parameters = parameters(args, &place);
    place.admit(fullest(&parameters))?;
    if let Some(out) = &args.out {
        fs::create_dir_all(out)?;
    }
    let scratch = Scratch::make(&place.directory)?;
    let stop = Stop::default();
    let bench = Bench { folder: scratch.path().to_owned(), targets: AtomicU32::new(0), stop: stop.clone(), output };
    let interrupted = |exit| Failure::new(ErrorCode::Interrupted, "stopped, nothing is left").exit(exit);
    // What loses is dropped here, and its peers with it.
    let outcome = tokio::select! {
        results = bench.run(parameters) => results.map_err(|error| super::failed(&error)),
        _ = interrupt.recv() => Err(interrupted(Exit::INTERRUPTED)),
        _ = terminate.recv() => Err(interrupted(Exit::TERMINATED)),
    };
    stop.set();
    scratch.remove()?;
    let results = outcome?;
    if let Some(out) = &args.out {
        fs::write(out.join("results.json"), results.to_json())?;
    }
    show(&results, output)?;
    Ok(Exit::DONE)
}

fn parameters(args: &TransferArgs, place: &Place) -> Parameters {
    let (large, files, peers, rounds) =
        if args.quick { (64 << 20, 1_000, 2, 1) } else { (args.large, args.files, args.peers, args.rounds) };
    let small_bytes = content::plan_tree(files).iter().map(|file| file.bytes).sum();
    Parameters { large, files, small_bytes, peers, rounds, file_system: place.file_system.clone() }
}

/// Bytes on the disk when most is there: the content, a copy of the large file for each of those that take at once, and
/// all copies of the small ones, see [`clear`].
fn fullest(parameters: &Parameters) -> u64 {
    let small = parameters.small_bytes + u64::from(parameters.files) * BLOCK_BYTES;
    let (peers, trees) = (u64::from(parameters.peers), 2 * u64::from(parameters.rounds) + 1);
    let large = parameters.large.saturating_mul(peers + 1);
    large.saturating_add(small.saturating_mul(trees)).saturating_add((peers + 1) * HOME_BYTES)
}

fn show(results: &TransferResults, output: &Output) -> Result<(), Failure> {
    match output.format {
        Format::Json => results.rows.iter().try_for_each(|row| {
            // Plain numbers cannot fail.
            output.line(serde_json::to_string(&Record::of(row)).unwrap_or_default())
        }),
        Format::Plain => results.rows.iter().try_for_each(|row| {
            let cpu = [row.giver_cpu_s, row.taker_cpu_s].map(|cpu| cpu.map_or_else(String::new, |cpu| cpu.to_string()));
            let [round, wall, bytes, files] =
                [row.round.to_string(), row.wall_s.to_string(), row.bytes.to_string(), row.files.to_string()];
            output.fields(&[row.case.words(), &round, &wall, &bytes, &files, &cpu[0], &cpu[1]])
        }),
        Format::Human => {
            output.remark(results.setting())?;
            output.table(&results.table())
        }
    }
}

/// A floor: reads the content, or writes into the folder.
type Floor = fn(&Content, &Path, &Stop) -> anyhow::Result<()>;

const FLOORS: [(Case, Floor); 6] = [
    (Case::HashOneThread, |content, _, stop| floors::hash_one_thread(&content.large, stop).map(drop)),
    (Case::HashAllThreads, |content, _, stop| floors::hash_all_threads(&content.large, stop).map(drop)),
    (Case::Carry, |content, _, stop| floors::carry(&content.large, stop)),
    (Case::Write, |content, target, stop| floors::write(&target.join("written"), content.large_bytes, stop)),
    (Case::HashSmall, |content, _, stop| content.check_small(&content.small_folder, stop)),
    (Case::Create, |content, target, stop| floors::create(target, &content.small, stop)),
];

struct Bench<'a> {
    folder: PathBuf,
    /// Folders that were written into so far.
    targets: AtomicU32,
    stop: Stop,
    output: &'a Output,
}

impl Bench<'_> {
    async fn run(&self, parameters: Parameters) -> anyhow::Result<TransferResults> {
        let (large, files, folder, stop) = (parameters.large, parameters.files, self.folder.clone(), self.stop.clone());
        let content = blocking(move || Content::write(&folder.join("content"), large, files, &stop)).await?;
        let content = Arc::new(content);
        let mut results = TransferResults::new(parameters);
        for round in 0..results.parameters.rounds {
            for (case, floor) in FLOORS {
                let row = self.floor(case, floor, &content).await.with_context(|| case.words())?;
                self.keep(&mut results, round, row);
            }
            for row in self.peers(&content, results.parameters.peers).await? {
                self.keep(&mut results, round, row);
            }
        }
        Ok(results)
    }

    fn keep(&self, results: &mut TransferResults, round: u32, row: Row) {
        if !self.output.quiet {
            let (words, wall, rate) = (row.case.words(), row.wall_s, row.mb_per_s());
            self.output.note(format!("round {round} {words:29} {wall:9.3} s  {rate:8.1} MB/s"));
        }
        results.rows.push(Row { round, ..row });
    }

    /// A folder that nothing is in.
    fn target(&self) -> std::io::Result<PathBuf> {
        let target = self.folder.join(format!("target-{}", self.targets.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&target)?;
        Ok(target)
    }

    async fn floor(&self, case: Case, floor: Floor, content: &Arc<Content>) -> anyhow::Result<Row> {
        let (target, stop, moved) = (self.target()?, self.stop.clone(), Arc::clone(content));
        let row = blocking(move || {
            // Counts threads that have ended, too.
            let cpu = || clock_gettime(ClockId::ProcessCPUTime);
            let (before, started) = (cpu(), Instant::now());
            floor(&moved, &target, &stop)?;
            let (wall, cpu) = (started.elapsed().as_secs_f64(), Duration::try_from(cpu() - before)?);
            clear(case, &target)?;
            Ok((wall, cpu.as_secs_f64()))
        });
        let (wall, cpu) = row.await?;
        Ok(row_of(case, content, 1, wall, [Some(cpu), None]))
    }

    /// All that peers do, once: they are fresh, and only those run that take part.
    async fn peers(&self, content: &Arc<Content>, many: u16) -> anyhow::Result<Vec<Row>> {
        let seed = PeerProcess::start(&self.folder, "seed", None).await?;
        let large = format!("b3:{}", content.large_hash);
        let small = format!("{}:small", seed.key()?);
        let mut rows = vec![share(Case::ShareLarge, &seed, &content.large_folder, content).await?];
        rows.push(self.get(Case::OneToOne, &[&seed], 1, &large, content).await?);
        rows.push(self.get(Case::OneToMany, &[&seed], many, &large, content).await?);
        rows.push(share(Case::ShareSmall, &seed, &content.small_folder, content).await?);
        rows.push(self.get(Case::OneToOneSmall, &[&seed], 1, &small, content).await?);
        let more = self.join(&seed, "provider", many - 1).await?;
        try_join_all(more.iter().map(|provider| provider.share(&content.large_folder, 1))).await?;
        let givers: Vec<_> = std::iter::once(&seed).chain(&more).collect();
        rows.push(self.get(Case::ManyToOne, &givers, 1, &large, content).await?);
        try_join_all(more.into_iter().map(PeerProcess::stop)).await?;
        seed.stop().await?;
        Ok(rows)
    }

    async fn join(&self, seed: &PeerProcess, name: &str, peers: u16) -> anyhow::Result<Vec<PeerProcess>> {
        let mut joined = Vec::new();
        for number in 0..peers {
            joined.push(PeerProcess::start(&self.folder, &format!("{name}-{number}"), Some(seed.ticket()?)).await?);
        }
        Ok(joined)
    }

    /// Fresh peers fetch the same at once, from whoever has it; compares what arrives.
    async fn get(
        &self,
        case: Case,
        givers: &[&PeerProcess],
        takers: u16,
        what: &str,
        content: &Arc<Content>,
    ) -> anyhow::Result<Row> {
        let seed = givers.first().context("nobody gives")?;
        let takers = self.join(seed, "taker", takers).await?;
        let target = self.target()?;
        let paths: Vec<PathBuf> = (0..takers.len()).map(|number| target.join(number.to_string())).collect();
        let (all, started) = (takers.iter().collect::<Vec<_>>(), Instant::now());
        let [giver, taker] = [cpu(givers), cpu(&all)];
        let done = try_join_all(takers.iter().zip(&paths).map(|(taker, path)| taker.get(what, path))).await?;
        let wall = started.elapsed().as_secs_f64();
        let spent = [spent(givers, giver), spent(&all, taker)];
        let (moved, stop) = (Arc::clone(content), self.stop.clone());
        blocking(move || {
            for path in &paths {
                if case.is_small() { moved.check_small(path, &stop)? } else { moved.check_large(path, &stop)? }
            }
            clear(case, &target)
        })
        .await?;
        let mut row = row_of(case, content, takers.len(), wall, spent);
        if let [done] = done.as_slice() {
            row.givers = Some(done.providers);
        } else {
            let key = seed.key()?;
            let from_seed = done.iter().flat_map(|done| &done.from).filter(|share| share.peer == key);
            row.seed_share =
                Some(micro(from_seed.map(|share| share.bytes).sum::<u64>() as f64 / content.large_bytes as f64));
        }
        try_join_all(takers.into_iter().map(PeerProcess::stop)).await?;
        Ok(row)
    }
}

/// Removes what was written, but small files only with everything else: for minutes ext4 without a journal gives no new
/// file the inode of a removed one, and looks at all of them for each new file: half a millisecond after 20,000.
fn clear(case: Case, target: &Path) -> anyhow::Result<()> {
    if case.is_small() { Ok(()) } else { Ok(fs::remove_dir_all(target)?) }
}

/// Runs what blocks, on a thread that it may keep busy.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await?
}

async fn share(case: Case, peer: &PeerProcess, folder: &Path, content: &Content) -> anyhow::Result<Row> {
    let files = if case.is_small() { content.small.len() as u64 } else { 1 };
    let (before, started) = (cpu(&[peer]), Instant::now());
    peer.share(folder, files).await?;
    let wall = started.elapsed().as_secs_f64();
    Ok(row_of(case, content, 1, wall, [spent(&[peer], before), None]))
}

/// CPU time so far of each; none if one cannot be read.
fn cpu(peers: &[&PeerProcess]) -> Option<Vec<CpuReading>> {
    peers.iter().map(|peer| peer.cpu()).collect()
}

/// Seconds since an earlier reading of the same peers.
fn spent(peers: &[&PeerProcess], before: Option<Vec<CpuReading>>) -> Option<f64> {
    let both = cpu(peers)?.into_iter().zip(before?);
    Some(both.map(|(after, before)| after.since(&before).as_secs_f64()).sum())
}

/// A row of `copies` of what the case moves.
fn row_of(case: Case, content: &Content, copies: usize, wall: f64, cpu: [Option<f64>; 2]) -> Row {
    let copies = copies as u64;
    let (bytes, files) =
        if case.is_small() { (content.small_bytes(), content.small.len() as u64) } else { (content.large_bytes, 1) };
    let [giver_cpu_s, taker_cpu_s] = cpu.map(|cpu| cpu.map(micro));
    // A clock that stood still would make rates infinite.
    let wall_s = micro(wall.max(1e-6));
    let (bytes, files) = (bytes * copies, files * copies);
    Row { case, round: 0, wall_s, bytes, files, giver_cpu_s, taker_cpu_s, givers: None, seed_share: None }
}

/// A millionth is enough for a file that people read.
fn micro(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}
