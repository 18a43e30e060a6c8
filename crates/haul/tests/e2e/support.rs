//! Real processes for end-to-end tests: start, wait for what they print, end by process id, leave nothing behind.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, test_kill_process_group};
use serde_json::Value;

/// Longer than anything here takes on a loaded machine; a test that needs it has failed.
const DEADLINE: Duration = Duration::from_mins(2);
/// For what a wrapper ran to end after a signal that nothing survives; longer only where nobody collects orphans.
const ORPHAN_DEADLINE: Duration = Duration::from_secs(2);

/// The program under test.
pub(crate) fn haul() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_haul"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HAUL_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// A machine of its own as far as haul can tell: one `HAUL_HOME`.
pub(crate) struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("temporary folder") }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a command to its end.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Finished {
        let output = haul()
            .env("HAUL_HOME", self.path())
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .expect("haul starts");
        Finished(output)
    }

    /// Runs `haul shell` in `folder` with a script on its standard input.
    pub(crate) fn shell(&self, folder: &Path, script: &str) -> Finished {
        let mut command = haul();
        command.env("HAUL_HOME", self.path()).arg("shell").current_dir(folder);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("haul starts");
        // A shell that stops early does not read the rest of its script.
        let _ = child.stdin.take().expect("piped").write_all(script.as_bytes());
        Finished(child.wait_with_output().expect("haul ends"))
    }

    /// Starts a role and waits for its ready line.
    pub(crate) fn start<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Running {
        let mut command = haul();
        command.args(arguments);
        self.start_command(command)
    }

    /// Starts a prepared command (a wrapped one, say) as a role and waits for its ready line.
    pub(crate) fn start_command(&self, mut command: Command) -> Running {
        // A group of its own, so that what a wrapper started ends with it.
        command.env("HAUL_HOME", self.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().expect("haul starts");
        let lines = read_lines(child.stdout.take().expect("piped"));
        let errors = child.stderr.take().map(|mut stderr| {
            std::thread::spawn(move || {
                let mut text = String::new();
                let _ = stderr.read_to_string(&mut text);
                text
            })
        });
        let mut running = Running { child, lines, errors, ready: Value::Null };
        let Ok(line) = running.lines.recv_timeout(DEADLINE) else {
            let _ = running.child.kill();
            let text = running.errors.take().and_then(|thread| thread.join().ok());
            panic!("no ready line; stderr: {}", text.unwrap_or_default());
        };
        running.ready = serde_json::from_str(&line).unwrap_or_else(|_| panic!("ready line: {line}"));
        assert_eq!(running.ready["type"], "ready", "{line}");
        running
    }
}

fn read_lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// A role that runs.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    errors: Option<std::thread::JoinHandle<String>>,
    pub(crate) ready: Value,
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn ticket(&self) -> String {
        self.ready["ticket"].as_str().expect("the ready line has a ticket").to_owned()
    }

    /// SIGTERM, then a clean exit with code 0.
    pub(crate) fn stop(mut self) {
        signal(&self.pid().to_string(), "TERM");
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "exit of {}: {status}", self.ready);
    }

    /// SIGKILL: no chance to tidy up.
    pub(crate) fn kill(self) {
        drop(self);
    }

    /// Waits until it ends by itself (a wrapper killed it, say).
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        let (sender, receiver) = channel();
        let pid = self.pid();
        let watchdog = std::thread::spawn(move || {
            if receiver.recv_timeout(DEADLINE).is_err() {
                signal(&format!("-{pid}"), "KILL");
            }
        });
        let status = self.child.wait().expect("a child can be waited for");
        let _ = sender.send(());
        let _ = watchdog.join();
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.child.id() as i32);
        if matches!(self.child.try_wait(), Ok(None)) {
            signal(&format!("-{}", self.pid()), "KILL");
        }
        let _ = self.child.wait();
        // What a wrapper ran dies with it, but perhaps a moment later, and holds its locks until then.
        let end = Instant::now() + ORPHAN_DEADLINE;
        while group.is_some_and(|group| test_kill_process_group(group).is_ok()) && Instant::now() < end {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

/// Sends a signal to a process, or with a minus to its group.
pub(crate) fn signal(target: &str, name: &str) {
    let _ = Command::new("kill").args(["-s", name, "--", target]).status();
}

/// A command that ended.
pub(crate) struct Finished(pub(crate) Output);

impl Finished {
    pub(crate) fn code(&self) -> i32 {
        self.0.status.code().unwrap_or(-1)
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code(), 0, "stdout: {}\nstderr: {}", self.stdout(), self.stderr());
        self
    }

    /// The JSON lines of one type.
    #[track_caller]
    pub(crate) fn records(&self, kind: &str) -> Vec<Value> {
        let lines: Vec<Value> = self
            .stdout()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
            .collect();
        lines.into_iter().filter(|record| record["type"] == kind).collect()
    }

    #[track_caller]
    pub(crate) fn record(&self, kind: &str) -> Value {
        let mut records = self.records(kind);
        assert_eq!(records.len(), 1, "{kind} in {}\nstderr: {}", self.stdout(), self.stderr());
        records.remove(0)
    }
}

/// Asks again until the answer holds; for what another process does in its own time.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "never came true: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Waits until every share of this home is hashed and registered.
#[track_caller]
pub(crate) fn wait_ready(home: &Home) {
    let mut last = String::new();
    eventually("all shares ready", || {
        let answer = home.run(["share", "ls", "--json"]);
        last = answer.stdout() + &answer.stderr();
        let shares = answer.records("share");
        answer.code() == 0 && !shares.is_empty() && shares.iter().all(|share| share["state"] == "ready")
    });
}

/// Bytes that look random and are the same every time.
pub(crate) fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut content = vec![0; bytes];
    reader.fill(&mut content);
    content
}

