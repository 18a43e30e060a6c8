//! Failures: no daemon, a daemon that fails, wrong use.

use crate::daemon::{Daemon, haul, play, printed};

#[test]
fn without_a_daemon_the_next_step_is_said() {
    let home = tempfile::tempdir().unwrap();
    let output = haul(home.path(), &["status"]).output().unwrap();
    let text = printed(&output).replace(home.path().to_str().unwrap(), "HOME");
    insta::assert_snapshot!(text);
    assert!(std::fs::read_dir(home.path()).unwrap().next().is_none(), "asking leaves nothing behind");
}

#[test]
fn failures_of_the_daemon_are_told_with_causes() {
    let error = r#"{"v":1,"type":"error","code":"no-provider","message":"nobody who has a.gguf can be reached (2 peers know it)","causes":[{"peer":"pk:1","name":"lab-7","message":"10.0.0.17:4478 refused the connection"},{"peer":null,"name":"ana-mbp","message":"last seen 3 h ago"}],"next":"wait for one of them: haul get a.gguf --wait","exit":1}"#;
    let daemon = Daemon::start(vec![play("POST /v1/get", &[error])]);
    insta::assert_snapshot!(printed(&daemon.run(&["get", "a.gguf"])));
    let output = daemon.run(&["get", "--json", "a.gguf"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{error}\n"), "with --json it is the last line");
    assert_eq!(output.stderr, b"");
}

#[test]
fn wrong_use_is_exit_2_and_typos_never_run() {
    let home = tempfile::tempdir().unwrap();
    for arguments in
        [&["serach", "x"][..], &["get"], &["search", "--json", "--plain", "x"], &["--timeout", "soon", "status"]]
    {
        let output = haul(home.path(), arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(output.stdout, b"");
    }
}

#[test]
fn a_screen_needs_a_terminal() {
    let daemon = Daemon::start(Vec::new());
    for arguments in [&["top"][..], &["top", "--json"]] {
        let output = daemon.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(printed(&output).contains("haul transfers --json"), "{}", printed(&output));
    }
    assert!(daemon.asked().is_empty());
}

#[test]
fn a_daemon_that_does_not_answer_in_time_is_exit_8() {
    let silent = crate::daemon::Play { request: "GET /v1/status", answer: String::new(), stays_open: true };
    let daemon = Daemon::start(vec![silent]);
    assert_eq!(daemon.run(&["status", "--timeout", "200ms"]).status.code(), Some(8));
}

#[test]
fn a_bad_ticket_is_refused_before_anybody_sees_it() {
    let daemon = Daemon::start(Vec::new());
    let output = daemon.run(&["join", "haul1qqqqqqqq"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("qqqq"), "tickets are not repeated");
    assert!(daemon.asked().is_empty());
    let output = daemon.run(&["join"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("HAUL_TICKET"));
}

#[test]
fn a_daemon_of_another_version_is_named_as_the_reason() {
    let daemon = Daemon::start(Vec::new());
    let output = daemon.run(&["peers"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another version"));
}
