//! Compares the body that a map makes with the type of its command: what would be refused for every row is known before the first one.
//!
//! Deliberately absent: what depends on a row, and types that no JSON Schema can tell. The import asks the type itself for each row.

use serde_json::Value;

use super::{
    node::{At, Node, Placed},
    template::LEAVES,
};

/// A body that no command of this kind has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("there is no field {field}; there are {known}")]
    Field { field: String, known: String },
    #[error("the field {field} is missing, which the command needs")]
    Missing { field: String },
    #[error("{field} is {wanted}, and the map gives {found}; write {write}")]
    Kind { field: String, wanted: &'static str, found: &'static str, write: &'static str },
    #[error("{field} is one of {known}; the map gives {found:?}")]
    Choice { field: String, known: String, found: String },
}

/// What stands for a kind of value in a schema, what people call it, and how a map writes it.
const KINDS: [(&str, &str, &str); 5] = [
    ("string", "a text", "\"{column}\""),
    ("integer", "a whole number", "{ integer = \"{column}\" } or { decimal = \"{column}\", places = 2 }"),
    ("boolean", "true or false", "true or false"),
    ("array", "a list", "[ … ]"),
    ("object", "a table of fields", "{ field = \"{column}\" }"),
];

/// Compares a value of a map with the schema of what it becomes.
///
/// # Errors
/// The first mistake, where it stands.
pub(super) fn check(value: &Placed, schema: &Value) -> Result<(), At<BodyError>> {
    check_at(value, schema, "the body")
}

fn check_at(value: &Placed, schema: &Value, path: &str) -> Result<(), At<BodyError>> {
    let gives = kind_of(value.get_ref());
    check_kind(value, schema, path, gives)?;
    if let Some(inner) = value.get_ref().get("optional") {
        return check_at(inner, schema, path);
    }
    if let Some(Node::List(choices)) = value.get_ref().get("first").map(|first| first.get_ref()) {
        return choices.iter().try_for_each(|choice| check_at(choice, schema, path));
    }
    if let Some(inner) = value.get_ref().get("each") {
        return schema.get("items").map_or(Ok(()), |of_item| check_at(inner, of_item, path));
    }
    match value.get_ref() {
        Node::Table(fields) if gives == "object" => check_record(value, fields, schema, path),
        Node::List(items) => match schema.get("items") {
            Some(of_item) => items.iter().try_for_each(|item| check_at(item, of_item, path)),
            None => Ok(()),
        },
        Node::Text(text) if !text.contains('{') => check_choice(value, text, schema, path),
        _ => Ok(()),
    }
}

/// The kind of value that a node becomes.
fn kind_of(node: &Node) -> &'static str {
    match node {
        Node::Text(_) | Node::Other(_) => "string",
        Node::Integer(_) => "integer",
        Node::Boolean(_) => "boolean",
        Node::List(_) => "array",
        Node::Table(_) => match LEAVES.into_iter().find_map(|leaf| Some((leaf, node.get(leaf)?.get_ref()))) {
            Some(("optional", inner)) => kind_of(inner),
            Some(("first", Node::List(items))) => {
                items.first().map_or("string", |item| kind_of(item.get_ref()))
            }
            Some(("each", _)) => "array",
            Some(_) => "integer",
            None => "object",
        },
    }
}

fn check_kind(value: &Placed, schema: &Value, path: &str, gives: &str) -> Result<(), At<BodyError>> {
    let takes: Vec<&str> = match schema.get("type") {
        Some(Value::String(kind)) => vec![kind],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => return Ok(()),
    };
    if takes.contains(&gives) || (gives == "integer" && takes.contains(&"number")) {
        return Ok(());
    }
    let named = |kind: &str| KINDS.into_iter().find(|(name, ..)| *name == kind);
    let (Some((_, found, _)), Some((_, wanted, write))) =
        (named(gives), takes.iter().find_map(|kind| named(kind)))
    else {
        return Ok(());
    };
    Err(At::new(value, BodyError::Kind { field: path.to_owned(), wanted, found, write }))
}

fn check_record(
    record: &Placed,
    fields: &[(toml::Spanned<String>, Placed)],
    schema: &Value,
    path: &str,
) -> Result<(), At<BodyError>> {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return Ok(()) };
    let is_closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
    for (name, value) in fields {
        match properties.get(name.get_ref()) {
            Some(of_field) => check_at(value, of_field, name.get_ref())?,
            None if is_closed => {
                let known = properties.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                let known = if known.is_empty() { "none".to_owned() } else { known };
                return Err(At::new(name, BodyError::Field { field: name.get_ref().clone(), known }));
            }
            None => {}
        }
    }
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    let missing = required.filter_map(Value::as_str).find(|name| record.get_ref().get(name).is_none());
    match missing {
        Some(name) => {
            let field = if path == "the body" { name.to_owned() } else { format!("{name} of {path}") };
            Err(At::new(record, BodyError::Missing { field }))
        }
        None => Ok(()),
    }
}

/// A text that no row changes is one of those that the type knows, if it knows some.
fn check_choice(value: &Placed, text: &str, schema: &Value, path: &str) -> Result<(), At<BodyError>> {
    let Some(known) = schema.get("enum").and_then(Value::as_array) else { return Ok(()) };
    if known.iter().any(|choice| choice.as_str() == Some(text)) {
        return Ok(());
    }
    let known = known.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
    Err(At::new(value, BodyError::Choice { field: path.to_owned(), known, found: text.to_owned() }))
}
