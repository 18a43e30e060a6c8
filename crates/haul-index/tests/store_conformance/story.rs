//! Random stories: the same operations on a store and on the oracle, compared answer by answer.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use haul_core::ids::{BlobId, PeerId, ShareId};
use haul_core::manifest::{Change, Page, PageBuilder, RegistrationDigest, ShareState};
use haul_core::path::SharePath;
use haul_core::query::parse;
use haul_core::wire::index::{Hit, LookupKeys};
use haul_core::wire::{ByteString, Label, List as WireList};
use haul_index::store::{
    Asker, BrowseQuestion, Found, IndexStore, SearchQuestion, ShareOffer, StoreError, TransactionId,
};

use crate::model::{FoundLine, Key, Kind, Line, List, Model, Rank, apply, digest, entry, line_of};

/// Opens the store again and again at the same place.
pub(crate) trait Factory {
    type Store: IndexStore;
    fn open(&self) -> Self::Store;
    /// Whether every total is exact as long as there is so little.
    fn counts_all(&self) -> bool;
}

/// `SplitMix64` (Steele, Lea, Flood 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % bound as u64) as usize
    }

    fn one<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

const DIRECTORIES: [&str; 7] = ["", "Films", "Films/old", "a", "a-b", "a/b", "Größe/Reports"];
const NAMES: [&[u8]; 16] = [
    b"report.pdf",
    b"Report.PDF",
    b"annual report 2024.pdf",
    b"old film.mkv",
    b"film.mkv",
    b"Films",
    "Größe.txt".as_bytes(),
    "GRO\u{308}SSE.txt".as_bytes(),
    b"caf\xe9",
    b"a",
    b"ab",
    b"b",
    b"linux-6.12.tar.gz",
    b"README",
    b"readme.md",
    b"x::y",
];
const QUERIES: [&str; 43] = [
    "report",
    "REPORT pdf",
    "\"annual report\"",
    "report -annual",
    "film",
    "old film",
    "films film",
    "a",
    "b",
    "ab",
    "größe",
    "grosse txt",
    "caf",
    "linux",
    "6.12",
    "type:video",
    "type:dir",
    "type:document size:>1k",
    "ext:pdf",
    "ext:gz,md",
    "-ext:pdf report",
    "path:/films film",
    "path:/a",
    "path:old",
    "-path:/a a",
    "peer:lab-1",
    "share:s1 a",
    "age:<3s",
    "size:0",
    "hash:0",
    "hash:1 report",
    "reprot",
    "repport pdf",
    "grosze",
    "name:film old",
    "x::y",
    "zzz",
    "readme",
    "type:link",
    "films old mkv",
    "films size:>2k",
    "type:dir -size:0",
    "films type:folder age:<5s",
];
const GROUPS: [&[&str]; 6] = [&[], &["red"], &["blue"], &["red", "green"], &["green"], &["blue", "green"]];
const NOW_NS: i64 = 10_000_000_000;

pub(crate) fn peer(number: usize) -> PeerId {
    PeerId::new([number as u8 + 7; 32]).unwrap()
}

fn groups(number: usize) -> Vec<Label> {
    GROUPS[number].iter().map(|group| Label::new(*group).unwrap()).collect()
}

/// Few contents, so that names share them; one of them with two claimed sizes. What entries are below is often a
/// directory.
fn line(random: &mut Random, (directory, name): &Key) -> Line {
    let blob = |number: u8| BlobId::new([number.wrapping_mul(0x11); 32]);
    let path = if directory.is_empty() { name.clone() } else { [directory.as_slice(), name].join(&b'/') };
    let is_parent = DIRECTORIES.iter().any(|parent| parent.as_bytes() == path) && random.below(2) == 0;
    let kind = match random.below(if is_parent { 1 } else { 12 }) {
        0 => Kind::Directory,
        1 => Kind::Symlink(b"../target".to_vec()),
        2 => Kind::File { size: 0, executable: false, blob: Some(BlobId::empty()) },
        3 => Kind::File { size: [0, 500][random.below(2)], executable: false, blob: None },
        4 => Kind::File { size: 999, executable: false, blob: Some(blob(1)) },
        _ => {
            let number = random.below(4) as u8;
            Kind::File {
                size: 1_000 * u64::from(number + 1),
                executable: random.below(2) == 0,
                blob: Some(blob(number)),
            }
        }
    };
    Line { mtime_ns: random.below(10) as i64 * 1_000_000_000, kind }
}

