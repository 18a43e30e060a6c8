//! Daemons in this process against a scripted index: the socket, the records, errors, restart, a single command.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "daemon_support/ask.rs"]
mod ask;
#[path = "daemon_support/fake_index.rs"]
mod fake_index;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use ask::{ask, error, follow};
use fake_index::FakeIndex;
use haul_core::ids::BlobId;
use haul_core::path::SharePath;
use haul_core::time::Timestamp;
use haul_core::trust::Role;
use haul_core::wire::index::{BlobPlaces, Hit, HitKind, Hits, IndexPush, PeerCard, Place, Providers, Refusal, Stats};
use haul_core::wire::{ByteString, Label};
use haul_net::identity::SecretKey;
use haul_peer::api::codes::{ErrorCode, VERBS};
use haul_peer::api::records::{Presence, Record, ShareActivity};
use haul_peer::bandwidth::{Configured, Place as LimitPlace};
use haul_peer::config::Home;
use haul_peer::daemon::detached::{Detached, DetachedConfig};
use haul_peer::daemon::{Daemon, DaemonConfig, RunningDaemon, StartError};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

struct Running {
    daemon: RunningDaemon,
    shutdown: CancellationToken,
    _folder: Option<tempfile::TempDir>,
}

impl Running {
    async fn ask(&self, method: &str, path: &str, body: Value) -> Vec<Record> {
        ask(self.daemon.socket(), method, path, body).await
    }

    async fn stop(self) {
        self.shutdown.cancel();
        let socket = self.daemon.socket().to_owned();
        self.daemon.join().await.unwrap();
        assert!(!socket.exists(), "the socket is removed");
    }
}

fn config(index: &Arc<FakeIndex>, root: &Path) -> DaemonConfig {
    DaemonConfig {
        name: Some(Label::new("lab-3").unwrap()),
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        join: Some(index.ticket()),
        memory_index: Some(index.memory()),
        index_addresses: vec!["127.0.0.1:4477".into()],
        ticket_when_ready: true,
        ..DaemonConfig::new(Home::at(root))
    }
}

async fn start(index: &Arc<FakeIndex>) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let shutdown = CancellationToken::new();
    let daemon = Daemon::start(config(index, folder.path()), shutdown.clone()).await.unwrap();
    Running { daemon, shutdown, _folder: Some(folder) }
}

fn card(name: &str, online: bool) -> PeerCard {
    PeerCard {
        id: SecretKey::generate().unwrap().public(),
        name: Label::new(name).unwrap(),
        addresses: if online { vec!["127.0.0.1:1".into()] } else { Vec::new() },
        online,
        seen: Timestamp(1_700_000_000_000),
        files: 3,
        bytes: 30,
    }
}

fn place(peer: u32, path: &str) -> Place {
    Place {
        peer,
        share: Label::new("docs").unwrap(),
        path: SharePath::new(path).unwrap(),
        mtime_ns: 1_700_000_000_000_000_000,
        executable: false,
    }
}

fn places(blob: BlobId, size: u64, places: Vec<Place>) -> BlobPlaces {
    BlobPlaces { blob: Some(blob), size, total: places.len() as u32, places }
}

fn hit(name: &str, near: bool) -> Hit {
    Hit {
        kind: HitKind::File,
        name: ByteString::from(name.as_bytes()),
        blob: Some(BlobId::new([1; 32])),
        size: 9,
        files: None,
        mtime_ns: 0,
        peer: SecretKey::generate().unwrap().public(),
        peer_name: Label::new("nas").unwrap(),
        share: Label::new("docs").unwrap(),
        path: SharePath::new(format!("a/{name}")).unwrap(),
        names: 1,
        contents: 1,
        copies: 2,
        online: 1,
        near,
    }
}

