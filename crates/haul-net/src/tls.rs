//! TLS 1.3 with raw public keys on both sides (RFC 7250), and configurations for HTTPS.
//!
//! A key proves itself in every handshake: nothing is resumed, no tickets are sent, and the name of a server never
//! leaves this machine. Only this file names verifiers.

use std::fmt;
use std::sync::{Arc, OnceLock};

use haul_core::ids::PublicKey;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, ServerConfig,
    SignatureScheme,
};

use crate::identity::SecretKey;

#[cfg(test)]
mod tests;

/// What is spoken behind TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// Between a peer and an index.
    Index,
    /// Between two peers.
    Peer,
}

impl Alpn {
    /// Its name in the handshake.
    pub fn name(self) -> &'static [u8] {
        match self {
            Self::Index => b"haul-index/1",
            Self::Peer => b"haul-peer/1",
        }
    }
}

/// The name of HTTP/1.1 in the handshake.
pub(crate) const HTTP: &[u8] = b"http/1.1";

/// Encrypted bytes that may wait inside TLS for the socket: several records, so that one system call writes them all.
pub(crate) const RECORDS_BYTES: usize = 256 * 1024;

/// What stands before the 32 bytes of an Ed25519 key in a `SubjectPublicKeyInfo` (RFC 8410 section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// What stands before the 32 bytes of a seed in PKCS#8 version 1 (RFC 8410 section 7).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// The server's side of the native protocol: asks for the other side's key and proves its own.
pub(crate) fn native_server(key: &SecretKey, alpn: Alpn) -> Result<Arc<ServerConfig>, Error> {
    let provider = native_provider();
    let certified = certified_key(key, &provider)?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(KeyVerifier::new(&provider, None)))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified)));
    config.alpn_protocols = vec![alpn.name().to_vec()];
    without_resumption(&mut config);
    Ok(Arc::new(config))
}

/// The dialer's side of the native protocol.
pub(crate) struct NativeClient {
    pub(crate) config: Arc<ClientConfig>,
    verifier: Arc<KeyVerifier>,
}

impl NativeClient {
    /// With `expect`, a server with another key learns nothing: not even who called.
    pub(crate) fn new(key: &SecretKey, alpn: Alpn, expect: Option<PublicKey>) -> Result<Self, Error> {
        let provider = native_provider();
        let certified = certified_key(key, &provider)?;
        let verifier = Arc::new(KeyVerifier::new(&provider, expect));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::<KeyVerifier>::clone(&verifier))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified)));
        config.alpn_protocols = vec![alpn.name().to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(Self { config: Arc::new(config), verifier })
    }

    /// The key that the server showed, if it showed a usable one; it has proved it only once the handshake is done.
    pub(crate) fn shown(&self) -> Option<PublicKey> {
        self.verifier.shown.get().copied()
    }
}

/// The key that the other side of a finished handshake proved to hold.
pub(crate) fn proved_key(certificates: Option<&[CertificateDer<'_>]>) -> Option<PublicKey> {
    certificates.and_then(<[_]>::first).and_then(parse_spki)
}

/// How HTTPS is served: certificate and key.
#[derive(Clone)]
pub struct HttpsConfig {
    pub(crate) config: Arc<ServerConfig>,
}

impl fmt::Debug for HttpsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpsConfig")
    }
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    /// Not PEM, or the wrong kind of PEM.
    #[error("the {part} is not in PEM form: {cause}")]
    Pem {
        /// Certificate or key.
        part: &'static str,
        /// What is wrong.
        cause: String,
    },
    /// They do not belong together, or are of an unknown kind.
    #[error("certificate and key cannot be used together: {0}")]
    Unusable(String),
    /// Making a new one failed.
    #[error("no certificate could be made: {0}")]
    Make(String),
}

/// A certificate chain and its key, as text to keep in files.
pub struct PemPair {
    /// The certificate, public.
    pub certificate: String,
    /// The key, secret.
    pub key: String,
}

impl PemPair {
    /// A new ECDSA P-256 certificate that signs itself, for these DNS names and IP addresses.
    pub fn self_signed(names: &[String]) -> Result<Self, HttpsError> {
        let made = rcgen::generate_simple_self_signed(names).map_err(|error| HttpsError::Make(error.to_string()))?;
        Ok(Self { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() })
    }
}

impl HttpsConfig {
    /// Reads a certificate chain and its key, both PEM.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, HttpsError> {
        let pem = |part: &'static str, cause: String| HttpsError::Pem { part, cause };
        let chain = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| pem("certificate", error.to_string()))?;
        if chain.is_empty() {
            return Err(pem("certificate", "it holds no certificate".into()));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| pem("key", error.to_string()))?;
        let unusable = |error: Error| HttpsError::Unusable(error.to_string());
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(unusable)?;
        config.alpn_protocols = vec![HTTP.to_vec()];
        without_resumption(&mut config);
        Ok(Self { config: Arc::new(config) })
    }
}

fn without_resumption(config: &mut ServerConfig) {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
}

/// One key exchange and the cipher that hardware does best first.
fn native_provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
        ],
        kx_groups: vec![kx_group::X25519],
        ..aws_lc_rs::default_provider()
    })
}

fn certified_key(key: &SecretKey, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Error> {
    let mut pkcs8 = PKCS8_PREFIX.to_vec();
    pkcs8.extend_from_slice(key.seed());
    let signing = provider.key_provider.load_private_key(PrivatePkcs8KeyDer::from(pkcs8).into())?;
    let mut spki = SPKI_PREFIX.to_vec();
    spki.extend_from_slice(key.public().as_bytes());
    Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], signing)))
}

/// With raw keys, the "certificate" is a `SubjectPublicKeyInfo`. Weak keys are refused here, before any signature.
fn parse_spki(certificate: &CertificateDer<'_>) -> Option<PublicKey> {
    let key = certificate.as_ref().strip_prefix(&SPKI_PREFIX)?;
    PublicKey::new(key.try_into().ok()?).ok()
}

/// Takes a handshake whose other side proves to hold a usable Ed25519 key: any, or one in particular.
#[derive(Debug)]
struct KeyVerifier {
    algorithms: WebPkiSupportedAlgorithms,
    expect: Option<PublicKey>,
    shown: OnceLock<PublicKey>,
}

impl KeyVerifier {
    fn new(provider: &CryptoProvider, expect: Option<PublicKey>) -> Self {
        Self { algorithms: provider.signature_verification_algorithms, expect, shown: OnceLock::new() }
    }

    fn check_key(&self, certificate: &CertificateDer<'_>, chain: &[CertificateDer<'_>]) -> Result<PublicKey, Error> {
        let key = parse_spki(certificate).filter(|_| chain.is_empty());
        let key = key.ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if self.expect.is_some_and(|expect| expect != key) {
            return Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        Ok(key)
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let spki = SubjectPublicKeyInfoDer::from(certificate.as_ref());
        verify_tls13_signature_with_raw_key(message, &spki, signature, &self.algorithms)
    }
}

/// TLS 1.2 is never offered; should it come up, it fails.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
}

impl ServerCertVerifier for KeyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(key) = parse_spki(end_entity) {
            // A dialer's verifier sees one handshake.
            let _ = self.shown.set(key);
        }
        self.check_key(end_entity, intermediates).map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for KeyVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check_key(end_entity, intermediates).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
