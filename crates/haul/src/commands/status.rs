//! `haul status` and `haul peers`: how it stands here and in the network.

use std::time::Duration;

use haul_peer::api::records::{IndexState, PeerRecord, Presence, Record, StatusRecord};

use super::pass_on;
use crate::args::PeersArgs;
use crate::context::Context;
use crate::errors::Failure;
use crate::exit::Exit;
use crate::output::text::{Align, Table, count, escape, plural, rough, size};
use crate::output::{Format, Style, times};

/// Runs `haul status`. Exit code 3 when the index cannot be reached.
pub(crate) async fn run(context: &Context) -> Result<Exit, Failure> {
    let mut answer = context.daemon().await?.get("/v1/status").await?;
    let mut exit = Exit::DONE;
    while let Some(line) = answer.next().await? {
        pass_on(context, &line)?;
        let Some(Record::Status(status)) = &line.record else { continue };
        if status.network.is_some() && status.index.state != "connected" {
            exit = Exit::UNREACHABLE;
        }
        match context.output.format {
            Format::Json => {}
            Format::Plain => plain(context, status)?,
            Format::Human => {
                for line in lines(status) {
                    context.output.line(line)?;
                }
                problems(context, status)?;
            }
        }
    }
    Ok(exit)
}

fn lines(status: &StatusRecord) -> Vec<String> {
    let mut you = format!(
        "{}   {}, {}, {}",
        escape(&status.name),
        plural(status.shares, "share", "shares"),
        plural(status.files, "file", "files"),
        size(status.bytes),
    );
    let unhashed = status.files.saturating_sub(status.hashed);
    if unhashed > 0 {
        you.push_str(&format!("   hashing {}", plural(unhashed, "file", "files")));
    }
    vec![
        format!("index   {}", index(&status.index, status.network.is_some())),
        format!("you     {you}"),
        format!(
            "moving  down {}, {} waiting   up {}    since start ({} ago) down {}, up {}",
            status.downloads,
            status.waiting,
            status.uploads,
            rough(Duration::from_secs(status.uptime_s)),
            size(status.down_bytes),
            size(status.up_bytes),
        ),
    ]
}

/// The state of the link to the index, in a line.
pub(crate) fn index(index: &IndexState, is_member: bool) -> String {
    if !is_member && index.state != "connected" {
        return "none: this peer is in no network yet        join one: haul join TICKET".to_owned();
    }
    let mut parts =
        vec![index.addr.as_deref().map_or_else(|| "in this process".to_owned(), |addr| escape(addr).into())];
    if index.state == "connected" {
        if let Some(files) = index.files {
            parts.push(plural(files, "file", "files"));
        }
        if let (Some(online), Some(peers)) = (index.peers_online, index.peers) {
            parts.push(format!("{} of {} online", count(online), plural(peers, "peer", "peers")));
        }
    } else {
        parts.push(escape(&index.state).into_owned());
        let since = times::ago(index.since.as_deref());
        if !since.is_empty() && since != "now" {
            parts.push(format!("for {since}"));
        }
        parts.extend(index.reason.as_deref().map(|reason| escape(reason).into_owned()));
        parts.extend(index.next.as_deref().map(|next| escape(next).into_owned()));
    }
    parts.join("   ")
}

fn problems(context: &Context, status: &StatusRecord) -> Result<(), Failure> {
    for problem in &status.problems {
        let next = problem.next.as_ref().map(|next| format!("   {}", escape(next))).unwrap_or_default();
        let line = format!("! {}{next}", escape(&problem.message));
        context.output.line(context.output.paint(Style::Warning, &line))?;
    }
    Ok(())
}

/// One line for each value: name, value.
fn plain(context: &Context, status: &StatusRecord) -> Result<(), Failure> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let values = [
        ("version", status.version.clone()),
        ("pid", status.pid.to_string()),
        ("home", status.home.clone()),
        ("peer", status.peer.clone()),
        ("name", status.name.clone()),
        ("peer_addr", text(&status.peer_addr)),
        ("network", text(&status.network)),
        ("index_state", status.index.state.clone()),
        ("index_addr", text(&status.index.addr)),
        ("shares", status.shares.to_string()),
        ("files", status.files.to_string()),
        ("bytes", status.bytes.to_string()),
        ("hashed", status.hashed.to_string()),
        ("downloads", status.downloads.to_string()),
        ("uploads", status.uploads.to_string()),
        ("down_bytes", status.down_bytes.to_string()),
        ("up_bytes", status.up_bytes.to_string()),
    ];
    values.iter().try_for_each(|(name, value)| context.output.fields(&[name, value]))
}

/// Runs `haul peers`.
pub(crate) async fn peers(context: &Context, args: &PeersArgs) -> Result<Exit, Failure> {
    let mut answer = context.daemon().await?.get("/v1/peers").await?;
    let columns = [("NAME", Align::Left), ("STATE", Align::Left), ("FILES", Align::Right), ("SIZE", Align::Left)];
    let more = [("ADDRESS", Align::Left), ("SEEN", Align::Left), ("KEY", Align::Left)];
    let mut table = Table::new(&[&columns[..], &more].concat(), 0);
    while let Some(line) = answer.next().await? {
        if matches!(&line.record, Some(Record::Peer(peer)) if args.online && peer.state == Presence::Away) {
            continue;
        }
        pass_on(context, &line)?;
        let Some(Record::Peer(peer)) = &line.record else { continue };
        match context.output.format {
            Format::Json => {}
            Format::Plain => plain_peer(context, peer)?,
            Format::Human => table.row(peer_row(peer)),
        }
    }
    if context.output.is_human() {
        if table.is_empty() {
            context.output.remark("nobody is here        make a ticket for others: haul invite")?;
        } else {
            context.output.table(&table)?;
        }
    }
    Ok(Exit::DONE)
}

fn state(peer: &PeerRecord) -> &'static str {
    match peer.state {
        Presence::Online => "online",
        Presence::Away => "away",
    }
}

fn peer_row(peer: &PeerRecord) -> Vec<String> {
    let you = if peer.you { " (you)" } else { "" };
    vec![
        format!("{}{you}", escape(&peer.name)),
        state(peer).to_owned(),
        count(peer.files),
        size(peer.bytes),
        peer.addr.clone().unwrap_or_default(),
        times::ago(peer.seen.as_deref()),
        peer.peer.chars().take(11).collect(),
    ]
}

/// name, key, state, files, bytes, address, seen.
fn plain_peer(context: &Context, peer: &PeerRecord) -> Result<(), Failure> {
    let (files, bytes) = (peer.files.to_string(), peer.bytes.to_string());
    let addr = peer.addr.as_deref().unwrap_or_default();
    let seen = peer.seen.as_deref().unwrap_or_default();
    context.output.fields(&[&peer.name, &peer.peer, state(peer), &files, &bytes, addr, seen])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_out_of_reach_says_why_and_what_next() {
        let mut state =
            IndexState { state: "connecting".into(), addr: Some("lab:4477".into()), ..IndexState::default() };
        state.reason = Some("connection refused".into());
        state.next = Some("it tries again in 4 s".into());
        assert_eq!(index(&state, true), "lab:4477   connecting   connection refused   it tries again in 4 s");
        assert!(index(&IndexState::default(), false).contains("haul join"));
        (state.state, state.files) = ("connected".into(), Some(18_204_113));
        (state.peers_online, state.peers) = (Some(214), Some(231));
        assert_eq!(index(&state, true), "lab:4477   18,204,113 files   214 of 231 peers online");
    }
}
