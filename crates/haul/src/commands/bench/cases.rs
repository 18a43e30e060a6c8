//! The mix as wire messages: what a peer sends for each operation, and the check of every answer.

use anyhow::{Context as _, bail, ensure};
use haul_core::ids::{BlobId, PeerId, ShareId};
use haul_core::manifest::{Change, Entry, EntryKind, PageBuilder, ShareState};
use haul_core::wire::index::{BlobPlaces, Hits, IndexAnswer, IndexRequest, LookupKeys, Providers};
use haul_core::wire::{ByteString, Label, List};

use super::mix::{self, Mix};

/// One operation as a peer does it. Only the requests in `timed` count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Operation {
    /// Sent before the clock starts.
    pub(crate) before: Vec<IndexRequest>,
    /// Sent together; the clock runs until all are answered.
    pub(crate) timed: Vec<IndexRequest>,
    /// Sent after the clock stopped.
    pub(crate) after: Vec<IndexRequest>,
    /// What the last timed request must be answered with.
    pub(crate) expect: Expect,
    /// By how much the time is divided: files of a bulk registration, else 1.
    pub(crate) files: usize,
}

/// The answer that must come.
#[derive(Clone, Debug, Default)]
pub(crate) enum Expect {
    /// Any but a refusal: the null server.
    #[default]
    Anything,
    /// The commit is durable and led to this state.
    Committed(ShareState),
    /// Exactly these names, sorted.
    Names(Vec<String>),
    /// This blob, at exactly these peers, under this name.
    Holders {
        /// The blob.
        blob: BlobId,
        /// Its name everywhere.
        name: String,
        /// The peers, sorted.
        holders: Vec<PeerId>,
    },
}

impl Expect {
    /// Whether the answer is the one that must come.
    pub(crate) fn check(&self, answer: IndexAnswer) -> anyhow::Result<()> {
        match (self, answer) {
            (_, IndexAnswer::Refused(refusal)) => bail!("refused: {refusal:?}"),
            (Self::Anything, _) => Ok(()),
            (Self::Committed(expected), IndexAnswer::Committed { state }) => {
                ensure!(state == *expected, "the index committed another state");
                Ok(())
            }
            (Self::Names(expected), IndexAnswer::Hits(hits)) => check_names(expected, &hits),
            (Self::Holders { blob, name, holders }, IndexAnswer::Providers(providers)) => {
                check_holders(*blob, name, holders, &providers)
            }
            (_, other) => bail!("an answer of the wrong kind: {other:?}"),
        }
    }
}

fn check_names(expected: &[String], hits: &Hits) -> anyhow::Result<()> {
    let mut found: Vec<String> = hits.hits.iter().map(|hit| String::from_utf8_lossy(&hit.name).into_owned()).collect();
    found.sort();
    ensure!(found == expected, "expected {expected:?}, found {found:?}");
    ensure!(hits.exact && hits.total == expected.len() as u64, "the total is {}, not {}", hits.total, expected.len());
    Ok(())
}

fn check_holders(blob: BlobId, name: &str, holders: &[PeerId], providers: &Providers) -> anyhow::Result<()> {
    let [answer] = providers.answers.as_slice() else { bail!("{} answers to one key", providers.answers.len()) };
    let [BlobPlaces { blob: Some(found), places, total, .. }] = answer.as_slice() else {
        bail!("expected {name} at {} peers, found {answer:?}", holders.len());
    };
    ensure!(*found == blob, "expected {blob}, found {found}");
    ensure!(*total as usize == holders.len(), "{total} places of {name} instead of {}", holders.len());
    let mut peers = Vec::new();
    for place in places {
        ensure!(place.path.as_bytes() == name.as_bytes(), "{name} is listed as {:?}", place.path);
        let card = providers.peers.get(place.peer as usize).context("a place without a peer")?;
        ensure!(card.online, "{} is listed as away", card.id);
        peers.push(card.id);
    }
    peers.sort();
    ensure!(peers == holders, "expected {name} at {holders:?}, found {peers:?}");
    Ok(())
}

/// A share that grows commit by commit.
#[derive(Clone, Debug)]
pub(crate) struct GrowingShare {
    id: ShareId,
    name: Label,
    state: ShareState,
    transactions: u64,
}

