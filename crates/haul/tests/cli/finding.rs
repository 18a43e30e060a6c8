//! Search, lookup, browse, status.

use std::process::Stdio;

use crate::daemon::{Daemon, play, printed};

const HIT: &str = r#"{"v":1,"type":"hit","n":1,"kind":"file","name":"Llama-3-70B.gguf","path":"models/Llama-3-70B.gguf","share":"models","peer":"pk:5f0c","peer_name":"lab-3","size":42520395872,"files":null,"id":"b3:7f4e000000000000000000000000000000000000000000000000000000a91c00","state":"ready","names":1,"contents":1,"copies":7,"online":7,"mtime":null}"#;
const HOSTILE: &str = "{\"v\":1,\"type\":\"hit\",\"n\":2,\"kind\":\"file\",\"name\":\"cod\u{202e}gpj\\u001b[31m.exe\",\"path\":\"docs/x\",\"share\":\"docs\",\"peer\":\"pk:5f0c\",\"peer_name\":\"lab-3\",\"size\":4200,\"id\":null,\"state\":\"hashing\",\"names\":1,\"contents\":1,\"copies\":1,\"online\":0,\"mtime\":null}";
const SUMMARY: &str = r#"{"v":1,"type":"summary","hits":2,"total":2,"exact":true,"truncated":false,"coverage":1.0,"took_us":1812,"index_us":401,"examined":12,"files":18204113,"peers":214}"#;
const NONE: &str = r#"{"v":1,"type":"summary","hits":0,"total":0,"exact":true,"truncated":false,"coverage":1.0,"took_us":812,"index_us":401,"examined":12,"files":3,"peers":2}"#;

fn searched() -> Daemon {
    Daemon::start(vec![play("POST /v1/search", &[HIT, HOSTILE, SUMMARY])])
}

#[test]
fn hits_for_people() {
    insta::assert_snapshot!(printed(&searched().run(&["search", "llama", "70b"])));
}

#[test]
fn folders_and_namesakes() {
    let folder = HIT
        .replace("\"kind\":\"file\"", "\"kind\":\"dir\"")
        .replace("Llama-3-70B.gguf", "Llama-3")
        .replace("\"files\":null", "\"files\":1204")
        .replace("\"copies\":7,\"online\":7", "\"copies\":1,\"online\":1");
    let id = folder.find("\"b3:").map(|at| folder[at..at + 69].to_owned()).unwrap();
    let folder = folder.replace(&id, "null");
    let namesake = HIT.replace("\"names\":1,\"contents\":1", "\"names\":2,\"contents\":3");
    let daemon = Daemon::start(vec![play("POST /v1/search", &[&folder, &namesake, HIT, SUMMARY])]);
    insta::assert_snapshot!(printed(&daemon.run(&["search", "llama"])));
    let plain = String::from_utf8(daemon.run(&["search", "--plain", "llama"]).stdout).unwrap();
    let ends: Vec<&str> = plain.lines().map(|line| line.split_at(line.rfind("pk:5f0c").unwrap() + 7).1).collect();
    assert_eq!(ends, ["\t1\t1\t1\t1\t1204", "\t7\t7\t2\t3\t", "\t7\t7\t1\t1\t"]);
}

