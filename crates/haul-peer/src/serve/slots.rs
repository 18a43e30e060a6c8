//! Upload slots: how many streams are served at once, and who waits for one.
//!
//! One for all connections of a peer. The decisions are [`SlotQueue`]'s; a request that waits hears its place.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use haul_core::ids::UserId;
use haul_core::limits::{SLOT_NEWS, SLOT_WAITS_PER_USER, UPLOAD_SLOTS};
use haul_core::slots::{SlotAction, SlotId, SlotQueue, SlotRefusal, slots_for};
use haul_core::wire::encode;
use haul_core::wire::peer::{PeerAnswer, QUEUE_NEWS};
use haul_net::connection::StreamSender;
use tokio::sync::oneshot;

use crate::bandwidth::Bandwidth;

/// The slots of one peer.
#[derive(Debug)]
pub struct Slots {
    most: usize,
    bandwidth: Arc<Bandwidth>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    queue: SlotQueue<UserId>,
    /// Whoever waits: true is a slot, false is a place that somebody else has got.
    waiting: BTreeMap<SlotId, oneshot::Sender<bool>>,
}

/// A slot, or a place in the queue, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    id: SlotId,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let slots = self.slots.now();
        let mut state = self.slots.lock();
        state.waiting.remove(&self.id);
        state.queue.handle_done(self.id);
        state.queue.set_slots(slots);
        state.dispatch();
    }
}

impl Slots {
    /// As many as [`UPLOAD_SLOTS`], fewer under a low limit of bandwidth.
    pub fn new(bandwidth: Arc<Bandwidth>) -> Arc<Self> {
        Self::at_most(UPLOAD_SLOTS, bandwidth)
    }

    /// So many, or fewer under a low limit of bandwidth.
    pub fn at_most(most: usize, bandwidth: Arc<Bandwidth>) -> Arc<Self> {
        let state = State { queue: SlotQueue::new(most), waiting: BTreeMap::new() };
        Arc::new(Self { most, bandwidth, state: Mutex::new(state) })
    }

    /// Slots that are taken, and requests that wait for one.
    pub fn load(&self) -> (usize, usize) {
        let state = self.lock();
        (state.queue.slots().1, state.queue.waiting())
    }

    /// A slot for a request of this user; tells it its place while it waits. The error is what ends the request; none if
    /// nobody waits for it any more.
    pub(super) async fn wait(
        self: &Arc<Self>,
        user: UserId,
        stream: &StreamSender,
    ) -> Result<Slot, Option<PeerAnswer>> {
        let (told, mut granted) = oneshot::channel();
        let slot = {
            let slots = self.now();
            let mut state = self.lock();
            state.queue.set_slots(slots);
            let id = state.queue.handle_ask(user).map_err(|refusal| Some(refused(refusal)))?;
            state.waiting.insert(id, told);
            state.dispatch();
            Slot { slots: Arc::clone(self), id }
        };
        loop {
            if let Ok(won) = granted.try_recv() {
                return if won { Ok(slot) } else { Err(Some(refused(SlotRefusal::QueueFull))) };
            }
            if stream.is_cancelled() {
                return Err(None);
            }
            let Some(place) = self.place(slot.id) else { continue };
            let news = Bytes::from(encode(&queued(place)));
            tokio::select! {
                sent = stream.send(QUEUE_NEWS, news) => if sent.is_err() {
                    return Err(None);
                },
                won = &mut granted => {
                    return if won.unwrap_or(false) { Ok(slot) } else { Err(Some(refused(SlotRefusal::QueueFull))) };
                }
            }
            tokio::select! {
                () = tokio::time::sleep(SLOT_NEWS) => {}
                won = &mut granted => {
                    return if won.unwrap_or(false) { Ok(slot) } else { Err(Some(refused(SlotRefusal::QueueFull))) };
                }
            }
        }
    }

    /// Slots under the limit of now.
    fn now(&self) -> usize {
        slots_for(self.bandwidth.up.of_all()).min(self.most)
    }

    fn place(&self, id: SlotId) -> Option<usize> {
        let slots = self.now();
        let mut state = self.lock();
        state.queue.set_slots(slots);
        state.dispatch();
        state.queue.place(id)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is complete before anything in it could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn dispatch(&mut self) {
        while let Some(action) = self.queue.poll_action() {
            let (id, won) = match action {
                SlotAction::Granted(id) => (id, true),
                SlotAction::Dropped(id) => (id, false),
            };
            if let Some(waiting) = self.waiting.remove(&id) {
                // Whoever goes away gives its slot back itself.
                let _ = waiting.send(won);
            }
        }
    }
}

fn queued(place: usize) -> PeerAnswer {
    let reason = "no upload slot is free; each user's requests take turns".into();
    PeerAnswer::Queued { place: u32::try_from(place).unwrap_or(u32::MAX), reason }
}

fn refused(refusal: SlotRefusal) -> PeerAnswer {
    let reason = match refusal {
        SlotRefusal::UserFull => format!("{SLOT_WAITS_PER_USER} requests of this user wait already"),
        SlotRefusal::QueueFull => "the queue for upload slots is full".into(),
    };
    PeerAnswer::Queued { place: 0, reason }
}
