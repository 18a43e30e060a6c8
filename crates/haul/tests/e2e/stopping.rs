//! Downloads that are stopped at many moments, and several of the same content at once.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use crate::support::{Home, Running, eventually, haul, leftovers, pattern, signal, up, wait_ready, write_old};

const MIB: usize = 1024 * 1024;

struct Network {
    server: Running,
    home: Home,
    reader: Home,
    daemon: Running,
    target: tempfile::TempDir,
    _share: tempfile::TempDir,
    content: Vec<u8>,
}

fn network(bytes: usize) -> Network {
    let (home, reader, share) = (Home::new(), Home::new(), tempfile::tempdir().unwrap());
    let content = pattern(81, bytes);
    write_old(&share.path().join("big.bin"), &content);
    let server = home.start(up(&["--share", share.path().to_str().unwrap()]));
    wait_ready(&home);
    let daemon = reader.start(up(&["--join", &server.ticket()]));
    Network { server, home, reader, daemon, target: tempfile::tempdir().unwrap(), _share: share, content }
}

impl Network {
    /// Starts `haul get big.bin` to a name.
    fn begin(&self, name: &str) -> Child {
        let mut command = haul();
        command.env("HAUL_HOME", self.reader.path()).args(["get", "--json", "big.bin", "-o"]);
        command.arg(self.target.path().join(name)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn transfer(&self) -> serde_json::Value {
        self.reader.run(["transfers", "--json"]).ok().records("transfer").pop().unwrap_or_default()
    }

    fn done(&self) -> u64 {
        self.transfer()["done"].as_u64().unwrap_or(0)
    }

    fn stop(self) {
        self.daemon.stop();
        self.server.stop();
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_download_that_is_stopped_at_many_moments_leaves_a_part_file_and_goes_on_from_it() {
    let mut network = network(32 * MIB);
    network.home.run(["limit", "up", "24M"]).ok();
    let (mut stops, mut killed) = (0, 0);
    let mut before = 0;
    loop {
        let mut get = network.begin("got");
        // Each stop at another place: at once, or when so much more is there.
        let more = (stops % 5) * 700_000;
        eventually("it goes on", || {
            let transfer = network.transfer();
            transfer["state"] == "done" || transfer["state"] == "running" && network.done() >= before + more
        });
        if network.transfer()["state"] == "done" {
            assert!(get.wait().unwrap().success());
            break;
        }
        match stops % 4 {
            0 => drop(network.reader.run(["transfers", "cancel", &network.transfer()["transfer"].to_string()])),
            1 => signal(&get.id().to_string(), "INT"),
            2 => drop(network.reader.run(["transfers", "pause", &network.transfer()["transfer"].to_string()])),
            _ => {
                let daemon = std::mem::replace(&mut network.daemon, network.server);
                daemon.stop();
                network.server = std::mem::replace(&mut network.daemon, network.reader.start(up(&[])));
                killed += 1;
            }
        }
        let _ = get.wait();
        let id = network.transfer()["transfer"].to_string();
        if stops % 4 == 3 {
            // The next daemon goes on by itself.
            drop(network.reader.run(["transfers", "pause", &id]));
        }
        stops += 1;
        if network.transfer()["state"] == "done" {
            break;
        }
        let left = names(network.target.path());
        if left == ["got"] {
            // The stop came with the last leaf.
            break;
        }
        assert!(
            left.iter().all(|name| [".got.haul-part", ".got.haul-progress"].contains(&name.as_str())),
            "only what can be resumed is left after stop {stops}: {left:?}"
        );
        before = network.done().max(before);
    }
    assert!(stops >= 6 && killed >= 1, "{stops} stops");
    assert!(fs::read(network.target.path().join("got")).unwrap() == network.content);
    assert_eq!(names(network.target.path()), ["got"]);
    let sent = network.home.run(["status", "--json"]).record("status")["up_bytes"].as_u64().unwrap();
    let once = network.content.len() as u64;
    assert!(sent <= once + stops * MIB as u64, "what was under way comes again: {sent} bytes sent, {stops} stops");
    network.stop();
}

#[test]
fn two_downloads_of_one_content_at_once_both_end() {
    let network = network(24 * MIB);
    network.home.run(["limit", "up", "16M"]).ok();
    // Two names, and one of them twice.
    let mut gets = ["one", "two", "one"].map(|name| network.begin(name));
    for get in &mut gets {
        assert!(get.wait().unwrap().success());
    }
    for name in ["one", "two"] {
        assert!(fs::read(network.target.path().join(name)).unwrap() == network.content, "{name}");
    }
    assert_eq!(leftovers(network.target.path()), Vec::<std::path::PathBuf>::new());
    let transfers = network.reader.run(["transfers", "--json"]).ok().records("transfer");
    assert_eq!(transfers.len(), 2, "the same name is the same download: {transfers:?}");
    network.stop();
}
