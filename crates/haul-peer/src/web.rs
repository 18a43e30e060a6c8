//! This peer's own pages, on loopback: search, shares, transfers. Rendered by the server, usable without scripts.
//!
//! Who opens them has a one-time link from the command line, which sets a cookie. Every request must name this address
//! as its Host and, when it changes something, as its Origin: pages of other sites that point a name of theirs at
//! 127.0.0.1 (DNS rebinding) get nothing.

mod rows;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use haul_web::{SECURITY_HEADERS, assets, peer_pages};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::logins::Logins;
use crate::api::requests::SearchRequest;
use crate::api::{Context, find, server};

/// Hits on one page.
const HITS: u64 = 50;
/// Browsers open six connections each; more than this wait in the kernel.
const CONNECTIONS: usize = 64;
const COOKIE: &str = "haul_session";

/// Pages that wait to be served.
pub struct Pages {
    listener: TcpListener,
    logins: Arc<Logins>,
}

/// Opens the port of the pages.
pub async fn bind(address: SocketAddr) -> io::Result<Pages> {
    let listener = TcpListener::bind(address).await?;
    let logins = Arc::new(Logins::new(listener.local_addr()?));
    Ok(Pages { listener, logins })
}

#[derive(Clone)]
struct Site {
    context: Arc<Context>,
    logins: Arc<Logins>,
}

impl Pages {
    /// Makes links to them.
    pub fn logins(&self) -> Arc<Logins> {
        self.logins.clone()
    }

    /// Serves until shutdown.
    pub async fn serve(self, context: Arc<Context>, shutdown: CancellationToken) {
        let router = router(context, self.logins.clone());
        let tasks = TaskTracker::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept(), if tasks.len() < CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        tasks.spawn(server::serve(stream, router.clone(), shutdown.clone()));
                    }
                    // Out of descriptors, or a connection that is gone again.
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
                },
                () = tokio::time::sleep(std::time::Duration::from_millis(50)), if tasks.len() >= CONNECTIONS => {}
            }
        }
        tasks.close();
        tasks.wait().await;
    }
}

/// All pages.
pub fn router(context: Arc<Context>, logins: Arc<Logins>) -> Router {
    let site = Site { context, logins };
    let mut open = Router::new().route("/login/{link}", get(login));
    for asset in assets::ALL {
        open = open
            .route(asset.path, get(move || async move { ([(header::CONTENT_TYPE, asset.media_type)], asset.bytes) }));
    }
    let own = Router::new()
        .route("/", get(search))
        .route("/shares", get(shares))
        .route("/transfers", get(transfers))
        .route("/transfers/{id}/{action}", post(change))
        .fallback(nothing)
        .layer(from_fn_with_state(site.clone(), known_browser));
    open.merge(own).layer(from_fn_with_state(site.clone(), this_site)).with_state(site)
}

