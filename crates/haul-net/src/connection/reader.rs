//! The reading half of a connection: bytes to frames to whoever waits for them. Every rule that the other side can
//! break is checked here or in [`Shared`], and ends the connection.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use haul_core::wire::frame::{FrameHeader, FrameKind};
use tokio::io::{AsyncReadExt, ReadHalf};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::frames::FrameBuffer;
use super::shared::Shared;
use super::{CloseReason, Connection, Handle, Inbound, InboundRequest, Violation};
use crate::transport::BoxTransport;

/// Bytes after which the writer gets a turn.
const TURN_BYTES: usize = 256 * 1024;
/// Bytes of a goodbye that are kept.
const REASON_BYTES: usize = 256;

pub(super) struct Reader {
    transport: ReadHalf<BoxTransport>,
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Inbound>,
    handle: Weak<Handle>,
    buffer: FrameBuffer,
}

impl Reader {
    pub(super) fn new(
        transport: ReadHalf<BoxTransport>,
        shared: Arc<Shared>,
        inbox: mpsc::Sender<Inbound>,
        handle: Weak<Handle>,
    ) -> Self {
        Self { transport, shared, inbox, handle, buffer: FrameBuffer::default() }
    }

    /// Reads until the connection has to close.
    pub(super) async fn run(&mut self) -> CloseReason {
        let mut turn_bytes = 0;
        loop {
            loop {
                match self.buffer.next(self.shared.frame_limit()) {
                    Ok(None) => break,
                    Ok(Some((header, body))) => {
                        self.shared.counters.frames_in.fetch_add(1, Ordering::Relaxed);
                        if let Err(reason) = self.handle_frame(header, body) {
                            return reason;
                        }
                    }
                    Err(error) => return CloseReason::Frame(error),
                }
            }
            match self.fill().await {
                Ok(0) => return CloseReason::Vanished,
                Ok(bytes) => {
                    self.shared.counters.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
                    turn_bytes += bytes;
                }
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return CloseReason::Vanished,
                Err(error) => return CloseReason::Broken(error.to_string()),
            }
            if turn_bytes >= TURN_BYTES {
                turn_bytes = 0;
                tokio::task::yield_now().await;
            }
        }
    }

    /// Reads and forgets until the other side has closed too, so that what we sent is not lost with the socket.
    pub(super) async fn drain(&mut self) {
        self.buffer = FrameBuffer::default();
        let mut bytes = vec![0; 4 * 1024];
        while let Ok(1..) = self.transport.read(&mut bytes).await {}
    }

    /// Reads once. A buffer exists only while there is something to read, so idle connections are small.
    async fn fill(&mut self) -> std::io::Result<usize> {
        let Self { transport, buffer, shared, .. } = self;
        poll_fn(|context| {
            let room = buffer.room(shared.frame_limit());
            let polled = pin!(transport.read_buf(room)).as_mut().poll(context);
            if polled.is_pending() {
                buffer.rest();
            }
            polled
        })
        .await
    }

    fn handle_frame(&self, header: FrameHeader, mut body: Bytes) -> Result<(), CloseReason> {
        let id = header.id;
        let result = match header.kind {
            FrameKind::Request => self.handle_request(id, body),
            FrameKind::Answer | FrameKind::End => self.shared.handle_last(id, body),
            FrameKind::Data => match body.first_chunk() {
                Some(index) => {
                    let index = u64::from_le_bytes(*index);
                    self.shared.handle_data(id, index, body.split_off(size_of::<u64>()))
                }
                None => Err(Violation::Body),
            },
            FrameKind::Credit => match <[u8; 4]>::try_from(&*body) {
                Ok(bytes) => self.shared.handle_credit(id, u32::from_le_bytes(bytes)),
                Err(_) => Err(Violation::Body),
            },
            FrameKind::Cancel if body.is_empty() => {
                self.shared.handle_cancel(id);
                Ok(())
            }
            FrameKind::Cancel => Err(Violation::Body),
            FrameKind::Push | FrameKind::Goodbye if id != 0 => Err(Violation::Id),
            FrameKind::Push => self.handle_push(body),
            FrameKind::Goodbye => return Err(CloseReason::Remote(reason_text(&body))),
        };
        result.map_err(CloseReason::Violation)
    }

    fn handle_request(&self, id: u32, body: Bytes) -> Result<(), Violation> {
        let served = self.shared.add_serving(id, body.len())?;
        // Without a handle the connection is closing; the request is dropped with it.
        let Some(handle) = self.handle.upgrade() else { return Ok(()) };
        let request = InboundRequest::new(Connection { handle }, id, served, body);
        match self.inbox.try_send(Inbound::Request(request)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Closed(_)) => Err(Violation::NotServing),
            // Requests alone never fill it.
            Err(TrySendError::Full(_)) => Err(Violation::TooManyPushes),
        }
    }

    fn handle_push(&self, body: Bytes) -> Result<(), Violation> {
        if !self.shared.takes_members_frames() {
            return Err(Violation::TooManyPushes);
        }
        match self.inbox.try_send(Inbound::Push(body)) {
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(_)) => Err(Violation::TooManyPushes),
        }
    }
}

/// The text of a goodbye, safe to show: short, without control characters.
fn reason_text(body: &[u8]) -> String {
    let cut = body.get(..REASON_BYTES).unwrap_or(body);
    String::from_utf8_lossy(cut).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
