//! The walk-through of the report that haul started from: launch the index and the peers, register, search, look up,
//! choose a provider, transfer, verify, exit. At the end nothing is left: no process, no socket, no part of a file.

use std::fs;
use std::path::Path;

use crate::support::{Home, Running, eventually, leftovers, pattern, peer, wait_ready};

const CONTENT_BYTES: usize = 3 * 1024 * 1024 + 17;

#[test]
fn launch_register_search_lookup_choose_transfer_verify_exit() {
    let (index_home, homes) = (Home::new(), [Home::new(), Home::new(), Home::new()]);
    let [first, second, third] = &homes;
    let data = tempfile::tempdir().unwrap();
    let content = pattern(11, CONTENT_BYTES);
    for (folder, name) in [("one", "report.pdf"), ("two", "copy of report.pdf")] {
        fs::create_dir(data.path().join(folder)).unwrap();
        fs::write(data.path().join(folder).join(name), &content).unwrap();
    }

    // Launch the index, then the peers.
    let index = index_home.start(["index", "--json", "--index-listen", "127.0.0.1:0"]);
    let ticket = index.ticket();
    let start = |home: &Home, name: &str| home.start(peer(&["--name", name, "--join", &ticket]));
    let running = [start(first, "one"), start(second, "two"), start(third, "three")];
    let pids: Vec<u32> = running.iter().map(Running::pid).chain([index.pid()]).collect();

    // Register, each peer its own folder.
    for (home, folder) in [(first, "one"), (second, "two")] {
        let registered = home.shell(data.path(), &format!("register {folder}\nexit\n"));
        assert!(registered.ok().stdout().contains("sharing"));
        wait_ready(home);
    }

    // Search, look up, choose one of two providers, transfer, exit.
    let target = tempfile::tempdir().unwrap();
    let script = "search report pdf\nlookup 1\nget 1 from 2\nstatus\npeers\nexit\n";
    let session = third.shell(target.path(), script).ok();
    let text = session.stdout();
    assert!(text.contains("2 copies, 2 reachable"), "{text}");
    assert!(text.contains("from 1 peer, verified"), "one provider was chosen: {text}");

    // Verify: the bytes are the same, and the id is their hash.
    let arrived = only_file(target.path());
    assert_eq!(fs::read(&arrived).unwrap(), content);
    let found = third.run(["lookup", "--json", "report.pdf"]).ok();
    assert_eq!(found.record("provider")["id"], format!("b3:{}", blake3::hash(&content)));

    // Exit: a peer that leaves takes its names along at once.
    let [one, two, three] = running;
    one.stop();
    assert_eq!(third.run(["lookup", "--json", "report.pdf"]).code(), 1);
    eventually("the other copy stays", || third.run(["lookup", "--json", "copy of report.pdf"]).code() == 0);
    two.stop();
    three.stop();
    index.stop();
    assert_nothing_is_left(&pids, homes.iter().chain([&index_home]), &[data.path(), target.path()]);
}

fn only_file(folder: &Path) -> std::path::PathBuf {
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = files.as_slice() else { panic!("not one file: {files:?}") };
    file.clone()
}

fn assert_nothing_is_left<'a>(pids: &[u32], homes: impl Iterator<Item = &'a Home>, folders: &[&Path]) {
    for pid in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is still there");
    }
    for home in homes {
        let run = home.path().join("run");
        let sockets: Vec<_> = fs::read_dir(&run).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        assert!(sockets.is_empty(), "{sockets:?}");
        assert_eq!(leftovers(home.path()), Vec::<std::path::PathBuf>::new());
    }
    for folder in folders {
        assert_eq!(leftovers(folder), Vec::<std::path::PathBuf>::new());
    }
}
