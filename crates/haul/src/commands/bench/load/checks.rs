//! Checks of answers, from the population alone.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context as _, bail, ensure};
use haul_core::ids::{BlobId, PeerId};
use haul_core::limits;
use haul_core::wire::List;
use haul_core::wire::index::{Hits, IndexAnswer, IndexRequest, Located};

use super::super::session::Session;
use super::crowd::Door;
use super::paths::{self, Paths};
use super::population::{PROVIDERS_MAX, Population};

/// Stands for a peer that is not of the population.
const STRANGER: u32 = u32::MAX;

/// One asked file and what must be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Number of the file.
    pub(crate) file: u64,
    /// Its bytes.
    pub(crate) size: u32,
}

/// Knows who is who.
#[derive(Debug)]
pub(crate) struct Checker {
    population: Arc<Population>,
    paths: Arc<Paths>,
    peers: HashMap<PeerId, u32>,
    /// Peer of the population by the index's number.
    numbers: RwLock<Vec<Option<u32>>>,
}

impl Checker {
    /// For peers that came through `door`.
    pub(crate) fn new(population: Arc<Population>, paths: Arc<Paths>, door: &Door) -> anyhow::Result<Self> {
        let peers = (0..population.peers()).map(|peer| Ok((door.key(peer)?.public(), peer)));
        let peers = peers.collect::<anyhow::Result<_>>()?;
        Ok(Self { population, paths, peers, numbers: RwLock::default() })
    }

    /// Asks for the providers of these files, up to ten each.
    pub(crate) fn locate(&self, files: &[u64]) -> (IndexRequest, Vec<Asked>) {
        let blobs: Vec<BlobId> = files.iter().map(|file| self.population.blob(*file)).collect();
        let asked = files.iter().zip(&blobs);
        let asked = asked.map(|(file, blob)| Asked { file: *file, size: Population::size(blob) as u32 }).collect();
        (IndexRequest::Locate { blobs: List::new(blobs), max: PROVIDERS_MAX, away: false }, asked)
    }

    /// Whether sizes, numbers of providers and providers are right. All peers are online and registered.
    pub(crate) async fn check(&self, session: &Session, asked: &[Asked], answer: IndexAnswer) -> anyhow::Result<()> {
        let IndexAnswer::Located(located) = answer else { bail!("not an answer to Locate: {answer:?}") };
        if let Some(unknown) = self.unknown(&located) {
            self.learn(session, unknown).await?;
        }
        self.check_located(asked, &located)
    }

    fn check_located(&self, asked: &[Asked], located: &Located) -> anyhow::Result<()> {
        ensure!(located.blobs.len() == asked.len(), "{} answers to {} keys", located.blobs.len(), asked.len());
        let numbers = self.numbers.read().unwrap_or_else(PoisonError::into_inner);
        for (place, (asked, found)) in asked.iter().zip(&located.blobs).enumerate() {
            let expected = self.population.holder_count(asked.file);
            let peers = located.peers_of(place);
            let right = found.size == u64::from(asked.size)
                && found.total == expected
                && peers.len() == expected as usize
                && peers.iter().enumerate().all(|(nth, number)| {
                    let peer = numbers.get(*number as usize).copied().flatten();
                    let holds = |peer| self.population.holders(asked.file).any(|holder| holder == peer);
                    peer.is_some_and(holds) && peers.iter().take(nth).all(|before| before != number)
                });
            if !right {
                bail!(
                    "file {} has {} bytes at peers {:?}, not {found:?} at {:?}",
                    asked.file,
                    asked.size,
                    self.population.holders(asked.file).collect::<Vec<_>>(),
                    peers.iter().map(|number| numbers.get(*number as usize).copied().flatten()).collect::<Vec<_>>(),
                );
            }
        }
        Ok(())
    }

    fn unknown(&self, located: &Located) -> Option<Vec<u32>> {
        let numbers = self.numbers.read().unwrap_or_else(PoisonError::into_inner);
        let missing = |number: &&u32| numbers.get(**number as usize).copied().flatten().is_none();
        let mut unknown: Vec<u32> = located.peers.iter().filter(missing).copied().collect();
        unknown.sort_unstable();
        unknown.dedup();
        (!unknown.is_empty()).then_some(unknown)
    }

    /// Asks who these peers are, as a peer does that meets a number for the first time.
    async fn learn(&self, session: &Session, unknown: Vec<u32>) -> anyhow::Result<()> {
        for part in unknown.chunks(limits::CARDS) {
            let request = IndexRequest::Cards { numbers: List::new(part.to_vec()) };
            let IndexAnswer::Cards { cards } = session.ask(&request).await? else { bail!("not an answer to Cards") };
            ensure!(cards.len() == part.len(), "{} cards for {} numbers", cards.len(), part.len());
            let mut numbers = self.numbers.write().unwrap_or_else(PoisonError::into_inner);
            for (number, card) in part.iter().zip(cards) {
                let card = card.with_context(|| format!("nobody has the number {number}"))?;
                ensure!(card.online, "{} is listed as away", card.id);
                let place = *number as usize;
                if numbers.len() <= place {
                    numbers.resize(place + 1, None);
                }
                let peer = self.peers.get(&card.id).copied().unwrap_or(STRANGER);
                if let Some(slot) = numbers.get_mut(place) {
                    *slot = Some(peer);
                }
            }
        }
        Ok(())
    }

