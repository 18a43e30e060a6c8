//! A directory from its listing to the renamed folder.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use haul_core::blob::BlobGeometry;
use haul_core::ids::PeerId;
use haul_core::path::SharePath;
use haul_core::time::Moment;
use haul_net::clock::boot_now;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::blob::{blocking, copy_file, fetch_to};
use super::held::held_at;
use super::listing::{Plan, WantedFile, list};
use super::providers::slot_words;
use super::small::{self, Counters};
use super::{
    DirectoryRequest, Downloader, FetchDone, FetchError, FetchProgress, FetchRequest, ProviderProgress, noting,
};
use crate::files::{self, Existing, FileError, FileTraits, Place, Tree, link_stays_inside};
use crate::timeline::{How, Note};

/// Large files at once: the next one starts while the last leaves of another are on their way.
const LARGE_AT_ONCE: usize = 3;
/// How often progress is told.
const TELL: Duration = Duration::from_millis(100);
/// Bytes of small files after which what is written goes on its way to the disk, so that little is left for the sync at the
/// end. Kernels begin by themselves at a tenth of the memory, or after half a minute.
const WRITE_BACK_BYTES: u64 = 64 * 1024 * 1024;

/// What the parts of a directory download share.
struct Shared {
    downloader: Downloader,
    request: DirectoryRequest,
    cancel: CancellationToken,
    /// Large files under way. They are never dropped: each ends with a last checkpoint, and gives its lock back.
    large: TaskTracker,
    counters: Arc<Counters>,
    /// Bytes of large files that are under way.
    partial: AtomicU64,
    tally: std::sync::Mutex<Tally>,
    /// Why the large file that was heard of last does not move, and what can be done.
    waiting: std::sync::Mutex<Option<(String, Option<String>)>>,
}

#[derive(Default)]
struct Tally {
    gave: BTreeMap<PeerId, u64>,
    banned: BTreeMap<PeerId, String>,
    fetched: u64,
    resumed: u64,
}

pub(super) async fn fetch(
    downloader: &Downloader,
    request: DirectoryRequest,
    progress: &watch::Sender<FetchProgress>,
    cancel: &CancellationToken,
) -> Result<FetchDone, FetchError> {
    let shared = Arc::new(Shared {
        downloader: downloader.clone(),
        request,
        cancel: cancel.child_token(),
        large: TaskTracker::new(),
        counters: Arc::default(),
        partial: AtomicU64::new(0),
        tally: std::sync::Mutex::default(),
        waiting: std::sync::Mutex::default(),
    });
    // However this ends, the parts end too.
    let stop = shared.cancel.clone().drop_guard();
    let result = tokio::select! {
        () = cancel.cancelled() => Err(FetchError::Cancelled),
        done = fetch_all(&shared, progress) => done,
    };
    drop(stop);
    // Whoever hears of the end may try again at once.
    shared.large.close();
    shared.large.wait().await;
    result
}

async fn fetch_all(shared: &Arc<Shared>, progress: &watch::Sender<FetchProgress>) -> Result<FetchDone, FetchError> {
    let began = boot_now();
    let request = &shared.request;
    let (timeline, peer) = (&request.timeline, request.peer.id);
    timeline.note_of(began, peer, Note::Found { how: How::Asked });
    let lease = shared.downloader.pool.connect(&request.peer).await;
    timeline.note_of(boot_now(), peer, lease.as_ref().map_or_else(noting::of_call, |_| Note::Joined));
    let lease = lease.map_err(|error| FetchError::NoProvider {
        reason: format!("{} {error}", request.peer.name),
        banned: Vec::new(),
    })?;
    let plan = list(&lease, request).await?;
    let place = {
        let target = request.target.clone();
        blocking(move || Place::of(&target)).await??
    };
    let (total, files) = (plan.bytes(), plan.files().count() as u64);
    let opened = open_tree(place.clone(), plan, request.force, request.outside_links).await?;
    let (plan, tree) = match opened {
        Opened::Complete(plan) => return Ok(done_already(shared, &plan, began)),
        Opened::Tree(plan, tree) => (plan, tree),
    };
    let plan = prepare(shared, plan, tree.handle()).await?;
    timeline.note(boot_now(), Note::Known { bytes: total, here: shared.tally().resumed });
    let meanwhile = futures_util::future::join(tell(shared, progress, total, files), write_back(shared, tree.handle()));
    let (tree, skipped) = tokio::select! {
        done = fetch_contents(shared, plan, tree) => done?,
        _ = meanwhile => unreachable!("neither ever ends"),
    };
    blocking(move || tree.finish()).await??;
    progress.send_modify(|progress| {
        progress.done = total;
        progress.files_done = files;
    });
    let tally = std::mem::take(&mut *shared.tally());
    Ok(FetchDone {
        path: request.target.clone(),
        bytes: total,
        ms: boot_now().since(began).as_millis() as u64,
        resumed_from: tally.resumed,
        fetched: tally.fetched,
        providers: tally.gave.into_keys().collect(),
        banned: tally.banned.into_iter().collect(),
        files,
        skipped,
    })
}

