//! Messages between a peer and an index. Enums are append-only from the first release on.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

pub use super::runs::{BadRuns, PieceRange, Runs};
use super::{ByteString, Label, List};
use crate::ids::{BlobId, NetworkId, PeerId, ShareId};
use crate::limits;
use crate::manifest::ShareState;
use crate::path::SharePath;
use crate::time::Timestamp;
use crate::trust::Role;

/// How a peer shows that it belongs to the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Membership {
    /// Bytes of a signed [`crate::trust::MemberCertificate`].
    Certificate(ByteString),
    /// The secret of a ticket.
    Ticket([u8; 16]),
}

/// Opens the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`super::VERSION`].
    pub version: u16,
    /// Bits of optional features; none yet.
    pub features: u64,
    /// The name the peer would like.
    pub name: Label,
    /// Certificate or ticket.
    pub membership: Membership,
    /// Port on which the peer serves, at the address that the index sees; 0 for a peer that does not serve.
    pub peer_port: u16,
    /// Further addresses that its owner configured, `host:port`.
    pub addresses: List<String, { limits::ADDRESSES }>,
}

/// What a lookup asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LookupKeys {
    /// Exactly these blobs.
    Blobs(List<BlobId, { limits::LOOKUP_KEYS }>),
    /// All blobs under exactly these base names.
    Names(List<ByteString, { limits::LOOKUP_KEYS }>),
}

/// What a peer asks of an index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IndexRequest {
    /// Before Hello, by a peer that does not know the index's key: prove that this network trusts you.
    Introduce {
        /// The network that the peer wants to talk to.
        network: NetworkId,
    },
    /// Opens the session.
    Hello(Hello),
    /// Offers a share in the state that the peer has; the answer says what is missing.
    Open {
        /// The share.
        share: ShareId,
        /// Its name, unique on this peer.
        name: Label,
        /// Groups that see it; empty means everyone.
        groups: List<Label, { limits::GROUPS }>,
        /// State of the peer's list.
        state: ShareState,
    },
    /// Starts a transaction on an open share.
    Begin {
        /// The share.
        share: ShareId,
        /// Chosen by the peer, unique on this connection.
        tx: u64,
        /// The state that the changes amend; none replaces the list.
        base: Option<ShareState>,
    },
    /// Changes, sorted as [`crate::manifest`] says, within the page; pages of one transaction hold disjoint paths.
    Page {
        /// The transaction.
        tx: u64,
        /// 0, 1, 2 …
        seq: u32,
        /// A page.
        bytes: ByteString,
    },
    /// Makes the staged changes visible, all or none.
    Commit {
        /// The transaction.
        tx: u64,
        /// State afterwards; the index computes the digest too and refuses a commit that differs.
        state: ShareState,
        /// Records on all pages of this transaction.
        changes: u64,
    },
    /// Hides a share, or deletes all that the index holds of it.
    Close {
        /// The share.
        share: ShareId,
        /// Delete at once instead of keeping it for a return.
        forget: bool,
    },
    /// Extends lease and grant.
    Renew,
    /// Who has these?
    Lookup {
        /// What.
        keys: LookupKeys,
        /// Providers per blob at most.
        max: u32,
        /// Peers that are away count too.
        away: bool,
    },
    /// Finds names.
    Search {
        /// The query language of [`crate::query`].
        query: String,
        /// Hits at most, up to [`limits::SEARCH_HITS`].
        limit: u32,
        /// Continues an earlier answer.
        cursor: Option<ByteString>,
        /// Entries of peers that are away count too.
        away: bool,
        /// Every hit is counted, however many there are; else a large total is estimated.
        exact: bool,
    },
    /// Lists a directory of a peer.
    Browse {
        /// The peer.
        peer: PeerId,
        /// The share; none lists the shares.
        share: Option<Label>,
        /// Path within the share.
        path: SharePath,
        /// All below it instead of its children.
        recursive: bool,
        /// Continues an earlier answer.
        cursor: Option<ByteString>,
    },
    /// Lists the members.
    Peers {
        /// After this one.
        after: Option<PeerId>,
    },
    /// Totals and timings.
    Stats,
    /// Makes a ticket; admins only.
    Invite {
        /// How many keys may join with it.
        uses: u32,
        /// Milliseconds until it ends.
        life_ms: u64,
        /// What those that join may do.
        role: Role,
        /// Groups that they join.
        groups: List<Label, { limits::GROUPS }>,
        /// All that join with it are machines of one user.
        one_user: bool,
    },
    /// Takes a member out of the network; admins only.
    Remove {
        /// The member.
        peer: PeerId,
    },
    /// Ends the session: all entries are hidden at once.
    Leave,
    /// Asks to be told of new entries that fit, by [`IndexPush::Match`], until Unwatch or the end of the session.
    Watch {
        /// Chosen by the peer, unique on this connection.
        watch: u64,
        /// The query language of [`crate::query`]; words count in base names only.
        query: String,
    },
    /// Ends a watch. What was pushed before the answer may still be on its way.
    Unwatch {
        /// The watch.
        watch: u64,
    },
    /// Who has these blobs? Short: peers are named by number, and nothing is said of places.
    Locate {
        /// The blobs.
        blobs: List<BlobId, { limits::LOOKUP_KEYS }>,
        /// Peers per blob at most.
        max: u32,
        /// Peers that are away count too.
        away: bool,
    },
    /// Who are the peers of a Located?
    Cards {
        /// Their numbers.
        numbers: List<u32, { limits::CARDS }>,
    },
    /// Takes part in the swarm of a blob: whoever else downloads it learns of this peer, and this peer of them, by
    /// [`IndexPush::Providers`]. A Join of a blob that was joined before on this session starts anew.
    Join {
        /// The blob.
        blob: BlobId,
        /// Its bytes, as far as the peer knows.
        size: u64,
        /// The pieces that the peer holds, as in Have.
        pieces: Runs,
        /// Bytes per second that the peer's uplink carries for this blob, as far as it knows; none or 0 if nothing is known.
        uplink: Option<u64>,
    },
    /// Pieces of a joined blob that are verified now, besides those told before.
    Have {
        /// The blob.
        blob: BlobId,
        /// The pieces.
        pieces: Runs,
        /// What came from whom since the last Have.
        received: List<Received, { limits::SWARM_SOURCES }>,
        /// Peers that did not give what they should hold.
        failed: List<PeerId, { limits::SWARM_SOURCES }>,
        /// Bytes per second that the peer's uplink carries for this blob; none if there is nothing new of it, 0 if nothing is
        /// known any more.
        uplink: Option<u64>,
    },
    /// Ends a Join.
    Depart {
        /// The blob.
        blob: BlobId,
    },
    /// This peer will leave soon: what others download and only it holds is copied first, and nothing more is planned for
    /// it. May be asked again, to learn how much is left.
    Leaving,
}

