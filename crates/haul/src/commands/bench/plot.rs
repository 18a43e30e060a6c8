//! Draws results as SVG: a panel for each operation, a figure against the number of peers, all programs together.

use std::error::Error;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::FontTransform;

use super::results::{Cell, Figure, Results};

/// A picture: which figure, over which lines.
pub(crate) struct Plot<'a> {
    /// Stands above the panels.
    pub(crate) title: &'a str,
    /// Name of the y axis, with its unit.
    pub(crate) y_label: &'a str,
    /// The figure.
    pub(crate) figure: Figure,
    /// Text of a value on the y axis.
    pub(crate) y_text: fn(f64) -> String,
    /// Lines in drawing order.
    pub(crate) lines: &'a [Line],
    /// A level line with its name, in the panel of registrations.
    pub(crate) floor: Option<(&'a str, f64)>,
}

/// One line of a picture.
pub(crate) struct Line {
    /// Its name in the legend.
    pub(crate) name: &'static str,
    /// As in [`Cell`].
    pub(crate) program: &'static str,
    /// As in [`Cell`].
    pub(crate) in_flight: usize,
    /// Bulk registration takes the place of `register`; it has no line in other panels.
    pub(crate) bulk: bool,
    /// Its colour.
    pub(crate) colour: RGBColor,
}

const PANELS: [(&str, &str); 3] = [("register", "register a file"), ("search", "search"), ("lookup", "lookup")];
const SIZE: (u32, u32) = (1_260, 520);
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(40, 40, 40);
const PALE: RGBColor = RGBColor(225, 225, 225);
const FLOOR: RGBColor = RGBColor(120, 120, 120);

type Points = Vec<(i32, f64)>;

/// The picture as SVG text.
pub(crate) fn draw(results: &Results, plot: &Plot<'_>) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let body = root.titled(plot.title, (FONT, 22).into_font().color(&INK))?;
        let peers = levels(results);
        let range = value_range(results, plot);
        for (area, (operation, title)) in body.split_evenly((1, PANELS.len())).iter().zip(PANELS) {
            draw_panel(area, results, plot, &Panel { operation, title, peers: &peers, range })?;
        }
        root.present()?;
    }
    Ok(svg)
}

struct Panel<'a> {
    operation: &'a str,
    title: &'a str,
    peers: &'a [i32],
    range: (f64, f64),
}

fn draw_panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    results: &Results,
    plot: &Plot<'_>,
    panel: &Panel<'_>,
) -> Result<(), Box<dyn Error>> {
    // One level of room on both sides, without a label.
    let (first, last) = (panel.peers.first().copied().unwrap_or(1) - 1, panel.peers.last().copied().unwrap_or(1) + 1);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .caption(panel.title, (FONT, 18).into_font().color(&INK))
        .x_label_area_size(48)
        .y_label_area_size(84)
        .build_cartesian_2d(first..last, (panel.range.0..panel.range.1).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("peers at the same time")
        .y_desc(plot.y_label)
        .x_labels(panel.peers.len() + 2)
        .x_label_formatter(&|value| if panel.peers.contains(value) { value.to_string() } else { String::new() })
        .y_label_formatter(&|value| (plot.y_text)(*value))
        .label_style((FONT, 14).into_font().color(&INK))
        .axis_desc_style((FONT, 15).into_font().color(&INK))
        .bold_line_style(PALE)
        .light_line_style(TRANSPARENT)
        .draw()?;
    for line in plot.lines {
        let points = points(results, plot.figure, line, panel.operation);
        if points.is_empty() {
            continue;
        }
        let colour = line.colour;
        let style = ShapeStyle { color: colour.to_rgba(), filled: true, stroke_width: 2 };
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, style)))?;
    }
    if let Some((name, value)) = plot.floor.filter(|_| panel.operation == "register") {
        let ends = [(first, value), (last, value)];
        chart
            .draw_series(DashedLineSeries::new(ends, 6, 4, FLOOR.stroke_width(2)))?
            .label(name)
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], FLOOR.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font((FONT, 13).into_font().color(&INK).transform(FontTransform::None))
        .background_style(WHITE.mix(0.85))
        .border_style(PALE)
        .draw()?;
    Ok(())
}

