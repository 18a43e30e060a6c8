//! Connections from other peers, and what was sent over them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use haul_core::ids::PeerId;
use haul_net::connection::{Connection, Traffic};
use tokio::sync::Notify;

#[derive(Default)]
struct Inner {
    open: BTreeMap<u64, Connection>,
    last: u64,
    /// Bytes over connections that have ended.
    past: u64,
}

/// All of them since the start.
#[derive(Default)]
pub struct Uploads {
    inner: Mutex<Inner>,
    /// A connection was opened.
    opened: Notify,
}

/// Counts one connection until it is dropped.
pub struct Counted {
    uploads: Arc<Uploads>,
    number: u64,
}

impl Uploads {
    /// Counts a connection from now on.
    pub fn count(self: &Arc<Self>, connection: Connection) -> Counted {
        let mut inner = self.lock();
        inner.last += 1;
        let number = inner.last;
        inner.open.insert(number, connection);
        drop(inner);
        self.opened.notify_one();
        Counted { uploads: self.clone(), number }
    }

    /// Connections that are open, and bytes sent since the start.
    pub fn totals(&self) -> (u64, u64) {
        let inner = self.lock();
        let open: u64 = inner.open.values().map(|connection| connection.traffic().bytes_out).sum();
        (inner.open.len() as u64, inner.past + open)
    }

    /// Connections of one peer that are open.
    pub fn of_peer(&self, peer: &PeerId) -> usize {
        self.lock().open.values().filter(|connection| connection.remote() == *peer).count()
    }

    /// Connections that are open, by number, each with its peer and what went over it; and bytes sent over all since the
    /// start.
    pub fn traffic(&self) -> (BTreeMap<u64, (PeerId, Traffic)>, u64) {
        let inner = self.lock();
        let of = |(number, connection): (&u64, &Connection)| (*number, (connection.remote(), connection.traffic()));
        let open: BTreeMap<u64, (PeerId, Traffic)> = inner.open.iter().map(of).collect();
        let sent = open.values().map(|(_, traffic)| traffic.bytes_out).sum::<u64>();
        (open, inner.past + sent)
    }

    /// Waits until a connection was opened since the last time. For one task.
    pub async fn opened(&self) {
        self.opened.notified().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Every change is one insert or removal with its sum.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut inner = self.uploads.lock();
        if let Some(connection) = inner.open.remove(&self.number) {
            inner.past += connection.traffic().bytes_out;
        }
    }
}
