//! Base names, each stored once, and documents: distinct folded base names, the things that a search finds first.
//!
//! A name or document that nothing uses any more stays until the memory is rebuilt; the same name coming back revives
//! it, so churn of the same files does not grow anything.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use haul_core::query::fold;

use super::NONE;
use super::chunked::{Table, TextAt, Texts};
use super::postings::Postings;

#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Name {
    text: TextAt,
    /// The document that this name folds to.
    pub(in crate::store) doc: u32,
    /// Rows and directories of this name.
    pub(in crate::store) uses: u32,
}

#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Doc {
    text: TextAt,
    /// Head of the chain of rows.
    pub(in crate::store) first: u32,
    /// Rows on the chain.
    pub(in crate::store) rows: u32,
}

/// All names and documents.
#[derive(Debug, Default)]
pub(in crate::store) struct Names {
    texts: Texts,
    records: Table<Name>,
    docs: Table<Doc>,
    by_text: HashTable<u32>,
    by_folded: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// Names without uses.
    pub(in crate::store) unused: u32,
    /// Documents with rows.
    pub(in crate::store) live_docs: u32,
    pub(in crate::store) postings: Postings,
}

impl Names {
    /// The number of this name, if it is known.
    pub(in crate::store) fn find(&self, text: &[u8]) -> Option<u32> {
        self.by_text.find(self.hasher.hash_one(text), |name| self.text(*name) == text).copied()
    }

    /// The number of this name, new or known; counts one use more.
    pub(in crate::store) fn intern(&mut self, text: &[u8]) -> Option<u32> {
        if let Some(name) = self.find(text) {
            let record = &mut self.records[name];
            self.unused -= u32::from(record.uses == 0);
            record.uses += 1;
            return Some(name);
        }
        let at = self.texts.add(text)?;
        let folded = fold(text);
        let doc = self.intern_doc(&folded, text, at)?;
        let name = self.records.push(Name { text: at, doc, uses: 1 });
        let Self { by_text, records, texts, hasher, .. } = self;
        by_text.insert_unique(hasher.hash_one(text), name, |name| hasher.hash_one(texts.get(records[*name].text)));
        Some(name)
    }

    /// Counts one use less.
    pub(in crate::store) fn release(&mut self, name: u32) {
        let record = &mut self.records[name];
        record.uses -= 1;
        self.unused += u32::from(record.uses == 0);
    }

    fn intern_doc(&mut self, folded: &str, text: &[u8], at: TextAt) -> Option<u32> {
        let key = folded.as_bytes();
        let hash = self.hasher.hash_one(key);
        if let Some(doc) = self.by_folded.find(hash, |doc| self.texts.get(self.docs[*doc].text) == key) {
            return Some(*doc);
        }
        // Most names are their own folded form, and then share its bytes.
        let at = if key == text { at } else { self.texts.add(key)? };
        let doc = self.docs.push(Doc { text: at, first: NONE, rows: 0 });
        self.postings.add(doc, key);
        let Self { by_folded, docs, texts, hasher, .. } = self;
        by_folded.insert_unique(hash, doc, |doc| hasher.hash_one(texts.get(docs[*doc].text)));
        Some(doc)
    }

    pub(in crate::store) fn name(&self, name: u32) -> &Name {
        &self.records[name]
    }

    /// The bytes of a name.
    pub(in crate::store) fn text(&self, name: u32) -> &[u8] {
        self.texts.get(self.records[name].text)
    }

    pub(in crate::store) fn doc(&self, doc: u32) -> &Doc {
        &self.docs[doc]
    }

    pub(in crate::store) fn doc_mut(&mut self, doc: u32) -> &mut Doc {
        &mut self.docs[doc]
    }

    /// Documents, unused ones included; they are numbered from 0.
    pub(in crate::store) fn doc_count(&self) -> u32 {
        self.docs.len()
    }

    /// Names, unused ones included.
    pub(in crate::store) fn count(&self) -> u32 {
        self.records.len()
    }

    /// The folded text.
    pub(in crate::store) fn folded(&self, doc: u32) -> &str {
        std::str::from_utf8(self.texts.get(self.docs[doc].text)).unwrap_or_default()
    }

    /// The folded form of a name.
    pub(in crate::store) fn folded_name(&self, name: u32) -> &str {
        self.folded(self.records[name].doc)
    }
}
