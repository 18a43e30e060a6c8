//! Shares of this peer: list, add, remove, rescan.

use std::path::PathBuf;
use std::sync::Arc;

use haul_core::wire::Label;

use super::codes::ErrorCode;
use super::context::Context;
use super::problem::Problem;
use super::records::{ChangedRecord, Record, ShareActivity, ShareRecord};
use super::requests::AddShareRequest;
use super::stream::Records;
use crate::share::{NewShare, ShareState, ShareStatus, Shares};

/// A share as a record.
pub fn record(status: &ShareStatus) -> ShareRecord {
    let (state, reason, next) = match status.state {
        ShareState::Ready => (ShareActivity::Ready, None, None),
        ShareState::Scanning => (ShareActivity::Scanning, Some("its folders are being read"), None),
        ShareState::Hashing => (ShareActivity::Hashing, Some("its files are being hashed"), None),
        ShareState::Registering => (ShareActivity::Hashing, Some("the index does not have all of it yet"), None),
        ShareState::Away => (
            ShareActivity::Away,
            Some("its folder is not there"),
            Some(format!("bring it back, or: haul share rm {}", status.name)),
        ),
    };
    ShareRecord {
        name: status.name.to_string(),
        path: status.path.display().to_string(),
        files: status.files,
        bytes: status.bytes,
        hashed: status.hashed,
        skipped: status.skipped,
        registered: status.registered,
        state,
        reason: status.reason.clone().or(reason.map(str::to_owned)),
        next,
    }
}

/// Lists the shares.
pub async fn list(context: &Context, records: &Records) -> Result<(), Problem> {
    for status in context.shares()?.list() {
        records.send(Record::Share(record(&status))).await?;
    }
    Ok(())
}

/// Adds a folder or file.
pub async fn add(context: &Context, request: AddShareRequest, records: &Records) -> Result<(), Problem> {
    let shares = context.shares()?.clone();
    let path = PathBuf::from(&request.path);
    if !path.is_absolute() {
        return Err(Problem::new(ErrorCode::Usage, format!("the path {} is not absolute", request.path)));
    }
    let name = request.name.as_deref().map(label).transpose()?;
    let groups = request.groups.iter().map(|group| label(group)).collect::<Result<_, _>>()?;
    let new = NewShare { name, groups, sure: request.force, ..NewShare::new(path) };
    let status = blocking(shares, move |shares| shares.add(new)).await??;
    records.send(Record::Share(record(&status))).await?;
    Ok(())
}

/// Takes a share away.
pub async fn remove(context: &Context, name: String, records: &Records) -> Result<(), Problem> {
    let wanted = label(&name)?;
    blocking(context.shares()?.clone(), move |shares| shares.remove(&wanted)).await??;
    let message = format!("{name} is not shared any more; its files stay where they are");
    changed(records, "share-removed", name, message).await
}

/// Reads a share's folders again.
pub async fn rescan(context: &Context, name: String, records: &Records) -> Result<(), Problem> {
    let wanted = label(&name)?;
    blocking(context.shares()?.clone(), move |shares| shares.rescan(&wanted)).await??;
    let message = format!("{name} is being read again");
    changed(records, "rescanning", name, message).await
}

pub(super) async fn changed(records: &Records, what: &str, subject: String, message: String) -> Result<(), Problem> {
    records.send(Record::Changed(ChangedRecord { what: what.into(), subject, message, next: None })).await?;
    Ok(())
}

fn label(text: &str) -> Result<Label, Problem> {
    Label::new(text).map_err(|error| Problem::new(ErrorCode::Usage, format!("{text} cannot be a name: {error}")))
}

async fn blocking<T: Send + 'static>(
    shares: Arc<Shares>,
    work: impl FnOnce(&Shares) -> T + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(move || work(&shares))
        .await
        .map_err(|error| Problem::new(ErrorCode::Internal, format!("the change was not made: {error}")))
}
