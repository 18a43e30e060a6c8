//! Downloads as records: state, reason in words, next action, causes per provider.

use haul_net::clock::boot_now;

use super::{Item, Job};
use crate::api::codes::ErrorCode;
use crate::api::known::Known;
use crate::api::problem::Problem;
use crate::api::records::{Cause, DoneRecord, Notice, ProgressRecord, ProviderShare, TransferRecord, TransferState};
use crate::fetch::{CHANGED, FetchDone, FetchError, FetchProgress};
use crate::files::FileError;
use crate::text::rfc3339;

fn giving(progress: &FetchProgress) -> u32 {
    progress.providers.iter().filter(|provider| provider.trouble.is_none() && provider.bytes > 0).count() as u32
}

fn shares(progress: &FetchProgress, known: &Known) -> Vec<ProviderShare> {
    let mut shares: Vec<ProviderShare> = progress
        .providers
        .iter()
        .filter(|provider| provider.bytes > 0)
        .map(|provider| ProviderShare {
            peer: provider.peer.to_string(),
            name: known.name(&provider.peer),
            bytes: provider.bytes,
            corrupt: 0,
            bps: None,
        })
        .collect();
    shares.sort_by_key(|share| std::cmp::Reverse(share.bytes));
    shares
}

/// Who gave to it, over all runs, and how fast now.
fn given(item: &Item, known: &Known) -> Vec<ProviderShare> {
    let now = boot_now();
    let told = item.timeline.told();
    let gave = told.tallies.iter().filter(|(_, tally)| tally.bytes > 0 || tally.joined);
    let mut given: Vec<ProviderShare> = gave
        .map(|(peer, tally)| ProviderShare {
            peer: peer.to_string(),
            name: known.name(peer),
            bytes: tally.bytes,
            corrupt: u64::from(tally.banned.is_some()),
            bps: Some(tally.bps_now(now)).filter(|bps| *bps > 0),
        })
        .collect();
    given.sort_by_key(|share| std::cmp::Reverse(share.bytes));
    given
}

pub(super) fn transfer(id: u64, item: &Item, known: &Known) -> TransferRecord {
    let phase = item.phase.borrow().clone();
    let progress = item.progress.borrow().clone();
    let total = if progress.total > 0 { Some(progress.total) } else { phase.done.as_ref().map(|done| done.bytes) };
    let (reason, next) = words(id, item, phase.state, phase.problem.as_ref(), &progress);
    TransferRecord {
        transfer: id,
        what: item.job.what.clone(),
        id: item.job.id(),
        path: item.job.target.display().to_string(),
        state: phase.state,
        done: phase.done.as_ref().map_or(progress.done, |done| done.bytes),
        total,
        bps: if phase.state == TransferState::Running { progress.bytes_per_second } else { 0 },
        providers: phase.done.as_ref().map_or_else(
            || giving(&progress),
            |done| shares(&progress, known).len().max(done.providers as usize) as u32,
        ),
        reason,
        next,
        code: phase.problem.filter(|_| phase.state == TransferState::Failed).map(|problem| problem.code),
        added: rfc3339(item.added),
        from: given(item, known),
    }
}

fn words(
    id: u64,
    item: &Item,
    state: TransferState,
    problem: Option<&Problem>,
    progress: &FetchProgress,
) -> (Option<String>, Option<String>) {
    match state {
        TransferState::Waiting => {
            (
                Some(problem.map_or_else(
                    || "other transfers run; this one waits for a place".into(),
                    |why| why.message.clone(),
                )),
                Some(format!("give it up: haul transfers cancel {id}")),
            )
        }
        TransferState::Running => {
            let give_up = || format!("give it up: haul transfers cancel {id}");
            let next = progress.reason.as_ref().map(|_| progress.next.clone().unwrap_or_else(give_up));
            (progress.reason.clone(), next)
        }
        TransferState::Paused => {
            (Some("paused; what arrived is kept".into()), Some(format!("haul transfers resume {id}")))
        }
        TransferState::Canceled => (Some("given up".into()), Some(format!("haul transfers retry {id}"))),
        TransferState::Failed => {
            let next = match problem.and_then(|problem| problem.next.clone()) {
                Some(next) if item.job.wait => next,
                _ => format!("haul transfers retry {id}"),
            };
            (problem.map(|problem| problem.message.clone()), Some(next))
        }
        TransferState::Done => (None, None),
    }
}

pub(super) fn progress(
    transfer: Option<u64>,
    id: Option<String>,
    name: &str,
    progress: &FetchProgress,
    known: &Known,
) -> ProgressRecord {
    let many = progress.files > 1;
    ProgressRecord {
        transfer,
        id,
        name: name.to_owned(),
        done: progress.done,
        verified: progress.done,
        total: (progress.total > 0).then_some(progress.total),
        bps: progress.bytes_per_second,
        providers: giving(progress),
        files_done: many.then_some(progress.files_done),
        files_total: many.then_some(progress.files),
        from: shares(progress, known),
    }
}

pub(super) fn done(job: &Job, done: FetchDone, progress: &FetchProgress, known: &Known) -> DoneRecord {
    let directory = matches!(job.kind, super::JobKind::Directory { .. });
    let mut from = shares(progress, known);
    for (peer, _) in &done.banned {
        let key = peer.to_string();
        match from.iter_mut().find(|share| share.peer == key) {
            Some(share) => share.corrupt += 1,
            None => from.push(ProviderShare { peer: key, name: known.name(peer), bytes: 0, corrupt: 1, bps: None }),
        }
    }
    DoneRecord {
        id: job.id(),
        path: done.path.display().to_string(),
        bytes: done.bytes,
        ms: done.ms,
        resumed_from: done.resumed_from,
        fetched: done.fetched,
        providers: done.providers.len() as u32,
        verified: true,
        files: directory.then_some(done.files),
        from,
    }
}

