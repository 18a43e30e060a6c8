//! One blob from the request to the final name, or to a reader.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use haul_core::blob::{BlobGeometry, LeafSet};
use haul_core::ids::BlobId;
use haul_core::limits::{LEAF_BYTES, SWARM_BYTES};
use haul_core::outline::Outline;
use haul_core::time::Moment;
use haul_core::wire::index::PeerCard;
use haul_core::wire::peer::{PeerAnswer, PeerRequest};
use haul_net::clock::boot_now;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::noting;
use super::output::{Output, Reader};
use super::passing::Passed;
use super::providers::Search;
use super::transfer::{Ended, Outcome, Start, Tally, Transfer};
use super::{Downloader, FetchDone, FetchError, FetchProgress, FetchRequest, StreamRequest};
use crate::files::{self, Existing, FileError, FileTraits, PartFile, Place, Resumed};
use crate::share::{Download, Shares};
use crate::timeline::{Note, Timeline};

/// What is asked of the network for one blob, whatever becomes of it.
struct Wanted<'a> {
    downloader: &'a Downloader,
    blob: BlobId,
    sizes: Sizes,
    search: Search,
    progress: &'a watch::Sender<FetchProgress>,
    cancel: &'a CancellationToken,
    began: Moment,
}

/// Sizes that somebody believes in, and those that were tried.
struct Sizes {
    waiting: BTreeSet<u64>,
    tried: BTreeSet<u64>,
}

impl Sizes {
    fn next(&mut self) -> Option<u64> {
        let size = self.waiting.pop_first()?;
        self.tried.insert(size);
        Some(size)
    }

    fn add(&mut self, sizes: BTreeSet<u64>) {
        self.waiting.extend(sizes.into_iter().filter(|size| !self.tried.contains(size)));
    }
}

pub(super) async fn fetch(
    downloader: &Downloader,
    request: FetchRequest,
    progress: &watch::Sender<FetchProgress>,
    cancel: &CancellationToken,
) -> Result<FetchDone, FetchError> {
    let place = {
        let target = request.target.clone();
        blocking(move || Place::of(&target)).await??
    };
    fetch_to(downloader, request, place, true, progress, cancel).await
}

/// Downloads to a place whose folder is held open already. `offer` serves the file from there afterwards.
pub(super) async fn fetch_to(
    downloader: &Downloader,
    request: FetchRequest,
    place: Place,
    offer: bool,
    progress: &watch::Sender<FetchProgress>,
    cancel: &CancellationToken,
) -> Result<FetchDone, FetchError> {
    let began = boot_now();
    let (blob, force) = (request.blob, request.force);
    let traits = FileTraits { executable: request.executable, mtime_ns: request.mtime_ns };
    let search = Search {
        cards: request.providers,
        only_these: request.only_these,
        fresh: false,
        patience: request.patience,
        timeline: request.timeline,
    };
    if blob == BlobId::empty() {
        // Everybody has it.
        return create_empty(&place, traits, force, began).await;
    }
    let proven = {
        let at = place.clone();
        blocking(move || files::proven_size(&at, &blob)).await?
    };
    // What an earlier download has proved is no hint, and nobody's word is worth the leaves that came with it.
    let size = proven.or(request.size);
    let mut wanted = Wanted::prepare(downloader, blob, size, search, progress, cancel, began).await?;
    let mut banned = Vec::new();
    while let Some(size) = wanted.sizes.next() {
        let geometry = BlobGeometry::new(size).ok_or(FetchError::TooLarge(size))?;
        if let Some(done) = already_there(&place, blob, size, force, began).await? {
            return Ok(done);
        }
        if let Some(done) = copy_local(downloader, &place, blob, geometry, traits, force, began).await? {
            return Ok(done);
        }
        let attempt = if geometry.leaves() == 1 {
            small(&mut wanted, geometry, &place, traits, force, offer).await?
        } else {
            large(&mut wanted, geometry, proven.is_some(), &place, traits, force, offer).await?
        };
        match attempt {
            Attempt::Done(mut done) => {
                done.banned.splice(0..0, banned);
                return Ok(done);
            }
            Attempt::OtherSizes(sizes, tally) => {
                banned.extend(tally.banned);
                if proven.is_none() {
                    wanted.sizes.add(sizes);
                }
            }
        }
    }
    Err(FetchError::NoProvider { reason: "its providers do not agree about its size".into(), banned })
}

