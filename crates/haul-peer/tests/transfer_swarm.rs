//! Passing on what is not complete yet: to whom, when, and what is left when it ends.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

#[path = "transfer_support/world.rs"]
mod world;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use haul_core::blob::{BlobGeometry, LeafSet};
use haul_core::ids::{BlobId, PeerId};
use haul_core::limits::{LEAF_BYTES, SWARM_BYTES};
use haul_core::wire::index::{PeerCard, PieceRange, PlannedSource, Received, SwarmPeer};
use haul_core::wire::peer::{LeafRange, PeerAnswer, PeerRequest};
use haul_core::wire::{Label, List};
use haul_net::connection::{Connection, ConnectionSettings, Inbox, StreamItem};
use haul_net::transport::memory_pair;
use haul_peer::fetch::{Downloader, FetchDone, FetchError, FindProviders, Found, PeerPool, pool::PeerDialer};
use haul_peer::files::{PartFile, Place, Progress};
use haul_peer::serve::Server;
use haul_peer::share::{ShareSettings, Shares};
use haul_peer::swarm::{Report, Seat, SwarmNews, SwarmSeat};
use haul_peer::timeline::{Note, Timeline};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use world::{Fault, Handler, Scripted, World, blob_of, content, no_progress, request};

/// Tells the test what it is told.
#[derive(Debug, Default)]
struct Told {
    pieces: Mutex<Vec<PieceRange>>,
    received: Mutex<Vec<Received>>,
    departed: Mutex<bool>,
    groups: Mutex<Option<Vec<Label>>>,
}

#[derive(Debug)]
struct TestSeat(Arc<Told>);

impl SwarmSeat for TestSeat {
    fn have(&self, report: &Report) {
        self.0.pieces.lock().unwrap().extend(&report.pieces);
        self.0.received.lock().unwrap().extend(&report.received);
    }

    fn groups(&self) -> Option<Vec<Label>> {
        self.0.groups.lock().unwrap().clone()
    }
}

impl Drop for TestSeat {
    fn drop(&mut self) {
        *self.0.departed.lock().unwrap() = true;
    }
}

/// Finds whom the test names, and has one place in a swarm to give.
struct Finder {
    size: u64,
    cards: Vec<PeerCard>,
    seat: Mutex<Option<Seat>>,
}

impl FindProviders for Finder {
    fn find(&self, _blob: BlobId) -> BoxFuture<'_, Result<Found, String>> {
        let found = Found { size: Some(self.size), providers: self.cards.clone() };
        async move { Ok(found) }.boxed()
    }

    fn join(&self, _blob: BlobId, _size: u64) -> Option<Seat> {
        self.seat.lock().unwrap().take()
    }
}

/// Dials any of the peers, whoever asks.
struct Dialer {
    me: PeerId,
    handlers: Vec<(PeerId, Handler)>,
}

impl PeerDialer for Dialer {
    fn dial<'a>(&'a self, card: &'a PeerCard) -> BoxFuture<'a, Result<Connection, String>> {
        async move {
            let (_, handler) = self.handlers.iter().find(|(peer, _)| *peer == card.id).ok_or("nobody there")?;
            let (near, far) = memory_pair();
            let (server, inbox) = Connection::start(far, self.me, ConnectionSettings::server(None));
            tokio::spawn(handler(server, inbox));
            Ok(Connection::start(near, card.id, ConnectionSettings::default()).0)
        }
        .boxed()
    }
}

/// A peer that downloads and serves.
struct Peer {
    shares: Arc<Shares>,
    handler: Handler,
    card: PeerCard,
    folder: tempfile::TempDir,
}

impl Peer {
    fn new(world: &World, name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shares = Shares::open(ShareSettings::new(folder.path(), folder.path())).unwrap();
        let server = Server::new(Arc::clone(&shares), world.check());
        let shutdown = world.shutdown.clone();
        let handler: Handler = Arc::new(move |connection: Connection, inbox: Inbox| {
            server.clone().serve(connection, inbox, shutdown.clone()).boxed()
        });
        let card = world.add(name, handler.clone());
        Self { shares, handler, card, folder }
    }

