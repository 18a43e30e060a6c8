//! What Tab offers in the shell: verbs, peers, paths at peers, names from the index, local folders to share.

use std::time::Duration;

use clap::CommandFactory;
use haul_peer::api::records::{EntryRecord, Kind, Record};
use haul_peer::api::requests::{BrowseRequest, SearchRequest};
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Helper, Result};
use tokio::runtime::Handle;

use super::words::Place;
use crate::args::Cli;
use crate::client::{Daemon, Received};
use crate::commands::split_place;
use crate::context::Context;
use crate::errors::Failure;
use crate::output::text::escape;

/// Longer than this nobody waits for a Tab.
const PATIENCE: Duration = Duration::from_millis(300);
/// Names that are offered at once.
const OFFERED: u64 = 50;
/// The shell's own words.
const OWN_WORDS: [&str; 8] = ["cd", "exit", "help", "ls", "pwd", "quit", "register", "from"];

/// Completes lines.
pub(super) struct Completion {
    /// Where the shell stands.
    pub(super) place: Place,
    context: Context,
    runtime: Handle,
    verbs: Vec<String>,
    files: FilenameCompleter,
}

impl Completion {
    /// Must be made within the runtime: the editor's thread asks the daemon through it.
    pub(super) fn new(context: Context) -> Self {
        let command = Cli::command();
        let verbs = command.get_subcommands().map(|verb| verb.get_name().to_owned());
        let mut verbs: Vec<_> = verbs.chain(OWN_WORDS.map(str::to_owned)).filter(|verb| verb != "from").collect();
        verbs.sort();
        let (place, runtime) = (Place::default(), Handle::current());
        Self { place, context, runtime, verbs, files: FilenameCompleter::new() }
    }

    fn offers(&self, verb: &str, word: &str) -> Vec<String> {
        match verb {
            "browse" | "cd" | "ls" => self.places(word),
            "get" | "lookup" | "cat" | "link" if word.contains(':') => self.places(word),
            "get" | "lookup" | "cat" | "link" => self.names(word),
            _ => Vec::new(),
        }
    }

    fn places(&self, word: &str) -> Vec<String> {
        if self.place.peer.is_empty() && !word.contains(':') {
            return self.peers();
        }
        let (folder, _) = word.rsplit_once('/').unwrap_or(match word.split_once(':') {
            Some((peer, _)) => (peer, ""),
            None => ("", ""),
        });
        let place = if word.contains(':') {
            let (peer, path) = split_place(folder);
            Place { peer, path }
        } else if folder.is_empty() {
            self.place.clone()
        } else {
            self.place.step(folder)
        };
        let prefix = match word.rfind(['/', ':']) {
            Some(end) => &word[..=end],
            None => "",
        };
        let request = BrowseRequest { peer: place.peer, path: place.path, recursive: false };
        let entries = self.ask(async |daemon| daemon.post("/v1/browse", &request).await?.all().await);
        let name = |entry: EntryRecord| {
            let slash = if entry.kind == Kind::Dir { "/" } else { "" };
            format!("{prefix}{}{slash}", entry.name)
        };
        let entries = entries.into_iter().filter_map(|line| match line.record {
            Some(Record::Entry(entry)) => Some(name(entry)),
            _ => None,
        });
        entries.collect()
    }

    fn peers(&self) -> Vec<String> {
        let peers = self.ask(async |daemon| daemon.get("/v1/peers").await?.all().await);
        let peers = peers.into_iter().filter_map(|line| match line.record {
            Some(Record::Peer(peer)) => Some(format!("{}:", peer.name)),
            _ => None,
        });
        peers.collect()
    }

    fn names(&self, word: &str) -> Vec<String> {
        let mut names = self.context.numbers.names();
        if word.chars().count() >= 3 {
            let request = SearchRequest { query: word.to_owned(), limit: Some(OFFERED), ..SearchRequest::default() };
            let hits = self.ask(async |daemon| daemon.post("/v1/search", &request).await?.all().await);
            names.extend(hits.into_iter().filter_map(|line| match line.record {
                Some(Record::Hit(hit)) if hit.raw.is_none() && hit.kind == Kind::File => Some(hit.name),
                _ => None,
            }));
        }
        names
    }

    /// Without an answer in time there is nothing to offer.
    fn ask(&self, question: impl AsyncFnOnce(&Daemon) -> std::result::Result<Vec<Received>, Failure>) -> Vec<Received> {
        let asking = async { question(self.context.daemon().await?).await };
        let answer = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, asking).await });
        answer.ok().and_then(std::result::Result::ok).unwrap_or_default()
    }
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, context: &rustyline::Context<'_>) -> Result<(usize, Vec<Pair>)> {
        let before = &line[..at];
        let start = before.rfind(char::is_whitespace).map_or(0, |blank| blank + 1);
        let word = &before[start..];
        let mut words = before.split_whitespace();
        let verb = words.next().unwrap_or_default();
        if verb == "register" || (verb == "share" && words.next() == Some("add")) {
            return self.files.complete(line, at, context);
        }
        let mut offers = if start == 0 { self.verbs.clone() } else { self.offers(verb, word) };
        offers.retain(|offer| offer.starts_with(word));
        offers.sort();
        offers.dedup();
        let pair = |offer: String| Pair { display: escape(&offer).into_owned(), replacement: protected(&offer) };
        Ok((start, offers.into_iter().map(pair).collect()))
    }
}

/// As it must stand in a line of the shell.
fn protected(word: &str) -> String {
    let mut protected = String::with_capacity(word.len());
    for letter in word.chars() {
        if letter.is_whitespace() || matches!(letter, '"' | '\'' | '\\' | '#') {
            protected.push('\\');
        }
        protected.push(letter);
    }
    protected
}

impl Hinter for Completion {
    type Hint = String;
}
impl Highlighter for Completion {}
impl Validator for Completion {}
impl Helper for Completion {}

#[cfg(test)]
mod tests {
    use rustyline::history::DefaultHistory;

    use crate::args::Global;

    use super::*;

    #[tokio::test]
    async fn verbs_are_offered_at_the_start() {
        let completion = Completion::new(Context::new(Global::default()));
        let history = DefaultHistory::new();
        let (start, pairs) = completion.complete("se", 2, &rustyline::Context::new(&history)).expect("offers");
        assert_eq!((start, pairs.len(), pairs[0].replacement.as_str()), (0, 1, "search"));
    }

    #[test]
    fn offers_survive_the_splitting_of_a_line() {
        assert_eq!(protected("my report.pdf"), "my\\ report.pdf");
    }
}