/// Host and Origin, and the headers of every answer.
async fn this_site(State(site): State<Site>, request: Request, next: Next) -> Response {
    let address = site.logins.address();
    let mut response = if allowed(request.method().is_safe(), request.headers(), address) {
        next.run(request).await
    } else {
        (StatusCode::MISDIRECTED_REQUEST, "This address serves its own pages only.\n").into_response()
    };
    for (name, value) in SECURITY_HEADERS {
        // Forms of these pages go to these pages; the index has none.
        let value = value.replace("form-action 'none'", "form-action 'self'");
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(&value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whether a request is meant for these pages and comes from them.
fn allowed(reads_only: bool, headers: &HeaderMap, address: SocketAddr) -> bool {
    let port = address.port();
    let names =
        [address.to_string(), format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}")];
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST);
    if !host.is_some_and(|host| names.iter().any(|name| name == host))
        || headers.get_all(header::HOST).iter().count() != 1
    {
        return false;
    }
    match text(header::ORIGIN) {
        Some(origin) => origin.strip_prefix("http://") == host,
        None => reads_only,
    }
}

/// Only a browser with the cookie passes.
async fn known_browser(State(site): State<Site>, request: Request, next: Next) -> Response {
    let cookies = request.headers().get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    if pairs.any(|(name, value)| name == COOKIE && site.logins.knows(value)) {
        return next.run(request).await;
    }
    let page = peer_pages::notice(
        "Open with a link",
        "These pages belong to the owner of this peer. Ask it for a link; each works once, for a quarter of an hour.",
        Some("haul status"),
    );
    html(StatusCode::FORBIDDEN, page)
}

fn html(status: StatusCode, page: String) -> Response {
    (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}

async fn login(State(site): State<Site>, Path(link): Path<String>) -> Response {
    let Some(session) = site.logins.enter(&link) else {
        let text = "This link was used already or is too old. Ask for another one.";
        return html(StatusCode::GONE, peer_pages::notice("This link is over", text, Some("haul status")));
    };
    let cookie = format!("{COOKIE}={session}; HttpOnly; SameSite=Strict; Path=/; Max-Age=604800");
    ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response()
}

#[derive(Deserialize)]
struct SearchForm {
    #[serde(default)]
    q: String,
}

async fn search(State(site): State<Site>, Query(form): Query<SearchForm>) -> Response {
    if form.q.trim().is_empty() {
        return html(StatusCode::OK, peer_pages::search("", None, &[]));
    }
    let request = SearchRequest { query: form.q.clone(), limit: Some(HITS), ..SearchRequest::default() };
    let page = match find::search_page(&site.context, request).await {
        Ok((hits, summary)) => {
            let rows: Vec<peer_pages::FoundRow> = hits.iter().map(rows::found).collect();
            peer_pages::search(&form.q, Some(&rows::summary_words(&summary)), &rows)
        }
        Err(problem) => {
            let next = problem.next.map(|next| format!(" Next: {next}")).unwrap_or_default();
            peer_pages::search(&form.q, Some(&format!("{}.{next}", problem.message)), &[])
        }
    };
    html(StatusCode::OK, page)
}

async fn shares(State(site): State<Site>) -> Response {
    let listed = site.context.shares.as_ref().map(|shares| shares.list()).unwrap_or_default();
    let rows: Vec<peer_pages::ShareRow> =
        listed.iter().map(|share| rows::share(&crate::api::shares::record(share))).collect();
    html(StatusCode::OK, peer_pages::shares(&rows))
}

async fn transfers(State(site): State<Site>) -> Response {
    let rows: Vec<peer_pages::TransferRow> = site.context.transfers.list().iter().rev().map(rows::transfer).collect();
    html(StatusCode::OK, peer_pages::transfers(&rows))
}

async fn change(State(site): State<Site>, Path((id, action)): Path<(u64, String)>) -> Response {
    let done = match action.as_str() {
        "pause" => site.context.transfers.pause(id).await,
        "cancel" => site.context.transfers.cancel(id).await,
        "resume" => site.context.transfers.resume(id).await,
        "retry" => site.context.transfers.retry(id).await,
        _ => return nothing().await,
    };
    match done {
        Ok(()) => Redirect::to("/transfers").into_response(),
        Err(problem) => html(
            StatusCode::CONFLICT,
            peer_pages::notice("That did not work", &problem.message, problem.next.as_deref()),
        ),
    }
}

async fn nothing() -> Response {
    html(
        StatusCode::NOT_FOUND,
        peer_pages::notice("There is no such page", "Nothing is served under this address.", None),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers(host: &str, origin: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        headers
    }

    #[test]
    fn other_hosts_and_origins_get_nothing() {
        let address = "127.0.0.1:4479".parse().unwrap();
        let hosts = [
            ("127.0.0.1:4479", true),
            ("localhost:4479", true),
            ("[::1]:4479", true),
            ("127.0.0.1", false),
            ("127.0.0.1:80", false),
            ("localhost", false),
            ("evil.example", false),
            ("evil.example:4479", false),
            ("127.0.0.1.evil.example:4479", false),
            ("127.0.0.1:4479.evil.example", false),
            ("localhost.:4479", false),
            ("0.0.0.0:4479", false),
            ("", false),
        ];
        for (host, reading) in hosts {
            assert_eq!(allowed(true, &headers(host, None), address), reading, "{host}");
            assert!(!allowed(false, &headers(host, None), address), "no origin: {host}");
            let own = format!("http://{host}");
            assert_eq!(allowed(false, &headers(host, Some(&own)), address), reading, "{host}");
            for origin in ["null", "http://evil.example", "https://127.0.0.1:4479", "http://127.0.0.1:4480", ""] {
                assert!(!allowed(true, &headers(host, Some(origin)), address), "{host} from {origin}");
                assert!(!allowed(false, &headers(host, Some(origin)), address), "{host} from {origin}");
            }
        }
        assert!(!allowed(true, &HeaderMap::new(), address));
        let mut twice = headers("127.0.0.1:4479", None);
        twice.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert!(!allowed(true, &twice, address));
    }
}
