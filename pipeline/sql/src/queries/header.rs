//! What the file of a query says about it, in comments before the statement:
//!
//! ```sql
//! -- title: Top sellers
//! -- description: The products of which most units were sold.
//! -- parameter: from date = 2012-01-01; the first business date
//! -- parameter: store text = null; one store alone
//! -- money: amount in currency
//! -- who: office, *@login
//! -- cache: 30s
//! -- rows: 100
//! ```

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, civil::Date};
use millstream_contract::{
    configured_query::{ParameterDescription, problem},
    error_text::bounded,
};
use serde_json::Value as Json;

use crate::table::{Value, moment};

/// The most rows in an answer, unless the file says otherwise.
pub(super) const ROWS_DEFAULT: usize = 1_000;
/// The largest number of rows that a file can ask for.
pub(super) const ROWS_MAX: usize = 100_000;
/// The longest time for which answers may be kept.
const CACHE_MAX: Duration = Duration::from_secs(24 * 3600);

/// What a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterKind {
    /// Text.
    Text,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// A date.
    Date,
    /// A moment.
    Time,
    /// True or false.
    Boolean,
}

impl ParameterKind {
    const ALL: [(&'static str, Self); 6] = [
        ("text", Self::Text),
        ("integer", Self::Integer),
        ("number", Self::Number),
        ("date", Self::Date),
        ("time", Self::Time),
        ("boolean", Self::Boolean),
    ];

    /// Its name in files.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("text", |(name, _)| name)
    }

    /// Its name in PostgreSQL.
    pub fn postgres(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "bigint",
            Self::Number => "double precision",
            Self::Date => "date",
            Self::Time => "timestamp with time zone",
            Self::Boolean => "boolean",
        }
    }

    /// The value that a text stands for, in an address or in a file; `None` if it is not of this kind.
    pub fn value(self, text: &str) -> Option<Value> {
        Some(match self {
            Self::Text => Value::Text(text.to_owned()),
            Self::Integer => Value::Integer(text.parse().ok()?),
            Self::Number => Value::Real(text.parse().ok().filter(|number: &f64| number.is_finite())?),
            Self::Date => Value::Text(text.parse::<Date>().ok()?.to_string()),
            // Times before the year 0 have another form, which does not sort.
            Self::Time => Value::Text(moment(text).filter(|time| !time.starts_with('-'))?),
            Self::Boolean => Value::Boolean(text.parse().ok()?),
        })
    }
}

/// A parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: ParameterKind,
    /// Its default; `None` if a value must be given.
    pub default: Option<Value>,
    /// What it means; may be empty.
    pub description: String,
}

/// What a file says about its query.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// What it is called.
    pub title: String,
    /// What its answer shows.
    pub description: String,
    /// Its parameters.
    pub parameters: Vec<Parameter>,
    /// The columns with amounts in minor units, each with the column of the currency.
    pub money: BTreeMap<String, String>,
    /// Patterns of the names of those who may ask over HTTP, or as users of NATS. If empty, everybody to whom the query is granted may.
    pub who: Vec<String>,
    /// How long an answer may be reused.
    pub cache: Duration,
    /// The most rows in an answer.
    pub rows: usize,
}

/// A header cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct HeaderError {
    line: usize,
    problem: String,
}

/// What is wrong with the arguments of a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// A required parameter is missing.
    #[error("{name}: this parameter must be given; it takes {kind}")]
    Missing {
        /// Its name.
        name: String,
        /// Its kind.
        kind: &'static str,
    },
    /// A value is of another kind.
    #[error("{name}: {given} is no {kind}")]
    Kind {
        /// Its name.
        name: String,
        /// What was given.
        given: String,
        /// The kind of the parameter.
        kind: &'static str,
    },
    /// There is no parameter with this name.
    #[error("{name}: there is no such parameter; there are {known}")]
    Unknown {
        /// The name.
        name: String,
        /// The parameters that there are.
        known: String,
    },
}

impl ArgumentError {
    /// # Errors
    /// [`ArgumentError::Unknown`] if a value is given for anything but these parameters.
    pub(super) fn check_names(names: &[&str], given: &BTreeMap<String, Json>) -> Result<(), Self> {
        let Some(name) = given.keys().find(|name| !names.contains(&name.as_str())) else { return Ok(()) };
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        Err(Self::Unknown { name: bounded(name).into_owned(), known })
    }

    /// The code of the error, and the parameter that caused it.
    pub fn told(&self) -> (&'static str, &str) {
        match self {
            Self::Missing { name, .. } => (problem::PARAMETER_MISSING, name),
            Self::Kind { name, .. } => (problem::PARAMETER_MALFORMED, name),
            Self::Unknown { name, .. } => (problem::PARAMETER_UNKNOWN, name),
        }
    }
}

