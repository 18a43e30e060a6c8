//! The unix socket of the daemon's interface: only its owner can connect, and a socket left behind by a crash is
//! replaced only when nobody answers on it.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// Longest path that fits a unix socket's address on Linux, without the closing NUL.
const SOCKET_PATH_BYTES: usize = 107;

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error("another haul daemon answers on {}", .0.display())]
    Taken(PathBuf),
    /// The system's limit.
    #[error("the path of the socket has {} bytes and a unix socket allows {SOCKET_PATH_BYTES}: {}; set HAUL_HOME to a shorter path", .0.as_os_str().len(), .0.display())]
    TooLong(PathBuf),
    /// The system refuses.
    #[error("cannot open the socket {}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Opens the socket. The caller holds the lock of this home, so whatever lies there and does not answer is left over.
pub async fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    if path.as_os_str().len() > SOCKET_PATH_BYTES {
        return Err(SocketError::TooLong(path.into()));
    }
    let failed = |source| SocketError::Io { path: path.into(), source };
    if path.symlink_metadata().is_ok() {
        if UnixStream::connect(path).await.is_ok() {
            return Err(SocketError::Taken(path.into()));
        }
        std::fs::remove_file(path).map_err(failed)?;
    }
    // The folder is closed to others, so the moment between bind and chmod shows the socket to nobody.
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn left_over_sockets_are_replaced_and_live_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("haul.sock");
        let first = bind(&path).await.unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(bind(&path).await, Err(SocketError::Taken(_))));
        drop(first);
        assert!(path.exists(), "a socket outlives its process");
        bind(&path).await.unwrap();
        let long = folder.path().join("x".repeat(120));
        assert!(bind(&long).await.unwrap_err().to_string().contains("shorter path"));
    }
}
