//! Serves the interface: on a unix socket to the same user alone, or over any stream in memory.

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::codes::ErrorCode;
use super::problem::Problem;
use super::router::refusing;

/// Largest request body: a query, a path or a ticket.
pub const BODY_BYTES: usize = 64 * 1024;
/// Connections at once. Each has a few kilobytes until it asks for something.
const CONNECTIONS: usize = 256;

/// Accepts until shutdown, then waits for the operations under way to end.
pub async fn accept(listener: UnixListener, router: Router, shutdown: CancellationToken) {
    let me = rustix::process::geteuid().as_raw();
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if tasks.len() < CONNECTIONS => accepted,
            () = tokio::time::sleep(std::time::Duration::from_millis(20)), if tasks.len() >= CONNECTIONS => continue,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let router = if same_user(&stream, me) { router.clone() } else { refusing(other_user()) };
                tasks.spawn(serve(stream, router, shutdown.clone()));
            }
            Err(error) => {
                // Out of descriptors or a connection that is gone again: the next may work.
                warn!(%error, "a connection to the socket was not accepted");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
    tasks.close();
    tasks.wait().await;
}

fn same_user(stream: &UnixStream, me: u32) -> bool {
    stream.peer_cred().is_ok_and(|credentials| credentials.uid() == me)
}

fn other_user() -> Problem {
    Problem::new(ErrorCode::OtherUser, "this daemon belongs to another user and writes files only as that user")
        .next("start your own: haul up")
}

/// Serves one stream until it ends. At shutdown, operations have a moment to say so and end.
pub async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    shutdown: CancellationToken,
) {
    let router = router.layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES));
    let service = TowerToHyperService::new(router);
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(std::time::Duration::from_secs(2), connection).await {
                Ok(ended) => ended,
                Err(_) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection to the interface broke");
    }
}
