//! Receiving files: part files with durable progress, final names that never replace anything unasked, trees of folders.
//!
//! Everything here blocks on the disk: call it from a blocking thread. What a download has verified lies in
//! `.name.haul-part` beside its target, and `.name.haul-progress` says which leaves of it count. Bytes that did not
//! verify never get the final name.

mod error;
mod finish;
mod names;
mod part;
mod place;
mod progress;
mod tree;

pub use error::FileError;
pub use finish::{Existing, FileTraits, create_small, existing};
pub use names::{PartNames, is_part_name, part_names};
pub use part::{PartFile, Resumed, proven_size};
pub use place::Place;
pub use progress::{Progress, ProgressError};
pub use tree::{Tree, link_stays_inside};
