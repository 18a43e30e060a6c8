//! Leases: who is online, and until when without a further word.
//!
//! A peer is present while one of its connections holds a lease. A broken connection ends it at once, silence ends it
//! after [`limits::LEASE`] on the boot clock. A second connection of the same peer takes over, and what the first one
//! does afterwards changes nothing. Guests hold leases too, but are never present, and may have several connections.
//! After a restart on the same boot, leases that still run are restored without a connection.
//!
//! | event | lease without a connection | lease of this connection | lease of another connection |
//! | --- | --- | --- | --- |
//! | connected | taken over | - | taken over; the other one is closed |
//! | renewed | refused | extended | refused |
//! | closed | - | ends: hidden | unchanged |
//! | timeout | ends: hidden | ends: hidden, closed | ends: hidden, closed |

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use core::time::Duration;

use crate::ids::PeerId;
use crate::limits;
use crate::time::{Moment, Timestamp};

/// A connection, numbered by the index; 0 is never one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Leases that still ran before a restart belong to nobody.
const NOBODY: ConnectionId = ConnectionId(0);

/// Why a connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCause {
    /// Nothing was heard within the lease.
    Expired,
    /// The same peer opened a newer session.
    Replaced,
    /// The member was removed.
    Removed,
}

/// What the machine wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseAction {
    /// Everything of this peer is hidden from now on.
    Hide(PeerId),
    /// End this connection.
    Close(ConnectionId, CloseCause),
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    peer: PeerId,
    end: Moment,
}

/// How long a peer waits before it renews, when the index's clock shows `now`: [`limits::LEASE_RENEWAL`] with a jitter of a
/// tenth, and then until the next beat of that clock. `chance` is uniform in 0..1.
pub fn renew_after(now: Timestamp, chance: f64) -> Duration {
    let beat = limits::RENEWAL_BEAT.as_millis() as u64;
    let due = now.after(limits::LEASE_RENEWAL.mul_f64(0.9 + 0.2 * chance.clamp(0.0, 1.0))).0;
    let wait = Duration::from_millis(due.checked_next_multiple_of(beat).unwrap_or(due) - now.0);
    // A clock at its end stands still, and nobody may renew without a pause.
    wait.max(limits::LEASE_RENEWAL.mul_f64(0.9))
}

/// All leases of one index.
#[derive(Debug, Default)]
pub struct Leases {
    held: BTreeMap<ConnectionId, Lease>,
    /// Restored leases, until the peer connects or they end.
    restored: BTreeMap<PeerId, Moment>,
    present: BTreeMap<PeerId, ConnectionId>,
    ends: BTreeSet<(Moment, ConnectionId, PeerId)>,
    actions: VecDeque<LeaseAction>,
}

impl Leases {
    /// No leases.
    pub fn new() -> Self {
        Self::default()
    }

    /// A session opened. `listed` is false for guests.
    pub fn handle_connected(&mut self, now: Moment, connection: ConnectionId, peer: PeerId, listed: bool) {
        let end = now.after(limits::LEASE);
        if listed {
            self.drop_restored(peer);
            if let Some(older) = self.present.insert(peer, connection)
                && older != connection
                && older != NOBODY
            {
                self.drop_held(older);
                self.actions.push_back(LeaseAction::Close(older, CloseCause::Replaced));
            }
        }
        self.drop_held(connection);
        self.held.insert(connection, Lease { peer, end });
        self.ends.insert((end, connection, peer));
    }

    /// A lease from before the restart, on the same boot, still runs until `end`.
    pub fn handle_restored(&mut self, peer: PeerId, end: Moment) {
        if !self.present.contains_key(&peer) {
            self.drop_restored(peer);
            self.restored.insert(peer, end);
            self.present.insert(peer, NOBODY);
            self.ends.insert((end, NOBODY, peer));
        }
    }