/// What one peer gave lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// The peer.
    pub from: PeerId,
    /// Verified bytes.
    pub bytes: u64,
}

/// Somebody in a swarm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwarmPeer {
    /// Who, and where.
    pub card: PeerCard,
    /// Whether it holds all of the blob; else it is asked for its bitfield.
    pub complete: bool,
}

/// The answer to Join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Groups through which the index knows the peer to see the blob; empty means everyone. It may pass the blob on to
    /// whoever is in one of them.
    pub groups: List<Label, { limits::GROUPS }>,
    /// Who takes part already, as many as a peer needs.
    #[serde(deserialize_with = "super::arriving")]
    pub peers: Vec<SwarmPeer>,
}

/// What the index answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IndexAnswer {
    /// To Introduce: bytes of a signed [`crate::trust::IndexCertificate`].
    Introduced {
        /// The certificate.
        certificate: ByteString,
    },
    /// To Hello.
    Welcome(Welcome),
    /// To Open: both hold the same list; it is visible now.
    Same,
    /// To Open: the index holds this older state; send what changed since. It is visible now.
    Amend {
        /// The state to amend.
        from: ShareState,
    },
    /// To Open: the index holds nothing usable; send everything.
    Replace,
    /// To Begin.
    Begun,
    /// To Page.
    Staged {
        /// The page's number.
        seq: u32,
    },
    /// To Commit: visible, and on stable storage.
    Committed {
        /// The state that the index holds now.
        state: ShareState,
    },
    /// To Close.
    Closed,
    /// To Renew.
    Renewed(Renewed),
    /// To Lookup.
    Providers(Providers),
    /// To Search.
    Hits(Hits),
    /// To Browse.
    Listing(Listing),
    /// To Peers.
    Peers {
        /// Members, sorted by id.
        #[serde(deserialize_with = "super::arriving")]
        peers: Vec<PeerCard>,
        /// Whether there are more.
        more: bool,
    },
    /// To Stats.
    Stats(Stats),
    /// To Invite: the secret of the new ticket; the asker adds the addresses that it knows.
    Invited {
        /// Proves the invitation.
        secret: [u8; 16],
        /// End, by the index's clock.
        expires: Timestamp,
    },
    /// To Remove.
    Removed,
    /// To Leave.
    Left,
    /// To anything: not done, and why.
    Refused(Refusal),
    /// To Watch: from now on, matches are pushed.
    Watching,
    /// To Unwatch, also of a watch that is not there.
    Unwatched,
    /// To Locate.
    Located(Located),
    /// To Cards: in the order of the numbers; none for a number that no member has. Those at the end that do not fit
    /// into a frame are left out.
    Cards {
        /// The cards.
        #[serde(deserialize_with = "super::arriving")]
        cards: Vec<Option<PeerCard>>,
    },
    /// To Join.
    Joined(Joined),
    /// To Have.
    Noted,
    /// To Depart, also of a blob that was not joined.
    Departed,
    /// To Leaving.
    Needed {
        /// Pieces that are lost to swarms with plans if the peer goes now.
        pieces: u64,
    },
}

