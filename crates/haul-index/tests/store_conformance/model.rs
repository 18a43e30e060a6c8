//! The oracle: what an index should answer, computed from plain lists as simply as possible.

use std::collections::{BTreeMap, BTreeSet};

use haul_core::ids::{BlobId, PeerId, ShareId};
use haul_core::manifest::{Change, Entry, EntryKind, RegistrationDigest, ShareState};
use haul_core::path::SharePath;
use haul_core::query::{Filter, PathTest, Query, Test, fold, match_class, near_distance, near_tolerance};
use haul_core::wire::index::{Hit, HitKind};
use haul_core::wire::{ByteString, Label};
use haul_index::store::{Opened, PeerTotals};

pub(crate) type Key = (Vec<u8>, Vec<u8>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File { size: u64, executable: bool, blob: Option<BlobId> },
    Directory,
    Symlink(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) mtime_ns: i64,
    pub(crate) kind: Kind,
}

pub(crate) type List = BTreeMap<Key, Line>;

#[derive(Clone, Debug)]
pub(crate) struct Share {
    pub(crate) name: Label,
    pub(crate) groups: Vec<Label>,
    pub(crate) open: bool,
    pub(crate) usable: bool,
    pub(crate) held: Option<(ShareState, List)>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Peer {
    pub(crate) name: Option<Label>,
    pub(crate) connected: bool,
    pub(crate) shares: BTreeMap<ShareId, Share>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) peers: BTreeMap<PeerId, Peer>,
}

/// A place as a lookup answers it.
pub(crate) type PlaceLine = (PeerId, Label, SharePath, i64, bool);
/// One content as a lookup answers it: blob, size, total, places.
pub(crate) type FoundLine = (Option<BlobId>, u64, u32, Vec<PlaceLine>);

/// What stands behind the name in the order of hits; also what makes one hit of several rows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Content(BlobId, u64),
    Row(PeerId, Label, Key),
}

#[derive(Clone)]
struct Row<'a> {
    peer: PeerId,
    peer_name: Label,
    share: &'a Share,
    key: &'a Key,
    line: &'a Line,
    shown: bool,
}

pub(crate) fn entry<'a>((directory, name): &'a Key, line: &'a Line) -> Entry<'a> {
    let kind = match &line.kind {
        Kind::File { size, executable, blob } => EntryKind::File { size: *size, executable: *executable, blob: *blob },
        Kind::Directory => EntryKind::Directory,
        Kind::Symlink(target) => EntryKind::Symlink { target },
    };
    Entry { directory, name, mtime_ns: line.mtime_ns, kind }
}

pub(crate) fn line_of(change: &Change<'_>) -> (Key, Option<Line>) {
    let (directory, name) = change.key();
    let line = match change {
        Change::Remove { .. } => None,
        Change::Upsert(entry) => Some(Line {
            mtime_ns: entry.mtime_ns,
            kind: match entry.kind {
                EntryKind::File { size, executable, blob } => Kind::File { size, executable, blob },
                EntryKind::Directory => Kind::Directory,
                EntryKind::Symlink { target } => Kind::Symlink(target.to_vec()),
            },
        }),
    };
    ((directory.to_vec(), name.to_vec()), line)
}

pub(crate) fn digest(list: &List) -> RegistrationDigest {
    let mut digest = RegistrationDigest::default();
    for (key, line) in list {
        digest.add(&entry(key, line));
    }
    digest
}

pub(crate) fn apply(list: &mut List, changes: &BTreeMap<Key, Option<Line>>) {
    for (key, line) in changes {
        match line {
            Some(line) => list.insert(key.clone(), line.clone()),
            None => list.remove(key),
        };
    }
}

impl Share {
    /// Files in a directory and below, and their bytes.
    fn below(&self, path: &[u8]) -> (u32, u64) {
        let inside =
            |directory: &[u8]| path.is_empty() || directory == path || directory.starts_with(&[path, b"/"].concat());
        let list = self.held.iter().flat_map(|(_, list)| list).filter(|((directory, _), _)| inside(directory));
        list.fold((0, 0), |(files, bytes), (_, line)| match line.kind {
            Kind::File { size, .. } => (files + 1, bytes + size),
            _ => (files, bytes),
        })
    }
}

