//! Threads for work that nobody waits for in person: commits and merges. They give way to those that answer.
//!
//! On one core the kernel lets such a thread run for several milliseconds before one that wakes up with a question has its
//! turn. Priority is per thread on Linux; elsewhere it is per process, and these threads run beside the others.

use std::io;
use std::thread::{Builder, JoinHandle};

/// A tenth of a core against one thread that answers all the time. Less would not make answers come sooner (measured), and
/// whoever holds a lock has to come to the end of it.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;
/// As nice as a thread can be.
#[cfg(target_os = "linux")]
const NICEST: i32 = 19;

/// Starts a thread that gives way to all others.
pub(super) fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.into()).spawn(move || {
        be_nice();
        work()
    })
}

/// Runs work on such a thread, and waits for its end.
pub(super) fn run(name: &str, work: impl FnOnce() + Send + 'static) {
    match spawn(name, work).map(JoinHandle::join) {
        Ok(Ok(())) => {}
        Ok(Err(_)) => tracing::error!(name, "a thread of the index has panicked"),
        Err(error) => tracing::error!(%error, name, "a thread of the index cannot be started"),
    }
}

/// Between two steps, without a lock: whoever has woken up meanwhile goes first.
pub(super) fn pause() {
    std::thread::yield_now();
}

#[cfg(target_os = "linux")]
fn be_nice() {
    // A thread that may not be made nicer works as well, beside the others.
    if let Ok(now) = rustix::process::getpriority_process(None) {
        let _ = rustix::process::setpriority_process(None, (now + NICENESS).min(NICEST));
    }
}

#[cfg(not(target_os = "linux"))]
fn be_nice() {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rustix::process::getpriority_process;

    use super::*;

    #[test]
    fn only_the_thread_itself_gives_way() {
        let before = getpriority_process(None).unwrap();
        let inside = spawn("background-test", || getpriority_process(None).unwrap()).unwrap().join().unwrap();
        assert_eq!((inside, getpriority_process(None).unwrap()), ((before + NICENESS).min(NICEST), before));
    }

    #[test]
    fn a_panic_ends_the_thread_and_not_the_one_that_waits() {
        run("background-test", || panic!("on purpose"));
    }
}
