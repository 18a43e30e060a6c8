//! Several providers of one blob, of which one dies and one lies.

use std::fs;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use haul_sim::rogue::{Behaviour, Rogue};
use serde_json::Value;

use crate::support::{Home, Running, eventually, killed_at, leftovers, pattern, up, wait_ready, write_old};

const MIB: usize = 1024 * 1024;

/// A peer that shares `content` as `big.bin` and is killed at the counted read while serving it.
pub(crate) fn dying_provider(
    home: &Home,
    folder: &std::path::Path,
    content: &[u8],
    ticket: &str,
    reads: usize,
) -> Running {
    let share = folder.join("dying");
    fs::create_dir(&share).unwrap();
    write_old(&share.join("big.bin"), content);
    let hashing = home.start(up(&["--join", ticket, "--share", share.to_str().unwrap()]));
    wait_ready(home);
    hashing.stop();
    // Everything is hashed and remembered, so from here on reads at offsets are reads for others.
    let log = folder.join("strace.log");
    let running = home.start_command(killed_at("pread64", Some(&share.join("big.bin")), reads, &log, &up(&[])));
    wait_ready(home);
    running
}

#[test]
fn the_dead_are_replaced_and_the_liar_is_named() {
    let bytes = std::env::var("HAUL_TEST_MIB").ok().and_then(|mib| mib.parse().ok()).unwrap_or(96) * MIB;
    let content = pattern(3, bytes);
    let data = tempfile::tempdir().unwrap();
    let honest_share = data.path().join("honest");
    fs::create_dir(&honest_share).unwrap();
    fs::write(honest_share.join("big.bin"), &content).unwrap();

    let (honest_home, dying_home, reader_home) = (Home::new(), Home::new(), Home::new());
    let honest = honest_home.start(up(&["--share", honest_share.to_str().unwrap()]));
    wait_ready(&honest_home);
    let ticket = honest.ticket();
    let mut dying = dying_provider(&dying_home, data.path(), &content, &ticket, 4);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let rogue = runtime
        .block_on(Rogue::join(
            &ticket.parse().unwrap(),
            "liar",
            "big.bin",
            Bytes::from(content.clone()),
            Behaviour::Corrupt,
        ))
        .unwrap();

    let reader = reader_home.start(up(&["--join", &ticket]));
    eventually("all three providers are known", || {
        reader_home.run(["lookup", "--json", "big.bin"]).records("provider").len() == 3
    });
    let target = tempfile::tempdir().unwrap();
    let file = target.path().join("big.bin");
    let done = reader_home.run(["get", "--json", "big.bin", "-o", file.to_str().unwrap()]).ok().record("done");

    assert!(fs::read(&file).unwrap() == content, "the content is right");
    assert_eq!(leftovers(target.path()), Vec::<std::path::PathBuf>::new());
    let from = done["from"].as_array().unwrap();
    let of = |peer: &str| from.iter().find(|share| share["peer"] == peer).cloned().unwrap_or(Value::Null);
    let liar = of(&rogue.peer().to_string());
    assert!(liar["corrupt"].as_u64().is_some_and(|leaves| leaves >= 1), "the liar is named: {done}");
    assert_eq!(liar["bytes"], 0, "{done}");
    assert!(of(honest.ready["peer"].as_str().unwrap())["bytes"].as_u64().unwrap() > 0);
    assert!(of(dying.ready["peer"].as_str().unwrap())["bytes"].as_u64().unwrap() > 0);
    dying.wait();

    runtime.block_on(rogue.stop());
    reader.stop();
    honest.stop();
}

/// A provider that misbehaves, alone in a network with one reader.
pub(crate) fn alone_with(behaviour: Behaviour, content: &[u8], test: impl FnOnce(&Home, &str, &Rogue)) {
    let (index_home, reader_home) = (Home::new(), Home::new());
    let index = index_home.start(["index", "--json", "--index-listen", "127.0.0.1:0"]);
    let ticket = index.ticket();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bytes = Bytes::copy_from_slice(content);
    let rogue = runtime.block_on(Rogue::join(&ticket.parse().unwrap(), "rogue", "big.bin", bytes, behaviour)).unwrap();
    let reader = reader_home.start(up(&["--join", &ticket]));
    test(&reader_home, &ticket, &rogue);
    runtime.block_on(rogue.stop());
    reader.stop();
    index.stop();
}

