//! One share at the index: opened, kept in step, closed while it is away.

use std::sync::Arc;
use std::time::Duration;

use haul_core::limits;
use haul_core::manifest::{PageBuilder, RegistrationDigest, ShareState};
use haul_core::wire::List;
use haul_core::wire::index::{IndexAnswer, IndexRequest, Refusal};
use tokio::sync::watch;
use tokio::time::Instant;

use super::transaction::{Failure, Transaction};
use super::{IndexSession, Line, SessionEnded};
use crate::share::{Folder, ManifestKey, Overview};

/// A name whose hash is ready within this time is sent once.
const HASH_PATIENCE: Duration = Duration::from_secs(2);
/// After a refusal without a time: first wait, and longest.
const BACK_OFF: Duration = Duration::from_secs(1);
const BACK_OFF_MOST: Duration = Duration::from_mins(1);

/// What the index holds of a share.
#[derive(Clone, Copy, Debug)]
struct Held {
    state: ShareState,
    /// Changes of the share that are in it.
    changes: u64,
}

/// Why a share is not kept in step any longer.
enum End {
    Away,
    Removed,
}

/// Keeps one share in step until its owner removes it.
pub(super) async fn follow<S: IndexSession>(folder: Arc<Folder>, line: Line<S>) -> Result<(), SessionEnded> {
    let mut changes = folder.changes();
    let mut back_off = BACK_OFF;
    // After a mismatch the index gets everything, whatever state it names.
    let mut in_full = false;
    loop {
        let view = wait_for(&folder, &mut changes, |view| view.removed || is_presentable(view)).await;
        if view.removed {
            return Ok(());
        }
        if !view.told {
            // What is hashed meanwhile need not be sent a second time.
            wait_patiently(&folder, &mut changes).await;
        }
        let attached = Attached::new(folder.clone());
        let outcome = keep(&folder, &line, &mut changes, in_full, &mut back_off).await;
        drop(attached);
        match outcome {
            Ok(End::Removed) => return Ok(()),
            Ok(End::Away) => {
                line.session.ask(&IndexRequest::Close { share: folder.record.id, forget: false }).await?;
                in_full = false;
                continue;
            }
            Err(Failure::Ended(ended)) => return Err(ended),
            Err(Failure::Refused(Refusal::Busy { retry_after_ms })) => {
                // Not before the time told, and not all at that time.
                let wait = Duration::from_millis(retry_after_ms) + jittered(BACK_OFF);
                tracing::info!(share = %folder.record.name, ?wait, "the index is busy; the share is registered later");
                folder.set_refused(format!("the index is busy; trying again in {:.0} s", wait.as_secs_f64().ceil()));
                tokio::time::sleep(wait).await;
                continue;
            }
            Err(Failure::Refused(Refusal::StateMismatch | Refusal::NotOpen)) if !in_full => {
                tracing::info!(share = %folder.record.name, "the index holds another list; it gets all of it again");
                in_full = true;
                continue;
            }
            Err(Failure::Refused(refusal)) => {
                tracing::warn!(share = %folder.record.name, ?refusal, "the index refuses a share");
                folder.set_refused(format!("the index refuses it: {refusal:?}"));
            }
            Err(Failure::Unexpected) => {
                tracing::warn!(share = %folder.record.name, "the index answers out of turn");
            }
        }
        in_full = true;
        tokio::time::sleep(jittered(back_off)).await;
        back_off = (back_off * 2).min(BACK_OFF_MOST);
    }
}

/// Something can be said about it: it is there, and either walked or being walked with something found.
fn is_presentable(view: &Overview) -> bool {
    !view.away && (view.walked || view.entries > 0)
}

/// Walking and hashing of an attached share wait for its registration, within limits.
struct Attached(Arc<Folder>);

impl Attached {
    fn new(folder: Arc<Folder>) -> Self {
        folder.attach(true);
        Self(folder)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.attach(false);
    }
}

async fn wait_for(folder: &Folder, changes: &mut watch::Receiver<u64>, enough: impl Fn(&Overview) -> bool) -> Overview {
    loop {
        changes.borrow_and_update();
        let view = folder.overview();
        if enough(&view) {
            return view;
        }
        // The sender lives in the folder.
        let _ = changes.changed().await;
    }
}

