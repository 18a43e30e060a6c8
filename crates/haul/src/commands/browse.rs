//! `haul browse`: what a peer shares.

use haul_peer::api::records::{ContentState, EntryRecord, Kind, Record};
use haul_peer::api::requests::BrowseRequest;

use super::pass_on;
use crate::args::BrowseArgs;
use crate::context::Context;
use crate::errors::Failure;
use crate::exit::Exit;
use crate::output::text::{Align, Table, escape, plural, short_id, size};
use crate::output::{Format, times};

/// Rows that are aligned with each other.
const ROWS_ALIGNED: usize = 1_000;

/// Runs it.
pub(crate) async fn run(context: &Context, args: &BrowseArgs) -> Result<Exit, Failure> {
    let (peer, path) = split_place(&args.place);
    let request = BrowseRequest { peer, path, recursive: args.recursive };
    let mut answer = context.daemon().await?.post("/v1/browse", &request).await?;
    let (mut table, mut rows) = (table(), 0_u64);
    while let Some(line) = answer.next().await? {
        pass_on(context, &line)?;
        let Some(Record::Entry(entry)) = line.record else { continue };
        match context.output.format {
            Format::Json => {}
            Format::Plain => plain(context, &entry)?,
            Format::Human => {
                table.row(row(&entry, args.recursive));
                rows += 1;
                if rows.is_multiple_of(ROWS_ALIGNED as u64) {
                    context.output.table(&std::mem::replace(&mut table, self::table()))?;
                }
            }
        }
    }
    if context.output.is_human() {
        if !table.is_empty() {
            context.output.table(&table)?;
        }
        context.output.remark(plural(rows, "entry", "entries"))?;
    }
    Ok(Exit::DONE)
}

/// `PEER:PATH` taken apart; the colon of `pk:` belongs to the key.
pub(crate) fn split_place(place: &str) -> (String, String) {
    let from = if place.starts_with("pk:") { 3 } else { 0 };
    match place[from..].find(':') {
        Some(colon) => {
            let (peer, path) = place.split_at(from + colon);
            (peer.to_owned(), path[1..].trim_matches('/').to_owned())
        }
        None => (place.to_owned(), String::new()),
    }
}

fn table() -> Table {
    let columns = [("NAME", Align::Left), ("SIZE", Align::Left), ("CHANGED", Align::Left), ("ID", Align::Left)];
    Table::new(&columns, 0)
}

fn row(entry: &EntryRecord, is_recursive: bool) -> Vec<String> {
    let mut name = escape(if is_recursive { &entry.path } else { &entry.name }).into_owned();
    match (entry.kind, &entry.target) {
        (Kind::Dir, _) => name.push('/'),
        (Kind::Link, Some(target)) => name.push_str(&format!(" -> {}", escape(target))),
        (Kind::File, _) if entry.executable => name.push('*'),
        _ => {}
    }
    let id = match (&entry.id, entry.state, entry.kind) {
        (Some(id), ..) => short_id(id).into_owned(),
        (None, ContentState::Hashing, Kind::File) => "hashing".to_owned(),
        _ => String::new(),
    };
    vec![name, entry.size.map(size).unwrap_or_default(), times::ago(entry.mtime.as_deref()), id]
}

/// kind, size, mtime, id, path.
fn plain(context: &Context, entry: &EntryRecord) -> Result<(), Failure> {
    context.output.fields(&[
        kind(entry.kind),
        &entry.size.map(|size| size.to_string()).unwrap_or_default(),
        entry.mtime.as_deref().unwrap_or_default(),
        entry.id.as_deref().unwrap_or_default(),
        &entry.path,
    ])
}

/// As records and plain lines name it.
pub(crate) fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Dir => "dir",
        Kind::Link => "link",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        assert_eq!(split_place("nas"), ("nas".into(), String::new()));
        assert_eq!(split_place("nas:archive/2024/"), ("nas".into(), "archive/2024".into()));
        assert_eq!(split_place("nas:a:b"), ("nas".into(), "a:b".into()));
        assert_eq!(split_place("pk:5f0c"), ("pk:5f0c".into(), String::new()));
        assert_eq!(split_place("pk:5f0c:docs/a"), ("pk:5f0c".into(), "docs/a".into()));
    }
}
