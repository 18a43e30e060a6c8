//! Leaving and coming back, counted on the wire: a real index and real daemons in this process, joined by a transport
//! that notes every frame.

use std::path::Path;
use std::sync::{Arc, Mutex};

use haul_core::limits::FRAME_HEADER_BYTES;
use haul_core::wire::decode;
use haul_core::wire::index::IndexRequest;
use haul_index::{Index, IndexConfig, Invitation, RunningIndex};
use haul_net::transport::memory_pair;
use haul_peer::config::Home as Folders;
use haul_peer::daemon::{Daemon, DaemonConfig, RunningDaemon};
use haul_peer::link::MemoryIndex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::support::{Home, wait_ready, write_old};

/// What went over the wire: requests of the peer by name, and all bytes in both directions.
#[derive(Default)]
struct Wire {
    requests: Vec<String>,
    answers: usize,
    bytes: usize,
}

type Counted = Arc<Mutex<Wire>>;

fn name(body: &[u8]) -> String {
    let request: IndexRequest = decode(body).expect("daemons send valid requests");
    let text = format!("{request:?}");
    text.split(|letter: char| !letter.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, counted: Counted) {
    let (mut seen, mut part) = (Vec::new(), vec![0; 64 * 1024]);
    while let Ok(length @ 1..) = from.read(&mut part).await {
        seen.extend_from_slice(&part[..length]);
        {
            let mut wire = counted.lock().unwrap();
            wire.bytes += length;
            while let Some(head) = seen.first_chunk::<4>() {
                let end = 4 + u32::from_le_bytes(*head) as usize;
                if seen.len() < end {
                    break;
                }
                match seen[4] {
                    0 => wire.requests.push(name(&seen[4 + FRAME_HEADER_BYTES..end])),
                    1 => wire.answers += 1,
                    _ => {}
                }
                seen.drain(..end);
            }
        }
        if to.write_all(&part[..length]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// The index as a daemon in this process reaches it, with everything counted.
fn counting(index: &Arc<RunningIndex>, counted: &Counted) -> MemoryIndex {
    let (weak, counted) = (Arc::downgrade(index), counted.clone());
    let connect = move |peer| {
        let (near, far) = memory_pair();
        let (index_out, index_in) = tokio::io::split(weak.upgrade()?.connect_in_memory(peer));
        let (peer_out, peer_in) = tokio::io::split(far);
        tokio::spawn(pass(peer_out, index_in, counted.clone()));
        tokio::spawn(pass(index_out, peer_in, counted.clone()));
        Some(Box::new(near) as haul_net::transport::BoxTransport)
    };
    MemoryIndex { key: index.index_key(), connect: Arc::new(connect) }
}

struct World {
    runtime: Runtime,
    index: Arc<RunningIndex>,
    _state: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let (runtime, state) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
        let config = IndexConfig::new(state.path(), vec!["127.0.0.1:0".parse().unwrap()]);
        let index = runtime.block_on(Index::start(config, CancellationToken::new())).unwrap();
        Self { runtime, index: Arc::new(index), _state: state }
    }

    fn daemon(&self, home: &Home, share: Option<&Path>, counted: &Counted) -> (RunningDaemon, CancellationToken) {
        let shutdown = CancellationToken::new();
        let start = async {
            let ticket = self.index.invite(Invitation::default()).await.unwrap();
            let config = DaemonConfig {
                listen: vec!["127.0.0.1:0".parse().unwrap()],
                join: Some(ticket),
                memory_index: Some(counting(&self.index, counted)),
                shares: share.map(Path::to_owned).into_iter().collect(),
                ..DaemonConfig::new(Folders::at(home.path()))
            };
            Daemon::start(config, shutdown.clone()).await.unwrap()
        };
        (self.runtime.block_on(start), shutdown)
    }

    fn stop(&self, (daemon, shutdown): (RunningDaemon, CancellationToken)) {
        shutdown.cancel();
        self.runtime.block_on(daemon.join()).unwrap();
    }
}

/// Shares so many files, leaves, returns; gives the bytes that returning took in both directions.
fn leave_and_return(files: usize) -> usize {
    let data = tempfile::tempdir().unwrap();
    for n in 0..files {
        write_old(&data.path().join(format!("file-{n:06}.txt")), format!("{n}").as_bytes());
    }
    let world = World::new();
    let (home, witness_home) = (Home::new(), Home::new());
    let witness = world.daemon(&witness_home, None, &Counted::default());
    let found = || witness_home.run(["search", "--json", "file-"]).record("summary")["total"].as_u64().unwrap();

    let first = Counted::default();
    let daemon = world.daemon(&home, Some(data.path()), &first);
    wait_ready(&home);
    assert_eq!(found(), files as u64);
    assert!(first.lock().unwrap().requests.iter().any(|request| request == "Page"), "names came in pages");

    // Leaving is one message, and when it is over nothing of this peer is found any more.
    first.lock().unwrap().requests.clear();
    world.stop(daemon);
    assert_eq!(first.lock().unwrap().requests, ["Leave"]);
    assert_eq!(found(), 0);

    // So is returning unchanged, besides the greeting.
    let second = Counted::default();
    let daemon = world.daemon(&home, None, &second);
    wait_ready(&home);
    assert_eq!(found(), files as u64);
    let (requests, answers, bytes) = {
        let wire = second.lock().unwrap();
        (wire.requests.clone(), wire.answers, wire.bytes)
    };
    assert_eq!((requests, answers), (vec!["Hello".to_owned(), "Open".to_owned()], 2));
    world.stop(daemon);
    world.stop(witness);
    bytes
}

#[test]
fn returning_unchanged_takes_one_message_whatever_the_size() {
    let (few, many) = (leave_and_return(3), leave_and_return(3_000));
    assert!(few < 2_048, "{few} bytes");
    assert!(many.abs_diff(few) <= 64, "{few} bytes for 3 files, {many} for 3,000");
}
