//! Frames that wait to be written. Messages overtake bulk data, so that an answer never waits behind a stream; each of
//! the two has its own share of [`limits::OUTPUT_QUEUE_BYTES`]. Which stream has its share when, [`Turns`] says.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use haul_core::limits;
use haul_core::wire::frame::{FrameHeader, FrameKind, HEADER_BYTES};
use tokio::sync::Semaphore;

use super::turns::{Place, Turns};

/// Bytes of bulk data that may wait at most: enough for several batches. The rest of the queue belongs to messages.
const BULK_BYTES: usize = limits::FRAME_BYTES;
const MESSAGE_BYTES: usize = limits::OUTPUT_QUEUE_BYTES - BULK_BYTES;

/// Bytes that one batch gathers before it is written, less if the link is slow: many frames in one write, and a message waits for one batch at
/// most.
pub(super) const BATCH_BYTES: usize = 256 * 1024;
/// Frames in a batch; a write has two slices per frame at most, below the 1,024 that the kernel takes.
const BATCH_FRAMES: usize = 256;

/// One frame on its way out.
#[derive(Debug)]
pub(super) struct OutputFrame {
    pub(super) kind: FrameKind,
    pub(super) id: u32,
    /// Stands before the body of a data frame.
    pub(super) index: Option<u64>,
    pub(super) body: Bytes,
    /// Bytes of queue space that it gives back once it is written.
    space: usize,
}

impl OutputFrame {
    pub(super) fn new(kind: FrameKind, id: u32, body: Bytes) -> Self {
        Self { kind, id, index: None, body, space: 0 }
    }

    pub(super) fn data(id: u32, index: u64, body: Bytes) -> Self {
        Self { index: Some(index), ..Self::new(FrameKind::Data, id, body) }
    }

    pub(super) fn header(&self) -> [u8; HEADER_BYTES] {
        let index_bytes = if self.index.is_some() { size_of::<u64>() } else { 0 };
        FrameHeader { body_bytes: index_bytes + self.body.len(), kind: self.kind, id: self.id }.encode()
    }
}

fn frame_bytes(body_bytes: usize) -> usize {
    HEADER_BYTES + size_of::<u64>() + body_bytes
}

/// The connection is closing: nothing more is taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Closing;

/// The queue does not take the frame now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Closing,
    Full,
}

/// Reserved room in the queue; given back when it is dropped unused.
#[derive(Debug)]
pub(super) struct Space<'a> {
    bytes: usize,
    of: Store<'a>,
}

/// Where room comes from.
#[derive(Clone, Copy, Debug)]
enum Store<'a> {
    Messages(&'a Semaphore),
    Bulk(&'a Turns),
}

impl Space<'_> {
    /// The writer gives it back once the frame is written.
    fn keep(mut self) -> usize {
        std::mem::take(&mut self.bytes)
    }

    /// The part for a frame with so many body bytes. None if there is less.
    pub(super) fn split(&mut self, body_bytes: usize) -> Option<Self> {
        let bytes = frame_bytes(body_bytes).min(BULK_BYTES);
        self.bytes = self.bytes.checked_sub(bytes)?;
        Some(Space { bytes, of: self.of })
    }
}

impl Drop for Space<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            match self.of {
                Store::Messages(space) => space.add_permits(self.bytes),
                Store::Bulk(turns) => turns.give_back(self.bytes),
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Output {
    queues: Mutex<Queues>,
    message_space: Semaphore,
    bulk_space: Turns,
}

#[derive(Debug, Default)]
struct Queues {
    messages: VecDeque<OutputFrame>,
    bulk: VecDeque<OutputFrame>,
    /// Wakes the writer, which has found nothing to write.
    idle_writer: Option<Waker>,
}

/// Queue space to give back once a batch is written.
#[derive(Debug, Default)]
pub(super) struct BatchSpace {
    messages: usize,
    bulk: usize,
}

impl Output {
    pub(super) fn new() -> Self {
        Self {
            queues: Mutex::default(),
            message_space: Semaphore::new(MESSAGE_BYTES),
            bulk_space: Turns::new(BULK_BYTES),
        }
    }

    /// Waits for room for a message of this many body bytes. Between this and [`Output::push_message`] the caller may
    /// update what must be true before the other side can see the frame.
    pub(super) async fn reserve_message(&self, body_bytes: usize) -> Result<Space<'_>, Closing> {
        let bytes = frame_bytes(body_bytes).min(MESSAGE_BYTES);
        self.message_space.acquire_many(bytes as u32).await.map_err(|_| Closing)?.forget();
        Ok(Space { bytes, of: Store::Messages(&self.message_space) })
    }

