//! Checks the `Millstream-…` headers that people write. A misspelt guard must not be silently ignored.

use strsim::damerau_levenshtein;

use super::{
    header::{self, PREFIX},
    near_name::near_name,
    stored_message::Headers,
};

/// How many letters of the prefix may differ for a header to be taken for a misspelt `Millstream-…` header.
const PREFIX_DISTANCE_MAX: usize = 2;

/// The most bytes that the kept headers of a command may take together. Events keep these headers, and the effects of processes carry them
/// on. nats-server 2.15 stores no message whose headers take more than 65,535 bytes, and effects and dead letters add some of their own. No
/// other part of a header comes near this number.
pub const KEPT_BYTES_MAX: usize = 8 * 1024;
/// The kept headers.
const KEPT: [&str; 4] = [header::ACTOR, header::CORRELATION_ID, header::CAUSATION_ID, header::TRACE_PARENT];

/// Headers of other standards that mean something on a command. Each may come only once, because nobody could tell which of two different
/// values counts.
const OF_OTHERS: [&str; 3] = [header::CONTENT_TYPE, header::NATS_MESSAGE_ID, header::TRACE_PARENT];

/// Why the headers of a message cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// There is none of this name.
    #[error("there is no header {name:?} here; {hint}")]
    Unknown {
        /// What was given.
        name: String,
        /// What may have been meant.
        hint: String,
    },
    /// It has two values.
    #[error("header {name} is given twice, as {first:?} and as {second:?}")]
    Twice {
        /// The header.
        name: String,
        /// Its first value.
        first: String,
        /// Another one.
        second: String,
    },
    /// Its value is no line of text.
    #[error("header {name} holds the control character {character:?}; leave it out")]
    Control {
        /// The header.
        name: String,
        /// The first one.
        character: char,
    },
    /// What events keep is too long.
    #[error("{} take {bytes} bytes together; at most {KEPT_BYTES_MAX} are allowed", KEPT.join(", "))]
    TooLong {
        /// How many bytes their values have.
        bytes: usize,
    },
}

impl HeaderError {
    /// A short code for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "header-unknown",
            Self::Twice { .. } => "header-twice",
            Self::Control { .. } => "header-control-character",
            Self::TooLong { .. } => "headers-too-long",
        }
    }
}

/// Checks every header that begins with `Millstream-`, in any case or slightly misspelt: it must be one of `known` and have one value
/// without control characters. The other headers that count must have one value, too. An empty header counts as absent.
///
/// # Errors
/// [`HeaderError`] names the first that is not.
pub fn check_headers(headers: &Headers, known: &[&str]) -> Result<(), HeaderError> {
    let check = |(name, value)| check_header(headers, name, value, known);
    let Some(found) = headers.iter().find_map(|header| check(header).err()) else { return Ok(()) };
    // If there are several faults, a fixed order decides which one is reported, so that every reader of the message reports the same one.
    let mut all: Vec<(&str, &str)> = headers.iter().collect();
    all.sort_unstable();
    all.into_iter().try_for_each(check).and(Err(found))
}

fn check_header(headers: &Headers, name: &str, value: &str, known: &[&str]) -> Result<(), HeaderError> {
    let ours = is_ours(name);
    if value.is_empty() || !ours && !OF_OTHERS.iter().any(|counts| counts.eq_ignore_ascii_case(name)) {
        return Ok(());
    }
    if ours && !known.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        return Err(HeaderError::Unknown { name: name.to_owned(), hint: hint(name, known) });
    }
    if let Some(first) = headers.find(name).filter(|first| *first != value) {
        let (first, second) = (first.to_owned(), value.to_owned());
        return Err(HeaderError::Twice { name: name.to_owned(), first, second });
    }
    // nats-server accepts NUL in a value. A person who reads the event would see another name than the one that is stored.
    match value.chars().find(|character| ours && character.is_control()) {
        Some(character) => Err(HeaderError::Control { name: name.to_owned(), character }),
        None => Ok(()),
    }
}

/// Checks that the headers that events keep of a command are small enough to be carried on.
///
/// # Errors
/// [`HeaderError::TooLong`].
pub fn check_kept(headers: &Headers) -> Result<(), HeaderError> {
    let bytes = KEPT.iter().filter_map(|name| headers.find(name)).map(str::len).sum();
    if bytes > KEPT_BYTES_MAX { Err(HeaderError::TooLong { bytes }) } else { Ok(()) }
}

/// Whether a header begins with `Millstream-`, or nearly so: `Milstream-Actor` and `Millstream_Actor` are typing errors.
fn is_ours(name: &str) -> bool {
    // Most headers are either spelt correctly or not Millstream's. Only for the rest are distances computed.
    if name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX)) {
        return true;
    }
    if !name.starts_with(['m', 'M']) {
        return false;
    }
    let start = name.split_inclusive(['-', '_', '.']).next().unwrap_or_default();
    damerau_levenshtein(&start.to_ascii_lowercase(), &PREFIX.to_ascii_lowercase()) <= PREFIX_DISTANCE_MAX
}

