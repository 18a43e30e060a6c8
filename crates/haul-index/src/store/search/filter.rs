//! The filters of a query on rows.

use std::cell::RefCell;

use hashbrown::HashMap;
use haul_core::query::{Filter, PathTest, Query, Test, fold};
use haul_core::wire::index::HitKind;

use super::matching::Matcher;
use crate::store::SearchQuestion;
use crate::store::embedded::Asking;
use crate::store::memory::contents::hash_starts_with;
use crate::store::memory::shares::{Slot, View};
use crate::store::memory::{Memory, NONE};

/// With so few slots that the asker sees a search may start from what they hold.
const FEW_SLOTS: usize = 64;

/// Directories of one name that are looked at to find those at a path: about a millisecond.
const NODES: usize = 20_000;

/// The filters, with what is known per slot and directory once it has been computed. A number of a slot or directory
/// that is given to another one while a search runs keeps what was known; who may see it is not among that.
pub(super) struct Filters<'a> {
    query: &'a Query,
    away: bool,
    now_ns: i64,
    /// Whether the filters on peer and share hold, by slot.
    slots: RefCell<HashMap<u32, bool>>,
    /// The filters on the path, and whether each is inverted.
    path_tests: Vec<(&'a PathTest, bool)>,
    /// Whether they hold, by directory.
    paths: RefCell<HashMap<u32, bool>>,
    /// By filter on the path and directory.
    followed: RefCell<HashMap<(usize, u32), Followed>>,
    /// Words in the components of a path, by directory.
    parts: RefCell<HashMap<u32, u64>>,
}

/// How many components of a wanted path the path of a directory has in front, if they are all that one of both has.
#[derive(Clone, Copy, Debug)]
struct Followed {
    from_root: Option<u16>,
    /// With the name of the share as the first component.
    from_share: Option<u16>,
}

impl Followed {
    fn is_below(self, wanted: &[String]) -> bool {
        let all = |count: Option<u16>| count.is_some_and(|count| usize::from(count) == wanted.len());
        all(self.from_root) || all(self.from_share)
    }
}

fn path_tests(query: &Query) -> impl Iterator<Item = (&PathTest, bool)> {
    query.filters.iter().filter_map(|filter| match &filter.test {
        Test::Path(test) => Some((test, filter.inverted)),
        _ => None,
    })
}

impl<'a> Filters<'a> {
    pub(super) fn new(question: &SearchQuestion<'a>) -> Self {
        Self {
            query: question.query,
            away: question.away,
            now_ns: question.now_ns,
            slots: RefCell::default(),
            path_tests: path_tests(question.query).collect(),
            paths: RefCell::default(),
            followed: RefCell::default(),
            parts: RefCell::default(),
        }
    }

