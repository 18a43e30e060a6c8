//! Bulk answers: leaves of files, and many small files at once.
//!
//! A blocking thread reads up to a mebibyte ahead while the connection sends what was read before.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use haul_core::blob::BlobGeometry;
use haul_core::ids::BlobId;
use haul_core::limits::{LEAF_BYTES, LEAF_WAIT, SMALL_LEAVES};
use haul_core::wire::Label;
use haul_core::wire::peer::{LeafRange, PeerAnswer};
use haul_net::connection::StreamSender;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::paced::Paced;
use crate::partial::Partial;
use crate::reading::read_at;
use crate::share::{LocalFile, OpenError, Roots, Shares};

/// Leaves read at once: 1 MiB.
const READ_LEAVES: u64 = 16;
/// Bytes of small files read at once, and the last file more.
const READ_SMALL: u64 = 1024 * 1024;
/// Copies of a blob that are tried, if files turn out to have changed.
const COPIES: usize = 4;

/// Leaves of a blob on its way here that one request can ask for; who wants more asks again.
const PARTIAL_LEAVES: usize = 4_096;
/// The same of those that it waits for: what a plan opens with one source. Each leaf that comes is looked for among them.
const AWAITED_LEAVES: usize = 64;
/// How soon it is noticed that nobody waits for a leaf any more.
const NOTICE: Duration = Duration::from_millis(500);

/// What one read gave: leaf number or place in the list, and the bytes.
type Batch = Vec<(u64, Bytes)>;

/// Answers `Pieces`.
pub(super) async fn send(
    shares: &Arc<Shares>,
    blob: BlobId,
    ranges: &[LeafRange],
    wait: bool,
    groups: &Arc<[Label]>,
    paced: &Paced<'_>,
    stream: StreamSender,
) {
    let opened = {
        let (shares, groups) = (Arc::clone(shares), Arc::clone(groups));
        tokio::task::spawn_blocking(move || open(&shares, &blob, &groups)).await
    };
    let end = match opened {
        Ok(Ok(file)) => send_leaves(shares, Arc::new(file), ranges, paced, &stream).await,
        Ok(Err(answer)) => match shares.partials().find(&blob, groups) {
            Some(partial) => {
                let end = send_partial(Arc::clone(&partial), ranges, wait, paced, &stream).await;
                report_damage(shares, &blob, &partial);
                end
            }
            None => answer,
        },
        Err(_) => PeerAnswer::NotHeld,
    };
    // A connection that ended needs no end of stream.
    let _ = stream.end(&end).await;
}

struct OpenFile {
    file: File,
    located: LocalFile,
    geometry: BlobGeometry,
}

/// Opens a copy of the blob that is still what was hashed.
fn open(shares: &Shares, blob: &BlobId, groups: &[Label]) -> Result<OpenFile, PeerAnswer> {
    let opened = from_a_copy(shares, blob, groups, |located| Ok((shares.open_file(located)?, located.clone())));
    let (file, located) = opened?;
    let geometry = BlobGeometry::new(located.size()).ok_or(PeerAnswer::NotHeld)?;
    Ok(OpenFile { file, located, geometry })
}

/// Takes what is asked for from the first copy of the blob that is still what was hashed.
fn from_a_copy<T>(
    shares: &Shares,
    blob: &BlobId,
    groups: &[Label],
    mut take: impl FnMut(&LocalFile) -> Result<T, OpenError>,
) -> Result<T, PeerAnswer> {
    let mut outcome = PeerAnswer::NotHeld;
    for _ in 0..COPIES {
        let Some(located) = shares.locate_for(blob, groups) else { break };
        match take(&located) {
            Err(OpenError::Gone | OpenError::Changed) => {
                shares.report_changed(&located);
                outcome = PeerAnswer::Changed;
            }
            Err(OpenError::Io(error)) => {
                tracing::warn!(%error, path = ?located.path, "cannot read a shared file");
                return Err(PeerAnswer::NotHeld);
            }
            Ok(taken) => return Ok(taken),
        }
    }
    Err(outcome)
}

async fn send_leaves(
    shares: &Arc<Shares>,
    open: Arc<OpenFile>,
    ranges: &[LeafRange],
    paced: &Paced<'_>,
    stream: &StreamSender,
) -> PeerAnswer {
    if let Err(bad) = check(ranges, open.geometry) {
        return bad;
    }
    let mut runs = ranges.iter().flat_map(|range| {
        let end = range.first + range.count;
        (range.first..end).step_by(READ_LEAVES as usize).map(move |first| first..(first + READ_LEAVES).min(end))
    });
    let read = |run: Range<u64>| -> JoinHandle<io::Result<Batch>> {
        let (shares, open) = (Arc::clone(shares), Arc::clone(&open));
        tokio::task::spawn_blocking(move || read_run(&shares, &open, run))
    };
    let mut ahead = runs.next().map(read);
    while let Some(reading) = ahead.take() {
        let Ok(Ok(batch)) = reading.await else {
            shares.report_changed(&open.located);
            return PeerAnswer::Changed;
        };
        if stream.is_cancelled() {
            return PeerAnswer::Served;
        }
        ahead = runs.next().map(read);
        if !paced.send_all(stream, batch).await {
            return PeerAnswer::Served;
        }
    }
    PeerAnswer::Served
}

/// Damage found when the download had ended already: its file, under whatever name, is not what it should be.
fn report_damage(shares: &Shares, blob: &BlobId, partial: &Partial) {
    if partial.has_ended()
        && !partial.take_damaged().is_empty()
        && let Some(local) = shares.locate(blob)
    {
        shares.report_changed(&local);
    }
}

