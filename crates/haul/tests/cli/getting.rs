//! Get: results, progress, ^C, `--timeout`, several things at once.

use std::process::Command;

use crate::daemon::{Daemon, Play, play, printed};

const PROGRESS: &str = r#"{"v":1,"type":"progress","transfer":7,"id":"b3:aa","name":"a.gguf","done":100,"verified":64,"total":4200,"bps":10,"providers":1}"#;
const PAUSED: &str = r#"{"v":1,"type":"changed","what":"paused","subject":"7","message":"paused","next":null}"#;

fn done(path: &str) -> String {
    format!(
        r#"{{"v":1,"type":"done","id":"b3:aa","path":"{path}","bytes":4200,"ms":1500,"resumed_from":0,"fetched":4200,"providers":2,"verified":true}}"#
    )
}

fn under_way() -> Daemon {
    let get = Play { request: "POST /v1/get", answer: format!("{PROGRESS}\n"), stays_open: true };
    Daemon::start(vec![get, play("POST /v1/transfers/7/pause", &[PAUSED])])
}

#[test]
fn a_result_and_where_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().canonicalize().unwrap();
    let daemon = Daemon::start(vec![play("POST /v1/get", &[PROGRESS, &done(here.join("a.gguf").to_str().unwrap())])]);
    let output = daemon.command(&["get", "a.gguf", "--from", "nas"]).current_dir(&here).output().unwrap();
    assert_eq!(
        printed(&output),
        "exit 0\n✓ ./a.gguf  4.1 KiB in 1.5 s (2.7 KiB/s) from 2 peers, verified\n--- stderr\n"
    );
    let asked = format!(
        r#"POST /v1/get {{"what":"a.gguf","from":["nas"],"output":"{}","force":false,"outside_links":false,"wait":false,"background":false}}"#,
        here.display()
    );
    assert_eq!(daemon.asked(), [asked]);
}

#[test]
fn an_interrupt_pauses_and_says_how_to_go_on() {
    let daemon = under_way();
    let child = daemon.command(&["get", "a.gguf"]).spawn().unwrap();
    daemon.wait_for("POST /v1/get");
    // The command has the line when it asks to pause, so the signal may come at any moment from here on.
    interrupt_until_paused(&daemon, child.id());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("kept and verified.   go on: haul get a.gguf"), "{text}");
}

fn interrupt_until_paused(daemon: &Daemon, pid: u32) {
    let sent = Command::new("kill").args(["-INT", &pid.to_string()]).status().unwrap();
    assert!(sent.success());
    daemon.wait_for("POST /v1/transfers/7/pause");
}

#[test]
fn a_timeout_pauses_too() {
    let daemon = under_way();
    let output = daemon.run(&["get", "--json", "--timeout", "300ms", "a.gguf"]);
    assert_eq!(output.status.code(), Some(8));
    let lines = String::from_utf8(output.stdout).unwrap();
    let last: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(
        (last["type"].as_str(), last["code"].as_str(), last["exit"].as_u64()),
        (Some("error"), Some("timeout"), Some(8))
    );
    assert!(daemon.asked().iter().any(|asked| asked == "POST /v1/transfers/7/pause"));
}

#[test]
fn several_things_go_on_past_a_failure() {
    let error =
        r#"{"v":1,"type":"error","code":"not-found","message":"nobody has it","causes":[],"next":null,"exit":1}"#;
    let daemon = Daemon::start(vec![play("POST /v1/get", &[error])]);
    let folder = tempfile::tempdir().unwrap();
    let output = daemon.run(&["get", "a", "b", "-o", folder.path().join("new").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr).matches("nobody has it").count(), 2);
    assert_eq!(daemon.asked().len(), 2);
    assert!(folder.path().join("new").is_dir());
}

#[test]
fn numbers_are_names_off_a_terminal() {
    let daemon = Daemon::start(vec![play("POST /v1/get", &[&done("/x/1")])]);
    daemon.run(&["get", "1"]);
    assert!(daemon.asked()[0].contains(r#""what":"1""#), "{:?}", daemon.asked());
}

#[test]
fn a_cut_is_never_taken_for_the_end() {
    // A length below 128 is text, so the played answer can be one.
    let frame = |kind: char, bytes: &str| {
        let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        format!("{kind}{}{bytes}", String::from_utf8(length.to_vec()).unwrap())
    };
    let cut = Daemon::start(vec![Play { request: "POST /v1/cat", answer: frame('D', "hello"), stays_open: false }]);
    let output = cut.run(&["cat", "a.txt", "--range", "0-4"]);
    assert_eq!(output.stdout, b"hello");
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(cut.asked(), [r#"POST /v1/cat {"what":"a.txt","range":[0,5],"from":[]}"#]);
}
