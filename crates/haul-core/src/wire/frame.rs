//! The frame: what every connection carries, whatever the protocol.
//!
//! ```text
//! u32 length of all that follows ‖ u8 kind ‖ u32 id ‖ body            (little endian)
//!
//! kind        id                          body
//! 0 request   chosen by its sender        a message
//! 1 answer    the request's               a message; the last frame of this id
//! 2 data      the request's               u64 index ‖ bytes: one leaf or one small blob
//! 3 end       the request's               a message; the last frame of this id
//! 4 credit    the sender's own request    u32 bytes that it can take further on this stream
//! 5 cancel    the sender's own request    nothing: send no more data, answer with end
//! 6 push      0                           a message that answers nothing
//! 7 goodbye   0                           UTF-8 reason; the connection closes
//! ```
//!
//! Each side numbers its own requests, so ids of both sides never meet. A request is answered either by one answer or
//! by data frames and an end. Data frames stay within the credit that the requester gave; the initial credit is
//! [`crate::limits::STREAM_WINDOW_BYTES`]; a data frame costs the bytes behind its index plus
//! [`crate::limits::DATA_FRAME_COST`]. An answer or an end without a body says that the request was dropped unanswered.

use core::fmt;

use crate::limits::FRAME_HEADER_BYTES;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// A message that wants an answer.
    Request,
    /// The answer.
    Answer,
    /// Bulk bytes of an answer.
    Data,
    /// The end of a bulk answer.
    End,
    /// More room for bulk bytes.
    Credit,
    /// No more bulk bytes wanted.
    Cancel,
    /// A message that wants no answer.
    Push,
    /// The reason for closing.
    Goodbye,
}

const KINDS: [FrameKind; 8] = [
    FrameKind::Request,
    FrameKind::Answer,
    FrameKind::Data,
    FrameKind::End,
    FrameKind::Credit,
    FrameKind::Cancel,
    FrameKind::Push,
    FrameKind::Goodbye,
];

/// What stands before the body of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of the body.
    pub body_bytes: usize,
    /// What it carries.
    pub kind: FrameKind,
    /// Which request it belongs to.
    pub id: u32,
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Shorter than a frame can be.
    TooShort,
    /// Longer than allowed now.
    TooLong {
        /// The length it claims.
        claimed: usize,
        /// The limit in force.
        limit: usize,
    },
    /// A kind that this version does not know.
    Kind(u8),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort => f.write_str("a frame is shorter than its header"),
            Self::TooLong { claimed, limit } => write!(f, "a frame of {claimed} bytes is over the limit of {limit}"),
            Self::Kind(kind) => write!(f, "a frame has the unknown kind {kind}"),
        }
    }
}

impl core::error::Error for FrameError {}

/// Bytes of an encoded header, length included.
pub const HEADER_BYTES: usize = 4 + FRAME_HEADER_BYTES;

impl FrameHeader {
    /// The bytes before the body.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let length = u32::try_from(self.body_bytes + FRAME_HEADER_BYTES).unwrap_or(u32::MAX).to_le_bytes();
        let id = self.id.to_le_bytes();
        let kind = KINDS.iter().position(|kind| *kind == self.kind).unwrap_or_default() as u8;
        [length[0], length[1], length[2], length[3], kind, id[0], id[1], id[2], id[3]]
    }

    /// Reads a header; `limit` is the largest length allowed now, checked before anything is allocated.
    pub fn decode(bytes: &[u8; HEADER_BYTES], limit: usize) -> Result<Self, FrameError> {
        let [l0, l1, l2, l3, kind, i0, i1, i2, i3] = *bytes;
        let claimed = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if claimed > limit {
            return Err(FrameError::TooLong { claimed, limit });
        }
        let body_bytes = claimed.checked_sub(FRAME_HEADER_BYTES).ok_or(FrameError::TooShort)?;
        let kind = *KINDS.get(usize::from(kind)).ok_or(FrameError::Kind(kind))?;
        Ok(Self { body_bytes, kind, id: u32::from_le_bytes([i0, i1, i2, i3]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_header_and_limits() {
        let header = FrameHeader { body_bytes: 3, kind: FrameKind::Data, id: 0x0102_0304 };
        assert_eq!(header.encode(), [8, 0, 0, 0, 2, 4, 3, 2, 1]);
        assert_eq!(FrameHeader::decode(&header.encode(), 8), Ok(header));
        assert_eq!(FrameHeader::decode(&header.encode(), 7), Err(FrameError::TooLong { claimed: 8, limit: 7 }));
        assert_eq!(FrameHeader::decode(&[4, 0, 0, 0, 0, 0, 0, 0, 0], 100), Err(FrameError::TooShort));
        assert_eq!(FrameHeader::decode(&[5, 0, 0, 0, 8, 0, 0, 0, 0], 100), Err(FrameError::Kind(8)));
        for kind in KINDS {
            let header = FrameHeader { body_bytes: 0, kind, id: 7 };
            assert_eq!(FrameHeader::decode(&header.encode(), 5), Ok(header));
        }
    }
}
