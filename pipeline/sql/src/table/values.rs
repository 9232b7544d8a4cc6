//! The value of a column, as both databases accept it.

use jiff::{Timestamp, civil::Date};
use serde_json::Value as Json;

use super::Kind;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A whole number.
    Integer(i64),
    /// A number.
    Real(f64),
    /// True or false.
    Boolean(bool),
    /// A text. It can also be a date such as `2012-01-31`, a time such as `2012-01-31T12:00:00.000000Z`, or JSON.
    Text(String),
}

/// Why a row does not fit its table. The view's shape then differs from what its projection writes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// It is not a JSON object.
    #[error("the row {key:?} of {table} is no JSON record")]
    NoRecord {
        /// The table.
        table: String,
        /// The key.
        key: String,
    },
    /// Its key does not fit the pattern.
    #[error("the key {key:?} of {table} is not put together as the view's shape says")]
    Key {
        /// The table.
        table: String,
        /// The key.
        key: String,
    },
    /// It has a field that is not in the shape.
    #[error("the row {key:?} of {table} has a field {field:?}, of which the view's shape says nothing")]
    Unknown {
        /// The table.
        table: String,
        /// The key.
        key: String,
        /// The field.
        field: String,
    },
    /// A field of the shape is missing or holds something else.
    #[error("the row {key:?} of {table} does not have what the view's shape says of {column}: {found}")]
    Other {
        /// The table.
        table: String,
        /// The key.
        key: String,
        /// The column.
        column: String,
        /// The value.
        found: String,
    },
}

/// A JSON value as a value of a column of this type; `None` if it is something else.
pub(super) fn value_of(kind: Kind, value: Json) -> Option<Value> {
    Some(match (kind, value) {
        (_, Json::Null) => Value::Null,
        (Kind::Text, Json::String(text)) => Value::Text(text),
        (Kind::Date, Json::String(text)) => Value::Text(date(text)?),
        (Kind::Time, Json::String(text)) => Value::Text(moment(&text)?),
        (Kind::Integer, Json::Number(number)) => Value::Integer(number.as_i64()?),
        (Kind::Real, Json::Number(number)) => Value::Real(number.as_f64()?),
        (Kind::Boolean, Json::Bool(truth)) => Value::Boolean(truth),
        (Kind::Json, value) => Value::Text(value.to_string()),
        _ => return None,
    })
}

/// A date as both databases write it; `None` for anything else, which PostgreSQL would refuse or, like `today`, interpret.
fn date(text: String) -> Option<String> {
    let date: Date = text.parse().ok()?;
    (date.to_string() == text).then_some(text)
}

/// A time with six decimal places of its seconds, which is the precision of PostgreSQL. All have the same length, so that SQLite, which stores
/// texts, sorts them by time.
pub(crate) fn moment(text: &str) -> Option<String> {
    let time: Timestamp = text.parse().ok()?;
    Some(format!("{time:.6}"))
}

/// A part of a key as a value of a column of this type. Numbers in keys are padded with zeros.
pub(super) fn part_of(kind: Kind, part: &str) -> Option<Value> {
    match kind {
        Kind::Integer => part.parse().ok().map(Value::Integer),
        Kind::Text | Kind::Time => Some(Value::Text(part.to_owned())),
        Kind::Date => date(part.to_owned()).map(Value::Text),
        Kind::Real | Kind::Boolean | Kind::Json => None,
    }
}
