//! Limits of bandwidth: showing, setting and clearing them.

use haul_core::bandwidth::{Direction, Rule, When, parse_rate, rate_text};
use haul_core::ids::BlobId;
use haul_core::wire::Label;

use super::codes::ErrorCode;
use super::context::Context;
use super::problem::Problem;
use super::records::{ChangedRecord, LimitRecord, Record};
use super::requests::{ClearLimitRequest, LimitRequest};
use super::stream::Records;
use crate::bandwidth::{InForce, LimitError, Place};

/// `GET /v1/limits`.
pub(super) async fn list(context: &Context, records: &Records) -> Result<(), Problem> {
    for limit in context.bandwidth.list() {
        records.send(Record::Limit(record(&limit))).await?;
    }
    Ok(())
}

/// `POST /v1/limits`.
pub(super) async fn set(context: &Context, asked: LimitRequest, records: &Records) -> Result<(), Problem> {
    // Whoever has no shares is a single command, and its limits would end with it.
    context.shares()?;
    let direction = direction(asked.direction.as_deref())?;
    let rate = parse_rate(&asked.rate).map_err(wrong)?;
    let when: Option<When> = asked.when.as_deref().map(str::parse).transpose().map_err(wrong)?;
    let (place, blob) = place(context, asked.group.as_deref(), asked.transfer)?;
    if direction == Some(Direction::Up) && matches!(place, Place::Transfer(_)) && blob.is_none() {
        let message = format!("{} is a folder: what is sent of it cannot be told from the rest", named(&place));
        return Err(Problem::new(ErrorCode::Usage, message).next("limit everything that is sent: haul limit up RATE"));
    }
    context.bandwidth.set(place.clone(), blob, Rule { direction, when, rate }).await.map_err(not_set)?;
    let ways = direction.map_or_else(|| "up and down".to_owned(), |direction| direction.to_string());
    let hours = when.map(|when| format!(", {when} by this machine's clock")).unwrap_or_default();
    let limit = rate.map_or_else(|| "no limit".to_owned(), |_| rate_text(rate));
    let mut message = format!("{}, {ways}: {limit}{hours}", named(&place));
    for now in context.bandwidth.list().into_iter().filter(|limit| limit.place == place && limit.now != rate) {
        if direction.is_none_or(|direction| direction == now.direction) {
            message = format!("{message}; {} now: {}, by its hours", now.direction, rate_text(now.now));
        }
    }
    changed(records, &place, message).await
}

/// `POST /v1/limits/clear`.
pub(super) async fn clear(context: &Context, request: ClearLimitRequest, records: &Records) -> Result<(), Problem> {
    // Whoever has no shares is a single command, and its limits would end with it.
    context.shares()?;
    let direction = direction(request.direction.as_deref())?;
    let place = match (request.group, request.transfer) {
        // A transfer that is gone may still have a limit.
        (None, Some(id)) => Place::Transfer(id),
        (group, transfer) => place(context, group.as_deref(), transfer)?.0,
    };
    if !context.bandwidth.clear(&place, direction).await.map_err(not_set)? {
        return Err(Problem::new(
            ErrorCode::NoSuch,
            format!("{}: nothing was set here while haul runs", named(&place)),
        )
        .next("what is in force, and where it comes from: haul limit"));
    }
    let left: Vec<String> = context
        .bandwidth
        .list()
        .into_iter()
        .filter(|limit| limit.place == place && limit.now.is_some())
        .map(|limit| format!("{} {}", limit.direction, rate_text(limit.now)))
        .collect();
    let left = if left.is_empty() { "no limit now".to_owned() } else { format!("now {}", left.join(", ")) };
    changed(records, &place, format!("{}: cleared; {left}", named(&place))).await
}

async fn changed(records: &Records, place: &Place, message: String) -> Result<(), Problem> {
    let record = ChangedRecord { what: "limited".into(), subject: place.to_string(), message, next: None };
    records.send(Record::Changed(record)).await?;
    Ok(())
}

fn direction(text: Option<&str>) -> Result<Option<Direction>, Problem> {
    match text {
        None => Ok(None),
        Some("up") => Ok(Some(Direction::Up)),
        Some("down") => Ok(Some(Direction::Down)),
        Some(other) => Err(Problem::new(ErrorCode::Usage, format!("{other} is no direction: up or down"))),
    }
}

fn place(context: &Context, group: Option<&str>, transfer: Option<u64>) -> Result<(Place, Option<BlobId>), Problem> {
    match (group, transfer) {
        (None, None) => Ok((Place::All, None)),
        (Some("everyone"), None) => Err(Problem::new(ErrorCode::Usage, "the group everyone is everything")
            .next("limit everything: haul limit up RATE")),
        (Some(group), None) => {
            let label = Label::new(group)
                .map_err(|error| Problem::new(ErrorCode::Usage, format!("{group} is no name of a group: {error}")))?;
            Ok((Place::Group(label), None))
        }
        (None, Some(id)) => {
            let record = context.transfers.record(id).ok_or_else(|| {
                Problem::new(ErrorCode::NoSuch, format!("there is no transfer {id}")).next("haul transfers")
            })?;
            Ok((Place::Transfer(id), record.id.and_then(|id| id.parse().ok())))
        }
        (Some(_), Some(_)) => {
            Err(Problem::new(ErrorCode::Usage, "a limit is for a group or for a transfer, not for both"))
        }
    }
}

fn named(place: &Place) -> String {
    match place {
        Place::All => "everything".into(),
        Place::Group(group) => format!("group {group}"),
        Place::Transfer(id) => format!("transfer {id}"),
    }
}

fn wrong(error: haul_core::bandwidth::RuleError) -> Problem {
    Problem::new(ErrorCode::Usage, error.to_string()).next("haul limit --help")
}

fn not_set(error: LimitError) -> Problem {
    match error {
        LimitError::TooMany => Problem::new(ErrorCode::Usage, error.to_string()).next("haul limit clear"),
        LimitError::NotKept(_) => Problem::new(ErrorCode::Disk, error.to_string()),
    }
}

fn record(limit: &InForce) -> LimitRecord {
    let (group, transfer) = match &limit.place {
        Place::All => (None, None),
        Place::Group(group) => (Some(group.to_string()), None),
        Place::Transfer(id) => (None, Some(*id)),
    };
    LimitRecord {
        group,
        transfer,
        direction: limit.direction.to_string(),
        bps: limit.now,
        rules: limit.rules.iter().map(ToString::to_string).collect(),
        origin: if limit.set { "haul limit".into() } else { "configuration".into() },
    }
}
