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

/// The filters, with what is known per slot and directory once it has been computed. A number of a slot or directory
/// that is given to another one while a search runs keeps what was known; who may see it is not among that.
pub(super) struct Filters<'a> {
    query: &'a Query,
    away: bool,
    now_ns: i64,
    /// Whether the filters on peer and share hold, by slot.
    slots: RefCell<HashMap<u32, bool>>,
    /// Whether the filters on the path hold, by directory.
    paths: RefCell<HashMap<u32, bool>>,
    /// Words in the components of a path, by directory.
    parts: RefCell<HashMap<u32, u64>>,
}

impl<'a> Filters<'a> {
    pub(super) fn new(question: &SearchQuestion<'a>) -> Self {
        Self {
            query: question.query,
            away: question.away,
            now_ns: question.now_ns,
            slots: RefCell::default(),
            paths: RefCell::default(),
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

    /// Whether a row counts: the asker may see it now, and every filter holds.
    pub(super) fn fit(&self, memory: &Memory, view: &View, row: u32) -> bool {
        self.sees(view, memory.slot_of_row(row)) && (self.query.filters.is_empty() || self.row_fits(memory, row))
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
                    Test::Share(text) => fold(memory.shares.slot(slot).name.as_str().as_bytes()) == *text,
                    _ => return true,
                };
                holds != filter.inverted
            })
        })
    }

    fn path_fits(&self, memory: &Memory, slot: u32, directory: u32) -> bool {
        let tests: Vec<&Filter> =
            self.query.filters.iter().filter(|filter| matches!(filter.test, Test::Path(_))).collect();
        if tests.is_empty() {
            return true;
        }
        *self.paths.borrow_mut().entry(directory).or_insert_with(|| {
            let components = components(memory, slot, directory);
            tests.iter().all(|filter| match &filter.test {
                Test::Path(test) => path_holds(test, &components) != filter.inverted,
                _ => true,
            })
        })
    }

    /// The documents below the directories that a `path:` filter names from the top, if there is one and they are at
    /// most `size`.
    pub(super) fn docs_below(&self, memory: &Memory, view: &View, size: usize) -> Option<Vec<u32>> {
        let wanted = self.anchor()?;
        let mut docs = Vec::new();
        for slot in 0..memory.shares.slots.len() as u32 {
            if !self.sees(view, slot) {
                continue;
            }
            let record = memory.shares.slot(slot);
            let top = fold(record.name.as_str().as_bytes());
            let mut starts = matching(memory, record.root, wanted);
            if wanted.first() == Some(&top) {
                starts.extend(matching(memory, record.root, wanted.get(1..).unwrap_or_default()));
            }
            for start in starts {
                if !collect_docs(memory, start, size, &mut docs) {
                    return None;
                }
            }
        }
        Some(docs)
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

fn path_holds(test: &PathTest, components: &[String]) -> bool {
    match test {
        PathTest::Below(below) => {
            components.starts_with(below) || components.get(1..).is_some_and(|inside| inside.starts_with(below))
        }
        PathTest::Contains(part) => format!("{}/", components.join("/")).contains(part.as_str()),
    }
}
