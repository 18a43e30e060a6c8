//! Cards of peers by their number at the index. Answers to Locate name peers by number; a session learns each card once
//! and asks again when it may have changed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use haul_core::ids::PeerId;
use haul_core::limits;
use haul_core::wire::List;
use haul_core::wire::index::{IndexAnswer, IndexRequest, PeerCard};
use tokio::time::Instant;

use super::{LinkError, Session, answer_of};

/// How long a card is believed: a peer that came back at another address is found again within this time, or at once
/// when its old address does not answer.
const CARD_LIFE: Duration = Duration::from_secs(30);
/// Cards kept by one session; one more drops those that are too old, or all.
const CARDS_KEPT: usize = 10_000;

/// The cards that one session knows.
#[derive(Debug, Default)]
pub struct Cards {
    known: Mutex<HashMap<u32, Known>>,
}

#[derive(Debug)]
struct Known {
    learned: Instant,
    /// None if no member has the number.
    card: Option<PeerCard>,
}

impl Cards {
    /// The cards of these peers, each number's own; those that are unknown, old, or away although `online` says that
    /// they are not, are asked for.
    pub(super) async fn of(
        &self,
        session: &Session,
        numbers: &[u32],
        online: bool,
    ) -> Result<HashMap<u32, PeerCard>, LinkError> {
        let mut missing = self.missing(numbers, online, Instant::now());
        while !missing.is_empty() {
            let asked = missing.len().min(limits::CARDS);
            let numbers = List::new(missing.iter().take(asked).copied().collect());
            let cards = match answer_of(session, &IndexRequest::Cards { numbers }).await? {
                // Fewer than asked for did not fit into a frame; none at all would go on for ever.
                IndexAnswer::Cards { cards } if (1..=asked).contains(&cards.len()) => cards,
                _ => return Err(LinkError::Unexpected),
            };
            let told = cards.len();
            self.learn(missing.iter().copied().zip(cards), Instant::now());
            missing.drain(..told);
        }
        let known = self.lock();
        Ok(numbers.iter().filter_map(|number| Some((*number, known.get(number)?.card.clone()?))).collect())
    }

    /// The next answer that names this peer asks for its card again.
    pub(super) fn forget(&self, peer: &PeerId) {
        self.lock().retain(|_, known| known.card.as_ref().is_none_or(|card| card.id != *peer));
    }

    /// Numbers to ask for, each once.
    fn missing(&self, numbers: &[u32], online: bool, now: Instant) -> Vec<u32> {
        let known = self.lock();
        let fresh = |number: &u32| {
            known.get(number).is_some_and(|known| {
                let away = known.card.as_ref().is_some_and(|card| !card.online);
                now.duration_since(known.learned) < CARD_LIFE && !(online && away)
            })
        };
        let mut missing: Vec<u32> = numbers.iter().copied().filter(|number| !fresh(number)).collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    }

    fn learn(&self, cards: impl Iterator<Item = (u32, Option<PeerCard>)>, now: Instant) {
        let mut known = self.lock();
        if known.len() >= CARDS_KEPT {
            known.retain(|_, known| now.duration_since(known.learned) < CARD_LIFE);
        }
        if known.len() >= CARDS_KEPT {
            known.clear();
        }
        known.extend(cards.map(|(number, card)| (number, Known { learned: now, card })));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use haul_core::ids::PublicKey;
    use haul_core::time::Timestamp;
    use haul_core::wire::Label;

    use super::*;

    fn card(n: u8, online: bool) -> PeerCard {
        PeerCard {
            id: PublicKey::new([n; 32]).unwrap(),
            name: Label::from_lossy("x"),
            addresses: Vec::new(),
            online,
            seen: Timestamp(1),
            files: 0,
            bytes: 0,
        }
    }

    #[test]
    fn a_card_is_believed_until_it_is_old_wrong_or_of_no_use() {
        let cards = Cards::default();
        let now = Instant::now();
        assert_eq!(cards.missing(&[5, 3, 5], true, now), [3, 5]);
        cards.learn([(3, Some(card(7, true))), (4, Some(card(8, false))), (5, None)].into_iter(), now);
        assert_eq!(cards.missing(&[3, 4, 5], false, now), [0u32; 0]);
        assert_eq!(cards.missing(&[3, 4, 5], true, now), [4], "away when the card came, online now");
        assert_eq!(cards.missing(&[3, 4, 5], false, now + CARD_LIFE), [3, 4, 5]);
        cards.forget(&card(7, true).id);
        assert_eq!(cards.missing(&[3, 4, 5], false, now), [3], "its address did not answer");
    }

    #[test]
    fn cards_are_bounded() {
        let cards = Cards::default();
        let now = Instant::now();
        for number in 0..3 * CARDS_KEPT as u32 {
            cards.learn([(number, None)].into_iter(), now);
        }
        assert!(cards.lock().len() <= CARDS_KEPT);
        assert_eq!(cards.missing(&[3 * CARDS_KEPT as u32 - 1], false, now), [0u32; 0]);
    }
}
