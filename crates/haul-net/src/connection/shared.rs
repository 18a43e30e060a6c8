//! What the handles of a connection and its task share: requests in flight in both directions, the output queue, the
//! reason for closing. One lock, held for a few instructions and never across an await.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use haul_core::ids::PublicKey;
use haul_core::limits;
use haul_core::wire::frame::FrameKind;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::output::{Output, OutputFrame};
use super::{AnswerAtOnce, CloseReason, ConnectionSettings, RequestError, SendError, StreamItem, Traffic, Violation};

pub(super) struct Shared {
    pub(super) remote: PublicKey,
    pub(super) settings: ConnectionSettings,
    pub(super) output: Output,
    pub(super) counters: Counters,
    frame_limit: AtomicUsize,
    /// Whether the other side has sent a request.
    asked: AtomicBool,
    request_count: Arc<Semaphore>,
    request_bytes: Arc<Semaphore>,
    state: Mutex<State>,
    reason: OnceLock<CloseReason>,
    /// Waits for the reader, which keeps it.
    at_once: Mutex<Option<Arc<dyn AnswerAtOnce>>>,
    at_once_waits: AtomicBool,
    finished: CancellationToken,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) frames_in: AtomicU64,
    pub(super) frames_out: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) blocks: AtomicU64,
}

#[derive(Default)]
struct State {
    next_id: u32,
    /// Own requests without their last frame, by id.
    pending: HashMap<u32, Pending>,
    /// The other side's requests without our last frame, by its id.
    serving: HashMap<u32, Arc<Served>>,
    serving_bytes: usize,
    /// Requests of the other side so far.
    served: u64,
    /// Nothing is added any more.
    closed: bool,
}

/// An own request that waits.
struct Pending {
    _permits: RequestPermits,
    expects: Expects,
}

/// What an own request waits for.
pub(super) enum Expects {
    Answer(oneshot::Sender<Bytes>),
    Stream {
        items: mpsc::Sender<StreamItem>,
        credit: usize,
    },
    /// A stream that was cancelled: data that is under way is dropped until the end comes.
    Nothing {
        credit: usize,
    },
}

/// The right to have one more request unanswered.
pub(super) struct RequestPermits {
    _count: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

/// A request of the other side that is being answered.
pub(super) struct Served {
    bytes: usize,
    /// How many came before.
    pub(super) age: u64,
    /// The other side wants no more of it.
    cancelled: AtomicBool,
    cancel_notice: Notify,
    /// Bytes that the other side takes of this stream; closed when it wants no more or the connection ends.
    pub(super) credit: Semaphore,
}

impl Served {
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Ready once the other side wants no more.
    pub(super) async fn cancelled(&self) {
        let notice = self.cancel_notice.notified();
        if !self.is_cancelled() {
            notice.await;
        }
    }
}

impl Shared {
    pub(super) fn new(remote: PublicKey, settings: ConnectionSettings) -> Self {
        Self {
            remote,
            frame_limit: AtomicUsize::new(settings.frame_limit),
            settings,
            asked: AtomicBool::new(false),
            output: Output::new(),
            counters: Counters::default(),
            request_count: Arc::new(Semaphore::new(limits::REQUESTS_IN_FLIGHT)),
            request_bytes: Arc::new(Semaphore::new(limits::REQUEST_BYTES_IN_FLIGHT)),
            state: Mutex::default(),
            reason: OnceLock::new(),
            at_once: Mutex::default(),
            at_once_waits: AtomicBool::new(false),
            finished: CancellationToken::new(),
        }
    }

    pub(super) fn frame_limit(&self) -> usize {
        self.frame_limit.load(Ordering::Relaxed)
    }

    pub(super) fn set_frame_limit(&self, bytes: usize) {
        self.frame_limit.store(bytes, Ordering::Relaxed);
    }

