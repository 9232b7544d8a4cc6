//! The rejection of a command that expects another version of its aggregate: its code, its sentence, and the version in the sentence for
//! programs that need it.

use super::subject::StreamId;

/// The code of the rejection.
pub const CODE: &str = "version-conflict";
/// The text before the version in the sentence. It contains spaces, which neither a name nor an id can.
const BEFORE: &str = " is at version ";

/// What the rejection says.
pub fn sentence(aggregate: &StreamId, version: u64, expected: u64) -> String {
    format!("{aggregate}{BEFORE}{version}, not at the expected {expected}; read it again and decide anew")
}

/// The aggregate's version, from [`sentence`].
pub fn version(sentence: &str) -> Option<u64> {
    let (_, rest) = sentence.split_once(BEFORE)?;
    rest.split_once(',')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read_from_the_sentence() {
        let aggregate = StreamId::new("retail", "till", "7_2026-01-02").unwrap();
        assert_eq!(version(&sentence(&aggregate, 12, 3)), Some(12));
        assert_eq!(version("something else"), None);
    }
}
