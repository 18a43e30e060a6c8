//! Whose request is served next: a bounded number of upload slots, shared among users.
//!
//! A request for bytes needs a slot while it is served. If none is free it waits; a slot that becomes free goes to the
//! user who holds fewest of those who wait, and among equals to the one whose turn was longest ago. However many peers
//! and downloads a user has, another who waits is never more than one slot behind. Each user's requests are served in
//! the order in which they came.

use alloc::collections::{BTreeMap, VecDeque};

use crate::limits::{SLOT_RATE, SLOT_WAITS, SLOT_WAITS_PER_USER, UPLOAD_SLOTS};

/// Slots for an uplink with this limit, in bytes per second; none is without a limit.
pub fn slots_for(rate: Option<u64>) -> usize {
    rate.map_or(UPLOAD_SLOTS, |rate| usize::try_from(rate / SLOT_RATE).unwrap_or(UPLOAD_SLOTS).clamp(1, UPLOAD_SLOTS))
}

/// A request; numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotId(pub u64);

/// What became of a request that waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotAction {
    /// It has a slot until [`SlotQueue::handle_done`].
    Granted(SlotId),
    /// It was the last of a user with many, and made room for another's first; it is off the books.
    Dropped(SlotId),
}

/// A request that cannot even wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotRefusal {
    /// This user has as many waiting as one may.
    UserFull,
    /// The whole queue is full, and nobody has more waiting than this user.
    QueueFull,
}

#[derive(Clone, Debug, Default)]
struct User {
    held: usize,
    waiting: VecDeque<SlotId>,
    /// When it was last given a slot, or came.
    turn: u64,
}

/// The slots and who waits for them; see the module. `U` names a user.
#[derive(Clone, Debug)]
pub struct SlotQueue<U> {
    slots: usize,
    taken: usize,
    waiting: usize,
    users: BTreeMap<U, User>,
    /// Everybody who holds or waits, with whether it holds.
    requests: BTreeMap<SlotId, (U, bool)>,
    actions: VecDeque<SlotAction>,
    turn: u64,
    last: u64,
}

impl<U: Ord + Copy> SlotQueue<U> {
    /// So many slots, all free.
    pub fn new(slots: usize) -> Self {
        Self {
            slots,
            taken: 0,
            waiting: 0,
            users: BTreeMap::new(),
            requests: BTreeMap::new(),
            actions: VecDeque::new(),
            turn: 0,
            last: 0,
        }
    }

    /// Changes the number of slots. Nobody who has one loses it.
    pub fn set_slots(&mut self, slots: usize) {
        self.slots = slots;
        self.give();
    }

