//! What a benchmark measured: rows of results.json, the statistics behind them, and the raw samples.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Version of results.json.
const VERSION: u32 = 1;

/// What stands in results.json.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results {
    /// Version of this form.
    pub(crate) v: u32,
    /// CPU, cores, kernel.
    pub(crate) machine: BTreeMap<String, serde_json::Value>,
    /// Programs and their versions.
    pub(crate) versions: BTreeMap<String, String>,
    /// Time of a small append and fdatasync on the disk that the index uses, if it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) disk_sync: Option<Summary>,
    /// One per program, operation, level and round.
    pub(crate) rows: Vec<Row>,
}

/// What is compared: a program doing an operation at a level.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// `haul`, `null` (haul's framing and TLS, answers at once) or `python`.
    pub(crate) program: String,
    /// `register`, `search`, `lookup`, or `register-bulk` (its times are per file).
    pub(crate) operation: String,
    /// Peers at the same time.
    pub(crate) peers: usize,
    /// Unanswered requests of each peer.
    pub(crate) in_flight: usize,
}

/// What one round measured in one cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// The cell.
    #[serde(flatten)]
    pub(crate) cell: Cell,
    /// Counted from 0.
    pub(crate) round: usize,
    /// Times of one operation as the peer sees it.
    #[serde(flatten)]
    pub(crate) times: Summary,
    /// Operations of all peers by the time from the first one's start to the last one's end.
    pub(crate) ops_per_s: f64,
    /// CPU microseconds of the server, all its processes, by operation; none where it cannot be read.
    pub(crate) server_cpu_us: Option<f64>,
}

/// Statistics over samples, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Samples.
    pub(crate) count: usize,
    /// Arithmetic mean.
    pub(crate) mean_us: f64,
    /// Median.
    pub(crate) p50_us: f64,
    /// 99th percentile.
    pub(crate) p99_us: f64,
    /// 99.9th percentile.
    pub(crate) p999_us: f64,
}

impl Summary {
    /// Of samples in microseconds; all zero if there are none.
    pub(crate) fn of(samples: &[f64]) -> Self {
        let mut ordered = samples.to_vec();
        ordered.sort_by(f64::total_cmp);
        let mean = ordered.iter().sum::<f64>() / ordered.len().max(1) as f64;
        let at = |permille| rounded(percentile(&ordered, permille));
        Self { count: ordered.len(), mean_us: rounded(mean), p50_us: at(500), p99_us: at(990), p999_us: at(999) }
    }
}

/// Nearest rank: the smallest sample that at least this share of all samples does not exceed.
fn percentile(ordered: &[f64], permille: usize) -> f64 {
    let rank = (ordered.len() * permille).div_ceil(1_000).max(1);
    ordered.get(rank - 1).copied().unwrap_or_default()
}

/// Three decimals are a nanosecond, enough for a file that people read.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}

/// The middle value, or the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get((values.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

/// A figure of a row.
pub(crate) type Figure = fn(&Row) -> Option<f64>;

impl Results {
    /// Results without rows.
    pub(crate) fn new() -> Self {
        Self { v: VERSION, ..Self::default() }
    }

    /// The median over the rounds of a figure of a cell.
    pub(crate) fn figure(&self, cell: &Cell, figure: Figure) -> Option<f64> {
        median(self.rows.iter().filter(|row| row.cell == *cell).filter_map(figure).collect())
    }

    /// All cells in order.
    pub(crate) fn cells(&self) -> Vec<Cell> {
        let mut cells: Vec<Cell> = self.rows.iter().map(|row| row.cell.clone()).collect();
        cells.sort();
        cells.dedup();
        cells
    }

    /// Adds rows and versions of other results; rounds are renumbered behind those of the same program.
    pub(crate) fn absorb(&mut self, other: Self) {
        let next_round = |rows: &[Row], program: &str| {
            rows.iter().filter(|row| row.cell.program == program).map(|row| row.round + 1).max().unwrap_or(0)
        };
        let before = self.rows.clone();
        for mut row in other.rows {
            row.round += next_round(&before, &row.cell.program);
            self.rows.push(row);
        }
        self.versions.extend(other.versions);
    }

    /// Reads a results.json.
    pub(crate) fn read(path: &Path) -> Result<Self, std::io::Error> {
        let results: Self = serde_json::from_slice(&std::fs::read(path)?)?;
        if results.v == VERSION {
            Ok(results)
        } else {
            Err(std::io::Error::other("written by another version of haul"))
        }
    }

