//! Dialer and listener over loopback sockets: who gets in, and who does not.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "common/sockets.rs"]
mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{connected, key, listener, start};
use haul_net::connection::{CloseReason, Inbound, RequestError};
use haul_net::dialer::{DialError, dial};
use haul_net::listener::{Accepted, Listener};
use haul_net::tls::{Alpn, HttpsConfig, HttpsError, PemPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// A TLS record that carries an alert.
const ALERT: u8 = 21;
/// A TLS record that carries the answer to a ``ClientHello``.
const HANDSHAKE: u8 = 22;
const PROTOCOL_VERSION: u8 = 70;
const NO_APPLICATION_PROTOCOL: u8 = 120;

fn https() -> (HttpsConfig, CertificateDer<'static>) {
    let pair = PemPair::self_signed(&["localhost".into(), "127.0.0.1".into()]).unwrap();
    let config = HttpsConfig::from_pem(pair.certificate.as_bytes(), pair.key.as_bytes()).unwrap();
    (config, CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap())
}

/// A browser that trusts one certificate, and speaks these protocols.
fn browser(trusted: Option<CertificateDer<'static>>, alpn: &[&str]) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(trusted);
    let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// Sends a ``ClientHello`` of a browser and gives the first bytes of the answer.
async fn probe(address: &str, alpn: &[&str]) -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = rustls::ClientConnection::new(browser(None, alpn), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    send(address, &hello).await
}

async fn send(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = vec![0; 7];
    let mut read = 0;
    while read < answer.len() {
        match stream.read(&mut answer[read..]).await {
            Ok(0) | Err(_) => break,
            Ok(bytes) => read += bytes,
        }
    }
    answer.truncate(read);
    answer
}

/// Runs the listener while something else happens; nobody may get in.
async fn nobody_gets_in<T>(listener: &mut Listener, happens: impl Future<Output = T>) -> T {
    tokio::select! {
        done = happens => done,
        _ = listener.accept() => panic!("somebody got in"),
    }
}

#[tokio::test]
async fn both_sides_know_each_others_key_and_requests_pass() {
    let ((dialer, _dialer_inbox), (server, mut inbox)) = connected().await;
    assert_eq!(dialer.remote(), key(1).public());
    assert_eq!(server.remote(), key(2).public());
    assert!(server.remote_addr().unwrap().ip().is_loopback() && dialer.remote_addr().is_some());
    let serve = async {
        while let Some(inbound) = inbox.next().await {
            let Inbound::Request(request) = inbound else { panic!("no push expected") };
            let number: u32 = request.decode().unwrap();
            request.answer(&(number + 1)).await.unwrap();
        }
    };
    let ask = async {
        assert_eq!(dialer.request(&41u32).await, Ok(42u32));
        dialer.close("enough");
    };
    tokio::join!(serve, ask);
    assert_eq!(server.closed().await, CloseReason::Remote("enough".into()));
    assert_eq!(dialer.closed().await, CloseReason::Local("enough".into()));
}

#[tokio::test]
async fn nothing_is_left_when_all_is_closed() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let (mut listener, address) = listener(Alpn::Peer, None);
    let own = key(2);
    let silent = TcpStream::connect(&address).await.unwrap();
    let mut connections = Vec::new();
    for _ in 0..4 {
        let (dialing, accepted) = tokio::join!(dial(&address, &own, Alpn::Peer, None), listener.accept());
        connections.push((dialing.unwrap(), start(accepted)));
    }
    assert!(listener.pending() == 1 && tasks() == before + 9, "{} tasks", tasks());
    for ((dialer, dialer_inbox), (server, server_inbox)) in connections {
        drop((dialer, dialer_inbox));
        let connection = server.clone();
        drop((server, server_inbox));
        assert_eq!(connection.closed().await, CloseReason::Remote("done".into()));
    }
    listener.close().await;
    while tasks() > before {
        // The last poll of a task may end just after it said so.
        tokio::task::yield_now().await;
    }
    drop(silent);
}

#[tokio::test]
async fn a_side_that_vanishes_is_noticed() {
    let (mut listener, address) = listener(Alpn::Peer, None);
    let own = key(2);
    let (dialing, accepted) = tokio::join!(dial(&address, &own, Alpn::Peer, None), listener.accept());
    let (dialer, _inbox) = dialing.unwrap();
    // The socket closes without an end of TLS, as when a process is killed.
    drop(accepted);
    assert_eq!(dialer.request::<u32, u32>(&1).await, Err(RequestError::Closed(CloseReason::Vanished)));
    assert_eq!(dialer.closed().await, CloseReason::Vanished);
}

#[tokio::test]
async fn a_dialer_names_the_wrong_key() {
    let (mut listener, address) = listener(Alpn::Peer, None);
    let own = key(2);
    let expected = key(3).public();
    let error = nobody_gets_in(&mut listener, dial(&address, &own, Alpn::Peer, Some(expected))).await.unwrap_err();
    let DialError::WrongKey { shown, expected: asked, .. } = &error else { panic!("{error}") };
    assert_eq!((*shown, *asked), (key(1).public(), expected));
    assert!(error.to_string().contains(&expected.to_string()), "{error}");
}

#[tokio::test]
async fn a_dialer_tells_what_failed() {
    let own = key(2);
    for (address, text) in [
        ("nonsense", "not an address of the form host:port"),
        ("a b:1", "not an address"),
        (":4477", "not an address"),
        ("localhost:99999", "not an address"),
        ("does-not-exist.invalid:1", "\"does-not-exist.invalid\" cannot be resolved"),
    ] {
        let error = dial(address, &own, Alpn::Peer, None).await.unwrap_err().to_string();
        assert!(error.contains(text), "{address}: {error}");
    }
    // A port on which nobody listens any more.
    let (closed, address) = listener(Alpn::Peer, None);
    closed.close().await;
    let error = dial(&address, &own, Alpn::Peer, None).await.unwrap_err();
    assert!(matches!(error, DialError::Connect { .. }), "{error}");
    assert!(error.to_string().contains(&address), "{error}");
    // A server of another kind.
    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap().to_string();
    let (dialed, ()) = tokio::join!(dial(&address, &own, Alpn::Peer, None), async {
        let (mut stream, _) = other.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    });
    let error = dialed.unwrap_err();
    assert!(matches!(error, DialError::Handshake { .. }), "{error}");
}

#[tokio::test]
async fn a_name_is_resolved_and_its_addresses_are_tried() {
    let (mut listener, address) = listener(Alpn::Peer, None);
    let port = address.rsplit_once(':').unwrap().1;
    let (own, name) = (key(2), format!("localhost:{port}"));
    let (dialed, _accepted) = tokio::join!(dial(&name, &own, Alpn::Peer, None), listener.accept());
    assert_eq!(dialed.unwrap().0.remote(), key(1).public());
}

#[tokio::test]
async fn protocols_are_chosen_from_the_client_hello() {
    let (mut peer, peer_address) = listener(Alpn::Peer, None);
    let (mut index, index_address) = listener(Alpn::Index, Some(https().0));
    let refused = vec![ALERT, 3, 3, 0, 2, 2, NO_APPLICATION_PROTOCOL];
    // The peer port knows its own protocol only.
    for alpn in [&[][..], &["http/1.1"], &["haul-index/1"], &["h2", "haul-peer/2"]] {
        assert_eq!(nobody_gets_in(&mut peer, probe(&peer_address, alpn)).await, refused);
    }
    // With the right name but X.509 in place of raw keys the handshake breaks off.
    for (listener, address, name) in
        [(&mut peer, &peer_address, "haul-peer/1"), (&mut index, &index_address, "haul-index/1")]
    {
        let connector = tokio_rustls::TlsConnector::from(browser(None, &[name]));
        let stream = TcpStream::connect(address).await.unwrap();
        let handshake = connector.connect(ServerName::try_from("localhost").unwrap(), stream);
        let error = nobody_gets_in(listener, handshake).await.unwrap_err().to_string();
        assert!(error.contains("alert"), "{error}");
    }
    for alpn in [&["haul-peer/1"][..], &["h2"]] {
        assert_eq!(nobody_gets_in(&mut index, probe(&index_address, alpn)).await, refused);
    }
    for alpn in [&[][..], &["http/1.1"], &["h2", "http/1.1"]] {
        assert_eq!(nobody_gets_in(&mut index, probe(&index_address, alpn)).await[0], HANDSHAKE);
    }
    // Native dialers of the other protocol are refused too.
    let own = key(2);
    let error = nobody_gets_in(&mut peer, dial(&peer_address, &own, Alpn::Index, None)).await.unwrap_err();
    assert!(matches!(error, DialError::Handshake { .. }), "{error}");
}

#[tokio::test]
async fn tls_1_2_and_noise_are_refused() {
    // A ClientHello of TLS 1.2: version 3.3, random, no session, one suite (ECDHE-ECDSA-AES128-GCM), no compression,
    // the extensions that such a handshake needs (groups, point formats, signature algorithms), no supported_versions.
    let extensions: &[u8] = &[0, 10, 0, 4, 0, 2, 0, 29, 0, 11, 0, 2, 1, 0, 0, 13, 0, 4, 0, 2, 4, 3];
    let mut hello = vec![3, 3];
    hello.extend_from_slice(&[7; 32]);
    hello.extend_from_slice(&[0, 0, 2, 0xc0, 0x2b, 1, 0, 0, extensions.len() as u8]);
    hello.extend_from_slice(extensions);
    let length = hello.len() as u8;
    let record = [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &hello].concat();
    let (mut index, index_address) = listener(Alpn::Index, Some(https().0));
    let answer = nobody_gets_in(&mut index, send(&index_address, &record)).await;
    assert_eq!((answer[0], answer[6]), (ALERT, PROTOCOL_VERSION));
    let (mut peer, peer_address) = listener(Alpn::Peer, None);
    assert_eq!(nobody_gets_in(&mut peer, send(&peer_address, &record)).await[0], ALERT);
    for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 100], &[22, 3, 1, 0xff, 0xff, 1, 0xff, 0xff, 0xff]] {
        let mut stream = TcpStream::connect(&peer_address).await.unwrap();
        stream.write_all(noise).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        let _ = nobody_gets_in(&mut peer, stream.read_to_end(&mut rest)).await;
        assert!(rest.is_empty() || rest[0] == ALERT, "{rest:?}");
    }
    let own = key(2);
    let (dialed, _accepted) = tokio::join!(dial(&peer_address, &own, Alpn::Peer, None), peer.accept());
    assert!(dialed.is_ok());
}

