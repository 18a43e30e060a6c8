//! Whether one entry fits a query, by itself: what a watch needs. Words count in the base name only; directory parts
//! count by `path:`. Otherwise a search finds exactly the entries that fit here.

use alloc::string::{String, ToString};

use super::{PathTest, Query, Test, fold};
use crate::ids::{BlobId, PeerId};
use crate::wire::Label;
use crate::wire::index::HitKind;

/// Where entries are, folded: computed once per share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    key: String,
    peer: String,
    share: String,
}

impl Origin {
    /// The share of this name on the peer with this key and name.
    pub fn new(key: &PeerId, peer: &Label, share: &Label) -> Self {
        Self { key: key.to_string(), peer: fold(peer.as_str().as_bytes()), share: fold(share.as_str().as_bytes()) }
    }
}

/// An entry, with its names folded.
#[derive(Clone, Copy, Debug)]
pub struct FoldedEntry<'a> {
    /// Where its share is.
    pub origin: &'a Origin,
    /// The directories that hold it, folded, from the root of the share down.
    pub directories: &'a [String],
    /// Its base name, folded.
    pub name: &'a str,
    /// File, directory or link.
    pub kind: HitKind,
    /// Bytes of a file, or of all files below a directory if somebody counted them.
    pub size: Option<u64>,
    /// Time of last modification, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Its content, if known.
    pub blob: Option<BlobId>,
}

impl Query {
    /// Whether every term holds for an entry. `now_ns` is the wall clock in nanoseconds since 1970, for `age:`.
    pub fn fits(&self, entry: &FoldedEntry<'_>, now_ns: i64) -> bool {
        self.words.iter().all(|word| entry.name.contains(word.text.as_str()))
            && !self.without.iter().any(|word| entry.name.contains(word.as_str()))
            && self.filters.iter().all(|filter| filter.test.holds(entry, now_ns) != filter.inverted)
    }
}

impl Test {
    fn holds(&self, entry: &FoldedEntry<'_>, now_ns: i64) -> bool {
        match self {
            Self::Size { min, max } => entry.size.is_some_and(|size| (*min..=*max).contains(&size)),
            Self::Age { min_ns, max_ns } => (*min_ns..=*max_ns).contains(&now_ns.saturating_sub(entry.mtime_ns)),
            Self::Type(types) => types.iter().any(|file_type| file_type.fits(entry.kind, entry.name)),
            Self::Extension(list) => list
                .iter()
                .any(|extension| entry.name.strip_suffix(extension.as_str()).is_some_and(|stem| stem.ends_with('.'))),
            Self::Peer(text) => {
                let by_key = text.starts_with("pk:") && text.len() >= "pk:".len() + 8;
                (by_key && entry.origin.key.starts_with(text.as_str())) || entry.origin.peer == *text
            }
            Self::Share(text) => entry.origin.share == *text,
            Self::Path(test) => test.holds(entry),
            Self::Hash(digits) => entry.blob.is_some_and(|blob| starts_with(&blob, digits)),
        }
    }
}

impl PathTest {
    fn holds(&self, entry: &FoldedEntry<'_>) -> bool {
        let (share, directories) = (&entry.origin.share, entry.directories);
        match self {
            Self::Below(below) => {
                directories.starts_with(below)
                    || below.split_first().is_some_and(|(top, rest)| top == share && directories.starts_with(rest))
            }
            Self::Contains(part) => {
                let mut path = share.clone();
                for directory in directories {
                    path.push('/');
                    path.push_str(directory);
                }
                path.push('/');
                path.contains(part.as_str())
            }
        }
    }
}

/// Whether the hash begins with these hexadecimal digits, lower case.
fn starts_with(blob: &BlobId, digits: &str) -> bool {
    digits.bytes().enumerate().all(|(at, digit)| {
        let byte = blob.as_bytes().get(at / 2).copied().unwrap_or_default();
        let nibble = if at % 2 == 0 { byte >> 4 } else { byte & 15 };
        char::from_digit(u32::from(nibble), 16) == Some(char::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PublicKey;
    use crate::query::parse;
    use alloc::format;
    use alloc::vec::Vec;

    const DAY: i64 = 86_400 * 1_000_000_000;

    fn origin() -> Origin {
        let mut key = [7; 32];
        key[0] = 0xab;
        let label = |text| Label::new(text).expect("a label");
        Origin::new(&PublicKey::new(key).expect("not weak"), &label("Lab-3"), &label("Filme"))
    }

    fn fits(query: &str) -> bool {
        let directories: Vec<String> = ["serien", "die 1990er"].map(String::from).to_vec();
        let mut blob = [0; 32];
        (blob[0], blob[1]) = (0x7f, 0x4e);
        let entry = FoldedEntry {
            origin: &origin(),
            directories: &directories,
            name: &fold("Ärger im Büro.Teil 2.mkv".as_bytes()),
            kind: HitKind::File,
            size: Some(2_000),
            mtime_ns: 90 * DAY,
            blob: Some(BlobId::new(blob)),
        };
        parse(query).expect(query).fits(&entry, 100 * DAY)
    }

    #[test]
    fn each_term_by_itself() {
        for query in [
            "arger buro",
            "\"im Büro\"",
            "name:teil",
            "teil -zwei",
            "size:2k",
            "size:1k..3k",
            "age:>9d",
            "age:<11d",
            "type:video",
            "type:file",
            "type:audio,video",
            "ext:mkv",
            "ext:avi,mkv",
            "ext:\"teil 2.mkv\"",
            "peer:LAB-3",
            "peer:pk:ab070707",
            "share:filme",
            "path:/Serien",
            "path:/filme/serien",
            "path:/",
            "path:\"1990\"",
            "path:filme/ser",
            "hash:7f4e",
            "hash:7",
        ] {
            assert!(fits(query), "{query}");
            // Each is a test that can fail, too.
            let inverted = format!("mkv -{query}");
            if !query.contains(' ') {
                assert!(!fits(&inverted), "{inverted}");
            }
        }
    }

    #[test]
    fn what_does_not_hold_does_not_fit() {
        for query in [
            "arger lager",
            "\"büro im\"",
            "arger -teil",
            "size:>2k",
            "age:<9d",
            "type:dir",
            "type:image",
            "ext:kv",
            "peer:lab",
            "peer:pk:ab0707",
            "peer:pk:07070707",
            "share:film",
            "path:/1990er",
            "path:/filme/filme",
            "path:/serien/die",
            "path:serien/x",
            "hash:7f4f",
            // A word in a directory part is not enough.
            "arger serien",
        ] {
            assert!(!fits(query), "{query}");
        }
    }

    #[test]
    fn a_directory_has_the_size_that_was_counted() {
        let origin = origin();
        let entry = |size| FoldedEntry {
            origin: &origin,
            directories: &[],
            name: "serien",
            kind: HitKind::Directory,
            size,
            mtime_ns: 0,
            blob: None,
        };
        let fits = |query: &str, size| parse(query).expect(query).fits(&entry(size), 0);
        assert!(fits("serien type:dir path:filme", None));
        assert!(!fits("size:0", None) && !fits("hash:0", None) && !fits("type:file", None));
        assert!(fits("serien -size:0", None));
        assert!(fits("size:>1G", Some(2 << 30)) && !fits("size:>1G", Some(0)) && fits("size:0", Some(0)));
    }
}
