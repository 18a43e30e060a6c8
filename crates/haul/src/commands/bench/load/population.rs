//! The files of a load: how many there are, which peers hold which, and what each contains. Everything follows from a
//! few numbers, so that every answer of an index can be checked without a list of what was registered.
//!
//! Files are numbered. Peer p owns a block of consecutive files, and holds the beginnings of the next peers' blocks as
//! copies: of the next block a quarter (with 1.5 copies), of the one after it an eighth, and so on. So most blobs have
//! one provider, few have many, as in real networks.

use haul_core::ids::{BlobId, ShareId};

/// Most providers of one blob.
pub(crate) const PROVIDERS_MAX: u32 = 10;
/// Each further copy is made of this share of the files that have the copy before it.
const FALLOFF: f64 = 0.5;

/// The numbers from which all follows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Population {
    seed: u64,
    /// How often all contents have been replaced.
    turn: u64,
    peers: u32,
    /// Files that one peer owns.
    block: u32,
    /// How many files of the block of the peer that stands k + 1 places behind are held as copies.
    copied: Vec<u32>,
}

impl Population {
    /// `peers` peers with `files_per_peer` entries each, on average `copies` providers for each blob.
    pub(crate) fn new(seed: u64, peers: u32, files_per_peer: u32, copies: f64) -> Result<Self, String> {
        if peers == 0 || files_per_peer == 0 {
            return Err("there is at least one peer with one file".to_owned());
        }
        let places = (PROVIDERS_MAX - 1).min(peers - 1);
        let weights: Vec<f64> = (0..places).map(|place| FALLOFF.powi(place as i32)).collect();
        let most = 1.0 + weights.iter().sum::<f64>();
        if !(1.0..=most).contains(&copies) {
            return Err(format!("{peers} peers can hold 1 to {most:.2} copies"));
        }
        let block = ((f64::from(files_per_peer) / copies).round() as u32).max(1);
        let first = if most > 1.0 { (copies - 1.0) / (most - 1.0) } else { 0.0 };
        let counts = weights.iter().map(|weight| (first * weight * f64::from(block)).round() as u32).collect();
        Ok(Self { seed, turn: 0, peers, block, copied: counts })
    }

    /// The same peers and names after so many turnovers: every file has other content.
    pub(crate) fn after(&self, turn: u64) -> Self {
        Self { turn, ..self.clone() }
    }

    /// Peers.
    pub(crate) fn peers(&self) -> u32 {
        self.peers
    }

    /// Different files, each with a blob of its own.
    pub(crate) fn files(&self) -> u64 {
        u64::from(self.block) * u64::from(self.peers)
    }

    /// Entries of one peer.
    pub(crate) fn entries_of_peer(&self) -> u64 {
        u64::from(self.block) + self.copied.iter().map(|count| u64::from(*count)).sum::<u64>()
    }

    /// Entries of all peers.
    pub(crate) fn entries(&self) -> u64 {
        self.entries_of_peer() * u64::from(self.peers)
    }

    /// Files of one peer's own block.
    pub(crate) fn block(&self) -> u32 {
        self.block
    }

    /// The files that a peer holds, its own ones first.
    pub(crate) fn files_of(&self, peer: u32) -> impl Iterator<Item = u64> {
        let own = (peer, self.block);
        let others = self.copied.iter().zip(1..).map(move |(count, step)| ((peer + step) % self.peers, *count));
        std::iter::once(own).chain(others).flat_map(|(owner, count)| {
            let first = u64::from(owner) * u64::from(self.block);
            first..first + u64::from(count)
        })
    }

    /// The peers that hold a file, the owner first.
    pub(crate) fn holders(&self, file: u64) -> impl Iterator<Item = u32> {
        let (owner, place) = ((file / u64::from(self.block)) as u32, (file % u64::from(self.block)) as u32);
        let copies = self.copied.iter().zip(1..).filter(move |(count, _)| place < **count);
        std::iter::once(owner).chain(copies.map(move |(_, step)| (owner + self.peers - step) % self.peers))
    }

