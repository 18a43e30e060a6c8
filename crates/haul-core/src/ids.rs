//! Names of things: keys, blobs, directories, shares. Every type is built by a checked constructor only.

use alloc::string::{String, ToString};
use core::fmt;
use core::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text or byte form that is not the name it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdError {
    /// Not 64 hexadecimal digits behind the right prefix.
    Form,
    /// A public key that is not canonical, or of small order: signatures under it prove nothing.
    WeakKey,
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "expected 64 hexadecimal digits behind the prefix (pk:, b3: or d3:)",
            Self::WeakKey => "this public key is not a usable Ed25519 key (small order or not canonical)",
        })
    }
}

impl core::error::Error for IdError {}

macro_rules! hash_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The id with these bytes; any 32 bytes are one.
            pub const fn new(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&short($prefix, &self.0))
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_hex($prefix, text).map(Self)
            }
        }
    };
}

hash_id!(
    /// A blob: the BLAKE3 hash of a file's bytes, exactly what `b3sum` prints. Text form `b3:` + 64 hex digits.
    BlobId, "b3:"
);
hash_id!(
    /// A directory: the BLAKE3 hash of its canonical listing. Text form `d3:` + 64 hex digits.
    DirectoryId, "d3:"
);

impl BlobId {
    /// The blob of no bytes.
    pub fn empty() -> Self {
        Self(*blake3::hash(&[]).as_bytes())
    }
}

/// An Ed25519 public key that has been checked: canonical and not of small order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

/// A peer is its public key.
pub type PeerId = PublicKey;
/// A network is the public key that signs its index servers and members.
pub type NetworkId = PublicKey;

/// y coordinates (little endian, sign bit cleared) of the canonical points whose order divides 8: 0 (order 4),
/// 1 (order 1), p - 1 (order 2) and the two of order 8. RFC 8032 section 5.1; list as in libsodium's blocklist.
const SMALL_ORDER_Y: [[u8; 32]; 5] = [
    [0; 32],
    {
        let mut one = [0; 32];
        one[0] = 1;
        one
    },
    {
        let mut p_minus_1 = [0xff; 32];
        p_minus_1[0] = 0xec;
        p_minus_1[31] = 0x7f;
        p_minus_1
    },
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
];

impl PublicKey {
    /// Checks the 32 bytes of an Ed25519 key.
    ///
    /// Whether the point lies on the curve is left to the first signature, which fails if it does not.
    pub fn new(bytes: [u8; 32]) -> Result<Self, IdError> {
        let mut y = bytes;
        y[31] &= 0x7f;
        // p = 2^255 - 19, so y >= p means all bits set down to the lowest byte, which is at least 0xed.
        let not_canonical = y[31] == 0x7f && y[1..31].iter().all(|byte| *byte == 0xff) && y[0] >= 0xed;
        if not_canonical || SMALL_ORDER_Y.contains(&y) {
            return Err(IdError::WeakKey);
        }
        Ok(Self(bytes))
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// `pk:` and the first 8 hex digits: for people, never for comparison.
    pub fn short(&self) -> String {
        short("pk:", &self.0)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pk:")?;
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for PublicKey {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(parse_hex("pk:", text)?)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(<[u8; 32]>::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A share, named by its peer with 16 random bytes when it is added; the name that people see can change, this cannot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShareId(pub [u8; 16]);

impl fmt::Display for ShareId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ShareId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0[..4]))
    }
}

fn short(prefix: &str, bytes: &[u8; 32]) -> String {
    let mut text = prefix.to_string();
    text.push_str(&HEXLOWER.encode(&bytes[..4]));
    text
}

fn parse_hex(prefix: &str, text: &str) -> Result<[u8; 32], IdError> {
    let digits = text.strip_prefix(prefix).ok_or(IdError::Form)?;
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map_err(|_| IdError::Form)?;
    bytes.try_into().map_err(|_| IdError::Form)
}

/// Whose machine a member is: the member itself, or the ticket with which one user's machines joined. Peers that serve
/// give users their turn, not machines.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId([u8; 32]);

impl UserId {
    /// The user of these bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A member that stands for itself.
    pub fn alone(peer: &PeerId) -> Self {
        Self(*peer.as_bytes())
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserId({})", HEXLOWER.encode(self.0.get(..4).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_round_trip() {
        let blob = BlobId::empty();
        assert_eq!(blob.to_string(), "b3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
        assert_eq!(blob.to_string().parse(), Ok(blob));
        assert_eq!("b3:af13".parse::<BlobId>(), Err(IdError::Form));
        assert_eq!(blob.to_string().parse::<DirectoryId>(), Err(IdError::Form));
    }

    #[test]
    fn weak_keys_are_refused() {
        for y in SMALL_ORDER_Y {
            for sign in [0, 0x80] {
                let mut key = y;
                key[31] |= sign;
                assert_eq!(PublicKey::new(key), Err(IdError::WeakKey));
            }
        }
        for low in 0xed..=0xff {
            let mut key = [0xff; 32];
            key[0] = low;
            assert_eq!(PublicKey::new(key), Err(IdError::WeakKey));
            key[31] = 0x7f;
            assert_eq!(PublicKey::new(key), Err(IdError::WeakKey));
        }
        // RFC 8032 section 7.1, test 1.
        let good = "pk:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        assert_eq!(good.parse::<PublicKey>().map(|key| key.to_string()).as_deref(), Ok(good));
    }
}
