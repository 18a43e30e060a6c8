//! Ed25519 keys: made, signed with, and kept in a file that only its owner can read.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use haul_core::ids::PublicKey;
use haul_core::trust::SIGNATURE_BYTES;

/// Bytes of a seed, from which both halves of a key follow.
pub const SEED_BYTES: usize = 32;

/// A secret key. Its text form never shows the secret.
pub struct SecretKey {
    pair: Ed25519KeyPair,
    seed: [u8; SEED_BYTES],
    public: PublicKey,
}

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// Reading or writing failed.
    #[error("cannot {action} the key file {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others could read it.
    #[error(
        "the key file {} can be read by others (mode {mode:03o}); if nobody copied it, run: chmod 600 {}",
        path.display(),
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is not a regular file.
    #[error("the key file {} is not a regular file; move it away and start again", .0.display())]
    NotAFile(PathBuf),
    /// It is not a key.
    #[error("the key file {} does not hold a key (64 hexadecimal digits); restore it from a copy or move it away to get a new identity", .0.display())]
    Form(PathBuf),
    /// The system gave no random bytes.
    #[error("the system gives no random bytes for a new key: {0}")]
    Random(String),
}

impl SecretKey {
    /// A new key from the system's randomness.
    pub fn generate() -> Result<Self, KeyFileError> {
        loop {
            let mut seed = [0; SEED_BYTES];
            getrandom::fill(&mut seed).map_err(|error| KeyFileError::Random(error.to_string()))?;
            if let Some(key) = Self::from_seed(seed) {
                return Ok(key);
            }
        }
    }

    /// The key that follows from these 32 bytes; none if its public half is not usable, which random seeds never meet.
    pub fn from_seed(seed: [u8; SEED_BYTES]) -> Option<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).ok()?;
        let public = PublicKey::new(pair.public_key().as_ref().try_into().ok()?).ok()?;
        Some(Self { pair, seed, public })
    }

    /// The secret itself: for exports, never for logs.
    pub fn seed(&self) -> &[u8; SEED_BYTES] {
        &self.seed
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Signs.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let mut bytes = [0; SIGNATURE_BYTES];
        bytes.copy_from_slice(self.pair.sign(message).as_ref());
        bytes
    }

    /// Reads the key from its file, or makes one and stores it there with mode 0600. Two processes that start at once
    /// get the same key.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyFileError> {
        if let Some(key) = Self::load(path)? {
            return Ok(key);
        }
        let key = Self::generate()?;
        match key.store_new(path) {
            Ok(()) => Ok(key),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Self::load(path)?.ok_or_else(|| file_error("read", path, error))
            }
            Err(error) => Err(file_error("create", path, error)),
        }
    }

    /// Reads the key from its file; none if there is no file.
    pub fn load(path: &Path) -> Result<Option<Self>, KeyFileError> {
        // Without O_NONBLOCK, a FIFO in place of the file would hold the start for ever.
        let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file_error("open", path, error)),
        };
        let metadata = file.metadata().map_err(|error| file_error("look at", path, error))?;
        if !metadata.is_file() {
            return Err(KeyFileError::NotAFile(path.to_path_buf()));
        }
        let mode = metadata.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Exposed { path: path.to_path_buf(), mode });
        }
        let mut text = String::new();
        file.take(256).read_to_string(&mut text).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => KeyFileError::Form(path.to_path_buf()),
            _ => file_error("read", path, error),
        })?;
        let seed = parse_seed(text.trim()).ok_or_else(|| KeyFileError::Form(path.to_path_buf()))?;
        Self::from_seed(seed).map(Some).ok_or_else(|| KeyFileError::Form(path.to_path_buf()))
    }

    /// Writes a temporary file beside the final name and links it there: the final name holds all of a key or nothing,
    /// and never replaces another key.
    fn store_new(&self, path: &Path) -> io::Result<()> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory)?;
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}.new", self.public.short().trim_start_matches("pk:")));
        let temporary = directory.join(name);
        let stored = self.write_file(&temporary).and_then(|()| std::fs::hard_link(&temporary, path));
        let removed = std::fs::remove_file(&temporary);
        stored.and(removed)?;
        File::open(directory)?.sync_all()
    }

    fn write_file(&self, path: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        for byte in self.seed {
            write!(file, "{byte:02x}")?;
        }
        file.write_all(b"\n")?;
        file.sync_all()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.public.short())
    }
}

