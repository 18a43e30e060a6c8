//! `haul invite|join|leave|network`: who belongs to the network.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use haul_peer::api::codes::ErrorCode;
use haul_peer::api::records::{NetworkRecord, Record, TicketRecord};
use haul_peer::api::requests::{InviteRequest, JoinRequest, RemoveRequest};

use super::pass_on;
use super::shares::show_changes;
use super::status::index;
use crate::args::{InviteArgs, JoinArgs, NetworkCommand, NetworkExportArgs, Role};
use crate::context::Context;
use crate::errors::Failure;
use crate::exit::Exit;
use crate::output::text::{escape, plural, size};
use crate::output::{Format, Style, times};
use crate::tickets;

/// Runs `haul invite`.
pub(crate) async fn invite(context: &Context, args: &InviteArgs) -> Result<Exit, Failure> {
    let role = match args.role {
        Role::Member => "member",
        Role::Guest => "guest",
        Role::Admin => "admin",
    };
    let ttl_s = args.ttl.map(|ttl| ttl.as_secs().max(1));
    let request = InviteRequest { uses: args.uses, ttl_s, role: Some(role.to_owned()), one_user: args.one_user };
    let mut answer = context.daemon().await?.post("/v1/invite", &request).await?;
    while let Some(line) = answer.next().await? {
        pass_on(context, &line)?;
        let Some(Record::Ticket(ticket)) = &line.record else { continue };
        match context.output.format {
            Format::Json => {}
            Format::Plain => context.output.line(&ticket.ticket)?,
            Format::Human => show_ticket(context, ticket)?,
        }
    }
    Ok(Exit::DONE)
}

/// The ticket alone on standard output, so that `$(haul invite)` works; what to do with it beside it.
fn show_ticket(context: &Context, ticket: &TicketRecord) -> Result<(), Failure> {
    context.output.line(&ticket.ticket)?;
    if !context.output.quiet {
        let uses = plural(u64::from(ticket.uses), "use", "uses");
        context.output.note(format!("  for {}s: {uses}, {}", ticket.role, times::until(&ticket.expires)));
        context.output.note(context.output.paint_err(Style::Dim, "  on the other machine: haul up --join TICKET"));
    }
    Ok(())
}

/// Runs `haul join`.
pub(crate) async fn join(context: &Context, args: &JoinArgs) -> Result<Exit, Failure> {
    let ticket = tickets::read(args.ticket.as_deref().unwrap_or_default())?;
    let daemon = context.daemon().await?;
    show_changes(context, daemon.post("/v1/join", &JoinRequest { ticket }).await?).await
}

/// Runs `haul leave`.
pub(crate) async fn leave(context: &Context) -> Result<Exit, Failure> {
    show_changes(context, context.daemon().await?.order("/v1/leave").await?).await
}

/// Runs `haul network …`.
pub(crate) async fn network(context: &Context, command: &NetworkCommand) -> Result<Exit, Failure> {
    match command {
        NetworkCommand::Show => show(context).await,
        NetworkCommand::Export(args) => export(context, args),
        NetworkCommand::Remove(args) => {
            let request = RemoveRequest { peer: args.peer.clone() };
            show_changes(context, context.daemon().await?.post("/v1/network/remove", &request).await?).await
        }
    }
}

async fn show(context: &Context) -> Result<Exit, Failure> {
    let mut answer = context.daemon().await?.get("/v1/network").await?;
    while let Some(line) = answer.next().await? {
        pass_on(context, &line)?;
        let Some(Record::Network(network)) = &line.record else { continue };
        let rows = rows(network);
        match context.output.format {
            Format::Json => {}
            Format::Plain => rows.iter().try_for_each(|(name, value)| context.output.fields(&[name, value]))?,
            Format::Human => {
                for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
                    context.output.line(format!("{name:<9} {}", escape(value)))?;
                }
            }
        }
    }
    Ok(Exit::DONE)
}

fn rows(network: &NetworkRecord) -> Vec<(&'static str, String)> {
    let contents = match (network.files, network.bytes) {
        (Some(files), Some(bytes)) => {
            // Not told to those who do not see every share.
            let blobs = network.blobs.map(|blobs| plural(blobs, "different content", "different contents"));
            let files = [plural(files, "file", "files"), format!("{} with all copies", size(bytes))];
            files.into_iter().chain(blobs).collect::<Vec<_>>().join(", ")
        }
        _ => String::new(),
    };
    let members = match (network.peers_online, network.peers) {
        (Some(online), Some(peers)) => format!("{}, {online} online", plural(peers, "peer", "peers")),
        _ => String::new(),
    };
    vec![
        ("network", network.network.clone().unwrap_or_default()),
        ("index", index(&network.index, network.network.is_some())),
        ("found at", network.addresses.join(", ")),
        ("you", format!("{}  {}", network.name, network.peer)),
        ("role", network.role.clone().unwrap_or_default()),
        ("groups", network.groups.join(", ")),
        ("members", members),
        ("contents", contents),
    ]
}

/// Copies the network's key. It never passes the daemon's interface or a terminal.
fn export(context: &Context, args: &NetworkExportArgs) -> Result<Exit, Failure> {
    let home = context.home()?;
    let source = home.state.join("index").join("network.key");
    let key = std::fs::read(&source).map_err(|error| {
        Failure::new(ErrorCode::NoSuch, "the network's key is not here: only the machine that made the network has it")
            .about(source.display().to_string(), error)
            .next("where the index runs: haul network export FILE")
    })?;
    if args.file == Path::new("-") {
        if std::io::stdout().is_terminal() {
            return Err(Failure::new(ErrorCode::Usage, "a key is not shown on a terminal")
                .next("write it to a file: haul network export FILE"));
        }
        context.output.bytes(&key)?;
        return Ok(Exit::DONE);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.file).map_err(|error| {
        let code = if error.kind() == std::io::ErrorKind::AlreadyExists { ErrorCode::Exists } else { ErrorCode::Disk };
        Failure::new(code, "the file for the key cannot be made").about(args.file.display().to_string(), error)
    })?;
    file.write_all(&key).and_then(|()| file.sync_all())?;
    context.output.remark(format!(
        "{} {}: whoever has this file can admit members; keep it as you keep your own keys",
        context.output.paint(Style::Good, "✓"),
        args.file.display(),
    ))?;
    Ok(Exit::DONE)
}
