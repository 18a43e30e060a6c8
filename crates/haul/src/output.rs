//! Standard output and standard error: in which form, with which colours, and what happens when nobody reads.

pub(crate) mod progress;
pub(crate) mod text;
pub(crate) mod timeline;
pub(crate) mod times;

use std::io::{self, IsTerminal, Write};

use crate::args::{Color, Global};
use crate::errors::Failure;

use haul_peer::api::codes::ErrorCode;

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Aligned tables and sentences.
    Human,
    /// JSON Lines, as the daemon made them.
    Json,
    /// Tab-separated, uncut.
    Plain,
}

/// A style of text on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Bold,
    Dim,
    Good,
    Warning,
    Bad,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Warning => "33",
            Self::Bad => "1;31",
        }
    }
}

/// Where and how this run prints.
#[expect(clippy::struct_excessive_bools, reason = "two streams, each a terminal or not and with colours or not")]
#[derive(Clone, Debug)]
pub(crate) struct Output {
    /// The form of results.
    pub(crate) format: Format,
    /// Results and errors only.
    pub(crate) quiet: bool,
    /// How often `-v` was given.
    pub(crate) verbose: u8,
    /// Whether standard output is a terminal.
    pub(crate) out_is_terminal: bool,
    /// Whether standard error is a terminal.
    pub(crate) err_is_terminal: bool,
    color_out: bool,
    color_err: bool,
}

#[expect(clippy::unused_self, reason = "only what holds an Output may print")]
impl Output {
    /// Looks at the options, the environment and the terminals.
    pub(crate) fn new(global: &Global) -> Self {
        let out_is_terminal = io::stdout().is_terminal();
        let err_is_terminal = io::stderr().is_terminal();
        let wanted = |is_terminal: bool| match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                is_terminal
                    && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                    && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
            }
        };
        let format = match (global.json, global.plain) {
            (true, _) => Format::Json,
            (_, true) => Format::Plain,
            _ => Format::Human,
        };
        let human = format == Format::Human;
        Self {
            format,
            quiet: global.quiet,
            verbose: global.verbose,
            out_is_terminal,
            err_is_terminal,
            color_out: human && wanted(out_is_terminal),
            color_err: wanted(err_is_terminal),
        }
    }

    /// Whether people read the results.
    pub(crate) fn is_human(&self) -> bool {
        self.format == Format::Human
    }

    /// Whether results are JSON Lines.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether standard output takes colours.
    pub(crate) fn has_colors(&self) -> bool {
        self.color_out
    }

    /// The width of the terminal behind standard output, if it is one.
    pub(crate) fn columns(&self) -> Option<usize> {
        let size = self.out_is_terminal.then(|| rustix::termios::tcgetwinsize(io::stdout()))?.ok()?;
        (size.ws_col > 0).then_some(usize::from(size.ws_col))
    }

    /// `text` in a style, if standard output has colours.
    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        paint(self.color_out, style, text)
    }

    /// The same for standard error.
    pub(crate) fn paint_err(&self, style: Style, text: &str) -> String {
        paint(self.color_err, style, text)
    }

    /// Writes a line of results.
    pub(crate) fn line(&self, line: impl AsRef<str>) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(line.as_ref().as_bytes())
            .and_then(|()| out.write_all(b"\n"))
            .and_then(|()| out.flush())
            .map_err(|error| write_failed(&error))
    }

    /// Writes bytes of a file.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(|error| write_failed(&error))
    }

    /// Writes a line of results that only people want: a hint, a total. Nothing with `--quiet`.
    pub(crate) fn remark(&self, line: impl AsRef<str>) -> Result<(), Failure> {
        if self.quiet || !self.is_human() { Ok(()) } else { self.line(line) }
    }

    /// Writes the lines of a table, its heading painted.
    pub(crate) fn table(&self, table: &text::Table) -> Result<(), Failure> {
        for (index, line) in table.lines(self.columns()).iter().enumerate() {
            if index == 0 { self.line(self.paint(Style::Bold, line))? } else { self.line(line)? }
        }
        Ok(())
    }

    /// Writes tab-separated fields; tabs and line ends within them are escaped.
    pub(crate) fn fields(&self, fields: &[&str]) -> Result<(), Failure> {
        let fields: Vec<_> = fields.iter().map(|field| text::escape(field)).collect();
        self.line(fields.join("\t"))
    }

    /// Writes a line about the work, not the result, to standard error.
    pub(crate) fn note(&self, line: impl AsRef<str>) {
        let mut err = io::stderr().lock();
        // Nothing useful is left to do if even this fails.
        let _ = err.write_all(line.as_ref().as_bytes()).and_then(|()| err.write_all(b"\n"));
    }
}

fn paint(color: bool, style: Style, text: &str) -> String {
    if color { format!("\x1b[{}m{text}\x1b[0m", style.code()) } else { text.to_owned() }
}

fn write_failed(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::output_closed();
    }
    Failure::new(ErrorCode::Disk, "the output could not be written").because(error)
}
