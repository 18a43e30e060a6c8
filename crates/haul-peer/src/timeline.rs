//! What happened in a transfer, for people who ask why: who was tried and how it was found, what each gave, what went
//! wrong with whom.
//!
//! Whoever decides something notes it here, in one line. The newest notes are kept and older ones counted; what a
//! provider gave and fell short of is counted exactly, however much happened. Words are the command line's.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use haul_core::ids::PeerId;
use haul_core::limits::{TIMELINE_NOTES, TIMELINE_PATH_CHARS, TIMELINE_PROVIDERS};
use haul_core::time::{Moment, Timestamp};
use serde::{Deserialize, Serialize};

/// One thing that happened. Times are milliseconds, rates bytes per second as measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "note", rename_all = "kebab-case")]
pub enum Note {
    /// It waits for a place among those that run.
    Queued,
    /// It runs.
    Begun,
    /// Its size is known, and how much of it was here already.
    Known {
        /// Bytes of the content.
        bytes: u64,
        /// Of these, verified by an earlier run.
        here: u64,
    },
    /// The index was asked for providers, and named so many.
    LookedUp {
        /// How many.
        providers: u64,
    },
    /// The index could not be asked.
    LookupFailed {
        /// Why.
        reason: String,
    },
    /// The index took it into the content's swarm.
    InSwarm,
    /// The index planned whom to ask for what.
    Planned {
        /// How many sources the plan names.
        sources: u64,
    },
    /// Nothing moves.
    Waits {
        /// Why.
        reason: String,
        /// Until the next attempt; none if it does not wait for a time.
        again_ms: Option<u64>,
    },
    /// After waiting, somebody is asked again.
    GoesOn,
    /// The sheets of the outline were thrown away: whoever gave them did not finish the proof of the size.
    OutlineForgotten,
    /// A leaf that was verified and written is something else when it is read back: it is fetched again.
    Damaged {
        /// Where it begins, in bytes.
        at: u64,
    },
    /// Its owner paused it.
    Paused,
    /// Its owner gave it up.
    Canceled,
    /// The daemon stopped; the next one goes on.
    Stopped,
    /// It ended without success.
    Failed {
        /// Why.
        reason: String,
    },
    /// Complete and verified.
    Done {
        /// Bytes of the content.
        bytes: u64,
        /// Of these, bytes that came over the network in this run.
        fetched: u64,
        /// How long this run took.
        ms: u64,
    },
    /// A provider became known.
    Found {
        /// From whom.
        how: How,
    },
    /// It is connected, and can be asked.
    Joined,
    /// It cannot be reached.
    Unreachable {
        /// Why.
        reason: String,
    },
    /// It does not serve this peer.
    Denied {
        /// Why.
        reason: String,
    },
    /// It gave the outline: everything is verified against that, and that against the content's id.
    Outline,
    /// It has no room for this download now, and is asked again.
    Busy,
    /// It does not have the content (any more).
    Gone,
    /// Its file is another one by now.
    Changed,
    /// It says that the content has another size.
    OtherSize {
        /// That size.
        bytes: u64,
    },
    /// A request broke.
    BrokeOff,
    /// Its connection ended.
    Lost {
        /// Why.
        reason: String,
    },
    /// Nothing came from it for too long.
    Stalled {
        /// For how long.
        silence_ms: u64,
        /// What it gave before.
        bps: u64,
    },
    /// It was so slow that somebody else was asked for the same leaves too.
    Late {
        /// How many.
        leaves: u64,
        /// What it gave lately.
        bps: u64,
    },
    /// It failed so often in a row that it is not asked again until somebody names it.
    GivenUp {
        /// How often.
        failures: u32,
    },
    /// It lied, and is not asked again for this content.
    Banned {
        /// With what.
        lie: Lie,
    },
}

/// What does not belong to the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "lie", rename_all = "kebab-case")]
pub enum Lie {
    /// Values of an outline.
    Outline,
    /// A leaf.
    Leaf {
        /// Which.
        leaf: u64,
    },
    /// A small file of a folder.
    SmallFile,
}

/// From whom a provider is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// Whoever asked for the download named it, or its listing.
    Asked,
    /// An answer of the index.
    Index,
    /// The index told of it without being asked.
    Push,
    /// A plan of the index.
    Plan,
}