enum Attempt {
    Done(FetchDone),
    OtherSizes(BTreeSet<u64>, Tally),
}

impl<'a> Wanted<'a> {
    /// Learns the size: from the request, from a look-up, or from the first provider that answers.
    async fn prepare(
        downloader: &'a Downloader,
        blob: BlobId,
        size: Option<u64>,
        mut search: Search,
        progress: &'a watch::Sender<FetchProgress>,
        cancel: &'a CancellationToken,
        began: Moment,
    ) -> Result<Self, FetchError> {
        let mut size = size;
        while size.is_none() {
            let mut reason = "nobody who is online has it".to_string();
            if !search.only_these {
                let found = tokio::select! {
                    () = cancel.cancelled() => return Err(FetchError::Cancelled),
                    found = downloader.finder.find(blob) => found,
                };
                match found {
                    Ok(found) => {
                        let providers = found.providers.len() as u64;
                        search.timeline.note(boot_now(), Note::LookedUp { providers });
                        // Of a large blob others may have parts whose owners are away.
                        size = found.size.filter(|size| !found.providers.is_empty() || *size >= SWARM_BYTES);
                        search.fresh = true;
                        let new = found
                            .providers
                            .into_iter()
                            .filter(|card| search.cards.iter().all(|known| known.id != card.id));
                        let new: Vec<PeerCard> = new.collect();
                        search.cards.extend(new);
                    }
                    Err(failure) => {
                        search.timeline.note(boot_now(), Note::LookupFailed { reason: failure.clone() });
                        reason = failure;
                    }
                }
            }
            if size.is_none() {
                let asked = tokio::select! {
                    () = cancel.cancelled() => return Err(FetchError::Cancelled),
                    asked = ask_size(downloader, blob, &search) => asked,
                };
                size = asked.map_err(|trouble| reason.push_str(&trouble)).ok();
            }
            if size.is_none() {
                if search.patience != std::time::Duration::MAX {
                    return Err(FetchError::NoProvider { reason, banned: Vec::new() });
                }
                let reason = format!("waiting for a provider: {reason}");
                let now = boot_now();
                search.timeline.note(now, noting::waits(now, &reason, Some(now.after(WAIT_FOR_FIRST))));
                progress.send_modify(|progress| progress.reason = Some(reason));
                tokio::select! {
                    () = cancel.cancelled() => return Err(FetchError::Cancelled),
                    () = tokio::time::sleep(WAIT_FOR_FIRST) => {}
                }
            }
        }
        let sizes = Sizes { waiting: size.into_iter().collect(), tried: BTreeSet::new() };
        Ok(Self { downloader, blob, sizes, search, progress, cancel, began })
    }

    async fn transfer(
        &mut self,
        geometry: BlobGeometry,
        resumed: Resumed,
        output: Output,
    ) -> Result<Ended, FetchError> {
        let transfer = Transfer::new(Start {
            downloader: self.downloader,
            blob: self.blob,
            geometry,
            verified: resumed.verified,
            local: resumed.local,
            output,
            search: self.search.clone(),
            progress: self.progress,
            cancel: self.cancel,
        });
        transfer.run().await
    }

    /// Notes the size, unless the blob is a part of a folder that is fetched.
    fn know(&self, geometry: BlobGeometry, here: u64, whole: bool) {
        if whole {
            self.search.timeline.note(boot_now(), Note::Known { bytes: geometry.size(), here });
        }
    }

    fn done(&self, path: &Path, bytes: u64, resumed_from: u64, tally: Tally) -> FetchDone {
        FetchDone {
            path: path.to_path_buf(),
            bytes,
            ms: boot_now().since(self.began).as_millis() as u64,
            resumed_from,
            fetched: tally.fetched(),
            providers: tally.gave.keys().copied().collect(),
            banned: tally.banned,
            files: 1,
            skipped: Vec::new(),
        }
    }
}

/// Between look-ups of a download that waits for its first provider.
const WAIT_FOR_FIRST: std::time::Duration = std::time::Duration::from_secs(5);