fn hint(name: &str, known: &[&str]) -> String {
    match near_name(name, known.iter().copied()) {
        Some(known) => format!("did you mean {known}?"),
        None => format!("these are: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 2] = ["Millstream-Expected-Version", "Millstream-Actor"];

    fn check(headers: &[(&str, &str)]) -> Result<(), HeaderError> {
        check_headers(&headers.iter().copied().collect(), &KNOWN)
    }

    #[test]
    fn case_does_not_matter_and_foreign_headers_are_not_ours_to_judge() {
        let known = [("millstream-expected-version", "7"), ("X-Trace", "y"), ("Nats-Msg-Id", "1")];
        assert_eq!(check(&known), Ok(()));
        assert_eq!(check(&[("Millstream-Unknown", "")]), Ok(()), "an empty one is absent");
    }

    #[test]
    fn a_header_that_is_misspelt_is_refused_by_name() {
        let error = check(&[("Millstream-Expected-Versoin", "7")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no header \"Millstream-Expected-Versoin\" here; did you mean Millstream-Expected-Version?"
        );
        for name in
            ["Milstream-Expected-Version", "Millstream_Expected_Version", "Millstraem-Expected-Version"]
        {
            let error = check(&[(name, "7")]).unwrap_err().to_string();
            assert!(error.ends_with("did you mean Millstream-Expected-Version?"), "{error}");
        }
        assert_eq!(check(&[("Mainstream-Actor", "a")]), Ok(()), "that is another word");
        let error = check(&[("millstream-colour", "7")]).unwrap_err().to_string();
        assert!(error.contains("millstream-colour") && error.contains("Millstream-Actor"), "{error}");
    }

    #[test]
    fn a_value_with_a_control_character_is_refused() {
        for (value, said) in
            [("Ada\0", "\\0"), ("Ada\u{1b}[2J", "\\u{1b}"), ("A\tda", "\\t"), ("A\u{85}", "\\u{85}")]
        {
            let error = check(&[("millstream-actor", value)]).unwrap_err();
            assert_eq!(error.code(), "header-control-character");
            let expected =
                format!("header millstream-actor holds the control character '{said}'; leave it out");
            assert_eq!(error.to_string(), expected);
        }
        assert_eq!(check(&[("Millstream-Actor", "Ada of Łódź"), ("X", "\0")]), Ok(()));
    }

    #[test]
    fn what_events_keep_may_take_so_many_bytes_together_and_no_more() {
        let check = |actor: usize, correlation: usize| {
            let (actor, correlation) = ("a".repeat(actor), "c".repeat(correlation));
            let headers = [("millstream-actor", &*actor), (header::CORRELATION_ID, &correlation)];
            check_kept(&headers.into_iter().collect())
        };
        assert_eq!(check(1, KEPT_BYTES_MAX - 1), Ok(()));
        let error = check(1, KEPT_BYTES_MAX).unwrap_err();
        assert_eq!(
            (error.code(), error.to_string().as_str()),
            (
                "headers-too-long",
                "Millstream-Actor, Millstream-Correlation-Id, Millstream-Causation-Id, traceparent take 8193 bytes \
                 together; at most 8192 are allowed"
            )
        );
    }

    #[test]
    fn a_guard_with_two_values_is_refused() {
        let twice = check(&[("Millstream-Actor", "a"), ("millstream-actor", "b")]).unwrap_err();
        assert_eq!(twice.code(), "header-twice");
        assert_eq!(check(&[("Millstream-Actor", "a"), ("millstream-actor", "a")]), Ok(()));
    }

    /// The client library hands headers over in another order each time. A command was decided as JSON, and set aside as MessagePack when it
    /// was read again.
    #[test]
    fn what_counts_does_not_depend_on_the_order_of_the_headers() {
        let pairs = [
            ("Content-Type", "application/msgpack", "content-type", "application/json"),
            ("Nats-Msg-Id", "one", "nats-msg-id", "two"),
            ("Millstream-Command-Id", "one", "millstream-command-id", "two"),
            ("traceparent", "one", "Traceparent", "two"),
        ];
        for (name, value, other, other_value) in pairs {
            let ways = [[(name, value), (other, other_value)], [(other, other_value), (name, value)]];
            let ways = ways.map(|way| way.into_iter().collect::<Headers>());
            assert_eq!(ways[0].find(name), ways[1].find(name), "{name}");
            let refused =
                ways.map(|headers| check_headers(&headers, &["Millstream-Command-Id"]).unwrap_err());
            assert_eq!(refused[0], refused[1], "{name}");
            assert_eq!(refused[0].code(), "header-twice", "{name}");
        }
    }
}
