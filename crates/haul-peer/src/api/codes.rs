//! Stable error codes, the exit code that goes with each, and the longer explanation that `haul explain` shows.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Exit codes of every command.
pub mod exit {
    /// Done.
    pub const DONE: u8 = 0;
    /// Nothing found, or nobody has it.
    pub const NOT_FOUND: u8 = 1;
    /// Wrong use or wrong configuration.
    pub const USAGE: u8 = 2;
    /// Index or daemon cannot be reached.
    pub const UNREACHABLE: u8 = 3;
    /// A transfer is incomplete and can be continued.
    pub const INCOMPLETE: u8 = 4;
    /// Content did not match its hash after all retries.
    pub const CORRUPT: u8 = 5;
    /// Not allowed.
    pub const DENIED: u8 = 6;
    /// Local disk: full, unwritable, vanished.
    pub const DISK: u8 = 7;
    /// The time given with `--timeout` has passed.
    pub const TIMEOUT: u8 = 8;
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $exit:ident, $explain:literal;)*) => {
        /// Stable code of an error.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorCode {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
        }

        impl ErrorCode {
            /// All codes.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// As it stands in records and behind messages.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// Exit code of a command that ends with it.
            pub const fn exit(self) -> u8 {
                match self { $(Self::$variant => exit::$exit,)* }
            }

            /// What it means and what to do, in a paragraph.
            pub const fn explain(self) -> &'static str {
                match self { $(Self::$variant => $explain,)* }
            }
        }
    };
}

