//! What a process that stays says first: one JSON line for scripts, or where it is and what to type next for people.

use haul_peer::api::records::{Ready, Record};

use crate::context::Context;
use crate::errors::Failure;
use crate::output::text::short_id;
use crate::output::{Format, Style};

/// Announces an index.
pub(super) fn index(context: &Context, ready: &Ready) -> Result<(), Failure> {
    if machine(context, ready)? {
        return Ok(());
    }
    row(context, "network", ready.network.as_deref().map(|key| short_id(key).into_owned()))?;
    row(context, "index", ready.index_addr.clone())?;
    invitation(context, ready)
}

/// With `--json` the ready line, with `--plain` name and value on each line; says whether that was it.
pub(super) fn machine(context: &Context, ready: &Ready) -> Result<bool, Failure> {
    match context.output.format {
        Format::Json => context.output.line(Record::Ready(ready.clone()).to_line().trim_end())?,
        Format::Plain => {
            let values = [
                ("network", &ready.network),
                ("peer", &ready.peer),
                ("peer_addr", &ready.peer_addr),
                ("index", &ready.index),
                ("index_addr", &ready.index_addr),
                ("web", &ready.web),
                ("ticket", &ready.ticket),
            ];
            for (name, value) in values {
                context.output.fields(&[name, value.as_deref().unwrap_or_default()])?;
            }
        }
        Format::Human => return Ok(false),
    }
    Ok(true)
}

/// A checked-off line: what, and where.
pub(super) fn row(context: &Context, name: &str, value: Option<String>) -> Result<(), Failure> {
    match value {
        Some(value) => context.output.line(format!("{} {name:<9}{value}", context.output.paint(Style::Good, "✓"))),
        None => Ok(()),
    }
}

/// The ticket as part of what others type.
pub(super) fn invitation(context: &Context, ready: &Ready) -> Result<(), Failure> {
    let Some(ticket) = &ready.ticket else { return Ok(()) };
    context.output.line("")?;
    context.output.line("on another machine, to join (50 may, within 24 h):")?;
    context.output.line(format!("  {}", context.output.paint(Style::Bold, &format!("haul up --join {ticket}"))))
}
