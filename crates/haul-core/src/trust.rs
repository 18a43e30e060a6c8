//! Certificates, grants and tickets: what is signed, byte for byte, and what people paste.
//!
//! Signing and checking signatures burns time and needs keys, so haul-net does both; this module owns the bytes.
//! All integers are little endian; `text` is u8 length and UTF-8; `groups` is u8 count and that many texts, sorted,
//! without doubles; `user` is the peer, or the BLAKE3 of the secret of a ticket for one user's machines.
//!
//! ```text
//! member certificate = "haul-member/1\0" ‖ network 32 ‖ peer 32 ‖ u64 serial ‖ u64 issued ms ‖ u8 role ‖ user 32 ‖ text name
//!               ‖ groups
//! index certificate  = "haul-index/1\0\0" ‖ network 32 ‖ index 32 ‖ u64 not after ms
//! grant              = "haul-grant/1\0\0" ‖ network 32 ‖ peer 32 ‖ u64 serial ‖ u64 issued ms ‖ u64 expires ms ‖ user 32
//!               ‖ groups
//! each is followed by a 64-byte Ed25519 signature: of the network key, the network key, the index key.
//! ticket text = "haul1" ‖ base32 lower case of (u8 version 1 ‖ network 32 ‖ secret 16 ‖ u64 expires ms ‖ u8 role
//!               ‖ u8 count ‖ text × count ‖ first 4 bytes of BLAKE3 of all before)
//! ```

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{NetworkId, PeerId, PublicKey, UserId};
use crate::limits;
use crate::time::Timestamp;

/// Length of an Ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Searches, looks up and fetches; is not listed and shares nothing.
    Guest,
    /// Shares as well.
    Member,
    /// Invites and removes members as well.
    Admin,
}

impl Role {
    fn byte(self) -> u8 {
        match self {
            Self::Guest => 0,
            Self::Member => 1,
            Self::Admin => 2,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Guest, Self::Member, Self::Admin].into_iter().find(|role| role.byte() == byte)
    }
}

/// Why bytes or text are not the statement they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustError {
    /// Not the form of this statement: prefix, length, order of groups, bytes left over.
    Form,
    /// A key that proves nothing.
    WeakKey,
    /// The checksum of a ticket does not fit: a character is missing or mistyped.
    Checksum,
    /// A ticket of a version that this program does not know.
    Version,
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "it is not complete or not of this kind",
            Self::WeakKey => "it names a key that proves nothing",
            Self::Checksum => "its checksum is wrong: a character is missing or mistyped",
            Self::Version => "it was made by a newer haul",
        })
    }
}

impl core::error::Error for TrustError {}

/// A statement that can be signed: its canonical bytes, there and back.
pub trait Statement: Sized {
    /// The bytes that are signed.
    fn to_bytes(&self) -> Vec<u8>;
    /// Reads exactly these bytes; anything else is an error.
    fn from_bytes(bytes: &[u8]) -> Result<Self, TrustError>;
}

/// A statement with a signature that nobody has checked yet. haul-net checks it against a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed<S> {
    /// What is said.
    pub statement: S,
    /// Ed25519 over [`Statement::to_bytes`].
    pub signature: [u8; SIGNATURE_BYTES],
}

impl<S: Statement> Signed<S> {
    /// Statement, then signature.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.statement.to_bytes();
        bytes.extend_from_slice(&self.signature);
        bytes
    }

    /// Splits and parses; the signature is not checked.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TrustError> {
        let (statement, signature) = bytes.split_last_chunk::<SIGNATURE_BYTES>().ok_or(TrustError::Form)?;
        Ok(Self { statement: S::from_bytes(statement)?, signature: *signature })
    }
}

/// The network says: this key is a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberCertificate {
    /// The network that says so.
    pub network: NetworkId,
    /// The member.
    pub peer: PeerId,
    /// Grows with every certificate that the network signs; revocation names it.
    pub serial: u64,
    /// When it was signed.
    pub issued: Timestamp,
    /// What the member may do.
    pub role: Role,
    /// Whose machine it is.
    pub user: UserId,
    /// The member's name, unique in the network.
    pub name: String,
    /// The groups it belongs to, besides everyone.
    pub groups: Vec<String>,
}

/// The network says: this key is one of my index servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexCertificate {
    /// The network that says so.
    pub network: NetworkId,
    /// The index server's own key.
    pub index: PublicKey,
    /// Invalid from then on.
    pub not_after: Timestamp,
}

/// The index says: this member may be served now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The network.
    pub network: NetworkId,
    /// The member that shows it.
    pub peer: PeerId,
    /// Serial of its certificate.
    pub serial: u64,
    /// Start, by the index's clock.
    pub issued: Timestamp,
    /// End, by the index's clock.
    pub expires: Timestamp,
    /// Whose machine it is: peers serve users in turn.
    pub user: UserId,
    /// The groups that the member belongs to, besides everyone.
    pub groups: Vec<String>,
}

const MEMBER: &[u8; 14] = b"haul-member/1\0";
const INDEX: &[u8; 14] = b"haul-index/1\0\0";
const GRANT: &[u8; 14] = b"haul-grant/1\0\0";

