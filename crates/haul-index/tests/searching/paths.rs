//! Paths, and a store that holds them.

use std::borrow::Cow;
use std::io::{BufRead, BufReader};

use bytes::Bytes;
use haul_core::ids::{BlobId, PeerId, ShareId};
use haul_core::manifest::{Change, Entry, EntryKind, PageBuilder, RegistrationDigest, ShareState};
use haul_core::wire::Label;
use haul_index::store::{EmbeddedStore, IndexStore, Opened, ShareOffer, TransactionId};

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
    pub(crate) directory: Vec<u8>,
    pub(crate) name: Vec<u8>,
    pub(crate) size: u64,
    pub(crate) mtime_ns: i64,
    pub(crate) blob: Option<BlobId>,
    /// A symbolic link and no file.
    pub(crate) link: bool,
}

impl File {
    /// The name as somebody would read it.
    pub(crate) fn name_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.name)
    }

    pub(crate) fn directory_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.directory)
    }

    /// The path within the share.
    pub(crate) fn path(&self) -> Vec<u8> {
        if self.directory.is_empty() { self.name.clone() } else { [&self.directory, &b"/"[..], &self.name].concat() }
    }
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
fn facts(share: usize, directory: &[u8], name: &[u8], number: usize, copies: bool) -> File {
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
    // Files without a byte are many, and have one content without being one.
    let empty = random.below(60) == 0;
    let (size, blob) = if empty { (0, blob.map(|_| BlobId::empty())) } else { (size, blob) };
    File { share, directory: directory.to_owned(), name: name.to_owned(), size, mtime_ns, blob, link: false }
}

