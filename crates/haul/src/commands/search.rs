//! `haul search`: files and folders by words of their names.

use std::time::Duration;

use haul_peer::api::records::{ContentState, HitRecord, Kind, Record, Summary};
use haul_peer::api::requests::SearchRequest;

use super::pass_on;
use crate::args::SearchArgs;
use crate::context::Context;
use crate::errors::Failure;
use crate::exit::Exit;
use crate::numbers::Numbered;
use crate::output::text::{Align, Table, count, escape, plural, short_id, size, took};
use crate::output::{Format, Style, times};

/// Heading of the column that tells of other contents and names.
const ALSO: &str = "ALSO";
/// Rows that are aligned with each other; more come as the next part of the table.
const ROWS_ALIGNED: usize = 1_000;

/// Runs it. Exit code 1 when nothing fits, also when something comes near.
pub(crate) async fn run(context: &Context, args: &SearchArgs) -> Result<Exit, Failure> {
    let request = SearchRequest {
        query: args.query.join(" "),
        limit: Some(u64::from(args.limit)),
        all: args.all,
        away: args.away,
        count: args.count,
    };
    let mut answer = context.daemon().await?.post("/v1/search", &request).await?;
    let mut view = View::new(context);
    while let Some(line) = answer.next().await? {
        pass_on(context, &line)?;
        match line.record {
            Some(Record::Hit(hit)) => view.hit(&hit)?,
            Some(Record::Summary(summary)) => view.summary(&summary)?,
            Some(Record::Warning(notice)) if !context.output.is_json() => {
                context.output.note(format!("! {}", escape(&notice.message)));
            }
            _ => {}
        }
    }
    view.finish()
}

struct View<'a> {
    context: &'a Context,
    table: Table,
    rows: usize,
    hits: Vec<Numbered>,
    found: bool,
}

impl<'a> View<'a> {
    fn new(context: &'a Context) -> Self {
        Self { context, table: table(context), rows: 0, hits: Vec::new(), found: false }
    }

