//! Cuts received bytes into frames, without copying bodies. Pure: bytes in, frames out.

use bytes::{Buf, Bytes, BytesMut};
use haul_core::wire::frame::{FrameError, FrameHeader, HEADER_BYTES};

/// Room for small frames: one TLS record.
const SMALL_CHUNK: usize = 16 * 1024;
/// Room that a frame gets on its word alone; beyond it, room doubles with what has arrived. A leaf with its header and
/// the next frame's header fit.
const TRUSTED_CHUNK: usize = 64 * 1024 + 4 * HEADER_BYTES;

/// Received bytes that are not yet a whole frame.
#[derive(Debug, Default)]
pub(super) struct FrameBuffer {
    bytes: BytesMut,
}

impl FrameBuffer {
    /// The next whole frame; none if more bytes are needed. `limit` as for [`FrameHeader::decode`].
    pub(super) fn next(&mut self, limit: usize) -> Result<Option<(FrameHeader, Bytes)>, FrameError> {
        let Some(header) = self.header(limit)? else { return Ok(None) };
        if self.bytes.len() - HEADER_BYTES < header.body_bytes {
            return Ok(None);
        }
        self.bytes.advance(HEADER_BYTES);
        Ok(Some((header, self.bytes.split_to(header.body_bytes).freeze())))
    }

    /// Where to read to: never without room. A large frame gets room for itself and the next header, so its bytes
    /// are read in place and the next large frame starts with almost nothing to copy.
    pub(super) fn room(&mut self, limit: usize) -> &mut BytesMut {
        let arrived = self.bytes.len();
        let wanted = match self.header(limit) {
            Ok(Some(header)) if header.body_bytes > SMALL_CHUNK / 2 => {
                (header.body_bytes + 2 * HEADER_BYTES).min(TRUSTED_CHUNK.max(2 * arrived))
            }
            _ => SMALL_CHUNK,
        };
        if self.bytes.capacity() <= arrived || self.bytes.capacity() < wanted.min(arrived + SMALL_CHUNK / 4) {
            self.bytes.reserve(wanted.saturating_sub(arrived).max(1));
        }
        &mut self.bytes
    }

    /// Gives memory back while nothing is waiting.
    pub(super) fn rest(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
        }
    }

    fn header(&self, limit: usize) -> Result<Option<FrameHeader>, FrameError> {
        self.bytes.first_chunk().map(|header| FrameHeader::decode(header, limit)).transpose()
    }
}
