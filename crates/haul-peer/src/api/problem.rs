//! A failure on its way to the one who asked: code, words, causes and the next thing to do.

use haul_core::wire::index::Refusal;

use super::codes::ErrorCode;
use super::records::{Cause, ErrorRecord, Record};
use crate::link::{LinkError, refusal_words};
use crate::share::{AddError, ShareError};

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Stable code.
    pub code: ErrorCode,
    /// What failed.
    pub message: String,
    /// Each cause.
    pub causes: Vec<Cause>,
    /// What to do next.
    pub next: Option<String>,
}

impl Problem {
    /// A failure without causes and without advice.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), causes: Vec::new(), next: None }
    }

    /// With advice.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// With causes.
    #[must_use]
    pub fn causes(mut self, causes: Vec<Cause>) -> Self {
        self.causes = causes;
        self
    }

    /// The last line of the answer.
    pub fn into_record(self) -> Record {
        Record::Error(ErrorRecord {
            exit: self.code.exit(),
            code: self.code,
            message: self.message,
            causes: self.causes,
            next: self.next,
        })
    }
}

impl From<LinkError> for Problem {
    fn from(error: LinkError) -> Self {
        let words = error.to_string();
        match error {
            LinkError::NotJoined => Self::new(ErrorCode::NotJoined, words)
                .next("join one: haul join TICKET        or start your own: haul up"),
            LinkError::Unreachable { .. } => {
                Self::new(ErrorCode::IndexUnreachable, words).next("this peer keeps trying; see how it is: haul status")
            }
            LinkError::Untrusted(_) => Self::new(ErrorCode::IndexUntrusted, words)
                .next("if the network moved, join with a new ticket: haul join TICKET"),
            LinkError::Shut(refusal) => {
                let code = match refusal {
                    Refusal::TicketUnknown | Refusal::TicketExpired | Refusal::TicketUsedUp => ErrorCode::TicketRefused,
                    _ => ErrorCode::IndexRefused,
                };
                Self::new(code, words).next("ask an admin for a new ticket (haul invite), then: haul join TICKET")
            }
            LinkError::Refused(refusal) => of_refusal(&refusal),
            LinkError::Unexpected => Self::new(ErrorCode::Internal, words).next("see both versions: haul status"),
            LinkError::OtherNetwork(_) => {
                Self::new(ErrorCode::Usage, words).next("leave it first: haul leave        or use another HAUL_HOME")
            }
            LinkError::Storage(_) => Self::new(ErrorCode::Disk, words).next("free some space, then: haul join TICKET"),
            LinkError::Stopping => Self::new(ErrorCode::Stopping, words).next("start it again: haul up"),
        }
    }
}

fn of_refusal(refusal: &Refusal) -> Problem {
    let words = format!("the index refuses: {}", refusal_words(refusal));
    match refusal {
        Refusal::BadQuery(why) => {
            Problem::new(ErrorCode::BadQuery, why.clone()).next("see the filters: haul explain bad-query")
        }
        Refusal::NotAllowed => Problem::new(ErrorCode::NotAllowed, words).next("see your role: haul network"),
        Refusal::NotFound => Problem::new(ErrorCode::NoSuch, words).next("see who is there: haul peers"),
        Refusal::Busy { .. } => Problem::new(ErrorCode::IndexBusy, words),
        Refusal::Storage(_) => Problem::new(ErrorCode::IndexStorage, words),
        Refusal::TooMuch(_) => Problem::new(ErrorCode::Usage, words),
        _ => Problem::new(ErrorCode::IndexRefused, words).next("see how it is: haul status"),
    }
}

impl From<AddError> for Problem {
    fn from(error: AddError) -> Self {
        let words = error.to_string();
        match error {
            AddError::NeedsConfirmation { .. } => {
                Self::new(ErrorCode::BadShare, words).next("share it all the same: haul share add --force PATH")
            }
            AddError::NameTaken { .. } => {
                Self::new(ErrorCode::BadShare, words).next("haul share add PATH --name OTHER")
            }
            AddError::Storage(_) => Self::new(ErrorCode::Disk, words),
            _ => Self::new(ErrorCode::BadShare, words).next("see what is shared: haul share ls"),
        }
    }
}

impl From<ShareError> for Problem {
    fn from(error: ShareError) -> Self {
        let words = error.to_string();
        match error {
            ShareError::Unknown(_) => Self::new(ErrorCode::NoSuch, words).next("haul share ls"),
            ShareError::Storage(_) => Self::new(ErrorCode::Disk, words),
        }
    }
}