#[tokio::test]
async fn ready_status_and_the_socket() {
    let index = FakeIndex::new();
    let run = start(&index).await;
    let ready = run.daemon.ready().clone();
    assert_eq!(ready.network, Some(index.network.public().to_string()));
    assert_eq!(ready.index, Some(index.index.public().to_string()));
    assert_eq!(ready.index_addr.as_deref(), Some("127.0.0.1:4477"));
    assert!(ready.ticket.as_deref().is_some_and(|ticket| ticket.starts_with("haul1")));
    assert!(ready.peer_addr.as_deref().is_some_and(|address| address.starts_with("127.0.0.1:")));
    let socket = run.daemon.socket().to_owned();
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(socket.parent().unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let status = run.ask("GET", "/v1/status", Value::Null).await;
    let [Record::Status(status)] = status.as_slice() else { panic!("{status:?}") };
    assert_eq!((status.index.state.as_str(), status.name.as_str()), ("connected", "lab-3"));
    let network = run.ask("GET", "/v1/network", Value::Null).await;
    assert!(matches!(&network[0], Record::Network(network) if network.role.as_deref() == Some("admin")));
    run.stop().await;
    assert_eq!(index.count("leave"), 1);
}

#[tokio::test]
async fn what_is_no_request_is_answered_in_records_too() {
    let index = FakeIndex::new();
    let run = start(&index).await;
    let large = serde_json::json!({ "query": "x".repeat(70_000) });
    for (method, path, body, why) in [
        ("POST", "/v1/search", large, "65536 bytes"),
        ("POST", "/v1/transfers/99999999999999999999999/pause", Value::Null, "400"),
        ("DELETE", "/v1/shares/%ff", Value::Null, "400"),
        ("DELETE", "/v1/search", Value::Null, "405"),
        ("POST", "/v1/nothing", Value::Null, "knows no POST"),
    ] {
        let records = run.ask(method, path, body).await;
        let [Record::Error(error)] = records.as_slice() else { panic!("{path}: {records:?}") };
        assert!(error.code == ErrorCode::Usage && error.message.contains(why), "{path}: {error:?}");
    }
    run.stop().await;
}

#[tokio::test]
async fn one_daemon_per_home() {
    let index = FakeIndex::new();
    let folder = tempfile::tempdir().unwrap();
    let shutdown = CancellationToken::new();
    let first = Daemon::start(config(&index, folder.path()), shutdown.clone()).await.unwrap();
    let second = Daemon::start(config(&index, folder.path()), CancellationToken::new()).await;
    let Err(refused) = second else { panic!("two daemons in one home") };
    let problem = refused.problem();
    assert_eq!((problem.code, problem.code.exit()), (ErrorCode::HomeLocked, 2));
    assert!(problem.message.contains(&format!("pid {}", std::process::id())), "{}", problem.message);
    shutdown.cancel();
    first.join().await.unwrap();
    let shutdown = CancellationToken::new();
    let again = Daemon::start(config(&index, folder.path()), shutdown.clone()).await.unwrap();
    assert_eq!(index.count("ticket"), 1, "the second run shows its certificate");
    assert_eq!(Daemon::stored_network(&Home::at(folder.path())).unwrap(), Some(index.network.public()));
    shutdown.cancel();
    again.join().await.unwrap();
}

#[tokio::test]
async fn a_failed_join_leaves_nothing_behind() {
    let index = FakeIndex::new();
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&index, folder.path());
    config.join.as_mut().unwrap().secret = [0; 16];
    let Err(error) = Daemon::start(config, CancellationToken::new()).await else { panic!("joined") };
    assert!(matches!(error, StartError::Join(_)));
    assert_eq!((error.problem().code, error.problem().code.exit()), (ErrorCode::TicketRefused, 6));
    assert!(!Home::at(folder.path()).socket().exists());
}

