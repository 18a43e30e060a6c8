//! The records that the daemon answers with, one JSON object per line: the contract with scripts.
//!
//! Each line is `{"v":1,"type":…,…}`. `v` changes only when a field is removed or changes its meaning; fields are added
//! freely. Sizes are bytes, times RFC 3339 in UTC, rates bytes per second, ids and keys in full. A `path` always starts
//! with the share's name, so `PEER:PATH` can be put together from any record. What a role does not know is `null`.

mod timeline;
mod transfers;

use serde::{Deserialize, Serialize};

use super::codes::ErrorCode;
pub use timeline::{NoteRecord, TallyRecord, TimelineRecord};
pub use transfers::{DoneRecord, LimitRecord, ProgressRecord, ProviderShare, TransferRecord, TransferState};

/// Version of the records.
pub const RECORD_VERSION: u32 = 1;

/// One line of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// [`RECORD_VERSION`].
    pub v: u32,
    /// What it says.
    #[serde(flatten)]
    pub record: Record,
}

/// What a line says; the name of the variant in lower case is its `type`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Record {
    /// The daemon answers everything from now on.
    Ready(Ready),
    /// A result of a search.
    Hit(HitRecord),
    /// A peer that has what was looked up.
    Provider(ProviderRecord),
    /// A line of a directory.
    Entry(EntryRecord),
    /// The end of an answer in figures.
    Summary(Summary),
    /// A share of this peer.
    Share(ShareRecord),
    /// How this peer is.
    Status(Box<StatusRecord>),
    /// A member of the network.
    Peer(PeerRecord),
    /// The network and its index.
    Network(Box<NetworkRecord>),
    /// An invitation.
    Ticket(TicketRecord),
    /// A download in the list.
    Transfer(TransferRecord),
    /// One thing that happened in a transfer.
    Note(NoteRecord),
    /// What one provider gave to a transfer.
    Tally(Box<TallyRecord>),
    /// The end of a timeline in figures.
    Timeline(TimelineRecord),
    /// A limit of bandwidth.
    Limit(LimitRecord),
    /// How far a download is.
    Progress(ProgressRecord),
    /// A download is complete.
    Done(DoneRecord),
    /// The command waits, why, and what its user can do.
    Waiting(Notice),
    /// Something to know that does not stop the command.
    Warning(Notice),
    /// A change was made.
    Changed(ChangedRecord),
    /// The command failed; always the last line.
    Error(ErrorRecord),
}

impl Record {
    /// The line, newline included.
    pub fn to_line(&self) -> String {
        #[derive(Serialize)]
        struct Borrowed<'a> {
            v: u32,
            #[serde(flatten)]
            record: &'a Record,
        }
        // Records have string keys only and no maps with other keys, so they always serialize.
        let mut line =
            serde_json::to_string(&Borrowed { v: RECORD_VERSION, record: self }).expect("records serialize to JSON");
        line.push('\n');
        line
    }
}

/// First line of `haul up`, `haul index` and `haul peer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The network's key.
    pub network: Option<String>,
    /// This peer's key.
    pub peer: Option<String>,
    /// Where this peer serves.
    pub peer_addr: Option<String>,
    /// The index's key.
    pub index: Option<String>,
    /// Where the index listens.
    pub index_addr: Option<String>,
    /// One-time link to this peer's own pages.
    pub web: Option<String>,
    /// An invitation to the network.
    pub ticket: Option<String>,
}

/// File or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Link,
}

/// Whether the content of a file is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContentState {
    /// Its id is known.
    Ready,
    /// It is still being hashed.
    Hashing,
}

/// Whether a peer can be asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Presence {
    /// Its lease runs.
    Online,
    /// It left or is silent.
    Away,
}

