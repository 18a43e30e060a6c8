//! Watch: what is printed once, what a command is given, fetching, endings.

use std::process::Command;

use crate::daemon::{Daemon, Play, play, printed};

const WATCHING: &str = r#"{"v":1,"type":"changed","what":"watching","subject":"llama","message":"watching: new names that fit are shown as they come","next":"what is there already: haul search llama"}"#;
const MISSED: &str = r#"{"v":1,"type":"warning","message":"more names fitted than could be kept; some are not shown","next":"find them: haul search llama"}"#;

fn id(digits: &str) -> String {
    format!("b3:{}", digits.repeat(32))
}

/// A file; without an id it is still hashed.
fn hit(name: &str, id: Option<&str>) -> String {
    let state = if id.is_some() { "ready" } else { "hashing" };
    let (name, id) = (serde_json::json!(name), serde_json::json!(id));
    let path = format!("docs/{}", name.as_str().unwrap()).replace('\\', "");
    format!(
        r#"{{"v":1,"type":"hit","n":1,"kind":"file","name":{name},"path":{},"share":"docs","peer":"pk:5f0c","peer_name":"lab-3","size":4200,"id":{id},"state":"{state}","names":1,"contents":1,"copies":1,"online":1,"mtime":null}}"#,
        serde_json::json!(path)
    )
}

fn watched(lines: &[String]) -> Play {
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    play("POST /v1/watch", &lines)
}

fn several() -> Vec<String> {
    let (one, two) = (id("aa"), id("bb"));
    let folder = hit("llama", None).replace("\"file\"", "\"dir\"").replace("hashing", "ready").replace("4200", "null");
    vec![
        WATCHING.to_owned(),
        hit("Llama-3-70B.gguf", None),
        hit("Llama-3-70B.gguf", Some(&one)),
        hit("cod\u{202e}gpj\u{1b}[31m-llama.exe", Some(&one)),
        MISSED.to_owned(),
        folder,
        hit("Llama-3-70B.gguf", Some(&two)),
    ]
}

#[test]
fn matches_for_people_come_once() {
    let daemon = Daemon::start(vec![watched(&several())]);
    insta::assert_snapshot!(printed(&daemon.run(&["watch", "llama", "-n", "4"])));
    assert_eq!(daemon.asked(), [r#"POST /v1/watch {"query":"llama"}"#]);
}

#[test]
fn matches_for_scripts_are_the_daemons_lines() {
    let daemon = Daemon::start(vec![watched(&several())]);
    let output = daemon.run(&["watch", "--json", "llama", "-n4"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), several().join("\n") + "\n");
    let output = daemon.run(&["watch", "--plain", "llama", "-n4"]);
    let lines: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[3].split('\t').nth(3), Some(id("bb").as_str()));
}

#[test]
fn an_interrupt_is_the_end() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let watch = Play { request: "POST /v1/watch", answer: format!("{WATCHING}\n"), stays_open: true };
        let daemon = Daemon::start(vec![watch]);
        let child = daemon.command(&["watch", "llama"]).spawn().unwrap();
        daemon.wait_for("POST /v1/watch");
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0));
    }
}

#[test]
fn a_daemon_that_ends_is_told_from_a_regular_end() {
    let daemon = Daemon::start(vec![watched(&several())]);
    assert_eq!(daemon.run(&["watch", "llama"]).status.code(), Some(3));
    let refused = r#"{"v":1,"type":"error","code":"bad-query","message":"the query only excludes","causes":[],"next":null,"exit":2}"#;
    let daemon = Daemon::start(vec![play("POST /v1/watch", &[refused])]);
    assert_eq!(daemon.run(&["watch", "--", "-x"]).status.code(), Some(2));
}

/// Prints its argument and variables, a line each; `$1` is what haul appends.
const SHOW: &str = r#"printf '%s\n' "$#" "$1" "$HAUL_HIT_NAME" "$HAUL_HIT_ID" "$HAUL_HIT_SIZE" "$HAUL_HIT_PEER" "$HAUL_HIT_PATH" "[$HAUL_HIT_FILE]""#;

