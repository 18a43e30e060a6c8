//! Receiving files: part files with durable progress, final names that never replace anything unasked, trees of folders.
//!
//! Everything here blocks on the disk: call it from a blocking thread. What a download has verified lies in
//! `.name.haul-part` beside its target, and `.name.haul-progress` says which leaves of it count. Bytes that did not
//! verify never get the final name.

mod error;
mod names;
mod progress;

pub use error::FileError;
pub use names::{PartNames, part_names};
pub use progress::{Progress, ProgressError};
