//! A store that is killed (`kill -9`) in the middle of its upkeep: while lists are rewritten, files of the log are begun,
//! cleaned and deleted, and segments of the search index are merged. Whatever was acknowledged is there afterwards, and
//! searches find what a plain loop finds.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use haul_core::manifest::ShareState;
use haul_core::query::parse;
use haul_index::store::{EmbeddedStore, IndexStore, StoreSettings};

use super::hunt::{SHARES, SMALL, compare, pages, runtime};
use super::oracle::Oracle;
use super::paths::{File, Files, Random, amend, come_back, connect, digest_of, replace};
use super::questions::any_query;

const CHILD: &str = "HAUL_KILLED_CHILD";
/// Changes that a child makes before it ends by itself.
const STEPS: usize = 48;
const SEED: u64 = 3;

/// What a child does: share after share is replaced once, then amended again and again, and replaced now and then.
struct Story {
    all: Files,
    /// What each share holds.
    held: Vec<Vec<File>>,
}

impl Story {
    fn new() -> Self {
        Self { all: Files::made_up(SHARES, 1_600, SEED), held: vec![Vec::new(); SHARES] }
    }

    fn share_of(step: usize) -> usize {
        step % SHARES
    }

    /// Performs a step on paper; returns what changes, or nothing if the share is replaced.
    fn step(&mut self, step: usize) -> Option<Vec<File>> {
        let share = Self::share_of(step);
        let held = &mut self.held[share];
        if (step / SHARES).is_multiple_of(5) {
            let list = self.all.of_share(share);
            let from = step * 37 % (list.len() / 4);
            *held = list[from..from + list.len() * 3 / 4].to_vec();
            return None;
        }
        let mut changed = Vec::new();
        for file in held.iter_mut().skip(step % 2).step_by(2) {
            file.mtime_ns += 1;
            changed.push(file.clone());
        }
        Some(changed)
    }
}

fn settings() -> StoreSettings {
    // A few steps fill a file of the log.
    StoreSettings { segment_bytes: 48 * 1024, search: SMALL, ..StoreSettings::default() }
}

/// Not a test of its own: the process that is killed.
#[test]
#[ignore = "run by the tests of this file"]
fn killed_child() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = EmbeddedStore::open_with(Path::new(&dir), settings()).unwrap();
        let mut told = Story::new();
        let mut states: Vec<Option<ShareState>> = vec![None; SHARES];
        for share in 0..SHARES {
            connect(&store, share).await;
        }
        for step in 0..STEPS {
            let share = Story::share_of(step);
            let changed = told.step(step);
            let held = &told.held[share];
            let state = match (changed, states[share]) {
                (Some(changed), Some(base)) => amend(&store, share, base, &changed, held).await,
                _ => replace(&store, share, held, step as u64 + 1).await,
            };
            states[share] = state;
            println!("did {step}");
            // No patience: a merge goes on while the next step is taken.
            store.maintain(Duration::ZERO).await.unwrap();
            println!("upkeep {step}");
            if step % 6 == 5 {
                while store.maintain(Duration::from_millis(5)).await.unwrap() {}
            }
        }
        println!("end");
    });
}

/// When a child is killed.
enum When {
    /// At a system call of one of its threads.
    Call(&'static str, usize),
    /// When it has said so many lines, wherever it is by then.
    Lines(usize),
}

/// Runs a child until it is killed; returns the last step that it acknowledged, and whether it was killed.
fn run_child(dir: &Path, when: &When) -> (Option<usize>, bool) {
    let program = std::env::current_exe().unwrap();
    let mut command = match when {
        When::Call(call, number) => {
            let mut command = Command::new("strace");
            command
                .args(["-f", "-qq", "-o", "/dev/null", &format!("--trace={call}")])
                .arg(format!("--inject={call}:signal=SIGKILL:when={number}"))
                .arg(program);
            command
        }
        When::Lines(_) => Command::new(program),
    };
    let mut child = command
        .args(["--exact", "killed::killed_child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut done, mut ended, mut lines) = (None, false, 0);
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        // The first one stands behind the name of the test.
        done = line.split_once("did ").map(|(_, step)| step.parse().unwrap()).or(done);
        ended |= line == "end";
        lines += 1;
        if matches!(when, When::Lines(most) if lines >= *most) {
            child.kill().unwrap();
            break;
        }
    }
    child.wait().unwrap();
    (done, !ended)
}

/// What each share holds after some steps.
fn held_after(steps: usize) -> Vec<Vec<File>> {
    let mut story = Story::new();
    (0..steps).for_each(|step| drop(story.step(step)));
    story.held
}

/// Restarts what a killed child left, and compares it with what it acknowledged.
async fn check(dir: &Path, done: Option<usize>, what: &str) {
    let store = EmbeddedStore::open_with(dir, settings()).unwrap();
    let acknowledged = done.map_or(0, |step| step + 1);
    let possible = [held_after(acknowledged), held_after((acknowledged + 1).min(STEPS))];
    let mut files = Vec::new();
    for share in 0..SHARES {
        if possible[0][share].is_empty() && come_back(&store, share).await.is_none() {
            continue;
        }
        let state = come_back(&store, share).await.unwrap();
        let found = possible.iter().find(|held| digest_of(&held[share]) == state.digest);
        let found = found.unwrap_or_else(|| panic!("{what}: share {share} lost what step {done:?} acknowledged"));
        files.extend(found[share].iter().cloned());
    }
    let files = Files(files);
    if files.0.is_empty() {
        return;
    }
    let oracle = Oracle::new(&files, vec![true; SHARES]);
    let mut random = Random(SEED);
    for settled in [false, true] {
        while settled && store.maintain(Duration::from_millis(50)).await.unwrap() {}
        for _ in 0..20 {
            let text = any_query(&mut random, &files);
            let Ok(query) = parse(&text) else { continue };
            let answered = pages(&store, &query, 1_000, false).await;
            if let Err(difference) = compare(&oracle.search(&query, false), &answered, 1_000, settled) {
                panic!("{what}: {text}\n{difference}");
            }
        }
    }
}

/// Kills a child there; false if it came to its end first.
fn kill(when: &When, what: &str) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let (done, killed) = run_child(dir.path(), when);
    runtime().block_on(check(dir.path(), done, what));
    killed
}

/// Writes and syncs of groups and of new files, of new names in the folder, and the deletion of files.
const CALLS: [&str; 4] = ["pwritev", "fdatasync", "fsync", "unlink"];

#[test]
fn a_store_killed_in_its_upkeep_keeps_what_it_acknowledged() {
    for (call, numbers) in CALLS.into_iter().zip([&[1, 7, 22, 40][..], &[2, 4, 15, 33], &[1, 4], &[1, 3]]) {
        for number in numbers {
            assert!(kill(&When::Call(call, *number), &format!("{call} {number}")), "{call} {number} never came");
        }
    }
    for lines in [9, 30, 66] {
        assert!(kill(&When::Lines(lines), &format!("line {lines}")));
    }
}

/// At every such call, and at every line.
#[test]
#[ignore = "kills some hundred processes"]
fn a_store_killed_anywhere_in_its_upkeep_keeps_what_it_acknowledged() {
    for call in CALLS {
        let numbers =
            (1..10_000).take_while(|number| kill(&When::Call(call, *number), &format!("{call} {number}"))).count();
        println!("killed at {numbers} calls of {call}");
        assert!(numbers > 2);
    }
    let lines = (4..10_000).take_while(|lines| kill(&When::Lines(*lines), &format!("line {lines}"))).count();
    println!("killed at {lines} lines");
}
