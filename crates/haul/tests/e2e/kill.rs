//! Processes die at a counted system call, not after a sleep; afterwards everything goes on from where it was.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::{Home, Running, eventually, killed_at, logged_bytes, pattern, peer, up, wait_ready, write_old};

const MIB: usize = 1024 * 1024;
/// `haul_core::limits::CHECKPOINT_BYTES`.
const CHECKPOINT: u64 = 64 * 1024 * 1024;

struct Shared {
    _data: tempfile::TempDir,
    file: PathBuf,
    content: Vec<u8>,
    home: Home,
    server: Running,
}

fn share_one_file(bytes: usize) -> Shared {
    let data = tempfile::tempdir().unwrap();
    let content = pattern(7, bytes);
    let file = data.path().join("big.bin");
    write_old(&file, &content);
    let home = Home::new();
    let server = home.start(up(&["--share", data.path().to_str().unwrap()]));
    wait_ready(&home);
    Shared { _data: data, file, content, home, server }
}

#[test]
fn a_killed_downloader_fetches_nothing_twice_beyond_a_checkpoint() {
    let shared = share_one_file(160 * MIB);
    let target = tempfile::tempdir().unwrap();
    let file = target.path().join("big.bin");
    let part = target.path().join(".big.bin.haul-part");
    let reader = Home::new();
    let log = target.path().join("strace.log");
    let mut fetched = 0;
    for when in [2, 6] {
        let ticket = shared.server.ticket();
        let mut command = killed_at("pwritev", Some(&part), when, &log, &up(&["--join", &ticket]));
        let mut daemon = command.env("HAUL_HOME", reader.path()).stdout(Stdio::null()).spawn().unwrap();
        // The second one goes on with the download by itself, and may be killed before it says that it is ready.
        eventually("it is killed", || {
            let _ = reader.run(["get", "--json", "big.bin", "-o", file.to_str().unwrap()]);
            daemon.try_wait().unwrap().is_some()
        });
        assert!(!file.exists(), "an unfinished download has no final name");
        fetched += logged_bytes(&log, "haul-part");
    }
    let daemon = reader.start(up(&[]));
    let done = reader.run(["get", "--json", "big.bin", "-o", file.to_str().unwrap()]).ok().record("done");
    assert_eq!(fs::read(&file).unwrap(), shared.content);
    fetched += done["fetched"].as_u64().unwrap();
    assert!(fetched <= shared.content.len() as u64 + 2 * CHECKPOINT, "{fetched} bytes fetched in all, {done}");
    daemon.stop();
    shared.server.stop();
}

#[test]
fn a_killed_provider_comes_back_and_the_download_goes_on() {
    let mut shared = share_one_file(96 * MIB);
    let target = tempfile::tempdir().unwrap();
    let file = target.path().join("big.bin");
    let log = target.path().join("strace.log");
    let listen = shared.server.ready["peer_addr"].as_str().unwrap().to_owned();
    let index_listen = shared.server.ready["index_addr"].as_str().unwrap().to_owned();
    let ticket = shared.server.ticket();
    let reader = Home::new();
    let daemon = reader.start(up(&["--join", &ticket]));
    shared.server.stop();
    let same_place =
        ["up", "--json", "--listen", &listen, "--index-listen", &index_listen, "--web-listen", "127.0.0.1:0"];
    shared.server = shared.home.start_command(killed_at("pread64", Some(&shared.file), 5, &log, &same_place));
    eventually("the file is found again", || reader.run(["lookup", "--json", "big.bin"]).code() == 0);
    let first = reader.run(["get", "--json", "big.bin", "-o", file.to_str().unwrap()]);
    assert_ne!(first.code(), 0, "its only provider was killed half-way: {}", first.stdout());
    assert!(!file.exists());
    shared.server.wait();
    let server = shared.home.start(same_place);
    eventually("the file is found again", || reader.run(["lookup", "--json", "big.bin"]).code() == 0);
    let done = reader.run(["get", "--json", "big.bin", "-o", file.to_str().unwrap()]).ok().record("done");
    assert_eq!(fs::read(&file).unwrap(), shared.content);
    assert!(done["resumed_from"].as_u64().unwrap() > 0, "{done}");
    daemon.stop();
    server.stop();
}

#[test]
fn a_killed_index_keeps_what_it_acknowledged() {
    let data = tempfile::tempdir().unwrap();
    for n in 0..3_000 {
        fs::write(data.path().join(format!("entry-{n:05}.txt")), format!("{n}")).unwrap();
    }
    let (index_home, peer_home) = (Home::new(), Home::new());
    let log = data.path().join("../strace-index.log");
    let segment = index_home.path().join("state/index/store/00000001.log");
    let arguments = ["index", "--json", "--index-listen", "127.0.0.1:0"];
    let mut index = index_home.start_command(killed_at("fdatasync", Some(&segment), 4, &log, &arguments));
    let ticket = index.ticket();
    let address = index.ready["index_addr"].as_str().unwrap().to_owned();
    let peer = peer_home.start(peer(&["--join", &ticket]));
    let path = data.path().to_str().unwrap();
    peer_home.run(["share", "add", "--json", path]).ok();
    // Each further change is another commit, until the counted one kills the index.
    let mut extra = 0;
    eventually("the index is killed", || {
        extra += 1;
        fs::write(data.path().join(format!("extra-{extra:05}.txt")), format!("{extra}")).unwrap();
        let _ = peer_home.run(["share", "rescan", "--json", path]);
        !Path::new(&format!("/proc/{}", index.pid())).exists()
            || fs::read_to_string(format!("/proc/{}/stat", index.pid())).is_ok_and(|stat| stat.contains(") Z"))
    });
    index.wait();
    let acknowledged = peer_home.run(["share", "ls", "--json"]).ok().record("share")["registered"].as_u64().unwrap();
    assert!(acknowledged > 0);
    // The peer dies too, so it cannot register again what the index may have lost.
    peer.kill();
    let index = index_home.start(["index", "--json", "--index-listen", &address]);
    let found = Home::new().run(["search", "--json", "--away", "--limit", "1", "--index", &ticket, "ext:txt"]);
    let total = found.record("summary")["total"].as_u64().unwrap();
    assert!(total >= acknowledged, "{total} of {acknowledged} acknowledged entries are there");
    let peer = peer_home.start(crate::support::peer(&[]));
    wait_ready(&peer_home);
    peer.stop();
    index.stop();
}
