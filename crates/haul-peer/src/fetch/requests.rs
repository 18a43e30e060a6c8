//! The requests of a download, each a task that reports what came.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use haul_core::blob::{BlobGeometry, LeafSet};
use haul_core::download::{Have, RequestEnd, RequestId, Verdict};
use haul_core::ids::{BlobId, PeerId};
use haul_core::limits::LEAF_BYTES;
use haul_core::wire::peer::{LeafRange, PeerAnswer, PeerRequest, QUEUE_NEWS};
use haul_core::wire::{List, decode};
use haul_net::connection::{RequestError, StreamItem};
use tokio::sync::{Semaphore, mpsc};

use super::pool::Lease;
use super::transfer::Event;
use crate::partial::Checker;

/// Leaves that are handed over together: 1 MiB.
pub(super) const BATCH: usize = 16;

/// Between two questions for what a provider of parts holds: what comes meanwhile goes together …
const FOLLOW_PAUSE: Duration = Duration::from_millis(100);
/// … and the longer the answers, the rarer: 64 KiB/s at most.
const FOLLOW_MICROS_PER_BYTE: u64 = 16;
/// Until a provider that has nothing yet is asked again.
const FOLLOW_AGAIN: Duration = Duration::from_millis(500);

/// What a sheet request brought.
#[derive(Debug)]
pub(super) enum SheetAnswer {
    /// The values, under the size that the provider believes in.
    Values { size: u64, values: Vec<[u8; 32]> },
    /// Nothing of use.
    End(RequestEnd),
}

/// What every request task knows.
#[derive(Clone)]
pub(super) struct Asking {
    pub(super) request: RequestId,
    pub(super) provider: PeerId,
    pub(super) blob: BlobId,
    pub(super) lease: Lease,
    pub(super) checker: Arc<Checker>,
    pub(super) events: mpsc::Sender<Event>,
}

/// A leaf as it came.
pub(super) struct Arrived {
    pub(super) leaf: u64,
    pub(super) bytes: Bytes,
    /// What the sheets of this epoch say of it.
    pub(super) epoch: u64,
    pub(super) verdict: Verdict,
}

/// Asks for a sheet.
pub(super) async fn ask_sheet(asking: Asking, sheet: Option<u64>) {
    let request = PeerRequest::Outline { blob: asking.blob, sheet };
    let answer = match asking.lease.connection().request::<_, PeerAnswer>(&request).await {
        Ok(PeerAnswer::Outline { size, values }) => match values.as_chunks::<32>() {
            (values, []) => SheetAnswer::Values { size, values: values.to_vec() },
            _ => SheetAnswer::End(RequestEnd::Failed),
        },
        Ok(other) => SheetAnswer::End(end_of(&other)),
        Err(_) => SheetAnswer::End(RequestEnd::Failed),
    };
    let event = Event::Sheet { request: asking.request, provider: asking.provider, sheet, answer };
    let _ = asking.events.send(event).await;
}

/// Asks for leaves; each is verified here, while the processor's cache still holds it. They are reported in batches, each
/// with a permit that bounds what waits to be written.
pub(super) async fn ask_leaves(asking: Asking, ranges: Vec<LeafRange>, wait: bool, permits: Arc<Semaphore>) {
    let end = stream_leaves(&asking, ranges, wait, &permits).await.unwrap_or_else(|error| {
        let others_left =
            matches!(error, RequestError::Closed(_)) && asking.lease.connection().close_reason().is_none();
        if others_left { RequestEnd::Interrupted } else { RequestEnd::Failed }
    });
    let event = Event::Ended { request: asking.request, provider: asking.provider, end };
    let _ = asking.events.send(event).await;
}

