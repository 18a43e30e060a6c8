//! Any bytes as a page of changes: refused, or read to the end twice with the same result, and written back the same.
#![no_main]

use haul_core::manifest::{Change, Page, PageBuilder, RegistrationDigest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(page) = Page::check(bytes) else { return };
    assert_eq!(page.changes().count(), page.len());
    let mut builder = PageBuilder::new();
    let mut digest = RegistrationDigest::default();
    for change in page.changes() {
        assert!(builder.push(&change), "what one page held fits into one page");
        if let Change::Upsert(entry) = &change {
            digest.add(entry);
            digest.subtract(entry);
        }
    }
    assert_eq!(digest, RegistrationDigest::default());
    let written = builder.finish();
    let again = Page::check(&written).expect("what was written is a page");
    assert!(again.changes().eq(page.changes()));
});