/// A note with its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// When it happened first.
    pub first: Moment,
    /// When it happened last.
    pub last: Moment,
    /// How often it happened between these.
    pub times: u64,
    /// With whom; none if it is about the transfer.
    pub peer: Option<PeerId>,
    /// About which file of a folder; none if it is about the whole. The end of a long path.
    pub file: Option<Arc<str>>,
    /// What.
    pub note: Note,
}

/// What one provider gave and fell short of, in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// From whom it is known.
    pub found: BTreeSet<How>,
    /// Whether it is connected, as far as this transfer knows.
    pub joined: bool,
    /// Whether it gave sheets of the outline.
    pub outline: bool,
    /// Verified bytes.
    pub bytes: u64,
    /// Verified leaves, and small files.
    pub leaves: u64,
    /// Bytes that came and were thrown away: wrong, too late, or not asked for.
    pub wasted: u64,
    /// Time in which it was to give: from joining, or going on, to the last thing that it gave.
    pub giving: Duration,
    /// Calls that did not reach it.
    pub unreachable: u64,
    /// Refusals: denied, busy, gone, changed, another size.
    pub refused: u64,
    /// Requests and connections that broke.
    pub broke: u64,
    /// Stalls.
    pub stalled: u64,
    /// Leaves that were asked of somebody else too.
    pub late: u64,
    /// Its lie, if it is banned.
    pub banned: Option<Lie>,
    /// What it fell short of last.
    pub trouble: Option<(Moment, Note)>,
    since: Option<Moment>,
    lately: Lately,
}

/// Bytes of the present moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lately {
    from: Moment,
    last: Moment,
    bytes: u64,
    bps: u64,
}

impl Lately {
    fn gave(&mut self, now: Moment, bytes: u64) {
        if now.since(self.last) > SILENT {
            // The first bytes say nothing of a rate yet.
            (self.from, self.bytes, self.bps) = (now, 0, 0);
        } else {
            self.bytes += bytes;
        }
        self.last = now;
        let elapsed = now.since(self.from);
        if elapsed >= MEASURE {
            self.bps = self.bytes.saturating_mul(1_000) / (elapsed.as_millis() as u64).max(1);
            (self.from, self.bytes) = (now, 0);
        }
    }
}

/// A rate of the present moment is measured over at least this long …
const MEASURE: Duration = Duration::from_millis(500);
/// … and holds until nothing came for so long.
const SILENT: Duration = Duration::from_secs(3);

impl Tally {
    /// Bytes per second while it was to give; 0 if it gave nothing.
    pub fn bps(&self) -> u64 {
        self.bytes.saturating_mul(1_000) / (self.giving.as_millis() as u64).max(1)
    }

    /// Bytes per second that it gives at present.
    pub fn bps_now(&self, now: Moment) -> u64 {
        if now.since(self.lately.last) > SILENT { 0 } else { self.lately.bps }
    }

    fn note(&mut self, now: Moment, note: &Note) {
        match note {
            Note::Found { how } => drop(self.found.insert(*how)),
            Note::Joined => (self.joined, self.since) = (true, Some(now)),
            Note::Outline => self.outline = true,
            Note::Unreachable { .. } => self.unreachable += 1,
            Note::Denied { .. } | Note::Busy | Note::Gone | Note::Changed | Note::OtherSize { .. } => self.refused += 1,
            Note::BrokeOff | Note::Lost { .. } => self.broke += 1,
            Note::Stalled { .. } => self.stalled += 1,
            Note::Late { leaves, .. } => self.late += leaves,
            Note::Banned { lie } => self.banned = Some(*lie),
            _ => {}
        }
        if matches!(note, Note::Unreachable { .. } | Note::Denied { .. } | Note::Lost { .. } | Note::Banned { .. }) {
            self.joined = false;
        }
        // A lie outweighs whatever follows from it.
        if note.is_trouble() && self.trouble.as_ref().is_none_or(|(_, before)| !matches!(before, Note::Banned { .. })) {
            let mut note = note.clone();
            if let Note::Late { leaves, .. } = &mut note {
                *leaves = self.late;
            }
            self.trouble = Some((now, note));
        }
    }
}

impl Note {
    fn is_trouble(&self) -> bool {
        !matches!(self, Self::Found { .. } | Self::Joined | Self::Outline)
    }

