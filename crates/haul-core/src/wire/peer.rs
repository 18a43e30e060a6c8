//! Messages between two peers. The dialer asks, the other side serves. Enums are append-only from the first release on.

use alloc::string::String;

use serde::{Deserialize, Serialize};

use super::index::Listing;
use super::{ByteString, Label, List};
use crate::ids::BlobId;
use crate::limits;
use crate::path::SharePath;

/// Index of a data frame that is no leaf and no blob: its bytes are a [`PeerAnswer::Queued`], the place in the queue for
/// an upload slot, told again every [`limits::SLOT_NEWS`] until the first leaf. No blob has so many leaves.
pub const QUEUE_NEWS: u64 = u64::MAX;

/// A run of leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeafRange {
    /// The first leaf.
    pub first: u64,
    /// How many; at least one.
    pub count: u64,
}

/// What a peer asks of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerRequest {
    /// The right to be served; first on every connection, and again before it ends.
    Grant {
        /// Bytes of a signed [`crate::trust::Grant`].
        grant: ByteString,
        /// Bytes of the signed [`crate::trust::IndexCertificate`] of the index that signed it.
        index_certificate: ByteString,
    },
    /// A sheet of a blob's outline.
    Outline {
        /// The blob.
        blob: BlobId,
        /// Which sheet; none asks for the root sheet.
        sheet: Option<u64>,
    },
    /// Leaves. Answered by data frames (index = leaf number) and an end.
    Pieces {
        /// The blob.
        blob: BlobId,
        /// Which leaves, in the order wanted.
        ranges: List<LeafRange, { limits::PIECE_RANGES }>,
        /// The other side is downloading the blob too: each leaf follows as soon as it is verified there, whichever
        /// comes first. Without, or after [`limits::LEAF_WAIT`] without one, what is missing is left out.
        wait: bool,
    },
    /// Whole blobs of at most [`limits::SMALL_LEAVES`] leaves. Answered by data frames, one for each leaf (index =
    /// position in this list × [`limits::SMALL_LEAVES`] + leaf), and an end. The leaves of a blob follow each other;
    /// blobs that the other side cannot give are left out.
    Blobs {
        /// The blobs.
        blobs: List<BlobId, { limits::SMALL_BLOBS }>,
    },
    /// Which leaves of a blob the other side has.
    Bitfield {
        /// The blob.
        blob: BlobId,
        /// Leaves that the asker knows it to have: the answer waits until there are more, up to
        /// [`limits::BITFIELD_WAIT`]. None is answered at once.
        beyond: Option<u64>,
    },
    /// Lists a directory of a share as it is on disk now.
    List {
        /// Name of the share.
        share: Label,
        /// Path within it.
        path: SharePath,
        /// All below it instead of its children.
        recursive: bool,
        /// Continues an earlier answer.
        cursor: Option<ByteString>,
    },
}

/// What the serving peer answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerAnswer {
    /// To Grant: requests are served from now on.
    Granted,
    /// To Outline: 32 bytes per value.
    Outline {
        /// Bytes of the blob.
        size: u64,
        /// The values.
        values: ByteString,
    },
    /// Ends Pieces and Blobs: all that could be given was sent.
    Served,
    /// To Bitfield.
    Bitfield {
        /// Bytes of the blob.
        size: u64,
        /// Bytes of a [`crate::blob::LeafSet`]; none means all leaves.
        leaves: Option<ByteString>,
    },
    /// To List.
    Listing(Listing),
    /// In a frame of index [`QUEUE_NEWS`]: no upload slot is free, the request waits. As the end of a request: the queue
    /// is full, or what was asked for is still being computed; ask again later.
    Queued {
        /// Place in the queue; 1 is the next, 0 is none.
        place: u32,
        /// Why, in words.
        reason: String,
    },
    /// The file is no longer what was registered. Nobody is to blame.
    Changed,
    /// Not here, or not for you: both look alike.
    NotHeld,
    /// No valid grant.
    NotGranted {
        /// Why, in words.
        reason: String,
    },
    /// A request that breaks the rules.
    Bad {
        /// Why, in words.
        reason: String,
    },
}
