//! Names from strangers as text that can be shown.

use alloc::borrow::Cow;
use alloc::string::String;
use core::fmt::Write as _;

/// Makes control characters, direction marks and invisible separators visible as `\u{…}`, so that a name from a
/// stranger can neither move the cursor nor pretend to be another name.
pub fn escape(name: &str) -> Cow<'_, str> {
    if !name.contains(is_deceptive) {
        return Cow::Borrowed(name);
    }
    let mut shown = String::with_capacity(name.len() + 16);
    for letter in name.chars() {
        match letter {
            '\n' => shown.push_str("\\n"),
            '\t' => shown.push_str("\\t"),
            '\r' => shown.push_str("\\r"),
            // Writing into a string does not fail.
            '\u{0}'..='\u{1f}' | '\u{7f}' => drop(write!(shown, "\\x{:02x}", u32::from(letter))),
            _ if is_deceptive(letter) => drop(write!(shown, "\\u{{{:x}}}", u32::from(letter))),
            _ => shown.push(letter),
        }
    }
    Cow::Owned(shown)
}

/// Whether a character is not seen or changes how the text around it is shown. The zero-width joiner and non-joiner do
/// not count: Persian and emoji need them.
pub fn is_deceptive(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            // Soft hyphen, Mongolian vowel separator, zero-width space, byte order mark.
            '\u{ad}' | '\u{180e}' | '\u{200b}' | '\u{feff}'
            // Bidirectional marks, embeddings, overrides and isolates; line and paragraph separators.
            | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            // Word joiner, invisible operators, isolates, deprecated format characters; tag characters.
            | '\u{2060}'..='\u{206f}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_deceives_is_shown_as_its_number() {
        for (name, shown) in [
            ("plain näme 名前", "plain näme 名前"),
            ("a\nb\tc\rd\u{1b}[31m\u{7f}", "a\\nb\\tc\\rd\\x1b[31m\\x7f"),
            ("x\u{202e}gpj.exe", "x\\u{202e}gpj.exe"),
            (
                "a\u{61c}b\u{2028}c\u{e0041}d\u{ad}e\u{180e}f\u{85}",
                "a\\u{61c}b\\u{2028}c\\u{e0041}d\\u{ad}e\\u{180e}f\\u{85}",
            ),
            ("می\u{200c}خواهم 👩\u{200d}🔬", "می\u{200c}خواهم 👩\u{200d}🔬"),
        ] {
            assert_eq!(escape(name), shown, "{name:?}");
        }
    }
}
