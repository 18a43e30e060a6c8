//! The keys of a network and of its index server, and what they sign: member certificates, the index certificate,
//! grants. Both keys live in one process today, in separate files and fields, so that they can part later.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use haul_core::ids::{NetworkId, PeerId, PublicKey, UserId};
use haul_core::limits;
use haul_core::time::Timestamp;
use haul_core::trust::{Grant, IndexCertificate, MemberCertificate};
use haul_net::identity::SecretKey;
use haul_net::trust;

const NETWORK_KEY: &str = "network.key";
const INDEX_KEY: &str = "index.key";
const INDEX_CERTIFICATE: &str = "index.certificate";

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A key file cannot be read, made, or is open to others.
    #[error("{0}")]
    Key(String),
    /// The index certificate cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Signs for the network and for the index.
#[derive(Debug)]
pub struct Authority {
    network: SecretKey,
    index: SecretKey,
    certificate: RwLock<Certificate>,
    path: PathBuf,
}

#[derive(Clone, Debug)]
struct Certificate {
    bytes: Arc<[u8]>,
    not_after: Timestamp,
}

impl Authority {
    /// Opens the keys in this folder, or makes them, and renews the index certificate when less than half of it is left.
    pub fn open(state_dir: &Path, now: Timestamp) -> Result<Self, AuthorityError> {
        let key = |name: &str| {
            SecretKey::load_or_create(&state_dir.join(name)).map_err(|error| AuthorityError::Key(error.to_string()))
        };
        let (network, index) = (key(NETWORK_KEY)?, key(INDEX_KEY)?);
        let path = state_dir.join(INDEX_CERTIFICATE);
        let stored = std::fs::read(&path).ok().and_then(|bytes| {
            let statement = trust::parse_checked::<IndexCertificate>(&bytes, &network.public()).ok()?;
            let ours = statement.network == network.public() && statement.index == index.public();
            ours.then(|| Certificate { bytes: bytes.into(), not_after: statement.not_after })
        });
        let certificate = stored.unwrap_or(Certificate { bytes: Arc::new([]), not_after: Timestamp(0) });
        let authority = Self { network, index, certificate: RwLock::new(certificate), path };
        authority.renew(now)?;
        Ok(authority)
    }

    /// Signs a new index certificate if less than half of the present one is left. Returns whether it did.
    pub fn renew(&self, now: Timestamp) -> Result<bool, AuthorityError> {
        let half = now.after(limits::INDEX_CERTIFICATE / 2);
        let full = now.after(limits::INDEX_CERTIFICATE);
        let present = self.certificate.read().unwrap_or_else(PoisonError::into_inner).not_after;
        // One that ends later than a new one would was signed under a clock that was ahead.
        if present >= half && present <= full {
            return Ok(false);
        }
        let statement = IndexCertificate { network: self.network(), index: self.index_key(), not_after: full };
        let bytes = trust::sign(&self.network, statement).to_bytes();
        self.write(&bytes).map_err(|source| AuthorityError::Certificate { path: self.path.clone(), source })?;
        *self.certificate.write().unwrap_or_else(PoisonError::into_inner) =
            Certificate { bytes: bytes.into(), not_after: full };
        Ok(true)
    }

    /// A certificate can be signed again at any time, so replacing the file needs no more than a whole one.
    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        let new = self.path.with_extension("certificate.new");
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)
    }

    /// The network.
    pub fn network(&self) -> NetworkId {
        self.network.public()
    }

    /// The index server's own key.
    pub fn index_key(&self) -> PublicKey {
        self.index.public()
    }

    /// The key that the index shows on its connections.
    pub fn index_secret(&self) -> &SecretKey {
        &self.index
    }

    /// The present index certificate, signed.
    pub fn index_certificate(&self) -> Arc<[u8]> {
        Arc::clone(&self.certificate.read().unwrap_or_else(PoisonError::into_inner).bytes)
    }

    /// Signs for the network that somebody is a member.
    pub fn certify(&self, certificate: MemberCertificate) -> Vec<u8> {
        trust::sign(&self.network, certificate).to_bytes()
    }

    /// Whether the network signed these bytes, and what they say.
    pub fn read_certificate(&self, bytes: &[u8]) -> Option<MemberCertificate> {
        let certificate = trust::parse_checked::<MemberCertificate>(bytes, &self.network()).ok()?;
        (certificate.network == self.network()).then_some(certificate)
    }

    /// Signs for the index that a member may be served, for [`limits::GRANT`] but not beyond `until`.
    pub fn grant(
        &self,
        now: Timestamp,
        peer: PeerId,
        serial: u64,
        user: UserId,
        groups: Vec<String>,
        until: Option<Timestamp>,
    ) -> Vec<u8> {
        let end = now.after(limits::GRANT);
        let expires = until.map_or(end, |until| end.min(until));
        let grant = Grant { network: self.network(), peer, serial, issued: now, expires, user, groups };
        trust::sign(&self.index, grant).to_bytes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;

    fn not_after(authority: &Authority) -> Timestamp {
        let bytes = authority.index_certificate();
        trust::parse_checked::<IndexCertificate>(&bytes, &authority.network()).unwrap().not_after
    }

    #[test]
    fn keys_stay_and_the_certificate_is_renewed_at_half_life() {
        let dir = tempfile::tempdir().unwrap();
        let start = Timestamp(1_000_000_000_000);
        let first = Authority::open(dir.path(), start).unwrap();
        let full = limits::INDEX_CERTIFICATE;
        assert_eq!(not_after(&first), start.after(full));
        let soon = start.after(full / 2);
        let again = Authority::open(dir.path(), soon).unwrap();
        assert_eq!((again.network(), again.index_key()), (first.network(), first.index_key()));
        assert_eq!(not_after(&again), start.after(full), "half is left: kept");
        let later = soon.after(Duration::from_millis(1));
        let renewed = Authority::open(dir.path(), later).unwrap();
        assert_eq!(not_after(&renewed), later.after(full));
        assert!(!renewed.renew(later).unwrap());
        for name in [NETWORK_KEY, INDEX_KEY] {
            let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_damaged_or_foreign_certificate_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp(1_000_000_000_000);
        drop(Authority::open(dir.path(), now).unwrap());
        for bytes in [b"".as_slice(), b"rubbish"] {
            std::fs::write(dir.path().join(INDEX_CERTIFICATE), bytes).unwrap();
            let authority = Authority::open(dir.path(), now).unwrap();
            assert_eq!(not_after(&authority), now.after(limits::INDEX_CERTIFICATE));
        }
    }
}
