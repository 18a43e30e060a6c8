//! The log against a model: random changes, kills at every step, torn ends, flipped bits, failing system calls.

mod damage;
mod faults;
mod fixture;
mod scale;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bytes::Bytes;
use haul_core::ids::{PeerId, ShareId};
use haul_core::manifest::ShareState;
use haul_core::wire::Label;
use proptest::prelude::*;
use tempfile::TempDir;

use super::catalog::Catalog;
use super::clean::Step;
use super::device::{Device, write_all_at};
use crate::store::disk::{Disk, PeerRecord, ShareRecord, Write};

/// Small enough that a few changes fill a segment.
const SEGMENT: u64 = 24 * 1024;

/// Syncs cost nothing here; what the machine loses when it stops is simulated by cutting and flipping.
fn quick() -> Device {
    Device { write: write_all_at, sync: |_| Ok(()), sync_folder: |_| Ok(()) }
}

fn open(dir: &Path) -> (Disk, Catalog) {
    Disk::open(dir, quick(), SEGMENT).unwrap()
}

fn peer(number: u8) -> PeerId {
    PeerId::new([9 + number; 32]).unwrap()
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn share_record(generation: u64, next_seq: u64, revision: u64) -> ShareRecord {
    ShareRecord {
        name: label("films"),
        groups: vec![label("lab")],
        state: ShareState { revision, ..ShareState::default() },
        generation,
        next_seq,
        base_bytes: 70_000,
        amended_bytes: 3,
    }
}

fn peer_record(lease_end: u64) -> PeerRecord {
    PeerRecord { name: label("lab-1"), boot_id: [3; 16], lease_end, open: vec![ShareId([1; 16])] }
}

/// A page of its own content; most are small, some are written without a copy.
fn page(generation: u64, number: u64) -> Bytes {
    let length = if (generation + number).is_multiple_of(5) { 6_000 } else { 40 + 300 * (number as usize % 3) };
    let seed = generation.wrapping_mul(31).wrapping_add(number) as u8;
    Bytes::from((0..length).map(|byte| seed.wrapping_add((byte % 251) as u8)).collect::<Vec<_>>())
}

fn pages(generation: u64, numbers: std::ops::Range<u64>) -> Write {
    Write::Pages { generation, pages: numbers.map(|number| (number, page(generation, number))).collect() }
}

type Key = (PeerId, ShareId);

/// What should be there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    peers: BTreeMap<PeerId, PeerRecord>,
    shares: BTreeMap<Key, (ShareRecord, Vec<Bytes>)>,
}

impl Model {
    /// What is there: shares whose pages can all be read.
    fn read(disk: &Disk, catalog: &Catalog) -> Self {
        let shares = catalog.shares.iter().filter_map(|(key, record)| {
            let pages: Result<Vec<Bytes>, _> = disk.pages(record.generation, record.next_seq).collect();
            Some((*key, (record.clone(), pages.ok()?)))
        });
        Self { peers: catalog.peers.clone(), shares: shares.collect() }
    }

    /// Everything in it is as it is in one of the others.
    fn is_part_of(&self, others: &[Self]) -> bool {
        self.shares.iter().all(|(key, share)| others.iter().any(|other| other.shares.get(key) == Some(share)))
            && self.peers.iter().all(|(key, peer)| others.iter().any(|other| other.peers.get(key) == Some(peer)))
    }
}

#[derive(Clone, Debug)]
enum Act {
    Amend { share: u8, pages: u64 },
    Replace { share: u8, pages: u64 },
    Forget { share: u8 },
    Abandon { pages: u64 },
    Peer { peer: u8, lease: u64 },
    ForgetPeer { peer: u8 },
    Reopen,
    Clean,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..4_u8, 1..4_u64).prop_map(|(share, pages)| Act::Amend { share, pages }),
        3 => (0..4_u8, 0..12_u64).prop_map(|(share, pages)| Act::Replace { share, pages }),
        1 => (0..4_u8).prop_map(|share| Act::Forget { share }),
        1 => (1..12_u64).prop_map(|pages| Act::Abandon { pages }),
        2 => (0..3_u8, any::<u64>()).prop_map(|(peer, lease)| Act::Peer { peer, lease }),
        1 => (0..3_u8).prop_map(|peer| Act::ForgetPeer { peer }),
        1 => Just(Act::Reopen),
        1 => Just(Act::Clean),
    ]
}