    /// The peer renewed. False: this connection holds no lease any more.
    pub fn handle_renewed(&mut self, now: Moment, connection: ConnectionId) -> bool {
        let Some(lease) = self.held.get_mut(&connection) else { return false };
        self.ends.remove(&(lease.end, connection, lease.peer));
        // Two renewals may be handled in either order; a lease never gets shorter.
        lease.end = lease.end.max(now.after(limits::LEASE));
        self.ends.insert((lease.end, connection, lease.peer));
        true
    }

    /// The connection broke, or the peer said that it leaves.
    pub fn handle_closed(&mut self, connection: ConnectionId) {
        if let Some(lease) = self.drop_held(connection)
            && self.present.get(&lease.peer) == Some(&connection)
        {
            self.present.remove(&lease.peer);
            self.actions.push_back(LeaseAction::Hide(lease.peer));
        }
    }

    /// The member was removed from the network: all its connections end, guests' too.
    pub fn handle_removed(&mut self, peer: PeerId) {
        self.drop_restored(peer);
        let connections: alloc::vec::Vec<_> =
            self.held.iter().filter(|(_, lease)| lease.peer == peer).map(|(connection, _)| *connection).collect();
        for connection in connections {
            self.drop_held(connection);
            self.actions.push_back(LeaseAction::Close(connection, CloseCause::Removed));
        }
        if self.present.remove(&peer).is_some() {
            self.actions.push_back(LeaseAction::Hide(peer));
        }
    }

    /// Ends what is over. A lease is over at its end, not before.
    pub fn handle_timeout(&mut self, now: Moment) {
        while let Some(&(end, connection, peer)) = self.ends.first()
            && end <= now
        {
            if connection == NOBODY {
                self.drop_restored(peer);
            } else {
                self.drop_held(connection);
            }
            if self.present.get(&peer) == Some(&connection) {
                self.present.remove(&peer);
                self.actions.push_back(LeaseAction::Hide(peer));
            }
            if connection != NOBODY {
                self.actions.push_back(LeaseAction::Close(connection, CloseCause::Expired));
            }
        }
    }

    /// When [`Leases::handle_timeout`] has something to do next.
    pub fn next_timeout(&self) -> Option<Moment> {
        self.ends.first().map(|(end, ..)| *end)
    }

    /// What is to be done next; call until there is nothing.
    pub fn poll_action(&mut self) -> Option<LeaseAction> {
        self.actions.pop_front()
    }

    /// Whether the peer's lease runs.
    pub fn is_present(&self, peer: &PeerId) -> bool {
        self.present.contains_key(peer)
    }

    /// Whether this connection is the one by which its peer is present.
    pub fn is_current(&self, connection: ConnectionId, peer: &PeerId) -> bool {
        self.present.get(peer) == Some(&connection)
    }

    /// Peers that are present, with the ends of their leases.
    pub fn present(&self) -> impl Iterator<Item = (PeerId, Moment)> {
        self.present.iter().filter_map(|(peer, connection)| {
            let end = match *connection {
                NOBODY => self.restored.get(peer).copied(),
                connection => self.held.get(&connection).map(|lease| lease.end),
            };
            end.map(|end| (*peer, end))
        })
    }

    /// How many peers are present.
    pub fn present_count(&self) -> usize {
        self.present.len()
    }

    fn drop_held(&mut self, connection: ConnectionId) -> Option<Lease> {
        let lease = self.held.remove(&connection)?;
        self.ends.remove(&(lease.end, connection, lease.peer));
        Some(lease)
    }

