//! Names of members: unique in a network, whatever the case of their letters, and without characters that change how
//! the text around them is shown.

use std::collections::HashMap;
use std::fmt::Write as _;

use haul_core::ids::PeerId;
use haul_core::limits;
use haul_core::text::is_deceptive;
use haul_core::wire::Label;

/// What two names that are taken for the same have in common.
pub(super) fn key(name: &Label) -> String {
    name.as_str().to_lowercase()
}

/// The wanted name if it is free or the peer's own, else the name with `~` and the first digits of the peer's key.
pub(super) fn unique(wanted: &Label, peer: PeerId, taken: &HashMap<String, PeerId>) -> Label {
    let wanted = visible(wanted);
    let free = |name: &Label| taken.get(&key(name)).is_none_or(|owner| *owner == peer);
    if free(&wanted) {
        return wanted;
    }
    let digits = peer.as_bytes().iter().fold(String::new(), |mut text, byte| {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    });
    // Somebody may have taken the short form on purpose; the whole key is nobody else's to take for long.
    [4, 8, 16, 32]
        .into_iter()
        .map(|count| suffixed(wanted.as_str(), digits.get(..count).unwrap_or(&digits)))
        .find(free)
        .unwrap_or_else(|| Label::from_lossy(digits.get(..limits::LABEL_BYTES).unwrap_or(&digits)))
}

fn suffixed(name: &str, digits: &str) -> Label {
    let mut room = limits::LABEL_BYTES - digits.len() - 1;
    while !name.is_char_boundary(room.min(name.len())) {
        room -= 1;
    }
    Label::from_lossy(&format!("{}~{digits}", name.get(..room.min(name.len())).unwrap_or_default()))
}

/// Replaces characters that are not seen or that reorder the text by `_`.
fn visible(name: &Label) -> Label {
    // Joiners too: nothing tells two names apart that differ only by them.
    let hidden = |c: char| is_deceptive(c) || matches!(c, '\u{200c}' | '\u{200d}');
    if !name.as_str().contains(hidden) {
        return name.clone();
    }
    Label::from_lossy(&name.as_str().replace(hidden, "_"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn peer(first: u8, second: u8) -> PeerId {
        let mut bytes = [7; 32];
        bytes[0] = first;
        bytes[1] = second;
        PeerId::new(bytes).unwrap()
    }

    fn label(text: &str) -> Label {
        Label::new(text).unwrap()
    }

    #[test]
    fn a_second_claimant_gets_a_suffix() {
        let mut taken = HashMap::from([(key(&label("Lab-3")), peer(1, 1))]);
        let second = peer(0xa1, 0x8e);
        assert_eq!(unique(&label("lab-3"), second, &taken).as_str(), "lab-3~a18e");
        assert_eq!(unique(&label("lab-3"), peer(1, 1), &taken).as_str(), "lab-3", "its own");
        taken.insert("lab-3~a18e".to_owned(), peer(2, 2));
        assert_eq!(unique(&label("lab-3"), second, &taken).as_str(), "lab-3~a18e0707");
    }

    #[test]
    fn long_names_keep_whole_characters() {
        let long = label(&"ä".repeat(32));
        let taken = HashMap::from([(key(&long), peer(1, 1))]);
        let name = unique(&long, peer(2, 2), &taken);
        assert_eq!(name.as_str(), format!("{}~0202", "ä".repeat(29)));
    }

    #[test]
    fn names_cannot_reorder_the_text_around_them() {
        let name = unique(&label("a\u{202e}gpj.exe\u{200b}"), peer(1, 1), &HashMap::new());
        assert_eq!(name.as_str(), "a_gpj.exe_");
    }
}