impl Row<'_> {
    fn folded(&self) -> String {
        fold(&self.key.1)
    }

    fn group(&self) -> Group {
        match &self.line.kind {
            Kind::File { size, blob: Some(blob), .. } if *blob != BlobId::empty() => Group::Content(*blob, *size),
            _ => Group::Row(self.peer, self.share.name.clone(), self.key.clone()),
        }
    }

    fn blob(&self) -> Option<BlobId> {
        if let Kind::File { blob, .. } = self.line.kind { blob } else { None }
    }

    fn kind(&self) -> HitKind {
        match self.line.kind {
            Kind::File { .. } => HitKind::File,
            Kind::Directory => HitKind::Directory,
            Kind::Symlink(_) => HitKind::Symlink,
        }
    }

    fn path(&self) -> SharePath {
        let (directory, name) = self.key;
        let path = if directory.is_empty() { name.clone() } else { [directory.as_slice(), b"/", name].concat() };
        SharePath::new(path).unwrap()
    }

    fn order(&self) -> (bool, PeerId, Label, &Key) {
        (!self.shown, self.peer, self.share.name.clone(), self.key)
    }

    /// Files and bytes of a file, or of a directory; links have none.
    fn totals(&self) -> Option<(u32, u64)> {
        match self.line.kind {
            Kind::File { size, .. } => Some((1, size)),
            Kind::Directory => Some(self.share.below(self.path().as_bytes())),
            Kind::Symlink(_) => None,
        }
    }

    fn directories(&self) -> Vec<String> {
        self.key.0.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).map(fold).collect()
    }

    fn passes(&self, filter: &Filter, now_ns: i64) -> bool {
        let holds = match &filter.test {
            Test::Size { min, max } => self.totals().is_some_and(|(_, bytes)| (*min..=*max).contains(&bytes)),
            Test::Age { min_ns, max_ns } => (*min_ns..=*max_ns).contains(&(now_ns - self.line.mtime_ns)),
            Test::Type(list) => list.iter().any(|wanted| wanted.fits(self.kind(), &self.folded())),
            Test::Extension(list) => list.iter().any(|ext| self.folded().ends_with(&format!(".{ext}"))),
            Test::Peer(text) => {
                fold(self.peer_name.as_str().as_bytes()) == *text
                    || (text.starts_with("pk:") && self.peer.to_string().starts_with(text))
            }
            Test::Share(text) => fold(self.share.name.as_str().as_bytes()) == *text,
            Test::Path(test) => {
                let mut parts = vec![fold(self.share.name.as_str().as_bytes())];
                parts.extend(self.directories());
                match test {
                    PathTest::Below(below) => parts.starts_with(below) || parts[1..].starts_with(below),
                    PathTest::Contains(wanted) => (parts.join("/") + "/").contains(wanted),
                }
            }
            Test::Hash(digits) => match self.line.kind {
                Kind::File { blob: Some(blob), .. } => blob.to_string()[3..].starts_with(digits),
                _ => false,
            },
        };
        holds != filter.inverted
    }
}

impl Model {
    pub(crate) fn open(
        &mut self,
        peer: PeerId,
        id: ShareId,
        name: &Label,
        groups: &[Label],
        state: ShareState,
    ) -> Opened {
        let peer = self.peers.get_mut(&peer).unwrap();
        let held = peer.shares.get(&id).and_then(|share| share.held.clone());
        let opened = match &held {
            Some((held, _)) if *held == state => Opened::Same,
            Some((held, _)) if held.revision < state.revision => Opened::Amend(*held),
            _ => Opened::Replace,
        };
        let usable = opened != Opened::Replace;
        peer.shares.insert(id, Share { name: name.clone(), groups: groups.to_vec(), open: true, usable, held });
        opened
    }

    pub(crate) fn hide(&mut self, peer: PeerId) {
        let peer = self.peers.get_mut(&peer).unwrap();
        peer.connected = false;
        peer.shares.values_mut().for_each(|share| share.open = false);
        // A share that never committed leaves no trace that anybody could see.
    }

