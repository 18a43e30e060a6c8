//! The running peer: owns every task and ends them in a written-out order.
//!
//! Start: lock the home, key, shares, sockets, link, downloads, interface, pages; then join or connect; then ready.
//! End: the interface takes nothing new and downloads stop with their progress kept; the link says Leave, so that the
//! index hides this peer before it stops serving; then serving, connections to others, and the shares; the socket is
//! removed and the lock let go last.

pub mod detached;
pub mod home;
mod serving;
pub mod socket;
mod stages;
mod uplink;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use haul_core::ids::NetworkId;
use haul_core::trust::{Role, Ticket};
use haul_core::wire::Label;
use haul_net::clock;
use haul_net::identity::{KeyFileError, SecretKey};
use haul_net::listener::Listener;
use haul_net::tls::Alpn;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::api::known::Known;
use crate::api::records::Ready;
use crate::api::requests::InviteRequest;
use crate::api::{Context, Facts, Problem, network, router, server};
use crate::bandwidth::{self, Bandwidth, Configured};
use crate::config::Home;
use crate::fetch::{Downloader, PeerPool};
use crate::link::{self, IndexLink, LinkError, LinkSettings, LinkState, MembershipError, MemoryIndex};
use crate::share::{AddError, NewShare, ShareSettings, Shares};
use crate::transfers::Transfers;
use crate::web;
use home::{HomeError, HomeLock};
use serving::{Finder, TcpDialer};
use socket::SocketError;
use stages::Stages;

/// How long the start waits for the first session before it says ready without one.
const FIRST_SESSION: Duration = Duration::from_secs(10);

/// What a daemon is told.
#[derive(Clone, Debug)]
pub struct DaemonConfig {
    /// Its folders.
    pub home: Home,
    /// The name that it would like; the machine's unless given.
    pub name: Option<Label>,
    /// Where it serves other peers.
    pub listen: Vec<SocketAddr>,
    /// Where its own pages are; none has no pages.
    pub web_listen: Option<SocketAddr>,
    /// Further addresses under which others reach it, `host:port`.
    pub advertise: Vec<String>,
    /// Limits of bandwidth, as configured.
    pub limits: Configured,
    /// Folders to share besides those that it shares already.
    pub shares: Vec<PathBuf>,
    /// A network to join.
    pub join: Option<Ticket>,
    /// An index in this process.
    pub memory_index: Option<MemoryIndex>,
    /// Addresses of that index, for tickets.
    pub index_addresses: Vec<String>,
    /// Make a ticket for the ready line, if the role allows it.
    pub ticket_when_ready: bool,
}

impl DaemonConfig {
    /// A daemon in this home with everything else off or by default.
    pub fn new(home: Home) -> Self {
        Self {
            home,
            name: None,
            listen: Vec::new(),
            web_listen: None,
            advertise: Vec::new(),
            limits: Configured::default(),
            shares: Vec::new(),
            join: None,
            memory_index: None,
            index_addresses: Vec::new(),
            ticket_when_ready: false,
        }
    }
}

