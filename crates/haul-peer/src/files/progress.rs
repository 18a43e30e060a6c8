//! The progress file: which leaves of a part file count. Its byte table stands here and in docs/storage.md.
//!
//! ```text
//! progress = "haul-part/1\0" 12 ‖ boot id 16 ‖ blob 32 ‖ u64 size ‖ durable ‖ written ‖ checksum 16   (little endian)
//! durable, written = set of leaves: 8 bytes per 64 leaves, lowest leaf in the lowest bit
//! checksum = first 16 bytes of the BLAKE3 hash of all before
//! ```
//!
//! `durable` leaves were on stable storage before this file said so. `written` includes them and those written since:
//! the running kernel still has these, so they count while the boot id is the same; after another boot they are
//! verified again from disk. A boot id of zeros means another boot.

use haul_core::blob::{BlobGeometry, LeafSet};
use haul_core::ids::BlobId;

const MAGIC: &[u8; 12] = b"haul-part/1\0";
const CHECKSUM_BYTES: usize = 16;

/// What is known of a part file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The boot during which it was written.
    pub boot_id: [u8; 16],
    /// What is being downloaded.
    pub blob: BlobId,
    /// Its size, as far as known.
    pub geometry: BlobGeometry,
    /// Leaves on stable storage.
    pub durable: LeafSet,
    /// All verified leaves.
    pub written: LeafSet,
}

/// Bytes that are not a progress file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the progress file is damaged or of another version")]
pub struct ProgressError;

impl Progress {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.boot_id);
        bytes.extend_from_slice(self.blob.as_bytes());
        bytes.extend_from_slice(&self.geometry.size().to_le_bytes());
        bytes.extend_from_slice(&self.durable.to_bytes());
        bytes.extend_from_slice(&self.written.to_bytes());
        bytes.extend_from_slice(&checksum(&bytes));
        bytes
    }

    /// Reads the file's bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ProgressError> {
        Self::read(bytes).ok_or(ProgressError)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (content, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
        if checksum(content) != *sum {
            return None;
        }
        let (boot_id, rest) = content.strip_prefix(MAGIC)?.split_first_chunk::<16>()?;
        let (blob, rest) = rest.split_first_chunk::<32>()?;
        let (size, sets) = rest.split_first_chunk::<8>()?;
        let geometry = BlobGeometry::new(u64::from_le_bytes(*size))?;
        if sets.len() % 2 != 0 {
            return None;
        }
        let (durable, written) = sets.split_at(sets.len() / 2);
        Some(Self {
            boot_id: *boot_id,
            blob: BlobId::new(*blob),
            geometry,
            durable: LeafSet::from_bytes(geometry.leaves(), durable)?,
            written: LeafSet::from_bytes(geometry.leaves(), written)?,
        })
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut sum = [0; CHECKSUM_BYTES];
    sum.iter_mut().zip(blake3::hash(bytes).as_bytes()).for_each(|(to, from)| *to = *from);
    sum
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn example() -> Progress {
        let geometry = BlobGeometry::new(3 * 65_536 + 1).unwrap();
        let mut durable = LeafSet::new(4);
        durable.insert(3);
        let mut written = durable.clone();
        written.insert(0);
        Progress { boot_id: [0xb0; 16], blob: BlobId::empty(), geometry, durable, written }
    }

    #[test]
    fn golden_bytes() {
        let bytes = example().to_bytes();
        let hex = bytes.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        assert_eq!(
            hex,
            "6861756c2d706172742f3100b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0\
             af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262\
             0100030000000000\
             0800000000000000\
             0900000000000000\
             933db154b0ff1b7e99ba2e0531fbe1dd"
        );
        assert_eq!(Progress::from_bytes(&bytes), Ok(example()));
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let bytes = example().to_bytes();
        for cut in 0..bytes.len() {
            assert_eq!(Progress::from_bytes(&bytes[..cut]), Err(ProgressError));
            let mut flipped = bytes.clone();
            flipped[cut] ^= 0x20;
            assert_eq!(Progress::from_bytes(&flipped), Err(ProgressError), "{cut}");
        }
    }
}
