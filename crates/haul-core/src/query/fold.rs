//! Folding: the form in which names and queries meet. Upper and lower case, accents, ligatures and width differences
//! disappear: NFKD, full case folding, combining marks dropped, then NFKC.

use alloc::borrow::Cow;
use alloc::string::String;

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Rounds until folding changes nothing any more. Two are enough for every character of Unicode 16; the bound keeps a
/// later version from looping.
const ROUNDS: usize = 4;

/// The folded form of a name. Bytes that are not UTF-8 become U+FFFD each sequence, so the result is always text and
/// depends on the bytes alone. Folding a folded name changes nothing.
pub fn fold(name: &[u8]) -> String {
    if name.is_ascii() {
        return name.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect();
    }
    match String::from_utf8_lossy(name) {
        Cow::Borrowed(text) => fold_text(text),
        Cow::Owned(text) => fold_text(&text),
    }
}

/// See [`fold`].
pub fn fold_text(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let mut folded = fold_once(text);
    for _ in 1..ROUNDS {
        let again = fold_once(&folded);
        if again == folded {
            break;
        }
        folded = again;
    }
    folded
}

fn fold_once(text: &str) -> String {
    text.nfkd().flat_map(fold_case).nfkd().filter(|c| !is_combining_mark(*c)).nfkc().collect()
}

/// Full case folding: up, then down, so that `ß` meets `SS` and a final sigma meets any other. Unlike Unicode's table this
/// also joins the dotless i with i, which is what somebody who types it without the right keyboard expects.
fn fold_case(c: char) -> impl Iterator<Item = char> {
    c.to_uppercase().flat_map(char::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn case_accents_and_width_disappear() {
        for (name, folded) in [
            ("README.TXT", "readme.txt"),
            ("Ärger", "arger"),
            ("A\u{308}rger", "arger"),
            ("Straße", "strasse"),
            ("ﬁn", "fin"),
            ("İstanbul", "istanbul"),
            ("ＦＵＬＬ", "full"),
            ("Ὀδυσσεύς", "οδυσσευσ"),
            ("日本", "日本"),
            ("한국어", "한국어"),
        ] {
            assert_eq!(fold(name.as_bytes()), folded);
        }
    }

    #[test]
    fn bytes_that_are_not_text_fold_to_something_fixed() {
        assert_eq!(fold(b"caf\xe9.TXT"), "caf\u{fffd}.txt");
        assert_eq!(fold(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }

    proptest! {
        #[test]
        fn folding_twice_is_folding_once(name in proptest::collection::vec(any::<char>(), 0..20)) {
            let text: String = name.into_iter().collect();
            let once = fold_text(&text);
            prop_assert_eq!(fold_text(&once), once);
        }

        #[test]
        fn any_bytes_fold(name in proptest::collection::vec(any::<u8>(), 0..40)) {
            let once = fold(&name);
            prop_assert_eq!(fold(once.as_bytes()), once);
        }
    }
}
