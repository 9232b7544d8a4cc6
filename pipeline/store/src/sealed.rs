//! Values with a checksum of their own. redb does not check a page when it reads it, so a bit that flipped on the disk would be taken for data.
//!
//! The checksum (CRC-32) covers the key, too: a value that is found under another key is as wrong as one that has changed. It detects every
//! flipped bit, and misses other damage only once in four thousand million cases. A row of an earlier release has no checksum and therefore no
//! such protection; neither has a row whose last bytes were replaced by others that make it JSON again.

use serde::de::IgnoredAny;

/// Stands between a value and its checksum. JSON never contains this byte, so a row that an earlier release wrote without a checksum is
/// recognised. There are two of them, so that one flipped bit does not make a sealed row look like such a row.
const MARK: [u8; 2] = [0, 0];
const CHECKSUM_LENGTH: usize = size_of::<u32>();
/// How many bytes [`seal`] appends.
pub const SEAL_LENGTH: usize = MARK.len() + CHECKSUM_LENGTH;

/// Appends to `value` what seals it under `key`.
pub fn seal(key: &[u8], value: &mut Vec<u8>) {
    let checksum = checksum(key, value);
    value.extend(MARK);
    value.extend(checksum);
}

/// The value that was sealed under `key`; `None` if it has changed.
#[must_use]
pub fn unseal<'v>(key: &[u8], sealed: &'v [u8]) -> Option<&'v [u8]> {
    let (marked, found) = sealed.split_last_chunk::<CHECKSUM_LENGTH>()?;
    let value = marked.strip_suffix(&MARK)?;
    (checksum(key, value) == *found).then_some(value)
}

/// As [`unseal`], for the JSON of a row, which an earlier release may have written without a checksum.
#[must_use]
pub fn unseal_json<'v>(key: &[u8], stored: &'v [u8]) -> Option<&'v [u8]> {
    let mark = stored.len().checked_sub(SEAL_LENGTH);
    match mark.and_then(|mark| stored.get(mark..mark + MARK.len())) {
        Some(mark) if mark.contains(&0) => unseal(key, stored),
        _ => serde_json::from_slice::<IgnoredAny>(stored).is_ok().then_some(stored),
    }
}

fn checksum(key: &[u8], value: &[u8]) -> [u8; CHECKSUM_LENGTH] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(value);
    hasher.finalize().to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> Vec<u8> {
        let mut value = br#"{"count":7}"#.to_vec();
        seal(b"key", &mut value);
        value
    }

    #[test]
    fn every_flipped_bit_and_every_other_key_is_found() {
        assert_eq!(unseal(b"key", &sealed()), Some(br#"{"count":7}"#.as_slice()));
        assert_eq!(unseal(b"kez", &sealed()), None);
        for bit in 0..sealed().len() * 8 {
            let mut damaged = sealed();
            *damaged.get_mut(bit / 8).unwrap() ^= 1 << (bit % 8);
            assert_eq!(unseal(b"key", &damaged), None, "bit {bit}");
            assert_eq!(unseal_json(b"key", &damaged), None, "bit {bit}");
        }
        for length in 0..sealed().len() {
            assert_eq!(unseal(b"key", sealed().get(..length).unwrap()), None, "cut to {length}");
        }
    }

    #[test]
    fn row_whose_seal_is_overwritten_is_not_taken_for_one_without_a_seal() {
        let mut damaged = sealed();
        let value = damaged.len() - SEAL_LENGTH;
        for byte in [0xff, b'7'] {
            damaged.get_mut(value..).unwrap().fill(byte);
            assert_eq!(unseal_json(b"key", &damaged), None, "{byte}");
        }
    }

    #[test]
    fn json_without_a_checksum_is_read_as_before() {
        for row in ["7", r#"{"count":7}"#, r#"["a long text that has no end"]"#] {
            assert_eq!(unseal_json(b"key", row.as_bytes()), Some(row.as_bytes()));
        }
    }
}