    /// The text of results.json.
    pub(crate) fn to_json(&self) -> String {
        // Maps with text keys and plain numbers cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

/// The samples of one peer in one cell and round.
#[derive(Clone, Debug)]
pub(crate) struct Samples {
    /// The cell.
    pub(crate) cell: Cell,
    /// Counted from 0.
    pub(crate) round: usize,
    /// Counted from 1.
    pub(crate) peer: usize,
    /// In the order in which the answers came.
    pub(crate) micros: Vec<f64>,
}

/// First line of samples.csv.
pub(crate) const SAMPLES_HEADER: &str = "program,operation,peers,in_flight,round,peer,latencies_us\n";

/// The lines of samples.csv, without its header.
pub(crate) fn samples_csv(samples: &[Samples]) -> String {
    let mut text = String::new();
    for Samples { cell, round, peer, micros } in samples {
        let Cell { program, operation, peers, in_flight } = cell;
        let _ = write!(text, "{program},{operation},{peers},{in_flight},{round},{peer},");
        for (place, value) in micros.iter().enumerate() {
            let _ = write!(text, "{}{value:.1}", if place == 0 { "" } else { " " });
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::commands::bench) fn row(program: &str, operation: &str, peers: usize, mean_us: f64) -> Row {
        Row {
            cell: Cell { program: program.to_owned(), operation: operation.to_owned(), peers, in_flight: 1 },
            round: 0,
            times: Summary { count: 10, mean_us, p50_us: mean_us, p99_us: mean_us * 2.0, p999_us: mean_us * 3.0 },
            ops_per_s: 1e6 / mean_us,
            server_cpu_us: Some(mean_us / 2.0),
        }
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let ordered: Vec<f64> = (1..=1_000).map(f64::from).collect();
        assert_eq!(
            Summary::of(&ordered),
            Summary { count: 1_000, mean_us: 500.5, p50_us: 500.0, p99_us: 990.0, p999_us: 999.0 }
        );
        let ten: Vec<f64> = (1..=10).rev().map(f64::from).collect();
        assert_eq!(Summary::of(&ten), Summary { count: 10, mean_us: 5.5, p50_us: 5.0, p99_us: 10.0, p999_us: 10.0 });
        assert_eq!(Summary::of(&[7.0]).p999_us.to_bits(), 7.0_f64.to_bits());
        assert_eq!(Summary::of(&[]), Summary::default());
    }

    #[test]
    fn medians_take_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn results_json_is_golden() {
        let mut results = Results::new();
        results.machine.insert("cores".to_owned(), 2.into());
        results.versions.insert("haul".to_owned(), "0.1.0".to_owned());
        results.rows.push(Row { server_cpu_us: None, ..row("haul", "search", 3, 40.0) });
        let golden = r#"{
  "v": 1,
  "machine": {
    "cores": 2
  },
  "versions": {
    "haul": "0.1.0"
  },
  "rows": [
    {
      "program": "haul",
      "operation": "search",
      "peers": 3,
      "in_flight": 1,
      "round": 0,
      "count": 10,
      "mean_us": 40.0,
      "p50_us": 40.0,
      "p99_us": 80.0,
      "p999_us": 120.0,
      "ops_per_s": 25000.0,
      "server_cpu_us": null
    }
  ]
}
"#;
        assert_eq!(results.to_json(), golden);
        assert_eq!(serde_json::from_str::<Results>(golden).expect("reads"), results);
    }

    #[test]
    fn rounds_of_several_files_are_counted_on() {
        let mut results = Results::new();
        for mean in [10.0, 30.0, 20.0] {
            let rows = vec![row("python", "search", 1, mean), row("python", "lookup", 1, mean)];
            results.absorb(Results { rows, ..Results::new() });
        }
        let rounds: Vec<usize> = results.rows.iter().map(|row| row.round).collect();
        assert_eq!(rounds, [0, 0, 1, 1, 2, 2]);
        let cell = results.cells().into_iter().find(|cell| cell.operation == "search").expect("there");
        assert_eq!(results.figure(&cell, |row| Some(row.times.mean_us)), Some(20.0));
    }

    #[test]
    fn samples_are_one_line_each() {
        let cell = row("haul", "lookup", 2, 1.0).cell;
        let samples = [Samples { cell, round: 1, peer: 2, micros: vec![1.25, 30.0] }];
        assert_eq!(samples_csv(&samples), "haul,lookup,2,1,1,2,1.2 30.0\n");
    }
}
