//! Questions that are answered where they are read: on the connection's task, without queue, job or wake-up.
//!
//! Only what a store answers from memory, to an open session, with an answer after which the session goes on. All else
//! is left to the session's task, which answers it as if it had come there first.

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use haul_core::ids::BlobId;
use haul_core::wire;
use haul_core::wire::index::{IndexAnswer, IndexRequest, Refusal};
use haul_core::wire::locate::{LocateOptions, read_locate, write_located};
use haul_net::clock;
use haul_net::connection::AnswerAtOnce;

use super::{Visitor, answers};
use crate::store::IndexStore;

thread_local! {
    /// The blobs of the Locate that is being answered.
    static BLOBS: RefCell<Vec<BlobId>> = RefCell::default();
}

/// Answers at once for one session.
#[derive(Debug)]
pub(super) struct AtOnce<S> {
    visitor: Arc<Visitor<S>>,
}

impl<S: IndexStore> AtOnce<S> {
    pub(super) fn new(visitor: Arc<Visitor<S>>) -> Self {
        Self { visitor }
    }

    fn locate(&self, request: &[u8], answer: &mut Vec<u8>) -> Option<u32> {
        // Measured: a blob that everybody has takes a hundred times as long as another one.
        let began = Instant::now();
        BLOBS.with_borrow_mut(|blobs| {
            blobs.clear();
            let LocateOptions { max, away } = read_locate(request, blobs)?;
            match answers::locate(&self.visitor, blobs, max, away).now_or_never()? {
                Ok(located) => write_located(&located, answer),
                Err(refusal) => refuse(refusal, answer)?,
            }
            Some(micros(began))
        })
    }

    fn others(&self, request: &[u8], answer: &mut Vec<u8>) -> Option<u32> {
        let began = Instant::now();
        let outcome = match wire::decode(request).ok()? {
            IndexRequest::Renew => answers::renew(&self.visitor),
            IndexRequest::Cards { numbers } => Ok(answers::cards(&self.visitor, &numbers)),
            IndexRequest::Lookup { keys, max, away } => {
                answers::lookup(&self.visitor, &keys, max, away).now_or_never()?
            }
            IndexRequest::Search { query, limit, cursor, away, exact } => {
                answers::search(&self.visitor, &query, limit, cursor, away, exact).now_or_never()?
            }
            IndexRequest::Browse { peer, share, path, recursive, cursor } => {
                answers::browse(&self.visitor, peer, share.as_ref(), &path, recursive, cursor.as_ref())
                    .now_or_never()?
            }
            _ => return None,
        };
        match outcome {
            Ok(found) => wire::encode_to(&found, answer),
            Err(refusal) => refuse(refusal, answer)?,
        }
        Some(micros(began))
    }
}

impl<S: IndexStore> AnswerAtOnce for AtOnce<S> {
    fn answer(&self, request: &[u8], answer: &mut Vec<u8>) -> Option<u32> {
        let state = &self.visitor.state;
        let asks = Asks::of(request)?;
        if !state.store.answers_at_once() || state.presence.is_due(clock::boot_now()) {
            return None;
        }
        // A panic is left to the session's task: it meets the same one, and ends the session in order.
        let answered = std::panic::catch_unwind(AssertUnwindSafe(|| match asks {
            Asks::Locate => self.locate(request, answer),
            Asks::Other => self.others(request, answer),
        }));
        answered.unwrap_or_default()
    }
}

/// Since then, and at least one.
fn micros(began: Instant) -> u32 {
    u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX).max(1)
}

fn refuse(refusal: Refusal, answer: &mut Vec<u8>) -> Option<()> {
    if answers::ends_session(&refusal) {
        return None;
    }
    wire::encode_to(&IndexAnswer::Refused(refusal), answer);
    Some(())
}

/// Kinds of questions that memory answers.
#[derive(Clone, Copy)]
enum Asks {
    Locate,
    Other,
}

impl Asks {
    /// By the message's number. A page of a manifest is not read just to find out that it is none.
    fn of(request: &[u8]) -> Option<Self> {
        match request.first()? {
            7..=10 | 19 => Some(Self::Other),
            18 => Some(Self::Locate),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use haul_core::ids::PublicKey;
    use haul_core::path::SharePath;
    use haul_core::wire::List;
    use haul_core::wire::index::LookupKeys;

    use super::*;

    #[test]
    fn questions_are_told_from_changes_by_their_first_byte() {
        let keys = LookupKeys::Names(List::default());
        let peer = PublicKey::new([7; 32]).unwrap();
        let path = SharePath::default();
        let questions = [
            IndexRequest::Renew,
            IndexRequest::Lookup { keys, max: 1, away: false },
            IndexRequest::Search { query: String::new(), limit: 1, cursor: None, away: false, exact: false },
            IndexRequest::Browse { peer, share: None, path, recursive: false, cursor: None },
            IndexRequest::Cards { numbers: List::default() },
        ];
        for question in questions {
            assert!(matches!(Asks::of(&wire::encode(&question)), Some(Asks::Other)), "{question:?}");
        }
        let locate = IndexRequest::Locate { blobs: List::default(), max: 1, away: false };
        assert!(matches!(Asks::of(&wire::encode(&locate)), Some(Asks::Locate)));
        for other in [IndexRequest::Leave, IndexRequest::Stats, IndexRequest::Peers { after: None }] {
            assert!(Asks::of(&wire::encode(&other)).is_none(), "{other:?}");
        }
        assert!(Asks::of(&[]).is_none());
    }
}
