//! Disks that are full or read-only where a download goes, and what lies in shares besides plain files.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use haul_sim::rogue::Behaviour;

use crate::mounted::Mounted;
use crate::providers::alone_with;
use crate::support::{Home, Running, eventually, failing_at, leftovers, pattern, peer, up, wait_ready};

const MIB: usize = 1024 * 1024;

fn share(home: &Home, content: &[u8]) -> (tempfile::TempDir, Running) {
    let data = tempfile::tempdir().unwrap();
    fs::write(data.path().join("big.bin"), content).unwrap();
    let server = home.start(up(&["--share", data.path().to_str().unwrap()]));
    wait_ready(home);
    (data, server)
}

/// The end of a get that the disk stopped: code, words for people, and what to do.
#[track_caller]
fn stopped_by_the_disk(reader: &Home, target: &Path, words: &str) {
    let target = target.to_str().unwrap();
    let people = reader.run(["get", "big.bin", "-o", target]);
    let said = people.stderr();
    assert_eq!(people.code(), 7, "{said}");
    assert!(said.contains(words) && said.contains("haul get big.bin"), "{said}");
    let scripts = reader.run(["get", "--json", "big.bin", "-o", target]);
    assert_eq!((scripts.code(), &scripts.record("error")["code"]), (7, &"disk".into()), "{}", scripts.stdout());
    assert!(!Path::new(target).exists(), "an unfinished download has no final name");
}

#[test]
fn a_disk_that_fills_up_ends_with_7_and_keeps_what_arrived() {
    let (home, reader) = (Home::new(), Home::new());
    let content = pattern(21, 24 * MIB);
    let (_data, server) = share(&home, &content);
    let folder = tempfile::tempdir().unwrap();
    let (target, part) = (folder.path().join("big.bin"), folder.path().join(".big.bin.haul-part"));
    let log = folder.path().join("strace.log");
    let arguments = ["--join", &server.ticket()];
    let full = reader.start_command(failing_at("pwritev", &part, "ENOSPC", 2, &log, &up(&arguments)));
    stopped_by_the_disk(&reader, &target, "full");
    assert!(part.exists(), "what arrived is kept");
    drop(full);
    let daemon = reader.start(up(&[]));
    let done = reader.run(["get", "--json", "big.bin", "-o", target.to_str().unwrap()]).ok().record("done");
    assert!(done["resumed_from"].as_u64().unwrap() > 0, "{done}");
    assert!(fs::read(&target).unwrap() == content);
    assert_eq!(leftovers(folder.path()), Vec::<PathBuf>::new());
    daemon.stop();
    server.stop();
}

#[test]
fn an_index_whose_sync_fails_acknowledges_nothing_then_and_goes_on_in_another_file() {
    let (index_home, peer_home) = (Home::new(), Home::new());
    let data = tempfile::tempdir().unwrap();
    for n in 0..200 {
        fs::write(data.path().join(format!("entry-{n:05}.txt")), format!("{n}")).unwrap();
    }
    let store = index_home.path().join("state/index/store");
    let log = index_home.path().join("strace.log");
    let arguments = ["index", "--json", "--index-listen", "127.0.0.1:0"];
    let failing = failing_at("fdatasync", &store.join("00000001.log"), "EIO", 3, &log, &arguments);
    let index = index_home.start_command(failing);
    let ticket = index.ticket();
    let address = index.ready["index_addr"].as_str().unwrap().to_owned();
    let peer = peer_home.start(peer(&["--join", &ticket]));
    peer_home.run(["share", "add", "--json", data.path().to_str().unwrap()]).ok();
    wait_ready(&peer_home);
    // Syncs are counted for each thread, and several changes may share one: share more until one has failed.
    let mut shared = 200;
    let more = tempfile::tempdir().unwrap();
    while !fs::read_to_string(&log).unwrap().contains("EIO") {
        assert!(shared < 300, "a sync fails");
        let folder = more.path().join(shared.to_string());
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(format!("entry-{shared:05}.txt")), format!("{shared}")).unwrap();
        peer_home.run(["share", "add", "--json", folder.to_str().unwrap()]).ok();
        wait_ready(&peer_home);
        shared += 1;
    }
    assert!(store.join("00000002.log").exists(), "nothing goes behind what failed");
    // Both die, so that what is found is what the index has on disk.
    peer.kill();
    index.kill();
    let index = index_home.start(["index", "--json", "--index-listen", &address]);
    let found = Home::new().run(["search", "--json", "--away", "--limit", "1", "--index", &ticket, "ext:txt"]);
    assert_eq!(found.record("summary")["total"], shared);
    index.stop();
}

