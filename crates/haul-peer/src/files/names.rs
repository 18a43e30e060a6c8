//! Names of what a download keeps beside its target.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use haul_core::limits::NAME_BYTES;

const PART: &[u8] = b".haul-part";
const PROGRESS: &[u8] = b".haul-progress";
/// Behind the progress file's name while a new one is written.
const NEW: &[u8] = b"~";

/// Where a download of one target lives until it is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartNames {
    /// Bytes of verified leaves, at their places; for a folder, the folder that is being filled.
    pub part: PathBuf,
    /// Which leaves count.
    pub progress: PathBuf,
    /// The next version of `progress`.
    pub new_progress: PathBuf,
}

/// `.name.haul-part` and `.name.haul-progress` beside the target, or `.haul-<16 hex>.part` where that would be too
/// long. None for a path without a name.
pub fn part_names(target: &Path) -> Option<PartNames> {
    let name = target.file_name()?.as_bytes();
    let folder = target.parent().unwrap_or(Path::new(""));
    let fits = 1 + name.len() + PROGRESS.len() + NEW.len() <= NAME_BYTES;
    let build = |suffix: &[u8], short: &str, end: &[u8]| {
        let mut bytes = vec![b'.'];
        if fits {
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(suffix);
        } else {
            let hash = blake3::hash(name).to_hex();
            bytes.extend_from_slice(b"haul-");
            bytes.extend_from_slice(hash.as_str().get(..16).unwrap_or_default().as_bytes());
            bytes.extend_from_slice(short.as_bytes());
        }
        bytes.extend_from_slice(end);
        folder.join(OsString::from_vec(bytes))
    };
    Some(PartNames {
        part: build(PART, ".part", b""),
        progress: build(PROGRESS, ".progress", b""),
        new_progress: build(PROGRESS, ".progress", NEW),
    })
}

/// The folder of a target; `.` for a bare name.
pub(super) fn folder_of(target: &Path) -> &Path {
    match target.parent() {
        Some(folder) if folder.as_os_str() != OsStr::new("") => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_stay_beside_the_target_and_within_255_bytes() {
        let names = part_names(Path::new("/a/film.mkv")).unwrap();
        assert_eq!(names.part, Path::new("/a/.film.mkv.haul-part"));
        assert_eq!(names.progress, Path::new("/a/.film.mkv.haul-progress"));
        for length in [230, 239, 240, 255] {
            let names = part_names(&Path::new("/a").join("x".repeat(length))).unwrap();
            for path in [&names.part, &names.progress, &names.new_progress] {
                assert!(path.file_name().unwrap().len() <= 255 && path.parent() == Some(Path::new("/a")));
            }
            assert_eq!(names.part.file_name().unwrap().as_bytes().starts_with(b".haul-"), length > 239);
        }
        assert_eq!(part_names(Path::new("/")), None);
        assert_eq!(part_names(Path::new("..")), None);
    }
}
