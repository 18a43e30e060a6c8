//! A million files from the first day. Ignored in the quick run: it means something only on an optimized build.

use std::fs;
use std::time::Instant;

use crate::support::{Home, eventually, peer};

const FILES: usize = 1_000_000;
const PER_FOLDER: usize = 1_000;

#[test]
#[ignore = "scale: cargo xtask test runs it on an optimized build"]
fn a_million_empty_files_are_registered_and_found() {
    let data = tempfile::tempdir().unwrap();
    for folder in 0..FILES / PER_FOLDER {
        let path = data.path().join(format!("series-{folder:04}"));
        fs::create_dir(&path).unwrap();
        for n in 0..PER_FOLDER {
            fs::File::create(path.join(file_name(folder * PER_FOLDER + n))).unwrap();
        }
    }
    let (index_home, peer_home) = (Home::new(), Home::new());
    let index = index_home.start(["index", "--json", "--index-listen", "127.0.0.1:0"]);
    let ticket = index.ticket();
    let peer = peer_home.start(peer(&["--join", &ticket]));
    let began = Instant::now();
    peer_home.run(["share", "add", "--json", data.path().to_str().unwrap()]).ok();
    let (mut walked, mut registered) = (None, 0);
    eventually("a million entries are registered", || {
        let share = peer_home.run(["share", "ls", "--json"]).ok().record("share");
        if walked.is_none() && share["state"] != "scanning" {
            walked = Some(began.elapsed());
        }
        registered = share["registered"].as_u64().unwrap();
        share["state"] == "ready" && registered as usize >= FILES
    });
    let all = began.elapsed();
    let walked = walked.unwrap_or(all);
    let memory_kib = resident_kib(index.pid());
    let rare = peer_home.run(["search", "--json", "k0-0777777"]).ok();
    let summary = rare.record("summary");
    let examined = summary["examined"].as_u64().expect("the work is counted");
    println!(
        "walk {walked:?}, registered {all:?}, index {} MiB, rare query examined {examined} names",
        memory_kib / 1024
    );
    assert_eq!(rare.records("hit").len(), 1);
    assert!(examined < FILES as u64 / 100, "{examined} names examined");
    let behind = all.saturating_sub(walked);
    assert!(behind.as_secs() < 20, "registered {behind:?} after the walk");
    assert!(memory_kib < 400 * 1024, "index uses {} MiB", memory_kib / 1024);
    peer.stop();
    index.stop();
}

/// Names as data sets have them: a few words, a number, an extension.
fn file_name(n: usize) -> String {
    let words = ["image", "sample", "frame", "record", "track", "spectrum", "volume"];
    let extensions = ["jpg", "png", "wav", "csv", "npy"];
    format!("{}-k{}-{n:07}.{}", words[n % words.len()], n % 11, extensions[n % extensions.len()])
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
