//! Who belongs to the network: members, names, tickets, removals; and who was last seen where.
//!
//! Everything is kept in memory and on disk; a change is on disk before it is answered. These functions wait for the
//! disk, so sessions call the changing ones away from their threads. A member comes back by its certificate alone, so
//! that an index that lost this file takes its members back.

mod ledger;
mod names;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use haul_core::ids::{PeerId, UserId};
use haul_core::limits;
use haul_core::registry::addresses::Origin;
use haul_core::time::{Moment, Timestamp};
use haul_core::trust::{MemberCertificate, Role};
use haul_core::wire::Label;
use haul_core::wire::index::Refusal;

use crate::authority::Authority;
use crate::config::Invitation;
use ledger::{Ledger, MemberRecord, PresenceRecord, RemovalRecord, TicketKey, TicketRecord, Write};

pub use ledger::LedgerError;

/// A member as sessions know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name, unique in the network.
    pub name: Label,
    /// What it may do.
    pub role: Role,
    /// The groups it belongs to, besides everyone.
    pub groups: Vec<Label>,
    /// Serial of its newest certificate.
    pub serial: u64,
    /// When it was signed.
    pub issued: Timestamp,
    /// A guest's end.
    pub until: Option<Timestamp>,
    /// Whose machine it is, if it does not stand for itself.
    pub user: Option<UserId>,
}

impl Member {
    /// Whose turn it is when this member is served.
    pub fn user_of(&self, peer: &PeerId) -> UserId {
        self.user.unwrap_or_else(|| UserId::alone(peer))
    }
}

/// A removed member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Removal {
    serial: u64,
    at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct TicketState {
    made: Timestamp,
    expires: Timestamp,
    uses: u32,
    used: u32,
    role: Role,
    groups: Vec<Label>,
    one_user: bool,
}

/// What was last known of a peer's presence, kept over restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresenceNote {
    /// Boot that `lease_end` belongs to.
    pub boot: [u8; 16],
    /// End of its lease; none while it is away.
    pub lease_end: Option<Moment>,
    /// When it was last heard of.
    pub seen: Timestamp,
    /// Where its connection came from.
    pub origin: Origin,
    /// The port on which it serves.
    pub port: u16,
    /// The addresses that it claimed.
    pub claims: Vec<String>,
}

#[derive(Debug, Default)]
struct State {
    serial: u64,
    members: BTreeMap<PeerId, Member>,
    names: HashMap<String, PeerId>,
    removals: BTreeMap<PeerId, Removal>,
    tickets: HashMap<TicketKey, TicketState>,
    ticket_uses: BTreeSet<(TicketKey, PeerId)>,
}

/// All members of one network, as one index knows them.
#[derive(Debug)]
pub struct Members {
    authority: Arc<Authority>,
    ledger: Ledger,
    /// Held over a whole change, disk included; readers take only `state`.
    changing: Mutex<()>,
    state: RwLock<State>,
}

impl Members {
    /// Opens or creates the file. Also returns what was known of presence.
    pub fn open(path: &Path, authority: Arc<Authority>) -> Result<(Self, Vec<(PeerId, PresenceNote)>), LedgerError> {
        let (ledger, contents) = Ledger::open(path)?;
        let mut state = State { serial: contents.serial, ..State::default() };
        for (peer, record) in contents.members {
            let member = Member::from(record);
            state.names.insert(names::key(&member.name), peer);
            state.members.insert(peer, member);
        }
        for (peer, RemovalRecord::V1 { serial, at }) in contents.removals {
            state.removals.insert(peer, Removal { serial, at });
        }
        state.tickets = contents.tickets.into_iter().map(|(key, record)| (key, record.into())).collect();
        state.ticket_uses = contents.ticket_uses.into_iter().collect();
        let notes = contents.presence.into_iter().map(|(peer, record)| (peer, record.into())).collect();
        Ok((Self { authority, ledger, changing: Mutex::new(()), state: RwLock::new(state) }, notes))
    }

