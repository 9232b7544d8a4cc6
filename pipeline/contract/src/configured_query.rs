//! Configured queries as their callers see them: what a query is called, what it takes, and which queries somebody may ask with which
//! arguments. The stage that answers the queries publishes these descriptions.
//!
//! Statements that no file has (ad-hoc SQL) have a subject of their own, so that they are granted apart.
//!
//! Deliberately absent: SQL, and the check that an argument has the right kind. The stage checks that.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::Value;

use super::{
    api_key::{PatternError, matches},
    error_text::bounded,
    subject::QUERY_PREFIX,
    unique_fields::UniqueFields,
};

/// The last token of the subject on which a stage describes its queries. No query can have this name, because names contain no `_`.
const DESCRIPTIONS: &str = "_queries";

/// The subject on which a statement is asked that no file has. It is outside of `query.…`: who may ask for rows may not ask that. Nobody listens
/// there where no stage answers such statements.
pub const STATEMENT_SUBJECT: &str = "sql.ask";

/// Codes of refusals, in the header [`PROBLEM`](super::header::PROBLEM). If a refusal is about a parameter, the header
/// [`PARAMETER`](super::header::PARAMETER) names it.
pub mod problem {
    /// A parameter that must be given is not there.
    pub const PARAMETER_MISSING: &str = "parameter-missing";
    /// There is no such parameter.
    pub const PARAMETER_UNKNOWN: &str = "parameter-unknown";
    /// A value is of another kind than its parameter.
    pub const PARAMETER_MALFORMED: &str = "parameter-malformed";
    /// There is no such query.
    pub const QUERY_UNKNOWN: &str = "query-unknown";
    /// The database refuses the statement with these values.
    pub const QUERY_REFUSED: &str = "query-refused";
    /// The query ran for longer than it may, and was stopped.
    pub const QUERY_TOO_LONG: &str = "query-too-long";
    /// The answer is larger than an answer may be.
    pub const ANSWER_TOO_LARGE: &str = "answer-too-large";
    /// As many queries as may run or wait already do.
    pub const BUSY: &str = "busy";
    /// The database does not answer, or the stage is ending.
    pub const UNAVAILABLE: &str = "queries-unavailable";
    /// The position is not reached.
    pub const NOT_REACHED: &str = "position-not-reached";
    /// The position is of another generation of the stream than the tables, so it is never reached.
    pub const OF_ANOTHER_GENERATION: &str = "position-of-another-generation";
    /// The position, a header or the body is malformed.
    pub const MALFORMED: &str = "query-malformed";
}

/// The subject on which a stage describes the queries of a context: an empty body asks for all of them, `{"name":…}` for one.
pub fn descriptions_subject(context: &str) -> String {
    format!("{QUERY_PREFIX}.{context}.{DESCRIPTIONS}")
}

/// The subject on which a query is asked.
pub fn query_subject(context: &str, name: &str) -> String {
    format!("{QUERY_PREFIX}.{context}.{name}")
}

/// Which query's description is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescriptionsQuestion {
    /// The name of one query; without it, all are described.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A statement that no file has, with a value for each of its parameters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatementQuestion {
    /// One `SELECT`, with tables as `context.view` and parameters as `:name`.
    pub statement: String,
    /// The parameters: texts, numbers, booleans or null. Each is there once.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "unique")]
    pub parameters: BTreeMap<String, Value>,
    /// The most rows in the answer; a thousand if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole_number")]
    pub rows: Option<usize>,
}

impl StatementQuestion {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// Words, if it is not such a record.
    pub fn read(body: &[u8]) -> Result<Self, String> {
        // A list would be read by the order of its items.
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err("it is a record, such as {\"statement\": \"SELECT …\"}".to_owned());
        }
        serde_json::from_slice(body).map_err(|error| error.to_string())
    }
}

/// In words for people, whatever is there instead of a whole number.
fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
    if number.is_none() && !value.is_null() {
        let told = bounded(&value.to_string()).into_owned();
        return Err(D::Error::custom(format!("rows: {told} is no whole number from 1 on")));
    }
    Ok(number)
}

