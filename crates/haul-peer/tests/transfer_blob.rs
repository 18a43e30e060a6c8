//! Downloads of one blob from providers that behave and others that do not.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "transfer_support/world.rs"]
mod world;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use haul_core::blob::BlobGeometry;
use haul_core::limits::LEAF_BYTES;
use haul_peer::fetch::{FetchDone, FetchError, StreamRequest};
use haul_peer::files::{FileError, PartFile, Place};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use world::{Fault, Scripted, World, content, names, no_progress, request};

const LEAF: usize = LEAF_BYTES as usize;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sizes_around_the_borders_of_a_leaf() {
    for size in [0, 1, LEAF - 1, LEAF, LEAF + 1, 5 * LEAF + 17] {
        let world = World::new();
        let bytes = content(size);
        let provider = Scripted::new(&bytes, Fault::None);
        world.add("honest", provider.handler());
        *world.size.lock().unwrap() = Some(size as u64);
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file");
        let mut wanted = request(provider.blob, &target);
        wanted.executable = true;
        wanted.mtime_ns = Some(1_600_000_000_123_456_789);
        let done = world.downloader().fetch_blob(wanted, no_progress(), CancellationToken::new()).await.unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), bytes, "{size}");
        assert_eq!((done.bytes, done.fetched, done.resumed_from), (size as u64, size as u64, 0), "{size}");
        assert_eq!(names(folder.path()), ["file"]);
        let metadata = target.metadata().unwrap();
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_600_000_000, 123_456_789));
        assert_ne!(metadata.permissions().mode() & 0o100, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_size_hint_blames_nobody() {
    for (size, hint) in
        [(10, 11), (LEAF, 10), (3 * LEAF, LEAF), (3 * LEAF, 2 * LEAF), (4 * LEAF, 3 * LEAF), (9, 3 * LEAF)]
    {
        let world = World::new();
        let bytes = content(size);
        let provider = Scripted::new(&bytes, Fault::None);
        world.add("honest", provider.handler());
        *world.size.lock().unwrap() = Some(hint as u64);
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file");
        let done = world
            .downloader()
            .fetch_blob(request(provider.blob, &target), no_progress(), CancellationToken::new())
            .await
            .unwrap_or_else(|error| panic!("{size} {hint}: {error}"));
        assert_eq!(std::fs::read(&target).unwrap(), bytes);
        assert!(done.banned.is_empty());
        assert_eq!(names(folder.path()), ["file"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_vanishes_and_one_lies_and_the_result_is_right() {
    let world = World::new();
    let bytes = content(32 * 1024 * 1024 + 5);
    let pause = Duration::from_millis(2);
    let honest = Scripted::paced(&bytes, Fault::None, pause);
    let liar = Scripted::paced(&bytes, Fault::Corrupts(20), pause);
    let leaving = Scripted::paced(&bytes, Fault::Vanishes(40), pause);
    world.add("honest", honest.handler());
    let liar_card = world.add("liar", liar.handler());
    world.add("leaving", leaving.handler());
    *world.size.lock().unwrap() = Some(bytes.len() as u64);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let progress = no_progress();
    let mut seen = progress.subscribe();
    let watched = tokio::spawn(async move {
        let mut last = 0;
        while seen.changed().await.is_ok() {
            let now = seen.borrow_and_update().clone();
            assert!(now.done >= last && now.done <= now.total.max(now.done));
            last = now.done;
        }
        last
    });
    let done =
        world.downloader().fetch_blob(request(honest.blob, &target), progress, CancellationToken::new()).await.unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), bytes);
    assert_eq!(done.banned.len(), 1, "{:?}", done.banned);
    assert_eq!(done.banned[0].0, liar_card.id);
    assert_eq!(done.fetched, bytes.len() as u64, "no leaf counts twice");
    assert!(done.providers.len() >= 2, "{:?}", done.providers);
    assert_eq!(names(folder.path()), ["file"]);
    assert_eq!(watched.await.unwrap(), bytes.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_liar_alone_leaves_nothing_at_the_final_name() {
    for fault in [Fault::Corrupts(0), Fault::Corrupts(7), Fault::WrongSheet] {
        for size in [100, 40 * LEAF] {
            if size < LEAF && fault != Fault::Corrupts(0) {
                continue;
            }
            let world = World::new();
            let bytes = content(size);
            let liar = Scripted::new(&bytes, fault);
            let card = world.add("liar", liar.handler());
            *world.size.lock().unwrap() = Some(bytes.len() as u64);
            let folder = tempfile::tempdir().unwrap();
            let target = folder.path().join("file");
            let failure = world
                .downloader()
                .fetch_blob(request(liar.blob, &target), no_progress(), CancellationToken::new())
                .await
                .unwrap_err();
            let FetchError::NoProvider { banned, reason } = failure else { panic!("{failure}") };
            assert_eq!(
                banned.iter().map(|(peer, _)| *peer).collect::<Vec<_>>(),
                [card.id],
                "{fault:?} {size} {reason}"
            );
            assert!(reason.contains("liar banned"), "{reason}");
            assert!(!target.exists());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_provider_is_worked_around() {
    let world = World::new();
    let bytes = content(64 * LEAF);
    let honest = Scripted::paced(&bytes, Fault::None, Duration::from_millis(5));
    let stalling = Scripted::paced(&bytes, Fault::Stalls(5), Duration::from_millis(5));
    world.add("honest", honest.handler());
    world.add("stalling", stalling.handler());
    *world.size.lock().unwrap() = Some(bytes.len() as u64);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let done = world
        .downloader()
        .fetch_blob(request(honest.blob, &target), no_progress(), CancellationToken::new())
        .await
        .unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), bytes);
    assert!(done.banned.is_empty() && done.ms < 8_000, "{} ms", done.ms);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn continues_where_it_stopped() {
    let bytes = content(100 * LEAF + 1);
    for limit in [1, 2, 37, 90] {
        // What a connection had not brought when it broke is lost: always of the first requests, and all of it if whoever
        // vanishes is quick enough.
        let mut kept = limit < 37;
        for _ in 0..10 {
            kept |= fetched_after_a_break(&bytes, limit).await.resumed_from > 0;
            if kept {
                break;
            }
        }
        assert!(kept, "nothing is ever kept of {limit} leaves");
    }
}

/// Fetches from a provider that vanishes after so many leaves, and then from one that stays.
async fn fetched_after_a_break(bytes: &[u8], limit: u64) -> FetchDone {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let world = World::new();
    *world.size.lock().unwrap() = Some(bytes.len() as u64);
    let leaving = Scripted::new(bytes, Fault::Vanishes(limit));
    world.add("leaving", leaving.handler());
    let fetch = async || {
        world.downloader().fetch_blob(request(leaving.blob, &target), no_progress(), CancellationToken::new()).await
    };
    let failure = fetch().await.unwrap_err();
    assert!(matches!(failure, FetchError::NoProvider { .. }), "{failure}");
    assert!(!target.exists());
    assert_eq!(names(folder.path()), [".file.haul-part", ".file.haul-progress"]);

    let honest = Scripted::new(bytes, Fault::None);
    world.add("honest", honest.handler());
    let done = fetch().await.unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), bytes);
    assert_eq!(done.resumed_from + done.fetched, bytes.len() as u64);
    // What was verified is not asked for again.
    assert!(honest.sent.load(Ordering::SeqCst) * LEAF_BYTES < done.fetched + 2 * LEAF_BYTES, "{limit}: {done:?}");
    assert_eq!(names(folder.path()), ["file"]);
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_talks_a_download_out_of_a_size_that_was_proved() {
    let bytes = content(100 * LEAF + 1);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let size = bytes.len() as u64;
    let (blob, _) = world::blob_of(&bytes);
    {
        let geometry = BlobGeometry::new(size).unwrap();
        let (part, resumed) = PartFile::open(Place::of(&target).unwrap(), blob, geometry).unwrap();
        let mut written = resumed.verified;
        for leaf in (0..50).chain([100]) {
            let range = geometry.leaf_range(leaf);
            part.write_leaves(leaf, [&bytes[range.start as usize..range.end as usize]]).unwrap();
            written.insert(leaf);
        }
        part.checkpoint(&written, true).unwrap();
    }
    let fetch = async |provider: Arc<Scripted>, claimed: u64| {
        let world = World::new();
        world.add("provider", provider.handler());
        *world.size.lock().unwrap() = Some(claimed);
        let mut wanted = request(blob, &target);
        wanted.size = Some(claimed);
        world.downloader().fetch_blob(wanted, no_progress(), CancellationToken::new()).await
    };
    // All that are there say something else.
    let liar = content(10 * LEAF);
    fetch(Scripted::new(&liar, Fault::None), liar.len() as u64).await.unwrap_err();
    fetch(Scripted::new(&bytes[..bytes.len() - 1], Fault::None), size - 1).await.unwrap_err();
    let done = fetch(Scripted::new(&bytes, Fault::None), size - 1).await.unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), bytes);
    assert_eq!(done.resumed_from, 50 * LEAF_BYTES + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_was_dropped_finds_its_leaves_on_disk() {
    let bytes = content(200 * LEAF);
    let world = World::new();
    *world.size.lock().unwrap() = Some(bytes.len() as u64);
    let stalling = Scripted::new(&bytes, Fault::Stalls(150));
    world.add("stalling", stalling.handler());
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let progress = no_progress();
    let mut seen = progress.subscribe();
    {
        let downloader = world.downloader();
        let wanted = request(stalling.blob, &target);
        let download = downloader.fetch_blob(wanted, progress, CancellationToken::new());
        tokio::select! {
            _ = download => panic!("it stalls"),
            // Dropped like by a crash: no last checkpoint.
            _ = seen.wait_for(|progress| progress.done > 20 * LEAF_BYTES) => {}
        }
    }
    let _ = std::fs::remove_file(folder.path().join(".file.haul-progress"));
    let honest = Scripted::new(&bytes, Fault::None);
    let card = world.add("honest", honest.handler());
    let mut wanted = request(honest.blob, &target);
    wanted.providers = vec![card];
    wanted.only_these = true;
    let done = loop {
        // A worker of the dropped download may hold the lock for a moment.
        match world.downloader().fetch_blob(wanted.clone(), no_progress(), CancellationToken::new()).await {
            Err(FetchError::File(FileError::Locked(_))) => tokio::task::yield_now().await,
            other => break other.unwrap(),
        }
    };
    assert_eq!(std::fs::read(&target).unwrap(), bytes);
    assert!(done.resumed_from > 20 * LEAF_BYTES, "{done:?}");
    assert_eq!(done.resumed_from + done.fetched, bytes.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn existing_files_are_not_replaced_unasked() {
    let world = World::new();
    let bytes = content(3 * LEAF);
    let provider = Scripted::new(&bytes, Fault::None);
    world.add("honest", provider.handler());
    *world.size.lock().unwrap() = Some(bytes.len() as u64);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    for other in [&b"other"[..], &content(3 * LEAF + 1)[1..]] {
        std::fs::write(&target, other).unwrap();
        let downloader = world.downloader();
        let failure = downloader
            .fetch_blob(request(provider.blob, &target), no_progress(), CancellationToken::new())
            .await
            .unwrap_err();
        assert!(matches!(failure, FetchError::File(FileError::Exists(_))), "{failure}");
        assert_eq!(std::fs::read(&target).unwrap(), other);
    }
    let mut forced = request(provider.blob, &target);
    forced.force = true;
    world.downloader().fetch_blob(forced, no_progress(), CancellationToken::new()).await.unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), bytes);
    // The same content is there: done at once, without a request.
    let before = provider.sent.load(Ordering::SeqCst);
    let done = world
        .downloader()
        .fetch_blob(request(provider.blob, &target), no_progress(), CancellationToken::new())
        .await
        .unwrap();
    assert_eq!((done.fetched, done.resumed_from), (0, bytes.len() as u64));
    assert_eq!(provider.sent.load(Ordering::SeqCst), before);
    // A link at the name is neither followed nor replaced.
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let mut forced = request(provider.blob, &link);
    forced.force = true;
    let failure = world.downloader().fetch_blob(forced, no_progress(), CancellationToken::new()).await.unwrap_err();
    assert!(matches!(failure, FetchError::File(FileError::NotAFile(_))), "{failure}");
    assert_eq!(names(folder.path()), ["file", "link"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_downloads_of_one_target_do_not_mix() {
    let world = World::new();
    let bytes = content(20 * LEAF);
    let provider = Scripted::new(&bytes, Fault::Stalls(10));
    world.add("stalling", provider.handler());
    *world.size.lock().unwrap() = Some(bytes.len() as u64);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let downloader = world.downloader();
    let progress = no_progress();
    let mut seen = progress.subscribe();
    let cancel = CancellationToken::new();
    let first = tokio::spawn({
        let (downloader, wanted, cancel) = (downloader.clone(), request(provider.blob, &target), cancel.clone());
        async move { downloader.fetch_blob(wanted, progress, cancel).await }
    });
    seen.wait_for(|progress| progress.done > 0).await.unwrap();
    let failure = downloader
        .fetch_blob(request(provider.blob, &target), no_progress(), CancellationToken::new())
        .await
        .unwrap_err();
    assert!(matches!(failure, FetchError::File(FileError::Locked(_))), "{failure}");
    cancel.cancel();
    assert!(matches!(first.await.unwrap(), Err(FetchError::Cancelled)));
    assert!(folder.path().join(".file.haul-progress").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_gets_the_bytes_in_order() {
    let bytes = content(700 * LEAF + 3);
    let world = World::new();
    *world.size.lock().unwrap() = Some(bytes.len() as u64);
    let honest = Scripted::new(&bytes, Fault::None);
    world.add("honest", honest.handler());
    world.add("other", Scripted::new(&bytes, Fault::None).handler());
    world.add("liar", Scripted::new(&bytes, Fault::Corrupts(3)).handler());
    let all = 0..bytes.len() as u64;
    for range in
        [None, Some(5..6), Some(LEAF_BYTES - 1..3 * LEAF_BYTES + 1), Some(7..7), Some(100 * LEAF_BYTES..u64::MAX)]
    {
        let (to, mut from) = mpsc::channel(4);
        let wanted = StreamRequest {
            blob: honest.blob,
            size: None,
            range: range.clone(),
            providers: Vec::new(),
            only_these: false,
            patience: Duration::ZERO,
        };
        let downloader = world.downloader();
        let download =
            tokio::spawn(
                async move { downloader.stream_blob(wanted, to, no_progress(), CancellationToken::new()).await },
            );
        let mut got = Vec::new();
        while let Some(part) = from.recv().await {
            got.extend_from_slice(&part);
        }
        let done = download.await.unwrap().unwrap();
        let range = range.unwrap_or(all.clone());
        let end = range.end.min(all.end) as usize;
        assert!(got == bytes[range.start as usize..end], "{range:?}");
        assert_eq!(done.bytes as usize, got.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_gets_nothing_twice_if_the_size_was_a_lie() {
    let bytes = content(40 * LEAF);
    let world = World::new();
    *world.size.lock().unwrap() = Some(bytes.len() as u64 - 1);
    let honest = Scripted::new(&bytes, Fault::None);
    world.add("honest", honest.handler());
    // All of its leaves but the last one are right, and that one it sends last.
    let liar = Arc::new(Scripted {
        bytes: honest.bytes.slice(..bytes.len() - 1),
        blob: honest.blob,
        outline: honest.outline.clone(),
        fault: Fault::Sorts,
        sent: 0.into(),
        pause: Duration::from_millis(5),
    });
    let liar_card = world.add("liar", liar.handler());
    let (to, mut from) = mpsc::channel(4);
    let wanted = StreamRequest {
        blob: honest.blob,
        size: None,
        range: None,
        providers: vec![liar_card],
        only_these: false,
        patience: Duration::ZERO,
    };
    let downloader = world.downloader();
    let download =
        tokio::spawn(async move { downloader.stream_blob(wanted, to, no_progress(), CancellationToken::new()).await });
    let mut got = Vec::new();
    while let Some(part) = from.recv().await {
        got.extend_from_slice(&part);
    }
    download.await.unwrap().unwrap();
    assert!(liar.sent.load(Ordering::SeqCst) > 1, "it was asked for nothing");
    assert!(got == bytes, "{} bytes of {}", got.len(), bytes.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_leaves_ends_the_download() {
    let bytes = content(2000 * LEAF);
    let world = World::new();
    *world.size.lock().unwrap() = Some(bytes.len() as u64);
    let honest = Scripted::new(&bytes, Fault::None);
    world.add("honest", honest.handler());
    let (to, mut from) = mpsc::channel(1);
    let wanted = StreamRequest {
        blob: honest.blob,
        size: None,
        range: None,
        providers: Vec::new(),
        only_these: false,
        patience: Duration::ZERO,
    };
    let downloader = world.downloader();
    let download =
        tokio::spawn(async move { downloader.stream_blob(wanted, to, no_progress(), CancellationToken::new()).await });
    from.recv().await.unwrap();
    drop(from);
    assert!(matches!(download.await.unwrap(), Err(FetchError::ReaderGone)));
    // What was fetched ahead of the reader is bounded.
    assert!(honest.sent.load(Ordering::SeqCst) < 600, "{}", honest.sent.load(Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_has_it() {
    let world = World::new();
    *world.size.lock().unwrap() = Some(10 * LEAF_BYTES);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("file");
    let empty: Arc<Scripted> = Scripted::new(&content(10 * LEAF), Fault::NotHeld);
    for known in [false, true] {
        if known {
            world.add("empty", empty.handler());
        }
        let failure = world
            .downloader()
            .fetch_blob(request(empty.blob, &target), no_progress(), CancellationToken::new())
            .await
            .unwrap_err();
        let FetchError::NoProvider { reason, banned } = failure else { panic!("{failure}") };
        assert!(banned.is_empty());
        assert!(reason.contains(if known { "does not have it" } else { "nobody" }), "{reason}");
    }
    assert!(!target.exists());
}
