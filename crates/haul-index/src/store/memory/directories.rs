//! Directories: for each share a tree of nodes, each with its rows sorted by name.

use std::cmp::Ordering;
use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::NONE;
use super::chunked::Table;
use super::names::Names;

/// Rows of one directory in the order of their names, in runs so that a directory of a million files stays cheap to
/// change.
#[derive(Debug, Default)]
pub(in crate::store) struct Children {
    runs: Vec<Vec<u32>>,
}

const RUN: usize = 1_024;

/// A place in [`Children`].
pub(in crate::store) type ChildAt = (usize, usize);

impl Children {
    /// Where a row stands or would stand. `compare` says how a row compares with the one wanted.
    pub(in crate::store) fn find(&self, compare: impl Fn(u32) -> Ordering) -> Result<ChildAt, ChildAt> {
        // The last row first: a walk arrives in order.
        let Some(last) = self.runs.last().and_then(|run| run.last()) else { return Err((0, 0)) };
        let end = self.runs.len() - 1;
        if compare(*last) == Ordering::Less {
            return Err((end, self.runs[end].len()));
        }
        let run = self.runs.partition_point(|run| run.last().is_some_and(|last| compare(*last) == Ordering::Less));
        self.runs[run].binary_search_by(|row| compare(*row)).map(|at| (run, at)).map_err(|at| (run, at))
    }

    pub(in crate::store) fn insert(&mut self, (run, at): ChildAt, row: u32) {
        if self.runs.is_empty() {
            self.runs.push(Vec::new());
        }
        let rows = &mut self.runs[run];
        rows.insert(at, row);
        if rows.len() > RUN {
            // At the end a new run starts nearly empty, elsewhere a run is halved.
            let keep = if at == RUN { RUN } else { RUN / 2 };
            let rest = rows.split_off(keep);
            self.runs.insert(run + 1, rest);
        }
    }

    pub(in crate::store) fn remove(&mut self, (run, at): ChildAt) -> u32 {
        let row = self.runs[run].remove(at);
        if self.runs[run].is_empty() {
            self.runs.remove(run);
        }
        row
    }

    /// Takes the last row out.
    pub(in crate::store) fn pop(&mut self) -> Option<u32> {
        let row = self.runs.last_mut()?.pop();
        if self.runs.last().is_some_and(Vec::is_empty) {
            self.runs.pop();
        }
        row
    }

    pub(in crate::store) fn get(&self, (run, at): ChildAt) -> Option<u32> {
        self.runs.get(run)?.get(at).copied()
    }

    /// The rows from a place on.
    pub(in crate::store) fn from(&self, (run, at): ChildAt) -> impl Iterator<Item = u32> + '_ {
        let first = self.runs.get(run).and_then(|rows| rows.get(at..)).unwrap_or_default();
        let others = self.runs.get(run + 1..).unwrap_or_default();
        first.iter().chain(others.iter().flatten()).copied()
    }

    pub(in crate::store) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

#[derive(Debug)]
pub(in crate::store) struct Node {
    /// None for a root.
    pub(in crate::store) parent: u32,
    /// None for a root.
    pub(in crate::store) name: u32,
    pub(in crate::store) subdirs: Vec<u32>,
    pub(in crate::store) children: Children,
}

#[derive(Debug, Default)]
pub(in crate::store) struct Directories {
    nodes: Table<Node>,
    free: Vec<u32>,
    by_parent: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Directories {
    pub(in crate::store) fn node(&self, node: u32) -> &Node {
        &self.nodes[node]
    }

    pub(in crate::store) fn node_mut(&mut self, node: u32) -> &mut Node {
        &mut self.nodes[node]
    }

    pub(in crate::store) fn add_root(&mut self) -> u32 {
        self.place(Node { parent: NONE, name: NONE, subdirs: Vec::new(), children: Children::default() })
    }

    /// The node of a path below a root.
    pub(in crate::store) fn find(&self, names: &Names, root: u32, path: &[u8]) -> Option<u32> {
        let mut node = root;
        for component in components(path) {
            node = self.child(node, names.find(component)?)?;
        }
        Some(node)
    }

    /// The node of a path below a root, made where missing; none when the names are full.
    pub(in crate::store) fn ensure(&mut self, names: &mut Names, root: u32, path: &[u8]) -> Option<u32> {
        let mut node = root;
        for component in components(path) {
            let known = names.find(component).and_then(|name| self.child(node, name));
            node = if let Some(child) = known {
                child
            } else {
                let name = names.intern(component)?;
                let child = self.place(Node { parent: node, name, subdirs: Vec::new(), children: Children::default() });
                self.nodes[node].subdirs.push(child);
                let Self { by_parent, nodes, hasher, .. } = self;
                by_parent.insert_unique(hasher.hash_one((node, name)), child, |child| {
                    hasher.hash_one((nodes[*child].parent, nodes[*child].name))
                });
                child
            };
        }
        Some(node)
    }

    /// Removes a node that holds nothing any more, and its parents that held nothing else.
    pub(in crate::store) fn prune(&mut self, names: &mut Names, mut node: u32) {
        loop {
            let Node { parent, name, subdirs, children } = &self.nodes[node];
            let (parent, name) = (*parent, *name);
            if parent == NONE || !subdirs.is_empty() || !children.is_empty() {
                return;
            }
            if let Ok(entry) = self.by_parent.find_entry(self.hasher.hash_one((parent, name)), |child| *child == node) {
                entry.remove();
            }
            let siblings = &mut self.nodes[parent].subdirs;
            // From the end: a sweep takes the last one first.
            if let Some(at) = siblings.iter().rposition(|sibling| *sibling == node) {
                siblings.swap_remove(at);
            }
            names.release(name);
            self.free.push(node);
            node = parent;
        }
    }

    /// Frees an empty root.
    pub(in crate::store) fn remove_root(&mut self, root: u32) {
        self.free.push(root);
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
            path.extend_from_slice(names.text(name));
        }
    }

    pub(in crate::store) fn child(&self, parent: u32, name: u32) -> Option<u32> {
        let hash = self.hasher.hash_one((parent, name));
        self.by_parent
            .find(hash, |child| self.nodes[*child].parent == parent && self.nodes[*child].name == name)
            .copied()
    }

    fn place(&mut self, node: Node) -> u32 {
        if let Some(free) = self.free.pop() {
            self.nodes[free] = node;
            free
        } else {
            self.nodes.push(node)
        }
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
        fn children_are_a_sorted_set(operations in proptest::collection::vec((0u32..4_000, any::<bool>()), 0..4_000)) {
            let mut children = Children::default();
            let mut model = BTreeSet::new();
            for (row, insert) in operations {
                match children.find(|other| other.cmp(&row)) {
                    Ok(at) if !insert => { prop_assert_eq!(children.remove(at), row); }
                    Err(at) if insert => children.insert(at, row),
                    _ => {}
                }
                if insert { model.insert(row); } else { model.remove(&row); }
            }
            prop_assert_eq!(children.from((0, 0)).collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(children.is_empty(), model.is_empty());
        }
    }

    #[test]
    fn a_walk_in_order_fills_whole_runs() {
        let mut children = Children::default();
        for row in 0..5_000 {
            let at = children.find(|other| other.cmp(&row)).unwrap_err();
            children.insert(at, row);
        }
        assert_eq!(children.runs.len(), 5);
        assert_eq!(children.from((0, 0)).count(), 5_000);
    }
}
