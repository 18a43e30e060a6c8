//! What a durable commit cannot be faster than: a small append and fdatasync on the same file system.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

/// Appends of one measurement.
const APPENDS: usize = 50;
/// Bytes of an append: about what one registered file needs.
const APPEND_BYTES: usize = 256;

/// Microseconds of each append with its fdatasync, in a file that is removed again.
pub(crate) fn sync_times(directory: &Path) -> std::io::Result<Vec<f64>> {
    let path = directory.join("fdatasync.tmp");
    let mut file = File::create(&path)?;
    let mut times = Vec::with_capacity(APPENDS);
    for _ in 0..APPENDS {
        let started = Instant::now();
        file.write_all(&[0x5a; APPEND_BYTES])?;
        file.sync_data()?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    fs::remove_file(&path)?;
    Ok(times)
}
