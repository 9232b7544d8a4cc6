//! Keys by which programs identify themselves over HTTP: how a key is written, what is stored of it, and what it grants.
//!
//! A file of keys holds only hashes. Deliberately absent: files, clocks, and the source of a new key's random bits.

mod pattern;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) use self::pattern::matches;
pub use self::pattern::{
    CommandPattern, HistoryPattern, LetterAction, LetterPattern, PatternError, QueryPattern,
};

use super::{
    configured_query::{
        ArgumentsRefused, ConfiguredQueryPattern, QueryDescription, granted_arguments, granted_values,
    },
    subject::{CommandAddress, StreamId, SubjectError, check_name},
    token_issuer::{TokenIssuer, TokenIssuerError},
};

/// What a key begins with, so that people and scanners of secrets recognise one.
const TOKEN_PREFIX: &str = "millstream_";
/// Longest name of a key, so that ids of commands that hold it stay short.
pub const KEY_NAME_LENGTH_MAX: usize = 64;

/// A key as its owner sends it. It is a secret: its `Debug` form is not the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The key of 256 bits, which must be random.
    pub fn new(bits: [u8; 32]) -> Self {
        Self(format!("{TOKEN_PREFIX}{}", blake3::Hash::from_bytes(bits).to_hex()))
    }

    /// The text to send.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(hidden)")
    }
}

/// What is stored of a key: its BLAKE3 hash. A slow hash is not needed, because a key has 256 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KeyHash(blake3::Hash);

impl KeyHash {
    /// Of the text that somebody sent.
    pub fn of(token: &str) -> Self {
        Self(blake3::hash(token.as_bytes()))
    }
}

/// 64 hexadecimal digits.
impl fmt::Display for KeyHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.to_hex())
    }
}

impl Serialize for KeyHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let hash = blake3::Hash::from_hex(&text);
        hash.map(Self).map_err(|_| serde::de::Error::custom("a hash is 64 hexadecimal digits"))
    }
}

/// What somebody may send and read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    commands: Vec<CommandPattern>,
    queries: Vec<QueryPattern>,
    histories: Vec<HistoryPattern>,
    sql: Vec<ConfiguredQueryPattern>,
    letters: Vec<LetterPattern>,
    ad_hoc_sql: bool,
}

impl Grants {
    /// Whether a command may be sent.
    pub fn command(&self, address: &CommandAddress) -> bool {
        self.commands.iter().any(|pattern| pattern.grants(address))
    }

    /// Whether the row of a key may be read.
    pub fn row(&self, context: &str, view: &str, key: &str) -> bool {
        self.queries.iter().any(|pattern| pattern.grants(context, view, key))
    }

    /// Whether some row of a view may be read.
    pub fn some_row(&self, context: &str, view: &str) -> bool {
        self.queries.iter().any(|pattern| pattern.names(context, view))
    }

    /// Whether a command, by context, aggregate and name, may be sent to some aggregate.
    pub fn some_command(&self, command: [&str; 3]) -> bool {
        self.commands.iter().any(|pattern| pattern.fits(command))
    }

    /// The shortest prefix with which keys of the view may be listed, which is empty if any key is granted; `None` if no pattern grants a list.
    pub fn first_prefix(&self, context: &str, view: &str) -> Option<&str> {
        let naming = self.queries.iter().filter(|pattern| pattern.names(context, view));
        naming.filter_map(QueryPattern::beginning).min_by_key(|beginning| beginning.len())
    }

    /// Whether the history of an aggregate may be read.
    pub fn history(&self, stream_id: &StreamId) -> bool {
        self.histories.iter().any(|pattern| pattern.grants(stream_id))
    }

    /// Grants more.
    pub fn add(
        &mut self,
        commands: impl IntoIterator<Item = CommandPattern>,
        queries: impl IntoIterator<Item = QueryPattern>,
        histories: impl IntoIterator<Item = HistoryPattern>,
        sql: impl IntoIterator<Item = ConfiguredQueryPattern>,
        letters: impl IntoIterator<Item = LetterPattern>,
        ad_hoc_sql: bool,
    ) {
        self.commands.extend(commands);
        self.queries.extend(queries);
        self.histories.extend(histories);
        self.sql.extend(sql);
        self.letters.extend(letters);
        self.ad_hoc_sql |= ad_hoc_sql;
    }

    /// Whether statements may be asked that no file has, which read all tables.
    pub fn ad_hoc_sql(&self) -> bool {
        self.ad_hoc_sql
    }

    /// Whether an action is granted on dead letters to this aggregate, named by context, aggregate and id.
    pub fn letter(&self, addressed: [&str; 3], action: LetterAction) -> bool {
        self.letters.iter().any(|pattern| pattern.grants(addressed, action))
    }

