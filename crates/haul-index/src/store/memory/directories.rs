//! Directories: for each share a tree of nodes. A node knows its rows in the order of their names, its subdirectories,
//! and how many files and bytes there are below it.

use std::cmp::Ordering;
use std::hash::BuildHasher;

use hashbrown::DefaultHashBuilder;

use super::NONE;
use super::chunked::Table;
use super::hash_index::{HashIndex, Key};
use super::lists::{At, EMPTY, Lists};
use super::names::{NODE, Names};
use super::rows::NODES;

/// Says that [`Children::first`] is a list.
const LISTED: u32 = u32::MAX;

/// Rows of one directory in the order of their names: consecutive rows, as a walk makes them, else a list.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Children {
    /// The first row, or a list.
    first: u32,
    /// How many rows follow each other, or [`LISTED`].
    count: u32,
}

impl Children {
    const NONE: Self = Self { first: 0, count: 0 };

    pub(in crate::store) fn is_empty(self) -> bool {
        self.count == 0 || self.first == EMPTY
    }

    /// Where a row stands or would stand; `compare` says how a row compares with the one wanted.
    pub(in crate::store) fn find(self, lists: &Lists, mut compare: impl FnMut(u32) -> Ordering) -> Result<At, At> {
        let Self { first, count } = self;
        if count == LISTED {
            return lists.find(first, compare);
        }
        // The last one first: a walk arrives in order.
        if count == 0 || compare(first + count - 1) == Ordering::Less {
            return Err((0, count as usize));
        }
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low.midpoint(high);
            match compare(first + middle) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok((0, middle as usize)),
            }
        }
        Err((0, low as usize))
    }

    pub(in crate::store) fn insert(&mut self, lists: &mut Lists, at: At, row: u32) {
        let Self { first, count } = *self;
        if count == 0 {
            *self = Self { first: row, count: 1 };
        } else if count != LISTED && at.1 == count as usize && row == first + count {
            self.count += 1;
        } else {
            if count != LISTED {
                let before = first..first + at.1 as u32;
                let behind = first + at.1 as u32..first + count;
                // Made at once: a place in a range says nothing in a list of runs.
                let rows: Vec<u32> = before.chain([row]).chain(behind).collect();
                *self = Self { first: lists.make(rows.into_iter()), count: LISTED };
                return;
            }
            lists.insert(&mut self.first, at, row);
        }
    }

    pub(in crate::store) fn remove(&mut self, lists: &mut Lists, at: At) -> Option<u32> {
        let Self { first, count } = *self;
        if count == LISTED {
            let removed = lists.remove(&mut self.first, at);
            if self.first == EMPTY {
                *self = Self::NONE;
            }
            return removed;
        }
        let place = at.1 as u32;
        if place >= count {
            return None;
        }
        *self = if place == 0 {
            Self { first: first + 1, count: count - 1 }
        } else if place == count - 1 {
            Self { first, count: count - 1 }
        } else {
            let rows: Vec<u32> = (first..first + count).filter(|row| *row != first + place).collect();
            Self { first: lists.make(rows.into_iter()), count: LISTED }
        };
        Some(first + place)
    }

    /// Puts another row of the same name in a place.
    pub(in crate::store) fn replace(&mut self, lists: &mut Lists, at: At, row: u32) {
        if self.count == LISTED {
            lists.set(&mut self.first, at, row);
        } else {
            let range = self.first..self.first + self.count;
            let rows: Vec<u32> = range.enumerate().map(|(place, old)| if place == at.1 { row } else { old }).collect();
            *self = Self { first: lists.make(rows.into_iter()), count: LISTED };
        }
    }

    /// Takes the last row out.
    pub(in crate::store) fn pop(&mut self, lists: &mut Lists) -> Option<u32> {
        let last = match self.count {
            LISTED => lists.last(self.first)?,
            count => (0, count.checked_sub(1)? as usize),
        };
        self.remove(lists, last)
    }

    /// The rows from a place on.
    pub(in crate::store) fn iter_from(self, lists: &Lists, at: At) -> impl Iterator<Item = u32> + '_ {
        let Self { first, count } = self;
        let (range, list) = if count == LISTED { (0..0, first) } else { (first + at.1 as u32..first + count, EMPTY) };
        range.chain(lists.iter_from(list, at))
    }
}

/// What stands in a directory and below, of files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Totals {
    pub(in crate::store) files: u32,
    /// Modulo 2^64: sizes are what somebody claims.
    pub(in crate::store) bytes: u64,
}