    /// All rows that the groups allow to see, shown or not.
    fn rows(&self, groups: &[Label]) -> Vec<Row<'_>> {
        let mut rows = Vec::new();
        for (id, peer) in &self.peers {
            for share in peer.shares.values() {
                let allowed = share.groups.is_empty() || share.groups.iter().any(|group| groups.contains(group));
                let Some((_, list)) = share.held.as_ref().filter(|_| allowed) else { continue };
                let shown = peer.connected && share.open && share.usable;
                let peer_name = peer.name.clone().unwrap();
                rows.extend(list.iter().map(|(key, line)| Row {
                    peer: *id,
                    peer_name: peer_name.clone(),
                    share,
                    key,
                    line,
                    shown,
                }));
            }
        }
        rows
    }

    /// All hits, each with its rank, in no particular order.
    pub(crate) fn search(&self, groups: &[Label], query: &Query, away: bool, now_ns: i64) -> Vec<(Rank, Hit)> {
        let rows = self.rows(groups);
        let fits = |row: &Row<'_>| {
            (away || row.shown)
                && query.filters.iter().all(|filter| row.passes(filter, now_ns))
                && !query.without.iter().any(|word| row.folded().contains(word))
        };
        let by_name = |row: &Row<'_>| {
            match_class(query.words.iter().map(|word| word.text.as_str()), &row.folded()).map(|class| class as usize)
        };
        let registered = self.registered();
        let mut hits = gather(&rows, &registered, &fits, &by_name, false);
        if hits.len() < 100 && query.words.len() > 1 {
            hits.extend(gather(&rows, &registered, &fits, &|row| in_directories(query, row), false));
        }
        if hits.is_empty() && !query.words.is_empty() {
            hits = gather(&rows, &registered, &fits, &|row| nearly(query, &row.folded()), true);
        }
        hits
    }

    /// How many rows and directories each folded name has, whoever may see them.
    fn registered(&self) -> BTreeMap<String, u32> {
        let shares = self.peers.values().flat_map(|peer| peer.shares.values());
        let mut counts = BTreeMap::new();
        for (_, list) in shares.filter_map(|share| share.held.as_ref()) {
            let mut directories = BTreeSet::new();
            for (directory, name) in list.keys() {
                *counts.entry(fold(name)).or_default() += 1;
                let mut path = directory.as_slice();
                while !path.is_empty() && directories.insert(path) {
                    path = &path[..path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)];
                }
            }
            for directory in directories {
                let name = directory.rsplit(|byte| *byte == b'/').next().unwrap();
                *counts.entry(fold(name)).or_default() += 1;
            }
        }
        counts
    }

    pub(crate) fn lookup_blob(&self, groups: &[Label], blob: BlobId, away: bool) -> Vec<FoundLine> {
        let rows = self.rows(groups);
        let mut by_size: BTreeMap<u64, Vec<&Row<'_>>> = BTreeMap::new();
        for row in rows.iter().filter(|row| away || row.shown) {
            if let Kind::File { size, blob: Some(found), .. } = &row.line.kind
                && *found == blob
            {
                by_size.entry(*size).or_default().push(row);
            }
        }
        let best = by_size.into_iter().max_by_key(|(size, rows)| (rows.len(), u64::MAX - size));
        best.map(|(size, rows)| found(Some(blob), size, rows)).into_iter().collect()
    }

    /// For each size that is claimed of a blob: places, and their peers, those that are there and all.
    pub(crate) fn owners(
        &self,
        groups: &[Label],
        blob: BlobId,
        away: bool,
    ) -> BTreeMap<u64, (u32, BTreeSet<PeerId>, BTreeSet<PeerId>)> {
        let mut sizes: BTreeMap<u64, (u32, BTreeSet<PeerId>, BTreeSet<PeerId>)> = BTreeMap::new();
        for row in self.rows(groups).iter().filter(|row| away || row.shown) {
            if let Kind::File { size, blob: Some(found), .. } = row.line.kind
                && found == blob
            {
                let (total, there, all) = sizes.entry(size).or_default();
                *total += 1;
                all.insert(row.peer);
                if row.shown {
                    there.insert(row.peer);
                }
            }
        }
        sizes
    }

    /// Size, places, peers that are there, and peers of which everything is away.
    pub(crate) fn locate(
        &self,
        groups: &[Label],
        blob: BlobId,
        away: bool,
    ) -> (u64, u32, BTreeSet<PeerId>, BTreeSet<PeerId>) {
        let Some((_, size, total, places)) = self.lookup_blob(groups, blob, away).pop() else {
            return Default::default();
        };
        let rows = self.rows(groups);
        let is_blob = |row: &&Row<'_>| match row.line.kind {
            Kind::File { size: claimed, blob: Some(found), .. } => (found, claimed) == (blob, size),
            _ => false,
        };
        let there: BTreeSet<PeerId> = rows.iter().filter(|row| row.shown).filter(is_blob).map(|row| row.peer).collect();
        let gone = places.iter().map(|place| place.0).filter(|peer| !there.contains(peer)).collect();
        (size, total, there, gone)
    }

    pub(crate) fn lookup_name(&self, groups: &[Label], name: &[u8], away: bool) -> Vec<FoundLine> {
        let rows = self.rows(groups);
        // Files without a hash stand alone, told apart by their place.
        let mut contents: BTreeMap<_, Vec<&Row<'_>>> = BTreeMap::new();
        for row in rows.iter().filter(|row| (away || row.shown) && row.key.1 == name) {
            if let Kind::File { size, blob, .. } = &row.line.kind {
                let alone = blob.is_none().then(|| place(row));
                contents.entry((*blob, *size, alone)).or_default().push(row);
            }
        }
        let mut answers: Vec<_> = contents.into_iter().map(|((blob, size, _), rows)| found(blob, size, rows)).collect();
        answers.sort_by_key(|(blob, size, total, places)| {
            // Directory by directory, as everywhere.
            let first = places.first().map(|(peer, share, path, ..)| {
                let path = path.as_bytes();
                let name_at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
                (*peer, share.clone(), path[..name_at].to_vec(), path[name_at..].to_vec())
            });
            (u32::MAX - total, blob.is_none(), *blob, *size, first)
        });
        answers
    }

    /// Entries below a path in the order of pages; none if the asker may not see it or it is not there.
    pub(crate) fn browse(
        &self,
        groups: &[Label],
        peer: PeerId,
        share: &Label,
        path: &[u8],
        recursive: bool,
    ) -> Option<Vec<(Key, Line)>> {
        let rows = self.rows(groups);
        let rows: Vec<_> =
            rows.iter().filter(|row| row.peer == peer && row.share.name == *share && row.shown).collect();
        let any_share = self.shares(groups, peer)?.contains(share);
        let inside =
            |directory: &[u8]| path.is_empty() || directory == path || directory.starts_with(&[path, b"/"].concat());
        let exists = path.is_empty()
            || rows
                .iter()
                .any(|row| inside(&row.key.0) || (row.path().as_bytes() == path && row.kind() == HitKind::Directory));
        let list = rows
            .iter()
            .filter(|row| if recursive { inside(&row.key.0) } else { row.key.0 == path })
            .map(|row| (row.key.clone(), row.line.clone()))
            .collect();
        (any_share && exists).then_some(list)
    }

    /// Names of the shares that the asker sees of a peer that is there.
    pub(crate) fn shares(&self, groups: &[Label], peer: PeerId) -> Option<BTreeSet<Label>> {
        let peer = self.peers.get(&peer).filter(|peer| peer.connected)?;
        let shown = peer.shares.values().filter(|share| {
            let allowed = share.groups.is_empty() || share.groups.iter().any(|group| groups.contains(group));
            allowed && share.open && share.usable && share.held.is_some()
        });
        Some(shown.map(|share| share.name.clone()).collect())
    }

    /// Shares, files and bytes that the groups allow to see, and whether that is all there is.
    pub(crate) fn visible(&self, groups: &[Label]) -> (u64, u64, u64, bool) {
        let held = || {
            let shares = self.peers.values().flat_map(|peer| peer.shares.values());
            shares.filter(|share| share.held.is_some())
        };
        let allowed =
            |share: &&Share| share.groups.is_empty() || share.groups.iter().any(|group| groups.contains(group));
        let (shares, files, bytes) = held().filter(allowed).fold((0, 0, 0), |(shares, files, bytes), share| {
            let below = share.below(b"");
            (shares + 1, files + u64::from(below.0), bytes + below.1)
        });
        (shares, files, bytes, shares == held().count() as u64)
    }

    pub(crate) fn totals(&self, groups: &[Label], peer: PeerId) -> PeerTotals {
        let sizes: Vec<u64> = self
            .rows(groups)
            .iter()
            .filter(|row| row.peer == peer && row.shown)
            .filter_map(|row| if let Kind::File { size, .. } = row.line.kind { Some(size) } else { None })
            .collect();
        PeerTotals { files: sizes.len() as u64, bytes: sizes.iter().sum() }
    }
}