    pub(super) fn query(&self) -> &'a Query {
        self.query
    }

    /// Lists of extensions of which a folded name must have one.
    pub(super) fn extensions(&self) -> Vec<Vec<&'a str>> {
        let wanted = self.query.filters.iter().filter(|filter| !filter.inverted);
        wanted
            .filter_map(|filter| match &filter.test {
                Test::Extension(list) => Some(list.iter().map(String::as_str).collect()),
                Test::Type(types) => {
                    let lists: Option<Vec<_>> = types.iter().map(|wanted| wanted.needs_extension()).collect();
                    lists.map(|lists| lists.concat())
                }
                _ => None,
            })
            .collect()
    }

    /// Whether names are tested beside the words.
    pub(super) fn test_names(&self) -> bool {
        let by_name = |filter: &Filter| matches!(filter.test, Test::Extension(_));
        !self.query.without.is_empty() || self.query.filters.iter().any(by_name)
    }

    /// Whether the contents of rows are looked at.
    pub(super) fn test_contents(&self) -> bool {
        self.query.filters.iter().any(|filter| matches!(filter.test, Test::Size { .. } | Test::Hash(_)))
    }

    /// Whether an excluded word or an extension speaks against a folded base name.
    pub(super) fn refuse_name(&self, name: &str) -> bool {
        self.query.without.iter().any(|word| name.contains(word.as_str()))
            || self.query.filters.iter().any(|filter| match &filter.test {
                Test::Extension(list) => has_extension(name, list) == filter.inverted,
                // A file that has the name would be of the type, or nothing is.
                Test::Type(types) if !filter.inverted => {
                    !types.iter().any(|wanted| wanted.needs_extension().is_none() || wanted.fits(HitKind::File, name))
                }
                _ => false,
            })
    }

    /// Whether all that the asker may see is away.
    pub(super) fn nobody_is_there(&self, asking: &Asking<'_>) -> bool {
        !self.away && asking.look(|_, view| view.shown.is_empty())
    }

    /// Whether the asker may see a slot now.
    fn sees(&self, view: &View, slot: u32) -> bool {
        if self.away { view.allowed.get(slot) } else { view.shown.get(slot) }
    }

    /// Whether the asker may see a row now, and it is there if it must be.
    pub(super) fn see(&self, memory: &Memory, view: &View, row: u32) -> bool {
        self.sees(view, memory.slot_of_row(row))
    }

    /// Whether a row counts: the asker may see it now, and every filter holds.
    pub(super) fn fit(&self, memory: &Memory, view: &View, row: u32) -> bool {
        self.see(memory, view, row) && (self.query.filters.is_empty() || self.row_fits(memory, row))
    }

    /// Whether every word stands in the base name of a row or, where allowed, in a directory part above it.
    pub(super) fn words_fit(&self, memory: &Memory, matcher: &Matcher<'_>, row: u32) -> bool {
        let in_name = matcher.mask(memory.names.folded(memory.doc_of_row(row)));
        let all = matcher.all();
        in_name == all || in_name | self.words_above(memory, matcher, row) & matcher.movable() == all
    }

    /// The words that stand in directory parts above a row.
    pub(super) fn words_above(&self, memory: &Memory, matcher: &Matcher<'_>, row: u32) -> u64 {
        self.words_in_path(memory, matcher, memory.directory_of_row(row))
    }

    fn words_in_path(&self, memory: &Memory, matcher: &Matcher<'_>, node: u32) -> u64 {
        if let Some(mask) = self.parts.borrow().get(&node) {
            return *mask;
        }
        let record = memory.directories.node(node);
        let mask = if record.parent == NONE {
            0
        } else {
            // Recursion ends: a path has a limited number of components.
            matcher.mask(memory.names.folded_name(record.name)) | self.words_in_path(memory, matcher, record.parent)
        };
        self.parts.borrow_mut().insert(node, mask);
        mask
    }

    fn row_fits(&self, memory: &Memory, row: u32) -> bool {
        let record = memory.row(row);
        let own = self.query.filters.iter().all(|filter| {
            let holds = match &filter.test {
                Test::Size { min, max } => {
                    memory.size_of_row(&record).is_some_and(|size| (*min..=*max).contains(&size))
                }
                Test::Age { min_ns, max_ns } => {
                    (*min_ns..=*max_ns).contains(&self.now_ns.saturating_sub(record.mtime_ns))
                }
                Test::Type(list) => {
                    let name = memory.names.folded_name(record.name);
                    list.iter().any(|file_type| file_type.fits(record.kind(), name))
                }
                Test::Hash(digits) => memory.blob(&record).is_some_and(|blob| hash_starts_with(&blob, digits)),
                // Tested by name, slot or directory.
                Test::Extension(_) | Test::Peer(_) | Test::Share(_) | Test::Path(_) => return true,
            };
            holds != filter.inverted
        });
        own && self.slot_fits(memory, record.slot()) && self.path_fits(memory, record.slot(), record.directory)
    }

    fn slot_fits(&self, memory: &Memory, slot: u32) -> bool {
        *self.slots.borrow_mut().entry(slot).or_insert_with(|| {
            self.query.filters.iter().all(|filter| {
                let holds = match &filter.test {
                    Test::Peer(text) => is_peer(memory, slot, text),
                    Test::Share(text) => is_share(memory, slot, text),
                    _ => return true,
                };
                holds != filter.inverted
            })
        })
    }

    fn path_fits(&self, memory: &Memory, slot: u32, directory: u32) -> bool {
        self.path_tests.is_empty()
            || *self.paths.borrow_mut().entry(directory).or_insert_with(|| {
                self.path_tests.iter().enumerate().all(|(number, (test, inverted))| {
                    let holds = match test {
                        PathTest::Below(wanted) => self.followed(memory, (number, wanted), directory).is_below(wanted),
                        PathTest::Contains(part) => {
                            format!("{}/", components(memory, slot, directory).join("/")).contains(part.as_str())
                        }
                    };
                    holds != *inverted
                })
            })
    }

    /// How far the path of a directory follows a wanted one. Most directories are told by those above them.
    fn followed(&self, memory: &Memory, (number, wanted): (usize, &[String]), directory: u32) -> Followed {
        if let Some(followed) = self.followed.borrow().get(&(number, directory)) {
            return *followed;
        }
        let node = memory.directories.node(directory);
        let followed = if node.parent == NONE {
            let share = wanted.first().is_some_and(|first| is_share(memory, node.slot, first));
            Followed { from_root: Some(0), from_share: share.then_some(1) }
        } else {
            // Recursion ends: a path has a limited number of components.
            let above = self.followed(memory, (number, wanted), node.parent);
            let next = |count: u16| match wanted.get(usize::from(count)) {
                Some(name) => (memory.names.folded_name(node.name) == name).then(|| count + 1),
                None => Some(count),
            };
            Followed { from_root: above.from_root.and_then(next), from_share: above.from_share.and_then(next) }
        };
        self.followed.borrow_mut().insert((number, directory), followed);
        followed
    }

    /// The documents below the directories that a `path:` filter names from the top, if there is one and they are at
    /// most `size`.
    pub(super) fn docs_below(&self, memory: &Memory, view: &View, size: usize) -> Option<Vec<u32>> {
        let starts = standing_at(memory, self.anchor()?)?;
        let mut docs = Vec::new();
        let mut seen = starts.into_iter().filter(|node| self.sees(view, memory.directories.node(*node).slot));
        seen.all(|start| collect_docs(memory, start, size, &mut docs)).then_some(docs)
    }

    /// The components of a `path:` filter from the top.
    fn anchor(&self) -> Option<&'a [String]> {
        self.query.filters.iter().filter(|filter| !filter.inverted).find_map(|filter| match &filter.test {
            Test::Path(PathTest::Below(components)) if !components.is_empty() => Some(components.as_slice()),
            _ => None,
        })
    }

    /// The documents of the shares that filters on peer and share leave, or that are there at all, if these are few or
    /// there are such filters, and the documents are at most `size`.
    pub(super) fn docs_of_slots(&self, memory: &Memory, view: &View, size: usize) -> Option<Vec<u32>> {
        let by_slot = |filter: &Filter| matches!(filter.test, Test::Peer(_) | Test::Share(_)) && !filter.inverted;
        let filtered = self.query.filters.iter().any(by_slot);
        let few = !self.away && view.shown.ones().take(FEW_SLOTS + 1).count() <= FEW_SLOTS;
        // A walk in order ends early where much of what there is counts.
        let size = if filtered { size } else { size / 8 };
        if !filtered && !few {
            return None;
        }
        let all = memory.shares.slots.len() as u32;
        let slots: Vec<u32> = if few { view.shown.ones().collect() } else { (0..all).collect() };
        let fits = |slot: &u32| self.sees(view, *slot) && self.slot_fits(memory, *slot);
        let slots: Vec<&Slot> = slots.into_iter().filter(fits).map(|slot| memory.shares.slot(slot)).collect();
        if slots.iter().map(|slot| slot.files).sum::<u64>() > size as u64 {
            return None;
        }
        let mut docs = Vec::new();
        slots.iter().all(|slot| collect_docs(memory, slot.root, size, &mut docs)).then_some(docs)
    }
}

