//! What a peer's uplink carries, found out from what it sends while enough is waiting to be sent. Knows neither sockets nor
//! clocks: whoever owns the connections looks at them every [`limits::UPLINK_SAMPLE`] and tells.

use alloc::collections::VecDeque;
use core::time::Duration;

use crate::limits;
use crate::time::Moment;

/// A sample that comes later than this says nothing of the time before it: nobody looked, or the machine slept.
const GAP: Duration = Duration::from_secs(1);
/// Samples that follow each other faster than this are not kept one by one.
const STEP: Duration = Duration::from_millis(50);

/// Measures one uplink.
#[derive(Clone, Debug, Default)]
pub struct Uplink {
    /// When somebody looked last.
    seen: Option<Moment>,
    /// Samples of the time since which the uplink has been busy, as far back as is measured: when, and bytes sent.
    run: VecDeque<(Moment, u64)>,
    /// How long it was busy in all.
    busy: Duration,
    /// Of the last busy seconds, only those that no later one exceeds, so that the first is the largest.
    rates: VecDeque<Measured>,
    /// When a rate was measured last.
    measured: Moment,
}

/// The rate of one stretch.
#[derive(Clone, Copy, Debug)]
struct Measured {
    /// [`Uplink::busy`] at its beginning and its end.
    from: Duration,
    to: Duration,
    rate: u64,
}

impl Uplink {
    /// One look at all connections: bytes sent over them so far, and to how many different peers something has been waiting
    /// to be sent at every moment since the last look. Bytes that have only filled a buffer on the way count as little as
    /// possible.
    ///
    /// A connection that always has something waiting is held up by this uplink or by its receiver. Where it is the only
    /// one, nobody knows which of them; that two receivers are slow at once, to the same bytes per second, is rare. So
    /// nothing is learned from fewer than [`limits::UPLINK_WITNESSES`].
    pub fn observe(&mut self, now: Moment, sent_bytes_total: u64, blocked: usize) {
        if now.since(self.measured) > limits::UPLINK_MEMORY {
            self.rates.clear();
        }
        let elapsed = self.seen.map(|seen| now.since(seen));
        let forward = self.seen.is_none_or(|seen| seen <= now);
        self.seen = Some(now);
        // A stretch that counts begins and ends with something waiting: what fills buffers at its beginning lies before it.
        let busy = blocked >= limits::UPLINK_WITNESSES && forward && elapsed.is_some_and(|elapsed| elapsed <= GAP);
        if !busy || self.run.back().is_some_and(|(_, sent)| *sent > sent_bytes_total) {
            self.run.clear();
            self.run.push_back((now, sent_bytes_total));
            return;
        }
        self.busy += elapsed.unwrap_or_default();
        if self.run.back().is_none_or(|(at, _)| now.since(*at) >= STEP) {
            self.run.push_back((now, sent_bytes_total));
            self.measure(now, sent_bytes_total);
        }
    }

    /// Bytes per second that the uplink carries; none while nothing was found out in the last hours.
    pub fn rate(&self) -> Option<u64> {
        self.rates.front().map(|measured| measured.rate)
    }

    /// The rate of the stretch that ends now, if it is long enough.
    fn measure(&mut self, now: Moment, sent: u64) {
        while self.run.get(1).is_some_and(|(at, _)| now.since(*at) >= limits::UPLINK_STRETCH) {
            self.run.pop_front();
        }
        let Some((from, sent_before)) = self.run.front().copied() else { return };
        let span = now.since(from);
        if span < limits::UPLINK_SPAN {
            return;
        }
        let millis = u128::from(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)).max(1);
        let rate = u128::from(sent - sent_before) * 1_000 / millis;
        let rate = u64::try_from(rate).unwrap_or(u64::MAX).min(limits::FASTEST_RATE);
        // A network that is gone for a moment says nothing of what the uplink carries.
        if rate > 0 {
            self.measured = now;
            self.keep(Measured { from: self.busy.saturating_sub(span), to: self.busy, rate });
        }
    }

    /// What is received is acknowledged, and waited for, in lumps: the largest rate is what the link can do, a dip is no news.
    /// A longer stretch stands for those within it, of which the largest may owe itself to such a lump.
    fn keep(&mut self, new: Measured) {
        while self.rates.back().is_some_and(|old| old.rate <= new.rate || old.from >= new.from) {
            self.rates.pop_back();
        }
        self.rates.push_back(new);
        while self.rates.front().is_some_and(|old| new.to.saturating_sub(old.to) > limits::UPLINK_LOOKBACK) {
            self.rates.pop_front();
        }
    }
}