#[test]
fn hits_for_scripts_are_the_daemons_lines() {
    let daemon = searched();
    let output = daemon.run(&["search", "--json", "llama", "70b", "--limit", "7", "--away"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{HIT}\n{HOSTILE}\n{SUMMARY}\n"));
    let asked = r#"POST /v1/search {"query":"llama 70b","limit":7,"all":false,"away":true,"count":false}"#;
    assert_eq!(daemon.asked(), [asked]);
}

#[test]
fn plain_hits_have_tabs_and_full_ids() {
    let output = searched().run(&["search", "--plain", "llama"]);
    let lines: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 2);
    let fields: Vec<&str> = lines[0].split('\t').collect();
    assert_eq!(fields[..2], ["file", "42520395872"]);
    assert_eq!(fields[3].len(), 67);
}

#[test]
fn nothing_found_is_exit_1() {
    let daemon = Daemon::start(vec![play("POST /v1/search", &[NONE])]);
    insta::assert_snapshot!(printed(&daemon.run(&["search", "zzz"])));
    assert_eq!(daemon.run(&["search", "-q", "zzz"]).status.code(), Some(1));
    assert_eq!(daemon.run(&["search", "--json", "zzz"]).status.code(), Some(1));
}

#[test]
fn only_near_matches_are_exit_1() {
    let near = HIT.replace("\"mtime\":null", "\"mtime\":null,\"near\":true");
    let summary = SUMMARY.replace("\"hits\":2", "\"hits\":1,\"only_near\":true");
    let daemon = Daemon::start(vec![play("POST /v1/search", &[&near, &summary])]);
    let output = daemon.run(&["search", "lama"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing fits"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("Llama-3-70B"));
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let hits = vec![HIT; 20_000];
    let daemon = Daemon::start(vec![play("POST /v1/search", &hits)]);
    let mut child = daemon.command(&["search", "--json", "--all", "llama"]).spawn().unwrap();
    // Nobody reads: what is written after the pipe's buffer is full fails.
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn providers_are_grouped_by_content() {
    let provider = |id: &str, name: &str, state: &str| {
        format!(
            r#"{{"v":1,"type":"provider","id":"b3:{}","peer":"pk:{name}","name":"{name}","path":"models/a.gguf","size":4200,"complete":true,"state":"{state}","route":"direct","addr":"10.0.0.1:4478","seen":null,"mtime":null}}"#,
            id.repeat(32)
        )
    };
    let lines = [provider("aa", "lab-3", "online"), provider("bb", "nas", "online"), provider("aa", "ana-mbp", "away")];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let daemon = Daemon::start(vec![play("POST /v1/lookup", &lines)]);
    insta::assert_snapshot!(printed(&daemon.run(&["lookup", "a.gguf"])));
    let nobody = Daemon::start(vec![play("POST /v1/lookup", &[NONE])]);
    assert_eq!(nobody.run(&["lookup", "a.gguf"]).status.code(), Some(1));
}

#[test]
fn a_link_needs_one_content() {
    let id = format!("b3:{}", "0a".repeat(32));
    let daemon = Daemon::start(Vec::new());
    let output = daemon.run(&["link", &id]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("haul:{id}\n"));
    assert!(daemon.asked().is_empty(), "an id says it all");
}

#[test]
fn browsing_and_peers() {
    let entries = [
        r#"{"v":1,"type":"entry","kind":"dir","name":"scans","path":"archive/scans","peer":"pk:00","size":null,"files":null,"id":null,"state":"ready","mtime":null,"executable":false}"#,
        r#"{"v":1,"type":"entry","kind":"file","name":"run.sh","path":"archive/run.sh","peer":"pk:00","size":12,"files":null,"id":null,"state":"hashing","mtime":"2026-10-02T11:00:00Z","executable":true}"#,
        r#"{"v":1,"type":"entry","kind":"link","name":"l","path":"archive/l","peer":"pk:00","size":null,"files":null,"id":null,"state":"ready","mtime":null,"executable":false,"target":"run.sh"}"#,
    ];
    let daemon = Daemon::start(vec![play("POST /v1/browse", &entries)]);
    let output = daemon.run(&["browse", "nas:archive", "--plain"]);
    insta::assert_snapshot!(String::from_utf8(output.stdout).unwrap());
    assert_eq!(daemon.asked(), [r#"POST /v1/browse {"peer":"nas","path":"archive","recursive":false}"#]);
    let output = daemon.run(&["browse", "nas:archive"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("scans/") && text.contains("run.sh*") && text.contains("l -> run.sh"), "{text}");
}

#[test]
fn no_colour_and_no_bar_off_a_terminal() {
    let daemon = searched();
    let output = daemon.command(&["search", "llama"]).env("TERM", "xterm-256color").stderr(Stdio::piped()).output();
    let output = output.unwrap();
    assert!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b));
    let output = daemon.run(&["search", "--color", "always", "llama"]);
    assert!(output.stdout.contains(&0x1b), "asked for");
}