/// The directories at this path in any share, or at the rest of it in a share whose name is its first component. None if
/// too many directories have each of its names.
fn standing_at(memory: &Memory, path: &[String]) -> Option<Vec<u32>> {
    let (first, inner) = path.split_first()?;
    let mut found = Vec::new();
    if inner.is_empty() {
        let slots = (0..memory.shares.slots.len() as u32).filter(|slot| is_share(memory, *slot, first));
        found.extend(slots.map(|slot| memory.shares.slot(slot).root));
    }
    // The name of a share is that of no directory, so the first component tells nothing if there are others.
    let names = path.iter().enumerate().skip(usize::from(!inner.is_empty()));
    let counted = names.map(|(at, name)| {
        let doc = memory.names.doc_of_folded(name);
        (doc.map_or(0, |doc| memory.node_count_of_doc(doc)), at, doc)
    });
    let (count, at, doc) = counted.min()?;
    let Some(doc) = doc.filter(|_| count > 0) else { return Some(found) };
    if count > NODES {
        return None;
    }
    let (above, below) = (path.get(..at)?, path.get(at + 1..)?);
    let nodes = memory.nodes_of_doc(doc).filter(|node| stands_below(memory, *node, above));
    found.extend(nodes.flat_map(|node| matching(memory, node, below)));
    Some(found)
}

