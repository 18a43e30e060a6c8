//! Paths within a share: bytes, not text, checked once when they enter and never joined as strings afterwards.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits;

/// Why bytes are not a name or a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// An empty component: a leading, trailing or doubled `/`, or an empty name.
    Empty,
    /// A component `.` or `..`.
    Dots,
    /// A NUL byte, or a `/` inside a name.
    Byte,
    /// A component over [`limits::NAME_BYTES`].
    NameTooLong,
    /// Over [`limits::PATH_BYTES`] or [`limits::PATH_COMPONENTS`].
    PathTooLong,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "a path has an empty component",
            Self::Dots => "a path has a component '.' or '..'",
            Self::Byte => "a name has a NUL byte or a '/'",
            Self::NameTooLong => "a name is longer than 255 bytes",
            Self::PathTooLong => "a path is longer than 1024 bytes or deeper than 32 folders",
        })
    }
}

impl core::error::Error for PathError {}

/// Checks one component: 1 to 255 bytes, not `.` or `..`, without `/` and NUL. Any other byte is allowed.
pub fn check_name(name: &[u8]) -> Result<(), PathError> {
    match name {
        [] => Err(PathError::Empty),
        b"." | b".." => Err(PathError::Dots),
        _ if name.len() > limits::NAME_BYTES => Err(PathError::NameTooLong),
        _ if name.iter().any(|byte| matches!(byte, 0 | b'/')) => Err(PathError::Byte),
        _ => Ok(()),
    }
}

/// Checks a path: components joined by single `/`; the empty path is the root of the share.
pub fn check_path(path: &[u8]) -> Result<(), PathError> {
    if path.is_empty() {
        return Ok(());
    }
    if path.len() > limits::PATH_BYTES {
        return Err(PathError::PathTooLong);
    }
    for (depth, component) in path.split(|byte| *byte == b'/').enumerate() {
        if depth >= limits::PATH_COMPONENTS {
            return Err(PathError::PathTooLong);
        }
        check_name(component)?;
    }
    Ok(())
}

/// A checked path below a share's root. Ordered by bytes. The empty path is the root itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SharePath(Box<[u8]>);

impl SharePath {
    /// Checks and takes the bytes.
    pub fn new(path: impl Into<Vec<u8>>) -> Result<Self, PathError> {
        let path = path.into();
        check_path(&path)?;
        Ok(Self(path.into_boxed_slice()))
    }

    /// The path of the child `name`.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        check_name(name)?;
        let mut path = Vec::with_capacity(self.0.len() + 1 + name.len());
        path.extend_from_slice(&self.0);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Self::new(path)
    }

    /// The bytes, components joined by `/`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root of the share.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The components from the root down; none for the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|component| !component.is_empty())
    }

    /// The directory that holds it, and its name. The root has neither: both are empty.
    pub fn split(&self) -> (&[u8], &[u8]) {
        split(&self.0)
    }

    /// For people: invalid UTF-8 is replaced. Never turn this back into a path.
    pub fn display(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

/// Splits checked path bytes into the directory and the name.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
        None => (&[], path),
    }
}

impl fmt::Debug for SharePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl Serialize for SharePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for SharePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = <&[u8]>::deserialize(deserializer)?;
        Self::new(bytes).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn only_unusable_names_are_refused() {
        for good in [&b"a"[..], b"...", b".hidden", b"C:\\x", b"a::b", b"\xff\xfe", b"\x1b[31m", "é\u{202e}".as_bytes()]
        {
            assert_eq!(check_name(good), Ok(()), "{good:?}");
        }
        assert_eq!(check_name(&vec![b'x'; 255]), Ok(()));
        assert_eq!(check_name(&vec![b'x'; 256]), Err(PathError::NameTooLong));
        assert_eq!(check_name(b""), Err(PathError::Empty));
        assert_eq!(check_name(b".."), Err(PathError::Dots));
        assert_eq!(check_name(b"a/b"), Err(PathError::Byte));
        assert_eq!(check_name(b"a\0"), Err(PathError::Byte));
    }

    #[test]
    fn paths_are_checked_by_component() {
        for bad in [&b"/a"[..], b"a/", b"a//b", b"a/../b", b"./a"] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
        assert_eq!(check_path(&[b'x'; 1025]), Err(PathError::PathTooLong));
        assert_eq!(check_path(&b"d/".repeat(31).iter().copied().chain(*b"f").collect::<Vec<_>>()), Ok(()));
        assert_eq!(
            check_path(&b"d/".repeat(32).iter().copied().chain(*b"f").collect::<Vec<_>>()),
            Err(PathError::PathTooLong)
        );
        let path = SharePath::new(*b"a/b/c").expect("valid");
        assert_eq!(path.split(), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(path.components().count(), 3);
        assert_eq!(SharePath::default().components().count(), 0);
    }
}