/// Asks providers in turn for the size; the error is what they said.
async fn ask_size(downloader: &Downloader, blob: BlobId, search: &Search) -> Result<u64, String> {
    let mut trouble = String::new();
    for card in &search.cards {
        let answer = match downloader.pool.connect(card).await {
            Ok(lease) => lease
                .connection()
                .request(&PeerRequest::Bitfield { blob, beyond: None })
                .await
                .map_err(|e| e.to_string()),
            Err(error) => {
                downloader.finder.unreachable(card.id);
                search.timeline.note_of(boot_now(), card.id, noting::of_call(&error));
                Err(error.to_string())
            }
        };
        match answer {
            Ok(PeerAnswer::Bitfield { size, .. }) => return Ok(size),
            Ok(_) => {
                search.timeline.note_of(boot_now(), card.id, Note::Gone);
                trouble = format!("{trouble}; {} does not have it", card.name);
            }
            Err(error) => trouble = format!("{trouble}; {} {error}", card.name),
        }
    }
    Err(trouble)
}

async fn create_empty(place: &Place, traits: FileTraits, force: bool, began: Moment) -> Result<FetchDone, FetchError> {
    if already_there(place, BlobId::empty(), 0, force, began).await?.is_none() {
        let at = place.clone();
        blocking(move || files::create_small(&at, &[], traits, force, true)).await??;
    }
    Ok(present(place, 0, began))
}

/// A file that is there with this content needs no download; one with other content is not replaced unasked.
async fn already_there(
    place: &Place,
    blob: BlobId,
    size: u64,
    force: bool,
    began: Moment,
) -> Result<Option<FetchDone>, FetchError> {
    let at = place.clone();
    match blocking(move || files::existing(&at, &blob, size)).await?? {
        Existing::Nothing => Ok(None),
        Existing::Same => Ok(Some(present(place, size, began))),
        Existing::Other if force => Ok(None),
        Existing::Other => Err(FileError::Exists(place.path().to_path_buf()).into()),
        Existing::NotAFile => Err(FileError::NotAFile(place.path().to_path_buf()).into()),
    }
}

fn present(place: &Place, size: u64, began: Moment) -> FetchDone {
    FetchDone {
        path: place.path().to_path_buf(),
        bytes: size,
        ms: boot_now().since(began).as_millis() as u64,
        resumed_from: size,
        fetched: 0,
        providers: Vec::new(),
        banned: Vec::new(),
        files: 1,
        skipped: Vec::new(),
    }
}

/// Copies the blob from a share of this machine, if one holds it.
async fn copy_local(
    downloader: &Downloader,
    place: &Place,
    blob: BlobId,
    geometry: BlobGeometry,
    traits: FileTraits,
    force: bool,
    began: Moment,
) -> Result<Option<FetchDone>, FetchError> {
    let Some(shares) = downloader.shares.clone() else { return Ok(None) };
    let at = place.clone();
    let copied = blocking(move || copy_now(&shares, at, blob, geometry, traits, force)).await??;
    Ok(copied.then(|| present(place, geometry.size(), began)))
}

fn copy_now(
    shares: &Shares,
    place: Place,
    blob: BlobId,
    geometry: BlobGeometry,
    traits: FileTraits,
    force: bool,
) -> Result<bool, FileError> {
    let Some(local) = shares.locate(&blob).filter(|local| local.size() == geometry.size()) else { return Ok(false) };
    let Ok(source) = shares.open_file(&local) else { return Ok(false) };
    let copied = copy_file(source, place, blob, geometry, traits, force)?;
    if !copied {
        shares.report_changed(&local);
    }
    Ok(copied)
}

/// Copies a file of this machine if it holds the blob; false if it does not, or cannot be read.
pub(super) fn copy_file(
    mut source: File,
    place: Place,
    blob: BlobId,
    geometry: BlobGeometry,
    traits: FileTraits,
    force: bool,
) -> Result<bool, FileError> {
    let (part, _) = PartFile::open(place, blob, geometry)?;
    let target = part.target().path().to_path_buf();
    let failed = |error| FileError::from_io("copy to", &target, error);
    let mut file = part.file();
    part.start_over()?;
    // A shared extent costs nothing; the content is verified all the same, as the source may change at any time.
    let cloned = rustix::fs::ioctl_ficlone(file, &source).is_ok();
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let copied = if cloned { hash_into(&mut file, &mut std::io::sink()) } else { hash_into(&mut source, &mut file) };
    let same = copied.map_err(failed)? == Some(blob);
    if same {
        part.finish(traits, force)?;
    } else {
        part.discard()?;
    }
    Ok(same)
}

