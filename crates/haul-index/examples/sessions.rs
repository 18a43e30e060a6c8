//! What sessions cost a server: CPU per request, and memory and CPU of connections that say nothing.
//!
//! ```text
//! sessions ask  index|null|inbox CONNECTIONS DEPTH KEYS SECONDS
//! sessions fair ENTRIES SECONDS        lookups of others, calm and while one peer registers
//! sessions return ENTRIES              leaving and coming back unchanged
//! sessions idle index|null|inbox CONNECTIONS SECONDS
//! ```
//!
//! `null` and `inbox` answer without looking anything up: on the connection's task, or through its inbox.
//! The server is a process of its own on the first core; this one stays off it.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::indexing_slicing)]

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use haul_core::ids::{BlobId, PublicKey, ShareId};
use haul_core::limits;
use haul_core::manifest::{Change, Entry, EntryKind, PageBuilder, RegistrationDigest, ShareState};
use haul_core::trust::Role;
use haul_core::wire::index::{Hello, IndexAnswer, IndexRequest, Located, LocatedBlob, Membership};
use haul_core::wire::locate::write_located;
use haul_core::wire::{ByteString, Label, List, VERSION};
use haul_index::{Index, IndexConfig, Invitation};
use haul_net::connection::{AnswerAtOnce, Connection, ConnectionSettings, Inbound, Inbox};
use haul_net::dialer::dial;
use haul_net::identity::SecretKey;
use haul_net::listener::{Accepted, Listener};
use haul_net::tls::Alpn;
use tokio_util::sync::CancellationToken;

/// As in the program, so that figures are its own.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Files of each of the two peers that share.
const FILES: u32 = 100_000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    match args.as_slice() {
        ["serve", kind] => runtime.block_on(serve(kind)),
        ["ask", kind, connections, depth, keys, seconds] => {
            let [connections, depth, keys, seconds]: [u32; 4] =
                [connections, depth, keys, seconds].map(|n| n.parse().unwrap());
            runtime.block_on(ask(kind, connections, depth, keys, u64::from(seconds)));
        }
        ["idle", kind, connections, seconds] => {
            runtime.block_on(idle(kind, connections.parse().unwrap(), seconds.parse().unwrap()));
        }
        ["fair", entries, seconds] => {
            runtime.block_on(fair(entries.parse().unwrap(), seconds.parse().unwrap()));
        }
        ["return", entries] => runtime.block_on(return_unchanged(entries.parse().unwrap())),
        _ => println!("sessions ask KIND CONNECTIONS DEPTH KEYS SECONDS | idle KIND CONNECTIONS SECONDS"),
    }
}

