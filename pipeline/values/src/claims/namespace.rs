//! Which texts are the same value, and the id of its claim.

use std::borrow::Cow;

use icu_casemap::CaseMapper;
use icu_normalizer::ComposingNormalizer;
use millstream_contract::subject::{AGGREGATE_ID_LENGTH_MAX, check_id};
use millstream_domain::decider::Rejection;

use crate::text::{is_blank, is_ignorable};

/// The longest value, in characters.
pub const VALUE_LENGTH_MAX: usize = 1_000;

/// The longest name of a namespace. An id must have room for it, a separator and a hash.
const NAME_LENGTH_MAX: usize = 60;

/// A kind of values of which each belongs to one holder only, such as e-mail addresses.
///
/// Two texts are the same value if they look the same: white space at both ends, invisible characters, and the way in which an accented letter
/// is composed make no difference. Neither do upper and lower case, if the namespace says so. The id of a claim contains the value itself if an
/// id can (`order-number:2026-0017`), otherwise its hash (`email::9c56cc51…`).
///
/// ```
/// use millstream_values::claims::Namespace;
///
/// const EMAIL: Namespace = Namespace::new("email").ignoring_case();
/// assert_eq!(EMAIL.claim_id("Anna@Example.com")?, EMAIL.claim_id(" anna@example.com ")?);
///
/// const ORDER_NUMBER: Namespace = Namespace::new("order-number");
/// assert_eq!(ORDER_NUMBER.claim_id("2026-0017")?, "order-number:2026-0017");
/// # Ok::<(), millstream_values::claims::ValueError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace {
    name: &'static str,
    ignores_case: bool,
}

/// Why a text cannot be claimed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// It has no visible characters.
    #[error("the {namespace} is blank")]
    Blank {
        /// The namespace.
        namespace: &'static str,
    },
    /// It is too long.
    #[error("the {namespace} is longer than {VALUE_LENGTH_MAX} characters")]
    TooLong {
        /// The namespace.
        namespace: &'static str,
    },
}

impl Namespace {
    /// A namespace in which upper and lower case make a difference.
    ///
    /// # Panics
    /// When the name does not consist of 1 to 60 lower-case letters, digits and hyphens. In a constant, this is a compile error.
    pub const fn new(name: &'static str) -> Self {
        let mut rest = name.as_bytes();
        assert!(!rest.is_empty() && rest.len() <= NAME_LENGTH_MAX, "a namespace has 1 to 60 characters");
        while let [byte, others @ ..] = rest {
            assert!(
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-',
                "a namespace is made of lower-case letters, digits and hyphens"
            );
            rest = others;
        }
        Self { name, ignores_case: false }
    }

    /// The same namespace, in which upper and lower case make no difference. This can never be changed later, because the ids of claims depend
    /// on it.
    #[must_use]
    pub const fn ignoring_case(self) -> Self {
        Self { name: self.name, ignores_case: true }
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The id of a value's claim.
    ///
    /// # Errors
    /// [`ValueError`] for a text that is blank or too long.
    pub fn claim_id(&self, value: &str) -> Result<String, ValueError> {
        let namespace = self.name;
        if is_blank(value) {
            return Err(ValueError::Blank { namespace });
        }
        if value.chars().count() > VALUE_LENGTH_MAX {
            return Err(ValueError::TooLong { namespace });
        }
        let value = self.normalised(value);
        let readable = format!("{namespace}:{value}");
        // Two colons mark a hash, so no value can be mistaken for the hash of another.
        if readable.len() <= AGGREGATE_ID_LENGTH_MAX && check_id(&value).is_ok() && !value.starts_with(':') {
            return Ok(readable);
        }
        Ok(format!("{namespace}::{}", blake3::hash(value.as_bytes()).to_hex()))
    }

    /// Whether a claim belongs to this namespace.
    pub fn has(&self, claim_id: &str) -> bool {
        claim_id.strip_prefix(self.name).is_some_and(|rest| rest.starts_with(':'))
    }

    /// The canonical form that all texts of the same value share. It can be used as the key of a row, for example.
    pub fn normalised(&self, value: &str) -> String {
        let seen: String = value.chars().filter(|character| !is_ignorable(*character)).collect();
        let composer = ComposingNormalizer::new_nfc();
        let composed = composer.normalize(seen.trim());
        if !self.ignores_case {
            return composed.into_owned();
        }
        // Case folding can decompose characters, so they are composed again.
        let folded: Cow<'_, str> = CaseMapper::new().fold_string(&composed);
        composer.normalize(&folded).into_owned()
    }
}

/// Checks that an id can be the id of a claim.
pub(super) fn check_claim_id(id: &str) -> Result<(), Rejection> {
    let of_namespace = id.split_once(':').is_some_and(|(name, value)| {
        !name.is_empty()
            && !value.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    });
    if of_namespace {
        return Ok(());
    }
    let message = format!("claim {id} is not <namespace>:<value>; write it as in order-number:2026-0017");
    Err(Rejection::new("claim-id-malformed", message))
}
