//! Random queries, cut out of the names that are there.

use super::paths::{File, Files, Random};

/// Kinds of queries that are timed apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Rare,
    Medium,
    Common,
    TwoLetters,
    NoHit,
    TwoTerms,
    ThreeTerms,
    Filtered,
}

impl Kind {
    pub(crate) const ALL: [Self; 8] = [
        Self::Rare,
        Self::Medium,
        Self::Common,
        Self::TwoLetters,
        Self::NoHit,
        Self::TwoTerms,
        Self::ThreeTerms,
        Self::Filtered,
    ];
}

const COMMON: [&str; 20] = [
    "lib",
    "doc",
    "html",
    "python",
    "test",
    "copyright",
    "changelog",
    "index",
    "java",
    "linux",
    "readme",
    "main",
    "config",
    "debian",
    "gz",
    "png",
    "include",
    "class",
    "util",
    "data",
];

/// The runs of letters and digits of a text.
fn words(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect()
}

/// A part of a text of so many characters, or all of it.
fn part(random: &mut Random, text: &str, len: usize) -> String {
    let letters: Vec<char> = text.chars().filter(|c| *c != '"').collect();
    let from = random.below(letters.len().saturating_sub(len) + 1);
    letters.iter().skip(from).take(len).collect()
}

fn word(random: &mut Random, text: &str, least: usize, most: usize) -> Option<String> {
    let words: Vec<&str> = words(text).into_iter().filter(|word| word.chars().count() >= least).collect();
    if words.is_empty() {
        return None;
    }
    let len = least + random.below(most - least + 1);
    let word = *random.one(&words);
    Some(part(random, word, len))
}

fn file<'a>(random: &mut Random, files: &'a Files) -> &'a File {
    random.one(&files.0)
}

fn from_name(random: &mut Random, files: &Files, least: usize, most: usize) -> String {
    loop {
        let name = &file(random, files).name;
        if let Some(word) = word(random, name, least, most) {
            return word;
        }
    }
}

/// Words out of one path: all out of the name, or some out of the directories above.
fn terms(random: &mut Random, files: &Files, count: usize) -> String {
    loop {
        let file = file(random, files);
        let inside = random.below(2) == 0;
        let mut list = Vec::new();
        for number in 0..count {
            let text = if inside || number == 0 { &file.name } else { &file.directory };
            list.extend(word(random, text, 3, 8));
        }
        list.dedup();
        if list.len() == count {
            return list.join(" ");
        }
    }
}

/// A query of a kind, as people type them.
pub(crate) fn query(random: &mut Random, files: &Files, kind: Kind) -> String {
    match kind {
        Kind::Rare => from_name(random, files, 7, 9),
        Kind::Medium => from_name(random, files, 4, 6),
        Kind::Common => (*random.one(&COMMON)).to_owned(),
        Kind::TwoLetters => from_name(random, files, 2, 2),
        Kind::NoHit => (0..6 + random.below(6)).map(|_| char::from(b'a' + random.below(26) as u8)).collect(),
        Kind::TwoTerms => terms(random, files, 2),
        Kind::ThreeTerms => terms(random, files, 3),
        Kind::Filtered => {
            let word = from_name(random, files, 3, 6);
            let file = file(random, files);
            let extension = file.name.rsplit_once('.').map_or("txt", |(_, extension)| extension);
            let extension: String = extension.chars().filter(|c| c.is_alphanumeric()).collect();
            let top = file.directory.split('/').next().unwrap_or_default();
            match random.below(7) {
                0 => format!("{word} ext:{}", if extension.is_empty() { "gz" } else { &extension }),
                1 => format!("{word} type:code"),
                2 => format!("{word} size:>1M"),
                3 => format!("{word} path:\"/{top}\""),
                4 => format!("{word} peer:lab-{}", file.share),
                5 => format!("{word} age:<100d"),
                _ => format!("ext:{}", if extension.is_empty() { "gz" } else { &extension }),
            }
        }
    }
}

/// Any query at all: every length, phrases, exclusions, several filters, misses.
pub(crate) fn any_query(random: &mut Random, files: &Files) -> String {
    let mut terms = Vec::new();
    for _ in 0..=random.below(3) {
        let file = file(random, files);
        let text = if random.below(5) == 0 && !file.directory.is_empty() { &file.directory } else { &file.name };
        let len = 1 + random.below(12);
        terms.push(match random.below(12) {
            0 => format!("\"{}\"", part(random, text, len)),
            1 => format!("-{}", part(random, text, len.min(4)).replace([' ', ':'], "")),
            2 => {
                format!("ext:{}", file.name.rsplit_once('.').map_or("txt", |(_, ext)| ext).replace([' ', '"', ','], ""))
            }
            3 => format!("size:>{}k", 1 << random.below(22)),
            4 => format!("age:<{}d", 1 + random.below(1_000)),
            5 => format!("path:\"/{}\"", file.directory.split('/').next().unwrap_or_default().replace('"', "")),
            6 => format!("path:\"{}\"", part(random, &file.directory, 4)),
            7 => format!("type:{}", random.one(&["video", "code", "document", "file", "dir", "image,archive"])),
            8 => format!("peer:lab-{}", random.below(4)),
            9 => format!("name:\"{}\"", part(random, text, len)),
            10 => match &file.blob {
                Some(blob) => format!("hash:{}", &blob.to_string()[3..3 + len.min(4)]),
                None => "share:share-1".to_owned(),
            },
            _ => part(random, text, len).replace([' ', ':'], ""),
        });
    }
    if random.below(15) == 0 {
        terms.push("qzxj".to_owned());
    }
    terms.join(" ")
}
