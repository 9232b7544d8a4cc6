//! The shape of an event: its fields, their types, and which may be absent. It is observed by watching which fields serde asks for while it
//! reads a golden body. So nothing has to be declared twice, and a type that checks its value while it is read (a currency, a date) needs
//! only this one body.
//!
//! What a body does not contain cannot be observed: the elements of an empty list, an optional field that is null, the fields of an enum's
//! other variants. Golden bodies therefore fill everything.

mod trace;

use std::{cell::RefCell, collections::BTreeMap, fmt};

use serde::de::DeserializeOwned;
use serde_json::Value;

use self::trace::Trace;

/// What is known of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// Its type, and whether a body without it is read as well.
    Is {
        /// In words: `text`, `i64`, `list`, `one of a | b`.
        kind: String,
        /// Whether it may be absent.
        optional: bool,
    },
    /// The body has it, but reading ended before it was reached.
    Unseen,
    /// The event has it, but the body does not.
    Absent,
    /// The body has it, but the event does not.
    Dropped,
}

impl fmt::Display for Field {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is { kind, optional } => write!(formatter, "{kind}{}", if *optional { "?" } else { "" }),
            Self::Unseen => formatter.write_str("not known"),
            Self::Absent => formatter.write_str("absent"),
            Self::Dropped => formatter.write_str("not read"),
        }
    }
}

/// The fields of an event by their paths (`lines[].sku`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Every field that the event or the body has.
    pub fields: BTreeMap<String, Field>,
    /// Why the body cannot be read as the event; `fields` then ends at that point.
    pub error: Option<String>,
}

/// Stands for the type of something that the body does not contain.
pub(super) const UNKNOWN: &str = "unknown";

/// The shape of `T`, observed with a body.
pub fn shape_of<T: DeserializeOwned>(body: &Value) -> Shape {
    let fields = RefCell::new(BTreeMap::new());
    let error = T::deserialize(Trace::root(body, &fields)).err().map(|error| error.to_string());
    let mut fields: BTreeMap<String, Field> = fields.into_inner();
    for (path, field) in &mut fields {
        if let Field::Is { optional, .. } = field {
            *optional = error.is_none() && may_be_absent::<T>(body, path);
        }
    }
    Shape { fields, error }
}

fn may_be_absent<T: DeserializeOwned>(body: &Value, path: &str) -> bool {
    let mut without = body.clone();
    remove(&mut without, path) && T::deserialize(without).is_ok()
}

/// Removes a field, in every element of lists on the way. Returns whether `path` leads to a field.
fn remove(value: &mut Value, path: &str) -> bool {
    if let Some(rest) = path.strip_prefix("[]") {
        let rest = rest.strip_prefix('.').unwrap_or(rest);
        let Value::Array(items) = value else { return false };
        return items.iter_mut().map(|item| remove(item, rest)).fold(false, |any, one| any | one);
    }
    let Value::Object(fields) = value else { return false };
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (name, rest) = path.split_at(end);
    if rest.is_empty() {
        return fields.remove(name).is_some();
    }
    let rest = rest.strip_prefix('.').unwrap_or(rest);
    fields.get_mut(name).is_some_and(|field| remove(field, rest))
}

#[cfg(test)]
mod tests;