    /// Whether an action is granted on some dead letters.
    pub fn some_letter(&self, action: LetterAction) -> bool {
        self.letters.iter().any(|pattern| pattern.grants_some(action))
    }

    /// Whether any configured query may be asked.
    pub fn any_configured_query(&self) -> bool {
        !self.sql.is_empty()
    }

    /// Whether a configured query may be asked with some arguments.
    pub fn configured_query(&self, context: &str, name: &str) -> bool {
        self.sql.iter().any(|pattern| pattern.names(context, name))
    }

    /// The arguments with which the query is run when the caller gives these, or why it may not be run.
    pub fn arguments(
        &self,
        query: &QueryDescription,
        given: BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, ArgumentsRefused> {
        granted_arguments(&self.sql, query, given)
    }

    /// The parameters of a configured query for which only certain values are granted.
    pub fn granted_values(&self, query: &QueryDescription) -> BTreeMap<String, BTreeSet<String>> {
        granted_values(&self.sql, query)
    }

    /// Whether all rows whose keys begin with `prefix` may be read.
    pub fn list(&self, context: &str, view: &str, prefix: &str) -> bool {
        self.queries.iter().any(|pattern| pattern.grants_list(context, view, prefix))
    }
}

/// A key and what it grants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// Who has it: the actor of each command that is sent with it.
    pub name: String,
    /// The hash of the key.
    pub hash: KeyHash,
    /// From when on it is refused.
    pub expires: Timestamp,
    /// The commands that may be sent with it; none when empty.
    #[serde(default)]
    pub commands: Vec<CommandPattern>,
    /// The rows that may be read with it; none when empty.
    #[serde(default)]
    pub queries: Vec<QueryPattern>,
    /// The histories of aggregates that may be read with it; none when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub histories: Vec<HistoryPattern>,
    /// The configured queries that may be asked with it; none when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sql: Vec<ConfiguredQueryPattern>,
    /// The dead letters that may be read, retried or dropped with it; none when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub letters: Vec<LetterPattern>,
    /// Whether statements may be asked with it that no file has. They read all tables.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ad_hoc_sql: bool,
}

impl ApiKey {
    /// What it grants.
    pub fn into_grants(self) -> Grants {
        let Self { commands, queries, histories, sql, letters, ad_hoc_sql, .. } = self;
        Grants { commands, queries, histories, sql, letters, ad_hoc_sql }
    }
}

/// A user of NATS, whose name the server proves, and what it may do. It has no key, because the server authenticates it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsUser {
    /// Who it is: a token of its subjects, and the actor of each command that it sends.
    pub name: String,
    /// The commands that it may send; none when empty.
    #[serde(default)]
    pub commands: Vec<CommandPattern>,
    /// The rows that it may read; none when empty.
    #[serde(default)]
    pub queries: Vec<QueryPattern>,
    /// The configured queries that it may ask; none when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sql: Vec<ConfiguredQueryPattern>,
    /// Whether it may ask statements that no file has. They read all tables.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ad_hoc_sql: bool,
}

impl NatsUser {
    /// What it may do.
    pub fn into_grants(self) -> Grants {
        let Self { commands, queries, sql, ad_hoc_sql, .. } = self;
        Grants { commands, queries, sql, ad_hoc_sql, ..Grants::default() }
    }
}

/// A file of keys: in TOML a table `[[key]]` each, a table `[[user]]` for each user of NATS, and a table `[[issuer]]` for each issuer of
/// tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKeys {
    /// All keys. Several may have one name while one replaces the other.
    #[serde(default, rename = "key")]
    pub keys: Vec<ApiKey>,
    /// All users of NATS. One may have the name of a key: both are the same actor.
    #[serde(default, rename = "user", skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<NatsUser>,
    /// All whose tokens are taken.
    #[serde(default, rename = "issuer", skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<TokenIssuer>,
}

/// Why keys cannot stand in one file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiKeysError {
    /// A name cannot be part of an id.
    #[error(transparent)]
    Name(#[from] SubjectError),
    /// A name is too long.
    #[error("the name {name:?} has more than {KEY_NAME_LENGTH_MAX} characters")]
    NameTooLong {
        /// The name.
        name: String,
    },
    /// Two entries have the same key, so it is not clear which of them grants.
    #[error("the key of {name:?} is there twice")]
    Twice {
        /// The name of the second.
        name: String,
    },
    /// Two entries are of the same user.
    #[error("the user {name:?} is there twice")]
    UserTwice {
        /// Its name.
        name: String,
    },
    /// An issuer's table cannot be used.
    #[error("the issuer {name:?} cannot be used")]
    Issuer {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: TokenIssuerError,
    },
    /// Two tables have the same issuer or the same name, so it is not clear which of them grants.
    #[error("the issuer {name:?} has the name, or the iss, of another one")]
    IssuerTwice {
        /// The name of the second.
        name: String,
    },
}