    fn hit(&mut self, hit: &HitRecord) -> Result<(), Failure> {
        self.found |= !hit.near;
        match self.context.output.format {
            Format::Json => Ok(()),
            Format::Plain => plain(self.context, hit),
            Format::Human => {
                if self.context.numbers.are_on() {
                    self.hits.push(Numbered::from(hit));
                }
                self.table.row(row(self.context, hit));
                self.rows += 1;
                if self.rows.is_multiple_of(ROWS_ALIGNED) { self.flush() } else { Ok(()) }
            }
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let mut table = std::mem::replace(&mut self.table, table(self.context));
        table.drop_if_empty(ALSO);
        if table.is_empty() { Ok(()) } else { self.context.output.table(&table) }
    }

    fn summary(&mut self, summary: &Summary) -> Result<(), Failure> {
        if summary.only_near && self.context.output.is_human() {
            self.context.output.note("nothing fits; these names come near:");
        }
        self.flush()?;
        let output = &self.context.output;
        if summary.hits == 0 {
            if output.is_human() && !output.quiet {
                output.note("nothing found        names of absent peers, too: --away");
            }
            return Ok(());
        }
        let hint = if self.context.numbers.are_on() {
            output.paint(Style::Dim, "        get one: haul get 1")
        } else {
            String::new()
        };
        output.remark(format!("{}{hint}", totals(summary)))
    }

    fn finish(mut self) -> Result<Exit, Failure> {
        self.flush()?;
        self.context.numbers.remember_hits(self.hits);
        Ok(if self.found { Exit::DONE } else { Exit::NOTHING })
    }
}

fn table(context: &Context) -> Table {
    let mut columns = vec![("NAME", Align::Left), ("SIZE", Align::Left)];
    columns.extend([("COPIES", Align::Left), ("CHANGED", Align::Left), ("ID", Align::Left), (ALSO, Align::Left)]);
    if context.output.verbose > 0 {
        columns.push(("WHERE", Align::Left));
    }
    if context.numbers.are_on() {
        columns.insert(0, ("#", Align::Right));
    }
    Table::new(&columns, usize::from(context.numbers.are_on()))
}

fn row(context: &Context, hit: &HitRecord) -> Vec<String> {
    let mut name = escape(&hit.name).into_owned();
    if hit.kind == Kind::Dir {
        name.push('/');
    }
    let id = match (&hit.id, hit.state, hit.kind) {
        (Some(id), ..) => short_id(id).into_owned(),
        (None, ContentState::Hashing, Kind::File) => "hashing".to_owned(),
        // A folder has no id to type, but something to say in its place.
        (_, _, Kind::Dir) => hit.files.map(|files| plural(files.into(), "file", "files")).unwrap_or_default(),
        _ => String::new(),
    };
    let copies = match (hit.copies, hit.online) {
        (copies, 0) => format!("{} away", count(u64::from(copies))),
        (copies, online) if online < copies => format!("{online} of {copies}"),
        (copies, _) => count(u64::from(copies)),
    };
    let size = hit.size.map(size).unwrap_or_default();
    let mut row = vec![name, size, copies, times::ago(hit.mtime.as_deref()), id, also(hit)];
    if context.output.verbose > 0 {
        row.push(format!("{}:{}", escape(&hit.peer_name), escape(&hit.path)));
    }
    if context.numbers.are_on() {
        row.insert(0, hit.n.to_string());
    }
    row
}

/// Other contents that have this name, and other names that this content has.
fn also(hit: &HitRecord) -> String {
    let counts = [(hit.contents, "content", "contents"), (hit.names, "name", "names")];
    let others = counts.into_iter().filter(|(count, ..)| *count > 1);
    others.map(|(count, one, many)| plural(u64::from(count) - 1, one, many)).collect::<Vec<_>>().join(", ")
}

/// kind, size, mtime, id, path, peer, copies, online, names, contents, files.
pub(super) fn plain(context: &Context, hit: &HitRecord) -> Result<(), Failure> {
    context.output.fields(&[
        super::browse::kind(hit.kind),
        &hit.size.map(|size| size.to_string()).unwrap_or_default(),
        hit.mtime.as_deref().unwrap_or_default(),
        hit.id.as_deref().unwrap_or_default(),
        &hit.path,
        &hit.peer,
        &hit.copies.to_string(),
        &hit.online.to_string(),
        &hit.names.to_string(),
        &hit.contents.to_string(),
        &hit.files.map(|files| files.to_string()).unwrap_or_default(),
    ])
}

fn totals(summary: &Summary) -> String {
    let total = if summary.exact { count(summary.total) } else { format!("at least {}", count(summary.total)) };
    let mut text = format!("{} of {total} in {}", count(summary.hits), took(Duration::from_micros(summary.took_us)));
    if let Some(micros) = summary.index_us {
        text.push_str(&format!(" (index {})", took(Duration::from_micros(micros))));
    }
    if let Some(files) = summary.files {
        text.push_str(&format!(", {}", plural(files, "file", "files")));
        if let Some(peers) = summary.peers {
            text.push_str(&format!(" on {}", plural(peers, "peer", "peers")));
        }
    }
    if summary.coverage < 1.0 {
        text.push_str(&format!("; only {:.0} % of the index answered", summary.coverage * 100.0));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_say_what_was_counted() {
        let mut summary = Summary { hits: 3, total: 3, exact: true, coverage: 1.0, ..Summary::default() };
        (summary.took_us, summary.index_us) = (1_812, Some(401));
        (summary.files, summary.peers) = (Some(18_204_113), Some(214));
        assert_eq!(totals(&summary), "3 of 3 in 1.8 ms (index 0.4 ms), 18,204,113 files on 214 peers");
        (summary.exact, summary.coverage, summary.files) = (false, 0.5, None);
        assert_eq!(totals(&summary), "3 of at least 3 in 1.8 ms (index 0.4 ms); only 50 % of the index answered");
    }
}
