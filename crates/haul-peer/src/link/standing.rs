//! What this peer knows about the network's trust: index time, its own grant, who was removed; and the decision whether
//! a grant that another peer shows is good.
//!
//! Index time is kept as an offset to the boot clock, so a wrong or jumping wall clock changes nothing. In touch with
//! the index, a grant must be in date now. Cut off, it must have been in date when the index was lost, and that for
//! [`limits::OFFLINE_GRACE`]: a dead index stops no transfer, and a removed member is out minutes later.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use haul_core::ids::{NetworkId, PeerId};
use haul_core::limits;
use haul_core::time::{Moment, Timestamp};
use haul_core::trust::{Grant, IndexCertificate};
use haul_core::wire::ByteString;
use haul_net::trust::parse_checked;

/// How far ahead of this peer's idea of index time a grant may have been issued: the way of the messages.
const AHEAD: Duration = Duration::from_secs(10);

/// What the index said last.
#[derive(Clone, Debug)]
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

#[derive(Debug, Default)]
struct Inner {
    word: Option<Word>,
    /// Index time when the index was lost; none while in touch.
    lost: Option<Timestamp>,
}

/// Shared by the link, which writes it, and by everything that serves or dials.
#[derive(Debug, Default)]
pub struct Standing {
    inner: Mutex<Inner>,
}

/// Why a grant is not accepted, in words for the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantRefusal {
    /// No network yet.
    #[error("this peer is in no network yet")]
    NoNetwork,
    /// Signatures or form.
    #[error("the grant or the certificate of its index is not signed as it should be")]
    Signature,
    /// Of another network or key.
    #[error("the grant is for another network or another key")]
    NotYours,
    /// The time is over.
    #[error("the grant has ended; renew it at the index")]
    Ended,
    /// The member was removed.
    #[error("the member was removed from the network")]
    Revoked,
    /// Cut off for too long.
    #[error("this peer has not reached its index for a day and trusts no old grants")]
    TooLongAlone,
}

impl Standing {
    /// The index speaks: in touch.
    pub fn hear(&self, word: Word) {
        let mut inner = self.lock();
        inner.word = Some(word);
        inner.lost = None;
    }

    /// What is left from an earlier run: cut off since then.
    pub fn restore(&self, word: Word, lost: Timestamp) {
        let mut inner = self.lock();
        inner.word = Some(word);
        inner.lost = Some(lost);
    }

    /// A renewal: time, removals, perhaps a new grant.
    pub fn renew(&self, grant: Option<ByteString>, time: Timestamp, at: Moment, revoked: Vec<(PeerId, u64)>) {
        let mut inner = self.lock();
        inner.lost = None;
        if let Some(word) = &mut inner.word {
            word.time = time;
            word.at = at;
            word.revoked = revoked;
            if let Some(grant) = grant {
                word.grant = grant;
            }
        }
    }

    /// The index is lost.
    pub fn lose(&self, now: Moment) {
        let mut inner = self.lock();
        if inner.lost.is_none() {
            inner.lost = inner.word.as_ref().map(|word| word.time_at(now));
        }
    }

    /// The network was left.
    pub fn forget(&self) {
        *self.lock() = Inner::default();
    }

    /// What the index said last.
    pub fn word(&self) -> Option<Word> {
        self.lock().word.clone()
    }

    /// Index time.
    pub fn index_time(&self, now: Moment) -> Option<Timestamp> {
        self.lock().word.as_ref().map(|word| word.time_at(now))
    }

    /// This peer's grant and the certificate of the index that signed it, to show to a peer that is dialed.
    pub fn own_grant(&self) -> Option<(ByteString, ByteString)> {
        self.lock().word.as_ref().map(|word| (word.grant.clone(), word.index_certificate.clone()))
    }