/// The share that a directory of a list is dealt to.
fn share_of(directory: &[u8], shares: usize) -> usize {
    let number = |number: usize, byte: &u8| number.wrapping_mul(31).wrapping_add(usize::from(*byte));
    directory.iter().fold(0, number) % shares
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
            let (directory, name) = (directory.as_bytes(), name.as_bytes());
            files.push(facts(share_of(directory, shares), directory, name, number, step > 1));
        }
        Some(Self::sorted(files))
    }

    /// Some thousand paths of `HAUL_PATHS`, others for each seed: neighbours, and those far apart; many of the few that
    /// are not ASCII; and as many made-up ones as a tenth of them. Without a list all are made up.
    pub(crate) fn mixed(shares: usize, count: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let mut files = Self::made_up(shares, count / 10, seed).0;
        let Ok(list) = std::env::var("HAUL_PATHS") else { return Self::made_up(shares, count, seed) };
        // About as many lines as Debian has; of another list the shares differ.
        let step = 7_300_000 / (count / 2);
        let (offset, first) = (random.below(step), random.below(7_300_000 - count));
        let mut lines = BufReader::new(std::fs::File::open(list).unwrap());
        let mut line = Vec::new();
        for number in 0.. {
            line.clear();
            if lines.read_until(b'\n', &mut line).unwrap() == 0 {
                break;
            }
            let line = line.trim_ascii_end();
            let taken = number % step == offset
                || (first..first + count / 4).contains(&number)
                || (!line.is_ascii() && random.below(32_000 / count) == 0);
            let slash = line.iter().rposition(|byte| *byte == b'/');
            let (directory, name) = slash.map_or((&b""[..], line), |at| (&line[..at], &line[at + 1..]));
            if taken && !name.is_empty() && name.len() <= 255 {
                files.push(facts(share_of(directory, shares), directory, name, number, true));
            }
        }
        Self::sorted(files)
    }

    /// A made-up list with names of every kind.
    pub(crate) fn made_up(shares: usize, count: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let words: Vec<&str> =
            "lib linux report Bericht Größe straße test data image index copyright changelog readme a an x86 日本 語 файл été e\u{301}te\u{301} ﬁn İstanbul ＦＵＬＬ Ὀδυσσεύς 한국어 ไทย 🦀 2024 6.12 v2 core"
                .split(' ')
                .collect();
        let joints = ["-", "_", ".", " ", "", "--", "\u{301}", "\u{200b}"];
        let endings = ["", ".txt", ".tar.gz", ".PDF", ".so", ".so.1", ".py", ".h", ".mkv", ".jpg", ".", ".Größe"];
        let directories: Vec<String> = (0..60)
            .map(|number| {
                let depth = if number == 0 { 30 } else { random.below(5) };
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
                    name.push_str(&"long-".repeat(35));
                }
                let ending = *random.one(&endings);
                name.push_str(ending);
                let mut name = name.into_bytes();
                if random.below(50) == 0 {
                    // No text: cut in the middle, or with a byte that no text has.
                    name.insert(name.len() / 2, 0xff - random.below(0x40) as u8);
                }
                let directory = random.one(&directories).clone();
                let mut file = facts(random.below(shares), directory.as_bytes(), &name, number, true);
                if random.below(40) == 0 {
                    (file.link, file.blob, file.size) = (true, None, 0);
                }
                file
            })
            .collect();
        Self::sorted(files)
    }

    fn sorted(mut files: Vec<File>) -> Self {
        let key = |file: &File| (file.share, file.directory.clone(), file.name.clone());
        if files.len() < 1_000_000 {
            files.sort_by_cached_key(key);
        } else {
            files.sort_unstable_by(|a, b| (a.share, &a.directory, &a.name).cmp(&(b.share, &b.directory, &b.name)));
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
    let kind = if file.link {
        EntryKind::Symlink { target: b"somewhere" }
    } else {
        EntryKind::File { size: file.size, executable: false, blob: file.blob }
    };
    Entry { directory: &file.directory, name: &file.name, mtime_ns: file.mtime_ns, kind }
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

/// Brings the peer of a share back, which offers what the store holds of it.
pub(crate) async fn come_back(store: &EmbeddedStore, share: usize) -> Option<ShareState> {
    store.connect(peer(share), label(&peer_name(share))).await.unwrap();
    let id = ShareId([share as u8; 16]);
    let offer = |state| ShareOffer { id, name: label(&share_name(share)), groups: Vec::new(), state };
    let unknown = ShareState { revision: u64::MAX, digest: RegistrationDigest::default() };
    let Opened::Amend(held) = store.open(peer(share), offer(unknown)).await.unwrap() else { return None };
    assert_eq!(store.open(peer(share), offer(held)).await.unwrap(), Opened::Same);
    Some(held)
}

/// The digest of a list.
pub(crate) fn digest_of(files: &[File]) -> RegistrationDigest {
    let mut digest = RegistrationDigest::default();
    for file in files {
        digest.add(&entry(file));
    }
    digest
}

/// Registers changed files of a share; afterwards it holds `held`.
pub(crate) async fn amend(
    store: &EmbeddedStore,
    share: usize,
    base: ShareState,
    changed: &[File],
    held: &[File],
) -> Option<ShareState> {
    let tx = store.begin(peer(share), ShareId([share as u8; 16]), Some(base)).await.unwrap();
    stage(store, tx, changed).await;
    let after = ShareState { revision: base.revision + 1, digest: digest_of(held) };
    Some(store.commit(tx, after, changed.len() as u64).await.unwrap())
}

async fn stage(store: &EmbeddedStore, tx: TransactionId, files: &[File]) {
    for page in files.chunks(PAGE) {
        let mut builder = PageBuilder::new();
        for file in page {
            assert!(builder.push(&Change::Upsert(entry(file))));
        }
        store.stage(tx, Bytes::from(builder.finish())).await.unwrap();
    }
}

/// Registers files of a share in place of what it holds.
pub(crate) async fn replace(store: &EmbeddedStore, share: usize, files: &[File], revision: u64) -> Option<ShareState> {
    let mut digest = RegistrationDigest::default();
    let mut state: Option<ShareState> = None;
    for (revision, commit) in (revision * 1_000 + 1..).zip(files.chunks(COMMIT)) {
        let tx = store.begin(peer(share), ShareId([share as u8; 16]), state).await.unwrap();
        for file in commit {
            digest.add(&entry(file));
        }
        stage(store, tx, commit).await;
        let after = ShareState { revision, digest };
        state = Some(store.commit(tx, after, commit.len() as u64).await.unwrap());
    }
    state
}
