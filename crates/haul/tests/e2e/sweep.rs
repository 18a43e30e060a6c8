//! One system call of a download after another fails, or is its last: whatever it was, nothing wrong has the final name,
//! nothing but part files is left, and the same command then ends well.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Finished, Home, Running, assert_same_tree, haul, odd_folder, pattern, up, wait_ready};

const LEAF: usize = 64 * 1024;

/// What happens at the counted call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// It fails with this error.
    Error(&'static str),
    /// It is the process's last.
    Kill,
}

/// What a download calls on the files that it writes.
const CALLS: [&str; 14] = [
    "pwritev",
    "pwrite64",
    "ftruncate",
    "fdatasync",
    "fsync",
    "syncfs",
    "renameat",
    "renameat2",
    "unlinkat",
    "flock",
    "mkdirat",
    "symlinkat",
    "fstatfs",
    "utimensat",
];
/// What a disk says.
const ERRORS: [&str; 5] = ["EIO", "ENOSPC", "EDQUOT", "EROFS", "EINTR"];

struct Source {
    _data: tempfile::TempDir,
    shared: PathBuf,
    _home: Home,
    server: Running,
    ticket: String,
    reader: Home,
}

impl Source {
    fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let shared = data.path().join("things");
        odd_folder(&shared);
        fs::write(shared.join("big.bin"), pattern(61, 70 * LEAF + 5)).unwrap();
        let home = Home::new();
        let server = home.start(up(&["--share", shared.to_str().unwrap()]));
        wait_ready(&home);
        let ticket = server.ticket();
        Self { _data: data, shared, _home: home, server, ticket, reader: Home::new() }
    }

    fn folder(&self) -> String {
        format!("{}:things", self.server.ready["peer"].as_str().unwrap())
    }

    /// A download without a daemon, with a fault or without.
    fn get(&self, what: &str, target: &Path, fault: Option<(&str, Fault, usize, &Path)>) -> Finished {
        let mut command = haul();
        if let Some((call, fault, when, log)) = fault {
            let inject = match fault {
                Fault::Error(error) => format!("--inject={call}:error={error}:when={when}"),
                Fault::Kill => format!("--inject={call}:signal=SIGKILL:when={when}"),
            };
            command = Command::new("strace");
            command.args(["-f", "-qq", "-o"]).arg(log).args([format!("--trace={call}"), inject]);
            command.arg(env!("CARGO_BIN_EXE_haul"));
        }
        command.env("HAUL_HOME", self.reader.path()).args(["get", "--json", "--index", &self.ticket, what, "-o"]);
        let output = command.arg(target).stdin(Stdio::null()).output().expect("it starts");
        Finished(output)
    }

    /// The `when`-th call fails; whether there were so many.
    #[track_caller]
    fn survives(&self, what: &str, call: &str, fault: Fault, when: usize) -> bool {
        self.survives_from(tempfile::tempdir().unwrap(), what, call, fault, when)
    }

    /// The same of a download that goes on from a part file.
    #[track_caller]
    fn survives_resumed(&self, call: &str, fault: Fault, when: usize) -> bool {
        let place = tempfile::tempdir().unwrap();
        let (target, log) = (place.path().join("got"), self.reader.path().join("strace.log"));
        assert_eq!(self.get("big.bin", &target, Some(("pwritev", Fault::Error("EIO"), 2, &log))).code(), 7);
        assert!(place.path().join(".got.haul-progress").exists());
        self.survives_from(place, "big.bin", call, fault, when)
    }

    #[track_caller]
    fn survives_from(&self, place: tempfile::TempDir, what: &str, call: &str, fault: Fault, when: usize) -> bool {
        let case = format!("{what}: {fault:?} at {call} {when}");
        let (target, log) = (place.path().join("got"), self.reader.path().join("strace.log"));
        let broken = self.get(what, &target, Some((call, fault, when, &log)));
        let killed = broken.0.status.signal() == Some(9);
        let hit = killed || fs::read_to_string(&log).unwrap().contains("INJECTED");
        let said = format!("{case}\n{}\n{}", broken.stdout(), broken.stderr());
        assert!(!broken.stderr().contains("panicked"), "{said}");
        assert!(broken.code() == 0 || !hit || killed || broken.code() == 7, "a disk that fails is exit 7: {said}");
        assert!(hit || broken.code() == 0, "{said}");
        let names = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let ours = [".got.haul-part", ".got.haul-progress", ".got.haul-progress~", "got"];
        let other: Vec<String> = names.filter(|name| !ours.contains(&name.as_str())).collect();
        assert!(other.is_empty(), "{case}: {other:?}");
        if target.exists() {
            self.assert_right(what, &target);
            if target.is_dir() {
                // Only its name was not made durable; the same command would put another one into it.
                return hit;
            }
        } else {
            assert_ne!(broken.code(), 0, "{said}");
        }
        let repaired = self.get(what, &target, None);
        assert_eq!(repaired.code(), 0, "{said}\nthen {}{}", repaired.stdout(), repaired.stderr());
        self.assert_right(what, &target);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "{case}: nothing is left over");
        hit
    }

    #[track_caller]
    fn assert_right(&self, what: &str, target: &Path) {
        if what == "big.bin" {
            assert!(fs::read(target).unwrap() == fs::read(self.shared.join("big.bin")).unwrap(), "wrong bytes");
        } else {
            assert_same_tree(&self.shared, target);
        }
    }
}