    /// Takes up another one of its kind; false if the two say different things.
    fn absorb(&mut self, other: &Self) -> bool {
        match (&mut *self, other) {
            (Self::Late { leaves, bps }, Self::Late { leaves: more, bps: newer }) => {
                (*leaves, *bps) = (*leaves + more, *newer);
            }
            (Self::Stalled { .. }, Self::Stalled { .. })
            | (Self::LookedUp { .. }, Self::LookedUp { .. })
            | (Self::Planned { .. }, Self::Planned { .. }) => *self = other.clone(),
            (Self::Waits { reason, .. }, Self::Waits { reason: other, .. }) => return reason == other,
            // Runs are told apart.
            (Self::Begun, _) => return false,
            (one, other) => return one == other,
        }
        true
    }
}

/// Notes back from the newest that are looked at for one that a new one repeats.
const REPEATED_WITHIN: usize = 16;

/// What happened in one transfer. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    inner: Arc<Mutex<Told>>,
    /// What this one notes is about that file.
    file: Option<Arc<str>>,
}

/// All of it at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// When it begins, by the wall clock and by the clock of the notes.
    pub began: (Timestamp, Moment),
    /// The newest notes, oldest first.
    pub notes: VecDeque<Noted>,
    /// Older notes that are not kept.
    pub dropped: u64,
    /// By provider.
    pub tallies: BTreeMap<PeerId, Tally>,
}

impl Timeline {
    /// A timeline that begins now.
    pub fn new(wall: Timestamp, now: Moment) -> Self {
        let told = Told { began: (wall, now), ..Told::default() };
        Self { inner: Arc::new(Mutex::new(told)), file: None }
    }

    /// The same timeline, for what happens to one file of a folder.
    #[must_use]
    pub fn of_file(&self, path: &str) -> Self {
        let over = path.chars().count().saturating_sub(TIMELINE_PATH_CHARS);
        let end: String =
            if over > 0 { "…".chars().chain(path.chars().skip(over + 1)).collect() } else { path.into() };
        Self { inner: Arc::clone(&self.inner), file: Some(end.into()) }
    }

    /// Notes what happened to the transfer.
    pub fn note(&self, now: Moment, note: Note) {
        let mut told = self.lock();
        if note == Note::Begun {
            // What is open from before belongs to the run before.
            for tally in told.tallies.values_mut() {
                (tally.joined, tally.outline, tally.since) = (false, false, None);
            }
        }
        told.push(now, None, self.file.as_ref(), note);
    }

    /// Notes what happened with a provider. That it was found, joined, or gave the outline is noted once.
    pub fn note_of(&self, now: Moment, peer: PeerId, note: Note) {
        let mut told = self.lock();
        let Some(tally) = told.tally(peer) else { return };
        let known = match &note {
            Note::Found { .. } => !tally.found.is_empty(),
            Note::Joined => tally.joined,
            Note::Outline => tally.outline,
            Note::Banned { .. } => tally.banned.is_some(),
            _ => false,
        };
        tally.note(now, &note);
        if !known {
            told.push(now, Some(peer), self.file.as_ref(), note);
        }
    }

    /// A provider gave verified bytes.
    pub fn gave(&self, now: Moment, peer: PeerId, bytes: u64, leaves: u64) {
        if let Some(tally) = self.lock().tally(peer) {
            tally.bytes += bytes;
            tally.leaves += leaves;
            tally.lately.gave(now, bytes);
            if let Some(since) = tally.since.replace(now) {
                tally.giving += now.since(since);
            }
        }
    }

    /// Bytes came from a provider that were of no use.
    pub fn wasted(&self, peer: PeerId, bytes: u64) {
        if let Some(tally) = self.lock().tally(peer).filter(|_| bytes > 0) {
            tally.wasted += bytes;
        }
    }

    /// Verified bytes from all providers, over all runs.
    pub fn received(&self) -> u64 {
        self.lock().tallies.values().map(|tally| tally.bytes).sum()
    }

