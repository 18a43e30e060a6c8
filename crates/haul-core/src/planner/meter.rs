//! How fast one direction of one peer's link is, and how long what is planned on it will take.

use core::time::Duration;

use crate::limits::{FASTEST_RATE, UPLINK_ASSUMED};
use crate::time::Moment;

/// No link is taken for slower than this many bytes per second.
const SLOWEST_RATE: u64 = 16_384;
/// Length of a window in which a known rate is measured: several reports long, so that lumps even out.
const WINDOW_SECONDS: u64 = 2;
/// Length of the windows until the rate is known.
const FIRST_WINDOW: Duration = Duration::from_secs(1);
/// What somebody says of its own link is believed up to so many times what others have reported or what is assumed: a claim
/// makes nobody the source of everybody.
const BELIEVED: u64 = 4;

/// One direction of one link.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    /// Bytes per second.
    rate: u64,
    /// Whether `rate` was measured or told.
    known: bool,
    /// What its owner says that it carries: nothing is found out by probing.
    said: Option<u64>,
    /// It carried less than half of what was said: it is measured like any other from then on.
    doubted: bool,
    /// Bytes planned and not yet reported.
    open: u64,
    /// Bytes reported in the present window.
    moved: u64,
    /// Bytes per second of the fastest window, or what is assumed of a link without one.
    shown: u64,
    window_from: Moment,
    /// Whether there was ever something to move.
    begun: bool,
    /// Whether anything was ever reported.
    reported: bool,
    /// Microseconds that the open bytes take at this rate.
    queue_us: u64,
    /// Microseconds of one piece.
    piece_us: u64,
    piece_bytes: u64,
}

impl Meter {
    pub(super) fn new(now: Moment, piece_bytes: u64, told: Option<u64>) -> Self {
        let mut meter = Self {
            rate: 0,
            known: false,
            said: None,
            doubted: false,
            open: 0,
            moved: 0,
            shown: UPLINK_ASSUMED,
            window_from: now,
            begun: false,
            reported: false,
            queue_us: 0,
            piece_us: 0,
            piece_bytes,
        };
        meter.set_rate(UPLINK_ASSUMED);
        if let Some(rate) = told {
            meter.tell(rate);
        }
        meter
    }

    pub(super) fn rate(&self) -> u64 {
        self.rate
    }

    /// The rate, if it was measured or told.
    pub(super) fn measured(&self) -> Option<u64> {
        self.known.then_some(self.rate)
    }

    /// Its owner says that it carries so many bytes per second; 0 takes that back.
    pub(super) fn tell(&mut self, rate: u64) {
        if rate == 0 {
            self.said = None;
            return;
        }
        if self.doubted {
            // That it is slower can be believed.
            self.set_rate(rate.min(self.rate));
            return;
        }
        self.set_rate(rate.min(self.shown.saturating_mul(BELIEVED)));
        (self.known, self.said) = (true, Some(rate));
    }

    /// Whether it is time for [`Self::end_window`].
    pub(super) fn window_is_over(&self, now: Moment) -> bool {
        let window = if self.known && self.reported { Duration::from_secs(WINDOW_SECONDS) } else { FIRST_WINDOW };
        self.begun && now.since(self.window_from) >= window
    }

    pub(super) fn queue_us(&self) -> u64 {
        self.queue_us
    }

    pub(super) fn piece_us(&self) -> u64 {
        self.piece_us
    }

    /// When a piece that is planned now would be through, in microseconds from now: the virtual finish time of the link.
    pub(super) fn finish_us(&self) -> u64 {
        self.queue_us + self.piece_us
    }

    /// Bytes planned and not yet reported.
    #[cfg(test)]
    pub(super) fn open(&self) -> u64 {
        self.open
    }

    /// These bytes were planned.
    pub(super) fn plan(&mut self, bytes: u64) {
        self.open += bytes;
        self.refresh();
    }

    /// Something can move from now on. A link of which nothing is ever reported is measured, too.
    pub(super) fn begin(&mut self, now: Moment) {
        if !self.begun {
            self.begun = true;
            self.window_from = now;
        }
    }

    /// Of the planned bytes these have come, or will not come this way after all.
    pub(super) fn settle(&mut self, bytes: u64) {
        self.open = self.open.saturating_sub(bytes);
        self.refresh();
    }

    /// These bytes were reported, planned or not.
    pub(super) fn note(&mut self, now: Moment, bytes: u64) {
        if !self.reported {
            // What the first report tells of began at an unknown time.
            (self.begun, self.reported) = (true, true);
            self.window_from = now;
            return;
        }
        self.moved = self.moved.saturating_add(bytes);
        // A link that moves twice in part of a window what was expected of all of it is faster: no need to wait.
        if self.moved > 2 * WINDOW_SECONDS * self.rate {
            self.set_rate(self.moved / WINDOW_SECONDS);
        }
    }

