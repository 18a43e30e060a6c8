//! What the download machine knows of one provider: how fast it is, how much may be asked of it, when it has stalled.

use alloc::collections::BTreeSet;
use core::time::Duration;

use super::{Have, RequestId};
use crate::limits::LEAF_BYTES;
use crate::time::Moment;

/// Leaves asked for at first: 1 MiB shows the rate without committing much to a stranger.
const FIRST_WINDOW: u64 = 16;
/// Leaves that may be open with the fastest provider: 32 MiB are 2 x the bandwidth-delay product of 10 Gbit/s at 13 ms.
const LARGEST_WINDOW: u64 = 512;
/// Leaves that may be open with the slowest.
const SMALLEST_WINDOW: u64 = 2;
/// A window holds what the provider gives in this time: long enough to hide scheduling, short enough to stay fair.
const WINDOW_TIME: Duration = Duration::from_millis(250);
/// A rate is measured over at least this long.
const MEASURE: Duration = Duration::from_millis(50);
/// Bounds of the time without progress after which a provider of known rate counts as stalled.
const STALL_SHORTEST: Duration = Duration::from_secs(3);
const STALL_LONGEST: Duration = Duration::from_secs(20);
/// However patient, no longer than this: one leaf then needs 1 KiB/s.
const STALL_MOST_PATIENT: Duration = Duration::from_secs(64);
/// After so many failures in a row a provider is given up until somebody names it again.
pub(super) const FAILURES: u32 = 5;
/// First back-off; doubles with each failure.
const BACK_OFF: Duration = Duration::from_millis(500);