#[test]
fn nobody_but_a_liar_is_exit_5_and_names_it() {
    let target = tempfile::tempdir().unwrap();
    let file = target.path().join("big.bin");
    alone_with(Behaviour::Corrupt, &pattern(31, 3 * MIB), |reader, _, rogue| {
        let failed = reader.run(["get", "--json", "big.bin", "-o", file.to_str().unwrap()]);
        let error = failed.record("error");
        assert_eq!((failed.code(), &error["code"]), (5, &"corrupt".into()), "{error}");
        assert_eq!(error["causes"][0]["peer"], rogue.peer().to_string(), "{error}");
        let said = reader.run(["get", "big.bin", "-o", file.to_str().unwrap()]);
        assert!(said.code() == 5 && said.stderr().contains("rogue"), "{}", said.stderr());
        assert!(!file.exists());
    });
}

#[test]
fn a_provider_that_vanishes_is_exit_4_and_another_one_goes_on() {
    let target = tempfile::tempdir().unwrap();
    let file = target.path().join("big.bin");
    let content = pattern(32, 8 * MIB);
    alone_with(Behaviour::Vanish(40), &content, |reader, ticket, _| {
        let failed = reader.run(["get", "--json", "big.bin", "-o", file.to_str().unwrap()]);
        let error = failed.record("error");
        assert_eq!((failed.code(), &error["code"]), (4, &"incomplete".into()), "{error}");
        assert!(error["next"].as_str().unwrap().contains("haul get big.bin"), "{error}");
        assert!(!file.exists());
        let (home, share) = (Home::new(), tempfile::tempdir().unwrap());
        fs::write(share.path().join("big.bin"), &content).unwrap();
        let honest = home.start(up(&["--join", ticket, "--share", share.path().to_str().unwrap()]));
        wait_ready(&home);
        let done = reader.run(["get", "--json", "big.bin", "-o", file.to_str().unwrap()]).ok().record("done");
        assert!(done["resumed_from"].as_u64().unwrap() > 0, "{done}");
        assert!(fs::read(&file).unwrap() == content);
        honest.stop();
    });
}

#[test]
fn a_provider_that_stalls_is_worked_around() {
    let target = tempfile::tempdir().unwrap();
    let file = target.path().join("big.bin");
    let content = pattern(33, 8 * MIB);
    alone_with(Behaviour::Stall, &content, |reader, ticket, rogue| {
        let (home, share) = (Home::new(), tempfile::tempdir().unwrap());
        fs::write(share.path().join("big.bin"), &content).unwrap();
        let honest = home.start(up(&["--join", ticket, "--share", share.path().to_str().unwrap()]));
        wait_ready(&home);
        let output = file.to_str().unwrap();
        let done = reader.run(["get", "--json", "big.bin", "-o", output, "--timeout", "90s"]).ok().record("done");
        assert!(fs::read(&file).unwrap() == content);
        let stalled = rogue.peer().to_string();
        let from = done["from"].as_array().unwrap();
        assert!(from.iter().all(|share| share["peer"] != *stalled || share["bytes"] == 0), "{done}");
        honest.stop();
    });
}

#[test]
fn a_file_that_changes_while_it_is_served_is_exit_4_and_blames_nobody() {
    let (home, reader) = (Home::new(), Home::new());
    let share = tempfile::tempdir().unwrap();
    let content = pattern(34, 256 * MIB);
    write_old(&share.path().join("big.bin"), &content);
    let server = home.start(up(&["--share", share.path().to_str().unwrap()]));
    wait_ready(&home);
    let daemon = reader.start(up(&["--join", &server.ticket()]));
    let target = tempfile::tempdir().unwrap();
    let file = target.path().join("big.bin");
    let id = format!("b3:{}", blake3::hash(&content));
    let arguments = ["get", "--json", &id, "-o", file.to_str().unwrap()];
    let failed = std::thread::scope(|scope| {
        let get = scope.spawn(|| reader.run(arguments));
        eventually("some of it arrived", || {
            let transfers = reader.run(["transfers", "--json"]).records("transfer");
            transfers.iter().any(|transfer| transfer["done"].as_u64().unwrap() > MIB as u64)
        });
        // The same size, another byte, in its place.
        let changing = fs::File::options().write(true).open(share.path().join("big.bin")).unwrap();
        changing.write_all_at(b"other", content.len() as u64 / 2).unwrap();
        drop(changing);
        get.join().unwrap()
    });
    let error = failed.record("error");
    assert_eq!(failed.code(), 4, "{error}");
    // Its provider notices while it reads, or has withdrawn the content before it is asked for more.
    let why = error["causes"][0]["message"].as_str().unwrap();
    match error["code"].as_str().unwrap() {
        "file-changed" => assert_eq!(why, "its file has changed"),
        "incomplete" => assert_eq!(why, "does not have it any more"),
        other => panic!("{other}: {error}"),
    }
    assert!(!file.exists());
    daemon.stop();
    server.stop();
}
