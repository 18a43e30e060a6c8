//! `haul get`: fetches files and folders from everyone who has them. ^C, SIGTERM and `--timeout` pause: what was
//! verified is kept, and the same command goes on.

use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

use haul_peer::api::codes::ErrorCode;
use haul_peer::api::records::{DoneRecord, Notice, ProgressRecord, ProviderShare, Record};
use haul_peer::api::requests::{GetRequest, LookupRequest};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::what::{Wanted, peer, wanted};
use super::{cat, lookup, pass_on};
use crate::args::GetArgs;
use crate::client::Daemon;
use crate::context::Context;
use crate::errors::Failure;
use crate::exit::Exit;
use crate::output::progress::{Progress, Step};
use crate::output::text::{escape, plural, rate, size, took};
use crate::output::{Format, Style};

/// How long the daemon may take to pause before the command ends anyway.
const PAUSE_PATIENCE: Duration = Duration::from_secs(2);

/// Runs it. With several things wanted, a failure does not keep the others; the first one's exit code stands.
pub(crate) async fn run(context: &Context, args: &GetArgs) -> Result<Exit, Failure> {
    let whats = if args.what == ["-"] { from_stdin()? } else { context.numbers.expand(&args.what) };
    let mut from = args.from.iter().map(|text| peer(context, text)).collect::<Result<Vec<_>, _>>()?;
    if args.output.as_deref() == Some(Path::new("-")) {
        let [what] = whats.as_slice() else {
            return Err(Failure::new(ErrorCode::Usage, "only one thing at a time goes to standard output"));
        };
        if args.limit.is_some() {
            return Err(Failure::new(ErrorCode::Usage, "what goes to standard output has no limit of its own")
                .next("limit all that is fetched: haul limit down RATE"));
        }
        return cat::stream(context, &wanted(context, what)?, None, from).await;
    }
    let several = whats.len() > 1;
    let output = target(args.output.as_deref(), several)?;
    let deadline = context.global.timeout.map(|timeout| Instant::now() + timeout);
    let mut result = Ok(Exit::DONE);
    for what in &whats {
        let outcome = async {
            let wanted = wanted(context, what)?;
            if args.pick {
                from = pick(context, &wanted).await?;
            }
            let request = request(&wanted, &output, from.clone(), args);
            one(context, &wanted, request, deadline).await.map(drop)
        };
        if let Err(failure) = outcome.await {
            let stops = failure.code() == ErrorCode::Interrupted || failure.code() == ErrorCode::Timeout;
            let failure = if several { tell(context, failure) } else { failure };
            if result.is_ok() || stops {
                result = Err(failure);
            }
            if stops {
                break;
            }
        }
    }
    result
}

fn tell(context: &Context, failure: Failure) -> Failure {
    failure.report(&context.output);
    failure.told()
}

fn from_stdin() -> Result<Vec<String>, Failure> {
    let lines = std::io::stdin().lock().lines().collect::<Result<Vec<_>, _>>()?;
    Ok(lines.into_iter().filter(|line| !line.is_empty()).collect())
}

/// Where it goes, absolute. Several things need a folder, which is made.
pub(super) fn target(output: Option<&Path>, several: bool) -> Result<PathBuf, Failure> {
    let output = std::path::absolute(output.unwrap_or(Path::new(".")))?;
    // What ends in a slash names the same thing as without it.
    let output: PathBuf = output.components().collect();
    if several {
        std::fs::create_dir_all(&output).map_err(|error| {
            Failure::new(ErrorCode::Disk, "there is no folder to put several things into")
                .about(output.display().to_string(), error)
        })?;
    }
    Ok(output)
}

pub(super) fn request(wanted: &Wanted, output: &Path, from: Vec<String>, args: &GetArgs) -> GetRequest {
    // A hit keeps the name under which it was found, also where its content has others.
    let output = match &wanted.name {
        Some(name) if output.is_dir() && !output.join(name).is_dir() => output.join(name),
        _ => output.to_owned(),
    };
    GetRequest {
        what: wanted.what.clone(),
        from,
        output: output.to_string_lossy().into_owned(),
        force: args.force,
        outside_links: args.outside_links,
        wait: args.wait,
        limit: args.limit.clone(),
        ..GetRequest::default()
    }
}

/// Shows who has it and asks for one of them.
async fn pick(context: &Context, wanted: &Wanted) -> Result<Vec<String>, Failure> {
    if !context.output.is_human() || !std::io::stdin().is_terminal() {
        return Err(Failure::new(ErrorCode::Usage, "--pick asks, and there is nobody to ask here")
            .next("name the peer: haul get NAME --from PEER"));
    }
    let request = LookupRequest { what: wanted.what.clone(), ..LookupRequest::default() };
    let providers = lookup::ask(context, &request).await?;
    lookup::show(context, &providers)?;
    context.output.note("from which number? (Enter: all)");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    let line = line.trim();
    if line.is_empty() {
        return Ok(Vec::new());
    }
    let chosen = line.parse::<usize>().ok().and_then(|number| providers.get(number.checked_sub(1)?));
    match chosen {
        Some(provider) => Ok(vec![provider.peer.clone()]),
        None => Err(Failure::new(ErrorCode::NoSuch, format!("there is no provider number {line} here"))),
    }
}

