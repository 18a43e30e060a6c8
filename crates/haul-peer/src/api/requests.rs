//! What the command line, the shell and the pages ask of the daemon: JSON bodies of `POST /v1/…`.

use serde::{Deserialize, Serialize};

/// `POST /v1/search`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchRequest {
    /// The query.
    pub query: String,
    /// Hits at most; 50 unless given. With `all` it is ignored.
    #[serde(default)]
    pub limit: Option<u64>,
    /// Pages to the end.
    #[serde(default)]
    pub all: bool,
    /// Entries of peers that are away count too.
    #[serde(default)]
    pub away: bool,
    /// The total is counted, however many fit; else a large one is estimated.
    #[serde(default)]
    pub count: bool,
}

/// `POST /v1/lookup`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookupRequest {
    /// Exact base name, or `b3:…`.
    pub what: String,
    /// Peers that are away count too. The records say which.
    #[serde(default)]
    pub away: bool,
    /// Providers per content at most; 256 unless given.
    #[serde(default)]
    pub max: Option<u32>,
}

/// `POST /v1/watch`: the answer goes on until the one who asked goes away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchRequest {
    /// The query.
    pub query: String,
}

/// `POST /v1/browse`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrowseRequest {
    /// Name or `pk:…` of the peer.
    pub peer: String,
    /// Share name and path; empty lists the shares.
    #[serde(default)]
    pub path: String,
    /// All below it.
    #[serde(default)]
    pub recursive: bool,
}

/// `POST /v1/get`. Paths are absolute: the daemon does not know the directory of the one who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetRequest {
    /// Exact base name, `b3:…`, or `PEER:PATH`.
    pub what: String,
    /// Only from these peers (names or keys); empty is everyone.
    #[serde(default)]
    pub from: Vec<String>,
    /// Absolute path of a file or folder. One that exists as a folder receives the file or directory under its own
    /// name; one that does not exist becomes the file or folder itself.
    pub output: String,
    /// Replace what is there.
    #[serde(default)]
    pub force: bool,
    /// Recreate links that lead outside of a folder, too.
    #[serde(default)]
    pub outside_links: bool,
    /// Wait for a provider instead of failing.
    #[serde(default)]
    pub wait: bool,
    /// Answer as soon as the transfer is in the list, with its record.
    #[serde(default)]
    pub background: bool,
    /// A limit for this transfer alone, down, from its first byte: a rate as in [`LimitRequest`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
}

/// `POST /v1/cat`: the answer is frames, see [`super::frames`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatRequest {
    /// Exact base name, `b3:…`, or `PEER:PATH` of a file.
    pub what: String,
    /// First byte and the byte after the last; none is everything. An end beyond the file means the file's end.
    #[serde(default)]
    pub range: Option<(u64, Option<u64>)>,
    /// Only from these peers.
    #[serde(default)]
    pub from: Vec<String>,
}

/// `POST /v1/shares`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddShareRequest {
    /// Absolute path of a folder or file.
    pub path: String,
    /// Name; the last component of the path unless given.
    #[serde(default)]
    pub name: Option<String>,
    /// Groups that see it; empty is everyone.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Share a home folder or the root all the same.
    #[serde(default)]
    pub force: bool,
}

/// `POST /v1/invite`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InviteRequest {
    /// How many keys may join; 50 unless given.
    #[serde(default)]
    pub uses: Option<u32>,
    /// Seconds until it ends; a day unless given.
    #[serde(default)]
    pub ttl_s: Option<u64>,
    /// `guest`, `member` or `admin`; member unless given.
    #[serde(default)]
    pub role: Option<String>,
    /// All that join with it are machines of one user.
    #[serde(default)]
    pub one_user: bool,
}

/// `POST /v1/join`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The ticket.
    pub ticket: String,
}

/// `POST /v1/network/remove`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveRequest {
    /// Name or `pk:…` of the member.
    pub peer: String,
}

/// `POST /v1/limits`. Without group and transfer it is for everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitRequest {
    /// `up` or `down`; both unless given.
    #[serde(default)]
    pub direction: Option<String>,
    /// A rate per second, or `off`.
    pub rate: String,
    /// Days and hours, such as `mon-fri 08:00-18:00`; always unless given.
    #[serde(default)]
    pub when: Option<String>,
    /// A group.
    #[serde(default)]
    pub group: Option<String>,
    /// A download in the list.
    #[serde(default)]
    pub transfer: Option<u64>,
}

/// `POST /v1/limits/clear`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClearLimitRequest {
    /// `up` or `down`; both unless given.
    #[serde(default)]
    pub direction: Option<String>,
    /// A group.
    #[serde(default)]
    pub group: Option<String>,
    /// A download in the list.
    #[serde(default)]
    pub transfer: Option<u64>,
}
