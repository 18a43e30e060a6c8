//! Who is online, from where, and by which connection: the leases machine with what surrounds it.
//!
//! Nothing here waits. What the machine decides (hide, close) is taken with [`Presence::poll_action`] and carried out
//! by [`crate::state::IndexState`].

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use haul_core::ids::PeerId;
use haul_core::limits;
use haul_core::registry::addresses::{Listed, Origin, Prefix};
use haul_core::registry::leases::{ConnectionId, LeaseAction, Leases};
use haul_core::time::{Moment, Timestamp};
use haul_net::connection::Connection;

use crate::members::PresenceNote;

/// What a peer says, and what the index sees, when its session opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Where its connection comes from.
    pub origin: Origin,
    /// The port on which it serves; 0 if it does not.
    pub port: u16,
    /// Further addresses that it claims.
    pub claims: Vec<String>,
}

/// How a peer stands, as one asker is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Where it serves; empty while away.
    pub addresses: Vec<String>,
    /// Whether its lease runs.
    pub online: bool,
    /// When it was last heard of.
    pub seen: Timestamp,
}

/// Presence of all peers of one index.
#[derive(Debug)]
pub struct Presence {
    inner: Mutex<Inner>,
    /// The next lease to end, so that a query need not take the lock to know that none is over.
    next_end: AtomicU64,
    allowed: Vec<Prefix>,
    boot: [u8; 16],
}

#[derive(Debug, Default)]
struct Inner {
    leases: Leases,
    connections: HashMap<ConnectionId, Connection>,
    peers: HashMap<PeerId, Known>,
    last_connection: u64,
    changed: Vec<PeerId>,
}

#[derive(Debug)]
struct Known {
    arrival: Arrival,
    listed: Listed,
    seen: Timestamp,
    /// The end of its lease in the last note.
    noted_end: Moment,
    /// Whether it stands in `changed`.
    changed: bool,
}

impl Presence {
    /// Nobody is present yet. Claimed addresses are listed only inside `allowed`.
    pub fn new(allowed: Vec<Prefix>, boot: [u8; 16]) -> Self {
        Self { inner: Mutex::default(), next_end: AtomicU64::new(u64::MAX), allowed, boot }
    }

    /// Takes over what was known before a restart. On the same boot, leases go on until their end.
    pub fn restore(&self, now: Moment, notes: Vec<(PeerId, PresenceNote)>) {
        let mut inner = self.lock();
        for (peer, note) in notes {
            let arrival = Arrival { origin: note.origin, port: note.port, claims: note.claims };
            let listed = self.list(&arrival);
            inner.peers.insert(peer, Known { arrival, listed, seen: note.seen, noted_end: Moment(0), changed: false });
            if let Some(end) = note.lease_end
                && note.boot == self.boot
                && self.boot != [0; 16]
                && end > now
            {
                inner.leases.handle_restored(peer, end);
            }
        }
        self.note_next_end(&inner);
    }

    /// A session opened; guests are not listed.
    pub fn connected(
        &self,
        now: Moment,
        wall: Timestamp,
        connection: &Connection,
        listed: bool,
        arrival: Arrival,
    ) -> ConnectionId {
        let peer = connection.remote();
        let mut inner = self.lock();
        inner.last_connection += 1;
        let id = ConnectionId(inner.last_connection);
        inner.connections.insert(id, connection.clone());
        inner.leases.handle_connected(now, id, peer, listed);
        if listed {
            let addresses = self.list(&arrival);
            inner
                .peers
                .insert(peer, Known { arrival, listed: addresses, seen: wall, noted_end: Moment(0), changed: false });
            inner.touch(peer, wall);
        }
        self.note_next_end(&inner);
        id
    }

    /// The peer renewed its lease. False: this connection has none any more.
    pub fn renewed(&self, now: Moment, wall: Timestamp, connection: ConnectionId, peer: PeerId) -> bool {
        let mut inner = self.lock();
        let held = inner.leases.handle_renewed(now, connection);
        if inner.leases.is_current(connection, &peer) {
            inner.hear(peer, wall, now);
        }
        self.note_next_end(&inner);
        held
    }

    /// The session is over.
    pub fn closed(&self, wall: Timestamp, connection: ConnectionId, peer: PeerId) {
        let mut inner = self.lock();
        if inner.leases.is_current(connection, &peer) {
            inner.touch(peer, wall);
        }
        inner.leases.handle_closed(connection);
        inner.connections.remove(&connection);
        self.note_next_end(&inner);
    }

    /// The member was removed from the network.
    pub fn removed(&self, peer: PeerId) {
        let mut inner = self.lock();
        inner.leases.handle_removed(peer);
        inner.peers.remove(&peer);
        self.note_next_end(&inner);
    }

    /// Whether a lease is over that has not been ended.
    pub fn is_due(&self, now: Moment) -> bool {
        self.next_end.load(Ordering::Relaxed) <= now.0
    }

    /// Ends the leases that are over; whether there were any. Cheap while there is none.
    pub fn expire(&self, now: Moment) -> bool {
        if !self.is_due(now) {
            return false;
        }
        let mut inner = self.lock();
        let before: Vec<PeerId> = inner.leases.present().filter(|(_, end)| *end <= now).map(|(peer, _)| peer).collect();
        inner.leases.handle_timeout(now);
        for peer in before {
            inner.mark_changed(peer);
        }
        self.note_next_end(&inner);
        true
    }

