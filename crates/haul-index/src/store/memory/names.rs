//! Base names, and documents: distinct folded base names, the things that a search finds first.
//!
//! A name is a number. Of a name that is its own folded form, which most are, it is the number of its document;
//! others are variants of a document and have the top bit set. A variant that differs from its document by capitals
//! among the first 32 letters, which most do, is only a mask of those.
//!
//! A document holds its items: the rows of its names, and behind them the directories. A variant goes with its last
//! row or directory. A document stays, so that the search index may still name it, until that index has dropped it
//! too and calls [`Names::free_doc`].

use std::borrow::Cow;
use std::cmp::Ordering;
use std::hash::BuildHasher;

use hashbrown::DefaultHashBuilder;
use haul_core::query::fold;

use super::NONE;
use super::ahead::Scratch;
use super::chunked::Table;
use super::hash_index::{HashIndex, Key};
use super::lists::{EMPTY, Lists};
use super::texts::{TextAt, Texts};
use crate::store::trigrams::Trigrams;

/// Set in the number of a name that is a variant.
const VARIANT: u32 = 1 << 31;
/// Set in an item that is a directory's node; rows are below.
pub(in crate::store) const NODE: u32 = 1 << 30;
/// Set in [`Variant::doc`] if [`Variant::text`] is a mask of capitals.
const MASKED: u32 = 1 << 31;
/// Letters that a mask covers.
const MASK: usize = 32;

#[derive(Clone, Copy, Debug)]
struct Doc {
    /// None in a free record.
    text: TextAt,
    /// List of items; in a free record the next free one.
    items: u32,
}

#[derive(Clone, Copy, Debug)]
struct Variant {
    text: u32,
    doc: u32,
    /// Rows and directories; 0 only in a free record, whose `text` is the next free one.
    uses: u32,
}

/// All names and documents.
#[derive(Debug)]
pub(in crate::store) struct Names {
    texts: Texts,
    docs: Table<Doc>,
    free_doc: u32,
    variants: Table<Variant>,
    free_variant: u32,
    by_folded: HashIndex,
    by_text: HashIndex,
    hasher: DefaultHashBuilder,
    /// Where [`Self::tidy`] goes on in the worn chunk.
    tidied: usize,
    /// Documents with rows.
    pub(in crate::store) live_docs: u32,
    pub(in crate::store) trigrams: Trigrams,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            texts: Texts::default(),
            docs: Table::default(),
            free_doc: NONE,
            variants: Table::default(),
            free_variant: NONE,
            by_folded: HashIndex::default(),
            by_text: HashIndex::default(),
            hasher: DefaultHashBuilder::default(),
            tidied: 0,
            live_docs: 0,
            trigrams: Trigrams::default(),
        }
    }
}

impl Names {
    /// The number of this name, if it is known.
    pub(in crate::store) fn find(&self, text: &[u8]) -> Option<u32> {
        let key = self.key(text);
        if is_own_fold(text) { self.find_doc(key, text) } else { self.find_variant(key, text) }
    }

    /// The document of a folded name, if it is known.
    pub(in crate::store) fn doc_of_folded(&self, folded: &str) -> Option<u32> {
        self.find_doc(self.key(folded.as_bytes()), folded.as_bytes())
    }

    /// The number of this name, new or known; none when the table is full. The caller links an item.
    pub(in crate::store) fn intern(&mut self, text: &[u8]) -> Option<u32> {
        let key = self.key(text);
        if is_own_fold(text) {
            return self.intern_doc(key, text);
        }
        if let Some(name) = self.find_variant(key, text) {
            return Some(name);
        }
        let folded = fold(text);
        let doc = self.intern_doc(self.key(folded.as_bytes()), folded.as_bytes())?;
        let record = match capitals(folded.as_bytes(), text) {
            Some(mask) => Variant { text: mask, doc: doc | MASKED, uses: 0 },
            None => Variant { text: self.texts.add(text)?, doc, uses: 0 },
        };
        let number = if self.free_variant == NONE {
            if self.variants.len() >= VARIANT - 1 {
                return None;
            }
            self.variants.push(record)
        } else {
            let free = self.free_variant;
            self.free_variant = self.variants[free].text;
            self.variants[free] = record;
            free
        };
        self.by_text.insert(key, number);
        Some(VARIANT | number)
    }