/// A result of a search.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HitRecord {
    /// Its place in the answer, from 1.
    pub n: u64,
    /// File, directory or link.
    pub kind: Kind,
    /// Base name; bytes that are not UTF-8 are replaced, see `raw`.
    pub name: String,
    /// Share and path.
    pub path: String,
    /// Name of the share.
    pub share: String,
    /// Key of one peer that has it.
    pub peer: String,
    /// Name of that peer.
    pub peer_name: String,
    /// Bytes; of a directory those of all files in it and below. Null for links, and where nobody counted.
    pub size: Option<u64>,
    /// Of a directory, the files in it and below; else null.
    pub files: Option<u32>,
    /// Content.
    pub id: Option<String>,
    /// Whether the content is known.
    pub state: ContentState,
    /// Names under which this content is registered: same content, other names.
    pub names: u32,
    /// Contents that are registered under this name, capitals and accents ignored: same name, other content. Files
    /// without bytes or without a hash do not count; at least 1.
    pub contents: u32,
    /// Copies under this name.
    pub copies: u32,
    /// Of these, copies that are online.
    pub online: u32,
    /// Newest change; null where nobody told.
    pub mtime: Option<String>,
    /// Present and true when it only comes near to the query.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub near: bool,
    /// Path in hexadecimal, present only when it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
}

/// A peer that has what was looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderRecord {
    /// Content; null while it is hashed.
    pub id: Option<String>,
    /// Key of the peer.
    pub peer: String,
    /// Name of the peer.
    pub name: String,
    /// Share and path on that peer.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Whether it has all bytes.
    pub complete: bool,
    /// Whether it can be asked now.
    pub state: Presence,
    /// How it is reached; null while it is away.
    pub route: Option<String>,
    /// Where it serves; null while it is away.
    pub addr: Option<String>,
    /// When the index last heard of it.
    pub seen: Option<String>,
    /// Last change of the file.
    pub mtime: Option<String>,
    /// Path in hexadecimal, present only when it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
}

/// A line of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryRecord {
    /// File, directory or link.
    pub kind: Kind,
    /// Base name.
    pub name: String,
    /// Share and path.
    pub path: String,
    /// Key of the peer.
    pub peer: String,
    /// Bytes; null for directories and links.
    pub size: Option<u64>,
    /// Content of a file, if known.
    pub id: Option<String>,
    /// Whether the content is known.
    pub state: ContentState,
    /// Last change.
    pub mtime: Option<String>,
    /// Whether its owner may execute it.
    pub executable: bool,
    /// Where a link points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Path in hexadecimal, present only when it is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
}

/// The end of an answer in figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Lines before this one that are results.
    pub hits: u64,
    /// Results in all, as far as counted.
    pub total: u64,
    /// Whether `total` is exact.
    pub exact: bool,
    /// Whether results were left out because of the limit.
    pub truncated: bool,
    /// Part of the index that took part, 0 to 1.
    pub coverage: f64,
    /// Whether all results only come near to the query.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_near: bool,
    /// Different contents among the results of a lookup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contents: Option<u64>,
    /// Of the results of a lookup, those that can be asked now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online: Option<u64>,
    /// Microseconds from the question to this line.
    pub took_us: u64,
    /// Of these, microseconds that the index worked.
    pub index_us: Option<u64>,
    /// Names that the index compared.
    pub examined: Option<u64>,
    /// Files that the index knows.
    pub files: Option<u64>,
    /// Peers that are online.
    pub peers: Option<u64>,
}

/// What a share is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShareActivity {
    /// All hashed and durable at the index.
    Ready,
    /// Its folders are being read.
    Scanning,
    /// Files are being hashed, or the index does not have them all yet.
    Hashing,
    /// Its folder is not there.
    Away,
}

/// A share of this peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareRecord {
    /// Its name.
    pub name: String,
    /// Its folder.
    pub path: String,
    /// Files that can be shared.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of these, files whose content is known.
    pub hashed: u64,
    /// Things in the folder that cannot be shared.
    pub skipped: u64,
    /// Files that the index has, durable.
    pub registered: u64,
    /// What it is doing.
    pub state: ShareActivity,
    /// Why it is in this state, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What its owner can do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// How this peer is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRecord {
    /// Version of haul.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// `HAUL_HOME`.
    pub home: String,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// This peer's key.
    pub peer: String,
    /// This peer's name in the network.
    pub name: String,
    /// Where it serves.
    pub peer_addr: Option<String>,
    /// One-time link to its own pages, fresh in every answer to `haul status`.
    pub web: Option<String>,
    /// The network's key; null before joining one.
    pub network: Option<String>,
    /// The link to the index.
    pub index: IndexState,
    /// Folders shared.
    pub shares: u64,
    /// Files in them.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Of the files, those whose content is known.
    pub hashed: u64,
    /// Downloads under way.
    pub downloads: u64,
    /// Downloads that wait or are paused.
    pub waiting: u64,
    /// Peers that are connected to this one.
    pub uploads: u64,
    /// Bytes received since the start.
    pub down_bytes: u64,
    /// Bytes sent since the start.
    pub up_bytes: u64,
    /// What is not as it should be.
    pub problems: Vec<Notice>,
}

