//! What people are told of a transfer: its timeline with everybody's faults, and what they can do with it.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use haul_sim::rogue::{Behaviour, Rogue};
use serde_json::Value;

use crate::providers::dying_provider;
use crate::support::{Home, eventually, pattern, up, wait_ready};

const MIB: usize = 1024 * 1024;

fn rogue(runtime: &tokio::runtime::Runtime, ticket: &str, name: &str, content: &[u8], behaviour: Behaviour) -> Rogue {
    let bytes = Bytes::copy_from_slice(content);
    runtime.block_on(Rogue::join(&ticket.parse().unwrap(), name, "big.bin", bytes, behaviour)).unwrap()
}

fn notes_of<'a>(notes: &'a [Value], peer: &str) -> Vec<&'a str> {
    notes.iter().filter(|note| note["peer"] == peer).map(|note| note["note"].as_str().unwrap()).collect()
}

#[test]
fn the_dead_the_liar_and_the_slow_are_named_by_their_faults() {
    let content = pattern(41, 96 * MIB);
    let data = tempfile::tempdir().unwrap();
    let honest_share = data.path().join("honest");
    fs::create_dir(&honest_share).unwrap();
    fs::write(honest_share.join("big.bin"), &content).unwrap();
    let (honest_home, dying_home, reader_home) = (Home::new(), Home::new(), Home::new());
    let honest = honest_home.start(up(&["--name", "honest", "--share", honest_share.to_str().unwrap()]));
    wait_ready(&honest_home);
    let ticket = honest.ticket();
    let mut dying = dying_provider(&dying_home, data.path(), &content, &ticket, 4);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let liar = rogue(&runtime, &ticket, "liar", &content, Behaviour::Corrupt);
    let slow = rogue(&runtime, &ticket, "tortoise", &content, Behaviour::Slow(Duration::from_millis(300)));
    let reader = reader_home.start(up(&["--join", &ticket]));
    eventually("all four providers are known", || {
        reader_home.run(["lookup", "--json", "big.bin"]).records("provider").len() == 4
    });
    let target = tempfile::tempdir().unwrap();
    let file = target.path().join("big.bin");
    let done = reader_home.run(["get", "--json", "big.bin", "-o", file.to_str().unwrap()]).ok().record("done");
    dying.wait();

    let explained = reader_home.run(["transfers", "explain", "--json"]).ok();
    let (notes, tallies) = (explained.records("note"), explained.records("tally"));
    let key = |running: &Value| running["peer"].as_str().unwrap().to_owned();
    let (liar_key, slow_key) = (liar.peer().to_string(), slow.peer().to_string());
    let (honest_key, dead_key) = (key(&honest.ready), key(&dying.ready));
    let tally = |peer: &str| tallies.iter().find(|tally| tally["peer"] == peer).cloned().unwrap_or(Value::Null);

    // Who was there, from whom it was known, when it joined.
    for peer in [&honest_key, &dead_key, &liar_key, &slow_key] {
        let recorded = notes_of(&notes, peer);
        assert!(recorded.contains(&"found") && recorded.contains(&"joined"), "{peer}: {recorded:?}");
        assert!(!tally(peer)["found"].as_array().unwrap().is_empty(), "{}", tally(peer));
    }
    // Each fault, and nobody else's.
    assert!(notes_of(&notes, &liar_key).contains(&"banned"));
    assert_eq!((&tally(&liar_key)["banned"]["lie"], &tally(&liar_key)["bytes"]), (&"leaf".into(), &0.into()));
    assert!(tally(&liar_key)["wasted"].as_u64().unwrap() >= 65_536, "{}", tally(&liar_key));
    assert!(notes_of(&notes, &dead_key).contains(&"lost"), "{:?}", notes_of(&notes, &dead_key));
    assert!(tally(&dead_key)["bytes"].as_u64().unwrap() > 0 && tally(&dead_key)["joined"] == false);
    assert!(notes_of(&notes, &slow_key).iter().any(|note| ["late", "stalled"].contains(note)));
    assert!(tally(&slow_key)["late"].as_u64().unwrap() + tally(&slow_key)["stalled"].as_u64().unwrap() > 0);
    let unfair: Vec<&str> = notes_of(&notes, &honest_key);
    assert!(
        !unfair.iter().any(|note| ["banned", "lost", "stalled", "given-up", "unreachable"].contains(note)),
        "{unfair:?}"
    );
    // The sums agree with the result.
    let sums = explained.record("timeline");
    assert_eq!(sums["fetched"], done["fetched"], "{sums} {done}");
    assert_eq!(
        (notes.first().unwrap()["note"].as_str(), notes.last().unwrap()["note"].as_str()),
        (Some("begun"), Some("done"))
    );
    assert!(notes.iter().any(|note| note["note"] == "outline"));

    // The same for people, in both forms of asking.
    let said = reader_home.run(["transfers", "--explain"]).ok().stdout();
    let has = |key: &str, end: &str| said.lines().any(|line| line.contains(&key[..11]) && line.ends_with(end));
    assert!(has(&liar_key, "  liar") && has(&dead_key, "  dead"), "{said}");
    assert!(has(&slow_key, "  slow") || has(&slow_key, "  stalled"), "{said}");
    assert!(!has(&honest_key, "  liar") && !has(&honest_key, "  dead"), "{said}");
    assert!(said.contains(&format!("! liar {}: lied: wrong bytes", &liar_key[..11])), "{said}");
    let by_id = reader_home.run(["transfers", "explain", "1"]).ok().stdout();
    assert_eq!(by_id, said);
    if let Ok(path) = std::env::var("HAUL_SHOW_EXPLAINED") {
        fs::write(path, said).unwrap();
    }

    runtime.block_on(liar.stop());
    runtime.block_on(slow.stop());
    reader.stop();
    honest.stop();
}