async fn serve(kind: &str) {
    raise_files();
    let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
    if kind != "index" {
        let key = SecretKey::generate().unwrap();
        let listener = Listener::bind(&[listen], &key, Alpn::Index, None).unwrap();
        println!("{} {} {}", listener.addresses()[0], hex(key.public().as_bytes()), hex(&[0; 16]));
        return null(kind, listener).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let index = Index::start(IndexConfig::new(dir.path().join("index"), vec![listen]), CancellationToken::new());
    let index = index.await.unwrap();
    let ticket = index.invite(Invitation { role: Role::Member, uses: 100_000, ..Invitation::default() }).await.unwrap();
    println!("{} {} {}", index.addresses()[0], hex(index.index_key().as_bytes()), hex(&ticket.secret));
    index.stopped().await;
}

async fn null(kind: &str, mut listener: Listener) {
    loop {
        let Accepted::Native { transport, remote, addr, .. } = listener.accept().await else { continue };
        let settings =
            ConnectionSettings { frame_limit: limits::FRAME_BYTES, ..ConnectionSettings::server(Some(addr)) };
        let (connection, mut inbox) = Connection::start(transport, remote, settings);
        if kind == "null" {
            connection.answer_at_once(Arc::new(Null));
        }
        tokio::spawn(async move {
            let _connection = connection;
            while let Some(inbound) = inbox.next().await {
                let Inbound::Request(request) = inbound else { continue };
                let answer = IndexAnswer::Located(nothing(request.body().len() / 32));
                if request.answer(&answer).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Answers as fast as framing allows.
struct Null;

impl AnswerAtOnce for Null {
    fn answer(&self, request: &[u8], answer: &mut Vec<u8>) -> Option<u32> {
        write_located(&nothing(request.len() / 32), answer);
        Some(1)
    }
}

fn nothing(keys: usize) -> Located {
    Located {
        peers: vec![0; 2 * keys],
        blobs: vec![LocatedBlob { size: 1_000_000, total: 2, end: 2 }; keys],
        coverage_permille: 1_000,
    }
}

struct Server {
    child: Child,
    address: String,
    key: PublicKey,
    secret: [u8; 16],
    null: bool,
}

impl Server {
    fn start(kind: &str) -> Self {
        raise_files();
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(std::env::current_exe().unwrap()).args(["serve", kind]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let key = PublicKey::new(unhex(words[1])).unwrap();
        Self { child, address: words[0].to_owned(), key, secret: unhex(words[2]), null: kind != "index" }
    }

    async fn member(&self, number: u32) -> Member {
        let mut seed = [7; 32];
        seed[..4].copy_from_slice(&number.to_le_bytes());
        let key = SecretKey::from_seed(seed).unwrap();
        let (connection, inbox) = dial(&self.address, &key, Alpn::Index, Some(self.key)).await.unwrap();
        if !self.null {
            let hello = IndexRequest::Hello(Hello {
                version: VERSION,
                features: 0,
                name: Label::new(format!("peer-{number}")).unwrap(),
                membership: Membership::Ticket(self.secret),
                peer_port: 4478,
                addresses: List::default(),
            });
            let answer = connection.request::<_, IndexAnswer>(&hello).await.unwrap();
            assert!(matches!(answer, IndexAnswer::Welcome(_)), "{answer:?}");
        }
        Member { connection, _inbox: inbox }
    }

    async fn members(&self, first: u32, count: u32) -> Vec<Member> {
        let mut members = Vec::new();
        for start in (first..first + count).step_by(16) {
            let some = (start..(start + 16).min(first + count)).map(|number| self.member(number));
            members.extend(futures_util::future::join_all(some).await);
        }
        members
    }

    /// CPU time of the threads that run now.
    fn cpu(&self) -> Duration {
        let mut nanos = 0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap() {
            let text = std::fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap();
            nanos += text.split_whitespace().next().unwrap().parse::<u64>().unwrap();
        }
        Duration::from_nanos(nanos)
    }

    /// CPU time of all its threads, those that have ended too, in hundredths of a second.
    fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Anonymous memory, KiB.
    fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Member {
    connection: Connection,
    _inbox: Inbox,
}

impl Member {
    async fn ask(&self, request: &IndexRequest) -> IndexAnswer {
        self.connection.request(request).await.unwrap()
    }

    async fn register(&self, n: u8, files: u32) {
        let list = FileList::new(n, files);
        assert_eq!(self.ask(&list.open()).await, IndexAnswer::Replace);
        list.send(self).await;
    }
}

/// A share with its pages.
struct FileList {
    share: ShareId,
    state: ShareState,
    pages: Vec<Vec<u8>>,
    files: u32,
}

impl FileList {
    fn new(n: u8, files: u32) -> Self {
        let share = ShareId([n; 16]);
        let (mut digest, mut pages, mut builder) = (RegistrationDigest::default(), Vec::new(), PageBuilder::new());
        for number in 0..files {
            let name = format!("file-{number:09}");
            let kind = EntryKind::File { size: 3_000_000, executable: false, blob: Some(blob(number)) };
            let entry = Entry { directory: b"", name: name.as_bytes(), mtime_ns: 1, kind };
            digest.add(&entry);
            if !builder.push(&Change::Upsert(entry)) {
                pages.push(std::mem::replace(&mut builder, PageBuilder::new()).finish());
                assert!(builder.push(&Change::Upsert(entry)));
            }
        }
        pages.push(builder.finish());
        Self { share, state: ShareState { revision: 1, digest }, pages, files }
    }

    fn open(&self) -> IndexRequest {
        let name = Label::new("docs").unwrap();
        IndexRequest::Open { share: self.share, name, groups: List::default(), state: self.state }
    }

    /// Replaces the list, with as many pages in flight as peers send.
    async fn send(&self, member: &Member) {
        use futures_util::StreamExt as _;
        member.ask(&IndexRequest::Begin { share: self.share, tx: 1, base: None }).await;
        let pages = self.pages.iter().enumerate().map(|(seq, page)| async move {
            let seq = seq as u32;
            let page = IndexRequest::Page { tx: 1, seq, bytes: ByteString(page.clone()) };
            assert_eq!(member.ask(&page).await, IndexAnswer::Staged { seq });
        });
        futures_util::stream::iter(pages).buffered(limits::PAGES_IN_FLIGHT).collect::<()>().await;
        let commit = IndexRequest::Commit { tx: 1, state: self.state, changes: u64::from(self.files) };
        assert_eq!(member.ask(&commit).await, IndexAnswer::Committed { state: self.state });
    }
}

fn blob(number: u32) -> BlobId {
    BlobId::new(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

async fn ask(kind: &str, connections: u32, depth: u32, keys: u32, seconds: u64) {
    let server = Arc::new(Server::start(kind));
    let providers = if server.null { Vec::new() } else { server.members(1_000_000, 2).await };
    for (n, provider) in providers.iter().enumerate() {
        provider.register(n as u8, FILES).await;
    }
    let members = server.members(0, connections).await;
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for (number, member) in members.iter().enumerate() {
        for lane in 0..depth {
            let (connection, stop, asked) = (member.connection.clone(), stop.clone(), asked.clone());
            tasks.push(tokio::spawn(async move {
                let mut next = (number as u32 * 977 + lane * 131) % FILES;
                while !stop.load(Ordering::Relaxed) {
                    let blobs = (0..keys).map(|key| blob((next + key * 7_919) % FILES)).collect();
                    next = (next + 1) % FILES;
                    let request = IndexRequest::Locate { blobs: List::new(blobs), max: 10, away: false };
                    let answer: IndexAnswer = connection.request(&request).await.unwrap();
                    let IndexAnswer::Located(located) = answer else { panic!("{answer:?}") };
                    assert!(
                        located.blobs.iter().all(|blob| blob.total == 2) && located.peers.len() == 2 * keys as usize
                    );
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut costs = Vec::new();
    for _ in 0..3 {
        let (before, count, began) = (server.cpu(), asked.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(Duration::from_secs_f64(seconds as f64 / 3.0)).await;
        let count = asked.load(Ordering::Relaxed) - count;
        let (cpu, took) = (server.cpu().saturating_sub(before), began.elapsed());
        costs.push(cpu.as_secs_f64() * 1e6 / count as f64);
        println!(
            "{kind}: {count} requests, {:.2} us of server CPU each, {:.3} M keys per CPU-s; server busy {:.0}%",
            cpu.as_secs_f64() * 1e6 / count as f64,
            (count * u64::from(keys)) as f64 / cpu.as_secs_f64() / 1e6,
            100.0 * cpu.as_secs_f64() / took.as_secs_f64()
        );
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    costs.sort_by(f64::total_cmp);
    println!("median {:.2} us", costs[1]);
}

/// Latency of lookups that come when they are due, whatever became of the ones before; milliseconds, sorted.
async fn probe(members: &[Member], every: Duration, until: impl Future<Output = ()>) -> Vec<f64> {
    let mut asked = tokio::task::JoinSet::new();
    let (began, mut number) = (tokio::time::Instant::now(), 0);
    tokio::pin!(until);
    loop {
        let due = began + every * number;
        tokio::select! {
            () = &mut until => break,
            () = tokio::time::sleep_until(due) => {}
        }
        let connection = members[number as usize % members.len()].connection.clone();
        let blobs = List::new(vec![blob(number * 7_919 % FILES)]);
        asked.spawn(async move {
            let request = IndexRequest::Locate { blobs, max: 10, away: false };
            let answer: IndexAnswer = connection.request(&request).await.unwrap();
            assert!(matches!(answer, IndexAnswer::Located(located) if located.blobs[0].total >= 2));
            due.elapsed().as_secs_f64() * 1e3
        });
        number += 1;
    }
    let mut times = asked.join_all().await;
    times.sort_by(f64::total_cmp);
    times
}

async fn fair(entries: u32, seconds: u64) {
    const EVERY: Duration = Duration::from_millis(2);
    let server = Server::start("index");
    let providers = server.members(1_000_000, 2).await;
    for (n, provider) in providers.iter().enumerate() {
        provider.register(n as u8, FILES).await;
    }
    let list = FileList::new(9, entries);
    let (members, greedy) = (server.members(0, 16).await, server.member(2_000_000).await);
    let at = |times: &[f64], part: f64| times[((times.len() - 1) as f64 * part) as usize];
    for round in 0..2 {
        let calm = probe(&members, EVERY, tokio::time::sleep(Duration::from_secs(seconds))).await;
        println!("calm: p50 {:.2} ms, p99 {:.2}, most {:.2}", at(&calm, 0.5), at(&calm, 0.99), at(&calm, 1.0));
        assert!(matches!(greedy.ask(&list.open()).await, IndexAnswer::Replace | IndexAnswer::Same));
        let began = Instant::now();
        let busy = probe(&members, EVERY, list.send(&greedy)).await;
        println!(
            "round {round}, {entries} entries in {:.1} s: p50 {:.2} ms, p99 {:.2}, most {:.2}",
            began.elapsed().as_secs_f64(),
            at(&busy, 0.5),
            at(&busy, 0.99),
            at(&busy, 1.0)
        );
    }
}

async fn return_unchanged(entries: u32) {
    let server = Server::start("index");
    let (witness, list) = (server.member(1).await, FileList::new(1, entries));
    let request = IndexRequest::Locate { blobs: List::new(vec![blob(entries - 1)]), max: 1, away: false };
    let total = async || match witness.ask(&request).await {
        IndexAnswer::Located(located) => located.blobs[0].total,
        other => panic!("{other:?}"),
    };
    let mut gone = Vec::new();
    for round in 0..20 {
        let peer = server.member(2).await;
        let before = peer.connection.traffic();
        let answer = peer.ask(&list.open()).await;
        let after = peer.connection.traffic();
        if round == 0 {
            list.send(&peer).await;
        } else {
            assert_eq!(answer, IndexAnswer::Same);
        }
        assert_eq!(total().await, 1);
        if round == 1 {
            let bytes = after.bytes_in + after.bytes_out - before.bytes_in - before.bytes_out;
            let (cpu, count) = (server.cpu(), 2_000);
            for _ in 0..count {
                assert_eq!(peer.ask(&list.open()).await, IndexAnswer::Same);
            }
            let each = server.cpu().saturating_sub(cpu).as_secs_f64() * 1e6 / f64::from(count);
            println!("return: {bytes} bytes of frames, {each:.1} us of server CPU with its request");
        }
        let began = Instant::now();
        drop(peer);
        while total().await != 0 {}
        gone.push(began.elapsed().as_secs_f64() * 1e3);
    }
    gone.sort_by(f64::total_cmp);
    println!("gone after {:.2} ms in the middle, {:.2} ms at most, as a witness sees it", gone[10], gone[19]);
}

async fn idle(kind: &str, connections: u32, seconds: u64) {
    let server = Server::start(kind);
    drop(server.members(2_000_000, 100).await);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = server.memory();
    let began = Instant::now();
    let members = server.members(0, connections).await;
    println!("{connections} connections within {:.1} s", began.elapsed().as_secs_f64());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let each = (server.memory() - before) as f64 / f64::from(connections);
    println!("{each:.2} KiB of server memory per connection");
    let (ticks, began) = (server.ticks(), Instant::now());
    let renewing = async {
        // As peers do, spread over the renewal interval.
        let pause = limits::LEASE_RENEWAL / connections;
        let mut next = tokio::time::Instant::now();
        for member in members.iter().cycle() {
            next += pause;
            tokio::time::sleep_until(next).await;
            if !server.null {
                member.ask(&IndexRequest::Renew).await;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(seconds), renewing).await;
    let share = (server.ticks() - ticks) as f64 / 100.0 / began.elapsed().as_secs_f64();
    println!("{:.3}% of a core at rest, renewals included", 100.0 * share);
    println!("{:.2} KiB per connection afterwards", (server.memory() - before) as f64 / f64::from(connections));
}

fn raise_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn unhex<const N: usize>(text: &str) -> [u8; N] {
    std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
}
