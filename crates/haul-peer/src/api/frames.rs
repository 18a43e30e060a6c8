//! The answer to `POST /v1/cat`: bytes of a file and records in one body, so that a failure in the middle is said in
//! words and never mistaken for the end of the file.
//!
//! ```text
//! u8 kind ('D' bytes of the file, 'R' a JSON line) ‖ u32 length, little endian ‖ that many bytes
//! ```
//!
//! The last frame is always a record: `done` or `error`. A body that ends otherwise is broken.

/// Content type of such a body.
pub const CONTENT_TYPE: &str = "application/vnd.haul.frames";
/// Longest payload of a frame that this side writes.
pub const FRAME_PAYLOAD_BYTES: usize = 1024 * 1024;

/// A whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyFrame {
    /// Bytes of the file, in order.
    Data(Vec<u8>),
    /// A JSON line.
    Record(String),
}

/// A body that breaks the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer of the daemon is not what this version of haul expects")]
pub struct BrokenBody;

/// The header of a frame with `length` bytes behind it.
pub fn header(kind: u8, length: usize) -> [u8; 5] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    [kind, a, b, c, d]
}

/// Takes frames out of bytes that arrive in any portions.
#[derive(Debug, Default)]
pub struct FrameReader {
    pending: Vec<u8>,
}

impl FrameReader {
    /// Adds bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one.
    pub fn next_frame(&mut self) -> Result<Option<BodyFrame>, BrokenBody> {
        let Some(([kind, length @ ..], rest)) = self.pending.split_first_chunk::<5>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > FRAME_PAYLOAD_BYTES {
            return Err(BrokenBody);
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let frame = match kind {
            b'D' => BodyFrame::Data(payload.to_vec()),
            b'R' => BodyFrame::Record(String::from_utf8(payload.to_vec()).map_err(|_| BrokenBody)?),
            _ => return Err(BrokenBody),
        };
        self.pending.drain(..5 + length);
        Ok(Some(frame))
    }

    /// Whether bytes of an unfinished frame are left.
    pub fn is_mid_frame(&self) -> bool {
        !self.pending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_portions() {
        let mut body = header(b'D', 3).to_vec();
        body.extend_from_slice(b"abc");
        body.extend_from_slice(&header(b'R', 2));
        body.extend_from_slice(b"{}");
        for portion in 1..body.len() {
            let mut reader = FrameReader::default();
            let mut frames = Vec::new();
            for bytes in body.chunks(portion) {
                reader.push(bytes);
                while let Ok(Some(frame)) = reader.next_frame() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames, [BodyFrame::Data(b"abc".to_vec()), BodyFrame::Record("{}".into())]);
            assert!(!reader.is_mid_frame());
        }
        let mut reader = FrameReader::default();
        reader.push(&[b'X', 0, 0, 0, 0]);
        assert_eq!(reader.next_frame(), Err(BrokenBody));
    }
}