/// What an index says on its own, on an open session. A list of revocations may be lost: it also comes with an answer.
/// Matches that are lost are marked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IndexPush {
    /// A member was removed: stop serving it now. The list replaces the one that came before.
    Revoked {
        /// Index time.
        time: Timestamp,
        /// As in [`Welcome`].
        #[serde(deserialize_with = "super::arriving")]
        revoked: Vec<(PeerId, u64)>,
    },
    /// Entries that fit a watch were registered, or their share came back. Each name with one content comes once, by
    /// the first share that has it. A file that is still hashed comes without its blob, and again with it.
    Match {
        /// The watch.
        watch: u64,
        /// The entries. `names`, `contents`, `copies` and `online` of a match are 1: others are not counted.
        #[serde(deserialize_with = "super::arriving")]
        hits: Vec<Hit>,
        /// Further matches are lost: there were more than could be kept for this watch. A search finds them.
        missed: bool,
    },
    /// Others that hold all or parts of a blob that this peer has joined: new ones, and those that are complete now.
    Providers {
        /// The blob.
        blob: BlobId,
        /// The others.
        #[serde(deserialize_with = "super::arriving")]
        peers: Vec<SwarmPeer>,
    },
    /// Which pieces of a joined blob to ask of whom. Replaces the plan that came before.
    Plan {
        /// The blob.
        blob: BlobId,
        /// After so many milliseconds the peer acts alone again, unless another plan has come.
        lease_ms: u32,
        /// Each peer with its pieces, in the order in which to ask for them.
        sources: List<PlannedSource, { limits::SWARM_SOURCES }>,
    },
}

/// What a plan wants of one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedSource {
    /// The source. It may not hold all of these pieces yet: whoever asks lets it wait for them.
    pub from: PeerId,
    /// The pieces.
    pub pieces: List<PieceRange, { limits::PLAN_RANGES }>,
}

/// Why an index does not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Another protocol version is needed.
    Version {
        /// The one that the index speaks.
        speaks: u16,
    },
    /// This index serves another network.
    WrongNetwork,
    /// No session: Hello comes first.
    NoSession,
    /// Certificate with a wrong signature, for another key or network.
    BadCertificate,
    /// The member was removed.
    Revoked,
    /// No such ticket.
    TicketUnknown,
    /// The ticket has ended.
    TicketExpired,
    /// As many keys as allowed have used it.
    TicketUsedUp,
    /// The role does not allow it.
    NotAllowed,
    /// No share or transaction with this id is open here.
    NotOpen,
    /// The base of an amendment, or the digest after a commit, is not what the index has; Open again.
    StateMismatch,
    /// A page that breaks the rules, or out of sequence.
    BadPage(String),
    /// A query that does not parse.
    BadQuery(String),
    /// No peer, share or directory with this name.
    NotFound,
    /// Over a limit of this protocol.
    TooMuch(String),
    /// Come back later.
    Busy {
        /// Not before.
        retry_after_ms: u64,
    },
    /// The index cannot write or read its storage.
    Storage(String),
}