    /// Ends a window. A link that was busy all through it shows its rate; another one shows a lower bound only. To
    /// `probe` is to take such a link for half as fast again as what it showed, so that it gets more to do.
    pub(super) fn end_window(&mut self, now: Moment, busy: bool, probe: bool) {
        let elapsed = (now.since(self.window_from).as_millis() as u64).max(1);
        let sample = self.moved.saturating_mul(1000) / elapsed;
        self.moved = 0;
        self.window_from = now;
        if busy && !self.reported {
            // Not even a leaf, ever: that is no lump in the reports.
            self.set_rate(self.rate / 4);
            self.known = true;
            self.doubt();
            return;
        }
        if sample > self.shown {
            // More of what was said can be believed.
            let before = self.shown.saturating_mul(BELIEVED);
            self.shown = sample;
            if let Some(said) = self.said.filter(|said| *said > before) {
                self.set_rate(said.min(sample.saturating_mul(BELIEVED)));
            }
        }
        if busy && self.said.is_some() && sample < self.rate / 2 {
            self.doubt();
        }
        // Reports come in lumps, and a link may have waited for another: what one window shows is believed in part.
        if probe && !busy && self.said.is_none() {
            self.set_rate(u64::midpoint(self.rate, self.rate.max(sample + sample / 2)));
        } else if busy && !self.known {
            self.set_rate(u64::midpoint(self.rate, sample));
        } else if busy || sample > self.rate && self.said.is_none() {
            self.set_rate((3 * self.rate + sample) / 4);
        }
        self.known |= busy;
    }

    fn doubt(&mut self) {
        self.doubted |= self.said.take().is_some();
    }

    fn set_rate(&mut self, rate: u64) {
        self.rate = rate.clamp(SLOWEST_RATE, FASTEST_RATE);
        self.piece_us = self.piece_bytes.saturating_mul(1_000_000) / self.rate;
        self.refresh();
    }

    fn refresh(&mut self) {
        self.queue_us = self.open.saturating_mul(1_000_000) / self.rate;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 1 << 20;
    #[test]
    fn a_busy_link_shows_its_rate_and_an_idle_one_a_lower_bound() {
        let mut meter = Meter::new(Moment(0), PIECE, None);
        assert!(!meter.window_is_over(Moment(5000)), "nothing was reported yet");
        meter.note(Moment(5000), 9_000_000);
        meter.note(Moment(5500), 1_000_000);
        assert!(meter.window_is_over(Moment(6000)));
        meter.end_window(Moment(6000), false, false);
        assert_eq!(meter.rate(), UPLINK_ASSUMED);
        meter.note(Moment(6500), 2_250_000);
        meter.end_window(Moment(7000), true, false);
        assert_eq!(meter.rate(), 4_250_000, "half of the way from a guess");
        assert!(!meter.window_is_over(Moment(8000)), "a known rate is measured for longer");
        meter.note(Moment(8500), 500_000);
        meter.end_window(Moment(9000), true, false);
        assert_eq!(meter.rate(), 3_250_000, "a quarter of the way");
        meter.note(Moment(9500), 14_000_000);
        assert_eq!(meter.rate(), 7_000_000, "twice what was expected is told before the window ends");
        meter.end_window(Moment(11_000), false, false);
        assert_eq!(meter.rate(), 7_000_000);
    }

    #[test]
    fn a_link_that_has_work_and_moves_nothing_is_soon_known_as_slow() {
        let mut meter = Meter::new(Moment(0), PIECE, None);
        meter.begin(Moment(5_000));
        assert!(!meter.window_is_over(Moment(5_999)) && meter.window_is_over(Moment(6_000)));
        meter.end_window(Moment(6_000), false, false);
        assert_eq!(meter.rate(), UPLINK_ASSUMED, "the plan may still be under way");
        for (at, rate) in [(8_000, UPLINK_ASSUMED / 4), (10_000, UPLINK_ASSUMED / 16)] {
            meter.end_window(Moment(at), true, false);
            assert_eq!(meter.rate(), rate);
        }
    }

    #[test]
    fn the_queue_is_what_is_planned_over_the_rate() {
        let mut meter = Meter::new(Moment(0), PIECE, Some(PIECE));
        meter.plan(2 * PIECE);
        assert_eq!((meter.queue_us(), meter.finish_us()), (2_000_000, 3_000_000));
        meter.settle(PIECE / 2);
        assert_eq!(meter.queue_us(), 1_500_000);
        meter.note(Moment(1), PIECE);
        assert_eq!(meter.queue_us(), 1_500_000, "what nobody planned makes the queue no shorter");
    }

    #[test]
    fn what_is_said_of_a_link_is_believed_as_far_as_it_is_borne_out() {
        let mut meter = Meter::new(Moment(0), PIECE, Some(u64::MAX));
        assert_eq!(meter.rate(), BELIEVED * UPLINK_ASSUMED);
        meter.note(Moment(0), 1);
        meter.note(Moment(1_000), 14_000_000);
        meter.end_window(Moment(2_000), false, false);
        assert_eq!(meter.rate(), BELIEVED * 7_000_000, "more was shown");
        meter.tell(5_000_000);
        assert_eq!(meter.rate(), 5_000_000);
        meter.end_window(Moment(4_000), false, true);
        assert_eq!(meter.rate(), 5_000_000, "nobody has to find out");
        meter.note(Moment(5_000), 2_000_000);
        meter.end_window(Moment(6_000), true, false);
        assert_eq!(meter.rate(), 4_000_000, "a quarter of the way to what it carried");
        meter.tell(9_000_000);
        assert_eq!(meter.rate(), 4_000_000, "it was less than half");
        meter.tell(3_000_000);
        assert_eq!(meter.rate(), 3_000_000);
        meter.tell(0);
        assert_eq!(meter.rate(), 3_000_000, "nothing is said, and what was seen stays");
    }
}