/// Whether the directories above a node are these, or in a share with the name of the first the others.
fn stands_below(memory: &Memory, node: u32, mut above: &[String]) -> bool {
    let mut node = memory.directories.node(node);
    loop {
        node = memory.directories.node(node.parent);
        if node.parent == NONE {
            return match above {
                [] => true,
                [share] => is_share(memory, node.slot, share),
                _ => false,
            };
        }
        match above.split_last() {
            Some((last, rest)) if memory.names.folded_name(node.name) == last => above = rest,
            _ => return false,
        }
    }
}

fn is_share(memory: &Memory, slot: u32, folded: &str) -> bool {
    fold(memory.shares.slot(slot).name.as_str().as_bytes()) == folded
}

/// The nodes whose path from `node` down folds to these components.
fn matching(memory: &Memory, node: u32, components: &[String]) -> Vec<u32> {
    let Some((first, rest)) = components.split_first() else { return vec![node] };
    memory
        .subdirs(node)
        .filter(|child| memory.names.folded_name(memory.directories.node(*child).name) == first)
        .flat_map(|child| matching(memory, child, rest))
        .collect()
}

/// The documents in a directory and below; false if there are more than `size`.
pub(super) fn collect_docs(memory: &Memory, node: u32, size: usize, docs: &mut Vec<u32>) -> bool {
    let mut nodes = vec![node];
    while let Some(node) = nodes.pop() {
        let room = (size + 1).saturating_sub(docs.len());
        docs.extend(memory.children_from(node, (0, 0)).take(room).map(|row| memory.doc_of_row(row)));
        if docs.len() > size {
            return false;
        }
        nodes.extend(memory.subdirs(node));
    }
    true
}

fn has_extension(name: &str, list: &[String]) -> bool {
    list.iter().any(|extension| name.strip_suffix(extension.as_str()).is_some_and(|stem| stem.ends_with('.')))
}

fn is_peer(memory: &Memory, slot: u32, text: &str) -> bool {
    let peer = memory.shares.peer_of(slot);
    let by_key = text.starts_with("pk:") && text.len() >= 11 && peer.id.to_string().starts_with(text);
    by_key || fold(peer.name.as_str().as_bytes()) == text
}

/// The folded components of `share/directory`, the share's name first.
fn components(memory: &Memory, slot: u32, directory: u32) -> Vec<String> {
    let mut components = Vec::new();
    let mut node = directory;
    while memory.directories.node(node).parent != NONE {
        components.push(memory.names.folded_name(memory.directories.node(node).name).to_owned());
        node = memory.directories.node(node).parent;
    }
    components.push(fold(memory.shares.slot(slot).name.as_str().as_bytes()));
    components.reverse();
    components
}
