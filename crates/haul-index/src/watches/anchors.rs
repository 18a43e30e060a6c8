//! Which watches may fit a name: one automaton (Aho and Corasick 1975) over the longest word of each, so that a name is
//! read once however many watches there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind};

use super::Watch;

/// Watches without an automaton yet that are compared one by one before the automaton is made anew.
const FRESH: usize = if cfg!(test) { 2 } else { 16 };

/// Watches with a word, by their longest one.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    automaton: Option<AhoCorasick>,
    /// By pattern of the automaton.
    lists: Vec<Vec<Arc<Watch>>>,
    watches: usize,
}

impl Compiled {
    /// Takes the watches that have a word. Linear in the length of all words.
    pub(super) fn new(watches: impl IntoIterator<Item = Arc<Watch>>) -> Self {
        let mut by_word: BTreeMap<Arc<str>, Vec<Arc<Watch>>> = BTreeMap::new();
        let mut count = 0;
        for watch in watches {
            if let Some(word) = &watch.anchor {
                count += 1;
                by_word.entry(Arc::clone(word)).or_default().push(watch);
            }
        }
        let (words, lists): (Vec<Arc<str>>, Vec<_>) = by_word.into_iter().unzip();
        // The contiguous kind takes a tenth of the memory of a table, and names are short.
        let automaton = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(words.iter().map(|word| word.as_bytes()));
        match automaton {
            Ok(automaton) if !lists.is_empty() => Self { automaton: Some(automaton), lists, watches: count },
            // Nothing to find, or more words than an automaton can number: those watches stay fresh.
            _ => Self::default(),
        }
    }
}

impl Compiled {
    pub(super) fn is_empty(&self) -> bool {
        self.automaton.is_none()
    }
}

/// All watches at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    compiled: Arc<Compiled>,
    /// Those that the automaton does not know: without words, or too new.
    loose: Arc<[Arc<Watch>]>,
}

impl Snapshot {
    pub(super) fn new(compiled: Arc<Compiled>, loose: Arc<[Arc<Watch>]>) -> Self {
        Self { compiled, loose }
    }

    /// The watches whose longest word stands in a folded name, each once, with how often it stands there; of the first
    /// `most` places, since a name of one letter over and over has thousands.
    pub(super) fn by_word(&self, folded_name: &str, most: usize) -> Vec<(&Arc<Watch>, usize)> {
        let Some(automaton) = &self.compiled.automaton else { return Vec::new() };
        let found = automaton.find_overlapping_iter(folded_name).take(most);
        let mut found: Vec<usize> = found.map(|found| found.pattern().as_usize()).collect();
        found.sort_unstable();
        let places = found.chunk_by(|one, other| one == other).filter_map(|same| Some((*same.first()?, same.len())));
        let lists = places.filter_map(|(pattern, times)| Some((self.compiled.lists.get(pattern)?, times)));
        lists.flat_map(|(list, times)| list.iter().map(move |watch| (watch, times))).collect()
    }

    /// The watches that may fit any name.
    pub(super) fn loose(&self) -> impl Iterator<Item = &Arc<Watch>> {
        self.loose.iter()
    }

    /// Every watch.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Watch>> {
        self.compiled.lists.iter().flatten().chain(self.loose.iter())
    }

    /// Whether the automaton should be made anew, with `live` watches in all.
    pub(super) fn is_stale(&self, live: usize) -> bool {
        let fresh = self.loose.iter().filter(|watch| watch.anchor.is_some() && watch.is_live()).count();
        let gone = (self.compiled.watches + self.loose.len()).saturating_sub(live);
        fresh > FRESH || gone > FRESH + live
    }
}