/// How long to wait for hashes before names are sent without them.
fn patience(view: &Overview) -> Duration {
    match view {
        Overview { scanning: true, .. } => limits::WALK_COMMIT_INTERVAL,
        Overview { busy: true, .. } => HASH_PATIENCE,
        _ => Duration::ZERO,
    }
}

/// Waits until a share is walked and hashed, or has been waited for long enough.
async fn wait_patiently(folder: &Folder, changes: &mut watch::Receiver<u64>) {
    let since = Instant::now();
    loop {
        changes.borrow_and_update();
        let view = folder.overview();
        let until = since + patience(&view);
        if view.removed || view.away || Instant::now() >= until {
            return;
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }
}

/// Between half and one and a half times as long, so that many peers do not come back together.
fn jittered(wait: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    wait.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX))
}

/// Runs on a thread that may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("building pages does not panic")
}

/// Opens the share and keeps it in step.
async fn keep<S: IndexSession>(
    folder: &Arc<Folder>,
    line: &Line<S>,
    changes: &mut watch::Receiver<u64>,
    in_full: bool,
    back_off: &mut Duration,
) -> Result<End, Failure> {
    let mut held = open(folder, line, in_full).await?;
    *back_off = BACK_OFF;
    let mut waiting_since: Option<Instant> = None;
    loop {
        changes.borrow_and_update();
        let view = folder.overview();
        if view.removed {
            return Ok(End::Removed);
        }
        if view.away {
            return Ok(End::Away);
        }
        if view.state == held.state {
            waiting_since = None;
            let _ = changes.changed().await;
            continue;
        }
        let since = *waiting_since.get_or_insert_with(Instant::now);
        let patience = patience(&view);
        let many = view.changes.saturating_sub(held.changes) >= limits::WALK_COMMIT_ENTRIES as u64;
        if !many && since.elapsed() < patience {
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(since + patience) => {}
            }
            continue;
        }
        held = amend(folder, line, held).await?;
        waiting_since = None;
    }
}

async fn open<S: IndexSession>(folder: &Arc<Folder>, line: &Line<S>, in_full: bool) -> Result<Held, Failure> {
    let at = folder.clone();
    let snapshot = blocking(move || at.snapshot()).await;
    let request = IndexRequest::Open {
        share: folder.record.id,
        name: folder.record.name.clone(),
        groups: List::new(folder.record.groups.clone()),
        state: snapshot.state,
    };
    match line.session.ask(&request).await? {
        IndexAnswer::Same => {
            folder.registered(Some(snapshot.state), Some(snapshot.changes), snapshot.files);
            Ok(Held { state: snapshot.state, changes: snapshot.changes })
        }
        IndexAnswer::Amend { from } if !in_full && folder.knows(from) => {
            amend(folder, line, Held { state: from, changes: 0 }).await
        }
        IndexAnswer::Amend { .. } | IndexAnswer::Replace => replace(folder, line).await,
        IndexAnswer::Refused(refusal) => Err(Failure::Refused(refusal)),
        _ => Err(Failure::Unexpected),
    }
}

/// A page with the number of its records.
type Page = (Vec<u8>, u64);

struct Amendment {
    pages: Vec<Page>,
    state: ShareState,
    changes: u64,
    files: u64,
}

/// Sends what changed since the held state; everything, if that is too much or cannot be told.
async fn amend<S: IndexSession>(folder: &Arc<Folder>, line: &Line<S>, held: Held) -> Result<Held, Failure> {
    let at = folder.clone();
    let Some(amendment) = blocking(move || amendment(&at, held.state)).await else {
        return replace(folder, line).await;
    };
    let mut transaction = Transaction::begin(line, folder.record.id, Some(held.state)).await;
    for (page, records) in amendment.pages {
        transaction.page(page, records).await?;
    }
    transaction.commit(amendment.state).await?;
    folder.registered(Some(amendment.state), Some(amendment.changes), amendment.files);
    Ok(Held { state: amendment.state, changes: amendment.changes })
}

