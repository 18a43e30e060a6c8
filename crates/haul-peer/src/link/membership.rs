//! What this peer keeps about its network between runs: certificate, index, addresses, and the last word of the index.

use std::io;
use std::path::{Path, PathBuf};

use haul_core::ids::{NetworkId, PeerId, PublicKey};
use haul_core::time::{Moment, Timestamp};
use haul_core::trust::MemberCertificate;
use haul_core::wire::ByteString;
use haul_net::clock;
use haul_net::trust::parse_checked;
use serde::{Deserialize, Serialize};

use super::standing::Word;
use crate::daemon::home::write_private;
use crate::text::{hex, unhex};

/// A network that this peer is a member of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The network.
    pub network: NetworkId,
    /// This peer's certificate, as its bytes say …
    pub certificate: MemberCertificate,
    /// … and signed.
    pub certificate_bytes: Vec<u8>,
    /// Key of the index that was trusted last.
    pub index: PublicKey,
    /// Where indexes of this network are, best first.
    pub addresses: Vec<String>,
}

/// Why the file of the membership cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The system refuses.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It does not hold what it should.
    #[error("{} is damaged or belongs to another key; move it away and join again with a ticket", .0.display())]
    Damaged(PathBuf),
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    certificate: String,
    network: String,
    index: String,
    addresses: Vec<String>,
    grant: String,
    index_certificate: String,
    time_ms: u64,
    boot: String,
    boot_ms: u64,
    wall_ms: u64,
    revoked: Vec<(String, u64)>,
}

/// Writes the membership and the last word of the index, in one step.
pub fn store(path: &Path, membership: &Membership, word: &Word) -> io::Result<()> {
    let file = File {
        version: 1,
        certificate: hex(&membership.certificate_bytes),
        network: membership.network.to_string(),
        index: membership.index.to_string(),
        addresses: membership.addresses.clone(),
        grant: hex(&word.grant),
        index_certificate: hex(&word.index_certificate),
        time_ms: word.time.0,
        boot: hex(&clock::boot_id()),
        boot_ms: word.at.0,
        wall_ms: clock::wall_now().0,
        revoked: word.revoked.iter().map(|(peer, serial)| (peer.to_string(), *serial)).collect(),
    };
    let mut text = serde_json::to_vec_pretty(&file)?;
    text.push(b'\n');
    write_private(path, &text)
}

/// Reads the membership of the peer with this key, and the last word of the index with the index time at which it was
/// heard.
pub fn load(path: &Path, me: PeerId) -> Result<Option<(Membership, Word, Timestamp)>, MembershipError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(MembershipError::Read { path: path.into(), source }),
    };
    let file: File = serde_json::from_slice(&bytes).map_err(|_| MembershipError::Damaged(path.into()))?;
    match file.check(me) {
        Some(parts) => Ok(Some(parts)),
        None => Err(MembershipError::Damaged(path.into())),
    }
}

impl File {
    fn check(self, me: PeerId) -> Option<(Membership, Word, Timestamp)> {
        if self.version != 1 {
            return None;
        }
        let network: NetworkId = self.network.parse().ok()?;
        let certificate_bytes = unhex(&self.certificate)?;
        let certificate: MemberCertificate = parse_checked(&certificate_bytes, &network).ok()?;
        if certificate.peer != me || certificate.network != network {
            return None;
        }
        let (heard, now) = (Timestamp(self.time_ms), clock::boot_now());
        // In the same boot the boot clock went on; after another one only the wall clock can tell how long it took.
        let passed = if unhex(&self.boot)? == clock::boot_id() {
            now.0.saturating_sub(self.boot_ms)
        } else {
            clock::wall_now().0.saturating_sub(self.wall_ms)
        };
        let revoked = self.revoked.iter().filter_map(|(peer, serial)| Some((peer.parse().ok()?, *serial))).collect();
        let word = Word {
            network,
            grant: ByteString(unhex(&self.grant)?),
            index_certificate: ByteString(unhex(&self.index_certificate)?),
            time: Timestamp(heard.0.saturating_add(passed)),
            at: Moment(now.0),
            revoked,
        };
        let index = self.index.parse().ok()?;
        Some((Membership { network, certificate, certificate_bytes, index, addresses: self.addresses }, word, heard))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use haul_core::trust::Role;
    use haul_net::identity::SecretKey;
    use haul_net::trust::sign;

    use super::*;

    #[test]
    fn survives_a_restart_and_fits_one_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network.json");
        let (network, me, index) =
            (SecretKey::generate().unwrap(), SecretKey::generate().unwrap(), SecretKey::generate().unwrap().public());
        let certificate = MemberCertificate {
            network: network.public(),
            peer: me.public(),
            serial: 3,
            issued: Timestamp(9),
            role: Role::Member,
            user: haul_core::ids::UserId::alone(&me.public()),
            name: "lab-3".into(),
            groups: vec!["lab".into()],
        };
        let membership = Membership {
            network: network.public(),
            certificate_bytes: sign(&network, certificate.clone()).to_bytes(),
            certificate,
            index,
            addresses: vec!["127.0.0.1:4477".into()],
        };
        let word = Word {
            network: network.public(),
            grant: ByteString(vec![1, 2]),
            index_certificate: ByteString(vec![3]),
            time: Timestamp(1_000),
            at: clock::boot_now(),
            revoked: vec![(index, 8)],
        };
        assert!(load(&path, me.public()).unwrap().is_none());
        store(&path, &membership, &word).unwrap();
        let (back, again, heard) = load(&path, me.public()).unwrap().unwrap();
        assert_eq!((back, heard, again.revoked), (membership, Timestamp(1_000), vec![(index, 8)]));
        assert!(again.time.0 < 61_000, "the same boot: little time has passed");
        assert!(matches!(load(&path, index), Err(MembershipError::Damaged(_))));
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(load(&path, me.public()), Err(MembershipError::Damaged(_))));
    }
}
