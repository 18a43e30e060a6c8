//! Group commit: one thread writes; whatever waits when a commit ends goes into the next one together.
//!
//! A job's `done` runs on that thread after its writes are durable (or failed) and before the next commit. So what
//! follows a durable write in memory happens even if whoever asked has gone meanwhile, and in the order of the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use super::disk::{Disk, Write};
use super::{StoreError, background};

/// Bytes after which a commit takes no more jobs: at about 4 MB its own time hides the cost of the sync.
const COMMIT_BYTES: usize = 4 * 1024 * 1024;
/// Jobs that wait; each carries at most about 1 MiB except an amendment's (20 MiB).
const QUEUE: usize = 64;

type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

struct Job {
    writes: Vec<Write>,
    /// Something that these writes build on has failed, if this is set when their turn comes.
    unless: Option<Arc<AtomicBool>>,
    done: Done,
}

/// Hands jobs to the writing thread, which ends when this is dropped and all jobs are done.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// A place in the queue.
pub(super) struct Turn<'a>(mpsc::Permit<'a, Job>);

impl Writer {
    pub(super) fn start(disk: Arc<Disk>) -> Result<Self, StoreError> {
        let (jobs, mut queue) = mpsc::channel(QUEUE);
        let thread = background::spawn("haul-index-writer", move || run(&disk, &mut queue))
            .map_err(|error| StoreError::Storage(format!("cannot start the writing thread: {error}")))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Waits for a place in the queue.
    pub(super) async fn turn(&self) -> Result<Turn<'_>, StoreError> {
        let jobs = self.jobs.as_ref().ok_or_else(stopped)?;
        jobs.reserve().await.map(Turn).map_err(|_| stopped())
    }

    /// Queues the writes if there is room; nobody waits for them.
    pub(super) fn offer(&self, writes: Vec<Write>) -> bool {
        let job = Job { writes, unless: None, done: Box::new(|_| ()) };
        self.jobs.as_ref().is_some_and(|jobs| jobs.try_send(job).is_ok())
    }

    /// Waits until the writes are durable.
    pub(super) async fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        self.turn().await?.write(writes, || ()).await
    }
}

impl Turn<'_> {
    /// Queues the writes; `done` gets their end.
    pub(super) fn send(self, writes: Vec<Write>, done: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        self.0.send(Job { writes, unless: None, done: Box::new(done) });
    }

    /// As [`Self::send`], but nothing is written if `failed` is set by then. Writes that were queued before, and set it
    /// in their `done`, either have ended by then or share the fate of these.
    pub(super) fn send_unless(
        self,
        failed: Arc<AtomicBool>,
        writes: Vec<Write>,
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) {
        self.0.send(Job { writes, unless: Some(failed), done: Box::new(done) });
    }

    /// Queues the writes and returns what `then` makes once they are durable. `then` runs even if the returned future
    /// is dropped.
    pub(super) fn write<R: Send + 'static>(
        self,
        writes: Vec<Write>,
        then: impl FnOnce() -> R + Send + 'static,
    ) -> impl Future<Output = Result<R, StoreError>> + Send + 'static {
        let (answer, end) = oneshot::channel();
        self.send(writes, move |result| {
            // Nobody listens any more if the asker has gone.
            let _ = answer.send(result.map(|()| then()));
        });
        async move { end.await.unwrap_or_else(|_| Err(stopped())) }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the index's writing thread has panicked");
        }
    }
}

fn stopped() -> StoreError {
    StoreError::Storage("the index's writing thread has stopped: restart the index".into())
}

fn run(disk: &Disk, queue: &mut mpsc::Receiver<Job>) {
    while let Some(first) = queue.blocking_recv() {
        let (mut writes, mut ends, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut next = Some(first);
        while let Some(job) = next {
            if job.unless.is_some_and(|failed| failed.load(Ordering::Relaxed)) {
                (job.done)(Err(StoreError::Storage("what this builds on could not be written".into())));
            } else {
                bytes += job.writes.iter().map(Write::size).sum::<usize>();
                writes.extend(job.writes);
                ends.push(job.done);
            }
            next = if bytes < COMMIT_BYTES { queue.try_recv().ok() } else { None };
        }
        let result = disk.write(&writes).map_err(|error| match error {
            StoreError::Storage(text) => text,
            other => other.to_string(),
        });
        drop(writes);
        if let Err(error) = &result {
            tracing::error!(%error, "the index cannot write");
        }
        for done in ends {
            done(result.clone().map_err(StoreError::Storage));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::disk::SEGMENT_BYTES;
    use crate::store::log::device::Device;

    #[tokio::test]
    async fn what_builds_on_a_failed_write_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, _) = Disk::open(dir.path(), Device::default(), SEGMENT_BYTES).unwrap();
        let writer = Writer::start(Arc::new(disk)).unwrap();
        let failed = Arc::new(AtomicBool::new(false));
        let (first, second) = (writer.turn().await.unwrap(), writer.turn().await.unwrap());
        // The first job finds out that something failed before the second one has its turn, in a group of its own.
        let (started, start) = oneshot::channel();
        let (found, waits) = std::sync::mpsc::channel();
        let finds_out = Arc::clone(&failed);
        first.send(Vec::new(), move |_| {
            started.send(()).unwrap();
            waits.recv().unwrap();
            finds_out.store(true, Ordering::Relaxed);
        });
        start.await.unwrap();
        let (answer, end) = oneshot::channel();
        second.send_unless(failed, Vec::new(), move |result| answer.send(result).unwrap());
        found.send(()).unwrap();
        assert!(matches!(end.await.unwrap(), Err(StoreError::Storage(_))));
    }
}
