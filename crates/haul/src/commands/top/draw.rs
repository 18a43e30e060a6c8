//! Draws the screen of `haul top`, for terminals down to some 40 columns and 10 rows.

use std::time::Duration;

use haul_peer::api::records::{TransferRecord, TransferState};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::Paragraph;

use super::model::{Mode, Screen, word};
use crate::output;
use crate::output::text::{Align, Table, escape, plural, rate, rough, shorten, size, took, width};
use crate::output::timeline;

/// From this width on there is room for sizes, rates and times left …
const WIDE: u16 = 70;
/// … and from this height on for the peers that give.
const TALL: u16 = 16;
/// Columns of a bar.
const BAR: usize = 10;

/// Draws all of it.
pub(super) fn screen(frame: &mut Frame<'_>, screen: &mut Screen) {
    let area = frame.area();
    let header = header(screen, area.width);
    let footer = footer(screen, area.width);
    let rows = [Constraint::Length(header.len() as u16), Constraint::Min(1), Constraint::Length(footer.len() as u16)];
    let [top, middle, bottom] = Layout::vertical(rows).areas(area);
    frame.render_widget(Paragraph::new(header), top);
    frame.render_widget(Paragraph::new(footer), bottom);
    if let Mode::Explain(id, _) = screen.mode {
        return explained(frame, middle, screen, id);
    }
    let givers = if area.height >= TALL { givers(screen, middle.width, middle.height / 3) } else { Vec::new() };
    let rows = [Constraint::Min(1), Constraint::Length(givers.len() as u16)];
    let [list, below] = Layout::vertical(rows).areas(middle);
    frame.render_widget(Paragraph::new(transfers(screen, list)), list);
    frame.render_widget(Paragraph::new(givers), below);
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

/// With colours off it is as bold as it can be.
fn painted(screen: &Screen, style: output::Style) -> Style {
    let color = match style {
        output::Style::Bold => return bold(),
        output::Style::Dim => return Style::new().add_modifier(Modifier::DIM),
        output::Style::Good => Color::Green,
        output::Style::Warning => Color::Yellow,
        output::Style::Bad => Color::Red,
    };
    if screen.colors { Style::new().fg(color) } else { Style::new() }
}

/// Parts side by side, as many as fit.
fn fitting(parts: &[String], columns: u16) -> String {
    let mut line = String::new();
    for part in parts.iter().filter(|part| !part.is_empty()) {
        let longer = if line.is_empty() { part.clone() } else { format!("{line}  {part}") };
        if !line.is_empty() && width(&longer) > usize::from(columns) {
            break;
        }
        line = longer;
    }
    line
}

fn header(screen: &Screen, columns: u16) -> Vec<Line<'static>> {
    let status = &screen.seen.status;
    let answer = status.index.answer_us.map(|us| format!(", answers in {}", took(Duration::from_micros(us))));
    let index = format!("index {}{}", status.index.state, answer.unwrap_or_default());
    let rates = format!("↓ {}  ↑ {}", rate(screen.rates.down), rate(screen.rates.up));
    let name = if status.name.is_empty() { "haul".into() } else { escape(&status.name).into_owned() };
    let totals = [
        format!("{} running, {} waiting or paused", status.downloads, status.waiting),
        format!("down {}", size(status.down_bytes)),
        format!("up {}", size(status.up_bytes)),
        format!("serves {}", plural(status.uploads, "peer", "peers")),
    ];
    let mut lines = vec![Line::styled(fitting(&[name, rates, index], columns), bold())];
    lines.push(Line::raw(fitting(&totals, columns)));
    let trouble = screen.silent.clone().or_else(|| status.problems.first().map(|problem| problem.message.clone()));
    if let Some(trouble) = trouble {
        let text = format!("! {}", escape(&trouble));
        let text = shorten(&text, usize::from(columns)).into_owned();
        lines.push(Line::styled(text, painted(screen, output::Style::Warning)));
    }
    lines
}

