//! How well a name fits the words of a query.

/// How a folded base name fits, best first. Hits are ordered by this, then by copies on a logarithmic scale, then
/// shorter names first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum MatchClass {
    /// The words are the whole name, or all of it before its extension.
    Whole,
    /// Every word stands at the start of a word of the name.
    WordStart,
    /// Some word stands inside another.
    Substring,
    /// Some word is in a directory part only.
    Directory,
}

/// The class of a folded name that contains all words; none if a word is missing. Without words every name is
/// [`MatchClass::Substring`].
pub fn match_class<'a>(words: impl IntoIterator<Item = &'a str>, folded_name: &str) -> Option<MatchClass> {
    let mut class = MatchClass::WordStart;
    let mut rest = Some(folded_name);
    let mut any = false;
    for word in words {
        if !folded_name.contains(word) {
            return None;
        }
        if !at_word_start(word, folded_name) {
            class = MatchClass::Substring;
        }
        // Whole: the words in their order, one space between them.
        rest = rest
            .and_then(|rest| if any { rest.strip_prefix(' ') } else { Some(rest) })
            .and_then(|rest| rest.strip_prefix(word));
        any = true;
    }
    if !any {
        return Some(MatchClass::Substring);
    }
    let whole = rest.is_some_and(|rest| rest.is_empty() || rest.strip_prefix('.').is_some_and(is_extension));
    Some(if whole { MatchClass::Whole } else { class })
}

fn is_extension(text: &str) -> bool {
    !text.is_empty() && !text.contains(['.', ' '])
}

fn at_word_start(word: &str, name: &str) -> bool {
    let mut from = 0;
    while let Some(found) = name.get(from..).and_then(|rest| rest.find(word)) {
        let at = from + found;
        let before = name.get(..at).and_then(|head| head.chars().next_back());
        if before.is_none_or(|c| !c.is_alphanumeric()) {
            return true;
        }
        from = at + name.get(at..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::MatchClass::{Substring, Whole, WordStart};
    use super::*;

    #[test]
    fn classes() {
        for (words, name, class) in [
            (&["report"][..], "report", Some(Whole)),
            (&["report"], "report.pdf", Some(Whole)),
            (&["report"], "report.tar.gz", Some(WordStart)),
            (&["report.pdf"], "report.pdf", Some(Whole)),
            (&["big", "report"], "big report.pdf", Some(Whole)),
            (&["report", "big"], "big report.pdf", Some(WordStart)),
            (&["report"], "my-report", Some(WordStart)),
            (&["report"], "myreport", Some(Substring)),
            (&["report"], "xreport report2", Some(WordStart)),
            (&["port"], "report", Some(Substring)),
            (&["x"], "report", None),
            (&[], "report", Some(Substring)),
        ] {
            assert_eq!(match_class(words.iter().copied(), name), class, "{words:?} {name}");
        }
    }
}