impl ApiKeys {
    /// Checks the names and the issuers, and that each key, user and issuer is there once.
    ///
    /// # Errors
    /// [`ApiKeysError`] for the first that is wrong.
    pub fn check(&self) -> Result<(), ApiKeysError> {
        let mut hashes = BTreeSet::new();
        for ApiKey { name, hash, .. } in &self.keys {
            check_principal("key", name)?;
            if !hashes.insert(*hash.0.as_bytes()) {
                return Err(ApiKeysError::Twice { name: name.clone() });
            }
        }
        let mut users = BTreeSet::new();
        for NatsUser { name, .. } in &self.users {
            check_principal("user", name)?;
            if !users.insert(name) {
                return Err(ApiKeysError::UserTwice { name: name.clone() });
            }
        }
        let mut issuers = BTreeSet::new();
        for issuer in &self.issuers {
            let name = issuer.name.clone();
            issuer.check().map_err(|source| ApiKeysError::Issuer { name: name.clone(), source })?;
            if !issuers.insert(("name", &issuer.name)) || !issuers.insert(("iss", &issuer.issuer)) {
                return Err(ApiKeysError::IssuerTwice { name });
            }
        }
        Ok(())
    }
}

fn check_principal(kind: &'static str, name: &str) -> Result<(), ApiKeysError> {
    check_name(kind, name)?;
    if name.len() > KEY_NAME_LENGTH_MAX {
        return Err(ApiKeysError::NameTooLong { name: name.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(pattern: &str, subject: &str) -> bool {
        let pattern = CommandPattern::try_from(pattern.to_owned()).unwrap();
        pattern.grants(&CommandAddress::from_subject(subject).unwrap())
    }

    #[test]
    fn patterns_grant_what_fits_and_nothing_else() {
        let close = "cmd.retail.till.2506_2012-01-31.close";
        for (pattern, granted) in [
            ("retail.till.2506_2012-01-31.close", true),
            ("retail.till.2506_*.close", true),
            ("retail.till.2506_*.*", true),
            ("*.*.*.*", true),
            ("retail.till.*_2012-*.c*e", true),
            ("retail.till.250_*.close", false),
            ("retail.till.506_*.close", false),
            ("retail.till.2506_.close", false),
            ("retail.till.2506_*.record-sale", false),
            ("retail.stock.*.close", false),
            ("orders.*.*.*", false),
            ("retail.till.*2012*2012*.close", false),
            ("retail.till.*2012-01-31_*.close", false),
        ] {
            assert_eq!(grants(pattern, close), granted, "{pattern}");
        }
    }

    #[test]
    fn rows_and_lists_are_granted_by_their_keys() {
        let query = |text: &str| QueryPattern::try_from(text.to_owned()).unwrap();
        for (pattern, row, list) in [
            ("retail.till.2506_*", true, true),
            ("retail.till.2506_2012-01-31", true, false),
            ("*.*.*", true, true),
            ("retail.till.*_2012-01-31", true, false),
            ("retail.till.*_2012*", true, false),
            ("retail.till.2507_*", false, false),
            ("retail.stock.2506_*", false, false),
            ("orders.till.2506_*", false, false),
        ] {
            let pattern = query(pattern);
            assert_eq!(pattern.grants("retail", "till", "2506_2012-01-31"), row, "{pattern:?}");
            assert_eq!(pattern.grants_list("retail", "till", "2506_2012"), list, "{pattern:?}");
        }
        assert!(
            !query("retail.till.2506_*").grants_list("retail", "till", "250"),
            "a list of more than is granted"
        );
        assert!(!query("retail.till.2506_*").grants_list("retail", "till", ""));
        assert!(query("retail.store-daily.2012.01/2506").grants("retail", "store-daily", "2012.01/2506"));
        for text in ["", "retail", "retail.till", "retail.till.", "Retail.till.x", ".till.x"] {
            assert!(QueryPattern::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn histories_are_granted_by_their_aggregates() {
        let till = StreamId::new("retail", "till", "2506_2012-01-31").unwrap();
        for (pattern, granted) in [
            ("retail.till.2506_*", true),
            ("*.*.*", true),
            ("retail.till.2507_*", false),
            ("retail.stock.*", false),
            ("orders.*.*", false),
        ] {
            assert_eq!(
                HistoryPattern::try_from(pattern.to_owned()).unwrap().grants(&till),
                granted,
                "{pattern}"
            );
        }
        for text in ["", "retail.till", "retail.till.1.close", "retail..1", "retail.till.a b"] {
            assert!(HistoryPattern::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn letters_are_granted_by_their_aggregates_and_by_what_is_done() {
        use LetterAction::{Drop, Read, Retry};
        let grants = |pattern: &str, addressed: [&str; 3]| {
            let pattern = LetterPattern::try_from(pattern.to_owned()).unwrap();
            [Read, Retry, Drop].map(|action| pattern.grants(addressed, action))
        };
        let till = ["retail", "till", "2506_2012-01-31"];
        for (pattern, granted) in [
            ("retail.till.2506_*.read", [true, false, false]),
            ("retail.till.2506_*.retry", [false, true, false]),
            ("retail.till.2506_*.*", [true, true, true]),
            ("*.*.*.drop", [false, false, true]),
            ("retail.till.2507_*.*", [false, false, false]),
            ("orders.*.*.*", [false, false, false]),
        ] {
            assert_eq!(grants(pattern, till), granted, "{pattern}");
        }
        assert_eq!(grants("*.*.*.read", ["", "", ""]), [true, false, false], "of a letter to no aggregate");
        assert_eq!(grants("retail.*.*.read", ["", "", ""]), [false, false, false]);
        for text in ["", "retail.till.1", "retail.till.1.close", "retail..1.read", "retail.till.1.read.x"] {
            assert!(LetterPattern::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn no_pattern_grants_what_millstream_records_itself() {
        assert!(!grants("*.*.*.*", "cmd.millstream.set-aside.17.set-aside"));
        assert!(!grants("millstream.set-aside.17.set-aside", "cmd.millstream.set-aside.17.set-aside"));
    }

    #[test]
    fn texts_that_are_no_patterns_are_refused() {
        for text in ["", "*", "retail.till", "retail.till.1.close.now", "retail..1.close", "retail.till.> .x"]
        {
            assert!(CommandPattern::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_is_known_by_its_hash_and_never_shown() {
        let token = Token::new([7; 32]);
        assert_eq!(token.as_str().len(), TOKEN_PREFIX.len() + 64);
        assert!(!format!("{token:?}").contains("0707"), "{token:?}");
        let written = serde_json::to_value(KeyHash::of(token.as_str())).unwrap();
        assert_eq!(serde_json::from_value::<KeyHash>(written).unwrap(), KeyHash::of(token.as_str()));
        assert_ne!(KeyHash::of(token.as_str()), KeyHash::of("millstream_0"));
    }

    #[test]
    fn a_key_is_there_once_and_has_a_name_that_ids_can_hold() {
        let key = |name: &str, token: &str| ApiKey {
            name: name.to_owned(),
            hash: KeyHash::of(token),
            expires: Timestamp::MAX,
            commands: Vec::new(),
            queries: Vec::new(),
            histories: Vec::new(),
            sql: Vec::new(),
            letters: Vec::new(),
            ad_hoc_sql: false,
        };
        let check = |keys: Vec<ApiKey>| ApiKeys { keys, ..ApiKeys::default() }.check();
        assert_eq!(check(vec![key("till-2506", "a"), key("till-2506", "b")]), Ok(()));
        assert_eq!(
            check(vec![key("one", "a"), key("two", "a")]),
            Err(ApiKeysError::Twice { name: "two".to_owned() })
        );
        assert!(matches!(check(vec![key("Till:2506", "a")]), Err(ApiKeysError::Name(_))));
        let long = "a".repeat(KEY_NAME_LENGTH_MAX + 1);
        assert!(matches!(check(vec![key(&long, "a")]), Err(ApiKeysError::NameTooLong { .. })));
    }

    #[test]
    fn a_user_is_there_once_beside_keys_of_its_name() {
        let user = |name: &str| NatsUser {
            name: name.to_owned(),
            commands: Vec::new(),
            queries: Vec::new(),
            sql: Vec::new(),
            ad_hoc_sql: false,
        };
        let check = |users: &[&str]| {
            let users = users.iter().map(|name| user(name)).collect();
            ApiKeys { users, ..ApiKeys::default() }.check()
        };
        assert_eq!(check(&["store-2506", "store-2507"]), Ok(()));
        assert_eq!(
            check(&["store-2506", "store-2506"]),
            Err(ApiKeysError::UserTwice { name: "store-2506".to_owned() })
        );
        for name in ["Store", "a.b", "*", ">", ""] {
            assert!(matches!(check(&[name]), Err(ApiKeysError::Name(_))), "{name}");
        }
    }
}
