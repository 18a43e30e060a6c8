//! Adding a share: which roots are risky, which names are free.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use haul_core::ids::ShareId;
use haul_core::limits;
use haul_core::path::SharePath;
use haul_core::wire::Label;

use super::folder::{Folder, Record};
use super::{AddError, NewShare, Risk, ShareSettings, ShareStatus, Shares, walk};

impl Shares {
    /// Adds a folder or file; the walk follows. A path that is shared already keeps its share, under the same name.
    pub fn add(&self, share: NewShare) -> Result<ShareStatus, AddError> {
        let unreadable = |error| AddError::Unreadable { path: share.path.clone(), error };
        let path = std::fs::canonicalize(&share.path).map_err(unreadable)?;
        let metadata = std::fs::metadata(&path).map_err(unreadable)?;
        let (root, single) = if metadata.is_dir() {
            std::fs::read_dir(&path).map_err(unreadable)?;
            (path.clone(), None)
        } else if metadata.is_file() {
            one_file(&path).ok_or_else(|| AddError::NotShareable(path.clone()))?
        } else {
            return Err(AddError::NotShareable(path));
        };
        if single.is_none()
            && !share.sure
            && let Some(risk) = risk_of(&path, &self.settings)
        {
            return Err(AddError::NeedsConfirmation { path, risk });
        }
        walk::exclude_rules(&root, &share.excludes).map_err(|error| AddError::BadPattern(error.to_string()))?;

        let _listing = self.listing.lock().expect("no panic while the list changes");
        let folders = self.folders();
        if let Some(there) = folders.iter().find(|folder| folder.path() == path)
            && share.name.as_ref().is_none_or(|name| *name == there.record.name)
        {
            return Ok(there.status());
        }
        if folders.len() >= limits::SHARES_PER_PEER {
            return Err(AddError::TooMany);
        }
        let name = free_name(&folders, share.name, &path)?;
        let record = Record { id: new_id()?, name, root, single, groups: share.groups, excludes: share.excludes };
        let folder = Arc::new(Folder::new(record, self.database.clone(), self.changed.clone()));
        folder.store().map_err(|error| AddError::Storage(error.to_string()))?;
        let id = folder.record.id;
        let status = folder.status();
        self.folders.write().expect("no panic while held").insert(id, folder.clone());
        folder.notify();
        self.agenda.walk_at(id, Instant::now());
        Ok(status)
    }
}

fn one_file(path: &Path) -> Option<(PathBuf, Option<SharePath>)> {
    let name = SharePath::new(path.file_name()?.as_bytes()).ok()?;
    Some((path.parent()?.to_path_buf(), Some(name)))
}

/// What speaks against sharing a folder without asking.
fn risk_of(path: &Path, settings: &ShareSettings) -> Option<Risk> {
    let canonical = |path: &PathBuf| std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
    if path == Path::new("/") {
        return Some(Risk::Everything);
    }
    if settings.private_dirs.iter().map(canonical).any(|private| path.starts_with(private)) {
        return Some(Risk::Private);
    }
    let home = settings.home.as_ref().map(canonical);
    let holds_homes =
        path == Path::new("/home") || path == Path::new("/root") || path.parent() == Some(Path::new("/home"));
    (holds_homes || home.is_some_and(|home| home.starts_with(path))).then_some(Risk::Home)
}

fn free_name(folders: &[Arc<Folder>], wanted: Option<Label>, path: &Path) -> Result<Label, AddError> {
    let holder = |name: &Label| folders.iter().find(|folder| folder.record.name == *name);
    if let Some(name) = wanted {
        return match holder(&name) {
            Some(folder) => Err(AddError::NameTaken { path: folder.path(), name }),
            None => Ok(name),
        };
    }
    let own = path.file_name().map_or_else(|| "root".into(), |name| name.to_string_lossy().into_owned());
    let first = Label::from_lossy(&own);
    let numbered = (2u32..).map(|number| {
        let suffix = format!("-{number}");
        let mut stem = first.as_str().to_owned();
        while stem.len() + suffix.len() > limits::LABEL_BYTES {
            stem.pop();
        }
        Label::from_lossy(&(stem + &suffix))
    });
    let free = std::iter::once(first.clone()).chain(numbered).find(|name| holder(name).is_none());
    Ok(free.unwrap_or(first))
}

fn new_id() -> Result<ShareId, AddError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| AddError::Storage(format!("no random numbers: {error}")))?;
    Ok(ShareId(id))
}