codes! {
    /// Nobody shares it.
    NotFound = "not-found", NOT_FOUND,
        "No peer that you can see has registered this name or id. Names are matched exactly by `haul get` and `haul lookup`; `haul search` finds parts of names. Peers that are away are shown with --away.";
    /// Those that have it cannot be reached.
    NoProvider = "no-provider", NOT_FOUND,
        "The index knows who has it, but none of them could be reached or would serve it now. The causes name each peer. `haul get --wait` waits until one of them returns.";
    /// A name has several contents.
    Ambiguous = "ambiguous", USAGE,
        "Several files with different content have this name. Use the id of the one that you want: `haul lookup NAME` lists them.";
    /// Content is not hashed yet.
    Hashing = "hashing", NOT_FOUND,
        "The name is known, but its peer has not finished hashing it, so its content has no id yet. Ask again in a moment, or use --wait.";
    /// The request cannot be understood.
    Usage = "usage", USAGE,
        "The command or one of its values is not understood. `haul help` shows every command.";
    /// The configuration cannot be used.
    Config = "config", USAGE,
        "A configuration file or variable has an unknown key or a wrong value. `haul config show` prints what is in force and where it comes from.";
    /// The query does not parse.
    BadQuery = "bad-query", USAGE,
        "The search query has a filter or quote that is not understood. Words are joined by and; \"exact words\" stand in quotes; -word excludes; size:>1G, type:, peer:, path: and age: filter.";
    /// Not a member of a network yet.
    NotJoined = "not-joined", UNREACHABLE,
        "This peer belongs to no network yet, so there is no index to ask. `haul up` starts one of your own; `haul join TICKET` joins one.";
    /// The index cannot be reached.
    IndexUnreachable = "index-unreachable", UNREACHABLE,
        "The index does not answer. Peers keep serving and finish downloads from providers that they know; searching needs the index. The peer tries again by itself. `haul status` shows since when and why.";
    /// The index refuses this peer.
    IndexRefused = "index-refused", DENIED,
        "The index was reached and refuses this peer: the certificate or ticket is not valid any more, or was made for another network. Ask for a new ticket (`haul invite`, on a machine of an admin) and use `haul join`.";
    /// The index is not the one that it should be.
    IndexUntrusted = "index-untrusted", DENIED,
        "Somebody answers at the index's address with a key that the network has not signed. Nothing was sent to it. The address may belong to another network now, or somebody stands in between.";
    /// The index asks to come back later.
    IndexBusy = "index-busy", UNREACHABLE,
        "The index has too much to do and asked to be left alone for a moment. Try again.";
    /// The index has a fault of its own.
    IndexStorage = "index-storage", UNREACHABLE,
        "The index could not read or write its storage. Its disk may be full; look at its log.";
    /// The daemon does not answer.
    DaemonUnreachable = "daemon-unreachable", UNREACHABLE,
        "No daemon answers on this HAUL_HOME. Start one with `haul up`, or use --index TICKET for a single command.";
    /// Another daemon has this `HAUL_HOME`.
    HomeLocked = "home-locked", USAGE,
        "Another haul process uses this HAUL_HOME. One home belongs to one process: use that one, stop it, or set HAUL_HOME to another folder.";
    /// A ticket cannot be used.
    BadTicket = "bad-ticket", USAGE,
        "The text is not a ticket, or a character of it is missing or mistyped. Copy it again, or ask for a new one.";
    /// Invitation over or used up.
    TicketRefused = "ticket-refused", DENIED,
        "The index does not take this ticket: it has ended, was used as often as allowed, or is unknown. Ask for a new one (`haul invite`).";
    /// Not allowed for this role.
    NotAllowed = "not-allowed", DENIED,
        "Your role in the network does not allow this. Inviting and removing members is for admins.";
    /// Another user's daemon.
    OtherUser = "other-user", DENIED,
        "The daemon belongs to another user of this machine and writes files only as that user. Start your own with `haul up`.";
    /// Part of it is there.
    Incomplete = "incomplete", INCOMPLETE,
        "The transfer ended before it was complete. What arrived is verified and kept; the same command goes on from there.";
    /// The user paused or gave up a transfer.
    Interrupted = "interrupted", INCOMPLETE,
        "The transfer was paused or canceled. What arrived is verified and kept; `haul transfers resume` or the same `haul get` goes on from there.";
    /// Content does not match.
    Corrupt = "corrupt", CORRUPT,
        "Bytes that arrived did not match the id, and nobody else could give right ones. They were thrown away and the peers that sent them are named.";
    /// The provider's file changed.
    FileChanged = "file-changed", INCOMPLETE,
        "The file changed at its provider while it was fetched, so this content is not there any more. Search again for the new one.";
    /// There is a file already.
    Exists = "exists", USAGE,
        "Something with this name exists already and is never overwritten unasked. Use --force, or another name with -o.";
    /// Disk full or unwritable.
    Disk = "disk", DISK,
        "The local disk is full, read-only or gone. What was verified is kept; free some space and give the same command again.";
    /// A folder cannot be shared.
    BadShare = "bad-share", USAGE,
        "This folder or file cannot be shared, or its name is taken. `haul share ls` shows what is shared.";
    /// No share, peer or transfer has this name.
    NoSuch = "no-such", NOT_FOUND,
        "Nothing here has this name or number. `haul share ls`, `haul peers` and `haul transfers` list what there is.";
    /// Time is over.
    Timeout = "timeout", TIMEOUT,
        "The time that was allowed has passed. Give --timeout a larger value.";
    /// The daemon is stopping.
    Stopping = "stopping", UNREACHABLE,
        "The daemon is about to end and takes no new commands. Start it again with `haul up`.";
    /// Not in this mode.
    NeedsDaemon = "needs-daemon", USAGE,
        "A single command with --index TICKET has no shares and keeps no list of transfers. Start a peer with `haul up` for that.";
    /// A fault of haul.
    Internal = "internal", UNREACHABLE,
        "Something happened that should not. Please report it with the output of the same command with -v.";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ErrorCode {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text).ok_or(())
    }
}

/// The verbs of the command line, for the test that every hint names one that exists.
pub const VERBS: &[&str] = &[
    "up",
    "index",
    "peer",
    "search",
    "watch",
    "lookup",
    "get",
    "browse",
    "cat",
    "share",
    "status",
    "peers",
    "transfers",
    "top",
    "invite",
    "join",
    "leave",
    "network",
    "link",
    "shell",
    "bench",
    "explain",
    "config",
    "completions",
    "man",
    "help",
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn codes_have_one_text_form() {
        for code in ErrorCode::ALL {
            assert_eq!(code.as_str().parse::<ErrorCode>(), Ok(*code));
            assert_eq!(serde_json::to_string(code).unwrap(), format!("\"{}\"", code.as_str()));
            assert!((1..=8).contains(&code.exit()), "{code}");
        }
    }

    #[test]
    fn explanations_name_verbs_that_exist() {
        for code in ErrorCode::ALL {
            for (at, _) in code.explain().match_indices("`haul ") {
                let verb = code.explain()[at + 6..].split(['`', ' ']).next().unwrap();
                assert!(VERBS.contains(&verb), "{code} names `haul {verb}`");
            }
        }
    }
}
