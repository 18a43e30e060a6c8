//! The writing half of a connection: gathers queued frames and writes many of them at once.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes, BytesMut};
use haul_core::wire::frame::FrameKind;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::time::timeout;

use super::CloseReason;
use super::output::{BATCH_BYTES, BatchSpace, OutputFrame};
use super::shared::Shared;
use crate::transport::BoxTransport;

/// Bodies up to this size are copied beside their header; larger ones are written from where they are.
const COPY_BYTES: usize = 4 * 1024;
/// Slices in one write.
const SLICES: usize = 64;

pub(super) struct Writer {
    transport: WriteHalf<BoxTransport>,
    shared: Arc<Shared>,
    /// The rest of the batch that is being written; always ends where a frame ends.
    chunks: VecDeque<Bytes>,
    space: BatchSpace,
    /// Written since the reader had its last turn.
    turn_bytes: usize,
}

impl Writer {
    pub(super) fn new(transport: WriteHalf<BoxTransport>, shared: Arc<Shared>) -> Self {
        Self { transport, shared, chunks: VecDeque::new(), space: BatchSpace::default(), turn_bytes: 0 }
    }

    /// Writes until the transport fails or stalls.
    pub(super) async fn run(&mut self) -> CloseReason {
        loop {
            if let Err(reason) = self.write_queued().await {
                return reason;
            }
            self.shared.output.filled().await;
        }
    }

    /// Writes what is queued, a last message, and the end of the stream.
    pub(super) async fn finish(&mut self, goodbye: &str) -> Result<(), CloseReason> {
        self.write_queued().await?;
        let body = Bytes::copy_from_slice(goodbye.as_bytes());
        self.gather(vec![OutputFrame::new(FrameKind::Goodbye, 0, body)]);
        self.write_chunks().await?;
        self.transport.shutdown().await.map_err(|error| broken(&error))
    }

    async fn flush(&mut self) -> Result<(), CloseReason> {
        timeout(self.shared.settings.output_stall, self.transport.flush())
            .await
            .map_err(|_| CloseReason::Stalled)?
            .map_err(|error| broken(&error))
    }

    async fn write_queued(&mut self) -> Result<(), CloseReason> {
        loop {
            self.write_chunks().await?;
            self.shared.output.give_back(std::mem::take(&mut self.space));
            let mut batch = Vec::new();
            self.space = self.shared.output.take_batch(&mut batch);
            if batch.is_empty() {
                self.chunks = VecDeque::new();
                return self.flush().await;
            }
            self.gather(batch);
        }
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

    async fn write_chunks(&mut self) -> Result<(), CloseReason> {
        while !self.chunks.is_empty() {
            let written = timeout(self.shared.settings.output_stall, write_some(&mut self.transport, &self.chunks))
                .await
                .map_err(|_| CloseReason::Stalled)?
                .map_err(|error| broken(&error))?;
            if written == 0 {
                return Err(CloseReason::Vanished);
            }
            self.shared.counters.bytes_out.fetch_add(written as u64, Ordering::Relaxed);
            self.advance(written);
            self.turn_bytes += written;
            if self.turn_bytes >= BATCH_BYTES {
                // The reader shares this task.
                self.turn_bytes = 0;
                tokio::task::yield_now().await;
            }
        }
        Ok(())
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

async fn write_some(transport: &mut WriteHalf<BoxTransport>, chunks: &VecDeque<Bytes>) -> io::Result<usize> {
    if let (1, Some(only)) = (chunks.len(), chunks.front()) {
        return transport.write(only).await;
    }
    let mut slices = [IoSlice::new(&[]); SLICES];
    for (slice, chunk) in slices.iter_mut().zip(chunks) {
        *slice = IoSlice::new(chunk);
    }
    let used = slices.get(..chunks.len()).unwrap_or(&slices);
    transport.write_vectored(used).await
}

fn broken(error: &io::Error) -> CloseReason {
    CloseReason::Broken(error.to_string())
}