#[test]
fn a_disk_without_room_is_refused_before_anything_is_fetched() {
    let Some(small) = Mounted::in_memory("size=4m") else { return };
    let (home, reader) = (Home::new(), Home::new());
    let (_data, server) = share(&home, &pattern(22, 8 * MIB));
    let daemon = reader.start(up(&["--join", &server.ticket()]));
    stopped_by_the_disk(&reader, &small.path().join("big.bin"), "no space");
    assert_eq!(leftovers(small.path()), Vec::<PathBuf>::new());
    assert_eq!(reader.run(["status"]).code(), 0, "the daemon goes on");
    daemon.stop();
    server.stop();
}

#[test]
fn a_disk_that_others_fill_up_ends_with_7_and_goes_on_when_there_is_room() {
    let Some(small) = Mounted::in_memory("size=8m") else { return };
    let content = pattern(24, 6 * MIB);
    alone_with(Behaviour::Slow(Duration::from_millis(15)), &content, |reader, _, _| {
        let (file, other) = (small.path().join("big.bin"), small.path().join("other"));
        let get = || reader.run(["get", "--json", "big.bin", "-o", file.to_str().unwrap()]);
        let failed = std::thread::scope(|scope| {
            let getting = scope.spawn(get);
            eventually("some of it arrives", || {
                let transfers = reader.run(["transfers", "--json"]).records("transfer");
                transfers.iter().any(|transfer| transfer["done"].as_u64().unwrap() > MIB as u64)
            });
            let mut filling = fs::File::create(&other).unwrap();
            while filling.write_all(&[1; 4096]).is_ok() {}
            getting.join().unwrap()
        });
        let error = failed.record("error");
        assert_eq!((failed.code(), &error["code"]), (7, &"disk".into()), "{error}");
        assert!(error["message"].as_str().unwrap().contains("is full"), "{error}");
        assert!(!file.exists());
        fs::remove_file(other).unwrap();
        let done = get().ok().record("done");
        assert!(done["resumed_from"].as_u64().unwrap() > 0, "{done}");
        assert!(fs::read(&file).unwrap() == content);
        assert_eq!(leftovers(small.path()), Vec::<PathBuf>::new());
    });
}

#[test]
fn sparse_giants_in_a_share_hold_nobody_up() {
    let Some(disk) = Mounted::in_memory("size=16m") else { return };
    // More than a blob can have, and an hour of hashing.
    for (name, bytes) in [("a-giant", i64::MAX as u64), ("b-large", 1 << 42)] {
        fs::File::create(disk.path().join(name)).unwrap().set_len(bytes).unwrap();
    }
    for name in ["aa.txt", "plain.txt"] {
        fs::write(disk.path().join(name), name).unwrap();
    }
    let (home, reader) = (Home::new(), Home::new());
    let server = home.start(up(&["--share", disk.path().to_str().unwrap()]));
    let ticket = server.ticket();
    let began = std::time::Instant::now();
    for name in ["aa.txt", "plain.txt"] {
        eventually("it is shared", || reader.run(["cat", "--index", &ticket, name]).stdout() == name);
    }
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let share = home.run(["share", "ls", "--json"]).ok().record("share");
    assert_eq!((&share["files"], &share["skipped"]), (&3.into(), &1.into()), "{share}");
    let stopping = std::time::Instant::now();
    server.stop();
    assert!(stopping.elapsed() < Duration::from_secs(10), "{:?}", stopping.elapsed());
}

