//! What a query asks for: its body and headers, decoded and checked. Pure.

use std::{ops::Bound, time::Duration};

use millstream_contract::{error_text::plain_decoder_text, header, position::StreamPosition};
use millstream_domain::by_name::ByName;
use millstream_store::read_store::{Direction, KeyRange};
use serde::{Deserialize, de::DeserializeOwned};

use super::{QueryError, QueryServiceConfig, cursor};

/// How many rows a page has unless the query says otherwise.
pub const LIMIT_DEFAULT: usize = 100;
/// The most rows that a page may have.
pub const LIMIT_MAX: usize = 10_000;

/// What can be asked of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// The row with a key.
    Get,
    /// A page of rows.
    List,
}

impl Operation {
    pub(super) const ALL: [Self; 2] = [Self::Get, Self::List];

    /// The last token of its subject.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
        }
    }
}

/// The body of `get`.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GetBody {
    pub(super) key: String,
}

/// The body of `list`.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListBody {
    #[serde(default)]
    prefix: String,
    from: Option<String>,
    to: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
    #[serde(default)]
    reverse: bool,
}

/// The rows that a list asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listing {
    pub(super) lower: Bound<String>,
    pub(super) upper: Bound<String>,
    pub(super) direction: Direction,
    pub(super) limit: usize,
}

/// Decodes a body. An error names the field. An empty body counts as `{}`.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, QueryError> {
    let text = body.trim_ascii();
    let text = if text.is_empty() { b"{}" } else { text };
    let mut decoder = serde_json::Deserializer::from_slice(text);
    let malformed = |path: String, detail: String| {
        let place = if path == "." { "body" } else { &*path };
        QueryError::Malformed(format!("{place}: {}", plain_decoder_text(&detail)))
    };
    let value = serde_path_to_error::deserialize(ByName(&mut decoder))
        .map_err(|error| malformed(error.path().to_string(), error.inner().to_string()))?;
    decoder.end().map_err(|error| malformed(".".to_owned(), error.to_string()))?;
    Ok(value)
}

impl ListBody {
    pub(super) fn listing(self) -> Result<Listing, QueryError> {
        let limit = match self.limit.unwrap_or(LIMIT_DEFAULT) {
            limit @ 1..=LIMIT_MAX => limit,
            other => {
                return Err(QueryError::Malformed(format!("limit: {other} is not within 1 to {LIMIT_MAX}")));
            }
        };
        let from = self.from.filter(|from| *from > self.prefix).unwrap_or_else(|| self.prefix.clone());
        let end = match (prefix_end(&self.prefix), self.to) {
            (Some(end), Some(to)) => Some(end.min(to)),
            (end, to) => end.or(to),
        };
        let mut listing = Listing {
            lower: Bound::Included(from),
            upper: end.map_or(Bound::Unbounded, Bound::Excluded),
            direction: if self.reverse { Direction::Descending } else { Direction::Ascending },
            limit,
        };
        if let Some(cursor) = &self.cursor {
            listing.go_on_after(cursor::decode(cursor)?)?;
        }
        Ok(listing)
    }
}

impl Listing {
    pub(super) fn range(&self) -> KeyRange<'_> {
        KeyRange {
            lower: self.lower.as_ref().map(String::as_str),
            upper: self.upper.as_ref().map(String::as_str),
        }
    }

    fn go_on_after(&mut self, last_key: String) -> Result<(), QueryError> {
        let after_lower = match &self.lower {
            Bound::Included(lower) => last_key >= *lower,
            _ => true,
        };
        let before_upper = match &self.upper {
            Bound::Excluded(upper) => last_key < *upper,
            _ => true,
        };
        if !(after_lower && before_upper) {
            let text = "cursor: it belongs to a list of another prefix or range";
            return Err(QueryError::Malformed(text.to_owned()));
        }
        match self.direction {
            Direction::Ascending => self.lower = Bound::Excluded(last_key),
            Direction::Descending => self.upper = Bound::Excluded(last_key),
        }
        Ok(())
    }
}

/// The smallest text after all texts that start with `prefix`; `None` if there is none, as for an empty prefix.
fn prefix_end(prefix: &str) -> Option<String> {
    let mut rest = prefix.to_owned();
    while let Some(last) = rest.pop() {
        if let Some(next) = (last..=char::MAX).nth(1) {
            rest.push(next);
            return Some(rest);
        }
    }
    None
}

/// The position that a query asks for.
pub(super) fn parse_position(text: Option<&str>) -> Result<Option<StreamPosition>, QueryError> {
    let parse = |text: &str| {
        text.parse().map_err(|error| QueryError::Malformed(format!("{}: {error}", header::POSITION)))
    };
    text.map(parse).transpose()
}

