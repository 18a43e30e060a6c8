//! Verified leaves on their way to the disk. Each part file has one writer at a time, since more would wait for each
//! other at its inode; it takes whatever has come meanwhile and writes neighbours at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use haul_core::ids::PeerId;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::transfer::Event;
use crate::files::{FileError, PartFile};

/// Leaves of one write: 4 MiB, a large enough part of what may wait that larger ones would not save calls.
const RUN_LEAVES: usize = 64;

/// Verified leaves of one provider.
pub(super) struct Batch {
    pub(super) provider: PeerId,
    /// Whose sheets verified them.
    pub(super) epoch: u64,
    pub(super) leaves: Vec<(u64, Bytes)>,
    /// Bounds what waits.
    pub(super) _permit: OwnedSemaphorePermit,
}

/// Leaves of one provider that are in the part file now.
pub(super) struct Written {
    pub(super) provider: PeerId,
    pub(super) epoch: u64,
    pub(super) leaves: Vec<u64>,
}

#[derive(Default)]
struct State {
    waiting: Vec<Batch>,
    /// Somebody writes, and looks here again before ending.
    writing: bool,
}

/// What waits for the writer of a part file.
#[derive(Clone, Default)]
pub(super) struct WriteQueue {
    state: Arc<Mutex<State>>,
}

impl WriteQueue {
    /// Adds leaves; whether a writer has to be started for them.
    pub(super) fn push(&self, batch: Batch) -> bool {
        let mut state = self.state();
        state.waiting.push(batch);
        !std::mem::replace(&mut state.writing, true)
    }

    /// Writes what waits until nothing does, and reports it. Blocks: for a worker thread.
    pub(super) fn drain(&self, part: &PartFile, events: &mpsc::Sender<Event>) {
        while let Some(batches) = self.take() {
            let result = write(part, &batches).map(|()| batches.iter().map(written).collect());
            let failed = result.is_err();
            if events.blocking_send(Event::Written(result)).is_err() || failed {
                // The transfer ends, or has ended; nobody starts another writer for what still waits.
                return;
            }
        }
    }

    fn take(&self) -> Option<Vec<Batch>> {
        let mut state = self.state();
        let batches = std::mem::take(&mut state.waiting);
        state.writing = !batches.is_empty();
        state.writing.then_some(batches)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn written(batch: &Batch) -> Written {
    let leaves = batch.leaves.iter().map(|(leaf, _)| *leaf).collect();
    Written { provider: batch.provider, epoch: batch.epoch, leaves }
}

/// Writes all leaves, those that follow each other together.
fn write(part: &PartFile, batches: &[Batch]) -> Result<(), FileError> {
    let mut leaves: Vec<&(u64, Bytes)> = batches.iter().flat_map(|batch| &batch.leaves).collect();
    leaves.sort_unstable_by_key(|(leaf, _)| *leaf);
    for run in leaves.chunk_by(|before, after| before.0 + 1 == after.0).flat_map(|run| run.chunks(RUN_LEAVES)) {
        if let Some((first, _)) = run.first() {
            part.write_leaves(*first, run.iter().map(|(_, bytes)| &**bytes))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use haul_core::blob::BlobGeometry;
    use haul_core::ids::BlobId;
    use haul_core::limits::LEAF_BYTES;
    use haul_net::identity::SecretKey;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::files::Place;

    #[test]
    fn one_writer_takes_what_several_providers_brought_and_a_later_one_is_started_anew() {
        let folder = tempfile::tempdir().unwrap();
        let geometry = BlobGeometry::new(5 * LEAF_BYTES - 9).unwrap();
        let place = Place::of(&folder.path().join("got")).unwrap();
        let (part, _) = PartFile::open(place, BlobId::new([7; 32]), geometry).unwrap();
        let (events, mut happened) = mpsc::channel(4);
        let permits = Arc::new(Semaphore::new(3));
        let (one, other) = (SecretKey::generate().unwrap().public(), SecretKey::generate().unwrap().public());
        let batch = |provider: PeerId, leaves: &[u64]| Batch {
            provider,
            epoch: 0,
            leaves: leaves.iter().map(|leaf| (*leaf, vec![*leaf as u8; geometry.leaf_bytes(*leaf)].into())).collect(),
            _permit: Arc::clone(&permits).try_acquire_owned().unwrap(),
        };

        let queue = WriteQueue::default();
        assert!(queue.push(batch(one, &[4, 1])));
        assert!(!queue.push(batch(other, &[2, 0])));
        queue.drain(&part, &events);
        assert!(queue.push(batch(one, &[3])));
        queue.drain(&part, &events);

        let mut written = Vec::new();
        while let Ok(Event::Written(result)) = happened.try_recv() {
            written.push(result.unwrap().into_iter().map(|written| written.leaves).collect::<Vec<_>>());
        }
        assert_eq!(written, [vec![vec![4, 1], vec![2, 0]], vec![vec![3]]]);
        for leaf in 0..5 {
            assert_eq!(part.read_leaf(leaf).unwrap(), vec![leaf as u8; geometry.leaf_bytes(leaf)]);
        }
        assert_eq!(permits.available_permits(), 3);
    }
}