fn footer(screen: &Screen, columns: u16) -> Vec<Line<'static>> {
    let line = |text: &str| Line::raw(shorten(text, usize::from(columns)).into_owned());
    let keys = |keys: &[&str]| {
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        Line::styled(fitting(&keys, columns), painted(screen, output::Style::Dim))
    };
    match &screen.mode {
        Mode::Filter => vec![line(&format!("filter: {}▏", escape(&screen.filter))), keys(&["⏎ done", "esc all"])],
        Mode::Cancel(id) => {
            let name = screen.transfer(*id).map(name_of).unwrap_or_default();
            let question = format!("cancel {id} {name}? What arrived is kept.");
            let question = Line::styled(shorten(&question, usize::from(columns)).into_owned(), bold());
            vec![question, keys(&["y cancel it", "any other key: no"])]
        }
        Mode::Explain(..) => vec![keys(&["q back", "↑↓ scroll"])],
        Mode::List => {
            let keys = keys(&["q leave", "p pause", "r retry", "c cancel", "⏎ explain", "/ filter", "↑↓ select"]);
            let mut lines: Vec<Line<'static>> = below_list(screen, columns).iter().map(|text| line(text)).collect();
            lines.push(keys);
            lines
        }
    }
}

/// What came of the last order, else why the selected transfer is as it is and what can be done: a line, or two if one
/// is not enough.
fn below_list(screen: &Screen, columns: u16) -> Vec<String> {
    if !screen.said.is_empty() {
        return vec![escape(&screen.said).into_owned()];
    }
    let Some((_, transfer)) = screen.selected() else { return vec![String::new()] };
    let reason = transfer.reason.as_ref().map(|reason| format!("{}: {}", transfer.transfer, escape(reason)));
    let words: Vec<String> =
        reason.into_iter().chain(transfer.next.as_ref().map(|next| escape(next).into_owned())).collect();
    let one = words.join("   ");
    if width(&one) <= usize::from(columns) { vec![one] } else { words }
}

fn name_of(transfer: &TransferRecord) -> String {
    let name = transfer.path.rsplit('/').find(|part| !part.is_empty()).unwrap_or(&transfer.path);
    escape(name).into_owned()
}

fn transfers(screen: &Screen, area: Rect) -> Vec<Line<'static>> {
    let wide = area.width >= WIDE;
    let mut columns = vec![("ID", Align::Right), ("NAME", Align::Left), ("DONE", Align::Right)];
    if wide {
        columns.extend([("SIZE", Align::Right), ("RATE", Align::Right), ("LEFT", Align::Right)]);
    }
    columns.push(("STATE", Align::Left));
    let mut table = Table::new(&columns, 1);
    for transfer in screen.listed() {
        table.row(row(transfer, wide));
    }
    if table.is_empty() {
        let filtered = "nothing fits the filter; esc shows all";
        let text = if screen.filter.is_empty() { "no transfers: haul get NAME" } else { filtered };
        return vec![Line::raw(text)];
    }
    let mut lines = table.lines(Some(usize::from(area.width))).into_iter();
    let heading = Line::styled(lines.next().unwrap_or_default(), bold());
    let room = usize::from(area.height).saturating_sub(1).max(1);
    let selected = screen.selected().map_or(0, |(at, _)| at);
    let rows: Vec<String> = lines.collect();
    let first = (selected + 1).saturating_sub(room).min(rows.len().saturating_sub(room));
    let states: Vec<TransferState> = screen.listed().map(|transfer| transfer.state).collect();
    let shown = rows.into_iter().zip(states).enumerate().skip(first).take(room);
    let styled = shown.map(|(at, (text, state))| {
        let style = match state {
            TransferState::Failed => painted(screen, output::Style::Bad),
            TransferState::Waiting | TransferState::Paused => painted(screen, output::Style::Warning),
            TransferState::Done => painted(screen, output::Style::Good),
            _ => Style::new(),
        };
        if at == selected {
            // To the edge, so that it is a bar.
            let blanks = usize::from(area.width).saturating_sub(width(&text));
            return Line::styled(text + &" ".repeat(blanks), style.add_modifier(Modifier::REVERSED));
        }
        Line::styled(text, style)
    });
    std::iter::once(heading).chain(styled).collect()
}

