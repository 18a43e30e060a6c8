//! Why something about shares does not work, in words for their owner.

use std::path::PathBuf;

use haul_core::wire::Label;

/// Why a root is risky to share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Risk {
    /// It is `/`.
    Everything,
    /// It is a home folder, or holds one.
    Home,
    /// It lies in haul's own state, or holds nothing else.
    Private,
}

/// Why a share was not added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// Ask the owner, then add again with `sure`.
    #[error("{} {}; confirm it to share it all the same", path.display(), match risk {
        Risk::Everything => "is the whole machine",
        Risk::Home => "is a home folder with everything in it",
        Risk::Private => "holds haul's own keys and state",
    })]
    NeedsConfirmation {
        /// The folder.
        path: PathBuf,
        /// What is risky.
        risk: Risk,
    },
    /// Another folder has the name already.
    #[error("the name {name} already stands for {}; give this share another name", path.display())]
    NameTaken {
        /// The name.
        name: Label,
        /// What it stands for.
        path: PathBuf,
    },
    /// Neither a folder nor a regular file.
    #[error("{} is neither a folder nor a regular file", .0.display())]
    NotShareable(PathBuf),
    /// A pattern that does not parse.
    #[error("cannot read the exclude pattern: {0}")]
    BadPattern(String),
    /// [`haul_core::limits::SHARES_PER_PEER`] are there.
    #[error("this peer has {} shares already; remove one first", haul_core::limits::SHARES_PER_PEER)]
    TooMany,
    /// The path cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Unreadable {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The list of shares cannot be written.
    #[error("cannot keep the list of shares: {0}")]
    Storage(String),
}

/// There is no share of this name, or its record cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// No such share.
    #[error("there is no share named {0}; see `haul share ls`")]
    Unknown(Label),
    /// The list of shares cannot be written.
    #[error("cannot keep the list of shares: {0}")]
    Storage(String),
}

/// Why the shares cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state's database cannot be opened.
    #[error("cannot open {}: {reason}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Why a file cannot be opened for serving.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not there any more, or cannot be reached below its root.
    #[error("the file is gone")]
    Gone,
    /// It is not the file that was hashed.
    #[error("the file has changed since it was hashed")]
    Changed,
    /// Reading failed.
    #[error("cannot read the file: {0}")]
    Io(std::io::Error),
}

/// Why there is no listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// No such share or directory, or the share is away.
    #[error("no such directory here")]
    NotFound,
    /// A cursor that this peer did not make.
    #[error("not a cursor of this listing")]
    BadCursor,
}