impl Totals {
    pub(in crate::store) fn add(&mut self, other: Self) {
        self.files = self.files.wrapping_add(other.files);
        self.bytes = self.bytes.wrapping_add(other.bytes);
    }

    pub(in crate::store) fn subtract(&mut self, other: Self) {
        self.files = self.files.wrapping_sub(other.files);
        self.bytes = self.bytes.wrapping_sub(other.bytes);
    }
}

#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Node {
    /// None for a root; the next free one in a free record.
    pub(in crate::store) parent: u32,
    /// None for a root.
    pub(in crate::store) name: u32,
    pub(in crate::store) slot: u32,
    pub(in crate::store) children: Children,
    /// List of nodes in the order of their names.
    subdirs: u32,
    files: u32,
    /// Low and high half; one number would be aligned to eight bytes.
    bytes: [u32; 2],
}

impl Node {
    fn totals(&self) -> Totals {
        Totals { files: self.files, bytes: u64::from(self.bytes[1]) << 32 | u64::from(self.bytes[0]) }
    }
}

/// All nodes.
#[derive(Debug)]
pub(in crate::store) struct Directories {
    nodes: Table<Node>,
    free: u32,
    by_parent: HashIndex,
    hasher: DefaultHashBuilder,
}

impl Default for Directories {
    fn default() -> Self {
        Self {
            nodes: Table::default(),
            free: NONE,
            by_parent: HashIndex::default(),
            hasher: DefaultHashBuilder::default(),
        }
    }
}

impl Directories {
    pub(in crate::store) fn node(&self, node: u32) -> &Node {
        &self.nodes[node]
    }

    pub(in crate::store) fn children_mut(&mut self, node: u32) -> &mut Children {
        &mut self.nodes[node].children
    }

    /// Files and bytes in a directory and below.
    pub(in crate::store) fn totals(&self, node: u32) -> Totals {
        self.nodes[node].totals()
    }

    /// List of the subdirectories of a node in the order of their names.
    pub(in crate::store) fn subdirs(&self, node: u32) -> u32 {
        self.nodes[node].subdirs
    }

    /// A root for a slot; none when the table is full.
    pub(in crate::store) fn add_root(&mut self, slot: u32) -> Option<u32> {
        self.place(NONE, NONE, slot)
    }

    /// The node of a path below a root.
    pub(in crate::store) fn find(&self, names: &Names, root: u32, path: &[u8]) -> Option<u32> {
        let mut node = root;
        for component in components(path) {
            node = self.child(node, names.find(component)?)?;
        }
        Some(node)
    }

    /// The node of a path below a root, made where missing; none when the tables are full.
    pub(in crate::store) fn ensure(
        &mut self,
        names: &mut Names,
        lists: &mut Lists,
        root: u32,
        path: &[u8],
    ) -> Option<u32> {
        let slot = self.nodes[root].slot;
        let mut node = root;
        for component in components(path) {
            let Some(name) = names.intern(component) else {
                self.prune(names, lists, node);
                return None;
            };
            if let Some(child) = self.child(node, name) {
                node = child;
                continue;
            }
            let Some(child) = self.place(node, name, slot) else {
                names.forget_unlinked(name);
                self.prune(names, lists, node);
                return None;
            };
            names.link(lists, name, NODE | child);
            if let Err(at) = self.find_subdir(names, lists, node, component) {
                lists.insert(&mut self.nodes[node].subdirs, at, child);
            }
            let key = self.key(node, name);
            self.by_parent.insert(key, child);
            node = child;
        }
        Some(node)
    }

    /// Removes a node that holds nothing any more, and its parents that held nothing else; returns the nearest that
    /// stays.
    pub(in crate::store) fn prune(&mut self, names: &mut Names, lists: &mut Lists, mut node: u32) -> u32 {
        loop {
            let Node { parent, name, subdirs, children, .. } = self.nodes[node];
            if parent == NONE || subdirs != EMPTY || !children.is_empty() {
                return node;
            }
            let key = self.key(parent, name);
            self.by_parent.remove(key, node);
            if let Ok(at) = self.find_subdir(names, lists, parent, &names.text(name)) {
                lists.remove(&mut self.nodes[parent].subdirs, at);
            }
            names.unlink(lists, name, NODE | node);
            self.free(node);
            node = parent;
        }
    }

    /// Frees an empty root.
    pub(in crate::store) fn remove_root(&mut self, root: u32) {
        self.free(root);
    }