#[test]
fn transfers_are_paused_resumed_given_up_and_tried_again() {
    let content = pattern(42, 4 * MIB);
    let (index_home, reader_home) = (Home::new(), Home::new());
    let index = index_home.start(["index", "--json", "--index-listen", "127.0.0.1:0"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let slow = rogue(&runtime, &index.ticket(), "tortoise", &content, Behaviour::Slow(Duration::from_millis(60)));
    let reader = reader_home.start(up(&["--join", &index.ticket()]));
    let target = tempfile::tempdir().unwrap();
    let file = target.path().join("big.bin");
    let id = format!("b3:{}", blake3::hash(&content));
    let getting = std::thread::scope(|scope| {
        let get = scope.spawn(|| reader_home.run(["get", &id, "-o", file.to_str().unwrap()]));
        eventually("some of it arrives", || {
            let transfers = reader_home.run(["transfers", "--json"]).records("transfer");
            transfers.iter().any(|transfer| transfer["done"].as_u64().unwrap() > 0)
        });
        reader_home.run(["transfers", "pause", "1"]).ok();
        get.join().unwrap()
    });
    assert_eq!(getting.code(), 4, "whoever follows it is told: {}", getting.stderr());
    let transfer = || reader_home.run(["transfers", "--json"]).record("transfer");
    let done = || transfer()["done"].as_u64().unwrap();
    let order = |verb: &str| reader_home.run(["transfers", verb, "1", "--json"]);
    let moves_on = |from: u64| eventually("more of it arrives", || done() > from);

    let paused = transfer();
    assert_eq!((&paused["state"], &paused["next"]), (&"paused".into(), &"haul transfers resume 1".into()));
    assert!(order("retry").code() == 0, "a paused one can be tried again");
    moves_on(paused["done"].as_u64().unwrap());
    assert_eq!(order("retry").code(), 2, "one that runs cannot");
    order("cancel").ok();
    let canceled = transfer();
    assert_eq!((&canceled["state"], &canceled["next"]), (&"canceled".into(), &"haul transfers retry 1".into()));
    let refused = order("pause");
    assert!(refused.code() == 2 && refused.record("error")["next"].as_str().unwrap().contains("retry 1"));
    assert!(!file.exists(), "no name before the end");

    order("retry").ok();
    eventually("it is done", || transfer()["state"] == "done");
    assert!(fs::read(&file).unwrap() == content);
    for verb in ["pause", "resume", "cancel", "retry"] {
        assert_eq!(order(verb).code(), 2, "{verb} of one that is done");
    }
    assert_eq!(reader_home.run(["transfers", "explain", "7"]).code(), 1);
    let explained = reader_home.run(["transfers", "explain", "1", "--json"]).ok();
    let runs: Vec<String> = explained
        .records("note")
        .iter()
        .map(|note| note["note"].as_str().unwrap().to_owned())
        .filter(|note| ["begun", "paused", "canceled", "done"].contains(&note.as_str()))
        .collect();
    assert_eq!(runs, ["begun", "paused", "begun", "canceled", "begun", "done"]);
    let known: Vec<u64> = explained.records("note").iter().filter_map(|note| note["here"].as_u64()).collect();
    assert!(known.len() == 3 && known[0] == 0 && known[1] > 0 && known[2] > known[1], "{known:?}");
    // Every byte came once: what arrived before a stop was used.
    assert_eq!(explained.record("timeline")["fetched"], content.len());
    runtime.block_on(slow.stop());
    reader.stop();
    index.stop();
}
