//! What an index answers to a browser: a page that says what it is, its assets, and whether it is well. Nothing here
//! knows a member, a file or the store, so nothing of them can be shown to a stranger.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use haul_net::transport::BoxTransport;
use haul_web::assets::{self, Asset};
use haul_web::{SECURITY_HEADERS, pages};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Time for the head of a request, from its first byte or from the last answer.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// Life of one browser connection; pages are few and small, so nobody needs a longer one.
const CONNECTION_LIFE: Duration = Duration::from_mins(2);
/// Bytes of a request's head.
const HEADER_BYTES: usize = 16 * 1024;
/// No request has a body.
const BODY_BYTES: usize = 1024;
/// Browser connections at once; one over it is closed.
const CONNECTIONS: usize = 128;

/// Paths that a stranger may ask for; everything else is 404.
pub const PUBLIC_PATHS: [&str; 4] = ["/", "/healthz", assets::STYLE.path, assets::ICON.path];

/// Serves browsers.
#[derive(Clone, Debug)]
pub struct Web {
    router: Router,
    room: Arc<Semaphore>,
}

impl Default for Web {
    fn default() -> Self {
        Self { router: router(), room: Arc::new(Semaphore::new(CONNECTIONS)) }
    }
}

impl Web {
    /// Room for one more connection, if there is some.
    pub fn admit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.room).try_acquire_owned().ok()
    }

    /// Serves one connection until it ends, its time is over, or `stop`.
    pub async fn serve(
        self,
        transport: BoxTransport,
        addr: SocketAddr,
        room: OwnedSemaphorePermit,
        stop: CancellationToken,
    ) {
        let service = TowerToHyperService::new(self.router);
        let mut http = hyper::server::conn::http1::Builder::new();
        // Without a timer the deadline would be ignored.
        http.timer(TokioTimer::new()).header_read_timeout(HEADER_DEADLINE).max_buf_size(HEADER_BYTES);
        let connection = http.serve_connection::<_, TowerToHyperService<Router>>(TokioIo::new(transport), service);
        let served = async {
            tokio::select! {
                () = stop.cancelled() => Ok(Ok(())),
                served = timeout(CONNECTION_LIFE, connection) => served,
            }
        };
        if let Ok(Err(error)) = served.await {
            tracing::debug!(%addr, %error, "a browser connection failed");
        }
        drop(room);
    }
}

/// All routes.
pub fn router() -> Router {
    Router::new()
        .route("/", get(|| async { Html(pages::welcome()) }))
        .route("/healthz", get(|| async { "ok\n" }))
        .route(assets::STYLE.path, get(|| async { asset(assets::STYLE) }))
        .route(assets::ICON.path, get(|| async { asset(assets::ICON) }))
        .fallback(|| async { (StatusCode::NOT_FOUND, Html(pages::not_found())) })
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .layer(middleware::map_response(secure))
}

fn asset(asset: Asset) -> Response {
    let headers = [(header::CONTENT_TYPE, asset.media_type), (header::CACHE_CONTROL, "public, max-age=3600")];
    (headers, asset.bytes).into_response()
}

async fn secure(mut response: Response) -> Response {
    for (name, value) in SECURITY_HEADERS {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}
