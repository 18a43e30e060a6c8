//! What this peer knows about the network's trust: index time, its own grant, who was removed.
//!
//! Index time is kept as an offset to the boot clock, so a wrong or jumping wall clock changes nothing. The judgement
//! over grants of others is [`GrantCheck`]'s; this module tells it of contact, loss and removals.

use std::sync::{Arc, Mutex, PoisonError};

use haul_core::ids::{NetworkId, PeerId};
use haul_core::limits;
use haul_core::time::{Moment, Timestamp};
use haul_core::wire::ByteString;
use tokio::sync::watch;

use crate::fetch::pool::GrantPaper;
use crate::serve::GrantCheck;

/// What the index said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The network.
    pub network: NetworkId,
    /// This peer's grant, signed.
    pub grant: ByteString,
    /// The index's certificate, signed.
    pub index_certificate: ByteString,
    /// Index time, …
    pub time: Timestamp,
    /// … at this moment of the boot clock.
    pub at: Moment,
    /// Removed members by key and serial.
    pub revoked: Vec<(PeerId, u64)>,
}

impl Word {
    fn time_at(&self, now: Moment) -> Timestamp {
        self.time.after(now.since(self.at))
    }
}

/// Written by the link; read by everything that serves or dials.
#[derive(Debug)]
pub struct Standing {
    word: Mutex<Option<Word>>,
    paper: watch::Sender<Option<GrantPaper>>,
    check: watch::Sender<Option<(NetworkId, Arc<GrantCheck>)>>,
}

impl Default for Standing {
    fn default() -> Self {
        Self { word: Mutex::default(), paper: watch::Sender::new(None), check: watch::Sender::new(None) }
    }
}

impl Standing {
    /// The index speaks: in touch.
    pub fn hear(&self, word: Word) {
        let check = self.check_for(word.network);
        check.in_touch(word.time, word.at);
        self.take(word, &check);
    }

    /// What is left from an earlier run, last heard at `heard`: cut off since then.
    pub fn restore(&self, word: Word, heard: Timestamp) {
        let check = self.check_for(word.network);
        let lost = Moment(word.at.0.saturating_sub(word.time.0.saturating_sub(heard.0)));
        check.in_touch(heard, lost);
        check.cut_off(lost);
        self.take(word, &check);
    }

    /// A renewal: time, removals, perhaps a new grant.
    pub fn renew(&self, grant: Option<ByteString>, time: Timestamp, at: Moment, revoked: Vec<(PeerId, u64)>) {
        let Some(word) = self.word() else { return };
        self.hear(Word { grant: grant.unwrap_or(word.grant), time, at, revoked, ..word });
    }

    /// The index is lost.
    pub fn lose(&self, now: Moment) {
        if let Some((_, check)) = self.check.borrow().as_ref() {
            check.cut_off(now);
        }
    }

    /// The network was left.
    pub fn forget(&self) {
        *self.lock() = None;
        self.paper.send_replace(None);
        self.check.send_replace(None);
    }

    /// What the index said last.
    pub fn word(&self) -> Option<Word> {
        self.lock().clone()
    }

    /// Index time.
    pub fn index_time(&self, now: Moment) -> Option<Timestamp> {
        self.lock().as_ref().map(|word| word.time_at(now))
    }

    /// The newest grant, to show to peers that are dialed.
    pub fn papers(&self) -> watch::Receiver<Option<GrantPaper>> {
        self.paper.subscribe()
    }

    /// The judge over grants; another one after another network was joined, none while in no network.
    pub fn checks(&self) -> watch::Receiver<Option<(NetworkId, Arc<GrantCheck>)>> {
        self.check.subscribe()
    }

    fn check_for(&self, network: NetworkId) -> Arc<GrantCheck> {
        if let Some((known, check)) = self.check.borrow().as_ref()
            && *known == network
        {
            return check.clone();
        }
        let check = GrantCheck::new(network, limits::OFFLINE_GRACE);
        self.check.send_replace(Some((network, check.clone())));
        check
    }