#[test]
fn a_read_only_target_ends_with_7() {
    let (home, reader) = (Home::new(), Home::new());
    let (_data, server) = share(&home, &pattern(23, 2 * MIB));
    let daemon = reader.start(up(&["--join", &server.ticket()]));
    if let Some(fixed) = Mounted::in_memory("ro") {
        stopped_by_the_disk(&reader, &fixed.path().join("big.bin"), "read-only");
    } else {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
        stopped_by_the_disk(&reader, &folder.path().join("big.bin"), "permission");
    }
    // The same command with another place.
    let other = tempfile::tempdir().unwrap();
    reader.run(["get", "big.bin", "-o", other.path().to_str().unwrap()]).ok();
    daemon.stop();
    server.stop();
}

/// `haul` as somebody whom file modes bind, root or not.
fn bound_by_modes(arguments: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    let without = "-dac_override,-dac_read_search";
    command.args(["--inh-caps", without, "--bounding-set", without]).arg(env!("CARGO_BIN_EXE_haul")).args(arguments);
    if rustix::process::geteuid().is_root() {
        return command;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_haul"));
    command.args(arguments);
    command
}

#[test]
fn a_share_with_everything_that_is_no_plain_file_works() {
    let data = tempfile::tempdir().unwrap();
    let folder = data.path().join("things");
    fs::create_dir(&folder).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        Command::new(program).args(arguments).current_dir(&folder).output().is_ok_and(|output| output.status.success())
    };
    assert!(run("mkfifo", &["fifo"]));
    let device = run("mknod", &["device", "c", "1", "5"]);
    if !device {
        println!("without a device: making one is not allowed here");
    }
    let _socket = UnixListener::bind(folder.join("socket")).unwrap();
    symlink("loop-b", folder.join("loop-a")).unwrap();
    symlink("loop-a", folder.join("loop-b")).unwrap();
    symlink(".", folder.join("self")).unwrap();
    for (name, mode) in [("unreadable.txt", 0o000), ("plain.txt", 0o644)] {
        fs::write(folder.join(name), name).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(folder.join("closed")).unwrap();
    fs::write(folder.join("closed/inside.txt"), "inside").unwrap();
    fs::set_permissions(folder.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();

    let (home, reader) = (Home::new(), Home::new());
    let server = home.start_command(bound_by_modes(&up(&["--share", folder.to_str().unwrap()])));
    wait_ready(&home);
    let share = home.run(["share", "ls", "--json"]).ok().record("share");
    let skipped = 4 + u64::from(device);
    assert_eq!((share["files"].as_u64(), share["skipped"].as_u64()), (Some(1), Some(skipped)), "{share}");
    let ticket = server.ticket();
    assert_eq!(reader.run(["cat", "--index", &ticket, "plain.txt"]).ok().stdout(), "plain.txt");
    for hidden in ["fifo", "socket", "device", "unreadable.txt", "inside.txt"] {
        assert_eq!(reader.run(["get", "--index", &ticket, hidden]).code(), 1, "{hidden}");
    }
    let copy = data.path().join("copy");
    let source = format!("{}:things", server.ready["peer"].as_str().unwrap());
    reader.run(["get", "--index", &ticket, &source, "-o", copy.to_str().unwrap()]).ok();
    assert_eq!(fs::read_link(copy.join("loop-a")).unwrap(), Path::new("loop-b"));
    assert_eq!(fs::read_to_string(copy.join("plain.txt")).unwrap(), "plain.txt");
    fs::set_permissions(folder.join("closed"), fs::Permissions::from_mode(0o755)).unwrap();
    server.stop();
}