fn key(random: &mut Random) -> Key {
    (random.one(&DIRECTORIES).as_bytes().to_vec(), random.one(&NAMES).to_vec())
}

/// A transaction as the story sees it.
struct Transaction {
    id: TransactionId,
    peer: PeerId,
    share: ShareId,
    base: Option<ShareState>,
    changes: BTreeMap<Key, Option<Line>>,
}

pub(crate) struct Story<'a, F: Factory> {
    factory: &'a F,
    store: Option<F::Store>,
    model: Model,
    random: Random,
    transactions: Vec<Transaction>,
    /// The lists of the peers themselves, ahead of what the index has.
    own: BTreeMap<(PeerId, ShareId), (u64, List)>,
    log: Vec<String>,
}

type Told = Result<(), String>;

/// Runs one story; the error says what differed, after which operations.
pub(crate) async fn tell<F: Factory>(factory: &F, seed: u64, steps: usize) -> Told {
    let mut story = Story {
        factory,
        store: Some(factory.open()),
        model: Model::default(),
        random: Random(seed),
        transactions: Vec::new(),
        own: BTreeMap::new(),
        log: Vec::new(),
    };
    for step in 0..steps {
        let told = async {
            story.step().await?;
            if step % 12 == 11 { story.check_all().await } else { story.check_some().await }
        };
        if let Err(difference) = told.await {
            let last: Vec<_> = story.log.iter().rev().take(12).rev().cloned().collect();
            return Err(format!("seed {seed}, step {step}: {difference}\nlast operations:\n  {}", last.join("\n  ")));
        }
    }
    Ok(())
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, want: T) -> Told {
    if got == want { Ok(()) } else { Err(format!("{what}\n  got  {got:?}\n  want {want:?}")) }
}

fn outcome<T>(result: &Result<T, StoreError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(StoreError::NotOpen) => "not open",
        Err(StoreError::StateMismatch) => "mismatch",
        Err(StoreError::BadPage(_)) => "bad page",
        Err(StoreError::BadCursor) => "bad cursor",
        Err(StoreError::NotFound) => "not found",
        Err(StoreError::TooMuch(_)) => "too much",
        Err(StoreError::Busy { .. }) => "busy",
        Err(StoreError::Storage(_)) => "storage",
    }
}

