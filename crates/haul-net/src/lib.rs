//! Bytes on their way: identities, TLS between keys, and the multiplexed [`connection::Connection`].
//!
//! This is the only crate that names sockets and TLS. It knows frames but no message of the protocols; whoever uses a
//! connection brings the messages.
//!
//! Modules point down this list and never up:
//!
//! | module | what it is |
//! | --- | --- |
//! | [`listener`] | accept loop: deadlines, caps, choice of protocol by ALPN |
//! | [`dialer`] | an address and a key become a connection |
//! | [`connection`] | requests, answers, streams with credit, over any transport |
//! | [`transport`] | what a connection runs on: TCP with TLS, or memory |
//! | [`tls`] | TLS 1.3 with raw public keys; HTTPS configurations |
//! | `tcp` | the socket below TLS |
//! | [`trust`] | signing and checking certificates and grants |
//! | [`identity`] | Ed25519 keys and their files |
//! | [`clock`] | the two clocks |
#![forbid(unsafe_code)]

pub mod clock;
pub mod connection;
pub mod dialer;
pub mod identity;
pub mod listener;
mod tcp;
pub mod tls;
pub mod transport;
pub mod trust;