    /// How many slots there are, and how many are taken.
    pub fn slots(&self) -> (usize, usize) {
        (self.slots, self.taken)
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// A request of this user wants a slot.
    pub fn handle_ask(&mut self, user: U) -> Result<SlotId, SlotRefusal> {
        let mine = self.users.get(&user).map_or(0, |user| user.waiting.len());
        if mine >= SLOT_WAITS_PER_USER {
            return Err(SlotRefusal::UserFull);
        }
        if self.waiting >= SLOT_WAITS {
            self.make_room(mine)?;
        }
        self.last += 1;
        self.turn += 1;
        let (id, turn) = (SlotId(self.last), self.turn);
        let known = self.users.entry(user).or_insert_with(|| User { turn, ..User::default() });
        known.waiting.push_back(id);
        self.waiting += 1;
        self.requests.insert(id, (user, false));
        self.give();
        Ok(id)
    }

    /// A request is over, or no longer wanted, whether it held a slot or waited.
    pub fn handle_done(&mut self, id: SlotId) {
        let Some((user, held)) = self.requests.remove(&id) else { return };
        if let Some(known) = self.users.get_mut(&user) {
            if held {
                known.held -= 1;
                self.taken -= 1;
            } else {
                known.waiting.retain(|other| *other != id);
                self.waiting -= 1;
            }
            if known.held == 0 && known.waiting.is_empty() {
                self.users.remove(&user);
            }
        }
        self.actions.retain(|action| *action != SlotAction::Granted(id));
        self.give();
    }

    /// What became of those that waited.
    pub fn poll_action(&mut self) -> Option<SlotAction> {
        self.actions.pop_front()
    }

    /// Where a request stands: 1 is the next to be served, if those who hold slots give them back evenly. None if it
    /// does not wait.
    pub fn place(&self, id: SlotId) -> Option<usize> {
        let (user, _) = self.requests.get(&id).filter(|(_, held)| !held)?;
        let me = self.users.get(user)?;
        let mine = me.waiting.iter().position(|other| *other == id)?;
        // Slots that this user will have when it is this request's turn; users with fewer go first.
        let level = me.held + mine;
        let before = |(other, known): (&U, &User)| {
            if other == user {
                return mine;
            }
            let levels = (level + usize::from(known.turn < me.turn)).saturating_sub(known.held);
            levels.min(known.waiting.len())
        };
        Some(self.users.iter().map(before).sum::<usize>() + 1)
    }

    /// Takes the last request of the user with most of them, if that is more than `mine` and one.
    fn make_room(&mut self, mine: usize) -> Result<(), SlotRefusal> {
        let most = self.users.values_mut().max_by_key(|user| user.waiting.len());
        let longest = most.filter(|user| user.waiting.len() > mine + 1).ok_or(SlotRefusal::QueueFull)?;
        if let Some(id) = longest.waiting.pop_back() {
            self.waiting -= 1;
            self.requests.remove(&id);
            self.actions.push_back(SlotAction::Dropped(id));
        }
        Ok(())
    }

    fn give(&mut self) {
        while self.taken < self.slots && self.waiting > 0 {
            let waiting = self.users.values_mut().filter(|user| !user.waiting.is_empty());
            let Some(next) = waiting.min_by_key(|user| (user.held, user.turn)) else { return };
            let Some(id) = next.waiting.pop_front() else { return };
            self.turn += 1;
            next.turn = self.turn;
            next.held += 1;
            self.taken += 1;
            self.waiting -= 1;
            if let Some((_, held)) = self.requests.get_mut(&id) {
                *held = true;
            }
            self.actions.push_back(SlotAction::Granted(id));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn granted<U: Ord + Copy>(queue: &mut SlotQueue<U>) -> Vec<SlotId> {
        let actions = core::iter::from_fn(|| queue.poll_action());
        actions.filter_map(|action| if let SlotAction::Granted(id) = action { Some(id) } else { None }).collect()
    }

    #[test]
    fn a_newcomer_gets_the_next_slot() {
        let mut queue = SlotQueue::new(3);
        let many: Vec<SlotId> = (0..9).map(|_| queue.handle_ask('a').unwrap()).collect();
        assert_eq!(granted(&mut queue), many[..3]);
        let newcomer = queue.handle_ask('b').unwrap();
        assert_eq!((queue.place(newcomer), queue.place(many[3]), queue.place(many[8])), (Some(1), Some(2), Some(7)));
        assert_eq!((queue.place(many[0]), queue.waiting()), (None, 7));
        queue.handle_done(many[1]);
        assert_eq!(granted(&mut queue), [newcomer]);
        queue.handle_done(many[0]);
        assert_eq!(granted(&mut queue), [many[3]], "b does not wait any more");
    }

    #[test]
    fn whoever_cancels_frees_the_place() {
        let mut queue = SlotQueue::new(1);
        let [first, second, third] = ['a', 'b', 'c'].map(|user| queue.handle_ask(user).unwrap());
        queue.handle_done(second);
        assert_eq!(queue.place(third), Some(1));
        // Granted, but gone before it hears of it.
        queue.handle_done(first);
        assert_eq!(granted(&mut queue), [third]);
        queue.handle_done(third);
        queue.handle_done(third);
        assert_eq!(queue.slots(), (1, 0));
        assert!(queue.users.is_empty() && queue.requests.is_empty());
    }

    #[test]
    fn the_queue_has_an_end_for_each_and_for_all() {
        let mut queue = SlotQueue::new(0);
        for _ in 0..SLOT_WAITS_PER_USER {
            queue.handle_ask(0).unwrap();
        }
        assert_eq!(queue.handle_ask(0), Err(SlotRefusal::UserFull));
        let users = SLOT_WAITS / SLOT_WAITS_PER_USER;
        for user in 1..users {
            for _ in 0..SLOT_WAITS_PER_USER {
                queue.handle_ask(user).unwrap();
            }
        }
        assert_eq!(queue.waiting(), SLOT_WAITS);
        // Somebody new takes the room of one who has much of it.
        let newcomer = queue.handle_ask(users).unwrap();
        assert!(matches!(queue.poll_action(), Some(SlotAction::Dropped(id)) if id != newcomer));
        assert_eq!((queue.waiting(), queue.place(newcomer).is_some()), (SLOT_WAITS, true));
        let mut fair = 1;
        while queue.handle_ask(users).is_ok() {
            fair += 1;
        }
        let each = SLOT_WAITS / (users + 1);
        assert!((each - 1..=each + 1).contains(&fair), "{fair} of {each}");
        assert_eq!(queue.waiting(), SLOT_WAITS);
    }

    #[test]
    fn slots_follow_the_rate() {
        assert_eq!(slots_for(None), UPLOAD_SLOTS);
        assert_eq!([0, 1_000, 10 * SLOT_RATE, 1 << 40].map(|rate| slots_for(Some(rate))), [1, 1, 10, UPLOAD_SLOTS]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Ask(u8),
        Done(proptest::sample::Index),
        Slots(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0_u8..5).prop_map(Step::Ask),
            3 => any::<proptest::sample::Index>().prop_map(Step::Done),
            1 => (0_usize..6).prop_map(Step::Slots),
        ];
        proptest::collection::vec(step, 1..300)
    }

    proptest! {
        /// Beside a model that knows nothing of turns: who holds, who waits, in which order.
        #[test]
        fn slots_are_fair_and_never_lost(steps in steps()) {
            let mut queue = SlotQueue::new(2);
            let mut slots = 2;
            let mut held: Vec<(SlotId, u8)> = Vec::new();
            let mut waiting: Vec<(SlotId, u8)> = Vec::new();
            for step in steps {
                let next = waiting.iter().find(|(id, _)| queue.place(*id) == Some(1)).copied();
                let raised = matches!(step, Step::Slots(more) if more > slots && held.len() >= slots);
                match step {
                    Step::Ask(user) => waiting.push((queue.handle_ask(user).unwrap(), user)),
                    Step::Done(index) => {
                        let all: Vec<SlotId> = held.iter().chain(&waiting).map(|(id, _)| *id).collect();
                        if !all.is_empty() {
                            let id = *index.get(&all);
                            queue.handle_done(id);
                            held.retain(|(other, _)| *other != id);
                            waiting.retain(|(other, _)| *other != id);
                        }
                    }
                    Step::Slots(more) => {
                        slots = more;
                        queue.set_slots(more);
                    }
                }
                for (number, id) in granted(&mut queue).into_iter().enumerate() {
                    let at = waiting.iter().position(|(other, _)| *other == id).expect("only those that wait");
                    let (_, user) = waiting[at];
                    prop_assert!(waiting[..at].iter().all(|(_, other)| *other != user), "in order per user");
                    let holds = |who: u8| held.iter().filter(|(_, other)| *other == who).count();
                    for (_, other) in &waiting {
                        prop_assert!(holds(user) <= holds(*other), "nobody is more than one ahead of one who waits");
                    }
                    if raised && number == 0 && held.len() < slots {
                        prop_assert_eq!(Some((id, user)), next, "place 1 is the next");
                    }
                    let taken = waiting.remove(at);
                    held.push(taken);
                }
                prop_assert!(waiting.is_empty() || held.len() >= slots, "no slot is free while somebody waits");
                prop_assert_eq!((queue.slots().1, queue.waiting()), (held.len(), waiting.len()));
                let mut places: Vec<usize> = waiting.iter().map(|(id, _)| queue.place(*id).unwrap()).collect();
                places.sort_unstable();
                prop_assert!(places.iter().all(|place| (1..=waiting.len()).contains(place)));
                prop_assert!(queue.users.len() <= held.len() + waiting.len());
            }
        }
    }
}
