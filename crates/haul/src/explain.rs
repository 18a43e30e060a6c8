//! The page that `haul explain CODE` shows. The texts stand beside the codes, where the daemon gives them out.

use haul_peer::api::codes::ErrorCode;

use crate::output::text::width;

/// What an exit code means to a script.
const EXITS: &[(u8, &str)] = &[
    (1, "nothing found, or nobody has it"),
    (2, "wrong use or configuration"),
    (3, "index or daemon unreachable"),
    (4, "transfer incomplete; it can go on"),
    (5, "content did not match its hash after all tries"),
    (6, "not allowed"),
    (7, "local disk full, not writable or gone"),
    (8, "--timeout passed"),
];

/// The whole page, filled to `columns`.
pub(crate) fn page(code: ErrorCode, columns: usize) -> String {
    let exit = code.exit();
    let meaning = EXITS.iter().find(|(number, _)| *number == exit).map_or("", |(_, meaning)| meaning);
    let text = fill(code.explain(), columns.clamp(40, 100));
    format!("{code}   (exit code {exit}: {meaning})\n\n{text}")
}

/// The first sentence of an explanation.
pub(crate) fn first_sentence(code: ErrorCode) -> &'static str {
    let text = code.explain();
    text.find(". ").map_or(text, |end| &text[..=end])
}

/// Words in lines of at most so many columns, as far as the words allow.
pub(crate) fn fill(text: &str, columns: usize) -> String {
    let mut filled = String::with_capacity(text.len() + 16);
    let mut used = 0;
    for word in text.split_whitespace() {
        let columns_of_word = width(word);
        if used > 0 && used + 1 + columns_of_word > columns {
            filled.push('\n');
            used = 0;
        } else if used > 0 {
            filled.push(' ');
            used += 1;
        }
        filled.push_str(word);
        used += columns_of_word;
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_an_explanation_and_a_known_exit_code() {
        for code in ErrorCode::ALL {
            assert!(code.explain().len() > 40, "{code} is hardly explained");
            assert!(EXITS.iter().any(|(number, _)| *number == code.exit()), "{code} ends with an unknown exit code");
            assert!(page(*code, 80).lines().all(|line| width(line) <= 80), "{code} is too wide");
        }
    }
}
