//! Wall clocks that jump by ten years while everything runs. The processes get their time from a small library that is
//! loaded before the system's, and which adds what a file says; the clock since boot stays as it is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Home, Running, eventually, pattern, peer, wait_ready, write_old};

const MIB: usize = 1024 * 1024;
const TEN_YEARS: i64 = 10 * 365 * 24 * 3600;

const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
static volatile long *seconds;
__attribute__((constructor)) static void map(void) {
    int file = open(getenv("WALL_CLOCK_OFF_BY"), O_RDONLY);
    seconds = mmap(NULL, sizeof *seconds, PROT_READ, MAP_SHARED, file, 0);
}
int clock_gettime(clockid_t clock, struct timespec *time) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (result == 0 && clock == CLOCK_REALTIME && seconds != MAP_FAILED) time->tv_sec += *seconds;
    return result;
}
"#;

/// Wall clocks that can be set, one per process.
struct Clocks {
    folder: tempfile::TempDir,
    library: PathBuf,
}

impl Clocks {
    /// None, and told, where there is no C compiler.
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (source, library) = (folder.path().join("clock.c"), folder.path().join("clock.so"));
        fs::write(&source, LIBRARY).unwrap();
        let mut command = Command::new("cc");
        command.args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).arg("-ldl");
        if command.output().is_ok_and(|output| output.status.success()) {
            return Some(Self { folder, library });
        }
        println!("skipped: there is no C compiler here");
        None
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn set(&self, name: &str, seconds: i64) {
        use std::os::unix::fs::FileExt;
        let file = fs::File::options().write(true).create(true).truncate(false).open(self.file(name)).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    /// A role that lives by the clock of this name.
    fn start(&self, home: &Home, name: &str, arguments: &[&str]) -> Running {
        self.set(name, 0);
        let mut command = crate::support::haul();
        command.env("LD_PRELOAD", &self.library).env("WALL_CLOCK_OFF_BY", self.file(name)).args(arguments);
        home.start_command(command)
    }

    /// Whether a process lives by its clock.
    fn tells(&self, name: &str) -> i64 {
        let year = |seconds| {
            self.set(name, seconds);
            let mut command = Command::new("date");
            command.env("LD_PRELOAD", &self.library).env("WALL_CLOCK_OFF_BY", self.file(name)).arg("+%Y");
            let output = command.stdin(Stdio::null()).output().unwrap();
            String::from_utf8(output.stdout).unwrap().trim().parse::<i64>().unwrap()
        };
        year(TEN_YEARS) - year(0)
    }
}

fn get(home: &Home, what: &str, file: &Path) -> serde_json::Value {
    home.run(["get", "--json", what, "-o", file.to_str().unwrap()]).ok().record("done")
}

#[test]
fn wall_clocks_that_jump_disturb_neither_sessions_nor_downloads() {
    let Some(clocks) = Clocks::new() else { return };
    assert!((9..=10).contains(&clocks.tells("probe")), "the library is used");
    let contents = ["1", "2", "3", "4"].map(|name| (name, pattern(name.parse().unwrap(), 8 * MIB)));
    let share = tempfile::tempdir().unwrap();
    for (name, content) in &contents {
        write_old(&share.path().join(name), content);
    }
    let (index_home, owner_home, reader_home) = (Home::new(), Home::new(), Home::new());
    let index = clocks.start(&index_home, "index", &["index", "--json", "--index-listen", "127.0.0.1:0"]);
    let ticket = index.ticket();
    let shared = share.path().to_str().unwrap();
    let owner = clocks.start(&owner_home, "owner", &peer(&["--join", &ticket, "--share", shared]));
    wait_ready(&owner_home);
    let reader = clocks.start(&reader_home, "reader", &peer(&["--join", &ticket]));
    owner_home.run(["limit", "up", "12M"]).ok();
    let target = tempfile::tempdir().unwrap();
    let jumps =
        [("owner", 1, "reader", -1), ("owner", -1, "reader", 1), ("owner", 0, "index", 1), ("owner", 0, "index", -1)];
    for ((one, ahead, other, behind), (name, content)) in jumps.into_iter().zip(&contents) {
        let file = target.path().join(name);
        std::thread::scope(|scope| {
            let getting = scope.spawn(|| get(&reader_home, name, &file));
            eventually("some of it arrives", || {
                let transfers = reader_home.run(["transfers", "--json"]).records("transfer");
                transfers
                    .iter()
                    .any(|transfer| transfer["state"] == "running" && transfer["done"].as_u64().unwrap() > MIB as u64)
            });
            clocks.set(one, ahead * TEN_YEARS);
            clocks.set(other, behind * TEN_YEARS);
            let done = getting.join().unwrap();
            assert_eq!(done["fetched"], content.len(), "{done}");
        });
        assert!(fs::read(&file).unwrap() == *content);
        for home in [&owner_home, &reader_home] {
            let status = home.run(["status", "--json"]).record("status");
            assert_eq!(status["index"]["state"], "connected", "{status}");
        }
    }
    reader.stop();
    owner.stop();
    index.stop();
}
