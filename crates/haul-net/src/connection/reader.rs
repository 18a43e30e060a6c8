//! The reading half of a connection: bytes to frames to whoever waits for them. Every rule that the other side can
//! break is checked here or in [`Shared`], and ends the connection.

use std::io;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use haul_core::wire::frame::{FrameHeader, FrameKind, HEADER_BYTES};
use tokio::io::AsyncReadExt;

use super::frames::FrameBuffer;
use super::queue::{Putter, Refused};
use super::shared::Shared;
use super::writer::Writer;
use super::{AnswerAtOnce, CloseReason, Connection, Handle, Inbound, InboundRequest, Violation};
use crate::transport::BoxTransport;

/// Bytes after which the writer gets a turn.
const TURN_BYTES: usize = 256 * 1024;
/// Work on answers, in microseconds, after which other connections get a turn: half of what a lookup may be late.
const TURN_WORK: u32 = 1_000;
/// Bytes of answers that wait for the writer before further requests go through the inbox, where they wait for room.
const OWN_BYTES: usize = 256 * 1024;
/// Bytes of a goodbye that are kept.
const REASON_BYTES: usize = 256;

pub(super) struct Reader {
    shared: Arc<Shared>,
    inbox: Putter,
    handle: Weak<Handle>,
    buffer: FrameBuffer,
    /// Answers requests without a hand-over. It ends with this task, whoever still holds the connection.
    at_once: Option<Arc<dyn AnswerAtOnce>>,
    /// What the present turn has cost.
    turn_bytes: usize,
    turn_work: u32,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, inbox: Putter, handle: Weak<Handle>) -> Self {
        Self { shared, inbox, handle, buffer: FrameBuffer::default(), at_once: None, turn_bytes: 0, turn_work: 0 }
    }

    /// Reads and handles what has come. Ready if the connection has to close; answers that were made at once are left
    /// to the writer.
    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
        transport: &mut BoxTransport,
        writer: &mut Writer,
    ) -> Poll<CloseReason> {
        loop {
            if let Err(reason) = self.handle_buffered(&mut writer.own) {
                return Poll::Ready(reason);
            }
            if self.turn_bytes >= TURN_BYTES || self.turn_work >= TURN_WORK {
                (self.turn_bytes, self.turn_work) = (0, 0);
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.poll_fill(context, transport) {
                Poll::Pending => {
                    (self.turn_bytes, self.turn_work) = (0, 0);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(CloseReason::Vanished),
                Poll::Ready(Ok(bytes)) => {
                    self.shared.counters.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
                    self.turn_bytes += bytes;
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready(CloseReason::Vanished);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(CloseReason::Broken(error.to_string())),
            }
        }
    }

    /// Handles whole frames that have come, until the turn is over.
    fn handle_buffered(&mut self, answers: &mut Vec<u8>) -> Result<(), CloseReason> {
        if let Some(service) = self.shared.take_at_once() {
            self.at_once = Some(service);
        }
        let (mut frames, mut answered) = (0, 0);
        let outcome = loop {
            if self.turn_work >= TURN_WORK {
                break Ok(());
            }
            match self.answer_at_once(answers) {
                Ok(true) => {
                    frames += 1;
                    answered += 1;
                    continue;
                }
                Ok(false) => {}
                Err(reason) => break Err(reason),
            }
            match self.buffer.next(self.shared.frame_limit()) {
                Ok(None) => break Ok(()),
                Ok(Some((header, body))) => {
                    frames += 1;
                    if let Err(reason) = self.handle_frame(header, body) {
                        break Err(reason);
                    }
                }
                Err(error) => break Err(CloseReason::Frame(error)),
            }
        };
        let counters = &self.shared.counters;
        if frames > 0 {
            counters.frames_in.fetch_add(frames, Ordering::Relaxed);
        }
        if answered > 0 {
            counters.frames_out.fetch_add(answered, Ordering::Relaxed);
        }
        outcome
    }

    /// Answers the next frame if it is a request that can be answered where it stands; whether it was.
    fn answer_at_once(&mut self, answers: &mut Vec<u8>) -> Result<bool, CloseReason> {
        let Some(service) = &self.at_once else { return Ok(false) };
        let peeked = self.buffer.peek(self.shared.frame_limit()).map_err(CloseReason::Frame)?;
        // An answer that finds no room waits as a task does.
        let Some((header, body)) = peeked.filter(|_| answers.len() < OWN_BYTES) else { return Ok(false) };
        if header.kind != FrameKind::Request {
            return Ok(false);
        }
        let start = answers.len();
        answers.extend_from_slice(&[0; HEADER_BYTES]);
        let Some(work) = service.answer(body, answers) else {
            answers.truncate(start);
            return Ok(false);
        };
        if self.shared.is_serving(header.id) {
            return Err(CloseReason::Violation(Violation::RequestId));
        }
        let body_bytes = answers.len() - start - HEADER_BYTES;
        let answer = FrameHeader { body_bytes, kind: FrameKind::Answer, id: header.id }.encode();
        if let Some(place) = answers.get_mut(start..start + HEADER_BYTES) {
            place.copy_from_slice(&answer);
        }
        self.turn_work = self.turn_work.saturating_add(work);
        self.shared.note_asked();
        self.buffer.skip(header);
        Ok(true)
    }

    /// Reads once. A buffer exists only while there is something to read, so idle connections are small.
    fn poll_fill(&mut self, context: &mut Context<'_>, transport: &mut BoxTransport) -> Poll<io::Result<usize>> {
        let room = self.buffer.room(self.shared.frame_limit());
        let polled = pin!(transport.read_buf(room)).poll(context);
        if polled.is_pending() {
            self.buffer.rest();
        }
        polled
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
        match self.inbox.put(Inbound::Request(request)) {
            Ok(()) => Ok(()),
            Err(Refused::Gone) => Err(Violation::NotServing),
            // Requests alone never fill it.
            Err(Refused::Full) => Err(Violation::TooManyPushes),
        }
    }

    fn handle_push(&self, body: Bytes) -> Result<(), Violation> {
        if !self.shared.takes_members_frames() {
            return Err(Violation::TooManyPushes);
        }
        match self.inbox.put(Inbound::Push(body)) {
            Ok(()) | Err(Refused::Gone) => Ok(()),
            Err(Refused::Full) => Err(Violation::TooManyPushes),
        }
    }
}

/// The text of a goodbye, safe to show: short, without control characters.
fn reason_text(body: &[u8]) -> String {
    let cut = body.get(..REASON_BYTES).unwrap_or(body);
    String::from_utf8_lossy(cut).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