    /// What is to be done next.
    pub fn poll_action(&self) -> Option<LeaseAction> {
        self.lock().leases.poll_action()
    }

    /// The connection with this number, if its session is open.
    pub fn connection(&self, id: ConnectionId) -> Option<Connection> {
        self.lock().connections.get(&id).cloned()
    }

    /// The connections of all open sessions.
    pub fn connections(&self) -> Vec<Connection> {
        self.lock().connections.values().cloned().collect()
    }

    /// Whether the peer's lease runs.
    pub fn is_present(&self, peer: &PeerId) -> bool {
        self.lock().leases.is_present(peer)
    }

    /// Whether this connection is the one by which its peer is present.
    pub fn is_current(&self, connection: ConnectionId, peer: &PeerId) -> bool {
        self.lock().leases.is_current(connection, peer)
    }

    /// The sites that these peers' last sessions came from; 0 for those that were never listed.
    pub fn sites(&self, peers: impl Iterator<Item = PeerId>) -> BTreeMap<PeerId, u32> {
        let inner = self.lock();
        peers.map(|peer| (peer, inner.peers.get(&peer).map_or(0, |known| known.arrival.origin.site()))).collect()
    }

    /// How many peers are present.
    pub fn present_count(&self) -> usize {
        self.lock().leases.present_count()
    }

    /// How the peer stands, for an asker whose connection comes from `asker` and goes to `reached`.
    pub fn standing(&self, peer: &PeerId, asker: Origin, reached: Option<IpAddr>) -> Standing {
        let inner = self.lock();
        let online = inner.leases.is_present(peer);
        let Some(known) = inner.peers.get(peer) else {
            return Standing { addresses: Vec::new(), online, seen: Timestamp(0) };
        };
        let addresses = if online { known.listed.told(asker, reached) } else { Vec::new() };
        Standing { addresses, online, seen: known.seen }
    }

    /// What changed since the last call and should outlive a restart.
    pub fn take_notes(&self) -> Vec<(PeerId, PresenceNote)> {
        let mut inner = self.lock();
        let changed = std::mem::take(&mut inner.changed);
        let ends: HashMap<PeerId, Moment> =
            if changed.is_empty() { HashMap::new() } else { inner.leases.present().collect() };
        let mut notes = Vec::with_capacity(changed.len());
        for peer in changed {
            let Some(known) = inner.peers.get_mut(&peer) else { continue };
            known.changed = false;
            known.noted_end = ends.get(&peer).copied().unwrap_or_default();
            let note = PresenceNote {
                boot: self.boot,
                lease_end: ends.get(&peer).copied(),
                seen: known.seen,
                origin: known.arrival.origin,
                port: known.arrival.port,
                claims: known.arrival.claims.clone(),
            };
            notes.push((peer, note));
        }
        notes
    }

    fn list(&self, arrival: &Arrival) -> Listed {
        Listed::decide(arrival.origin, arrival.port, &arrival.claims, &self.allowed)
    }

    fn note_next_end(&self, inner: &Inner) {
        let next = inner.leases.next_timeout().map_or(u64::MAX, |end| end.0);
        self.next_end.store(next, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn touch(&mut self, peer: PeerId, wall: Timestamp) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.seen = wall;
        }
        self.mark_changed(peer);
    }

    /// A renewal: noted only if a restart would soon find the lease over. A peer that renews as it should is noted every
    /// other time.
    fn hear(&mut self, peer: PeerId, wall: Timestamp, now: Moment) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.seen = wall;
        if known.noted_end <= now.after(limits::LEASE / 2) {
            self.mark_changed(peer);
        }
    }

    fn mark_changed(&mut self, peer: PeerId) {
        if let Some(known) = self.peers.get_mut(&peer)
            && !known.changed
        {
            known.changed = true;
            self.changed.push(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use haul_core::ids::PublicKey;
    use haul_net::connection::ConnectionSettings;
    use haul_net::transport::memory_pair;

    use super::*;

    #[tokio::test]
    async fn a_lease_is_noted_before_the_noted_one_is_over_and_not_with_every_renewal() {
        let presence = Presence::new(Vec::new(), [1; 16]);
        let peer = PublicKey::new([7; 32]).unwrap();
        let (near, _far) = memory_pair();
        let (connection, _inbox) = Connection::start(near, peer, ConnectionSettings::default());
        let arrival = Arrival { origin: Origin::SameProcess, port: 0, claims: Vec::new() };
        let mut now = Moment(1_000_000);
        let id = presence.connected(now, Timestamp(1), &connection, true, arrival);
        let mut ends = Vec::new();
        for _ in 0..6 {
            ends.extend(presence.take_notes().into_iter().map(|(_, note)| note.lease_end.unwrap()));
            let noted = *ends.last().unwrap();
            assert!(noted > now.after(limits::LEASE_RENEWAL), "a restart finds it running until the next renewal");
            now = now.after(limits::LEASE_RENEWAL);
            assert!(presence.renewed(now, Timestamp(2), id, peer));
        }
        assert_eq!(ends.len(), 3);
        presence.closed(Timestamp(3), id, peer);
        let notes = presence.take_notes();
        assert!(matches!(notes.as_slice(), [(_, note)] if note.lease_end.is_none() && note.seen == Timestamp(3)));
    }
}
