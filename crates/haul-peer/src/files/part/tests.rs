//! Part files against other boots, damage, full disks and folders that cannot be written.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stderr)]

use std::path::Path;

use super::*;

const LEAF: usize = LEAF_BYTES as usize;
const BLOB: BlobId = BlobId::new([5; 32]);

fn geometry(leaves: u64) -> BlobGeometry {
    BlobGeometry::new(leaves * LEAF_BYTES - 7).unwrap()
}

fn open(path: &Path, leaves: u64) -> Result<(PartFile, Resumed), FileError> {
    PartFile::open(Place::of(path).unwrap(), BLOB, geometry(leaves))
}

fn set(leaves: u64, members: &[u64]) -> LeafSet {
    let mut set = LeafSet::new(leaves);
    for leaf in members {
        set.insert(*leaf);
    }
    set
}

/// Rewrites the progress as if another boot had written it.
fn forget_boot(folder: &Path) {
    let path = folder.join(".file.haul-progress");
    let mut progress = Progress::from_bytes(&std::fs::read(&path).unwrap()).unwrap();
    progress.boot_id = [9; 16];
    std::fs::write(&path, progress.to_bytes()).unwrap();
}

#[test]
fn trusts_this_boot_and_only_what_was_synced_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    {
        let (part, resumed) = open(&path, 10).unwrap();
        assert_eq!((resumed.verified.count(), resumed.local.count()), (0, 0));
        for leaf in [9, 1, 2] {
            part.write_leaves(leaf, [vec![leaf as u8; part.geometry.leaf_bytes(leaf)].as_slice()]).unwrap();
        }
        part.checkpoint(&set(10, &[9, 1]), true).unwrap();
        part.checkpoint(&set(10, &[9, 1, 2]), false).unwrap();
    }
    let (part, resumed) = open(&path, 10).unwrap();
    assert_eq!(resumed.verified, set(10, &[1, 2, 9]));
    assert_eq!(part.read_leaf(2).unwrap(), vec![2; LEAF]);
    assert!(matches!(open(&path, 10), Err(FileError::Locked(_))));
    drop(part);
    forget_boot(folder.path());
    let (part, resumed) = open(&path, 10).unwrap();
    assert_eq!((resumed.verified, resumed.local), (set(10, &[1, 9]), set(10, &[2])));
    drop(part);
    // Another size, another blob: nothing of it counts.
    let (part, resumed) = open(&path, 11).unwrap();
    assert_eq!((resumed.verified.count(), resumed.local.count()), (0, 0));
    assert_eq!(part.file().metadata().unwrap().len(), 0);
}

#[test]
fn damaged_progress_means_looking_at_the_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let (part, _) = open(&path, 100).unwrap();
    for leaf in [99, 3] {
        part.write_leaves(leaf, [vec![1; part.geometry.leaf_bytes(leaf)].as_slice()]).unwrap();
    }
    part.checkpoint(&set(100, &[99, 3]), false).unwrap();
    drop(part);
    let progress = folder.path().join(".file.haul-progress");
    let good = std::fs::read(&progress).unwrap();
    for damaged in [&good[..good.len() - 1], &[], &[0; 300], &vec![1; 100_000][..]] {
        std::fs::write(&progress, damaged).unwrap();
        let (_, resumed) = open(&path, 100).unwrap();
        assert_eq!(resumed.verified.count(), 0);
        assert!(resumed.local.contains(3) && resumed.local.contains(99));
    }
}