/// The session is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The network.
    pub network: NetworkId,
    /// The member's certificate, signed by the network; keep it.
    pub certificate: ByteString,
    /// Bytes of a signed [`crate::trust::Grant`] followed by nothing; see `index_certificate`.
    pub grant: ByteString,
    /// Bytes of the signed [`crate::trust::IndexCertificate`] under whose key grants are signed.
    pub index_certificate: ByteString,
    /// Index time now.
    pub time: Timestamp,
    /// Renew well within this many milliseconds.
    pub lease_ms: u64,
    /// Members that were removed and whose grants may still run, by key and certificate serial.
    #[serde(deserialize_with = "super::arriving")]
    pub revoked: Vec<(PeerId, u64)>,
    /// The address under which the index sees this peer.
    pub observed: String,
}

/// The lease is extended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// A new grant, once half of the old one's life is over.
    pub grant: Option<ByteString>,
    /// Index time now.
    pub time: Timestamp,
    /// As in [`Welcome`].
    #[serde(deserialize_with = "super::arriving")]
    pub revoked: Vec<(PeerId, u64)>,
}

/// A member as others see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerCard {
    /// Its key.
    pub id: PeerId,
    /// Its name.
    pub name: Label,
    /// Where it serves, best first; empty while away.
    #[serde(deserialize_with = "super::arriving")]
    pub addresses: Vec<String>,
    /// Whether its lease runs.
    pub online: bool,
    /// When the index last heard of it.
    pub seen: Timestamp,
    /// Files and bytes that the asker can see of it, in answers to Peers; elsewhere 0.
    pub files: u64,
    /// See `files`.
    pub bytes: u64,
}

/// One answer per key of a lookup, in the order of the keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Providers {
    /// Each peer once; `Place::peer` counts into this list.
    #[serde(deserialize_with = "super::arriving")]
    pub peers: Vec<PeerCard>,
    /// For each key its blobs: at most one for a blob key, any number for a name.
    #[serde(deserialize_with = "super::arriving_lists")]
    pub answers: Vec<Vec<BlobPlaces>>,
    /// Share of the index that took part, in thousandths.
    pub coverage_permille: u16,
}

/// Answer to a locate: flat, so that a blob with two peers takes a dozen bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Located {
    /// The peers of all blobs, one blob's behind the other's, those that are online first. A peer's number stays the
    /// same while the index's process runs.
    #[serde(deserialize_with = "super::located_peers")]
    pub peers: Vec<u32>,
    /// In the order of the request.
    #[serde(deserialize_with = "super::located_blobs")]
    pub blobs: Vec<LocatedBlob>,
    /// Share of the index that took part, in thousandths.
    pub coverage_permille: u16,
}

/// What is known of one blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocatedBlob {
    /// Bytes; 0 if nobody has it.
    pub size: u64,
    /// Places that the asker may see, counted up to [`limits::LOCATED_PLACES`].
    pub total: u32,
    /// End of its peers in [`Located::peers`]; they begin at the end of the blob before.
    pub end: u32,
}

impl Default for Located {
    fn default() -> Self {
        Self { peers: Vec::new(), blobs: Vec::new(), coverage_permille: 1_000 }
    }
}

impl Located {
    /// The peers of the blob at this position of the request; none if the answer is malformed there.
    pub fn peers_of(&self, position: usize) -> &[u32] {
        let end_of = |position: usize| self.blobs.get(position).map(|blob| blob.end as usize);
        let start = position.checked_sub(1).map_or(Some(0), end_of);
        start.zip(end_of(position)).and_then(|(start, end)| self.peers.get(start..end)).unwrap_or_default()
    }
}

/// Where one blob is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobPlaces {
    /// The blob; none for a file whose hash is not known yet.
    pub blob: Option<BlobId>,
    /// Bytes.
    pub size: u64,
    /// Places, best first, as many as asked for.
    #[serde(deserialize_with = "super::arriving")]
    pub places: Vec<Place>,
    /// Places in all that the asker may see.
    pub total: u32,
}

