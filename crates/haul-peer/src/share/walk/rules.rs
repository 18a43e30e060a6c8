//! What hides entries from a walk: `.haulignore` files and the share's own patterns.

use std::path::Path;
use std::sync::Arc;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// The only ignore file that counts.
pub(crate) const IGNORE_FILE: &str = ".haulignore";

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
    /// Reads the ignore file of a folder; also why some of it cannot be read. The other lines count.
    pub(super) fn read(folder: &Path, above: Option<Arc<Rules>>) -> (Self, Option<ignore::Error>) {
        let mut builder = GitignoreBuilder::new(folder);
        let unread = builder.add(folder.join(IGNORE_FILE));
        match builder.build() {
            Ok(own) => (Self { own, above }, unread),
            Err(error) => (Self { own: Gitignore::empty(), above }, Some(error)),
        }
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