    /// Starts a download; the test tells the news of the swarm.
    fn fetch(&self, world: &World, blob: BlobId, size: u64, from: &[(&PeerCard, &Handler)]) -> Fetch {
        let told = Arc::<Told>::default();
        let (news, receiver) = mpsc::unbounded_channel();
        let seat = Seat { seat: Box::new(TestSeat(Arc::clone(&told))), news: receiver };
        let handlers = from.iter().map(|(card, handler)| (card.id, (*handler).clone())).collect();
        let pool = PeerPool::new(Arc::new(Dialer { me: world.me.public(), handlers }), world.grant.subscribe());
        let complete: Vec<PeerCard> =
            from.iter().map(|(card, _)| (*card).clone()).filter(|card| card.name.as_str() != "part").collect();
        let finder = Finder { size, cards: complete, seat: Mutex::new(Some(seat)) };
        let downloader = Downloader::new(pool, Arc::new(finder), Some(Arc::clone(&self.shares)));
        let mut wanted = request(blob, &self.folder.path().join("got"));
        wanted.patience = Duration::from_mins(1);
        let timeline = wanted.timeline.clone();
        let progress = no_progress();
        let seen = progress.subscribe();
        let cancel = CancellationToken::new();
        let token = cancel.clone();
        let task = tokio::spawn(async move { downloader.fetch_blob(wanted, progress, token).await });
        Fetch { told, news, task, seen, cancel, timeline }
    }

    fn got(&self) -> Vec<u8> {
        std::fs::read(self.folder.path().join("got")).unwrap()
    }

    async fn connect(&self, world: &World) -> Connection {
        let (near, far) = memory_pair();
        let (server, inbox) = Connection::start(far, world.me.public(), ConnectionSettings::server(None));
        tokio::spawn((self.handler)(server, inbox));
        let (connection, _) = Connection::start(near, self.card.id, ConnectionSettings::default());
        let paper = world.grant.borrow().clone().unwrap();
        let grant = PeerRequest::Grant { grant: paper.grant, index_certificate: paper.index_certificate };
        assert_eq!(connection.request::<_, PeerAnswer>(&grant).await.unwrap(), PeerAnswer::Granted);
        connection
    }
}

struct Fetch {
    told: Arc<Told>,
    news: mpsc::UnboundedSender<SwarmNews>,
    task: tokio::task::JoinHandle<Result<FetchDone, FetchError>>,
    seen: watch::Receiver<haul_peer::fetch::FetchProgress>,
    cancel: CancellationToken,
    timeline: Timeline,
}

impl Fetch {
    async fn has(&mut self, bytes: u64) {
        self.seen.wait_for(|progress| progress.done >= bytes).await.unwrap();
    }

    fn joined(&self, groups: &[&str]) {
        let groups: Vec<Label> = groups.iter().map(|group| Label::new(*group).unwrap()).collect();
        *self.told.groups.lock().unwrap() = Some(groups.clone());
        self.news.send(SwarmNews::Joined { groups }).unwrap();
    }
}

async fn bitfield(connection: &Connection, blob: BlobId) -> PeerAnswer {
    connection.request(&PeerRequest::Bitfield { blob, beyond: None }).await.unwrap()
}

fn partial(card: &PeerCard) -> SwarmNews {
    SwarmNews::Peers(vec![SwarmPeer { card: card.clone(), complete: false }])
}