/// Copies all bytes and tells their hash; none if they cannot be read. An error is that of writing.
fn hash_into(from: &mut impl Read, to: &mut impl Write) -> std::io::Result<Option<BlobId>> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 16 * LEAF_BYTES as usize];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => return Ok(None),
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            return Ok(Some(BlobId::new(*hasher.finalize().as_bytes())));
        }
        hasher.update(bytes);
        to.write_all(bytes)?;
    }
}

/// A blob of one leaf: verified in memory, created at once.
async fn small(
    wanted: &mut Wanted<'_>,
    geometry: BlobGeometry,
    place: &Place,
    traits: FileTraits,
    force: bool,
    offer: bool,
) -> Result<Attempt, FetchError> {
    wanted.know(geometry, 0, offer);
    let (to, mut from) = mpsc::channel(1);
    let output = Output::Reader(Reader::new(to, 0..geometry.size().max(1)));
    let Ended { outcome, tally, .. } = wanted.transfer(geometry, nothing(geometry), output).await?;
    if let Outcome::OtherSizes(sizes) = outcome {
        return Ok(Attempt::OtherSizes(sizes, tally));
    }
    let bytes: Bytes = from.try_recv().unwrap_or_default();
    let (at, blob) = (place.clone(), wanted.blob);
    let shares = wanted.downloader.shares.clone().filter(|_| offer);
    blocking(move || -> Result<(), FileError> {
        files::create_small(&at, &bytes, traits, force, true)?;
        serve_on(shares.as_deref(), &at, blob, Outline::default(), None);
        Ok(())
    })
    .await??;
    Ok(Attempt::Done(wanted.done(place.path(), geometry.size(), 0, tally)))
}

/// A blob of several leaves: through a part file.
async fn large(
    wanted: &mut Wanted<'_>,
    geometry: BlobGeometry,
    proven: bool,
    place: &Place,
    traits: FileTraits,
    force: bool,
    offer: bool,
) -> Result<Attempt, FetchError> {
    let (at, blob) = (place.clone(), wanted.blob);
    let (part, resumed) = blocking(move || PartFile::open(at, blob, geometry)).await??;
    let part = Arc::new(part);
    let before = super::transfer::bytes_of(geometry, &resumed.verified);
    wanted.know(geometry, before, offer);
    let (mut part, mut resumed, mut tally) = (part, resumed, Tally::default());
    loop {
        let output = Output::File(Arc::clone(&part));
        let Ended { outcome, tally: came, checker, passed } = wanted.transfer(geometry, resumed, output).await?;
        tally.add(came);
        let whole = Arc::into_inner(part).expect("the transfer and its workers have ended");
        if let Outcome::OtherSizes(sizes) = outcome {
            if !proven {
                blocking(move || whole.discard()).await??;
            }
            return Ok(Attempt::OtherSizes(sizes, tally));
        }
        let (at, timeline) = (place.clone(), wanted.search.timeline.clone());
        let shares = wanted.downloader.shares.clone().filter(|_| offer);
        let finish = move || -> Result<Option<(PartFile, Resumed)>, FileError> {
            let made = whole.make_durable(traits);
            let damaged = take_damaged(passed.as_ref(), &timeline);
            if !damaged.is_empty() {
                let resumed = all_but(geometry, &damaged);
                whole.forget(&damaged);
                whole.checkpoint(&resumed.verified, made.is_ok())?;
                return made.map(|()| Some((whole, resumed)));
            }
            made?;
            whole.name(force)?;
            match checker.outline() {
                Some(outline) => serve_on(shares.as_deref(), &at, blob, outline, passed),
                // What was here before needed no outline. The file is done; reading all of it may take its time.
                None => {
                    drop(tokio::task::spawn_blocking(move || hash_and_serve_on(shares.as_deref(), &at, blob, passed)));
                }
            }
            Ok(None)
        };
        let Some((damaged, all_but_damaged)) = blocking(finish).await?? else { break };
        (part, resumed) = (Arc::new(damaged), all_but_damaged);
    }
    Ok(Attempt::Done(wanted.done(place.path(), geometry.size(), before + tally.local, tally)))
}

