//! Any text as a query: parsing ends, with an error that points into the text or with folded, non-empty words; and what
//! it means compares with any name.
#![no_main]

use haul_core::ids::{BlobId, PublicKey};
use haul_core::query::{FoldedEntry, Origin, fold, fold_text, match_class, parse};
use haul_core::wire::Label;
use haul_core::wire::index::HitKind;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &[u8])| {
    let (text, name) = input;
    let query = match parse(text) {
        Ok(query) => query,
        Err(error) => {
            assert!(error.at <= text.len() && !error.to_string().is_empty());
            return;
        }
    };
    for word in query.words.iter().map(|word| &word.text).chain(&query.without) {
        assert!(!word.is_empty() && fold_text(word) == *word, "{word:?} is not folded");
    }
    let name = fold(name);
    let (Ok(peer), Ok(label)) = (PublicKey::new([7; 32]), Label::new("lab")) else { return };
    let entry = FoldedEntry {
        origin: &Origin::new(&peer, &label, &label),
        directories: &[],
        name: &name,
        kind: HitKind::File,
        size: Some(10),
        mtime_ns: 0,
        blob: Some(BlobId::new([7; 32])),
    };
    let class = match_class(query.words.iter().map(|word| word.text.as_str()), &name);
    assert!(class.is_some() || !query.fits(&entry, 0), "fits without all words");
});