    /// Reads what [`Self::intern`] and [`Self::link`] of these names are going to read. See [`super::ahead`].
    pub(in crate::store) fn touch(&self, lists: &Lists, texts: &[&[u8]], scratch: &mut Scratch) {
        let Scratch { keys, others, found } = scratch;
        keys.clear();
        others.clear();
        found.clear();
        for text in texts {
            let key = self.key(text);
            if is_own_fold(text) {
                keys.push(key);
            } else {
                others.push(key);
                // Of others only capitals are usual.
                keys.push(self.key(&text.to_ascii_lowercase()));
            }
        }
        self.by_folded.touch(keys);
        self.by_text.touch(others);
        self.by_text.each_candidate(others, |_, number| found.push(number));
        let mut read = found.iter().fold(0, |read, variant| read ^ self.variants[*variant].doc);
        found.clear();
        self.by_folded.each_candidate(keys, |_, number| found.push(number));
        read = found.iter().fold(read, |read, doc| read ^ self.docs[*doc].text);
        for doc in found {
            let Doc { text, items } = self.docs[*doc];
            read ^= u32::from(self.texts.touch(text)) ^ lists.touch(items);
        }
        std::hint::black_box(read);
    }

    /// Gives a row or node its name.
    pub(in crate::store) fn link(&mut self, lists: &mut Lists, name: u32, item: u32) {
        if name & VARIANT != 0 {
            self.variants[name & !VARIANT].uses += 1;
        }
        let doc = self.doc_of(name);
        let doc = &mut self.docs[doc];
        let live = has_rows(lists, doc.items);
        let items = lists.len(doc.items);
        lists.add_number(&mut doc.items, item);
        self.trigrams.note_items(items, items + 1);
        self.live_docs += u32::from(!live && item < NODE);
    }

    /// Takes its name from a row or node.
    pub(in crate::store) fn unlink(&mut self, lists: &mut Lists, name: u32, item: u32) {
        let doc = self.doc_of(name);
        let doc = &mut self.docs[doc];
        let items = lists.len(doc.items);
        lists.remove_number(&mut doc.items, item);
        self.trigrams.note_items(items, items.saturating_sub(1));
        self.live_docs -= u32::from(item < NODE && !has_rows(lists, doc.items));
        if name & VARIANT != 0 {
            let variant = &mut self.variants[name & !VARIANT];
            variant.uses -= 1;
            if variant.uses == 0 {
                self.free_variant(name);
            }
        }
    }

    /// Frees a name that got no item after all.
    pub(in crate::store) fn forget_unlinked(&mut self, name: u32) {
        if name & VARIANT != 0 && self.variants[name & !VARIANT].uses == 0 {
            self.free_variant(name);
        }
    }

    /// The document of a name.
    pub(in crate::store) fn doc_of(&self, name: u32) -> u32 {
        if name & VARIANT == 0 { name } else { self.variants[name & !VARIANT].doc & !MASKED }
    }

