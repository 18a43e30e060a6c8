//! Directories: from the shares of real peers to a folder that equals them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "transfer_support/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use haul_core::blob::BlobGeometry;
use haul_core::ids::BlobId;
use haul_core::manifest::{Change, Entry, EntryKind, PageBuilder};
use haul_core::path::SharePath;
use haul_core::wire::index::{Listing, PeerCard};
use haul_core::wire::peer::{PeerAnswer, PeerRequest};
use haul_core::wire::{ByteString, Label};
use haul_net::connection::Inbound;
use haul_peer::fetch::{DirectoryRequest, FetchDone, FetchError};
use haul_peer::files::{FileError, PartFile, Place, Progress};
use tokio_util::sync::CancellationToken;
use world::{Fault, Scripted, World, content, names, no_progress};

/// What a folder looks like to `diff -r --no-dereference`, plus executable bits and times of files.
type Picture = BTreeMap<Vec<u8>, (char, u64, i64, Vec<u8>)>;

fn picture(root: &Path) -> Picture {
    let mut picture = Picture::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
            let mtime = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
            let line = if metadata.is_dir() {
                open.push(path);
                ('d', 0, mtime, Vec::new())
            } else if metadata.is_symlink() {
                ('l', 0, mtime, std::fs::read_link(&path).unwrap().into_os_string().into_vec())
            } else {
                ('f', u64::from(metadata.permissions().mode() & 0o100), mtime, std::fs::read(&path).unwrap())
            };
            picture.insert(name, line);
        }
    }
    picture
}

fn write(path: &Path, bytes: &[u8], executable: bool) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
    if executable {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let past = SystemTime::now() - Duration::from_secs(86_400 + bytes.len() as u64);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(past).unwrap();
}