#[tokio::test]
async fn native_and_https_share_the_index_port() {
    let (config, certificate) = https();
    let (mut listener, address) = listener(Alpn::Index, Some(config));
    let browse = async {
        let stream = TcpStream::connect(&address).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(browser(Some(certificate), &["http/1.1"]));
        let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.unwrap();
        answer
    };
    let serve = async {
        let Accepted::Https { mut transport, addr } = listener.accept().await else { panic!("expected a browser") };
        assert!(addr.ip().is_loopback());
        let mut asked = [0; 5];
        transport.read_exact(&mut asked).await.unwrap();
        transport.write_all(&asked).await.unwrap();
        transport.flush().await.unwrap();
        transport
    };
    assert_eq!(tokio::join!(browse, serve).0, *b"hello");
    let own = key(2);
    let (dialed, accepted) = tokio::join!(dial(&address, &own, Alpn::Index, None), listener.accept());
    assert_eq!(start(accepted).0.remote(), dialed.map(|_| own.public()).unwrap());
}

#[test]
fn wrong_certificates_say_what_is_wrong() {
    let (one, other) = (PemPair::self_signed(&["a".into()]).unwrap(), PemPair::self_signed(&["b".into()]).unwrap());
    let from =
        |certificate: &str, key: &str| HttpsConfig::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap_err();
    assert!(matches!(from("", &one.key), HttpsError::Pem { part: "certificate", .. }));
    assert!(matches!(from(&one.certificate, "nonsense"), HttpsError::Pem { part: "key", .. }));
    assert!(matches!(from(&one.certificate, &other.key), HttpsError::Unusable(_)));
}

