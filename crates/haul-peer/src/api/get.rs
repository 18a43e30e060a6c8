//! `get` and `cat`: from what people write to a blob or directory with providers, and to a place on disk.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use haul_core::bandwidth::{Direction, Rule, parse_rate};
use haul_core::ids::BlobId;
use haul_core::limits;
use haul_core::wire::index::{BlobPlaces, PeerCard, Providers};
use tokio::sync::{mpsc, watch};

use super::browse::{Found, PeerPath, find, no_path};
use super::codes::ErrorCode;
use super::context::Context;
use super::find::{blob_id, nobody, providers_of};
use super::problem::Problem;
use super::records::{Cause, DoneRecord, Notice, Record, TransferState};
use super::requests::{CatRequest, GetRequest};
use super::stream::Records;
use crate::fetch::{DEFAULT_PATIENCE, FetchProgress, StreamRequest};
use crate::transfers::{Job, JobKind, Transfers, problem_of};

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// How often one who waits for a name or a hash asks again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// What a command means.
struct Meaning {
    kind: JobKind,
    /// Base name at its provider.
    name: Option<Vec<u8>>,
    providers: Vec<PeerCard>,
    only_these: bool,
}

/// Fetches into a file or folder and reports until it is done.
pub async fn get(context: &Context, request: GetRequest, records: &Records) -> Result<(), Problem> {
    let output = PathBuf::from(&request.output);
    if !output.is_absolute() {
        return Err(Problem::new(ErrorCode::Usage, format!("the output {} is not an absolute path", output.display())));
    }
    let limit = request.limit.as_deref().map(limit_of).transpose()?;
    let meaning = wait_for_meaning(context, &request, records).await?;
    let target = target_of(&output, &meaning, &request.what)?;
    let job = Job {
        what: request.what.clone(),
        kind: meaning.kind,
        target,
        force: request.force,
        outside_links: request.outside_links,
        wait: request.wait,
        only_these: meaning.only_these,
        providers: meaning.providers,
    };
    let name = job.name();
    let transfer = match limit {
        Some(limit) => context.transfers.add_limited(job, limit, &context.bandwidth).await?,
        None => context.transfers.add(job).await?,
    };
    if request.background {
        if let Some(record) = context.transfers.record(transfer) {
            records.send(Record::Transfer(record)).await?;
        }
        return Ok(());
    }
    report(&context.transfers, transfer, &name, records).await
}

fn limit_of(rate: &str) -> Result<Rule, Problem> {
    let rate = parse_rate(rate).map_err(|error| {
        Problem::new(ErrorCode::Usage, error.to_string()).next("haul get --help; haul limit --help")
    })?;
    Ok(Rule { direction: Some(Direction::Down), when: None, rate })
}

/// Pauses a download whose follower goes away (Ctrl-C at the terminal), unless it has ended.
struct PauseOnDrop<'a> {
    transfers: &'a Arc<Transfers>,
    transfer: Option<u64>,
}

impl Drop for PauseOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(transfer) = self.transfer {
            self.transfers.pause_soon(transfer);
        }
    }
}

