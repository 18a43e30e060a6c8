//! Who failed whom: which sinks avoid which sources for a while, and which sources are struck out for a while.
//!
//! It is kept by keys, outside the slots, so that nobody is forgiven for leaving and joining again. Everything in it
//! lapses: a sink may itself be at fault, two of them may lie, and links recover.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use crate::ids::PeerId;
use crate::limits::{FAILURE_LAPSE, FAILURES_KEPT, SOURCES_AVOIDED, STRIKES};
use crate::time::Moment;

/// Who gave something to others so shortly before it failed one, or since, is not at fault: four reports.
const GAVE_LATELY: Duration = Duration::from_secs(2);
/// For each doubling of this number of sinks one more has to be failed: of many, a few are always cut off.
const LARGE: usize = 32;
/// A failure that happens again counts for twice as long, up to so many times.
const DOUBLINGS: u32 = 4;

#[derive(Clone, Debug, Default)]
pub(super) struct Failures {
    sources: BTreeMap<PeerId, Source>,
}

/// A source that failed somebody.
#[derive(Clone, Debug, Default)]
struct Source {
    /// Oldest first.
    failures: Vec<Failure>,
    /// When bytes of it were last reported.
    gave: Option<Moment>,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    sink: PeerId,
    at: Moment,
    lapse: Duration,
    /// It happened before, until it is forgotten.
    times: u32,
    /// Others had something from this source at that time.
    excused: bool,
}

impl Failure {
    fn counts(&self, now: Moment) -> bool {
        now.since(self.at) < self.lapse
    }
}

impl Failures {
    /// A source failed a sink; `gave` is when anybody last reported bytes of it.
    pub(super) fn note(&mut self, now: Moment, source: PeerId, sink: PeerId, gave: Option<Moment>) {
        self.make_room(now, sink, source);
        let known = self.sources.entry(source).or_default();
        known.gave = known.gave.max(gave);
        let before = known.failures.iter().position(|failure| failure.sink == sink);
        let before = before.map(|at| known.failures.remove(at));
        // Told twice of one failure: the lapse runs from the first on.
        let times = before.map_or(0, |before| before.times + u32::from(!before.counts(now)));
        let at = before.filter(|before| before.counts(now)).map_or(now, |before| before.at);
        let excused = known.gave.is_some_and(|gave| now.since(gave) < GAVE_LATELY || gave >= at);
        if known.failures.len() == FAILURES_KEPT {
            known.failures.remove(0);
        }
        let lapse = FAILURE_LAPSE * (1 << times.min(DOUBLINGS));
        known.failures.push(Failure { sink, at, lapse, times, excused });
    }

    /// Bytes of a source were reported: what it is blamed for is not its fault alone.
    pub(super) fn gave(&mut self, now: Moment, source: &PeerId, sink: &PeerId) {
        let Some(known) = self.sources.get_mut(source) else { return };
        known.gave = known.gave.max(Some(now));
        // Whoever blamed it has no say in that.
        if known.failures.iter().all(|failure| failure.sink != *sink) {
            known.failures.iter_mut().for_each(|failure| failure.excused = true);
        }
    }

    /// Whether a source is struck out in a swarm of so many sinks.
    pub(super) fn is_struck(&self, now: Moment, source: &PeerId, sinks: usize) -> bool {
        let Some(known) = self.sources.get(source) else { return false };
        let enough = STRIKES + (sinks / LARGE).checked_ilog2().unwrap_or(0) as usize;
        known.failures.iter().filter(|failure| failure.counts(now) && !failure.excused).count() >= enough
    }

    /// The sources that a sink is to avoid.
    pub(super) fn avoided_by(&self, now: Moment, sink: &PeerId) -> Vec<PeerId> {
        let avoided = |known: &Source| known.failures.iter().any(|one| one.sink == *sink && one.counts(now));
        self.sources.iter().filter(|(_, known)| avoided(known)).map(|(source, _)| *source).collect()
    }

