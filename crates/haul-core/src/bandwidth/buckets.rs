//! Token buckets that stand under each other: what one path may take is what each bucket on it allows.
//!
//! A bucket fills with its rate up to its [`burst`]. A want names the buckets that it passes (everything, a group, a
//! transfer) and is granted when all of them hold enough. Wants wait in one queue in the order in which they came; each
//! stream has one at a time, so streams take turns. Nobody is held by a bucket that it does not pass, and what one
//! child leaves in the parent the others take.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use crate::limits::{LEAF_BYTES, RATE_BURST_BYTES};
use crate::time::Moment;

/// What a bucket of this rate holds at most, in bytes: what flows in 50 ms, so that a timer that wakes a little late
/// costs nothing; two leaves at least, so that it goes on filling while a want that has its leaf here waits elsewhere.
pub fn burst(rate: u64) -> u64 {
    (rate / 20).clamp(2 * LEAF_BYTES, RATE_BURST_BYTES)
}

/// A want of these buckets; numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WantId(pub u64);

/// A want that may go now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Which.
    pub want: WantId,
    /// Bytes; fewer than wanted only if no bucket on the path holds so many at once. A leaf is always granted whole.
    pub bytes: u64,
}

/// Levels are in thousandths of bytes: a rate of n bytes per second brings n of them per millisecond.
const PARTS: u64 = 1_000;

#[derive(Clone, Debug)]
struct Bucket {
    rate: u64,
    level: u64,
    at: Moment,
}

impl Bucket {
    fn fill(&mut self, now: Moment) {
        let elapsed = now.since(self.at).as_millis() as u64;
        let most = burst(self.rate) * PARTS;
        self.level = self.level.saturating_add(self.rate.saturating_mul(elapsed)).min(most);
        self.at = self.at.max(now);
    }

    /// Milliseconds until it holds so much; none is never.
    fn ready_in(&self, parts: u64) -> Option<u64> {
        match parts.saturating_sub(self.level) {
            0 => Some(0),
            missing if self.rate > 0 => Some(missing.div_ceil(self.rate)),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
struct Want<K> {
    id: WantId,
    path: Vec<K>,
    bytes: u64,
}

/// The buckets of one direction, and who waits for them; see the module.
#[derive(Clone, Debug)]
pub struct Buckets<K> {
    levels: BTreeMap<K, Bucket>,
    waiting: VecDeque<Want<K>>,
    granted: VecDeque<Granted>,
    due: Option<Moment>,
    last: u64,
}

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        Self { levels: BTreeMap::new(), waiting: VecDeque::new(), granted: VecDeque::new(), due: None, last: 0 }
    }
}

impl<K: Ord + Clone> Buckets<K> {
    /// Sets the rate of a bucket in bytes per second: 0 lets nothing through, none takes the bucket away. A new bucket
    /// is empty, so that taking a limit away and setting it again gains nothing.
    pub fn set_rate(&mut self, now: Moment, key: K, rate: Option<u64>) {
        match rate {
            None => drop(self.levels.remove(&key)),
            Some(rate) => {
                let bucket = self.levels.entry(key).or_insert(Bucket { rate, level: 0, at: now });
                bucket.fill(now);
                bucket.rate = rate;
                bucket.fill(now);
            }
        }
        self.serve(now);
    }

    /// Whether any bucket holds anybody.
    pub fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }

    /// The buckets with their rates.
    pub fn rates(&self) -> impl Iterator<Item = (&K, u64)> {
        self.levels.iter().map(|(key, bucket)| (key, bucket.rate))
    }

