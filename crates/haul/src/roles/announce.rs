//! What a process that stays says first: one JSON line for scripts, or where it is and what to type next for people.

use haul_peer::api::records::{Ready, Record};

use crate::commands::quoted;
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

/// Announces a peer, with or without an index of its own.
pub(super) fn peer(context: &Context, ready: &Ready) -> Result<(), Failure> {
    if machine(context, ready)? {
        return Ok(());
    }
    let key = ready.peer.as_deref().map(short_id).unwrap_or_default();
    let place = ready.peer_addr.as_deref().unwrap_or("serves nobody");
    row(context, "peer", Some(format!("{place}  {key}")))?;
    match (&ready.network, &ready.index_addr) {
        (None, _) => context.output.line("! in no network yet        join one: haul join TICKET")?,
        (Some(_), Some(index)) => row(context, "index", Some(index.clone()))?,
        (Some(network), None) => row(context, "network", Some(short_id(network).into_owned()))?,
    }
    row(context, "web", ready.web.clone())?;
    invitation(context, ready)?;
    let here = here(context);
    context.output.line("")?;
    context.output.line("here, in another terminal:")?;
    for verb in ["search WORDS", "share add DIR", "status"] {
        context.output.line(format!("  {}", context.output.paint(Style::Bold, &format!("{here} {verb}"))))?;
    }
    context.output.line("")
}

/// Says once why the end takes a while.
pub(super) fn needed(context: &Context) -> impl FnMut() {
    let mut output = Some(&context.output).filter(|output| output.is_human() && !output.quiet);
    move || {
        if let Some(output) = output.take() {
            let most = haul_core::limits::LEAVING_PATIENCE.as_secs();
            output.note(format!("others copy what only this peer has: {most} s at most; once more to end now"));
        }
    }
}

/// How this haul is called from another terminal: the program as it was started, with its home.
fn here(context: &Context) -> String {
    let program = std::env::args().next().filter(|program| program.contains('/')).unwrap_or_else(|| "haul".to_owned());
    match &context.global.home {
        Some(home) => format!("HAUL_HOME={} {}", quoted(&home.display().to_string()), quoted(&program)),
        None => quoted(&program),
    }
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