    /// Waits for room for bulk data, or for what must not overtake it: for the first of some frames with so many body bytes
    /// each, and for as many of the others as there is room for.
    pub(super) async fn reserve_bulk(
        &self,
        place: Place,
        body_bytes: impl Iterator<Item = usize>,
    ) -> Result<Space<'_>, Closing> {
        let mut frames = body_bytes.map(frame_bytes);
        let least = frames.next().unwrap_or_default();
        let bytes = self.bulk_space.reserve(place, least, least + frames.sum::<usize>()).await?;
        Ok(Space { bytes, of: Store::Bulk(&self.bulk_space) })
    }

    /// The link took a batch at once.
    pub(super) fn note_fast(&self) {
        self.bulk_space.note_fast();
    }

    /// Whether the link takes long for a whole batch.
    pub(super) fn is_slow(&self) -> bool {
        self.bulk_space.batch_bytes(BATCH_BYTES) < BATCH_BYTES
    }

    /// The link took so many bytes in this time, and could take no more before and after.
    pub(super) fn note_speed(&self, bytes: usize, took: Duration) {
        self.bulk_space.note_speed(bytes, took);
    }

    /// Queues a message in reserved space.
    pub(super) fn push_message(&self, mut frame: OutputFrame, space: Space<'_>) {
        frame.space = space.keep();
        self.push(frame, false);
    }

    /// Queues bulk data in reserved space.
    pub(super) fn push_bulk(&self, mut frame: OutputFrame, space: Space<'_>) {
        frame.space = space.keep();
        self.push(frame, true);
    }

    /// Queues a message if there is room now.
    pub(super) fn try_message(&self, mut frame: OutputFrame) -> Result<(), Refused> {
        frame.space = frame_bytes(frame.body.len()).min(MESSAGE_BYTES);
        match self.message_space.try_acquire_many(frame.space as u32) {
            Ok(space) => space.forget(),
            Err(tokio::sync::TryAcquireError::Closed) => return Err(Refused::Closing),
            Err(tokio::sync::TryAcquireError::NoPermits) => return Err(Refused::Full),
        }
        self.push(frame, false);
        Ok(())
    }

    /// Queues a frame that must not wait and is small: credit, cancel, an empty answer. Their number is bounded by the
    /// requests in flight and by the data received.
    pub(super) fn control(&self, frame: OutputFrame, behind_data: bool) {
        if !self.message_space.is_closed() {
            self.push(frame, behind_data);
        }
    }

    /// Lets every waiting sender fail; frames that are queued stay.
    pub(super) fn close(&self) {
        self.message_space.close();
        self.bulk_space.close();
        self.wake();
    }

    /// Has the writer's task look again.
    pub(super) fn wake(&self) {
        let writer = self.queues().idle_writer.take();
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// Moves the next frames to `batch`: messages first, but never without the oldest bulk frame, so neither starves.
    /// If there are none, `writer` is woken by the next one.
    pub(super) fn take_batch(&self, batch: &mut Vec<OutputFrame>, writer: &Waker) -> BatchSpace {
        let mut queues = self.queues();
        if queues.messages.is_empty() && queues.bulk.is_empty() {
            if queues.idle_writer.as_ref().is_none_or(|idle| !idle.will_wake(writer)) {
                queues.idle_writer = Some(writer.clone());
            }
            return BatchSpace::default();
        }
        let mut space = BatchSpace::default();
        let (mut bytes, most) = (0, self.bulk_space.batch_bytes(BATCH_BYTES));
        let mut take = |frame: OutputFrame, space: &mut usize, batch: &mut Vec<OutputFrame>| {
            bytes += frame_bytes(frame.body.len());
            *space += frame.space;
            batch.push(frame);
            bytes < most && batch.len() < BATCH_FRAMES - 1
        };
        while let Some(frame) = queues.messages.pop_front() {
            if !take(frame, &mut space.messages, batch) {
                break;
            }
        }
        while let Some(frame) = queues.bulk.pop_front() {
            if !take(frame, &mut space.bulk, batch) {
                break;
            }
        }
        space
    }

    pub(super) fn give_back(&self, space: BatchSpace) {
        if space.messages > 0 {
            self.message_space.add_permits(space.messages);
        }
        if space.bulk > 0 {
            self.bulk_space.give_back(space.bulk);
        }
    }

    /// Drops all that is queued.
    pub(super) fn clear(&self) {
        let mut queues = self.queues();
        queues.messages = VecDeque::new();
        queues.bulk = VecDeque::new();
    }

    fn push(&self, frame: OutputFrame, bulk: bool) {
        let mut queues = self.queues();
        if bulk {
            queues.bulk.push_back(frame);
        } else {
            queues.messages.push_back(frame);
        }
        let writer = queues.idle_writer.take();
        drop(queues);
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
