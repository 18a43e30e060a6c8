//! Looks at what is sent to other peers, and tells the index what this peer's uplink carries, and downloads over how many
//! connections to fetch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use haul_core::limits;
use haul_core::time::Moment;
use haul_core::uplink::{self, Uplink};
use haul_net::clock;
use haul_net::connection::Traffic;
use tokio_util::sync::CancellationToken;

use crate::api::uploads::Uploads;
use crate::bandwidth::Bandwidth;
use crate::fetch::pool::PeerPool;
use crate::link::IndexLink;

/// How often a limit is looked at while nobody is connected.
const IDLE_LOOK: Duration = Duration::from_secs(30);

/// Runs until shutdown.
pub(super) async fn follow(
    uploads: Arc<Uploads>,
    bandwidth: Arc<Bandwidth>,
    link: IndexLink,
    pool: Arc<PeerPool>,
    shutdown: CancellationToken,
) {
    let mut watch = Watch::default();
    let mut known = None;
    loop {
        let measured = watch.look(clock::boot_now(), &uploads);
        let before = known;
        known = within(measured, bandwidth.up.of_all());
        if known != before {
            tracing::debug!(bytes_per_second = known, "what the uplink carries");
        }
        link.tell_uplink(known);
        // Under a limit that is less than the uplink carries nothing waits in it.
        let full = measured.filter(|measured| known == Some(*measured));
        pool.set_connections_per_peer(uplink::connections(full));
        let idle = watch.open.is_empty();
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = uploads.opened(), if idle => {}
            () = tokio::time::sleep(if idle { IDLE_LOOK } else { limits::UPLINK_SAMPLE }) => {}
        }
    }
}

/// What the uplink gives under a limit. A limit alone is news only if it is less than what is assumed of everybody. Streams
/// that a limit holds back wait before they come to a connection, so that a limited uplink is never seen to be busy. Limits
/// of groups and transfers are not looked at: nobody knows whom plans will have served.
fn within(measured: Option<u64>, limit: Option<u64>) -> Option<u64> {
    match (measured, limit) {
        (Some(measured), Some(limit)) => Some(measured.min(limit)),
        (measured, limit) => measured.or(limit.filter(|limit| *limit < limits::UPLINK_ASSUMED)),
    }
}

/// Bytes of one connection that TLS and the kernel take before anything waits.
const BUFFERED: u64 = 2 * limits::UNSENT_BYTES as u64;

/// A connection at the last look.
#[derive(Clone, Copy, Default)]
struct Seen {
    traffic: Traffic,
    /// Bytes of it that count as sent only when nothing waits any more.
    filled: u64,
}

/// The machine with what it was told last.
#[derive(Default)]
struct Watch {
    uplink: Uplink,
    open: BTreeMap<u64, Seen>,
    sent: u64,
}