/// What others found damaged when they were given it while the last of it was written.
fn take_damaged(passed: Option<&Passed>, timeline: &Timeline) -> Vec<u64> {
    let offered = passed.and_then(|passed| passed.offered.as_ref());
    let damaged = offered.map(|offered| offered.take_damaged()).unwrap_or_default();
    for leaf in &damaged {
        timeline.note(boot_now(), Note::Damaged { at: leaf * LEAF_BYTES });
    }
    damaged
}

fn all_but(geometry: BlobGeometry, damaged: &[u64]) -> Resumed {
    let mut verified = LeafSet::full(geometry.leaves());
    for leaf in damaged {
        verified.remove(*leaf);
    }
    Resumed { verified, ..nothing(geometry) }
}

/// The same, without knowing the outline.
fn hash_and_serve_on(shares: Option<&Shares>, place: &Place, blob: BlobId, passed: Option<Passed>) {
    let outline = shares.and_then(|shares| shares.outline_of_download(&place.open_to_read().ok()?, &blob));
    if let Some(outline) = outline {
        serve_on(shares, place, blob, outline, passed);
    } else {
        tracing::debug!(path = %place.path().display(), "a finished download is not served on");
    }
}

/// A finished download is served from its place, to those whom the index named.
fn serve_on(shares: Option<&Shares>, place: &Place, blob: BlobId, outline: Outline, passed: Option<Passed>) {
    let Some(shares) = shares else { return };
    let (groups, seat, offered) = match passed {
        Some(Passed { groups, seat, offered }) => (Some(groups), Some(seat), offered),
        None => (None, None, None),
    };
    if let Err(error) = shares.offer_download(place.path(), Download { blob, outline, groups, seat }) {
        tracing::debug!(%error, path = %place.path().display(), "a finished download is not served on");
    }
    // Until now it was served from the part file.
    let damaged = offered.is_some_and(|offered| !offered.end().take_damaged().is_empty());
    if let Some(local) = shares.locate(&blob).filter(|_| damaged) {
        shares.report_changed(&local);
    }
}

fn nothing(geometry: BlobGeometry) -> Resumed {
    Resumed { verified: LeafSet::new(geometry.leaves()), local: LeafSet::new(geometry.leaves()) }
}

pub(super) async fn stream(
    downloader: &Downloader,
    request: StreamRequest,
    to: mpsc::Sender<Bytes>,
    progress: &watch::Sender<FetchProgress>,
    cancel: &CancellationToken,
) -> Result<FetchDone, FetchError> {
    let search = Search {
        cards: request.providers,
        only_these: request.only_these,
        fresh: false,
        patience: request.patience,
        timeline: Timeline::default(),
    };
    let began = boot_now();
    let mut wanted = Wanted::prepare(downloader, request.blob, request.size, search, progress, cancel, began).await?;
    while let Some(size) = wanted.sizes.next() {
        let geometry = BlobGeometry::new(size).ok_or(FetchError::TooLarge(size))?;
        let range = request.range.clone().unwrap_or(0..size);
        let range = range.start.min(size)..range.end.min(size).max(range.start.min(size));
        let output = Output::Reader(Reader::new(to.clone(), range.clone()));
        let resumed = Resumed { verified: not_wanted(geometry, &range), local: LeafSet::new(geometry.leaves()) };
        let Ended { outcome, tally, .. } = wanted.transfer(geometry, resumed, output).await?;
        match outcome {
            Outcome::Complete => {
                return Ok(wanted.done(Path::new(""), range.end - range.start, 0, tally));
            }
            // Before the size is proved the reader gets nothing, so nothing comes twice.
            Outcome::OtherSizes(sizes) => wanted.sizes.add(sizes),
        }
    }
    Err(FetchError::NoProvider { reason: "its providers do not agree about its size".into(), banned: Vec::new() })
}

/// Leaves outside of the range, but for the last one, which proves the size.
fn not_wanted(geometry: BlobGeometry, range: &std::ops::Range<u64>) -> LeafSet {
    let mut leaves = LeafSet::new(geometry.leaves());
    let wanted = range.start / LEAF_BYTES..range.end.div_ceil(LEAF_BYTES);
    for leaf in 0..geometry.leaves() - 1 {
        if range.is_empty() || !wanted.contains(&leaf) {
            leaves.insert(leaf);
        }
    }
    leaves
}

/// Runs work that blocks. A panic in it goes on here.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, FetchError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => Ok(value),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is going down.
        Err(_) => Err(FetchError::Cancelled),
    }
}