#[test]
fn an_existing_name_is_never_replaced_unasked_even_at_the_last_moment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let write_all = |part: &PartFile| {
        for leaf in 0..2 {
            part.write_leaves(leaf, [vec![1; part.geometry.leaf_bytes(leaf)].as_slice()]).unwrap();
        }
    };
    let (part, _) = open(&path, 2).unwrap();
    write_all(&part);
    std::fs::write(&path, "came meanwhile").unwrap();
    assert!(matches!(part.finish(FileTraits::default(), false), Err(FileError::Exists(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"came meanwhile");
    // All of it is kept, and given the name once that is allowed.
    let (part, resumed) = open(&path, 2).unwrap();
    assert!(resumed.verified.is_full());
    part.finish(FileTraits::default(), true).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), vec![1; 2 * LEAF - 7]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_somebody_put_in_place_of_the_part_file_does_not_get_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    for replaced in [true, false] {
        let (part, _) = open(&path, 2).unwrap();
        for leaf in 0..2 {
            part.write_leaves(leaf, [vec![1; part.geometry.leaf_bytes(leaf)].as_slice()]).unwrap();
        }
        std::fs::remove_file(folder.path().join(".file.haul-part")).unwrap();
        if replaced {
            std::fs::write(folder.path().join(".file.haul-part"), vec![2; 2 * LEAF - 7]).unwrap();
        }
        let failure = part.finish(FileTraits::default(), true).unwrap_err();
        assert!(matches!(failure, FileError::Replaced(_)), "{failure}");
        assert!(!path.exists());
        assert_eq!(open(&path, 2).unwrap().1.verified.count(), 0);
    }
}

#[test]
fn a_link_in_place_of_the_part_file_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let victim = folder.path().join("victim");
    std::fs::write(&victim, "mine").unwrap();
    for name in [".file.haul-part", ".file.haul-progress"] {
        let link = folder.path().join(name);
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        assert!(open(&folder.path().join("file"), 2).is_err());
        std::fs::remove_file(link).unwrap();
    }
    assert_eq!(std::fs::read(&victim).unwrap(), b"mine");
}

#[test]
fn more_than_the_disk_holds_is_refused_before_it_starts() {
    let folder = tempfile::tempdir().unwrap();
    let huge = BlobGeometry::new(BLOB_BYTES).unwrap();
    let failure = PartFile::open(Place::of(&folder.path().join("file")).unwrap(), BLOB, huge).unwrap_err();
    assert!(matches!(failure, FileError::NoSpace { need, .. } if need == huge.size()), "{failure}");
    assert!(failure.is_storage());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_folder_that_cannot_be_written_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Place::of(&folder.path().join("no/file")), Err(FileError::NoFolder(_))));
    assert!(matches!(Place::of(Path::new("/")), Err(FileError::NotAFile(_))));
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root may write into any folder");
        return;
    }
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o555)).unwrap();
    let failure = open(&folder.path().join("file"), 2).unwrap_err();
    assert!(matches!(failure, FileError::Permission(_)) && failure.is_storage(), "{failure}");
}

#[test]
fn a_disk_that_fills_up_keeps_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "haul-test"])
        .arg(folder.path())
        .output()
        .is_ok_and(|output| output.status.success());
    if !mounted {
        eprintln!("skipped: a tmpfs cannot be mounted here");
        return;
    }
    let path = folder.path().join("file");
    let (part, _) = open(&path, 12).unwrap();
    // Somebody else takes the room after the check.
    std::fs::write(folder.path().join("other"), vec![0; 600_000]).unwrap();
    let mut written = LeafSet::new(12);
    let failure = (0..12)
        .find_map(|leaf| match part.write_leaves(leaf, [vec![1; part.geometry.leaf_bytes(leaf)].as_slice()]) {
            Ok(()) => {
                written.insert(leaf);
                None
            }
            Err(failure) => Some(failure),
        })
        .expect("the disk is too small");
    assert!(matches!(failure, FileError::DiskFull(_)) && failure.is_storage(), "{failure}");
    std::fs::remove_file(folder.path().join("other")).unwrap();
    part.checkpoint(&written, true).unwrap();
    drop(part);
    let (part, resumed) = open(&path, 12).unwrap();
    assert_eq!(resumed.verified, written);
    drop(part);
    let _ = std::process::Command::new("umount").arg(folder.path()).status();
}