/// Over how many connections a peer with such an uplink, in bytes per second, fetches from one provider.
///
/// What it receives is acknowledged over its uplink, where the acknowledgements wait behind what it sends. TCP shares a
/// link between connections in inverse proportion to their round trips, or worse, so that the peer with the slowest uplink would
/// get least of everybody. It makes up for this by several connections. Of an uplink that has not been full for hours nothing is
/// known; where one was and is not any more, the connections are of no use and do little harm.
pub fn connections(rate: Option<u64>) -> usize {
    let Some(rate) = rate else { return 1 };
    let connections = 2 * limits::UPLINK_OF_TWO_CONNECTIONS / rate.max(1);
    usize::try_from(connections).unwrap_or(usize::MAX).clamp(1, limits::CONNECTIONS_PER_PROVIDER)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const RATE: u64 = 6_000_000;

    /// An uplink that is looked at from time to time.
    #[derive(Default)]
    struct World {
        uplink: Uplink,
        now: u64,
        sent: u64,
    }

    impl World {
        /// So much later, with so many peers waiting all the time and so many bytes sent since.
        fn look(&mut self, millis: u64, blocked: usize, bytes: u64) -> Option<u64> {
            self.now += millis;
            self.sent += bytes;
            self.uplink.observe(Moment(self.now), self.sent, blocked);
            self.uplink.rate()
        }

        /// The same for a link that sends at this rate.
        fn sends(&mut self, millis: u64, blocked: usize, rate: u64) -> Option<u64> {
            self.look(millis, blocked, rate * millis / 1_000)
        }

        fn seconds(&mut self, seconds: u64, blocked: usize, rate: u64) -> Option<u64> {
            (0..4 * seconds).map(|_| self.sends(250, blocked, rate)).last().flatten()
        }
    }

    #[test]
    fn the_slower_the_uplink_the_more_connections() {
        let at = |megabits: u64| connections(Some(megabits * 125_000));
        assert_eq!([0, 1, 10, 13, 14, 20, 21, 50, 100_000].map(at), [4, 4, 4, 3, 2, 2, 1, 1, 1]);
        assert_eq!(connections(None), 1);
    }

    #[test]
    fn half_a_second_with_two_that_wait_is_enough_and_what_came_before_does_not_count() {
        let mut world = World::default();
        assert_eq!(world.look(0, 0, 0), None);
        assert_eq!(world.look(250, 0, 1 << 20), None, "this fills buffers");
        assert_eq!(world.sends(250, 2, RATE), None);
        assert_eq!(world.sends(250, 2, RATE), Some(RATE));
    }

    #[test]
    fn one_that_waits_teaches_nothing_nor_does_an_idle_link() {
        let mut world = World::default();
        assert_eq!(world.seconds(10, 1, RATE), None, "it may be the receiver that is slow");
        assert_eq!(world.seconds(10, 0, RATE), None);
        for _ in 0..40 {
            assert_eq!(world.sends(250, 2, RATE), None);
            assert_eq!(world.sends(250, 1, RATE), None, "never for half a second");
        }
        assert_eq!(world.seconds(1, 2, 0), None, "nothing moves: there is no network");
        assert_eq!(world.seconds(2, 2, RATE), Some(RATE));
        assert_eq!(world.seconds(10, 0, 1_000), Some(RATE));
        assert_eq!(world.seconds(10, 1, 1_000), Some(RATE));
    }

    #[test]
    fn lumps_and_dips_are_no_news_and_five_slow_seconds_are() {
        let mut world = World::default();
        world.look(0, 0, 0);
        for second in 0..20 {
            let told = world.seconds(1, 2, if second % 4 == 3 { RATE / 2 } else { RATE });
            assert_eq!(told, Some(RATE), "after {second} s");
        }
        assert_eq!(world.seconds(2, 2, RATE), Some(RATE));
        world.seconds(10, 0, 0);
        assert_eq!(world.seconds(4, 2, RATE / 3), Some(RATE), "seconds count while it is busy");
        assert_eq!(world.seconds(2, 2, RATE / 3), Some(RATE / 3));
        assert_eq!(world.seconds(2, 2, 2 * RATE), Some(2 * RATE), "more is believed at once");
    }

    #[test]
    fn a_long_stretch_stands_for_the_lumps_within_it() {
        let mut world = World::default();
        world.look(0, 0, 0);
        let mut told = Vec::new();
        for look in 0..16 {
            // A quarter of a mebibyte more is taken in every other interval.
            told.extend(world.look(250, 2, RATE / 4 + if look % 2 == 0 { 262_144 } else { 0 } - 131_072));
        }
        assert!(told.iter().all(|told| told.abs_diff(RATE) <= RATE / 4), "{told:?}");
        assert!(told[7..].iter().all(|told| told.abs_diff(RATE) <= RATE / 40), "{told:?}");
        world.look(250, 0, 0);
        let after = world.seconds(1, 2, RATE * 2).unwrap();
        assert_eq!(after, 2 * RATE, "another stretch counts by itself");
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let mut world = World::default();
        world.look(0, 0, 0);
        world.seconds(1, 2, RATE);
        let most = u64::try_from(limits::UPLINK_MEMORY.as_millis()).unwrap();
        assert_eq!(world.look(most, 0, 0), Some(RATE));
        assert_eq!(world.look(1, 0, 0), None);
    }

    #[test]
    fn jumps_of_time_and_counters_are_harmless() {
        let mut world = World::default();
        world.look(0, 0, 0);
        world.seconds(1, 2, RATE);
        assert_eq!(world.look(3_600_000, 2, 1_000), Some(RATE), "the machine slept");
        assert_eq!(world.look(250, 2, RATE / 4), Some(RATE));
        world.now -= 1_000_000;
        world.sent = 0;
        assert_eq!(world.look(0, 2, 0), Some(RATE));
        assert_eq!(world.look(0, 2, 0), Some(RATE), "no time has passed");
        assert_eq!(world.seconds(1, 3, RATE), Some(RATE));
        world.look(500, 2, u64::MAX / 4);
        assert_eq!(world.look(500, 2, 0), Some(limits::FASTEST_RATE));
    }

    #[test]
    fn looking_all_the_time_keeps_no_more() {
        let mut world = World::default();
        for step in 0..100_000_u64 {
            world.sends(1, 2, 100_000_000 - step * 500);
        }
        let most = limits::UPLINK_LOOKBACK.as_millis() / STEP.as_millis() + 1;
        assert!(world.uplink.rates.len() as u128 <= most, "{} rates", world.uplink.rates.len());
        assert!(world.uplink.run.len() as u128 <= limits::UPLINK_STRETCH.as_millis() / STEP.as_millis() + 1);
    }

    proptest! {
        /// A link of constant rate that is looked at unevenly, with lumps of two leaves: it is known within an eighth or not
        /// at all, and it is known once it was busy for so long.
        #[test]
        fn a_constant_link_is_known_by_its_rate(
            rate in 4_000_000_u64..1_000_000_000,
            looks in proptest::collection::vec((100_u64..400, 0_usize..5, 0_u64..131_072), 1..200),
        ) {
            let mut world = World::default();
            world.look(0, 0, 0);
            let (mut ahead, mut since, mut known) = (0, 0, false);
            for (millis, blocked, lump) in looks {
                let idle = if blocked < 2 { 3 } else { 1 };
                let bytes = (rate * millis / 1_000) / idle + lump;
                let told = world.look(millis, blocked, bytes.saturating_sub(ahead));
                ahead = lump;
                since = if blocked < 2 { 0 } else { since + millis };
                known |= since >= 500;
                prop_assert_eq!(told.is_some(), known);
                if let Some(told) = told {
                    prop_assert!(told.abs_diff(rate) <= rate / 8 + 1, "{} of {}", told, rate);
                }
            }
        }
    }
}
