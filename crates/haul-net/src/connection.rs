//! One connection: many requests at once, answers in any order, bulk streams that wait for credit, pushes.
//!
//! A connection is one task that reads and writes its transport; [`ConnectionSettings::tasks`] joins it. Reading and
//! writing share the task because TLS lets only one of them work at a time anyway. Whatever the other side sends, at
//! worst this connection closes, with a [`CloseReason`].

mod driver;
mod frames;
mod inbound;
mod outbound;
mod output;
mod queue;
mod reader;
mod shared;
#[cfg(test)]
mod tests;
mod turns;
mod writer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use haul_core::ids::PublicKey;
use haul_core::limits;
use haul_core::wire::DecodeError;
use haul_core::wire::frame::FrameError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::task::TaskTracker;

pub use inbound::{Inbound, InboundRequest, Inbox, StreamSender};
pub use outbound::{StreamItem, StreamReceiver};

use crate::transport::Transport;
use shared::Shared;

/// What a connection needs to know besides its transport.
#[derive(Clone, Debug)]
pub struct ConnectionSettings {
    /// Where the other side is, if it has an address.
    pub remote_addr: Option<SocketAddr>,
    /// Largest frame taken, in bytes; [`Connection::set_frame_limit`] raises it once the other side is a member. Below
    /// [`limits::FRAME_BYTES`], only [`limits::REQUESTS_BEFORE_MEMBERSHIP`] requests are taken at once, and no pushes.
    pub frame_limit: usize,
    /// Close if no request has come after this long; servers set it, dialers do not.
    pub first_request: Option<Duration>,
    /// Close if output has not moved for this long.
    pub output_stall: Duration,
    /// Joins the task of this connection.
    pub tasks: TaskTracker,
}

impl Default for ConnectionSettings {
    /// For a dialer: full frames, no deadline for requests.
    fn default() -> Self {
        Self {
            remote_addr: None,
            frame_limit: limits::FRAME_BYTES,
            first_request: None,
            output_stall: limits::OUTPUT_STALL,
            tasks: TaskTracker::new(),
        }
    }
}

impl ConnectionSettings {
    /// For a server whose other side has not shown its membership yet.
    pub fn server(remote_addr: Option<SocketAddr>) -> Self {
        Self {
            remote_addr,
            frame_limit: limits::FRAME_BYTES_BEFORE_MEMBERSHIP,
            first_request: Some(limits::FIRST_REQUEST_DEADLINE),
            ..Self::default()
        }
    }
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// This side closed it.
    #[error("closed here: {0}")]
    Local(String),
    /// This side dropped the last handle.
    #[error("nobody here uses the connection any more")]
    Unused,
    /// The other side closed it and said why.
    #[error("closed by the other side: {0}")]
    Remote(String),
    /// The other side went away without a word.
    #[error("the other side went away")]
    Vanished,
    /// The other side sent bytes that are no frame.
    #[error("the other side sent bytes that are not a frame: {0}")]
    Frame(FrameError),
    /// The other side broke a rule of frames.
    #[error("the other side broke a rule: {0}")]
    Violation(Violation),
    /// The other side sent no request in time.
    #[error("no request came in time")]
    Silent,
    /// The other side stopped reading.
    #[error("the other side stopped reading")]
    Stalled,
    /// The transport failed.
    #[error("the connection broke: {0}")]
    Broken(String),
}

/// A rule that the other side broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// More requests unanswered than allowed.
    #[error("too many requests at once")]
    TooManyRequests,
    /// More bytes of unanswered requests than allowed.
    #[error("too many bytes of requests at once")]
    TooManyRequestBytes,
    /// A request with the id of one that is still unanswered.
    #[error("two requests with one id")]
    RequestId,
    /// An answer, data or an end for a request that was never made or is already answered.
    #[error("an answer to no request")]
    UnknownRequest,
    /// Data for a request that asked for one answer.
    #[error("data where one answer was asked for")]
    UnexpectedData,
    /// Data over the credit.
    #[error("more data than credit")]
    OverCredit,
    /// More credit than a stream can have.
    #[error("more credit than allowed")]
    Credit,
    /// A frame whose body does not fit its kind.
    #[error("a frame with a body of the wrong length")]
    Body,
    /// A push or goodbye with an id.
    #[error("a frame with an id that should have none")]
    Id,
    /// More pushes than this side reads.
    #[error("too many messages unread")]
    TooManyPushes,
    /// A request to a side that serves none.
    #[error("requests are not served here")]
    NotServing,
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The connection ended first.
    #[error("{0}")]
    Closed(CloseReason),
    /// The request does not fit into a frame.
    #[error("the request has {bytes} bytes, more than a frame holds")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
    },
    /// The answer is not what was expected.
    #[error("the answer is not understood: {0}")]
    Decode(DecodeError),
    /// The other side dropped the request without an answer.
    #[error("the other side dropped the request without an answer")]
    Unanswered,
}