/// A log with the model of it.
struct World {
    dir: TempDir,
    disk: Option<Disk>,
    model: Model,
    /// Before each group.
    before: Vec<Model>,
    next_generation: u64,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (disk, _) = open(dir.path());
        Self { dir, disk: Some(disk), model: Model::default(), before: Vec::new(), next_generation: 0 }
    }

    fn disk(&self) -> &Disk {
        self.disk.as_ref().unwrap()
    }

    fn new_generation(&mut self) -> u64 {
        self.next_generation += 1;
        self.next_generation - 1
    }

    fn write(&mut self, writes: &[Write]) {
        self.disk().write(writes).unwrap();
        self.before.push(self.model.clone());
    }

    fn act(&mut self, act: &Act) {
        let key = |share: u8| (peer(share % 2), ShareId([share; 16]));
        match *act {
            Act::Amend { share, pages: count } => {
                let Some((record, list)) = self.model.shares.get(&key(share)).cloned() else { return };
                let numbers = record.next_seq..record.next_seq + count;
                let record = ShareRecord { next_seq: numbers.end, ..record };
                let added = numbers.clone().map(|number| page(record.generation, number));
                let list = list.into_iter().chain(added).collect();
                let put = Write::PutShare { peer: key(share).0, share: key(share).1, record: record.clone() };
                self.write(&[pages(record.generation, numbers), put]);
                self.model.shares.insert(key(share), (record, list));
            }
            Act::Replace { share, pages: count } => {
                let generation = self.new_generation();
                self.write(&[pages(generation, 0..count / 2)]);
                let record = share_record(generation, count, generation);
                let put = Write::PutShare { peer: key(share).0, share: key(share).1, record: record.clone() };
                self.write(&[pages(generation, count / 2..count), put]);
                let list = (0..count).map(|number| page(generation, number)).collect();
                self.model.shares.insert(key(share), (record, list));
            }
            Act::Forget { share } => {
                self.write(&[Write::DropShare { peer: key(share).0, share: key(share).1 }]);
                self.model.shares.remove(&key(share));
            }
            Act::Abandon { pages: count } => {
                let generation = self.new_generation();
                self.write(&[pages(generation, 0..count)]);
                if count.is_multiple_of(2) {
                    self.disk().write(&[Write::DropGeneration(generation)]).unwrap();
                }
            }
            Act::Peer { peer: number, lease } => {
                self.write(&[Write::PutPeer { peer: peer(number), record: peer_record(lease) }]);
                self.model.peers.insert(peer(number), peer_record(lease));
            }
            Act::ForgetPeer { peer: number } => {
                self.write(&[Write::DropPeer(peer(number))]);
                self.model.peers.remove(&peer(number));
            }
            Act::Reopen => self.reopen(),
            Act::Clean => self.clean(|_| ()),
        }
    }

    fn reopen(&mut self) {
        self.disk = None;
        let (disk, catalog) = open(self.dir.path());
        assert_eq!(Model::read(&disk, &catalog), self.model);
        assert!(catalog.next_generation <= self.next_generation);
        self.next_generation = catalog.next_generation;
        self.disk = Some(disk);
    }

    /// Cleans until nothing is left to do, and calls `between` at each step.
    fn clean(&mut self, mut between: impl FnMut(&Self)) {
        loop {
            let step = self.disk().clean_step().unwrap();
            between(self);
            match step {
                Step::Nothing => return,
                Step::Done => {}
                Step::Write(write) => self.write(&[write]),
            }
            between(self);
        }
    }

    /// The files as they are now, elsewhere: what a kill would leave.
    fn copy(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in fs::read_dir(self.dir.path()).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
        }
        dir
    }

    fn segments(&self) -> Vec<std::path::PathBuf> {
        let mut files: Vec<_> = fs::read_dir(self.dir.path()).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        files
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_written_is_read_back(acts in prop::collection::vec(act(), 1..60)) {
        let mut world = World::new();
        for act in &acts {
            world.act(act);
        }
        world.reopen();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_kill_between_the_steps_of_cleaning_loses_nothing(acts in prop::collection::vec(act(), 30..60)) {
        let mut world = World::new();
        for act in acts.iter().filter(|act| !matches!(act, Act::Clean)) {
            world.act(act);
        }
        // So that there is something to clean.
        world.act(&Act::Forget { share: 0 });
        world.clean(|world| {
            let copy = world.copy();
            let (disk, catalog) = open(copy.path());
            assert_eq!(Model::read(&disk, &catalog), world.model);
        });
    }
}

#[test]
fn cleaning_gives_space_back_and_keeps_what_is_needed() {
    let mut world = World::new();
    world.act(&Act::Replace { share: 1, pages: 4 });
    for _ in 0..60 {
        world.act(&Act::Replace { share: 0, pages: 9 });
    }
    let before = world.segments();
    assert!(before.len() > 10, "{}", before.len());
    world.clean(|_| ());
    let after = world.segments();
    assert!(after.len() <= 4, "{after:?}");
    assert!(!after.contains(&before[0]), "its pages were needed, and moved");
    world.reopen();
    world.clean(|_| ());
    assert_eq!(world.segments().len(), after.len(), "cleaning comes to an end");
}

#[test]
fn pages_can_be_read_while_their_file_is_deleted() {
    let mut world = World::new();
    world.act(&Act::Replace { share: 1, pages: 11 });
    let list = world.disk().pages(0, 11);
    world.act(&Act::Forget { share: 1 });
    for _ in 0..20 {
        world.act(&Act::Replace { share: 0, pages: 9 });
    }
    world.clean(|_| ());
    let list: Vec<Bytes> = list.map(Result::unwrap).collect();
    assert_eq!(list, (0..11).map(|number| page(0, number)).collect::<Vec<_>>());
}

#[test]
fn a_change_of_nothing_writes_nothing() {
    let world = World::new();
    world.disk().write(&[]).unwrap();
    world.disk().write(&[Write::DropGeneration(7)]).unwrap();
    assert!(world.segments().is_empty());
}

#[test]
fn a_group_larger_than_a_segment_gets_one() {
    let mut world = World::new();
    world.act(&Act::Replace { share: 0, pages: 40 });
    world.act(&Act::Replace { share: 1, pages: 40 });
    world.reopen();
}