fn place(row: &Row<'_>) -> PlaceLine {
    let executable = matches!(row.line.kind, Kind::File { executable: true, .. });
    (row.peer, row.share.name.clone(), row.path(), row.line.mtime_ns, executable)
}

fn found(blob: Option<BlobId>, size: u64, mut rows: Vec<&Row<'_>>) -> FoundLine {
    rows.sort_by(|a, b| a.order().cmp(&b.order()));
    (blob, size, rows.len() as u32, rows.into_iter().map(place).collect())
}

/// Where a hit belongs: class (or distance), rows and directories of its name on a logarithmic scale, length of its
/// name. Fewer are worse.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) class: usize,
    pub(crate) fewer: u32,
    pub(crate) len: usize,
    pub(crate) folded: String,
}

/// Groups rows into hits; `class` says how well a row fits by its names, if at all.
fn gather(
    rows: &[Row<'_>],
    registered: &BTreeMap<String, u32>,
    fits: &dyn Fn(&Row<'_>) -> bool,
    class: &dyn Fn(&Row<'_>) -> Option<usize>,
    near: bool,
) -> Vec<(Rank, Hit)> {
    let mut groups: BTreeMap<(String, Group), Vec<&Row<'_>>> = BTreeMap::new();
    for row in rows {
        groups.entry((row.folded(), row.group())).or_default().push(row);
    }
    let mut hits = Vec::new();
    for ((folded, group), copies) in groups {
        let mut matching: Vec<_> = copies.iter().filter(|row| class(row).is_some() && fits(row)).collect();
        matching.sort_by(|a, b| a.order().cmp(&b.order()));
        let Some(best) = matching.first() else { continue };
        let (files, size) = best.totals().unwrap_or_default();
        let names: BTreeSet<&[u8]> =
            rows.iter().filter(|row| row.group() == group).map(|row| row.key.1.as_slice()).collect();
        let contents: BTreeSet<Group> = rows
            .iter()
            .filter(|row| row.folded() == folded)
            .map(Row::group)
            .filter(|group| matches!(group, Group::Content(..)))
            .collect();
        let hit = Hit {
            kind: best.kind(),
            name: ByteString(best.key.1.clone()),
            blob: best.blob(),
            size,
            files: (best.kind() == HitKind::Directory).then_some(files),
            mtime_ns: matching.iter().map(|row| row.line.mtime_ns).max().unwrap(),
            peer: best.peer,
            peer_name: best.peer_name.clone(),
            share: best.share.name.clone(),
            path: best.path(),
            names: names.len() as u32,
            contents: contents.len().max(1) as u32,
            copies: copies.len() as u32,
            online: copies.iter().filter(|row| row.shown).count() as u32,
            near,
        };
        let fewer = u32::MAX - registered[&folded].ilog2();
        hits.push((Rank { class: class(best).unwrap(), fewer, len: folded.len(), folded }, hit));
    }
    hits
}

/// At least one word in the name, not all, and the others in directory parts.
fn in_directories(query: &Query, row: &Row<'_>) -> Option<usize> {
    let name = row.folded();
    let directories = row.directories();
    let in_name = query.words.iter().filter(|word| name.contains(&word.text)).count();
    let all = query.words.iter().all(|word| {
        name.contains(&word.text) || (!word.name_only && directories.iter().any(|part| part.contains(&word.text)))
    });
    (all && in_name > 0 && in_name < query.words.len()).then_some(3)
}

/// Sum of the distances; names must share some trigrams with the longest word.
fn nearly(query: &Query, name: &str) -> Option<usize> {
    let mut longest = &query.words[0].text;
    for word in &query.words {
        if word.text.chars().count() > longest.chars().count() {
            longest = &word.text;
        }
    }
    if near_tolerance(longest) == 0 {
        return None;
    }
    let grams = |text: &str| -> BTreeSet<Vec<u8>> { text.as_bytes().windows(3).map(<[u8]>::to_vec).collect() };
    let widest = longest.chars().map(char::len_utf8).max().unwrap();
    let wanted = grams(longest);
    let needed = wanted.len().saturating_sub(near_tolerance(longest) * (2 * widest + 2)).max(1);
    if wanted.intersection(&grams(name)).count() < needed {
        return None;
    }
    query.words.iter().map(|word| near_distance(&word.text, name, near_tolerance(&word.text))).sum()
}