impl Statement for MemberCertificate {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MEMBER.to_vec();
        bytes.extend_from_slice(self.network.as_bytes());
        bytes.extend_from_slice(self.peer.as_bytes());
        bytes.extend_from_slice(&self.serial.to_le_bytes());
        bytes.extend_from_slice(&self.issued.0.to_le_bytes());
        bytes.push(self.role.byte());
        bytes.extend_from_slice(self.user.as_bytes());
        push_text(&mut bytes, &self.name);
        push_groups(&mut bytes, &self.groups);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, TrustError> {
        let mut reader = Reader::new(bytes, MEMBER)?;
        let certificate = Self {
            network: reader.key()?,
            peer: reader.key()?,
            serial: reader.u64()?,
            issued: Timestamp(reader.u64()?),
            role: Role::from_byte(reader.byte()?).ok_or(TrustError::Form)?,
            user: UserId::new(reader.array()?),
            name: reader.text()?,
            groups: reader.groups()?,
        };
        reader.end(certificate)
    }
}

impl Statement for IndexCertificate {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = INDEX.to_vec();
        bytes.extend_from_slice(self.network.as_bytes());
        bytes.extend_from_slice(self.index.as_bytes());
        bytes.extend_from_slice(&self.not_after.0.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, TrustError> {
        let mut reader = Reader::new(bytes, INDEX)?;
        let certificate = Self { network: reader.key()?, index: reader.key()?, not_after: Timestamp(reader.u64()?) };
        reader.end(certificate)
    }
}

impl Statement for Grant {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = GRANT.to_vec();
        bytes.extend_from_slice(self.network.as_bytes());
        bytes.extend_from_slice(self.peer.as_bytes());
        bytes.extend_from_slice(&self.serial.to_le_bytes());
        bytes.extend_from_slice(&self.issued.0.to_le_bytes());
        bytes.extend_from_slice(&self.expires.0.to_le_bytes());
        bytes.extend_from_slice(self.user.as_bytes());
        push_groups(&mut bytes, &self.groups);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, TrustError> {
        let mut reader = Reader::new(bytes, GRANT)?;
        let grant = Self {
            network: reader.key()?,
            peer: reader.key()?,
            serial: reader.u64()?,
            issued: Timestamp(reader.u64()?),
            expires: Timestamp(reader.u64()?),
            user: UserId::new(reader.array()?),
            groups: reader.groups()?,
        };
        reader.end(grant)
    }
}

/// An invitation to a network. Its text form is what people paste; whoever has it can join while it lasts.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The network it invites to: the index must show a certificate signed by this key.
    pub network: NetworkId,
    /// Proves to the index that the holder was invited. The index keeps only its hash.
    pub secret: [u8; 16],
    /// End, by the index's clock.
    pub expires: Timestamp,
    /// What the new member may do.
    pub role: Role,
    /// Where the index listens, `host:port`, best first.
    pub addresses: Vec<String>,
}

