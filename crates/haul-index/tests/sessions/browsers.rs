//! What browsers and other strangers to the native protocol get on the index port.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use haul_index::web;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower::ServiceExt;

use crate::support::{Fixture, PATIENCE};

#[tokio::test]
async fn every_route_is_on_the_public_list_and_carries_the_policy() {
    let ask = |method: Method, path: &str| {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        web::router().oneshot(request)
    };
    for path in web::PUBLIC_PATHS {
        let answer = ask(Method::GET, path).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let policy = answer.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        for method in [Method::POST, Method::PUT, Method::DELETE] {
            assert_eq!(ask(method, path).await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
        }
    }
    for path in ["/v1/search", "/peers", "/admin", "/assets/", "/assets/../haul.css", "/%2e%2e/etc/passwd", "/stats"] {
        let answer = ask(Method::GET, path).await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
        assert!(answer.headers().contains_key(header::CONTENT_SECURITY_POLICY));
    }
}

/// Speaks HTTP by hand over TLS; trusts exactly the certificate that the index keeps.
async fn https(f: &Fixture, alpn: &[&[u8]], request: &[u8]) -> std::io::Result<String> {
    let pem = std::fs::read(f.dir.path().join("index/https.certificate.pem")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let socket = TcpStream::connect(f.index.addresses()[0]).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("answered in time");
    // A server that ends without a closing alert has still sent its answer.
    if answer.is_empty() {
        read?;
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn browsers_and_peers_share_the_port() {
    let f = Fixture::start().await;
    let get = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    for alpn in [&[b"http/1.1".as_slice()][..], &[]] {
        let answer = https(&f, alpn, get).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("You reached an index"));
    }
    assert!(https(&f, &[b"h2"], get).await.is_err(), "no other protocol is spoken");
    let (member, _) = f.member(1).await;
    assert_eq!(member.count("x").await, 0);
    let health = https(&f, &[], b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(health.ends_with("\r\n\r\nok\n"), "{health}");
}

#[tokio::test]
async fn odd_http_is_answered_or_closed_and_hurts_nobody() {
    let f = Fixture::start().await;
    let long = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(64 * 1024));
    let odd: [&[u8]; 4] = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\nhost: x\r\nconnection: close\r\n\r\n0\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        long.as_bytes(),
    ];
    for request in odd {
        if let Ok(answer) = https(&f, &[b"http/1.1"], request).await {
            assert!(answer.is_empty() || answer.starts_with("HTTP/1."), "{answer}");
        }
        let (member, _) = f.member(1).await;
        assert_eq!(member.count("x").await, 0);
    }
}

#[tokio::test]
async fn the_certificate_stays_over_restarts() {
    use std::os::unix::fs::PermissionsExt;
    let f = Fixture::start().await;
    let path = f.dir.path().join("index/https.certificate.pem");
    let first = std::fs::read(&path).unwrap();
    let f = f.restart().await;
    assert_eq!(std::fs::read(&path).unwrap(), first);
    let key = f.dir.path().join("index/https.key.pem");
    assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
}
