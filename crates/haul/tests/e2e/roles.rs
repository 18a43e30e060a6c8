//! The processes that stay, and commands that need none: locks, tickets, membership, ^C, hit numbers on a terminal.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::support::{Home, Running, eventually, haul, leftovers, pattern, signal, up, wait_ready};

const MIB: usize = 1024 * 1024;

fn share(home: &Home, files: &[(&str, &[u8])]) -> (tempfile::TempDir, Running) {
    let data = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(data.path().join(name), content).unwrap();
    }
    let server = home.start(up(&["--share", data.path().to_str().unwrap()]));
    wait_ready(home);
    (data, server)
}

#[test]
fn a_home_belongs_to_one_process() {
    let home = Home::new();
    let first = home.start(up(&[]));
    let second = home.run(up(&[]));
    assert_eq!(second.code(), 2);
    assert_eq!(second.record("error")["code"], "home-locked");
    assert_eq!(home.run(["status", "--json"]).ok().record("status")["pid"], first.pid());
    first.stop();
    assert_eq!(home.run(["status"]).code(), 3);
    // The network and the key are the same next time.
    let again = home.start(up(&[]));
    again.stop();
}

#[test]
fn single_commands_need_no_daemon() {
    let home = Home::new();
    let (_data, server) = share(&home, &[("report.pdf", b"figures")]);
    let ticket = server.ticket();
    let alone = Home::new();
    let hits = alone.run(["search", "--json", "--index", &ticket, "report"]).ok();
    assert_eq!(hits.records("hit").len(), 1);
    let file = alone.path().join("ticket");
    fs::write(&file, &ticket).unwrap();
    let from_file = format!("@{}", file.display());
    assert_eq!(alone.run(["cat", "--index", &from_file, "report.pdf"]).ok().stdout(), "figures");
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("copy.pdf");
    alone.run(["get", "--index", &from_file, "report.pdf", "-o", path.to_str().unwrap()]).ok();
    assert_eq!(fs::read(&path).unwrap(), b"figures");
    assert_eq!(alone.run(["share", "ls", "--index", &ticket]).code(), 2, "a single command has no shares");
    assert!(!alone.path().join("run").exists(), "no socket");
    server.stop();
    assert_eq!(alone.run(["search", "--index", &ticket, "report"]).code(), 3);
}

#[test]
fn members_are_invited_leave_and_are_removed() {
    let (admin, member) = (Home::new(), Home::new());
    let server = admin.start(up(&[]));
    let peer = member.start(["peer", "--json", "--name", "guest-room", "--listen", "127.0.0.1:0"]);
    assert!(peer.ready["network"].is_null(), "{}", peer.ready);
    assert_eq!(member.run(["search", "x"]).code(), 3, "in no network yet");
    let ticket = admin.run(["invite", "-q", "--uses", "1"]).ok().stdout().trim().to_owned();
    member.run(["join", &ticket]).ok();
    assert_eq!(member.run(["invite"]).code(), 6, "members do not invite");
    assert_eq!(admin.run(["peers", "--json"]).ok().records("peer").len(), 2);
    member.run(["leave"]).ok();
    assert_eq!(member.run(["search", "x"]).code(), 3);

    let ticket = admin.run(["invite", "--plain"]).ok().stdout().trim().to_owned();
    member.run(["join", &ticket]).ok();
    admin.run(["network", "remove", "guest-room"]).ok();
    eventually("the removed member is refused", || member.run(["search", "x"]).code() == 6);
    let key = admin.path().join("backup.key");
    assert_eq!(member.run(["network", "export", key.to_str().unwrap()]).code(), 1, "only the index's home has it");
    admin.run(["network", "export", key.to_str().unwrap()]).ok();
    assert_ne!(admin.run(["network", "export", key.to_str().unwrap()]).code(), 0, "a backup is never replaced");
    peer.stop();
    server.stop();
}