/// What a provider fell short of, for people who ask why a download took its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setback {
    /// Nothing came for so long; it is asked again later.
    Stalled {
        /// Time since anything came, or since it was asked.
        silence: Duration,
        /// Bytes per second that it gave before, as measured; 0 if it never gave anything.
        rate: u64,
    },
    /// Somebody else brings these leaves so much sooner that they are asked of both.
    Late {
        /// How many.
        leaves: u64,
        /// Bytes per second that it gave lately, as measured.
        rate: u64,
    },
    /// It failed so often in a row that it is not asked again until somebody names it.
    GivenUp {
        /// How often.
        failures: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProviderState {
    /// May be asked.
    Ready,
    /// Failed lately; not before this moment.
    Waiting(Moment),
    /// Gone, or does not hold the blob. If its connection has ended, its requests are ending too.
    Lost,
    /// Lied.
    Banned,
}

#[derive(Clone, Debug)]
pub(super) struct Provider {
    pub(super) have: Have,
    pub(super) state: ProviderState,
    /// In a row, without a good leaf between.
    pub(super) failures: u32,
    pub(super) requests: BTreeSet<RequestId>,
    /// Doublings of the time allowed without progress: a link so slow that one leaf takes longer gets its chance.
    patience: u32,
    /// Leaves asked for that have not arrived.
    pub(super) open_leaves: u64,
    /// Leaves that may be open.
    pub(super) window: u64,
    rate: u64,
    /// Shortest time from a request to its first answer.
    delay: Option<Duration>,
    progress: Moment,
    measured_from: Moment,
    measured_bytes: u64,
    /// Since when its requests wait for an upload slot.
    queued: Option<Moment>,
}

impl Provider {
    pub(super) fn new(now: Moment) -> Self {
        Self {
            have: Have::All,
            state: ProviderState::Ready,
            failures: 0,
            patience: 0,
            requests: BTreeSet::new(),
            open_leaves: 0,
            window: FIRST_WINDOW,
            rate: 0,
            delay: None,
            progress: now,
            measured_from: now,
            measured_bytes: 0,
            queued: None,
        }
    }

    /// It is there again. Requests of its old connection may still be ending.
    pub(super) fn revive(&mut self, now: Moment) {
        let requests = core::mem::take(&mut self.requests);
        let (have, patience, open_leaves) = (self.have.clone(), self.patience, self.open_leaves);
        *self = Self { have, requests, patience, open_leaves, ..Self::new(now) };
    }

    /// It may be asked, now or later.
    pub(super) fn is_there(&self) -> bool {
        matches!(self.state, ProviderState::Ready | ProviderState::Waiting(_))
    }

    pub(super) fn wake(&mut self, now: Moment) {
        self.state = ProviderState::Ready;
        self.progress = now;
    }

    /// It says that it has no upload slot free: it is there, and gives nothing.
    pub(super) fn queued(&mut self, now: Moment) {
        self.progress = now;
        self.measured_from = now;
        self.measured_bytes = 0;
        self.queued.get_or_insert(now);
    }

    pub(super) fn is_queued(&self) -> bool {
        self.queued.is_some()
    }

    /// How long it has kept its requests waiting.
    pub(super) fn queued_for(&self, now: Moment) -> Duration {
        self.queued.map_or(Duration::ZERO, |since| now.since(since))
    }

    pub(super) fn rate(&self) -> u64 {
        self.rate
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.requests.is_empty()
    }

    pub(super) fn request_made(&mut self, now: Moment, request: RequestId, leaves: u64) {
        if !self.is_busy() {
            // Idle time says nothing about the rate or about stalls.
            self.progress = now;
            self.measured_from = now;
            self.measured_bytes = 0;
        }
        self.requests.insert(request);
        self.open_leaves += leaves;
    }

    pub(super) fn request_over(&mut self, request: RequestId, open: u64) {
        self.requests.remove(&request);
        if self.requests.is_empty() {
            self.queued = None;
        }
        self.open_leaves = self.open_leaves.saturating_sub(open);
    }

    pub(super) fn sheet_arrived(&mut self, now: Moment, asked: Moment) {
        self.progress = now;
        self.note_delay(now.since(asked));
    }

    pub(super) fn leaf_arrived(&mut self, now: Moment, asked: Option<Moment>, bytes: u64) {
        self.progress = now;
        self.queued = None;
        self.open_leaves = self.open_leaves.saturating_sub(1);
        if let Some(asked) = asked {
            self.note_delay(now.since(asked));
        }
        self.measured_bytes += bytes;
        let elapsed = now.since(self.measured_from);
        if elapsed >= MEASURE {
            let sample = per_second(self.measured_bytes, elapsed);
            self.rate = if self.rate == 0 { sample } else { (7 * self.rate + 3 * sample) / 10 }.max(1);
            self.measured_from = now;
            self.measured_bytes = 0;
        }
        // Doubles per round trip at first, as every arrival makes room for two; ends at what the rate needs.
        self.window = if self.rate == 0 { self.window + 1 } else { (self.window + 1).min(self.needed_window()) };
        self.window = self.window.min(LARGEST_WINDOW);
    }

    /// Twice the bandwidth-delay product, or what comes in [`WINDOW_TIME`].
    fn needed_window(&self) -> u64 {
        let time = WINDOW_TIME.max(2 * self.delay.unwrap_or_default());
        let bytes = self.rate.saturating_mul(time.as_millis() as u64) / 1000;
        bytes.div_ceil(LEAF_BYTES).clamp(SMALLEST_WINDOW, LARGEST_WINDOW)
    }

    fn note_delay(&mut self, delay: Duration) {
        self.delay = Some(self.delay.map_or(delay, |known| known.min(delay)));
    }

    /// How long `leaves` further leaves take, asked for now; a guess while the rate is unknown.
    pub(super) fn time_for(&self, leaves: u64, guess: u64) -> Duration {
        let rate = if self.rate == 0 { guess.max(1) } else { self.rate };
        let transfer = leaves.saturating_mul(LEAF_BYTES).saturating_mul(1000) / rate;
        self.delay.unwrap_or_default() + Duration::from_millis(transfer)
    }

    /// When something came last, or was asked for after idle time.
    pub(super) fn progress(&self) -> Moment {
        self.progress
    }

    /// Time since anything came.
    pub(super) fn silence(&self, now: Moment) -> Duration {
        now.since(self.progress)
    }

    /// How long it may give nothing.
    pub(super) fn allowed_silence(&self, unknown: Duration) -> Duration {
        let allowed = (LEAF_BYTES * 1000).checked_div(self.rate).map_or(unknown, |leaf_ms| {
            let leaf = Duration::from_millis(leaf_ms);
            (8 * leaf + 2 * self.delay.unwrap_or_default()).clamp(STALL_SHORTEST, STALL_LONGEST)
        });
        (allowed * (1 << self.patience)).min(STALL_MOST_PATIENT)
    }

    /// What kept it from giving anything until now was not its fault.
    pub(super) fn excuse(&mut self, now: Moment) {
        self.progress = self.progress.max(now);
    }

    /// Nothing came for too long.
    pub(super) fn stalled(&mut self, now: Moment) -> Setback {
        self.patience = (self.patience + 1).min(5);
        Setback::Stalled { silence: self.silence(now), rate: self.rate }
    }

    /// Notes a failure; the state to go into.
    pub(super) fn failed(&mut self, now: Moment) -> ProviderState {
        self.failures += 1;
        self.window = SMALLEST_WINDOW;
        self.rate /= 2;
        if self.failures >= FAILURES {
            return ProviderState::Lost;
        }
        ProviderState::Waiting(now.after(BACK_OFF * (1 << (self.failures - 1))))
    }
}

fn per_second(bytes: u64, elapsed: Duration) -> u64 {
    bytes.saturating_mul(1000) / (elapsed.as_millis() as u64).max(1)
}