#[tokio::test]
async fn silent_sockets_are_dropped_at_the_deadline_and_the_cap_holds() {
    let (mut listener, address) = listener(Alpn::Peer, None);
    listener.set_limits(Duration::from_millis(100), 4);
    let mut silent = JoinSet::new();
    for byte in 0..12u8 {
        let address = address.clone();
        silent.spawn(async move {
            let mut stream = TcpStream::connect(&address).await.unwrap();
            // Some say nothing at all, some begin a record and stop.
            if byte % 2 == 0 {
                stream.write_all(&[22, 3, 1]).await.unwrap();
            }
            let _ = stream.read(&mut [0; 16]).await;
        });
    }
    let mut most = 0;
    while listener.counts().failed < 12 {
        let _ = tokio::time::timeout(Duration::from_millis(5), listener.accept()).await;
        most = most.max(listener.pending());
    }
    assert_eq!(most, 4);
    silent.join_all().await;
}

#[tokio::test]
async fn silent_sockets_up_to_the_cap_hold_others_up_for_a_second_at_most() {
    let (mut listener, address) = listener(Alpn::Peer, None);
    listener.set_limits(Duration::from_hours(1), 4);
    let mut silent = Vec::new();
    for _ in 0..6 {
        silent.push(TcpStream::connect(&address).await.unwrap());
    }
    let own = key(2);
    let began = std::time::Instant::now();
    let (dialed, accepted) = tokio::join!(dial(&address, &own, Alpn::Peer, None), listener.accept());
    assert_eq!(start(accepted).0.remote(), dialed.map(|_| own.public()).unwrap());
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_dual_stack_listener_shows_ipv4_addresses_as_such() {
    let own = key(2);
    let mut listener = Listener::bind(&["[::]:0".parse().unwrap()], &key(1), Alpn::Peer, None).unwrap();
    let address = format!("127.0.0.1:{}", listener.addresses()[0].port());
    let (dialed, accepted) = tokio::join!(dial(&address, &own, Alpn::Peer, None), listener.accept());
    assert!(dialed.is_ok());
    assert_eq!(start(accepted).0.remote_addr().unwrap().ip().to_string(), "127.0.0.1");
}
