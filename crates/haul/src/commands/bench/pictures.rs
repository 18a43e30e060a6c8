//! The two pictures of a report: mean time per operation, and operations per second, against the number of peers.

use std::error::Error;
use std::path::Path;

use plotters::style::RGBColor;

use super::plot::{self, Line, Plot};
use super::results::Results;

const ORANGE: RGBColor = RGBColor(213, 94, 0);
const PALE_ORANGE: RGBColor = RGBColor(240, 170, 110);
const BLUE: RGBColor = RGBColor(0, 90, 170);
const SKY: RGBColor = RGBColor(90, 170, 225);
const GREEN: RGBColor = RGBColor(0, 140, 100);
const GREY: RGBColor = RGBColor(150, 150, 150);

const fn line(name: &'static str, program: &'static str, in_flight: usize, colour: RGBColor) -> Line {
    Line { name, program, in_flight, bulk: false, colour }
}

/// Mean time per operation.
const TIME_LINES: [Line; 4] = [
    line("Python program", "python", 1, ORANGE),
    line("haul (TLS, durable)", "haul", 1, BLUE),
    line("null server (TLS)", "null", 1, GREY),
    Line { name: "haul, 200 in one commit", program: "haul", in_flight: 1, bulk: true, colour: GREEN },
];

/// Writes `mean-time.svg` and `throughput.svg`. `in_flight` is the level with several requests in flight, if there is
/// one.
pub(crate) fn write(results: &Results, in_flight: Option<usize>, directory: &Path) -> Result<(), Box<dyn Error>> {
    let time = Plot {
        title: "Mean time per operation, one request in flight per peer",
        y_label: "mean time per operation",
        figure: |row| Some(row.times.mean_us),
        y_text: plot::time_text,
        lines: &TIME_LINES,
        floor: results.disk_sync.map(|summary| ("fdatasync of this disk", summary.mean_us)),
    };
    std::fs::write(directory.join("mean-time.svg"), plot::draw(results, &time)?)?;
    let mut lines = vec![line("Python, 1 in flight", "python", 1, ORANGE), line("haul, 1 in flight", "haul", 1, BLUE)];
    if let Some(in_flight) = in_flight {
        lines.push(line("Python, several in flight", "python", in_flight, PALE_ORANGE));
        lines.push(line("haul, several in flight", "haul", in_flight, SKY));
    }
    lines.push(Line { name: "haul, 200 in one commit", program: "haul", in_flight: 1, bulk: true, colour: GREEN });
    let title = match in_flight {
        Some(in_flight) => {
            format!("Operations per second of all peers together (several = {in_flight} in flight per peer)")
        }
        None => "Operations per second of all peers together".to_owned(),
    };
    let throughput = Plot {
        title: &title,
        y_label: "operations per second",
        figure: |row| Some(row.ops_per_s),
        y_text: plot::count_text,
        lines: &lines,
        floor: None,
    };
    std::fs::write(directory.join("throughput.svg"), plot::draw(results, &throughput)?)?;
    Ok(())
}

/// The largest number of requests in flight that haul was driven with, if it is more than one.
pub(crate) fn several_in_flight(results: &Results) -> Option<usize> {
    results.rows.iter().map(|row| row.cell.in_flight).max().filter(|in_flight| *in_flight > 1)
}
