//! Reading a Locate and writing a Located by hand: the same bytes as by [`super::decode`] and [`super::encode`], in a
//! fraction of the time. Serde reads the 32 bytes of every blob one by one.

use alloc::vec::Vec;

use super::index::Located;
use crate::ids::BlobId;
use crate::limits;

/// Numbers of the two messages in their enums.
const LOCATE: u8 = 18;
const LOCATED: u8 = 21;
/// Bytes of the longest varint of a u32.
const VARINT_BYTES: usize = 5;

/// What a Locate asks besides its blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocateOptions {
    /// Peers per blob at most.
    pub max: u32,
    /// Peers that are away count too.
    pub away: bool,
}

/// Reads exactly one Locate and appends its blobs to `blobs`. None for any other bytes: [`super::decode`] tells what
/// they are.
pub fn read_locate(message: &[u8], blobs: &mut Vec<BlobId>) -> Option<LocateOptions> {
    let rest = message.strip_prefix(&[LOCATE])?;
    let (count, rest) = read_varint(rest)?;
    let count = (count as usize <= limits::LOOKUP_KEYS).then_some(count as usize)?;
    let (hashes, rest) = rest.split_at_checked(count * size_of::<BlobId>())?;
    let (max, rest) = read_varint(rest)?;
    let away = match rest {
        [0] => false,
        [1] => true,
        _ => return None,
    };
    blobs.extend(hashes.as_chunks::<{ size_of::<BlobId>() }>().0.iter().map(|hash| BlobId::new(*hash)));
    Some(LocateOptions { max, away })
}

/// Appends the bytes of the answer [`super::index::IndexAnswer::Located`].
pub fn write_located(located: &Located, message: &mut Vec<u8>) {
    // Numbers of one to three bytes are usual.
    message.reserve(8 + located.peers.len() * 3 + located.blobs.len() * 8);
    message.push(LOCATED);
    write_varint(located.peers.len() as u64, message);
    for peer in &located.peers {
        write_varint(u64::from(*peer), message);
    }
    write_varint(located.blobs.len() as u64, message);
    for blob in &located.blobs {
        write_varint(blob.size, message);
        write_varint(u64::from(blob.total), message);
        write_varint(u64::from(blob.end), message);
    }
    write_varint(u64::from(located.coverage_permille), message);
}

fn read_varint(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let mut number = 0u64;
    for (position, byte) in bytes.iter().take(VARINT_BYTES).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * position);
        if byte & 0x80 == 0 {
            return Some((u32::try_from(number).ok()?, bytes.get(position + 1..)?));
        }
    }
    None
}

fn write_varint(mut number: u64, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::index::{IndexAnswer, IndexRequest, LocatedBlob};
    use crate::wire::{List, decode, encode};
    use proptest::prelude::*;

    fn read(message: &[u8]) -> Option<IndexRequest> {
        let mut blobs = Vec::new();
        let LocateOptions { max, away } = read_locate(message, &mut blobs)?;
        Some(IndexRequest::Locate { blobs: List::new(blobs), max, away })
    }

    fn numbers() -> impl Strategy<Value = u32> {
        prop_oneof![0..300u32, any::<u32>(), (0..32u32).prop_map(|bit| 1 << bit)]
    }

    proptest! {
        #[test]
        fn a_locate_is_read_as_serde_reads_it(
            hashes in proptest::collection::vec(any::<[u8; 32]>(), 0..260),
            max in numbers(),
            away: bool,
            cut in any::<proptest::sample::Index>(),
            flip in any::<(proptest::sample::Index, u8)>(),
        ) {
            let blobs = List::new(hashes.into_iter().map(BlobId::new).collect());
            let request = IndexRequest::Locate { blobs, max, away };
            let mut bytes = encode(&request);
            prop_assert_eq!(read(&bytes), Some(request));
            prop_assert_eq!(read(&bytes[..cut.index(bytes.len())]), None);
            prop_assert_eq!(read(&[&bytes[..], &[0]].concat()), None);
            // Wherever a byte differs, what is read is what serde reads.
            let place = flip.0.index(bytes.len().min(8));
            bytes[place] ^= flip.1;
            if let Some(request) = read(&bytes) {
                prop_assert_eq!(decode::<IndexRequest>(&bytes), Ok(request));
            }
        }

        #[test]
        fn an_answer_is_written_as_serde_writes_it(
            peers in proptest::collection::vec(numbers(), 0..40),
            blobs in proptest::collection::vec((any::<u64>(), numbers(), numbers()), 0..20),
            coverage_permille: u16,
        ) {
            let blobs = blobs.into_iter().map(|(size, total, end)| LocatedBlob { size, total, end }).collect();
            let located = Located { peers, blobs, coverage_permille };
            let mut bytes = Vec::new();
            write_located(&located, &mut bytes);
            prop_assert_eq!(bytes, encode(&IndexAnswer::Located(located)));
        }
    }

    #[test]
    fn too_many_blobs_and_long_numbers_are_none() {
        let mut message = [LOCATE, 0x81, 0x02].to_vec();
        message.extend([7; 257 * 32]);
        message.extend([1, 0]);
        assert_eq!(read(&message), None);
        assert_eq!(read(&[LOCATE, 0, 0xff, 0xff, 0xff, 0xff, 0x1f, 0]), None);
        assert_eq!(read(&[LOCATE, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0]), None);
        assert!(read(&[LOCATE, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 1]).is_some());
    }
}
