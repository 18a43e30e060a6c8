//! Queries for searches, cut from real names with a fixed seed. What a class is called says how its queries were made;
//! how many files each matches stands in the results.

use std::collections::{BTreeMap, BTreeSet};

use haul_core::query::fold;

use super::keys::Dice;
use super::paths::{self, Paths};
use super::population::Population;

/// Names from which common words are counted.
const SAMPLED_NAMES: u64 = 200_000;
/// The most frequent words are the common ones.
const COMMON_WORDS: usize = 60;
/// Attempts for each query of a class.
const ATTEMPTS: usize = 200;

/// How a query was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Class {
    /// 7 or 8 letters or digits in a row, from anywhere in a name.
    Rare,
    /// 4 to 6 of them.
    Medium,
    /// One of the most frequent words of names.
    Common,
    /// 2 letters or digits in a row.
    TwoLetters,
    /// 6 to 8 of them, one changed, so that no name has them.
    NoHit,
    /// Two words of one name.
    TwoTerms,
    /// Three words of one name.
    ThreeTerms,
    /// A word with the extension, the path or a bound of the size of the same file.
    Filtered,
}

/// All classes in the order of the report.
pub(crate) const CLASSES: [Class; 8] = [
    Class::Rare,
    Class::Medium,
    Class::Common,
    Class::TwoLetters,
    Class::NoHit,
    Class::TwoTerms,
    Class::ThreeTerms,
    Class::Filtered,
];

impl Class {
    /// Its name in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rare => "rare",
            Self::Medium => "medium",
            Self::Common => "common",
            Self::TwoLetters => "two_letters",
            Self::NoHit => "no_hit",
            Self::TwoTerms => "two_terms",
            Self::ThreeTerms => "three_terms",
            Self::Filtered => "filtered",
        }
    }
}

/// A query.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Case {
    /// How it was made.
    pub(crate) class: Class,
    /// Words in folded form.
    pub(crate) words: Vec<String>,
    /// A filter in the query language.
    pub(crate) filter: Option<String>,
}

impl Case {
    /// The text that is asked. `name_only`: words never match directory parts, as with `plocate -b`.
    pub(crate) fn text(&self, name_only: bool) -> String {
        let mark = if name_only { "name:" } else { "" };
        let words = self.words.iter().map(|word| format!("{mark}{word}"));
        words.chain(self.filter.clone()).collect::<Vec<_>>().join(" ")
    }
}

/// `each` queries of every class. Queries of [`Class::NoHit`] are only likely to match nothing; the scan tells.
pub(crate) fn cut(seed: u64, each: usize, population: &Population, paths: &Paths) -> Vec<Case> {
    let cutter = Cutter { population, paths };
    let common = cutter.common_words(seed);
    let mut cases = Vec::new();
    for (number, class) in CLASSES.into_iter().enumerate() {
        let mut dice = Dice::new(seed ^ (number as u64 + 1) << 32);
        let mut of_class = BTreeSet::new();
        for _ in 0..each * ATTEMPTS {
            if of_class.len() == each {
                break;
            }
            of_class.extend(cutter.one(class, &mut dice, &common));
        }
        cases.extend(of_class);
    }
    cases
}

/// The most frequent words of names.
pub(crate) fn common_words(seed: u64, population: &Population, paths: &Paths) -> Vec<String> {
    Cutter { population, paths }.common_words(seed)
}

struct Cutter<'a> {
    population: &'a Population,
    paths: &'a Paths,
}

