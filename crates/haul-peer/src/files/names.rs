//! Names of what a download keeps beside its target.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use haul_core::limits::NAME_BYTES;

const PART: &[u8] = b".haul-part";
const PROGRESS: &[u8] = b".haul-progress";
/// Behind the progress file's name while a new one is written.
const NEW: &[u8] = b"~";

/// Where a download of one target lives until it is complete, in the target's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartNames {
    /// Bytes of verified leaves, at their places; for a folder, the folder that is being filled.
    pub part: OsString,
    /// Which leaves count.
    pub progress: OsString,
    /// The next version of `progress`.
    pub new_progress: OsString,
}

/// `.name.haul-part` and `.name.haul-progress`, or `.haul-<16 hex>.part` where that would be too long.
pub fn part_names(name: &OsStr) -> PartNames {
    let name = name.as_bytes();
    let fits = 1 + name.len() + PROGRESS.len() + NEW.len() <= NAME_BYTES;
    let build = |suffix: &[u8], short: &[u8], end: &[u8]| {
        let mut bytes = vec![b'.'];
        if fits {
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(suffix);
        } else {
            let hash = blake3::hash(name).to_hex();
            bytes.extend_from_slice(b"haul-");
            bytes.extend(hash.as_bytes().iter().take(16));
            bytes.extend_from_slice(short);
        }
        bytes.extend_from_slice(end);
        OsString::from_vec(bytes)
    };
    PartNames {
        part: build(PART, b".part", b""),
        progress: build(PROGRESS, b".progress", b""),
        new_progress: build(PROGRESS, b".progress", NEW),
    }
}

/// Whether a name is one of these, of whatever target: nobody shares such files or may bring them along in a folder.
pub fn is_part_name(name: &[u8]) -> bool {
    let name = name.strip_suffix(NEW).unwrap_or(name);
    let long = name.starts_with(b".") && (name.ends_with(PART) || name.ends_with(PROGRESS));
    long || name.starts_with(b".haul-") && (name.ends_with(b".part") || name.ends_with(b".progress"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_within_255_bytes() {
        let names = part_names(OsStr::new("film.mkv"));
        assert_eq!(names.part, ".film.mkv.haul-part");
        assert_eq!(names.progress, ".film.mkv.haul-progress");
        for length in [230, 239, 240, 255] {
            let names = part_names(OsStr::new(&"x".repeat(length)));
            for name in [&names.part, &names.progress, &names.new_progress] {
                assert!(name.len() <= 255 && is_part_name(name.as_bytes()));
            }
            assert_eq!(names.part.as_bytes().starts_with(b".haul-"), length > 239);
        }
        for name in ["film.mkv", ".haulignore", "x.haul-part", ".part", ".haul-notes"] {
            assert!(!is_part_name(name.as_bytes()), "{name}");
        }
    }
}