fn unique<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Value>, D::Error> {
    UniqueFields::deserialize(deserializer).map(|fields| fields.0.into_iter().collect())
}

/// The descriptions that a stage gives of its queries.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Descriptions {
    /// In the order of their names.
    pub queries: Vec<QueryDescription>,
    /// How long any query or statement may run, in milliseconds; 0 from a stage that does not tell.
    #[serde(default)]
    pub time_ms: u64,
}

/// The description of a query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueryDescription {
    /// Its context.
    pub context: String,
    /// Its name.
    pub name: String,
    /// Its title for people.
    pub title: String,
    /// What its answer shows; may be empty.
    pub description: String,
    /// Its parameters.
    pub parameters: Vec<ParameterDescription>,
    /// The columns that are amounts in minor units, each with the column that has the currency.
    #[serde(default)]
    pub money: BTreeMap<String, String>,
    /// Patterns of the names of those who may ask it. If empty, everybody to whom the query is granted may ask.
    #[serde(default)]
    pub who: Vec<String>,
    /// How many rows an answer has at most.
    pub rows: usize,
    /// How long it may run, in milliseconds.
    pub time_ms: u64,
}

/// The description of a parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParameterDescription {
    /// Its name.
    pub name: String,
    /// What it takes: text, integer, number, date, time or boolean.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it must be given.
    pub required: bool,
    /// Its value when none is given. Null if a value must be given, or if the parameter is then absent.
    #[serde(default)]
    pub default: Value,
    /// What it means; may be empty.
    #[serde(default)]
    pub description: String,
}

impl QueryDescription {
    /// Whether somebody with this name may ask, according to the query's file.
    pub fn is_for(&self, principal: &str) -> bool {
        self.who.is_empty() || self.who.iter().any(|pattern| matches(pattern, principal))
    }

    fn takes(&self, parameter: &str) -> bool {
        self.parameters.iter().any(|each| each.name == parameter)
    }
}

/// The queries that a key grants: `<context>.<query>`, where `*` stands for any characters of a part. A suffix such as `?store=2506` fixes
/// the parameter `store`: the holder of the key asks with this value and no other, and can only ask queries that have the parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ConfiguredQueryPattern {
    context: String,
    name: String,
    fixed: BTreeMap<String, String>,
}

impl ConfiguredQueryPattern {
    /// Whether it covers a query, whatever the parameters.
    pub fn names(&self, context: &str, name: &str) -> bool {
        matches(&self.context, context) && matches(&self.name, name)
    }

    /// A query without this parameter could not be limited by it, so it is not granted.
    fn is_about(&self, query: &QueryDescription) -> bool {
        self.names(&query.context, &query.name) && self.fixed.keys().all(|parameter| query.takes(parameter))
    }
}

impl TryFrom<String> for ConfiguredQueryPattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        let error = || PatternError::ConfiguredQuery { text: text.clone() };
        let (named, fixing) =
            text.split_once('?').map_or((&*text, None), |(named, rest)| (named, Some(rest)));
        let (context, name) = named.split_once('.').ok_or_else(error)?;
        let is_name = |part: &str, more: &[u8]| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || more.contains(&byte))
        };
        if !is_name(context, b"-*") || !is_name(name, b"-*") {
            return Err(error());
        }
        let mut fixed = BTreeMap::new();
        for pair in fixing.into_iter().flat_map(|fixing| fixing.split('&')) {
            let (parameter, value) = pair.split_once('=').ok_or_else(error)?;
            // A `*` would be taken for a pattern.
            let is_plain = |value: &str| {
                !value.is_empty() && !value.contains(['*', '=', '?']) && !value.contains(char::is_control)
            };
            if !is_name(parameter, b"_")
                || !is_plain(value)
                || fixed.insert(parameter.to_owned(), value.to_owned()).is_some()
            {
                return Err(error());
            }
        }
        Ok(Self { context: context.to_owned(), name: name.to_owned(), fixed })
    }
}

