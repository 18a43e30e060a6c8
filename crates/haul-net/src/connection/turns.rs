//! Room for bulk data in the output queue, and who gets it next.
//!
//! Streams of one lane have it one after the other, the oldest first: a piece that is through can be used and passed on,
//! while of ten that come side by side nobody has anything until all are nearly there. Lanes take turns, so that what has
//! nothing to do with each other does not wait for each other. How much room there is depends on how fast the link
//! takes it, for what is queued cannot be taken back and nothing overtakes it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::output::Closing;

/// Least room, in bytes, and that at the beginning: frames of four leaves, of which two wait while the others are written. Half of it would mean a
/// wake-up for every leaf.
const LEAST_ROOM: usize = 4 * (64 * 1024 + 64);
/// While the link takes whatever comes, an eighth of what is left to the most is added for each batch: a buffer on the way
/// that was empty takes one or two at once.
const GROWTH: usize = 8;
/// The room is what the link takes in this time: long enough that senders need not hurry, and short enough that what was
/// asked for in vain is soon gone.
const ROOM: Duration = Duration::from_millis(200);

/// Where a stream stands: streams of the same lane by age, lanes in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) lane: u64,
    /// Grows from one stream of the connection to the next.
    pub(super) age: u64,
}

/// Bytes that somebody needs at least, and those that are of use to it at most. Whoever has more to send says so at once:
/// asking for one leaf after the other it would have to stand behind younger ones each time.
#[derive(Clone, Copy, Debug)]
struct Wish {
    least: usize,
    most: usize,
}

/// Hands out room; see the module.
#[derive(Debug)]
pub(super) struct Turns {
    state: Mutex<State>,
    most: usize,
}

#[derive(Debug)]
struct State {
    room: usize,
    taken: usize,
    closed: bool,
    last_lane: u64,
    last_number: u64,
    waiting: BTreeMap<(Place, u64), (Wish, Waker)>,
    /// Of those that may go on and have not noticed.
    granted: BTreeMap<u64, (Place, usize)>,
}

impl State {
    /// What of a wish there is room for.
    fn room_for(&self, wish: Wish) -> Option<usize> {
        let free = self.room.saturating_sub(self.taken);
        let fits = wish.least <= free || self.taken == 0;
        fits.then(|| wish.most.min(free).max(wish.least))
    }

    /// The first of the lane behind the one that was served last; lanes that wait for an older one are passed over.
    fn next(&self) -> Option<(Place, u64)> {
        let last = (Place { lane: self.last_lane, age: u64::MAX }, u64::MAX);
        let behind = self.waiting.range((Bound::Excluded(last), Bound::Unbounded));
        let mut in_turn = behind.chain(self.waiting.range(..=last)).map(|(key, _)| *key);
        in_turn.find(|(place, _)| !self.is_early(*place))
    }

    /// Whether an older one of its lane will want more in a moment.
    fn is_early(&self, place: Place) -> bool {
        self.granted.values().any(|(older, _)| older.lane == place.lane && older.age < place.age)
    }

    fn take(&mut self, lane: u64, bytes: usize) {
        self.taken += bytes;
        self.last_lane = lane;
    }

    /// Lets those go on that fit; whoever is returned is to be woken.
    fn grant(&mut self) -> Vec<Waker> {
        let mut woken = Vec::new();
        while let Some(key) = self.next()
            && let Some(bytes) = self.waiting.get(&key).and_then(|(wish, _)| self.room_for(*wish))
            && let Some((_, waker)) = self.waiting.remove(&key)
        {
            self.take(key.0.lane, bytes);
            self.granted.insert(key.1, (key.0, bytes));
            woken.push(waker);
        }
        woken
    }
}

impl Turns {
    /// With room for so many bytes at most.
    pub(super) fn new(most: usize) -> Self {
        let state = State {
            room: LEAST_ROOM.min(most),
            taken: 0,
            closed: false,
            last_lane: 0,
            last_number: 0,
            waiting: BTreeMap::new(),
            granted: BTreeMap::new(),
        };
        Self { state: Mutex::new(state), most }
    }

