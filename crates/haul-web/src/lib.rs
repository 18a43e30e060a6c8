//! Pages and assets: HTML from values, and nothing else. This crate knows no socket, store or protocol.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`pages`] | one function per page of an index |
//! | [`peer_pages`] | one function per page of a peer |
//! | [`layout`] | what all pages have around them |
//! | [`assets`] | files that pages refer to, embedded |
#![forbid(unsafe_code)]

pub mod assets;
pub mod layout;
pub mod pages;
pub mod peer_pages;

/// Headers of every page and asset, name and value. The policy allows our own style sheet and images and no script.
pub const SECURITY_HEADERS: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];
