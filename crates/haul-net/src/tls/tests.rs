//! Handshakes over memory with one side bent: a weak key, no key, another key, another version.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use rustls::{ClientConnection, ServerConnection};

use super::*;

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed([n; 32]).unwrap()
}

/// Carries bytes between both until both are done or one fails; gives what each side says.
fn handshake(client: ClientConfig, server: &Arc<ServerConfig>) -> (Result<(), Error>, Result<(), Error>) {
    let name = ServerName::try_from("any.example").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    let (mut said_client, mut said_server) = (Ok(()), Ok(()));
    for _ in 0..10 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        feed(&mut |bytes| server.read_tls(bytes), &bytes);
        said_server = said_server.and(server.process_new_packets().map(|_| ()));
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        feed(&mut |bytes| client.read_tls(bytes), &bytes);
        said_client = said_client.and(client.process_new_packets().map(|_| ()));
    }
    let open = client.is_handshaking() || server.is_handshaking();
    assert_eq!(open, said_client.is_err() || said_server.is_err(), "a handshake ends or fails");
    (said_client, said_server)
}

fn feed(read: &mut dyn FnMut(&mut dyn std::io::Read) -> std::io::Result<usize>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        read(&mut bytes).unwrap();
    }
}

fn client(n: u8, expect: Option<PublicKey>) -> ClientConfig {
    ClientConfig::clone(&NativeClient::new(&key(n), Alpn::Peer, expect).unwrap().config)
}

fn server() -> Arc<ServerConfig> {
    native_server(&key(1), Alpn::Peer).unwrap()
}

/// A certificate that shows one key while it signs with another.
fn forged(shown: [u8; 32]) -> Arc<CertifiedKey> {
    let honest = certified_key(&key(9), &native_provider()).unwrap();
    let spki = [&SPKI_PREFIX[..], &shown].concat();
    Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], Arc::clone(&honest.key)))
}

#[test]
fn the_expected_key_and_any_key_pass() {
    assert_eq!(handshake(client(2, None), &server()), (Ok(()), Ok(())));
    assert_eq!(handshake(client(2, Some(key(1).public())), &server()), (Ok(()), Ok(())));
}

#[test]
fn another_key_than_expected_fails_before_the_dialer_shows_its_own() {
    let (said_client, said_server) = handshake(client(2, Some(key(3).public())), &server());
    assert_eq!(said_client, Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)));
    assert!(matches!(said_server, Err(Error::AlertReceived(_))), "{said_server:?}");
}

#[test]
fn small_order_keys_are_refused_on_both_sides() {
    let mut identity = [0; 32];
    identity[0] = 1;
    for weak in [[0; 32], identity] {
        let refused = Err(Error::InvalidCertificate(CertificateError::BadEncoding));
        let mut config = ServerConfig::clone(&server());
        config.cert_resolver = Arc::new(AlwaysResolvesServerRawPublicKeys::new(forged(weak)));
        assert_eq!(handshake(client(2, None), &Arc::new(config)).0, refused);

        let mut config = client(2, None);
        config.client_auth_cert_resolver = Arc::new(AlwaysResolvesClientRawPublicKeys::new(forged(weak)));
        assert_eq!(handshake(config, &server()).1, refused);
    }
}

#[test]
fn a_key_that_is_shown_must_have_signed() {
    let shown = *key(3).public().as_bytes();
    let mut config = client(2, None);
    config.client_auth_cert_resolver = Arc::new(AlwaysResolvesClientRawPublicKeys::new(forged(shown)));
    let (_, said_server) = handshake(config, &server());
    assert_eq!(said_server, Err(Error::InvalidCertificate(CertificateError::BadSignature)));

    let mut config = ServerConfig::clone(&server());
    config.cert_resolver = Arc::new(AlwaysResolvesServerRawPublicKeys::new(forged(shown)));
    let (said_client, _) = handshake(client(2, Some(key(3).public())), &Arc::new(config));
    assert_eq!(said_client, Err(Error::InvalidCertificate(CertificateError::BadSignature)));
}

#[test]
fn a_dialer_without_a_key_is_refused() {
    #[derive(Debug)]
    struct NoKey;
    impl rustls::client::ResolvesClientCert for NoKey {
        fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            None
        }
        fn has_certs(&self) -> bool {
            false
        }
        fn only_raw_public_keys(&self) -> bool {
            true
        }
    }
    let mut config = client(2, None);
    config.client_auth_cert_resolver = Arc::new(NoKey);
    let (_, said_server) = handshake(config, &server());
    assert!(said_server.is_err());
}

#[test]
fn protocols_do_not_mix() {
    let index = native_server(&key(1), Alpn::Index).unwrap();
    let (_, said_server) = handshake(client(2, None), &index);
    assert_eq!(said_server, Err(Error::NoApplicationProtocol));
}

#[test]
fn nothing_is_resumed() {
    let config = client(2, None);
    let server = server();
    for _ in 0..3 {
        assert_eq!(handshake(config.clone(), &server), (Ok(()), Ok(())));
    }
    assert!(!config.enable_sni && server.send_tls13_tickets == 0 && server.max_early_data_size == 0);
    let name = ServerName::try_from("any.example").unwrap();
    let again = ClientConnection::new(Arc::new(config), name).unwrap();
    assert_eq!(again.handshake_kind(), None);
}