    /// Admits the holder of a certificate of this network, under the name it would like if that is free.
    pub fn admit_certificate(
        &self,
        now: Timestamp,
        peer: PeerId,
        certificate: &[u8],
        wanted: &Label,
    ) -> Result<Member, Refusal> {
        let certificate = self.authority.read_certificate(certificate).ok_or(Refusal::BadCertificate)?;
        if certificate.peer != peer {
            return Err(Refusal::BadCertificate);
        }
        let _changing = self.lock_changes();
        let (known, name) = self.read(|state| {
            if state.removals.get(&peer).is_some_and(|removal| certificate.serial <= removal.serial) {
                return Err(Refusal::Revoked);
            }
            Ok((state.members.get(&peer).cloned(), names::unique(wanted, peer, &state.names)))
        })?;
        let Some(known) = known else { return self.take_back(now, peer, certificate, name) };
        if known.until.is_some_and(|until| until <= now) {
            return Err(Refusal::TicketExpired);
        }
        if known.name == name {
            return Ok(known);
        }
        self.sign_in(now, peer, Member { name, ..known }, Vec::new())
    }

    /// The index lost what it knew of this member; the network's signature is enough. A guest's end is lost with it,
    /// so guests need a ticket again.
    fn take_back(
        &self,
        now: Timestamp,
        peer: PeerId,
        certificate: MemberCertificate,
        name: Label,
    ) -> Result<Member, Refusal> {
        if certificate.role == Role::Guest {
            return Err(Refusal::TicketExpired);
        }
        let member = Member {
            name,
            role: certificate.role,
            groups: labels(&certificate.groups),
            serial: certificate.serial,
            issued: certificate.issued,
            until: None,
            user: Some(certificate.user).filter(|user| *user != UserId::alone(&peer)),
        };
        if member.name.as_str() != certificate.name {
            return self.sign_in(now, peer, member, Vec::new());
        }
        self.store_member(peer, member, Vec::new())
    }

    /// Admits the holder of a ticket. The first use by a key counts, others do not.
    pub fn admit_ticket(
        &self,
        now: Timestamp,
        peer: PeerId,
        secret: &[u8; 16],
        wanted: &Label,
    ) -> Result<Member, Refusal> {
        let key = ticket_key(secret);
        let _changing = self.lock_changes();
        let (member, ticket, first_use, changed) = self.read(|state| {
            let ticket = state.tickets.get(&key).ok_or(Refusal::TicketUnknown)?;
            if ticket.expires <= now {
                return Err(Refusal::TicketExpired);
            }
            // An invitation that is older than the removal does not undo it.
            if state.removals.get(&peer).is_some_and(|removal| ticket.made <= removal.at) {
                return Err(Refusal::Revoked);
            }
            let first_use = !state.ticket_uses.contains(&(key, peer));
            if first_use && ticket.used >= ticket.uses {
                return Err(Refusal::TicketUsedUp);
            }
            let known = state.members.get(&peer);
            let user = ticket.one_user.then(|| UserId::new(key));
            let member = ticket.member(known, user, names::unique(wanted, peer, &state.names));
            let changed = known != Some(&member);
            Ok((member, ticket.clone(), first_use, changed))
        })?;
        let mut writes = Vec::new();
        if first_use {
            let ticket = TicketState { used: ticket.used + 1, ..ticket };
            writes.push(Write::Ticket(key, Some((&ticket).into())));
            writes.push(Write::TicketUse(key, peer, true));
        }
        if changed {
            return self.sign_in(now, peer, member, writes);
        }
        self.commit(writes).map_err(storage)?;
        Ok(member)
    }

