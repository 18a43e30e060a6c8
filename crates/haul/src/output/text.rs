//! Values as people read them: names without tricks, sizes, ages, rates, aligned tables. Pure text, no printing.

use std::borrow::Cow;
use std::time::Duration;

pub(crate) use haul_core::text::escape;
use unicode_width::UnicodeWidthStr;

/// `39.6 GiB`, `512 B`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        // What would print as 1024.0 belongs to the next unit.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if value < 99.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// `1.1 GiB/s`.
pub(crate) fn rate(bytes_per_second: u64) -> String {
    format!("{}/s", size(bytes_per_second))
}

/// `812,340`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 file`, `2 files`.
pub(crate) fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// How long something took: `0.4 ms`, `36.4 s`, `2 min 5 s`, `3 h 20 min`.
pub(crate) fn took(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        0.0..0.1 => format!("{:.1} ms", seconds * 1e3),
        0.1..1.0 => format!("{:.0} ms", seconds * 1e3),
        1.0..60.0 => format!("{seconds:.1} s"),
        _ => rough(duration),
    }
}

/// How long something will take, without false precision: `14 s`, `2 min 5 s`, `3 h 20 min`, `4 d`.
pub(crate) fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => two(seconds / 60, "min", seconds % 60, "s"),
        3_600..172_800 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn two(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 { format!("{large} {large_unit}") } else { format!("{large} {large_unit} {small} {small_unit}") }
}

/// How long ago something was: `now`, `3 min`, `2 d`, `1 y`.
pub(crate) fn age(since: Duration) -> String {
    const DAY: u64 = 86_400;
    let seconds = since.as_secs();
    match seconds {
        0..60 => "now".to_owned(),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..DAY => format!("{} h", seconds / 3_600),
        DAY..5_184_000 => format!("{} d", seconds / DAY),
        5_184_000..31_536_000 => format!("{} mo", seconds / (30 * DAY)),
        _ => format!("{} y", seconds / (365 * DAY)),
    }
}

/// An id as people recognize it: `b3:7f4e…a91c`. What is not `xx:` and 64 digits comes back whole.
pub(crate) fn short_id(id: &str) -> Cow<'_, str> {
    match id.split_once(':') {
        Some((prefix, digits)) if digits.len() == 64 && digits.is_ascii() => {
            Cow::Owned(format!("{prefix}:{}…{}", &digits[..4], &digits[60..]))
        }
        _ => Cow::Borrowed(id),
    }
}