/// Writes a file that looks an hour old: what changed just now is hashed again after a restart.
pub(crate) fn write_old(path: &Path, content: &[u8]) {
    fs::write(path, content).expect("file");
    let hour_ago = std::time::SystemTime::now() - Duration::from_hours(1);
    fs::File::options().write(true).open(path).and_then(|file| file.set_modified(hour_ago)).expect("mtime");
}

/// A folder with what real folders have: sizes around a leaf, empty files and folders, links, executables, odd names.
pub(crate) fn odd_folder(root: &Path) {
    const LEAF: usize = 64 * 1024;
    fs::create_dir_all(root.join("sub/deeper")).expect("folders");
    fs::create_dir_all(root.join("empty/inside")).expect("folders");
    for (n, size) in [0, 1, LEAF - 1, LEAF, LEAF + 1, 5 * LEAF + 17].into_iter().enumerate() {
        fs::write(root.join(format!("size-{size}.bin")), pattern(n as u64, size)).expect("file");
    }
    fs::write(root.join("sub/same.txt"), "same content").expect("file");
    fs::write(root.join("sub/deeper/also same.txt"), "same content").expect("file");
    fs::write(root.join("name::with::colons.pm"), "package name;").expect("file");
    fs::write(root.join("new\nline and \u{1b}[31mcolour"), "x").expect("file");
    fs::write(root.join("right\u{202e}to left"), "y").expect("file");
    // Names that are one on some systems, or none.
    let alike =
        ["README", "readme", "caf\u{e9}", "cafe\u{301}", "CON", "com\u{b9}.txt", "dots...", "space ", "a\\b", "c:d"];
    for name in alike {
        fs::write(root.join(name), name).expect("file");
    }
    fs::write(root.join(format!("{}m", "n".repeat(254))), "as long, and alike").expect("file");
    fs::write(root.join("n".repeat(255)), "long").expect("file");
    fs::write(root.join(odd_name()), "not UTF-8").expect("file");
    let script = root.join("sub/run.sh");
    fs::write(&script, "#!/bin/sh\n").expect("file");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("mode");
    symlink("same.txt", root.join("sub/link")).expect("link");
    symlink("nowhere", root.join("dangling")).expect("link");
    symlink("../sub", root.join("sub/loop")).expect("link");
    for n in 0..300 {
        fs::write(root.join(format!("sub/deeper/small-{n:03}.dat")), pattern(n, n as usize * 7)).expect("file");
    }
}

fn odd_name() -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(OsStr::from_bytes(b"latin-\xe9-\xff.txt"))
}

/// `diff -r --no-dereference` finds nothing, and executable bits are equal.
#[track_caller]
pub(crate) fn assert_same_tree(left: &Path, right: &Path) {
    let output = Command::new("diff")
        .args(["-r", "--no-dereference"])
        .args([left, right])
        .output()
        .expect("diff is installed everywhere");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let executables = |root: &Path| {
        let output = Command::new("find").arg(".").args(["-type", "f", "-perm", "-u+x"]).current_dir(root).output();
        let mut lines: Vec<Vec<u8>> =
            output.expect("find").stdout.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        lines.sort();
        lines
    };
    assert_eq!(executables(left), executables(right));
}

/// Files below a folder that haul leaves only while a download runs.
pub(crate) fn leftovers(root: &Path) -> Vec<PathBuf> {
    let output = Command::new("find").arg(root).args(["-name", "*haul-part*"]).output().expect("find");
    String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect()
}

/// Arguments of `haul up` on loopback with free ports.
pub(crate) fn up<'a>(extra: &[&'a str]) -> Vec<&'a str> {
    let mut arguments =
        vec!["up", "--json", "--listen", "127.0.0.1:0", "--index-listen", "127.0.0.1:0", "--web-listen", "127.0.0.1:0"];
    arguments.extend(extra);
    arguments
}

/// Arguments of `haul peer` on loopback with free ports.
pub(crate) fn peer<'a>(extra: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["peer", "--json", "--listen", "127.0.0.1:0", "--web-listen", "127.0.0.1:0"];
    arguments.extend(extra);
    arguments
}

/// `haul …` under strace, which kills the process when one of its threads makes its `when`-th call of `call` on the file
/// `on` (on any, if none), and writes every such call to `log`.
pub(crate) fn killed_at(call: &str, on: Option<&Path>, when: usize, log: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-y", "-o"])
        .arg(log)
        .args(on.into_iter().flat_map(|path| [OsStr::new("-P"), path.as_os_str()]))
        .arg(format!("--trace={call}"))
        .arg(format!("--inject={call}:signal=SIGKILL:when={when}"))
        .arg(env!("CARGO_BIN_EXE_haul"))
        .args(arguments)
        .stdin(Stdio::null());
    command
}

/// `haul …` under strace, which lets every call of `call` on the file `on` fail with `error`, in each thread from its
/// `when`-th on.
pub(crate) fn failing_at(call: &str, on: &Path, error: &str, when: usize, log: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-y", "-o"])
        .arg(log)
        .arg("-P")
        .arg(on)
        .arg(format!("--trace={call}"))
        .arg(format!("--inject={call}:error={error}:when={when}+"))
        .arg(env!("CARGO_BIN_EXE_haul"))
        .args(arguments)
        .stdin(Stdio::null());
    command
}

/// Sum of what the logged calls on paths containing `part` returned: bytes read or written.
pub(crate) fn logged_bytes(log: &Path, part: &str) -> u64 {
    let text = String::from_utf8_lossy(&fs::read(log).expect("strace wrote a log")).into_owned();
    text.lines()
        .filter(|line| line.contains(part))
        .filter_map(|line| line.rsplit_once("= ")?.1.trim().parse::<u64>().ok())
        .sum()
}
