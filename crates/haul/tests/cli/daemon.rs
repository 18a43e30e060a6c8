//! A played daemon: answers each request on its unix socket with prepared lines, and notes what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

/// What to answer to a request.
pub(crate) struct Play {
    /// `POST /v1/search`.
    pub(crate) request: &'static str,
    /// The lines of the answer.
    pub(crate) answer: String,
    /// Whether the answer stays open after its lines, as that of a download under way does.
    pub(crate) stays_open: bool,
}

/// Answers with these lines.
pub(crate) fn play(request: &'static str, lines: &[&str]) -> Play {
    Play { request, answer: lines.join("\n") + "\n", stays_open: false }
}

/// A daemon and its home.
pub(crate) struct Daemon {
    home: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
    notices: Receiver<String>,
}

impl Daemon {
    /// Starts one. The thread ends with the test's process.
    pub(crate) fn start(plays: Vec<Play>) -> Self {
        let home = tempfile::Builder::new().prefix("haul").tempdir().unwrap();
        std::fs::create_dir_all(home.path().join("run")).unwrap();
        let listener = UnixListener::bind(home.path().join("run/haul.sock")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (sender, notices) = channel();
        let plays = Arc::new(plays);
        let notes = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (plays, notes, sender) = (Arc::clone(&plays), Arc::clone(&notes), sender.clone());
                std::thread::spawn(move || serve(stream, &plays, &notes, &sender));
            }
        });
        Self { home, asked, notices }
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// `haul` with this home.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        haul(self.home(), arguments)
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs `haul shell` with a script.
    pub(crate) fn shell(&self, script: &str) -> Output {
        let mut child = self.command(&["shell"]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// What it was asked so far: `POST /v1/search {…}`.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// Waits until it has sent the lines of an answer to a request that begins so.
    pub(crate) fn wait_for(&self, request: &str) {
        while !self.notices.recv_timeout(std::time::Duration::from_secs(30)).unwrap().starts_with(request) {}
    }
}

/// `haul` with this home and nothing of the tester's own settings.
pub(crate) fn haul(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_haul"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HAUL_") {
            command.env_remove(name);
        }
    }
    command.env("HAUL_HOME", home).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn serve(mut stream: UnixStream, plays: &[Play], notes: &Mutex<Vec<String>>, sender: &Sender<String>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let request = line.trim_end_matches(" HTTP/1.1\r\n").to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if header == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let asked = format!("{request} {}", String::from_utf8(body).unwrap());
    notes.lock().unwrap().push(asked.trim_end().to_owned());
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\n\r\n";
    let Some(play) = plays.iter().find(|play| play.request == request) else {
        let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nconnection: close\r\n\r\nno such thing");
        return;
    };
    // The one who asked may be gone already: that is part of some plays.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(play.answer.as_bytes()));
    let _ = sender.send(asked);
    if play.stays_open {
        // Until the other side gives up.
        let _ = reader.read(&mut [0]);
    }
}

/// What was printed, for snapshots.
pub(crate) fn printed(output: &Output) -> String {
    let part = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    format!(
        "exit {}\n{}\n--- stderr\n{}",
        output.status.code().unwrap_or(-1),
        part(&output.stdout),
        part(&output.stderr)
    )
}