    /// The bytes of a name.
    pub(in crate::store) fn text(&self, name: u32) -> Cow<'_, [u8]> {
        match self.stored(name) {
            (text, 0) => Cow::Borrowed(text),
            (text, mask) => Cow::Owned(with_capitals(text, mask).collect()),
        }
    }

    /// Appends the bytes of a name.
    pub(in crate::store) fn push_text(&self, name: u32, to: &mut Vec<u8>) {
        match self.stored(name) {
            (text, 0) => to.extend_from_slice(text),
            (text, mask) => to.extend(with_capitals(text, mask)),
        }
    }

    /// How the bytes of a name compare with others.
    pub(in crate::store) fn compare(&self, name: u32, other: &[u8]) -> Ordering {
        match self.stored(name) {
            (text, 0) => text.cmp(other),
            (text, mask) => with_capitals(text, mask).cmp(other.iter().copied()),
        }
    }

    /// How two names compare by their bytes.
    pub(in crate::store) fn compare_names(&self, a: u32, b: u32) -> Ordering {
        if a == b { Ordering::Equal } else { self.compare(a, &self.text(b)) }
    }

    /// Documents, unused and free ones included; they are numbered from 0.
    pub(in crate::store) fn doc_count(&self) -> u32 {
        self.docs.len()
    }

    /// List of the rows and nodes of a document: first rows, then nodes marked by [`NODE`].
    pub(in crate::store) fn items(&self, doc: u32) -> u32 {
        let record = &self.docs[doc];
        if record.text == NONE { EMPTY } else { record.items }
    }

    /// Whether no row and no directory has a name of this document.
    pub(in crate::store) fn is_unused(&self, doc: u32) -> bool {
        self.items(doc) == EMPTY
    }

    /// Frees a document that is unused. Only the search index calls this, once it does not name the document any more.
    pub(in crate::store) fn free_doc(&mut self, doc: u32) {
        let Doc { text, items } = self.docs[doc];
        if text == NONE || items != EMPTY {
            return;
        }
        let key = self.key(self.texts.get(text));
        self.by_folded.remove(key, doc);
        self.texts.forget(text);
        self.docs[doc] = Doc { text: NONE, items: self.free_doc };
        self.free_doc = doc;
    }

    /// Notes a document for the search index as if it were new.
    pub(in crate::store) fn note_again(&mut self, doc: u32) {
        let at = self.docs[doc].text;
        if at != NONE {
            self.trigrams.add(doc, std::str::from_utf8(self.texts.get(at)).unwrap_or_default());
        }
    }

    /// Moves up to `limit` texts out of a chunk that is mostly unused, and gives it back after the last one; false if
    /// there is nothing to do.
    pub(in crate::store) fn tidy(&mut self, limit: usize) -> bool {
        let Some(chunk) = self.texts.worn() else { return false };
        for _ in 0..limit {
            let Some((at, text, next)) = self.texts.in_chunk(chunk, self.tidied) else {
                self.tidied = 0;
                self.texts.release_worn();
                return true;
            };
            let text = text.to_vec();
            if !self.move_text(at, &text) {
                return false;
            }
            self.tidied = next;
        }
        true
    }

    /// Moves a text if somebody needs it; false when there is no room.
    fn move_text(&mut self, at: TextAt, text: &[u8]) -> bool {
        let key = self.key(text);
        let doc = self.by_folded.find(key, |doc| self.docs[doc].text == at);
        let variant = self.by_text.find(key, |variant| {
            let variant = &self.variants[variant];
            variant.doc & MASKED == 0 && variant.text == at
        });
        if doc.is_none() && variant.is_none() {
            return true;
        }
        let Some(to) = self.texts.add(text) else { return false };
        if let Some(doc) = doc {
            self.docs[doc].text = to;
        } else if let Some(variant) = variant {
            self.variants[variant].text = to;
        }
        true
    }

    /// The folded text; empty for a free document.
    pub(in crate::store) fn folded(&self, doc: u32) -> &str {
        std::str::from_utf8(self.folded_bytes(doc)).unwrap_or_default()
    }

    /// [`Self::folded`] without the proof that it is text: nothing else is ever stored there.
    pub(in crate::store) fn folded_bytes(&self, doc: u32) -> &[u8] {
        let at = self.docs[doc].text;
        if at == NONE { &[] } else { self.texts.get(at) }
    }

    /// Reads where a folded name stands; the result says nothing. See [`super::ahead`].
    pub(in crate::store) fn touch_folded(&self, doc: u32) -> u8 {
        let at = self.docs[doc].text;
        if at == NONE { 0 } else { self.texts.touch(at) }
    }

    /// The folded form of a name.
    pub(in crate::store) fn folded_name(&self, name: u32) -> &str {
        self.folded(self.doc_of(name))
    }

    /// Bytes by part: texts, records, tables.
    pub(in crate::store) fn bytes(&self) -> [usize; 3] {
        let records = self.docs.bytes() + self.variants.bytes();
        [self.texts.bytes(), records, self.by_folded.bytes() + self.by_text.bytes()]
    }

    fn key(&self, text: &[u8]) -> Key {
        Key::of(self.hasher.hash_one(text))
    }

    fn find_doc(&self, key: Key, folded: &[u8]) -> Option<u32> {
        self.by_folded.find(key, |doc| self.texts.get(self.docs[doc].text) == folded)
    }

    fn find_variant(&self, key: Key, text: &[u8]) -> Option<u32> {
        let found = self.by_text.find(key, |variant| self.compare(VARIANT | variant, text).is_eq())?;
        Some(VARIANT | found)
    }

    fn intern_doc(&mut self, key: Key, folded: &[u8]) -> Option<u32> {
        if let Some(doc) = self.find_doc(key, folded) {
            return Some(doc);
        }
        if self.free_doc == NONE && self.docs.len() >= VARIANT - 1 {
            return None;
        }
        let record = Doc { text: self.texts.add(folded)?, items: EMPTY };
        let doc = if self.free_doc == NONE {
            self.docs.push(record)
        } else {
            let free = self.free_doc;
            self.free_doc = self.docs[free].items;
            self.docs[free] = record;
            free
        };
        self.trigrams.add(doc, std::str::from_utf8(folded).unwrap_or_default());
        self.by_folded.insert(key, doc);
        Some(doc)
    }

    fn free_variant(&mut self, name: u32) {
        let key = self.key(&self.text(name));
        let number = name & !VARIANT;
        self.by_text.remove(key, number);
        let variant = self.variants[number];
        if variant.doc & MASKED == 0 {
            self.texts.forget(variant.text);
        }
        self.variants[number] = Variant { text: self.free_variant, doc: NONE, uses: 0 };
        self.free_variant = number;
    }

    /// The stored text of a name, and which of its letters are capitals.
    fn stored(&self, name: u32) -> (&[u8], u32) {
        if name & VARIANT == 0 {
            return (self.texts.get(self.docs[name].text), 0);
        }
        let Variant { text, doc, .. } = self.variants[name & !VARIANT];
        if doc & MASKED == 0 {
            (self.texts.get(text), 0)
        } else {
            (self.texts.get(self.docs[doc & !MASKED].text), text)
        }
    }
}

fn has_rows(lists: &Lists, items: u32) -> bool {
    lists.iter(items).next().is_some_and(|item| item < NODE)
}

/// Whether folding would change nothing, told without folding for most.
fn is_own_fold(text: &[u8]) -> bool {
    if text.is_ascii() { !text.iter().any(u8::is_ascii_uppercase) } else { fold(text).as_bytes() == text }
}

/// The mask that makes this text of its folded form, if one can.
fn capitals(folded: &[u8], text: &[u8]) -> Option<u32> {
    if folded.len() != text.len() {
        return None;
    }
    let mask = text.iter().take(MASK).rev().fold(0, |mask, byte| mask << 1 | u32::from(byte.is_ascii_uppercase()));
    with_capitals(folded, mask).eq(text.iter().copied()).then_some(mask)
}

fn with_capitals(folded: &[u8], mask: u32) -> impl Iterator<Item = u8> + '_ {
    folded.iter().enumerate().map(
        move |(at, byte)| {
            if at < MASK && mask >> at & 1 == 1 { byte.to_ascii_uppercase() } else { *byte }
        },
    )
}

#[cfg(test)]
mod tests;