/// Fetches one thing; gives its path here.
pub(super) async fn one(
    context: &Context,
    wanted: &Wanted,
    request: GetRequest,
    deadline: Option<Instant>,
) -> Result<Option<PathBuf>, Failure> {
    let daemon = context.daemon().await?;
    let mut view = View::new(context, wanted);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let late = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(late);
    let fetch = async {
        let mut answer = daemon.post("/v1/get", &request).await?;
        while let Some(line) = answer.next().await? {
            pass_on(context, &line)?;
            view.record(line.record)?;
        }
        Ok(())
    };
    let stopped = tokio::select! {
        outcome = fetch => Err(outcome),
        _ = interrupt.recv() => Ok(Stop::Interrupt),
        _ = terminate.recv() => Ok(Stop::Terminate),
        () = &mut late => Ok(Stop::Late),
    };
    match stopped {
        Err(outcome) => {
            view.close();
            outcome.map(|()| view.path)
        }
        Ok(stop) => Err(view.pause(daemon, stop).await),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    Interrupt,
    Terminate,
    Late,
}

struct View<'a> {
    context: &'a Context,
    wanted: &'a Wanted,
    progress: Option<Progress>,
    transfer: Option<u64>,
    verified: u64,
    waiting: Option<String>,
    /// Where it is, once it is complete.
    path: Option<PathBuf>,
}

impl<'a> View<'a> {
    fn new(context: &'a Context, wanted: &'a Wanted) -> Self {
        let progress = Some(Progress::new(&context.output, &wanted.label));
        Self { context, wanted, progress, transfer: None, verified: 0, waiting: None, path: None }
    }

    fn record(&mut self, record: Option<Record>) -> Result<(), Failure> {
        match record {
            Some(Record::Progress(progress)) => self.progress(&progress),
            Some(Record::Transfer(transfer)) => self.transfer = Some(transfer.transfer),
            Some(Record::Waiting(notice)) => self.notice(&notice, ""),
            Some(Record::Warning(notice)) => self.notice(&notice, "! "),
            Some(Record::Done(done)) => self.done(&done)?,
            _ => {}
        }
        Ok(())
    }

    fn progress(&mut self, progress: &ProgressRecord) {
        self.transfer = progress.transfer.or(self.transfer);
        self.verified = progress.verified;
        if progress.bps > 0 {
            self.waiting = None;
        }
        let remark = match (&self.waiting, progress.files_total) {
            (Some(reason), _) => reason.clone(),
            (None, Some(total)) => {
                format!("{} of {total} files  {}", progress.files_done.unwrap_or_default(), shares(&progress.from))
            }
            (None, None) => shares(&progress.from),
        };
        if let Some(bar) = &mut self.progress {
            bar.step(Step {
                done: progress.verified,
                total: progress.total.unwrap_or_default(),
                bps: Some(progress.bps),
                remark: &remark,
                ..Step::default()
            });
        }
    }

    fn notice(&mut self, notice: &Notice, mark: &str) {
        let output = &self.context.output;
        if output.is_json() || output.quiet || self.waiting.as_ref() == Some(&notice.message) {
            return;
        }
        let next = notice.next.as_ref().map(|next| format!("        {}", escape(next))).unwrap_or_default();
        let line = format!("{mark}{}{next}", escape(&notice.message));
        match &self.progress {
            Some(progress) => progress.note(&line),
            None => output.note(line),
        }
        self.waiting = Some(notice.message.clone());
    }

    fn done(&mut self, done: &DoneRecord) -> Result<(), Failure> {
        self.close();
        self.path = Some(PathBuf::from(&done.path));
        let output = &self.context.output;
        match output.format {
            Format::Json => return Ok(()),
            Format::Plain => {
                let id = done.id.as_deref().unwrap_or_default();
                return output.fields(&[id, &done.bytes.to_string(), &done.path]);
            }
            Format::Human => {}
        }
        output.line(format!("{} {}", output.paint(Style::Good, "✓"), sentence(done)))?;
        for liar in done.from.iter().filter(|share| share.corrupt > 0) {
            output.note(format!(
                "! {} sent {} that did not match; they were thrown away and fetched elsewhere",
                escape(&liar.name),
                plural(liar.corrupt, "piece", "pieces"),
            ));
        }
        Ok(())
    }

    fn close(&mut self) {
        if let Some(progress) = self.progress.take() {
            progress.finish();
        }
    }

