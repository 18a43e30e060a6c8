//! Members, names, tickets and removals, also across a restart.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use haul_net::identity::SecretKey;
use tempfile::TempDir;

use super::*;

const NOW: Timestamp = Timestamp(1_000_000_000_000);

struct Fixture {
    dir: TempDir,
    authority: Arc<Authority>,
    members: Members,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::open(dir.path(), NOW).unwrap());
        let (members, _) = Members::open(&dir.path().join("members.redb"), Arc::clone(&authority)).unwrap();
        Self { dir, authority, members }
    }

    fn reopened(self, file: &str) -> Self {
        let Self { dir, authority, members } = self;
        drop(members);
        let (members, _) = Members::open(&dir.path().join(file), Arc::clone(&authority)).unwrap();
        Self { dir, authority, members }
    }

    fn ticket(&self, uses: u32, role: Role) -> [u8; 16] {
        let invitation = Invitation { uses, role, ..Invitation::default() };
        self.members.invite(NOW, &invitation).unwrap().0
    }

    fn join(&self, n: u8, secret: &[u8; 16]) -> Result<Member, Refusal> {
        self.members.admit_ticket(NOW, peer(n), secret, &label("lab-3"))
    }

    fn certificate(&self, n: u8) -> Vec<u8> {
        self.members.certificate(peer(n), &self.members.find(&peer(n)).unwrap())
    }

    fn come_back(&self, n: u8, certificate: &[u8]) -> Result<Member, Refusal> {
        self.members.admit_certificate(NOW, peer(n), certificate, &label("lab-3"))
    }
}