/// Why an answer, a push or stream data was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The connection ended.
    #[error("{0}")]
    Closed(CloseReason),
    /// It does not fit into a frame.
    #[error("the message has {bytes} bytes, more than a frame holds")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
    },
    /// The receiver wants no more of this stream.
    #[error("the receiver cancelled the stream")]
    Cancelled,
    /// So much is waiting to be written that a message that cannot wait does not fit.
    #[error("the other side reads too slowly")]
    Full,
}

/// Answers requests on the connection's own task: no queue, no wake-up and no other task in between.
pub trait AnswerAtOnce: Send + Sync {
    /// Appends the bytes of the answer's message, which must fit into a frame, and tells roughly how many microseconds
    /// of work it was. None leaves the request to the inbox, and whatever was appended does not count.
    fn answer(&self, request: &[u8], answer: &mut Vec<u8>) -> Option<u32>;
}

/// What went over a connection so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames received.
    pub frames_in: u64,
    /// Frames sent.
    pub frames_out: u64,
    /// Bytes received, as seen above TLS.
    pub bytes_in: u64,
    /// Bytes sent, as seen above TLS.
    pub bytes_out: u64,
    /// How often the transport began to keep something waiting that it did not take at once, and how often all was taken
    /// after that: odd while something waits.
    pub blocks: u64,
}

impl Traffic {
    /// Whether something waits now until the transport takes it.
    pub fn is_blocked(&self) -> bool {
        self.blocks % 2 == 1
    }

    /// Whether something has been waiting at every moment since `earlier`, however much was taken meanwhile.
    pub fn was_blocked_since(&self, earlier: &Self) -> bool {
        self.is_blocked() && self.blocks == earlier.blocks
    }
}

/// A handle on a connection. Clones are cheap; the connection closes when the last handle is gone, including the inbox
/// and requests that wait for their answer.
#[derive(Clone)]
pub struct Connection {
    handle: Arc<Handle>,
}

/// Closes the connection when the last user drops it.
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close(CloseReason::Unused);
    }
}

impl Connection {
    /// Starts the connection's task on a transport whose other end has proved to hold `remote`.
    pub fn start(transport: impl Transport, remote: PublicKey, settings: ConnectionSettings) -> (Self, Inbox) {
        let (sender, receiver) = queue::queue();
        let tasks = settings.tasks.clone();
        let shared = Arc::new(Shared::new(remote, settings));
        let connection = Self { handle: Arc::new(Handle { shared: Arc::clone(&shared) }) };
        let inbox = Inbox::new(receiver, connection.clone());
        tasks.spawn(driver::drive(Box::new(transport), shared, sender, Arc::downgrade(&connection.handle)));
        (connection, inbox)
    }

    /// Sends a request and waits for its answer. Waits also while [`limits::REQUESTS_IN_FLIGHT`] requests are
    /// unanswered. There is no deadline here; dropping the future forgets the request.
    pub async fn request<Q: Serialize, A: DeserializeOwned>(&self, request: &Q) -> Result<A, RequestError> {
        outbound::request(self, request).await
    }

    /// The same for a message that is encoded already; gives the bytes of the answer. For whoever sends one message many
    /// times.
    pub async fn request_encoded(&self, request: Bytes) -> Result<Bytes, RequestError> {
        outbound::request_encoded(self, request).await
    }

    /// Sends a request that is answered by a stream.
    pub async fn open_stream<Q: Serialize>(&self, request: &Q) -> Result<StreamReceiver, RequestError> {
        outbound::open_stream(self, request).await
    }

    /// Queues a message that wants no answer. It never waits: while too much is unwritten, it is refused.
    pub fn push<M: Serialize>(&self, message: &M) -> Result<(), SendError> {
        outbound::push(self, message)
    }

    /// From now on, requests that `service` answers at once do not go through the inbox. The service is dropped when the
    /// connection ends; it must not hold this connection, or it would keep it open.
    pub fn answer_at_once(&self, service: Arc<dyn AnswerAtOnce>) {
        self.shared().set_at_once(service);
    }

    /// The key that the other side proved to hold.
    pub fn remote(&self) -> PublicKey {
        self.shared().remote
    }

    /// Where the other side is, if it has an address.
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.shared().settings.remote_addr
    }

    /// Sets the largest frame taken, in bytes.
    pub fn set_frame_limit(&self, bytes: usize) {
        self.shared().set_frame_limit(bytes);
    }

    /// Closes: what is queued is still written, then the reason, as far as the other side takes it at once.
    pub fn close(&self, reason: impl Into<String>) {
        self.shared().close(CloseReason::Local(reason.into()));
    }

    /// Waits until the connection has ended and its transport is gone.
    pub async fn closed(&self) -> CloseReason {
        self.shared().finished().await
    }

    /// Why the connection ended or is ending, if it is.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.shared().close_reason()
    }

    /// What went over it so far.
    pub fn traffic(&self) -> Traffic {
        self.shared().traffic()
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("remote", &self.remote())
            .field("remote_addr", &self.remote_addr())
            .finish_non_exhaustive()
    }
}
