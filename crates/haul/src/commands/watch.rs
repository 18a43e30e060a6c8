//! `haul watch`: a search that stands. Each new match is printed, and fetched or handed to a command if asked for, one
//! at a time; whatever happens to one match, watching goes on.

mod execute;
mod told;

use std::path::PathBuf;

use haul_peer::api::codes::ErrorCode;
use haul_peer::api::records::{ContentState, HitRecord, Kind, Notice, Record};
use haul_peer::api::requests::WatchRequest;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::what::Wanted;
use super::{get, pass_on, search};
use crate::args::{GetArgs, WatchArgs};
use crate::client::Received;
use crate::context::Context;
use crate::errors::Failure;
use crate::exit::Exit;
use crate::numbers::{Numbered, Numbers};
use crate::output::text::{escape, short_id, size, width};
use crate::output::{Format, Style};
use told::Told;

/// Columns for names, so that lines that come one by one stand below each other.
const NAME_COLUMNS: usize = 44;

/// Runs it until ^C (exit code 130), SIGTERM (143), or the number of matches that was asked for.
pub(crate) async fn run(context: &Context, args: &WatchArgs) -> Result<Exit, Failure> {
    let mut stop = Stop { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? };
    let output = if args.get { Some(get::target(args.output.as_deref(), true)?) } else { None };
    let request = WatchRequest { query: args.query.join(" ") };
    let mut answer = tokio::select! {
        answer = async { context.daemon().await?.post("/v1/watch", &request).await } => answer?,
        exit = stop.asked() => return Ok(exit),
    };
    let mut view = View { context, args, output, told: Told::default(), numbered: Vec::new(), count: 0 };
    loop {
        let line = tokio::select! {
            line = answer.next() => line?,
            exit = stop.asked() => return Ok(exit),
        };
        let Some(line) = line else {
            return Err(Failure::new(ErrorCode::DaemonUnreachable, "the daemon ended this watch")
                .next("see whether it still runs: haul status"));
        };
        if let Some(exit) = view.line(line, &mut stop).await? {
            return Ok(exit);
        }
    }
}

/// The signals that end a watch.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    async fn asked(&mut self) -> Exit {
        tokio::select! {
            _ = self.interrupt.recv() => Exit::INTERRUPTED,
            _ = self.terminate.recv() => Exit::TERMINATED,
        }
    }
}

struct View<'a> {
    context: &'a Context,
    args: &'a WatchArgs,
    /// Where matches are fetched to.
    output: Option<PathBuf>,
    told: Told,
    /// For `haul get N` afterwards.
    numbered: Vec<Numbered>,
    count: u64,
}

impl View<'_> {
    /// Does what a line of the daemon asks for. An exit code is the end.
    async fn line(&mut self, line: Received, stop: &mut Stop) -> Result<Option<Exit>, Failure> {
        pass_on(self.context, &line)?;
        match line.record {
            Some(Record::Hit(hit)) => return self.hit(&hit, stop).await,
            Some(Record::Changed(changed)) => self.note(&changed.message, changed.next.as_deref()),
            Some(Record::Warning(notice)) => self.note(&format!("! {}", notice.message), notice.next.as_deref()),
            Some(Record::Waiting(notice)) => self.note(&notice.message, notice.next.as_deref()),
            _ => {}
        }
        Ok(None)
    }

    fn note(&self, message: &str, next: Option<&str>) {
        let output = &self.context.output;
        if output.is_json() || (output.quiet && !message.starts_with('!')) {
            return;
        }
        let next = next.map(|next| format!("        {}", escape(next))).unwrap_or_default();
        output.note(format!("{}{next}", escape(message)));
    }

    async fn hit(&mut self, hit: &HitRecord, stop: &mut Stop) -> Result<Option<Exit>, Failure> {
        let news = self.told.hear(hit);
        if news.name {
            self.print(hit)?;
        }
        let acts = self.output.is_some() || !self.args.exec.is_empty();
        if acts && news.content {
            let acting = self.act(hit, stop).await;
            if let Err(failure) = acting {
                // ^C while it fetched, or nobody reads the output any more: the end. Anything else is one match's own.
                if failure.code() == ErrorCode::Interrupted || failure == Failure::output_closed() {
                    return Err(failure);
                }
                self.complain(&failure)?;
            }
        }
        self.count += u64::from(if acts { news.content } else { news.name });
        Ok(self.args.limit.is_some_and(|limit| self.count >= limit).then_some(Exit::DONE))
    }

    /// Fetches the match and runs the command, as far as asked for.
    async fn act(&self, hit: &HitRecord, stop: &mut Stop) -> Result<(), Failure> {
        let mut file = None;
        if let Some(folder) = &self.output {
            if hit.kind != Kind::File {
                return Ok(());
            }
            let Numbered { name, .. } = Numbered::from(hit);
            let what = hit.id.clone().unwrap_or_default();
            let wanted = Wanted { label: escape(&hit.name).into_owned(), what, name };
            let request = get::request(&wanted, folder, Vec::new(), &GetArgs::default());
            file = get::one(self.context, &wanted, request, None).await?;
        }
        if self.args.exec.is_empty() {
            return Ok(());
        }
        execute::run(self.context, &self.args.exec, hit, file.as_deref(), stop).await
    }

    /// Tells what went wrong with one match.
    fn complain(&self, failure: &Failure) -> Result<(), Failure> {
        let record = &failure.record;
        let causes = record.causes.iter().map(|cause| format!("; {} {}", cause.name, cause.message));
        let message = record.message.clone() + &causes.collect::<Vec<_>>().concat();
        if self.context.output.is_json() {
            let notice = Record::Warning(Notice { message, next: record.next.clone() });
            return self.context.output.line(notice.to_line().trim_end());
        }
        self.note(&format!("! {message}"), record.next.as_deref());
        Ok(())
    }

    fn print(&mut self, hit: &HitRecord) -> Result<(), Failure> {
        match self.context.output.format {
            Format::Json => Ok(()),
            Format::Plain => search::plain(self.context, hit),
            Format::Human => self.context.output.line(self.row(hit)),
        }
    }

    /// Number, name, size, id, place.
    fn row(&mut self, hit: &HitRecord) -> String {
        let output = &self.context.output;
        let mut row = String::new();
        // What has no number any more is shown without; each number costs a copy of all before it.
        if self.context.numbers.are_on() && self.numbered.len() < Numbers::REMEMBERED {
            self.numbered.push(Numbered::from(hit));
            self.context.numbers.remember_hits(self.numbered.clone());
            row.push_str(&format!("{:>2}  ", self.numbered.len()));
        }
        let mut name = escape(&hit.name).into_owned();
        if hit.kind == Kind::Dir {
            name.push('/');
        }
        let blanks = " ".repeat(NAME_COLUMNS.saturating_sub(width(&name)));
        let id = match (&hit.id, hit.state) {
            (Some(id), _) => short_id(id).into_owned(),
            (None, ContentState::Hashing) => "hashing".to_owned(),
            _ => String::new(),
        };
        let place = format!("{}:{}", escape(&hit.peer_name), escape(&hit.path));
        let size = hit.size.map(size).unwrap_or_default();
        row.push_str(&format!("{name}{blanks}  {size:<9}  {id:<12}  {}", output.paint(Style::Dim, &place)));
        row
    }
}