impl GrowingShare {
    /// An empty share. `number` makes id, name and transactions differ from the peer's other shares.
    pub(crate) fn new(peer: PeerId, number: u64) -> Self {
        let mut id = [0; 16];
        id.iter_mut()
            .zip(peer.as_bytes().iter().take(8).copied().chain(number.to_le_bytes()))
            .for_each(|(to, from)| *to = from);
        let name = Label::from_lossy(&format!("bench-{number}"));
        Self { id: ShareId(id), name, state: ShareState::default(), transactions: number << 32 }
    }

    /// Offers the share as it is.
    pub(crate) fn open(&self) -> IndexRequest {
        let groups = List::default();
        IndexRequest::Open { share: self.id, name: self.name.clone(), groups, state: self.state }
    }

    /// Deletes it at the index.
    pub(crate) fn forget(&self) -> IndexRequest {
        IndexRequest::Close { share: self.id, forget: true }
    }

    /// Adds files in one commit: the requests, and the state that the index must have afterwards.
    pub(crate) fn add(&mut self, names: &[(usize, String)]) -> (Vec<IndexRequest>, ShareState) {
        let base = (self.state.revision > 0).then_some(self.state);
        let mut sorted: Vec<&(usize, String)> = names.iter().collect();
        sorted.sort_by(|a, b| a.1.as_bytes().cmp(b.1.as_bytes()));
        let mut page = PageBuilder::new();
        for (file, name) in sorted {
            let kind = EntryKind::File { size: name.len() as u64, executable: false, blob: Some(mix::file_blob(name)) };
            let entry = Entry { directory: b"", name: name.as_bytes(), mtime_ns: mix::file_mtime_ns(*file), kind };
            self.state.digest.add(&entry);
            let fits = page.push(&Change::Upsert(entry));
            assert!(fits, "the files of one commit fit on one page");
        }
        self.state.revision += 1;
        self.transactions += 1;
        let tx = self.transactions;
        let bytes = ByteString(page.finish());
        let requests = vec![
            IndexRequest::Begin { share: self.id, tx, base },
            IndexRequest::Page { tx, seq: 0, bytes },
            IndexRequest::Commit { tx, state: self.state, changes: names.len() as u64 },
        ];
        (requests, self.state)
    }
}

/// The registrations of a peer: one file in each commit, spread over its shares.
pub(crate) fn registrations(mix: &Mix, peer: usize, shares: &mut [GrowingShare]) -> Vec<Vec<Operation>> {
    let workers = shares.len();
    let of_share = |(worker, share): (usize, &mut GrowingShare)| {
        let files = (worker..mix::REGISTRATIONS).step_by(workers);
        files
            .map(|file| {
                let (timed, state) = share.add(&[(file, mix.file_name(peer, file))]);
                Operation { timed, expect: Expect::Committed(state), files: 1, ..Operation::default() }
            })
            .collect()
    };
    shares.iter_mut().enumerate().map(of_share).collect()
}

/// All files of a peer in one commit, `commits` times: each time as a new share that is deleted again.
pub(crate) fn bulk_registrations(mix: &Mix, peer: usize, id: PeerId, first_share: u64, commits: u64) -> Vec<Operation> {
    let names: Vec<_> = (0..mix::REGISTRATIONS).map(|file| (file, mix.file_name(peer, file))).collect();
    let numbers = first_share..first_share + commits;
    numbers
        .map(|number| {
            let mut share = GrowingShare::new(id, number);
            let before = vec![share.open()];
            let (timed, state) = share.add(&names);
            let after = vec![share.forget()];
            Operation { before, timed, after, expect: Expect::Committed(state), files: names.len() }
        })
        .collect()
}

/// The searches of a peer.
pub(crate) fn searches(mix: &Mix, peer: usize) -> Vec<Operation> {
    let cases = (0..mix::SEARCHES).map(|number| mix.search(peer, number));
    cases
        .map(|case| {
            let timed =
                vec![IndexRequest::Search { query: case.query, limit: 50, cursor: None, away: false, exact: false }];
            Operation { timed, expect: Expect::Names(case.names), files: 1, ..Operation::default() }
        })
        .collect()
}

