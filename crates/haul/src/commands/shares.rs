//! `haul share add|ls|rm|rescan`.

use std::io::IsTerminal;
use std::path::Path;

use haul_peer::api::codes::ErrorCode;
use haul_peer::api::records::{ChangedRecord, Record, ShareActivity, ShareRecord};
use haul_peer::api::requests::AddShareRequest;

use super::pass_on;
use crate::args::{ShareAddArgs, ShareCommand, ShareRef};
use crate::client::{Answer, Daemon, Received, encode};
use crate::context::Context;
use crate::errors::Failure;
use crate::exit::Exit;
use crate::output::text::{Align, Table, count, escape, plural, size};
use crate::output::{Format, Style};

/// Runs it.
pub(crate) async fn run(context: &Context, command: &ShareCommand) -> Result<Exit, Failure> {
    let daemon = context.daemon().await?;
    match command {
        ShareCommand::Add(args) => add(context, daemon, args).await,
        ShareCommand::Ls => list(context, daemon).await,
        ShareCommand::Rm(share) => {
            let path = format!("/v1/shares/{}", encode(&name(daemon, share).await?));
            show_changes(context, daemon.delete(&path).await?).await
        }
        ShareCommand::Rescan(share) => {
            let path = format!("/v1/shares/{}/rescan", encode(&name(daemon, share).await?));
            show_changes(context, daemon.order(&path).await?).await
        }
    }
}

/// Prints what an order did, one sentence each.
pub(crate) async fn show_changes(context: &Context, mut answer: Answer) -> Result<Exit, Failure> {
    while let Some(line) = answer.next().await? {
        pass_on(context, &line)?;
        match &line.record {
            Some(Record::Changed(change)) => show_change(context, change)?,
            Some(Record::Warning(notice)) if !context.output.is_json() => {
                context.output.note(format!("! {}", escape(&notice.message)));
            }
            Some(Record::Share(share)) if context.output.is_human() => {
                context.output.remark(format!("{} {}", context.output.paint(Style::Good, "✓"), sentence(share)))?;
            }
            _ => {}
        }
    }
    Ok(Exit::DONE)
}

fn show_change(context: &Context, change: &ChangedRecord) -> Result<(), Failure> {
    let output = &context.output;
    match output.format {
        Format::Json => Ok(()),
        Format::Plain => output.fields(&[&change.what, &change.subject]),
        Format::Human => {
            output.remark(format!("{} {}", output.paint(Style::Good, "✓"), escape(&change.message)))?;
            match &change.next {
                Some(next) => output.remark(format!("  {}", escape(next))),
                None => Ok(()),
            }
        }
    }
}

async fn add(context: &Context, daemon: &Daemon, args: &ShareAddArgs) -> Result<Exit, Failure> {
    if args.name.is_some() && args.paths.len() > 1 {
        return Err(Failure::new(ErrorCode::Usage, "one name cannot stand for several shares")
            .next("add them one by one: haul share add PATH --name NAME"));
    }
    for path in &args.paths {
        let mut request = add_request(path, args.yes)?;
        request.name.clone_from(&args.name);
        request.groups.clone_from(&args.groups);
        add_asking(context, daemon, request, &mut |line| show_added(context, line)).await?;
    }
    Ok(Exit::DONE)
}

/// The request for a path as typed; the daemon does not know from where.
pub(crate) fn add_request(path: &Path, force: bool) -> Result<AddShareRequest, Failure> {
    let absolute = std::fs::canonicalize(path).map_err(|error| {
        Failure::new(ErrorCode::BadShare, "this cannot be shared").about(path.display().to_string(), error)
    })?;
    let Some(path) = absolute.to_str() else {
        return Err(Failure::new(ErrorCode::BadShare, "the path of a share must be UTF-8; names below it need not")
            .about(absolute.display().to_string(), "is not"));
    };
    Ok(AddShareRequest { path: path.to_owned(), force, ..AddShareRequest::default() })
}

/// Adds a share; a wide folder only after its owner said yes.
pub(crate) async fn add_asking(
    context: &Context,
    daemon: &Daemon,
    mut request: AddShareRequest,
    show: &mut dyn FnMut(&Received) -> Result<(), Failure>,
) -> Result<(), Failure> {
    match add_one(daemon, &request, show).await {
        Err(failure) if !request.force && may_ask(context, &failure, Path::new(&request.path)) => {
            if !confirm(context, &failure)? {
                return Err(failure.told());
            }
            request.force = true;
            add_one(daemon, &request, show).await
        }
        other => other,
    }
}

async fn add_one(
    daemon: &Daemon,
    request: &AddShareRequest,
    show: &mut dyn FnMut(&Received) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut answer = daemon.post("/v1/shares", request).await?;
    while let Some(line) = answer.next().await? {
        show(&line)?;
    }
    Ok(())
}

/// Whether this is about a wide folder, and somebody is there to be asked.
fn may_ask(context: &Context, failure: &Failure, path: &Path) -> bool {
    let is_wide = std::fs::canonicalize(path)
        .is_ok_and(|path| path.parent().is_none() || std::env::home_dir().is_some_and(|home| home.starts_with(&path)));
    is_wide && failure.code() == ErrorCode::BadShare && context.output.is_human() && std::io::stdin().is_terminal()
}

