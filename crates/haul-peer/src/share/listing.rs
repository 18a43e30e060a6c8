//! Pages of a directory for those who browse, and directory ids.

use haul_core::directory::{Child, directory_id};
use haul_core::ids::DirectoryId;
use haul_core::manifest::{Change, PageBuilder};
use haul_core::path::SharePath;
use haul_core::wire::index::Listing;
use haul_core::wire::{ByteString, Label};

use super::manifest::{Key, Kind, Manifest};
use super::{ListError, Shares};
use crate::partial::visible;

impl Shares {
    /// One page of a directory of a share, for a member of these groups. `cursor` continues an earlier listing.
    pub fn list_directory(
        &self,
        share: &Label,
        path: &SharePath,
        recursive: bool,
        cursor: Option<&[u8]>,
        groups: &[Label],
    ) -> Result<Listing, ListError> {
        let folder = self.named(share).map_err(|_| ListError::NotFound)?;
        if !visible(&folder.record.groups, groups) {
            return Err(ListError::NotFound);
        }
        let state = folder.lock();
        if state.away.is_some() {
            return Err(ListError::NotFound);
        }
        list(&state.manifest, path.as_bytes(), recursive, cursor)
    }

    /// The id of a directory; none while a file below it is not hashed, or if there is no such directory.
    pub fn directory_id(&self, share: &Label, path: &SharePath) -> Option<DirectoryId> {
        let folder = self.named(share).ok()?;
        let state = folder.lock();
        id_of(&state.manifest, path.as_bytes())
    }
}

/// A page of the directory `path`: its children, or everything below it.
fn list(manifest: &Manifest, path: &[u8], recursive: bool, cursor: Option<&[u8]>) -> Result<Listing, ListError> {
    if !is_directory(manifest, path) {
        return Err(ListError::NotFound);
    }
    let after = cursor.map(|cursor| key_from(cursor).ok_or(ListError::BadCursor)).transpose()?;
    let mut page = PageBuilder::new();
    let mut last: Option<Key> = None;
    for (directory, names) in manifest.below(path) {
        if !recursive && directory.as_ref() != path {
            break;
        }
        if after.as_ref().is_some_and(|after| after.directory > *directory) {
            continue;
        }
        let start = after.as_ref().filter(|after| after.directory == *directory).map(|after| after.name.clone());
        let start = start.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        for (name, item) in names.range((start, std::ops::Bound::Unbounded)) {
            let change = item.change(directory, name);
            if matches!(change, Change::Remove { .. }) {
                continue;
            }
            if !page.push(&change) {
                let cursor = last.map(|last| ByteString(last_bytes(&last)));
                return Ok(Listing { page: ByteString(page.finish()), cursor });
            }
            last = Some(Key { directory: directory.clone(), name: name.clone() });
        }
    }
    Ok(Listing { page: ByteString(page.finish()), cursor: None })
}

fn is_directory(manifest: &Manifest, path: &[u8]) -> bool {
    let (directory, name) = haul_core::path::split(path);
    path.is_empty() || manifest.get(directory, name).is_some_and(|item| matches!(item.kind, Kind::Directory { .. }))
}

fn last_bytes(key: &Key) -> Vec<u8> {
    let mut bytes = key.directory.to_vec();
    bytes.push(0);
    bytes.extend_from_slice(&key.name);
    bytes
}

fn key_from(cursor: &[u8]) -> Option<Key> {
    let end = cursor.iter().position(|byte| *byte == 0)?;
    Some(Key::new(cursor.get(..end)?, cursor.get(end + 1..)?))
}

/// The id of a directory, from the ids of everything below it. Directories nest no deeper than paths may.
fn id_of(manifest: &Manifest, path: &[u8]) -> Option<DirectoryId> {
    if !is_directory(manifest, path) {
        return None;
    }
    let mut children = Vec::new();
    let names = manifest.below(path).next().filter(|(directory, _)| directory.as_ref() == path);
    for (name, item) in names.into_iter().flat_map(|(_, names)| names) {
        let child = match &item.kind {
            Kind::Removed => continue,
            Kind::File(file) => Child::File { size: file.stamp.size, executable: file.executable, blob: file.blob? },
            Kind::Directory { .. } => Child::Directory(id_of(manifest, &super::manifest::join(path, name))?),
            Kind::Symlink { target, .. } => Child::Symlink { target },
        };
        children.push((name.as_ref(), child));
    }
    directory_id(children)
}
