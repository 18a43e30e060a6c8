//! Progress of anything that takes more than a second: a bar on a terminal, else a line every ten seconds on standard
//! error. With `--json` the records on standard output say it already.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Format, Output, text};

const BAR_AFTER: Duration = Duration::from_secs(1);
const LINE_EVERY: Duration = Duration::from_secs(10);

/// One thing under way.
pub(crate) struct Progress {
    output: Output,
    label: String,
    started: Instant,
    shown: Shown,
}

enum Shown {
    /// Nothing: too early, or not wanted.
    Not {
        wanted: bool,
    },
    Bar(ProgressBar),
    Line {
        last: Instant,
    },
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Step<'a> {
    /// Bytes (or files) done.
    pub(crate) done: u64,
    /// Of how many; 0 = not known yet.
    pub(crate) total: u64,
    /// Bytes per second now.
    pub(crate) bps: Option<u64>,
    /// Who sends, or why nothing moves.
    pub(crate) remark: &'a str,
    /// What is counted.
    pub(crate) amount: Amount,
}

/// What a progress counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Amount {
    #[default]
    Bytes,
    Files,
}

impl Progress {
    /// Starts the clock; nothing is shown yet.
    pub(crate) fn new(output: &Output, label: &str) -> Self {
        let wanted = !output.quiet && output.format != Format::Json;
        let label = text::escape(label).into_owned();
        Self { output: output.clone(), label, started: Instant::now(), shown: Shown::Not { wanted } }
    }

    /// Shows a step, if it is time to.
    pub(crate) fn step(&mut self, step: Step<'_>) {
        let now = Instant::now();
        match &mut self.shown {
            Shown::Not { wanted: false } => {}
            Shown::Not { .. } if self.output.err_is_terminal => {
                if now - self.started >= BAR_AFTER {
                    self.shown = Shown::Bar(bar(&self.label, step));
                }
            }
            Shown::Not { .. } => {
                if now - self.started >= LINE_EVERY {
                    self.output.note(line(&self.label, step));
                    self.shown = Shown::Line { last: now };
                }
            }
            Shown::Bar(bar) => draw(bar, step),
            Shown::Line { last } => {
                if now - *last >= LINE_EVERY {
                    *last = now;
                    self.output.note(line(&self.label, step));
                }
            }
        }
    }

    /// Writes a line to standard error without disturbing the bar.
    pub(crate) fn note(&self, line: &str) {
        match &self.shown {
            Shown::Bar(bar) => bar.suspend(|| self.output.note(line)),
            _ => self.output.note(line),
        }
    }

    /// Takes the bar away, so that the result stands in its place.
    pub(crate) fn finish(self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

fn bar(label: &str, step: Step<'_>) -> ProgressBar {
    let bar = ProgressBar::hidden();
    // The message gives way when the terminal is narrow; a line that wraps could not be drawn over.
    let style = ProgressStyle::with_template("{prefix}  {bar:24}  {wide_msg}").expect("the template is valid");
    bar.set_style(style.progress_chars("━╸─"));
    bar.set_prefix(text::shorten(label, 24).into_owned());
    draw(&bar, step);
    bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(8));
    bar
}

fn draw(bar: &ProgressBar, step: Step<'_>) {
    bar.set_length(step.total.max(1));
    bar.set_position(step.done.min(step.total));
    bar.set_message(numbers(step));
}

fn line(label: &str, step: Step<'_>) -> String {
    format!("{label}  {}", numbers(step))
}

fn numbers(step: Step<'_>) -> String {
    let mut parts = Vec::new();
    if step.total > 0 {
        parts.push(format!("{:3} %", u128::from(step.done) * 100 / u128::from(step.total)));
    }
    parts.push(match step.amount {
        Amount::Bytes => text::size(step.done),
        Amount::Files if step.total > 0 => {
            format!("{} of {}", text::count(step.done), text::plural(step.total, "file", "files"))
        }
        Amount::Files => text::plural(step.done, "file", "files"),
    });
    if let Some(bps) = step.bps.filter(|bps| *bps > 0) {
        parts.push(text::rate(bps));
        let left = step.total.saturating_sub(step.done);
        if left > 0 {
            parts.push(format!("{} left", text::rough(Duration::from_secs(left.div_ceil(bps)))));
        }
    }
    if !step.remark.is_empty() {
        parts.push(text::escape(step.remark).into_owned());
    }
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_say_what_is_known() {
        let step = Step {
            done: 25_984_768_000,
            total: 42_520_395_872,
            bps: Some(1_191_182_336),
            remark: "lab-3",
            ..Step::default()
        };
        assert_eq!(numbers(step), " 61 %  24.2 GiB  1.1 GiB/s  14 s left  lab-3");
        assert_eq!(numbers(Step { done: 5, ..Step::default() }), "5 B");
    }
}
