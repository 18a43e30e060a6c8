//! The state of one session at the index, and what it may ask in each state.
//!
//! | state | Introduce, right network | Introduce, another network | Hello | any other request |
//! | --- | --- | --- | --- | --- |
//! | Stranger | answered; Introduced | refused, closed | checked | refused, closed |
//! | Introduced | refused, closed | refused, closed | checked | refused, closed |
//! | Open | refused, closed | refused, closed | refused, closed | by role |
//! | Closed | closed | closed | closed | closed |
//!
//! A Hello that passes opens the session; one that fails closes it. So a stranger gets at most two answers, and
//! neither says anything about members or files.

use crate::ids::NetworkId;
use crate::trust::Role;
use crate::wire::index::{IndexRequest, Refusal};

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// Nothing was said yet.
    Stranger,
    /// The index showed its certificate.
    Introduced,
    /// A member or guest.
    Open(Role),
    /// Over.
    Closed,
}

/// What to do with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Show the index certificate.
    Introduce,
    /// Check certificate or ticket, then say [`SessionState::handle_hello`].
    CheckHello,
    /// Do it.
    Serve,
    /// Answer with this; the session goes on.
    Refuse(Refusal),
    /// Answer with this and close.
    Close(Refusal),
}

impl SessionState {
    /// Judges a request and steps on. `network` is the one that this index serves.
    pub fn handle_request(&mut self, network: NetworkId, request: &IndexRequest) -> Verdict {
        let verdict = match (*self, request) {
            (Self::Stranger, IndexRequest::Introduce { network: asked }) if *asked == network => {
                *self = Self::Introduced;
                return Verdict::Introduce;
            }
            (Self::Stranger, IndexRequest::Introduce { .. }) => Verdict::Close(Refusal::WrongNetwork),
            (Self::Stranger | Self::Introduced, IndexRequest::Hello(_)) => return Verdict::CheckHello,
            (Self::Open(_), IndexRequest::Introduce { .. } | IndexRequest::Hello(_)) => {
                Verdict::Close(Refusal::NotAllowed)
            }
            (Self::Open(role), request) if role >= least_role(request) => return Verdict::Serve,
            (Self::Open(_), _) => return Verdict::Refuse(Refusal::NotAllowed),
            (Self::Stranger | Self::Introduced | Self::Closed, _) => Verdict::Close(Refusal::NoSession),
        };
        *self = Self::Closed;
        verdict
    }

    /// The outcome of the check that [`Verdict::CheckHello`] asked for.
    pub fn handle_hello(&mut self, outcome: Result<Role, ()>) {
        *self = match (*self, outcome) {
            (Self::Stranger | Self::Introduced, Ok(role)) => Self::Open(role),
            _ => Self::Closed,
        };
    }
}

