//! Digests, with which states remember contents without storing them, and ledgers remember what was posted. They are cut to a length at
//! which an accidental collision is practically impossible.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Bytes of a digest.
const LENGTH: usize = 16;

/// The first 16 bytes of a BLAKE3 hash. Snapshots store bytes; people see hexadecimal digits. The default, all zeros,
/// stands for no content at all; it is not the digest of an empty content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContentDigest([u8; LENGTH]);

impl ContentDigest {
    /// The digest of what `hasher` received.
    pub fn of(hasher: &blake3::Hasher) -> Self {
        Self::cut(&hasher.finalize())
    }

    /// The digest of `content`.
    pub fn of_bytes(content: &[u8]) -> Self {
        Self::cut(&blake3::hash(content))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn cut(hash: &blake3::Hash) -> Self {
        let mut digest = Self::default();
        for (byte, whole) in digest.0.iter_mut().zip(hash.as_bytes()) {
            *byte = *whole;
        }
        digest
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl Serialize for ContentDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for ContentDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return Ok(Self(<[u8; LENGTH]>::deserialize(deserializer)?));
        }
        let text = String::deserialize(deserializer)?;
        let digits = Some(text.as_str()).filter(|text| text.len() == 2 * LENGTH);
        let number = digits.and_then(|digits| u128::from_str_radix(digits, 16).ok());
        number
            .map(|number| Self(number.to_be_bytes()))
            .ok_or_else(|| D::Error::custom(format_args!("{text:?} is not a digest in hexadecimal")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_is_hexadecimal_for_people_and_comes_back() {
        let digest = ContentDigest::of(blake3::Hasher::new().update(b"content"));
        let text = serde_json::to_string(&digest).unwrap();
        let whole = blake3::hash(b"content").to_hex();
        assert_eq!(text, format!("{:?}", &whole[..2 * LENGTH]));
        assert_eq!(ContentDigest::default().to_string(), "0".repeat(2 * LENGTH));
        assert_eq!(serde_json::from_str::<ContentDigest>(&text).unwrap(), digest);
        for wrong in ["\"\"", "\"0\"", "\"zz000000000000000000000000000000\""] {
            assert!(serde_json::from_str::<ContentDigest>(wrong).is_err(), "{wrong}");
        }
    }
}