    /// The other side has sent a request.
    pub(super) fn note_asked(&self) {
        if !self.was_asked() {
            self.asked.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Whether the other side is a member as far as this side knows. Others send little.
    pub(super) fn takes_members_frames(&self) -> bool {
        self.frame_limit() >= limits::FRAME_BYTES
    }

    pub(super) fn traffic(&self) -> Traffic {
        Traffic {
            frames_in: self.counters.frames_in.load(Ordering::Relaxed),
            frames_out: self.counters.frames_out.load(Ordering::Relaxed),
            bytes_in: self.counters.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.counters.bytes_out.load(Ordering::Relaxed),
            blocks: self.counters.blocks.load(Ordering::Relaxed),
        }
    }

    // Closing.

    /// Starts to close; the first reason stands.
    pub(super) fn close(&self, reason: CloseReason) {
        if self.reason.set(reason).is_ok() {
            self.output.wake();
        }
    }

    pub(super) fn close_reason(&self) -> Option<CloseReason> {
        self.reason.get().cloned()
    }

    /// The reason, for a caller who has seen that the connection closes.
    pub(super) fn reason_of_end(&self) -> CloseReason {
        self.close_reason().unwrap_or(CloseReason::Vanished)
    }

    pub(super) fn send_error(&self) -> SendError {
        SendError::Closed(self.reason_of_end())
    }

    pub(super) fn request_error(&self) -> RequestError {
        RequestError::Closed(self.reason_of_end())
    }

    /// Fails all that waits on this connection, and all that will.
    pub(super) fn fail_waiting(&self) {
        let (pending, serving) = {
            let mut state = self.state();
            state.closed = true;
            (std::mem::take(&mut state.pending), std::mem::take(&mut state.serving))
        };
        drop(pending);
        drop(self.take_at_once());
        for served in serving.into_values() {
            served.credit.close();
        }
        self.request_count.close();
        self.request_bytes.close();
        self.output.close();
    }

    pub(super) fn finish(&self) {
        self.finished.cancel();
    }

    pub(super) async fn finished(&self) -> CloseReason {
        self.finished.cancelled().await;
        self.reason_of_end()
    }

    // Own requests.

    pub(super) async fn request_permits(&self, bytes: usize) -> Result<RequestPermits, RequestError> {
        let bytes = bytes.min(limits::REQUEST_BYTES_IN_FLIGHT) as u32;
        let count = Arc::clone(&self.request_count).acquire_owned().await.map_err(|_| self.request_error())?;
        let bytes =
            Arc::clone(&self.request_bytes).acquire_many_owned(bytes).await.map_err(|_| self.request_error())?;
        Ok(RequestPermits { _count: count, _bytes: bytes })
    }

    /// Notes a request that is about to be sent, and numbers it.
    pub(super) fn add_pending(&self, permits: RequestPermits, expects: Expects) -> Result<u32, RequestError> {
        let mut state = self.state();
        if state.closed {
            return Err(self.request_error());
        }
        // At most REQUESTS_IN_FLIGHT ids are taken, so this ends soon.
        state.next_id = state.next_id.wrapping_add(1);
        while state.pending.contains_key(&state.next_id) {
            state.next_id = state.next_id.wrapping_add(1);
        }
        let id = state.next_id;
        state.pending.insert(id, Pending { _permits: permits, expects });
        Ok(id)
    }

    /// The other side's last frame for an own request.
    pub(super) fn handle_last(&self, id: u32, body: Bytes) -> Result<(), Violation> {
        let pending = self.state().pending.remove(&id).ok_or(Violation::UnknownRequest)?;
        match pending.expects {
            // Whoever asked may have gone; then the answer is dropped.
            Expects::Answer(answer) => drop(answer.send(body)),
            Expects::Stream { items, .. } => drop(items.try_send(StreamItem::End(body))),
            Expects::Nothing { .. } => {}
        }
        Ok(())
    }

    /// Data for an own request.
    pub(super) fn handle_data(&self, id: u32, index: u64, bytes: Bytes) -> Result<(), Violation> {
        let mut state = self.state();
        let pending = state.pending.get_mut(&id).ok_or(Violation::UnknownRequest)?;
        let cost = data_cost(bytes.len());
        match &mut pending.expects {
            Expects::Answer(_) => return Err(Violation::UnexpectedData),
            Expects::Nothing { credit } => *credit = credit.checked_sub(cost).ok_or(Violation::OverCredit)?,
            Expects::Stream { items, credit } => {
                *credit = credit.checked_sub(cost).ok_or(Violation::OverCredit)?;
                // Full cannot happen within the credit; a receiver that is gone cancels in a moment.
                let _ = items.try_send(StreamItem::Data { index, bytes });
            }
        }
        Ok(())
    }

    /// Gives the other side more credit on a stream that we receive.
    pub(super) fn give_credit(&self, id: u32, bytes: u32) {
        let mut state = self.state();
        if let Some(Pending { expects: Expects::Stream { credit, .. }, .. }) = state.pending.get_mut(&id) {
            *credit += bytes as usize;
            drop(state);
            let body = Bytes::copy_from_slice(&bytes.to_le_bytes());
            self.output.control(OutputFrame::new(FrameKind::Credit, id, body), false);
        }
    }

    /// Tells the other side that a stream is not wanted any more.
    pub(super) fn cancel(&self, id: u32) {
        let mut state = self.state();
        if let Some(pending) = state.pending.get_mut(&id)
            && let Expects::Stream { credit, .. } = pending.expects
        {
            pending.expects = Expects::Nothing { credit };
            drop(state);
            self.output.control(OutputFrame::new(FrameKind::Cancel, id, Bytes::new()), false);
        }
    }

    // Requests of the other side.

    pub(super) fn set_at_once(&self, service: Arc<dyn AnswerAtOnce>) {
        *self.at_once.lock().unwrap_or_else(PoisonError::into_inner) = Some(service);
        self.at_once_waits.store(true, Ordering::Release);
    }

    /// The service that was set up since the last call.
    pub(super) fn take_at_once(&self) -> Option<Arc<dyn AnswerAtOnce>> {
        if !self.at_once_waits.load(Ordering::Acquire) {
            return None;
        }
        self.at_once_waits.store(false, Ordering::Relaxed);
        self.at_once.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether a request of this id is being served.
    pub(super) fn is_serving(&self, id: u32) -> bool {
        self.state().serving.contains_key(&id)
    }

    pub(super) fn add_serving(&self, id: u32, bytes: usize) -> Result<Arc<Served>, Violation> {
        let most =
            if self.takes_members_frames() { limits::REQUESTS_IN_FLIGHT } else { limits::REQUESTS_BEFORE_MEMBERSHIP };
        self.note_asked();
        let mut state = self.state();
        if state.serving.len() >= most {
            return Err(Violation::TooManyRequests);
        }
        if state.serving_bytes + bytes > limits::REQUEST_BYTES_IN_FLIGHT {
            return Err(Violation::TooManyRequestBytes);
        }
        if state.serving.contains_key(&id) {
            return Err(Violation::RequestId);
        }
        state.served += 1;
        let served = Arc::new(Served {
            bytes,
            age: state.served,
            cancelled: AtomicBool::new(false),
            cancel_notice: Notify::new(),
            credit: Semaphore::new(limits::STREAM_WINDOW_BYTES as usize),
        });
        state.serving.insert(id, Arc::clone(&served));
        state.serving_bytes += bytes;
        Ok(served)
    }

    /// Called just before the last frame of a request is queued: the id is free as soon as the other side sees it.
    pub(super) fn remove_serving(&self, id: u32) {
        let mut state = self.state();
        if let Some(served) = state.serving.remove(&id) {
            state.serving_bytes -= served.bytes;
        }
    }

    /// Credit for a stream that we send; one that has just ended needs none.
    pub(super) fn handle_credit(&self, id: u32, bytes: u32) -> Result<(), Violation> {
        let state = self.state();
        if let Some(served) = state.serving.get(&id) {
            if served.credit.available_permits() + bytes as usize > limits::STREAM_CREDIT_MAX {
                return Err(Violation::Credit);
            }
            served.credit.add_permits(bytes as usize);
        }
        Ok(())
    }

    pub(super) fn handle_cancel(&self, id: u32) {
        if let Some(served) = self.state().serving.get(&id) {
            served.cancelled.store(true, Ordering::Relaxed);
            served.cancel_notice.notify_waiters();
            served.credit.close();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a data frame takes of the window.
pub(super) fn data_cost(bytes: usize) -> usize {
    bytes + limits::DATA_FRAME_COST as usize
}