const TICKET_PREFIX: &str = "haul1";
const CHECKSUM_BYTES: usize = 4;

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::from([1u8]);
        bytes.extend_from_slice(self.network.as_bytes());
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(&self.expires.0.to_le_bytes());
        bytes.push(self.role.byte());
        bytes.push(u8::try_from(self.addresses.len()).unwrap_or(u8::MAX));
        for address in &self.addresses {
            push_text(&mut bytes, address);
        }
        let checksum = blake3::hash(&bytes);
        bytes.extend(checksum.as_bytes().iter().take(CHECKSUM_BYTES));
        f.write_str(TICKET_PREFIX)?;
        f.write_str(&base32().encode(&bytes))
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secret stays out of logs.
        f.debug_struct("Ticket")
            .field("network", &self.network)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl FromStr for Ticket {
    type Err = TrustError;

    fn from_str(text: &str) -> Result<Self, TrustError> {
        let digits = text.trim().strip_prefix(TICKET_PREFIX).ok_or(TrustError::Form)?;
        let bytes = base32().decode(digits.as_bytes()).map_err(|_| TrustError::Checksum)?;
        let (payload, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(TrustError::Checksum)?;
        if !blake3::hash(payload).as_bytes().starts_with(checksum) {
            return Err(TrustError::Checksum);
        }
        let mut reader = Reader { rest: payload };
        if reader.byte()? != 1 {
            return Err(TrustError::Version);
        }
        let network = reader.key()?;
        let secret = reader.array()?;
        let expires = Timestamp(reader.u64()?);
        let role = Role::from_byte(reader.byte()?).ok_or(TrustError::Form)?;
        let count = reader.byte()? as usize;
        if count > limits::ADDRESSES {
            return Err(TrustError::Form);
        }
        let addresses = (0..count).map(|_| reader.text()).collect::<Result<_, _>>()?;
        reader.end(Self { network, secret, expires, role, addresses })
    }
}

fn base32() -> data_encoding::Encoding {
    let mut specification = data_encoding::Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification.translate.from.push_str("ABCDEFGHIJKLMNOPQRSTUVWXYZ");
    specification.translate.to.push_str("abcdefghijklmnopqrstuvwxyz");
    specification.encoding().unwrap_or(data_encoding::BASE32_NOPAD)
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    bytes.extend_from_slice(text.as_bytes());
}

fn push_groups(bytes: &mut Vec<u8>, groups: &[String]) {
    let mut sorted: Vec<&String> = groups.iter().collect();
    sorted.sort();
    sorted.dedup();
    bytes.push(u8::try_from(sorted.len()).unwrap_or(u8::MAX));
    for group in sorted {
        push_text(bytes, group);
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], context: &[u8]) -> Result<Self, TrustError> {
        bytes.strip_prefix(context).map(|rest| Self { rest }).ok_or(TrustError::Form)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TrustError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(TrustError::Form)?;
        self.rest = rest;
        Ok(*head)
    }

    fn byte(&mut self) -> Result<u8, TrustError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn u64(&mut self) -> Result<u64, TrustError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn key(&mut self) -> Result<PublicKey, TrustError> {
        PublicKey::new(self.array()?).map_err(|_| TrustError::WeakKey)
    }

    fn text(&mut self) -> Result<String, TrustError> {
        let length = self.byte()? as usize;
        let (head, rest) = self.rest.split_at_checked(length).ok_or(TrustError::Form)?;
        self.rest = rest;
        core::str::from_utf8(head).map(String::from).map_err(|_| TrustError::Form)
    }

    fn groups(&mut self) -> Result<Vec<String>, TrustError> {
        let count = self.byte()? as usize;
        if count > limits::GROUPS {
            return Err(TrustError::Form);
        }
        let groups = (0..count).map(|_| self.text()).collect::<Result<Vec<_>, _>>()?;
        if groups.is_sorted_by(|a, b| a < b) { Ok(groups) } else { Err(TrustError::Form) }
    }

    fn end<T>(self, value: T) -> Result<T, TrustError> {
        if self.rest.is_empty() { Ok(value) } else { Err(TrustError::Form) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;

    fn key(n: u8) -> PublicKey {
        let mut bytes = [7; 32];
        bytes[0] = n;
        PublicKey::new(bytes).expect("not weak")
    }

    fn certificate() -> MemberCertificate {
        MemberCertificate {
            network: key(1),
            peer: key(2),
            serial: 3,
            issued: Timestamp(4),
            role: Role::Member,
            user: UserId::new([5; 32]),
            name: "lab-3".to_string(),
            groups: vec!["a".to_string(), "b".to_string()],
        }
    }

    #[test]
    fn statements_round_trip_and_refuse_any_other_length() {
        let signed = Signed { statement: certificate(), signature: [9; 64] };
        let bytes = signed.to_bytes();
        assert_eq!(Signed::from_bytes(&bytes), Ok(signed));
        for cut in 0..bytes.len() {
            assert!(Signed::<MemberCertificate>::from_bytes(&bytes[..cut]).is_err());
        }
        let mut longer = bytes.clone();
        longer.insert(60, 0);
        assert!(Signed::<MemberCertificate>::from_bytes(&longer).is_err());
        let grant = Grant {
            network: key(1),
            peer: key(2),
            serial: 1,
            issued: Timestamp(1),
            expires: Timestamp(2),
            user: UserId::alone(&key(2)),
            groups: vec![],
        };
        assert_eq!(Grant::from_bytes(&grant.to_bytes()), Ok(grant.clone()));
        assert!(MemberCertificate::from_bytes(&grant.to_bytes()).is_err());
        let index = IndexCertificate { network: key(1), index: key(5), not_after: Timestamp(6) };
        assert_eq!(IndexCertificate::from_bytes(&index.to_bytes()), Ok(index));
    }

    #[test]
    fn groups_have_one_order() {
        let mut swapped = certificate();
        swapped.groups.reverse();
        assert_eq!(swapped.to_bytes(), certificate().to_bytes());
        let mut bytes = certificate().to_bytes();
        let end = bytes.len();
        bytes.swap(end - 1, end - 3);
        assert_eq!(MemberCertificate::from_bytes(&bytes), Err(TrustError::Form));
    }

    #[test]
    fn a_ticket_survives_pasting_and_notices_typing_errors() {
        let ticket = Ticket {
            network: key(1),
            secret: [5; 16],
            expires: Timestamp(1_000),
            role: Role::Member,
            addresses: vec!["files.lab.example:4477".to_string(), "[::1]:4477".to_string()],
        };
        let text = ticket.to_string();
        assert!(text.starts_with("haul1") && text.is_ascii());
        assert_eq!(text.parse(), Ok(ticket.clone()));
        assert_eq!(alloc::format!(" {text}\n").parse(), Ok(ticket.clone()));
        assert_eq!(alloc::format!("haul1{}", text[5..].to_uppercase()).parse(), Ok(ticket.clone()));
        for place in 5..text.len() {
            let mut typo = text.clone().into_bytes();
            typo[place] = if typo[place] == b'a' { b'b' } else { b'a' };
            let typo = String::from_utf8(typo).expect("ascii");
            assert!(typo.parse::<Ticket>().is_err(), "{place}");
        }
        assert!(!alloc::format!("{ticket:?}").contains("5, 5"));
    }
}