#[tokio::test]
async fn search_pages_flags_and_totals() {
    let index = FakeIndex::new();
    let run = start(&index).await;
    let page = |names: &[&str], cursor: Option<&[u8]>, near| Hits {
        hits: names.iter().map(|name| hit(name, near)).collect(),
        cursor: cursor.map(ByteString::from),
        total: 3,
        exact: true,
        coverage_permille: 1_000,
        examined: 5,
        index_us: 7,
    };
    {
        let mut script = index.script.lock().unwrap();
        script.hits = vec![page(&["one", "two"], Some(b"c"), false), page(&["three"], None, false)];
        script.stats = Stats { files: 100, peers_online: 4, ..Stats::default() };
    }
    let found = run.ask("POST", "/v1/search", json!({"query": "o", "all": true})).await;
    let [Record::Hit(one), Record::Hit(_), Record::Hit(three), Record::Summary(summary)] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!((one.n, one.path.as_str(), three.n), (1, "docs/a/one", 3));
    assert_eq!((summary.hits, summary.total, summary.truncated, summary.only_near), (3, 3, false, false));
    assert_eq!((summary.examined, summary.index_us, summary.files), (Some(10), Some(14), Some(100)));

    index.script.lock().unwrap().hits = vec![page(&["one", "two"], Some(b"c"), true)];
    let found = run.ask("POST", "/v1/search", json!({"query": "o", "limit": 2})).await;
    let Some(Record::Summary(summary)) = found.last() else { panic!("{found:?}") };
    assert!(summary.truncated && summary.only_near);
    assert_eq!(index.count("search"), 3);
    assert_eq!(error(&run.ask("POST", "/v1/search", json!({"query": " "})).await).exit, 2);
    assert_eq!(error(&run.ask("POST", "/v1/search", json!({"qeury": "x"})).await).code, ErrorCode::Usage);
    run.stop().await;
}

#[tokio::test]
async fn lookup_tells_providers_and_warns_of_other_contents() {
    let index = FakeIndex::new();
    let run = start(&index).await;
    let none = error(&run.ask("POST", "/v1/lookup", json!({"what": "x"})).await);
    assert_eq!((none.code, none.exit), (ErrorCode::NotFound, 1));
    index.script.lock().unwrap().providers = Providers {
        peers: vec![card("nas", true), card("ana", true)],
        answers: vec![vec![
            places(BlobId::new([1; 32]), 10, vec![place(0, "a/x"), place(1, "x")]),
            places(BlobId::new([2; 32]), 11, vec![place(1, "b/x")]),
        ]],
        coverage_permille: 1_000,
    };
    let found = run.ask("POST", "/v1/lookup", json!({"what": "x"})).await;
    let [Record::Provider(first), .., Record::Warning(_), Record::Summary(summary)] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!((first.name.as_str(), first.path.as_str(), first.route.as_deref()), ("nas", "docs/a/x", Some("direct")));
    assert_eq!(first.state, Presence::Online);
    assert_eq!((summary.hits, summary.contents, summary.online), (3, Some(2), Some(3)));
    // The same name with two contents is no order to fetch either.
    let folder = tempfile::tempdir().unwrap();
    let get = json!({"what": "x", "output": folder.path()});
    let several = error(&run.ask("POST", "/v1/get", get).await);
    assert_eq!((several.code, several.exit, several.causes.len()), (ErrorCode::Ambiguous, 2, 2));
    assert!(several.causes[0].name.starts_with("b3:0101"));
    run.stop().await;
}

#[tokio::test]
async fn nobody_reachable_is_said_per_peer() {
    let index = FakeIndex::new();
    let run = start(&index).await;
    let blob = BlobId::new([3; 32]);
    index.script.lock().unwrap().providers = Providers {
        peers: vec![card("nas", true)],
        answers: vec![vec![places(blob, 10, vec![place(0, "x")])]],
        coverage_permille: 1_000,
    };
    let folder = tempfile::tempdir().unwrap();
    let failed = error(&run.ask("POST", "/v1/get", json!({"what": blob.to_string(), "output": folder.path()})).await);
    assert_eq!((failed.code, failed.exit), (ErrorCode::NoProvider, 1), "{failed:?}");
    assert!(
        failed.causes.iter().any(|cause| cause.name == "nas" && cause.message.contains("127.0.0.1:1")),
        "{failed:?}"
    );
    assert_eq!(failed.next, Some(format!("wait for one of them: haul get {blob} --wait")));
    let background = json!({"what": blob.to_string(), "output": folder.path(), "background": true, "wait": true});
    let added = run.ask("POST", "/v1/get", background).await;
    let [Record::Transfer(transfer)] = added.as_slice() else { panic!("{added:?}") };
    assert_eq!(transfer.path, folder.path().join("x").display().to_string());
    let background = json!({"what": blob.to_string(), "output": folder.path(), "background": true});
    let again = run.ask("POST", "/v1/get", background).await;
    assert!(matches!(&again[0], Record::Transfer(same) if same.transfer == transfer.transfer), "{again:?}");
    let paused = run.ask("POST", &format!("/v1/transfers/{}/pause", transfer.transfer), Value::Null).await;
    assert!(matches!(&paused[0], Record::Changed(changed) if changed.what == "paused"), "{paused:?}");
    let listed = run.ask("GET", "/v1/transfers", Value::Null).await;
    assert!(matches!(&listed[0], Record::Transfer(one) if one.next.as_deref() == Some("haul transfers resume 2")));
    assert_eq!(error(&run.ask("POST", "/v1/transfers/9/pause", Value::Null).await).code, ErrorCode::NoSuch);
    run.stop().await;
}

