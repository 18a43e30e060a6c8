//! What was measured: one row for each case and round, and the table of medians beside the floors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::report;
use super::super::results::median;
use super::super::tables::number;
use crate::output::text::{Align, Table, count, plural, size};

/// Version of results.json of this benchmark.
const VERSION: u32 = 1;

/// What is measured, in the order of the table. A floor is the plainest way to do a part of what haul does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Case {
    /// Floor: BLAKE3 of the large file in one thread.
    HashOneThread,
    /// Floor: the same in all threads.
    HashAllThreads,
    /// Floor: the large file through a plain TCP connection on the loopback.
    Carry,
    /// Floor: as many bytes written, and synced beside that.
    Write,
    /// The large file from `share add` until it is durable at the index.
    ShareLarge,
    /// The large file from one peer to another.
    OneToOne,
    /// The large file from several peers to one.
    ManyToOne,
    /// The large file from one peer to several at once; the last one's end.
    OneToMany,
    /// Floor: the small files found, read and hashed in one thread.
    HashSmall,
    /// Floor: as many files created, written, closed, and synced together.
    Create,
    /// The small files from `share add` until they are durable at the index.
    ShareSmall,
    /// The small files from one peer to another.
    OneToOneSmall,
}

impl Case {
    /// What it is, in words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::HashOneThread => "floor: hash, one thread",
            Self::HashAllThreads => "floor: hash, all threads",
            Self::Carry => "floor: plain TCP, loopback",
            Self::Write => "floor: write, fsync",
            Self::ShareLarge => "share the large file",
            Self::OneToOne => "large file, one to one",
            Self::ManyToOne => "large file, many to one",
            Self::OneToMany => "large file, one to many",
            Self::HashSmall => "floor: walk, hash, one thread",
            Self::Create => "floor: create, write, close",
            Self::ShareSmall => "share the small files",
            Self::OneToOneSmall => "small files, one to one",
        }
    }

    /// Whether it is about the small files.
    pub(crate) fn is_small(self) -> bool {
        self >= Self::HashSmall
    }

    /// What is plainly a part of it.
    fn floors(self) -> &'static [Self] {
        match self {
            Self::ShareLarge => &[Self::HashAllThreads],
            Self::OneToOne | Self::ManyToOne | Self::OneToMany => &[Self::HashAllThreads, Self::Carry, Self::Write],
            Self::ShareSmall => &[Self::HashSmall],
            Self::OneToOneSmall => &[Self::Create],
            _ => &[],
        }
    }
}

/// What one round found in one case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// The case.
    pub(crate) case: Case,
    /// Counted from 0.
    pub(crate) round: u32,
    /// By the clock.
    pub(crate) wall_s: f64,
    /// Bytes that were moved, of all that received.
    pub(crate) bytes: u64,
    /// Files that were moved, of all that received.
    pub(crate) files: u64,
    /// CPU seconds of who gave, the index included, or of the only one; null where they cannot be read.
    pub(crate) giver_cpu_s: Option<f64>,
    /// CPU seconds of who took; null if nobody did.
    pub(crate) taker_cpu_s: Option<f64>,
    /// With one taker: peers that gave bytes to it.
    pub(crate) givers: Option<u32>,
    /// With several takers: what they had from the one that had the file, by the file's size.
    pub(crate) seed_share: Option<f64>,
}

impl Row {
    /// 10^6 bytes per second.
    pub(crate) fn mb_per_s(&self) -> f64 {
        self.bytes as f64 / self.wall_s / 1e6
    }

    /// Files per second.
    pub(crate) fn files_per_s(&self) -> f64 {
        self.files as f64 / self.wall_s
    }

    /// CPU seconds of all that took part.
    fn cpu_s(&self) -> Option<f64> {
        Some(self.giver_cpu_s? + self.taker_cpu_s.unwrap_or_default())
    }
}

/// How it was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Parameters {
    /// Bytes of the large file.
    pub(crate) large: u64,
    /// Small files.
    pub(crate) files: u32,
    /// Their bytes.
    pub(crate) small_bytes: u64,
    /// Peers that give together, and that take together.
    pub(crate) peers: u16,
    /// How often each case was measured.
    pub(crate) rounds: u32,
    /// File system of the folder.
    pub(crate) file_system: String,
}

/// What stands in results.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TransferResults {
    v: u32,
    /// Always `transfer`: tells it from the results of other benchmarks.
    benchmark: String,
    /// CPU, cores, kernel.
    machine: BTreeMap<String, serde_json::Value>,
    /// This program and its commit.
    versions: BTreeMap<String, String>,
    /// Sizes, numbers, place.
    pub(crate) parameters: Parameters,
    /// One per case and round.
    pub(crate) rows: Vec<Row>,
}

impl TransferResults {
    /// Of this machine and program, without rows.
    pub(crate) fn new(parameters: Parameters) -> Self {
        let (machine, versions) = (report::machine(), report::versions());
        Self { v: VERSION, benchmark: "transfer".to_owned(), machine, versions, parameters, rows: Vec::new() }
    }

    /// The median over the rounds of a figure of a case.
    fn figure(&self, case: Case, figure: impl Fn(&Row) -> Option<f64>) -> Option<f64> {
        median(self.rows.iter().filter(|row| row.case == case).filter_map(figure).collect())
    }

    /// Where and how it was measured, for people.
    pub(crate) fn setting(&self) -> String {
        let Parameters { large, files, small_bytes, peers, rounds, file_system } = &self.parameters;
        let text = |key| self.machine.get(key).map_or(String::new(), |value| value.to_string().replace('"', ""));
        format!(
            "{}, {} cores; {file_system}; one file of {}, {} of {}; many are {peers} peers; medians of {}, {}",
            text("cpu"),
            text("cores"),
            size(*large),
            count((*files).into()),
            size(*small_bytes),
            plural((*rounds).into(), "round", "rounds"),
            self.versions.get("build").map_or("", String::as_str),
        )
    }