/// The lookups of a peer; `ids` are the keys of all peers.
pub(crate) fn lookups(mix: &Mix, peer: usize, ids: &[PeerId]) -> Vec<Operation> {
    let cases = (0..mix::LOOKUPS).map(|number| mix.lookup(peer, number));
    cases
        .map(|case| {
            let blob = mix::file_blob(&case.name);
            let mut holders: Vec<PeerId> = case.holders.iter().filter_map(|holder| ids.get(*holder).copied()).collect();
            holders.sort();
            let keys = LookupKeys::Blobs(List::new(vec![blob]));
            let timed = vec![IndexRequest::Lookup { keys, max: 256, away: false }];
            let expect = Expect::Holders { blob, name: case.name, holders };
            Operation { timed, expect, files: 1, ..Operation::default() }
        })
        .collect()
}

/// Deals operations out to workers, in turn.
pub(crate) fn deal(operations: Vec<Operation>, workers: usize) -> Vec<Vec<Operation>> {
    let mut dealt = vec![Vec::new(); workers.max(1)];
    for (number, operation) in operations.into_iter().enumerate() {
        if let Some(worker) = dealt.get_mut(number % workers.max(1)) {
            worker.push(operation);
        }
    }
    dealt
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use haul_core::ids::PublicKey;
    use haul_core::manifest::Page;
    use haul_core::path::SharePath;
    use haul_core::time::Timestamp;
    use haul_core::wire::index::{PeerCard, Place};

    use super::*;

    fn id(n: u8) -> PeerId {
        let mut bytes = [7; 32];
        bytes[0] = n;
        PublicKey::new(bytes).unwrap()
    }

    fn mix() -> Mix {
        Mix { run: "r0".to_owned(), peers: 2 }
    }

    #[test]
    fn one_commit_per_file_leads_to_the_state_of_one_commit_for_all() {
        let mut shares = [GrowingShare::new(id(1), 0)];
        let single = registrations(&mix(), 0, &mut shares);
        assert_eq!((single.len(), single[0].len()), (1, mix::REGISTRATIONS));
        let bulk = bulk_registrations(&mix(), 0, id(1), 1, 1);
        let Expect::Committed(all) = bulk[0].expect else { panic!("a commit") };
        assert_eq!((shares[0].state.revision, all.revision), (200, 1));
        assert_eq!(shares[0].state.digest, all.digest);
        let IndexRequest::Page { bytes, .. } = &bulk[0].timed[1] else { panic!("a page") };
        assert_eq!(Page::check(bytes).unwrap().len(), mix::REGISTRATIONS);
        let IndexRequest::Begin { base, .. } = &single[0][0].timed[0] else { panic!("a begin") };
        assert_eq!(*base, None);
    }

    #[test]
    fn several_workers_have_a_share_each() {
        let mut shares: Vec<_> = (0..16).map(|number| GrowingShare::new(id(1), number)).collect();
        let workers = registrations(&mix(), 0, &mut shares);
        assert_eq!(workers.iter().map(Vec::len).sum::<usize>(), mix::REGISTRATIONS);
        assert_ne!(shares[0].id, shares[1].id);
        assert_eq!(deal(searches(&mix(), 0), 16).iter().map(Vec::len).max(), Some(63));
    }

    #[test]
    fn wrong_answers_are_noticed() {
        let operation = &lookups(&mix(), 0, &[id(1), id(2)])[0];
        let Expect::Holders { blob, name, holders } = &operation.expect else { panic!("holders") };
        assert_eq!(holders.len(), 2);
        let card = |n| PeerCard {
            id: id(n),
            name: Label::from_lossy("lab"),
            addresses: vec![],
            online: true,
            seen: Timestamp(0),
            files: 0,
            bytes: 0,
        };
        let place = |peer| Place {
            peer,
            share: Label::from_lossy("s"),
            path: SharePath::new(name.as_bytes()).unwrap(),
            mtime_ns: 0,
            executable: false,
        };
        let answer = |second: u8, blob: BlobId| {
            let places = vec![place(0), place(1)];
            let found = BlobPlaces { blob: Some(blob), size: 1, places, total: 2 };
            IndexAnswer::Providers(Providers {
                peers: vec![card(1), card(second)],
                answers: vec![vec![found]],
                coverage_permille: 1_000,
            })
        };
        assert!(operation.expect.check(answer(2, *blob)).is_ok());
        assert!(operation.expect.check(answer(3, *blob)).is_err());
        assert!(operation.expect.check(answer(2, BlobId::empty())).is_err());
        assert!(operation.expect.check(IndexAnswer::Left).is_err());
        assert!(searches(&mix(), 0)[0].expect.check(IndexAnswer::Hits(Hits::default())).is_err());
    }
}
