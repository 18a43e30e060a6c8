//! A plain loop over all files, as the language defines it. It shares no code with the engine, only the definitions of
//! the language: folding, parsing, types, classes and distances.
//!
//! What no query changes is worked out once: the folded names, the files of each name, and which of them make one hit.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use haul_core::ids::{BlobId, PeerId};
use haul_core::query::{Filter, PathTest, Query, Test, fold, match_class, near_distance, near_tolerance};
use haul_core::wire::index::{Hit, HitKind};
use memchr::memmem::Finder;

use super::paths::{File, Files, peer, peer_name, share_name};

pub(crate) const NOW_NS: i64 = 1_000 * 86_400_000_000_000;
/// Directory parts count only below so many hits.
const DIRECTORY_PARTS_BELOW: usize = 100;
/// Of a name of more files the engine may count only the contents of the first ones.
const COUNTED: usize = 64;
/// Class of a hit of which some word stands in a directory part only.
const IN_DIRECTORY: usize = 3;

/// What is told of a hit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Line {
    pub(crate) name: Vec<u8>,
    blob: Option<BlobId>,
    size: u64,
    mtime_ns: i64,
    peer: PeerId,
    share: String,
    path: Vec<u8>,
    names: u32,
    /// 0 for names whose contents are not compared.
    contents: u32,
    copies: u32,
    online: u32,
    link: bool,
}

impl Line {
    /// `uncounted`: folded names whose contents are not compared.
    pub(crate) fn of(hit: &Hit, uncounted: &BTreeSet<String>) -> Self {
        Self {
            name: hit.name.0.clone(),
            blob: hit.blob,
            size: hit.size,
            mtime_ns: hit.mtime_ns,
            peer: hit.peer,
            share: hit.share.as_str().to_owned(),
            path: hit.path.as_bytes().to_vec(),
            names: hit.names,
            contents: if uncounted.contains(&fold(&hit.name)) { 0 } else { hit.contents },
            copies: hit.copies,
            online: hit.online,
            link: hit.kind == HitKind::Symlink,
        }
    }
}

/// Where a hit stands among others; better is smaller. Registered copies of the name and its length count only once
/// upkeep is done, because the engine goes by what it noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The class, or the distance of a near match.
    pub(crate) class: usize,
    /// Whole powers of two in the copies of the name, inverted.
    fewer: u32,
    len: usize,
}

impl Place {
    /// As far as it holds while upkeep has work.
    pub(crate) fn only_class(self) -> Self {
        Self { class: self.class, fewer: 0, len: 0 }
    }
}

/// What a query must answer.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    pub(crate) hits: BTreeMap<Line, Place>,
    /// Nothing fits; these are near.
    pub(crate) near: bool,
    /// Folded names whose contents are not compared.
    pub(crate) uncounted: Arc<BTreeSet<String>>,
}

/// A file with what every query needs of it.
struct Folded<'a> {
    file: &'a File,
    /// Its number in `Oracle::directories`.
    directory: usize,
    hash: String,
}

/// A directory of a share that holds files.
struct Directory {
    parts: Vec<String>,
    /// The parts with the name of the share in front.
    from_share: Vec<String>,
    /// The same as one text, with a slash at the end.
    path: String,
}

/// Files of one name.
struct Name {
    folded: String,
    /// Files and directories that have it.
    registered: u32,
    /// The files of each hit, in their order.
    groups: Vec<Group>,
    /// Different contents; at least 1.
    contents: u32,
}

impl Name {
    fn files(&self) -> usize {
        self.groups.iter().map(|group| group.files.len()).sum()
    }
}

struct Group {
    files: Vec<usize>,
    /// Different names under which the content is there.
    names: u32,
}

/// All files, and who is there.
pub(crate) struct Oracle<'a> {
    files: Vec<Folded<'a>>,
    directories: Vec<Directory>,
    names: Vec<Name>,
    /// By share.
    online: Vec<bool>,
    uncounted: Arc<BTreeSet<String>>,
}

