//! Mostly hostile providers, and one whose disk has changed without telling.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use bytes::Bytes;
use haul_sim::rogue::{Behaviour, Rogue};
use serde_json::Value;

use crate::mounted::Image;
use crate::support::{Home, eventually, pattern, peer, up, wait_ready, write_old};

const MIB: usize = 1024 * 1024;

fn given(done: &Value, peer: &str) -> Value {
    done["from"].as_array().unwrap().iter().find(|from| from["peer"] == *peer).cloned().unwrap_or_default()
}

#[test]
fn ten_hostile_providers_of_twelve_cost_little() {
    let content = pattern(91, 24 * MIB);
    let share = tempfile::tempdir().unwrap();
    fs::write(share.path().join("big.bin"), &content).unwrap();
    let (index_home, homes, reader_home) = (Home::new(), [Home::new(), Home::new()], Home::new());
    let index = index_home.start(["index", "--json", "--index-listen", "127.0.0.1:0"]);
    let ticket = index.ticket();
    let honest =
        homes.each_ref().map(|home| home.start(peer(&["--join", &ticket, "--share", share.path().to_str().unwrap()])));
    homes.iter().for_each(wait_ready);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let kinds = [
        Behaviour::Corrupt,
        Behaviour::Withhold,
        Behaviour::Stall,
        Behaviour::Vanish(3),
        Behaviour::Slow(Duration::from_secs(2)),
    ];
    let rogues: Vec<(Behaviour, Rogue)> = kinds
        .into_iter()
        .chain(kinds)
        .enumerate()
        .map(|(n, behaviour)| {
            let (bytes, name) = (Bytes::copy_from_slice(&content), format!("rogue-{n}"));
            let ticket = ticket.parse().unwrap();
            (behaviour, runtime.block_on(Rogue::join(&ticket, &name, "big.bin", bytes, behaviour)).unwrap())
        })
        .collect();
    let reader = reader_home.start(peer(&["--join", &ticket]));
    eventually("all providers are known", || {
        reader_home.run(["lookup", "--json", "big.bin"]).records("provider").len() == 12
    });
    let target = tempfile::tempdir().unwrap();
    let file = target.path().join("big.bin");
    let done = reader_home.run(["get", "--json", "big.bin", "-o", file.to_str().unwrap()]).ok().record("done");
    assert!(fs::read(&file).unwrap() == content, "the content is right");
    assert_eq!(done["fetched"], content.len(), "{done}");
    let tallies = reader_home.run(["transfers", "explain", "--json"]).ok().records("tally");
    let tally = |peer: &str| tallies.iter().find(|tally| tally["peer"] == *peer).cloned().unwrap_or_default();
    for (behaviour, rogue) in &rogues {
        let tally = tally(&rogue.peer().to_string());
        let liar = *behaviour == Behaviour::Corrupt;
        assert_eq!(tally["banned"].is_object(), liar, "liars are banned, and nobody else: {behaviour:?} {tally}");
        // What a liar had in flight when its first leaf was judged.
        assert!(tally["wasted"].as_u64().unwrap() <= 4 * MIB as u64, "{behaviour:?} {tally}");
        assert!(!liar || tally["bytes"] == 0, "{tally}");
    }
    for honest in &honest {
        let key = honest.ready["peer"].as_str().unwrap();
        assert!(tally(key)["banned"].is_null() && given(&done, key)["bytes"].as_u64().unwrap() > 0, "{done}");
    }
    for (_, rogue) in rogues {
        runtime.block_on(rogue.stop());
    }
    reader.stop();
    for peer in honest {
        peer.stop();
    }
    index.stop();
}

/// Flips a bit in every leaf of this content, wherever its leaves lie in the file system of an image.
fn flip_a_bit_in_every_leaf(image: &Image, content: &[u8]) {
    const BLOCK: usize = 1024;
    let disk = fs::read(image.path()).unwrap();
    let file = File::options().write(true).open(image.path()).unwrap();
    let leaves: std::collections::HashMap<&[u8], usize> =
        content.chunks(64 * 1024).enumerate().map(|(leaf, bytes)| (&bytes[..BLOCK], leaf)).collect();
    let mut flipped = 0;
    for (n, block) in disk.chunks(BLOCK).enumerate().filter(|(_, block)| leaves.contains_key(block)) {
        file.write_all_at(&[block[7] ^ 4], (n * BLOCK + 7) as u64).unwrap();
        flipped += 1;
    }
    assert_eq!(flipped, leaves.len(), "every leaf is on the disk");
}

#[test]
fn bits_that_flip_on_one_providers_disk_are_passed_on_by_nobody() {
    let content = pattern(92, 24 * MIB);
    let images = tempfile::tempdir().unwrap();
    let Some(image) = Image::new(images.path(), 48 * MIB as u64) else { return };
    let (rotten_home, honest_home) = (Home::new(), Home::new());
    let honest_share = tempfile::tempdir().unwrap();
    write_old(&honest_share.path().join("set.bin"), &content);
    let honest = honest_home.start(up(&["--share", honest_share.path().to_str().unwrap()]));
    wait_ready(&honest_home);
    let ticket = honest.ticket();
    // It hashes what is right; then the disk changes below the file system, which has nothing to tell.
    let Some(disk) = image.mount() else { return };
    let share = disk.path().join("share");
    fs::create_dir(&share).unwrap();
    write_old(&share.join("set.bin"), &content);
    let rotten = rotten_home.start(peer(&["--join", &ticket, "--share", share.to_str().unwrap()]));
    wait_ready(&rotten_home);
    rotten.stop();
    disk.change(&image, || flip_a_bit_in_every_leaf(&image, &content));
    let rotten = rotten_home.start(peer(&[]));
    wait_ready(&rotten_home);
    assert!(fs::read(share.join("set.bin")).unwrap() != content, "the disk is rotten");

    // Slow enough that the readers get much from each other.
    honest_home.run(["limit", "up", "16M"]).ok();
    let readers = [Home::new(), Home::new(), Home::new()];
    let running = readers.each_ref().map(|home| home.start(peer(&["--join", &ticket])));
    let target = tempfile::tempdir().unwrap();
    let results = std::thread::scope(|scope| {
        let gets = readers.each_ref().map(|home| {
            let file = target.path().join(home.path().file_name().unwrap());
            let content = &content;
            scope.spawn(move || {
                let done = home.run(["get", "--json", "set.bin", "-o", file.to_str().unwrap()]).ok().record("done");
                assert!(fs::read(&file).unwrap() == *content, "the content is right");
                done
            })
        });
        gets.map(|get| get.join().unwrap())
    });
    let key = |running: &crate::support::Running| running.ready["peer"].as_str().unwrap().to_owned();
    let (mut blamed, mut passed_on) = (0, 0);
    for done in &results {
        let rotten = given(done, &key(&rotten));
        blamed += rotten["corrupt"].as_u64().unwrap_or(0);
        assert!(rotten["bytes"].as_u64().unwrap_or(0) == 0, "not one leaf of it counts: {done}");
        for other in &running {
            let other = given(done, &key(other));
            assert_eq!(other["corrupt"].as_u64().unwrap_or(0), 0, "nobody else sends a wrong leaf: {done}");
            passed_on += other["bytes"].as_u64().unwrap_or(0);
        }
    }
    assert!(blamed > 0, "it was asked: {results:?}");
    assert!(passed_on > 0, "they gave each other what they had: {results:?}");
    for peer in running {
        peer.stop();
    }
    rotten.stop();
    honest.stop();
}
