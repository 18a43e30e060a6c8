//! Group commit: one thread writes; whatever waits when a commit ends goes into the next one together.
//!
//! A job's `done` runs on that thread after its writes are durable (or failed) and before the next commit. So what
//! follows a durable write in memory happens even if whoever asked has gone meanwhile, and in the order of the disk.

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use super::StoreError;
use super::disk::{Disk, Write};

/// Bytes after which a commit takes no more jobs: at about 4 MB its own time hides the cost of the sync.
const COMMIT_BYTES: usize = 4 * 1024 * 1024;
/// Jobs that wait; each carries at most about 1 MiB except an amendment's (20 MiB).
const QUEUE: usize = 64;

type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

struct Job {
    writes: Vec<Write>,
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
        let thread = std::thread::Builder::new()
            .name("haul-index-writer".into())
            .spawn(move || run(&disk, &mut queue))
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
        let job = Job { writes, done: Box::new(|_| ()) };
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
        self.0.send(Job { writes, done: Box::new(done) });
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
        let mut writes = first.writes;
        let mut ends = vec![first.done];
        let mut bytes: usize = writes.iter().map(Write::size).sum();
        while bytes < COMMIT_BYTES
            && let Ok(job) = queue.try_recv()
        {
            bytes += job.writes.iter().map(Write::size).sum::<usize>();
            writes.extend(job.writes);
            ends.push(job.done);
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
