//! The folder of one peer: made with the right permissions, and locked against a second process.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::config::Home;

/// Why the folder of a peer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// Another process has it.
    #[error("another haul process{} uses {}", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), root.display())]
    Locked {
        /// The folder.
        root: PathBuf,
        /// The other process, as far as known.
        pid: Option<u32>,
    },
    /// The system refuses.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Holds the folder until it is dropped. The kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct HomeLock {
    _file: File,
}

impl HomeLock {
    /// Makes the folders, readable by their owner alone, and locks them.
    pub fn take(home: &Home) -> Result<Self, HomeError> {
        for folder in [&home.state, &home.cache, &home.run] {
            private_folder(folder)?;
        }
        let path = home.state.join("lock");
        let failed = |action, source| HomeError::Io { action, path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| failed("open", error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // The pid is a courtesy; without it the message is still right.
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(HomeError::Locked { root: home.root.clone(), pid });
            }
            Err(error) => return Err(failed("lock", error.into())),
        }
        let pid = std::process::id();
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{pid}"))
            .map_err(|error| failed("write", error))?;
        Ok(Self { _file: file })
    }
}

/// Makes a folder that only its owner can enter; one that exists is closed to others.
pub fn private_folder(path: &Path) -> Result<(), HomeError> {
    let failed = |action, source| HomeError::Io { action, path: path.into(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| failed("make the folder", error))?;
    let metadata = path.metadata().map_err(|error| failed("look at", error))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
            .map_err(|error| failed("close to others", error))?;
    }
    Ok(())
}

/// Replaces a small file in one step, so that a crash leaves the old or the new content; only its owner can read it.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path().join("h"));
        let first = HomeLock::take(&home).unwrap();
        let error = HomeLock::take(&home).unwrap_err();
        let pid = std::process::id();
        assert_eq!(error.to_string(), format!("another haul process (pid {pid}) uses {}", home.root.display()));
        drop(first);
        HomeLock::take(&home).unwrap();
        assert_eq!(home.run.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn private_files_are_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