fn check(ranges: &[LeafRange], geometry: BlobGeometry) -> Result<(), PeerAnswer> {
    let leaves = geometry.leaves();
    let fits =
        |range: &LeafRange| range.count > 0 && range.first.checked_add(range.count).is_some_and(|end| end <= leaves);
    if ranges.iter().all(fits) {
        Ok(())
    } else {
        Err(PeerAnswer::Bad { reason: format!("leaves outside of a blob of {leaves} leaves") })
    }
}

/// Sends leaves of a blob that is on its way here: those that are there, then, if the asker waits, each of the others as
/// soon as it is verified.
async fn send_partial(
    partial: Arc<Partial>,
    ranges: &[LeafRange],
    wait: bool,
    paced: &Paced<'_>,
    stream: &StreamSender,
) -> PeerAnswer {
    if let Err(bad) = check(ranges, partial.geometry()) {
        return bad;
    }
    let leaves = ranges.iter().flat_map(|range| range.first..range.first + range.count);
    let mut wanted: Vec<u64> = leaves.take(if wait { AWAITED_LEAVES } else { PARTIAL_LEAVES }).collect();
    let mut growth = partial.growth();
    let mut patience = Instant::now() + LEAF_WAIT;
    while !wanted.is_empty() && !stream.is_cancelled() {
        let ended = growth.borrow_and_update().is_none();
        let ready = partial.ready(&wanted, READ_LEAVES as usize);
        if ready.is_empty() {
            if !wait || ended || Instant::now() >= patience {
                break;
            }
            // A moment at most, so that a cancelled stream is noticed.
            let _ = tokio::time::timeout(NOTICE, growth.changed()).await;
            continue;
        }
        wanted.retain(|leaf| !ready.contains(leaf));
        let reading = {
            let partial = Arc::clone(&partial);
            tokio::task::spawn_blocking(move || read_partial(&partial, &ready))
        };
        let Ok(Ok(batch)) = reading.await else { break };
        if !paced.send_all(stream, batch).await {
            return PeerAnswer::Served;
        }
        patience = Instant::now() + LEAF_WAIT;
    }
    PeerAnswer::Served
}

fn read_partial(partial: &Partial, leaves: &[u64]) -> io::Result<Batch> {
    leaves.iter().map(|leaf| Ok((*leaf, Bytes::from(partial.read(*leaf)?)))).collect()
}

/// Reads a run of leaves; an error also if the file is not what was hashed any more.
fn read_run(shares: &Shares, open: &OpenFile, run: Range<u64>) -> io::Result<Batch> {
    let start = run.start * LEAF_BYTES;
    let end = (run.end * LEAF_BYTES).min(open.geometry.size());
    let bytes = read_at(&open.file, start, (end - start) as usize)?;
    if !shares.still_same(&open.file, &open.located) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(leaves_of(bytes, open.geometry, run).collect())
}

/// The leaves of this run, with their numbers.
fn leaves_of(bytes: Vec<u8>, geometry: BlobGeometry, run: Range<u64>) -> impl Iterator<Item = (u64, Bytes)> {
    let mut bytes = Bytes::from(bytes);
    run.map(move |leaf| (leaf, bytes.split_to(geometry.leaf_bytes(leaf))))
}

/// Answers `Blobs`: those that are here and small.
pub(super) async fn send_small(
    shares: &Arc<Shares>,
    blobs: Vec<BlobId>,
    groups: &Arc<[Label]>,
    paced: &Paced<'_>,
    stream: StreamSender,
) {
    let blobs: Arc<[BlobId]> = blobs.into();
    let read = |from: usize| -> JoinHandle<(Batch, usize)> {
        let (shares, groups, blobs) = (Arc::clone(shares), Arc::clone(groups), Arc::clone(&blobs));
        tokio::task::spawn_blocking(move || read_small(&shares, &blobs, from, &groups))
    };
    let mut ahead = Some(read(0));
    while let Some(reading) = ahead.take() {
        let Ok((batch, next)) = reading.await else { break };
        if stream.is_cancelled() {
            break;
        }
        ahead = (next < blobs.len()).then(|| read(next));
        if !paced.send_all(&stream, batch).await {
            break;
        }
    }
    let _ = stream.end(&PeerAnswer::Served).await;
}

/// Reads small blobs from a place in the list on; tells also where to go on.
fn read_small(shares: &Shares, blobs: &[BlobId], from: usize, groups: &[Label]) -> (Batch, usize) {
    let mut roots = Roots::default();
    let (mut batch, mut read, mut next) = (Batch::new(), 0, from);
    while let Some(blob) = blobs.get(next).filter(|_| read < READ_SMALL) {
        if let Some((bytes, geometry)) = read_whole(shares, &mut roots, blob, groups) {
            read += bytes.len() as u64;
            let leaves = leaves_of(bytes, geometry, 0..geometry.leaves());
            batch.extend(leaves.map(|(leaf, bytes)| (next as u64 * SMALL_LEAVES + leaf, bytes)));
        }
        next += 1;
    }
    (batch, next)
}

/// None if it is not here, or not small.
fn read_whole(shares: &Shares, roots: &mut Roots, blob: &BlobId, groups: &[Label]) -> Option<(Vec<u8>, BlobGeometry)> {
    let read = from_a_copy(shares, blob, groups, |located| {
        let geometry = BlobGeometry::new(located.size()).filter(|geometry| geometry.leaves() <= SMALL_LEAVES);
        geometry.map(|geometry| Ok((located.read_whole(roots)?, geometry))).transpose()
    });
    read.ok().flatten()
}