/// The link to the index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexState {
    /// `connected`, `connecting`, `waiting`, `refused` or `none`.
    pub state: String,
    /// The index's key.
    pub key: Option<String>,
    /// Its address.
    pub addr: Option<String>,
    /// Since when it is in this state.
    pub since: Option<String>,
    /// Why, in words.
    pub reason: Option<String>,
    /// What to do.
    pub next: Option<String>,
    /// Files that it knows.
    pub files: Option<u64>,
    /// Members that it knows.
    pub peers: Option<u64>,
    /// Members that are online.
    pub peers_online: Option<u64>,
    /// Microseconds that its answer took to a question of this moment: the way there and back, and its work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_us: Option<u64>,
}

/// A member of the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRecord {
    /// Its key.
    pub peer: String,
    /// Its name.
    pub name: String,
    /// Whether it can be asked now.
    pub state: Presence,
    /// Where it serves.
    pub addr: Option<String>,
    /// All addresses where it serves, best first.
    pub addrs: Vec<String>,
    /// When the index last heard of it.
    pub seen: Option<String>,
    /// Files that you can see.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether it is this peer.
    pub you: bool,
}

/// The network and its index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// The network's key; null before joining one.
    pub network: Option<String>,
    /// This peer's key.
    pub peer: String,
    /// This peer's name in it.
    pub name: String,
    /// `guest`, `member` or `admin`.
    pub role: Option<String>,
    /// Groups besides everyone.
    pub groups: Vec<String>,
    /// Serial of the certificate.
    pub serial: Option<u64>,
    /// The link to the index.
    pub index: IndexState,
    /// Where indexes of this network were found.
    pub addresses: Vec<String>,
    /// Members, as the index counts them.
    pub peers: Option<u64>,
    /// Of these, online.
    pub peers_online: Option<u64>,
    /// Shares registered, as far as this member may see them; so are the next three.
    pub shares: Option<u64>,
    /// Files registered.
    pub files: Option<u64>,
    /// Their bytes, every copy counted.
    pub bytes: Option<u64>,
    /// Distinct contents; null if this member may not see every share.
    pub blobs: Option<u64>,
}

/// An invitation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketRecord {
    /// The text to paste.
    pub ticket: String,
    /// The network's key.
    pub network: String,
    /// When it ends.
    pub expires: String,
    /// How many may join with it.
    pub uses: u32,
    /// What those that join may do.
    pub role: String,
    /// Where the index listens.
    pub addresses: Vec<String>,
}

/// Something said in words, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// What is.
    pub message: String,
    /// What to do.
    pub next: Option<String>,
}

/// A change was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedRecord {
    /// What was done: `share-removed`, `rescanning`, `joined`, `left`, `member-removed`, `paused` …
    pub what: String,
    /// To whom or what.
    pub subject: String,
    /// One sentence for people.
    pub message: String,
    /// What to do next, if anything.
    pub next: Option<String>,
}

/// Why one provider, or one attempt, did not help.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Key of the peer, or null when no peer is meant.
    pub peer: Option<String>,
    /// Its name, or what else is meant.
    pub name: String,
    /// What happened with it.
    pub message: String,
}