/// Columns that `text` takes on a terminal.
pub(crate) fn width(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

/// Cuts out the middle so that `text` takes at most `columns`: the end of a name tells more than its middle.
pub(crate) fn shorten(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    if columns < 3 {
        return Cow::Borrowed("…");
    }
    let tail_columns = (columns - 1) / 2;
    let head_columns = columns - 1 - tail_columns;
    let mut used = 0;
    let head: String = text
        .chars()
        .take_while(|letter| {
            used += width(letter.encode_utf8(&mut [0; 4]));
            used <= head_columns
        })
        .collect();
    used = 0;
    let mut tail: Vec<char> = text
        .chars()
        .rev()
        .take_while(|letter| {
            used += width(letter.encode_utf8(&mut [0; 4]));
            used <= tail_columns
        })
        .collect();
    tail.reverse();
    Cow::Owned(head + "…" + &tail.into_iter().collect::<String>())
}

/// Where a column's values stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// An aligned table. The `flexible` column gives way when the terminal is too narrow.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    flexible: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings; `flexible` is the index of the column that may be shortened.
    pub(crate) fn new(columns: &[(&'static str, Align)], flexible: usize) -> Self {
        Self { columns: columns.to_vec(), flexible, rows: Vec::new() }
    }

    /// Adds a row; one value for each column, already escaped.
    pub(crate) fn row(&mut self, values: impl Into<Vec<String>>) {
        let values = values.into();
        debug_assert_eq!(values.len(), self.columns.len());
        self.rows.push(values);
    }

    /// Whether it has no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Leaves out a column in which no row has anything.
    pub(crate) fn drop_if_empty(&mut self, heading: &str) {
        let Some(index) = self.columns.iter().position(|(name, _)| *name == heading) else { return };
        if self.rows.iter().all(|row| row.get(index).is_none_or(String::is_empty)) {
            self.columns.remove(index);
            self.rows.iter_mut().for_each(|row| drop(row.remove(index)));
            self.flexible -= usize::from(index < self.flexible);
        }
    }

    /// The lines, heading first, without trailing blanks. `columns` is the terminal's width, if there is one.
    pub(crate) fn lines(&self, columns: Option<usize>) -> Vec<String> {
        let mut widths: Vec<usize> = self.columns.iter().map(|(heading, _)| width(heading)).collect();
        for row in &self.rows {
            for (widest, value) in widths.iter_mut().zip(row) {
                *widest = (*widest).max(width(value));
            }
        }
        if let (Some(columns), Some(flexible)) = (columns, widths.get(self.flexible).copied()) {
            let others: usize = widths.iter().sum::<usize>() - flexible + 2 * widths.len().saturating_sub(1);
            widths[self.flexible] = flexible.min(columns.saturating_sub(others).max(16));
        }
        let heading: Vec<String> = self.columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
        std::iter::once(&heading).chain(&self.rows).map(|row| self.line(row, &widths)).collect()
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (index, ((value, columns), (_, align))) in row.iter().zip(widths).zip(&self.columns).enumerate() {
            let value = if index == self.flexible { shorten(value, *columns) } else { Cow::Borrowed(value.as_str()) };
            let blanks = " ".repeat(columns.saturating_sub(width(&value)));
            if index > 0 {
                line.push_str("  ");
            }
            match align {
                Align::Left => line.extend([&*value, &*blanks]),
                Align::Right => line.extend([&*blanks, &*value]),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_deceive() {
        assert_eq!(escape("plain-ü-日本.txt"), "plain-ü-日本.txt");
        assert_eq!(escape("a\u{1b}[31mb"), "a\\x1b[31mb");
        assert_eq!(escape("cod\u{202e}gpj.exe"), "cod\\u{202e}gpj.exe");
        assert_eq!(escape("a\nb\tc\u{85}"), "a\\nb\\tc\\u{85}");
    }

    #[test]
    fn sizes_never_show_1024() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (4200, "4.1 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (42_520_395_872, "39.6 GiB"),
            (150 * 1024, "150 KiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn times_and_counts() {
        assert_eq!(count(812_340), "812,340");
        assert_eq!(count(12), "12");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(took(Duration::from_micros(1_812)), "1.8 ms");
        assert_eq!(took(Duration::from_millis(36_412)), "36.4 s");
        assert_eq!(rough(Duration::from_secs(125)), "2 min 5 s");
        assert_eq!(rough(Duration::from_hours(2)), "2 h");
        assert_eq!(age(Duration::from_secs(3)), "now");
        assert_eq!(age(Duration::from_hours(50)), "2 d");
        assert_eq!(age(Duration::from_hours(24 * 400)), "1 y");
    }

    #[test]
    fn wide_names_are_cut_in_the_middle() {
        assert_eq!(shorten("Llama-3-70B-Instruct.gguf", 12), "Llama-….gguf");
        assert_eq!(shorten("日本日本日本日本", 7), "日…本", "a wide letter that does not fit whole is left out");
        assert_eq!(shorten("short", 12), "short");
    }

    #[test]
    fn tables_align_and_fit() {
        let mut table = Table::new(&[("#", Align::Right), ("NAME", Align::Left), ("SIZE", Align::Left)], 1);
        table.row(["1".into(), "a-rather-long-name-of-a-file.txt".into(), "4.1 KiB".into()]);
        table.row(["12".into(), "日本".into(), "1 B".into()]);
        let lines = table.lines(Some(40));
        assert_eq!(lines[0], " #  NAME                         SIZE");
        assert!(lines.iter().all(|line| width(line) <= 40), "{lines:#?}");
        assert_eq!(lines[2], "12  日本                         1 B");
    }
}