#[tokio::test]
async fn unfinished_transfers_go_on_with_the_next_daemon() {
    let index = FakeIndex::new();
    let folder = tempfile::tempdir().unwrap();
    let blob = BlobId::new([4; 32]);
    index.script.lock().unwrap().providers = Providers {
        peers: vec![card("nas", true)],
        answers: vec![vec![places(blob, 10, vec![place(0, "x")])]],
        coverage_permille: 1_000,
    };
    let shutdown = CancellationToken::new();
    let daemon = Daemon::start(config(&index, folder.path()), shutdown.clone()).await.unwrap();
    let body = json!({"what": blob.to_string(), "output": folder.path().join("y"), "wait": true, "background": true});
    ask(daemon.socket(), "POST", "/v1/get", body).await;
    shutdown.cancel();
    daemon.join().await.unwrap();
    let shutdown = CancellationToken::new();
    let daemon = Daemon::start(config(&index, folder.path()), shutdown.clone()).await.unwrap();
    let listed = ask(daemon.socket(), "GET", "/v1/transfers", Value::Null).await;
    let [Record::Transfer(transfer)] = listed.as_slice() else { panic!("{listed:?}") };
    assert_eq!((transfer.transfer, transfer.id.clone()), (1, Some(blob.to_string())));
    shutdown.cancel();
    daemon.join().await.unwrap();
}

#[tokio::test]
async fn shares_come_and_go() {
    let index = FakeIndex::new();
    let run = start(&index).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.txt"), "a").unwrap();
    let added = run.ask("POST", "/v1/shares", json!({"path": folder.path(), "name": "docs"})).await;
    assert!(
        matches!(&added[0], Record::Share(share) if share.name == "docs" && share.state != ShareActivity::Away),
        "{added:?}"
    );
    let taken = error(&run.ask("POST", "/v1/shares", json!({"path": "/usr/share/doc", "name": "docs"})).await);
    assert_eq!((taken.code, taken.exit), (ErrorCode::BadShare, 2));
    assert!(matches!(run.ask("POST", "/v1/shares/docs/rescan", Value::Null).await[0], Record::Changed(_)));
    assert!(matches!(run.ask("DELETE", "/v1/shares/docs", Value::Null).await[0], Record::Changed(_)));
    assert_eq!(error(&run.ask("DELETE", "/v1/shares/docs", Value::Null).await).code, ErrorCode::NoSuch);
    assert!(run.ask("GET", "/v1/shares", Value::Null).await.is_empty());
    run.stop().await;
}

