//! What this side asks: requests, streams that answer them, pushes.

use std::sync::Arc;

use bytes::Bytes;
use haul_core::limits;
use haul_core::wire;
use haul_core::wire::frame::FrameKind;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};

use super::inbound::check_size;
use super::output::{OutputFrame, Refused};
use super::shared::{Expects, Shared, data_cost};
use super::{Connection, RequestError, SendError};

/// Consumed bytes that are given back as credit in one frame: a quarter of the window keeps the sender going and the
/// frames few.
const CREDIT_STEP: usize = limits::STREAM_WINDOW_BYTES as usize / 4;
/// Items that can wait in a stream: the frames that fit the window, and the end.
const STREAM_ITEMS: usize = (limits::STREAM_WINDOW_BYTES / limits::DATA_FRAME_COST) as usize + 1;

/// One part of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum StreamItem {
    /// Bulk bytes.
    Data {
        /// What they are: a leaf's number, say.
        index: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// The end: the bytes of a message. Nothing follows.
    End(Bytes),
}

/// The receiving end of a stream. Credit goes back to the sender as items are taken. Dropping it before the end cancels
/// the stream.
#[derive(Debug)]
pub struct StreamReceiver {
    connection: Connection,
    id: u32,
    items: mpsc::Receiver<StreamItem>,
    /// Consumed, not yet given back.
    owed: usize,
    ended: bool,
}

impl StreamReceiver {
    /// The next item; an error once the connection has ended, or behind the end. May be dropped and called again.
    pub async fn next(&mut self) -> Result<StreamItem, RequestError> {
        if self.ended {
            return Err(RequestError::Unanswered);
        }
        match self.items.recv().await {
            Some(StreamItem::Data { index, bytes }) => {
                self.take(bytes.len());
                Ok(StreamItem::Data { index, bytes })
            }
            Some(StreamItem::End(body)) => {
                self.ended = true;
                if body.is_empty() { Err(RequestError::Unanswered) } else { Ok(StreamItem::End(body)) }
            }
            None => {
                self.ended = true;
                Err(self.connection.shared().request_error())
            }
        }
    }

    /// The connection that it comes over.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    fn take(&mut self, bytes: usize) {
        self.owed += data_cost(bytes);
        if self.owed >= CREDIT_STEP {
            self.connection.shared().give_credit(self.id, std::mem::take(&mut self.owed) as u32);
        }
    }
}

impl Drop for StreamReceiver {
    fn drop(&mut self) {
        if !self.ended {
            self.connection.shared().cancel(self.id);
        }
    }
}

pub(super) async fn request<Q: Serialize, A: DeserializeOwned>(
    connection: &Connection,
    request: &Q,
) -> Result<A, RequestError> {
    let body = request_encoded(connection, Bytes::from(wire::encode(request))).await?;
    wire::decode(&body).map_err(RequestError::Decode)
}

/// See [`Connection::request_encoded`].
pub(super) async fn request_encoded(connection: &Connection, request: Bytes) -> Result<Bytes, RequestError> {
    let (sender, receiver) = oneshot::channel();
    send(connection.shared(), request, Expects::Answer(sender)).await?;
    let body = receiver.await.map_err(|_| connection.shared().request_error())?;
    if body.is_empty() { Err(RequestError::Unanswered) } else { Ok(body) }
}

pub(super) async fn open_stream<Q: Serialize>(
    connection: &Connection,
    request: &Q,
) -> Result<StreamReceiver, RequestError> {
    let (sender, items) = mpsc::channel(STREAM_ITEMS);
    let expects = Expects::Stream { items: sender, credit: limits::STREAM_WINDOW_BYTES as usize };
    let id = send(connection.shared(), Bytes::from(wire::encode(request)), expects).await?;
    Ok(StreamReceiver { connection: connection.clone(), id, items, owed: 0, ended: false })
}

pub(super) fn push<M: Serialize>(connection: &Connection, message: &M) -> Result<(), SendError> {
    let body = Bytes::from(wire::encode(message));
    check_size(body.len())?;
    let shared = connection.shared();
    shared.output.try_message(OutputFrame::new(FrameKind::Push, 0, body)).map_err(|refused| match refused {
        Refused::Closing => shared.send_error(),
        Refused::Full => SendError::Full,
    })
}

async fn send(shared: &Arc<Shared>, body: Bytes, expects: Expects) -> Result<u32, RequestError> {
    if check_size(body.len()).is_err() {
        return Err(RequestError::TooLarge { bytes: body.len() });
    }
    let permits = shared.request_permits(body.len()).await?;
    let space = shared.output.reserve_message(body.len()).await.map_err(|_| shared.request_error())?;
    let id = shared.add_pending(permits, expects)?;
    shared.output.push_message(OutputFrame::new(FrameKind::Request, id, body), space);
    Ok(id)
}
