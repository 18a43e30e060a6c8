//! Texts side by side in chunks, each behind its length.
//!
//! A text that nobody needs any more stays until upkeep moves the others of its chunk away and gives the chunk back.

use std::collections::VecDeque;

/// Bytes of a chunk. 65,536 of them are the 4 GiB that an address reaches.
const CHUNK: usize = 1 << 16;
/// A first byte that says: two bytes of length follow. Shorter texts have their length in the first byte.
const LONG: u8 = u8::MAX;
/// Longer texts are refused; a name of a page has at most 1,024 bytes, and folding makes at most 18 times as many.
const MOST: usize = 20_000;

/// Bytes of most texts.
const USUAL: usize = 32;

/// Where a text stands: chunk in the upper half, place within it in the lower.
pub(in crate::store) type TextAt = u32;

#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// Bytes of texts that nobody needs.
    dead: u32,
}

/// All texts.
#[derive(Debug, Default)]
pub(in crate::store) struct Texts {
    chunks: Vec<Chunk>,
    /// The chunk that is being filled.
    open: Option<usize>,
    free: Vec<usize>,
    /// Chunks of which more than half is dead, the one that is being emptied first.
    worn: VecDeque<usize>,
}

fn place(at: TextAt) -> (usize, usize) {
    (at as usize / CHUNK, at as usize % CHUNK)
}

/// The text at a place of a chunk, and where the next one starts.
fn read(bytes: &[u8], at: usize) -> (&[u8], usize) {
    let (start, len) = match bytes.get(at..).unwrap_or_default() {
        [LONG, low, high, ..] => (at + 3, usize::from(u16::from_le_bytes([*low, *high]))),
        [len, ..] => (at + 1, usize::from(*len)),
        [] => (at, 0),
    };
    (bytes.get(start..start + len).unwrap_or_default(), start + len)
}

fn size(text: &[u8]) -> usize {
    text.len() + if text.len() < usize::from(LONG) { 1 } else { 3 }
}

impl Texts {
    /// Adds a text; none when the 4 GiB are used up.
    pub(in crate::store) fn add(&mut self, text: &[u8]) -> Option<TextAt> {
        if text.len() > MOST {
            return None;
        }
        let fits = |chunk: &Chunk| chunk.bytes.len() + size(text) <= CHUNK;
        let number = match self.open.filter(|open| fits(&self.chunks[*open])) {
            Some(open) => open,
            None => self.open_chunk()?,
        };
        let bytes = &mut self.chunks[number].bytes;
        let at = (number * CHUNK + bytes.len()) as u32;
        if text.len() < usize::from(LONG) {
            bytes.push(text.len() as u8);
        } else {
            bytes.push(LONG);
            bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
        }
        bytes.extend_from_slice(text);
        Some(at)
    }

    /// The text.
    pub(in crate::store) fn get(&self, at: TextAt) -> &[u8] {
        let (chunk, at) = place(at);
        read(&self.chunks[chunk].bytes, at).0
    }

    /// Reads where a text stands; the result says nothing. See [`super::ahead`].
    pub(in crate::store) fn touch(&self, at: TextAt) -> u8 {
        let (chunk, at) = place(at);
        let bytes = &self.chunks[chunk].bytes;
        // Most texts end in the same line of the cache or in the next one.
        bytes.get(at).copied().unwrap_or_default() ^ bytes.get(at + USUAL).copied().unwrap_or_default()
    }

    /// Nobody needs this text any more.
    pub(in crate::store) fn forget(&mut self, at: TextAt) {
        let bytes = size(self.get(at)) as u32;
        let (number, _) = place(at);
        let chunk = &mut self.chunks[number];
        let half = chunk.bytes.len() as u32 / 2;
        let before = chunk.dead;
        chunk.dead += bytes;
        if before <= half && chunk.dead > half && self.open != Some(number) {
            self.worn.push_back(number);
        }
    }

    /// A chunk that is worth emptying.
    pub(in crate::store) fn worn(&self) -> Option<usize> {
        self.worn.front().copied()
    }

    /// The text that starts at a place of a chunk, its address, and where the next one starts.
    pub(in crate::store) fn in_chunk(&self, chunk: usize, at: usize) -> Option<(TextAt, &[u8], usize)> {
        let bytes = &self.chunks.get(chunk)?.bytes;
        let (text, next) = (at < bytes.len()).then(|| read(bytes, at))?;
        Some(((chunk * CHUNK + at) as u32, text, next))
    }

    /// Gives the worn chunk back, out of which everything has been moved.
    pub(in crate::store) fn release_worn(&mut self) {
        if let Some(chunk) = self.worn.pop_front() {
            self.chunks[chunk] = Chunk::default();
            self.free.push(chunk);
        }
    }

    /// Bytes of all texts, dead ones included.
    pub(in crate::store) fn bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.bytes.capacity() + size_of::<Chunk>()).sum()
    }

    fn open_chunk(&mut self) -> Option<usize> {
        if let Some(full) = self.open.take() {
            let chunk = &self.chunks[full];
            if chunk.dead > chunk.bytes.len() as u32 / 2 {
                self.worn.push_back(full);
            }
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.chunks.len() > u32::MAX as usize / CHUNK => return None,
            None => {
                self.chunks.push(Chunk::default());
                self.chunks.len() - 1
            }
        };
        self.chunks[number].bytes.reserve_exact(CHUNK);
        self.open = Some(number);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn texts_come_back(lengths in proptest::collection::vec(prop_oneof![0usize..40, 250usize..260, Just(MOST)], 0..300)) {
            let mut texts = Texts::default();
            let text = |number: usize, len: usize| vec![number as u8; len];
            let at: Vec<TextAt> =
                lengths.iter().enumerate().map(|(number, len)| texts.add(&text(number, *len)).unwrap()).collect();
            for (number, (at, len)) in at.iter().zip(&lengths).enumerate() {
                prop_assert_eq!(texts.get(*at), text(number, *len));
            }
            let mut walked = Vec::new();
            for chunk in 0..texts.chunks.len() {
                let mut place = 0;
                while let Some((at, _, next)) = texts.in_chunk(chunk, place) {
                    walked.push(at);
                    place = next;
                }
            }
            prop_assert_eq!(walked, at);
        }
    }

    #[test]
    fn a_chunk_is_worn_when_half_of_it_is_dead_and_used_again_when_released() {
        let mut texts = Texts::default();
        let at: Vec<TextAt> = (0..2_000).map(|_| texts.add(&[7; 99]).unwrap()).collect();
        for (number, at) in at.iter().enumerate().take(655) {
            assert_eq!(texts.worn(), (number > 327).then_some(0));
            texts.forget(*at);
        }
        assert_eq!(texts.add(&vec![1; MOST + 1]), None);
        texts.release_worn();
        assert_eq!((texts.worn(), texts.in_chunk(0, 0)), (None, None));
        let chunks = texts.chunks.len();
        (0..1_000).for_each(|_| assert!(texts.add(&[8; 99]).is_some()));
        assert!(texts.chunks.len() <= chunks + 1);
    }
}
