//! `haul limit`: limits of bandwidth, shown and set while the daemon runs.

use haul_core::bandwidth::rate_text;
use haul_peer::api::records::{LimitRecord, Record};
use haul_peer::api::requests::{ClearLimitRequest, LimitRequest};

use super::pass_on;
use super::shares::show_changes;
use crate::args::{LimitArgs, LimitClearArgs, LimitCommand, LimitOf, Way};
use crate::context::Context;
use crate::errors::Failure;
use crate::exit::Exit;
use crate::output::Format;
use crate::output::text::{Align, Table, escape};

/// Runs it.
pub(crate) async fn run(context: &Context, args: &LimitArgs) -> Result<Exit, Failure> {
    match (&args.command, &args.rate) {
        (Some(LimitCommand::Up(set)), _) => change(context, Some("up"), &set.rate, &set.of).await,
        (Some(LimitCommand::Down(set)), _) => change(context, Some("down"), &set.rate, &set.of).await,
        (Some(LimitCommand::Clear(args)), _) => clear(context, args).await,
        (None, Some(rate)) => change(context, None, rate, &args.of).await,
        (Some(LimitCommand::Show) | None, _) => show(context, &args.of).await,
    }
}

async fn change(context: &Context, direction: Option<&str>, rate: &str, of: &LimitOf) -> Result<Exit, Failure> {
    let request = LimitRequest {
        direction: direction.map(str::to_owned),
        rate: rate.to_owned(),
        when: of.when.clone(),
        group: of.group.clone(),
        transfer: of.transfer,
    };
    show_changes(context, context.daemon().await?.post("/v1/limits", &request).await?).await
}

async fn clear(context: &Context, args: &LimitClearArgs) -> Result<Exit, Failure> {
    let direction = args.way.map(|way| match way {
        Way::Up => "up".to_owned(),
        Way::Down => "down".to_owned(),
    });
    let request = ClearLimitRequest { direction, group: args.group.clone(), transfer: args.transfer };
    show_changes(context, context.daemon().await?.post("/v1/limits/clear", &request).await?).await
}

async fn show(context: &Context, of: &LimitOf) -> Result<Exit, Failure> {
    let columns = [("FOR", Align::Left), ("WAY", Align::Left), ("NOW", Align::Right)];
    let more = [("RULES", Align::Left), ("FROM", Align::Left)];
    let mut table = Table::new(&[&columns[..], &more].concat(), 3);
    let mut answer = context.daemon().await?.get("/v1/limits").await?;
    while let Some(line) = answer.next().await? {
        let Some(Record::Limit(limit)) = &line.record else {
            pass_on(context, &line)?;
            continue;
        };
        if (of.group.is_some() && of.group != limit.group) || (of.transfer.is_some() && of.transfer != limit.transfer) {
            continue;
        }
        pass_on(context, &line)?;
        match context.output.format {
            Format::Json => {}
            Format::Plain => context.output.fields(&fields(limit).each_ref().map(String::as_str))?,
            Format::Human => table.row(fields(limit)),
        }
    }
    if context.output.is_human() {
        if table.is_empty() {
            context.output.remark("no limits        set one: haul limit up 20M")?;
        } else {
            context.output.table(&table)?;
        }
    }
    Ok(Exit::DONE)
}

/// what for, direction, rate now, rules, origin.
fn fields(limit: &LimitRecord) -> [String; 5] {
    let place = match (&limit.group, limit.transfer) {
        (Some(group), _) => format!("group {}", escape(group)),
        (None, Some(transfer)) => format!("transfer {transfer}"),
        (None, None) => "everything".to_owned(),
    };
    [place, limit.direction.clone(), rate_text(limit.bps), limit.rules.join("; "), limit.origin.clone()]
}
