//! Downloaders give each other what they have, also when whoever shared it is gone.

use std::fs;

use crate::support::{Home, pattern, up, wait_ready};

const MIB: usize = 1024 * 1024;

#[test]
fn a_finished_download_serves_others_after_its_owner_is_gone() {
    let content = pattern(41, 24 * MIB);
    let share = tempfile::tempdir().unwrap();
    fs::write(share.path().join("set.bin"), &content).unwrap();
    let (index_home, owner_home, first_home, second_home) = (Home::new(), Home::new(), Home::new(), Home::new());
    let index = index_home.start(["index", "--json", "--index-listen", "127.0.0.1:0"]);
    let ticket = index.ticket();
    let owner = owner_home.start(up(&["--join", &ticket, "--share", share.path().to_str().unwrap()]));
    wait_ready(&owner_home);
    let (first, second) = (first_home.start(up(&["--join", &ticket])), second_home.start(up(&["--join", &ticket])));
    let id = format!("b3:{}", blake3::hash(&content));
    let target = tempfile::tempdir().unwrap();
    let get = |home: &Home, name: &str| {
        let file = target.path().join(name);
        let done = home.run(["get", "--json", &id, "-o", file.to_str().unwrap()]).ok().record("done");
        assert!(fs::read(&file).unwrap() == content, "the content is right");
        done
    };
    get(&first_home, "first");
    owner.stop();
    let done = get(&second_home, "second");
    let from = done["from"].as_array().unwrap();
    assert_eq!(from.len(), 1, "{done}");
    assert_eq!(from[0]["peer"], first.ready["peer"], "{done}");
    // A file that has changed is passed on no more.
    fs::write(target.path().join("first"), "changed").unwrap();
    fs::write(target.path().join("second"), "changed").unwrap();
    let file = target.path().join("third");
    let third_home = Home::new();
    let third = third_home.start(up(&["--join", &ticket]));
    let failed = third_home.run(["get", "--json", &id, "-o", file.to_str().unwrap(), "--timeout", "2s"]);
    assert!(failed.code() != 0 && !file.exists(), "{}", failed.stdout());
    for running in [first, second, third, index] {
        running.stop();
    }
}

#[test]
fn those_that_download_at_once_take_pieces_from_each_other() {
    let content = pattern(42, 64 * MIB);
    let share = tempfile::tempdir().unwrap();
    fs::write(share.path().join("set.bin"), &content).unwrap();
    let owner_home = Home::new();
    let owner = owner_home.start(up(&["--share", share.path().to_str().unwrap()]));
    wait_ready(&owner_home);
    let ticket = owner.ticket();
    let homes: Vec<Home> = (0..3).map(|_| Home::new()).collect();
    let peers: Vec<_> = homes.iter().map(|home| home.start(up(&["--join", &ticket]))).collect();
    let target = tempfile::tempdir().unwrap();
    let from_each_other = std::thread::scope(|scope| {
        let get = |number: usize| {
            let (home, file) = (&homes[number], target.path().join(number.to_string()));
            let content = &content;
            scope.spawn(move || {
                let done = home.run(["get", "--json", "set.bin", "-o", file.to_str().unwrap()]).ok().record("done");
                assert!(fs::read(&file).unwrap() == *content, "the content is right");
                done
            })
        };
        let gets: Vec<_> = (0..homes.len()).map(get).collect();
        let done: Vec<_> = gets.into_iter().map(|get| get.join().unwrap()).collect();
        let bytes = |done: &serde_json::Value| -> u64 {
            let others = done["from"].as_array().unwrap().iter().filter(|from| from["peer"] != owner.ready["peer"]);
            others.map(|from| from["bytes"].as_u64().unwrap()).sum()
        };
        done.iter().map(bytes).sum::<u64>()
    });
    assert!(from_each_other > 0, "everything came from its owner");
    for peer in peers {
        peer.stop();
    }
    owner.stop();
}
