//! What an index server is told before it starts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use haul_core::limits;
use haul_core::planner::Dealing;
use haul_core::registry::addresses::Prefix;
use haul_core::trust::Role;
use haul_core::wire::Label;

/// Settings of one index server.
#[derive(Clone, Debug)]
pub struct IndexConfig {
    /// Folder of everything durable: keys, members, tickets, registrations. Made if it does not exist.
    pub state_dir: PathBuf,
    /// Where to listen; port 0 takes any free one. Empty: in-memory connections only.
    pub listen: Vec<SocketAddr>,
    /// `host:port` under which others reach this index; they stand in tickets. Empty: derived from `listen`.
    pub advertise: Vec<String>,
    /// Addresses that peers claim are listed only inside these, unless they are where the connection came from.
    pub claims_allowed: Vec<Prefix>,
    /// PEM files with a certificate chain and its key for browsers; none makes and keeps an own certificate.
    pub https: Option<(PathBuf, PathBuf)>,
    /// How the planner deals the pieces of what several peers download; none: each of them chooses for itself.
    pub plans: Option<Dealing>,
}

impl IndexConfig {
    /// Settings for this folder and these addresses, all else by default.
    pub fn new(state_dir: impl Into<PathBuf>, listen: Vec<SocketAddr>) -> Self {
        Self {
            state_dir: state_dir.into(),
            listen,
            advertise: Vec::new(),
            claims_allowed: Vec::new(),
            https: None,
            plans: Some(Dealing::default()),
        }
    }
}

/// What a new ticket allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// How many keys may join with it.
    pub uses: u32,
    /// How long it lasts.
    pub life: Duration,
    /// What those that join may do.
    pub role: Role,
    /// Groups that they join, besides everyone.
    pub groups: Vec<Label>,
    /// All that join with it are machines of one user, who gets one user's turns.
    pub one_user: bool,
}

impl Default for Invitation {
    fn default() -> Self {
        Self {
            uses: limits::TICKET_USES,
            life: limits::TICKET_LIFE,
            role: Role::Member,
            groups: Vec::new(),
            one_user: false,
        }
    }
}
