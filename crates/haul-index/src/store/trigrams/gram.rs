//! Grams: what posting lists are filed under.
//!
//! A gram is three bytes and a kind in the top byte. Folded names are text without zero bytes, so zeros mark the end:
//! a name of one or two letters has trigrams too, and "at the end" is a gram like any other. Names that start, and
//! words that start, with two given bytes have lists of their own, because the best classes of a match ask for them.

/// Where in a name the bytes of a gram stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Kind {
    /// Anywhere: three bytes in a row, of which up to two may be end marks.
    Inside = 0,
    /// At the start of the name: two bytes.
    NameStart = 1,
    /// At the start of a word of the name: two bytes behind a character that is no letter or digit, or at the start.
    WordStart = 2,
}

/// Kinds there are.
pub(super) const KINDS: usize = 3;

/// A gram as lists are sorted by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) struct Gram(pub(super) u32);

impl Gram {
    /// Three bytes anywhere.
    pub(in crate::store) fn inside(first: u8, second: u8, third: u8) -> Self {
        Self(u32::from_be_bytes([Kind::Inside as u8, first, second, third]))
    }

    /// The three bytes.
    pub(in crate::store) fn bytes(self) -> [u8; 3] {
        let [_, first, second, third] = self.0.to_be_bytes();
        [first, second, third]
    }

    /// Two bytes at the start of a name or word; zero as the second if it has only one.
    pub(in crate::store) fn start(kind: Kind, first: u8, second: u8) -> Self {
        Self(u32::from_be_bytes([kind as u8, 0, first, second]))
    }
}

/// Calls `with` for every gram of a folded name; the same gram may come several times.
pub(super) fn each(name: &str, mut with: impl FnMut(Gram)) {
    let bytes = name.as_bytes();
    let Some(first) = bytes.first() else { return };
    let at = |at: usize| bytes.get(at).copied().unwrap_or_default();
    with(Gram::start(Kind::NameStart, *first, at(1)));
    let mut gram = u32::from_be_bytes([0, 0, *first, at(1)]);
    for next in 2..bytes.len() + 2 {
        gram = (gram << 8 | u32::from(at(next))) & 0x00ff_ffff;
        with(Gram(gram));
    }
    let mut at_start = true;
    for (position, c) in name.char_indices() {
        if at_start {
            with(Gram::start(Kind::WordStart, at(position), at(position + 1)));
        }
        at_start = !c.is_alphanumeric();
    }
}

/// The trigrams of a text that stands somewhere, ascending, each once.
pub(in crate::store) fn trigrams(text: &[u8]) -> Vec<Gram> {
    let mut grams: Vec<Gram> = text
        .windows(3)
        .filter_map(|window| match window {
            [first, second, third] => Some(Gram::inside(*first, *second, *third)),
            _ => None,
        })
        .collect();
    grams.sort_unstable();
    grams.dedup();
    grams
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(name: &str) -> Vec<Gram> {
        let mut grams = Vec::new();
        each(name, |gram| grams.push(gram));
        grams
    }

    #[test]
    fn a_name_has_its_trigrams_and_starts() {
        let word = |first, second| Gram::start(Kind::WordStart, first, second);
        assert_eq!(all(""), []);
        assert_eq!(all("a"), [Gram::start(Kind::NameStart, b'a', 0), Gram::inside(b'a', 0, 0), word(b'a', 0)]);
        assert_eq!(
            all("a-b"),
            [
                Gram::start(Kind::NameStart, b'a', b'-'),
                Gram::inside(b'a', b'-', b'b'),
                Gram::inside(b'-', b'b', 0),
                Gram::inside(b'b', 0, 0),
                word(b'a', b'-'),
                word(b'b', 0),
            ]
        );
        // A letter of several bytes is a letter: no word starts behind it.
        assert_eq!(all("éa").into_iter().filter(|gram| gram.0 >> 24 == Kind::WordStart as u32).count(), 1);
    }
}
