//! Who may see this peer's own pages: links that work once and for a quarter of an hour, and the sessions that they open.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use haul_core::time::Moment;
use haul_net::clock::boot_now;

use crate::text::hex;

/// How long a link may be used.
const LINK_LIFE: Duration = Duration::from_mins(15);
/// How long a browser stays known.
const SESSION_LIFE: Duration = Duration::from_hours(24 * 7);
/// Links and sessions kept; the oldest go first.
const KEPT: usize = 32;

/// A secret that nobody guesses. It is compared by its hash, so that the time of a comparison tells nothing of it.
type Hashed = blake3::Hash;

#[derive(Debug, Default)]
struct Inner {
    links: VecDeque<(Hashed, Moment)>,
    sessions: VecDeque<(Hashed, Moment)>,
}

/// Links and sessions of one daemon; they end with it.
#[derive(Debug)]
pub struct Logins {
    address: SocketAddr,
    inner: Mutex<Inner>,
}

impl Logins {
    /// For pages at this address.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, inner: Mutex::default() }
    }

    /// Where the pages are.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A new link; none if the system has no random bytes.
    pub fn link(&self) -> Option<String> {
        let secret = secret()?;
        keep(&mut self.lock().links, &secret);
        Some(format!("http://{}/login/{secret}", self.address))
    }

    /// Uses up a link and opens a session: the secret for the cookie.
    pub fn enter(&self, link: &str) -> Option<String> {
        let now = boot_now();
        let mut inner = self.lock();
        let hash = blake3::hash(link.as_bytes());
        let place = inner.links.iter().position(|(known, _)| *known == hash)?;
        let (_, made) = inner.links.remove(place)?;
        if now.since(made) > LINK_LIFE {
            return None;
        }
        let session = secret()?;
        keep(&mut inner.sessions, &session);
        Some(session)
    }

    /// Whether this cookie opens the pages.
    pub fn knows(&self, session: &str) -> bool {
        let (now, hash) = (boot_now(), blake3::hash(session.as_bytes()));
        self.lock().sessions.iter().any(|(known, made)| *known == hash && now.since(*made) <= SESSION_LIFE)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Every change is one push or removal.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep(list: &mut VecDeque<(Hashed, Moment)>, secret: &str) {
    list.push_back((blake3::hash(secret.as_bytes()), boot_now()));
    while list.len() > KEPT {
        list.pop_front();
    }
}

fn secret() -> Option<String> {
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes).ok()?;
    Some(hex(&bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_link_works_once() {
        let logins = Logins::new("127.0.0.1:4479".parse().unwrap());
        let link = logins.link().unwrap();
        let secret = link.strip_prefix("http://127.0.0.1:4479/login/").unwrap();
        assert!(logins.enter("00").is_none());
        let session = logins.enter(secret).unwrap();
        assert!(logins.enter(secret).is_none(), "used up");
        assert!(logins.knows(&session) && !logins.knows(secret) && !logins.knows(""));
    }
}