/// Things left out that are told one by one; further ones are counted.
const TOLD: usize = 20;

pub(super) fn warnings(done: &FetchDone, known: &Known) -> Vec<Notice> {
    let mut warnings: Vec<Notice> = done
        .banned
        .iter()
        .map(|(peer, what)| Notice {
            message: format!(
                "{} sent what does not belong to it: {what}; its bytes were thrown away",
                known.name(peer)
            ),
            next: None,
        })
        .collect();
    let told = done.skipped.iter().take(TOLD);
    warnings.extend(told.map(|(path, why)| Notice { message: format!("left out: {path}: {why}"), next: None }));
    if done.skipped.len() > TOLD {
        let message = format!("left out: {} more", done.skipped.len() - TOLD);
        warnings.push(Notice { message, next: None });
    }
    warnings
}

/// What a failed download says to people. `name` is for reading, `what` for typing.
pub fn problem_of(error: &FetchError, name: &str, what: &str, seen: &FetchProgress, known: &Known) -> Problem {
    let again = format!("haul get {what}");
    match error {
        FetchError::NoProvider { reason, banned } => {
            let mut causes: Vec<Cause> = seen
                .providers
                .iter()
                .filter_map(|provider| {
                    let message = provider.trouble.clone()?;
                    Some(Cause { peer: Some(provider.peer.to_string()), name: known.name(&provider.peer), message })
                })
                .collect();
            for (peer, message) in banned {
                let key = peer.to_string();
                if !causes.iter().any(|cause| cause.peer.as_deref() == Some(&key)) {
                    causes.push(Cause { peer: Some(key), name: known.name(peer), message: message.clone() });
                }
            }
            if causes.is_empty() && !reason.is_empty() {
                causes.push(Cause { peer: None, name: "providers".into(), message: reason.clone() });
            }
            let wait = format!("wait for one of them: {again} --wait");
            if !causes.is_empty() && causes.iter().all(|cause| cause.message == CHANGED) {
                return Problem::new(ErrorCode::FileChanged, format!("{name} changed while it was fetched"))
                    .causes(causes)
                    .next(format!("find what it is now: haul search {name}"));
            }
            if !banned.is_empty() {
                Problem::new(
                    ErrorCode::Corrupt,
                    format!("what arrived for {name} did not match its id, and nobody else gives it"),
                )
            } else if seen.done > 0 {
                let message =
                    format!("{name} is incomplete: {} of {} bytes are here and verified", seen.done, seen.total);
                Problem::new(ErrorCode::Incomplete, message)
            } else {
                Problem::new(ErrorCode::NoProvider, format!("nobody who has {name} can be reached"))
            }
            .causes(causes)
            .next(wait)
        }
        FetchError::File(error) => file_problem(error, &again),
        FetchError::Listing(why) => {
            Problem::new(ErrorCode::Incomplete, format!("cannot list {name}: {why}")).next(format!("again: {again}"))
        }
        FetchError::NoSuchDirectory => {
            Problem::new(ErrorCode::NotFound, format!("{name}: {error}")).next("see what is there: haul browse PEER")
        }
        FetchError::Cancelled => {
            Problem::new(ErrorCode::Interrupted, format!("{name} was stopped; what arrived is kept"))
                .next(format!("go on: {again}"))
        }
        FetchError::ReaderGone => Problem::new(ErrorCode::Interrupted, error.to_string()),
        FetchError::TooLarge(_) => Problem::new(ErrorCode::Usage, error.to_string()),
    }
}

fn file_problem(error: &FileError, again: &str) -> Problem {
    let words = error.to_string();
    match error {
        FileError::Exists(_) => Problem::new(ErrorCode::Exists, words).next(format!("replace it: {again} --force")),
        FileError::NotAFile(_) => Problem::new(ErrorCode::Exists, words).next(format!("{again} -o OTHER")),
        FileError::Locked(_) => Problem::new(ErrorCode::Exists, words).next("haul transfers"),
        FileError::NoFolder(_) => Problem::new(ErrorCode::Disk, words).next(format!("{again} -o FOLDER")),
        _ => Problem::new(ErrorCode::Disk, words).next(format!("then go on: {again}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::ProviderProgress;

    #[test]
    fn a_changed_file_is_named_as_the_reason_if_nothing_else_failed() {
        let provider = |byte, trouble: &str| ProviderProgress {
            peer: haul_core::ids::PeerId::new([byte; 32]).expect("a valid key"),
            bytes: 7,
            trouble: Some(trouble.into()),
        };
        let code = |providers| {
            let seen = FetchProgress { done: 7, total: 9, providers, ..FetchProgress::default() };
            let error = FetchError::NoProvider { reason: String::new(), banned: Vec::new() };
            problem_of(&error, "a.txt", "b3:00", &seen, &Known::default()).code
        };
        assert_eq!(code(vec![provider(9, CHANGED)]), ErrorCode::FileChanged);
        assert_eq!(code(vec![provider(9, CHANGED), provider(9, "is busy")]), ErrorCode::Incomplete);
        assert_eq!(code(Vec::new()), ErrorCode::Incomplete);
    }
}
