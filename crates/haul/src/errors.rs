//! Failures as people and scripts see them: what failed, why, what to do next, and a stable code.

use haul_peer::api::Problem;
use haul_peer::api::codes::ErrorCode;
use haul_peer::api::records::{Cause, ErrorRecord, Record};

use crate::exit::Exit;
use crate::output::{Output, Style, text};

/// A failure of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What is said about it.
    pub(crate) record: Box<ErrorRecord>,
    /// The daemon's own line, if it came from there.
    line: Option<String>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// To be told.
    Told,
    /// Nobody reads the output any more, or it was told already.
    Silent,
}

impl Failure {
    /// A failure without causes.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::from_record(
            ErrorRecord { code, message: message.into(), causes: Vec::new(), next: None, exit: code.exit() },
            None,
        )
    }

    /// A failure that the daemon told, with its line.
    pub(crate) fn from_record(record: ErrorRecord, line: Option<String>) -> Self {
        Self { record: Box::new(record), line, kind: Kind::Told }
    }

    /// A failure of a part of this process, as the daemon would tell it.
    pub(crate) fn from_problem(problem: Problem) -> Self {
        let Problem { code, message, causes, next } = problem;
        Self::from_record(ErrorRecord { code, message, causes, next, exit: code.exit() }, None)
    }

    /// The reader of the output went away (`haul … | head -1`): that is its right and no error.
    pub(crate) fn output_closed() -> Self {
        Self { kind: Kind::Silent, ..Self::new(ErrorCode::Internal, "nobody reads the output").exit(Exit::DONE) }
    }

    /// The same, already told.
    #[must_use]
    pub(crate) fn told(mut self) -> Self {
        self.kind = Kind::Silent;
        self
    }

    /// The same with a further cause.
    #[must_use]
    pub(crate) fn because(self, cause: impl ToString) -> Self {
        self.about("", cause)
    }

    /// The same with a further cause: what happened with `name`.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "errors are given away here, callers have no more use for them")]
    pub(crate) fn about(mut self, name: impl Into<String>, cause: impl ToString) -> Self {
        self.record.causes.push(Cause { peer: None, name: name.into(), message: cause.to_string() });
        self
    }

    /// The same with what to do next.
    #[must_use]
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.record.next = Some(next.into());
        self
    }

    /// The same with another exit code than its code has.
    #[must_use]
    pub(crate) fn exit(mut self, exit: Exit) -> Self {
        self.record.exit = exit.0;
        self
    }

    /// What failed and what to do next, where there is one line for it.
    pub(crate) fn in_one_line(&self) -> String {
        let next = self.record.next.as_ref().map(|next| format!("   {next}")).unwrap_or_default();
        format!("{}{next}", self.record.message)
    }

    /// Its code.
    pub(crate) fn code(&self) -> ErrorCode {
        self.record.code
    }

    /// What the process ends with.
    pub(crate) fn exit_code(&self) -> Exit {
        Exit(self.record.exit)
    }

    /// Tells it, unless that was done, and gives the exit code. With `--json` it is the last record on standard output.
    pub(crate) fn report(&self, output: &Output) -> Exit {
        if self.kind == Kind::Silent {
            return self.exit_code();
        }
        if output.is_json() {
            let line = self.line.clone().unwrap_or_else(|| Record::Error((*self.record).clone()).to_line());
            // If even this cannot be written, the exit code still says it.
            let _ = output.line(line.trim_end());
        } else {
            for line in self.lines(output) {
                output.note(line);
            }
        }
        self.exit_code()
    }

    /// The lines for people.
    fn lines(&self, output: &Output) -> Vec<String> {
        let record = &self.record;
        let mut lines = vec![format!(
            "{} {}   {}",
            output.paint_err(Style::Bad, "error:"),
            text::escape(&record.message),
            output.paint_err(Style::Dim, &format!("[{}]", record.code)),
        )];
        let widest = record.causes.iter().map(|cause| text::width(&text::escape(&cause.name))).max().unwrap_or(0);
        for cause in &record.causes {
            let (name, message) = (text::escape(&cause.name), text::escape(&cause.message));
            let blanks = " ".repeat(widest - text::width(&name) + if widest > 0 { 2 } else { 0 });
            lines.push(format!("  {name}{blanks}{message}"));
        }
        let more = format!("more: haul explain {}", record.code);
        match &record.next {
            Some(next) => {
                lines.push(format!("  {}        {}", text::escape(next), output.paint_err(Style::Dim, &more)));
            }
            None => lines.push(format!("  {}", output.paint_err(Style::Dim, &more))),
        }
        lines
    }
}

/// Prints what clap has to say (help and version go to standard output) and gives its exit code.
pub(crate) fn usage(error: &clap::Error) -> Exit {
    let _ = error.print();
    Exit(u8::try_from(error.exit_code()).unwrap_or(Exit::USAGE.0))
}

#[cfg(test)]
mod tests {
    use crate::args::Global;

    use super::*;

    #[test]
    fn an_error_says_what_why_and_what_next() {
        let failure = Failure::new(ErrorCode::NoProvider, "nobody who has a\u{1b}b can be reached (2 peers know it)")
            .about("lab-7", "10.0.0.17:4478 refused the connection: the daemon is not running there")
            .about("ana-mbp", "last seen 3 h ago")
            .next("wait for one of them: haul get b3:02bd --wait");
        let output = Output::new(&Global::default());
        insta::assert_snapshot!(failure.lines(&output).join("\n"), @r"
        error: nobody who has a\x1bb can be reached (2 peers know it)   [no-provider]
          lab-7    10.0.0.17:4478 refused the connection: the daemon is not running there
          ana-mbp  last seen 3 h ago
          wait for one of them: haul get b3:02bd --wait        more: haul explain no-provider
        ");
        assert_eq!(failure.exit_code(), Exit::NOTHING);
    }
}
