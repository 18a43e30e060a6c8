//! The canonical listing of a directory and its id.
//!
//! ```text
//! listing = u8 version (1) ‖ child × n, sorted by name bytes, strictly ascending
//! child   = u8 kind (0 file, 1 directory, 2 symlink) ‖ u8 executable (0 or 1) ‖ u64 size ‖ u8 name_len ‖ name ‖ id
//! id      = 32 bytes: blob hash, directory id, or BLAKE3 of the link target; size = bytes, 0, or target bytes
//! directory id = BLAKE3(listing)
//! ```

use alloc::vec::Vec;

use crate::ids::{BlobId, DirectoryId};

/// One child of a directory, with what the id depends on. Times are left out: a copy has the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Child<'a> {
    /// A file whose content is known.
    File {
        /// Bytes.
        size: u64,
        /// Whether the owner may execute it.
        executable: bool,
        /// Its content.
        blob: BlobId,
    },
    /// A directory whose id is known.
    Directory(DirectoryId),
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: &'a [u8],
    },
}

/// The id of the directory with these children, which must be sorted by name bytes without doubles; none if they are
/// not.
pub fn directory_id<'a>(children: impl IntoIterator<Item = (&'a [u8], Child<'a>)>) -> Option<DirectoryId> {
    let mut bytes = Vec::from([1u8]);
    let mut last: Option<&[u8]> = None;
    for (name, child) in children {
        if last.is_some_and(|last| last >= name) {
            return None;
        }
        last = Some(name);
        let (kind, executable, size, id) = match child {
            Child::File { size, executable, blob } => (0, executable, size, *blob.as_bytes()),
            Child::Directory(id) => (1, false, 0, *id.as_bytes()),
            Child::Symlink { target } => (2, false, target.len() as u64, *blake3::hash(target).as_bytes()),
        };
        bytes.push(kind);
        bytes.push(u8::from(executable));
        bytes.extend_from_slice(&size.to_le_bytes());
        bytes.push(u8::try_from(name.len()).ok()?);
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(&id);
    }
    Some(DirectoryId::new(*blake3::hash(&bytes).as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn golden_id_and_order() {
        let file = Child::File { size: 0, executable: false, blob: BlobId::empty() };
        let empty = directory_id([]).expect("no children");
        assert_eq!(empty.to_string(), "d3:48fc721fbbc172e0925fa27af1671de225ba927134802998b10a1568a188652b");
        let one = directory_id([(&b"a"[..], file), (b"b", Child::Symlink { target: b"a" })]).expect("sorted");
        assert_ne!(one, empty);
        assert_eq!(directory_id([(&b"b"[..], file), (b"a", file)]), None);
        assert_eq!(directory_id([(&b"a"[..], file), (b"a", file)]), None);
        let executable = Child::File { size: 0, executable: true, blob: BlobId::empty() };
        assert_ne!(directory_id([(&b"a"[..], file)]), directory_id([(&b"a"[..], executable)]));
    }
}