#[test]
fn what_was_cut_off_or_started_over_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let written = || {
        let (part, _) = open(&path, 4).unwrap();
        for leaf in 0..3 {
            part.write_leaves(leaf, [vec![1; part.geometry.leaf_bytes(leaf)].as_slice()]).unwrap();
        }
        part.checkpoint(&set(4, &[0, 1, 2]), true).unwrap();
        part
    };
    drop(written());
    File::options().write(true).open(folder.path().join(".file.haul-part")).unwrap().set_len(2 * 65_536 - 1).unwrap();
    assert_eq!(open(&path, 4).unwrap().1.verified, set(4, &[0]));
    // The end of the file is there again before anything is noted: what lies between is still missing.
    drop(written());
    let cut = File::options().write(true).open(folder.path().join(".file.haul-part")).unwrap();
    cut.set_len(2 * 65_536 - 1).unwrap();
    let (part, _) = open(&path, 4).unwrap();
    part.write_leaves(3, [vec![1; part.geometry.leaf_bytes(3)].as_slice()]).unwrap();
    drop(part);
    let resumed = open(&path, 4).unwrap().1;
    assert!(!resumed.verified.contains(1) && !resumed.verified.contains(2), "{resumed:?}");
    // A copy begins, and breaks off at once.
    let part = written();
    part.start_over().unwrap();
    drop(part);
    let (part, resumed) = open(&path, 4).unwrap();
    assert_eq!((resumed.verified.count(), resumed.local.count()), (0, 0));
    assert_eq!(part.file().metadata().unwrap().len(), 0);
}

#[test]
fn after_a_sync_that_failed_nothing_counts_that_was_not_durable_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let (part, _) = open(&path, 4).unwrap();
    for leaf in 0..4 {
        part.write_leaves(leaf, [vec![1; part.geometry.leaf_bytes(leaf)].as_slice()]).unwrap();
    }
    part.checkpoint(&set(4, &[0]), true).unwrap();
    let failed = part.sync(|_| Err(Errno::IO.into())).unwrap_err();
    assert!(failed.is_storage() && failed.to_string().contains("make durable"), "{failed}");
    // Each later step of a transfer: the last checkpoint of one that ends, and the end of one that got all.
    part.checkpoint(&set(4, &[0, 1, 2, 3]), false).unwrap();
    let counts = |part: PartFile| {
        drop(part);
        open(&path, 4).unwrap().1
    };
    let resumed = counts(part);
    assert_eq!((resumed.verified, resumed.local), (set(4, &[0]), set(4, &[1, 2, 3])));
    let (part, _) = open(&path, 4).unwrap();
    part.sync(|_| Err(Errno::IO.into())).unwrap_err();
    assert!(part.finish(FileTraits::default(), false).is_err(), "the next sync may succeed: it proves nothing");
    assert!(!path.exists());
    let (_, resumed) = open(&path, 4).unwrap();
    assert_eq!(resumed.verified, set(4, &[0]));
}

#[test]
fn a_leaf_that_was_damaged_counts_no_more_even_if_that_cannot_be_noted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    for storing_fails in [false, true] {
        let (part, _) = open(&path, 4).unwrap();
        for leaf in 0..4 {
            part.write_leaves(leaf, [vec![1; part.geometry.leaf_bytes(leaf)].as_slice()]).unwrap();
        }
        part.checkpoint(&set(4, &[0, 1, 2, 3]), true).unwrap();
        part.forget(&[1]);
        if storing_fails {
            std::fs::create_dir(folder.path().join(".file.haul-progress~")).unwrap();
        }
        assert_eq!(part.checkpoint(&set(4, &[0, 2, 3]), false).is_err(), storing_fails);
        drop(part);
        let resumed = open(&path, 4).unwrap().1;
        let (verified, local) = if storing_fails { (&[][..], &[0, 1, 2, 3][..]) } else { (&[0, 2, 3][..], &[][..]) };
        assert_eq!((resumed.verified, resumed.local), (set(4, verified), set(4, local)));
        if !storing_fails {
            forget_boot(folder.path());
            assert_eq!(open(&path, 4).unwrap().1.verified, set(4, &[0, 2, 3]), "it was durable");
        }
    }
}

#[test]
fn damage_is_taken_down_while_a_checkpoint_waits_for_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (part, _) = open(&folder.path().join("file"), 4).unwrap();
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let part = &part;
        let _checkpoint = part.durable.lock().unwrap();
        scope.spawn(move || {
            part.forget(&[1]);
            done.send(())
        });
        wait.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
    });
}