    /// Gives the member a new serial and stores it.
    fn sign_in(&self, now: Timestamp, peer: PeerId, member: Member, mut writes: Vec<Write>) -> Result<Member, Refusal> {
        // At least the time, so that serials also grow for an index that lost count.
        let serial = self.read(|state| state.serial.max(member.serial).saturating_add(1).max(now.0));
        writes.push(Write::Serial(serial));
        self.store_member(peer, Member { serial, issued: now, ..member }, writes)
    }

    fn store_member(&self, peer: PeerId, member: Member, mut writes: Vec<Write>) -> Result<Member, Refusal> {
        writes.push(Write::Member(peer, Some((&member).into())));
        self.commit(writes).map_err(storage)?;
        Ok(member)
    }

    /// Makes a ticket; returns its secret and its end.
    pub fn invite(&self, now: Timestamp, invitation: &Invitation) -> Result<([u8; 16], Timestamp), Refusal> {
        check_invitation(invitation)?;
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).map_err(|error| Refusal::Storage(format!("no random bytes: {error}")))?;
        let ticket = TicketState {
            made: now,
            expires: now.after(invitation.life),
            uses: invitation.uses,
            used: 0,
            role: invitation.role,
            groups: invitation.groups.clone(),
            one_user: invitation.one_user,
        };
        let _changing = self.lock_changes();
        if self.read(|state| state.tickets.len()) >= limits::TICKETS {
            return Err(Refusal::TooMuch(format!("{} tickets are open; let some end first", limits::TICKETS)));
        }
        self.commit(vec![Write::Ticket(ticket_key(&secret), Some((&ticket).into()))]).map_err(storage)?;
        Ok((secret, ticket.expires))
    }

    /// Takes a member out. Its certificates are void from now on, and so are the tickets that it used: it still has
    /// their secrets and could come back under another key.
    pub fn remove(&self, now: Timestamp, peer: PeerId) -> Result<(), Refusal> {
        let _changing = self.lock_changes();
        let (serial, tickets) = self.read(|state| {
            let member = state.members.get(&peer).ok_or(Refusal::NotFound)?;
            let used = state.ticket_uses.iter().filter(|(_, user)| *user == peer).map(|(ticket, _)| *ticket);
            Ok((state.serial.max(member.serial), used.collect::<Vec<_>>()))
        })?;
        let mut writes = vec![
            Write::Removal(peer, Some(RemovalRecord::V1 { serial, at: now })),
            Write::Member(peer, None),
            Write::Presence(peer, None),
            Write::Serial(serial),
        ];
        for ticket in tickets {
            writes.extend(self.end_ticket(ticket));
        }
        self.commit(writes).map_err(storage)
    }

    fn end_ticket(&self, ticket: TicketKey) -> Vec<Write> {
        self.read(|state| {
            let uses = state.ticket_uses.iter().filter(|(used, _)| *used == ticket);
            let uses = uses.map(|(_, peer)| Write::TicketUse(ticket, *peer, false));
            uses.chain([Write::Ticket(ticket, None)]).collect()
        })
    }

    /// Removed members whose grants may still run, newest first.
    pub fn revoked(&self, now: Timestamp) -> Vec<(PeerId, u64)> {
        self.read(|state| {
            let mut recent: Vec<_> =
                state.removals.iter().filter(|(_, removal)| removal.at.after(2 * limits::GRANT) > now).collect();
            recent.sort_by_key(|(_, removal)| std::cmp::Reverse(removal.at));
            recent.truncate(limits::REVOKED_LISTED);
            recent.into_iter().map(|(peer, removal)| (*peer, removal.serial)).collect()
        })
    }

    /// A member.
    pub fn find(&self, peer: &PeerId) -> Option<Member> {
        self.read(|state| state.members.get(peer).cloned())
    }

    /// Members that are listed (all but guests), by id, behind `after`.
    pub fn list(&self, after: Option<PeerId>, most: usize) -> Vec<(PeerId, Label)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.read(|state| {
            let members = state.members.range((from, Bound::Unbounded));
            let listed = members.filter(|(_, member)| member.role != Role::Guest);
            listed.take(most).map(|(peer, member)| (*peer, member.name.clone())).collect()
        })
    }

    /// How many members are listed.
    pub fn count(&self) -> usize {
        self.read(|state| state.members.values().filter(|member| member.role != Role::Guest).count())
    }

    /// The member's certificate. Signing the same twice gives the same bytes.
    pub fn certificate(&self, peer: PeerId, member: &Member) -> Vec<u8> {
        self.authority.certify(MemberCertificate {
            network: self.authority.network(),
            peer,
            serial: member.serial,
            issued: member.issued,
            role: member.role,
            user: member.user_of(&peer),
            name: member.name.as_str().to_owned(),
            groups: texts(&member.groups),
        })
    }

    /// Keeps presence over restarts.
    pub fn note_presence(&self, notes: &[(PeerId, PresenceNote)]) -> Result<(), LedgerError> {
        let writes: Vec<_> = notes.iter().map(|(peer, note)| Write::Presence(*peer, Some(note.into()))).collect();
        self.ledger.write(&writes)
    }

    /// Drops tickets and guests that ended a while ago.
    pub fn sweep(&self, now: Timestamp) -> Result<(), LedgerError> {
        let over = |end: Timestamp| end.after(limits::TICKET_LIFE) <= now;
        let _changing = self.lock_changes();
        let (tickets, guests) = self.read(|state| {
            let tickets = state.tickets.iter().filter(|(_, ticket)| over(ticket.expires));
            let guests = state.members.iter().filter(|(_, member)| member.until.is_some_and(over));
            (tickets.map(|(key, _)| *key).collect::<Vec<_>>(), guests.map(|(peer, _)| *peer).collect::<Vec<_>>())
        });
        let mut writes: Vec<_> = tickets.into_iter().flat_map(|ticket| self.end_ticket(ticket)).collect();
        writes.extend(guests.into_iter().map(|peer| Write::Member(peer, None)));
        if writes.is_empty() { Ok(()) } else { self.commit(writes) }
    }

    fn commit(&self, writes: Vec<Write>) -> Result<(), LedgerError> {
        if writes.is_empty() {
            return Ok(());
        }
        self.ledger.write(&writes)?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for write in writes {
            state.apply(write);
        }
        Ok(())
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn lock_changes(&self) -> std::sync::MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn apply(&mut self, write: Write) {
        match write {
            Write::Serial(serial) => self.serial = serial,
            Write::Member(peer, record) => {
                if let Some(old) = self.members.remove(&peer) {
                    let key = names::key(&old.name);
                    if self.names.get(&key) == Some(&peer) {
                        self.names.remove(&key);
                    }
                }
                if let Some(member) = record.map(Member::from) {
                    self.names.insert(names::key(&member.name), peer);
                    self.members.insert(peer, member);
                }
            }
            Write::Removal(peer, Some(RemovalRecord::V1 { serial, at })) => {
                self.removals.insert(peer, Removal { serial, at });
            }
            Write::Removal(peer, None) => drop(self.removals.remove(&peer)),
            Write::Ticket(key, Some(record)) => drop(self.tickets.insert(key, record.into())),
            Write::Ticket(key, None) => drop(self.tickets.remove(&key)),
            Write::TicketUse(key, peer, true) => drop(self.ticket_uses.insert((key, peer))),
            Write::TicketUse(key, peer, false) => drop(self.ticket_uses.remove(&(key, peer))),
            // Presence lives in the registry; the file is only read at the start.
            Write::Presence(..) => {}
        }
    }
}

