//! What a download tells its timeline: the machine's and the connections' words as notes.

use std::time::Duration;

use haul_core::download::{Offence, RequestEnd, Setback};
use haul_core::time::Moment;

use super::pool::ConnectError;
use crate::timeline::{Lie, Note, Timeline};

/// Notes when a download begins to wait, and when it goes on.
#[derive(Default)]
pub(super) struct Waits {
    told: Option<String>,
}

impl Waits {
    /// `reason` is why nothing moves now, `due` when something is tried next.
    pub(super) fn tell(&mut self, timeline: &Timeline, now: Moment, reason: Option<&str>, due: Option<Moment>) {
        if self.told.as_deref() == reason {
            return;
        }
        self.told = reason.map(str::to_owned);
        timeline.note(now, reason.map_or(Note::GoesOn, |reason| waits(now, reason, due)));
    }
}

pub(super) fn waits(now: Moment, reason: &str, due: Option<Moment>) -> Note {
    let again_ms = due.map(|due| due.since(now).as_millis() as u64).filter(|wait| *wait > 0);
    Note::Waits { reason: reason.to_owned(), again_ms }
}

pub(super) fn of_setback(setback: Setback) -> Note {
    let ms = |time: Duration| time.as_millis() as u64;
    match setback {
        Setback::Stalled { silence, rate } => Note::Stalled { silence_ms: ms(silence), bps: rate },
        Setback::Late { leaves, rate } => Note::Late { leaves, bps: rate },
        Setback::GivenUp { failures } => Note::GivenUp { failures },
    }
}

pub(super) fn of_call(error: &ConnectError) -> Note {
    match error {
        ConnectError::NotGranted(reason) => Note::Denied { reason: reason.clone() },
        ConnectError::Unreachable(reason) => Note::Unreachable { reason: reason.clone() },
        ConnectError::NoGrant | ConnectError::Broken(_) => Note::Unreachable { reason: error.to_string() },
    }
}

/// None for an end that is as it should be, and for another size, which is noted with that size where it is told.
pub(super) fn of_end(end: RequestEnd) -> Option<Note> {
    match end {
        RequestEnd::Served | RequestEnd::OtherSize | RequestEnd::Interrupted => None,
        RequestEnd::NotHeld => Some(Note::Gone),
        RequestEnd::Changed => Some(Note::Changed),
        RequestEnd::Busy => Some(Note::Busy),
        RequestEnd::Failed => Some(Note::BrokeOff),
    }
}

pub(super) fn of_offence(offence: Offence) -> Note {
    let lie = match offence {
        Offence::Sheet => Lie::Outline,
        Offence::Leaf(leaf) => Lie::Leaf { leaf },
    };
    Note::Banned { lie }
}