const SIZE: usize = SWARM_BYTES as usize + 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_verified_is_passed_on_before_it_is_complete() {
    let world = World::new();
    let bytes = content(SIZE);
    let (blob, _) = blob_of(&bytes);
    // The origin stops for good in the middle; another one comes later.
    let origin = Scripted::new(&bytes, Fault::Stalls(100));
    let origin_card = world.add("origin", origin.handler());
    let (first, second) = (Peer::new(&world, "part"), Peer::new(&world, "second"));
    let rest = Scripted::new(&bytes, Fault::None);
    let rest_card = world.add("rest", rest.handler());
    let (origin_handler, rest_handler) = (origin.handler(), rest.handler());

    let sources = [(&origin_card, &origin_handler)];
    let mut one = first.fetch(&world, blob, SIZE as u64, &sources);
    one.joined(&[]);
    one.has(90 * LEAF_BYTES).await;
    // The second one knows nobody but the first.
    let mut two = second.fetch(&world, blob, SIZE as u64, &[(&first.card, &first.handler)]);
    two.news.send(partial(&first.card)).unwrap();
    two.joined(&[]);
    // It cannot prove the size without the last leaf, which went first to the first.
    two.has(90 * LEAF_BYTES).await;
    assert!(!two.task.is_finished());

    // The first finds the rest, and what it gets reaches the second.
    one.cancel.cancel();
    drop(one.task.await);
    assert!(*one.told.departed.lock().unwrap(), "a download that ends departs");
    let mut one = first.fetch(&world, blob, SIZE as u64, &[(&rest_card, &rest_handler)]);
    one.joined(&[]);
    let done = (&mut one.task).await.unwrap().unwrap();
    assert!(done.resumed_from >= 90 * LEAF_BYTES);
    let done = two.task.await.unwrap().unwrap();
    assert_eq!(done.providers, [first.card.id]);
    assert_eq!((first.got(), second.got()), (bytes.clone(), bytes));
    let pieces: u32 = one.told.pieces.lock().unwrap().iter().map(|run| run.count).sum();
    assert!(pieces > 0 && !*one.told.departed.lock().unwrap(), "what is complete is served on");
    assert!(!two.told.received.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_those_get_it_whom_the_index_named() {
    let world = World::new();
    let bytes = content(SIZE);
    let (blob, _) = blob_of(&bytes);
    let origin = Scripted::new(&bytes, Fault::Stalls(60));
    let origin_card = world.add("origin", origin.handler());
    let peer = Peer::new(&world, "part");
    let mut fetch = peer.fetch(&world, blob, SIZE as u64, &[(&origin_card, &origin.handler())]);
    fetch.has(50 * LEAF_BYTES).await;
    let connection = peer.connect(&world).await;
    assert_eq!(bitfield(&connection, blob).await, PeerAnswer::NotHeld, "the index has said nothing yet");
    fetch.joined(&["lab"]);
    // The asker is in no group.
    tokio::task::yield_now().await;
    assert_eq!(bitfield(&connection, blob).await, PeerAnswer::NotHeld);
    world.grant.send_replace(Some(world.paper(|grant| grant.groups = vec!["lab".into()])));
    let member = peer.connect(&world).await;
    let held = loop {
        // The download learns of it in its own time.
        let answer = bitfield(&member, blob).await;
        if let PeerAnswer::Bitfield { size, leaves: Some(leaves) } = answer {
            assert_eq!(size, SIZE as u64);
            let held = LeafSet::from_bytes(SIZE as u64 / LEAF_BYTES + 1, &leaves).unwrap();
            if held.count() >= 50 {
                break held;
            }
        }
        tokio::task::yield_now().await;
    };
    // Without waiting, what is not here is left out.
    let missing = held.next_missing(0).unwrap();
    let ranges = List::new(vec![LeafRange { first: missing, count: 1 }]);
    let pieces = |wait| PeerRequest::Pieces { blob, ranges: ranges.clone(), wait };
    let mut stream = member.open_stream(&pieces(false)).await.unwrap();
    assert!(matches!(stream.next().await.unwrap(), StreamItem::End(_)));
    // Whoever waits hears of the end of the download.
    let mut stream = member.open_stream(&pieces(true)).await.unwrap();
    fetch.cancel.cancel();
    drop(fetch.task.await);
    assert!(matches!(stream.next().await.unwrap(), StreamItem::End(_)));
    assert_eq!(bitfield(&member, blob).await, PeerAnswer::NotHeld);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gets_a_finished_download_is_what_the_index_says_by_now() {
    let world = World::new();
    let bytes = content(SIZE);
    let (blob, _) = blob_of(&bytes);
    let origin = Scripted::new(&bytes, Fault::None);
    let origin_card = world.add("origin", origin.handler());
    let peer = Peer::new(&world, "peer");
    let mut fetch = peer.fetch(&world, blob, SIZE as u64, &[(&origin_card, &origin.handler())]);
    fetch.joined(&["lab"]);
    (&mut fetch.task).await.unwrap().unwrap();
    world.grant.send_replace(Some(world.paper(|grant| grant.groups = vec!["friends".into()])));
    let friend = peer.connect(&world).await;
    assert_eq!(bitfield(&friend, blob).await, PeerAnswer::NotHeld);
    let say = |groups: Option<Vec<&str>>| {
        let groups = groups.map(|groups| groups.into_iter().map(|group| Label::new(group).unwrap()).collect());
        *fetch.told.groups.lock().unwrap() = groups;
    };
    say(Some(vec!["lab", "friends"]));
    assert_eq!(bitfield(&friend, blob).await, PeerAnswer::Bitfield { size: SIZE as u64, leaves: None });
    say(Some(vec!["lab"]));
    assert_eq!(bitfield(&friend, blob).await, PeerAnswer::NotHeld, "it was taken back");
    say(Some(Vec::new()));
    assert_eq!(bitfield(&friend, blob).await, PeerAnswer::Bitfield { size: SIZE as u64, leaves: None });
    say(None);
    assert_eq!(bitfield(&friend, blob).await, PeerAnswer::NotHeld, "the index keeps no place for it");
}

/// Changes a leaf that this peer holds, of at least 90, and asks for it: which one.
async fn damage(world: &World, peer: &Peer, blob: BlobId, bytes: &[u8]) -> u64 {
    use std::os::unix::fs::FileExt;
    let member = peer.connect(world).await;
    let held = loop {
        if let PeerAnswer::Bitfield { leaves: Some(leaves), .. } = bitfield(&member, blob).await {
            let held = LeafSet::from_bytes(SIZE as u64 / LEAF_BYTES + 1, &leaves).unwrap();
            if held.count() >= 90 {
                break held;
            }
        }
        tokio::task::yield_now().await;
    };
    let leaf = (0..held.leaves()).rev().find(|leaf| held.contains(*leaf)).unwrap();
    let part = std::fs::OpenOptions::new().write(true).open(peer.folder.path().join(".got.haul-part")).unwrap();
    part.write_all_at(&[bytes[(leaf * LEAF_BYTES) as usize] ^ 1], leaf * LEAF_BYTES).unwrap();
    let ranges = List::new(vec![LeafRange { first: leaf, count: 1 }]);
    let mut stream = member.open_stream(&PeerRequest::Pieces { blob, ranges, wait: false }).await.unwrap();
    assert!(matches!(stream.next().await.unwrap(), StreamItem::End(_)), "it must not be passed on");
    leaf
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_was_met_is_not_forgotten_when_the_download_stops() {
    let world = World::new();
    let bytes = content(SIZE);
    let (blob, _) = blob_of(&bytes);
    let origin = Scripted::new(&bytes, Fault::Stalls(100));
    let origin_card = world.add("origin", origin.handler());
    let peer = Peer::new(&world, "peer");
    let mut fetch = peer.fetch(&world, blob, SIZE as u64, &[(&origin_card, &origin.handler())]);
    fetch.joined(&[]);
    fetch.has(90 * LEAF_BYTES).await;
    let leaf = damage(&world, &peer, blob, &bytes).await;
    fetch.cancel.cancel();
    assert!(fetch.task.await.unwrap().is_err());
    let progress = std::fs::read(peer.folder.path().join(".got.haul-progress")).unwrap();
    let progress = Progress::from_bytes(&progress).unwrap();
    assert!(progress.written.count() > 80 && !progress.written.contains(leaf) && !progress.durable.contains(leaf));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_disk_has_changed_is_not_passed_on_but_fetched_again() {
    let world = World::new();
    let bytes = content(SIZE);
    let (blob, _) = blob_of(&bytes);
    let origin = Scripted::new(&bytes, Fault::Stalls(100));
    let origin_card = world.add("origin", origin.handler());
    // Nobody finds this one until it is told of.
    let rest = Scripted::new(&bytes, Fault::None);
    let rest_card = world.add("part", rest.handler());
    let peer = Peer::new(&world, "peer");
    let sources = [(&origin_card, &origin.handler()), (&rest_card, &rest.handler())];
    let mut fetch = peer.fetch(&world, blob, SIZE as u64, &sources);
    fetch.joined(&[]);
    fetch.has(90 * LEAF_BYTES).await;
    let leaf = damage(&world, &peer, blob, &bytes).await;
    // Whoever is killed now must not count it as verified: no more bytes arrive, but the checkpoint is written anew.
    let counted = || {
        let bytes = std::fs::read(peer.folder.path().join(".got.haul-progress")).ok()?;
        Some(Progress::from_bytes(&bytes).unwrap().written)
    };
    while counted().is_none_or(|leaves| leaves.contains(leaf) || leaves.count() == 0) {
        tokio::task::yield_now().await;
    }
    fetch.news.send(SwarmNews::Peers(vec![SwarmPeer { card: rest_card, complete: true }])).unwrap();
    (&mut fetch.task).await.unwrap().unwrap();
    assert!(peer.got() == bytes, "the damage is in the finished file");
    let notes = fetch.timeline.told().notes;
    assert!(notes.iter().any(|noted| noted.note == Note::Damaged { at: leaf * LEAF_BYTES }), "{notes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_complete_before_is_served_on_too() {
    let world = World::new();
    let bytes = content(SIZE);
    let (blob, _) = blob_of(&bytes);
    let peer = Peer::new(&world, "peer");
    {
        // Killed before its end: everything is there, and nobody is asked for the outline any more.
        let geometry = BlobGeometry::new(SIZE as u64).unwrap();
        let (part, resumed) =
            PartFile::open(Place::of(&peer.folder.path().join("got")).unwrap(), blob, geometry).unwrap();
        let mut all = resumed.verified;
        for (leaf, bytes) in (0..).zip(bytes.chunks(LEAF_BYTES as usize)) {
            part.write_leaves(leaf, [bytes]).unwrap();
            all.insert(leaf);
        }
        part.checkpoint(&all, false).unwrap();
    }
    let fetch = peer.fetch(&world, blob, SIZE as u64, &[]);
    fetch.task.await.unwrap().unwrap();
    while peer.shares.locate(&blob).is_none() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_leaf_follows_as_soon_as_its_source_has_it() {
    let world = World::new();
    let bytes = content(SIZE);
    let (blob, _) = blob_of(&bytes);
    let origin = Scripted::paced(&bytes, Fault::None, Duration::from_millis(1));
    let origin_card = world.add("origin", origin.handler());
    let (first, second) = (Peer::new(&world, "part"), Peer::new(&world, "second"));
    let one = first.fetch(&world, blob, SIZE as u64, &[(&origin_card, &origin.handler())]);
    one.joined(&[]);
    let mut two =
        second.fetch(&world, blob, SIZE as u64, &[(&origin_card, &origin.handler()), (&first.card, &first.handler)]);
    two.news.send(partial(&first.card)).unwrap();
    two.joined(&[]);
    let all = PieceRange { first: 0, count: u32::try_from(SIZE / (256 * 1024)).unwrap() + 1 };
    let sources = vec![PlannedSource { from: first.card.id, pieces: List::new(vec![all]) }];
    two.news.send(SwarmNews::Plan { lease: Duration::from_mins(1), sources }).unwrap();
    let done = (&mut two.task).await.unwrap().unwrap();
    one.task.await.unwrap().unwrap();
    assert_eq!(second.got(), bytes);
    let by_origin: u64 = two
        .told
        .received
        .lock()
        .unwrap()
        .iter()
        .filter(|from| from.from == origin_card.id)
        .map(|from| from.bytes)
        .sum();
    // The proof, and what was asked for before the plan came.
    assert!(by_origin < bytes.len() as u64 / 2, "{by_origin} bytes of {} from the origin: {done:?}", bytes.len());
}
