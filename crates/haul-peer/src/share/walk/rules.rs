//! What hides entries from a walk: `.haulignore` files and the share's own patterns.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::Unread;

/// The only ignore file that counts.
pub(crate) const IGNORE_FILE: &str = ".haulignore";
/// Bytes of an ignore file: far more than anybody writes by hand, and every walking thread may hold one in memory.
const IGNORE_BYTES: u64 = 1024 * 1024;

/// Checks exclude patterns.
pub(crate) fn exclude_rules(root: &Path, patterns: &[String]) -> Result<Gitignore, ignore::Error> {
    let mut builder = GitignoreBuilder::new(root);
    for pattern in patterns {
        builder.add_line(None, pattern)?;
    }
    builder.build()
}

/// The lines of one ignore file, and of those in the folders above.
pub(super) struct Rules {
    own: Gitignore,
    above: Option<Arc<Rules>>,
}

impl Rules {
    /// Reads the ignore file of an open folder; also why some of its lines do not count. An error says why it cannot
    /// be read as a whole: then nobody knows what it hides.
    pub(super) fn read(
        folder: &OwnedFd,
        absolute: &Path,
        above: Option<Arc<Rules>>,
    ) -> Result<(Self, Option<ignore::Error>), Unread> {
        let whole =
            |unread: Unread| Unread { reason: format!("{IGNORE_FILE} cannot be read: {}", unread.reason), ..unread };
        let text = read_ignore_file(folder).map_err(whole)?;
        let mut builder = GitignoreBuilder::new(absolute);
        let from = absolute.join(IGNORE_FILE);
        let mut unread = None;
        for line in text.trim_start_matches('\u{feff}').lines() {
            if let Err(error) = builder.add_line(Some(from.clone()), line) {
                unread.get_or_insert(error);
            }
        }
        let own = builder.build().map_err(|error| whole(error.to_string().into()))?;
        Ok((Self { own, above }, unread))
    }

    /// The nearest ignore file that says something about a path decides.
    pub(super) fn hide(&self, path: &Path, is_folder: bool) -> bool {
        let mut rules = Some(self);
        while let Some(here) = rules {
            let matched = here.own.matched(path, is_folder);
            if !matched.is_none() {
                return matched.is_ignore();
            }
            rules = here.above.as_deref();
        }
        false
    }
}

/// Nothing where the file has gone since the folder was listed.
fn read_ignore_file(folder: &OwnedFd) -> Result<String, Unread> {
    // It may be anybody's: a link would read what is elsewhere, a FIFO would never end.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(folder, IGNORE_FILE, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(String::new()),
        Err(Errno::LOOP) => return Err("it is a link".to_owned().into()),
        opened => File::from(opened?),
    };
    if !file.metadata().map_err(|error| error.to_string())?.is_file() {
        return Err("it is no regular file".to_owned().into());
    }
    let mut bytes = Vec::new();
    file.take(IGNORE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > IGNORE_BYTES {
        return Err(format!("it is larger than {} KiB", IGNORE_BYTES / 1024).into());
    }
    String::from_utf8(bytes).map_err(|_| "it is no UTF-8 text".to_owned().into())
}
