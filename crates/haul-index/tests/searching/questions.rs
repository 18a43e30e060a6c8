//! Random queries, cut out of the names that are there.

use super::paths::{File, Files, Random, peer, share_name};

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
        let name = file(random, files).name_text();
        if let Some(word) = word(random, &name, least, most) {
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
            let text = if inside || number == 0 { file.name_text() } else { file.directory_text() };
            list.extend(word(random, &text, 3, 8));
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
            let (name, directory) = (file.name_text(), file.directory_text());
            let extension = name.rsplit_once('.').map_or("txt", |(_, extension)| extension);
            let extension: String = extension.chars().filter(|c| c.is_alphanumeric()).collect();
            let top = directory.split('/').next().unwrap_or_default();
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

/// Any query at all: every length, phrases, exclusions, every filter and its opposite, misses, words with a letter
/// wrong. Half of them ask for one file that is there.
pub(crate) fn any_query(random: &mut Random, files: &Files) -> String {
    let of_one = (random.below(2) == 0).then(|| file(random, files));
    let mut terms: Vec<String> = (0..=random.below(3))
        .map(|_| {
            let file = of_one.unwrap_or_else(|| file(random, files));
            any_term(random, file)
        })
        .collect();
    if random.below(25) == 0 {
        terms.push("qzxj".to_owned());
    }
    terms.join(" ")
}

/// Two words of a letter, or of two.
pub(crate) fn two_short_words(random: &mut Random) -> String {
    let mut word = || random.one(&["e", "s", "a", "t", "r", "te", "2", "6", "日", "re"]).to_string();
    format!("{} {}", word(), word())
}

fn any_term(random: &mut Random, file: &File) -> String {
    let (name, directory) = (file.name_text(), file.directory_text());
    let text = if random.below(5) == 0 && !directory.is_empty() { &directory } else { &name };
    let len = if random.below(10) == 0 { 1 + random.below(255) } else { 1 + random.below(12) };
    match random.below(24) {
        0 | 1 => format!("\"{}\"", part(random, text, len)),
        2 => format!("-{}", part(random, text, len.min(4)).replace([' ', ':'], "")),
        3 => format!("name:\"{}\"", part(random, text, len)),
        4..10 => {
            let not = if random.below(5) == 0 { "-" } else { "" };
            format!("{not}{}", any_filter(random, file, len))
        }
        10 => {
            let text = part(random, text, 4 + len).replace([' ', ':'], "");
            with_a_letter_wrong(random, &text)
        }
        _ => part(random, text, len).replace([' ', ':'], ""),
    }
}

fn with_a_letter_wrong(random: &mut Random, text: &str) -> String {
    let mut letters: Vec<char> = text.chars().collect();
    let at = random.below(letters.len().max(1));
    match random.below(4) {
        0 => letters.insert(at, 'q'),
        1 if at < letters.len() => drop(letters.remove(at)),
        2 if at + 1 < letters.len() => letters.swap(at, at + 1),
        _ => letters.iter_mut().skip(at).take(1).for_each(|letter| *letter = 'ž'),
    }
    letters.into_iter().collect()
}

fn any_filter(random: &mut Random, file: &File, len: usize) -> String {
    let (name, directory) = (file.name_text(), file.directory_text());
    let no_quotes = |text: &str| text.replace('"', "");
    let share = share_name(file.share);
    match random.below(18) {
        0 | 1 => {
            let extension =
                name.rsplit_once('.').map_or("txt", |(_, extension)| extension).replace([' ', '"', ','], "");
            let other = if random.below(3) == 0 { ",h,.SO" } else { "" };
            format!("ext:{extension}{other}")
        }
        2 => format!("size:>{}k", 1 << random.below(22)),
        3 => format!("size:<={}", file.size),
        4 => format!("size:{}", file.size),
        5 => format!("size:{}k..{}M", 1 << random.below(20), 1 << random.below(14)),
        6 => format!("age:<{}d", 1 + random.below(1_000)),
        7 => format!("age:{}w..{}y", random.below(50), 1 + random.below(3)),
        8 => format!("path:\"/{}\"", no_quotes(directory.split('/').next().unwrap_or_default())),
        9 => {
            let depth = 1 + random.below(4);
            let top: Vec<&str> = directory.split('/').take(depth).collect();
            let above = if random.below(2) == 0 { format!("{share}/") } else { String::new() };
            format!("path:\"/{above}{}\"", no_quotes(&top.join("/")))
        }
        10 => format!("path:\"{}\"", part(random, &directory, len.min(6))),
        11 => format!("path:\"{}\"", no_quotes(&part(random, &format!("{share}/{directory}/"), len))),
        12 | 13 => format!(
            "type:{}",
            random.one(&[
                "video",
                "code",
                "document",
                "file",
                "link",
                "image,archive",
                "data,link",
                "audio,disk,model"
            ])
        ),
        14 => format!("peer:LAB-{}", random.below(4)),
        15 => format!("peer:{}", &peer(file.share).to_string()[..11 + random.below(20)]),
        16 => format!("share:{share}"),
        _ => match &file.blob {
            Some(blob) => format!("hash:{}", &blob.to_string()[3..][..len.min(64)]),
            None => "hash:b3:0".to_owned(),
        },
    }
}