impl<F: Factory> Story<'_, F> {
    fn store(&self) -> &F::Store {
        self.store.as_ref().unwrap()
    }

    /// Mostly what brings a share forward, sometimes anything at all.
    async fn step(&mut self) -> Told {
        let peer = peer(self.random.below(3));
        let share = ShareId([self.random.below(2) as u8; 16]);
        if self.random.below(3) > 0 {
            if !self.model.peers.get(&peer).is_some_and(|peer| peer.connected) {
                return self.connect(peer).await;
            }
            if !self.is_open(peer, share) {
                return self.open(peer, share).await;
            }
            if !self.transactions.is_empty() && self.random.below(8) == 0 {
                return self.abort().await;
            }
            self.begin(peer, share).await?;
            for _ in 0..=self.random.below(3) {
                self.stage().await?;
            }
            return self.commit().await;
        }
        match self.random.below(24) {
            0 => self.connect(peer).await,
            1..5 => self.open(peer, share).await,
            5..9 => self.begin(peer, share).await,
            9..12 => self.stage().await,
            12..15 => self.commit().await,
            15 | 16 => self.abort().await,
            17 => self.close(peer, share, false).await,
            18 => self.close(peer, share, true).await,
            19 => self.leave(peer, false).await,
            20 => self.leave(peer, true).await,
            21 => {
                self.restart();
                Ok(())
            }
            _ => {
                self.log.push("maintain".into());
                let end = self.store().maintain(std::time::Duration::from_millis(20)).await;
                same("maintain", outcome(&end), "ok")
            }
        }
    }

    async fn connect(&mut self, peer: PeerId) -> Told {
        let name =
            Label::new(format!("lab-{}", peer.as_bytes()[0] - 7 + (self.random.below(8) == 0) as u8 * 10)).unwrap();
        self.log.push(format!("connect {peer:?} {name}"));
        same("connect", outcome(&self.store().connect(peer, name.clone()).await), "ok")?;
        self.model.peers.entry(peer).or_default();
        self.model.hide(peer);
        let record = self.model.peers.get_mut(&peer).unwrap();
        record.connected = true;
        record.name = Some(name);
        self.transactions.retain(|transaction| transaction.peer != peer);
        Ok(())
    }

    fn is_open(&self, peer: PeerId, share: ShareId) -> bool {
        let peer = self.model.peers.get(&peer).filter(|peer| peer.connected);
        peer.and_then(|peer| peer.shares.get(&share)).is_some_and(|share| share.open)
    }

    async fn open(&mut self, peer: PeerId, share: ShareId) -> Told {
        let name = Label::new(format!("{}{}", ["s", "S"][self.random.below(2)], share.0[0])).unwrap();
        let groups = if self.random.below(2) == 0 { Vec::new() } else { groups(1 + self.random.below(5)) };
        let (revision, list) = self.own.entry((peer, share)).or_default();
        // Sometimes the peer has lost its count, sometimes it is ahead, mostly it has what the index has.
        match self.random.below(8) {
            0 => *revision = revision.saturating_sub(1),
            1 => {
                *revision += 1;
                let key = key(&mut self.random);
                let line = line(&mut self.random, &key);
                list.insert(key, line);
            }
            _ => {}
        }
        let state = ShareState { revision: *revision, digest: digest(list) };
        self.log.push(format!("open {peer:?} {share:?} as {name} for {groups:?} at {revision}"));
        let offer = ShareOffer { id: share, name: name.clone(), groups: groups.clone(), state };
        let answer = self.store().open(peer, offer).await;
        if !self.model.peers.get(&peer).is_some_and(|peer| peer.connected) {
            return same("open without connect", outcome(&answer), "not open");
        }
        let want = self.model.open(peer, share, &name, &groups, state);
        same("open", answer.ok(), Some(want))
    }

    async fn begin(&mut self, peer: PeerId, share: ShareId) -> Told {
        let held = self
            .model
            .peers
            .get(&peer)
            .and_then(|peer| peer.shares.get(&share)?.held.as_ref().map(|(state, _)| *state));
        let base = match self.random.below(8) {
            0 => None,
            1 => Some(ShareState { revision: 77, digest: RegistrationDigest::default() }),
            _ => held,
        };
        self.log.push(format!("begin {peer:?} {share:?} on {:?}", base.map(|base| base.revision)));
        let answer = self.store().begin(peer, share, base).await;
        self.transactions.retain(|open| open.peer != peer || open.share != share);
        let want = match (self.is_open(peer, share), base) {
            (false, _) => "not open",
            (true, Some(base)) if held != Some(base) => "mismatch",
            _ => "ok",
        };
        same("begin", outcome(&answer), want)?;
        if let Ok(id) = answer {
            self.transactions.push(Transaction { id, peer, share, base, changes: BTreeMap::new() });
        }
        Ok(())
    }

    async fn stage(&mut self) -> Told {
        if self.transactions.is_empty() {
            return self.stage_nowhere().await;
        }
        let at = self.random.below(self.transactions.len());
        let (base, changes) = (self.transactions[at].base, self.transactions[at].changes.clone());
        let mut page = BTreeMap::new();
        let own = (self.transactions[at].peer, self.transactions[at].share);
        let known: Vec<Key> = self.own.get(&own).map(|(_, list)| list.keys().cloned().collect()).unwrap_or_default();
        for _ in 0..=self.random.below(8) {
            let remove = self.random.below(3) == 0 && (base.is_some() || self.random.below(20) == 0);
            let key = if known.is_empty() || self.random.below(2) == 0 {
                key(&mut self.random)
            } else {
                self.random.one(&known).clone()
            };
            let line = (!remove).then(|| line(&mut self.random, &key));
            page.insert(key, line);
        }
        if self.random.below(8) > 0 {
            page.retain(|key, _| !changes.contains_key(key));
        }
        let refused = page.iter().any(|(key, line)| changes.contains_key(key) || (line.is_none() && base.is_none()));
        let mut bytes = page_of(&page);
        let broken = self.random.below(30) == 0 && !bytes.is_empty();
        if broken {
            bytes.push(0xff);
        }
        self.log.push(format!("stage {} changes{}", page.len(), if broken { ", broken" } else { "" }));
        let answer = self.store().stage(self.transactions[at].id, Bytes::from(bytes)).await;
        same("stage", outcome(&answer), if refused || broken { "bad page" } else { "ok" })?;
        if answer.is_ok() {
            self.transactions[at].changes.extend(page);
        }
        Ok(())
    }

    async fn stage_nowhere(&mut self) -> Told {
        let answer = self.store().stage(TransactionId(u64::MAX), Bytes::from(page_of(&BTreeMap::new()))).await;
        same("stage without begin", outcome(&answer), "not open")
    }

    async fn commit(&mut self) -> Told {
        if self.transactions.is_empty() {
            return Ok(());
        }
        let transaction = self.transactions.remove(self.random.below(self.transactions.len()));
        let (peer, share) = (transaction.peer, transaction.share);
        let record = self.model.peers.get_mut(&peer).unwrap().shares.get_mut(&share).unwrap();
        let held = record.held.clone();
        let mut list = if transaction.base.is_some() { held.clone().unwrap().1 } else { List::new() };
        apply(&mut list, &transaction.changes);
        let revision = held.map_or(0, |(state, _)| state.revision) + 1;
        let mut state = ShareState { revision, digest: digest(&list) };
        let mut count = transaction.changes.len() as u64;
        let lie = self.random.below(10);
        match lie {
            0 => count += 1,
            1 => {
                let fake = (Vec::new(), b"fake".to_vec());
                state.digest.add(&entry(&fake, &Line { mtime_ns: 0, kind: Kind::Directory }));
            }
            _ => {}
        }
        self.log
            .push(format!("commit {peer:?} {share:?} to {revision} with {:?} changes, lie {lie}", transaction.changes));
        let want = if lie < 2 { "mismatch" } else { "ok" };
        if lie >= 2 {
            record.held = Some((state, list.clone()));
            record.usable = true;
            self.own.insert((peer, share), (revision, list));
        }
        let answer = self.store().commit(transaction.id, state, count).await;
        same("commit", outcome(&answer), want)?;
        same("state", answer.ok(), (lie >= 2).then_some(state))
    }

    async fn abort(&mut self) -> Told {
        if let Some(transaction) = self.transactions.pop() {
            self.log.push("abort".into());
            self.store().abort(transaction.id).await;
            let answer = self.store().commit(transaction.id, ShareState::default(), 0).await;
            same("commit after abort", outcome(&answer), "not open")?;
        }
        Ok(())
    }

    async fn close(&mut self, peer: PeerId, share: ShareId, forget: bool) -> Told {
        self.log.push(format!("close {peer:?} {share:?} forget {forget}"));
        let answer = self.store().close(peer, share, forget).await;
        self.transactions.retain(|open| open.peer != peer || open.share != share);
        let Some(record) = self.model.peers.get_mut(&peer) else {
            return same("close", outcome(&answer), "not open");
        };
        let known = record.shares.contains_key(&share);
        if forget {
            record.shares.remove(&share);
            self.own.remove(&(peer, share));
        } else if let Some(share) = record.shares.get_mut(&share) {
            share.open = false;
        }
        same("close", outcome(&answer), if known { "ok" } else { "not open" })
    }

    async fn leave(&mut self, peer: PeerId, forget: bool) -> Told {
        self.log.push(format!("leave {peer:?} forget {forget}"));
        let answer = if forget { self.store().forget(peer).await } else { self.store().leave(peer).await };
        self.transactions.retain(|transaction| transaction.peer != peer);
        if !self.model.peers.get(&peer).is_some_and(|peer| peer.connected || !peer.shares.is_empty()) {
            // Whether a store remembers a peer that has nothing is its own affair.
            return Ok(());
        }
        self.model.hide(peer);
        if forget {
            self.model.peers.get_mut(&peer).unwrap().shares.clear();
            self.own.retain(|(owner, _), _| *owner != peer);
        }
        same("leave", outcome(&answer), "ok")
    }

    /// Everybody is away afterwards, and shares that never committed are unknown.
    fn restart(&mut self) {
        self.log.push("restart".into());
        self.store = None;
        self.store = Some(self.factory.open());
        self.transactions.clear();
        for peer in self.model.peers.keys().copied().collect::<Vec<_>>() {
            self.model.hide(peer);
        }
        for peer in self.model.peers.values_mut() {
            peer.shares.retain(|_, share| share.held.is_some());
        }
    }

    async fn check_some(&mut self) -> Told {
        let asker = groups(self.random.below(GROUPS.len()));
        let query = *self.random.one(&QUERIES);
        let limit = 1 + self.random.below(5);
        let away = self.random.below(3) == 0;
        self.check_search(&asker, query, limit, away, false).await
    }

    async fn check_all(&mut self) -> Told {
        // Rows of open transactions count for the order, and only the store knows them.
        let settled = self.transactions.is_empty() && self.random.below(2) == 0;
        if settled {
            self.log.push("maintain to the end".into());
            while self
                .store()
                .maintain(std::time::Duration::from_millis(20))
                .await
                .map_err(|error| error.to_string())?
            {}
        }
        for number in 0..GROUPS.len() {
            let asker = groups(number);
            // Each question is asked by somebody; which ones by whom changes from check to check.
            let first = self.random.below(3);
            for query in QUERIES.iter().skip(first).step_by(3) {
                let limit = [1_000, 7, 4][self.random.below(3)];
                self.check_search(&asker, query, limit, number % 2 == 0, settled).await?;
            }
            for away in [false, true] {
                self.check_lookups(&asker, away).await?;
            }
            self.check_visible(&asker).await?;
            for peer_number in 0..3 {
                self.check_peer(&asker, peer(peer_number)).await?;
            }
        }
        Ok(())
    }

    /// Pages to the end must be the oracle's hits in a permitted order.
    async fn check_search(&self, asker: &[Label], text: &str, limit: usize, away: bool, settled: bool) -> Told {
        let query = parse(text).unwrap();
        let mut want = self.model.search(asker, &query, away, NOW_NS);
        let asker = Asker { peer: peer(0), groups: asker.to_vec() };
        let mut cursor: Option<ByteString> = None;
        let mut got: Vec<(Rank, Hit)> = Vec::new();
        let near = want.first().is_some_and(|(_, hit)| hit.near);
        let total = want.len() as u64;
        let what = format!("{text} for {:?}, limit {limit}, away {away}", asker.groups);
        // Half of the questions ask for an exact total.
        let exact = limit.is_multiple_of(2);
        loop {
            let question =
                SearchQuestion { query: &query, limit, cursor: cursor.as_deref(), away, now_ns: NOW_NS, exact };
            let hits =
                self.store().search(&asker, question).await.map_err(|error| format!("search {what}: {error}"))?;
            if hits.exact {
                same(&format!("total of {what}"), hits.total, total)?;
            }
            let must_be_exact = exact || self.factory.counts_all();
            same(&format!("{what} is counted exactly"), hits.exact || !must_be_exact, true)?;
            let end = hits.hits.is_empty();
            for hit in hits.hits {
                let at = want.iter().position(|(_, wanted)| *wanted == hit);
                let Some(at) = at else {
                    return Err(format!("{what}: unexpected, twice or late:\n  {hit:?}\n  left {want:#?}"));
                };
                got.push(want.swap_remove(at));
            }
            cursor = hits.cursor;
            if cursor.is_none() || end {
                break;
            }
        }
        let missing = if near { total.min(limit as u64) - got.len() as u64 } else { want.len() as u64 };
        if missing > 0 {
            return Err(format!("{what}: missing\n  {:?}\n  got {}", want.first(), got.len()));
        }
        in_order(&got, settled).map_err(|difference| format!("{what}: {difference}"))?;
        // Of near matches the best are shown.
        let worst = got.iter().map(|(rank, _)| (rank.class, rank.fewer, rank.len)).max();
        let best_left = want.iter().map(|(rank, _)| (rank.class, rank.fewer, rank.len)).min();
        let cut_well = !settled || best_left.is_none() || worst <= best_left;
        same(&format!("{what}: near matches that were left out are worse"), cut_well, true)
    }

    async fn check_lookups(&self, asker: &[Label], away: bool) -> Told {
        let who = Asker { peer: peer(0), groups: asker.to_vec() };
        let mut blobs: Vec<BlobId> = (0..5).map(|number| BlobId::new([number * 0x11; 32])).collect();
        blobs.push(BlobId::empty());
        let keys = LookupKeys::Blobs(WireList::new(blobs.clone()));
        let found = self.store().lookup(&who, &keys, 256, away).await.map_err(|error| error.to_string())?;
        let want: Vec<_> = blobs.iter().map(|blob| self.model.lookup_blob(asker, *blob, away)).collect();
        same("lookup of blobs", lines(found), want)?;
        for max in [256, 1] {
            self.check_locate(&who, &blobs, max, away).await?;
        }
        for blob in &blobs {
            self.check_owners(&who, *blob, away).await?;
        }
        let keys = LookupKeys::Names(WireList::new(NAMES.map(ByteString::from).to_vec()));
        let found = self.store().lookup(&who, &keys, 256, away).await.map_err(|error| error.to_string())?;
        let want: Vec<_> = NAMES.iter().map(|name| self.model.lookup_name(asker, name, away)).collect();
        same("lookup of names", lines(found), want)
    }

    async fn check_owners(&self, who: &Asker, blob: BlobId, away: bool) -> Told {
        let mut sizes = self.model.owners(&who.groups, blob, away);
        // And of one that nobody claims.
        sizes.insert(u64::from(u32::MAX), Default::default());
        for (size, (total, there, all)) in sizes {
            let found = self.store().owners(who, blob, size, away).await.map_err(|error| error.to_string())?;
            let peers: Vec<PeerId> = self.store().peer_ids(&found.peers).into_iter().flatten().collect();
            let first: BTreeSet<PeerId> = peers.iter().take(there.len()).copied().collect();
            let distinct: BTreeSet<PeerId> = peers.iter().copied().collect();
            let what = format!("owners of {blob} in {size} bytes, away {away}");
            same(&what, (found.total, peers.len(), first, distinct), (total, all.len(), there, all))?;
        }
        Ok(())
    }

    async fn check_locate(&self, who: &Asker, blobs: &[BlobId], max: usize, away: bool) -> Told {
        let located = self.store().locate(who, blobs, max, away).await.map_err(|error| error.to_string())?;
        same("located blobs", (located.blobs.len(), located.coverage_permille), (blobs.len(), 1_000))?;
        same("end", located.blobs.last().map(|last| last.end), Some(located.peers.len() as u32))?;
        for (position, blob) in blobs.iter().enumerate() {
            let found = located.blobs[position];
            let (size, total, there, gone) = self.model.locate(&who.groups, *blob, away);
            same(&format!("located {blob} away {away}"), (found.size, found.total), (size, total))?;
            let peers = self.store().peer_ids(located.peers_of(position));
            let Some(mut peers) = peers.into_iter().collect::<Option<Vec<PeerId>>>() else {
                return Err(format!("a number of a peer of {blob} is unknown"));
            };
            // In any order, but those that are there first, and as many as asked for.
            let first: Vec<_> = peers.drain(..max.min(there.len()).min(peers.len())).collect();
            let check = |what, peers: Vec<PeerId>, known: &BTreeSet<PeerId>, wanted: usize| {
                let distinct: BTreeSet<_> = peers.iter().copied().collect();
                let right = peers.len() == wanted && distinct.len() == wanted && distinct.is_subset(known);
                if right { Ok(()) } else { Err(format!("{what} of {blob} away {away}: {peers:?} of {known:?}")) }
            };
            let room = max - first.len();
            check("peers", first, &there, max.min(there.len()))?;
            check("away peers", peers, &gone, room.min(gone.len()))?;
        }
        Ok(())
    }

    async fn check_visible(&self, asker: &[Label]) -> Told {
        let who = Asker { peer: peer(0), groups: asker.to_vec() };
        let got = self.store().visible(&who).await;
        let want = self.model.visible(asker);
        same("visible totals", (got.shares, got.files, got.bytes, got.blobs.is_some()), want)
    }

    async fn check_peer(&mut self, asker: &[Label], peer: PeerId) -> Told {
        let who = Asker { peer, groups: asker.to_vec() };
        same("totals", self.store().totals(&who, peer).await, self.model.totals(asker, peer))?;
        let shares = self.browse(&who, peer, None, b"", false).await?;
        let want = self.model.shares(asker, peer);
        let names = shares
            .map(|list| list.iter().map(|((_, name), _)| Label::new(String::from_utf8_lossy(name)).unwrap()).collect());
        same("shares", names, want.clone())?;
        let unseen = Label::new("nowhere").unwrap();
        for share in want.iter().flatten().chain([&unseen]) {
            for path in ["", "Films", "a", "a/b", "Films/old", "README"] {
                for recursive in [false, true] {
                    let got = self.browse(&who, peer, Some(share), path.as_bytes(), recursive).await?;
                    let want = self.model.browse(asker, peer, share, path.as_bytes(), recursive);
                    same(&format!("browse {share}:{path} recursive {recursive}"), got, want)?;
                }
            }
        }
        Ok(())
    }

    /// None if there is nothing of this name.
    async fn browse(
        &self,
        who: &Asker,
        peer: PeerId,
        share: Option<&Label>,
        path: &[u8],
        recursive: bool,
    ) -> Result<Option<Vec<(Key, Line)>>, String> {
        let path = SharePath::new(path).unwrap();
        let mut cursor: Option<ByteString> = None;
        let mut list = Vec::new();
        loop {
            let question = BrowseQuestion { peer, share, path: &path, recursive, cursor: cursor.as_deref() };
            let listing = match self.store().browse(who, question).await {
                Err(StoreError::NotFound) => return Ok(None),
                Err(error) => return Err(format!("browse: {error}")),
                Ok(listing) => listing,
            };
            let page = Page::check(&listing.page).map_err(|error| format!("a listing is no page: {error}"))?;
            for change in page.changes() {
                let (key, line) = line_of(&change);
                list.push((key, line.ok_or("a listing has a removal")?));
            }
            cursor = listing.cursor;
            if cursor.is_none() {
                return Ok(Some(list));
            }
        }
    }
}

