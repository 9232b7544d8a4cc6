//! Keys that are made of names: `{column|slug}`. Two names of a column never have one key.

use std::collections::HashMap;

use millstream_contract::commit::hexadecimal;

use super::{
    identity::{Digest, digest, read_digest},
    text::{Row, RowError, shortened},
};

/// What a key leaves out of a name besides blanks: names that differ in nothing else are mostly one name in two spellings. Other signs tell
/// names apart, as in C, C++ and C#.
const PUNCTUATION: &str = ".,-/()&'\"_:;";
/// Bytes of a hash in a key that is made of a text with letters that a key cannot have.
const KEY_HASH_LENGTH: usize = 4;
/// The keys that were made of texts, by column and key: the text of each, and on which line it stands.
pub(crate) type Slugs = HashMap<Digest, (Digest, u64)>;

/// A key that another text of its column had when a row was refused for it. Rejects keep it: the other text need not stand in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    key: Digest,
    text: Digest,
    line: u64,
}

impl Taken {
    /// As it stands in rejects.
    pub(super) fn write(&self) -> String {
        format!("{}-{}-{}", hexadecimal(&self.key), hexadecimal(&self.text), self.line)
    }

    pub(super) fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (key, text) = (read_digest(parts.next()?)?, read_digest(parts.next()?)?);
        let line = parts.next()?.parse().ok()?;
        parts.next().is_none().then_some(Self { key, text, line })
    }

    /// Notes in `slugs` which text had the key, so that another text does not get it.
    pub(super) fn note(&self, slugs: &mut Slugs) {
        slugs.entry(self.key).or_insert((self.text, self.line));
    }
}

/// The key of a name, which no other name of the column has.
pub(super) fn key(text: &str, of: &str, row: &Row<'_>) -> Result<String, RowError> {
    let key = slug(text);
    let plain = plain(text);
    let known = (digest("text", [plain.as_str()]), row.line());
    let mut slugs = row.slugs.borrow_mut();
    let place = digest("key", [of, key.as_str()]);
    let (first, line) = *slugs.entry(place).or_insert(known);
    if first != known.0 {
        return Err(RowError::Joined {
            of: of.to_owned(),
            text: shortened(text),
            key: shortened(&key),
            line,
            taken: Taken { key: place, text: first, line },
        });
    }
    Ok(key)
}

/// Lower-case words joined by single hyphens. What tells names apart and cannot stand in a key leaves a hash of the whole text.
pub(super) fn slug(text: &str) -> String {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric());
    let mut words: Vec<String> = words.filter(|word| !word.is_empty()).map(str::to_ascii_lowercase).collect();
    let is_kept = |character: char| character.is_ascii_alphanumeric();
    let may_be_left_out = |character: char| PUNCTUATION.contains(character) || character.is_whitespace();
    if !text.chars().all(|character| is_kept(character) || may_be_left_out(character)) {
        let hash = digest("slug", [plain(text).as_str()]);
        words.push(hexadecimal(hash.get(..KEY_HASH_LENGTH).unwrap_or_default()));
    }
    words.join("-")
}

/// A text without its differences that mean nothing: the case of its letters, and how many blanks there are.
fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}