#[test]
fn a_download_survives_faults_at_its_writes_syncs_and_names() {
    let source = Source::new();
    let folder = source.folder();
    let some = [
        ("big.bin", "pwritev", Fault::Error("EIO"), 1),
        ("big.bin", "pwritev", Fault::Error("EINTR"), 1),
        ("big.bin", "pwritev", Fault::Error("EDQUOT"), 2),
        ("big.bin", "pwritev", Fault::Kill, 2),
        ("big.bin", "fsync", Fault::Error("EIO"), 1),
        ("big.bin", "fsync", Fault::Error("EIO"), 2),
        ("big.bin", "fsync", Fault::Kill, 2),
        ("big.bin", "renameat2", Fault::Error("EROFS"), 1),
        ("big.bin", "renameat2", Fault::Error("EIO"), 1),
        ("big.bin", "renameat2", Fault::Kill, 1),
        ("big.bin", "unlinkat", Fault::Error("EIO"), 1),
        ("big.bin", "unlinkat", Fault::Kill, 1),
        (folder.as_str(), "mkdirat", Fault::Error("ENOSPC"), 2),
        (folder.as_str(), "symlinkat", Fault::Error("EIO"), 1),
        (folder.as_str(), "syncfs", Fault::Error("EIO"), 1),
        (folder.as_str(), "unlinkat", Fault::Error("EIO"), 1),
        (folder.as_str(), "renameat2", Fault::Kill, 1),
    ];
    for (what, call, fault, when) in some {
        assert!(source.survives(what, call, fault, when), "{what} makes no {call} {when}");
    }
    for (call, fault) in [("unlinkat", Fault::Error("EIO")), ("unlinkat", Fault::Kill), ("renameat2", Fault::Kill)] {
        assert!(source.survives_resumed(call, fault, 1), "no {call}");
    }
    source.server.stop();
}

#[test]
#[ignore = "long: cargo xtask nightly"]
fn a_download_survives_a_fault_at_every_call() {
    let source = Source::new();
    let (folder, mut cases) = (source.folder(), 0);
    for call in CALLS {
        for fault in ERRORS.map(Fault::Error).into_iter().chain([Fault::Kill]) {
            cases += (1..=100).take_while(|when| source.survives("big.bin", call, fault, *when)).count();
            cases += (1..=100).take_while(|when| source.survives_resumed(call, fault, *when)).count();
            // What is called once per small file is called often.
            cases += (1..=8).take_while(|when| source.survives(&folder, call, fault, *when)).count();
        }
    }
    println!("{cases} faults survived");
    assert!(cases > 150, "{cases}");
    source.server.stop();
}
