//! Files of the state folder that are damaged when a daemon starts: it starts all the same, or says which file it is.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{Home, pattern, up, wait_ready, write_old};

type Damage = (&'static str, fn(&[u8]) -> Vec<u8>);

/// What happens to a file.
const DAMAGES: [Damage; 4] = [
    ("is empty", |_| Vec::new()),
    ("is cut", |bytes| bytes[..bytes.len() / 2].to_vec()),
    ("is noise", |bytes| pattern(7, bytes.len())),
    ("has a wrong page", |bytes| {
        let mut bytes = bytes.to_vec();
        let from = bytes.len() / 2;
        let end = (from + 4096).min(bytes.len());
        bytes[from..end].fill(0xa5);
        bytes
    }),
];

fn files_below(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files_below(&entry.path(), found);
        } else if entry.file_type().unwrap().is_file() && entry.metadata().unwrap().len() > 0 {
            found.push(entry.path());
        }
    }
}

#[test]
fn a_damaged_file_of_the_state_is_survived_or_named() {
    let home = Home::new();
    let share = tempfile::tempdir().unwrap();
    write_old(&share.path().join("file"), &pattern(1, 300_000));
    let target = tempfile::tempdir().unwrap();
    let server = home.start(up(&["--share", share.path().to_str().unwrap()]));
    wait_ready(&home);
    // A download that waits, and limits, so that there are files of them.
    let nobody = format!("b3:{}", blake3::hash(b"nobody has it"));
    let absent = target.path().join("absent");
    assert_ne!(home.run(["get", &nobody, "-o", absent.to_str().unwrap(), "--timeout", "100ms"]).code(), 0);
    home.run(["limit", "up", "1M"]).ok();
    server.stop();
    let mut files = Vec::new();
    files_below(home.path(), &mut files);
    let names: Vec<String> =
        files.iter().map(|file| file.strip_prefix(home.path()).unwrap().display().to_string()).collect();
    for expected in ["state/shares.redb", "cache/hashes.redb", "state/transfers.json", "state/limits.json"] {
        assert!(names.iter().any(|name| name == expected), "{expected} in {names:?}");
    }
    let (mut survived, mut refused) = (Vec::new(), Vec::new());
    for (file, name) in files.iter().zip(&names) {
        let whole = fs::read(file).unwrap();
        for (what, damage) in DAMAGES {
            let case = format!("{name} {what}");
            let saved = tempfile::tempdir().unwrap();
            copy(home.path(), saved.path());
            fs::write(saved.path().join(name), damage(&whole)).unwrap();
            let began = Instant::now();
            let (mut child, first) = start(saved.path());
            assert!(began.elapsed() < Duration::from_secs(20), "{case}: {:?}", began.elapsed());
            if first.contains("\"ready\"") {
                crate::support::signal(&child.id().to_string(), "TERM");
                assert_eq!(child.wait().unwrap().code(), Some(0), "{case}");
                survived.push(case);
            } else {
                let output = child.wait_with_output().unwrap();
                let said = first + &String::from_utf8_lossy(&output.stdout) + &String::from_utf8_lossy(&output.stderr);
                let short = file.file_name().unwrap().to_str().unwrap();
                assert!(output.status.code().is_some_and(|code| code > 0 && code < 100), "{case}: {said}");
                assert!(said.contains(short), "the damaged file is named: {case}: {said}");
                let ways_out = ["put back a copy", "restore it from a copy", "move it away"];
                assert!(ways_out.iter().any(|way| said.contains(way)), "and what to do: {case}: {said}");
                refused.push(case);
            }
        }
    }
    assert!(survived.len() >= 30 && !refused.is_empty(), "{survived:?} {refused:?}");
    for needless in ["cache/", "state/transfers.json", "state/limits.json"] {
        assert!(!refused.iter().any(|case| case.starts_with(needless)), "{needless} can be done without: {refused:?}");
    }
}

/// Starts a daemon in a home; with the first line that it says.
fn start(home: &Path) -> (std::process::Child, String) {
    use std::io::BufRead;
    let mut command = crate::support::haul();
    command.env("HAUL_HOME", home).args(up(&[]));
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut first = String::new();
    std::io::BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    (child, first)
}

fn copy(from: &Path, to: &Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
    assert!(status.success());
}