/// Why a daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folders.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The shares.
    #[error(transparent)]
    Shares(#[from] crate::share::StartError),
    /// The certificate.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// A port.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A folder to share.
    #[error(transparent)]
    Share(#[from] AddError),
    /// The network.
    #[error("cannot join the network: {0}")]
    Join(LinkError),
    /// A task of the start broke.
    #[error("a part of the start broke: {0}")]
    Broken(String),
}

impl StartError {
    /// The same for the one who started it: code, words, what to do.
    pub fn problem(&self) -> Problem {
        use crate::api::codes::ErrorCode;
        let words = self.to_string();
        match self {
            Self::Home(HomeError::Locked { .. }) => Problem::new(ErrorCode::HomeLocked, words)
                .next("use that one: haul status        or set HAUL_HOME to another folder"),
            Self::Socket(SocketError::Taken(_)) => Problem::new(ErrorCode::HomeLocked, words).next("haul status"),
            Self::Socket(SocketError::TooLong(_)) => Problem::new(ErrorCode::Config, words),
            Self::Listen { .. } => {
                Problem::new(ErrorCode::Config, words).next("use any free port: haul up --listen 127.0.0.1:0")
            }
            Self::Share(AddError::NeedsConfirmation { path, .. }) => Problem::new(ErrorCode::BadShare, words)
                .next(format!("share it all the same: haul share add --force {}", path.display())),
            Self::Share(_) => Problem::new(ErrorCode::BadShare, words),
            Self::Shares(crate::share::StartError::State { path, .. }) if path.is_file() => {
                Problem::new(ErrorCode::Disk, words).next(
                    "put back a copy of that file, or move it away and share the folders again: haul share add FOLDER",
                )
            }
            Self::Join(error) => {
                let of_link = Problem::from(error.clone());
                Problem { message: words, ..of_link }
            }
            Self::Home(_) | Self::Key(_) | Self::Shares(_) | Self::Membership(_) | Self::Socket(_) => {
                Problem::new(ErrorCode::Disk, words)
            }
            Self::Broken(_) => Problem::new(ErrorCode::Internal, words),
        }
    }
}

/// A part of the daemon ended although nobody asked it to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a part of the daemon ended by itself: {0}")]
pub struct PartEnded(pub String);

/// A daemon that answers everything.
pub struct RunningDaemon {
    ready: Ready,
    context: Arc<Context>,
    stages: Stages,
    socket: PathBuf,
    /// Let go last.
    _lock: HomeLock,
}

/// The daemon.
#[derive(Debug)]
pub struct Daemon;

impl Daemon {
    /// The network that this home belongs to, if it has joined one.
    pub fn stored_network(home: &Home) -> Result<Option<NetworkId>, StartError> {
        let Some(key) = SecretKey::load(&home.state.join("peer.key"))? else { return Ok(None) };
        let stored = link::membership::load(&home.state.join("network.json"), key.public())?;
        Ok(stored.map(|(membership, ..)| membership.network))
    }

    /// Starts everything. When it returns, everything answers.
    pub async fn start(config: DaemonConfig, shutdown: CancellationToken) -> Result<RunningDaemon, StartError> {
        let home = config.home.clone();
        let lock = HomeLock::take(&home)?;
        let key = Arc::new(SecretKey::load_or_create(&home.state.join("peer.key"))?);
        let shares = open_shares(&home).await?;
        let listener = listen(&config, &key)?;
        let bound: Vec<SocketAddr> =
            listener.as_ref().map(|listener| listener.addresses().to_vec()).unwrap_or_default();
        let socket_path = home.socket();
        let socket = socket::bind(&socket_path).await?;
        let pages = bind_pages(&config).await?;

        let mut stages = Stages::new(shutdown);
        let [interface, downloads, linking, serving, calling, pacing, sharing] =
            ["interface", "downloads", "link", "serving", "connections", "limits", "shares"]
                .map(|name| stages.token(name));
        let bandwidth = limits(&config);
        let paced = bandwidth.clone();
        stages.run("limits", async move { paced.run(pacing).await });
        let port = bound.first().map_or(0, SocketAddr::port);
        let settings = link_settings(&config, &key, &shares, port);
        let (link, link_task) = link::start(settings, linking.clone())?;
        stages.adopt("link", link_task);
        stages.run("shares", shares.clone().run(sharing));
        let known = Arc::new(Known::default());
        let (pool, downloader) = downloading(&key, &link, &known, Some(shares.clone()), bandwidth.clone());
        stages.run("connections", pool.clone().run(calling));
        let transfers = Transfers::open(
            Some(home.state.join("transfers.json")),
            downloader.clone(),
            known.clone(),
            downloads.clone(),
        );
        bandwidth.keep_transfers(|id| transfers.record(id).is_some());
        let facts = Facts {
            home: home.root.clone(),
            started: clock::boot_now(),
            peer_addr: bound.first().map(|address| told(*address)),
            logins: pages.as_ref().map(web::Pages::logins),
        };
        let context = Arc::new(Context::new(
            link.clone(),
            Some(shares.clone()),
            downloader,
            transfers.clone(),
            bandwidth.clone(),
            known,
            facts,
            interface.clone(),
        ));
        stages.run("downloads", async move {
            downloads.cancelled().await;
            transfers.finish().await;
        });
        if let Some(listener) = listener {
            let checks = link.standing().checks();
            let (sent, limits) = (context.uploads.clone(), bandwidth.clone());
            stages.run("serving", uplink::follow(sent, limits, link.clone(), pool, serving.clone()));
            let acceptor = serving::Acceptor::new(listener, shares.clone(), checks, context.uploads.clone(), bandwidth);
            stages.run("serving", acceptor.run(serving));
        }
        stages.run("interface", server::accept(socket, router::router(context.clone()), interface.clone()));
        if let Some(pages) = pages {
            stages.run("interface", pages.serve(context.clone(), interface));
        }
        let mut daemon = RunningDaemon { ready: Ready::default(), context, stages, socket: socket_path, _lock: lock };
        match daemon.settle(config, &shares).await {
            Ok(ready) => {
                daemon.ready = ready;
                Ok(daemon)
            }
            Err(error) => {
                daemon.stages.stop();
                if let Err(ended) = daemon.join().await {
                    warn!(%ended, "while giving up the start");
                }
                Err(error)
            }
        }
    }
}

impl RunningDaemon {
    /// Shares, joins and waits for the first session.
    async fn settle(&self, config: DaemonConfig, shares: &Arc<Shares>) -> Result<Ready, StartError> {
        for path in config.shares {
            let path = std::fs::canonicalize(&path).unwrap_or(path);
            if shares.list().iter().any(|share| share.path == path) {
                continue;
            }
            let shares = shares.clone();
            tokio::task::spawn_blocking(move || shares.add(NewShare::new(path)))
                .await
                .map_err(|error| StartError::Broken(error.to_string()))??;
        }
        let link = &self.context.link;
        if let Some(ticket) = config.join
            && link.membership().is_none_or(|known| known.network != ticket.network)
        {
            link.join(ticket).await.map_err(StartError::Join)?;
        }
        if link.membership().is_some() {
            let mut state = link.watch();
            let settled = state.wait_for(|state| !matches!(state, LinkState::Connecting { .. }));
            // Without a session this peer still serves and answers; the ready line shows what it knows.
            drop(tokio::time::timeout(FIRST_SESSION, settled).await);
        }
        let membership = link.membership();
        let admin = membership.as_ref().is_some_and(|known| known.certificate.role == Role::Admin);
        let ticket = if config.ticket_when_ready && admin {
            network::ticket(&self.context, InviteRequest::default()).await.ok().map(|record| record.ticket)
        } else {
            None
        };
        let index = self.context.index_state();
        Ok(Ready {
            network: membership.map(|known| known.network.to_string()),
            peer: Some(link.me().to_string()),
            peer_addr: self.context.facts.peer_addr.clone(),
            index: index.key,
            index_addr: index.addr,
            web: self.context.facts.logins.as_ref().and_then(|logins| logins.link()),
            ticket,
        })
    }

    /// What the ready line says.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// The parts, for those in the same process.
    pub fn context(&self) -> Arc<Context> {
        self.context.clone()
    }

    /// The socket of the interface.
    pub fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// Waits for shutdown, then ends everything in order. An error names the part that ended by itself.
    pub async fn join(mut self) -> Result<(), PartEnded> {
        let ended = self.stages.finish().await;
        if let Err(error) = std::fs::remove_file(&self.socket) {
            warn!(%error, "the socket is not removed");
        }
        ended
    }
}

async fn open_shares(home: &Home) -> Result<Arc<Shares>, StartError> {
    let settings = ShareSettings {
        private_dirs: vec![home.root.clone(), home.state.clone(), home.cache.clone(), home.run.clone()],
        home: std::env::home_dir(),
        ..ShareSettings::new(&home.state, &home.cache)
    };
    tokio::task::spawn_blocking(move || Shares::open(settings))
        .await
        .map_err(|error| StartError::Broken(error.to_string()))?
        .map_err(StartError::from)
}

fn limits(config: &DaemonConfig) -> Arc<Bandwidth> {
    let file = config.home.state.join("limits.json");
    Arc::new(Bandwidth::new(config.limits.clone(), Some(file), Arc::new(bandwidth::local_minute)))
}

fn listen(config: &DaemonConfig, key: &SecretKey) -> Result<Option<Listener>, StartError> {
    if config.listen.is_empty() {
        return Ok(None);
    }
    Listener::bind(&config.listen, key, Alpn::Peer, None).map(Some).map_err(|source| {
        let addresses: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
        StartError::Listen { address: addresses.join(", "), source }
    })
}

async fn bind_pages(config: &DaemonConfig) -> Result<Option<web::Pages>, StartError> {
    let Some(address) = config.web_listen else { return Ok(None) };
    let bound = web::bind(address).await;
    bound.map(Some).map_err(|source| StartError::Listen { address: address.to_string(), source })
}

fn link_settings(config: &DaemonConfig, key: &Arc<SecretKey>, shares: &Arc<Shares>, peer_port: u16) -> LinkSettings {
    LinkSettings {
        key: key.clone(),
        name: config.name.clone().unwrap_or_else(machine_name),
        peer_port,
        addresses: config.advertise.clone(),
        file: Some(config.home.state.join("network.json")),
        memory: config.memory_index.clone(),
        index_addresses: config.index_addresses.clone(),
        shares: Some(shares.clone()),
    }
}

fn downloading(
    key: &Arc<SecretKey>,
    link: &IndexLink,
    known: &Arc<Known>,
    shares: Option<Arc<Shares>>,
    bandwidth: Arc<Bandwidth>,
) -> (Arc<PeerPool>, Downloader) {
    let pool = PeerPool::new(Arc::new(TcpDialer { key: key.clone() }), link.standing().papers());
    let finder = Arc::new(Finder { link: link.clone(), known: known.clone() });
    let downloader = Downloader::new(pool.clone(), finder, shares).known_as(key.public()).limited(bandwidth);
    (pool, downloader)
}

/// An address to show: the unspecified one can be dialed at this machine's loopback only.
fn told(address: SocketAddr) -> String {
    let shown = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => SocketAddr::from(([127, 0, 0, 1], v4.port())),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => SocketAddr::from(([127, 0, 0, 1], v6.port())),
        other => other,
    };
    shown.to_string()
}

/// The machine's name as a label.
pub fn machine_name() -> Label {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let first = name.split('.').next().unwrap_or_default().to_owned();
    if first.is_empty() { Label::from_lossy("peer") } else { Label::from_lossy(&first) }
}
