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
        let mut text: String = self.seed.iter().map(|byte| format!("{byte:02x}")).collect();
        text.push('\n');
        file.write_all(text.as_bytes())?;
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
