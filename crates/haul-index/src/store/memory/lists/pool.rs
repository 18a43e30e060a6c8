//! Blocks of two to about two thousand numbers, in classes of size; a freed block waits for the next of its class.

use crate::store::memory::NONE;

/// Words of a block in each class, the header included. Steps of at most a quarter: on average a tenth stays unused.
const CLASSES: [u16; 38] = [
    3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384,
    448, 512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048,
];
/// Numbers that a block holds at most.
pub(super) const MOST: usize = 2_047;
/// Words of a chunk; a block never crosses its end.
const CHUNK: usize = 1 << 16;

/// Chunks that are filled on purpose: 2^30 words are 16,384 chunks, and a few are kept for what must not fail.
const MOST_CHUNKS: usize = (1 << 30) / CHUNK - 64;

/// A block is named by the number of its first word, below 2^30 (4 GiB). Its first word is its class and its length,
/// then its numbers follow; in a free block the second word names the next free one.
#[derive(Debug)]
pub(super) struct Pool {
    chunks: Vec<Vec<u32>>,
    free: [u32; CLASSES.len()],
}

impl Default for Pool {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: [NONE; CLASSES.len()] }
    }
}

/// The smallest class for so many numbers.
fn class_for(numbers: usize) -> usize {
    CLASSES.partition_point(|words| usize::from(*words) <= numbers)
}

fn split(header: u32) -> (usize, usize) {
    ((header >> 16) as usize, (header & 0xffff) as usize)
}

fn header(class: usize, len: usize) -> u32 {
    (class as u32) << 16 | len as u32
}

impl Pool {
    /// Whether blocks may still be made.
    pub(super) fn has_room(&self) -> bool {
        self.chunks.len() < MOST_CHUNKS
    }

    /// The numbers of a block.
    pub(super) fn numbers(&self, block: u32) -> &[u32] {
        let words = &self.chunks[block as usize / CHUNK][block as usize % CHUNK..];
        let (_, len) = split(words[0]);
        &words[1..=len]
    }

    /// A new block.
    pub(super) fn make(&mut self, numbers: &[u32]) -> u32 {
        let class = class_for(numbers.len());
        let block = self.take(class);
        let words = self.words(block);
        words[0] = header(class, numbers.len());
        words[1..=numbers.len()].copy_from_slice(numbers);
        block
    }

    /// Inserts a number; returns the block, which may have moved.
    pub(super) fn insert(&mut self, block: u32, at: usize, number: u32) -> u32 {
        let (class, len) = split(self.words(block)[0]);
        let (class, block) = if len + 1 < usize::from(CLASSES[class]) {
            (class, block)
        } else {
            (class + 1, self.resize(block, class + 1))
        };
        let words = self.words(block);
        words.copy_within(1 + at..=len, 2 + at);
        words[1 + at] = number;
        words[0] = header(class, len + 1);
        block
    }

    /// Takes a number out; returns it and the block, which may have moved. At least one number must stay.
    pub(super) fn remove(&mut self, block: u32, at: usize) -> (u32, u32) {
        let words = self.words(block);
        let (class, len) = split(words[0]);
        let removed = words[1 + at];
        words.copy_within(2 + at..=len, 1 + at);
        words[0] = header(class, len - 1);
        // Three classes are about a half: a list that swings by one does not move every time.
        let smaller = class_for(len - 1);
        (removed, if smaller + 3 <= class { self.resize(block, smaller) } else { block })
    }

    pub(super) fn set(&mut self, block: u32, at: usize, number: u32) {
        self.words(block)[1 + at] = number;
    }

    pub(super) fn free(&mut self, block: u32) {
        let (class, _) = split(self.words(block)[0]);
        let next = std::mem::replace(&mut self.free[class], block);
        self.words(block)[1] = next;
    }

    pub(super) fn bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len() * size_of::<u32>()).sum()
    }

    fn words(&mut self, block: u32) -> &mut [u32] {
        &mut self.chunks[block as usize / CHUNK][block as usize % CHUNK..]
    }

    fn resize(&mut self, block: u32, class: usize) -> u32 {
        let to = self.take(class);
        let len = self.numbers(block).len();
        let (from_chunk, from) = (block as usize / CHUNK, block as usize % CHUNK);
        let (to_chunk, start) = (to as usize / CHUNK, to as usize % CHUNK);
        if from_chunk == to_chunk {
            self.chunks[to_chunk].copy_within(from + 1..=from + len, start + 1);
        } else if let Ok([source, target]) = self.chunks.get_disjoint_mut([from_chunk, to_chunk]) {
            target[start + 1..=start + len].copy_from_slice(&source[from + 1..=from + len]);
        }
        self.chunks[to_chunk][start] = header(class, len);
        self.free(block);
        to
    }

    /// A block of a class, its words undefined.
    fn take(&mut self, class: usize) -> u32 {
        let free = self.free[class];
        if free != NONE {
            self.free[class] = self.words(free)[1];
            return free;
        }
        let words = usize::from(CLASSES[class]);
        if self.chunks.last().is_none_or(|chunk| chunk.len() + words > CHUNK) {
            self.use_up_last();
            self.chunks.push(if self.chunks.is_empty() { Vec::new() } else { Vec::with_capacity(CHUNK) });
        }
        self.carve(words)
    }

    fn carve(&mut self, words: usize) -> u32 {
        let number = self.chunks.len() - 1;
        let chunk = &mut self.chunks[number];
        let at = chunk.len();
        chunk.resize(at + words, 0);
        (number * CHUNK + at) as u32
    }

    /// Makes free blocks of what is left of the last chunk.
    fn use_up_last(&mut self) {
        while let Some(left) = self.chunks.last().map(|chunk| CHUNK - chunk.len()) {
            let fitting = CLASSES.partition_point(|words| usize::from(*words) <= left);
            let Some(class) = fitting.checked_sub(1) else { return };
            let block = self.carve(usize::from(CLASSES[class]));
            self.words(block)[0] = header(class, 0);
            self.free(block);
        }
    }
}
