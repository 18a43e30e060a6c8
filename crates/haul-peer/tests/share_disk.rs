//! Shares on a real disk: hostile names, special files, ignore rules, hashes, the cache, roots that vanish.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, missing_docs)]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use haul_core::ids::BlobId;
use haul_core::manifest::{Change, EntryKind, Page};
use haul_core::outline::Outline;
use haul_core::path::SharePath;
use haul_core::wire::Label;
use haul_peer::share::{AddError, Download, ListError, NewShare, OpenError, Risk, ShareSettings, ShareState, Shares};
use tempfile::TempDir;

const LEAF: usize = 64 * 1024;

struct Bench {
    home: TempDir,
    data: PathBuf,
    clock: Arc<AtomicI64>,
}

impl Bench {
    fn new() -> Self {
        let home = TempDir::new().unwrap();
        let data = fs::canonicalize(home.path()).unwrap().join("data");
        fs::create_dir(&data).unwrap();
        // Far ahead of all files, so that every hash is settled unless a test says otherwise.
        Self { home, data, clock: Arc::new(AtomicI64::new(i64::MAX / 2)) }
    }

    fn settings(&self) -> ShareSettings {
        let mut settings = ShareSettings::new(self.home.path().join("state"), self.home.path().join("cache"));
        settings.hash_threads = 2;
        settings
    }

    fn open(&self) -> Arc<Shares> {
        let clock = self.clock.clone();
        Shares::open_with_clock(self.settings(), Box::new(move || clock.load(Ordering::SeqCst))).unwrap()
    }

