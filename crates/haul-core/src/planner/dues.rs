//! What sources owe one sink: how many bytes were planned of each and not reported yet.
//!
//! Reports are claims. Of what a sink says it received, no more counts than was planned, and a source is blamed only by
//! those that were to ask it.

use alloc::vec::Vec;

use crate::ids::PeerId;
use crate::limits::PLAN_LEASE;
use crate::time::Moment;

/// What every source owes one sink.
#[derive(Clone, Debug, Default)]
pub(super) struct Dues(Vec<Due>);

#[derive(Clone, Debug)]
struct Due {
    source: PeerId,
    bytes: u64,
    /// When something was last planned or taken back. What was asked for then may be under way for a lease longer.
    touched: Moment,
}

impl Dues {
    /// So many bytes are planned.
    pub(super) fn plan(&mut self, now: Moment, source: PeerId, bytes: u64) {
        if let Some(due) = self.find(&source) {
            due.bytes += bytes;
            due.touched = now;
        } else {
            self.0.push(Due { source, bytes, touched: now });
        }
    }

    /// A delivery of which nothing has come is not planned any more: so much less is to come.
    pub(super) fn cancel(&mut self, source: &PeerId, bytes: u64) {
        if let Some(due) = self.find(source) {
            due.bytes = due.bytes.saturating_sub(bytes);
        }
    }

    /// A delivery is planned of another source now. What is under way already may still come.
    pub(super) fn take_back(&mut self, now: Moment, source: &PeerId) {
        if let Some(due) = self.find(source) {
            due.touched = now;
        }
    }

    /// So many bytes are said to have come; how many of them count.
    pub(super) fn receive(&mut self, source: &PeerId, bytes: u64) -> u64 {
        let Some(due) = self.find(source) else { return 0 };
        let counted = bytes.min(due.bytes);
        due.bytes -= counted;
        counted
    }

    /// The source failed: until something is planned of it again, nothing is to come.
    pub(super) fn close(&mut self, source: &PeerId) {
        self.0.retain(|due| due.source != *source);
    }

    /// Whether this source was to be asked lately.
    pub(super) fn is_open(&self, source: &PeerId) -> bool {
        self.0.iter().any(|due| due.source == *source)
    }

    /// Forgets sources of which nothing is planned any more and nothing can be under way.
    pub(super) fn forget_old(&mut self, now: Moment, is_planned: impl Fn(&PeerId) -> bool) {
        self.0.retain(|due| now.since(due.touched) <= PLAN_LEASE || is_planned(&due.source));
    }

    fn find(&mut self, source: &PeerId) -> Option<&mut Due> {
        self.0.iter_mut().find(|due| due.source == *source)
    }
}