#[tokio::test]
async fn inviting_leaving_and_joining_again() {
    let index = FakeIndex::new();
    let run = start(&index).await;
    let made = run.ask("POST", "/v1/invite", json!({"uses": 2, "ttl_s": 60, "role": "guest"})).await;
    let [Record::Ticket(ticket)] = made.as_slice() else { panic!("{made:?}") };
    let parsed: haul_core::trust::Ticket = ticket.ticket.parse().unwrap();
    assert_eq!((parsed.role, parsed.addresses), (Role::Guest, vec!["127.0.0.1:4477".to_owned()]));
    assert!(matches!(run.ask("POST", "/v1/leave", Value::Null).await[0], Record::Changed(_)));
    let alone = error(&run.ask("POST", "/v1/search", json!({"query": "x"})).await);
    assert_eq!((alone.code, alone.exit), (ErrorCode::NotJoined, 3));
    assert_eq!(error(&run.ask("POST", "/v1/join", json!({"ticket": "haul1abc"})).await).code, ErrorCode::BadTicket);
    let joined = run.ask("POST", "/v1/join", json!({"ticket": index.ticket().to_string()})).await;
    assert!(matches!(&joined[0], Record::Changed(changed) if changed.what == "joined"), "{joined:?}");
    index.script.lock().unwrap().role = Some(Role::Member);
    let denied = error(&run.ask("POST", "/v1/invite", json!({})).await);
    assert_eq!((denied.code, denied.exit), (ErrorCode::NotAllowed, 6));
    run.stop().await;
}

#[tokio::test]
async fn every_hint_names_a_verb_that_exists() {
    let index = FakeIndex::new();
    let run = start(&index).await;
    index.script.lock().unwrap().peers = vec![card("nas", false), card("nas", true)];
    let out = tempfile::tempdir().unwrap();
    let asked = [
        ("POST", "/v1/search", json!({"query": ""})),
        ("POST", "/v1/lookup", json!({"what": "nobody has this"})),
        ("POST", "/v1/lookup", json!({"what": format!("d3:{}", "00".repeat(32))})),
        ("POST", "/v1/lookup", json!({"what": format!("b3:{}", "zz".repeat(32))})),
        ("POST", "/v1/get", json!({"what": "nobody", "output": out.path()})),
        ("POST", "/v1/get", json!({"what": "x", "output": "relative"})),
        ("POST", "/v1/browse", json!({"peer": "nobody"})),
        ("POST", "/v1/browse", json!({"peer": "nas"})),
        ("POST", "/v1/network/remove", json!({"peer": "nobody"})),
        ("POST", "/v1/transfers/1/dance", Value::Null),
        ("DELETE", "/v1/shares/none", Value::Null),
        ("GET", "/v1/nothing", Value::Null),
    ];
    for (method, path, body) in asked {
        let failed = error(&run.ask(method, path, body.clone()).await);
        assert!(failed.exit > 0 && !failed.message.is_empty(), "{path}");
        let hint = failed.next.unwrap_or_default();
        for (at, _) in hint.match_indices("haul ") {
            let verb = hint[at + 5..].split(' ').next().unwrap();
            assert!(VERBS.contains(&verb), "{path} {body}: `haul {verb}` in {hint:?}");
        }
    }
    run.stop().await;
}

#[tokio::test]
async fn a_single_command_needs_no_daemon() {
    let index = FakeIndex::new();
    let folder = tempfile::tempdir().unwrap();
    let config = || DetachedConfig {
        home: Home::at(folder.path()),
        ticket: index.ticket(),
        name: Some(Label::new("visitor").unwrap()),
        limits: Configured::default(),
        memory_index: Some(index.memory()),
    };
    for _ in 0..2 {
        let detached = Detached::start(config(), CancellationToken::new()).await.unwrap();
        let found = ask::raw(detached.connect(), "POST", "/v1/search", "{\"query\":\"x\"}").await;
        assert!(matches!(ask::records(&found).last(), Some(Record::Summary(summary)) if summary.hits == 0));
        let none = ask::raw(detached.connect(), "GET", "/v1/shares", "").await;
        assert_eq!(error(&ask::records(&none)).code, ErrorCode::NeedsDaemon);
        detached.finish().await.unwrap();
    }
    assert_eq!((index.count("ticket"), index.count("leave")), (1, 2), "one key, however many commands");
    let first = Detached::start(config(), CancellationToken::new()).await.unwrap();
    let second = Detached::start(config(), CancellationToken::new()).await.unwrap();
    assert_eq!(index.count("ticket"), 2, "side by side takes another key");
    second.finish().await.unwrap();
    first.finish().await.unwrap();
}