fn amendment(folder: &Folder, held: ShareState) -> Option<Amendment> {
    let amendment = folder.between_batches(|state| {
        let manifest = &state.manifest;
        let keys = manifest.changes_since(held.revision, limits::AMEND_ENTRIES)?;
        let mut pages = Vec::new();
        let mut page = PageBuilder::new();
        for key in &keys {
            let Some(item) = manifest.get_key(key) else { continue };
            push(&mut pages, &mut page, &item.change(&key.directory, &key.name));
        }
        finish(&mut pages, &mut page);
        let files = manifest.totals().files;
        Some(Amendment { pages, state: manifest.state(), changes: state.changes(), files })
    })?;
    folder.tell(amendment.state);
    Some(amendment)
}

fn push(pages: &mut Vec<Page>, page: &mut PageBuilder, change: &haul_core::manifest::Change<'_>) {
    if !page.push(change) {
        finish(pages, page);
        // An empty page has room for any one record.
        let _ = page.push(change);
    }
}

fn finish(pages: &mut Vec<Page>, page: &mut PageBuilder) {
    let records = page.len() as u64;
    if records > 0 {
        pages.push((page.finish(), records));
    }
}

/// A pass over the whole list, part by part, while it may change. It only ever adds entries, so the digest of what has
/// been sent is known after each part; entries that change behind its back carry a later revision than the one at which
/// it began, and the next amendment brings them.
#[derive(Clone, Debug)]
struct Sweep {
    began: ShareState,
    changes: u64,
    digest: RegistrationDigest,
    files: u64,
    after: Option<ManifestKey>,
    done: bool,
}

/// Sends everything. A share that no index has ever seen becomes visible part by part; else the old list stays
/// visible until the new one is complete.
async fn replace<S: IndexSession>(folder: &Arc<Folder>, line: &Line<S>) -> Result<Held, Failure> {
    let by_parts = !folder.overview().told;
    let at = folder.clone();
    let snapshot = blocking(move || at.snapshot()).await;
    let next_part = |from: Sweep| {
        let at = folder.clone();
        tokio::task::spawn_blocking(move || part(&at, from))
    };
    let mut reading = next_part(Sweep {
        began: snapshot.state,
        changes: snapshot.changes,
        digest: RegistrationDigest::default(),
        files: 0,
        after: None,
        done: false,
    });
    let mut transaction = Transaction::begin(line, folder.record.id, None).await;
    loop {
        let (pages, sweep) = (&mut reading).await.expect("building pages does not panic");
        // While the index takes this part in, the next one is read.
        if !sweep.done {
            reading = next_part(sweep.clone());
        }
        for (page, records) in pages {
            transaction.page(page, records).await?;
        }
        let state = ShareState { revision: sweep.began.revision, digest: sweep.digest };
        if sweep.done {
            let at = folder.clone();
            blocking(move || at.tell(state)).await;
            transaction.commit(state).await?;
            folder.registered(Some(state), Some(sweep.changes), sweep.files);
            return Ok(Held { state, changes: sweep.changes });
        }
        if by_parts {
            transaction.commit(state).await?;
            folder.registered(None, None, sweep.files);
            transaction = Transaction::begin(line, folder.record.id, Some(state)).await;
        }
    }
}

/// The next part of a sweep, at most as many entries as a walk commits at once.
fn part(folder: &Folder, mut sweep: Sweep) -> (Vec<Page>, Sweep) {
    let mut pages = Vec::new();
    let mut page = PageBuilder::new();
    let state = folder.lock();
    let mut last = None;
    let mut entries = 0;
    sweep.done = true;
    for (directory, name, item) in state.manifest.iter_after(sweep.after.as_ref()) {
        let Some(entry) = item.kind.entry(directory, name) else { continue };
        if entries == limits::WALK_COMMIT_ENTRIES {
            sweep.done = false;
            break;
        }
        entries += 1;
        sweep.digest.add(&entry);
        sweep.files += u64::from(item.file().is_some());
        push(&mut pages, &mut page, &haul_core::manifest::Change::Upsert(entry));
        last = Some((directory, name));
    }
    finish(&mut pages, &mut page);
    let last = last.map(|(directory, name)| ManifestKey { directory: directory.clone(), name: name.clone() });
    drop(state);
    sweep.after = last.or(sweep.after);
    (pages, sweep)
}