async fn report(transfers: &Arc<Transfers>, transfer: u64, name: &str, records: &Records) -> Result<(), Problem> {
    let mut guard = PauseOnDrop { transfers, transfer: Some(transfer) };
    let Some((mut phase, progress)) = transfers.follow(transfer) else {
        return Err(Problem::new(ErrorCode::NoSuch, format!("transfer {transfer} is gone")).next("haul transfers"));
    };
    // At once, so that the one who follows can pause it from the first moment.
    let first = transfers.progress_record(transfer, name, &progress.borrow().clone());
    records.send(Record::Progress(first)).await?;
    let mut tick = tokio::time::interval(PROGRESS_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told: Option<String> = None;
    loop {
        let now = phase.borrow_and_update().clone();
        match now.state {
            TransferState::Done => {
                guard.transfer = None;
                for warning in now.warnings {
                    records.send(Record::Warning(warning)).await?;
                }
                let done = now.done.unwrap_or_default();
                records.send(Record::Done(done)).await?;
                return Ok(());
            }
            TransferState::Running | TransferState::Waiting => {}
            TransferState::Paused | TransferState::Canceled | TransferState::Failed => {
                guard.transfer = None;
                let problem = now.problem;
                return Err(
                    problem.unwrap_or_else(|| Problem::new(ErrorCode::Interrupted, format!("{name} was stopped")))
                );
            }
        }
        tokio::select! {
            changed = phase.changed() => if changed.is_err() {
                return Err(Problem::new(ErrorCode::Stopping, "the daemon is stopping").next("haul up"));
            },
            _ = tick.tick() => {
                let seen = progress.borrow().clone();
                if seen.total > 0 {
                    records.send(Record::Progress(transfers.progress_record(transfer, name, &seen))).await?;
                }
                if seen.reason != told {
                    told.clone_from(&seen.reason);
                    if let Some(message) = seen.reason {
                        let next = Some(format!("stop it: haul transfers pause {transfer}"));
                        records.send(Record::Waiting(Notice { message, next })).await?;
                    }
                }
            }
        }
    }
}

async fn wait_for_meaning(context: &Context, request: &GetRequest, records: &Records) -> Result<Meaning, Problem> {
    let mut told: Option<String> = None;
    loop {
        let problem = match meaning(context, &request.what, &request.from, request.wait).await {
            Ok(meaning) => return Ok(meaning),
            Err(problem) => problem,
        };
        let passes = matches!(
            problem.code,
            ErrorCode::NotFound
                | ErrorCode::NoProvider
                | ErrorCode::Hashing
                | ErrorCode::IndexUnreachable
                | ErrorCode::IndexBusy
        );
        if !request.wait || !passes {
            return Err(problem);
        }
        if told.as_ref() != Some(&problem.message) {
            records.send(Record::Waiting(Notice { message: problem.message.clone(), next: problem.next })).await?;
            told = Some(problem.message);
        }
        tokio::select! {
            () = tokio::time::sleep(ASK_AGAIN) => {}
            () = context.shutdown.cancelled() => {
                return Err(Problem::new(ErrorCode::Stopping, "the daemon is stopping").next("haul up"));
            }
        }
    }
}

async fn meaning(context: &Context, what: &str, from: &[String], wait: bool) -> Result<Meaning, Problem> {
    if let Some(blob) = blob_id(what)? {
        return of_blob(context, blob, what, from, wait).await;
    }
    if let Some((peer, path)) = split_peer(what)
        && let Some(meaning) = of_path(context, peer, path, what, from).await?
    {
        return Ok(meaning);
    }
    of_name(context, what, from).await
}

/// `PEER:PATH`, where PEER is a name or `pk:` and 64 digits. A name cannot have a colon.
fn split_peer(what: &str) -> Option<(&str, &str)> {
    let skip = if what.starts_with("pk:") { "pk:".len() } else { 0 };
    let colon = what.get(skip..)?.find(':')? + skip;
    let (peer, path) = (what.get(..colon)?, what.get(colon + 1..)?);
    (!peer.is_empty()).then_some((peer, path))
}

async fn of_blob(context: &Context, blob: BlobId, what: &str, from: &[String], wait: bool) -> Result<Meaning, Problem> {
    let max = limits::LOOKUP_PROVIDERS as u32;
    let providers = match providers_of(context, what, max, false).await {
        // Who waits may as well wait for those that are away.
        Ok(online) if online.peers.is_empty() && wait => providers_of(context, what, max, true).await?,
        Ok(online) => online,
        // Without an index, those who had it before are asked.
        Err(problem) if problem.code == ErrorCode::IndexUnreachable => {
            let Some((size, cards)) = context.known.holders(&blob).filter(|(_, cards)| !cards.is_empty()) else {
                return Err(problem);
            };
            let answers = vec![vec![BlobPlaces { blob: Some(blob), size, places: Vec::new(), total: 0 }]];
            Providers { peers: cards, answers, coverage_permille: 1_000 }
        }
        Err(problem) => return Err(problem),
    };
    let places = providers.answers.iter().flatten().find(|places| places.blob == Some(blob));
    let Some(places) = places.filter(|_| !providers.peers.is_empty()) else {
        // What this machine has already needs no provider.
        if context.shares.as_ref().is_some_and(|shares| shares.locate(&blob).is_some()) {
            let kind = JobKind::Blob { blob, size: None, executable: false, mtime_ns: None };
            return Ok(Meaning { kind, name: None, providers: Vec::new(), only_these: false });
        }
        return match of_absent(context, what).await? {
            Some(meaning) if from.is_empty() => Ok(meaning),
            _ => Err(nobody(context, what, wait).await),
        };
    };
    blob_meaning(context, blob, places, &providers, from).await
}

/// A content whose owners are all away, if others are downloading it or have downloaded it from them.
async fn of_absent(context: &Context, what: &str) -> Result<Option<Meaning>, Problem> {
    let away = providers_of(context, what, limits::LOOKUP_PROVIDERS as u32, true).await?;
    let contents: Vec<&BlobPlaces> = away.answers.iter().flatten().collect();
    let [only] = contents.as_slice() else { return Ok(None) };
    let Some(blob) = only.blob.filter(|_| only.size >= limits::SWARM_BYTES) else { return Ok(None) };
    let Some(peers) = context.link.swarm_of(blob, only.size).await.filter(|peers| !peers.is_empty()) else {
        return Ok(None);
    };
    let mut meaning = blob_meaning(context, blob, only, &away, &[]).await?;
    // Those that have parts are told of by the index, with what they have.
    meaning.providers = peers.into_iter().filter(|peer| peer.complete).map(|peer| peer.card).collect();
    Ok(Some(meaning))
}

async fn blob_meaning(
    context: &Context,
    blob: BlobId,
    places: &BlobPlaces,
    providers: &Providers,
    from: &[String],
) -> Result<Meaning, Problem> {
    let first = places.places.first();
    let kind = JobKind::Blob {
        blob,
        size: Some(places.size),
        executable: first.is_some_and(|place| place.executable),
        mtime_ns: first.map(|place| place.mtime_ns),
    };
    let held: Vec<PeerCard> = if places.places.is_empty() {
        providers.peers.clone()
    } else {
        places.places.iter().filter_map(|place| providers.peers.get(place.peer as usize).cloned()).collect()
    };
    let chosen = chosen(context, from, &held).await?;
    let name = first.map(|place| place.path.split().1.to_vec());
    Ok(Meaning { kind, name, only_these: !from.is_empty(), providers: chosen })
}

/// Of the providers, those that `--from` names; all if it names none.
async fn chosen(context: &Context, from: &[String], held: &[PeerCard]) -> Result<Vec<PeerCard>, Problem> {
    if from.is_empty() {
        return Ok(distinct(held));
    }
    let mut chosen = Vec::new();
    for text in from {
        let named = held.iter().find(|card| card.name.as_str() == text || card.id.to_string() == *text);
        let card = match named {
            Some(card) => card.clone(),
            // A member that the index does not list as a provider may still have it by now.
            None => context.member(text).await?,
        };
        chosen.push(card);
    }
    Ok(distinct(&chosen))
}

fn distinct(cards: &[PeerCard]) -> Vec<PeerCard> {
    let mut seen = std::collections::BTreeSet::new();
    cards.iter().filter(|card| seen.insert(card.id)).cloned().collect()
}

async fn of_name(context: &Context, what: &str, from: &[String]) -> Result<Meaning, Problem> {
    let providers = providers_of(context, what, limits::LOOKUP_PROVIDERS as u32, false).await?;
    let mut contents: Vec<&BlobPlaces> = providers.answers.iter().flatten().collect();
    if !from.is_empty() {
        contents.retain(|places| {
            places
                .places
                .iter()
                .filter_map(|place| providers.peers.get(place.peer as usize))
                .any(|card| from.iter().any(|text| card.name.as_str() == text || card.id.to_string() == *text))
        });
    }
    match contents.as_slice() {
        [] if !from.is_empty() && !providers.peers.is_empty() => {
            Err(Problem::new(ErrorCode::NotFound, format!("{} does not share {what}", from.join(", ")))
                .next(format!("see who does: haul lookup {what}")))
        }
        [] => match of_absent(context, what).await? {
            Some(meaning) if from.is_empty() => Ok(meaning),
            _ => Err(nobody(context, what, false).await),
        },
        [only] => match only.blob {
            Some(blob) => blob_meaning(context, blob, only, &providers, from).await,
            None => Err(hashing(what)),
        },
        several => Err(ambiguous(what, several, &providers)),
    }
}

fn hashing(what: &str) -> Problem {
    Problem::new(ErrorCode::Hashing, format!("{what} is still being hashed by its peer"))
        .next(format!("wait for it: haul get {what} --wait"))
}

fn ambiguous(what: &str, contents: &[&BlobPlaces], providers: &Providers) -> Problem {
    let causes = contents
        .iter()
        .map(|places| {
            let id = places.blob.map_or_else(|| "still being hashed".to_owned(), |blob| blob.to_string());
            let first = places.places.first();
            let peer = first.and_then(|place| providers.peers.get(place.peer as usize));
            let at = match (peer, first) {
                (Some(peer), Some(place)) => format!("{}:{}/{}", peer.name, place.share, place.path.display()),
                _ => "unknown".to_owned(),
            };
            Cause {
                peer: peer.map(|card| card.id.to_string()),
                name: id,
                message: format!("{} bytes, {} copies, one is {at}", places.size, places.total),
            }
        })
        .collect();
    let next = contents.iter().find_map(|places| places.blob).map(|blob| format!("take one of them: haul get {blob}"));
    let mut problem =
        Problem::new(ErrorCode::Ambiguous, format!("{} different contents have the name {what}", contents.len()))
            .causes(causes);
    problem.next = next;
    problem
}

/// None if no member is called so: then it may be a file name with a colon.
async fn of_path(
    context: &Context,
    peer: &str,
    path: &str,
    what: &str,
    from: &[String],
) -> Result<Option<Meaning>, Problem> {
    let card = match context.member(peer).await {
        Ok(card) => card,
        Err(problem) if problem.code == ErrorCode::NoSuch && !peer.starts_with("pk:") => return Ok(None),
        Err(problem) => return Err(problem),
    };
    let place = PeerPath::parse(path)?;
    let Some(share) = place.share.clone() else {
        return Err(Problem::new(ErrorCode::Usage, "a path starts with the name of a share")
            .next(format!("see the shares: haul browse {}", card.name)));
    };
    let Some(found) = find(context, &card, &place).await? else { return Err(no_path(&card, path)) };
    let name = if place.path.is_root() { share.as_str().as_bytes().to_vec() } else { place.path.split().1.to_vec() };
    let meaning = match found {
        Found::Directory => {
            let kind = JobKind::Directory { share, path: place.path };
            Meaning { kind, name: Some(name), providers: vec![card], only_these: !from.is_empty() }
        }
        Found::File { blob: Some(blob), size, executable, mtime_ns } => {
            let kind = JobKind::Blob { blob, size: Some(size), executable, mtime_ns: Some(mtime_ns) };
            let providers = if from.is_empty() { vec![card] } else { chosen(context, from, &[card]).await? };
            Meaning { kind, name: Some(name), providers, only_these: !from.is_empty() }
        }
        Found::File { blob: None, .. } => return Err(hashing(what)),
        Found::Link => {
            return Err(Problem::new(ErrorCode::Usage, format!("{path} is a symbolic link"))
                .next("fetch what it points to, or the directory that holds it: haul browse PEER:PATH"));
        }
    };
    Ok(Some(meaning))
}

/// Where it goes: into an existing folder under its own name, else the output becomes the file or folder itself.
fn target_of(output: &Path, meaning: &Meaning, what: &str) -> Result<PathBuf, Problem> {
    let as_folder = output.as_os_str().as_bytes().ends_with(b"/");
    if !output.is_dir() && !as_folder {
        return Ok(output.to_path_buf());
    }
    if as_folder && !output.exists() {
        std::fs::create_dir(output).map_err(|error| {
            Problem::new(ErrorCode::Disk, format!("cannot make the folder {}: {error}", output.display()))
                .next("give another place with -o: haul get WHAT -o FOLDER")
        })?;
    }
    let from_id = || what.trim_start_matches("haul:").replace([':', '/'], "-").into_bytes();
    let name = meaning.name.clone().unwrap_or_else(from_id);
    Ok(output.join(OsStr::from_bytes(&name)))
}

/// Sends the bytes of a file, verified, in order.
pub async fn cat(context: &Context, request: CatRequest, records: &Records) -> Result<(), Problem> {
    let started = Instant::now();
    let meaning = meaning(context, &request.what, &request.from, false).await?;
    let JobKind::Blob { blob, size, .. } = meaning.kind else {
        return Err(Problem::new(ErrorCode::Usage, format!("{} is a directory", request.what))
            .next(format!("fetch it: haul get {}", request.what)));
    };
    let range = request.range.map(|(first, end)| first..end.unwrap_or(u64::MAX).max(first));
    let stream = StreamRequest {
        blob,
        size,
        range,
        providers: meaning.providers,
        only_these: meaning.only_these,
        patience: DEFAULT_PATIENCE,
    };
    let (sender, mut bytes) = mpsc::channel::<Bytes>(16);
    let (progress, seen) = watch::channel(FetchProgress::default());
    let fetching = context.downloader.stream_blob(stream, sender, progress, context.shutdown.child_token());
    let passing = async move {
        let mut sent = 0;
        while let Some(part) = bytes.recv().await {
            records.send_data(&part).await?;
            sent += part.len() as u64;
        }
        Ok::<u64, Problem>(sent)
    };
    let (fetched, sent) = tokio::join!(fetching, passing);
    let sent = sent?;
    let done =
        fetched.map_err(|error| problem_of(&error, &request.what, &request.what, &seen.borrow(), &context.known))?;
    let record = DoneRecord {
        id: Some(blob.to_string()),
        path: "-".into(),
        bytes: sent,
        ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        fetched: done.fetched,
        providers: done.providers.len() as u32,
        verified: true,
        ..DoneRecord::default()
    };
    records.send(Record::Done(record)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_and_paths_are_told_apart() {
        assert_eq!(split_peer("nas:docs/a:b"), Some(("nas", "docs/a:b")));
        assert_eq!(split_peer("plain"), None);
        assert_eq!(split_peer(":x"), None);
        let key = format!("pk:{}", "ab".repeat(32));
        assert_eq!(split_peer(&format!("{key}:docs")), Some((key.as_str(), "docs")));
        assert_eq!(split_peer(&key), None);
    }
}
