//! Serving real files: grants, changes under the reader's hands, and requests that break the rules.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "transfer_support/world.rs"]
mod world;

use std::sync::Arc;
use std::time::Duration;

use haul_core::ids::BlobId;
use haul_core::limits::{LEAF_BYTES, SMALL_LEAVES, UPLOAD_SLOTS};
use haul_core::path::SharePath;
use haul_core::trust::Grant;
use haul_core::wire::peer::{LeafRange, PeerAnswer, PeerRequest, QUEUE_NEWS};
use haul_core::wire::{Label, List, decode};
use haul_net::clock::{boot_now, wall_now};
use haul_net::connection::{CloseReason, Connection, ConnectionSettings, StreamItem};
use haul_net::identity::SecretKey;
use haul_net::transport::memory_pair;
use haul_peer::fetch::FetchError;
use haul_peer::fetch::pool::GrantPaper;
use haul_peer::serve::{GrantCheck, Server};
use haul_peer::share::{NewShare, ShareSettings, Shares};
use tokio_util::sync::CancellationToken;
use world::{World, blob_of, content, names, no_progress, request};

struct Served {
    world: World,
    folder: tempfile::TempDir,
    check: Arc<GrantCheck>,
    server: Arc<Server>,
    shares: Arc<Shares>,
}

fn serve(files: &[(&str, Vec<u8>)]) -> Served {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("share");
    std::fs::create_dir(&root).unwrap();
    for (name, bytes) in files {
        std::fs::write(root.join(name), bytes).unwrap();
    }
    let state = folder.path().join("state");
    let mut settings = ShareSettings::new(&state, &state);
    settings.watch = false;
    let shares = Shares::open(settings).unwrap();
    let name = Label::new("lab").unwrap();
    shares.add(NewShare { name: Some(name.clone()), ..NewShare::new(&root) }).unwrap();
    shares.scan_now(&name).unwrap();
    shares.hash_now();
    let check = world.check();
    let server = Server::new(shares.clone(), check.clone());
    Served { world, folder, check, server, shares }
}

impl Served {
    fn connect(&self) -> Connection {
        let (near, far) = memory_pair();
        let (connection, inbox) = Connection::start(far, self.world.me.public(), ConnectionSettings::server(None));
        tokio::spawn(self.server.clone().serve(connection, inbox, self.world.shutdown.clone()));
        let server_key = SecretKey::generate().unwrap().public();
        Connection::start(near, server_key, ConnectionSettings::default()).0
    }

    async fn granted(&self) -> Connection {
        let connection = self.connect();
        assert_eq!(show(&connection, self.world.paper(|_| {})).await, PeerAnswer::Granted);
        connection
    }
}

async fn show(connection: &Connection, paper: GrantPaper) -> PeerAnswer {
    let request = PeerRequest::Grant { grant: paper.grant, index_certificate: paper.index_certificate };
    connection.request(&request).await.unwrap()
}

async fn refused(served: &Served, paper: GrantPaper) -> String {
    let connection = served.connect();
    let PeerAnswer::NotGranted { reason } = show(&connection, paper).await else { panic!("it was accepted") };
    assert!(matches!(connection.closed().await, CloseReason::Remote(_)));
    reason
}

type Change = Box<dyn FnOnce(&mut Grant)>;

fn key() -> SecretKey {
    SecretKey::generate().unwrap()
}