    /// How many peers hold a file.
    pub(crate) fn holder_count(&self, file: u64) -> u32 {
        let place = (file % u64::from(self.block)) as u32;
        1 + self.copied.iter().filter(|count| place < **count).count() as u32
    }

    /// The blob of a file.
    pub(crate) fn blob(&self, file: u64) -> BlobId {
        let mut text = [0; 28];
        text[..4].copy_from_slice(b"blob");
        text[4..12].copy_from_slice(&self.seed.to_le_bytes());
        text[12..20].copy_from_slice(&self.turn.to_le_bytes());
        text[20..].copy_from_slice(&file.to_le_bytes());
        BlobId::new(*blake3::hash(&text).as_bytes())
    }

    /// The bytes that a file claims to have: 0 to 16 MiB, by its blob.
    pub(crate) fn size(blob: &BlobId) -> u64 {
        let [a, b, c, ..] = *blob.as_bytes();
        u64::from(u32::from_le_bytes([a, b, c, 0]))
    }

    /// When a file claims to have been changed.
    pub(crate) fn mtime_ns(file: u64) -> i64 {
        (1_600_000_000 + (file % 100_000_000) as i64) * 1_000_000_000
    }

    /// The seed of a peer's key. `crowd` tells peers that register from those that only ask.
    pub(crate) fn key_seed(&self, crowd: &str, peer: u32) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"key of a peer of a load");
        hasher.update(&self.seed.to_le_bytes());
        hasher.update(crowd.as_bytes());
        hasher.update(&peer.to_le_bytes());
        *hasher.finalize().as_bytes()
    }

    /// The share of a peer.
    pub(crate) fn share(&self, peer: u32) -> ShareId {
        let mut id = [0; 16];
        let seed = self.key_seed("share", peer);
        id.copy_from_slice(seed.split_at(16).0);
        ShareId(id)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn holders_are_those_who_list_the_file() {
        for (peers, files, copies) in [(1, 10, 1.0), (3, 10, 1.5), (40, 73, 1.5), (40, 100, 2.9), (7, 50, 1.0)] {
            let population = Population::new(1, peers, files, copies).unwrap();
            let mut listed: HashMap<u64, Vec<u32>> = HashMap::new();
            for peer in 0..peers {
                let own: Vec<u64> = population.files_of(peer).collect();
                assert_eq!(own.len() as u64, population.entries_of_peer());
                for file in own {
                    listed.entry(file).or_default().push(peer);
                }
            }
            assert_eq!(listed.len() as u64, population.files());
            for (file, mut peers) in listed {
                let mut holders: Vec<u32> = population.holders(file).collect();
                assert_eq!(holders.len() as u32, population.holder_count(file));
                holders.sort_unstable();
                peers.sort_unstable();
                assert_eq!(holders, peers, "file {file}");
            }
        }
    }

    #[test]
    fn copies_are_as_many_as_asked_for() {
        let population = Population::new(1, 1_000, 7_300, 1.5).unwrap();
        let copies = population.entries() as f64 / population.files() as f64;
        assert!((copies - 1.5).abs() < 0.01, "{copies}");
        assert!(population.entries_of_peer().abs_diff(7_300) < 10);
        assert_eq!(population.holder_count(0), PROVIDERS_MAX);
        assert!(Population::new(1, 2, 10, 2.5).is_err());
        assert!(Population::new(1, 0, 10, 1.0).is_err());
    }

    #[test]
    fn blobs_and_keys_differ() {
        let one = Population::new(1, 2, 10, 1.0).unwrap();
        let two = Population::new(2, 2, 10, 1.0).unwrap();
        assert_ne!(one.blob(0), one.blob(1));
        assert_ne!(one.blob(0), two.blob(0));
        assert_ne!(one.blob(0), one.after(1).blob(0));
        assert_eq!(one.share(1), one.after(1).share(1));
        assert_ne!(one.key_seed("peer", 0), one.key_seed("asker", 0));
        assert!(Population::size(&one.blob(3)) < 1 << 24);
    }
}
