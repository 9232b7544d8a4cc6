//! The pattern of a view's keys, by which a key is split again: `<store>_<business_date>` splits `2506_2012-01-31`.
//!
//! A key is split from its end, so the first part may contain the separators. If the last part may contain them instead, the pattern ends with
//! `…`, as in `<location>:<sku…>`, and the key is split from its front.

/// A pattern is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the pattern of keys {pattern:?} must be names in angle brackets with something between them, as in <store>/<sku>; the last may end with …"
)]
pub struct PatternError {
    pattern: String,
}

/// The suffix of the name of a last part that takes the whole rest.
const ALL_OF_THE_REST: char = '…';

/// The parts and the separators between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPattern {
    first: String,
    /// Each part with the separator before it.
    others: Vec<(String, String)>,
    /// Whether keys are split from their front.
    from_front: bool,
}

impl KeyPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn parse(pattern: &str) -> Result<Self, PatternError> {
        let error = || PatternError { pattern: pattern.to_owned() };
        let named = |text: &str| {
            (!text.is_empty() && !text.contains(['<', ALL_OF_THE_REST])).then(|| text.to_owned())
        };
        let within = pattern.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).ok_or_else(error)?;
        let (within, from_front) = match within.strip_suffix(ALL_OF_THE_REST) {
            Some(within) => (within, true),
            None => (within, false),
        };
        let mut pieces = within.split('>');
        let first = pieces.next().and_then(named).ok_or_else(error)?;
        let others = pieces.map(|piece| {
            let (separator, name) = piece.split_once('<')?;
            (!separator.is_empty()).then_some((separator.to_owned(), named(name)?))
        });
        let others = others.collect::<Option<Vec<_>>>().ok_or_else(error)?;
        let mut names: Vec<&str> =
            others.iter().map(|(_, name)| name.as_str()).chain([first.as_str()]).collect();
        let parts = names.len();
        names.sort_unstable();
        names.dedup();
        if names.len() < parts {
            return Err(error());
        }
        Ok(Self { first, others, from_front })
    }

    /// The names of the parts.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        [self.first.as_str()].into_iter().chain(self.others.iter().map(|(_, name)| name.as_str()))
    }

    /// The parts of a key; `None` if the key does not fit the pattern.
    pub fn split<'k>(&self, key: &'k str) -> Option<Vec<&'k str>> {
        if self.from_front { self.split_from_front(key) } else { self.split_from_end(key) }
    }

    fn split_from_front<'k>(&self, key: &'k str) -> Option<Vec<&'k str>> {
        let mut parts = Vec::with_capacity(1 + self.others.len());
        let mut rest = key;
        for (separator, _) in &self.others {
            let (part, behind) = rest.split_once(separator.as_str())?;
            parts.push(part);
            rest = behind;
        }
        parts.push(rest);
        Some(parts)
    }

    fn split_from_end<'k>(&self, key: &'k str) -> Option<Vec<&'k str>> {
        let mut parts = Vec::with_capacity(1 + self.others.len());
        let mut rest = key;
        for (separator, _) in self.others.iter().rev() {
            let (before, part) = rest.rsplit_once(separator.as_str())?;
            parts.push(part);
            rest = before;
        }
        parts.push(rest);
        parts.reverse();
        Some(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_split_from_their_end() {
        let split = |pattern: &str, key: &'static str| KeyPattern::parse(pattern).unwrap().split(key);
        assert_eq!(split("<store>_<business_date>", "a_b_2012-01-31").unwrap(), ["a_b", "2012-01-31"]);
        assert_eq!(
            split("<date>/<key>#<revision>/<line>", "2012-01-31/2506#000002/000001").unwrap(),
            ["2012-01-31", "2506", "000002", "000001"]
        );
        assert_eq!(split("<sku>", "a/b").unwrap(), ["a/b"]);
        assert_eq!(split("<a>/<b>", "ab"), None);
    }

    #[test]
    fn keys_whose_last_part_is_all_of_the_rest_are_split_from_their_front() {
        let pattern = KeyPattern::parse("<location>:<sku>/<reservation…>").unwrap();
        assert_eq!(pattern.names().collect::<Vec<_>>(), ["location", "sku", "reservation"]);
        assert_eq!(pattern.split("2506:a:b/sale 1/2").unwrap(), ["2506", "a:b", "sale 1/2"]);
        assert_eq!(pattern.split("2506:a"), None);
    }

    #[test]
    fn patterns_that_could_not_be_split_are_refused() {
        for pattern in ["", "store", "<>", "<a><b>", "<a>/<a>", "<a>/b", "x<a>", "<a/<b>", "<a…>/<b>", "<…>"]
        {
            assert!(KeyPattern::parse(pattern).is_err(), "{pattern}");
        }
    }
}