impl<'a> Oracle<'a> {
    pub(crate) fn new(files: &'a Files, online: Vec<bool>) -> Self {
        let mut directories = Vec::new();
        let mut numbers = HashMap::new();
        let mut folded = Vec::new();
        let mut registered: HashMap<String, u32> = HashMap::new();
        let mut above: BTreeSet<(usize, &[u8])> = BTreeSet::new();
        for file in &files.0 {
            let directory = *numbers.entry((file.share, &file.directory)).or_insert_with(|| {
                directories.push(Directory::new(file.share, &file.directory));
                directories.len() - 1
            });
            let hash = file.blob.map_or_else(String::new, |blob| blob.to_string()[3..].to_owned());
            folded.push(Folded { file, directory, hash });
            *registered.entry(fold(&file.name)).or_default() += 1;
            let mut path = file.directory.as_slice();
            while !path.is_empty() && above.insert((file.share, path)) {
                path = &path[..path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)];
            }
        }
        for (_, path) in above {
            let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            *registered.entry(fold(name)).or_default() += 1;
        }
        let names = names_of(&folded, &registered);
        let many = names.iter().filter(|name| name.files() > COUNTED).map(|name| name.folded.clone());
        Self { uncounted: Arc::new(many.collect()), names, files: folded, directories, online }
    }

    /// Contents of these folded names are not compared, nor of those with very many files.
    pub(crate) fn without_contents_of(mut self, names: &BTreeSet<String>) -> Self {
        self.uncounted = Arc::new(self.uncounted.union(names).cloned().collect());
        self
    }

    /// All hits of a query of somebody who sees every share; with `away`, also what is not there.
    pub(crate) fn search(&self, query: &Query, away: bool) -> Expected {
        let asked = Asked::new(self, query, away);
        let mut hits = BTreeMap::new();
        for name in self.names.iter().filter(|name| asked.name_fits(&name.folded)) {
            if let Some(class) = match_class(asked.texts(), &name.folded) {
                asked.add(name, class as usize, &mut hits, |_| true);
            }
        }
        if hits.len() < DIRECTORY_PARTS_BELOW && query.words.len() > 1 {
            asked.add_parts(&mut hits);
        }
        let near = hits.is_empty() && !query.words.is_empty();
        if near {
            asked.add_near(&mut hits);
        }
        Expected { near: near && !hits.is_empty(), hits, uncounted: Arc::clone(&self.uncounted) }
    }

    /// What is told of a hit, if one of its files fits.
    fn line(&self, name: &Name, group: &Group, fits: impl Fn(usize) -> bool) -> Option<Line> {
        let uncounted = self.uncounted.contains(&name.folded);
        let fitting: Vec<usize> = group.files.iter().copied().filter(|number| fits(*number)).collect();
        // Those that are there come first; in all else files are in their order.
        let best = fitting.iter().copied().find(|number| self.is_there(*number)).or(fitting.first().copied())?;
        let file = self.files[best].file;
        Some(Line {
            name: file.name.clone(),
            blob: file.blob,
            size: file.size,
            mtime_ns: fitting.iter().map(|number| self.files[*number].file.mtime_ns).max()?,
            peer: peer(file.share),
            share: share_name(file.share),
            path: file.path(),
            names: group.names,
            contents: if uncounted { 0 } else { name.contents },
            copies: group.files.len() as u32,
            online: group.files.iter().filter(|number| self.is_there(**number)).count() as u32,
            link: file.link,
        })
    }

    fn is_there(&self, number: usize) -> bool {
        self.online[self.files[number].file.share]
    }
}

impl Directory {
    fn new(share: usize, path: &[u8]) -> Self {
        let parts: Vec<String> = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).map(fold).collect();
        let from_share = [&[share_name(share)], parts.as_slice()].concat();
        Self { path: from_share.join("/") + "/", parts, from_share }
    }
}