enum Opened {
    /// All of it is there already.
    Complete(Plan),
    Tree(Plan, Tree),
}

/// Opens the folder to fill. One that exists is only touched with `force`, or found to be complete.
async fn open_tree(place: Place, plan: Plan, force: bool, outside_links: bool) -> Result<Opened, FetchError> {
    blocking(move || -> Result<Opened, FetchError> {
        let tree = if Tree::target_exists(&place)? {
            let tree = Tree::existing(place.clone())?;
            if is_complete(&tree, &plan, outside_links)? {
                return Ok(Opened::Complete(plan));
            }
            if !force {
                return Err(FileError::Exists(place.path().to_path_buf()).into());
            }
            tree
        } else {
            Tree::part_of(place.clone())?
        };
        Ok(Opened::Tree(plan, tree))
    })
    .await?
}

fn is_complete(tree: &Tree, plan: &Plan, outside_links: bool) -> Result<bool, FileError> {
    if !plan.unhashed.is_empty() {
        return Ok(false);
    }
    for file in plan.files() {
        let Some(place) = tree.find(&file.path) else { return Ok(false) };
        if files::existing(&place, &file.blob, file.size)? != Existing::Same {
            return Ok(false);
        }
    }
    let links = plan.links.iter().filter(|(path, target, _)| outside_links || link_stays_inside(path, target));
    Ok(plan.folders.iter().all(|(path, _)| tree.has_folder(path))
        && links.into_iter().all(|(path, target, _)| tree.has_link(path, target)))
}

fn done_already(shared: &Shared, plan: &Plan, began: Moment) -> FetchDone {
    FetchDone {
        path: shared.request.target.clone(),
        bytes: plan.bytes(),
        ms: boot_now().since(began).as_millis() as u64,
        resumed_from: plan.bytes(),
        fetched: 0,
        providers: Vec::new(),
        banned: Vec::new(),
        files: plan.files().count() as u64,
        skipped: Vec::new(),
    }
}

/// Takes out files that are complete, and checks that the rest fits. Where something was before, all folders are created first:
/// what is in their way stops the download before it changes anything.
async fn prepare(shared: &Arc<Shared>, mut plan: Plan, mut tree: Tree) -> Result<Plan, FetchError> {
    let shared = Arc::clone(shared);
    blocking(move || -> Result<Plan, FetchError> {
        if !tree.is_new() {
            for (path, _) in &plan.folders {
                tree.create_folder(path)?;
            }
        }
        let mut resumed = 0;
        let lists = if tree.is_new() { Vec::new() } else { vec![&mut plan.small, &mut plan.large] };
        for files in lists {
            let mut open = Vec::new();
            for file in std::mem::take(files) {
                let place = tree.place(&file.path)?;
                if files::existing(&place, &file.blob, file.size)? == Existing::Same {
                    resumed += file.size;
                    shared.complete(&file);
                } else {
                    open.push(file);
                }
            }
            *files = open;
        }
        shared.tally().resumed = resumed;
        let (need, free) = (plan.bytes(), tree.free_bytes()?);
        if need > free {
            return Err(FileError::NoSpace { path: tree.target().to_path_buf(), need, free }.into());
        }
        Ok(plan)
    })
    .await?
}

type Skipped = Vec<(String, String)>;

