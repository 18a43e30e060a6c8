//! What the other side asks: its requests and pushes, and how they are answered.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use haul_core::limits::{FRAME_BYTES, FRAME_HEADER_BYTES};
use haul_core::wire::frame::FrameKind;
use haul_core::wire::{self, DecodeError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::SemaphorePermit;

use super::output::OutputFrame;
use super::queue::Taker;
use super::shared::{Served, data_cost};
use super::turns::Place;
use super::{Connection, SendError};

/// Something that the other side sent on its own.
#[derive(Debug)]
pub enum Inbound {
    /// It wants an answer.
    Request(InboundRequest),
    /// It wants none: the bytes of a message.
    Push(Bytes),
}

/// Requests and pushes of the other side, in the order in which they came. Once it is dropped, pushes are ignored and a
/// request closes the connection: this side serves none.
#[derive(Debug)]
pub struct Inbox {
    receiver: Taker,
    /// Keeps the connection open.
    connection: Connection,
}

impl Inbox {
    pub(super) fn new(receiver: Taker, connection: Connection) -> Self {
        Self { receiver, connection }
    }

    /// The next one; none once the connection has ended. May be dropped and called again.
    pub async fn next(&mut self) -> Option<Inbound> {
        self.receiver.next().await
    }

    /// The connection that this belongs to.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// A request that waits for an answer. Dropping it tells the other side that there will be none.
#[derive(Debug)]
pub struct InboundRequest {
    reply: Reply,
    body: Bytes,
}

impl InboundRequest {
    pub(super) fn new(connection: Connection, id: u32, served: Arc<Served>, body: Bytes) -> Self {
        Self { reply: Reply { connection, id, served, kind: FrameKind::Answer, lane: 0 }, body }
    }

    /// Reads the request's message.
    pub fn decode<Q: DeserializeOwned>(&self) -> Result<Q, DecodeError> {
        wire::decode(&self.body)
    }

    /// The request's bytes.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The connection that it came on.
    pub fn connection(&self) -> &Connection {
        &self.reply.connection
    }

    /// Queues the answer, once there is room.
    pub async fn answer<A: Serialize>(self, answer: &A) -> Result<(), SendError> {
        self.reply.last(answer).await
    }

    /// Answers by a stream.
    pub fn into_stream(mut self) -> StreamSender {
        self.reply.kind = FrameKind::End;
        StreamSender { reply: self.reply }
    }
}

/// The sending end of a stream. Dropping it without [`StreamSender::end`] fails the receiver.
#[derive(Debug)]
pub struct StreamSender {
    reply: Reply,
}

impl StreamSender {
    /// Queues data, once the receiver has given credit for it and there is room. At most [`FRAME_BYTES`] less 13.
    pub async fn send(&self, index: u64, bytes: Bytes) -> Result<(), SendError> {
        self.send_all(vec![(index, bytes)]).await
    }

    /// The same for several parts in their order, with room for as many at once as there is; an error may come behind some.
    pub async fn send_all(&self, parts: Vec<(u64, Bytes)>) -> Result<(), SendError> {
        let Reply { connection, id, served, .. } = &self.reply;
        let shared = connection.shared();
        parts.iter().try_for_each(|(_, part)| check_size(size_of::<u64>() + part.len()))?;
        let mut parts = VecDeque::from(parts);
        while let Some((_, first)) = parts.front() {
            let mut credit = match served.credit.acquire_many(data_cost(first.len()) as u32).await {
                Ok(credit) => credit,
                Err(_) if served.is_cancelled() => return Err(SendError::Cancelled),
                Err(_) => return Err(shared.send_error()),
            };
            let paid = 1 + parts.iter().skip(1).take_while(|(_, part)| pay_for(part, served, &mut credit)).count();
            let sizes = parts.iter().take(paid).map(|(_, part)| part.len());
            let mut space = tokio::select! {
                biased;
                () = served.cancelled() => return Err(SendError::Cancelled),
                space = shared.output.reserve_bulk(self.reply.place(), sizes) => space.map_err(|_| shared.send_error())?,
            };
            for _ in 0..paid {
                let Some(room) = parts.front().and_then(|(_, part)| space.split(part.len())) else { break };
                let Some((index, bytes)) = parts.pop_front() else { break };
                if let Some(paid) = credit.split(data_cost(bytes.len())) {
                    paid.forget();
                }
                shared.output.push_bulk(OutputFrame::data(*id, index, bytes), room);
            }
        }
        Ok(())
    }

    /// What it is a part of, 0 if nothing else is said. Of streams of the same lane the one that was asked for first is
    /// served first; lanes take turns.
    pub fn set_lane(&mut self, lane: u64) {
        self.reply.lane = lane;
    }

    /// Ends the stream with a message, which stays behind the data.
    pub async fn end<A: Serialize>(self, answer: &A) -> Result<(), SendError> {
        self.reply.last(answer).await
    }

    /// Whether the receiver wants no more; only the end is left to send.
    pub fn is_cancelled(&self) -> bool {
        self.reply.served.is_cancelled()
    }

    /// The connection that it goes over.
    pub fn connection(&self) -> &Connection {
        &self.reply.connection
    }
}

/// Takes credit for one more part, if there is some now.
fn pay_for<'a>(part: &Bytes, served: &'a Served, credit: &mut SemaphorePermit<'a>) -> bool {
    let more = served.credit.try_acquire_many(data_cost(part.len()) as u32);
    more.map(|more| credit.merge(more)).is_ok()
}

/// The duty to send one last frame for a request.
struct Reply {
    connection: Connection,
    id: u32,
    served: Arc<Served>,
    /// Answer, or end of a stream; anything else once it is sent.
    kind: FrameKind,
    lane: u64,
}

/// Marks a reply as done.
const SENT: FrameKind = FrameKind::Goodbye;

impl Reply {
    fn place(&self) -> Place {
        Place { lane: self.lane, age: self.served.age }
    }

    async fn last<A: Serialize>(mut self, answer: &A) -> Result<(), SendError> {
        let body = Bytes::from(wire::encode(answer));
        check_size(body.len())?;
        let connection = self.connection.clone();
        let shared = connection.shared();
        let bulk = self.kind == FrameKind::End;
        if self.served.is_cancelled() {
            // Nobody waits for it, and it waits for nobody.
            let frame = OutputFrame::new(std::mem::replace(&mut self.kind, SENT), self.id, body);
            shared.remove_serving(self.id);
            shared.output.control(frame, bulk);
            return Ok(());
        }
        let space = if bulk {
            shared.output.reserve_bulk(self.place(), std::iter::once(body.len())).await
        } else {
            shared.output.reserve_message(body.len()).await
        };
        let space = space.map_err(|_| shared.send_error())?;
        let frame = OutputFrame::new(std::mem::replace(&mut self.kind, SENT), self.id, body);
        shared.remove_serving(self.id);
        if bulk {
            shared.output.push_bulk(frame, space);
        } else {
            shared.output.push_message(frame, space);
        }
        Ok(())
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.kind != SENT {
            let shared = self.connection.shared();
            shared.remove_serving(self.id);
            shared.output.control(OutputFrame::new(self.kind, self.id, Bytes::new()), self.kind == FrameKind::End);
        }
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply").field("id", &self.id).field("connection", &self.connection).finish_non_exhaustive()
    }
}

/// Frames that the other side would refuse are not sent.
pub(super) fn check_size(body_bytes: usize) -> Result<(), SendError> {
    if body_bytes + FRAME_HEADER_BYTES > FRAME_BYTES {
        return Err(SendError::TooLarge { bytes: body_bytes });
    }
    Ok(())
}
