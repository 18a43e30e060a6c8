//! Where a benchmark writes: the folder that is removed again whatever happens, its file system, and whether there is
//! room.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use haul_peer::api::codes::ErrorCode;

use crate::errors::Failure;
use crate::output::text::size;

/// How long removing may be repeated: a thread that was told to stop may still make one file, and a process that was
/// killed in the middle of an fsync ends after it.
const REMOVE_PATIENCE: Duration = Duration::from_secs(10);
const REMOVE_PAUSE: Duration = Duration::from_millis(20);
/// A socket's address has 108 bytes with its closing zero, on Linux; elsewhere a little less.
const SOCKET_PATH_BYTES: usize = 103;
/// The longest path of a socket below the temporary folder, with room for any process id.
const LONGEST_SOCKET: &str = "haul-bench-4194304/provider-999/run/haul.sock";

/// Linux's number of file systems that lie in memory, where fsync costs nothing.
const IN_MEMORY: u64 = 0x0102_1994;

/// A folder of this run. It is removed when this value goes away.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes it below `directory`, which must be there.
    pub(super) fn make(directory: &Path) -> std::io::Result<Self> {
        let path = directory.join(format!("haul-bench-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self { path })
    }

    /// The folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it with all that is in it, and says what is in the way of that.
    pub(super) fn remove(&self) -> std::io::Result<()> {
        let end = Instant::now() + REMOVE_PATIENCE;
        loop {
            match fs::remove_dir_all(&self.path) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::NotFound && !self.path.exists() => return Ok(()),
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => std::thread::sleep(REMOVE_PAUSE),
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Whoever wants to know calls `remove` before.
        let _ = self.remove();
    }
}

/// A folder and the file system under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Absolute.
    pub(super) directory: PathBuf,
    /// `ext4`, `tmpfs`.
    pub(super) file_system: String,
    /// Bytes that this user may still write.
    free_bytes: u64,
}

impl Place {
    /// Looks at a folder.
    pub(super) fn look(directory: &Path) -> Result<Self, Failure> {
        let unusable = |error: std::io::Error| {
            Failure::new(ErrorCode::Disk, "there is no folder to measure in")
                .about(directory.display().to_string(), error)
                .next("name one: --dir DIR")
        };
        let directory = fs::canonicalize(directory).map_err(unusable)?;
        let room = rustix::fs::statvfs(&directory).map_err(|error| unusable(error.into()))?;
        // 32 bits on every platform, whatever the field's type is.
        let kind = rustix::fs::statfs(&directory).map_err(|error| unusable(error.into()))?.f_type as u64 & 0xffff_ffff;
        let mut free_bytes = room.f_bavail.saturating_mul(room.f_frsize);
        if kind == IN_MEMORY {
            // What such a file system allows may be more than the memory that is left.
            let memory = available_memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default());
            free_bytes = free_bytes.min(memory.unwrap_or(u64::MAX));
        }
        Ok(Self { directory, file_system: file_system_name(kind), free_bytes })
    }

    /// Refuses a run that does not fit: one that has so many bytes there at its fullest moment.
    pub(super) fn admit(&self, bytes: u64) -> Result<(), Failure> {
        let place = self.directory.display().to_string();
        if bytes > self.free_bytes {
            let (wanted, free) = (size(bytes), size(self.free_bytes));
            return Err(Failure::new(ErrorCode::Disk, format!("this takes up to {wanted}, and {free} are free"))
                .about(place, self.file_system.clone())
                .next("measure less: --quick, or --large 256Mi --peers 2; or elsewhere: --dir DIR"));
        }
        if self.directory.join(LONGEST_SOCKET).as_os_str().len() > SOCKET_PATH_BYTES {
            return Err(Failure::new(ErrorCode::Usage, "the folder's path is too long for the sockets of peers in it")
                .about(place, format!("sockets have paths of at most {SOCKET_PATH_BYTES} bytes"))
                .next("name a folder with a shorter path: --dir DIR"));
        }
        Ok(())
    }
}

/// The name behind the number by which Linux knows a file system (statfs(2)); the number of those that are rare.
fn file_system_name(number: u64) -> String {
    match number {
        0xef53 => "ext4".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x9123_683e => "btrfs".to_owned(),
        0x2fc1_2fc1 => "zfs".to_owned(),
        0x794c_7630 => "overlay".to_owned(),
        0x6969 => "nfs".to_owned(),
        IN_MEMORY => "tmpfs".to_owned(),
        other => format!("file system {other:#x}"),
    }
}

/// Bytes that can be used without swapping, from the text of /proc/meminfo.
fn available_memory(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_left() {
        assert_eq!(available_memory("MemFree: 1 kB\nMemAvailable:   2048 kB\n"), Some(2_097_152));
        assert_eq!(available_memory(""), None);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_both_figures() {
        let place = |directory: &str, free_bytes| Place {
            directory: directory.into(),
            file_system: "ext4".to_owned(),
            free_bytes,
        };
        assert_eq!(place("/data", 5 << 30).admit(5 << 30), Ok(()));
        let failure = place("/data", 4 << 30).admit(5 << 30).expect_err("too little");
        assert_eq!(failure.code(), ErrorCode::Disk);
        assert!(
            failure.record.message.contains("5.0 GiB") && failure.record.message.contains("4.0 GiB"),
            "{failure:?}"
        );
        let failure = place(&format!("/{}", "d".repeat(80)), u64::MAX).admit(0).expect_err("too long");
        assert_eq!(failure.code(), ErrorCode::Usage);
    }

    #[test]
    fn the_folder_goes_with_its_value() {
        let above = tempfile::tempdir().expect("temporary folder");
        let scratch = Scratch::make(above.path()).expect("made");
        fs::create_dir_all(scratch.path().join("a/b")).expect("made");
        fs::write(scratch.path().join("a/b/c"), "x").expect("written");
        assert!(Scratch::make(above.path()).is_err(), "nobody else's folder is ever taken");
        drop(scratch);
        assert_eq!(fs::read_dir(above.path()).expect("listed").count(), 0);
    }
}