impl Watch {
    fn look(&mut self, now: Moment, uploads: &Uploads) -> Option<u64> {
        let (open, taken) = uploads.traffic();
        let mut waiting = BTreeSet::new();
        let mut seen = BTreeMap::new();
        for (number, (peer, traffic)) in open {
            let before = self.open.get(&number).copied().unwrap_or_default();
            let filled = if traffic.was_blocked_since(&before.traffic) {
                waiting.insert(peer);
                before.filled
            } else if traffic.is_blocked() {
                // What it sent last may still be in buffers, which take so much before anything waits.
                (traffic.bytes_out - before.traffic.bytes_out).min(BUFFERED)
            } else {
                0
            };
            seen.insert(number, Seen { traffic, filled });
        }
        self.open = seen;
        let filled: u64 = self.open.values().map(|seen| seen.filled).sum();
        self.sent = self.sent.max(taken.saturating_sub(filled));
        self.uplink.observe(now, self.sent, waiting.len());
        self.uplink.rate()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use haul_core::ids::{PeerId, PublicKey};
    use haul_net::connection::{Connection, ConnectionSettings, Inbox};
    use haul_net::transport::memory_pair;
    use tokio::io::{AsyncReadExt, DuplexStream};

    use super::*;
    use crate::api::uploads::Counted;

    /// Bytes that every receiver takes between two looks.
    const TAKEN: usize = 100_000;

    fn peer(n: u8) -> PeerId {
        let mut bytes = [7; 32];
        bytes[0] = n;
        PublicKey::new(bytes).unwrap()
    }

    /// A receiver that always waits for more than it has taken.
    struct Receiver {
        raw: DuplexStream,
        connection: Connection,
        _inbox: Inbox,
        _counted: Counted,
    }

    impl Receiver {
        fn new(uploads: &Arc<Uploads>, n: u8) -> Self {
            let (raw, other) = memory_pair();
            let (connection, inbox) = Connection::start(other, peer(n), ConnectionSettings::default());
            let counted = uploads.count(connection.clone());
            Self { raw, connection, _inbox: inbox, _counted: counted }
        }

        async fn takes(&mut self, bytes: usize) {
            while self.connection.push(&vec![7_u8; 100_000]).is_ok() {}
            self.raw.read_exact(&mut vec![0; bytes]).await.unwrap();
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// What is known after so many looks at these receivers, a quarter of a second apart.
    async fn known_of(peers: &[u8], looks: u64) -> Option<u64> {
        let (uploads, mut watch) = (Arc::<Uploads>::default(), Watch::default());
        let mut receivers: Vec<Receiver> = peers.iter().map(|n| Receiver::new(&uploads, *n)).collect();
        watch.look(Moment(1_000), &uploads);
        for look in 1..=looks {
            for receiver in &mut receivers {
                receiver.takes(TAKEN).await;
            }
            watch.look(Moment(1_000 + 250 * look), &uploads);
        }
        watch.uplink.rate()
    }

    #[tokio::test]
    async fn two_peers_that_wait_for_more_show_what_the_uplink_carries() {
        // The first look finds buffers that were filled.
        assert_eq!(known_of(&[1, 2], 2).await, None);
        let rate = known_of(&[1, 2], 3).await.unwrap();
        // What is written at once is a batch, half a second is some of them.
        assert!(rate.abs_diff(8 * TAKEN as u64) <= 4 * 64 * 1024, "{rate}");
        let rate = known_of(&[1, 1, 1, 1, 2], 3).await.unwrap();
        assert!(rate.abs_diff(20 * TAKEN as u64) <= 10 * 64 * 1024, "{rate}");
        assert_eq!(known_of(&[1, 1], 10).await, None, "two connections to one peer are one receiver");
        assert_eq!(known_of(&[1], 10).await, None);
        assert_eq!(known_of(&[], 10).await, None);
    }

    #[tokio::test]
    async fn what_fills_a_buffer_of_another_connection_does_not_count() {
        let (uploads, mut watch) = (Arc::<Uploads>::default(), Watch::default());
        let mut receivers: Vec<Receiver> = [1, 2].map(|n| Receiver::new(&uploads, n)).into();
        let mut looks = Vec::new();
        for look in 1..=12 {
            if look == 6 {
                receivers.push(Receiver::new(&uploads, 4));
            }
            for (at, receiver) in receivers.iter_mut().enumerate() {
                receiver.takes(if at < 2 { TAKEN } else { 1 }).await;
            }
            looks.extend(watch.look(Moment(250 * look), &uploads));
        }
        let (least, most) = (*looks.iter().min().unwrap(), *looks.iter().max().unwrap());
        assert!(most <= least + 2 * 64 * 1024, "{looks:?}");
    }

    #[test]
    fn a_limit_counts_where_it_is_less_and_where_nothing_else_is_known() {
        assert_eq!(within(None, None), None);
        assert_eq!(within(Some(5), None), Some(5));
        assert_eq!(within(None, Some(5)), Some(5));
        assert_eq!(within(None, Some(limits::UPLINK_ASSUMED)), None, "the line may be slower");
        assert_eq!([within(Some(5), Some(7)), within(Some(7), Some(5))], [Some(5); 2]);
    }
}