/// One file of one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Counts into [`Providers::peers`].
    pub peer: u32,
    /// Name of the share.
    pub share: Label,
    /// Path within it.
    pub path: SharePath,
    /// Time of last modification, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Whether its owner may execute it.
    pub executable: bool,
}

/// Kind of a hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HitKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

/// One result of a search: a name with one content, or one directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hit {
    /// File, directory or link.
    pub kind: HitKind,
    /// Base name as its owner spells it.
    pub name: ByteString,
    /// Content; none while it is hashed, and for directories and links.
    pub blob: Option<BlobId>,
    /// Bytes; of a directory those of all files in it and below, of a link 0.
    pub size: u64,
    /// Of a directory, the files in it and below; none for files and links, and where nobody counted: in a match.
    pub files: Option<u32>,
    /// Newest time of last modification, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// One place where it is: the peer, …
    pub peer: PeerId,
    /// … its name, …
    pub peer_name: Label,
    /// … the share's name, …
    pub share: Label,
    /// … and the path within the share.
    pub path: SharePath,
    /// Different names under which this content is registered, as far as the asker may see.
    pub names: u32,
    /// Different contents registered under this name, as far as the asker may see: same name, other content. Files
    /// without bytes or without a hash do not count; at least 1.
    pub contents: u32,
    /// Copies registered under this name, as far as the asker may see.
    pub copies: u32,
    /// Of these, copies whose peer is online.
    pub online: u32,
    /// Not a match of the query, but near to one.
    pub near: bool,
}

/// Answer to a search.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hits {
    /// The hits in order.
    #[serde(deserialize_with = "super::arriving")]
    pub hits: Vec<Hit>,
    /// Continues behind the last hit; none at the end.
    pub cursor: Option<ByteString>,
    /// Hits in all, as far as counted.
    pub total: u64,
    /// Whether `total` is exact.
    pub exact: bool,
    /// Share of the index that took part, in thousandths.
    pub coverage_permille: u16,
    /// Names that were compared with the query: the work done. 0 where some share is not for everyone: names of shares
    /// that the asker may not see are compared too.
    pub examined: u64,
    /// Microseconds in the index.
    pub index_us: u64,
}

/// Answer to a browse.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// A page of upserts with paths within the share. For the list of shares: one directory entry per share at the
    /// root.
    pub page: ByteString,
    /// Continues behind the last entry; none at the end.
    pub cursor: Option<ByteString>,
}

/// Totals of an index. What is shared is counted as far as the asker may see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Members known.
    pub peers: u64,
    /// Members online.
    pub peers_online: u64,
    /// Shares registered.
    pub shares: u64,
    /// Files registered, away ones included.
    pub files: u64,
    /// Their bytes, every copy counted.
    pub bytes: u64,
    /// Distinct blobs; none if the asker may not see some share.
    pub blobs: Option<u64>,
    /// Searches answered since the start.
    pub searches: u64,
    /// Lookup keys answered since the start.
    pub lookups: u64,
    /// Milliseconds since the start.
    pub uptime_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn peers_of_a_blob_are_between_two_ends() {
        let blob = |end| LocatedBlob { size: 1, total: 1, end };
        let located = Located { peers: vec![7, 8, 9], blobs: vec![blob(2), blob(2), blob(3)], ..Located::default() };
        let of = |position| located.peers_of(position);
        assert_eq!((of(0), of(1), of(2), of(3)), (&[7, 8][..], &[][..], &[9][..], &[][..]));
        // Ends that run backwards or out of the list name nobody.
        let broken = Located { blobs: vec![blob(3), blob(1), blob(9)], ..located.clone() };
        assert_eq!((broken.peers_of(1), broken.peers_of(2)), (&[][..], &[][..]));
    }

    #[test]
    fn a_located_blob_with_two_peers_takes_a_dozen_bytes() {
        let size = |count: usize| {
            let blobs = (1..=count).map(|n| LocatedBlob { size: 3_000_000, total: 2, end: 2 * n as u32 }).collect();
            let peers = (0..2 * count).map(|n| 1_000 + n as u32).collect();
            crate::wire::encode(&IndexAnswer::Located(Located { peers, blobs, ..Located::default() })).len()
        };
        assert!(size(1) <= 15, "{}", size(1));
        assert!(size(64) <= 64 * 11, "{}", size(64));
    }
}
