//! What one peer may take at the expense of others: work on questions, turns at registering, connections.
//!
//! Questions cost work units out of a bucket per peer. Pages are staged in turns: each peer has one place in the queue,
//! however many pages it has sent, so whoever registers a million files waits for those who register ten, and not the
//! other way round.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use haul_core::ids::PeerId;
use haul_core::limits;
use haul_core::registry::budget::Budget;
use haul_core::time::Moment;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Pages staged at the same moment: half of the cores, so that questions find the others free.
fn stagers() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

/// Bytes of pages that one turn after the other works off in a second, at least: what waits times this is an honest
/// time to come back.
const STAGED_PER_SECOND: usize = 32 * 1024 * 1024;
/// Nobody is told to come back later than this: by then others may have gone.
const RETRY_MOST: Duration = Duration::from_secs(10);
/// Entries for peers that have left, before they are cleared away.
const STALE: usize = 1_024;

/// All peers' allowances.
#[derive(Debug)]
pub struct Admission {
    allowances: Mutex<HashMap<PeerId, Weak<Allowance>>>,
    connections: Mutex<HashMap<IpAddr, usize>>,
    stagers: Semaphore,
    /// Bytes of pages that have come and are not staged.
    waiting_bytes: AtomicUsize,
}

/// What one peer has left, over all of its sessions.
#[derive(Debug)]
pub struct Allowance {
    budget: Mutex<Budget>,
    /// This peer's place in the queue of those who stage.
    place: tokio::sync::Mutex<()>,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            allowances: Mutex::default(),
            connections: Mutex::default(),
            stagers: Semaphore::new(stagers()),
            waiting_bytes: AtomicUsize::new(0),
        }
    }
}

impl Admission {
    /// The allowance of a peer whose session opens; what it owes from another session stands.
    pub fn enter(&self, now: Moment, peer: PeerId) -> Arc<Allowance> {
        let mut allowances = lock(&self.allowances);
        if let Some(known) = allowances.get(&peer).and_then(Weak::upgrade) {
            return known;
        }
        if allowances.len() >= STALE && allowances.len() == allowances.capacity() {
            allowances.retain(|_, allowance| allowance.strong_count() > 0);
        }
        let allowance = Arc::new(Allowance::new(now));
        allowances.insert(peer, Arc::downgrade(&allowance));
        allowance
    }

    /// Counts a connection from this address, unless there are too many.
    pub fn connect(self: &Arc<Self>, address: IpAddr) -> Option<ConnectionCount> {
        let mut connections = lock(&self.connections);
        let count = connections.entry(address).or_default();
        // Whoever is on this machine can harm it in easier ways.
        if *count >= limits::CONNECTIONS_PER_ADDRESS && !address.is_loopback() {
            return None;
        }
        *count += 1;
        Some(ConnectionCount { admission: Arc::clone(self), address })
    }

    /// Whether another list may be begun; if not, when to come back.
    pub fn begin(&self) -> Result<(), Duration> {
        let waiting = self.waiting_bytes.load(Ordering::Relaxed);
        if waiting < limits::PAGES_WAITING_BYTES {
            return Ok(());
        }
        let seconds = waiting.div_ceil(STAGED_PER_SECOND) as u64;
        Err(Duration::from_secs(seconds).min(RETRY_MOST))
    }

    /// Waits for this peer's turn to stage a page of so many bytes; the turn lasts until it is dropped.
    pub async fn stage<'a>(&'a self, allowance: &'a Allowance, bytes: usize) -> Turn<'a> {
        self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let waiting = Waiting { bytes, of: &self.waiting_bytes };
        let place = allowance.place.lock().await;
        // It is never closed.
        let stager = self.stagers.acquire().await.ok();
        Turn { _stager: stager, _place: place, _waiting: waiting }
    }
}

impl Allowance {
    fn new(now: Moment) -> Self {
        let budget = Budget::new(now, limits::WORK_PER_SECOND, limits::WORK_SAVED);
        Self { budget: Mutex::new(budget), place: tokio::sync::Mutex::new(()) }
    }

    /// Whether this peer may ask now; if not, how long it should wait.
    pub fn ask(&self, now: Moment) -> Result<(), Duration> {
        lock(&self.budget).handle_question(now)
    }