    /// Judges what the peer with the key `remote` shows.
    pub fn check(
        &self,
        now: Moment,
        remote: PeerId,
        grant: &[u8],
        index_certificate: &[u8],
    ) -> Result<Grant, GrantRefusal> {
        let inner = self.lock();
        let word = inner.word.as_ref().ok_or(GrantRefusal::NoNetwork)?;
        let certificate: IndexCertificate =
            parse_checked(index_certificate, &word.network).map_err(|_| GrantRefusal::Signature)?;
        let grant: Grant = parse_checked(grant, &certificate.index).map_err(|_| GrantRefusal::Signature)?;
        if certificate.network != word.network || grant.network != word.network || grant.peer != remote {
            return Err(GrantRefusal::NotYours);
        }
        if word.revoked.iter().any(|(peer, serial)| *peer == remote && *serial >= grant.serial) {
            return Err(GrantRefusal::Revoked);
        }
        let now = word.time_at(now);
        if let Some(lost) = inner.lost
            && now > lost.after(limits::OFFLINE_GRACE)
        {
            return Err(GrantRefusal::TooLongAlone);
        }
        let measure = inner.lost.unwrap_or(now);
        if grant.expires <= measure || grant.issued > now.after(AHEAD) || certificate.not_after <= measure {
            return Err(GrantRefusal::Ended);
        }
        Ok(grant)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Every change is a few assignments, so a poisoned lock still guards whole values.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Word {
    fn time_at(&self, now: Moment) -> Timestamp {
        self.time.after(now.since(self.at))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use haul_net::identity::SecretKey;
    use haul_net::trust::sign;

    use super::*;

    struct World {
        network: SecretKey,
        index: SecretKey,
        standing: Standing,
    }

    const START: u64 = 1_000_000_000_000;
    const GRANT_MS: u64 = 300_000;

    fn world() -> World {
        let (network, index) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        let world = World { network, index, standing: Standing::default() };
        world.standing.hear(Word {
            network: world.network.public(),
            grant: ByteString::default(),
            index_certificate: ByteString::default(),
            time: Timestamp(START),
            at: Moment(50_000),
            revoked: Vec::new(),
        });
        world
    }

    impl World {
        fn certificate(&self) -> Vec<u8> {
            let statement = IndexCertificate {
                network: self.network.public(),
                index: self.index.public(),
                not_after: Timestamp(START * 2),
            };
            sign(&self.network, statement).to_bytes()
        }

        fn grant(&self, peer: PeerId, issued: u64) -> Vec<u8> {
            let grant = Grant {
                network: self.network.public(),
                peer,
                serial: 5,
                issued: Timestamp(issued),
                expires: Timestamp(issued + GRANT_MS),
                groups: Vec::new(),
            };
            sign(&self.index, grant).to_bytes()
        }

        fn check(&self, after_ms: u64, remote: PeerId, grant: &[u8]) -> Result<(), GrantRefusal> {
            self.standing.check(Moment(50_000 + after_ms), remote, grant, &self.certificate()).map(drop)
        }
    }

    #[test]
    fn in_touch_a_grant_must_be_in_date() {
        let world = world();
        let peer = SecretKey::generate().unwrap().public();
        let grant = world.grant(peer, START);
        assert_eq!(world.check(0, peer, &grant), Ok(()));
        assert_eq!(world.check(GRANT_MS - 1, peer, &grant), Ok(()));
        assert_eq!(world.check(GRANT_MS, peer, &grant), Err(GrantRefusal::Ended));
        assert_eq!(world.check(0, peer, &world.grant(peer, START + 60_000)), Err(GrantRefusal::Ended));
        assert_eq!(world.check(0, world.index.public(), &grant), Err(GrantRefusal::NotYours));
        let mut forged = grant.clone();
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(world.check(0, peer, &forged), Err(GrantRefusal::Signature));
        assert_eq!(world.check(0, peer, b""), Err(GrantRefusal::Signature));
        assert_eq!(Standing::default().check(Moment(0), peer, &grant, b""), Err(GrantRefusal::NoNetwork));
    }

    #[test]
    fn the_removed_are_out_and_return_with_a_new_certificate_only() {
        let world = world();
        let peer = SecretKey::generate().unwrap().public();
        let grant = world.grant(peer, START);
        world.standing.renew(None, Timestamp(START), Moment(50_000), vec![(peer, 5)]);
        assert_eq!(world.check(0, peer, &grant), Err(GrantRefusal::Revoked));
        world.standing.renew(None, Timestamp(START), Moment(50_000), vec![(peer, 4)]);
        assert_eq!(world.check(0, peer, &grant), Ok(()));
    }

    #[test]
    fn cut_off_old_grants_last_a_day() {
        let world = world();
        let peer = SecretKey::generate().unwrap().public();
        let (grant, old) = (world.grant(peer, START), world.grant(peer, START - GRANT_MS));
        world.standing.lose(Moment(50_000 + 1_000));
        let day = u64::try_from(limits::OFFLINE_GRACE.as_millis()).unwrap();
        assert_eq!(world.check(GRANT_MS * 10, peer, &grant), Ok(()));
        assert_eq!(world.check(2_000, peer, &old), Err(GrantRefusal::Ended));
        assert_eq!(world.check(day + 1_000, peer, &grant), Ok(()));
        assert_eq!(world.check(day + 1_001, peer, &grant), Err(GrantRefusal::TooLongAlone));
        world.standing.renew(None, Timestamp(START + day), Moment(50_000 + day), Vec::new());
        assert_eq!(world.check(day, peer, &grant), Err(GrantRefusal::Ended));
    }
}
