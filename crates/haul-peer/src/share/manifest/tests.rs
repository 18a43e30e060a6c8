//! A delta between any two revisions leads from the one list to the other, and the running digest is that of the list.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use haul_core::manifest::{Page, PageBuilder, RegistrationDigest};
use proptest::prelude::*;

use super::*;

type Model = BTreeMap<(Vec<u8>, Vec<u8>), Vec<u8>>;

#[derive(Clone, Debug)]
enum Edit {
    Put(u8, u8, u64),
    Remove(u8, u8),
    Seal,
    Reload,
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        6 => (0..4u8, 0..6u8, 0..4u64).prop_map(|(directory, name, what)| Edit::Put(directory, name, what)),
        3 => (0..4u8, 0..6u8).prop_map(|(directory, name)| Edit::Remove(directory, name)),
        3 => Just(Edit::Seal),
        1 => Just(Edit::Reload),
    ];
    prop::collection::vec(edit, 1..80)
}

fn key_of(directory: u8, name: u8) -> Key {
    Key::new([&b""[..], b"a", b"a!", b"a/b"][directory as usize], &[b'f', b'0' + name])
}

fn kind_of(what: u64) -> Kind {
    let stamp = FileStamp { size: what, ..FileStamp::default() };
    match what {
        0 => Kind::Directory { mtime_ns: 5 },
        1 => Kind::Symlink { mtime_ns: 5, target: b"x".as_slice().into() },
        _ => Kind::File(FileItem { stamp, executable: what == 3, blob: None, trust: Trust::Firm }),
    }
}

fn list(manifest: &Manifest) -> Model {
    let mut model = Model::new();
    for (directory, name, item) in manifest.iter() {
        if item.kind.entry(directory, name).is_some() {
            let mut page = PageBuilder::new();
            assert!(page.push(&item.change(directory, name)));
            model.insert((directory.to_vec(), name.to_vec()), page.finish());
        }
    }
    model
}

fn digest(model: &Model) -> RegistrationDigest {
    let mut digest = RegistrationDigest::default();
    for record in model.values() {
        for change in Page::check(record).unwrap().changes() {
            let Change::Upsert(entry) = change else { unreachable!() };
            digest.add(&entry);
        }
    }
    digest
}

fn apply(model: &mut Model, manifest: &Manifest, keys: &[Key]) {
    for key in keys {
        let item = manifest.get_key(key).unwrap();
        let at = (key.directory.to_vec(), key.name.to_vec());
        let mut page = PageBuilder::new();
        let change = item.change(&key.directory, &key.name);
        assert!(page.push(&change));
        if matches!(change, Change::Upsert(_)) {
            model.insert(at, page.finish());
        } else {
            model.remove(&at);
        }
    }
}

/// The same manifest after a restart.
fn reload(manifest: &Manifest) -> Manifest {
    let mut loaded = Manifest::stored(manifest.state(), manifest.floor());
    for (directory, name, item) in manifest.iter() {
        loaded.load(&Key { directory: directory.clone(), name: name.clone() }, item.clone());
    }
    loaded
}

proptest! {
    #[test]
    fn any_delta_leads_to_the_full_list(edits in edits()) {
        let mut manifest = Manifest::default();
        let mut history = vec![(ShareState::default(), Model::new())];
        for edit in edits {
            match edit {
                Edit::Put(directory, name, what) => drop(manifest.put(&key_of(directory, name), kind_of(what), 1)),
                Edit::Remove(directory, name) => drop(manifest.remove(&key_of(directory, name))),
                Edit::Seal | Edit::Reload => {
                    manifest.seal();
                    if matches!(edit, Edit::Reload) {
                        manifest = reload(&manifest);
                    }
                    let now = list(&manifest);
                    prop_assert_eq!(manifest.state().digest, digest(&now));
                    for (before, model) in &history {
                        let keys = manifest.changes_since(before.revision, 1_000).unwrap();
                        prop_assert!(keys.is_sorted());
                        let mut model = model.clone();
                        apply(&mut model, &manifest, &keys);
                        prop_assert_eq!(&model, &now);
                    }
                    if history.last().unwrap().0.revision != manifest.state().revision {
                        history.push((manifest.state(), now));
                    }
                }
            }
        }
        manifest.seal();
        let totals = manifest.totals();
        prop_assert_eq!(totals.entries as usize, list(&manifest).len());
        prop_assert_eq!(totals.to_hash, totals.files);
        prop_assert_eq!(reload(&manifest).totals(), totals);
    }
}

#[test]
fn tombstones_are_dropped_and_old_deltas_with_them() {
    let mut manifest = Manifest::default();
    let keys: Vec<Key> = (0..12_000u32).map(|n| Key::new(b"d", n.to_string().as_bytes())).collect();
    for key in &keys {
        manifest.put(key, kind_of(0), 1);
    }
    manifest.seal();
    for key in &keys {
        manifest.remove(key);
    }
    let touched = manifest.seal();
    assert_eq!(touched.len(), 12_000, "their rows have to go, too");
    assert!(touched.iter().all(|key| manifest.get_key(key).is_none()));
    assert_eq!(manifest.totals(), Totals::default());
    assert_eq!(manifest.state(), ShareState { revision: 2, ..ShareState::default() });
    assert_eq!(manifest.changes_since(1, 100_000), None);
    assert_eq!(manifest.changes_since(2, 100_000), Some(Vec::new()));
    assert_eq!(manifest.changes_since(3, 100_000), None, "a state that never was");
}

#[test]
fn a_journal_that_overflows_falls_back_on_the_revisions() {
    let mut manifest = Manifest::default();
    manifest.put(&key_of(0, 0), kind_of(0), 1);
    manifest.seal();
    for n in 0..=JOURNAL_KEYS as u64 {
        manifest.put(&key_of(1, (n % 6) as u8), kind_of(n % 2), 1);
        manifest.seal();
    }
    assert_eq!(manifest.changes_since(1, 1_000).unwrap().len(), 6);
    assert_eq!(manifest.changes_since(0, 1_000).unwrap().len(), 7);
    assert_eq!(manifest.changes_since(0, 6), None, "too many");
}

#[test]
fn blobs_are_found_while_they_may_be_served() {
    let mut manifest = Manifest::default();
    let blob = BlobId::new([7; 32]);
    let stamp = FileStamp { size: 3, ..FileStamp::default() };
    let file = FileItem { stamp, executable: false, blob: Some(blob), trust: Trust::Firm };
    manifest.put(&key_of(0, 0), Kind::File(file), 1);
    manifest.put(&key_of(1, 1), Kind::File(file), 1);
    assert_eq!(manifest.find_blob(&blob).unwrap().0, key_of(0, 0));
    manifest.set_trust(&key_of(0, 0), Trust::Doubtful);
    assert_eq!(manifest.find_blob(&blob).unwrap().0, key_of(1, 1));
    manifest.remove(&key_of(1, 1));
    assert!(manifest.find_blob(&blob).is_none());
    manifest.set_trust(&key_of(0, 0), Trust::Recheck);
    assert!(manifest.find_blob(&blob).is_some());
    let mut near = [7; 32];
    near[31] = 8;
    assert!(manifest.find_blob(&BlobId::new(near)).is_none());
}
