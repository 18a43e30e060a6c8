//! Frames and messages of the index protocol and the peer protocol.
//!
//! A message is encoded by postcard (varints, enums by index); its byte tables stand in docs/protocol.md and its golden
//! fixtures beside each module. Bytes behind a message are an error, and lists are bounded while they are read.

pub mod frame;
pub mod index;
pub mod locate;
pub mod peer;
mod runs;

use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;

use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Version of both protocols; a server refuses others by name.
pub const VERSION: u16 = 1;

/// Bytes that are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The bytes end early, or a field has a value that is not allowed.
    Form,
    /// Bytes are left over behind the message.
    Trailing,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "the message is incomplete or has a value that is not allowed",
            Self::Trailing => "bytes are left over behind the message",
        })
    }
}

impl core::error::Error for DecodeError {}

/// The bytes of a message.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    // Serializing into a growing vector fails only for types that postcard cannot represent, and no message has one.
    postcard::to_allocvec(message).unwrap_or_default()
}

/// Appends the bytes of a message.
pub fn encode_to<T: Serialize>(message: &T, bytes: &mut Vec<u8>) {
    struct Tail<'a>(&'a mut Vec<u8>);
    impl postcard::ser_flavors::Flavor for Tail<'_> {
        type Output = ();
        fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
            self.0.push(byte);
            Ok(())
        }
        fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
        fn finalize(self) -> postcard::Result<()> {
            Ok(())
        }
    }
    // As in `encode`.
    let _ = postcard::serialize_with_flavor(message, Tail(bytes));
}

/// Reads exactly one message.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(DecodeError::Trailing),
        Err(_) => Err(DecodeError::Form),
    }
}

/// Bytes without meaning to the codec. (`Vec<u8>` would be read one by one.)
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteString(pub Vec<u8>);

impl Deref for ByteString {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for ByteString {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl Serialize for ByteString {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for ByteString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&[u8]>::deserialize(deserializer).map(Self::from)
    }
}

/// A list of at most `MAX` elements; a longer one is refused before it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> List<T, MAX> {
    /// Takes the list, cut off after `MAX` elements.
    pub fn new(mut elements: Vec<T>) -> Self {
        elements.truncate(MAX);
        Self(elements)
    }

    /// The plain list.
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const MAX: usize> Deref for List<T, MAX> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Serialize, const MAX: usize> Serialize for List<T, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Elements<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Elements<T, MAX> {
            type Value = Vec<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX} elements")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(element) = elements.next_element()? {
                    if list.len() == MAX {
                        return Err(A::Error::custom("list too long"));
                    }
                    list.push(element);
                }
                Ok(list)
            }
        }
        deserializer.deserialize_seq(Elements::<T, MAX>(PhantomData)).map(Self)
    }
}

/// Reads a list that has no limit of its own. It grows with the elements that arrive; serde's own reading would take up
/// to 1 MiB of room on the word of a length. Each element has at least one byte, so a frame bounds their number.
pub(crate) fn arriving<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    List::<T, { crate::limits::FRAME_BYTES }>::deserialize(deserializer).map(List::into_vec)
}

/// Like [`arriving`], for the answers to the keys of a lookup: a list each.
pub(crate) fn arriving_lists<'de, D, T>(deserializer: D) -> Result<Vec<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    type Lists<T> = List<List<T, { crate::limits::FRAME_BYTES }>, { crate::limits::LOOKUP_KEYS }>;
    let lists = Lists::<T>::deserialize(deserializer)?;
    Ok(lists.into_vec().into_iter().map(List::into_vec).collect())
}

/// Reads the peers of a located answer. Numbers of one byte take four in memory, so the list has a limit of its own.
pub(crate) fn located_peers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    List::<u32, { crate::limits::LOCATED_PEERS }>::deserialize(deserializer).map(List::into_vec)
}

/// Reads the blobs of a located answer: one per key.
pub(crate) fn located_blobs<'de, D>(deserializer: D) -> Result<Vec<index::LocatedBlob>, D::Error>
where
    D: Deserializer<'de>,
{
    List::<index::LocatedBlob, { crate::limits::LOOKUP_KEYS }>::deserialize(deserializer).map(List::into_vec)
}

/// The name of a share, peer or group: 1 to 64 bytes of UTF-8 without control characters, `/` and `:`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(alloc::string::String);

/// A text that cannot be a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelError;

impl fmt::Display for LabelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name has 1 to 64 bytes, no control characters, no '/' and no ':', and is not '.' or '..'")
    }
}

impl core::error::Error for LabelError {}

impl Label {
    /// Checks and takes the text.
    pub fn new(text: impl Into<alloc::string::String>) -> Result<Self, LabelError> {
        let text = text.into();
        let allowed = !text.is_empty()
            && text.len() <= crate::limits::LABEL_BYTES
            && text != "."
            && text != ".."
            && !text.chars().any(|c| c.is_control() || matches!(c, '/' | ':'));
        if allowed { Ok(Self(text)) } else { Err(LabelError) }
    }

    /// The nearest label to any text: other characters become `_`, what is too long is cut, nothing becomes `share`.
    pub fn from_lossy(text: &str) -> Self {
        let mut label = alloc::string::String::new();
        for c in text.chars() {
            let c = if c.is_control() || matches!(c, '/' | ':') { '_' } else { c };
            if label.len() + c.len_utf8() > crate::limits::LABEL_BYTES {
                break;
            }
            label.push(c);
        }
        Self::new(label).unwrap_or_else(|_| Self("share".into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Label {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(<&str>::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
