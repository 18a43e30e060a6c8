//! An index that dies when downloads have begun, and a provider that dies while it gives.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Home, Running, eventually, pattern, peer, up, wait_ready, write_old};

const MIB: usize = 1024 * 1024;

/// An index, and a peer that shares `big.bin`, as processes of their own.
struct Network {
    index: Running,
    owner: Running,
    owner_home: Home,
    _index_home: Home,
    _share: tempfile::TempDir,
    content: Vec<u8>,
}

fn network(bytes: usize) -> Network {
    let content = pattern(71, bytes);
    let share = tempfile::tempdir().unwrap();
    write_old(&share.path().join("big.bin"), &content);
    let (index_home, owner_home) = (Home::new(), Home::new());
    let index = index_home.start(["index", "--json", "--index-listen", "127.0.0.1:0"]);
    let owner = owner_home.start(peer(&["--join", &index.ticket(), "--share", share.path().to_str().unwrap()]));
    wait_ready(&owner_home);
    Network { index, owner, owner_home, _index_home: index_home, _share: share, content }
}

fn get(home: &Home, file: &Path) -> Value {
    home.run(["get", "--json", "big.bin", "-o", file.to_str().unwrap()]).ok().record("done")
}

fn has_begun(home: &Home, what: &str) -> bool {
    let explained = home.run(["transfers", "explain", "--json"]);
    explained.code() == 0 && explained.records("note").iter().any(|note| note["note"] == what)
}

fn received(home: &Home) -> u64 {
    home.run(["transfers", "--json"])
        .records("transfer")
        .iter()
        .map(|transfer| transfer["done"].as_u64().unwrap())
        .sum()
}

#[test]
fn an_index_that_dies_before_the_first_byte_keeps_nobody_from_all_of_them() {
    let network = network(48 * MIB);
    let readers = [Home::new(), Home::new()];
    let running = readers.each_ref().map(|home| home.start(peer(&["--join", &network.index.ticket()])));
    // They learn of each other and of the owner; nothing flows.
    network.owner_home.run(["limit", "up", "0"]).ok();
    let target = tempfile::tempdir().unwrap();
    let done = std::thread::scope(|scope| {
        let gets = readers.each_ref().map(|home| {
            let file = target.path().join(home.path().file_name().unwrap());
            let content = &network.content;
            scope.spawn(move || {
                let done = get(home, &file);
                assert!(fs::read(&file).unwrap() == *content, "the content is right");
                done
            })
        });
        for home in &readers {
            eventually("it is in the swarm", || has_begun(home, "in-swarm") && has_begun(home, "joined"));
            eventually("it knows the other one", || {
                let found = home.run(["transfers", "explain", "--json"]).records("tally");
                found.len() == 2
            });
        }
        network.index.kill();
        for home in &readers {
            eventually("it knows that the index is gone", || {
                home.run(["status", "--json"]).record("status")["index"]["state"] != "connected"
            });
            assert_eq!(received(home), 0, "nothing has come before");
        }
        network.owner_home.run(["limit", "up", "24M"]).ok();
        gets.map(|get| get.join().unwrap())
    });
    let owner = network.owner.ready["peer"].as_str().unwrap();
    let from_others = |done: &Value| -> u64 {
        let from = done["from"].as_array().unwrap().iter().filter(|from| from["peer"] != owner);
        from.map(|from| from["bytes"].as_u64().unwrap()).sum()
    };
    assert!(done.iter().map(from_others).sum::<u64>() > 0, "they give each other what they have: {done:?}");
    for peer in running {
        peer.stop();
    }
    network.owner.stop();
}

#[test]
fn a_provider_that_is_killed_and_started_again_ends_the_same_download() {
    let network = network(24 * MIB);
    let reader = Home::new();
    let daemon = reader.start(up(&["--join", &network.index.ticket()]));
    network.owner_home.run(["limit", "up", "8M"]).ok();
    let target = tempfile::tempdir().unwrap();
    let file = target.path().join("got");
    let done = std::thread::scope(|scope| {
        let get = scope.spawn(|| get(&reader, &file));
        eventually("some of it arrives", || received(&reader) > MIB as u64);
        network.owner.kill();
        assert!(received(&reader) < network.content.len() as u64, "half-way");
        // The same key at another port.
        let again = network.owner_home.start(peer(&[]));
        let done = get.join().unwrap();
        again.stop();
        done
    });
    assert!(fs::read(&file).unwrap() == network.content);
    let from = done["from"].as_array().unwrap();
    assert_eq!((from.len(), from[0]["corrupt"].as_u64()), (1, Some(0)), "{done}");
    assert_eq!(done["fetched"], network.content.len(), "every byte came once: {done}");
    daemon.stop();
    network.index.stop();
}
