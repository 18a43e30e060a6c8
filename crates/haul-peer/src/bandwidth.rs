//! Limits of bandwidth in force: those of the configuration, those that `haul limit` has set, and the hours of both.
//!
//! What is set while running wins over the configuration until it is cleared, and is kept in a file of the state folder.
//! Streams wait at a [`Pacer`], one for each direction.

mod pacer;
mod rules;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use haul_core::bandwidth::{DAY_MINUTES, Direction, Rule};
use haul_core::ids::BlobId;
use haul_core::limits::RATE_RULES;
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use pacer::{Pacer, Route, Scope};
use rules::Rules;
pub use rules::{Configured, InForce, Place, group_rule};

/// Reads the minute of the week, local time: Monday 00:00 is 0.
pub type WeekClock = Arc<dyn Fn() -> u16 + Send + Sync>;

/// The limits of one peer; see the module.
pub struct Bandwidth {
    /// What this peer sends.
    pub up: Pacer,
    /// What it fetches.
    pub down: Pacer,
    rules: Mutex<Rules>,
    file: Option<PathBuf>,
    clock: WeekClock,
}

impl std::fmt::Debug for Bandwidth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bandwidth").field("up", &self.up).field("down", &self.down).finish_non_exhaustive()
    }
}

impl Default for Bandwidth {
    fn default() -> Self {
        Self::new(Configured::default(), None, Arc::new(local_minute))
    }
}

/// What cannot be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// Too many.
    #[error("{RATE_RULES} limits are set already")]
    TooMany,
    /// The file cannot be written.
    #[error("the limit holds now, but cannot be kept for the next start: {0}")]
    NotKept(String),
}

impl Bandwidth {
    /// The limits of a configuration, and those that were set before and stand in `file`.
    pub fn new(configured: Configured, file: Option<PathBuf>, clock: WeekClock) -> Self {
        let rules = Rules::load(configured, file.as_deref());
        let bandwidth = Self { up: Pacer::default(), down: Pacer::default(), rules: Mutex::new(rules), file, clock };
        bandwidth.apply();
        bandwidth
    }

    /// Sets a rule for a place. `content` is what a transfer fetches, if it is one content: sending it is limited too.
    pub async fn set(&self, place: Place, content: Option<BlobId>, rule: Rule) -> Result<(), LimitError> {
        self.set_now(place, content, rule)?;
        self.keep().await
    }

    /// The same, without keeping it for the next start.
    pub(crate) fn set_now(&self, place: Place, content: Option<BlobId>, rule: Rule) -> Result<(), LimitError> {
        {
            let mut rules = self.lock();
            if rules.count() >= RATE_RULES {
                return Err(LimitError::TooMany);
            }
            rules.set(place, content, rule);
        }
        self.apply();
        Ok(())
    }

    /// Forgets what was set for a place, one way or both: the configuration holds again. False if nothing was set.
    pub async fn clear(&self, place: &Place, direction: Option<Direction>) -> Result<bool, LimitError> {
        let cleared = self.lock().clear(place, direction);
        if cleared {
            self.apply();
            self.keep().await?;
        }
        Ok(cleared)
    }

    /// Forgets limits of transfers that are not in the list any more.
    pub fn keep_transfers(&self, is_there: impl Fn(u64) -> bool) {
        self.lock().keep_transfers(is_there);
        self.apply();
    }

    /// Every limit, in force or waiting for its hours.
    pub fn list(&self) -> Vec<InForce> {
        self.lock().list((self.clock)())
    }

    /// Lets waiting streams go in time, and changes rates by the hour, until shutdown.
    pub async fn run(&self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.up.run() => {}
            () = self.down.run() => {}
            () = self.follow_clock() => {}
        }
        // What still waits ends with its stream; nothing holds the end of the daemon.
        self.up.set(&std::collections::BTreeMap::new());
        self.down.set(&std::collections::BTreeMap::new());
    }

    /// Each minute, as local time may jump: summer time, a journey, a clock that is set.
    async fn follow_clock(&self) {
        loop {
            let into = jiff::Timestamp::now().as_second().rem_euclid(60) as u64;
            tokio::time::sleep(Duration::from_secs(60 - into)).await;
            if self.lock().has_hours() {
                self.apply();
            }
        }
    }

    fn apply(&self) {
        let minute = (self.clock)();
        let (up, down) = {
            let rules = self.lock();
            (rules.rates(Direction::Up, minute), rules.rates(Direction::Down, minute))
        };
        self.up.set(&up);
        self.down.set(&down);
    }

    /// Writes down what is set, for the next start.
    pub(crate) async fn keep(&self) -> Result<(), LimitError> {
        let Some(path) = self.file.clone() else { return Ok(()) };
        let bytes = self.lock().encode();
        let written = tokio::task::spawn_blocking(move || crate::daemon::home::write_private(&path, &bytes)).await;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(LimitError::NotKept(error.to_string())),
            Err(error) => Err(LimitError::NotKept(error.to_string())),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Rules> {
        // Every change is one insert or removal.
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The minute of the week by the machine's clock and time zone.
pub fn local_minute() -> u16 {
    let zone = jiff::tz::TimeZone::try_system().unwrap_or_else(|error| {
        warn!(%error, "the time zone is not known; hours of limits are taken as UTC");
        jiff::tz::TimeZone::UTC
    });
    let now = jiff::Timestamp::now().to_zoned(zone);
    let day = u16::try_from(now.weekday().to_monday_zero_offset()).unwrap_or_default();
    let (hour, minute) = (now.hour().unsigned_abs(), now.minute().unsigned_abs());
    day * DAY_MINUTES + u16::from(hour) * 60 + u16::from(minute)
}