    /// The lowest rate on a path; none without a bucket on it.
    pub fn lowest<'a>(&'a self, path: &'a [K]) -> Option<(&'a K, u64)> {
        let on_path = path.iter().filter_map(|key| Some((key, self.levels.get(key)?.rate)));
        on_path.min_by_key(|(_, rate)| *rate)
    }

    /// Wants that wait. Whoever drives the machine has one per stream, so their number is bounded there.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Wants to move so many bytes along a path. Keys without a bucket do not hold it, but one may be set meanwhile.
    pub fn handle_want(&mut self, now: Moment, path: Vec<K>, bytes: u64) -> WantId {
        self.last += 1;
        let id = WantId(self.last);
        self.waiting.push_back(Want { id, path, bytes });
        self.serve(now);
        id
    }

    /// A want is no longer wanted. One that was granted has been spent.
    pub fn handle_cancel(&mut self, now: Moment, want: WantId) {
        self.waiting.retain(|other| other.id != want);
        self.granted.retain(|granted| granted.want != want);
        self.serve(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.serve(now);
    }

    /// When [`Self::handle_timeout`] is due; none if nobody waits for time to pass.
    pub fn next_timeout(&self) -> Option<Moment> {
        self.due
    }

    /// The next want that may go.
    pub fn poll_action(&mut self) -> Option<Granted> {
        self.granted.pop_front()
    }

    fn serve(&mut self, now: Moment) {
        for bucket in self.levels.values_mut() {
            bucket.fill(now);
        }
        let mut kept: BTreeSet<K> = BTreeSet::new();
        let mut soonest: Option<u64> = None;
        let mut still = VecDeque::new();
        for want in core::mem::take(&mut self.waiting) {
            // What somebody further in front waits for is not taken away from under it.
            if want.path.iter().any(|key| kept.contains(key)) {
                still.push_back(want);
                continue;
            }
            let on_path = || want.path.iter().filter_map(|key| Some((key, self.levels.get(key)?)));
            let bytes = on_path().map(|(_, bucket)| burst(bucket.rate)).fold(want.bytes, u64::min);
            let parts = bytes * PARTS;
            // The bucket that holds it longest; never is longest of all.
            let held = on_path()
                .map(|(key, bucket)| (bucket.ready_in(parts).unwrap_or(u64::MAX), key))
                .filter(|(wait, _)| *wait > 0)
                .max();
            if let Some((wait, key)) = held {
                if wait < u64::MAX {
                    soonest = Some(soonest.map_or(wait, |known| known.min(wait)));
                }
                // Others may still pass the buckets that will be ready earlier: nothing is lost by it.
                kept.insert(key.clone());
                still.push_back(want);
                continue;
            }
            for key in &want.path {
                if let Some(bucket) = self.levels.get_mut(key) {
                    bucket.level -= parts;
                }
            }
            self.granted.push_back(Granted { want: want.id, bytes });
        }
        self.waiting = still;
        self.due = soonest.map(|wait| now.after(core::time::Duration::from_millis(wait)));
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;

    const LEAF: u64 = LEAF_BYTES;

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Key {
        All,
        Group(u8),
        Transfer(u8),
    }

    fn path(group: u8, transfer: u8) -> Vec<Key> {
        vec![Key::All, Key::Group(group), Key::Transfer(transfer)]
    }

    /// Runs streams that want a leaf again as soon as they got one, until `end`; what each was given when.
    fn run(buckets: &mut Buckets<Key>, streams: &[Vec<Key>], end: Moment) -> Vec<(Moment, usize, u64)> {
        let mut now = Moment(0);
        let mut owner = BTreeMap::new();
        let mut given = Vec::new();
        for (stream, path) in streams.iter().enumerate() {
            owner.insert(buckets.handle_want(now, path.clone(), LEAF), stream);
        }
        loop {
            while let Some(granted) = buckets.poll_action() {
                let stream = owner.remove(&granted.want).expect("a want of a stream");
                given.push((now, stream, granted.bytes));
                owner.insert(buckets.handle_want(now, streams[stream].clone(), LEAF), stream);
            }
            let Some(due) = buckets.next_timeout() else { return given };
            assert!(due > now, "time goes on");
            now = due;
            if now > end {
                return given;
            }
            buckets.handle_timeout(now);
        }
    }

    fn sum(given: &[(Moment, usize, u64)], which: impl Fn(usize) -> bool) -> u64 {
        given.iter().filter(|(_, stream, _)| which(*stream)).map(|(_, _, bytes)| bytes).sum()
    }

    #[test]
    fn a_rate_is_kept_to_a_hundredth() {
        for rate in [30_000, 1_000_000, 20_000_000, 1_000_000_000] {
            let mut buckets = Buckets::default();
            buckets.set_rate(Moment(0), Key::All, Some(rate));
            let seconds = if rate < 100_000 { 1_000 } else { 20 };
            let given = run(&mut buckets, &[path(0, 0), path(0, 1)], Moment(seconds * 1_000));
            let (sent, allowed) = (sum(&given, |_| true), rate * seconds);
            assert!(sent.abs_diff(allowed) * 100 < allowed, "{sent} of {allowed}");
        }
    }

    #[test]
    fn streams_take_turns() {
        let mut buckets = Buckets::default();
        buckets.set_rate(Moment(0), Key::All, Some(1_000_000));
        let streams = [path(0, 0), path(0, 1), path(1, 2)];
        let given = run(&mut buckets, &streams, Moment(30_000));
        let each: Vec<u64> = (0..3).map(|stream| sum(&given, |other| other == stream)).collect();
        assert!(each.iter().all(|bytes| bytes.abs_diff(each[0]) <= LEAF), "{each:?}");
    }

    #[test]
    fn what_one_child_leaves_the_others_take() {
        let mut buckets = Buckets::default();
        buckets.set_rate(Moment(0), Key::All, Some(10_000_000));
        buckets.set_rate(Moment(0), Key::Group(0), Some(1_000_000));
        buckets.set_rate(Moment(0), Key::Group(2), Some(0));
        let streams = [path(0, 0), path(0, 1), path(1, 2), path(2, 3)];
        let given = run(&mut buckets, &streams, Moment(20_000));
        let (slow, free, none) = (sum(&given, |n| n < 2), sum(&given, |n| n == 2), sum(&given, |n| n == 3));
        assert!(slow.abs_diff(20_000_000) < 200_000, "{slow}");
        assert!(free.abs_diff(180_000_000) < 2_000_000, "{free}");
        assert_eq!(none, 0);
    }

    #[test]
    fn a_change_holds_from_its_moment_on() {
        let mut buckets = Buckets::default();
        assert!(buckets.is_empty());
        buckets.handle_want(Moment(0), path(0, 0), 1 << 40);
        assert_eq!(buckets.poll_action().map(|granted| granted.bytes), Some(1 << 40), "no limit, no waiting");
        buckets.set_rate(Moment(0), Key::Transfer(0), Some(1));
        let want = buckets.handle_want(Moment(0), path(0, 0), LEAF);
        assert_eq!((buckets.poll_action(), buckets.next_timeout()), (None, Some(Moment(LEAF * 1_000))));
        assert_eq!(buckets.lowest(&path(0, 0)), Some((&Key::Transfer(0), 1)));
        buckets.set_rate(Moment(500), Key::Transfer(0), Some(0));
        assert_eq!((buckets.poll_action(), buckets.next_timeout()), (None, None));
        buckets.set_rate(Moment(600), Key::Transfer(0), None);
        assert_eq!(buckets.poll_action(), Some(Granted { want, bytes: LEAF }));
        assert_eq!(buckets.waiting(), 0);
    }

    #[test]
    fn who_cancels_holds_nobody() {
        let mut buckets = Buckets::default();
        buckets.set_rate(Moment(0), Key::All, Some(1_000));
        let first = buckets.handle_want(Moment(0), path(0, 0), LEAF);
        let second = buckets.handle_want(Moment(0), path(0, 1), 10);
        assert_eq!(buckets.poll_action(), None);
        buckets.handle_cancel(Moment(20), first);
        assert_eq!(buckets.poll_action(), Some(Granted { want: second, bytes: 10 }));
    }

    fn rates() -> impl Strategy<Value = Vec<(Key, u64)>> {
        let key = prop_oneof![Just(Key::All), (0_u8..3).prop_map(Key::Group), (0_u8..4).prop_map(Key::Transfer),];
        proptest::collection::vec((key, prop_oneof![1_u64..100_000, 100_000_u64..500_000_000]), 1..6)
    }

    proptest! {
        /// Over any window each bucket lets through at most rate x window + burst, whatever comes and goes; so children
        /// never exceed their parent.
        #[test]
        fn no_bucket_lets_more_through(
            rates in rates(),
            steps in proptest::collection::vec((0_u64..300, 0_u8..3, 0_u8..4, 1_u64..2_000_000, 0_u8..8), 1..200),
        ) {
            let mut buckets = Buckets::default();
            for (key, rate) in &rates {
                buckets.set_rate(Moment(0), *key, Some(*rate));
            }
            let mut now = Moment(0);
            let mut paths = BTreeMap::new();
            let mut given: Vec<(Moment, Vec<Key>, u64)> = Vec::new();
            for (pause, group, transfer, bytes, what) in steps {
                now = Moment(now.0 + pause);
                if what == 0 && let Some((want, _)) = paths.pop_first() {
                    buckets.handle_cancel(now, want);
                } else {
                    let path = path(group, transfer);
                    let want = buckets.handle_want(now, path.clone(), bytes);
                    paths.insert(want, path);
                }
                while let Some(granted) = buckets.poll_action() {
                    if let Some(path) = paths.remove(&granted.want) {
                        given.push((now, path, granted.bytes));
                    }
                }
            }
            let present: BTreeMap<Key, u64> = buckets.rates().map(|(key, rate)| (*key, rate)).collect();
            for (key, rate) in present {
                let through: Vec<(Moment, u64)> =
                    given.iter().filter(|(_, path, _)| path.contains(&key)).map(|(at, _, bytes)| (*at, *bytes)).collect();
                for (first, (begin, _)) in through.iter().enumerate() {
                    let mut bytes = 0;
                    for (at, more) in &through[first..] {
                        bytes += more;
                        let window = at.since(*begin).as_millis() as u64;
                        prop_assert!(bytes <= rate * window / 1_000 + burst(rate) + 1, "{key:?} {rate}: {bytes} in {window} ms");
                    }
                }
            }
        }

        /// Everybody is served at last, and a parent whose children want enough is used up.
        #[test]
        fn nobody_starves_and_nothing_is_left(
            all in 200_000_u64..5_000_000,
            group in 50_000_u64..6_000_000,
            streams in proptest::collection::vec((0_u8..3, 0_u8..200), 2..12),
        ) {
            let mut buckets = Buckets::default();
            buckets.set_rate(Moment(0), Key::All, Some(all));
            buckets.set_rate(Moment(0), Key::Group(0), Some(group));
            let mut paths: Vec<Vec<Key>> = streams.iter().map(|(group, transfer)| path(*group, *transfer)).collect();
            // One that only the parent holds.
            paths.push(path(7, 255));
            let seconds = 30;
            let given = run(&mut buckets, &paths, Moment(seconds * 1_000));
            for stream in 0..paths.len() {
                prop_assert!(sum(&given, |other| other == stream) > 0, "stream {stream} got nothing");
            }
            let used = sum(&given, |_| true);
            prop_assert!(used + 2 * burst(all) + all * seconds / 50 >= all * seconds, "{used} of {}", all * seconds);
        }
    }
}
