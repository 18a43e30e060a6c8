//! Names against the words of a query, prepared once: what `haul_core::query::match_class` says, several times faster.

use haul_core::query::{MatchClass, Query};
use memchr::memmem::Finder;

/// The words of one query.
pub(super) struct Matcher<'q> {
    words: Vec<Word<'q>>,
    /// The words with a space between them: the name that they are the whole of.
    joined: String,
}

struct Word<'q> {
    text: &'q str,
    finder: Finder<'q>,
    name_only: bool,
}

impl<'q> Matcher<'q> {
    pub(super) fn new(query: &'q Query) -> Self {
        let word = |word: &'q haul_core::query::Word| Word {
            text: &word.text,
            finder: Finder::new(word.text.as_bytes()),
            name_only: word.name_only,
        };
        let texts: Vec<&str> = query.words.iter().map(|word| word.text.as_str()).collect();
        Self { words: query.words.iter().map(word).collect(), joined: texts.join(" ") }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.words.len()
    }

    /// The words, folded.
    pub(super) fn texts(&self) -> impl Iterator<Item = &'q str> + '_ {
        self.words.iter().map(|word| word.text)
    }

    /// The words with a space between them.
    pub(super) fn joined(&self) -> &str {
        &self.joined
    }

    /// Whether the postings of one trigram prove that the name fits.
    pub(super) fn is_one_trigram(&self) -> bool {
        matches!(self.words.as_slice(), [word] if word.text.len() == 3)
    }

    /// Whether a folded name contains all words.
    pub(super) fn fits(&self, name: &[u8]) -> bool {
        self.words.iter().all(|word| word.finder.find(name).is_some())
    }

    /// The class of a folded name that contains all words.
    pub(super) fn class(&self, name: &str) -> Option<MatchClass> {
        if self.words.is_empty() {
            return Some(MatchClass::Substring);
        }
        let mut class = MatchClass::WordStart;
        for word in &self.words {
            let first = word.finder.find(name.as_bytes())?;
            if class == MatchClass::WordStart && !word.at_word_start(name, first) {
                class = MatchClass::Substring;
            }
        }
        let rest = name.strip_prefix(self.joined.as_str());
        let whole = rest.is_some_and(|rest| {
            rest.is_empty()
                || rest
                    .strip_prefix('.')
                    .is_some_and(|extension| !extension.is_empty() && !extension.contains(['.', ' ']))
        });
        Some(if whole { MatchClass::Whole } else { class })
    }

    /// Which words a folded text contains, a bit each.
    pub(super) fn mask(&self, text: &str) -> u64 {
        let found = |word: &Word<'_>| word.finder.find(text.as_bytes()).is_some();
        self.words.iter().rev().fold(0, |mask, word| mask << 1 | u64::from(found(word)))
    }

    /// All words, a bit each.
    pub(super) fn all(&self) -> u64 {
        self.words.iter().fold(0, |mask, _| mask << 1 | 1)
    }

    /// The words that may stand in a directory part.
    pub(super) fn movable(&self) -> u64 {
        self.words.iter().rev().fold(0, |mask, word| mask << 1 | u64::from(!word.name_only))
    }
}

impl Word<'_> {
    /// Whether the word stands at the start of a word of the name; `first` is where it stands first.
    fn at_word_start(&self, name: &str, first: usize) -> bool {
        let mut at = first;
        loop {
            if starts_word(name, at) {
                return true;
            }
            let from = at + name.get(at..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8);
            match name.as_bytes().get(from..).and_then(|rest| self.finder.find(rest)) {
                Some(found) => at = from + found,
                None => return false,
            }
        }
    }
}

fn starts_word(name: &str, at: usize) -> bool {
    match at.checked_sub(1).and_then(|before| name.as_bytes().get(before)) {
        None => true,
        Some(byte) if byte.is_ascii() => !byte.is_ascii_alphanumeric(),
        Some(_) => {
            name.get(..at).and_then(|head| head.chars().next_back()).is_none_or(|before| !before.is_alphanumeric())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use haul_core::query::{match_class, parse};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_class_is_the_one_that_the_language_defines(
            words in proptest::collection::vec("[abé.-]{1,3}", 1..4),
            name in "[abé .-]{0,12}",
        ) {
            let text: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
            let query = parse(&text.join(" ")).unwrap();
            let matcher = Matcher::new(&query);
            let want = match_class(query.words.iter().map(|word| word.text.as_str()), &name);
            prop_assert_eq!(matcher.class(&name), want);
            prop_assert_eq!(matcher.fits(name.as_bytes()), want.is_some());
            prop_assert_eq!(matcher.mask(&name) == matcher.all(), want.is_some());
        }
    }
}