#[tokio::test]
async fn only_a_valid_grant_opens_the_door() {
    let served = serve(&[("a", content(100))]);
    let world = &served.world;
    let now = wall_now();
    let cases: [(&str, Change); 4] = [
        ("another peer", Box::new(|grant| grant.peer = key().public())),
        ("another network", Box::new(|grant| grant.network = key().public())),
        ("ended", Box::new(move |grant| grant.expires = now)),
        ("ended", Box::new(move |grant| grant.issued = now.after(Duration::from_mins(10)))),
    ];
    for (reason, change) in cases {
        assert!(refused(&served, world.paper(change)).await.contains(reason), "{reason}");
    }
    // Another index, whatever it says; and an index without the network's signature.
    let stranger = World::new();
    let mut paper = stranger.paper(|grant| (grant.peer, grant.network) = (world.me.public(), world.network.public()));
    assert!(refused(&served, paper.clone()).await.contains("not signed"));
    paper.index_certificate = world.paper(|_| {}).index_certificate;
    assert!(refused(&served, paper).await.contains("not signed"));
    // Bytes that are no grant.
    let mut paper = world.paper(|_| {});
    paper.grant.0.truncate(50);
    assert!(refused(&served, paper).await.contains("not signed"));
    // Removed from the network: this certificate and older ones.
    served.check.revoke([(world.me.public(), 1)]);
    assert!(refused(&served, world.paper(|_| {})).await.contains("removed"));
    let newer = world.paper(|grant| grant.serial = 2);
    assert_eq!(show(&served.connect(), newer).await, PeerAnswer::Granted);
}

#[tokio::test]
async fn nothing_is_told_without_a_grant() {
    let bytes = content(100);
    let served = serve(&[("a", bytes.clone())]);
    let connection = served.connect();
    let answer: PeerAnswer =
        connection.request(&PeerRequest::Bitfield { blob: blob_of(&bytes).0, beyond: None }).await.unwrap();
    assert!(matches!(answer, PeerAnswer::NotGranted { .. }), "{answer:?}");
    connection.closed().await;
}

#[tokio::test]
async fn a_share_of_a_group_is_neither_listed_nor_served_to_others() {
    let bytes = content(100);
    let served = serve(&[]);
    let root = served.folder.path().join("secret");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("plan.txt"), &bytes).unwrap();
    let (share, staff) = (Label::new("secret").unwrap(), Label::new("staff").unwrap());
    let new = NewShare { name: Some(share.clone()), groups: vec![staff], ..NewShare::new(&root) };
    served.shares.add(new).unwrap();
    served.shares.scan_now(&share).unwrap();
    served.shares.hash_now();
    let list = PeerRequest::List { share, path: SharePath::default(), recursive: true, cursor: None };
    let blob = blob_of(&bytes).0;
    let others = served.granted().await;
    for request in
        [list.clone(), PeerRequest::Bitfield { blob, beyond: None }, PeerRequest::Outline { blob, sheet: None }]
    {
        assert_eq!(others.request::<_, PeerAnswer>(&request).await.unwrap(), PeerAnswer::NotHeld, "{request:?}");
    }
    let member = served.connect();
    let paper = served.world.paper(|grant| grant.groups = vec!["staff".into()]);
    assert_eq!(show(&member, paper).await, PeerAnswer::Granted);
    let PeerAnswer::Listing(listing) = member.request(&list).await.unwrap() else { panic!("no listing") };
    assert!(!listing.page.is_empty());
    let answer: PeerAnswer = member.request(&PeerRequest::Bitfield { blob, beyond: None }).await.unwrap();
    assert_eq!(answer, PeerAnswer::Bitfield { size: 100, leaves: None });
}

