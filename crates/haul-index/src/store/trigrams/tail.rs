//! The newest documents, side by side in one buffer and searched from end to end.

use memchr::memmem;

/// Documents with their folded names.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Tail {
    docs: Vec<u32>,
    /// Where each name starts in `text`; names are followed by a zero byte, which no name has.
    starts: Vec<u32>,
    text: String,
}

impl Tail {
    pub(in crate::store) fn push(&mut self, doc: u32, name: &str) {
        self.docs.push(doc);
        self.starts.push(self.text.len() as u32);
        self.text.push_str(name);
        self.text.push('\0');
    }

    /// Documents.
    pub(in crate::store) fn len(&self) -> usize {
        self.docs.len()
    }

    /// Bytes of all names.
    pub(in crate::store) fn text_bytes(&self) -> usize {
        self.text.len()
    }

    pub(in crate::store) fn docs(&self) -> &[u32] {
        &self.docs
    }

    fn name(&self, place: usize) -> &str {
        let start = self.starts.get(place).map_or(self.text.len(), |start| *start as usize);
        let end = self.starts.get(place + 1).map_or(self.text.len(), |end| *end as usize);
        self.text.get(start..end.saturating_sub(1)).unwrap_or_default()
    }

    /// All documents with their names.
    pub(in crate::store) fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        self.docs.iter().enumerate().map(|(place, doc)| (*doc, self.name(place)))
    }

    /// Calls `with` for every document whose name contains a text.
    pub(in crate::store) fn find(&self, text: &str, mut with: impl FnMut(u32, &str)) {
        self.places(text.as_bytes(), |place| {
            if let Some(doc) = self.docs.get(place) {
                with(*doc, self.name(place));
            }
        });
    }

    /// As [`Self::find`] for bytes that need not be text.
    pub(in crate::store) fn find_bytes(&self, bytes: &[u8], mut with: impl FnMut(u32)) {
        self.places(bytes, |place| self.docs.get(place).copied().into_iter().for_each(&mut with));
    }

    fn places(&self, bytes: &[u8], mut with: impl FnMut(usize)) {
        let finder = memmem::Finder::new(bytes);
        let mut from = 0;
        while let Some(found) = self.text.as_bytes().get(from..).and_then(|rest| finder.find(rest)) {
            let at = (from + found) as u32;
            let place = self.starts.partition_point(|start| *start <= at).saturating_sub(1);
            with(place);
            from = self.starts.get(place + 1).map_or(self.text.len(), |next| *next as usize);
        }
    }

    /// Bytes in memory.
    pub(in crate::store) fn bytes(&self) -> usize {
        (self.docs.capacity() + self.starts.capacity()) * 4 + self.text.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_what_contains(names in proptest::collection::vec("[a-bé]{0,6}", 0..50), text in "[a-bé]{1,3}") {
            let mut tail = Tail::default();
            for (doc, name) in names.iter().enumerate() {
                tail.push(doc as u32, name);
            }
            let mut found = Vec::new();
            tail.find(&text, |doc, name| found.push((doc, name.to_owned())));
            let want: Vec<(u32, String)> = names
                .iter()
                .enumerate()
                .filter(|(_, name)| name.contains(&text))
                .map(|(doc, name)| (doc as u32, name.clone()))
                .collect();
            prop_assert_eq!(found, want);
            prop_assert_eq!(tail.iter().map(|(_, name)| name.to_owned()).collect::<Vec<_>>(), names);
        }
    }
}
