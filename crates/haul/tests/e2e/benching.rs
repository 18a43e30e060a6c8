//! `haul bench transfer` with real peers, tiny.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::support::{Finished, Home, eventually, haul, signal};

const TINY: [&str; 9] = ["bench", "transfer", "--json", "--quiet", "--large", "300k", "--files", "20", "--peers"];

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

/// Processes whose home lies in this folder.
fn running_below(folder: &Path) -> usize {
    let home = format!("HAUL_HOME={}/haul-bench-", folder.canonicalize().unwrap().display());
    let environments = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path().join("environ"));
    let is_ours = |bytes: &Vec<u8>| bytes.split(|byte| *byte == 0).any(|line| line.starts_with(home.as_bytes()));
    environments.filter_map(|path| fs::read(path).ok()).filter(is_ours).count()
}

#[test]
fn transfers_are_measured_with_real_peers_and_nothing_is_left() {
    let (home, folder) = (Home::new(), tempfile::tempdir().unwrap());
    let (dir, out) = (folder.path().join("dir"), folder.path().join("out"));
    fs::create_dir(&dir).unwrap();
    let places = ["2", "--rounds", "1", "--dir", dir.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let rows = home.run(TINY.into_iter().chain(places)).ok().records("bench");
    let results: Value = serde_json::from_slice(&fs::read(out.join("results.json")).unwrap()).unwrap();
    assert_eq!(results["rows"].as_array().unwrap().len(), rows.len());
    let row = |case: &str| rows.iter().find(|row| row["case"] == case).unwrap_or_else(|| panic!("{case} in {rows:?}"));
    let moved = |case: &str| (row(case)["bytes"].as_u64().unwrap(), row(case)["files"].as_u64().unwrap());
    assert_eq!(moved("one-to-one"), (300_000, 1));
    assert_eq!(moved("one-to-many"), (600_000, 2));
    assert_eq!(moved("one-to-one-small").1, 20);
    assert!(row("one-to-many")["seed_share"].as_f64().unwrap() > 0.0);
    assert!(row("many-to-one")["givers"].as_u64().unwrap() > 0);
    assert!(rows.iter().all(|row| row["wall_s"].as_f64().unwrap() > 0.0));
    assert_eq!((rows.len(), entries(&dir), running_below(&dir)), (12, 0, 0));
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written_and_an_interrupt_leaves_nothing() {
    let (home, folder) = (Home::new(), tempfile::tempdir().unwrap());
    let dir = folder.path().to_str().unwrap();
    let refused = home.run(["bench", "transfer", "--large", "9000T", "--dir", dir]);
    assert!(refused.code() != 0 && refused.stderr().contains("are free"), "{}", refused.stderr());
    assert_eq!(entries(folder.path()), 0);

    let mut command = haul();
    command.args(TINY).args(["2", "--rounds", "100", "--dir", dir]).env("HAUL_HOME", home.path());
    let bench = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("a peer runs", || running_below(folder.path()) > 0);
    signal(&bench.id().to_string(), "INT");
    let finished = Finished(bench.wait_with_output().unwrap());
    assert_eq!(finished.code(), 130, "{}", finished.stderr());
    assert_eq!((entries(folder.path()), running_below(folder.path())), (0, 0));
}
