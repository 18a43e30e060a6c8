//! `haul shell`: the same verbs without `haul` in front, at a prompt or from a script on standard input. A script stops
//! at its first failure with that failure's exit code.

mod completion;
mod words;

use std::io::{BufRead, IsTerminal};

use clap::Parser;
use haul_peer::api::codes::ErrorCode;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{CompletionType, Config, Editor};

use self::completion::Completion;
use self::words::{Order, Place, understand};
use crate::args::{Cli, Command};
use crate::commands;
use crate::context::Context;
use crate::errors::{Failure, usage};
use crate::exit::Exit;
use crate::output::text::escape;

/// Lines of history that are kept.
const HISTORY_LINES: usize = 1_000;

/// Runs it until `exit`, the end of the input, or, in a script, the first failure.
pub(crate) async fn run(outer: &Context) -> Result<Exit, Failure> {
    let context = outer.of_shell();
    let mut shell = Shell { context, place: Place::default() };
    if std::io::stdin().is_terminal() { shell.interactive().await } else { shell.script().await }
}

struct Shell {
    context: Context,
    place: Place,
}

enum After {
    GoOn(Exit),
    End,
}

impl Shell {
    async fn script(&mut self) -> Result<Exit, Failure> {
        for line in std::io::stdin().lock().lines() {
            match self.line(&line?).await? {
                After::GoOn(Exit::DONE) => {}
                After::GoOn(exit) => return Ok(exit),
                After::End => break,
            }
        }
        Ok(Exit::DONE)
    }

    async fn interactive(&mut self) -> Result<Exit, Failure> {
        let history = self.context.home().ok().map(|home| home.state.join("shell-history"));
        let mut editor = self.editor()?;
        if let Some(file) = &history {
            // There is none yet at the first time.
            let _ = editor.load_history(file);
        }
        self.context.output.remark("verbs as on the command line, without haul: help, exit; Tab completes")?;
        loop {
            let prompt = format!("haul {}> ", escape(&self.place.to_string())).replace(" >", ">");
            // The editor blocks; it comes back with the line, so that its completion can ask the daemon meanwhile.
            let read = tokio::task::spawn_blocking(move || {
                let line = editor.readline(&prompt);
                (editor, line)
            });
            let line;
            (editor, line) = read.await.expect("reading a line does not panic");
            let line = match line {
                Ok(line) => line,
                Err(ReadlineError::Interrupted) => continue,
                Err(ReadlineError::Eof) => break,
                Err(error) => {
                    return Err(Failure::new(ErrorCode::Internal, "the terminal cannot be read").because(error));
                }
            };
            if !line.trim_start().starts_with("join") {
                // Tickets are secrets and stay out of the history.
                let _ = editor.add_history_entry(&line);
            }
            if let Some(Completion { place, .. }) = editor.helper_mut() {
                place.clone_from(&self.place);
            }
            let outcome = self.guarded_line(&line).await;
            if let Some(Completion { place, .. }) = editor.helper_mut() {
                place.clone_from(&self.place);
            }
            match outcome {
                Ok(After::GoOn(_)) => {}
                Ok(After::End) => break,
                Err(failure) => {
                    failure.report(&self.context.output);
                }
            }
        }
        if let Some(file) = &history {
            let _ = editor.save_history(file);
        }
        Ok(Exit::DONE)
    }

    fn editor(&self) -> Result<Editor<Completion, DefaultHistory>, Failure> {
        let config = Config::builder()
            .max_history_size(HISTORY_LINES)
            .map(|config| config.completion_type(CompletionType::List).history_ignore_space(true).build());
        let editor = config.and_then(Editor::with_config);
        let mut editor =
            editor.map_err(|error| Failure::new(ErrorCode::Internal, "the terminal cannot be used").because(error))?;
        editor.set_helper(Some(Completion::new(self.context.clone())));
        Ok(editor)
    }

    /// Runs a line; ^C ends it and not the shell. `get` pauses by itself.
    async fn guarded_line(&mut self, line: &str) -> Result<After, Failure> {
        if line.trim_start().starts_with("get") {
            return self.line(line).await;
        }
        tokio::select! {
            outcome = self.line(line) => outcome,
            _ = tokio::signal::ctrl_c() => Ok(After::GoOn(Exit::INTERRUPTED)),
        }
    }

    async fn line(&mut self, line: &str) -> Result<After, Failure> {
        match understand(line, &self.place, &self.context.numbers)? {
            Order::Nothing => Ok(After::GoOn(Exit::DONE)),
            Order::End => Ok(After::End),
            Order::Go(place) => {
                self.place = place;
                Ok(After::GoOn(Exit::DONE))
            }
            Order::Where => {
                self.context.output.line(escape(&self.place.to_string()))?;
                Ok(After::GoOn(Exit::DONE))
            }
            Order::Run(arguments) => self.verb(&arguments).await,
        }
    }

    async fn verb(&self, arguments: &[String]) -> Result<After, Failure> {
        let cli = match Cli::try_parse_from(std::iter::once("haul").chain(arguments.iter().map(String::as_str))) {
            Ok(cli) => cli,
            Err(error) => return Ok(After::GoOn(usage(&error))),
        };
        match &cli.command {
            Some(Command::Up(_) | Command::Index(_) | Command::Peer(_) | Command::Shell) => {
                return Err(Failure::new(ErrorCode::Usage, "this verb does not end, so it does not run in a shell")
                    .next("give it on a command line of its own: haul up"));
            }
            None => return Ok(After::GoOn(Exit::DONE)),
            Some(_) => {}
        }
        let context = self.context.within(cli.global);
        // A shell runs verbs and is one: the future needs a place of its own.
        Box::pin(commands::run(&context, cli.command)).await.map(After::GoOn)
    }
}
