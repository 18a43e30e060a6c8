//! Who may be served: grants against the network's key, the index's time, revocations and the offline grace.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use haul_core::ids::{NetworkId, PeerId, UserId};
use haul_core::limits;
use haul_core::time::{Moment, Timestamp};
use haul_core::trust::{Grant, IndexCertificate};
use haul_core::wire::Label;
use haul_net::trust::parse_checked;

/// Shortest wait before a grant that ended is looked at again.
const AT_LEAST: Duration = Duration::from_millis(50);

/// How this peer stands with its index. The daemon keeps it up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Never reached it since the start: nobody is served.
    Unknown,
    /// In touch: grants must be in date.
    InTouch {
        /// Index time …
        index: Timestamp,
        /// … at this moment of the boot clock.
        at: Moment,
    },
    /// Cut off: grants that were in date then are accepted for a while.
    CutOff {
        /// Index time when contact was lost …
        index: Timestamp,
        /// … at this moment of the boot clock.
        at: Moment,
    },
}

/// A grant that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Groups of the member, besides everyone.
    pub groups: Arc<[Label]>,
    grant: Grant,
    certificate_ends: Timestamp,
}

impl Granted {
    /// Whose turn it is when this member is served.
    pub fn user(&self) -> UserId {
        self.grant.user
    }
}

/// Why a grant does not pass. Said to the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantRefusal {
    /// Not a statement of the index, or the index is not one of the network.
    #[error("the grant is not signed by an index of this network")]
    NotSigned,
    /// For another network.
    #[error("the grant is for another network")]
    WrongNetwork,
    /// For another peer.
    #[error("the grant is for another peer")]
    WrongPeer,
    /// Not yet or no longer valid.
    #[error("the grant has ended; renew it at the index")]
    Expired,
    /// The member was removed.
    #[error("the member was removed from the network")]
    Revoked,
    /// This side has not reached its index yet, so it knows no time.
    #[error("this peer has not reached its index yet; try again soon")]
    NotReady,
}

/// Checks grants.
#[derive(Debug)]
pub struct GrantCheck {
    network: NetworkId,
    grace: Duration,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    standing: Standing,
    /// Highest serial of each member's certificates that no longer count.
    revoked: BTreeMap<PeerId, u64>,
}

impl GrantCheck {
    /// A check for members of this network that has not reached the index yet. `grace` is
    /// [`limits::OFFLINE_GRACE`] unless the owner chose otherwise.
    pub fn new(network: NetworkId, grace: Duration) -> Arc<Self> {
        let state = State { standing: Standing::Unknown, revoked: BTreeMap::new() };
        Arc::new(Self { network, grace, state: RwLock::new(state) })
    }

    /// Contact with the index: its time, measured at `now`.
    pub fn in_touch(&self, index: Timestamp, now: Moment) {
        self.write().standing = Standing::InTouch { index, at: now };
    }

    /// Contact with the index was lost.
    pub fn cut_off(&self, now: Moment) {
        let mut state = self.write();
        if let Standing::InTouch { .. } = state.standing
            && let Some(index) = index_time(state.standing, now)
        {
            state.standing = Standing::CutOff { index, at: now };
        }
    }

    /// Members whose certificates up to these serials no longer count. Adds to what is known.
    pub fn revoke(&self, members: impl IntoIterator<Item = (PeerId, u64)>) {
        let mut state = self.write();
        for (peer, serial) in members {
            let known = state.revoked.entry(peer).or_insert(serial);
            *known = serial.max(*known);
        }
    }

    /// How this peer stands with its index.
    pub fn standing(&self) -> Standing {
        self.read().standing
    }

    /// Checks a grant that `peer` shows.
    pub fn check(
        &self,
        peer: PeerId,
        grant: &[u8],
        index_certificate: &[u8],
        now: Moment,
    ) -> Result<Granted, GrantRefusal> {
        let certificate: IndexCertificate =
            parse_checked(index_certificate, &self.network).map_err(|_| GrantRefusal::NotSigned)?;
        if certificate.network != self.network {
            return Err(GrantRefusal::WrongNetwork);
        }
        let grant: Grant = parse_checked(grant, &certificate.index).map_err(|_| GrantRefusal::NotSigned)?;
        if grant.network != self.network {
            return Err(GrantRefusal::WrongNetwork);
        }
        if grant.peer != peer {
            return Err(GrantRefusal::WrongPeer);
        }
        let groups = grant.groups.iter().filter_map(|group| Label::new(group.clone()).ok()).collect();
        let granted = Granted { groups, grant, certificate_ends: certificate.not_after };
        self.judge(&granted, now).map(|()| granted)
    }

    /// Whether a grant that passed earlier still does.
    pub fn still_valid(&self, granted: &Granted, now: Moment) -> bool {
        self.judge(granted, now).is_ok()
    }

    /// Time after which to look again.
    pub fn time_left(&self, granted: &Granted, now: Moment) -> Duration {
        let left = match self.standing() {
            Standing::Unknown => Duration::ZERO,
            Standing::CutOff { at, .. } => self.grace.saturating_sub(now.since(at)),
            Standing::InTouch { index, at } => {
                let end = granted.grant.expires.min(granted.certificate_ends);
                Duration::from_millis(end.0.saturating_sub(index.after(now.since(at)).0))
            }
        };
        left.max(AT_LEAST)
    }

    fn judge(&self, granted: &Granted, now: Moment) -> Result<(), GrantRefusal> {
        let state = self.read();
        if state.revoked.get(&granted.grant.peer).is_some_and(|serial| granted.grant.serial <= *serial) {
            return Err(GrantRefusal::Revoked);
        }
        let now_at_index = index_time(state.standing, now).ok_or(GrantRefusal::NotReady)?;
        // Cut off, it is enough that the grant was in date when contact was lost, or was issued since.
        let must_outlast = match state.standing {
            Standing::CutOff { at, .. } if now.since(at) > self.grace => return Err(GrantRefusal::Expired),
            Standing::CutOff { index, .. } => index,
            Standing::InTouch { .. } | Standing::Unknown => now_at_index,
        };
        // The other side may know the index's time a little better than this one: half a grant's life is allowed.
        let started = granted.grant.issued <= now_at_index.after(limits::GRANT / 2);
        let runs = started && must_outlast < granted.grant.expires && must_outlast < granted.certificate_ends;
        if runs { Ok(()) } else { Err(GrantRefusal::Expired) }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The index's time, carried forward on the boot clock.
fn index_time(standing: Standing, now: Moment) -> Option<Timestamp> {
    match standing {
        Standing::Unknown => None,
        Standing::InTouch { index, at } | Standing::CutOff { index, at } => Some(index.after(now.since(at))),
    }
}
