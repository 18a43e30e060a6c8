//! A download under a limit of bandwidth: asks for allowance, one request at a time, and says by what it is held.

use std::sync::Arc;
use std::time::Duration;

use haul_core::bandwidth::rate_text;
use haul_core::limits::LEAF_BYTES;
use haul_core::time::Moment;
use haul_core::wire::Label;

use super::Downloader;
use crate::bandwidth::{Bandwidth, Pacer, Route, Scope};

/// Allowance asked for at once: a tenth of a second of the rate, whole leaves …
const PARTS_PER_SECOND: u64 = 10;
/// … and a mebibyte at most, so that downloads take turns.
const LARGEST: u64 = 16 * LEAF_BYTES;
/// A download that was held within this time is one that a limit holds.
const LATELY: Duration = Duration::from_secs(2);

/// Bytes to ask a limit for: few for a low rate, or others would wait long for their turn.
pub(super) fn quantum(pacer: &Pacer, route: &Route) -> u64 {
    let rate = pacer.lowest(route).map_or(u64::MAX, |(_, rate)| rate);
    let leaves = rate / PARTS_PER_SECOND / LEAF_BYTES;
    (leaves * LEAF_BYTES).clamp(LEAF_BYTES, LARGEST)
}

/// What a download knows of its limit.
pub(super) struct Held {
    bandwidth: Arc<Bandwidth>,
    route: Route,
    asked: bool,
    last: Option<Moment>,
}

impl Held {
    pub(super) fn new(downloader: &Downloader) -> Self {
        Self { bandwidth: Arc::clone(&downloader.bandwidth), route: downloader.route.clone(), asked: false, last: None }
    }

    pub(super) fn is_limited(&self) -> bool {
        self.bandwidth.down.is_limited()
    }

    /// The groups through which the content was found; none is everyone.
    pub(super) fn joined(&mut self, groups: &[Label]) {
        self.route.groups = Some(Arc::from(groups));
    }

    /// Waits for the next allowance in bytes, if one is needed and not waited for yet.
    pub(super) fn next_allowance(
        &mut self,
        needed: bool,
        now: Moment,
    ) -> Option<impl Future<Output = u64> + Send + use<>> {
        if !needed {
            return None;
        }
        self.last = Some(now);
        if std::mem::replace(&mut self.asked, true) {
            return None;
        }
        let (bandwidth, route) = (Arc::clone(&self.bandwidth), self.route.clone());
        Some(async move {
            let bytes = quantum(&bandwidth.down, &route);
            bandwidth.down.take(&route, bytes).await
        })
    }

    /// The allowance has come.
    pub(super) fn answered(&mut self) {
        self.asked = false;
    }

    /// By which limit it is held, and what can be done about it.
    pub(super) fn reason(&self, now: Moment) -> Option<(String, Option<String>)> {
        let last = self.last.filter(|last| now.since(*last) < LATELY);
        last.and_then(|_| self.bandwidth.down.lowest(&self.route)).map(|(scope, rate)| reason(&scope, rate))
    }
}

/// Whether a download that comes at this rate is held by a limit: it is near it.
pub(super) fn held_at(downloader: &Downloader, rate: u64) -> Option<(String, Option<String>)> {
    let (scope, limit) = downloader.bandwidth.down.lowest(&downloader.route)?;
    (rate >= limit - limit / 4).then(|| reason(&scope, limit))
}

/// The same for people.
fn reason(scope: &Scope, rate: u64) -> (String, Option<String>) {
    let (whose, which) = match scope {
        Scope::All | Scope::Content(_) => ("all downloads".to_owned(), String::new()),
        Scope::Group(group) => (format!("the group {group}"), format!(" --group {group}")),
        Scope::Transfer(id) => ("this transfer".to_owned(), format!(" --transfer {id}")),
    };
    let rate = rate_text(Some(rate));
    let held = if rate == "0/s" {
        format!("stopped by the limit of {whose}")
    } else {
        format!("held by the limit of {whose}, {rate}")
    };
    (held, Some(format!("another limit: haul limit down RATE{which}")))
}
