//! The paths of the interface, each bound to its operation.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{delete, get, post};
use serde::de::DeserializeOwned;

use super::codes::ErrorCode;
use super::context::Context;
use super::problem::Problem;
use super::records::{ChangedRecord, Record};
use super::server::BODY_BYTES;
use super::stream::{framed_lines, lines};
use super::{browse, find, network, shares};

type Shared = State<Arc<Context>>;

/// All paths.
pub fn router(context: Arc<Context>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/activity", get(activity))
        .route("/v1/peers", get(peers))
        .route("/v1/network", get(network_state))
        .route("/v1/network/remove", post(remove_member))
        .route("/v1/search", post(search))
        .route("/v1/lookup", post(lookup))
        .route("/v1/watch", post(watch))
        .route("/v1/browse", post(browse_peer))
        .route("/v1/get", post(fetch))
        .route("/v1/cat", post(cat))
        .route("/v1/shares", get(list_shares).post(add_share))
        .route("/v1/shares/{name}", delete(remove_share))
        .route("/v1/shares/{name}/rescan", post(rescan_share))
        .route("/v1/invite", post(invite))
        .route("/v1/join", post(join))
        .route("/v1/leave", post(leave))
        .route("/v1/limits", get(list_limits).post(set_limit))
        .route("/v1/limits/clear", post(clear_limit))
        .route("/v1/transfers", get(transfers))
        .route("/v1/transfers/{id}/timeline", get(timeline))
        .route("/v1/transfers/{id}/{action}", post(change_transfer))
        .fallback(unknown)
        .layer(map_response(in_records))
        .with_state(context)
}

/// Answers everything with one problem.
pub fn refusing(problem: Problem) -> Router {
    Router::new().fallback(move || {
        let problem = problem.clone();
        async move { lines(|_| async move { Err(problem) }) }
    })
}

/// What axum refuses by itself, in the form of all other answers.
async fn in_records(response: Response) -> Response {
    let why = match response.status() {
        status if status.is_success() => return response,
        StatusCode::PAYLOAD_TOO_LARGE => format!("the request has more than {BODY_BYTES} bytes"),
        status => format!("the request is not understood: {status}"),
    };
    lines(|_| async move { Err(Problem::new(ErrorCode::Usage, why)) })
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Problem> {
    serde_json::from_slice(body)
        .map_err(|error| Problem::new(ErrorCode::Usage, format!("the request is not understood: {error}")))
}

/// Parses the body, then runs the operation.
macro_rules! operation {
    ($name:ident, $operation:path) => {
        async fn $name(State(context): Shared, body: Bytes) -> Response {
            lines(|records| async move { $operation(&context, parse(&body)?, &records).await })
        }
    };
}

/// Parses the body, then runs an operation that asks the index, and says so while the index lets it wait.
macro_rules! question {
    ($name:ident, $operation:path) => {
        async fn $name(State(context): Shared, body: Bytes) -> Response {
            lines(|records| async move {
                let answered = $operation(&context, parse(&body)?, &records);
                context.telling_of_waits(&records, answered).await
            })
        }
    };
}

/// Runs an operation that needs no body.
macro_rules! plain {
    ($name:ident, $operation:path) => {
        async fn $name(State(context): Shared) -> Response {
            lines(|records| async move { $operation(&context, &records).await })
        }
    };
}

question!(search, find::search);
question!(lookup, find::lookup);
operation!(watch, super::watch::watch);
question!(browse_peer, browse::browse);
question!(fetch, super::get::get);
operation!(add_share, shares::add);
operation!(set_limit, super::limits::set);
operation!(clear_limit, super::limits::clear);
plain!(list_limits, super::limits::list);
operation!(invite, network::invite);
operation!(join, network::join);
operation!(remove_member, network::remove);
plain!(status, network::status);
plain!(activity, network::activity);
plain!(peers, network::peers);
plain!(network_state, network::network);
plain!(leave, network::leave);
plain!(list_shares, shares::list);

async fn cat(State(context): Shared, body: Bytes) -> Response {
    framed_lines(|records| async move { super::get::cat(&context, parse(&body)?, &records).await })
}

async fn remove_share(State(context): Shared, Path(name): Path<String>) -> Response {
    lines(|records| async move { shares::remove(&context, name, &records).await })
}

async fn rescan_share(State(context): Shared, Path(name): Path<String>) -> Response {
    lines(|records| async move { shares::rescan(&context, name, &records).await })
}

async fn transfers(State(context): Shared) -> Response {
    lines(|records| async move {
        for transfer in context.transfers.list() {
            records.send(Record::Transfer(transfer)).await?;
        }
        Ok(())
    })
}

async fn timeline(State(context): Shared, Path(id): Path<u64>) -> Response {
    lines(|records| async move {
        for record in context.transfers.timeline(id)? {
            records.send(record).await?;
        }
        Ok(())
    })
}

async fn change_transfer(State(context): Shared, Path((id, action)): Path<(u64, String)>) -> Response {
    lines(|records| async move {
        let what = match action.as_str() {
            "pause" => context.transfers.pause(id).await.map(|()| "paused"),
            "cancel" => context.transfers.cancel(id).await.map(|()| "canceled"),
            "resume" => context.transfers.resume(id).await.map(|()| "resumed"),
            "retry" => context.transfers.retry(id).await.map(|()| "tried again"),
            _ => Err(Problem::new(ErrorCode::Usage, format!("{action} is nothing that a transfer can do"))
                .next("haul transfers pause|resume|cancel|retry ID")),
        }?;
        let next = match what {
            "paused" => Some(format!("go on: haul transfers resume {id}")),
            "canceled" => Some(format!("what arrived is kept for: haul transfers retry {id}")),
            _ => Some("watch it: haul top".into()),
        };
        let message = format!("transfer {id} is {what}");
        let record = ChangedRecord { what: what.into(), subject: id.to_string(), message, next };
        records.send(Record::Changed(record)).await?;
        Ok(())
    })
}

async fn unknown(method: Method, uri: Uri) -> Response {
    lines(|_| async move {
        Err(Problem::new(ErrorCode::Usage, format!("this daemon knows no {method} {}", uri.path()))
            .next("the command and the daemon may be of different versions: haul status"))
    })
}
