//! What has come and was not taken from the inbox yet. Empty, it holds no memory, unlike a channel.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use haul_core::limits;

use super::Inbound;

/// Requests and pushes that may wait: all that may be unanswered, and some pushes.
const WAITING: usize = limits::REQUESTS_IN_FLIGHT + limits::PUSHES_WAITING;
/// Room that an empty queue keeps, in elements: a few requests at a time are usual.
const KEPT: usize = 4;

/// Why nothing was put.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Nobody takes any more.
    Gone,
    /// Too much waits.
    Full,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Inbound>,
    /// Of the pushes that wait; requests are counted where their answers are owed.
    push_bytes: usize,
    taker: Option<Waker>,
    /// Nothing more comes.
    ended: bool,
    /// Nothing more is taken.
    gone: bool,
}

/// The putting end; dropping it ends the queue behind what waits.
#[derive(Debug)]
pub(super) struct Putter(Arc<Mutex<State>>);

/// The taking end; dropping it drops what waits.
#[derive(Debug)]
pub(super) struct Taker(Arc<Mutex<State>>);

pub(super) fn queue() -> (Putter, Taker) {
    let state = Arc::default();
    (Putter(Arc::clone(&state)), Taker(state))
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn push_bytes(inbound: &Inbound) -> usize {
    match inbound {
        Inbound::Push(body) => body.len(),
        Inbound::Request(_) => 0,
    }
}

impl Putter {
    pub(super) fn put(&self, inbound: Inbound) -> Result<(), Refused> {
        let mut state = lock(&self.0);
        // What is refused is dropped behind the lock: it may be a request, whose end touches its connection.
        if state.gone {
            return Err(Refused::Gone);
        }
        let push_bytes = state.push_bytes + push_bytes(&inbound);
        if state.waiting.len() >= WAITING || push_bytes > limits::PUSH_BYTES_WAITING {
            return Err(Refused::Full);
        }
        state.push_bytes = push_bytes;
        state.waiting.push_back(inbound);
        let taker = state.taker.take();
        drop(state);
        if let Some(taker) = taker {
            taker.wake();
        }
        Ok(())
    }
}

impl Drop for Putter {
    fn drop(&mut self) {
        let taker = {
            let mut state = lock(&self.0);
            state.ended = true;
            state.taker.take()
        };
        if let Some(taker) = taker {
            taker.wake();
        }
    }
}

impl Taker {
    /// The next one; none behind the end. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Option<Inbound> {
        poll_fn(|context| {
            let mut state = lock(&self.0);
            if let Some(inbound) = state.waiting.pop_front() {
                state.push_bytes -= push_bytes(&inbound);
                if state.waiting.is_empty() && state.waiting.capacity() > KEPT {
                    state.waiting = VecDeque::new();
                }
                return Poll::Ready(Some(inbound));
            }
            if state.ended {
                return Poll::Ready(None);
            }
            if state.taker.as_ref().is_none_or(|taker| !taker.will_wake(context.waker())) {
                state.taker = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        let dropped = {
            let mut state = lock(&self.0);
            state.gone = true;
            std::mem::take(&mut state.waiting)
        };
        drop(dropped);
    }
}
