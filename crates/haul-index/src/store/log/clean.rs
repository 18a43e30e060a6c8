//! Cleaning: pages that are still needed leave segments in which little is, and files without any go.
//!
//! A page moves as it is, with its check, through the writing thread like every other write; only when its new place is
//! durable does the catalog name that one. So a crash between any two steps finds every page at one place or at two, and
//! the file that is deleted is one that no durable catalog needs. The two newest segments are never cleaned: the catalog of
//! the second stands in if that of the first cannot be read.

use std::collections::HashSet;
use std::sync::Arc;

use crate::store::StoreError;
use crate::store::disk::{Disk, MovedPage, Write};
use crate::store::embedded::{EmbeddedStore, lock};

use super::format::Place;
use super::pages::read_page;

/// Bytes that one step moves: a few milliseconds of the writing thread.
const STEP_BYTES: u64 = 1024 * 1024;

/// The segment that is being cleaned.
#[derive(Debug, Default)]
pub(in crate::store) struct Cleaning {
    /// Pages that have not moved yet, last first.
    left: Vec<(u64, u64, Place)>,
    /// Segments with a needed page that cannot be read: they stay.
    stuck: HashSet<u32>,
}

/// What one step of cleaning asks for.
#[derive(Debug)]
pub(in crate::store) enum Step {
    /// Nothing is worth it.
    Nothing,
    /// A file was deleted, or a segment chosen.
    Done,
    /// To be written.
    Write(Write),
}

impl EmbeddedStore {
    /// Cleans a little; false if there is nothing to do.
    pub(in crate::store) async fn clean_step(&self) -> Result<bool, StoreError> {
        // Reading and deleting may wait for the disk; questions do not wait for them.
        let disk = Arc::clone(&self.disk);
        let step = tokio::task::spawn_blocking(move || disk.clean_step()).await;
        match step.map_err(|error| StoreError::Storage(format!("cleaning the index's log ended early: {error}")))?? {
            Step::Nothing => Ok(false),
            Step::Done => Ok(true),
            Step::Write(write) => self.writer.write(vec![write]).await.map(|()| true),
        }
    }
}

impl Disk {
    /// The next step; what it asks for is to be written before the one after.
    pub(in crate::store) fn clean_step(&self) -> Result<Step, StoreError> {
        let mut cleaning = lock(&self.cleaning);
        if cleaning.left.is_empty() {
            return self.choose(&mut cleaning);
        }
        let mut pages = Vec::new();
        let mut bytes = 0;
        while bytes < STEP_BYTES
            && let Some((generation, number, place)) = cleaning.left.pop()
        {
            let file = {
                let held = lock(&self.held);
                let needed = held.catalog.lies_at(generation, number, place);
                held.files.get(&place.segment).filter(|_| needed).cloned()
            };
            let Some(file) = file else { continue };
            let read = read_page(&file, &self.key, generation, number, place).map_err(|error| {
                StoreError::Storage(format!("cannot read segment {} of the index's log: {error}", place.segment))
            });
            match read {
                Ok(Some(checked)) => {
                    bytes += place.bytes();
                    pages.push(MovedPage { generation, number, checked });
                }
                Ok(None) => {
                    tracing::error!(
                        segment = place.segment,
                        "a page of the index's log is damaged: its share will be asked for again after the next start"
                    );
                    cleaning.stuck.insert(place.segment);
                }
                Err(error) => {
                    cleaning.stuck.insert(place.segment);
                    return Err(error);
                }
            }
        }
        Ok(if pages.is_empty() { Step::Done } else { Step::Write(Write::Moved(pages)) })
    }

    /// Deletes a file of which nothing is needed, or else chooses a segment to move pages out of.
    fn choose(&self, cleaning: &mut Cleaning) -> Result<Step, StoreError> {
        let mut held = lock(&self.held);
        let old: Vec<u32> = held.files.keys().copied().rev().skip(2).collect();
        for number in old {
            let live = held.catalog.live(number);
            if live == 0 {
                let file = held.files.remove(&number);
                drop((held, file));
                self.folder.discard(number).map_err(|error| {
                    StoreError::Storage(format!(
                        "cannot delete {}: {error}",
                        self.folder.segment_path(number).display()
                    ))
                })?;
                return Ok(Step::Done);
            }
            if live < self.segment_bytes() / 2 && !cleaning.stuck.contains(&number) {
                cleaning.left = held.catalog.pages_in(number);
                cleaning.left.reverse();
                return Ok(Step::Done);
            }
        }
        Ok(Step::Nothing)
    }
}
