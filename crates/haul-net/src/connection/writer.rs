//! The writing half of a connection: gathers queued frames and writes many of them at once.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use haul_core::wire::frame::FrameKind;
use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep, sleep};

use super::CloseReason;
use super::output::{BATCH_BYTES, BatchSpace, OutputFrame};
use super::shared::Shared;
use crate::transport::BoxTransport;

/// Bodies up to this size are copied beside their header; larger ones are written from where they are.
const COPY_BYTES: usize = 4 * 1024;
/// A batch of so many bytes shows whether the link is fast: a leaf.
const BULKY: usize = 64 * 1024;
/// Slices in one write.
const SLICES: usize = 64;

pub(super) struct Writer {
    shared: Arc<Shared>,
    /// Whole frames from this task itself, which need no queue; written between two batches.
    pub(super) own: Vec<u8>,
    /// How much of it is written.
    own_written: usize,
    /// The rest of the batch that is being written; always ends where a frame ends.
    chunks: VecDeque<Bytes>,
    space: BatchSpace,
    /// Since when something has been waiting, and bytes written meanwhile: what the link takes then is its speed.
    pace: Option<(Instant, usize)>,
    /// Written since the reader had its last turn.
    turn_bytes: usize,
    /// Something was written and not flushed.
    unflushed: bool,
    /// Runs while the other side takes nothing.
    stall: Option<Pin<Box<Sleep>>>,
    /// A batch is being written, and nothing of it has had to wait.
    at_once: bool,
    /// The other side has left something waiting, and not all has been written since.
    blocked: bool,
    said_goodbye: bool,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            own: Vec::new(),
            own_written: 0,
            chunks: VecDeque::new(),
            space: BatchSpace::default(),
            pace: None,
            at_once: false,
            turn_bytes: 0,
            unflushed: false,
            stall: None,
            blocked: false,
            said_goodbye: false,
        }
    }

    /// Writes what is queued, as far as the transport takes it. Ready if it failed or stalled.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, transport: &mut BoxTransport) -> Poll<CloseReason> {
        match self.poll_queued(context, transport) {
            Poll::Ready(Err(reason)) => Poll::Ready(reason),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    /// Writes what is queued, a last message, and the end of the stream.
    pub(super) fn poll_finish(
        &mut self,
        context: &mut Context<'_>,
        transport: &mut BoxTransport,
        goodbye: &str,
    ) -> Poll<Result<(), CloseReason>> {
        ready!(self.poll_queued(context, transport))?;
        if !self.said_goodbye {
            self.said_goodbye = true;
            let body = Bytes::copy_from_slice(goodbye.as_bytes());
            self.gather(vec![OutputFrame::new(FrameKind::Goodbye, 0, body)]);
        }
        ready!(self.poll_chunks(context, transport))?;
        Pin::new(transport).poll_shutdown(context).map_err(|error| broken(&error))
    }

    /// Ready once nothing is queued and all is flushed.
    fn poll_queued(
        &mut self,
        context: &mut Context<'_>,
        transport: &mut BoxTransport,
    ) -> Poll<Result<(), CloseReason>> {
        loop {
            ready!(self.poll_chunks(context, transport))?;
            self.shared.output.give_back(std::mem::take(&mut self.space));
            ready!(self.poll_own(context, transport))?;
            if self.shared.output.is_slow() {
                // TLS would take many batches ahead.
                ready!(self.poll_flush(context, transport))?;
            }
            if std::mem::take(&mut self.at_once) {
                self.shared.output.note_fast();
            }
            let mut batch = Vec::new();
            self.space = self.shared.output.take_batch(&mut batch, context.waker());
            if batch.is_empty() {
                break;
            }
            self.gather(batch);
            self.at_once = self.chunks.iter().map(Bytes::len).sum::<usize>() >= BULKY;
        }
        self.chunks = VecDeque::new();
        ready!(self.poll_flush(context, transport))?;
        self.stall = None;
        self.pace = None;
        self.note_blocked(false);
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, context: &mut Context<'_>, transport: &mut BoxTransport) -> Poll<Result<(), CloseReason>> {
        if self.unflushed {
            let flushed = Pin::new(transport).poll_flush(context);
            if flushed.is_pending() {
                return self.poll_stall(context);
            }
            self.unflushed = false;
            ready!(flushed).map_err(|error| broken(&error))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Turns frames into as few chunks as possible.
    fn gather(&mut self, batch: Vec<OutputFrame>) {
        self.shared.counters.frames_out.fetch_add(batch.len() as u64, Ordering::Relaxed);
        let mut copied = BytesMut::new();
        for frame in batch {
            copied.extend_from_slice(&frame.header());
            if let Some(index) = frame.index {
                copied.extend_from_slice(&index.to_le_bytes());
            }
            if frame.body.len() <= COPY_BYTES {
                copied.extend_from_slice(&frame.body);
            } else {
                self.chunks.push_back(copied.split().freeze());
                self.chunks.push_back(frame.body);
            }
        }
        if !copied.is_empty() {
            self.chunks.push_back(copied.freeze());
        }
    }

    fn poll_own(&mut self, context: &mut Context<'_>, transport: &mut BoxTransport) -> Poll<Result<(), CloseReason>> {
        while let Some(rest) = self.own.get(self.own_written..).filter(|rest| !rest.is_empty()) {
            let written = Pin::new(&mut *transport).poll_write(context, rest);
            self.own_written += ready!(self.poll_written(context, written))?;
            if self.turn_is_over(context) {
                return Poll::Pending;
            }
        }
        if self.own_written > 0 {
            (self.own, self.own_written) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_chunks(
        &mut self,
        context: &mut Context<'_>,
        transport: &mut BoxTransport,
    ) -> Poll<Result<(), CloseReason>> {
        while !self.chunks.is_empty() {
            let written = poll_some(context, transport, &self.chunks);
            let written = ready!(self.poll_written(context, written))?;
            self.advance(written);
            if self.turn_is_over(context) {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Counts what was written, or waits.
    fn poll_written(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<Result<usize, CloseReason>> {
        let Poll::Ready(written) = written else {
            return self.poll_stall(context).map_ok(|()| 0);
        };
        match written.map_err(|error| broken(&error))? {
            0 => Poll::Ready(Err(CloseReason::Vanished)),
            written => {
                self.shared.counters.bytes_out.fetch_add(written as u64, Ordering::Relaxed);
                self.stall = None;
                self.unflushed = true;
                self.turn_bytes += written;
                if let Some((_, bytes)) = &mut self.pace {
                    *bytes += written;
                }
                Poll::Ready(Ok(written))
            }
        }
    }

    /// Whether the reader, which shares this task, should have a turn.
    fn turn_is_over(&mut self, context: &mut Context<'_>) -> bool {
        let over = self.turn_bytes >= BATCH_BYTES;
        if over {
            self.turn_bytes = 0;
            context.waker().wake_by_ref();
        }
        over
    }

    /// The transport takes nothing now: waits, but not for ever.
    fn poll_stall(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        self.at_once = false;
        self.note_blocked(true);
        self.note_pace();
        let limit = self.shared.settings.output_stall;
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(limit)));
        stall.as_mut().poll(context).map(|()| Err(CloseReason::Stalled))
    }

    /// The transport takes no more: what it has taken since the last time is what the link carries.
    fn note_pace(&mut self) {
        let now = Instant::now();
        match self.pace {
            // It was only asked again.
            Some((_, 0)) => return,
            Some((since, bytes)) => self.shared.output.note_speed(bytes, now - since),
            None => {}
        }
        self.pace = Some((now, 0));
    }

    /// A transport under steady load takes something every few milliseconds: that is one wait, which ends when nothing is left.
    fn note_blocked(&mut self, blocked: bool) {
        if self.blocked != blocked {
            self.blocked = blocked;
            self.shared.counters.blocks.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(first) = self.chunks.front_mut() {
            let step = written.min(first.len());
            first.advance(step);
            written -= step;
            if !first.is_empty() {
                return;
            }
            self.chunks.pop_front();
        }
    }
}

fn poll_some(
    context: &mut Context<'_>,
    transport: &mut BoxTransport,
    chunks: &VecDeque<Bytes>,
) -> Poll<io::Result<usize>> {
    let transport = Pin::new(transport);
    if let (1, Some(only)) = (chunks.len(), chunks.front()) {
        return transport.poll_write(context, only);
    }
    let mut slices = [IoSlice::new(&[]); SLICES];
    for (slice, chunk) in slices.iter_mut().zip(chunks) {
        *slice = IoSlice::new(chunk);
    }
    let used = slices.get(..chunks.len()).unwrap_or(&slices);
    transport.poll_write_vectored(context, used)
}

fn broken(error: &io::Error) -> CloseReason {
    CloseReason::Broken(error.to_string())
}