#[test]
fn an_interrupted_get_goes_on_where_it_stopped() {
    let home = Home::new();
    let content = pattern(5, 256 * MIB);
    let (_data, server) = share(&home, &[("big.bin", &content)]);
    let reader = Home::new();
    let daemon = reader.start(up(&["--join", &server.ticket()]));
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("big.bin");
    let mut get = haul();
    get.env("HAUL_HOME", reader.path()).args(["get", "big.bin", "-o", path.to_str().unwrap()]);
    let get = get.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("some of it arrived", || {
        let transfers = reader.run(["transfers", "--json"]).records("transfer");
        transfers.iter().any(|transfer| transfer["done"].as_u64().unwrap() > MIB as u64)
    });
    signal(&get.id().to_string(), "INT");
    let output = get.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("go on: haul get big.bin"), "{said}");
    assert!(!path.exists());
    assert_eq!(reader.run(["transfers", "--json"]).ok().record("transfer")["state"], "paused");
    let done = reader.run(["get", "--json", "big.bin", "-o", path.to_str().unwrap()]).ok().record("done");
    assert!(done["resumed_from"].as_u64().unwrap() > 0, "{done}");
    assert!(fs::read(&path).unwrap() == content);
    assert_eq!(leftovers(target.path()), Vec::<std::path::PathBuf>::new());
    daemon.stop();
    server.stop();
}

#[test]
fn numbers_belong_to_a_terminal() {
    let home = Home::new();
    let (_data, server) = share(&home, &[("one report.txt", b"1"), ("two report.txt", b"22")]);
    let target = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_haul");
    let session = format!("{program} search 'two report' && {program} get 1");
    let output = Command::new("script")
        .args(["-qec", &session, "/dev/null"])
        .env("HAUL_HOME", home.path())
        .current_dir(target.path())
        .stdin(Stdio::null())
        .output()
        .expect("script belongs to every Debian");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("get one: haul get 1"), "{text}");
    assert_eq!(fs::read(target.path().join("two report.txt")).unwrap(), b"22");
    let off = home.run(["get", "1", "-o", target.path().to_str().unwrap()]);
    assert_eq!(off.code(), 1, "off a terminal it is a name: {}", off.stderr());
    server.stop();
}

#[test]
fn up_on_a_terminal_says_what_to_type_next() {
    let home = Home::new();
    let data = tempfile::tempdir().unwrap();
    fs::write(data.path().join("report.pdf"), "figures").unwrap();
    let folder = data.path().to_str().unwrap();
    let program = env!("CARGO_BIN_EXE_haul");
    let ports = "--listen 127.0.0.1:0 --index-listen 127.0.0.1:0 --web-listen 127.0.0.1:0";
    // exec: the signal goes to haul itself.
    let mut child = Command::new("script")
        .args(["-qec", &format!("exec {program} up {ports} --share {folder}"), "/dev/null"])
        .env("HAUL_HOME", home.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script belongs to every Debian");
    let mut stdout = child.stdout.take().unwrap();
    let (announced, heard) = channel();
    let reader = std::thread::spawn(move || {
        let (mut text, mut part) = (String::new(), [0; 4096]);
        // A terminal that is gone reads as an error.
        while let Ok(length @ 1..) = stdout.read(&mut part) {
            text.push_str(&String::from_utf8_lossy(&part[..length]));
            if text.contains("haul status") {
                let _ = announced.send(());
            }
        }
        text
    });
    heard.recv_timeout(Duration::from_mins(1)).expect("it says what to type next");
    wait_ready(&home);
    let pid = home.run(["status", "--json"]).ok().record("status")["pid"].as_u64().unwrap();
    signal(&pid.to_string(), "INT");
    assert!(child.wait().unwrap().success(), "^C is a clean end");
    let text = reader.join().unwrap();
    assert!(text.contains("haul up --join haul1"), "{text}");
    assert!(text.contains(&format!("HAUL_HOME={} {program} search", home.path().display())), "{text}");
}