async fn fetch_contents(shared: &Arc<Shared>, plan: Plan, tree: Tree) -> Result<(Tree, Skipped), FetchError> {
    let request = &shared.request;
    let Plan { folders, small, large, links, unhashed, reserved } = plan;
    let providers = small::providers_for(&shared.downloader, request, &small).await;
    let (small, ()) = tokio::try_join!(
        small::fetch(
            &shared.downloader,
            small,
            providers,
            &tree,
            Arc::clone(&shared.counters),
            request.timeline.clone()
        ),
        fetch_large(shared, group_by_blob(large), tree.handle()),
    )?;
    {
        let mut tally = shared.tally();
        for (peer, bytes) in small.gave {
            tally.fetched += bytes;
            *tally.gave.entry(peer).or_default() += bytes;
        }
        tally.banned.extend(small.banned);
    }
    fetch_large(shared, small.left, tree.handle()).await?;
    let mut skipped: Skipped = unhashed
        .iter()
        .map(|path| (path.display(), "its owner is still hashing it; get the folder again later".to_string()))
        .collect();
    let is_ours = "haul keeps unfinished downloads under names like this".to_string();
    skipped.extend(reserved.iter().map(|path| (path.display(), is_ours.clone())));
    let outside_links = request.outside_links;
    let (tree, outside) = blocking(move || finish_tree(tree, &links, folders, outside_links)).await??;
    skipped.extend(outside);
    Ok((tree, skipped))
}

/// Links come last, so that nothing is ever written through one; then folders that nothing has been written to; times after
/// everything.
fn finish_tree(
    mut tree: Tree,
    links: &[(SharePath, Vec<u8>, i64)],
    mut folders: Vec<(SharePath, i64)>,
    outside_links: bool,
) -> Result<(Tree, Skipped), FetchError> {
    let mut skipped = Vec::new();
    for (path, target, mtime_ns) in links {
        if outside_links || link_stays_inside(path, target) {
            tree.create_link(path, target, *mtime_ns)?;
        } else {
            let target = String::from_utf8_lossy(target);
            skipped.push((
                path.display(),
                format!("the link leads outside of the folder, to {target} (--outside-links recreates it)"),
            ));
        }
    }
    // Each before the one above it, whose time changes with its entries.
    folders.sort_unstable_by(|(one, _), (other, _)| other.cmp(one));
    for (path, mtime_ns) in folders {
        tree.create_folder(&path)?;
        tree.set_folder_time(&path, mtime_ns);
    }
    Ok((tree, skipped))
}

fn group_by_blob(files: Vec<WantedFile>) -> Vec<Vec<WantedFile>> {
    let mut groups: BTreeMap<_, Vec<WantedFile>> = BTreeMap::new();
    for file in files {
        groups.entry(file.blob).or_default().push(file);
    }
    groups.into_values().collect()
}

/// Fetches files one by one, a few at once. Of files with the same content the first is fetched, the others are copied.
async fn fetch_large(shared: &Arc<Shared>, groups: Vec<Vec<WantedFile>>, tree: Tree) -> Result<(), FetchError> {
    let mut waiting = groups.into_iter();
    let mut tasks = FuturesUnordered::new();
    loop {
        while tasks.len() < LARGE_AT_ONCE
            && let Some(group) = waiting.next()
        {
            let (shared, tree) = (Arc::clone(shared), tree.handle());
            let large = shared.large.clone();
            tasks.push(large.spawn(fetch_group(shared, group, tree)));
        }
        match tasks.next().await {
            None => return Ok(()),
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => return Err(error),
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Some(Err(_)) => return Err(FetchError::Cancelled),
        }
    }
}

async fn fetch_group(shared: Arc<Shared>, group: Vec<WantedFile>, mut tree: Tree) -> Result<(), FetchError> {
    let mut first: Option<Place> = None;
    for file in group {
        if shared.cancel.is_cancelled() {
            return Err(FetchError::Cancelled);
        }
        let path = file.path.clone();
        let (handle, place) = blocking(move || {
            let place = tree.place(&path);
            (tree, place)
        })
        .await?;
        tree = handle;
        let place = place?;
        if let Some(source) = first.clone() {
            let (target, wanted) = (place.clone(), file.clone());
            if blocking(move || copy_within(&source, target, &wanted)).await?? {
                shared.complete(&file);
                continue;
            }
        }
        fetch_one(&shared, file, place.clone()).await?;
        first = Some(place);
    }
    Ok(())
}

fn copy_within(source: &Place, target: Place, file: &WantedFile) -> Result<bool, FileError> {
    let Some(geometry) = BlobGeometry::new(file.size) else { return Ok(false) };
    let Ok(source) = source.open_to_read() else { return Ok(false) };
    let traits = FileTraits { executable: file.executable, mtime_ns: Some(file.mtime_ns) };
    copy_file(source, target, file.blob, geometry, traits, true)
}