/// What a member asks for and does not take stays in memory here, so there is only so much of it.
#[tokio::test]
async fn so_many_streams_are_served_at_once_and_the_next_hears_its_place() {
    let bytes = content(3 * 1024 * 1024);
    let served = serve(&[("a", bytes.clone())]);
    let connections = [served.granted().await, served.granted().await];
    let count = bytes.len().div_ceil(LEAF_BYTES as usize) as u64;
    let ranges = List::new(vec![LeafRange { first: 0, count }]);
    let request = PeerRequest::Pieces { blob: blob_of(&bytes).0, ranges, wait: false };
    let mut held = Vec::new();
    for number in 0..UPLOAD_SLOTS {
        let mut stream = connections[number % 2].open_stream(&request).await.unwrap();
        assert!(matches!(stream.next().await.unwrap(), StreamItem::Data { index: 0, .. }));
        held.push(stream);
    }
    let mut next = connections[0].open_stream(&request).await.unwrap();
    let StreamItem::Data { index: QUEUE_NEWS, bytes: news } = next.next().await.unwrap() else { panic!("served") };
    assert!(matches!(decode(&news), Ok(PeerAnswer::Queued { place: 1, .. })));
    // Questions are answered all the same, and the end of one stream lets the next begin.
    let bitfield = PeerRequest::Bitfield { blob: blob_of(&bytes).0, beyond: None };
    assert!(matches!(connections[1].request(&bitfield).await.unwrap(), PeerAnswer::Bitfield { .. }));
    held.pop();
    loop {
        match next.next().await.unwrap() {
            StreamItem::Data { index: QUEUE_NEWS, .. } => {}
            StreamItem::Data { index: 0, .. } => break,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_grant_that_is_revoked_ends_the_connection() {
    let bytes = content(100);
    let served = serve(&[("a", bytes.clone())]);
    let connection = served.granted().await;
    let request = PeerRequest::Bitfield { blob: blob_of(&bytes).0, beyond: None };
    assert_eq!(
        connection.request::<_, PeerAnswer>(&request).await.unwrap(),
        PeerAnswer::Bitfield { size: 100, leaves: None }
    );
    served.check.revoke([(served.world.me.public(), 1)]);
    assert!(matches!(connection.request::<_, PeerAnswer>(&request).await, Ok(PeerAnswer::NotGranted { .. })));
    assert!(matches!(connection.closed().await, CloseReason::Remote(_)));
}

#[test]
fn a_peer_that_lost_its_index_serves_those_it_knew_for_a_while() {
    let world = World::new();
    let check = GrantCheck::new(world.network.public(), Duration::from_secs(1000));
    let (now, index) = (boot_now(), wall_now());
    let me = world.me.public();
    let paper = world.paper(|_| {});
    let passes = |at| check.check(me, &paper.grant, &paper.index_certificate, at).is_ok();
    let later = |seconds| now.after(Duration::from_secs(seconds));
    assert!(!passes(now), "no idea of the time yet");
    check.in_touch(index, now);
    assert!(passes(now) && passes(later(290)) && !passes(later(310)));
    check.cut_off(later(200));
    assert!(passes(later(310)) && passes(later(1190)) && !passes(later(1210)));
    check.in_touch(index.after(Duration::from_secs(400)), later(400));
    assert!(!passes(later(400)));
    // It had ended before contact was lost.
    check.cut_off(later(410));
    assert!(!passes(later(420)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_what_is_there_and_nothing_else() {
    let (large, small) = (content(3 * LEAF_BYTES as usize + 1), content(5));
    let served = serve(&[("large", large.clone()), ("small", small.clone())]);
    let connection = served.granted().await;
    let (blob, outline) = blob_of(&large);
    let ask = async |request: PeerRequest| connection.request::<_, PeerAnswer>(&request).await.unwrap();
    let PeerAnswer::Outline { size, values } = ask(PeerRequest::Outline { blob, sheet: Some(0) }).await else {
        panic!()
    };
    assert_eq!((size, values.0), (large.len() as u64, outline.to_bytes()));
    let beyond = ask(PeerRequest::Outline { blob, sheet: Some(1) }).await;
    assert!(matches!(beyond, PeerAnswer::Outline { values, .. } if values.is_empty()));
    assert_eq!(ask(PeerRequest::Bitfield { blob: BlobId::new([7; 32]), beyond: None }).await, PeerAnswer::NotHeld);
    let list = |share: &str, path: &[u8]| PeerRequest::List {
        share: Label::new(share).unwrap(),
        path: SharePath::new(path).unwrap(),
        recursive: true,
        cursor: None,
    };
    assert_eq!(ask(list("other", b"")).await, PeerAnswer::NotHeld);
    assert!(matches!(ask(list("lab", b"")).await, PeerAnswer::Listing(_)));

    let pieces = |ranges: Vec<LeafRange>| PeerRequest::Pieces { blob, ranges: List::new(ranges), wait: false };
    for bad in [
        LeafRange { first: 0, count: 0 },
        LeafRange { first: 4, count: 1 },
        LeafRange { first: 0, count: 5 },
        LeafRange { first: u64::MAX, count: 2 },
    ] {
        let mut stream = connection.open_stream(&pieces(vec![bad])).await.unwrap();
        let StreamItem::End(end) = stream.next().await.unwrap() else { panic!("{bad:?}") };
        assert!(matches!(decode(&end), Ok(PeerAnswer::Bad { .. })));
    }
    let wanted = vec![LeafRange { first: 3, count: 1 }, LeafRange { first: 0, count: 2 }];
    let mut stream = connection.open_stream(&pieces(wanted)).await.unwrap();
    let mut order = Vec::new();
    while let StreamItem::Data { index, bytes } = stream.next().await.unwrap() {
        let start = (index * LEAF_BYTES) as usize;
        assert_eq!(bytes, large[start..large.len().min(start + LEAF_BYTES as usize)]);
        order.push(index);
    }
    assert_eq!(order, [3, 0, 1]);

    let blobs = vec![BlobId::new([1; 32]), blob, blob_of(&small).0];
    let mut stream = connection.open_stream(&PeerRequest::Blobs { blobs: List::new(blobs) }).await.unwrap();
    let mut arrived = Vec::new();
    while let StreamItem::Data { index, bytes } = stream.next().await.unwrap() {
        arrived.push((index, bytes.to_vec()));
    }
    let leaves = large.chunks(LEAF_BYTES as usize).map(<[u8]>::to_vec);
    let mut expected: Vec<_> = (SMALL_LEAVES..).zip(leaves).collect();
    expected.push((2 * SMALL_LEAVES, small));
    assert_eq!(arrived, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_file_that_is_no_more_what_was_hashed_comes_from_a_copy_or_not_at_all() {
    let text = |name: &str| format!("what {name} holds").into_bytes();
    // Every content but the last has a copy behind it.
    let names = ["rewritten", "shorter", "folder", "link", "fifo", "gone", "alone"];
    let spare = names.map(|name| format!("{name}.copy"));
    let originals = names.iter().map(|name| (*name, text(name)));
    let twins = spare.iter().zip(names).filter(|(_, name)| *name != "alone").map(|(copy, name)| (&**copy, text(name)));
    let files: Vec<_> = originals.chain(twins).collect();
    let served = serve(&files);
    for name in names {
        let path = served.folder.path().join("share").join(name);
        let same_size = text("other").iter().cycle().copied().take(text(name).len()).collect::<Vec<_>>();
        match name {
            "rewritten" | "alone" => std::fs::write(&path, same_size).unwrap(),
            "shorter" => std::fs::write(&path, "s").unwrap(),
            _ => std::fs::remove_file(&path).unwrap(),
        }
        match name {
            "folder" => std::fs::create_dir(&path).unwrap(),
            "link" => std::os::unix::fs::symlink("link.copy", &path).unwrap(),
            "fifo" => {
                rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
            }
            _ => {}
        }
    }
    let connection = served.granted().await;
    let blobs = names.map(|name| blob_of(&text(name)).0).to_vec();
    let mut stream = connection.open_stream(&PeerRequest::Blobs { blobs: List::new(blobs) }).await.unwrap();
    let mut arrived = Vec::new();
    while let StreamItem::Data { index, bytes } = stream.next().await.unwrap() {
        arrived.push((index / SMALL_LEAVES, bytes.to_vec()));
    }
    let (_, kept) = names.split_last().unwrap();
    assert_eq!(arrived, (0..).zip(kept.iter().map(|name| text(name))).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changes_is_never_mixed() {
    let bytes = content(200 * LEAF_BYTES as usize);
    let served = serve(&[("file", bytes.clone())]);
    let path = served.folder.path().join("share/file");
    let connection = served.granted().await;
    let (blob, _) = blob_of(&bytes);
    let ranges = List::new(vec![LeafRange { first: 0, count: 200 }]);
    let mut stream = connection.open_stream(&PeerRequest::Pieces { blob, ranges, wait: false }).await.unwrap();
    let mut got = 0;
    let end = loop {
        match stream.next().await.unwrap() {
            StreamItem::Data { index, bytes: leaf } => {
                let start = (index * LEAF_BYTES) as usize;
                assert!(leaf == bytes[start..start + LEAF_BYTES as usize], "leaf {index} is not of the blob");
                got += 1;
                if got == 10 {
                    // The window holds 32 leaves, so most of the file has not been read yet.
                    std::fs::write(&path, content(200 * LEAF_BYTES as usize + 1)).unwrap();
                }
            }
            StreamItem::End(end) => break end,
        }
    };
    assert_eq!(decode(&end), Ok(PeerAnswer::Changed));
    assert!(got < 200);
    assert!(served.shares.locate(&blob).is_none(), "withdrawn at once");
    let mut stream = connection
        .open_stream(&PeerRequest::Pieces {
            blob,
            ranges: List::new(vec![LeafRange { first: 0, count: 1 }]),
            wait: false,
        })
        .await
        .unwrap();
    assert!(matches!(stream.next().await.unwrap(), StreamItem::End(_)));
}

/// One thing that happens to a file while it is read.
fn disturb(path: &std::path::Path, round: u64) {
    use std::os::unix::fs::FileExt;
    let leaf = round * 7 % 64 * LEAF_BYTES;
    let open = || std::fs::OpenOptions::new().write(true).open(path).unwrap();
    match round % 5 {
        0 => open().write_all_at(&[0x5a; 100], leaf).unwrap(),
        1 => open().set_len(leaf).unwrap(),
        2 => {
            let other = path.with_file_name("other");
            std::fs::write(&other, vec![round as u8; 64 * LEAF_BYTES as usize]).unwrap();
            std::fs::rename(other, path).unwrap();
        }
        3 => {
            // The same size and time as before, as a careful forger would leave it.
            let before = std::fs::metadata(path).unwrap().modified().unwrap();
            let file = open();
            file.write_all_at(&[0xa5; 9_000], leaf).unwrap();
            file.set_modified(before).unwrap();
        }
        _ => {
            let file = open();
            file.set_len(0).unwrap();
            file.write_all_at(&vec![1; 64 * LEAF_BYTES as usize], 0).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_written_to_again_and_again_is_never_mixed() {
    let bytes = content(64 * LEAF_BYTES as usize);
    let served = serve(&[("file", bytes.clone())]);
    let (path, lab) = (served.folder.path().join("share/file"), Label::new("lab").unwrap());
    let connection = served.granted().await;
    let (blob, _) = blob_of(&bytes);
    let (mut noticed, mut leaves) = (0, 0);
    for round in 0..150 {
        std::fs::write(&path, &bytes).unwrap();
        served.shares.scan_now(&lab).unwrap();
        served.shares.hash_now();
        // Sometimes before the first leaf is read, mostly while they are sent.
        let at = round % 12;
        if at == 0 {
            disturb(&path, round);
        }
        let ranges = List::new(vec![LeafRange { first: 0, count: 64 }]);
        let mut stream = connection.open_stream(&PeerRequest::Pieces { blob, ranges, wait: false }).await.unwrap();
        let mut got = 0;
        let mut writer = None;
        let end: PeerAnswer = loop {
            match stream.next().await.unwrap() {
                StreamItem::Data { index, bytes: leaf } => {
                    let start = (index * LEAF_BYTES) as usize;
                    assert!(
                        leaf == bytes[start..start + LEAF_BYTES as usize],
                        "round {round}: leaf {index} is not of the blob"
                    );
                    got += 1;
                    if got == at {
                        let path = path.clone();
                        writer = Some(std::thread::spawn(move || disturb(&path, round)));
                    }
                }
                StreamItem::End(end) => break decode(&end).unwrap(),
            }
        };
        assert!(got == 64 || end != PeerAnswer::Served, "round {round}: {got} leaves, {end:?}");
        noticed += u64::from(end == PeerAnswer::Changed);
        leaves += got;
        if let Some(writer) = writer {
            writer.join().unwrap();
        }
    }
    assert!(noticed >= 50 && leaves > 1_000, "{noticed} changes noticed, {leaves} leaves");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_of_a_changed_file_fails_without_blame() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("share");
    std::fs::create_dir(&root).unwrap();
    let bytes = content(20 * LEAF_BYTES as usize);
    std::fs::write(root.join("file"), &bytes).unwrap();
    let world = World::new();
    let (_, _shares) = world.add_share("lab", &root, &folder.path().join("state"));
    *world.size.lock().unwrap() = Some(bytes.len() as u64);
    std::fs::OpenOptions::new().write(true).open(root.join("file")).unwrap().set_len(100).unwrap();
    let target = folder.path().join("got");
    let failure = world
        .downloader()
        .fetch_blob(request(blob_of(&bytes).0, &target), no_progress(), CancellationToken::new())
        .await
        .unwrap_err();
    let FetchError::NoProvider { banned, reason } = failure else { panic!("{failure}") };
    assert!(banned.is_empty() && !target.exists(), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_this_machine_has_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("share");
    std::fs::create_dir(&root).unwrap();
    let bytes = content(20 * LEAF_BYTES as usize + 9);
    std::fs::write(root.join("file"), &bytes).unwrap();
    let world = World::new();
    let (card, shares) = world.add_share("lab", &root, &folder.path().join("state"));
    *world.size.lock().unwrap() = Some(bytes.len() as u64);
    let target = folder.path().join("got");
    let mut wanted = request(blob_of(&bytes).0, &target);
    wanted.providers = vec![card];
    let done =
        world.downloader_with(Some(shares)).fetch_blob(wanted, no_progress(), CancellationToken::new()).await.unwrap();
    assert_eq!((done.fetched, done.resumed_from), (0, bytes.len() as u64));
    assert_eq!(std::fs::read(&target).unwrap(), bytes);
    assert_eq!(names(folder.path()), ["got", "share", "state"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finished_download_is_served_on() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("share");
    std::fs::create_dir(&root).unwrap();
    let bytes = content(20 * LEAF_BYTES as usize + 9);
    std::fs::write(root.join("file"), &bytes).unwrap();
    let world = World::new();
    let (_, _origin) = world.add_share("lab", &root, &folder.path().join("state"));
    *world.size.lock().unwrap() = Some(bytes.len() as u64);
    let mine = Shares::open(ShareSettings::new(folder.path().join("mine"), folder.path().join("mine"))).unwrap();
    let target = folder.path().join("got");
    let blob = blob_of(&bytes).0;
    let downloader = world.downloader_with(Some(mine.clone()));
    downloader.fetch_blob(request(blob, &target), no_progress(), CancellationToken::new()).await.unwrap();
    let offered = mine.locate(&blob).expect("it is offered");
    assert!(mine.open_file(&offered).is_ok() && mine.outline(&blob).is_some());
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_closes() {
    let served = serve(&[("a", content(100))]);
    let connection = served.granted().await;
    let before = tokio::time::Instant::now();
    assert_eq!(connection.closed().await, CloseReason::Remote("idle".into()));
    let open = before.elapsed();
    assert!(open >= Duration::from_mins(1) && open < Duration::from_secs(70), "{open:?}");
}