/// Status line, headers and body of one request to the pages.
async fn page(address: &str, request: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn pages_open_with_a_link_and_for_nobody_else() {
    let index = FakeIndex::new();
    let folder = tempfile::tempdir().unwrap();
    let shutdown = CancellationToken::new();
    let mut config = config(&index, folder.path());
    config.web_listen = Some("127.0.0.1:0".parse().unwrap());
    let daemon = Daemon::start(config, shutdown.clone()).await.unwrap();
    let link = daemon.ready().web.clone().unwrap();
    let (address, path) = link.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let get = |path: &str, host: &str, more: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{more}connection: close\r\n\r\n")
    };
    assert!(page(address, &get("/", address, "")).await.starts_with("HTTP/1.1 403"));
    assert!(page(address, &get("/", "evil.example", "")).await.starts_with("HTTP/1.1 421"));
    let entered = page(address, &get(&format!("/{path}"), address, "")).await;
    assert!(entered.starts_with("HTTP/1.1 303"), "{entered}");
    let cookie = entered.split("set-cookie: ").nth(1).unwrap();
    assert!(cookie.contains("; HttpOnly; SameSite=Strict; Path=/"), "{cookie}");
    let cookie = format!("cookie: {}\r\n", cookie.split(';').next().unwrap());
    assert!(page(address, &get(&format!("/{path}"), address, "")).await.starts_with("HTTP/1.1 410"), "works once");
    index.script.lock().unwrap().hits = vec![Hits {
        hits: vec![hit("<b>", false)],
        total: 1,
        exact: true,
        coverage_permille: 1_000,
        ..Hits::default()
    }];
    let found = page(address, &get("/?q=b", address, &cookie)).await;
    assert!(
        found.starts_with("HTTP/1.1 200") && found.contains("&lt;b&gt;") && found.contains("1 result in"),
        "{found}"
    );
    assert!(found.contains("content-security-policy: default-src 'none'; style-src 'self'"), "{found}");
    for path in ["/shares", "/transfers"] {
        assert!(page(address, &get(path, address, &cookie)).await.starts_with("HTTP/1.1 200"), "{path}");
    }
    let post = |origin: &str| {
        format!(
            "POST /transfers/1/pause HTTP/1.1\r\nhost: {address}\r\n{cookie}origin: {origin}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        )
    };
    assert!(page(address, &post("http://evil.example")).await.starts_with("HTTP/1.1 421"));
    assert!(page(address, &post(&format!("http://{address}"))).await.starts_with("HTTP/1.1 409"), "no such transfer");
    shutdown.cancel();
    daemon.join().await.unwrap();
}

#[tokio::test]
async fn a_watch_tells_line_by_line_until_the_one_who_asked_hangs_up() {
    let index = FakeIndex::new();
    let run = start(&index).await;
    let mut lines = follow(run.daemon.socket(), "/v1/watch", &json!({"query": "iso"})).await;
    assert!(matches!(lines.next().await, Record::Changed(changed) if changed.what == "watching"));
    // Names that no file can have are an index's mistake or trick.
    let names = ["a.iso", "../b.iso", "..", "c/d.iso", "", "e.iso"];
    let hits = names.map(|name| Hit { name: ByteString::from(name.as_bytes()), ..hit("x", false) }).to_vec();
    index.push_all(&IndexPush::Match { watch: 1, hits, missed: true });
    assert!(matches!(lines.next().await, Record::Hit(hit) if (hit.n, hit.name.as_str()) == (1, "a.iso")));
    assert!(matches!(lines.next().await, Record::Hit(hit) if (hit.n, hit.name.as_str()) == (2, "e.iso")));
    assert!(matches!(lines.next().await, Record::Warning(notice) if notice.message.contains("some are not shown")));
    index.script.lock().unwrap().refuse_hello = Some(Refusal::Busy { retry_after_ms: 1 });
    index.drop_all();
    assert!(matches!(lines.next().await, Record::Waiting(notice) if notice.message.contains("the index is away")));
    index.script.lock().unwrap().refuse_hello = None;
    assert!(matches!(lines.next().await, Record::Warning(notice) if notice.message.contains("session")));
    drop(lines);
    while index.count("unwatch") == 0 {
        tokio::task::yield_now().await;
    }
    let answer = run.ask("POST", "/v1/watch", json!({"query": " "})).await;
    assert_eq!(error(&answer).code, ErrorCode::BadQuery);
    run.stop().await;
}

#[tokio::test]
async fn a_question_to_a_busy_index_waits_and_says_so() {
    let index = FakeIndex::new();
    let run = start(&index).await;
    let card = card("nas", true);
    let blob = BlobId::new([3; 32]);
    index.script.lock().unwrap().providers = Providers {
        peers: vec![card],
        answers: vec![vec![places(blob, 10, vec![place(0, "x")])]],
        coverage_permille: 1_000,
    };
    index.script.lock().unwrap().busy = vec![std::time::Duration::from_millis(40)];
    let found = run.ask("POST", "/v1/lookup", json!({"what": "x"})).await;
    let [Record::Warning(notice), Record::Provider(_), Record::Summary(_)] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert!(notice.message.starts_with("the index is busy; asking again in "), "{}", notice.message);
    run.stop().await;
}

#[tokio::test]
async fn limits_are_set_shown_kept_and_cleared() {
    let index = FakeIndex::new();
    let folder = tempfile::tempdir().unwrap();
    let with_limits = || DaemonConfig {
        limits: Configured { rules: vec![(LimitPlace::All, "up 9M".parse().unwrap())] },
        ..config(&index, folder.path())
    };
    let begin = || async {
        let shutdown = CancellationToken::new();
        let daemon = Daemon::start(with_limits(), shutdown.clone()).await.unwrap();
        Running { daemon, shutdown, _folder: None }
    };
    let run = begin().await;
    let shown = |records: &[Record]| -> Vec<String> {
        let limits = records.iter().map(|record| match record {
            Record::Limit(limit) => {
                let place = limit.group.clone().unwrap_or_default();
                format!("{place} {} {:?} {:?} {}", limit.direction, limit.bps, limit.rules, limit.origin)
            }
            other => panic!("{other:?}"),
        });
        limits.collect()
    };
    assert_eq!(
        shown(&run.ask("GET", "/v1/limits", Value::Null).await),
        [" up Some(9000000) [\"up 9M\"] configuration"]
    );
    let set = run.ask("POST", "/v1/limits", json!({"rate": "20M"})).await;
    assert!(matches!(&set[..], [Record::Changed(change)] if change.message.contains("20M/s")), "{set:?}");
    run.ask("POST", "/v1/limits", json!({"direction": "down", "rate": "0", "group": "lab"})).await;
    for (request, code, words) in [
        (json!({"rate": "80%"}), ErrorCode::Usage, "does not measure"),
        (json!({"rate": "fast"}), ErrorCode::Usage, "20M"),
        (json!({"rate": "1M", "when": "8-18"}), ErrorCode::Usage, "mon-fri"),
        (json!({"rate": "1M", "transfer": 99}), ErrorCode::NoSuch, "99"),
        (json!({"rate": "1M", "group": "everyone"}), ErrorCode::Usage, "everything"),
    ] {
        let refused = run.ask("POST", "/v1/limits", request).await;
        let error = error(&refused);
        assert!(error.code == code && error.message.contains(words), "{error:?}");
    }
    run.stop().await;
    let run = begin().await;
    let expected = [
        " up Some(20000000) [\"up 20M\"] haul limit",
        " down Some(20000000) [\"down 20M\"] haul limit",
        "lab down Some(0) [\"down 0\"] haul limit",
    ];
    assert_eq!(shown(&run.ask("GET", "/v1/limits", Value::Null).await), expected, "kept over a restart");
    let cleared = run.ask("POST", "/v1/limits/clear", json!({})).await;
    assert!(matches!(&cleared[..], [Record::Changed(change)] if change.message.contains("9M/s")), "{cleared:?}");
    let again = run.ask("POST", "/v1/limits/clear", json!({})).await;
    assert_eq!(error(&again).code, ErrorCode::NoSuch);
    run.stop().await;
}
