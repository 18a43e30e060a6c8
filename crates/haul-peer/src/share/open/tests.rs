//! Whatever is swapped in below the root, an opened file lies inside it.
#![allow(clippy::unwrap_used)]

use std::io::Read;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{RenameFlags, renameat_with};

use super::*;

fn path(text: &str) -> SharePath {
    SharePath::new(text.as_bytes()).unwrap()
}

fn read(mut file: File) -> String {
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

const BOTH: [Resolver; 2] = [Resolver::Openat2, Resolver::Components];

#[test]
fn only_regular_files_below_the_root_open() {
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside");
    let root = folder.path().join("root");
    std::fs::create_dir_all(root.join("a/b")).unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();
    std::fs::write(root.join("a/b/file"), "inside").unwrap();
    std::fs::write(root.join("top"), "top").unwrap();
    symlink(outside.join("secret"), root.join("link")).unwrap();
    symlink("a", root.join("inner")).unwrap();
    symlink(&outside, root.join("out")).unwrap();
    symlink("/proc/self/root", root.join("magic")).unwrap();
    rustix::fs::mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::from(0o644), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    for resolver in BOTH {
        let root = Root::open_with(&root, resolver).unwrap();
        assert_eq!(read(root.open_regular(&path("a/b/file")).unwrap().0), "inside");
        assert_eq!(read(root.open_regular(&path("top")).unwrap().0), "top");
        let gone =
            ["link", "inner/b/file", "out/secret", "magic/etc/passwd", "fifo", "socket", "a", "none", "top/x", ""];
        for closed in gone {
            let opened = root.open_regular(&path(closed));
            assert!(matches!(opened, Err(OpenError::Gone)), "{resolver:?} {closed}: {opened:?}");
        }
    }
}

#[test]
fn a_series_opens_what_each_path_says() {
    let folder = tempfile::tempdir().unwrap();
    let files = ["a/b/1", "a/b/2", "a/b/3", "a/1", "a/2", "ab/1", "ab/2", "1", "2", "a/b/4", "a/b/5"];
    for file in files {
        std::fs::create_dir_all(folder.path().join(file).parent().unwrap()).unwrap();
        std::fs::write(folder.path().join(file), file).unwrap();
    }
    symlink("1", folder.path().join("a/b/link")).unwrap();
    symlink("b", folder.path().join("a/to")).unwrap();
    for resolver in BOTH {
        let mut below = Below::new(Root::open_with(folder.path(), resolver).unwrap());
        for file in files {
            assert_eq!(read(below.open_regular(&path(file)).unwrap().0), file, "{resolver:?}");
        }
        // Both the first file of a folder, which is opened from the root, and the second.
        for closed in ["a/b/link", "a/b/none", "a/b", "a/b/1/x", "a/to/1", "a/to/2", "a/to/3"] {
            let opened = below.open_regular(&path(closed));
            assert!(matches!(opened, Err(OpenError::Gone)), "{resolver:?} {closed}: {opened:?}");
        }
    }
}

#[test]
fn a_root_behind_a_link_does_not_open() {
    let home = tempfile::tempdir().unwrap();
    let folder = std::fs::canonicalize(home.path()).unwrap();
    std::fs::create_dir_all(folder.join("real/root")).unwrap();
    symlink("real", folder.join("link")).unwrap();
    symlink("root", folder.join("real/last")).unwrap();
    for resolver in BOTH {
        Root::open_with(&folder.join("real/root"), resolver).unwrap();
        for linked in ["link/root", "real/last"] {
            let opened = Root::open_with(&folder.join(linked), resolver);
            assert!(matches!(opened, Err(Errno::LOOP | Errno::NOTDIR)), "{resolver:?} {linked}: {opened:?}");
        }
    }
}

#[test]
fn links_swapped_in_while_opening_never_lead_outside() {
    const ROUNDS: usize = 20_000;
    for resolver in BOTH {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        let outside = folder.path().join("outside");
        for (place, text) in [(root.join("a/b"), "inside"), (outside.join("b"), "outside")] {
            std::fs::create_dir_all(&place).unwrap();
            std::fs::write(place.join("file"), text).unwrap();
        }
        // The directory `a` and a link to a tree of the same shape change places all the time.
        symlink(&outside, root.join("evil")).unwrap();
        let stop = AtomicBool::new(false);
        let mut opened = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (a, evil) = (root.join("a"), root.join("evil"));
                while !stop.load(Ordering::Relaxed) {
                    renameat_with(CWD, &a, CWD, &evil, RenameFlags::EXCHANGE).unwrap();
                }
            });
            let below = Root::open_with(&root, resolver).unwrap();
            for _ in 0..ROUNDS {
                match below.open_regular(&path("a/b/file")) {
                    Ok(file) => {
                        opened += 1;
                        assert_eq!(read(file.0), "inside", "{resolver:?}");
                    }
                    Err(OpenError::Gone) => {}
                    Err(other) => panic!("{resolver:?}: {other}"),
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(opened > 0 && opened < ROUNDS, "{resolver:?}: the race has to go both ways, {opened} opened");
    }
}