async fn fetch_one(shared: &Arc<Shared>, file: WantedFile, place: Place) -> Result<(), FetchError> {
    let request = &shared.request;
    let wanted = FetchRequest {
        blob: file.blob,
        size: Some(file.size),
        target: place.path().to_path_buf(),
        executable: file.executable,
        mtime_ns: Some(file.mtime_ns),
        force: true,
        providers: vec![request.peer.clone()],
        only_these: request.only_this,
        patience: request.patience,
        timeline: request.timeline.of_file(&file.path.display()),
    };
    let progress = watch::Sender::new(FetchProgress::default());
    let mut seen = progress.subscribe();
    let download = fetch_to(&shared.downloader, wanted, place, false, &progress, &shared.cancel);
    tokio::pin!(download);
    let mut counted = 0;
    let done = loop {
        tokio::select! {
            done = &mut download => break done,
            _ = seen.changed() => {
                let now = {
                    let seen = seen.borrow_and_update();
                    *shared.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
                        seen.reason.clone().map(|reason| (reason, seen.next.clone()));
                    seen.done
                };
                shared.partial.fetch_add(now.saturating_sub(counted), Ordering::Relaxed);
                counted = counted.max(now);
            }
        }
    };
    shared.partial.fetch_sub(counted, Ordering::Relaxed);
    let done = done?;
    shared.complete(&file);
    let mut tally = shared.tally();
    tally.fetched += done.fetched;
    tally.resumed += done.resumed_from;
    let share = done.fetched / (done.providers.len() as u64).max(1);
    for peer in done.providers {
        *tally.gave.entry(peer).or_default() += share;
    }
    tally.banned.extend(done.banned);
    Ok(())
}

impl Shared {
    /// What keeps it, at this rate: a limit, a queue, or what the last large file waits for.
    fn why_waiting(&self, rate: u64) -> Option<(String, Option<String>)> {
        if let Some(held) = held_at(&self.downloader, rate) {
            return Some(held);
        }
        match self.counters.queued.load(Ordering::Relaxed) {
            0 => self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone(),
            place => Some((slot_words(place), None)),
        }
    }

    fn complete(&self, file: &WantedFile) {
        self.counters.files.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes.fetch_add(file.size, Ordering::Relaxed);
    }

    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Has small files written back to the disk while others are on their way, until it is dropped.
async fn write_back(shared: &Shared, tree: Tree) {
    let (mut tick, mut before) = (tokio::time::interval(TELL), 0);
    loop {
        tick.tick().await;
        let written = shared.counters.written.load(Ordering::Relaxed);
        if written >= before + WRITE_BACK_BYTES {
            before = written;
            let _ = blocking(tree.write_back()).await;
        }
    }
}

/// Tells progress until it is dropped.
async fn tell(shared: &Arc<Shared>, progress: &watch::Sender<FetchProgress>, total: u64, files: u64) {
    let mut tick = tokio::time::interval(TELL);
    let (mut last, mut at, mut rate) = (0, boot_now(), 0);
    loop {
        tick.tick().await;
        let counters = &shared.counters;
        let done = counters.bytes.load(Ordering::Relaxed) + shared.partial.load(Ordering::Relaxed);
        let elapsed = boot_now().since(at).as_millis() as u64;
        if let Some(sample) = (done.saturating_sub(last) * 1000).checked_div(elapsed) {
            rate = if rate == 0 { sample } else { (9 * rate + sample) / 10 };
            (last, at) = (done, boot_now());
        }
        let tally = shared.tally();
        let everybody: BTreeSet<PeerId> = tally.gave.keys().chain(tally.banned.keys()).copied().collect();
        let providers = everybody.into_iter().map(|peer| ProviderProgress {
            peer,
            bytes: tally.gave.get(&peer).copied().unwrap_or(0),
            trouble: tally.banned.get(&peer).map(|what| format!("banned: it {what}")),
        });
        let (reason, next) = shared.why_waiting(rate).unzip();
        progress.send_replace(FetchProgress {
            done,
            total,
            files_done: counters.files.load(Ordering::Relaxed),
            files,
            bytes_per_second: rate,
            providers: providers.collect(),
            reason,
            next: next.flatten(),
        });
    }
}
