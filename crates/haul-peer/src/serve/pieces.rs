//! Bulk answers: leaves of files, and many small files at once.
//!
//! A blocking thread reads up to a mebibyte ahead while the connection sends what was read before.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use haul_core::blob::BlobGeometry;
use haul_core::ids::BlobId;
use haul_core::limits::{LEAF_BYTES, LEAF_WAIT};
use haul_core::wire::Label;
use haul_core::wire::peer::{LeafRange, PeerAnswer};
use haul_net::connection::StreamSender;
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::paced::Paced;
use crate::partial::Partial;
use crate::share::{LocalFile, OpenError, Shares};

/// Leaves read at once: 1 MiB.
const READ_LEAVES: u64 = 16;
/// Small files read at once: at most 1 MiB too.
const READ_SMALL: usize = 16;
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
            Some(partial) => send_partial(partial, ranges, wait, paced, &stream).await,
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
    let mut outcome = PeerAnswer::NotHeld;
    for _ in 0..COPIES {
        let Some(located) = shares.locate_for(blob, groups) else { return Err(outcome) };
        match shares.open_file(&located) {
            Ok(file) => {
                let geometry = BlobGeometry::new(located.size()).ok_or(PeerAnswer::NotHeld)?;
                return Ok(OpenFile { file, located, geometry });
            }
            Err(OpenError::Gone | OpenError::Changed) => {
                shares.report_changed(&located);
                outcome = PeerAnswer::Changed;
            }
            Err(OpenError::Io(error)) => {
                tracing::warn!(%error, path = ?located.path, "cannot read a shared file");
                return Err(PeerAnswer::NotHeld);
            }
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
    let read = |run: std::ops::Range<u64>| -> JoinHandle<io::Result<Batch>> {
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
        for (leaf, bytes) in batch {
            if !paced.send(stream, leaf, bytes).await {
                return PeerAnswer::Served;
            }
        }
    }
    PeerAnswer::Served
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
        for (leaf, bytes) in batch {
            if !paced.send(stream, leaf, bytes).await {
                return PeerAnswer::Served;
            }
        }
        patience = Instant::now() + LEAF_WAIT;
    }
    PeerAnswer::Served
}

fn read_partial(partial: &Partial, leaves: &[u64]) -> io::Result<Batch> {
    leaves.iter().map(|leaf| Ok((*leaf, Bytes::from(partial.read(*leaf)?)))).collect()
}

/// Reads a run of leaves; an error also if the file is not what was hashed any more.
fn read_run(shares: &Shares, open: &OpenFile, run: std::ops::Range<u64>) -> io::Result<Batch> {
    let start = run.start * LEAF_BYTES;
    let end = (run.end * LEAF_BYTES).min(open.geometry.size());
    let buffer = read_at(&open.file, start, (end - start) as usize)?;
    if !shares.still_same(&open.file, &open.located) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Bytes::from(buffer);
    Ok(run.map(|leaf| (leaf, bytes.split_to(open.geometry.leaf_bytes(leaf)))).collect())
}

/// Reads so many bytes, into memory that nobody has to clear before.
fn read_at(file: &File, mut at: u64, bytes: usize) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(bytes);
    while buffer.len() < bytes {
        match rustix::io::pread(file, spare_capacity(&mut buffer), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => at += read as u64,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    buffer.truncate(bytes);
    Ok(buffer)
}

/// Answers `Blobs`: those that are here and have at most one leaf.
pub(super) async fn send_small(
    shares: &Arc<Shares>,
    blobs: &[BlobId],
    groups: &Arc<[Label]>,
    paced: &Paced<'_>,
    stream: StreamSender,
) {
    let mut batches = blobs.chunks(READ_SMALL).enumerate();
    let read = |(number, chunk): (usize, &[BlobId])| -> JoinHandle<Batch> {
        let (shares, groups, chunk) = (Arc::clone(shares), Arc::clone(groups), chunk.to_vec());
        tokio::task::spawn_blocking(move || read_small(&shares, &chunk, &groups, (number * READ_SMALL) as u64))
    };
    let mut ahead = batches.next().map(read);
    'all: while let Some(reading) = ahead.take() {
        let batch = reading.await.unwrap_or_default();
        if stream.is_cancelled() {
            break;
        }
        ahead = batches.next().map(read);
        for (place, bytes) in batch {
            if !paced.send(&stream, place, bytes).await {
                break 'all;
            }
        }
    }
    let _ = stream.end(&PeerAnswer::Served).await;
}

fn read_small(shares: &Shares, blobs: &[BlobId], groups: &[Label], first: u64) -> Batch {
    let read = |blob: &BlobId| {
        let open = open(shares, blob, groups).ok()?;
        if open.geometry.leaves() > 1 {
            return None;
        }
        if let Ok(batch) = read_run(shares, &open, 0..1) {
            return batch.into_iter().next().map(|(_, bytes)| bytes);
        }
        shares.report_changed(&open.located);
        None
    };
    (first..).zip(blobs).filter_map(|(place, blob)| Some((place, read(blob)?))).collect()
}
