//! What a download and its driver tell each other.

use alloc::vec::Vec;
use core::ops::Range;

use super::provider::Setback;
use crate::blob::LeafSet;
use crate::ids::PeerId;
use crate::wire::peer::LeafRange;

/// One request of this machine; numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Which leaves a provider says it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Have {
    /// All.
    All,
    /// These.
    Leaves(LeafSet),
}

impl Have {
    pub(super) fn contains(&self, leaf: u64) -> bool {
        match self {
            Self::All => true,
            Self::Leaves(leaves) => leaves.contains(leaf),
        }
    }

    /// Whether something of a run of leaves is held, which begins at a multiple of 64.
    pub(super) fn contains_some(&self, run: Range<u64>) -> bool {
        match self {
            Self::All => true,
            // Sheets are multiples of 64 leaves, but for the last one, behind which there is nothing.
            Self::Leaves(leaves) => leaves.count() > 0 && run.step_by(64).any(|first| leaves.bits(first) != 0),
        }
    }
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask for a sheet of the outline; none is the root sheet.
    RequestSheet {
        /// Report under this number.
        request: RequestId,
        /// Whom to ask.
        provider: PeerId,
        /// Which sheet.
        sheet: Option<u64>,
    },
    /// Ask for leaves.
    RequestLeaves {
        /// Report under this number.
        request: RequestId,
        /// Whom to ask.
        provider: PeerId,
        /// Which leaves, in the order wanted.
        ranges: Vec<LeafRange>,
        /// The provider is still getting them: they follow as it does.
        wait: bool,
    },
    /// Read these leaves from the part file, verify them, report by [`super::Download::handle_local`].
    CheckLocal {
        /// Which leaves.
        ranges: Vec<LeafRange>,
    },
    /// Stop this request; nothing of it is wanted any more.
    Cancel {
        /// The request.
        request: RequestId,
    },
    /// Forget all sheets: they came from a prover that did not finish its proof.
    ForgetSheets,
    /// Never ask this provider for this blob again: what it sent does not belong to the blob.
    Ban {
        /// The liar.
        provider: PeerId,
        /// What was wrong.
        offence: Offence,
    },
    /// It should hold what was asked of it and did not give it: worth telling those who plan.
    Blame {
        /// Who.
        provider: PeerId,
    },
    /// A provider fell short. Nothing to do: the machine has drawn its consequence.
    Setback {
        /// Who.
        provider: PeerId,
        /// In what.
        setback: Setback,
    },
    /// Every leaf is verified.
    Finished,
    /// Nothing can be asked of anybody now. Said once each time the reason changes.
    Starved(Starvation),
}

/// What a banned provider did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offence {
    /// A sheet that does not lead to the id.
    Sheet,
    /// This leaf did not verify.
    Leaf(u64),
}

/// Why nothing can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Starvation {
    /// No provider is known, or all are gone.
    NoProvider,
    /// Every known provider lied.
    AllBanned,
    /// Providers are there, but none holds the leaves that are missing.
    LeavesMissing,
    /// All that could help have failed lately and are tried again later.
    Waiting,
}

/// What to do with a leaf that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Verify it and report by [`super::Download::handle_verified`].
    Verify,
    /// Drop it: it is there already, or nobody asked for it.
    Discard,
}

/// What verification said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// These bytes are the leaf.
    Good,
    /// They are not.
    Bad,
    /// The sheets that it came under were forgotten meanwhile.
    Unknown,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestEnd {
    /// The other side says that it sent everything.
    Served,
    /// It does not hold the blob.
    NotHeld,
    /// Its file is no longer this blob.
    Changed,
    /// It has another opinion about the blob's size, so nothing of it can be used here.
    OtherSize,
    /// It has no upload slot free.
    Busy,
    /// The connection or the request broke.
    Failed,
    /// One of several connections broke, and the provider can still be asked over another: it has not failed.
    Interrupted,
}