impl Header {
    /// Reads the comments before the statement of a file.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn read(text: &str) -> Result<Self, HeaderError> {
        let mut header = Self {
            title: String::new(),
            description: String::new(),
            parameters: Vec::new(),
            money: BTreeMap::new(),
            who: Vec::new(),
            cache: Duration::ZERO,
            rows: ROWS_DEFAULT,
        };
        let lines = (1..).zip(text.lines().map(str::trim));
        for (line, text) in lines.take_while(|(_, text)| text.is_empty() || text.starts_with("--")) {
            let said = text.trim_start_matches('-').trim();
            if said.is_empty() {
                continue;
            }
            header.line(said).map_err(|problem| HeaderError { line, problem })?;
        }
        if header.title.is_empty() {
            return Err(HeaderError { line: 1, problem: "the file begins with `-- title: …`".to_owned() });
        }
        Ok(header)
    }

    fn line(&mut self, said: &str) -> Result<(), String> {
        let (name, value) = said.split_once(':').ok_or_else(|| format!("{said:?} is not `name: value`"))?;
        let value = value.trim();
        match name.trim() {
            "title" => value.clone_into(&mut self.title),
            "description" if self.description.is_empty() => value.clone_into(&mut self.description),
            "description" => self.description.extend([" ", value]),
            "parameter" => {
                let parameter = parameter(value)?;
                if self.parameters.iter().any(|each| each.name == parameter.name) {
                    return Err(format!("the parameter {} is there twice", parameter.name));
                }
                self.parameters.push(parameter);
            }
            "money" => {
                let words: Vec<&str> = value.split_whitespace().collect();
                let [amount, "in", currency] = words[..] else {
                    return Err("money is `column in column`, as in `amount in currency`".to_owned());
                };
                if self.money.insert(amount.to_owned(), currency.to_owned()).is_some() {
                    return Err(format!("the column {amount} is there twice"));
                }
            }
            "who" => self.who.extend(principals(value)?),
            "cache" => self.cache = duration(value)?,
            "rows" => {
                let rows = value.parse::<usize>().ok().filter(|rows| (1..=ROWS_MAX).contains(rows));
                self.rows = rows.ok_or_else(|| format!("rows is a number from 1 to {ROWS_MAX}"))?;
            }
            other => {
                return Err(format!(
                    "{other:?} is none of title, description, parameter, money, who, cache, rows"
                ));
            }
        }
        Ok(())
    }

    /// The value of each parameter, in order, from the given arguments.
    ///
    /// # Errors
    /// [`ArgumentError`].
    pub fn arguments(&self, given: &BTreeMap<String, Json>) -> Result<Vec<Value>, ArgumentError> {
        let names: Vec<&str> = self.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        ArgumentError::check_names(&names, given)?;
        self.parameters.iter().map(|parameter| parameter.argument(given.get(&parameter.name))).collect()
    }
}

impl Parameter {
    /// The description of the query.
    pub fn description(&self) -> ParameterDescription {
        let default = match self.default.as_ref() {
            None | Some(Value::Null) => Json::Null,
            Some(Value::Integer(number)) => (*number).into(),
            Some(Value::Real(number)) => (*number).into(),
            Some(Value::Boolean(truth)) => (*truth).into(),
            Some(Value::Text(text)) => text.as_str().into(),
        };
        ParameterDescription {
            name: self.name.clone(),
            kind: self.kind.name().to_owned(),
            required: self.default.is_none(),
            default,
            description: self.description.clone(),
        }
    }

    fn argument(&self, given: Option<&Json>) -> Result<Value, ArgumentError> {
        let (name, kind) = (self.name.clone(), self.kind.name());
        let Some(given) = given else {
            return self.default.clone().ok_or(ArgumentError::Missing { name, kind });
        };
        let value = match given {
            Json::Null if self.default == Some(Value::Null) => Some(Value::Null),
            Json::String(text) => self.kind.value(text),
            Json::Number(number) => match self.kind {
                ParameterKind::Integer | ParameterKind::Number => self.kind.value(&number.to_string()),
                _ => None,
            },
            Json::Bool(truth) if self.kind == ParameterKind::Boolean => Some(Value::Boolean(*truth)),
            _ => None,
        };
        value.ok_or_else(|| ArgumentError::Kind { name, given: given.to_string(), kind })
    }
}

/// `from date = 2012-01-01; the first business date`
fn parameter(text: &str) -> Result<Parameter, String> {
    let (declared, description) = text.split_once(';').unwrap_or((text, ""));
    let (typed, default) = match declared.split_once('=') {
        Some((typed, default)) => (typed, Some(default.trim())),
        None => (declared, None),
    };
    let mut words = typed.split_whitespace();
    let (Some(name), Some(kind), None) = (words.next(), words.next(), words.next()) else {
        return Err(
            "a parameter is `name type`, then perhaps `= default`, then perhaps `; what it means`".to_owned()
        );
    };
    let is_name =
        name.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
            && name.starts_with(|first: char| first.is_ascii_lowercase());
    if !is_name {
        return Err(format!("the parameter {name:?} is not called by small letters, digits and _"));
    }
    let found = ParameterKind::ALL.iter().find(|(known, _)| *known == kind);
    let kind = found.map(|(_, kind)| *kind).ok_or_else(|| {
        let known: Vec<&str> = ParameterKind::ALL.iter().map(|(name, _)| *name).collect();
        format!("the parameter {name} is a {kind}, which is none of {}", known.join(", "))
    })?;
    let default = match default {
        None => None,
        Some("null") => Some(Value::Null),
        Some(text) => {
            let value = kind.value(text.trim_matches('\''));
            Some(value.ok_or_else(|| format!("the default of {name}, {text}, is no {}", kind.name()))?)
        }
    };
    Ok(Parameter { name: name.to_owned(), kind, default, description: description.trim().to_owned() })
}