/// How long a query waits for its position.
pub(super) fn parse_wait(text: Option<&str>, config: &QueryServiceConfig) -> Result<Duration, QueryError> {
    let Some(text) = text else { return Ok(config.wait_default.min(config.wait_max)) };
    let milliseconds: u64 = text.trim().parse().map_err(|_| {
        QueryError::Malformed(format!("{}: {text:?} is not a number of milliseconds", header::WAIT_MS))
    })?;
    Ok(Duration::from_millis(milliseconds).min(config.wait_max))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listing(body: &str) -> Result<Listing, String> {
        parse::<ListBody>(body.as_bytes()).and_then(ListBody::listing).map_err(|error| error.to_string())
    }

    #[test]
    fn empty_body_lists_everything() {
        for body in ["", "\n", "{}"] {
            let expected = Listing {
                lower: Bound::Included(String::new()),
                upper: Bound::Unbounded,
                direction: Direction::Ascending,
                limit: LIMIT_DEFAULT,
            };
            assert_eq!(listing(body), Ok(expected));
        }
    }

    #[test]
    fn errors_name_the_field() {
        for (body, named) in [
            (r#"{"prefixes":"a"}"#, "prefixes"),
            (r#"{"limit":"ten"}"#, "limit"),
            (r#"{"limit":0}"#, "limit"),
            (r#"{"limit":10001}"#, "limit"),
            (r#"{"reverse":1}"#, "reverse"),
            (r#"{"cursor":"x"}"#, "cursor"),
            (r#"{"prefix":"b","cursor":"161"}"#, "cursor"),
            ("[]", "body"),
            (r#"["b"]"#, "body"),
            ("{} {}", "body"),
        ] {
            let error = listing(body).unwrap_err();
            assert!(error.contains(named), "{body}: {error}");
        }
        assert!(parse::<GetBody>(b"{}").unwrap_err().to_string().contains("key"));
    }

    #[test]
    fn prefix_and_range_narrow_each_other() {
        let listing = listing(r#"{"prefix":"b","from":"ba","to":"c5"}"#).unwrap();
        assert_eq!(listing.lower, Bound::Included("ba".to_owned()));
        assert_eq!(listing.upper, Bound::Excluded("c".to_owned()));
    }

    #[test]
    fn cursor_goes_on_in_the_direction_of_the_list() {
        let up = listing(&format!(r#"{{"cursor":"{}"}}"#, cursor::encode("k"))).unwrap();
        assert_eq!((up.lower, up.upper), (Bound::Excluded("k".to_owned()), Bound::Unbounded));
        let down = listing(&format!(r#"{{"reverse":true,"cursor":"{}"}}"#, cursor::encode("k"))).unwrap();
        assert_eq!(down.upper, Bound::Excluded("k".to_owned()));
    }

    #[test]
    fn wait_is_bounded_by_the_configuration() {
        let config = QueryServiceConfig::new("projector", "0.1.0");
        assert_eq!(parse_wait(None, &config).unwrap(), config.wait_default);
        assert_eq!(parse_wait(Some("10"), &config).unwrap(), Duration::from_millis(10));
        assert_eq!(parse_wait(Some("99999999"), &config).unwrap(), config.wait_max);
        assert!(parse_wait(Some("soon"), &config).unwrap_err().to_string().contains("Millstream-Wait-Ms"));
    }

    /// Bodies that are almost right, and any bytes.
    fn body() -> impl Strategy<Value = Vec<u8>> {
        let value = prop_oneof![
            "-?[0-9]{1,30}",
            "\"[a-f0-9]{0,20}\"",
            "\"\\PC{0,20}\"",
            "true|null|NaN",
            "\\[[\\[\\]0-9,]{0,40}\\]"
        ];
        let field = ("key|prefix|from|to|limit|cursor|reverse|x", value)
            .prop_map(|(name, value)| format!("\"{name}\":{value}"));
        let fields =
            proptest::collection::vec(field, 0..6).prop_map(|fields| format!("{{{}}}", fields.join(",")));
        let almost =
            (fields, any::<prop::sample::Index>(), any::<Option<u8>>()).prop_map(|(fields, at, byte)| {
                let mut bytes = fields.into_bytes();
                let at = at.index(bytes.len());
                if let Some(byte) = byte {
                    bytes[at] = byte;
                }
                bytes
            });
        prop_oneof![3 => almost, 1 => proptest::collection::vec(any::<u8>(), 0..100)]
    }

    proptest! {
        #[test]
        fn fuzz_queries(body in body()) {
            if let Err(error) = parse::<GetBody>(&body) {
                prop_assert_eq!(error.code(), 400);
            }
            if let Ok(listing) = parse::<ListBody>(&body).and_then(ListBody::listing) {
                prop_assert!((1..=LIMIT_MAX).contains(&listing.limit));
                let _range = listing.range();
            }
        }

        #[test]
        fn prefix_end_separates_what_starts_with_the_prefix(prefix in "\\PC{0,3}", text in "\\PC{0,4}") {
            let within = text >= prefix && prefix_end(&prefix).is_none_or(|end| text < end);
            prop_assert_eq!(within, text.starts_with(&prefix));
        }
    }
}