    /// Forgets what lapsed as long ago as it counted.
    pub(super) fn forget_old(&mut self, now: Moment) {
        self.sources.retain(|_, known| {
            known.failures.retain(|failure| now.since(failure.at) < 2 * failure.lapse);
            !known.failures.is_empty()
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// A sink that fails with everybody must not end up with nobody: the oldest of its failures is forgiven.
    fn make_room(&mut self, now: Moment, sink: PeerId, source: PeerId) {
        let of_sink =
            |known: &Source| known.failures.iter().find(|one| one.sink == sink && one.counts(now)).map(|one| one.at);
        let all: Vec<(Moment, PeerId)> =
            self.sources.iter().filter_map(|(source, known)| Some((of_sink(known)?, *source))).collect();
        if all.len() >= SOURCES_AVOIDED
            && all.iter().all(|(_, known)| *known != source)
            && let Some((_, oldest)) = all.into_iter().min()
            && let Some(known) = self.sources.get_mut(&oldest)
        {
            known.failures.retain(|failure| failure.sink != sink);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ids::PublicKey;

    fn peer(n: u8) -> PeerId {
        PublicKey::new([n; 32]).unwrap()
    }

    const SOURCE: u8 = 100;

    fn failed_by(sinks: &[u8], at: Moment) -> Failures {
        let mut failures = Failures::default();
        for sink in sinks {
            failures.note(at, peer(SOURCE), peer(*sink), None);
        }
        failures
    }

    #[test]
    fn a_large_swarm_takes_more_than_two() {
        let now = Moment(10_000);
        let struck =
            |failed: u8, sinks| failed_by(&(1..=failed).collect::<Vec<u8>>(), now).is_struck(now, &peer(SOURCE), sinks);
        assert!(!struck(1, 2) && struck(2, 2) && struck(2, 63));
        assert!(!struck(2, 64) && struck(3, 64));
        assert!(!struck(4, 256) && struck(5, 256));
    }

    #[test]
    fn failures_lapse_and_count_longer_when_they_happen_again() {
        let mut now = Moment(10_000);
        let mut failures = failed_by(&[1, 2], now);
        for times in 0..3 {
            let counts = FAILURE_LAPSE * (1 << times);
            let last = now.after(counts.saturating_sub(Duration::from_millis(1)));
            assert!(failures.is_struck(last, &peer(SOURCE), 2));
            assert_eq!(failures.avoided_by(last, &peer(1)), [peer(SOURCE)]);
            now = now.after(counts);
            assert!(!failures.is_struck(now, &peer(SOURCE), 2));
            assert!(failures.avoided_by(now, &peer(1)).is_empty());
            failures.forget_old(now);
            for sink in [1, 2] {
                failures.note(now, peer(SOURCE), peer(sink), None);
            }
        }
        failures.forget_old(now.after(FAILURE_LAPSE * 16));
        assert!(failures.is_empty());
    }

    #[test]
    fn what_others_got_excuses_and_what_accusers_say_does_not() {
        let now = Moment(10_000);
        let mut failures = failed_by(&[1, 2], now);
        failures.gave(now, &peer(SOURCE), &peer(1));
        assert!(failures.is_struck(now, &peer(SOURCE), 2));
        failures.gave(now, &peer(SOURCE), &peer(3));
        assert!(!failures.is_struck(now, &peer(SOURCE), 2));
        assert_eq!(failures.avoided_by(now, &peer(1)), [peer(SOURCE)], "it did fail this one");
    }

    #[test]
    fn who_fails_with_everybody_does_not_avoid_everybody() {
        let mut failures = Failures::default();
        for source in 10..30 {
            failures.note(Moment(u64::from(source)), peer(source), peer(1), None);
        }
        let avoided = failures.avoided_by(Moment(30), &peer(1));
        assert_eq!(avoided, (30 - SOURCES_AVOIDED as u8..30).map(peer).collect::<Vec<_>>());
    }
}
