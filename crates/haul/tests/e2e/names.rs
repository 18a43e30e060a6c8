//! Names against contents, and names that try to harm: what every command makes of them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use serde_json::Value;

use crate::support::{Home, up, wait_ready};

#[test]
fn one_name_with_two_contents_and_one_content_under_two_names() {
    let data = tempfile::tempdir().unwrap();
    for (path, content) in [("a/report.txt", "one"), ("b/report.txt", "two"), ("b/copy.txt", "one")] {
        fs::create_dir_all(data.path().join(path).parent().unwrap()).unwrap();
        fs::write(data.path().join(path), content).unwrap();
    }
    let id = |content: &str| format!("b3:{}", blake3::hash(content.as_bytes()));
    let (home, target) = (Home::new(), tempfile::tempdir().unwrap());
    let server = home.start(up(&["--share", data.path().to_str().unwrap()]));
    wait_ready(&home);
    let (reader, ticket) = (Home::new(), server.ticket());
    let run = |arguments: &[&str]| reader.run(arguments.iter().copied().chain(["--index", &ticket]));
    let output = target.path().join("out");

    // The same name: nothing is chosen for the user, both are listed.
    let asked = run(&["get", "report.txt", "-o", output.to_str().unwrap()]);
    let said = asked.stderr();
    assert_eq!(asked.code(), 2, "{said}");
    assert!(said.contains(&id("one")) && said.contains(&id("two")), "{said}");
    assert!(said.contains("a/report.txt") && said.contains("b/report.txt") && said.contains("haul get b3:"), "{said}");
    assert!(!output.exists());
    let error = run(&["get", "--json", "report.txt", "-o", output.to_str().unwrap()]).record("error");
    assert_eq!((&error["code"], error["causes"].as_array().unwrap().len()), (&Value::from("ambiguous"), 2), "{error}");
    let ids = |arguments: &[&str], field: &str| -> BTreeSet<String> {
        let answer = run(arguments).ok();
        let records = answer.records("provider").into_iter().chain(answer.records("hit"));
        records.map(|record| record[field].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&["lookup", "--json", "report.txt"], "id"), BTreeSet::from([id("one"), id("two")]));
    assert_eq!(ids(&["search", "--json", "report"], "id"), BTreeSet::from([id("one"), id("two")]));

    // The same content: every name of it is known, and each leads to the same bytes.
    let found = run(&["search", "--json", "copy.txt"]).ok().record("hit");
    assert_eq!((found["id"].as_str(), found["names"].as_u64()), (Some(id("one").as_str()), Some(2)), "{found}");
    let places = ids(&["lookup", "--json", &id("one")], "path");
    assert_eq!(places.len(), 2, "{places:?}");
    assert!(places.iter().any(|path| path.ends_with("a/report.txt")), "{places:?}");
    assert!(places.iter().any(|path| path.ends_with("b/copy.txt")), "{places:?}");
    run(&["get", &id("two"), "-o", output.to_str().unwrap()]).ok();
    assert_eq!(fs::read_to_string(&output).unwrap(), "two");
    server.stop();
}

/// Every line is one record of this version.
#[track_caller]
fn records(text: &str) -> Vec<Value> {
    let lines = text.split_terminator('\n');
    let parsed = lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}")));
    let records: Vec<Value> = parsed.collect();
    assert!(records.iter().all(|record| record["v"] == 1 && record["type"].is_string()), "{text}");
    records
}

/// Nothing in it moves the cursor, changes colours or the direction of writing, or breaks a line.
#[track_caller]
fn harmless(text: &str) {
    let harmful = |letter: &char| {
        (letter.is_control() && *letter != '\n' && *letter != '\t')
            || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert_eq!(text.chars().find(harmful), None, "{text:?}");
}

fn bytes_of(hexadecimal: &str) -> Vec<u8> {
    let pairs = hexadecimal.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

#[test]
fn hostile_names_stay_valid_json_and_harmless_text() {
    let long = [b"odd".as_slice(), &[b'n'; 252]].concat();
    let names: Vec<&[u8]> = vec![
        b"odd \"quote\" \\ back",
        b"odd\nline",
        b"odd\r\r\nend",
        b"odd\x1b[31mred\x1b]0;title\x07",
        b"odd\t\x01\x7f",
        "odd\u{202e}gnp.exe".as_bytes(),
        "odd\u{2028}separator\u{85}next".as_bytes(),
        b"odd {\"v\":1,\"type\":\"done\"}",
        b"odd-\xff\xfe-bytes",
        b"odd <script>alert(1)",
        &long,
    ];
    let data = tempfile::tempdir().unwrap();
    let folder = data.path().join("share");
    fs::create_dir(&folder).unwrap();
    for name in &names {
        // What once ended a message is content like any other.
        fs::write(folder.join(OsStr::from_bytes(name)), [b"\r\r\n", *name, b"\r\r\n\0"].concat()).unwrap();
    }
    let (home, reader) = (Home::new(), Home::new());
    let server = home.start(up(&["--share", folder.to_str().unwrap()]));
    wait_ready(&home);
    let daemon = reader.start(up(&["--join", &server.ticket()]));
    let place = format!("{}:share", server.ready["peer"].as_str().unwrap());

    let found = reader.run(["search", "--json", "odd"]).ok();
    let hits: Vec<Value> = records(&found.stdout()).into_iter().filter(|record| record["type"] == "hit").collect();
    assert_eq!(hits.len(), names.len(), "{}", found.stdout());
    let target = data.path().join("got");
    for name in &names {
        let content = fs::read(folder.join(OsStr::from_bytes(name))).unwrap();
        let id = format!("b3:{}", blake3::hash(&content));
        let hit = hits.iter().find(|hit| hit["id"] == *id).unwrap_or_else(|| panic!("no hit for {name:?}"));
        assert_eq!(hit["name"], *String::from_utf8_lossy(name));
        let raw = hit["raw"].as_str().map(ToOwned::to_owned);
        let path = [b"share/", *name].concat();
        assert_eq!(raw.is_some(), std::str::from_utf8(name).is_err(), "{hit}");
        assert!(raw.is_none_or(|raw| bytes_of(&raw) == path), "{hit}");
        let arguments = [OsStr::new("lookup"), OsStr::new("--json"), OsStr::from_bytes(name)];
        if std::str::from_utf8(name).is_ok() {
            let lookup = reader.run(arguments).ok();
            assert!(records(&lookup.stdout()).iter().any(|record| record["id"] == *id), "{}", lookup.stdout());
        }
        let got = reader.run(["get", "--json", &id, "-o", target.to_str().unwrap(), "--force"]).ok();
        records(&got.stdout());
        assert_eq!(fs::read(&target).unwrap(), content);
    }
    let listing = reader.run(["browse", "--json", &place]).ok();
    assert!(records(&listing.stdout()).len() >= names.len());
    for command in
        [&["search", "odd"][..], &["browse", &place], &["lookup", "odd\nline"], &["search", "--plain", "odd"]]
    {
        harmless(&reader.run(command).ok().stdout());
    }
    assert_eq!(reader.run(["search", "--plain", "odd"]).ok().stdout().lines().count(), names.len());
    let missing = reader.run(["get", "odd\u{1b}[2J\u{202e}missing"]);
    assert_eq!(missing.code(), 1);
    harmless(&missing.stderr());

    daemon.stop();
    server.stop();
}