pub(crate) fn page_of(changes: &BTreeMap<Key, Option<Line>>) -> Vec<u8> {
    let mut builder = PageBuilder::new();
    for (key, line) in changes {
        let change = match line {
            Some(line) => Change::Upsert(entry(key, line)),
            None => Change::Remove { directory: &key.0, name: &key.1 },
        };
        assert!(builder.push(&change));
    }
    builder.finish()
}

/// Classes in order, and within a document more copies first; where everything has settled, also the ranks in order.
fn in_order(got: &[(Rank, Hit)], settled: bool) -> Told {
    for pair in got.windows(2) {
        let [(before, hit_before), (after, hit)] = pair else { continue };
        let places = |rank: &Rank| if settled { (rank.class, rank.fewer, rank.len) } else { (rank.class, 0, 0) };
        let same_name = before.folded == after.folded && before.class == after.class;
        if places(before) > places(after) || (same_name && hit_before.copies < hit.copies) {
            return Err(format!(
                "order (settled {settled})\n  first {before:?} {hit_before:?}\n  then  {after:?} {hit:?}"
            ));
        }
    }
    let mut names: Vec<_> = got.iter().map(|(rank, _)| (rank.class, &rank.folded)).collect();
    names.dedup();
    let runs = names.len();
    names.sort();
    names.dedup();
    same("hits of a name stand together", runs, names.len())
}

fn lines(found: Found) -> Vec<Vec<FoundLine>> {
    let peers = found.peers;
    let line = |found: haul_index::store::BlobFound| {
        let places = found.places.into_iter();
        let places =
            places.map(|place| (peers[place.peer as usize], place.share, place.path, place.mtime_ns, place.executable));
        (found.blob, found.size, found.total, places.collect())
    };
    found.answers.into_iter().map(|answers| answers.into_iter().map(line).collect()).collect()
}
