//! What a transfer tells while it runs: progress to those who follow it, and to its timeline what providers did.

use std::time::Duration;

use haul_core::ids::PeerId;
use haul_core::time::Moment;
use haul_net::clock::boot_now;

use super::super::{FetchProgress, ProviderProgress, noting};
use super::Transfer;
use crate::timeline::Note;

/// Without a byte for so long a download says that it stands still, and why.
const STILL: Duration = Duration::from_secs(3);
/// How often progress is told.
const TELL: Duration = Duration::from_millis(100);

/// What was told last.
pub(super) struct Told {
    at: Moment,
    bytes: u64,
    rate: u64,
    /// When bytes came last.
    moved: Moment,
    waits: noting::Waits,
}

impl Told {
    pub(super) fn new(now: Moment, bytes: u64) -> Self {
        Self { at: now, bytes, rate: 0, moved: now, waits: noting::Waits::default() }
    }
}

impl Transfer<'_> {
    pub(super) fn note_of(&self, provider: PeerId, note: Note) {
        self.start.timeline.note_of(boot_now(), provider, note);
    }

    pub(super) fn claims_other_size(&mut self, provider: PeerId, size: u64) {
        self.other_sizes.insert(size);
        self.providers.trouble(provider, format!("says that the content has {size} bytes"));
        self.note_of(provider, Note::OtherSize { bytes: size });
    }

    pub(super) fn tell(&mut self, now_or_never: bool) {
        let now = boot_now();
        let elapsed = now.since(self.told.at);
        if elapsed < TELL && !now_or_never {
            return;
        }
        if elapsed >= TELL {
            let sample = self.done_bytes.saturating_sub(self.told.bytes) * 1000 / elapsed.as_millis().max(1) as u64;
            // By time: a download that stands still tells seldom, and has no rate a second later.
            let weight = if self.told.rate == 0 { 1_000 } else { (elapsed.as_millis() as u64).min(1_000) };
            self.told.rate = ((1_000 - weight) * self.told.rate + weight * sample) / 1_000;
            if self.done_bytes > self.told.bytes {
                self.told.moved = now;
            }
            self.told.at = now;
            self.told.bytes = self.done_bytes;
        }
        let providers = self.providers.told(&self.tally.gave).map(|(peer, bytes, trouble)| ProviderProgress {
            peer,
            bytes,
            trouble,
        });
        let starved = self.machine.starved();
        let still = !self.finished && now.since(self.told.moved) >= STILL;
        let waiting = match starved {
            Some(starved) => Some((self.providers.waiting_for(starved), None)),
            None => self
                .held
                .reason(now)
                .or_else(|| Some((self.providers.waiting_for_slot()?, None)))
                .or_else(|| still.then(|| (self.providers.still_for(), None))),
        };
        let (reason, next) = waiting.unzip();
        let due = starved.and_then(|_| self.providers.next_due());
        self.told.waits.tell(&self.start.timeline, now, reason.as_deref(), due);
        self.start.progress.send_replace(FetchProgress {
            done: self.done_bytes,
            total: self.start.geometry.size(),
            files_done: u64::from(self.finished),
            files: 1,
            bytes_per_second: self.told.rate,
            providers: providers.collect(),
            reason,
            next: next.flatten(),
        });
    }
}
