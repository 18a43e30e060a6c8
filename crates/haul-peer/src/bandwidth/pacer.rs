//! Where streams of one direction wait for the buckets that they pass. Without a limit that is one read of a flag.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use haul_core::bandwidth::{Buckets, WantId};
use haul_core::ids::BlobId;
use haul_core::time::Moment;
use haul_core::wire::Label;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// What a bucket is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Everything.
    All,
    /// What goes to members of a group, or was found through it.
    Group(Label),
    /// A download in the list.
    Transfer(u64),
    /// Serving this content.
    Content(BlobId),
}

/// Which buckets a stream passes.
#[derive(Clone, Debug, Default)]
pub struct Route {
    /// Groups that it belongs to; none is not known, and counts as all of them: no group may ever get more than its limit.
    pub groups: Option<Arc<[Label]>>,
    /// Its own bucket.
    pub own: Option<Scope>,
}

struct State {
    buckets: Buckets<Scope>,
    waiting: BTreeMap<WantId, oneshot::Sender<u64>>,
}

/// One direction.
pub struct Pacer {
    limited: AtomicBool,
    state: Mutex<State>,
    changed: Notify,
    began: Instant,
}

impl std::fmt::Debug for Pacer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pacer").field("limited", &self.is_limited()).finish_non_exhaustive()
    }
}

impl Default for Pacer {
    fn default() -> Self {
        Self {
            limited: AtomicBool::new(false),
            state: Mutex::new(State { buckets: Buckets::default(), waiting: BTreeMap::new() }),
            changed: Notify::new(),
            began: Instant::now(),
        }
    }
}

/// A want that is given up when whoever waits goes away.
struct Waiting<'a> {
    pacer: &'a Pacer,
    want: WantId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.pacer.lock();
        if state.waiting.remove(&self.want).is_some() {
            state.buckets.handle_cancel(self.pacer.now(), self.want);
            state.dispatch();
            self.pacer.changed.notify_one();
        }
    }
}

impl State {
    fn dispatch(&mut self) {
        while let Some(granted) = self.buckets.poll_action() {
            if let Some(waiting) = self.waiting.remove(&granted.want) {
                // Whoever went away meanwhile has spent it.
                let _ = waiting.send(granted.bytes);
            }
        }
    }
}