    /// Its question has cost this much.
    pub fn pay(&self, units: u64) {
        lock(&self.budget).handle_cost(units);
    }
}

/// A peer's turn to stage.
#[derive(Debug)]
pub struct Turn<'a> {
    // Dropped in this order: the next peer goes first, then the next page of this one takes its place behind all.
    _stager: Option<SemaphorePermit<'a>>,
    _place: tokio::sync::MutexGuard<'a, ()>,
    _waiting: Waiting<'a>,
}

#[derive(Debug)]
struct Waiting<'a> {
    bytes: usize,
    of: &'a AtomicUsize,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Counts one connection while it lives.
#[derive(Debug)]
pub struct ConnectionCount {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        let mut connections = lock(&self.admission.connections);
        if let Some(count) = connections.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&self.address);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use haul_core::ids::PublicKey;

    use super::*;

    fn peer(n: u8) -> PeerId {
        PublicKey::new([n; 32]).unwrap()
    }

    #[test]
    fn a_second_session_pays_from_the_same_bucket_and_leavers_are_forgotten() {
        let admission = Admission::default();
        let first = admission.enter(Moment(1), peer(7));
        first.pay(2 * limits::WORK_SAVED);
        let second = admission.enter(Moment(1), peer(7));
        assert!(second.ask(Moment(1)).is_err());
        assert_eq!(admission.enter(Moment(1), peer(8)).ask(Moment(1)), Ok(()));
        drop((first, second));
        assert_eq!(admission.enter(Moment(1), peer(7)).ask(Moment(1)), Ok(()));
    }

    #[test]
    fn connections_of_one_address_are_bounded_and_those_of_this_machine_are_not() {
        let admission = Arc::new(Admission::default());
        let (far, near) = ("192.0.2.1".parse().unwrap(), "127.0.0.1".parse().unwrap());
        let mut held: Vec<_> = (0..limits::CONNECTIONS_PER_ADDRESS).map(|_| admission.connect(far).unwrap()).collect();
        assert!(admission.connect(far).is_none());
        assert!(admission.connect("192.0.2.2".parse().unwrap()).is_some());
        held.pop();
        assert!(admission.connect(far).is_some());
        let _near: Vec<_> = (0..=limits::CONNECTIONS_PER_ADDRESS).map(|_| admission.connect(near).unwrap()).collect();
        drop(held);
        assert!(!lock(&admission.connections).contains_key(&far));
    }

    #[tokio::test]
    async fn a_peer_with_a_thousand_pages_does_not_keep_others_waiting() {
        let admission = Arc::new(Admission { stagers: Semaphore::new(1), ..Admission::default() });
        let order = Arc::new(Mutex::new(Vec::new()));
        let running = admission.stagers.acquire().await.unwrap();
        let mut pages = tokio::task::JoinSet::new();
        for (number, count) in [(1, 1_000), (2, 2), (3, 2)] {
            let allowance = admission.enter(Moment(1), peer(number));
            for _ in 0..count {
                let (admission, allowance, order) =
                    (Arc::clone(&admission), Arc::clone(&allowance), Arc::clone(&order));
                pages.spawn(async move {
                    let turn = admission.stage(&allowance, 1_000).await;
                    lock(&order).push(number);
                    drop(turn);
                });
            }
            // All of this peer's pages wait before the next peer comes.
            for _ in 0..3_000 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(admission.waiting_bytes.load(Ordering::Relaxed), 1_004_000);
        drop(running);
        pages.join_all().await;
        let order = lock(&order);
        let last = |peer| order.iter().rposition(|turn| *turn == peer).unwrap();
        assert!(last(2) < 8 && last(3) < 8, "{:?}", order.get(..16));
        assert_eq!((order.len(), admission.waiting_bytes.load(Ordering::Relaxed)), (1_004, 0));
    }

    #[tokio::test]
    async fn too_many_bytes_of_pages_put_off_those_who_begin() {
        let admission = Admission::default();
        let allowance = admission.enter(Moment(1), peer(7));
        assert_eq!(admission.begin(), Ok(()));
        let turn = admission.stage(&allowance, limits::PAGES_WAITING_BYTES).await;
        assert_eq!(admission.begin(), Err(RETRY_MOST));
        drop(turn);
        assert_eq!(admission.begin(), Ok(()));
    }
}