    fn drop_restored(&mut self, peer: PeerId) {
        if let Some(end) = self.restored.remove(&peer) {
            self.ends.remove(&(end, NOBODY, peer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn peer(n: u8) -> PeerId {
        let mut bytes = [7; 32];
        bytes[0] = n;
        PeerId::new(bytes).expect("not weak")
    }

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000)
    }

    fn drain(leases: &mut Leases) -> Vec<LeaseAction> {
        core::iter::from_fn(|| leases.poll_action()).collect()
    }

    const A: ConnectionId = ConnectionId(1);
    const B: ConnectionId = ConnectionId(2);

    #[test]
    fn silence_hides_at_the_end_of_the_lease_and_not_before() {
        let mut leases = Leases::new();
        leases.handle_connected(at(100), A, peer(1), true);
        assert_eq!(leases.next_timeout(), Some(at(190)));
        leases.handle_timeout(Moment(189_999));
        assert!(leases.is_present(&peer(1)) && drain(&mut leases).is_empty());
        leases.handle_timeout(at(190));
        assert!(!leases.is_present(&peer(1)));
        assert_eq!(drain(&mut leases), [LeaseAction::Hide(peer(1)), LeaseAction::Close(A, CloseCause::Expired)]);
        assert_eq!(leases.next_timeout(), None);
        leases.handle_closed(A);
        assert!(drain(&mut leases).is_empty(), "hidden once");
        assert!(!leases.handle_renewed(at(191), A), "an ended lease is not renewed");
    }

    #[test]
    fn renewals_extend_and_a_jump_forward_ends_everything_that_is_over() {
        let mut leases = Leases::new();
        leases.handle_connected(at(0), A, peer(1), true);
        leases.handle_connected(at(0), B, peer(2), true);
        for seconds in [30, 60, 90, 120] {
            leases.handle_timeout(at(seconds).min(at(89)));
            assert!(leases.handle_renewed(at(seconds), A));
        }
        leases.handle_timeout(at(200));
        assert!(leases.is_present(&peer(1)) && !leases.is_present(&peer(2)));
        leases.handle_timeout(at(100_000));
        assert_eq!(leases.present_count(), 0);
    }

    #[test]
    fn a_break_hides_at_once() {
        let mut leases = Leases::new();
        leases.handle_connected(at(0), A, peer(1), true);
        leases.handle_closed(A);
        assert_eq!(drain(&mut leases), [LeaseAction::Hide(peer(1))]);
    }

    #[test]
    fn the_newer_connection_takes_over_and_the_older_ones_end_changes_nothing() {
        let mut leases = Leases::new();
        leases.handle_connected(at(0), A, peer(1), true);
        leases.handle_connected(at(5), B, peer(1), true);
        assert_eq!(drain(&mut leases), [LeaseAction::Close(A, CloseCause::Replaced)]);
        assert!(!leases.handle_renewed(at(6), A));
        leases.handle_closed(A);
        leases.handle_timeout(at(91));
        assert!(drain(&mut leases).is_empty() && leases.is_current(B, &peer(1)));
        leases.handle_closed(B);
        assert_eq!(drain(&mut leases), [LeaseAction::Hide(peer(1))]);
    }

    #[test]
    fn a_restart_restores_and_forgets() {
        let mut leases = Leases::new();
        leases.handle_restored(peer(1), at(50));
        leases.handle_restored(peer(2), at(60));
        assert_eq!(leases.present().collect::<Vec<_>>(), [(peer(1), at(50)), (peer(2), at(60))]);
        leases.handle_connected(at(40), A, peer(1), true);
        leases.handle_timeout(at(70));
        assert_eq!(drain(&mut leases), [LeaseAction::Hide(peer(2))]);
        assert!(leases.is_current(A, &peer(1)));
    }

    #[test]
    fn guests_hold_leases_side_by_side_and_are_never_present() {
        let mut leases = Leases::new();
        leases.handle_connected(at(0), A, peer(1), false);
        leases.handle_connected(at(1), B, peer(1), false);
        assert!(!leases.is_present(&peer(1)) && drain(&mut leases).is_empty());
        leases.handle_closed(A);
        assert!(drain(&mut leases).is_empty());
        leases.handle_timeout(at(91));
        assert_eq!(drain(&mut leases), [LeaseAction::Close(B, CloseCause::Expired)]);
    }

    #[test]
    fn renewals_are_due_on_beats_and_within_a_third_of_the_lease() {
        let beat = limits::RENEWAL_BEAT;
        for now in [0, 1, 249, 250, 1_700_000_000_123].map(Timestamp) {
            let waits = [0.0, 0.3, 0.999].map(|chance| renew_after(now, chance));
            assert!(waits.iter().all(|wait| now.after(*wait).0.is_multiple_of(beat.as_millis() as u64)), "{waits:?}");
            let [shortest, .., longest] = waits;
            assert!(shortest >= limits::LEASE_RENEWAL * 9 / 10 && longest <= limits::LEASE_RENEWAL * 11 / 10 + beat);
            assert!(longest > shortest + limits::LEASE_RENEWAL / 6, "the jitter stays");
        }
        assert_eq!(renew_after(Timestamp(u64::MAX), 0.5), limits::LEASE_RENEWAL.mul_f64(0.9));
    }

    #[test]
    fn removal_closes_and_hides() {
        let mut leases = Leases::new();
        leases.handle_connected(at(0), A, peer(1), true);
        leases.handle_removed(peer(1));
        assert_eq!(drain(&mut leases), vec![LeaseAction::Close(A, CloseCause::Removed), LeaseAction::Hide(peer(1))]);
        leases.handle_restored(peer(2), at(9));
        leases.handle_removed(peer(2));
        assert_eq!(drain(&mut leases), [LeaseAction::Hide(peer(2))]);
        leases.handle_removed(peer(3));
        assert_eq!((drain(&mut leases), leases.next_timeout()), (vec![], None));
    }

    #[derive(Clone, Debug)]
    enum Event {
        Connect(u64, u8),
        Renew(u64),
        Close(u64),
        Restore(u8),
        Remove(u8),
        Wait(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (1u64..9, 1u8..4).prop_map(|(connection, peer)| Event::Connect(connection, peer)),
            (1u64..9).prop_map(Event::Renew),
            (1u64..9).prop_map(Event::Close),
            (1u8..4).prop_map(Event::Restore),
            (1u8..4).prop_map(Event::Remove),
            (0u64..60).prop_map(Event::Wait),
        ]
    }

    proptest! {
        /// A model that knows only "last heard by the peer's newest connection" agrees about who is present.
        #[test]
        fn presence_equals_the_model(events in proptest::collection::vec(event(), 0..60)) {
            let mut leases = Leases::new();
            let mut now = at(1);
            let mut owner: BTreeMap<u64, u8> = BTreeMap::new();
            let mut model: BTreeMap<u8, (u64, Moment)> = BTreeMap::new();
            let mut fresh = 100;
            for event in events {
                match event {
                    Event::Connect(slot, number) => {
                        // The index never uses a connection's number twice.
                        fresh += 10;
                        let connection = fresh + slot;
                        owner.insert(slot, number);
                        owner.insert(connection, number);
                        leases.handle_connected(now, ConnectionId(connection), peer(number), true);
                        model.insert(number, (connection, now.after(limits::LEASE)));
                    }
                    Event::Renew(slot) => {
                        let newest = owner.get(&slot).and_then(|number| model.get_mut(number));
                        if let Some((connection, end)) = newest && *connection != 0 {
                            prop_assert!(leases.handle_renewed(now, ConnectionId(*connection)));
                            *end = now.after(limits::LEASE);
                        }
                    }
                    Event::Close(slot) => {
                        if let Some(number) = owner.get(&slot)
                            && let Some((connection, _)) = model.get(number).copied()
                            && connection != 0
                        {
                            leases.handle_closed(ConnectionId(connection));
                            model.remove(number);
                        }
                    }
                    Event::Restore(number) => {
                        leases.handle_restored(peer(number), now.after(Duration::from_secs(20)));
                        model.entry(number).or_insert((0, now.after(Duration::from_secs(20))));
                    }
                    Event::Remove(number) => {
                        leases.handle_removed(peer(number));
                        model.remove(&number);
                    }
                    Event::Wait(seconds) => {
                        now = now.after(Duration::from_secs(seconds));
                        leases.handle_timeout(now);
                        model.retain(|_, (_, end)| *end > now);
                    }
                }
                let present: Vec<_> = leases.present().collect();
                let expected: Vec<_> = model.iter().map(|(number, (_, end))| (peer(*number), *end)).collect();
                prop_assert_eq!(present, expected);
                prop_assert_eq!(leases.next_timeout(), model.values().map(|(_, end)| *end).min());
            }
        }
    }
}