/// The command failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorRecord {
    /// Stable code, see `haul explain`.
    pub code: ErrorCode,
    /// What failed, in words.
    pub message: String,
    /// Each cause.
    pub causes: Vec<Cause>,
    /// What to do next.
    pub next: Option<String>,
    /// Exit code of a command that ends with this.
    pub exit: u8,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn line(record: Record) -> String {
        let line = record.to_line();
        let back: Line = serde_json::from_str(&line).unwrap();
        assert_eq!(back, Line { v: 1, record });
        line
    }

    #[test]
    fn golden_hit_and_provider() {
        let mut hit = HitRecord {
            n: 1,
            kind: Kind::Dir,
            name: "a".into(),
            path: "docs/a".into(),
            share: "docs".into(),
            peer: "pk:00".into(),
            peer_name: "lab-3".into(),
            size: Some(700),
            files: Some(12),
            id: None,
            state: ContentState::Ready,
            names: 1,
            contents: 3,
            copies: 2,
            online: 1,
            mtime: None,
            near: false,
            raw: None,
        };
        assert_eq!(
            line(Record::Hit(hit.clone())),
            "{\"v\":1,\"type\":\"hit\",\"n\":1,\"kind\":\"dir\",\"name\":\"a\",\"path\":\"docs/a\",\"share\":\"docs\",\
             \"peer\":\"pk:00\",\"peer_name\":\"lab-3\",\"size\":700,\"files\":12,\"id\":null,\"state\":\"ready\",\"names\":1,\
             \"contents\":3,\"copies\":2,\"online\":1,\"mtime\":null}\n"
        );
        hit.near = true;
        assert!(line(Record::Hit(hit)).ends_with("\"mtime\":null,\"near\":true}\n"));
        let provider = ProviderRecord {
            id: Some("b3:01".into()),
            peer: "pk:00".into(),
            name: "lab-3".into(),
            path: "docs/a".into(),
            size: 7,
            complete: true,
            state: Presence::Online,
            route: Some("direct".into()),
            addr: Some("10.0.0.1:4478".into()),
            seen: None,
            mtime: None,
            raw: None,
        };
        assert_eq!(
            line(Record::Provider(provider)),
            "{\"v\":1,\"type\":\"provider\",\"id\":\"b3:01\",\"peer\":\"pk:00\",\"name\":\"lab-3\",\"path\":\"docs/a\",\
             \"size\":7,\"complete\":true,\"state\":\"online\",\"route\":\"direct\",\"addr\":\"10.0.0.1:4478\",\
             \"seen\":null,\"mtime\":null}\n"
        );
    }

    #[test]
    fn golden_ready_summary_share_done_error() {
        assert_eq!(
            line(Record::Ready(Ready { ticket: Some("haul1x".into()), ..Ready::default() })),
            "{\"v\":1,\"type\":\"ready\",\"network\":null,\"peer\":null,\"peer_addr\":null,\"index\":null,\
             \"index_addr\":null,\"web\":null,\"ticket\":\"haul1x\"}\n"
        );
        let summary = Summary { hits: 3, total: 3, exact: true, coverage: 1.0, took_us: 9, ..Summary::default() };
        assert_eq!(
            line(Record::Summary(summary)),
            "{\"v\":1,\"type\":\"summary\",\"hits\":3,\"total\":3,\"exact\":true,\"truncated\":false,\"coverage\":1.0,\
             \"took_us\":9,\"index_us\":null,\"examined\":null,\"files\":null,\"peers\":null}\n"
        );
        let share = ShareRecord {
            name: "docs".into(),
            path: "/srv/docs".into(),
            files: 2,
            bytes: 10,
            hashed: 1,
            skipped: 0,
            registered: 1,
            state: ShareActivity::Hashing,
            reason: None,
            next: None,
        };
        assert_eq!(
            line(Record::Share(share)),
            "{\"v\":1,\"type\":\"share\",\"name\":\"docs\",\"path\":\"/srv/docs\",\"files\":2,\"bytes\":10,\"hashed\":1,\
             \"skipped\":0,\"registered\":1,\"state\":\"hashing\"}\n"
        );
        let done = DoneRecord { path: "/x".into(), bytes: 1, verified: true, ..DoneRecord::default() };
        assert_eq!(
            line(Record::Done(done)),
            "{\"v\":1,\"type\":\"done\",\"id\":null,\"path\":\"/x\",\"bytes\":1,\"ms\":0,\"resumed_from\":0,\
             \"fetched\":0,\"providers\":0,\"verified\":true}\n"
        );
        let error = ErrorRecord {
            code: ErrorCode::NoProvider,
            message: "m".into(),
            causes: vec![Cause { peer: None, name: "lab-7".into(), message: "refused".into() }],
            next: Some("haul get x --wait".into()),
            exit: ErrorCode::NoProvider.exit(),
        };
        assert_eq!(
            line(Record::Error(error)),
            "{\"v\":1,\"type\":\"error\",\"code\":\"no-provider\",\"message\":\"m\",\"causes\":[{\"peer\":null,\
             \"name\":\"lab-7\",\"message\":\"refused\"}],\"next\":\"haul get x --wait\",\"exit\":1}\n"
        );
    }
}
