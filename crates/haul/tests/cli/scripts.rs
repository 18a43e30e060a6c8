//! The shell with a script on standard input.

use crate::daemon::{Daemon, play};

const HIT: &str = r#"{"v":1,"type":"hit","n":1,"kind":"file","name":"a.txt","path":"docs/a.txt","share":"docs","peer":"pk:5f0c","peer_name":"lab-3","size":5,"id":"b3:aa","state":"ready","names":1,"contents":1,"copies":2,"online":2,"mtime":null}"#;
const PROVIDERS: [&str; 2] = [
    r#"{"v":1,"type":"provider","id":"b3:aa","peer":"pk:one","name":"one","path":"docs/a.txt","size":5,"complete":true,"state":"online","route":"direct","addr":"10.0.0.1:4478","seen":null,"mtime":null}"#,
    r#"{"v":1,"type":"provider","id":"b3:aa","peer":"pk:two","name":"two","path":"docs/a.txt","size":5,"complete":true,"state":"online","route":"direct","addr":"10.0.0.2:4478","seen":null,"mtime":null}"#,
];
const DONE: &str = r#"{"v":1,"type":"done","id":"b3:aa","path":"/x/a.txt","bytes":5,"ms":1,"resumed_from":0,"fetched":5,"providers":1,"verified":true}"#;
const ERROR: &str = r#"{"v":1,"type":"error","code":"not-allowed","message":"no","causes":[],"next":null,"exit":6}"#;

#[test]
fn search_lookup_choose_get_exit() {
    let daemon = Daemon::start(vec![
        play("POST /v1/search", &[HIT]),
        play("POST /v1/lookup", &PROVIDERS),
        play("POST /v1/get", &[DONE]),
    ]);
    let output = daemon.shell("# as in the report\nsearch a txt\nlookup 1\nget 1 from 2\nexit\nget never\n");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let asked = daemon.asked();
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(asked[1].contains(r#""what":"b3:aa""#), "{asked:?}");
    assert!(asked[2].contains(r#""what":"b3:aa","from":["pk:two"]"#), "{asked:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("haul> "), "no prompt for a script");
    assert!(text.contains("✓ /x/a.txt"), "{text}");
}

#[test]
fn a_script_stops_at_its_first_failure() {
    let daemon = Daemon::start(vec![play("POST /v1/search", &[HIT]), play("POST /v1/leave", &[ERROR])]);
    let output = daemon.shell("leave\nsearch a\n");
    assert_eq!(output.status.code(), Some(6));
    assert_eq!(daemon.asked().len(), 1);
    let output = daemon.shell("get 1\n");
    assert_eq!(output.status.code(), Some(1), "there is no hit number 1 yet");
    let output = daemon.shell("fetch a\n");
    assert_eq!(output.status.code(), Some(2));
    let output = daemon.shell("up\n");
    assert_eq!(output.status.code(), Some(2));
}
