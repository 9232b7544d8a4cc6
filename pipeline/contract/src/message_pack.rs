//! Reads MessagePack from untrusted senders. The depth of nesting is limited, because each level takes some of the reader's stack. A stack
//! overflow would end the process, while an error only refuses the message.

use rmp_serde::{config::DefaultConfig, decode::Error};
use serde::Deserialize;

/// The deepest nesting of a command's body, in lists and maps. serde_json has the same limit, so both formats accept the same bodies.
pub const BODY_NESTING_MAX: usize = 128;

/// The deepest nesting of what Millstream itself writes: events, commits, records and states. It is larger than that of a body, because an
/// event may hold a body's fields inside lists of its own.
pub const NESTING_MAX: usize = 256;

/// A decoder that reads one value from the start of `rest` and leaves in `rest` what follows. It refuses lists and maps that are nested
/// deeper than `nesting`.
pub fn decoder<'rest, 'bytes>(
    rest: &'rest mut &'bytes [u8],
    nesting: usize,
) -> rmp_serde::Deserializer<rmp_serde::decode::ReadReader<&'rest mut &'bytes [u8]>, DefaultConfig> {
    let mut decoder = rmp_serde::Deserializer::new(rest);
    decoder.set_max_depth(nesting);
    decoder
}

/// Decodes what Millstream has written.
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
