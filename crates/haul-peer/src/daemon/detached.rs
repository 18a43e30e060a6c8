//! A single command without a daemon (`haul search --index TICKET`): the same interface over a stream in memory, with a
//! session of its own but without shares, port, socket and list.
//!
//! Each network gets its own stored keys, so a ticket is used up once per key and not once per command. Commands that
//! run side by side take different keys.

use std::path::PathBuf;
use std::sync::Arc;

use haul_core::trust::Ticket;
use haul_core::wire::Label;
use haul_net::clock;
use haul_net::identity::SecretKey;
use tokio::io::DuplexStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::home::{HomeError, HomeLock};
use super::stages::Stages;
use super::{PartEnded, StartError, downloading, machine_name};
use crate::api::known::Known;
use crate::api::{Context, Facts, router, server};
use crate::bandwidth::{self, Bandwidth, Configured};
use crate::config::Home;
use crate::link::{self, LinkSettings, MemoryIndex};
use crate::transfers::Transfers;

/// Commands of one user with one network at once.
const SIDE_BY_SIDE: usize = 16;
/// Bytes in flight between a command and its interface.
const STREAM_BYTES: usize = 256 * 1024;

/// What a single command is told.
#[derive(Clone, Debug)]
pub struct DetachedConfig {
    /// Where keys are kept.
    pub home: Home,
    /// The network.
    pub ticket: Ticket,
    /// The name that it would like; the machine's unless given.
    pub name: Option<Label>,
    /// Limits of bandwidth, as configured.
    pub limits: Configured,
    /// An index in this process, for tests.
    pub memory_index: Option<MemoryIndex>,
}

/// An interface without a daemon.
pub struct Detached {
    context: Arc<Context>,
    router: axum::Router,
    connections: TaskTracker,
    stop: CancellationToken,
    stages: Stages,
    _lock: HomeLock,
}

impl Detached {
    /// Joins the network, or returns to it with a stored key.
    pub async fn start(config: DetachedConfig, shutdown: CancellationToken) -> Result<Self, StartError> {
        let network: String = crate::text::hex(config.ticket.network.as_bytes()).chars().take(16).collect();
        let (folder, lock) = free_slot(&config.home, &network)?;
        let key = Arc::new(SecretKey::load_or_create(&folder.join("peer.key"))?);
        let mut stages = Stages::new(shutdown);
        let [interface, downloads, linking, calling, pacing] =
            ["interface", "downloads", "link", "connections", "limits"].map(|name| stages.token(name));
        // What a daemon was told by `haul limit` is that daemon's; the configuration holds here too.
        let bandwidth = Arc::new(Bandwidth::new(config.limits, None, Arc::new(bandwidth::local_minute)));
        let paced = bandwidth.clone();
        stages.run("limits", async move { paced.run(pacing).await });
        let settings = LinkSettings {
            key: key.clone(),
            name: config.name.unwrap_or_else(machine_name),
            peer_port: 0,
            addresses: Vec::new(),
            file: Some(folder.join("network.json")),
            memory: config.memory_index,
            index_addresses: Vec::new(),
            shares: None,
        };
        let (link, task) = link::start(settings, linking)?;
        stages.adopt("link", task);
        let known = Arc::new(Known::default());
        let (pool, downloader) = downloading(&key, &link, &known, None, bandwidth.clone());
        stages.run("connections", pool.run(calling));
        let transfers = Transfers::open(None, downloader.clone(), known.clone(), downloads.clone());
        let facts = Facts { home: config.home.root.clone(), started: clock::boot_now(), peer_addr: None, logins: None };
        let context = Arc::new(Context::new(
            link.clone(),
            None,
            downloader,
            transfers.clone(),
            bandwidth,
            known,
            facts,
            interface.clone(),
        ));
        stages.run("downloads", async move {
            downloads.cancelled().await;
            transfers.finish().await;
        });
        let router = router::router(context.clone());
        let connections = TaskTracker::new();
        let waiting = (connections.clone(), interface.clone());
        stages.run("interface", async move {
            waiting.1.cancelled().await;
            waiting.0.close();
            waiting.0.wait().await;
        });
        let this = Self { context, router, connections, stop: interface, stages, _lock: lock };
        // A ticket for a network that is known brings newer addresses.
        match link.join(config.ticket).await {
            Ok(()) => Ok(this),
            Err(error) => {
                this.stages.stop();
                drop(this.join().await);
                Err(StartError::Join(error))
            }
        }
    }

    /// A stream that speaks HTTP with the interface.
    pub fn connect(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(STREAM_BYTES);
        self.connections.spawn(server::serve(far, self.router.clone(), self.stop.clone()));
        near
    }

    /// The parts, for those in the same process.
    pub fn context(&self) -> Arc<Context> {
        self.context.clone()
    }

    /// Leaves the index and ends everything.
    pub async fn finish(self) -> Result<(), PartEnded> {
        self.stages.stop();
        self.join().await
    }

    async fn join(mut self) -> Result<(), PartEnded> {
        self.stages.finish().await
    }
}

/// The first folder of this network that no other command uses.
fn free_slot(home: &Home, network: &str) -> Result<(PathBuf, HomeLock), StartError> {
    let mut last = None;
    for slot in 0..SIDE_BY_SIDE {
        let folder = home.state.join("guests").join(network).join(slot.to_string());
        let part = Home {
            root: folder.clone(),
            state: folder.clone(),
            run: folder.clone(),
            cache: folder.clone(),
            ..home.clone()
        };
        match HomeLock::take(&part) {
            Ok(lock) => return Ok((folder, lock)),
            Err(error @ HomeError::Locked { .. }) => last = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    Err(last.map_or_else(|| StartError::Broken("no folder".into()), StartError::from))
}
