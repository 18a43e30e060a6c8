//! Signing and checking the statements whose bytes haul-core owns: certificates and grants.

use haul_core::ids::PublicKey;
use haul_core::trust::{Signed, Statement, TrustError};

use crate::identity::{self, SecretKey};

/// Why bytes are not a statement of the expected key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustFailure {
    /// They are no such statement at all.
    #[error("{0}")]
    Form(TrustError),
    /// Another key signed, or the statement was changed.
    #[error("its signature is not of the expected key")]
    Signature,
}

/// Signs a statement.
pub fn sign<S: Statement>(key: &SecretKey, statement: S) -> Signed<S> {
    let signature = key.sign(&statement.to_bytes());
    Signed { statement, signature }
}

/// Whether this key signed the statement.
pub fn check<S: Statement>(signed: &Signed<S>, key: &PublicKey) -> bool {
    identity::verify(key, &signed.statement.to_bytes(), &signed.signature)
}

/// Reads a signed statement and checks who signed it. What the statement says (network, times, holder) is the caller's
/// to compare.
pub fn parse_checked<S: Statement>(bytes: &[u8], key: &PublicKey) -> Result<S, TrustFailure> {
    let signed = Signed::<S>::from_bytes(bytes).map_err(TrustFailure::Form)?;
    if check(&signed, key) { Ok(signed.statement) } else { Err(TrustFailure::Signature) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use haul_core::time::Timestamp;
    use haul_core::trust::{Grant, IndexCertificate};

    use super::*;

    #[test]
    fn only_the_signer_passes_and_only_unchanged() {
        let key = SecretKey::from_seed([1; 32]).unwrap();
        let other = SecretKey::from_seed([2; 32]).unwrap().public();
        let certificate = IndexCertificate { network: key.public(), index: other, not_after: Timestamp(9) };
        let signed = sign(&key, certificate.clone());
        assert!(check(&signed, &key.public()));
        assert!(!check(&signed, &other));
        let bytes = signed.to_bytes();
        assert_eq!(parse_checked(&bytes, &key.public()), Ok(certificate));
        assert_eq!(parse_checked::<IndexCertificate>(&bytes, &other), Err(TrustFailure::Signature));
        assert_eq!(parse_checked::<Grant>(&bytes, &key.public()), Err(TrustFailure::Form(TrustError::Form)));
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert!(parse_checked::<IndexCertificate>(&changed, &key.public()).is_err(), "byte {place}");
        }
    }
}