    /// One line for each case.
    pub(crate) fn table(&self) -> Table {
        let right = |heading| (heading, Align::Right);
        let numbers = ["seconds", "MB/s", "files/s", "CPU s", "MB per CPU s"].map(right);
        let columns = [[("case", Align::Left)].as_slice(), &numbers, &[("beside", Align::Left)]].concat();
        let mut table = Table::new(&columns, columns.len() - 1);
        let mut cases: Vec<Case> = self.rows.iter().map(|row| row.case).collect();
        cases.sort_unstable();
        cases.dedup();
        for case in cases {
            let [wall, cpu] = [self.figure(case, |row| Some(row.wall_s)), self.figure(case, Row::cpu_s)]
                .map(|seconds| seconds.map_or_else(|| number(None), |seconds| format!("{seconds:.3}")));
            let rates = [
                self.figure(case, |row| Some(row.mb_per_s())),
                self.figure(case, |row| case.is_small().then(|| row.files_per_s())),
                self.figure(case, |row| Some(row.bytes as f64 / 1e6 / row.cpu_s().filter(|cpu| *cpu > 0.0)?)),
            ];
            let [mb, files, mb_per_cpu] = rates.map(number);
            table.row([case.words().to_owned(), wall, mb, files, cpu, mb_per_cpu, self.beside(case)]);
        }
        table
    }

    /// How much longer than the slowest of its floors a case takes for as many bytes, and who gave.
    fn beside(&self, case: Case) -> String {
        let rate = |case| self.figure(case, |row| Some(row.mb_per_s()));
        let floors = case.floors().iter().filter_map(|floor| Some((*floor, rate(*floor)?)));
        let slowest = floors.min_by(|one, other| one.1.total_cmp(&other.1));
        let times = slowest.zip(rate(case)).map(|((floor, floor_rate), rate)| {
            let words = floor.words();
            format!("{:.2} x {}", floor_rate / rate, words.strip_prefix("floor: ").unwrap_or(words))
        });
        let several = |row: &Row| row.givers.filter(|_| case == Case::ManyToOne).map(f64::from);
        let gave = self.figure(case, several).map(|givers| format!("{givers} gave"));
        let sent = self.figure(case, |row| row.seed_share).map(|share| format!("the seed sent {share:.2} of the file"));
        [times, gave, sent].into_iter().flatten().collect::<Vec<_>>().join("; ")
    }

    /// The text of results.json.
    pub(crate) fn to_json(&self) -> String {
        // Maps with text keys and plain numbers cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 GB in one file, or in 1,000 files.
    fn row(case: Case, round: u32, wall_s: f64) -> Row {
        let files = if case.is_small() { 1_000 } else { 1 };
        let (bytes, giver_cpu_s, taker_cpu_s) = (1_000_000_000, Some(0.5), Some(1.5));
        Row { case, round, wall_s, bytes, files, giver_cpu_s, taker_cpu_s, givers: None, seed_share: None }
    }

    fn results(rows: Vec<Row>) -> TransferResults {
        let parameters = Parameters {
            large: 1 << 30,
            files: 1_000,
            small_bytes: 1 << 30,
            peers: 4,
            rounds: 3,
            ..Parameters::default()
        };
        TransferResults {
            machine: BTreeMap::new(),
            versions: BTreeMap::new(),
            rows,
            ..TransferResults::new(parameters)
        }
    }

    #[test]
    fn medians_stand_beside_the_slowest_floor() {
        let mut rows = vec![row(Case::Write, 0, 1.0), row(Case::Carry, 0, 0.2), row(Case::OneToOneSmall, 0, 4.0)];
        rows.extend([3.0, 1.0, 2.0].map(|wall| row(Case::ManyToOne, 0, wall)));
        rows.extend([Row { bytes: 4_000_000_000, seed_share: Some(1.02), ..row(Case::OneToMany, 0, 6.0) }]);
        rows[4].givers = Some(4);
        let table = results(rows).table().lines(None).join("\n");
        insta::assert_snapshot!(table, @r"
        case                        seconds   MB/s  files/s  CPU s  MB per CPU s  beside
        floor: plain TCP, loopback    0.200   5000        -  2.000         500.0
        floor: write, fsync           1.000   1000        -  2.000         500.0
        large file, many to one       2.000  500.0        -  2.000         500.0  2.00 x write, fsync; 4 gave
        large file, one to many       6.000  666.7        -  2.000          2000  1.50 x write, fsync; the seed sent 1.02 of the file
        small files, one to one       4.000  250.0    250.0  2.000         500.0
        ");
    }

    #[test]
    fn results_json_is_golden() {
        let golden = r#"{
  "v": 1,
  "benchmark": "transfer",
  "machine": {},
  "versions": {},
  "parameters": {
    "large": 1073741824,
    "files": 1000,
    "small_bytes": 1073741824,
    "peers": 4,
    "rounds": 3,
    "file_system": ""
  },
  "rows": [
    {
      "case": "one-to-many",
      "round": 0,
      "wall_s": 2.0,
      "bytes": 1000000000,
      "files": 1,
      "giver_cpu_s": 0.5,
      "taker_cpu_s": 1.5,
      "givers": null,
      "seed_share": 1.02
    }
  ]
}
"#;
        let results = results(vec![Row { seed_share: Some(1.02), ..row(Case::OneToMany, 0, 2.0) }]);
        assert_eq!(results.to_json(), golden);
        assert_eq!(serde_json::from_str::<TransferResults>(golden).expect("reads"), results);
    }
}