impl Pacer {
    /// Whether there is any limit at all.
    pub fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Relaxed)
    }

    /// Sets all buckets: bytes per second each.
    pub fn set(&self, rates: &BTreeMap<Scope, u64>) {
        let now = self.now();
        let mut state = self.lock();
        let gone: Vec<Scope> =
            state.buckets.rates().map(|(scope, _)| scope.clone()).filter(|scope| !rates.contains_key(scope)).collect();
        for scope in gone {
            state.buckets.set_rate(now, scope, None);
        }
        for (scope, rate) in rates {
            state.buckets.set_rate(now, scope.clone(), Some(*rate));
        }
        self.limited.store(!state.buckets.is_empty(), Ordering::Relaxed);
        state.dispatch();
        drop(state);
        self.changed.notify_one();
    }

    /// Waits until so many bytes may pass; how many may, at least a leaf if so many were wanted. Whoever stops waiting
    /// gives up its place.
    pub async fn take(&self, route: &Route, bytes: u64) -> u64 {
        if !self.is_limited() {
            return bytes;
        }
        let (told, granted) = oneshot::channel();
        let want = {
            let mut state = self.lock();
            let path = state.path(route);
            let want = state.buckets.handle_want(self.now(), path, bytes);
            state.waiting.insert(want, told);
            state.dispatch();
            want
        };
        let _waiting = Waiting { pacer: self, want };
        self.changed.notify_one();
        granted.await.unwrap_or(bytes)
    }

    /// The limit on a route that is lowest now.
    pub fn lowest(&self, route: &Route) -> Option<(Scope, u64)> {
        if !self.is_limited() {
            return None;
        }
        let state = self.lock();
        let path = state.path(route);
        state.buckets.lowest(&path).map(|(scope, rate)| (scope.clone(), rate))
    }

    /// The limit of everything.
    pub fn of_all(&self) -> Option<u64> {
        self.lowest(&Route { groups: Some(Arc::from([])), own: None }).map(|(_, rate)| rate)
    }

    /// Lets those go whose time has come, for ever.
    pub(super) async fn run(&self) {
        loop {
            let due = self.lock().buckets.next_timeout();
            let changed = self.changed.notified();
            match due {
                None => changed.await,
                Some(due) => {
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(self.began + due.since(Moment(0))) => {
                            let mut state = self.lock();
                            state.buckets.handle_timeout(self.now());
                            state.dispatch();
                        }
                    }
                }
            }
        }
    }

    fn now(&self) -> Moment {
        Moment(0).after(self.began.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is complete before anything in it could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn path(&self, route: &Route) -> Vec<Scope> {
        let mut path = vec![Scope::All];
        if let Some(groups) = &route.groups {
            path.extend(groups.iter().cloned().map(Scope::Group));
        } else {
            let groups = self.buckets.rates().map(|(scope, _)| scope);
            path.extend(groups.filter(|scope| matches!(scope, Scope::Group(_))).cloned());
        }
        path.extend(route.own.clone());
        path
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use haul_core::limits::LEAF_BYTES;

    use super::*;

    fn label(name: &str) -> Label {
        Label::new(name).unwrap()
    }

    fn limited(rates: &[(Scope, u64)]) -> Arc<Pacer> {
        let pacer = Arc::new(Pacer::default());
        pacer.set(&rates.iter().cloned().collect());
        let running = Arc::downgrade(&pacer);
        tokio::spawn(async move {
            if let Some(pacer) = running.upgrade() {
                pacer.run().await;
            }
        });
        pacer
    }

    async fn passed(pacer: &Arc<Pacer>, route: Route, time: Duration) -> u64 {
        let mut bytes = 0;
        let end = Instant::now() + time;
        while let Ok(more) = tokio::time::timeout_at(end, pacer.take(&route, LEAF_BYTES)).await {
            bytes += more;
        }
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_within_a_hundredth() {
        let pacer = limited(&[(Scope::All, 3_000_000)]);
        let time = Duration::from_mins(1);
        let (one, other) = tokio::join!(
            passed(&pacer, Route::default(), time),
            passed(&pacer, Route { own: Some(Scope::Transfer(1)), ..Route::default() }, time),
        );
        assert!((one + other).abs_diff(180_000_000) < 1_800_000, "{one} + {other}");
        assert!(one.abs_diff(other) <= LEAF_BYTES, "{one} {other}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_group_is_not_known_counts_in_all_of_them() {
        let pacer = limited(&[(Scope::Group(label("lab")), 1_000_000)]);
        let time = Duration::from_mins(1);
        assert!(passed(&pacer, Route::default(), time).await <= 61_000_000);
        let route = Route { groups: Some(Arc::from([label("lab")])), own: None };
        assert!(passed(&pacer, route, time).await <= 61_000_000);
        let route = Route { groups: Some(Arc::from([label("staff")])), own: None };
        assert_eq!(pacer.take(&route, 1 << 40).await, 1 << 40, "another group is not held");
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_holds_nobody() {
        let pacer = limited(&[(Scope::All, 0)]);
        let route = Route::default();
        let gone = tokio::time::timeout(Duration::from_secs(9), pacer.take(&route, LEAF_BYTES)).await;
        assert!(gone.is_err() && pacer.lock().waiting.is_empty() && pacer.lock().buckets.waiting() == 0);
        let (bytes, ()) = tokio::join!(pacer.take(&route, LEAF_BYTES), async { pacer.set(&BTreeMap::new()) });
        assert_eq!((bytes, pacer.is_limited()), (LEAF_BYTES, false), "a limit that is taken away lets everybody go");
    }
}
