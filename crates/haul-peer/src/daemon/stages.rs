//! Tasks in stages that end one after the other, and an alarm when one ends although nobody asked it to.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::PartEnded;

/// Tasks that end together.
struct Stage {
    name: &'static str,
    token: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

/// The stages in the order in which they end.
pub(super) struct Stages {
    shutdown: CancellationToken,
    in_order: Vec<Stage>,
    first_ended: Arc<Mutex<Option<String>>>,
}

/// Rings when the task that holds it ends before its token, by return or by panic.
struct Alarm {
    name: &'static str,
    token: CancellationToken,
    shutdown: CancellationToken,
    first_ended: Arc<Mutex<Option<String>>>,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if self.token.is_cancelled() {
            return;
        }
        error!(part = self.name, "a part of the daemon ended by itself; the daemon stops");
        self.first_ended.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(self.name.to_owned());
        self.shutdown.cancel();
    }
}

impl Stages {
    pub(super) fn new(shutdown: CancellationToken) -> Self {
        Self { shutdown, in_order: Vec::new(), first_ended: Arc::default() }
    }

    /// A further stage, to end after those before it. Its token is cancelled by [`Stages::finish`] alone.
    pub(super) fn token(&mut self, name: &'static str) -> CancellationToken {
        let token = CancellationToken::new();
        self.in_order.push(Stage { name, token: token.clone(), tasks: Vec::new() });
        token
    }

    /// Runs a task in a stage.
    pub(super) fn run(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let Some(alarm) = self.alarm(name) else { return };
        let task = tokio::spawn(async move {
            let _alarm = alarm;
            task.await;
        });
        self.keep(name, task);
    }

    /// Takes over a task that runs already.
    pub(super) fn adopt(&mut self, name: &'static str, task: JoinHandle<()>) {
        let Some(alarm) = self.alarm(name) else { return };
        let watching = tokio::spawn(async move {
            let _alarm = alarm;
            // A panic of the task shows as its early end.
            drop(task.await);
        });
        self.keep(name, watching);
    }

    fn alarm(&self, name: &'static str) -> Option<Alarm> {
        let stage = self.in_order.iter().find(|stage| stage.name == name)?;
        Some(Alarm {
            name,
            token: stage.token.clone(),
            shutdown: self.shutdown.clone(),
            first_ended: self.first_ended.clone(),
        })
    }

    fn keep(&mut self, name: &'static str, task: JoinHandle<()>) {
        if let Some(stage) = self.in_order.iter_mut().find(|stage| stage.name == name) {
            stage.tasks.push(task);
        }
    }

    /// Asks for the end.
    pub(super) fn stop(&self) {
        self.shutdown.cancel();
    }

    /// Waits for shutdown, then ends stage after stage. The first two end together: one who follows a download over
    /// the interface is told how it ended.
    pub(super) async fn finish(&mut self) -> Result<(), PartEnded> {
        self.shutdown.cancelled().await;
        if let Some(second) = self.in_order.get(1) {
            second.token.cancel();
        }
        for stage in &mut self.in_order {
            stage.token.cancel();
            for task in stage.tasks.drain(..) {
                // Its alarm has told of a panic already.
                drop(task.await);
            }
        }
        match self.first_ended.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(name) => Err(PartEnded(name)),
            None => Ok(()),
        }
    }
}

impl Drop for Stages {
    /// Without [`Stages::finish`], all tasks are told to end, and nobody waits for them.
    fn drop(&mut self) {
        for stage in &self.in_order {
            stage.token.cancel();
        }
        self.shutdown.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stages_end_in_order_and_early_ends_stop_all() {
        let order: Arc<Mutex<Vec<&str>>> = Arc::default();
        let shutdown = CancellationToken::new();
        let mut stages = Stages::new(shutdown.clone());
        let tokens: Vec<CancellationToken> = ["a", "b", "c", "d"].map(|name| stages.token(name)).into();
        for (name, token) in ["a", "b", "c", "d"].into_iter().zip(tokens) {
            let order = order.clone();
            stages.run(name, async move {
                token.cancelled().await;
                order.lock().unwrap_or_else(PoisonError::into_inner).push(name);
            });
        }
        shutdown.cancel();
        assert_eq!(stages.finish().await, Ok(()));
        let order = order.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert_eq!(order.get(2..), Some(["c", "d"].as_slice()));

        let mut stages = Stages::new(CancellationToken::new());
        let _token = stages.token("a");
        stages.run("a", async {});
        assert_eq!(stages.finish().await, Err(PartEnded("a".into())));
    }
}
