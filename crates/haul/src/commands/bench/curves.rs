//! Draws curves over a logarithmic axis as SVG: how something changes with the number of names or blobs.

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use clap::{Args, ValueHint};
use plotters::prelude::*;
use plotters::style::FontTransform;
use serde::Deserialize;

use super::plot::count_text;

/// Arguments of `haul bench curves`.
#[derive(Clone, Debug, Args)]
pub(crate) struct CurvesArgs {
    /// JSON: title, `x_label`, `y_label`, lines of name and points
    #[arg(value_name = "JSON", value_hint = ValueHint::FilePath)]
    curves: PathBuf,
    /// Write the picture here
    #[arg(long, value_name = "SVG", value_hint = ValueHint::FilePath)]
    to: PathBuf,
}

/// What is drawn.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Curves {
    /// Stands above.
    pub(crate) title: String,
    /// Name of the x axis.
    pub(crate) x_label: String,
    /// Name of the y axis.
    pub(crate) y_label: String,
    /// The curves in drawing order.
    pub(crate) lines: Vec<Curve>,
}

/// One curve.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Curve {
    /// In the legend.
    pub(crate) name: String,
    /// Its points from left to right.
    pub(crate) points: Vec<(f64, f64)>,
}

const SIZE: (u32, u32) = (860, 520);
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(40, 40, 40);
const PALE: RGBColor = RGBColor(225, 225, 225);
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 90, 170),
    RGBColor(213, 94, 0),
    RGBColor(0, 140, 100),
    RGBColor(90, 170, 225),
    RGBColor(150, 110, 60),
    RGBColor(120, 120, 120),
];

/// Reads the curves and writes the picture.
pub(crate) fn run(args: &CurvesArgs) -> anyhow::Result<()> {
    let curves: Curves = serde_json::from_slice(&fs::read(&args.curves)?)?;
    let svg = draw(&curves).map_err(|error| anyhow::anyhow!("cannot draw: {error}"))?;
    Ok(fs::write(&args.to, svg)?)
}

/// A little more room than the values take, so that no point lies on an edge; both axes are logarithmic.
fn range(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let low = values.clone().filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
    let high = values.fold(0.0, f64::max);
    if low > high { (1.0, 10.0) } else { (low / 1.5, high * 1.5) }
}

/// The part of the height that a legend takes, above all curves.
fn legend_part(lines: usize) -> f64 {
    const LINE: f64 = 21.0;
    const FRAME: f64 = 16.0;
    const PLOT: f64 = 420.0;
    ((lines as f64 * LINE + FRAME) / PLOT).min(0.5)
}

/// The picture as SVG text.
pub(crate) fn draw(curves: &Curves) -> Result<String, Box<dyn Error>> {
    let points = || curves.lines.iter().flat_map(|line| line.points.iter().copied());
    let ((x_low, x_high), (y_low, y_top)) = (range(points().map(|(x, _)| x)), range(points().map(|(_, y)| y)));
    let legend = legend_part(curves.lines.len());
    let y_high = y_top * (y_top / y_low).powf(legend / (1.0 - legend));
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .margin(14)
            .caption(&curves.title, (FONT, 20).into_font().color(&INK))
            .x_label_area_size(48)
            .y_label_area_size(80)
            .build_cartesian_2d((x_low..x_high).log_scale(), (y_low..y_high).log_scale())?;
        chart
            .configure_mesh()
            .x_desc(&curves.x_label)
            .y_desc(&curves.y_label)
            .x_label_formatter(&|value| count_text(*value))
            .y_label_formatter(&|value| count_text(*value))
            .label_style((FONT, 14).into_font().color(&INK))
            .axis_desc_style((FONT, 15).into_font().color(&INK))
            .bold_line_style(PALE)
            .light_line_style(TRANSPARENT)
            .draw()?;
        for (line, colour) in curves.lines.iter().zip(COLOURS.into_iter().cycle()) {
            let style = ShapeStyle { color: colour.to_rgba(), filled: true, stroke_width: 2 };
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), style))?
                .label(&line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
            chart.draw_series(line.points.iter().map(|point| Circle::new(*point, 4, style)))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .label_font((FONT, 13).into_font().color(&INK).transform(FontTransform::None))
            .background_style(WHITE.mix(0.85))
            .border_style(PALE)
            .draw()?;
        root.present()?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn all_lines_are_in_the_picture() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("curves.json"), directory.path().join("curves.svg"));
        let text = r#"{"title": "Latency", "x_label": "names", "y_label": "microseconds", "lines": [
            {"name": "ours", "points": [[100000, 20], [1000000, 30.5]]}, {"name": "theirs", "points": [[100000, 3000]]}]}"#;
        fs::write(&from, text).unwrap();
        run(&CurvesArgs { curves: from, to: to.clone() }).unwrap();
        let svg = fs::read_to_string(to).unwrap();
        assert!(["Latency", "names", "microseconds", "ours", "theirs"].iter().all(|part| svg.contains(part)));
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(
            draw(&Curves { title: String::new(), x_label: String::new(), y_label: String::new(), lines: vec![] })
                .is_ok()
        );
    }
}
