//! Who may not come in, as the real programs say it: tickets, keys, removed members, other protocols at the peer port.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

use haul_core::trust::Ticket;
use haul_net::dialer::{DialError, dial};
use haul_net::identity::SecretKey;
use haul_net::tls::Alpn;

use crate::support::{Finished, Home, Running, eventually, up, wait_ready};

fn parsed(ticket: &str) -> Ticket {
    ticket.parse().expect("haul prints valid tickets")
}

/// A failure with this code, in words and as a record.
#[track_caller]
fn refused(home: &Home, arguments: &[&str], exit: i32, code: &str, words: &str) {
    let people: Finished = home.run(arguments);
    let said = people.stderr();
    assert_eq!(people.code(), exit, "{said}");
    assert!(said.contains(words) && said.contains(code) && said.contains("haul invite"), "{said}");
    let scripts = home.run(arguments.iter().copied().chain(["--json"]));
    assert_eq!(scripts.code(), exit, "{}", scripts.stdout());
    let error = scripts.record("error");
    assert_eq!((error["code"].as_str(), error["exit"].as_i64()), (Some(code), Some(exit.into())), "{error}");
}

#[test]
fn tickets_that_let_nobody_in_say_why() {
    let (admin, first, second) = (Home::new(), Home::new(), Home::new());
    let index = admin.start(up(&[]));
    let peer = |home: &Home| home.start(["peer", "--json", "--listen", "127.0.0.1:0"]);
    let peers = [peer(&first), peer(&second)];

    let once = admin.run(["invite", "-q", "--uses", "1"]).ok().stdout().trim().to_owned();
    first.run(["join", &once]).ok();
    refused(&second, &["join", &once], 6, "ticket-refused", "used");

    let short = admin.run(["invite", "-q", "--ttl", "1ms"]).ok().stdout().trim().to_owned();
    let end = SystemTime::UNIX_EPOCH + Duration::from_millis(parsed(&short).expires.0);
    eventually("the ticket has ended", || SystemTime::now() > end);
    refused(&second, &["join", &short], 6, "ticket-refused", "ended");

    let mut unknown = parsed(&index.ticket());
    unknown.secret = [7; 16];
    refused(&second, &["join", &unknown.to_string()], 6, "ticket-refused", "not know");

    // The index that answers there belongs to another network than the ticket.
    let mut foreign = parsed(&index.ticket());
    foreign.network = SecretKey::generate().unwrap().public();
    let failed = second.run(["join", "--json", &foreign.to_string()]);
    assert_eq!(failed.code(), 6, "{}", failed.stdout());
    assert_eq!(failed.record("error")["code"], "index-refused");

    assert_eq!(second.run(["search", "x"]).code(), 3, "still in no network");
    second.run(["join", &index.ticket()]).ok();
    peers.into_iter().for_each(Running::stop);
    index.stop();
}

#[test]
fn a_removed_member_stays_out_after_a_restart_too() {
    let (admin, member) = (Home::new(), Home::new());
    let data = tempfile::tempdir().unwrap();
    fs::write(data.path().join("secret.txt"), "for members").unwrap();
    let index = admin.start(up(&["--share", data.path().to_str().unwrap()]));
    wait_ready(&admin);
    let ticket = admin.run(["invite", "-q"]).ok().stdout().trim().to_owned();
    let arguments = ["peer", "--json", "--name", "gone", "--listen", "127.0.0.1:0"];
    let peer = member.start(arguments.iter().copied().chain(["--join", &ticket]));
    member.run(["cat", "secret.txt"]).ok();
    admin.run(["network", "remove", "gone"]).ok();
    eventually("the certificate is refused", || member.run(["search", "secret"]).code() == 6);
    refused(&member, &["search", "secret"], 6, "index-refused", "removed");
    peer.stop();
    let peer = member.start(arguments);
    eventually("the certificate is refused", || member.run(["search", "secret"]).code() == 6);
    assert_eq!(member.run(["get", "secret.txt", "-o", data.path().join("stolen").to_str().unwrap()]).code(), 6);
    assert!(!data.path().join("stolen").exists());
    peer.stop();
    index.stop();
}

/// A `ClientHello` of TLS 1.2.
fn old_hello() -> Vec<u8> {
    let extensions: &[u8] = &[0, 10, 0, 4, 0, 2, 0, 29, 0, 11, 0, 2, 1, 0, 0, 13, 0, 4, 0, 2, 4, 3];
    let mut hello = vec![3, 3];
    hello.extend_from_slice(&[7; 32]);
    hello.extend_from_slice(&[0, 0, 2, 0xc0, 0x2b, 1, 0, 0, u8::try_from(extensions.len()).unwrap()]);
    hello.extend_from_slice(extensions);
    let length = u8::try_from(hello.len()).unwrap();
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &hello].concat()
}

fn answer(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn ports_speak_their_own_protocol_only() {
    const ALERT: u8 = 21;
    let (home, reader) = (Home::new(), Home::new());
    let data = tempfile::tempdir().unwrap();
    fs::write(data.path().join("file.txt"), "content").unwrap();
    let server = home.start(up(&["--share", data.path().to_str().unwrap()]));
    wait_ready(&home);
    let (peer_addr, index_addr) =
        (server.ready["peer_addr"].as_str().unwrap(), server.ready["index_addr"].as_str().unwrap());
    for address in [peer_addr, index_addr] {
        let said = answer(address, &old_hello());
        assert_eq!(said.first(), Some(&ALERT), "TLS 1.2 at {address}: {said:?}");
        let said = answer(address, b"GET / HTTP/1.1\r\n\r\n");
        assert!(said.is_empty() || said[0] == ALERT, "{said:?}");
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let key = SecretKey::generate().unwrap();
    for (address, alpn) in [(peer_addr, Alpn::Index), (index_addr, Alpn::Peer)] {
        let dialed = runtime.block_on(dial(address, &key, alpn, None));
        assert!(matches!(dialed, Err(DialError::Handshake { .. })), "{alpn:?} at {address}");
    }
    // All others are served as before.
    assert_eq!(reader.run(["cat", "--index", &server.ticket(), "file.txt"]).ok().stdout(), "content");
    server.stop();
}