/// A folder with about everything that folders hold.
fn build(root: &Path) {
    for n in 0..600 {
        write(&root.join(format!("many/{}/file-{n:04}", n % 7)), format!("content {}", n / 2).as_bytes(), n % 5 == 0);
    }
    for size in [0, 1, 65_535, 65_536, 65_537, 3_000_001] {
        write(&root.join(format!("sizes/{size}")), &content(size), false);
    }
    write(&root.join("sizes/again/3000001"), &content(3_000_001), true);
    for name in
        [&b"a::b"[..], b"\xff\xfe", b"tab\tnewline\n", "\u{202e}bidi é".as_bytes(), b"-rf", b"~", b"C:\\x", b"..."]
    {
        write(&root.join("odd").join(OsStr::from_bytes(name)), name, false);
    }
    std::fs::create_dir_all(root.join("empty/inner")).unwrap();
    symlink("../sizes/1", root.join("odd/link")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    symlink("sizes", root.join("to-folder")).unwrap();
}

fn request(peer: &PeerCard, share: &str, path: &str, target: &Path) -> DirectoryRequest {
    DirectoryRequest {
        outside_links: false,
        peer: peer.clone(),
        share: Label::new(share).unwrap(),
        path: SharePath::new(path.as_bytes()).unwrap(),
        target: target.to_path_buf(),
        force: false,
        only_this: false,
        timeline: haul_peer::timeline::Timeline::default(),
        patience: Duration::ZERO,
    }
}

async fn fetch(world: &World, request: DirectoryRequest) -> Result<FetchDone, FetchError> {
    let downloader = world.downloader();
    tokio::spawn(async move { downloader.fetch_directory(request, no_progress(), CancellationToken::new()).await })
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_arrives_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    build(&source);
    let world = World::new();
    let (peer, _shares) = world.add_share("lab", &source, &folder.path().join("state"));
    let target = folder.path().join("got");
    let done = fetch(&world, request(&peer, "lab", "", &target)).await.unwrap();
    let (wanted, got) = (picture(&source), picture(&target));
    assert_eq!(wanted.keys().collect::<Vec<_>>(), got.keys().collect::<Vec<_>>());
    assert!(wanted == got);
    assert!(done.skipped.is_empty(), "{:?}", done.skipped);
    assert_eq!(done.files, wanted.values().filter(|line| line.0 == 'f').count() as u64);
    assert_eq!(done.bytes, wanted.values().filter(|line| line.0 == 'f').map(|line| line.3.len() as u64).sum::<u64>());
    assert!(done.fetched < done.bytes - 3_000_000, "the same content is fetched once: {done:?}");
    assert_eq!(names(folder.path()), ["got", "source", "state"]);

    // Once more: everything is there.
    let again = fetch(&world, request(&peer, "lab", "", &target)).await.unwrap();
    assert_eq!((again.fetched, again.resumed_from), (0, done.bytes));
    // A folder with something else in one file is not touched unasked.
    std::fs::write(target.join("sizes/1"), b"??").unwrap();
    let failure = fetch(&world, request(&peer, "lab", "", &target)).await.unwrap_err();
    assert!(matches!(failure, FetchError::File(FileError::Exists(_))), "{failure}");
    assert_eq!(std::fs::read(target.join("sizes/1")).unwrap(), b"??");
    let mut forced = request(&peer, "lab", "", &target);
    forced.force = true;
    let done = fetch(&world, forced).await.unwrap();
    assert_eq!(done.fetched, 1);
    assert!(picture(&source) == picture(&target));

    // What stands where a folder goes stops it before anything is replaced.
    std::fs::write(target.join("sizes/1"), b"??").unwrap();
    std::fs::remove_dir(target.join("empty/inner")).unwrap();
    std::fs::write(target.join("empty/inner"), b"mine").unwrap();
    let mut forced = request(&peer, "lab", "", &target);
    forced.force = true;
    let failure = fetch(&world, forced).await.unwrap_err();
    assert!(matches!(failure, FetchError::File(_)), "{failure}");
    assert_eq!(std::fs::read(target.join("sizes/1")).unwrap(), b"??");

    // A folder in the share.
    let inner = folder.path().join("inner");
    fetch(&world, request(&peer, "lab", "many/3", &inner)).await.unwrap();
    assert!(picture(&source.join("many/3")) == picture(&inner));
    let failure = fetch(&world, request(&peer, "lab", "nothing", &folder.path().join("x"))).await.unwrap_err();
    assert!(matches!(failure, FetchError::NoSuchDirectory), "{failure}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_files_come_from_several_peers() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    build(&one);
    // The second has half of the files.
    for n in (0..600).filter(|n| n % 4 < 2) {
        write(&two.join(format!("f{n}")), format!("content {}", n / 2).as_bytes(), false);
    }
    let world = World::new();
    let (peer, _first) = world.add_share("one", &one, &folder.path().join("state-1"));
    let (_, _second) = world.add_share("two", &two, &folder.path().join("state-2"));
    let target = folder.path().join("got");
    let done = fetch(&world, request(&peer, "one", "", &target)).await.unwrap();
    assert!(picture(&one) == picture(&target));
    assert!(!done.providers.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_timeline_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    write(&source.join("deep/large"), &content(2_000_000), false);
    write(&source.join("small"), b"small", false);
    let world = World::new();
    let (peer, _shares) = world.add_share("lab", &source, &folder.path().join("state"));
    let without = Scripted::new(b"something else", Fault::NotHeld);
    let empty = world.add("empty", without.handler());
    let wanted = request(&peer, "lab", "", &folder.path().join("got"));
    let timeline = wanted.timeline.clone();
    fetch(&world, wanted).await.unwrap();
    let notes = timeline.told().notes;
    let about_large: Vec<_> = notes.iter().filter(|noted| noted.file.as_deref() == Some("deep/large")).collect();
    assert!(about_large.iter().any(|noted| noted.peer == Some(empty.id)), "{notes:?}");
    assert!(notes.iter().any(|noted| noted.file.is_none()), "what is about the folder names no file: {notes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn complete_files_of_a_broken_download_stay() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    build(&source);
    let world = World::new();
    let (peer, shares) = world.add_share("lab", &source, &folder.path().join("state"));
    // One file changes behind the listing: the download cannot complete.
    std::fs::write(source.join("sizes/3000001"), content(3_000_002)).unwrap();
    std::fs::remove_file(source.join("sizes/again/3000001")).unwrap();
    let target = folder.path().join("got");
    let failure = fetch(&world, request(&peer, "lab", "", &target)).await.unwrap_err();
    assert!(matches!(failure, FetchError::NoProvider { .. }), "{failure}");
    assert!(!target.exists());
    std::fs::create_dir_all(source.join("sizes/again")).unwrap();
    write(&source.join("sizes/3000001"), &content(3_000_001), false);
    write(&source.join("sizes/again/3000001"), &content(3_000_001), true);
    shares.scan_now(&Label::new("lab").unwrap()).unwrap();
    shares.hash_now();
    let done = fetch(&world, request(&peer, "lab", "", &target)).await.unwrap();
    assert!(done.resumed_from > 0 && done.fetched <= 3_000_001 + 65_537 * 4, "{done:?}");
    assert_eq!(picture(&source).len(), picture(&target).len());
    assert_eq!(names(folder.path()), ["got", "source", "state"]);
}

/// A peer whose listing is made up.
fn lying_list(world: &World, changes: Vec<Change<'static>>) -> PeerCard {
    let mut page = PageBuilder::new();
    for change in &changes {
        assert!(page.push(change));
    }
    let page = page.finish();
    world.add(
        "liar",
        Arc::new(move |_connection, mut inbox| {
            let page = page.clone();
            async move {
                while let Some(Inbound::Request(request)) = inbox.next().await {
                    let answer = match request.decode::<PeerRequest>().unwrap() {
                        PeerRequest::Grant { .. } => PeerAnswer::Granted,
                        PeerRequest::List { .. } => {
                            PeerAnswer::Listing(Listing { page: ByteString(page.clone()), cursor: None })
                        }
                        _ => PeerAnswer::NotHeld,
                    };
                    let _ = request.answer(&answer).await;
                }
            }
            .boxed()
        }),
    )
}

fn entry(directory: &'static [u8], name: &'static [u8], kind: EntryKind<'static>) -> Change<'static> {
    Change::Upsert(Entry { directory, name, mtime_ns: 0, kind })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_stopped_notes_what_is_there_of_its_large_files() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new();
    let bytes = content(200 * 65_536);
    // Stopped before the first checkpoint is due.
    let stalling = Scripted::paced(&bytes, Fault::Stalls(190), Duration::from_millis(4));
    world.add("stalling", stalling.handler());
    let file = EntryKind::File { size: bytes.len() as u64, executable: false, blob: Some(stalling.blob) };
    let peer = lying_list(&world, vec![entry(b"", b"large", file)]);
    let target = folder.path().join("got");
    let (progress, cancel) = (no_progress(), CancellationToken::new());
    let mut seen = progress.subscribe();
    let (downloader, wanted, token) = (world.downloader(), request(&peer, "any", "", &target), cancel.clone());
    let task = tokio::spawn(async move { downloader.fetch_directory(wanted, progress, token).await });
    seen.wait_for(|progress| progress.done > 10 * 65_536).await.unwrap();
    cancel.cancel();
    let failure = task.await.unwrap().unwrap_err();
    assert!(matches!(failure, FetchError::Cancelled), "{failure}");
    let noted = std::fs::read(folder.path().join(".got.haul-part/.large.haul-progress")).unwrap();
    assert!(Progress::from_bytes(&noted).unwrap().written.count() > 10);
    // Nobody holds its lock any more.
    let place = Place::of(&folder.path().join(".got.haul-part/large")).unwrap();
    PartFile::open(place, stalling.blob, BlobGeometry::new(bytes.len() as u64).unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_that_lead_outside_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new();
    let link = |target| EntryKind::Symlink { target };
    let peer = lying_list(
        &world,
        vec![
            entry(b"", b"absolute", link(b"/etc/passwd")),
            entry(b"", b"d", EntryKind::Directory),
            entry(b"", b"fine", link(b"d/x")),
            entry(b"", b"up", link(b"..")),
            entry(b"d", b"up-twice", link(b"../../x")),
        ],
    );
    let target = folder.path().join("got");
    let done = fetch(&world, request(&peer, "any", "", &target)).await.unwrap();
    assert_eq!(names(&target), ["d", "fine"]);
    let left_out: Vec<&str> = done.skipped.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(left_out, ["absolute", "d/up-twice", "up"]);
}

/// A progress file that says that all is there would make haul give any bytes the name of a verified file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_unfinished_downloads_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new();
    let link = || EntryKind::Symlink { target: b"x" };
    let peer = lying_list(
        &world,
        vec![
            entry(b"", b".a.haul-progress", link()),
            entry(b"", b".b.haul-part", EntryKind::Directory),
            entry(b"", b"d", EntryKind::Directory),
            entry(b"", b"fine", link()),
            entry(b".b.haul-part", b"inner", link()),
            entry(b"d", b".haul-0123456789abcdef.progress~", link()),
        ],
    );
    let target = folder.path().join("got");
    let done = fetch(&world, request(&peer, "any", "", &target)).await.unwrap();
    assert_eq!(names(&target), ["d", "fine"]);
    assert!(names(&target.join("d")).is_empty());
    assert_eq!(done.skipped.len(), 4, "{:?}", done.skipped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings_that_break_the_rules_create_nothing() {
    let empty = || EntryKind::File { size: 0, executable: false, blob: Some(BlobId::empty()) };
    let link = EntryKind::Symlink { target: b"/tmp" };
    for (path, changes) in [
        // A file in a link, and in a file.
        ("", vec![entry(b"", b"a", link), entry(b"a", b"evil", empty())]),
        ("", vec![entry(b"", b"a", empty()), entry(b"a", b"evil", empty())]),
        // Paths outside of the directory that was asked for.
        ("sub", vec![entry(b"other", b"evil", empty())]),
        ("sub", vec![entry(b"", b"evil", empty())]),
        ("sub", vec![entry(b"sub-not", b"evil", empty())]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let world = World::new();
        let peer = lying_list(&world, changes);
        let failure = fetch(&world, request(&peer, "any", path, &folder.path().join("got"))).await.unwrap_err();
        assert!(matches!(failure, FetchError::Listing(_)), "{failure}");
        assert!(names(folder.path()).is_empty());
    }
}