/// Whether the signature over the message was made with the secret half of this key.
pub fn verify(key: &PublicKey, message: &[u8], signature: &[u8; SIGNATURE_BYTES]) -> bool {
    UnparsedPublicKey::new(&ED25519, key.as_bytes()).verify(message, signature).is_ok()
}

fn file_error(action: &'static str, path: &Path, source: io::Error) -> KeyFileError {
    KeyFileError::Io { action, path: path.to_path_buf(), source }
}

fn parse_seed(text: &str) -> Option<[u8; SEED_BYTES]> {
    let digits = text.chars().map(|c| c.to_digit(16)).collect::<Option<Vec<_>>>()?;
    let bytes: Vec<u8> =
        digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, d| byte << 4 | *d as u8)).collect();
    if digits.len() == 2 * SEED_BYTES { bytes.try_into().ok() } else { None }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn signatures_follow_rfc_8032() {
        // Section 7.1, test 2.
        let seed = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb";
        let key = SecretKey::from_seed(parse_seed(seed).unwrap()).unwrap();
        let public = "pk:3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
        assert_eq!(key.public().to_string(), public);
        let mut signature = key.sign(&[0x72]);
        assert_eq!(signature[..4], [0x92, 0xa0, 0x09, 0xa9]);
        assert!(verify(&key.public(), &[0x72], &signature));
        assert!(!verify(&key.public(), &[0x73], &signature));
        signature[10] ^= 1;
        assert!(!verify(&key.public(), &[0x72], &signature));
        assert!(!verify(&key.public(), &[0x72], &[0; SIGNATURE_BYTES]));
    }

    #[test]
    fn a_key_file_is_private_and_lasts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/peer.key");
        let made = SecretKey::load_or_create(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(SecretKey::load_or_create(&path).unwrap().seed(), made.seed());
        let names: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing temporary is left: {names:?}");
        assert!(!format!("{made:?}").contains(&format!("{:02x}{:02x}", made.seed()[0], made.seed()[1])));
    }

    #[test]
    fn a_key_file_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("peer.key");
        SecretKey::load_or_create(&path).unwrap();
        for exposed in [0o640, 0o604, 0o660, 0o601] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(exposed)).unwrap();
            let error = SecretKey::load_or_create(&path).unwrap_err();
            assert!(matches!(error, KeyFileError::Exposed { mode, .. } if mode == exposed), "{error}");
            assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())), "{error}");
        }
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o400)).unwrap();
        SecretKey::load_or_create(&path).unwrap();
    }

    #[test]
    fn what_is_no_key_is_refused_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in [
            ("empty", ""),
            ("short", "12ab\n"),
            ("long", &"0".repeat(65)),
            ("text", &"xy".repeat(32)),
            ("big", &"0".repeat(9_999)),
        ] {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
            assert!(matches!(SecretKey::load_or_create(&path), Err(KeyFileError::Form(_))), "{name}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        assert!(matches!(SecretKey::load_or_create(directory.path()), Err(KeyFileError::NotAFile(_))));
        let fifo = directory.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert!(matches!(SecretKey::load_or_create(&fifo), Err(KeyFileError::NotAFile(_))));
        let dangling = directory.path().join("link");
        symlink("nowhere", &dangling).unwrap();
        assert!(SecretKey::load_or_create(&dangling).is_err(), "a dangling link is neither followed nor replaced");
    }

    #[test]
    fn starts_at_once_get_one_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("peer.key");
        let keys: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| SecretKey::load_or_create(&path).unwrap().public())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
    }
}
