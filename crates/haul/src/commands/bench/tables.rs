//! The figures of a report as Markdown: one line per cell, and the goals beside what was reached.

use std::fmt::Write as _;

use super::results::{Cell, Figure, Results};

const MEAN: Figure = |row| Some(row.times.mean_us);
const OPS: Figure = |row| Some(row.ops_per_s);
const CPU: Figure = |row| row.server_cpu_us;

/// Columns of a line: medians over the rounds.
const COLUMNS: [(&str, Figure); 6] = [
    ("mean µs", MEAN),
    ("p50 µs", |row| Some(row.times.p50_us)),
    ("p99 µs", |row| Some(row.times.p99_us)),
    ("p99.9 µs", |row| Some(row.times.p999_us)),
    ("operations/s", OPS),
    ("server CPU µs/operation", CPU),
];

/// One line per cell.
pub(crate) fn cells(results: &Results) -> String {
    let mut text = String::from("| program | operation | peers | in flight |");
    for (title, _) in COLUMNS {
        let _ = write!(text, " {title} |");
    }
    text.push_str("\n| --- | --- | --: | --: |");
    text.push_str(&" --: |".repeat(COLUMNS.len()));
    for cell in results.cells() {
        let Cell { program, operation, peers, in_flight } = &cell;
        let _ = write!(text, "\n| {program} | {operation} | {peers} | {in_flight} |");
        for (_, figure) in COLUMNS {
            let _ = write!(text, " {} |", number(results.figure(&cell, figure)));
        }
    }
    text.push('\n');
    if let Some(disk) = results.disk_sync {
        let _ = writeln!(
            text,
            "\nAppend of 256 bytes and fdatasync: mean {} µs, p50 {} µs, p99 {} µs.",
            number(Some(disk.mean_us)),
            number(Some(disk.p50_us)),
            number(Some(disk.p99_us))
        );
    }
    text
}

/// A goal, and how far haul is from it in one cell.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Goal {
    /// What is compared.
    pub(crate) what: String,
    /// The figure, as a ratio.
    pub(crate) ratio: f64,
    /// The ratio that was asked for.
    pub(crate) wanted: f64,
    /// Whether smaller is better.
    pub(crate) at_most: bool,
}

impl Goal {
    fn reached(&self) -> bool {
        if self.at_most { self.ratio <= self.wanted } else { self.ratio >= self.wanted }
    }
}

/// All goals for which there are figures.
pub(crate) fn goals(results: &Results, several: Option<usize>) -> Vec<Goal> {
    let mut goals = Vec::new();
    for cell in results.cells().iter().filter(|cell| cell.program == "haul") {
        let Cell { operation, peers, in_flight, .. } = cell;
        let place = format!("{operation}, {peers} peers, {in_flight} in flight");
        let null = Cell { program: "null".to_owned(), ..cell.clone() };
        // The Python program's own way is one request in flight.
        let python = Cell { program: "python".to_owned(), in_flight: 1, ..cell.clone() };
        let mut add = |what: &str, haul: Option<f64>, other: Option<f64>, wanted, at_most| {
            if let (Some(haul), Some(other)) = (haul, other) {
                goals.push(Goal { what: format!("{place}: {what}"), ratio: haul / other, wanted, at_most });
            }
        };
        if operation == "register-bulk" {
            let python = Cell { operation: "register".to_owned(), ..python };
            add(
                "Python's mean time per file / haul's",
                results.figure(&python, MEAN),
                results.figure(cell, MEAN),
                10.0,
                false,
            );
        } else if *in_flight == 1 && operation != "register" {
            add("mean / null server's", results.figure(cell, MEAN), results.figure(&null, MEAN), 1.3, true);
        } else if Some(*in_flight) == several {
            add("operations/s / Python's", results.figure(cell, OPS), results.figure(&python, OPS), 10.0, false);
            add(
                "Python's server CPU per operation / haul's",
                results.figure(&python, CPU),
                results.figure(cell, CPU),
                4.0,
                false,
            );
        }
    }
    goals
}

/// The goals as a table.
pub(crate) fn goals_table(goals: &[Goal]) -> String {
    let mut text = String::from("| compared | goal | measured | reached |\n| --- | --: | --: | --- |\n");
    for goal in goals {
        let sign = if goal.at_most { "≤" } else { "≥" };
        let answer = if goal.reached() { "yes" } else { "**no**" };
        let _ = writeln!(text, "| {} | {sign} {} | {:.2} | {answer} |", goal.what, goal.wanted, goal.ratio);
    }
    text
}

/// With as many decimals as tell something; `-` for none.
pub(crate) fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value < 10.0 => format!("{value:.2}"),
        Some(value) if value < 1_000.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::Row;
    use super::super::results::tests::row;
    use super::*;

    #[test]
    fn goals_compare_the_right_cells() {
        let mut results = Results::new();
        let several = |row: Row| Row { cell: Cell { in_flight: 16, ..row.cell }, ..row };
        results.rows.extend([
            row("haul", "search", 1, 40.0),
            row("null", "search", 1, 30.0),
            row("python", "search", 1, 200.0),
            several(row("haul", "search", 1, 25.0)),
            row("python", "register", 1, 200.0),
            row("haul", "register-bulk", 1, 10.0),
        ]);
        let found: Vec<(String, bool)> =
            goals(&results, Some(16)).iter().map(|goal| (format!("{:.2}", goal.ratio), goal.reached())).collect();
        // Operations per second and CPU of the made-up rows follow from the mean.
        let expected = [("20.00", true), ("1.33", false), ("8.00", false), ("8.00", true)];
        let mut expected: Vec<_> = expected.map(|(ratio, reached)| (ratio.to_owned(), reached)).into();
        expected.sort();
        let mut found = found;
        found.sort();
        assert_eq!(found, expected);
        assert!(cells(&results).contains("| haul | search | 1 | 16 | 25.0 |"));
    }
}