    /// All of it, as it is now.
    pub fn told(&self) -> Told {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        // A panic between two assignments leaves at most one number too low.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    /// None for one provider too many.
    fn tally(&mut self, peer: PeerId) -> Option<&mut Tally> {
        if self.tallies.len() >= TIMELINE_PROVIDERS && !self.tallies.contains_key(&peer) {
            return None;
        }
        Some(self.tallies.entry(peer).or_default())
    }

    fn push(&mut self, now: Moment, peer: Option<PeerId>, file: Option<&Arc<str>>, note: Note) {
        let lately = self.notes.iter_mut().rev().take(REPEATED_WITHIN).take_while(|noted| noted.note != Note::Begun);
        for noted in lately.filter(|noted| noted.peer == peer && noted.file.as_ref() == file) {
            if noted.note.absorb(&note) {
                (noted.last, noted.times) = (now, noted.times + 1);
                return;
            }
        }
        if self.notes.len() >= TIMELINE_NOTES {
            self.notes.pop_front();
            self.dropped += 1;
        }
        self.notes.push_back(Noted { first: now, last: now, times: 1, peer, file: file.cloned(), note });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn peer(byte: u8) -> PeerId {
        let mut bytes = [7; 32];
        bytes[0] = byte;
        PeerId::new(bytes).unwrap()
    }

    #[test]
    fn memory_is_bounded_and_totals_are_exact() {
        let timeline = Timeline::new(Timestamp(5), Moment(0));
        let liar = peer(1);
        timeline.note_of(Moment(1), liar, Note::Banned { lie: Lie::Leaf { leaf: 3 } });
        for n in 0..1_000 {
            timeline.note_of(Moment(n), peer(2), Note::Unreachable { reason: n.to_string() });
        }
        for n in 0..2 * TIMELINE_PROVIDERS as u64 {
            let mut bytes = [9; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            if let Ok(peer) = PeerId::new(bytes) {
                timeline.wasted(peer, 1);
            }
        }
        let told = timeline.told();
        assert_eq!(told.notes.len(), TIMELINE_NOTES);
        assert_eq!(told.dropped, 1_001 - TIMELINE_NOTES as u64);
        assert!(told.tallies.len() <= TIMELINE_PROVIDERS);
        assert_eq!(told.tallies[&peer(2)].unreachable, 1_000);
        assert_eq!(told.tallies[&liar].banned, Some(Lie::Leaf { leaf: 3 }), "known however much followed");
    }

    #[test]
    fn what_repeats_is_one_note() {
        let timeline = Timeline::default();
        timeline.note(Moment(0), Note::Begun);
        for n in 1..=50 {
            timeline.note_of(Moment(n), peer(1), Note::Busy);
            timeline.note_of(Moment(n), peer(2), Note::Late { leaves: 2, bps: n });
            timeline.note_of(Moment(n), peer(2), Note::Joined);
        }
        let told = timeline.told();
        assert_eq!(told.notes.len(), 4, "{:?}", told.notes);
        let busy = &told.notes[1];
        assert_eq!((busy.first, busy.last, busy.times), (Moment(1), Moment(50), 50));
        assert_eq!(told.notes[2].note, Note::Late { leaves: 100, bps: 50 });
        assert_eq!((told.tallies[&peer(1)].refused, told.tallies[&peer(2)].late), (50, 100));
        // Another run is told for itself.
        timeline.note(Moment(60), Note::Begun);
        timeline.note_of(Moment(61), peer(1), Note::Busy);
        assert_eq!(timeline.told().notes.len(), 6);
    }

    #[test]
    fn notes_name_the_file_that_they_are_about() {
        let timeline = Timeline::default();
        let (one, other) = (timeline.of_file("a/one"), timeline.of_file(&format!("{}/other", "ü".repeat(500))));
        for n in 0..3 {
            one.note_of(Moment(n), peer(1), Note::Busy);
            other.note_of(Moment(n), peer(1), Note::Busy);
            timeline.note_of(Moment(n), peer(1), Note::Busy);
        }
        let told = timeline.told();
        let files: Vec<_> = told.notes.iter().map(|noted| (noted.file.as_deref(), noted.times)).collect();
        let end = format!("…{}/other", "ü".repeat(TIMELINE_PATH_CHARS - 7));
        assert_eq!(files, [(Some("a/one"), 3), (Some(end.as_str()), 3), (None, 3)]);
        assert_eq!(told.tallies[&peer(1)].refused, 9, "providers are counted over all files");
    }

    #[test]
    fn a_pause_does_not_slow_a_provider_down() {
        let timeline = Timeline::default();
        let one = peer(1);
        for start in [0, 1_000_000] {
            timeline.note(Moment(start), Note::Begun);
            timeline.note_of(Moment(start + 100), one, Note::Joined);
            timeline.gave(Moment(start + 600), one, 1_000, 1);
            timeline.gave(Moment(start + 1_100), one, 1_000, 1);
        }
        let tally = &timeline.told().tallies[&one];
        assert_eq!((tally.bytes, tally.leaves, tally.giving, tally.bps()), (4_000, 4, Duration::from_secs(2), 2_000));
        assert_eq!((tally.bps_now(Moment(1_001_200)), tally.bps_now(Moment(1_009_000))), (2_000, 0));
    }
}
