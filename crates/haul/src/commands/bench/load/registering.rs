//! What a peer of a load registers, ready to be sent, and the sending of it: as a real peer does on its first walk.

use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use haul_core::ids::ShareId;
use haul_core::limits;
use haul_core::manifest::{Change, Entry, EntryKind, PageBuilder, ShareState};
use haul_core::wire::index::{IndexAnswer, IndexRequest};
use haul_core::wire::{ByteString, Label};

use super::super::session::Session;
use super::paths::{self, Paths};
use super::population::Population;

/// A share with everything that its peer sends for it.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    share: ShareId,
    group: Option<Label>,
    commits: Vec<Commit>,
}

#[derive(Clone, Debug)]
struct Commit {
    pages: Vec<Vec<u8>>,
    entries: u64,
    state: ShareState,
}

/// The group that sees the share of a peer, of `groups` groups in turn; everyone if there are none.
pub(crate) fn group(peer: u32, groups: u32) -> Option<Label> {
    let number = peer.checked_rem(groups)?;
    Some(Label::from_lossy(&group_name(number)))
}

/// The name of a group of a load.
pub(crate) fn group_name(number: u32) -> String {
    format!("bench-{number}")
}

impl Prepared {
    /// Builds the pages of a peer. Hashing and sorting are done before any clock starts: a real peer has its list ready.
    pub(crate) fn new(population: &Population, paths: &Paths, peer: u32, groups: u32) -> Self {
        let mut files: Vec<(u64, Vec<u8>)> =
            population.files_of(peer).map(|file| (file, paths.of(population, file).into_owned())).collect();
        files.sort_by(|(_, a), (_, b)| paths::split(a).cmp(&paths::split(b)));
        let mut state = ShareState::default();
        let commits = files.chunks(limits::WALK_COMMIT_ENTRIES).map(|part| commit(part, population, &mut state));
        Self { share: population.share(peer), group: group(peer, groups), commits: commits.collect() }
    }

    /// Its share.
    pub(crate) fn share(&self) -> ShareId {
        self.share
    }

    /// The state once all is registered.
    pub(crate) fn state(&self) -> ShareState {
        self.commits.last().map(|commit| commit.state).unwrap_or_default()
    }

    /// The group that sees it.
    pub(crate) fn group(&self) -> Option<Label> {
        self.group.clone()
    }

    /// Sends everything; `committed` is called after each acknowledged commit with the state that is durable now and
    /// the nanoseconds since its transaction began.
    pub(crate) async fn send(
        self,
        session: &Session,
        mut committed: impl FnMut(ShareState, u64),
    ) -> anyhow::Result<()> {
        let mut base = None;
        for (commit, tx) in self.commits.into_iter().zip(1..) {
            let begun = Instant::now();
            let state = commit.state;
            transact(session, self.share, tx, base, commit).await.context("registering")?;
            committed(state, begun.elapsed().as_nanos() as u64);
            base = Some(state);
        }
        Ok(())
    }

    /// Bytes of all pages.
    pub(crate) fn page_bytes(&self) -> u64 {
        self.commits.iter().flat_map(|commit| &commit.pages).map(|page| page.len() as u64).sum()
    }
}

/// What an index holds of an opened share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// Exactly what was offered.
    Same,
    /// Another state.
    Other(ShareState),
    /// Nothing usable.
    Nothing,
}

/// What the answer to an Open says.
pub(crate) fn held(answer: &IndexAnswer) -> anyhow::Result<Held> {
    match answer {
        IndexAnswer::Same => Ok(Held::Same),
        IndexAnswer::Amend { from } => Ok(Held::Other(*from)),
        IndexAnswer::Replace => Ok(Held::Nothing),
        other => bail!("not an answer to Open: {other:?}"),
    }
}

fn commit(part: &[(u64, Vec<u8>)], population: &Population, state: &mut ShareState) -> Commit {
    let mut pages = Vec::new();
    let mut page = PageBuilder::new();
    for (file, path) in part {
        let (directory, name) = paths::split(path);
        let blob = population.blob(*file);
        let kind = EntryKind::File { size: Population::size(&blob), executable: false, blob: Some(blob) };
        let entry = Entry { directory, name, mtime_ns: Population::mtime_ns(*file), kind };
        state.digest.add(&entry);
        if !page.push(&Change::Upsert(entry)) {
            pages.push(page.finish());
            // An empty page has room for any one record.
            page.push(&Change::Upsert(entry));
        }
    }
    if !page.is_empty() {
        pages.push(page.finish());
    }
    state.revision += 1;
    Commit { pages, entries: part.len() as u64, state: *state }
}

/// One transaction, with as many pages unanswered as a real peer has.
async fn transact(
    session: &Session,
    share: ShareId,
    tx: u64,
    base: Option<ShareState>,
    commit: Commit,
) -> anyhow::Result<()> {
    let Commit { pages, entries, state } = commit;
    let mut pending = FuturesOrdered::new();
    let ask = |request: IndexRequest| async move { session.ask(&request).await };
    pending.push_back(ask(IndexRequest::Begin { share, tx, base }));
    for (bytes, seq) in pages.into_iter().zip(0..) {
        while pending.len() > limits::PAGES_IN_FLIGHT {
            settled(pending.next().await)?;
        }
        pending.push_back(ask(IndexRequest::Page { tx, seq, bytes: ByteString(bytes) }));
    }
    pending.push_back(ask(IndexRequest::Commit { tx, state, changes: entries }));
    let mut last = None;
    while !pending.is_empty() {
        last = Some(settled(pending.next().await)?);
    }
    ensure!(last == Some(IndexAnswer::Committed { state }), "the index committed another state: {last:?}");
    Ok(())
}

fn settled(answer: Option<anyhow::Result<IndexAnswer>>) -> anyhow::Result<IndexAnswer> {
    match answer.context("no request")?? {
        answer @ (IndexAnswer::Begun | IndexAnswer::Staged { .. } | IndexAnswer::Committed { .. }) => Ok(answer),
        other => bail!("not an answer to a registration: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use haul_core::manifest::Page;

    use super::*;

    #[test]
    fn pages_hold_each_file_once_and_are_in_order() {
        let population = Population::new(1, 4, 2_500, 1.5).unwrap();
        let prepared = Prepared::new(&population, &Paths::Generated, 2, 3);
        let mut names = 0;
        for page in prepared.commits.iter().flat_map(|commit| &commit.pages) {
            names += Page::check(page).unwrap().len() as u64;
        }
        assert_eq!(names, population.entries_of_peer());
        assert_eq!(prepared.commits.iter().map(|commit| commit.entries).sum::<u64>(), names);
        assert_eq!(prepared.group, Some(Label::from_lossy("bench-2")));
        assert_eq!(group(5, 0), None);
        assert_eq!(prepared.state().revision, 1);
    }

    #[test]
    fn long_lists_are_committed_in_parts() {
        let population = Population::new(1, 1, 25_000, 1.0).unwrap();
        let prepared = Prepared::new(&population, &Paths::Generated, 0, 0);
        let entries: Vec<u64> = prepared.commits.iter().map(|commit| commit.entries).collect();
        assert_eq!(entries, [10_000, 10_000, 5_000]);
        assert_eq!(prepared.state().revision, 3);
        assert!(prepared.page_bytes() > 25_000 * 50);
    }
}