    fn write(&self, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.data.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn shared(&self) -> (Arc<Shares>, Label) {
        let shares = self.open();
        let name = shares.add(NewShare::new(&self.data)).unwrap().name;
        (shares, name)
    }

    fn scanned(&self) -> (Arc<Shares>, Label) {
        let (shares, name) = self.shared();
        shares.scan_now(&name).unwrap();
        shares.hash_now();
        (shares, name)
    }
}

fn pattern(size: usize, seed: usize) -> Vec<u8> {
    (0..size).map(|n| ((n * 31 + n / 251 + seed) % 256) as u8).collect()
}

fn id(bytes: &[u8]) -> BlobId {
    BlobId::new(*blake3::hash(bytes).as_bytes())
}

fn path(text: impl AsRef<[u8]>) -> SharePath {
    SharePath::new(text.as_ref()).unwrap()
}

/// Everything in a share: path and a short description, in the order of the listing.
fn all(shares: &Shares, name: &Label) -> Vec<(Vec<u8>, String)> {
    let mut list = Vec::new();
    let mut cursor = None;
    loop {
        let listing = shares.list_directory(name, &SharePath::default(), true, cursor.as_deref(), &[]).unwrap();
        let page = Page::check(&listing.page).unwrap();
        for change in page.changes() {
            let Change::Upsert(entry) = change else { panic!("a listing removes nothing") };
            let mut path = entry.directory.to_vec();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(entry.name);
            let what = match entry.kind {
                EntryKind::File { size, executable, blob } => {
                    let (executable, hashed) =
                        (if executable { " x" } else { "" }, if blob.is_some() { " #" } else { "" });
                    format!("file {size}{executable}{hashed}")
                }
                EntryKind::Directory => "dir".into(),
                EntryKind::Symlink { target } => format!("-> {}", String::from_utf8_lossy(target)),
            };
            list.push((path, what));
        }
        match listing.cursor {
            Some(next) => cursor = Some(next.0),
            None => return list,
        }
    }
}

fn names(list: &[(Vec<u8>, String)]) -> Vec<String> {
    list.iter().map(|(path, _)| String::from_utf8_lossy(path).into_owned()).collect()
}

#[test]
fn ids_are_the_blake3_of_the_content() {
    let bench = Bench::new();
    let large = 40 * 1024 * 1024 + 5;
    let sizes = [0, 1, LEAF - 1, LEAF, LEAF + 1, 20 * LEAF, large];
    for (seed, size) in sizes.into_iter().enumerate() {
        bench.write(format!("f{size}"), pattern(size, seed));
    }
    let (shares, name) = bench.scanned();
    for (seed, size) in sizes.into_iter().enumerate() {
        let bytes = pattern(size, seed);
        let blob = id(&bytes);
        assert_eq!(shares.locate_path(&name, &path(format!("f{size}"))), Some((Some(blob), size as u64)), "{size}");
        let file = shares.locate(&blob).unwrap();
        let opened = shares.open_file(&file).unwrap();
        let mut read = vec![0; size];
        opened.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(id(&read), blob);
        let geometry = haul_core::blob::BlobGeometry::new(size as u64).unwrap();
        let outline = shares.outline(&blob).unwrap();
        assert_eq!(outline.to_bytes().len() as u64, if size <= LEAF { 0 } else { 32 * geometry.leaves() });
    }
    let status = shares.status(&name).unwrap();
    assert_eq!((status.files, status.hashed, status.skipped), (7, 7, 0));
    assert_eq!(status.state, ShareState::Registering);
}

#[test]
fn hostile_names_are_kept_exactly() {
    let bench = Bench::new();
    let long = vec![b'x'; 255];
    let hostile: Vec<&[u8]> = vec![
        b"new\nline",
        b"tab\tand\x1b[31mred",
        "bidi\u{202e}gnp.exe".as_bytes(),
        b"\xff\xfe not text",
        b"C:\\windows",
        b"pkg::mod",
        b"...",
        b"-rf",
        b" ",
        b".hidden",
        b"a!b",
        &long,
    ];
    for name in &hostile {
        bench.write(OsStr::from_bytes(name), *name);
        bench.write(Path::new("sub").join(OsStr::from_bytes(name)).join("inner"), *name);
    }
    let (shares, name) = bench.scanned();
    let list = all(&shares, &name);
    for bytes in &hostile {
        assert!(list.iter().any(|(path, _)| path == bytes), "{:?}", String::from_utf8_lossy(bytes));
        let mut deep = b"sub/".to_vec();
        deep.extend_from_slice(bytes);
        deep.extend_from_slice(b"/inner");
        assert!(list.iter().any(|(path, _)| *path == deep));
        let file = shares.locate(&id(bytes)).unwrap();
        shares.open_file(&file).unwrap();
    }
    assert_eq!(shares.status(&name).unwrap().skipped, 0);
}

#[test]
fn special_files_are_told_and_never_opened() {
    let bench = Bench::new();
    bench.write("plain", "x");
    bench.write("run.sh", "#!/bin/sh\n");
    fs::set_permissions(bench.data.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all(bench.data.join("empty/inner")).unwrap();
    let fifo = bench.data.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(bench.data.join("socket")).unwrap();
    symlink("loop", bench.data.join("loop")).unwrap();
    symlink("..", bench.data.join("up")).unwrap();
    symlink("/nowhere/at/all", bench.data.join("dangling")).unwrap();
    symlink("x".repeat(1_025), bench.data.join("longlink")).unwrap();
    let secret = bench.write("secret", "s");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    let mut deep = PathBuf::new();
    for _ in 0..33 {
        deep.push("d");
    }
    bench.write(deep.join("f"), "deep");
    let (shares, name) = bench.scanned();
    let list = all(&shares, &name);
    let what = |wanted: &str| list.iter().find(|(path, _)| path == wanted.as_bytes()).map(|(_, what)| what.as_str());
    assert_eq!(what("run.sh"), Some("file 10 x #"));
    assert_eq!(what("plain"), Some("file 1 #"));
    assert_eq!(what("empty/inner"), Some("dir"));
    assert_eq!(what("loop"), Some("-> loop"));
    assert_eq!(what("up"), Some("-> .."));
    assert_eq!(what("dangling"), Some("-> /nowhere/at/all"));
    for gone in ["fifo", "socket", "longlink"] {
        assert_eq!(what(gone), None);
    }
    let skipped = shares.skipped(&name);
    let reason = |wanted: &str| {
        skipped.iter().find(|skipped| skipped.path == wanted.as_bytes()).map(|skipped| skipped.reason.as_str())
    };
    assert_eq!(reason("fifo"), Some("a FIFO"));
    assert_eq!(reason("socket"), Some("a socket"));
    assert!(reason("longlink").is_some());
    assert!(skipped.iter().any(|skipped| skipped.path.starts_with(b"d/d/d")));
    if !rustix::process::geteuid().is_root() {
        assert!(reason("secret").is_some());
    }
    assert_eq!(shares.status(&name).unwrap().skipped as usize, skipped.len());
}

#[test]
fn only_haulignore_and_excludes_hide() {
    let bench = Bench::new();
    bench.write(".haulignore", "*.tmp\n/build/\n");
    bench.write(".gitignore", "*.rs\n");
    bench.write(".ignore", "*.md\n");
    for file in ["a.tmp", "build/x", "sub/b.tmp", "sub/build/y", "kept.rs", "kept.md", ".hidden", "drop.iso"] {
        bench.write(file, file);
    }
    bench.write("sub/.haulignore", "!b.tmp\n");
    bench.write(".ssh/id", "secret");
    bench.write("deep/.gnupg/ring", "secret");
    bench.write(".movie.haul-part", "part");
    bench.write("bench/haul/peer.key", "key");
    let shares = {
        let mut settings = bench.settings();
        settings.private_dirs = vec![bench.data.join("bench/haul")];
        Shares::open(settings).unwrap()
    };
    let share = NewShare { excludes: vec!["*.iso".into()], ..NewShare::new(&bench.data) };
    let name = shares.add(share).unwrap().name;
    shares.scan_now(&name).unwrap();
    let expected = [
        ".gitignore",
        ".haulignore",
        ".hidden",
        ".ignore",
        "bench",
        "deep",
        "kept.md",
        "kept.rs",
        "sub",
        "sub/.haulignore",
        "sub/b.tmp",
        "sub/build",
        "sub/build/y",
    ];
    assert_eq!(names(&all(&shares, &name)), expected);
    let skipped: Vec<Vec<u8>> = shares.skipped(&name).into_iter().map(|skipped| skipped.path).collect();
    assert!(skipped.contains(&b".ssh".to_vec()) && skipped.contains(&b"deep/.gnupg".to_vec()));
    // Named by itself it is shared.
    let named = shares.add(NewShare::new(bench.data.join(".ssh"))).unwrap().name;
    shares.scan_now(&named).unwrap();
    assert_eq!(names(&all(&shares, &named)), ["id"]);
}

#[test]
fn risky_roots_ask_first() {
    let bench = Bench::new();
    let mut settings = bench.settings();
    settings.private_dirs = vec![bench.home.path().join("state")];
    settings.home = Some(bench.data.clone());
    let shares = Shares::open(settings).unwrap();
    let risk = |path: &Path| match shares.add(NewShare::new(path)) {
        Err(AddError::NeedsConfirmation { risk, .. }) => Some(risk),
        _ => None,
    };
    assert_eq!(risk(Path::new("/")), Some(Risk::Everything));
    assert_eq!(risk(&bench.data), Some(Risk::Home));
    assert_eq!(risk(bench.data.parent().unwrap()), Some(Risk::Home));
    assert_eq!(risk(&bench.home.path().join("state")), Some(Risk::Private));
    assert!(shares.list().is_empty());
    shares.add(NewShare { sure: true, ..NewShare::new(&bench.data) }).unwrap();
    assert_eq!(shares.list().len(), 1);
}

#[test]
fn a_folder_whose_ignore_file_cannot_be_read_is_left_out() {
    let bench = Bench::new();
    let outside = bench.home.path().join("outside");
    fs::write(&outside, "").unwrap();
    for folder in ["fifo", "folder", "large", "link", "plain"] {
        bench.write(format!("{folder}/hidden"), "hidden");
    }
    let own = |folder: &str| bench.data.join(folder).join(".haulignore");
    rustix::fs::mknodat(rustix::fs::CWD, own("fifo"), rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    fs::create_dir(own("folder")).unwrap();
    fs::write(own("large"), "hidden\n".repeat(200_000)).unwrap();
    symlink(&outside, own("link")).unwrap();
    fs::write(own("plain"), "\u{feff}hidden\n").unwrap();
    let (shares, name) = bench.shared();
    shares.scan_now(&name).unwrap();
    let expected = ["fifo", "folder", "large", "link", "plain", "plain/.haulignore"];
    assert_eq!(names(&all(&shares, &name)), expected);
    let mut skipped: Vec<String> = shares.skipped(&name).into_iter().map(|skipped| skipped.reason).collect();
    skipped.sort();
    let reasons = ["it is a link", "it is larger than 1024 KiB", "it is no regular file", "it is no regular file"];
    assert_eq!(skipped, reasons.map(|reason| format!(".haulignore cannot be read: {reason}")));
}

#[test]
fn private_folders_are_left_out_by_whatever_way_they_are_named() {
    let bench = Bench::new();
    let alias = bench.home.path().join("alias");
    symlink(&bench.data, &alias).unwrap();
    bench.write("plain", "plain");
    bench.write("there/key", "key");
    let mut settings = bench.settings();
    settings.private_dirs = vec![alias.join("there"), alias.join("made/later")];
    let shares = Shares::open(settings).unwrap();
    let name = shares.add(NewShare::new(&bench.data)).unwrap().name;
    shares.scan_now(&name).unwrap();
    assert_eq!(names(&all(&shares, &name)), ["plain"]);
    bench.write("made/later/key", "key");
    shares.scan_now(&name).unwrap();
    assert_eq!(names(&all(&shares, &name)), ["made", "plain"]);
}

#[test]
fn one_file_names_and_removal() {
    let bench = Bench::new();
    let file = bench.write("one.txt", "one");
    bench.write("other.txt", "other");
    let shares = bench.open();
    let one = shares.add(NewShare::new(&file)).unwrap().name;
    assert_eq!(one.as_str(), "one.txt");
    shares.scan_now(&one).unwrap();
    shares.hash_now();
    assert_eq!(names(&all(&shares, &one)), ["one.txt"]);
    assert!(shares.locate(&id(b"one")).is_some());
    // The same path again is the same share; another folder of the same name gets a number.
    assert_eq!(shares.add(NewShare::new(&file)).unwrap().name, one);
    fs::create_dir_all(bench.data.join("x/data")).unwrap();
    assert_eq!(shares.add(NewShare::new(&bench.data)).unwrap().name.as_str(), "data");
    assert_eq!(shares.add(NewShare::new(bench.data.join("x/data"))).unwrap().name.as_str(), "data-2");
    let taken = NewShare { name: Some(one.clone()), ..NewShare::new(bench.data.join("x")) };
    assert!(matches!(shares.add(taken), Err(AddError::NameTaken { .. })));
    assert!(matches!(shares.add(NewShare::new("/dev/null")), Err(AddError::NotShareable(_))));
    assert!(matches!(shares.add(NewShare::new("/no/such/path")), Err(AddError::Unreadable { .. })));
    shares.remove(&one).unwrap();
    assert!(shares.locate(&id(b"one")).is_none());
    assert!(shares.remove(&one).is_err());
    drop(shares);
    assert_eq!(bench.open().list().len(), 2);
}

#[test]
fn a_changed_file_is_not_served_and_hashed_again() {
    let bench = Bench::new();
    let file = bench.write("f", pattern(3 * LEAF, 1));
    let (shares, name) = bench.scanned();
    let old = id(&pattern(3 * LEAF, 1));
    let located = shares.locate(&old).unwrap();
    let opened = shares.open_file(&located).unwrap();
    assert!(shares.still_same(&opened, &located));
    fs::write(&file, pattern(3 * LEAF, 2)).unwrap();
    assert!(!shares.still_same(&opened, &located));
    assert!(matches!(shares.open_file(&located), Err(OpenError::Changed)));
    shares.report_changed(&located);
    assert!(shares.locate(&old).is_none());
    shares.hash_now();
    assert!(shares.locate(&id(&pattern(3 * LEAF, 2))).is_some());
    fs::remove_file(&file).unwrap();
    let located = shares.locate(&id(&pattern(3 * LEAF, 2))).unwrap();
    assert!(matches!(shares.open_file(&located), Err(OpenError::Gone)));
    symlink("/etc/hostname", &file).unwrap();
    assert!(matches!(shares.open_file(&located), Err(OpenError::Gone)));
    shares.scan_now(&name).unwrap();
    assert!(shares.locate(&id(&pattern(3 * LEAF, 2))).is_none());
}

#[test]
fn a_hash_that_was_wrong_does_not_come_back_from_the_cache() {
    let bench = Bench::new();
    let bytes = pattern(LEAF, 1);
    let file = bench.write("f", &bytes);
    let wrong = id(b"what the file held, as somebody has said");
    let (shares, name) = bench.shared();
    let download = Download { blob: wrong, outline: Outline::default(), groups: None, seat: None };
    shares.offer_download(&file, download).unwrap();
    shares.scan_now(&name).unwrap();
    assert_eq!(shares.locate_path(&name, &path("f")), Some((Some(wrong), LEAF as u64)), "known from the cache");
    shares.report_changed(&shares.locate_for(&wrong, &[]).unwrap());
    shares.scan_now(&name).unwrap();
    shares.hash_now();
    assert_eq!(shares.locate_path(&name, &path("f")), Some((Some(id(&bytes)), LEAF as u64)));
}

/// Puts other bytes in a file and turns its modification time back, as a careful forger would.
fn forge(path: &Path, bytes: &[u8]) {
    let before = fs::metadata(path).unwrap().modified().unwrap();
    fs::write(path, bytes).unwrap();
    fs::File::options().write(true).open(path).unwrap().set_modified(before).unwrap();
}

#[test]
fn hashes_survive_renames_and_restarts_but_not_other_content() {
    let bench = Bench::new();
    let bytes = pattern(100 * LEAF, 7);
    bench.write("old/name.bin", &bytes);
    let blob = id(&bytes);
    {
        let (shares, _) = bench.scanned();
        assert!(shares.locate(&blob).is_some());
    }
    // A rename of the file changes its change time, a rename of its folder does not.
    fs::rename(bench.data.join("old/name.bin"), bench.data.join("old/new.bin")).unwrap();
    fs::rename(bench.data.join("old"), bench.data.join("moved")).unwrap();
    {
        let (shares, name) = bench.shared();
        shares.scan_now(&name).unwrap();
        shares.hash_now();
        assert_eq!(shares.locate(&blob).unwrap().path, path("moved/new.bin"));
    }
    fs::rename(bench.data.join("moved"), bench.data.join("again")).unwrap();
    {
        let (shares, name) = bench.shared();
        shares.scan_now(&name).unwrap();
        // Known from the walk alone.
        assert_eq!(shares.locate(&blob).unwrap().path, path("again/new.bin"));
    }
    // Same size, same modification time, other content in every leaf.
    let other = pattern(100 * LEAF, 8);
    forge(&bench.data.join("again/new.bin"), &other);
    let (shares, name) = bench.shared();
    shares.scan_now(&name).unwrap();
    assert!(shares.locate(&blob).is_none(), "not served before it is looked at");
    shares.hash_now();
    assert!(shares.locate(&blob).is_none());
    assert!(shares.locate(&id(&other)).is_some());
}

#[test]
fn a_fresh_file_is_hashed_again_by_the_next_walk() {
    let bench = Bench::new();
    let file = bench.write("f", "first");
    let mtime = fs::metadata(&file).unwrap().modified().unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let mtime = i64::try_from(mtime.as_nanos()).unwrap();
    bench.clock.store(mtime + 1_999_999_999, Ordering::SeqCst);
    let (shares, name) = bench.scanned();
    assert!(shares.locate(&id(b"first")).is_some());
    assert_eq!(shares.scan_now(&name).unwrap().state, ShareState::Hashing, "within two seconds: looked at again");
    assert!(shares.locate(&id(b"first")).is_some(), "and served meanwhile");
    bench.clock.store(mtime + 2_000_000_000, Ordering::SeqCst);
    shares.hash_now();
    assert_eq!(shares.scan_now(&name).unwrap().state, ShareState::Registering, "settled now");
}

#[test]
fn a_lost_cache_costs_hashing_only() {
    let bench = Bench::new();
    let bytes = pattern(5 * LEAF, 3);
    bench.write("f", &bytes);
    bench.write("small", "small");
    let registered = {
        let (shares, name) = bench.scanned();
        shares.status(&name).unwrap()
    };
    fs::remove_dir_all(bench.home.path().join("cache")).unwrap();
    let (shares, name) = bench.shared();
    assert!(shares.locate(&id(b"small")).is_some());
    assert!(shares.locate(&id(&bytes)).is_none(), "without outline it cannot be served");
    shares.hash_now();
    assert!(shares.outline(&id(&bytes)).is_some() && shares.locate(&id(&bytes)).is_some());
    assert_eq!(shares.status(&name).unwrap().hashed, registered.hashed);
}

#[test]
fn links_swapped_in_during_walks_share_nothing_from_outside() {
    use std::sync::atomic::AtomicBool;
    let bench = Bench::new();
    bench.write("a/b/inside", "inside");
    bench.write("a/b/file", "changes places with a link");
    let outside = bench.home.path().join("outside");
    fs::create_dir_all(outside.join("b")).unwrap();
    fs::write(outside.join("b/file"), "secret").unwrap();
    fs::write(outside.join("b/more"), "another secret").unwrap();
    symlink(&outside, bench.data.join("evil")).unwrap();
    symlink(outside.join("b/file"), bench.data.join("a/b/link")).unwrap();
    let (shares, name) = bench.scanned();
    let stop = AtomicBool::new(false);
    let (mut seen, mut secrets) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            let (a, evil) = (bench.data.join("a"), bench.data.join("evil"));
            let (file, link) = ("b/file", "b/link");
            for n in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                renameat_with(CWD, &a, CWD, &evil, RenameFlags::EXCHANGE).unwrap();
                // And a file with a link, wherever their folder is now.
                let folder = if n % 2 == 0 { &evil } else { &a };
                renameat_with(CWD, folder.join(file), CWD, folder.join(link), RenameFlags::EXCHANGE).unwrap();
            }
        });
        for _ in 0..400 {
            shares.scan_now(&name).unwrap();
            shares.hash_now();
            seen += usize::from(shares.locate(&id(b"inside")).is_some());
            secrets +=
                [&b"secret"[..], b"another secret"].iter().filter(|text| shares.locate(&id(text)).is_some()).count();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(secrets, 0, "what lies outside is hashed and served");
    assert!(seen > 0, "what lies inside is found at times");
}

#[test]
fn roots_that_vanish_or_lose_most_turn_away() {
    let bench = Bench::new();
    for n in 0..100 {
        bench.write(format!("d/{n}"), format!("{n}"));
    }
    let (shares, name) = bench.scanned();
    let files = shares.status(&name).unwrap().files;
    let aside = bench.data.with_file_name("aside");
    fs::rename(&bench.data, &aside).unwrap();
    let status = shares.scan_now(&name).unwrap();
    assert_eq!((status.state, status.files), (ShareState::Away, files));
    assert!(shares.locate(&id(b"5")).is_none());
    assert_eq!(shares.list_directory(&name, &SharePath::default(), false, None, &[]), Err(ListError::NotFound));
    fs::rename(&aside, &bench.data).unwrap();
    assert_ne!(shares.scan_now(&name).unwrap().state, ShareState::Away);
    assert!(shares.locate(&id(b"5")).is_some());
    for n in 10..100 {
        fs::remove_file(bench.data.join(format!("d/{n}"))).unwrap();
    }
    let status = shares.scan_now(&name).unwrap();
    assert_eq!((status.state, status.files), (ShareState::Away, files));
    assert!(status.reason.unwrap().contains("haul share rescan"));
    shares.rescan(&name).unwrap();
    assert_eq!(shares.scan_now(&name).unwrap().files, 10);
    // Tidying up a little is no loss.
    for n in 1..10 {
        fs::remove_file(bench.data.join(format!("d/{n}"))).unwrap();
    }
    assert_eq!(shares.scan_now(&name).unwrap().files, 1);
}

#[test]
fn listings_page_and_directories_have_ids() {
    let bench = Bench::new();
    for n in 0..2_500 {
        bench.write(format!("many/{n:05}"), "");
    }
    bench.write("many!", "between a directory and its children");
    bench.write("many/sub/x", "");
    fs::create_dir(bench.data.join("none")).unwrap();
    let (shares, name) = bench.scanned();
    assert_eq!(all(&shares, &name).len(), 2_500 + 5);
    let children = shares.list_directory(&name, &SharePath::default(), false, None, &[]).unwrap();
    assert_eq!(Page::check(&children.page).unwrap().len(), 3);
    let empty = shares.list_directory(&name, &path("none"), true, None, &[]).unwrap();
    assert!(empty.page.is_empty() && empty.cursor.is_none());
    assert_eq!(shares.list_directory(&name, &path("many!"), false, None, &[]), Err(ListError::NotFound));
    assert_eq!(shares.list_directory(&name, &path("none"), false, Some(b"x"), &[]), Err(ListError::BadCursor));
    assert!(shares.directory_id(&name, &path("none")).unwrap().to_string().starts_with("d3:48fc721f"));
    let whole = shares.directory_id(&name, &SharePath::default()).unwrap();
    bench.write("many/sub/x", "now with content");
    shares.scan_now(&name).unwrap();
    assert_eq!(shares.directory_id(&name, &SharePath::default()), None, "not hashed yet");
    shares.hash_now();
    assert_ne!(shares.directory_id(&name, &SharePath::default()), Some(whole));
}

#[test]
fn a_finished_download_is_served_from_its_place() {
    let bench = Bench::new();
    let shares = bench.open();
    let bytes = pattern(2 * LEAF, 9);
    let file = bench.write("got.bin", &bytes);
    let mut builder = haul_core::outline::OutlineBuilder::new();
    bytes.chunks(LEAF).for_each(|leaf| builder.push(leaf));
    let (blob, outline) = builder.finish();
    let download = Download { blob, outline: outline.clone(), groups: None, seat: None };
    shares.offer_download(&file, download).unwrap();
    let located = shares.locate(&blob).unwrap();
    assert_eq!(located.share, None);
    assert_eq!(shares.locate_for(&blob, &[]), None, "nobody has said who may have it");
    shares.open_file(&located).unwrap();
    assert_eq!(*shares.outline(&blob).unwrap(), outline);
    // A share that holds it need not read it.
    let name = shares.add(NewShare::new(&bench.data)).unwrap().name;
    assert_eq!(shares.scan_now(&name).unwrap().hashed, 1);
    fs::write(&file, "other").unwrap();
    shares.report_changed(&located);
    shares.scan_now(&name).unwrap();
    assert!(shares.locate(&blob).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn running_it_walks_watches_and_hashes() {
    let bench = Bench::new();
    bench.write("first", "first");
    let (shares, name) = bench.shared();
    let shutdown = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(shares.clone().run(shutdown.clone()));
    let until = async |blob: BlobId| {
        let mut changes = shares.changes();
        while shares.locate(&blob).is_none() {
            changes.changed().await.unwrap();
        }
    };
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, until(id(b"first"))).await.unwrap();
    bench.write("sub/second", "second");
    tokio::time::timeout(limit, until(id(b"second"))).await.unwrap();
    bench.write("sub/third", pattern(2 * LEAF, 1));
    tokio::time::timeout(limit, until(id(&pattern(2 * LEAF, 1)))).await.unwrap();
    assert_eq!(shares.status(&name).unwrap().files, 3);
    fs::rename(bench.data.join("sub"), bench.data.join("moved")).unwrap();
    bench.write("moved/fourth", "fourth");
    tokio::time::timeout(limit, until(id(b"fourth"))).await.unwrap();
    fs::remove_dir_all(bench.data.join("moved")).unwrap();
    bench.write("moved/fifth", "fifth");
    tokio::time::timeout(limit, until(id(b"fifth"))).await.unwrap();
    bench.write("moved/sixth", "sixth");
    tokio::time::timeout(limit, until(id(b"sixth"))).await.unwrap();
    shutdown.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_that_appear_while_giants_are_hashed_do_not_wait_for_them() {
    let bench = Bench::new();
    // Hours of hashing.
    for giant in ["giant", "other giant"] {
        fs::File::create(bench.data.join(giant)).unwrap().set_len(1 << 42).unwrap();
    }
    let (shares, _) = bench.shared();
    let shutdown = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(shares.clone().run(shutdown.clone()));
    // Each comes once all threads had nothing left but the giants.
    for small in ["first", "second", "third"] {
        bench.write(small, small);
        let mut changes = shares.changes();
        let hashed = async {
            while shares.locate(&id(small.as_bytes())).is_none() {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), hashed).await.unwrap();
    }
    shutdown.cancel();
    running.await.unwrap();
}

#[test]
fn a_finished_download_is_for_those_whom_the_index_named_until_its_network_is_left() {
    let bench = Bench::new();
    let shares = bench.open();
    let bytes = pattern(2 * LEAF, 10);
    let file = bench.write("got.bin", &bytes);
    let mut builder = haul_core::outline::OutlineBuilder::new();
    bytes.chunks(LEAF).for_each(|leaf| builder.push(leaf));
    let (blob, outline) = builder.finish();
    let lab = Label::new("lab").unwrap();
    shares.offer_download(&file, Download { blob, outline, groups: Some(vec![lab.clone()]), seat: None }).unwrap();
    assert!(shares.locate_for(&blob, &[]).is_none());
    assert!(shares.locate_for(&blob, std::slice::from_ref(&lab)).is_some());
    shares.withdraw_downloads();
    assert!(shares.locate_for(&blob, &[lab]).is_none());
    assert!(shares.locate(&blob).is_some(), "for this machine it stays");
}
