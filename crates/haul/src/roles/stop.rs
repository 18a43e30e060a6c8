//! The end of a process that stays: the first SIGTERM or SIGINT asks it to leave; a further one does not wait any longer,
//! first for those who still need something of it, then for anything.

use std::time::Duration;

use haul_peer::api::codes::ErrorCode;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::errors::Failure;
use crate::exit::Exit;

/// Leaving takes moments; what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// The signals that end a process.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Takes the signals over from the system, which would end the process at once.
    pub(super) fn listen() -> Result<Self, Failure> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for a signal. What ends before it ends by a fault.
    pub(super) async fn wait(&mut self, ended: impl Future<Output = ()>) -> Result<(), Failure> {
        tokio::select! {
            () = self.next() => Ok(()),
            () = ended => Err(Failure::new(ErrorCode::Internal, "a part of haul ended by itself")
                .next("start it again; more is in its log: haul up -v")),
        }
    }

    /// Runs the start of a part, unless a signal comes first: then there is nothing to start any more.
    pub(super) async fn unless<T>(&mut self, start: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            outcome = start => outcome,
            () = self.next() => Err(Failure::new(ErrorCode::Stopping, "stopped before it had started").exit(Exit::DONE).told()),
        }
    }

    /// Runs the end of everything, until it is over, takes too long, or a further signal comes.
    pub(super) async fn force<T>(&mut self, end: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            outcome = end => outcome,
            () = tokio::time::sleep(PATIENCE) => {
                Err(Failure::new(ErrorCode::Internal, "haul did not end in time and was given up"))
            }
            () = self.next() => {
                Err(Failure::new(ErrorCode::Stopping, "ended without leaving: others see it go when its lease ends")
                    .exit(Exit::INTERRUPTED))
            }
        }
    }

    /// Waits for a signal.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
