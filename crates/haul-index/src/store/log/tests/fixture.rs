//! The bytes of a segment, field by field, and a file that later versions must go on reading.

use std::fs;
use std::path::PathBuf;

use haul_core::ids::ShareId;
use haul_core::wire::encode;

use super::super::catalog::Catalog;
use super::super::format::{HEAD_BYTES, HEADER_BYTES, Key, Record};
use super::super::group::{Group, Place, start_of_segment};
use super::{Model, open, page, pages, peer, peer_record, share_record};
use crate::store::disk::{MovedPage, Write};

const KEY: Key = Key([0x5a; 32]);

fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/index-log-1.log")
}

fn groups() -> Vec<Vec<Write>> {
    let put = |share: u8, generation, next_seq| Write::PutShare {
        peer: peer(share),
        share: ShareId([share; 16]),
        record: share_record(generation, next_seq, 300),
    };
    let moved = |number| MovedPage {
        generation: 3,
        number,
        checked: [&KEY.page(3, number, &page(3, number))[..], &page(3, number)].concat().into(),
    };
    vec![
        vec![Write::PutPeer { peer: peer(0), record: peer_record(77) }, pages(3, 0..3), put(1, 3, 3)],
        vec![pages(4, 0..1), put(2, 4, 1), Write::PutPeer { peer: peer(2), record: peer_record(0) }],
        vec![
            Write::DropShare { peer: peer(2), share: ShareId([2; 16]) },
            Write::DropPeer(peer(2)),
            Write::Moved(vec![moved(1), moved(2)]),
        ],
    ]
}

/// Segment 7 with a catalog of a peer and the groups above, without the zeros behind them.
fn segment() -> Vec<u8> {
    let mut catalog = Catalog::default();
    catalog.apply(vec![Record::PutPeer { peer: peer(4), record: peer_record(1) }], 6, 0);
    let mut bytes = start_of_segment(&catalog, &KEY, 7, 41).unwrap();
    for (number, writes) in (42..).zip(groups()) {
        let group = Group::new(&writes, &KEY);
        let at = Place { key: &KEY, segment: 7, offset: bytes.len() as u64, number };
        let written = group.write(at, u64::MAX, |slices| {
            bytes.extend(slices.iter().flat_map(|slice| slice.iter()));
            Ok::<_, std::convert::Infallible>(())
        });
        assert_eq!(written, Ok(u64::MAX));
    }
    bytes
}

/// After a deliberate change of the format: `HAUL_WRITE_FIXTURES=1 cargo test -p haul-index fixture`.
#[test]
fn segments_read_and_write_as_the_fixture() {
    if std::env::var_os("HAUL_WRITE_FIXTURES").is_some() {
        fs::write(fixture(), segment()).unwrap();
    }
    assert!(fs::read(fixture()).unwrap() == segment(), "the bytes of a segment have changed");
    let dir = tempfile::tempdir().unwrap();
    fs::copy(fixture(), dir.path().join("00000007.log")).unwrap();
    let (disk, catalog) = open(dir.path());
    let mut model = Model::default();
    model.peers.insert(peer(0), peer_record(77));
    model.peers.insert(peer(4), peer_record(1));
    let list = (0..3).map(|number| page(3, number)).collect();
    model.shares.insert((peer(1), ShareId([1; 16])), (share_record(3, 3, 300), list));
    assert_eq!(Model::read(&disk, &catalog), model);
    assert_eq!(catalog.next_generation, 5);
}

#[test]
fn golden_fields() {
    let bytes = segment();
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!((&bytes[..8], u32_at(8), u32_at(12)), (&b"haul-log"[..], 1, 7));
    assert_eq!(bytes[16..48], KEY.0);
    assert_eq!(bytes[48..64], blake3::hash(&bytes[..48]).as_bytes()[..16]);
    let keyed = |parts: &[&[u8]]| blake3::keyed_hash(&KEY.0, &parts.concat()).as_bytes()[..16].to_vec();
    // The catalog: kind 1, after group 41, no pages.
    let at = HEAD_BYTES;
    assert_eq!((&bytes[at..at + 4], u32_at(at + 4), u64_at(at + 8)), (&b"\xf1grp"[..], 1, 41));
    let meta = u32_at(at + 16) as usize;
    assert_eq!(u32_at(at + 20), 0);
    assert_eq!(bytes[at + 24..at + 40], keyed(&[b"meta", &bytes[at + HEADER_BYTES..at + HEADER_BYTES + meta]]));
    let place = [&7_u32.to_le_bytes()[..], &64_u64.to_le_bytes()].concat();
    assert_eq!(bytes[at + 40..at + 56], keyed(&[b"head", &place, &bytes[at..at + 40]]));
    // The first group: kind 0, number 42; its meta, then each page behind its check.
    let at = at + HEADER_BYTES + meta;
    assert_eq!((&bytes[at..at + 4], u32_at(at + 4), u64_at(at + 8)), (&b"\xf1grp"[..], 0, 42));
    let meta = u32_at(at + 16) as usize;
    assert_eq!(bytes[at + HEADER_BYTES..at + HEADER_BYTES + meta], encode(&Group::new(&groups()[0], &KEY).records));
    let first = at + HEADER_BYTES + meta;
    let length = page(3, 0).len();
    assert_eq!(u32_at(at + 20) as usize, 3 * 16 + length + page(3, 1).len() + page(3, 2).len());
    let name = [&3_u64.to_le_bytes()[..], &0_u64.to_le_bytes()].concat();
    assert_eq!(bytes[first..first + 16], keyed(&[b"page", &name, &page(3, 0)]));
    assert_eq!(bytes[first + 16..first + 16 + length], page(3, 0));
}