impl Cutter<'_> {
    fn name(&self, file: u64) -> String {
        fold(paths::split(&self.paths.of(self.population, file)).1)
    }

    fn common_words(&self, seed: u64) -> Vec<String> {
        let mut dice = Dice::new(seed);
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for _ in 0..SAMPLED_NAMES.min(self.population.files()) {
            let name = self.name(dice.below(self.population.files()));
            for word in words(&name).filter(|word| (3..=9).contains(&word.len())) {
                *counts.entry(word.to_owned()).or_default() += 1;
            }
        }
        let mut counted: Vec<(u64, String)> = counts.into_iter().map(|(word, count)| (count, word)).collect();
        counted.sort_by(|a, b| b.cmp(a));
        counted.into_iter().take(COMMON_WORDS).map(|(_, word)| word).collect()
    }

    fn one(&self, class: Class, dice: &mut Dice, common: &[String]) -> Option<Case> {
        let file = dice.below(self.population.files());
        let name = self.name(file);
        let case = |words: Vec<String>| Some(Case { class, words, filter: None });
        match class {
            Class::Rare => case(vec![run(&name, 7 + dice.below(2) as usize, dice)?]),
            Class::Medium => case(vec![run(&name, 4 + dice.below(3) as usize, dice)?]),
            Class::TwoLetters => case(vec![run(&name, 2, dice)?]),
            Class::Common => case(vec![common.get(dice.below(common.len().max(1) as u64) as usize)?.clone()]),
            Class::NoHit => {
                let text = run(&name, 6 + dice.below(3) as usize, dice)?;
                let at = dice.below(text.len() as u64) as usize;
                let letter = char::from(b'a' + dice.below(26) as u8);
                let change = |(place, old)| if place == at { letter } else { old };
                case(vec![text.chars().enumerate().map(change).collect()])
            }
            Class::TwoTerms => case(several(&name, 2, dice)?),
            Class::ThreeTerms => case(several(&name, 3, dice)?),
            Class::Filtered => {
                let words = several(&name, 1, dice)?;
                Some(Case { class, words, filter: Some(self.filter(file, &name, dice)?) })
            }
        }
    }

    fn filter(&self, file: u64, name: &str, dice: &mut Dice) -> Option<String> {
        match dice.below(3) {
            0 => {
                let (stem, extension) = name.rsplit_once('.')?;
                let plain = !stem.is_empty() && words(extension).eq([extension]);
                plain.then(|| format!("ext:{extension}"))
            }
            1 => {
                let path = self.paths.of(self.population, file);
                let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
                let top = parts.get(..3).filter(|_| parts.len() > 3)?;
                let text = String::from_utf8(top.join(&b'/')).ok()?;
                let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_.+".contains(&b));
                plain.then(|| format!("path:/{text}"))
            }
            _ => {
                let size = Population::size(&self.population.blob(file));
                Some(if dice.below(2) == 0 { format!("size:<={size}") } else { format!("size:>={size}") })
            }
        }
    }
}

/// Runs of ASCII letters and digits.
fn words(name: &str) -> impl Iterator<Item = &str> {
    name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty())
}

/// `length` letters and digits in a row, from a word that is long enough.
fn run(name: &str, length: usize, dice: &mut Dice) -> Option<String> {
    let long: Vec<&str> = words(name).filter(|word| word.len() >= length).collect();
    let word = long.get(dice.below(long.len().max(1) as u64) as usize)?;
    let start = dice.below((word.len() - length + 1) as u64) as usize;
    word.get(start..start + length).map(str::to_owned)
}

/// `count` different words of at least three letters.
fn several(name: &str, count: usize, dice: &mut Dice) -> Option<Vec<String>> {
    let mut all: Vec<&str> = words(name).filter(|word| (3..=20).contains(&word.len())).collect();
    all.sort_unstable();
    all.dedup();
    let mut chosen = Vec::new();
    while chosen.len() < count {
        if all.is_empty() {
            return None;
        }
        chosen.push(all.swap_remove(dice.below(all.len() as u64) as usize).to_owned());
    }
    Some(chosen)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use haul_core::query::parse;

    use super::super::paths::Lines;
    use super::*;

    fn set() -> (Population, Paths) {
        let line = |n| format!("usr/share/doc{}/python3-module{n}/{n}-readme-first_{}.txt.gz\n", n % 7, n * 7_919);
        let text = (0..400).map(line).collect::<Vec<_>>().concat();
        (Population::new(1, 4, 100, 1.0).unwrap(), Paths::Listed(Lines::new(text.into_bytes())))
    }

    #[test]
    fn every_class_is_cut_and_parses() {
        let (population, paths) = set();
        let cases = cut(5, 10, &population, &paths);
        for class in [Class::Common, Class::TwoLetters, Class::TwoTerms, Class::ThreeTerms, Class::Filtered] {
            assert!(cases.iter().any(|case| case.class == class), "{class:?}");
        }
        for case in &cases {
            let query = parse(&case.text(true)).unwrap();
            assert_eq!(query.words.len(), case.words.len());
            assert!(query.words.iter().all(|word| word.name_only));
            assert_eq!(query.filters.len(), usize::from(case.filter.is_some()));
            assert!(parse(&case.text(false)).unwrap().words.iter().all(|word| !word.name_only));
        }
        assert_eq!(cases, cut(5, 10, &population, &paths));
        assert_ne!(cases, cut(6, 10, &population, &paths));
    }

    #[test]
    fn words_are_cut_from_names() {
        let mut dice = Dice::new(1);
        for _ in 0..50 {
            assert!("readme".contains(&run("a-readme.b", 4, &mut dice).unwrap()));
            let mut three = several("one-two_three.four", 3, &mut dice).unwrap();
            three.sort();
            three.dedup();
            assert_eq!(three.len(), 3);
        }
        assert_eq!(run("a-b", 2, &mut dice), None);
        assert_eq!(several("a-bcd", 2, &mut dice), None);
    }
}
