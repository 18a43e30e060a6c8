//! Large amendments: prepared unseen in small steps, shown at once, cleared up in small steps.
//!
//! A step holds the memory for some tens of microseconds; whoever asks in between sees the old list, then the new one,
//! never a mixture. Only the totals of directories change as the steps go.

use haul_core::manifest::{Change, Entry};

use super::Memory;
use super::directories::Totals;
use crate::store::StoreError;

/// An amendment of one slot between its first and its last step. Nothing else may change the slot meanwhile.
#[derive(Debug)]
pub(in crate::store) struct Amendment {
    slot: u32,
    /// Rows to show.
    new: Vec<u32>,
    /// Rows to hide and to remove.
    gone: Vec<u32>,
    more: Totals,
    less: Totals,
}

impl Amendment {
    pub(in crate::store) fn new(slot: u32) -> Self {
        Self { slot, new: Vec::new(), gone: Vec::new(), more: Totals::default(), less: Totals::default() }
    }

    /// Prepares a change; nobody sees it. [`Memory::settle`] follows after the last of a step.
    pub(in crate::store) fn prepare(&mut self, memory: &mut Memory, change: &Change<'_>) -> Result<(), StoreError> {
        match change {
            Change::Upsert(entry) => self.upsert(memory, entry),
            Change::Remove { directory, name } => {
                if let Some(row) = memory.find(self.slot, directory, name) {
                    self.less.add(memory.totals_of_row(row));
                    self.gone.push(row);
                }
                Ok(())
            }
        }
    }

    fn upsert(&mut self, memory: &mut Memory, entry: &Entry<'_>) -> Result<(), StoreError> {
        let node = memory.arrive(self.slot, entry.directory)?;
        let at = memory.find_child(node, entry.name);
        let row = memory.add_row(self.slot, node, entry.name)?;
        memory.rows.set_hidden(row, true);
        match at.map(|at| memory.child_at(node, at)) {
            Ok(Some(old)) => {
                memory.replaced.insert(old, row);
                self.less.add(memory.totals_of_row(old));
                self.gone.push(old);
            }
            Ok(None) => {}
            Err(at) => memory.directories.children_mut(node).insert(&mut memory.lists, at, row),
        }
        self.more.add(memory.fill(row, entry));
        self.new.push(row);
        Ok(())
    }

    /// Shows what is new and hides what is gone: 50,000 rows in a fraction of a millisecond.
    pub(in crate::store) fn switch(&self, memory: &mut Memory) {
        for row in &self.new {
            memory.rows.set_hidden(*row, false);
        }
        for row in &self.gone {
            memory.rows.set_hidden(*row, true);
        }
        memory.count(self.slot, self.more);
        memory.uncount(self.slot, self.less);
    }

    /// Drops what was prepared, before it was shown.
    pub(in crate::store) fn give_up(&mut self, memory: &mut Memory) {
        for row in &self.gone {
            memory.replaced.remove(row);
        }
        self.gone = std::mem::take(&mut self.new);
    }

    /// Removes up to `limit` rows that are gone; returns whether some are left.
    pub(in crate::store) fn clear_up(&mut self, memory: &mut Memory, limit: usize) -> bool {
        for row in self.gone.split_off(self.gone.len().saturating_sub(limit)) {
            memory.bury(row);
        }
        !self.gone.is_empty()
    }
}

impl Memory {
    /// What a row counts in its directory.
    fn totals_of_row(&self, row: u32) -> Totals {
        let record = self.rows.get(row);
        if record.content == super::NONE {
            return Totals::default();
        }
        Totals { files: 1, bytes: self.contents.get(record.content).size() }
    }

    /// Removes a hidden row, which the one that replaces it follows in its place.
    fn bury(&mut self, row: u32) {
        self.settle();
        let node = self.rows.directory(row);
        let name = self.names.text(self.rows.name(row)).into_owned();
        let replacement = self.replaced.remove(&row);
        if let Ok(at) = self.find_child(node, &name)
            && self.child_at(node, at) == Some(row)
        {
            let children = self.directories.children_mut(node);
            match replacement {
                Some(new) => children.replace(&mut self.lists, at, new),
                None => {
                    children.remove(&mut self.lists, at);
                }
            }
        }
        let gone = self.clear(row);
        self.directories.change_totals(node, |totals| totals.subtract(gone));
        self.drop_row(row);
        self.prune(node);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::tests::{DIRECTORIES, Model, NAMES, check, kind, with_slots};
    use super::*;

    proptest! {
        /// At every step of an amendment the memory holds the list before it or the one after it.
        #[test]
        fn an_amendment_is_seen_whole_or_not_at_all(
            before in proptest::collection::vec((0usize..5, 0usize..6, 0u8..5, 0u8..3), 0..60),
            changes in proptest::collection::vec((0usize..5, 0usize..6, 0u8..8, 0u8..3), 1..60),
            step in 1usize..9,
            give_up in any::<bool>(),
        ) {
            let mut memory = with_slots(1);
            let mut model = Model::new();
            for (directory, name, change, blob) in before {
                let (directory, name) = (DIRECTORIES[directory], NAMES[name]);
                let kind = kind(change, blob);
                let entry = Entry { directory: directory.as_bytes(), name: name.as_bytes(), mtime_ns: 1, kind };
                memory.upsert(0, &entry, |_| ()).unwrap();
                model.insert((0, directory, name), (1, kind));
            }
            memory.settle();
            // A transaction names each path once.
            let changes: BTreeMap<_, _> = changes
                .into_iter()
                .map(|(directory, name, change, blob)| ((DIRECTORIES[directory], NAMES[name]), (change, blob)))
                .collect();
            let mut after = model.clone();
            let mut amendment = Amendment::new(0);
            for ((directory, name), (change, blob)) in changes {
                let (directory_bytes, name_bytes) = (directory.as_bytes(), name.as_bytes());
                if change < 5 {
                    let kind = kind(change, blob);
                    let entry = Entry { directory: directory_bytes, name: name_bytes, mtime_ns: 2, kind };
                    amendment.prepare(&mut memory, &Change::Upsert(entry)).unwrap();
                    after.insert((0, directory, name), (2, kind));
                } else {
                    let change = Change::Remove { directory: directory_bytes, name: name_bytes };
                    amendment.prepare(&mut memory, &change).unwrap();
                    after.remove(&(0, directory, name));
                }
                memory.settle();
                check(&memory, &model, false);
            }
            if give_up {
                amendment.give_up(&mut memory);
                after = model.clone();
            } else {
                amendment.switch(&mut memory);
            }
            check(&memory, &after, false);
            while amendment.clear_up(&mut memory, step) {
                check(&memory, &after, false);
            }
            check(&memory, &after, true);
            prop_assert!(memory.replaced.is_empty());
            let files = after.values().filter(|(_, kind)| matches!(kind, haul_core::manifest::EntryKind::File { .. }));
            prop_assert_eq!(memory.shares.slot(0).files, files.count() as u64);
        }
    }
}
