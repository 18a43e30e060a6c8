//! `haul watch` with real processes: what one peer shares, another one hears of, fetches, and hands to a command.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Home, haul, signal, up, wait_ready};

/// A watch that runs, and its lines.
struct Watching {
    child: Child,
    lines: Receiver<String>,
}

impl Watching {
    fn start(home: &Home, arguments: &[&str]) -> Self {
        let mut command = haul();
        command.env("HAUL_HOME", home.path()).arg("watch").args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    /// The next record of this type.
    fn record(&self, kind: &str) -> Value {
        loop {
            let line = self.lines.recv_timeout(Duration::from_mins(2)).expect("a line in time");
            let record: Value = serde_json::from_str(&line).unwrap();
            if record["type"] == kind {
                return record;
            }
        }
    }

    fn interrupt(mut self) {
        signal(&self.child.id().to_string(), "INT");
        assert_eq!(self.child.wait().unwrap().code(), Some(130));
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_a_peer_shares_reaches_the_one_who_watches() {
    let (mine, theirs, stranger) = (Home::new(), Home::new(), Home::new());
    let (folder, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = mine.start(up(&[]));
    let ticket = server.ticket();
    let peer = theirs.start(["peer", "--json", "--join", &ticket, "--listen", "127.0.0.1:0"]);
    let kept = target.path().join("kept");
    // $1 is the fetched file.
    let script = r#"cp -- "$1" "$0""#;
    let arguments = ["--json", "report -draft", "--get", "-o", target.path().to_str().unwrap(), "--exec", "sh", "-c"];
    let arguments = [&arguments[..], &[script, kept.to_str().unwrap()]].concat();
    let fetching = Watching::start(&mine, &arguments);
    let listening = Watching::start(&stranger, &["--json", "--index", &ticket, "ext:pdf"]);
    for watch in [&fetching, &listening] {
        assert_eq!(watch.record("changed")["what"], "watching");
    }
    fs::write(folder.path().join("draft report.pdf"), "not yet").unwrap();
    fs::write(folder.path().join("report.pdf"), "figures").unwrap();
    theirs.run(["share", "add", folder.path().to_str().unwrap()]).ok();
    let mut found = BTreeSet::new();
    while found.len() < 2 {
        found.insert(listening.record("hit")["name"].as_str().unwrap().to_owned());
    }
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["draft report.pdf", "report.pdf"]);
    assert_eq!(fetching.record("hit")["name"], "report.pdf");
    assert_eq!(fetching.record("done")["verified"], true);
    assert_eq!(fs::read(target.path().join("report.pdf")).unwrap(), b"figures");
    wait_ready(&theirs);
    fs::write(folder.path().join("second report.pdf"), "more figures").unwrap();
    theirs.run(["share", "rescan", folder.path().file_name().unwrap().to_str().unwrap()]).ok();
    while fetching.record("hit")["name"] != "second report.pdf" {}
    // The command has ended before the next match is looked at.
    assert_eq!(fs::read(&kept).unwrap(), b"figures");
    fetching.interrupt();
    listening.interrupt();
    peer.stop();
    server.stop();
}