fn confirm(context: &Context, failure: &Failure) -> Result<bool, Failure> {
    context.output.note(format!("{}\nshare it all the same? [y/N]", escape(&failure.record.message)));
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

fn show_added(context: &Context, line: &Received) -> Result<(), Failure> {
    pass_on(context, line)?;
    match &line.record {
        Some(Record::Share(share)) => match context.output.format {
            Format::Json => Ok(()),
            Format::Plain => plain(context, share),
            Format::Human => {
                context.output.remark(format!("{} {}", context.output.paint(Style::Good, "✓"), sentence(share)))
            }
        },
        Some(Record::Changed(change)) => show_change(context, change),
        Some(Record::Warning(notice)) if !context.output.is_json() => {
            context.output.note(format!("! {}", escape(&notice.message)));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// `data  /srv/data: 812,340 files, 9.1 TiB, hashing 14 %`.
pub(crate) fn sentence(share: &ShareRecord) -> String {
    let progress = match share.state {
        ShareActivity::Scanning => ", looking for files; names can be found at once: haul share ls".to_owned(),
        ShareActivity::Hashing => format!(", {}; names can be found at once: haul share ls", hashing(share)),
        ShareActivity::Away => ", away".to_owned(),
        ShareActivity::Ready => String::new(),
    };
    format!(
        "sharing {}  {}: {}, {}{progress}",
        escape(&share.name),
        escape(&share.path),
        plural(share.files, "file", "files"),
        size(share.bytes),
    )
}

fn hashing(share: &ShareRecord) -> String {
    if share.hashed < share.files {
        format!("{} of {} hashed", count(share.hashed), count(share.files))
    } else {
        format!("{} of {} registered", count(share.registered), count(share.files))
    }
}

async fn list(context: &Context, daemon: &Daemon) -> Result<Exit, Failure> {
    let columns = [("NAME", Align::Left), ("FILES", Align::Right), ("SIZE", Align::Left), ("STATE", Align::Left)];
    let mut table = Table::new(&[&columns[..], &[("FOLDER", Align::Left)]].concat(), 4);
    let mut answer = daemon.get("/v1/shares").await?;
    let mut hints = Vec::new();
    while let Some(line) = answer.next().await? {
        pass_on(context, &line)?;
        let Some(Record::Share(share)) = &line.record else { continue };
        match context.output.format {
            Format::Json => {}
            Format::Plain => plain(context, share)?,
            Format::Human => {
                table.row(row(share));
                hints.extend(hint(share));
            }
        }
    }
    if context.output.is_human() {
        if table.is_empty() {
            context.output.remark("nothing is shared yet        share a folder: haul share add DIR")?;
        } else {
            context.output.table(&table)?;
        }
        for hint in hints {
            context.output.remark(context.output.paint(Style::Warning, &hint))?;
        }
    }
    Ok(Exit::DONE)
}

fn row(share: &ShareRecord) -> Vec<String> {
    let state = match share.state {
        ShareActivity::Ready => "ready".to_owned(),
        ShareActivity::Scanning => "looking for files".to_owned(),
        ShareActivity::Hashing => hashing(share),
        ShareActivity::Away => "away".to_owned(),
    };
    let skipped = if share.skipped > 0 { format!(", {} skipped", count(share.skipped)) } else { String::new() };
    vec![
        escape(&share.name).into_owned(),
        count(share.files),
        size(share.bytes),
        state + &skipped,
        escape(&share.path).into_owned(),
    ]
}

fn hint(share: &ShareRecord) -> Option<String> {
    let reason = share.reason.as_ref()?;
    let next = share.next.as_ref().map(|next| format!("        {}", escape(next))).unwrap_or_default();
    Some(format!("! {}: {}{next}", escape(&share.name), escape(reason)))
}

/// name, path, files, bytes, hashed, registered, skipped, state.
fn plain(context: &Context, share: &ShareRecord) -> Result<(), Failure> {
    let numbers = [share.files, share.bytes, share.hashed, share.registered, share.skipped].map(|n| n.to_string());
    let [files, bytes, hashed, registered, skipped] = &numbers;
    let state = match share.state {
        ShareActivity::Ready => "ready",
        ShareActivity::Scanning => "scanning",
        ShareActivity::Hashing => "hashing",
        ShareActivity::Away => "away",
    };
    context.output.fields(&[&share.name, &share.path, files, bytes, hashed, registered, skipped, state])
}

/// The share's name; a path is looked for among the shares.
async fn name(daemon: &Daemon, share: &ShareRef) -> Result<String, Failure> {
    if !share.name.contains('/') && share.name != "." && share.name != ".." {
        return Ok(share.name.clone());
    }
    // A folder that is gone cannot be resolved, but its share can still be removed by the path as it was.
    let path = std::fs::canonicalize(&share.name).or_else(|_| std::path::absolute(&share.name))?;
    for line in daemon.get("/v1/shares").await?.all().await? {
        if let Some(Record::Share(known)) = line.record
            && Path::new(&known.path) == path
        {
            return Ok(known.name);
        }
    }
    Err(Failure::new(ErrorCode::NoSuch, "this folder is not shared")
        .about(path.display().to_string(), "is in no share of this peer")
        .next("see what is: haul share ls"))
}