impl From<ConfiguredQueryPattern> for String {
    fn from(pattern: ConfiguredQueryPattern) -> Self {
        let fixed = pattern.fixed.iter().map(|(parameter, value)| format!("{parameter}={value}"));
        let fixed = fixed.collect::<Vec<_>>().join("&");
        let separator = if fixed.is_empty() { "" } else { "?" };
        format!("{}.{}{separator}{fixed}", pattern.context, pattern.name)
    }
}

/// Why a query may not be asked with these arguments.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentsRefused {
    /// No pattern grants the query.
    #[error("this query is not granted")]
    Query,
    /// It is granted with other values.
    #[error("{parameter} is granted as {granted} alone")]
    Value {
        /// The parameter.
        parameter: String,
        /// The values that are granted, with commas in between.
        granted: String,
    },
    /// It is granted with several values, and the caller chose none of them.
    #[error("{parameter} is granted as {granted}; say which of them")]
    Which {
        /// The parameter.
        parameter: String,
        /// The values that are granted, with commas in between.
        granted: String,
    },
}

/// The arguments with which a query is run for a caller who has `patterns` and gives `given`: the given ones and those that the patterns
/// fix.
///
/// # Errors
/// [`ArgumentsRefused`].
pub fn granted_arguments(
    patterns: &[ConfiguredQueryPattern],
    query: &QueryDescription,
    given: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, ArgumentsRefused> {
    let about: Vec<_> = patterns.iter().filter(|pattern| pattern.is_about(query)).collect();
    if about.is_empty() {
        return Err(ArgumentsRefused::Query);
    }
    let agreeing = about.iter().filter(|pattern| {
        pattern.fixed.iter().all(|(parameter, value)| given.get(parameter).is_none_or(|given| given == value))
    });
    let all: BTreeSet<BTreeMap<String, String>> = agreeing
        .map(|pattern| {
            given.iter().chain(&pattern.fixed).map(|(name, value)| (name.clone(), value.clone())).collect()
        })
        .collect();
    let granted = |parameter: &str| {
        let values: BTreeSet<&str> =
            about.iter().filter_map(|each| each.fixed.get(parameter)).map(String::as_str).collect();
        values.into_iter().collect::<Vec<_>>().join(", ")
    };
    // A pattern that needs no further argument decides.
    if all.contains(&given) {
        return Ok(given);
    }
    let mut several = all.into_iter();
    match (several.next(), several.next()) {
        (Some(only), None) => Ok(only),
        (Some(one), Some(_)) => {
            let open =
                one.keys().find(|parameter| !given.contains_key(*parameter)).cloned().unwrap_or_default();
            Err(ArgumentsRefused::Which { granted: granted(&open), parameter: open })
        }
        (None, _) => {
            let differs = |(parameter, value): &(&String, &String)| {
                given.get(*parameter).is_some_and(|given| given != *value)
            };
            let other = about.iter().flat_map(|pattern| &pattern.fixed).find(differs);
            let parameter = other.map(|(parameter, _)| parameter.clone()).unwrap_or_default();
            Err(ArgumentsRefused::Value { granted: granted(&parameter), parameter })
        }
    }
}

/// The values from which a caller may choose if only certain values of a parameter are granted.
pub fn granted_values(
    patterns: &[ConfiguredQueryPattern],
    query: &QueryDescription,
) -> BTreeMap<String, BTreeSet<String>> {
    let about: Vec<_> = patterns.iter().filter(|pattern| pattern.is_about(query)).collect();
    let fixed = query.parameters.iter().filter_map(|parameter| {
        let values: Option<BTreeSet<String>> =
            about.iter().map(|pattern| pattern.fixed.get(&parameter.name).cloned()).collect();
        values.filter(|values| !values.is_empty()).map(|values| (parameter.name.clone(), values))
    });
    fixed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<ConfiguredQueryPattern> {
        texts.iter().map(|text| ConfiguredQueryPattern::try_from((*text).to_owned()).unwrap()).collect()
    }

    fn query(parameters: &[&str]) -> QueryDescription {
        let parameter = |name: &&str| ParameterDescription {
            name: (*name).to_owned(),
            kind: "text".to_owned(),
            required: false,
            default: Value::Null,
            description: String::new(),
        };
        QueryDescription {
            context: "retail".to_owned(),
            name: "top-sellers".to_owned(),
            title: String::new(),
            description: String::new(),
            parameters: parameters.iter().map(parameter).collect(),
            money: BTreeMap::new(),
            who: Vec::new(),
            rows: 1,
            time_ms: 1,
        }
    }

    fn given(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn asked(
        texts: &[&str],
        parameters: &[&str],
        pairs: &[(&str, &str)],
    ) -> Result<BTreeMap<String, String>, ArgumentsRefused> {
        granted_arguments(&patterns(texts), &query(parameters), given(pairs))
    }

    #[test]
    fn a_pattern_names_queries_and_fixes_parameters() {
        let [pattern] = &patterns(&["retail.*?store=2506&lane=a b"])[..] else { panic!("one") };
        assert!(pattern.names("retail", "top-sellers") && !pattern.names("orders", "top-sellers"));
        assert_eq!(String::from(pattern.clone()), "retail.*?lane=a b&store=2506");
        for text in [
            "",
            "retail",
            "retail.",
            ".x",
            "Retail.x",
            "retail.x?",
            "retail.x?store",
            "retail.x?store=",
            "retail.x?store=*",
            "retail.x?Store=1",
            "retail.x?a=1&a=2",
            "retail.x.y",
            "retail.x?a=1&",
            "retail.x?a=1=2",
            "retail.x?a=\n",
        ] {
            assert!(ConfiguredQueryPattern::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_fixed_parameter_is_filled_in_and_no_other_value_is_taken() {
        let store = &["retail.*?store=2506"];
        assert_eq!(
            asked(store, &["store", "on"], &[("on", "x")]),
            Ok(given(&[("on", "x"), ("store", "2506")]))
        );
        assert_eq!(asked(store, &["store"], &[("store", "2506")]), Ok(given(&[("store", "2506")])));
        let other = asked(store, &["store"], &[("store", "7")]).unwrap_err();
        assert_eq!(other.to_string(), "store is granted as 2506 alone");
        assert_eq!(asked(store, &["on"], &[]), Err(ArgumentsRefused::Query), "it would tell of all stores");
        assert_eq!(asked(&["orders.*"], &["on"], &[]), Err(ArgumentsRefused::Query));
    }

    #[test]
    fn of_several_values_one_is_named() {
        let two = &["retail.*?store=7", "retail.top-*?store=2506"];
        let which = asked(two, &["store"], &[]).unwrap_err();
        assert_eq!(which.to_string(), "store is granted as 2506, 7; say which of them");
        assert_eq!(asked(two, &["store"], &[("store", "7")]), Ok(given(&[("store", "7")])));
        assert!(matches!(asked(two, &["store"], &[("store", "8")]), Err(ArgumentsRefused::Value { .. })));
        let all = &["retail.*?store=7", "retail.*"];
        assert_eq!(asked(all, &["store"], &[]), Ok(given(&[])), "one pattern grants all of it");
        assert_eq!(asked(all, &["store"], &[("store", "8")]), Ok(given(&[("store", "8")])));
        let values = |texts: &[&str]| granted_values(&patterns(texts), &query(&["store"]));
        assert_eq!(values(two)["store"].len(), 2);
        assert!(values(all).is_empty() && values(&[]).is_empty());
    }

    #[test]
    fn a_file_says_who_may_ask() {
        let of = |who: &[&str]| QueryDescription {
            who: who.iter().map(|who| (*who).to_owned()).collect(),
            ..query(&[])
        };
        assert!(of(&[]).is_for("anybody"));
        assert!(of(&["office", "*@login"]).is_for("alice@login"));
        assert!(!of(&["office", "*@login"]).is_for("till-2506"));
    }
}
