//! Watches of this peer: placed at the index on every session, and what the index pushes handed to whoever asked.
//!
//! A watch lives as long as its [`WatchStream`]. When a session is lost, its watches are placed again on the next one,
//! and their streams say so: what was registered in between was not told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use haul_core::limits;
use haul_core::wire::index::{Hit, IndexAnswer, IndexRequest};
use haul_net::connection::RequestError;
use tokio::sync::Notify;

use super::LinkError;
use super::session::Session;

/// What a watch has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The index tells of matches from now on.
    Placed,
    /// The same after a session was lost: matches in between were not told.
    PlacedAgain,
    /// A match.
    Hit(Box<Hit>),
    /// Matches were lost, because there were too many.
    Missed,
}

/// All watches of this peer.
#[derive(Debug, Default)]
pub(super) struct Watches {
    inner: Mutex<Inner>,
    /// Something is to be told to the index.
    orders: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    watches: BTreeMap<u64, Watch>,
    /// Ended here, and still placed at the index.
    ended: Vec<u64>,
}

#[derive(Debug)]
struct Watch {
    query: String,
    /// Asked of the index on this session.
    asked: bool,
    stream: Arc<Waiting>,
}

/// What waits for the reader of one watch.
#[derive(Debug, Default)]
struct Waiting {
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    news: VecDeque<News>,
    hits: usize,
    was_placed: bool,
    /// Whether [`News::Missed`] stands in `news`.
    missed: bool,
    failed: Option<LinkError>,
}

impl Waiting {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.arrived.notify_one();
    }

    /// Takes matches; those over the limit are lost, and marked.
    fn deliver(&self, hits: Vec<Hit>, missed: bool) {
        self.change(|state| {
            let room = limits::MATCHES_WAITING.saturating_sub(state.hits);
            let missed = missed || hits.len() > room;
            for hit in hits.into_iter().take(room) {
                state.hits += 1;
                state.news.push_back(News::Hit(Box::new(hit)));
            }
            if missed && !state.missed {
                state.missed = true;
                state.news.push_back(News::Missed);
            }
        });
    }
}

/// One watch. Dropping it ends the watch.
#[derive(Debug)]
pub struct WatchStream {
    number: u64,
    waiting: Arc<Waiting>,
    watches: Arc<Watches>,
}

impl WatchStream {
    /// The next news; waits. An error is the end. May be dropped and called again.
    pub async fn next(&mut self) -> Result<News, LinkError> {
        loop {
            {
                let mut state = self.waiting.state.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(news) = state.news.pop_front() {
                    match news {
                        News::Hit(_) => state.hits -= 1,
                        News::Missed => state.missed = false,
                        News::Placed | News::PlacedAgain => {}
                    }
                    return Ok(news);
                }
                if let Some(error) = &state.failed {
                    return Err(error.clone());
                }
            }
            self.waiting.arrived.notified().await;
        }
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.watches.end(self.number);
    }
}

/// What the index is to be told.
enum Order {
    Place(u64, String),
    End(u64),
}

impl Watches {
    /// A new watch; it is placed as soon as there is a session.
    pub(super) fn start(self: &Arc<Self>, query: String) -> WatchStream {
        let waiting = Arc::<Waiting>::default();
        let mut inner = self.lock();
        inner.last += 1;
        let number = inner.last;
        inner.watches.insert(number, Watch { query, asked: false, stream: Arc::clone(&waiting) });
        drop(inner);
        self.orders.notify_one();
        WatchStream { number, waiting, watches: Arc::clone(self) }
    }

    fn end(&self, number: u64) {
        let mut inner = self.lock();
        if inner.watches.remove(&number).is_some_and(|watch| watch.asked) {
            inner.ended.push(number);
            drop(inner);
            self.orders.notify_one();
        }
    }

    /// The link has ended for good.
    pub(super) fn stop(&self) {
        for watch in self.lock().watches.values() {
            watch.stream.change(|state| state.failed = Some(LinkError::Stopping));
        }
    }

    /// A new session: all watches are placed anew.
    pub(super) fn begin_session(&self) {
        let mut inner = self.lock();
        inner.ended.clear();
        inner.watches.values_mut().for_each(|watch| watch.asked = false);
    }

    /// Hands matches to whoever asked.
    pub(super) fn deliver(&self, number: u64, hits: Vec<Hit>, missed: bool) {
        let stream = self.lock().watches.get(&number).map(|watch| Arc::clone(&watch.stream));
        if let Some(stream) = stream {
            stream.deliver(hits, missed);
        }
    }

    /// Tells the index what is to be told. Does not end by itself.
    pub(super) async fn carry_out_orders(&self, session: &Session) {
        loop {
            let Some(order) = self.next_order() else {
                self.orders.notified().await;
                continue;
            };
            let (number, request) = match order {
                Order::Place(number, query) => (Some(number), IndexRequest::Watch { watch: number, query }),
                Order::End(number) => (None, IndexRequest::Unwatch { watch: number }),
            };
            match (session.connection.request::<_, IndexAnswer>(&request).await, number) {
                (Ok(IndexAnswer::Watching), Some(number)) => self.placed(number),
                (Ok(IndexAnswer::Refused(refusal)), Some(number)) => self.fail(number, LinkError::Refused(refusal)),
                // The reader learns it, too.
                (Err(RequestError::Closed(_)), _) => std::future::pending().await,
                (_, Some(number)) => self.fail(number, LinkError::Unexpected),
                (_, None) => {}
            }
        }
    }

    fn next_order(&self) -> Option<Order> {
        let mut inner = self.lock();
        if let Some(number) = inner.ended.pop() {
            return Some(Order::End(number));
        }
        let (number, watch) = inner.watches.iter_mut().find(|(_, watch)| !watch.asked)?;
        watch.asked = true;
        Some(Order::Place(*number, watch.query.clone()))
    }

    fn placed(&self, number: u64) {
        if let Some(watch) = self.lock().watches.get(&number) {
            watch.stream.change(|state| {
                let again = std::mem::replace(&mut state.was_placed, true);
                // Before matches that overtook the answer.
                state.news.push_front(if again { News::PlacedAgain } else { News::Placed });
            });
        }
    }

    fn fail(&self, number: u64, error: LinkError) {
        if let Some(watch) = self.lock().watches.remove(&number) {
            watch.stream.change(|state| state.failed = Some(error));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
