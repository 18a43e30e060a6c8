//! `haul transfers`: downloads under way, waiting and done.

mod explain;

use haul_peer::api::records::{Record, TransferRecord, TransferState};

use super::pass_on;
use super::shares::show_changes;
use crate::args::{TransferCommand, TransferRef, TransfersArgs};
use crate::client::encode;
use crate::context::Context;
use crate::errors::Failure;
use crate::exit::Exit;
use crate::output::text::{Align, Table, escape, rate, size};
use crate::output::{Format, Style};

/// Runs it.
pub(crate) async fn run(context: &Context, args: &TransfersArgs) -> Result<Exit, Failure> {
    if let Some(id) = &args.explain {
        return explain::run(context, Some(id.as_str()).filter(|id| !id.is_empty())).await;
    }
    match &args.command {
        Some(TransferCommand::Explain(args)) => explain::run(context, args.id.as_deref()).await,
        None | Some(TransferCommand::List) => list(context).await,
        Some(TransferCommand::Pause(transfer)) => order(context, transfer, "pause").await,
        Some(TransferCommand::Resume(transfer)) => order(context, transfer, "resume").await,
        Some(TransferCommand::Cancel(transfer)) => order(context, transfer, "cancel").await,
        Some(TransferCommand::Retry(transfer)) => order(context, transfer, "retry").await,
    }
}

async fn order(context: &Context, transfer: &TransferRef, verb: &str) -> Result<Exit, Failure> {
    let path = format!("/v1/transfers/{}/{verb}", encode(&transfer.id));
    show_changes(context, context.daemon().await?.order(&path).await?).await
}

async fn list(context: &Context) -> Result<Exit, Failure> {
    let columns = [("ID", Align::Right), ("STATE", Align::Left), ("DONE", Align::Right), ("SIZE", Align::Left)];
    let more = [("RATE", Align::Left), ("TO", Align::Left)];
    let mut table = Table::new(&[&columns[..], &more].concat(), 5);
    let mut reasons = Vec::new();
    let mut answer = context.daemon().await?.get("/v1/transfers").await?;
    while let Some(line) = answer.next().await? {
        pass_on(context, &line)?;
        let Some(Record::Transfer(transfer)) = &line.record else { continue };
        match context.output.format {
            Format::Json => {}
            Format::Plain => plain(context, transfer)?,
            Format::Human => {
                table.row(row(transfer));
                reasons.extend(reason(transfer));
            }
        }
    }
    if context.output.is_human() {
        if table.is_empty() {
            context.output.remark("no transfers")?;
        } else {
            context.output.table(&table)?;
        }
        for reason in reasons {
            context.output.remark(context.output.paint(Style::Warning, &reason))?;
        }
    }
    Ok(Exit::DONE)
}

/// A state in one word.
pub(crate) fn state(state: TransferState) -> &'static str {
    match state {
        TransferState::Waiting => "waiting",
        TransferState::Running => "running",
        TransferState::Paused => "paused",
        TransferState::Done => "done",
        TransferState::Failed => "failed",
        TransferState::Canceled => "canceled",
    }
}

fn row(transfer: &TransferRecord) -> Vec<String> {
    let percent = transfer
        .total
        .filter(|total| *total > 0)
        .map(|total| format!("{} %", u128::from(transfer.done) * 100 / u128::from(total)));
    vec![
        transfer.transfer.to_string(),
        state(transfer.state).to_owned(),
        percent.unwrap_or_default(),
        transfer.total.map(size).unwrap_or_default(),
        if transfer.state == TransferState::Running { rate(transfer.bps) } else { String::new() },
        escape(&transfer.path).into_owned(),
    ]
}

fn reason(transfer: &TransferRecord) -> Option<String> {
    let reason = transfer.reason.as_ref()?;
    let next = transfer.next.as_ref().map(|next| format!("        {}", escape(next))).unwrap_or_default();
    Some(format!("! {}: {}{next}", transfer.transfer, escape(reason)))
}

/// number, state, done, total, rate, id, path.
fn plain(context: &Context, transfer: &TransferRecord) -> Result<(), Failure> {
    context.output.fields(&[
        &transfer.transfer.to_string(),
        state(transfer.state),
        &transfer.done.to_string(),
        &transfer.total.map(|total| total.to_string()).unwrap_or_default(),
        &transfer.bps.to_string(),
        transfer.id.as_deref().unwrap_or_default(),
        &transfer.path,
    ])
}