/// What makes one hit of several files of a name. That there is no byte says nothing about a file.
fn content_of(file: &File) -> Option<(BlobId, u64)> {
    file.blob.filter(|blob| *blob != BlobId::empty()).map(|blob| (blob, file.size))
}

fn names_of(files: &[Folded<'_>], registered: &HashMap<String, u32>) -> Vec<Name> {
    let mut contents: HashMap<(BlobId, u64), BTreeSet<&[u8]>> = HashMap::new();
    let mut by_name: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (number, Folded { file, .. }) in files.iter().enumerate() {
        by_name.entry(fold(&file.name)).or_default().push(number);
        if let Some(content) = content_of(file) {
            contents.entry(content).or_default().insert(&file.name);
        }
    }
    let name = |(folded, numbers): (String, Vec<usize>)| {
        let mut groups: Vec<Group> = Vec::new();
        let mut of_content: HashMap<_, usize> = HashMap::new();
        for number in numbers {
            let file = files[number].file;
            let content = content_of(file);
            let known = content.and_then(|content| of_content.get(&content).copied());
            let group = known.unwrap_or(groups.len());
            if group == groups.len() {
                let names = content.map_or(1, |content| contents[&content].len() as u32);
                of_content.extend(content.map(|content| (content, group)));
                groups.push(Group { files: Vec::new(), names });
            }
            groups[group].files.push(number);
        }
        Name { registered: registered[&folded], folded, groups, contents: of_content.len().max(1) as u32 }
    };
    by_name.into_iter().map(name).collect()
}

/// A query, made ready for many names.
struct Asked<'o, 'a> {
    oracle: &'o Oracle<'a>,
    query: &'o Query,
    away: bool,
    words: Vec<Finder<'o>>,
    without: Vec<Finder<'o>>,
    /// Whether the filters on places hold, by directory of a share.
    places: Vec<bool>,
}

impl<'o, 'a> Asked<'o, 'a> {
    fn new(oracle: &'o Oracle<'a>, query: &'o Query, away: bool) -> Self {
        let words = query.words.iter().map(|word| Finder::new(word.text.as_bytes())).collect();
        let without = query.without.iter().map(|word| Finder::new(word.as_bytes())).collect();
        let by_place = |filter: &&Filter| matches!(filter.test, Test::Path(_));
        let filters: Vec<&Filter> = query.filters.iter().filter(by_place).collect();
        let holds = |directory: &Directory| filters.iter().all(|filter| is_at(directory, filter) != filter.inverted);
        Self { oracle, query, away, words, without, places: oracle.directories.iter().map(holds).collect() }
    }

    fn texts(&self) -> impl Iterator<Item = &'o str> {
        self.query.words.iter().map(|word| word.text.as_str())
    }

    /// Whether a name has all words.
    fn name_fits(&self, name: &str) -> bool {
        self.words.iter().all(|word| word.find(name.as_bytes()).is_some()) && self.is_wanted(name)
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.without.iter().all(|word| word.find(name.as_bytes()).is_none())
    }

    /// Which words a text has.
    fn found(&self, text: &str) -> Vec<bool> {
        self.words.iter().map(|word| word.find(text.as_bytes()).is_some()).collect()
    }

    /// Adds the hits of a name.
    fn add(&self, name: &Name, class: usize, hits: &mut BTreeMap<Line, Place>, also: impl Fn(&Folded<'_>) -> bool) {
        for group in &name.groups {
            let fits = |number: usize| {
                let file = &self.oracle.files[number];
                (self.away || self.oracle.is_there(number)) && self.passes(file, &name.folded) && also(file)
            };
            if let Some(line) = self.oracle.line(name, group, fits) {
                let fewer = u32::MAX - name.registered.ilog2();
                let twice = hits.insert(line, Place { class, fewer, len: name.folded.len() });
                assert!(twice.is_none(), "a hit of two classes");
            }
        }
    }

    /// Files with some word in the name, and each of the others in the name of a directory above.
    fn add_parts(&self, hits: &mut BTreeMap<Line, Place>) {
        let mut above: HashMap<usize, Vec<bool>> = HashMap::new();
        let mut words_above = |number: usize| {
            above
                .entry(number)
                .or_insert_with(|| {
                    let parts = &self.oracle.directories[number].parts;
                    let found: Vec<Vec<bool>> = parts.iter().map(|part| self.found(part)).collect();
                    (0..self.words.len()).map(|word| found.iter().any(|part| part[word])).collect()
                })
                .clone()
        };
        for name in self.oracle.names.iter().filter(|name| self.is_wanted(&name.folded)) {
            let inside = self.found(&name.folded);
            let outside_only = |word: usize| !inside[word];
            let fixed_is_missing = (0..inside.len()).any(|word| outside_only(word) && self.query.words[word].name_only);
            if inside.iter().all(|found| *found) || !inside.iter().any(|found| *found) || fixed_is_missing {
                continue;
            }
            let files = name.groups.iter().flat_map(|group| &group.files);
            let good: BTreeSet<usize> = files
                .map(|number| self.oracle.files[*number].directory)
                .filter(|directory| {
                    let above = words_above(*directory);
                    (0..inside.len()).all(|word| inside[word] || above[word])
                })
                .collect();
            if !good.is_empty() {
                self.add(name, IN_DIRECTORY, hits, |file| good.contains(&file.directory));
            }
        }
    }

    /// Names in which every word stands or nearly stands. Those are looked for that share three letters in a row with
    /// the longest word, the first of several.
    fn add_near(&self, hits: &mut BTreeMap<Line, Place>) {
        let texts: Vec<&str> = self.texts().collect();
        let Some(anchor) = texts.iter().rev().max_by_key(|text| text.chars().count()) else { return };
        if near_tolerance(anchor) == 0 {
            return;
        }
        let shared: Vec<Finder<'_>> = anchor.as_bytes().windows(3).map(Finder::new).collect();
        for name in self.oracle.names.iter().filter(|name| self.is_wanted(&name.folded)) {
            if !shared.iter().any(|three| three.find(name.folded.as_bytes()).is_some()) {
                continue;
            }
            let distance = |text: &&str| near_distance(text, &name.folded, near_tolerance(text));
            if let Some(distances) = texts.iter().map(distance).collect::<Option<Vec<usize>>>() {
                self.add(name, distances.iter().sum(), hits, |_| true);
            }
        }
    }

    fn passes(&self, folded: &Folded<'_>, name: &str) -> bool {
        let File { share, size, mtime_ns, link, .. } = folded.file;
        let kind = if *link { HitKind::Symlink } else { HitKind::File };
        self.places[folded.directory]
            && self.query.filters.iter().all(|filter| {
                let holds = match &filter.test {
                    Test::Size { min, max } => !link && (*min..=*max).contains(size),
                    Test::Age { min_ns, max_ns } => (*min_ns..=*max_ns).contains(&(NOW_NS - mtime_ns)),
                    Test::Type(list) => list.iter().any(|wanted| wanted.fits(kind, name)),
                    Test::Extension(list) => list.iter().any(|extension| name.ends_with(&format!(".{extension}"))),
                    Test::Peer(text) => {
                        peer_name(*share) == *text
                            || (text.starts_with("pk:") && peer(*share).to_string().starts_with(text))
                    }
                    Test::Share(text) => share_name(*share) == *text,
                    Test::Path(_) => return true,
                    Test::Hash(digits) => folded.hash.starts_with(digits),
                };
                holds != filter.inverted
            })
    }
}

fn is_at(directory: &Directory, filter: &Filter) -> bool {
    match &filter.test {
        Test::Path(PathTest::Below(below)) => {
            directory.parts.starts_with(below) || directory.from_share.starts_with(below)
        }
        Test::Path(PathTest::Contains(part)) => directory.path.contains(part),
        _ => true,
    }
}