#[test]
fn a_command_gets_names_as_arguments_and_never_as_options_or_words_of_a_shell() {
    let folder = tempfile::tempdir().unwrap();
    let one = id("aa");
    let hostile = ["-rf", "$(touch evil)", "a b;touch evil", "`touch evil`\n", "--", "*"];
    let mut lines = vec![WATCHING.to_owned(), hit("-rf", None)];
    lines.extend(hostile.map(|name| hit(name, Some(&one))));
    let daemon = Daemon::start(vec![watched(&lines)]);
    let arguments = ["watch", "-q", "--plain", "llama", "-n", "6", "--exec", "sh", "-c", SHOW, "sh"];
    let output = daemon.command(&arguments).current_dir(folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8(output.stderr).unwrap();
    let mut rest = said.as_str();
    for name in hostile {
        let argument = if name.starts_with('-') { format!("./{name}") } else { name.to_owned() };
        let expected = format!("1\n{argument}\n{name}\n{one}\n4200\npk:5f0c\ndocs/{name}\n[]\n");
        rest = rest.strip_prefix(&expected).unwrap_or_else(|| panic!("{name}: {rest}"));
    }
    assert_eq!(rest, "");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing of it ran");
}

#[test]
fn whatever_stands_behind_exec_belongs_to_the_command_double_dashes_too() {
    let daemon = Daemon::start(vec![watched(&[hit("llama.bin", Some(&id("aa")))])]);
    let script = r#"printf '<%s>' "$@""#;
    let output =
        daemon.run(&["watch", "-q", "llama", "-n1", "--exec", "sh", "-c", script, "sh", "--", "-n2", "--", "--json"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.ends_with("<--><-n2><--><--json><llama.bin>"), "{said}");
}

#[test]
fn names_that_are_no_text_reach_the_command_byte_for_byte() {
    let raw =
        hit("latin-\u{fffd}", Some(&id("aa"))).replace("\"mtime\"", "\"raw\":\"646f63732f6c6174696e2de9\",\"mtime\"");
    let daemon = Daemon::start(vec![watched(&[raw])]);
    let output = daemon.run(&["watch", "-q", "llama", "-n1", "--exec", "printf", "<%s>"]);
    assert!(output.stdout.ends_with(b"<latin-\xe9>"), "{:?}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_command_that_fails_is_told_and_watching_goes_on() {
    let (one, two) = (id("aa"), id("bb"));
    let lines = [hit("a", Some(&one)), hit("b", Some(&two))];
    let daemon = Daemon::start(vec![watched(&lines)]);
    let output = daemon.run(&["watch", "llama", "-n2", "--exec", "sh", "-c", "exit 7"]);
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "! sh ended with exit code 7, for a\n! sh ended with exit code 7, for b\n");
    let output = daemon.run(&["watch", "--json", "llama", "-n1", "--exec", "/no/such/command"]);
    let last = String::from_utf8(output.stdout).unwrap();
    let last: serde_json::Value = serde_json::from_str(last.lines().last().unwrap()).unwrap();
    assert_eq!(last["type"], "warning");
    assert!(last["message"].as_str().unwrap().contains("/no/such/command does not start"), "{last}");
}

#[test]
fn matches_are_fetched_once_their_content_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().canonicalize().unwrap().join("new");
    let (one, two) = (id("aa"), id("bb"));
    let done = format!(
        r#"{{"v":1,"type":"done","id":"{one}","path":"{}","bytes":4200,"ms":15,"resumed_from":0,"fetched":4200,"providers":2,"verified":true}}"#,
        target.join("a").display()
    );
    let lines = [hit("a", None), hit("a", Some(&one)), hit("b", Some(&two))];
    let daemon = Daemon::start(vec![watched(&lines), play("POST /v1/get", &[&done])]);
    let arguments =
        ["watch", "-q", "x", "--get", "-o", "new", "-n2", "--exec", "sh", "-c", "echo \"$1 $HAUL_HIT_FILE\"", "sh"];
    let output = daemon.command(&arguments).current_dir(folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let path = target.join("a").display().to_string();
    assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("\n{path} {path}\n")), "{output:?}");
    let asked: Vec<serde_json::Value> = daemon
        .asked()
        .iter()
        .filter_map(|asked| asked.strip_prefix("POST /v1/get "))
        .map(|body| serde_json::from_str(body).unwrap())
        .collect();
    let named = |index: usize, key: &str| asked[index][key].as_str().unwrap().to_owned();
    assert_eq!(asked.len(), 2);
    assert_eq!((named(0, "what"), named(0, "output")), (one, path));
    assert_eq!((named(1, "what"), named(1, "output")), (two, target.join("b").display().to_string()));
    assert_eq!(asked[0]["force"], false, "nothing is replaced");
}

#[test]
fn a_match_that_cannot_be_fetched_is_told_and_watching_goes_on() {
    let error =
        r#"{"v":1,"type":"error","code":"exists","message":"a is there already","causes":[],"next":null,"exit":2}"#;
    let lines = [hit("a", Some(&id("aa"))), hit("b", Some(&id("bb")))];
    let daemon = Daemon::start(vec![watched(&lines), play("POST /v1/get", &[error])]);
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join("ran");
    let arguments = [
        "watch",
        "x",
        "--get",
        "-o",
        folder.path().to_str().unwrap(),
        "-n2",
        "--exec",
        "touch",
        marker.to_str().unwrap(),
    ];
    let output = daemon.run(&arguments);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr).matches("! a is there already").count(), 2);
    assert!(!marker.exists(), "no file, no command");
}