impl TicketState {
    /// What a peer is after using this ticket: nobody loses by it.
    fn member(&self, known: Option<&Member>, user: Option<UserId>, name: Label) -> Member {
        let fresh_until = (self.role == Role::Guest).then_some(self.expires);
        let Some(known) = known else {
            let groups = self.groups.clone();
            return Member { name, role: self.role, groups, serial: 0, issued: self.made, until: fresh_until, user };
        };
        let role = known.role.max(self.role);
        let mut groups = known.groups.clone();
        groups.extend(self.groups.iter().filter(|group| !known.groups.contains(group)).cloned());
        groups.truncate(limits::GROUPS);
        let until = if role == Role::Guest { known.until.max(fresh_until) } else { None };
        Member { name, role, groups, until, user: known.user.or(user), ..known.clone() }
    }
}

fn check_invitation(invitation: &Invitation) -> Result<(), Refusal> {
    if invitation.uses == 0 || invitation.uses > limits::TICKET_USES_MAX {
        return Err(Refusal::TooMuch(format!("a ticket has 1 to {} uses", limits::TICKET_USES_MAX)));
    }
    if invitation.life.is_zero() || invitation.life > limits::TICKET_LIFE_MAX {
        let days = limits::TICKET_LIFE_MAX.as_secs() / 86_400;
        return Err(Refusal::TooMuch(format!("a ticket lasts up to {days} days")));
    }
    if invitation.groups.len() > limits::GROUPS {
        return Err(Refusal::TooMuch(format!("a member has at most {} groups", limits::GROUPS)));
    }
    Ok(())
}