/// The least role that may ask this. Spelled out, so that a new request has to be decided here.
fn least_role(request: &IndexRequest) -> Role {
    match request {
        IndexRequest::Introduce { .. }
        | IndexRequest::Hello(_)
        | IndexRequest::Renew
        | IndexRequest::Lookup { .. }
        | IndexRequest::Locate { .. }
        | IndexRequest::Cards { .. }
        | IndexRequest::Search { .. }
        | IndexRequest::Browse { .. }
        | IndexRequest::Peers { .. }
        | IndexRequest::Stats
        | IndexRequest::Watch { .. }
        | IndexRequest::Unwatch { .. }
        | IndexRequest::Leave => Role::Guest,
        IndexRequest::Open { .. }
        | IndexRequest::Begin { .. }
        | IndexRequest::Page { .. }
        | IndexRequest::Commit { .. }
        | IndexRequest::Close { .. }
        | IndexRequest::Join { .. }
        | IndexRequest::Have { .. }
        | IndexRequest::Depart { .. }
        | IndexRequest::Leaving => Role::Member,
        IndexRequest::Invite { .. } | IndexRequest::Remove { .. } => Role::Admin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{BlobId, PeerId, PublicKey, ShareId};
    use crate::manifest::ShareState;
    use crate::path::SharePath;
    use crate::wire::index::{Hello, LookupKeys, Membership, Runs};
    use crate::wire::{ByteString, Label, List};
    use alloc::string::{String, ToString};
    use alloc::vec::Vec;
    use alloc::{format, vec};

    fn key(n: u8) -> PublicKey {
        let mut bytes = [7; 32];
        bytes[0] = n;
        PublicKey::new(bytes).expect("not weak")
    }

    fn requests() -> Vec<(&'static str, IndexRequest)> {
        let share = ShareId([1; 16]);
        let name = Label::from_lossy("x");
        let peer: PeerId = key(2);
        let blob = BlobId::new([3; 32]);
        let hello = Hello {
            version: 1,
            features: 0,
            name: name.clone(),
            membership: Membership::Ticket([0; 16]),
            peer_port: 0,
            addresses: List::default(),
        };
        vec![
            ("Introduce", IndexRequest::Introduce { network: key(1) }),
            ("Introduce other", IndexRequest::Introduce { network: key(9) }),
            ("Hello", IndexRequest::Hello(hello)),
            ("Open", IndexRequest::Open { share, name, groups: List::default(), state: ShareState::default() }),
            ("Begin", IndexRequest::Begin { share, tx: 1, base: None }),
            ("Page", IndexRequest::Page { tx: 1, seq: 0, bytes: ByteString::default() }),
            ("Commit", IndexRequest::Commit { tx: 1, state: ShareState::default(), changes: 0 }),
            ("Close", IndexRequest::Close { share, forget: false }),
            ("Renew", IndexRequest::Renew),
            ("Lookup", IndexRequest::Lookup { keys: LookupKeys::Blobs(List::default()), max: 1, away: false }),
            (
                "Search",
                IndexRequest::Search { query: String::new(), limit: 1, cursor: None, away: false, exact: false },
            ),
            (
                "Browse",
                IndexRequest::Browse { peer, share: None, path: SharePath::default(), recursive: false, cursor: None },
            ),
            ("Peers", IndexRequest::Peers { after: None }),
            ("Stats", IndexRequest::Stats),
            (
                "Invite",
                IndexRequest::Invite {
                    uses: 1,
                    life_ms: 1,
                    role: Role::Member,
                    groups: List::default(),
                    one_user: false,
                },
            ),
            ("Remove", IndexRequest::Remove { peer }),
            ("Leave", IndexRequest::Leave),
            ("Watch", IndexRequest::Watch { watch: 1, query: String::new() }),
            ("Unwatch", IndexRequest::Unwatch { watch: 1 }),
            ("Locate", IndexRequest::Locate { blobs: List::default(), max: 1, away: false }),
            ("Cards", IndexRequest::Cards { numbers: List::default() }),
            ("Join", IndexRequest::Join { blob, size: 0, pieces: Runs::default(), uplink: None }),
            (
                "Have",
                IndexRequest::Have {
                    blob,
                    pieces: Runs::default(),
                    received: List::default(),
                    failed: List::default(),
                    uplink: None,
                },
            ),
            ("Depart", IndexRequest::Depart { blob }),
            ("Leaving", IndexRequest::Leaving),
        ]
    }

    /// The whole table, so that a change of any cell shows in review.
    #[test]
    fn transition_table() {
        let states = [
            ("stranger", SessionState::Stranger),
            ("introduced", SessionState::Introduced),
            ("guest", SessionState::Open(Role::Guest)),
            ("member", SessionState::Open(Role::Member)),
            ("admin", SessionState::Open(Role::Admin)),
            ("closed", SessionState::Closed),
        ];
        let mut table = Vec::new();
        for (request_name, request) in requests() {
            let mut row = vec![request_name.to_string()];
            for (_, state) in states {
                let mut after = state;
                let verdict = after.handle_request(key(1), &request);
                let short = match verdict {
                    Verdict::Introduce => "introduce".to_string(),
                    Verdict::CheckHello => "check".to_string(),
                    Verdict::Serve => "serve".to_string(),
                    Verdict::Refuse(refusal) => format!("refuse {refusal:?}"),
                    Verdict::Close(refusal) => format!("close {refusal:?}"),
                };
                let closes = short.starts_with("close");
                assert_eq!(closes, after == SessionState::Closed, "{request_name}");
                row.push(short);
            }
            table.push(row.join(" | "));
        }
        let member = "refuse NotAllowed | serve | serve | close NoSession";
        let admin = "refuse NotAllowed | refuse NotAllowed | serve | close NoSession";
        let all = "serve | serve | serve | close NoSession";
        let stranger = "close NoSession | close NoSession";
        let refused = "close NotAllowed | close NotAllowed | close NotAllowed | close NoSession";
        let mut expected = vec![
            format!("Introduce | introduce | close NoSession | {refused}"),
            format!("Introduce other | close WrongNetwork | close NoSession | {refused}"),
            format!("Hello | check | check | {refused}"),
        ];
        expected.extend(["Open", "Begin", "Page", "Commit", "Close"].map(|n| format!("{n} | {stranger} | {member}")));
        expected.extend(
            ["Renew", "Lookup", "Search", "Browse", "Peers", "Stats"].map(|n| format!("{n} | {stranger} | {all}")),
        );
        expected.extend(["Invite", "Remove"].map(|n| format!("{n} | {stranger} | {admin}")));
        expected.extend(["Leave", "Watch", "Unwatch", "Locate", "Cards"].map(|n| format!("{n} | {stranger} | {all}")));
        expected.extend(["Join", "Have", "Depart", "Leaving"].map(|n| format!("{n} | {stranger} | {member}")));
        assert_eq!(table, expected);
    }

    #[test]
    fn a_hello_opens_once_and_a_failed_one_closes() {
        let mut state = SessionState::Introduced;
        state.handle_hello(Ok(Role::Member));
        assert_eq!(state, SessionState::Open(Role::Member));
        state.handle_hello(Ok(Role::Admin));
        assert_eq!(state, SessionState::Closed, "no second Hello");
        let mut state = SessionState::Stranger;
        state.handle_hello(Err(()));
        assert_eq!(state, SessionState::Closed);
        state.handle_hello(Ok(Role::Admin));
        assert_eq!(state, SessionState::Closed);
    }
}