    /// Waits for room for `least` bytes, and takes up to `most` if there is more. It is given back by [`Turns::give_back`].
    pub(super) fn reserve(&self, place: Place, least: usize, most: usize) -> Reserve<'_> {
        let least = least.min(self.most);
        Reserve { turns: self, place, wish: Wish { least, most: most.clamp(least, self.most) }, number: None }
    }

    /// Bytes that are best taken at once.
    pub(super) fn batch_bytes(&self, most: usize) -> usize {
        most.min(self.lock().room / 2)
    }

    /// What was reserved is written, or not needed.
    pub(super) fn give_back(&self, bytes: usize) {
        self.change(|state| state.taken -= bytes);
    }

    /// The link took so many bytes in this time, and could take no more before and after.
    pub(super) fn note_speed(&self, bytes: usize, took: Duration) {
        let in_time = bytes as f64 * ROOM.as_secs_f64() / took.as_secs_f64().max(1e-6);
        let room = (in_time.min(self.most as f64) as usize).max(LEAST_ROOM.min(self.most));
        self.change(|state| state.room = usize::midpoint(state.room, room));
    }

    /// The link took a batch at once.
    pub(super) fn note_fast(&self) {
        self.change(|state| state.room += self.most.saturating_sub(state.room).div_ceil(GROWTH));
    }

    /// Lets everybody who waits fail.
    pub(super) fn close(&self) {
        let waiting = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        for (_, waker) in waiting.into_values() {
            waker.wake();
        }
    }

    /// Lets those go on for whom there is room after a change.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let woken = {
            let mut state = self.lock();
            change(&mut state);
            state.grant()
        };
        woken.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ready when there is room; dropped before, it leaves no trace.
#[derive(Debug)]
pub(super) struct Reserve<'a> {
    turns: &'a Turns,
    place: Place,
    wish: Wish,
    /// Of the one that waits.
    number: Option<u64>,
}

impl Future for Reserve<'_> {
    /// Bytes reserved.
    type Output = Result<usize, Closing>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.turns.lock();
        if let Some((_, bytes)) = self.number.and_then(|number| state.granted.remove(&number)) {
            // What has become free since is of use, too.
            let more = state.room.saturating_sub(state.taken).min(self.wish.most.saturating_sub(bytes));
            state.take(self.place.lane, more);
            drop(state);
            self.number = None;
            return Poll::Ready(Ok(bytes + more));
        }
        if state.closed {
            return Poll::Ready(Err(Closing));
        }
        if let Some(number) = self.number {
            if let Some((_, waker)) = state.waiting.get_mut(&(self.place, number)) {
                waker.clone_from(context.waker());
            }
            return Poll::Pending;
        }
        if state.waiting.is_empty()
            && !state.is_early(self.place)
            && let Some(bytes) = state.room_for(self.wish)
        {
            state.take(self.place.lane, bytes);
            return Poll::Ready(Ok(bytes));
        }
        state.last_number += 1;
        let number = state.last_number;
        state.waiting.insert((self.place, number), (self.wish, context.waker().clone()));
        // It may be the one whose turn it is.
        let woken = state.grant();
        let granted = state.granted.remove(&number);
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        if let Some((_, bytes)) = granted {
            return Poll::Ready(Ok(bytes));
        }
        self.number = Some(number);
        Poll::Pending
    }
}

