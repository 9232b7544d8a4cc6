//! Reading MessagePack without trusting who wrote it: nesting is bounded, since every level takes some of the reader's stack, and a stack that
//! is used up ends the process where an error would refuse the message.

use rmp_serde::{config::DefaultConfig, decode::Error};
use serde::Deserialize;

/// Deepest nesting of a command's body, in lists and maps: as deep as serde_json reads JSON, so that both formats take the same.
pub const BODY_NESTING_MAX: usize = 128;

/// Deepest nesting of what Millstream writes itself: events, commits, records and states. Deeper than that of a body, since an event may hold
/// a body's fields in lists of its own.
pub const NESTING_MAX: usize = 256;

/// A decoder of what `rest` begins with; `rest` is what follows afterwards. Refuses lists and maps that are nested deeper than `nesting`.
pub fn decoder<'rest, 'bytes>(
    rest: &'rest mut &'bytes [u8],
    nesting: usize,
) -> rmp_serde::Deserializer<rmp_serde::decode::ReadReader<&'rest mut &'bytes [u8]>, DefaultConfig> {
    let mut decoder = rmp_serde::Deserializer::new(rest);
    decoder.set_max_depth(nesting);
    decoder
}

/// Reads what Millstream has written.
///
/// # Errors
/// When the bytes do not hold a `T`, or nest deeper than [`NESTING_MAX`].
pub fn from_slice<'bytes, T: Deserialize<'bytes>>(bytes: &'bytes [u8]) -> Result<T, Error> {
    let mut decoder = rmp_serde::Deserializer::from_read_ref(bytes);
    decoder.set_max_depth(NESTING_MAX);
    T::deserialize(&mut decoder)
}

#[cfg(test)]
mod tests {
    use serde::de::IgnoredAny;

    use super::{NESTING_MAX, from_slice};

    /// `depth` lists, each in the one before.
    fn nested(depth: usize) -> Vec<u8> {
        let mut bytes = vec![0x91; depth];
        bytes.push(0xc0);
        bytes
    }

    #[test]
    fn lists_in_lists_are_read_up_to_the_bound() {
        assert!(from_slice::<IgnoredAny>(&nested(NESTING_MAX - 1)).is_ok());
        for depth in [NESTING_MAX + 1, 1_000_000] {
            let refused = from_slice::<IgnoredAny>(&nested(depth)).unwrap_err();
            assert_eq!(refused.to_string(), "depth limit exceeded");
        }
    }
}
