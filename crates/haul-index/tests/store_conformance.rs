//! Every store must tell the same stories as the oracle, and the stories must catch planted errors.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout)]

#[path = "store_conformance/faulty.rs"]
mod faulty;
#[path = "store_conformance/model.rs"]
mod model;
#[path = "store_conformance/story.rs"]
mod story;

use faulty::{Fault, FaultyFactory};
use haul_core::time::Moment;
use haul_index::store::{EmbeddedStore, SearchSettings, StoreSettings};
use story::{Factory, tell};

/// Stories of the healthy store.
const STORIES: u64 = 16;
const STEPS: usize = 72;

/// The embedded store in a directory of its own.
struct Embedded {
    dir: tempfile::TempDir,
    search: SearchSettings,
}

impl Embedded {
    fn new() -> Self {
        // After upkeep the order must be right, not nearly right.
        let search = SearchSettings { stale_permille: 0, ..SearchSettings::default() };
        Self { dir: tempfile::tempdir().unwrap(), search }
    }

    /// With segments so small that a story has many, and so few candidates in one pass that every search walks.
    fn small() -> Self {
        let search =
            SearchSettings { tail_names: 2, fan: 2, one_pass: 0, stale_permille: 0, ..SearchSettings::default() };
        Self { search, ..Self::new() }
    }
}

impl Factory for Embedded {
    type Store = EmbeddedStore;

    fn open(&self) -> EmbeddedStore {
        // Small enough that a story fills many segments and has them cleaned.
        let segment_bytes = 32 * 1024;
        let now = std::sync::Arc::new(|| Moment(1_000));
        let settings =
            StoreSettings { segment_bytes, boot_id: [1; 16], now, search: self.search, ..StoreSettings::default() };
        EmbeddedStore::open_with(self.dir.path(), settings).unwrap()
    }

    fn counts_all(&self) -> bool {
        self.search.one_pass > 0
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn the_embedded_store_tells_every_story() {
    let first: u64 = std::env::var("HAUL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    for seed in first..first + STORIES {
        if let Err(difference) = runtime().block_on(tell(&Embedded::new(), seed, STEPS)) {
            panic!("{difference}");
        }
    }
}

#[test]
fn the_embedded_store_tells_every_story_with_small_segments() {
    let first: u64 = std::env::var("HAUL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    for seed in first..first + STORIES {
        if let Err(difference) = runtime().block_on(tell(&Embedded::small(), seed, STEPS)) {
            panic!("{difference}");
        }
    }
}

/// Each planted error must be noticed within a few stories, and by nothing but its own effect: the same wrapper without
/// an error is healthy.
#[test]
fn every_planted_error_is_caught() {
    let healthy = FaultyFactory { inner: Embedded::new(), fault: Fault::None };
    runtime().block_on(tell(&healthy, 1, STEPS)).unwrap();
    for fault in Fault::ALL {
        let caught = (1..=STORIES).find_map(|seed| {
            let factory = FaultyFactory { inner: Embedded::new(), fault };
            let told = runtime().block_on(tell(&factory, seed, STEPS));
            told.err().map(|difference| (seed, difference))
        });
        let (seed, difference) = caught.unwrap_or_else(|| panic!("{fault:?} was not caught"));
        let first = difference.lines().next().unwrap_or_default();
        println!("{fault:?}: story {seed}: {}", first.chars().take(150).collect::<String>());
    }
}
