//! Cuts received bytes into frames, without copying bodies. Pure: bytes in, frames out.

use std::cell::Cell;

use bytes::{Buf, Bytes, BytesMut};
use haul_core::wire::frame::{FrameError, FrameHeader, HEADER_BYTES};

/// Room for small frames: one TLS record.
const SMALL_CHUNK: usize = 16 * 1024;
/// Room that a frame gets on its word alone; beyond it, room doubles with what has arrived. A leaf with its header and
/// the next frame's header fit.
const TRUSTED_CHUNK: usize = 64 * 1024 + 4 * HEADER_BYTES;

thread_local! {
    /// A chunk that the next connection on this thread reads into, so that a read allocates nothing.
    static SPARE: Cell<BytesMut> = Cell::default();
}

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

    /// The next whole frame, where it is; none as for [`FrameBuffer::next`].
    pub(super) fn peek(&self, limit: usize) -> Result<Option<(FrameHeader, &[u8])>, FrameError> {
        let Some(header) = self.header(limit)? else { return Ok(None) };
        let body = self.bytes.get(HEADER_BYTES..HEADER_BYTES + header.body_bytes);
        Ok(body.map(|body| (header, body)))
    }

    /// Drops the next frame, of which [`FrameBuffer::peek`] told the header.
    pub(super) fn skip(&mut self, header: FrameHeader) {
        self.bytes.advance(HEADER_BYTES + header.body_bytes);
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
        if self.bytes.capacity() == 0 && wanted == SMALL_CHUNK {
            self.bytes = SPARE.take();
        }
        if self.bytes.capacity() <= arrived || self.bytes.capacity() < wanted.min(arrived + SMALL_CHUNK / 4) {
            self.bytes.reserve(wanted.saturating_sub(arrived).max(1));
        }
        &mut self.bytes
    }

    /// Gives memory back while nothing is waiting.
    pub(super) fn rest(&mut self) {
        if self.bytes.is_empty() {
            let mut spare = std::mem::take(&mut self.bytes);
            // Takes back what was read and skipped, unless parts of it live on in other hands.
            if spare.try_reclaim(SMALL_CHUNK) && spare.capacity() == SMALL_CHUNK {
                SPARE.set(spare);
            }
        }
    }

    fn header(&self, limit: usize) -> Result<Option<FrameHeader>, FrameError> {
        self.bytes.first_chunk().map(|header| FrameHeader::decode(header, limit)).transpose()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use haul_core::limits::FRAME_BYTES;
    use haul_core::wire::frame::FrameKind;
    use proptest::prelude::*;

    use super::*;

    fn encoded(frames: &[(u32, usize)]) -> Vec<u8> {
        frames
            .iter()
            .flat_map(|(id, length)| {
                let header = FrameHeader { body_bytes: *length, kind: FrameKind::Push, id: *id };
                [&header.encode()[..], &vec![*id as u8; *length]].concat()
            })
            .collect()
    }

    /// Feeds bytes as a transport would, `step` at most at once, and collects the frames.
    fn cut(mut bytes: &[u8], step: usize) -> Vec<(u32, usize)> {
        let mut buffer = FrameBuffer::default();
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let room = buffer.room(FRAME_BYTES);
            let taken = step.min(room.capacity() - room.len()).min(bytes.len());
            assert!(taken > 0, "there is always room");
            room.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            while let Some((header, body)) = buffer.next(FRAME_BYTES).unwrap() {
                assert!(body.iter().all(|byte| *byte == header.id as u8));
                frames.push((header.id, body.len()));
            }
            buffer.rest();
        }
        frames
    }

    proptest! {
        #[test]
        fn frames_are_the_same_however_the_bytes_arrive(
            frames in proptest::collection::vec((any::<u32>(), prop_oneof![0..40usize, 4_000..9_000usize, 65_000..70_000usize]), 1..12),
            step in prop_oneof![1..30usize, 1_000..100_000usize],
        ) {
            prop_assert_eq!(cut(&encoded(&frames), step), frames);
        }
    }

    #[test]
    fn a_large_frame_is_believed_only_as_far_as_it_arrives() {
        let mut buffer = FrameBuffer::default();
        let bytes = encoded(&[(1, FRAME_BYTES - 5)]);
        let mut arrived = 0;
        while arrived < bytes.len() {
            let room = buffer.room(FRAME_BYTES);
            assert!(
                room.capacity() <= TRUSTED_CHUNK.max(2 * arrived + SMALL_CHUNK),
                "{} at {arrived}",
                room.capacity()
            );
            let taken = 5_000.min(room.capacity() - room.len()).min(bytes.len() - arrived);
            room.extend_from_slice(&bytes[arrived..arrived + taken]);
            arrived += taken;
        }
        assert_eq!(buffer.next(FRAME_BYTES).unwrap().unwrap().1.len(), FRAME_BYTES - 5);
    }

    #[test]
    fn an_idle_buffer_holds_nothing() {
        let mut buffer = FrameBuffer::default();
        buffer.room(FRAME_BYTES).extend_from_slice(&encoded(&[(1, 10)]));
        buffer.next(FRAME_BYTES).unwrap().unwrap();
        buffer.rest();
        assert_eq!(buffer.bytes.capacity(), 0);
    }
}