    /// Counts files and bytes in a directory and everything above it.
    pub(in crate::store) fn change_totals(&mut self, mut node: u32, change: impl Fn(&mut Totals)) {
        while node != NONE {
            let record = &mut self.nodes[node];
            let mut totals = record.totals();
            change(&mut totals);
            record.files = totals.files;
            record.bytes = [totals.bytes as u32, (totals.bytes >> 32) as u32];
            node = record.parent;
        }
    }

    /// The path of a node, components joined by `/`, into `path`.
    pub(in crate::store) fn path(&self, names: &Names, node: u32, path: &mut Vec<u8>) {
        path.clear();
        let mut chain = Vec::new();
        let mut at = node;
        while self.nodes[at].parent != NONE {
            chain.push(self.nodes[at].name);
            at = self.nodes[at].parent;
        }
        for name in chain.into_iter().rev() {
            if !path.is_empty() {
                path.push(b'/');
            }
            names.push_text(name, path);
        }
    }

    /// Where the subdirectory of a name stands among those of a node, or would.
    pub(in crate::store) fn find_subdir(&self, names: &Names, lists: &Lists, node: u32, name: &[u8]) -> Result<At, At> {
        lists.find(self.nodes[node].subdirs, |subdir| names.compare(self.nodes[subdir].name, name))
    }

    pub(in crate::store) fn child(&self, parent: u32, name: u32) -> Option<u32> {
        self.by_parent.find(self.key(parent, name), |child| {
            let child = &self.nodes[child];
            child.parent == parent && child.name == name
        })
    }

    /// Bytes of all nodes, without lists.
    pub(in crate::store) fn bytes(&self) -> usize {
        self.nodes.bytes() + self.by_parent.bytes()
    }

    fn key(&self, parent: u32, name: u32) -> Key {
        Key::of(self.hasher.hash_one((parent, name)))
    }

    fn place(&mut self, parent: u32, name: u32, slot: u32) -> Option<u32> {
        let node = Node { parent, name, slot, children: Children::NONE, subdirs: EMPTY, files: 0, bytes: [0; 2] };
        if self.free == NONE {
            return (self.nodes.len() < NODES).then(|| self.nodes.push(node));
        }
        let free = self.free;
        self.free = self.nodes[free].parent;
        self.nodes[free] = node;
        Some(free)
    }

    fn free(&mut self, node: u32) {
        self.nodes[node].parent = self.free;
        self.free = node;
    }
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|component| !component.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn children_are_a_sorted_set(
            most in prop_oneof![Just(8u32), Just(4_000)],
            operations in proptest::collection::vec((any::<u32>(), 0u8..4), 0..4_000),
        ) {
            let mut lists = Lists::default();
            let mut children = Children::NONE;
            let mut model = BTreeSet::new();
            for (row, kind) in operations {
                // Often the next one, as from a walk.
                let row = if kind == 0 { model.last().map_or(0, |last| last + 1) } else { row % most };
                let insert = kind < 3;
                match children.find(&lists, |other| other.cmp(&row)) {
                    Ok(at) if kind == 2 => children.replace(&mut lists, at, row),
                    Ok(at) if !insert => prop_assert_eq!(children.remove(&mut lists, at), Some(row)),
                    Err(at) if insert => children.insert(&mut lists, at, row),
                    _ => {}
                }
                if insert { model.insert(row); } else { model.remove(&row); }
            }
            let rows: Vec<u32> = model.iter().copied().collect();
            prop_assert_eq!(children.iter_from(&lists, (0, 0)).collect::<Vec<_>>(), rows.clone());
            prop_assert_eq!(children.is_empty(), model.is_empty());
            let (Ok(middle) | Err(middle)) = children.find(&lists, |other| other.cmp(&(most / 2)));
            let behind: Vec<u32> = model.range(most / 2..).copied().collect();
            prop_assert_eq!(children.iter_from(&lists, middle).collect::<Vec<_>>(), behind);
            for row in rows.into_iter().rev() {
                prop_assert_eq!(children.pop(&mut lists), Some(row));
            }
            prop_assert_eq!(children.pop(&mut lists), None);
        }
    }

    #[test]
    fn a_walk_in_order_costs_no_list() {
        let mut lists = Lists::default();
        let mut children = Children::NONE;
        for row in 0..5_000 {
            let at = children.find(&lists, |other| other.cmp(&row)).unwrap_err();
            children.insert(&mut lists, at, row);
        }
        assert_eq!((children.iter_from(&lists, (0, 0)).count(), lists.bytes()), (5_000, 0));
        assert_eq!(size_of::<Node>(), 36);
    }
}