fn ticket_key(secret: &[u8; 16]) -> TicketKey {
    *blake3::hash(secret).as_bytes()
}

fn storage(error: LedgerError) -> Refusal {
    Refusal::Storage(error.to_string())
}

fn labels(texts: &[String]) -> Vec<Label> {
    texts.iter().map(|text| Label::from_lossy(text)).collect()
}

/// The texts of labels.
pub fn texts(labels: &[Label]) -> Vec<String> {
    labels.iter().map(|label| label.as_str().to_owned()).collect()
}

impl From<MemberRecord> for Member {
    fn from(MemberRecord::V1 { serial, issued, role, name, groups, until, user }: MemberRecord) -> Self {
        let user = user.map(UserId::new);
        Self { name: Label::from_lossy(&name), role, groups: labels(&groups), serial, issued, until, user }
    }
}

impl From<&Member> for MemberRecord {
    fn from(member: &Member) -> Self {
        Self::V1 {
            serial: member.serial,
            issued: member.issued,
            role: member.role,
            name: member.name.as_str().to_owned(),
            groups: texts(&member.groups),
            until: member.until,
            user: member.user.map(|user| *user.as_bytes()),
        }
    }
}

impl From<TicketRecord> for TicketState {
    fn from(TicketRecord::V1 { made, expires, uses, used, role, groups, one_user }: TicketRecord) -> Self {
        Self { made, expires, uses, used, role, groups: labels(&groups), one_user }
    }
}

impl From<&TicketState> for TicketRecord {
    fn from(ticket: &TicketState) -> Self {
        let TicketState { made, expires, uses, used, role, ref groups, one_user } = *ticket;
        Self::V1 { made, expires, uses, used, role, groups: texts(groups), one_user }
    }
}

impl From<PresenceRecord> for PresenceNote {
    fn from(PresenceRecord::V1 { boot, lease_end, seen, origin, port, claims }: PresenceRecord) -> Self {
        let address = origin.and_then(|text| text.parse::<IpAddr>().ok());
        let origin = address.map_or(Origin::SameProcess, Origin::Address);
        Self { boot, lease_end: (lease_end != 0).then_some(Moment(lease_end)), seen, origin, port, claims }
    }
}

impl From<&PresenceNote> for PresenceRecord {
    fn from(note: &PresenceNote) -> Self {
        let origin = match note.origin {
            Origin::SameProcess => None,
            Origin::Address(address) => Some(address.to_string()),
        };
        Self::V1 {
            boot: note.boot,
            lease_end: note.lease_end.map_or(0, |end| end.0),
            seen: note.seen,
            origin,
            port: note.port,
            claims: note.claims.clone(),
        }
    }
}