async fn stream_leaves(
    asking: &Asking,
    ranges: Vec<LeafRange>,
    wait: bool,
    permits: &Arc<Semaphore>,
) -> Result<RequestEnd, RequestError> {
    let request = PeerRequest::Pieces { blob: asking.blob, ranges: List::new(ranges), wait };
    let mut stream = asking.lease.for_leaves().open_stream(&request).await?;
    let mut leaves = Vec::new();
    loop {
        // Take what is there already; hand it on before waiting for more.
        let ready = if leaves.len() < BATCH { stream.next().now_or_never() } else { None };
        let item = if let Some(item) = ready {
            item
        } else {
            send(asking, std::mem::take(&mut leaves), permits).await;
            stream.next().await
        };
        let end = match item {
            Ok(StreamItem::Data { index: QUEUE_NEWS, bytes }) => {
                if let Some(place) = queue_news(&bytes) {
                    let event = Event::Queued { request: asking.request, provider: asking.provider, place };
                    let _ = asking.events.send(event).await;
                }
                continue;
            }
            Ok(StreamItem::Data { index, bytes }) => {
                let bytes = at_most_a_leaf(bytes);
                let (epoch, verdict) = asking.checker.verify(index, &bytes);
                leaves.push(Arrived { leaf: index, bytes, epoch, verdict });
                continue;
            }
            Ok(StreamItem::End(message)) => Ok(decode(&message).map_or(RequestEnd::Failed, |answer| end_of(&answer))),
            Err(error) => Err(error),
        };
        // What came before a connection broke counts too.
        send(asking, leaves, permits).await;
        return end;
    }
}

/// The place in the queue for an upload slot, out of the frame that tells it.
pub(super) fn queue_news(bytes: &[u8]) -> Option<u32> {
    match decode(bytes) {
        Ok(PeerAnswer::Queued { place, .. }) => Some(place),
        _ => None,
    }
}

/// Whom to ask what it holds by now.
pub(super) struct Following {
    pub(super) provider: PeerId,
    pub(super) blob: BlobId,
    pub(super) geometry: BlobGeometry,
    pub(super) lease: Lease,
    pub(super) events: mpsc::Sender<Event>,
}

/// Asks a provider of parts again and again what it holds, until it holds everything or the connection ends.
pub(super) async fn follow(following: Following) {
    let Following { provider, blob, geometry, lease, events } = following;
    let mut beyond = None;
    loop {
        let answer = lease.connection().request(&PeerRequest::Bitfield { blob, beyond }).await;
        let (have, pause) = match answer {
            Ok(PeerAnswer::Bitfield { size, leaves }) if size == geometry.size() => match leaves {
                None => (Some(Have::All), None),
                Some(bytes) => {
                    let pause = FOLLOW_PAUSE + Duration::from_micros(FOLLOW_MICROS_PER_BYTE * bytes.len() as u64);
                    let leaves = LeafSet::from_bytes(geometry.leaves(), &bytes);
                    beyond = leaves.as_ref().map(LeafSet::count);
                    (leaves.map(Have::Leaves), Some(pause))
                }
            },
            // It has not begun yet, or has just ended.
            Ok(_) => (None, Some(FOLLOW_AGAIN)),
            Err(_) => return,
        };
        if let Some(have) = have
            && events.send(Event::Holds { provider, have }).await.is_err()
        {
            return;
        }
        match pause {
            Some(pause) => tokio::time::sleep(pause).await,
            None => return,
        }
    }
}

/// What a provider sent as a leaf or a small file. More than a leaf is wrong whatever it is, so it is not kept: frames
/// of a mebibyte would fill the memory before they are verified.
pub(super) fn at_most_a_leaf(bytes: Bytes) -> Bytes {
    if bytes.len() as u64 > LEAF_BYTES { Bytes::new() } else { bytes }
}

async fn send(asking: &Asking, leaves: Vec<Arrived>, permits: &Arc<Semaphore>) {
    if leaves.is_empty() {
        return;
    }
    let Ok(permit) = Arc::clone(permits).acquire_owned().await else { return };
    let event = Event::Leaves { request: asking.request, provider: asking.provider, leaves, permit };
    // The transfer is over if nobody listens.
    let _ = asking.events.send(event).await;
}

/// What a last message of a peer means for the request.
pub(super) fn end_of(answer: &PeerAnswer) -> RequestEnd {
    match answer {
        PeerAnswer::Served => RequestEnd::Served,
        PeerAnswer::NotHeld => RequestEnd::NotHeld,
        PeerAnswer::Changed => RequestEnd::Changed,
        PeerAnswer::Queued { .. } => RequestEnd::Busy,
        _ => RequestEnd::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_larger_than_a_leaf_is_kept() {
        for (arrived, kept) in [(0, 0), (1, 1), (65_536, 65_536), (65_537, 0), (1_048_563, 0)] {
            assert_eq!(at_most_a_leaf(vec![1; arrived].into()).len(), kept);
        }
    }
}