    fn take(&self, word: Word, check: &GrantCheck) {
        check.revoke(word.revoked.iter().copied());
        let paper = GrantPaper { grant: word.grant.clone(), index_certificate: word.index_certificate.clone() };
        *self.lock() = Some(word);
        self.paper.send_if_modified(|shown| {
            let newer = shown.as_ref() != Some(&paper);
            if newer {
                *shown = Some(paper);
            }
            newer
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Word>> {
        // Every change is one assignment, so a poisoned lock still guards a whole value.
        self.word.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use haul_core::trust::{Grant, IndexCertificate};
    use haul_net::identity::SecretKey;
    use haul_net::trust::sign;

    use super::*;
    use crate::serve::GrantRefusal;

    const START: u64 = 1_000_000_000_000;
    const GRANT_MS: u64 = 300_000;

    struct World {
        network: SecretKey,
        index: SecretKey,
        standing: Standing,
    }

    impl World {
        fn new() -> Self {
            let (network, index) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
            Self { network, index, standing: Standing::default() }
        }

        fn word(&self, at: u64) -> Word {
            Word {
                network: self.network.public(),
                grant: ByteString(vec![1]),
                index_certificate: ByteString(vec![2]),
                time: Timestamp(START),
                at: Moment(at),
                revoked: Vec::new(),
            }
        }

        fn check(&self, peer: PeerId, issued: u64, now: u64) -> Result<(), GrantRefusal> {
            let (network, index) = (self.network.public(), self.index.public());
            let certificate = IndexCertificate { network, index, not_after: Timestamp(START * 2) };
            let (issued, expires) = (Timestamp(issued), Timestamp(issued + GRANT_MS));
            let user = haul_core::ids::UserId::alone(&peer);
            let grant = Grant { network, peer, serial: 5, issued, expires, user, groups: Vec::new() };
            let (_, check) = self.standing.checks().borrow().clone().unwrap();
            let signed = (sign(&self.network, certificate).to_bytes(), sign(&self.index, grant).to_bytes());
            check.check(peer, &signed.1, &signed.0, Moment(now)).map(drop)
        }
    }

    #[test]
    fn contact_loss_and_removal_reach_the_judge() {
        let world = World::new();
        let peer = SecretKey::generate().unwrap().public();
        world.standing.hear(world.word(50_000));
        assert_eq!(world.check(peer, START, 50_000), Ok(()));
        assert_eq!(world.check(peer, START, 50_000 + GRANT_MS), Err(GrantRefusal::Expired));
        world.standing.lose(Moment(51_000));
        assert_eq!(world.check(peer, START, 50_000 + GRANT_MS), Ok(()));
        world.standing.renew(None, Timestamp(START + GRANT_MS), Moment(50_000 + GRANT_MS), vec![(peer, 5)]);
        assert_eq!(world.check(peer, START + GRANT_MS, 50_000 + GRANT_MS), Err(GrantRefusal::Revoked));
    }

    #[test]
    fn an_earlier_run_counts_as_cut_off() {
        let world = World::new();
        let peer = SecretKey::generate().unwrap().public();
        // Heard at START; ten minutes later this run begins.
        let last = Word { time: Timestamp(START + 600_000), ..world.word(900_000) };
        world.standing.restore(last, Timestamp(START));
        assert_eq!(world.check(peer, START - 1_000, 900_000), Ok(()), "in date when the index was lost");
        assert_eq!(world.check(peer, START - GRANT_MS, 900_000), Err(GrantRefusal::Expired));
        assert_eq!(world.standing.index_time(Moment(901_000)), Some(Timestamp(START + 601_000)));
    }

    #[test]
    fn papers_change_with_new_grants_only() {
        let world = World::new();
        let mut papers = world.standing.papers();
        world.standing.hear(world.word(1));
        assert!(papers.has_changed().unwrap());
        assert_eq!(papers.borrow_and_update().as_ref().unwrap().grant, ByteString(vec![1]));
        world.standing.renew(None, Timestamp(START + 1), Moment(2), Vec::new());
        assert!(!papers.has_changed().unwrap());
        world.standing.renew(Some(ByteString(vec![9])), Timestamp(START + 2), Moment(3), Vec::new());
        assert_eq!(papers.borrow_and_update().as_ref().unwrap().grant, ByteString(vec![9]));
        world.standing.forget();
        assert!(papers.borrow().is_none() && world.standing.checks().borrow().is_none());
    }
}
