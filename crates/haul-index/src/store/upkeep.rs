//! Upkeep in small steps: rows of deleted lists are swept, names are moved together, lists with many amendments are
//! rewritten.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use haul_core::ids::{PeerId, ShareId};
use haul_core::limits;

use super::StoreError;
use super::browse::Walk;
use super::disk::Write;
use super::embedded::{EmbeddedStore, lock};
use super::memory::shares::Held;
use super::registration::record_of;

/// Rows that one step sweeps: less than 0.2 ms under the write lock.
const SWEEP_ROWS: usize = 256;
/// Names that one step moves out of a worn chunk: about 0.1 ms.
const TIDY_NAMES: usize = 256;
/// Amendments below this many bytes are left alone however small the list is.
const REWRITE_BYTES: u64 = 64 * 1024;
/// What a page costs besides its bytes: its place in the catalog, which is written again with every segment. Many
/// commits of one entry each would else make far more catalog than list.
const PAGE_COST: u64 = 512;
/// Bytes of pages that a rewrite sends to the disk at once. Each page is made under a lock of its own: about 0.3 ms.
const REWRITE_STEP: usize = 2 * 1024 * 1024;

impl EmbeddedStore {
    /// Works until the budget is used up or nothing is left; returns whether work is left.
    pub(super) async fn maintain_for(&self, budget: Duration) -> Result<bool, StoreError> {
        let start = Instant::now();
        self.expire_restored();
        self.note_peers();
        loop {
            let worked = self.sweep_step()
                || self.shared.write().names.tidy(TIDY_NAMES)
                || self.drop_garbage().await?
                || self.rewrite_one().await?
                || self.clean_step().await?
                // While lists are loaded names keep coming: one merge at the end costs less than many.
                || (self.shared.coverage_permille() == 1_000
                    && self.merge_step(budget.saturating_sub(start.elapsed())).await);
            if !worked {
                // Whoever loads lists needs the processor more than a merge that waits for that.
                let loaded = self.shared.coverage_permille() == 1_000;
                return Ok(loaded && self.shared.read().names.trigrams.is_restless());
            }
            if start.elapsed() >= budget {
                return Ok(true);
            }
            self.shared.make_way();
            tokio::task::yield_now().await;
        }
    }

    /// Sweeps some rows of a doomed slot; false if there is none.
    fn sweep_step(&self) -> bool {
        let mut memory = self.shared.write();
        let Some(slot) = memory.shares.doomed.last().copied() else { return false };
        if !memory.sweep(slot, SWEEP_ROWS) {
            memory.shares.doomed.retain(|doomed| *doomed != slot);
            memory.shares.release_slot(slot);
        }
        true
    }

    /// Deletes pages of transactions that did not commit.
    async fn drop_garbage(&self) -> Result<bool, StoreError> {
        let generations = std::mem::take(&mut *lock(&self.shared.garbage));
        if generations.is_empty() {
            return Ok(false);
        }
        let writes = generations.iter().map(|generation| Write::DropGeneration(*generation)).collect();
        let result = self.writer.write(writes).await;
        if result.is_err() {
            lock(&self.shared.garbage).extend(generations);
        }
        result.map(|()| true)
    }

    async fn rewrite_one(&self) -> Result<bool, StoreError> {
        let found = {
            let memory = self.shared.read();
            // Looking through all shares is for once in a while.
            if !memory.shares.worn.swap(false, Ordering::Relaxed) {
                return Ok(false);
            }
            memory.shares.peers.iter().find_map(|peer| {
                let (id, share) = peer
                    .shares
                    .iter()
                    .find(|(_, share)| share.loaded && share.held.is_some_and(|held| is_worn(&held)))?;
                Some((peer.id, *id, Arc::clone(&share.changing)))
            })
        };
        let Some((peer, share, changing)) = found else { return Ok(false) };
        // There may be another one; and this one is not done yet.
        self.shared.read().shares.worn.store(true, Ordering::Relaxed);
        let changing = changing.lock_owned().await;
        let Some(held) = self.held(peer, share).filter(is_worn) else { return Ok(true) };
        let generation = self.new_generation();
        let written = self.write_list(&held, generation).await;
        let (next_seq, base_bytes) = match written {
            Ok(written) => written,
            Err(error) => {
                lock(&self.shared.garbage).push(generation);
                return Err(error);
            }
        };
        let turn = self.writer.turn().await?;
        let after = Held { generation, next_seq, base_bytes, amended_bytes: 0, ..held };
        let shared = Arc::clone(&self.shared);
        let switched = {
            let memory = self.shared.read();
            let current = memory.shares.peer(&peer).and_then(|peer| peer.shares.get(&share));
            let Some(record) = current else {
                lock(&self.shared.garbage).push(generation);
                return Ok(true);
            };
            let record = record_of(record, &after);
            let writes = vec![Write::PutShare { peer, share, record }, Write::DropGeneration(held.generation)];
            turn.write(writes, move || {
                let mut memory = shared.write();
                let record = memory.shares.peer_mut(&peer).and_then(|peer| peer.shares.get_mut(&share));
                if let Some(record) = record {
                    record.held = Some(after);
                }
                drop((memory, changing));
            })
        };
        switched.await?;
        Ok(true)
    }

    fn held(&self, peer: PeerId, share: ShareId) -> Option<Held> {
        self.shared.read().shares.peer(&peer)?.shares.get(&share)?.held
    }

    /// Writes the whole list of a slot as pages of a generation that no record names yet; returns how many pages and
    /// bytes. The caller keeps the list from changing.
    async fn write_list(&self, held: &Held, generation: u64) -> Result<(u64, u64), StoreError> {
        let mut after = None;
        let (mut next_seq, mut total) = (0, 0);
        let (mut pages, mut step) = (Vec::new(), 0);
        loop {
            let (page, ended) = {
                let memory = self.shared.read();
                let root = memory.shares.slot(held.slot).root;
                let mut walk = Walk::new(&memory, after, limits::PAGE_ENTRIES);
                let ended = walk.below(root, &mut Vec::new());
                after = walk.last_key();
                (walk.take_page(), ended)
            };
            if let Some(page) = page {
                total += page.len() as u64;
                step += page.len();
                pages.push((next_seq, Bytes::from(page)));
                next_seq += 1;
            }
            if step >= REWRITE_STEP || (ended && step > 0) {
                step = 0;
                let pages = std::mem::take(&mut pages);
                self.writer.write(vec![Write::Pages { generation, pages }]).await?;
            }
            if ended {
                return Ok((next_seq, total));
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Whether a list has so many amendments that it should be rewritten.
pub(super) fn is_worn(held: &Held) -> bool {
    held.amended_bytes + held.next_seq * PAGE_COST > REWRITE_BYTES.max(held.base_bytes / 2)
}
