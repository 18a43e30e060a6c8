//! Cut and flipped files: what is read back is exact or absent, never something else.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::super::format::{FORMAT, HEAD_BYTES, HEADER_BYTES, Key as CheckKey, encode_head};
use super::{Act, Model, World, act, open, quick};
use crate::store::StoreError;
use crate::store::disk::Disk;

/// Opens, compares, and sees that the log can be written and read again.
fn read(dir: &Path) -> Model {
    let (disk, catalog) = open(dir);
    let found = Model::read(&disk, &catalog);
    let put = crate::store::disk::Write::PutPeer { peer: super::peer(7), record: super::peer_record(7) };
    disk.write(&[put]).unwrap();
    drop(disk);
    let (disk, catalog) = open(dir);
    let mut again = Model::read(&disk, &catalog);
    assert!(again.peers.remove(&super::peer(7)).is_some());
    assert_eq!(again, found);
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn a_torn_last_group_does_not_count(acts in prop::collection::vec(act(), 1..30), zeros in any::<bool>()) {
        let mut world = World::new();
        for act in &acts {
            world.act(act);
        }
        let newest = world.segments().pop();
        let first = world.disk().end();
        world.act(&Act::Peer { peer: 0, lease: 77 });
        prop_assume!(first.is_some() && newest == world.segments().pop());
        let path = newest.unwrap();
        let whole = fs::read(&path).unwrap();
        let last = world.disk().end().unwrap() as usize;
        for end in first.unwrap() as usize..=last {
            let copy = world.copy();
            let mut torn = whole[..end].to_vec();
            if zeros {
                torn.resize(whole.len(), 0);
            }
            fs::write(copy.path().join(path.file_name().unwrap()), torn).unwrap();
            let found = read(copy.path());
            prop_assert!(&found == world.before.last().unwrap() || found == world.model, "cut at {end}");
            prop_assert!(end < last || found == world.model);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn flipped_bits_never_make_wrong_data(
        acts in prop::collection::vec(act(), 1..40),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..8_u8), 1..4),
    ) {
        let mut world = World::new();
        for act in &acts {
            world.act(act);
        }
        world.disk = None;
        let files = world.segments();
        prop_assume!(!files.is_empty());
        for (file, byte, bit) in &flips {
            let path = &files[file.index(files.len())];
            let mut bytes = fs::read(path).unwrap();
            let used = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
            bytes[byte.index(used)] ^= 1 << bit;
            fs::write(path, bytes).unwrap();
        }
        let found = read(world.dir.path());
        world.before.push(world.model);
        // One flip can make the last group look torn; more of them several at the end, and that is an older state.
        let kept = if flips.len() == 1 { 2 } else { world.before.len() };
        let kept = world.before.len().saturating_sub(kept)..;
        prop_assert!(found.is_part_of(&world.before[kept]));
    }
}

#[test]
fn damage_in_the_middle_forgets_what_came_before_it() {
    let mut world = World::new();
    world.act(&Act::Replace { share: 0, pages: 2 });
    world.act(&Act::Peer { peer: 0, lease: 5 });
    world.act(&Act::Replace { share: 1, pages: 2 });
    let path = world.segments().remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let peer = bytes.windows(32).rposition(|bytes| bytes == super::peer(0).as_bytes()).unwrap();
    bytes[peer] ^= 1;
    world.disk = None;
    fs::write(&path, bytes).unwrap();
    let found = read(world.dir.path());
    assert_eq!(found.shares.keys().collect::<Vec<_>>(), vec![&(super::peer(1), haul_core::ids::ShareId([1; 16]))]);
}

#[test]
fn a_damaged_catalog_costs_nothing_while_the_one_before_is_there() {
    let mut world = World::new();
    for _ in 0..30 {
        world.act(&Act::Replace { share: 0, pages: 5 });
        world.act(&Act::Replace { share: 1, pages: 5 });
    }
    world.clean(|_| ());
    world.act(&Act::Amend { share: 1, pages: 1 });
    world.disk = None;
    let newest = world.segments().pop().unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    for damaged in [HEAD_BYTES + 5, HEAD_BYTES + HEADER_BYTES + 5, 3] {
        bytes[damaged] ^= 1;
        fs::write(&newest, &bytes).unwrap();
        world.reopen();
        world.disk = None;
    }
}

fn refusal(dir: &Path) -> String {
    match Disk::open(dir, quick(), super::SEGMENT) {
        Err(StoreError::Storage(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_used_is_refused_with_what_to_do() {
    let mut world = World::new();
    world.act(&Act::Replace { share: 0, pages: 2 });
    assert!(refusal(world.dir.path()).contains("another process"), "locked");
    world.disk = None;
    let path = world.segments().remove(0);
    let healthy = fs::read(&path).unwrap();

    // A later version has the same head, checked in the same way.
    let mut later = healthy.clone();
    later[8..12].copy_from_slice(&(FORMAT + 1).to_le_bytes());
    let check = blake3::hash(&later[..48]);
    later[48..64].copy_from_slice(&check.as_bytes()[..16]);
    fs::write(&path, later).unwrap();
    assert!(refusal(world.dir.path()).contains("has format 2, this program reads 1"));

    fs::write(&path, &healthy).unwrap();
    let renamed = path.with_file_name("00000004.log");
    fs::rename(&path, &renamed).unwrap();
    assert!(refusal(world.dir.path()).contains("rename it back"));
    fs::rename(&renamed, &path).unwrap();

    fs::write(&renamed, encode_head(4, &CheckKey([9; 32]))).unwrap();
    assert!(refusal(world.dir.path()).contains("another index"));
    fs::remove_file(&renamed).unwrap();
    world.reopen();
}

#[test]
fn files_that_are_no_segments_are_set_aside_and_never_deleted() {
    let mut world = World::new();
    world.act(&Act::Replace { share: 0, pages: 2 });
    // One in the way of the next segment, one that a cut of power left, and one that has nothing to do with the log.
    fs::write(world.dir.path().join("00000002.log"), "my diary").unwrap();
    world.reopen();
    fs::write(world.dir.path().join("00000003.log"), "").unwrap();
    fs::write(world.dir.path().join("notes.txt"), "x").unwrap();
    world.reopen();
    world.act(&Act::Replace { share: 1, pages: 2 });
    world.reopen();
    assert_eq!(fs::read(world.dir.path().join("00000002.log.damaged")).unwrap(), b"my diary");
    assert!(!world.dir.path().join("00000002.log").exists());

    // Nothing of it is readable: everybody registers again.
    world.disk = None;
    for path in world.segments().iter().filter(|path| path.extension().is_some_and(|end| end == "log")) {
        fs::write(path, "gone").unwrap();
    }
    let (disk, catalog) = open(world.dir.path());
    assert_eq!(Model::read(&disk, &catalog), Model::default());
}

#[test]
fn a_last_group_whose_pages_are_torn_does_not_count() {
    let mut world = World::new();
    world.act(&Act::Replace { share: 0, pages: 2 });
    world.act(&Act::Amend { share: 0, pages: 1 });
    let path = world.segments().remove(0);
    let end = world.disk().end().unwrap();
    world.disk = None;
    // Header and record are whole, the last byte of the page is not there.
    fs::File::options().write(true).open(path).unwrap().set_len(end - 1).unwrap();
    assert_eq!(&read(world.dir.path()), world.before.last().unwrap());
}
