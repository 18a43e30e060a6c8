//! What a load tool found: a table for people, results.json for the report.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use serde::Serialize;
use serde_json::Value;

use super::super::curves::{self, Curve, Curves};
use super::gauge::Spent;
use super::timing::{Histogram, Latency};
use crate::output::Output;

/// Version of a load tool's results.json.
const VERSION: u32 = 1;

/// Everything that one run found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    v: u32,
    #[serde(rename = "type")]
    kind: &'static str,
    /// The tool.
    tool: &'static str,
    /// CPU, cores, kernel.
    machine: BTreeMap<String, Value>,
    /// haul, build, commit.
    versions: BTreeMap<String, String>,
    /// What was asked for.
    parameters: BTreeMap<String, Value>,
    /// Figures by name; names end in their unit.
    figures: BTreeMap<String, f64>,
    /// Latencies by name, with their raw counts.
    latencies: BTreeMap<String, Latency>,
    /// Raw lists by name.
    samples: BTreeMap<String, Vec<f64>>,
    /// Texts that belong to the result, the queries of a search for example.
    texts: BTreeMap<String, Vec<String>>,
    /// What a reader must know.
    remarks: Vec<String>,
}

impl Outcome {
    /// Of one tool.
    pub(crate) fn new(tool: &'static str) -> Self {
        Self {
            v: VERSION,
            kind: "load",
            tool,
            machine: super::super::report::machine(),
            versions: super::super::report::versions(),
            parameters: BTreeMap::new(),
            figures: BTreeMap::new(),
            latencies: BTreeMap::new(),
            samples: BTreeMap::new(),
            texts: BTreeMap::new(),
            remarks: Vec::new(),
        }
    }

    /// Notes what was asked for.
    pub(crate) fn parameter(&mut self, name: &str, value: impl Into<Value>) {
        self.parameters.insert(name.to_owned(), value.into());
    }

    /// Notes a figure.
    pub(crate) fn figure(&mut self, name: &str, value: f64) {
        self.figures.insert(name.to_owned(), value);
    }

    /// Notes what `operations` of this kind cost: wall, rates, CPU of both sides.
    pub(crate) fn cost(&mut self, name: &str, operations: f64, spent: &Spent) {
        self.figure(&format!("{name}_count"), operations);
        self.figure(&format!("{name}_wall_s"), spent.wall.as_secs_f64());
        self.figure(&format!("{name}_per_s"), operations / spent.wall.as_secs_f64().max(1e-9));
        self.figure(&format!("{name}_client_cpu_s"), spent.client_cpu.as_secs_f64());
        self.figure(&format!("{name}_steal_share"), spent.steal);
        if let Some(cpu) = spent.server_cpu {
            self.figure(&format!("{name}_server_cpu_s"), cpu.as_secs_f64());
            self.figure(&format!("{name}_per_server_cpu_s"), operations / cpu.as_secs_f64().max(1e-9));
        }
        if spent.client_saturated() {
            self.remark(format!(
                "{name}: the client's core was saturated; the rate by the clock is the client's limit"
            ));
        }
    }

    /// Notes latencies.
    pub(crate) fn latency(&mut self, name: &str, histogram: &Histogram) {
        self.latencies.insert(name.to_owned(), histogram.latency());
    }

    /// Notes raw values.
    pub(crate) fn samples(&mut self, name: &str, values: Vec<f64>) {
        self.samples.insert(name.to_owned(), values);
    }

    /// Notes texts.
    pub(crate) fn texts(&mut self, name: &str, values: Vec<String>) {
        self.texts.insert(name.to_owned(), values);
    }

    /// Notes what a reader must know.
    pub(crate) fn remark(&mut self, text: impl Into<String>) {
        self.remarks.push(text.into());
    }

    /// Writes results.json into `out`, if there is one, and prints: JSON on one line, or a table.
    pub(crate) fn finish(&self, out: Option<&Path>, output: &Output) -> anyhow::Result<()> {
        if let Some(out) = out {
            fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
            fs::write(out.join("results.json"), serde_json::to_string_pretty(self)? + "\n")?;
            if !self.latencies.is_empty() {
                let svg = curves::draw(&self.curves()).map_err(|error| anyhow!("cannot draw: {error}"))?;
                fs::write(out.join("latency.svg"), svg)?;
            }
        }
        let text = if output.is_json() { serde_json::to_string(self)? } else { self.table() };
        output.line(text.trim_end()).map_err(|_| anyhow!("nobody reads the output"))
    }

    /// Each latency against how seldom it is exceeded: once in 2, 10, 100, 1,000 requests.
    fn curves(&self) -> Curves {
        let line = |(name, latency): (&String, &Latency)| {
            let points = [2_u32, 5, 10, 20, 50, 100, 200, 500, 1_000].into_iter();
            let points = points.map(|seldom| (f64::from(seldom), latency.exceeded_once_in(seldom)));
            Curve { name: name.clone(), points: points.filter(|(_, micros)| *micros > 0.0).collect() }
        };
        Curves {
            title: format!("Latency of {}", self.tool),
            x_label: "one request in … takes longer".to_owned(),
            y_label: "microseconds".to_owned(),
            lines: self.latencies.iter().map(line).collect(),
        }
    }

    fn table(&self) -> String {
        let mut text = format!("{}\n", self.tool);
        let width = self.figures.keys().map(String::len).max().unwrap_or_default();
        for (name, value) in &self.figures {
            let _ = writeln!(text, "  {name:width$}  {}", figure_text(*value));
        }
        if !self.latencies.is_empty() {
            let _ = writeln!(
                text,
                "  {:24} {:>9} {:>11} {:>11} {:>11} {:>11}",
                "latency, µs", "count", "p50", "p99", "p99.9", "max"
            );
        }
        for (name, latency) in &self.latencies {
            let Latency { count, p50_us, p99_us, p999_us, max_us, .. } = latency;
            let _ = writeln!(text, "  {name:24} {count:9} {p50_us:11.1} {p99_us:11.1} {p999_us:11.1} {max_us:11.1}");
        }
        for remark in &self.remarks {
            let _ = writeln!(text, "  ! {remark}");
        }
        text
    }
}

fn figure_text(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        return format!("{value:.0}");
    }
    if value.abs() >= 1_000.0 { format!("{value:.0}") } else { format!("{value:.4}") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn costs_become_rates() {
        let mut outcome = Outcome::new("lookup");
        let spent = Spent {
            wall: Duration::from_secs(2),
            server_cpu: Some(Duration::from_secs(1)),
            client_cpu: Duration::from_millis(500),
            steal: 0.01,
        };
        outcome.cost("lookup", 1_000.0, &spent);
        let figure = |name: &str| outcome.figures.get(name).copied();
        assert_eq!(figure("lookup_per_s"), Some(500.0));
        assert_eq!(figure("lookup_per_server_cpu_s"), Some(1_000.0));
        assert!(outcome.remarks.is_empty());
        let mut histogram = Histogram::default();
        histogram.add(1_500);
        outcome.latency("closed", &histogram);
        assert!(outcome.table().contains("1.5"), "{}", outcome.table());
        let curve = &outcome.curves().lines[0];
        assert_eq!((curve.name.as_str(), curve.points.len()), ("closed", 9));
        let json = serde_json::to_value(&outcome).expect("JSON");
        assert_eq!(json["latencies"]["closed"]["buckets"][0][1], 1);
        assert_eq!((json["type"].as_str(), json["tool"].as_str()), (Some("load"), Some("lookup")));
    }
}