fn points(results: &Results, figure: Figure, line: &Line, operation: &str) -> Points {
    let operation = match (line.bulk, operation) {
        (true, "register") => "register-bulk",
        (true, _) => return Vec::new(),
        (false, operation) => operation,
    };
    let of_line =
        |cell: &Cell| cell.program == line.program && cell.operation == operation && cell.in_flight == line.in_flight;
    let cells = results.cells().into_iter().filter(of_line);
    cells.filter_map(|cell| Some((cell.peers as i32, results.figure(&cell, figure)?))).collect()
}

fn levels(results: &Results) -> Vec<i32> {
    let mut levels: Vec<i32> = results.rows.iter().map(|row| row.cell.peers as i32).collect();
    levels.sort_unstable();
    levels.dedup();
    levels
}

/// Whole powers of ten around all values, with room for the legend above.
fn value_range(results: &Results, plot: &Plot<'_>) -> (f64, f64) {
    let lines = plot.lines.iter();
    let series = lines.flat_map(|line| PANELS.iter().map(move |(operation, _)| (line, *operation)));
    let drawn = series.flat_map(|(line, operation)| points(results, plot.figure, line, operation));
    let values = drawn.map(|(_, value)| value).chain(plot.floor.map(|(_, value)| value)).filter(|value| *value > 0.0);
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return (1.0, 10.0);
    }
    (10_f64.powf(low.log10().floor()), 10_f64.powf((high * 6.0).log10().ceil()))
}

/// `20 µs`, `3 ms`.
pub(crate) fn time_text(micros: f64) -> String {
    match micros {
        value if value >= 1e6 => format!("{} s", short(value / 1e6)),
        value if value >= 1e3 => format!("{} ms", short(value / 1e3)),
        value => format!("{} µs", short(value)),
    }
}

/// `900`, `12 k`, `1.5 M`.
pub(crate) fn count_text(count: f64) -> String {
    match count {
        value if value >= 1e6 => format!("{} M", short(value / 1e6)),
        value if value >= 1e3 => format!("{} k", short(value / 1e3)),
        value => short(value),
    }
}

fn short(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::row;
    use super::*;

    #[test]
    fn both_programs_and_the_units_are_in_the_picture() {
        let mut results = Results::new();
        for peers in 1..=3 {
            for operation in ["register", "search", "lookup"] {
                results.rows.push(row("haul", operation, peers as usize, 40.0 * f64::from(peers)));
                results.rows.push(row("python", operation, peers as usize, 160.0 * f64::from(peers)));
            }
        }
        let line = |name, program, colour| Line { name, program, in_flight: 1, bulk: false, colour };
        let plot = Plot {
            title: "Mean time",
            y_label: "mean time of one operation",
            figure: |row| Some(row.times.mean_us),
            y_text: time_text,
            lines: &[
                line("haul line", "haul", BLUE),
                line("python line", "python", RED),
                line("absent", "null", BLACK),
            ],
            floor: Some(("disk", 900.0)),
        };
        let svg = draw(&results, &plot).expect("drawn");
        for text in
            ["haul line", "python line", "disk", "peers at the same time", "100 µs", "mean time of one operation"]
        {
            assert!(svg.contains(text), "{text}");
        }
        assert!(!svg.contains("absent"));
        // A dot for each of three levels, three operations and two programs.
        assert_eq!(svg.matches("<circle").count(), 18);
        assert!(draw(&Results::new(), &plot).is_ok());
    }

    #[test]
    fn axis_texts() {
        assert_eq!([time_text(20.0), time_text(1_500.0), time_text(2e6)], ["20 µs", "1.5 ms", "2 s"]);
        assert_eq!([count_text(900.0), count_text(12_000.0)], ["900", "12 k"]);
    }
}