    /// Pauses the transfer and says how to go on.
    async fn pause(mut self, daemon: &Daemon, stop: Stop) -> Failure {
        self.close();
        if let Some(transfer) = self.transfer {
            let pause = async {
                let answer = daemon.order(&format!("/v1/transfers/{transfer}/pause")).await?;
                answer.all().await
            };
            // Without an answer the daemon goes on by itself: nothing is lost.
            let _ = tokio::time::timeout(PAUSE_PATIENCE, pause).await;
        }
        let (code, exit) = match stop {
            Stop::Interrupt => (ErrorCode::Interrupted, Exit::INTERRUPTED),
            Stop::Terminate => (ErrorCode::Interrupted, Exit::TERMINATED),
            Stop::Late => (ErrorCode::Timeout, Exit::TIMEOUT),
        };
        let why = if stop == Stop::Late { "the time is over: " } else { "" };
        let kept = if self.verified > 0 { size(self.verified) } else { "what arrived is".to_owned() };
        let message = format!("{why}paused, {kept} kept and verified");
        let go_on = format!("go on: haul get {}", lookup::quoted(&self.wanted.what));
        let failure = Failure::new(code, message.clone()).next(&go_on).exit(exit);
        if self.context.output.is_human() && stop != Stop::Late {
            self.context.output.note(format!("{message}.   {go_on}"));
            return failure.told();
        }
        failure
    }
}

fn shares(from: &[ProviderShare]) -> String {
    let all: u64 = from.iter().map(|share| share.bytes).sum();
    let percent = |bytes: u64| u128::from(bytes) * 100 / u128::from(all.max(1));
    from.iter()
        .take(3)
        .map(|share| format!("{} {} %", share.name, percent(share.bytes)))
        .collect::<Vec<_>>()
        .join(" · ")
}

fn sentence(done: &DoneRecord) -> String {
    let mut text = format!("{}  {}", escape(&near(&done.path)), size(done.bytes));
    if let Some(files) = done.files {
        text.push_str(&format!(" in {}", plural(files, "file", "files")));
    }
    if done.fetched == 0 && done.providers == 0 {
        return text + ", was here already, verified";
    }
    let time = Duration::from_millis(done.ms);
    text.push_str(&format!(" {} {}", if done.files.is_some() { "within" } else { "in" }, took(time)));
    if done.ms >= 100 {
        text.push_str(&format!(" ({})", rate(done.fetched.saturating_mul(1000) / done.ms)));
    }
    text.push_str(&format!(" from {}", plural(u64::from(done.providers), "peer", "peers")));
    if done.resumed_from > 0 {
        text.push_str(&format!(", {} were here already", size(done.resumed_from)));
    }
    text + ", verified"
}

/// The path as seen from where the command was typed.
fn near(path: &str) -> String {
    let here = std::env::current_dir().ok();
    match here.and_then(|here| Path::new(path).strip_prefix(here).ok().map(Path::to_path_buf)) {
        Some(rest) if !rest.as_os_str().is_empty() => format!("./{}", rest.display()),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_one_sentence() {
        let mut done =
            DoneRecord { path: "/x/a.gguf".into(), bytes: 42_520_395_872, ms: 36_412, ..DoneRecord::default() };
        (done.fetched, done.providers) = (done.bytes, 5);
        assert_eq!(sentence(&done), "/x/a.gguf  39.6 GiB in 36.4 s (1.1 GiB/s) from 5 peers, verified");
        (done.resumed_from, done.fetched, done.providers) = (42_520_395_000, 872, 1);
        assert_eq!(
            sentence(&done),
            "/x/a.gguf  39.6 GiB in 36.4 s (23 B/s) from 1 peer, 39.6 GiB were here already, verified"
        );
        (done.fetched, done.providers) = (0, 0);
        assert_eq!(sentence(&done), "/x/a.gguf  39.6 GiB, was here already, verified");
    }

    #[test]
    fn a_hit_keeps_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let hit = Wanted { what: "b3:00".into(), label: "a.txt".into(), name: Some("a.txt".into()) };
        let path = request(&hit, folder.path(), Vec::new(), &GetArgs::default()).output;
        assert_eq!(Path::new(&path), folder.path().join("a.txt"));
        std::fs::create_dir(folder.path().join("a.txt")).expect("made");
        let path = request(&hit, folder.path(), Vec::new(), &GetArgs::default()).output;
        assert_eq!(Path::new(&path), folder.path(), "the daemon decides what a folder of that name means");
    }

    #[test]
    fn shares_are_percentages() {
        let share =
            |name: &str, bytes| ProviderShare { peer: String::new(), name: name.into(), bytes, corrupt: 0, bps: None };
        assert_eq!(shares(&[share("lab-3", 44), share("nas", 56)]), "lab-3 44 % · nas 56 %");
        assert_eq!(shares(&[]), "");
    }
}