/// `office, *@login`: names of keys, and of the owners of tokens.
fn principals(text: &str) -> Result<Vec<String>, String> {
    let is_pattern = |pattern: &str| {
        !pattern.is_empty()
            && pattern.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.@~*".contains(&byte))
    };
    let patterns: Vec<String> = text.split(',').map(|pattern| pattern.trim().to_owned()).collect();
    match patterns.iter().find(|pattern| !is_pattern(pattern)) {
        Some(wrong) => Err(format!(
            "{wrong:?} is no name of a key or of somebody with a token; * stands for any characters"
        )),
        None => Ok(patterns),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
    parsed
        .filter(|duration| *duration <= CACHE_MAX)
        .ok_or_else(|| "cache is a time of at most a day, as in 30s or 5m".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TEXT: &str = "-- title: Top sellers\n-- description: Most units.\n-- parameter: from date = 2012-01-01; the first\n\
         -- parameter: store text = null\n-- parameter: most integer\n-- cache: 30s\n-- rows: 10\nSELECT 1";

    fn arguments(given: Json) -> Result<Vec<Value>, String> {
        let given = serde_json::from_value(given).unwrap();
        Header::read(TEXT).unwrap().arguments(&given).map_err(|error| error.to_string())
    }

    #[test]
    fn a_header_says_what_the_query_takes() {
        let header = Header::read(TEXT).unwrap();
        assert_eq!((header.title.as_str(), header.rows, header.cache.as_secs()), ("Top sellers", 10, 30));
        assert_eq!(header.parameters[0].description, "the first");
        let text = |text: &str| Value::Text(text.to_owned());
        assert_eq!(
            arguments(json!({ "most": 5 })).unwrap(),
            [text("2012-01-01"), Value::Null, Value::Integer(5)]
        );
        let given = json!({ "most": "7", "from": "2012-02-01", "store": "2506" });
        assert_eq!(arguments(given).unwrap(), [text("2012-02-01"), text("2506"), Value::Integer(7)]);
    }

    #[test]
    fn arguments_that_do_not_fit_are_refused_by_name() {
        for (given, said) in [
            (json!({}), "most: this parameter must be given"),
            (json!({ "most": "many" }), "most: \"many\" is no integer"),
            (json!({ "most": 1, "from": "2012-13-01" }), "from:"),
            (json!({ "most": 1, "from": null }), "from: null is no date"),
            (json!({ "most": 1, "store": 5 }), "store: 5 is no text"),
            (json!({ "most": 1, "shop": "x" }), "there are from, store, most"),
        ] {
            let error = arguments(given).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        let long = arguments(json!({ "most": 1, "x".repeat(60_000): 1 })).unwrap_err();
        assert!(long.len() < 3_000 && long.contains("60000 bytes"), "{} bytes", long.len());
    }

    #[test]
    fn a_time_has_a_form_that_sorts() {
        let time = |text| ParameterKind::Time.value(text);
        let first = Value::Text("0000-01-01T00:00:00.000000Z".to_owned());
        assert_eq!(time("0000-01-01T00:00:00Z"), Some(first));
        assert_eq!(time("0000-01-01T00:00:00+23:59"), None);
    }

    #[test]
    fn headers_that_are_not_understood_name_the_line() {
        for (text, said) in [
            ("SELECT 1", "line 1"),
            ("-- title: A\n-- colour: red", "line 2: \"colour\" is none of"),
            ("-- title: A\n-- parameter: x", "line 2: a parameter is"),
            ("-- title: A\n-- parameter: x money", "which is none of text, integer"),
            ("-- title: A\n-- parameter: x date = soon", "is no date"),
            (
                "-- title: A\n-- parameter: x text\n-- parameter: x text",
                "line 3: the parameter x is there twice",
            ),
            ("-- title: A\n-- rows: 0", "line 2: rows is"),
            ("-- title: A\n-- cache: for ever", "line 2: cache is"),
            ("-- title: A\n-- money: amount", "line 2: money is"),
            ("-- title: A\n-- money: a in b\n-- money: a in c", "line 3: the column a is there twice"),
            ("-- title: A\n-- who: office, a b", "line 2: \"a b\" is no name of a key"),
            ("-- title: A\n-- who:", "line 2: \"\" is no name of a key"),
        ] {
            let error = Header::read(text).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