fn peer(n: u8) -> PeerId {
    SecretKey::from_seed([n; 32]).unwrap().public()
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

#[test]
fn a_ticket_counts_each_key_once_and_ends() {
    let f = Fixture::new();
    let secret = f.ticket(2, Role::Member);
    assert_eq!(f.join(1, &[0; 16]), Err(Refusal::TicketUnknown));
    let first = f.join(1, &secret).unwrap();
    assert_eq!(f.join(1, &secret), Ok(first), "the same key again costs nothing and changes nothing");
    f.join(2, &secret).unwrap();
    assert_eq!(f.join(3, &secret), Err(Refusal::TicketUsedUp));
    f.join(2, &secret).unwrap();
    let f = f.reopened("members.redb");
    assert_eq!(f.join(3, &secret), Err(Refusal::TicketUsedUp), "counted on disk");
    let late = NOW.after(limits::TICKET_LIFE);
    assert_eq!(f.members.admit_ticket(late, peer(1), &secret, &label("x")), Err(Refusal::TicketExpired));
}

#[test]
fn certificates_bring_members_back_even_to_an_empty_index() {
    let f = Fixture::new();
    let secret = f.ticket(5, Role::Admin);
    f.join(1, &secret).unwrap();
    let second = f.join(2, &secret).unwrap();
    assert!(second.name.as_str().starts_with("lab-3~"));
    let (one, two) = (f.certificate(1), f.certificate(2));
    assert_eq!(f.come_back(2, &two).as_ref(), Ok(&second));
    let f = f.reopened("another.redb");
    assert_eq!(f.members.count(), 0);
    assert_eq!(f.come_back(1, &two), Err(Refusal::BadCertificate), "of another key");
    let returned = f.come_back(1, &one).unwrap();
    assert_eq!((returned.role, returned.name.as_str()), (Role::Admin, "lab-3"));
    assert_eq!(f.come_back(2, &two), Ok(second));
    assert_eq!(f.certificate(1), one, "nothing changed, so the certificate is the same");
}

#[test]
fn an_empty_index_resolves_a_clash_of_returning_names() {
    let f = Fixture::new();
    let secret = f.ticket(5, Role::Member);
    f.join(1, &secret).unwrap();
    let certificate = f.certificate(1);
    let f = f.reopened("another.redb");
    let secret = f.ticket(5, Role::Member);
    f.join(2, &secret).unwrap();
    let returned = f.come_back(1, &certificate).unwrap();
    assert!(returned.name.as_str().starts_with("lab-3~"), "{}", returned.name);
    assert!(returned.serial > f.members.authority.read_certificate(&certificate).unwrap().serial);
}

#[test]
fn other_networks_and_damaged_certificates_are_refused() {
    let (f, other) = (Fixture::new(), Fixture::new());
    let secret = other.ticket(1, Role::Admin);
    other.join(1, &secret).unwrap();
    let foreign = other.certificate(1);
    assert_eq!(f.come_back(1, &foreign), Err(Refusal::BadCertificate));
    let secret = f.ticket(1, Role::Member);
    f.join(1, &secret).unwrap();
    let mut changed = f.certificate(1);
    for place in 0..changed.len() {
        changed[place] ^= 1;
        assert_eq!(f.come_back(1, &changed), Err(Refusal::BadCertificate), "byte {place}");
        changed[place] ^= 1;
    }
}

#[test]
fn a_removed_member_stays_out_until_it_is_invited_again() {
    let f = Fixture::new();
    let (secret, unused) = (f.ticket(9, Role::Member), f.ticket(9, Role::Member));
    let member = f.join(1, &secret).unwrap();
    let certificate = f.certificate(1);
    f.members.remove(NOW, peer(1)).unwrap();
    assert_eq!(f.members.remove(NOW, peer(1)), Err(Refusal::NotFound));
    assert_eq!(f.come_back(1, &certificate), Err(Refusal::Revoked));
    assert_eq!(f.join(2, &secret), Err(Refusal::TicketUnknown), "it knows this secret: ended");
    assert_eq!(f.join(1, &unused), Err(Refusal::Revoked), "older than the removal");
    assert_eq!(f.join(2, &unused).unwrap().name.as_str(), "lab-3", "its name is free again");
    let f = f.reopened("members.redb");
    assert_eq!(f.come_back(1, &certificate), Err(Refusal::Revoked), "remembered on disk");
    let revoked = f.members.revoked(NOW);
    assert!(revoked.len() == 1 && revoked[0].0 == peer(1) && revoked[0].1 >= member.serial);
    assert!(f.members.revoked(NOW.after(2 * limits::GRANT)).is_empty(), "no grant runs that long");
    let later = NOW.after(Duration::from_secs(1));
    let (again, _) = f.members.invite(later, &Invitation::default()).unwrap();
    let back = f.members.admit_ticket(later, peer(1), &again, &label("x")).unwrap();
    assert!(back.serial > revoked[0].1, "a new certificate is not covered by the old removal");
    assert_eq!(f.come_back(1, &certificate), Err(Refusal::Revoked));
    assert!(f.come_back(1, &f.certificate(1)).is_ok());
}

#[test]
fn guests_end_with_their_ticket_and_are_not_listed() {
    let f = Fixture::new();
    let secret = f.ticket(1, Role::Guest);
    let guest = f.join(1, &secret).unwrap();
    assert_eq!((guest.role, guest.until), (Role::Guest, Some(NOW.after(limits::TICKET_LIFE))));
    let certificate = f.certificate(1);
    assert!(f.come_back(1, &certificate).is_ok());
    assert_eq!((f.members.count(), f.members.list(None, 9)), (0, vec![]));
    let late = NOW.after(limits::TICKET_LIFE);
    let refused = f.members.admit_certificate(late, peer(1), &certificate, &label("x"));
    assert_eq!(refused, Err(Refusal::TicketExpired));
    let member = f.join(1, &f.ticket(1, Role::Member)).unwrap();
    assert_eq!((member.role, member.until), (Role::Member, None), "a better ticket lifts the end");
    let guest_again = f.join(1, &f.ticket(1, Role::Guest)).unwrap();
    assert_eq!(guest_again.role, Role::Member, "a lesser one takes nothing away");
    let lost = f.reopened("another.redb");
    assert_eq!(lost.come_back(1, &certificate), Err(Refusal::TicketExpired));
}

#[test]
fn sweeping_drops_what_ended_and_nothing_else() {
    let f = Fixture::new();
    let (short, _) =
        f.members.invite(NOW, &Invitation { life: Duration::from_secs(1), ..Invitation::default() }).unwrap();
    let long = f.ticket(5, Role::Member);
    f.join(1, &short).unwrap();
    f.members.sweep(NOW.after(limits::TICKET_LIFE).after(Duration::from_secs(1))).unwrap();
    let f = f.reopened("members.redb");
    assert_eq!(f.join(2, &short), Err(Refusal::TicketUnknown));
    assert!(f.join(2, &long).is_ok() && f.members.find(&peer(1)).is_some());
}

#[test]
fn invitations_have_limits() {
    let f = Fixture::new();
    for invitation in [
        Invitation { uses: 0, ..Invitation::default() },
        Invitation { uses: limits::TICKET_USES_MAX + 1, ..Invitation::default() },
        Invitation { life: Duration::ZERO, ..Invitation::default() },
        Invitation { life: Duration::MAX, ..Invitation::default() },
    ] {
        assert!(matches!(f.members.invite(NOW, &invitation), Err(Refusal::TooMuch(_))), "{invitation:?}");
    }
}

#[test]
fn presence_notes_survive() {
    let f = Fixture::new();
    let note = PresenceNote {
        boot: [3; 16],
        lease_end: Some(Moment(77)),
        seen: NOW,
        origin: Origin::Address("192.0.2.1".parse().unwrap()),
        port: 4478,
        claims: vec!["192.0.2.1:4478".to_owned()],
    };
    let away = PresenceNote { lease_end: None, origin: Origin::SameProcess, ..note.clone() };
    let notes = [(peer(1), note), (peer(2), away)];
    f.members.note_presence(&notes).unwrap();
    let path = f.dir.path().join("members.redb");
    drop(f.members);
    let (_, mut read) = Members::open(&path, f.authority).unwrap();
    read.sort_by_key(|(peer, _)| notes.iter().position(|(other, _)| other == peer));
    assert_eq!(read, notes);
}

#[test]
fn a_file_that_is_not_ours_is_an_error() {
    let f = Fixture::new();
    let path = f.dir.path().join("other.redb");
    std::fs::write(&path, b"not a database, but long enough to have a header of one").unwrap();
    assert!(Members::open(&path, f.authority).is_err());
}

/// A file with a page of garbage opens or is refused in words; it never ends the process.
#[test]
fn a_damaged_file_is_refused_in_words() {
    let fixture = Fixture::new();
    let secret = fixture.ticket(5, Role::Member);
    for n in 1..5 {
        fixture.join(n, &secret).unwrap();
    }
    let Fixture { dir, authority, members } = fixture;
    drop(members);
    let file = dir.path().join("members.redb");
    let sound = std::fs::read(&file).unwrap();
    let mut refused = 0;
    for start in (0..sound.len()).step_by(4_096) {
        let mut damaged = sound.clone();
        let end = sound.len().min(start + 64);
        damaged[start..end].fill(0xff);
        std::fs::write(&file, damaged).unwrap();
        if let Err(error) = Members::open(&file, Arc::clone(&authority)) {
            assert!(!error.to_string().is_empty());
            refused += 1;
        }
    }
    assert!(refused > 0, "some page must matter");
    std::fs::write(&file, []).unwrap();
    let error = Members::open(&file, Arc::clone(&authority)).unwrap_err();
    assert!(error.to_string().contains("it is empty"), "{error}");
}

#[test]
fn machines_of_one_user_are_known_as_such() {
    let f = Fixture::new();
    let own = f.members.invite(NOW, &Invitation { one_user: true, ..Invitation::default() }).unwrap().0;
    let team = f.ticket(5, Role::Member);
    let user = |f: &Fixture, n: u8| f.members.find(&peer(n)).unwrap().user_of(&peer(n));
    f.join(1, &own).unwrap();
    f.join(2, &own).unwrap();
    f.join(3, &team).unwrap();
    f.join(4, &team).unwrap();
    assert_eq!(user(&f, 1), user(&f, 2));
    assert_eq!([3, 4].map(|n| user(&f, n)), [3, 4].map(|n| UserId::alone(&peer(n))));
    // Another ticket does not make another user of it; a member may say later whose machine it is.
    let before = user(&f, 1);
    f.join(1, &team).unwrap();
    f.join(4, &own).unwrap();
    assert_eq!([user(&f, 1), user(&f, 4)], [before; 2]);
    let (first, third) = (f.certificate(1), f.certificate(3));
    let f = f.reopened("members.redb");
    assert_eq!(user(&f, 2), before, "kept on disk");
    let f = f.reopened("another.redb");
    f.come_back(1, &first).unwrap();
    f.come_back(3, &third).unwrap();
    assert_eq!([user(&f, 1), user(&f, 3)], [before, UserId::alone(&peer(3))], "the certificate says it");
}