fn row(transfer: &TransferRecord, wide: bool) -> Vec<String> {
    let total = transfer.total.filter(|total| *total > 0);
    let percent = total.map(|total| (u128::from(transfer.done) * 100 / u128::from(total)).min(100) as usize);
    let done = match percent {
        Some(percent) if wide => {
            let full = percent * BAR / 100;
            format!("{}{} {percent:3} %", "━".repeat(full), "─".repeat(BAR - full))
        }
        Some(percent) => format!("{percent} %"),
        None => String::new(),
    };
    let mut row = vec![transfer.transfer.to_string(), name_of(transfer), done];
    if wide {
        let runs = transfer.state == TransferState::Running && transfer.bps > 0;
        let left = total.map_or(0, |total| total.saturating_sub(transfer.done));
        let time = left.checked_div(transfer.bps).map(|seconds| rough(Duration::from_secs(seconds.max(1))));
        row.push(total.map(size).unwrap_or_default());
        row.push(if runs { rate(transfer.bps) } else { String::new() });
        row.push(time.filter(|_| runs && left > 0).unwrap_or_default());
    }
    // One that runs and gets nothing waits for something: the line below says for what.
    let waits = transfer.state == TransferState::Running && transfer.reason.is_some();
    row.push(if waits { "waiting".into() } else { word(transfer.state).to_owned() });
    row
}

fn givers(screen: &Screen, columns: u16, most: u16) -> Vec<Line<'static>> {
    let givers = screen.givers();
    if givers.is_empty() {
        return Vec::new();
    }
    let headings = [("GIVES", Align::Left), ("RATE", Align::Right), ("GAVE", Align::Right), ("TO", Align::Left)];
    let mut table = Table::new(&headings, 0);
    let room = usize::from(most).saturating_sub(2).max(1);
    for giver in givers.iter().take(room) {
        let to = plural(giver.transfers, "transfer", "transfers");
        table.row([escape(&giver.name).into_owned(), rate(giver.bps), size(giver.bytes), to]);
    }
    let mut lines = vec![Line::raw("")];
    for (at, line) in table.lines(Some(usize::from(columns))).into_iter().enumerate() {
        lines.push(if at == 0 { Line::styled(line, bold()) } else { Line::raw(line) });
    }
    if givers.len() > room {
        let more = plural((givers.len() - room) as u64, "more peer", "more peers");
        lines.push(Line::raw(format!("{more}: ⏎ shows all of one transfer")));
    }
    lines
}

fn explained(frame: &mut Frame<'_>, area: Rect, screen: &mut Screen, id: u64) {
    let mut lines = Vec::new();
    if let Some(transfer) = screen.transfer(id) {
        let heading = format!("{id} {}  {}", name_of(transfer), word(transfer.state));
        lines.push(Line::styled(shorten(&heading, usize::from(area.width)).into_owned(), bold()));
    }
    let notes: Vec<timeline::Line> = screen.explained.notes.iter().map(timeline::line).collect();
    let times = notes.iter().map(|note| note.time.len()).max().unwrap_or_default();
    for timeline::Line { style, time, text } in notes {
        let style = style.map_or_else(Style::new, |style| painted(screen, style));
        let filled = crate::explain::fill(&text, usize::from(area.width).saturating_sub(times + 1).max(8));
        for (at, part) in filled.lines().enumerate() {
            let time = if at == 0 { time.as_str() } else { "" };
            lines.push(Line::styled(format!("{time:>times$} {part}"), style));
        }
    }
    if !screen.explained.tallies.is_empty() {
        lines.push(Line::raw(""));
        let columns = usize::from(area.width);
        let table = timeline::providers(&screen.explained.tallies, Some(columns));
        lines.extend(table.lines(Some(columns)).into_iter().map(Line::raw));
        for fault in timeline::faults(&screen.explained.tallies) {
            let filled = crate::explain::fill(&fault, columns.max(8));
            let style = painted(screen, output::Style::Warning);
            lines.extend(filled.lines().map(|line| Line::styled(line.to_owned(), style)));
        }
    }
    let top = screen.bound_scroll(lines.len().saturating_sub(usize::from(area.height)));
    frame.render_widget(Paragraph::new(lines.split_off(top)), area);
}

#[cfg(test)]
mod tests;