    /// A search that must find this file: its whole base name as a phrase.
    pub(crate) fn search_for(&self, file: u64) -> IndexRequest {
        let path = self.paths.of(&self.population, file);
        let name = String::from_utf8_lossy(paths::split(&path).1).into_owned();
        let query = format!("name:\"{name}\"");
        IndexRequest::Search { query, limit: limits::SEARCH_HITS as u32, cursor: None, away: false, exact: false }
    }

    /// Whether a search for this file found it. `None`: so many files have this name that it may stand behind the
    /// first ones.
    pub(crate) fn found(&self, file: u64, hits: &Hits) -> anyhow::Result<Option<()>> {
        let blob = self.population.blob(file);
        let path = self.paths.of(&self.population, file);
        if let Some(hit) = hits.hits.iter().find(|hit| hit.blob == Some(blob)) {
            let right = hit.path.as_bytes() == &*path && hit.size == Population::size(&blob) && hit.online > 0;
            ensure!(right, "file {file} is found as {hit:?}");
            return Ok(Some(()));
        }
        ensure!(hits.cursor.is_some(), "file {file} ({}) is not found", String::from_utf8_lossy(&path));
        Ok(None)
    }

    /// Whether hardly any other file has this one's name: it is long and has a digit.
    pub(crate) fn is_telling(&self, file: u64) -> bool {
        let path = self.paths.of(&self.population, file);
        let name = paths::split(&path).1;
        name.len() >= 16 && name.iter().any(u8::is_ascii_digit) && self.is_searchable(file)
    }

    /// Whether a search can name this file: no quotes, plain text.
    pub(crate) fn is_searchable(&self, file: u64) -> bool {
        let path = self.paths.of(&self.population, file);
        let name = paths::split(&path).1;
        name.len() >= 12 && name.is_ascii() && !name.contains(&b'"')
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use haul_core::time::Timestamp;
    use haul_core::trust::{Role, Ticket};
    use haul_core::wire::index::LocatedBlob;

    use super::*;

    fn checker() -> Checker {
        let population = Arc::new(Population::new(1, 12, 60, 1.5).unwrap());
        let key = haul_net::identity::SecretKey::from_seed([1; 32]).unwrap().public();
        let ticket =
            Ticket { network: key, secret: [0; 16], expires: Timestamp(0), role: Role::Member, addresses: Vec::new() };
        let door = Door::new(ticket, Arc::clone(&population), "peer");
        let checker = Checker::new(population, Arc::new(Paths::Generated), &door).unwrap();
        // The index numbers the peers backwards.
        *checker.numbers.write().unwrap() = (0..12).rev().map(Some).collect();
        checker
    }

    fn answer(checker: &Checker, files: &[u64]) -> Located {
        let mut located = Located::default();
        for file in files {
            let population = &checker.population;
            located.peers.extend(population.holders(*file).map(|peer| 11 - peer));
            located.blobs.push(LocatedBlob {
                size: Population::size(&population.blob(*file)),
                total: population.holder_count(*file),
                end: located.peers.len() as u32,
            });
        }
        located
    }

    #[test]
    fn wrong_providers_sizes_and_totals_are_noticed() {
        let checker = checker();
        let files = [0, 39, 17, 0];
        let (_, asked) = checker.locate(&files);
        let right = answer(&checker, &files);
        assert!(checker.check_located(&asked, &right).is_ok());
        assert!(right.peers_of(0).len() > 2 && right.peers_of(1).len() == 1);
        let mut changes: Vec<fn(&mut Located)> = Vec::new();
        changes.push(|located| located.blobs[1].size += 1);
        changes.push(|located| located.blobs[2].total += 1);
        changes.push(|located| located.peers[0] = (located.peers[0] + 5) % 12);
        changes.push(|located| located.peers[1] = located.peers[0]);
        changes.push(|located| located.blobs.truncate(3));
        changes.push(|located| located.blobs[0].end -= 1);
        for (number, change) in changes.iter().enumerate() {
            let mut wrong = right.clone();
            change(&mut wrong);
            assert!(checker.check_located(&asked, &wrong).is_err(), "change {number}");
        }
    }

    #[test]
    fn a_file_must_be_found_unless_there_are_too_many() {
        let checker = checker();
        assert!(checker.found(3, &Hits::default()).is_err());
        let many = Hits { cursor: Some(haul_core::wire::ByteString(vec![1])), ..Hits::default() };
        assert_eq!(checker.found(3, &many).unwrap(), None);
        assert!(checker.is_searchable(3));
    }
}
