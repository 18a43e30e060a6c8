//! Paths, and a store that holds them.

use bytes::Bytes;
use haul_core::ids::{BlobId, PeerId, ShareId};
use haul_core::manifest::{Change, Entry, EntryKind, PageBuilder, RegistrationDigest, ShareState};
use haul_core::wire::Label;
use haul_index::store::{EmbeddedStore, IndexStore, ShareOffer};

/// Entries of one page.
const PAGE: usize = 1_000;
/// Entries of one commit.
const COMMIT: usize = 50_000;

/// `SplitMix64` (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % bound as u64) as usize
    }

    pub(crate) fn one<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// One file: which share it is in, and what is told of it.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) share: usize,
    pub(crate) directory: String,
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) mtime_ns: i64,
    pub(crate) blob: Option<BlobId>,
}

/// All files, sorted by share, directory and name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files(pub(crate) Vec<File>);

pub(crate) fn peer(share: usize) -> PeerId {
    PeerId::new([share as u8 + 7; 32]).unwrap()
}

pub(crate) fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

pub(crate) fn peer_name(share: usize) -> String {
    format!("lab-{share}")
}

pub(crate) fn share_name(share: usize) -> String {
    format!("share-{share}")
}

/// What is told of the file of this number: one in four has the content of another one, few have none yet.
fn facts(share: usize, directory: &str, name: &str, number: usize, copies: bool) -> File {
    let mut random = Random(number as u64);
    let content = if copies && random.below(4) == 0 { number / 7 } else { number };
    let mut of_content = Random(content as u64 ^ 0x5eed);
    let size = 1 << of_content.below(34);
    let blob = (random.below(50) > 0).then(|| {
        let mut hash = [0; 32];
        for bytes in hash.chunks_mut(8) {
            let part = of_content.below(usize::MAX) as u64;
            bytes.copy_from_slice(&part.to_le_bytes());
        }
        BlobId::new(hash)
    });
    let mtime_ns = random.below(1_000) as i64 * 86_400_000_000_000;
    File { share, directory: directory.to_owned(), name: name.to_owned(), size, mtime_ns, blob }
}

impl Files {
    /// The paths of `HAUL_PATHS`, dealt by their first directories to so many shares; at most `limit`, evenly taken.
    pub(crate) fn from_list(shares: usize, limit: usize) -> Option<Self> {
        let text = std::fs::read_to_string(std::env::var("HAUL_PATHS").ok()?).unwrap();
        let count = text.lines().count();
        let step = count.div_ceil(limit).max(1);
        let mut files = Vec::with_capacity(count / step + 1);
        for (number, line) in text.lines().enumerate().step_by(step) {
            let (directory, name) = line.rsplit_once('/').unwrap_or(("", line));
            if name.is_empty() || name.len() > 255 {
                continue;
            }
            let mut of_directory = 0usize;
            for byte in directory.bytes() {
                of_directory = of_directory.wrapping_mul(31).wrapping_add(usize::from(byte));
            }
            files.push(facts(of_directory % shares, directory, name, number, step > 1));
        }
        Some(Self::sorted(files))
    }

    /// A made-up list with names of every kind.
    pub(crate) fn made_up(shares: usize, count: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let words: Vec<&str> =
            "lib linux report Bericht Größe straße test data image index copyright changelog readme a an x86 日本 語 файл été 2024 6.12 v2 core"
                .split(' ')
                .collect();
        let joints = ["-", "_", ".", " ", "", "--"];
        let endings = ["", ".txt", ".tar.gz", ".PDF", ".so", ".so.1", ".py", ".h", ".mkv", ".jpg"];
        let directories: Vec<String> = (0..60)
            .map(|number| {
                let depth = random.below(5);
                let parts: Vec<String> = (0..depth).map(|_| format!("{}{}", random.one(&words), number % 5)).collect();
                parts.join("/")
            })
            .collect();
        let files = (0..count)
            .map(|number| {
                let mut name: String = (*random.one(&words)).to_owned();
                for _ in 0..random.below(4) {
                    let joint = *random.one(&joints);
                    name.push_str(joint);
                    let word = *random.one(&words);
                    name.push_str(word);
                }
                if random.below(40) == 0 {
                    name.push_str(&"long-".repeat(40));
                }
                let ending = *random.one(&endings);
                name.push_str(ending);
                facts(random.below(shares), &random.one(&directories).clone(), &name, number, true)
            })
            .collect();
        Self::sorted(files)
    }

    fn sorted(mut files: Vec<File>) -> Self {
        let key = |file: &File| (file.share, file.directory.clone().into_bytes(), file.name.clone().into_bytes());
        if files.len() < 1_000_000 {
            files.sort_by_cached_key(key);
        } else {
            files.sort_unstable_by(|a, b| {
                (a.share, a.directory.as_bytes(), a.name.as_bytes()).cmp(&(
                    b.share,
                    b.directory.as_bytes(),
                    b.name.as_bytes(),
                ))
            });
        }
        files.dedup_by(|a, b| (a.share, &a.directory, &a.name) == (b.share, &b.directory, &b.name));
        Self(files)
    }

    /// The files of a share.
    pub(crate) fn of_share(&self, share: usize) -> &[File] {
        let from = self.0.partition_point(|file| file.share < share);
        let to = self.0.partition_point(|file| file.share <= share);
        &self.0[from..to]
    }
}

fn entry(file: &File) -> Entry<'_> {
    Entry {
        directory: file.directory.as_bytes(),
        name: file.name.as_bytes(),
        mtime_ns: file.mtime_ns,
        kind: EntryKind::File { size: file.size, executable: false, blob: file.blob },
    }
}

/// Connects the peer of a share and opens it; nothing is registered yet.
pub(crate) async fn connect(store: &EmbeddedStore, share: usize) {
    store.connect(peer(share), label(&peer_name(share))).await.unwrap();
    let offer = ShareOffer {
        id: ShareId([share as u8; 16]),
        name: label(&share_name(share)),
        groups: Vec::new(),
        state: ShareState { revision: 1, digest: RegistrationDigest::default() },
    };
    store.open(peer(share), offer).await.unwrap();
}

/// Registers files of a share in place of what it holds.
pub(crate) async fn replace(store: &EmbeddedStore, share: usize, files: &[File], revision: u64) {
    let mut digest = RegistrationDigest::default();
    let mut state: Option<ShareState> = None;
    for (revision, commit) in (revision * 1_000 + 1..).zip(files.chunks(COMMIT)) {
        let tx = store.begin(peer(share), ShareId([share as u8; 16]), state).await.unwrap();
        for page in commit.chunks(PAGE) {
            let mut builder = PageBuilder::new();
            for file in page {
                let entry = entry(file);
                digest.add(&entry);
                assert!(builder.push(&Change::Upsert(entry)));
            }
            store.stage(tx, Bytes::from(builder.finish())).await.unwrap();
        }
        let after = ShareState { revision, digest };
        state = Some(store.commit(tx, after, commit.len() as u64).await.unwrap());
    }
}
