//! System calls that fail: nothing is acknowledged, nothing that was is lost, and the next write starts anew.

use std::cell::Cell;
use std::io;

use haul_core::ids::ShareId;
use proptest::prelude::*;
use rustix::io::Errno;

use super::super::device::{Device, write_all_at};
use super::{Act, Model, World, act, open};
use crate::store::StoreError;
use crate::store::disk::{Disk, Write};

thread_local! {
    /// Calls until one fails.
    static CALLS: Cell<u32> = const { Cell::new(u32::MAX) };
}

fn call() -> io::Result<()> {
    CALLS.set(CALLS.get().saturating_sub(1));
    if CALLS.get() == 0 { Err(Errno::NOSPC.into()) } else { Ok(()) }
}

/// A write that fails has written half of its first part; a sync that fails may have written everything.
fn failing() -> Device {
    Device {
        write: |file, slices, offset| {
            if let Err(error) = call() {
                let half = slices.first().map(|slice| slice[..slice.len() / 2].to_vec()).unwrap_or_default();
                write_all_at(file, &mut [io::IoSlice::new(&half)], offset)?;
                return Err(error);
            }
            write_all_at(file, slices, offset)
        },
        sync: |_| call(),
        sync_folder: |_| call(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_call_that_fails_loses_nothing(acts in prop::collection::vec(act(), 1..25), fails in 1..60_u32) {
        let mut world = World::new();
        world.disk = None;
        world.disk = Some(Disk::open(world.dir.path(), failing(), super::SEGMENT).unwrap().0);
        let mut failed = 0;
        // Any of the changes that failed since the last one that did not.
        let mut possible: Vec<Model> = Vec::new();
        CALLS.set(fails);
        for act in acts.iter().filter(|act| !matches!(act, Act::Reopen | Act::Clean)) {
            let put = Write::PutPeer { peer: super::peer(5), record: super::peer_record(failed) };
            match world.disk().write(&[put]) {
                Ok(()) => {
                    world.model.peers.insert(super::peer(5), super::peer_record(failed));
                    possible.clear();
                }
                Err(StoreError::Storage(_)) => {
                    // As a kill right now would leave it: the failed change may be there, but nothing else.
                    let copy = world.copy();
                    let (disk, catalog) = open(copy.path());
                    let found = Model::read(&disk, &catalog);
                    let mut with_it = world.model.clone();
                    with_it.peers.insert(super::peer(5), super::peer_record(failed));
                    possible.push(with_it);
                    prop_assert!(found == world.model || possible.contains(&found));
                    failed += 1;
                }
                Err(error) => panic!("{error}"),
            }
            if CALLS.get() == 0 || CALLS.get() > 8 {
                let left = CALLS.replace(u32::MAX);
                let groups = world.before.len();
                world.act(act);
                if world.before.len() > groups {
                    possible.clear();
                }
                CALLS.set(if left == 0 { 3 } else { left - 1 });
            }
        }
        CALLS.set(u32::MAX);
        // What failed last may be in the log until something else is written.
        world.act(&Act::Replace { share: 3, pages: 1 });
        world.reopen();
    }
}

#[test]
fn after_a_failed_sync_nothing_goes_behind_it() {
    let mut world = World::new();
    world.disk = None;
    world.disk = Some(Disk::open(world.dir.path(), failing(), 1 << 20).unwrap().0);
    world.act(&Act::Replace { share: 0, pages: 3 });
    let first = world.segments();
    assert_eq!(first.len(), 1);
    // Its write, then its sync.
    CALLS.set(2);
    let lost = Write::DropShare { peer: super::peer(0), share: ShareId([0; 16]) };
    let error = world.disk().write(&[lost]).unwrap_err().to_string();
    assert!(error.contains("00000001.log") && error.contains("No space left"), "{error}");
    CALLS.set(u32::MAX);
    let length = std::fs::metadata(&first[0]).unwrap().len();
    world.act(&Act::Amend { share: 0, pages: 1 });
    assert_eq!(world.segments().len(), 2, "it starts a segment");
    assert_eq!(std::fs::metadata(&first[0]).unwrap().len(), length);
    world.reopen();
}

#[test]
fn a_segment_that_cannot_be_made_leaves_no_file() {
    let mut world = World::new();
    world.disk = None;
    world.disk = Some(Disk::open(world.dir.path(), failing(), super::SEGMENT).unwrap().0);
    for fails in 1..=3 {
        CALLS.set(fails);
        let put = Write::PutPeer { peer: super::peer(5), record: super::peer_record(1) };
        assert!(world.disk().write(&[put]).is_err());
        assert!(world.segments().is_empty());
    }
    CALLS.set(u32::MAX);
    world.act(&Act::Replace { share: 0, pages: 3 });
    world.reopen();
}