impl Drop for Reserve<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let granted = {
            let mut state = self.turns.lock();
            state.waiting.remove(&(self.place, number));
            state.granted.remove(&number)
        };
        // Whoever fits now that it has gone may go on.
        self.turns.give_back(granted.map_or(0, |(_, bytes)| bytes));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::pin::pin;

    use super::*;

    /// A leaf with its frame.
    const LEAF: usize = 64 * 1024 + 13;

    fn place(lane: u64, age: u64) -> Place {
        Place { lane, age }
    }

    fn poll(reserve: Pin<&mut Reserve<'_>>) -> Poll<Result<usize, Closing>> {
        reserve.poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Room for two leaves, which are taken.
    fn full() -> Turns {
        let turns = Turns::new(2 * LEAF);
        assert_eq!(poll(pin!(turns.reserve(place(0, 1), LEAF, LEAF))), Poll::Ready(Ok(LEAF)));
        assert_eq!(poll(pin!(turns.reserve(place(0, 1), LEAF, LEAF))), Poll::Ready(Ok(LEAF)));
        turns
    }

    #[test]
    fn of_one_lane_the_oldest_stream_goes_first() {
        let turns = full();
        let (mut young, mut old) =
            (pin!(turns.reserve(place(0, 7), LEAF, LEAF)), pin!(turns.reserve(place(0, 3), LEAF, LEAF)));
        assert!(poll(young.as_mut()).is_pending() && poll(old.as_mut()).is_pending());
        turns.give_back(LEAF);
        assert!(poll(young.as_mut()).is_pending());
        assert_eq!(poll(old.as_mut()), Poll::Ready(Ok(LEAF)));
        turns.give_back(LEAF);
        assert_eq!(poll(young.as_mut()), Poll::Ready(Ok(LEAF)));
    }

    #[test]
    fn lanes_take_turns_whatever_the_age() {
        let turns = full();
        let places = [place(0, 2), place(0, 3), place(5, 8), place(9, 9), place(5, 7)];
        let mut waiting = places.map(|place| Box::pin(turns.reserve(place, LEAF, LEAF)));
        assert!(waiting.iter_mut().all(|reserve| poll(reserve.as_mut()).is_pending()));
        let mut order = Vec::new();
        for _ in 0..places.len() {
            turns.give_back(LEAF);
            for (place, reserve) in places.iter().zip(&mut waiting) {
                if !order.contains(place) && poll(reserve.as_mut()).is_ready() {
                    order.push(*place);
                }
            }
        }
        assert_eq!(order, [place(5, 7), place(9, 9), place(0, 2), place(5, 8), place(0, 3)]);
    }

    #[test]
    fn the_young_wait_while_an_older_one_has_not_used_its_room() {
        let turns = full();
        let mut old = pin!(turns.reserve(place(0, 3), LEAF, LEAF));
        assert!(poll(old.as_mut()).is_pending());
        turns.give_back(2 * LEAF);
        let mut young = pin!(turns.reserve(place(0, 7), LEAF, LEAF));
        assert!(poll(young.as_mut()).is_pending(), "the older one will ask again");
        assert_eq!(poll(pin!(turns.reserve(place(1, 8), LEAF, LEAF))), Poll::Ready(Ok(LEAF)), "another lane");
        turns.give_back(LEAF);
        assert_eq!(poll(old.as_mut()), Poll::Ready(Ok(LEAF)));
        turns.give_back(LEAF);
        assert_eq!(poll(young.as_mut()), Poll::Ready(Ok(LEAF)));
    }

    #[test]
    fn a_lane_that_waits_for_its_older_stream_holds_up_no_other() {
        let turns = full();
        let mut old = pin!(turns.reserve(place(5, 3), LEAF, LEAF));
        assert!(poll(old.as_mut()).is_pending());
        turns.give_back(2 * LEAF);
        assert_eq!(poll(pin!(turns.reserve(place(9, 1), LEAF, LEAF))), Poll::Ready(Ok(LEAF)), "served last");
        let (mut young, mut other) =
            (pin!(turns.reserve(place(5, 7), LEAF, LEAF)), pin!(turns.reserve(place(9, 2), LEAF, LEAF)));
        assert!(poll(young.as_mut()).is_pending() && poll(other.as_mut()).is_pending());
        turns.give_back(LEAF);
        assert_eq!(poll(other.as_mut()), Poll::Ready(Ok(LEAF)));
        assert!(poll(young.as_mut()).is_pending());
    }

    #[test]
    fn nobody_overtakes_those_who_wait() {
        let turns = full();
        let mut large = pin!(turns.reserve(place(0, 3), 2 * LEAF, 2 * LEAF));
        assert!(poll(large.as_mut()).is_pending());
        turns.give_back(LEAF);
        assert!(poll(large.as_mut()).is_pending(), "it needs all the room");
        let mut small = pin!(turns.reserve(place(0, 4), 1, 1));
        assert!(poll(small.as_mut()).is_pending());
        turns.give_back(LEAF);
        assert_eq!(poll(large.as_mut()), Poll::Ready(Ok(2 * LEAF)));
        turns.give_back(2 * LEAF);
        assert_eq!(poll(small.as_mut()), Poll::Ready(Ok(1)));
    }

    #[test]
    fn what_is_larger_than_all_the_room_goes_alone() {
        let turns = Turns::new(LEAF);
        assert_eq!(poll(pin!(turns.reserve(place(0, 1), 9 * LEAF, 9 * LEAF))), Poll::Ready(Ok(LEAF)));
    }

    #[test]
    fn the_oldest_takes_all_that_is_of_use_to_it() {
        let turns = Turns::new(4 * LEAF);
        assert_eq!(poll(pin!(turns.reserve(place(0, 1), LEAF, 9 * LEAF))), Poll::Ready(Ok(4 * LEAF)));
        let (mut young, mut old) =
            (pin!(turns.reserve(place(0, 7), LEAF, LEAF)), pin!(turns.reserve(place(0, 3), LEAF, 3 * LEAF)));
        assert!(poll(young.as_mut()).is_pending() && poll(old.as_mut()).is_pending());
        turns.give_back(2 * LEAF);
        assert!(poll(young.as_mut()).is_pending());
        assert_eq!(poll(old.as_mut()), Poll::Ready(Ok(2 * LEAF)));
        turns.give_back(2 * LEAF);
        assert_eq!(poll(young.as_mut()), Poll::Ready(Ok(LEAF)));
    }

    #[test]
    fn whoever_gives_up_leaves_the_room_to_others() {
        let turns = full();
        let mut patient = pin!(turns.reserve(place(0, 4), LEAF, LEAF));
        {
            let mut granted = pin!(turns.reserve(place(0, 2), LEAF, LEAF));
            let mut waiting = pin!(turns.reserve(place(0, 3), LEAF, LEAF));
            assert!(poll(granted.as_mut()).is_pending() && poll(waiting.as_mut()).is_pending());
            assert!(poll(patient.as_mut()).is_pending());
            turns.give_back(LEAF);
        }
        assert_eq!(poll(patient.as_mut()), Poll::Ready(Ok(LEAF)));
        turns.give_back(2 * LEAF);
        assert_eq!(turns.lock().taken, 0);
    }

    #[test]
    fn closing_fails_who_waits_and_who_comes() {
        let turns = full();
        let mut waiting = pin!(turns.reserve(place(0, 2), LEAF, LEAF));
        assert!(poll(waiting.as_mut()).is_pending());
        turns.close();
        assert_eq!(poll(waiting.as_mut()), Poll::Ready(Err(Closing)));
        assert_eq!(poll(pin!(turns.reserve(place(0, 3), 1, 1))), Poll::Ready(Err(Closing)));
    }

    #[test]
    fn a_slow_link_has_little_room_and_a_fast_one_all() {
        let turns = Turns::new(1 << 20);
        let room = |turns: &Turns| turns.lock().room;
        for _ in 0..40 {
            turns.note_fast();
        }
        assert!(room(&turns) > 1_000_000);
        for _ in 0..20 {
            turns.note_speed(1 << 18, Duration::from_millis(1));
        }
        assert!(room(&turns) > 1_000_000);
        assert_eq!(turns.batch_bytes(1 << 18), 1 << 18);
        for _ in 0..20 {
            turns.note_speed(1 << 18, Duration::from_millis(100));
        }
        // 2.6 MB/s
        assert!((520_000..530_000).contains(&room(&turns)), "{}", room(&turns));
        for _ in 0..20 {
            turns.note_speed(1 << 16, Duration::from_secs(1));
        }
        assert!((LEAST_ROOM..LEAST_ROOM + 10).contains(&room(&turns)), "{}", room(&turns));
    }
}
