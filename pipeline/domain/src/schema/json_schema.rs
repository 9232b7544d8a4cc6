//! A JSON Schema of a body, derived from its type alone. It makes up a body and tries variants that differ in one place (an extra field, a
//! null, a larger number, an empty text); the type accepts or refuses each of them.
//!
//! The schema states what the type refuses, but not everything: a type may refuse something that no schema can express, such as an unknown
//! currency. Deliberately absent: limits of types that accept a number and refuse one nearer to the middle, and what a made-up body does
//! not contain (the fields of a variant that is not the first of its enum). In these cases the schema says less.

use std::{marker::PhantomData, panic::AssertUnwindSafe};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{Field, Shape, sample_of, shape::shape_of};
use crate::by_name::ByName;

/// A field that no type has.
const NO_FIELD: &str = "no-such-field";
/// Longer than the limit of any text type.
const TEXT_LENGTH_MAX: usize = 1 << 16;
/// Made-up texts, each with the format of a type that accepts it but not every text.
const FORMATS: [(&str, &str); 3] = [
    ("2012-01-31", "date"),
    ("2012-01-31T12:00:00Z", "date-time"),
    ("00000000-0000-0000-0000-000000000001", "uuid"),
];

/// Examples for fields that accept any text, chosen by the end of the field's name. They are more helpful than the name itself.
const BY_NAME: [(&str, &str); 4] =
    [("currency", "USD"), ("_at", "2012-01-31T12:00:00Z"), ("_on", "2012-01-31"), ("date", "2012-01-31")];

/// The JSON Schema (2020-12) of bodies of `T`, with an example; none when no body could be made up.
pub fn json_schema_of<T: DeserializeOwned>() -> Option<Value> {
    let sample = sample_of::<T>()?;
    let shape = shape_of::<T>(&sample);
    let asked = Asked { sample: &sample, shape: &shape, of: PhantomData::<T> };
    let is_map = shape.fields.contains_key("*");
    let mut schema = match &sample {
        Value::Object(_) if !is_map => asked.record(""),
        Value::Object(_) => json!({ "type": "object" }),
        _ => json!({}),
    };
    if let Some(fields) = schema.as_object_mut() {
        fields.insert("examples".to_owned(), json!([asked.example()]));
    }
    Some(schema)
}

/// The fields of a record's JSON Schema in order: name, schema, and whether it is required. Empty if the schema is not a record's.
pub fn fields_of_record(schema: &Value) -> Vec<(&str, &Value, bool)> {
    let required = schema.get("required").and_then(Value::as_array);
    let is_required = |name: &str| required.is_some_and(|required| required.iter().any(|it| it == name));
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    properties.map(|(name, field)| (name.as_str(), field, is_required(name))).collect()
}

/// A type and a made-up body, with which the type is tested.
struct Asked<'a, T> {
    sample: &'a Value,
    shape: &'a Shape,
    of: PhantomData<T>,
}

impl<T: DeserializeOwned> Asked<'_, T> {
    /// Whether the type accepts the made-up body after `change` was made at a path.
    fn takes_changed(&self, path: &str, change: &dyn Fn(&mut Value)) -> bool {
        let mut body = self.sample.clone();
        // A panic of the type counts as a refusal. It must not end a program that only describes the type.
        at(&mut body, path, change)
            && std::panic::catch_unwind(AssertUnwindSafe(|| T::deserialize(ByName(body)).is_ok()))
                .unwrap_or(false)
    }

    /// The made-up body, with texts that suit the names of their fields.
    fn example(&self) -> Value {
        let mut example = self.sample.clone();
        for path in self.shape.fields.keys() {
            let name = path.rsplit('.').next().unwrap_or_default();
            let given = found(&example, path).and_then(Value::as_str);
            let text = BY_NAME.iter().find(|(end, _)| name.ends_with(end) && given == Some(name));
            if let Some((_, text)) = text.filter(|(_, text)| self.takes_text(path, text)) {
                at(&mut example, path, &|place| *place = json!(text));
            }
        }
        example
    }

    fn takes(&self, path: &str, value: &Value) -> bool {
        self.takes_changed(path, &|place| place.clone_from(value))
    }

    fn takes_text(&self, path: &str, text: &str) -> bool {
        self.takes(path, &json!(text))
    }

    /// The schema of the value at a path.
    fn field(&self, path: &str) -> Value {
        let Some(Field::Is { kind, .. }) = self.shape.fields.get(path) else { return json!({}) };
        let mut schema = match kind.as_str() {
            "bool" => json!({ "type": "boolean" }),
            "f32" | "f64" => json!({ "type": "number" }),
            "char" => json!({ "type": "string", "minLength": 1, "maxLength": 1 }),
            "text" => self.text(path),
            "list" => self.list(path),
            "record" => self.record(path),
            "map" => self.map(path),
            "nothing" => json!({ "type": "null" }),
            kind => match (kind.strip_prefix("one of "), range_of(kind)) {
                (Some(names), _) => self.variants(path, names),
                (None, Some(range)) => self.integer(path, range),
                (None, None) => json!({}),
            },
        };
        if let Some(fields) = schema.as_object_mut()
            && !fields.is_empty()
            && kind != "nothing"
            && self.takes(path, &Value::Null)
        {
            or_null(fields);
        }
        schema
    }

    /// The schema of the record at a path, which is empty for the body itself.
    fn record(&self, path: &str) -> Value {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
        let (mut properties, mut required) = (Map::new(), Vec::new());
        for (field, is) in &self.shape.fields {
            let Some(name) = field.strip_prefix(&prefix).filter(|name| !name.contains(['.', '['])) else {
                continue;
            };
            if let Field::Is { optional, .. } = is {
                properties.insert(name.to_owned(), self.field(field));
                if !optional {
                    required.push(name);
                }
            }
        }
        let mut schema = json!({ "type": "object", "properties": properties });
        let more = self.takes_changed(path, &|record| {
            if let Value::Object(fields) = record {
                fields.insert(NO_FIELD.to_owned(), Value::Null);
            }
        });
        if let Some(fields) = schema.as_object_mut() {
            if !required.is_empty() {
                fields.insert("required".to_owned(), json!(required));
            }
            if !more {
                fields.insert("additionalProperties".to_owned(), json!(false));
            }
        }
        schema
    }

    fn map(&self, path: &str) -> Value {
        let values = self.field(&format!("{path}.*"));
        // A record that serde buffers first looks like a map whose fields have different types.
        let is_map = self.takes(path, &json!({})) && !self.takes(path, &json!({ NO_FIELD: [[[true]]] }));
        if is_map {
            json!({ "type": "object", "additionalProperties": values })
        } else {
            json!({ "type": "object" })
        }
    }

    fn list(&self, path: &str) -> Value {
        let length = found(self.sample, path).and_then(Value::as_array).map_or(0, Vec::len);
        let twice = self.takes_changed(path, &|list| {
            if let Value::Array(items) = list {
                items.extend_from_within(..);
            }
        });
        let mut schema = json!({ "type": "array" });
        if let Some(fields) = schema.as_object_mut() {
            // The parts of a tuple have types of their own.
            if length == 1 {
                fields.insert("items".to_owned(), self.field(&format!("{path}[]")));
            }
            if !twice {
                fields.insert("maxItems".to_owned(), json!(length));
            }
            if !self.takes(path, &json!([])) {
                fields.insert("minItems".to_owned(), json!(length));
            }
        }
        schema
    }

    fn text(&self, path: &str) -> Value {
        let mut schema = json!({ "type": "string" });
        let Some(fields) = schema.as_object_mut() else { return schema };
        let given = found(self.sample, path).and_then(Value::as_str).unwrap_or_default();
        let of_any_form = self.takes_text(path, "a") && self.takes_text(path, "b9");
        if !of_any_form {
            if let Some((_, format)) = FORMATS.iter().find(|(text, _)| *text == given) {
                fields.insert("format".to_owned(), json!(format));
            }
            fields.insert("examples".to_owned(), json!([given]));
            return schema;
        }
        if !self.takes_text(path, "") {
            fields.insert("minLength".to_owned(), json!(1));
        }
        if !self.takes_text(path, &"a".repeat(TEXT_LENGTH_MAX)) {
            let longest = last_taken(1, TEXT_LENGTH_MAX as i128, |length| {
                self.takes_text(path, &"a".repeat(usize::try_from(length).unwrap_or_default()))
            });
            fields.insert("maxLength".to_owned(), json!(u64::try_from(longest).unwrap_or_default()));
        }
        schema
    }

    fn integer(&self, path: &str, (least, most): (i128, i128)) -> Value {
        let given = found(self.sample, path).and_then(Value::as_i64).map_or(1, i128::from);
        let takes = |number: i128| whole(number).is_some_and(|number| self.takes(path, &number));
        let limit = |end: i128| whole(if takes(end) { end } else { last_taken(given, end, takes) });
        json!({ "type": "integer", "minimum": limit(least), "maximum": limit(most) })
    }

    /// The schema of an enum whose variants are named in a text, separated as the shape does.
    fn variants(&self, path: &str, names: &str) -> Value {
        let (plain, holding): (Vec<&str>, Vec<&str>) =
            names.split(" | ").partition(|name| self.takes_text(path, name));
        if holding.is_empty() {
            return json!({ "type": "string", "enum": plain });
        }
        let of_plain = (!plain.is_empty()).then(|| json!({ "type": "string", "enum": plain }));
        let holding = holding.into_iter().map(|name| {
            let content = self.field(&format!("{path}.{name}"));
            let properties = Map::from_iter([(name.to_owned(), content)]);
            json!({ "type": "object", "properties": properties, "required": [name], "additionalProperties": false })
        });
        json!({ "oneOf": of_plain.into_iter().chain(holding).collect::<Vec<_>>() })
    }
}

/// The last accepted number between one that is accepted and one that is refused.
fn last_taken(taken: i128, refused: i128, takes: impl Fn(i128) -> bool) -> i128 {
    let (mut taken, mut refused) = (taken, refused);
    while (refused - taken).abs() > 1 {
        let between = taken + (refused - taken) / 2;
        if takes(between) { taken = between } else { refused = between }
    }
    taken
}

/// A number as JSON has it.
fn whole(number: i128) -> Option<Value> {
    i64::try_from(number).map(Value::from).or_else(|_| u64::try_from(number).map(Value::from)).ok()
}

/// The range of a type of whole numbers. Types beyond the numbers of this JSON library get its range.
fn range_of(kind: &str) -> Option<(i128, i128)> {
    Some(match kind {
        "i8" => (i8::MIN.into(), i8::MAX.into()),
        "i16" => (i16::MIN.into(), i16::MAX.into()),
        "i32" => (i32::MIN.into(), i32::MAX.into()),
        "i64" => (i64::MIN.into(), i64::MAX.into()),
        "i128" => (i64::MIN.into(), u64::MAX.into()),
        "u8" => (0, u8::MAX.into()),
        "u16" => (0, u16::MAX.into()),
        "u32" => (0, u32::MAX.into()),
        "u64" | "u128" => (0, u64::MAX.into()),
        _ => return None,
    })
}

/// Changes a schema so that it also accepts null.
fn or_null(schema: &mut Map<String, Value>) {
    if let Some(Value::Array(choices)) = schema.get_mut("oneOf") {
        choices.push(json!({ "type": "null" }));
        return;
    }
    if let Some(Value::Array(texts)) = schema.get_mut("enum") {
        texts.push(Value::Null);
    }
    if let Some(kind) = schema.get_mut("type") {
        *kind = json!([kind.take(), "null"]);
    }
}

/// The first step of a path of a [`Shape`], and the rest.
fn step(path: &str) -> (&str, &str) {
    let end = match path.strip_prefix("[]") {
        Some(_) => 2,
        None => path.find(['.', '[']).unwrap_or(path.len()),
    };
    let (step, rest) = path.split_at(end);
    (step, rest.strip_prefix('.').unwrap_or(rest))
}

/// Changes the value at a path, in every element of lists and every value of maps on the way. Returns whether there is such a value.
fn at(value: &mut Value, path: &str, change: &dyn Fn(&mut Value)) -> bool {
    if path.is_empty() {
        change(value);
        return true;
    }
    let (step, rest) = step(path);
    let any = |value: &mut Value| at(value, rest, change);
    match value {
        Value::Array(items) if step == "[]" => items.iter_mut().fold(false, |found, item| any(item) | found),
        Value::Object(fields) => match fields.get_mut(step) {
            Some(field) => any(field),
            None if step == "*" => fields.values_mut().fold(false, |found, field| any(field) | found),
            None => false,
        },
        _ => false,
    }
}

/// The first value at a path.
fn found<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    if path.is_empty() {
        return Some(value);
    }
    let (step, rest) = step(path);
    let next = match value {
        Value::Array(items) if step == "[]" => items.first(),
        Value::Object(fields) => fields.get(step).or_else(|| fields.values().next().filter(|_| step == "*")),
        _ => None,
    };
    found(next?, rest)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, num::NonZeroU32};

    use jiff::{Timestamp, civil::Date};
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(try_from = "String")]
    struct Name;

    impl TryFrom<String> for Name {
        type Error = &'static str;

        fn try_from(text: String) -> Result<Self, Self::Error> {
            if (1..=40).contains(&text.len()) { Ok(Self) } else { Err("1 to 40 characters") }
        }
    }

    #[derive(Debug, Deserialize)]
    #[serde(try_from = "i64")]
    struct Quantity;

    impl TryFrom<i64> for Quantity {
        type Error = &'static str;

        fn try_from(number: i64) -> Result<Self, Self::Error> {
            assert!(number != i64::MIN, "a type may panic");
            if (-5..=1_000_000).contains(&number) { Ok(Self) } else { Err("-5 to a million") }
        }
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct Line {
        sku: Name,
        quantity: Quantity,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Size {
        VeryLarge,
        Small,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only read")]
    enum Held {
        Until(Date),
        Always,
        For { days: u8 },
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct Order {
        lines: Vec<Line>,
        note: Option<String>,
        at: Timestamp,
        size: Size,
        held: Option<Held>,
        count: NonZeroU32,
        large: u64,
        prices: BTreeMap<Date, u32>,
        pair: (bool, f64),
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct Loose {
        name: String,
        #[serde(flatten)]
        more: BTreeMap<String, Value>,
    }

    #[test]
    fn what_a_type_refuses_is_said() {
        let mut schema = json_schema_of::<Order>().unwrap();
        let example = schema["examples"][0].clone();
        assert_eq!(example["at"], "2012-01-31T12:00:00Z");
        assert!(Order::deserialize(example).is_ok());
        schema.as_object_mut().unwrap().remove("examples");
        let date = json!({ "type": "string", "format": "date", "examples": ["2012-01-31"] });
        assert_eq!(
            schema,
            json!({
                "type": "object",
                "additionalProperties": false,
                "required": ["at", "count", "large", "lines", "pair", "prices", "size"],
                "properties": {
                    "lines": { "type": "array", "items": {
                        "type": "object",
                        "additionalProperties": false,
                        "required": ["quantity", "sku"],
                        "properties": {
                            "sku": { "type": "string", "minLength": 1, "maxLength": 40 },
                            "quantity": { "type": "integer", "minimum": -5, "maximum": 1_000_000 },
                        },
                    } },
                    "note": { "type": ["string", "null"] },
                    "at": { "type": "string", "format": "date-time", "examples": ["2012-01-31T12:00:00Z"] },
                    "size": { "type": "string", "enum": ["very-large", "small"] },
                    "held": { "oneOf": [
                        { "type": "string", "enum": ["Always"] },
                        { "type": "object", "properties": { "Until": date }, "required": ["Until"], "additionalProperties": false },
                        { "type": "object", "properties": { "For": {} }, "required": ["For"], "additionalProperties": false },
                        { "type": "null" },
                    ] },
                    "count": { "type": "integer", "minimum": 1, "maximum": u32::MAX },
                    "large": { "type": "integer", "minimum": 0, "maximum": u64::MAX },
                    "prices": { "type": "object", "additionalProperties": {
                        "type": "integer", "minimum": 0, "maximum": u32::MAX,
                    } },
                    "pair": { "type": "array", "minItems": 2, "maxItems": 2 },
                },
            })
        );
    }

    #[test]
    fn examples_fit_the_names_of_their_fields_as_far_as_the_type_takes_them() {
        #[derive(Debug, Deserialize)]
        #[expect(dead_code, reason = "only read")]
        struct Price {
            currency: String,
            valid_on: Option<String>,
            old_currency: Letter,
        }

        #[derive(Debug, Deserialize)]
        #[serde(try_from = "String")]
        struct Letter;

        impl TryFrom<String> for Letter {
            type Error = &'static str;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                if text.starts_with('o') { Ok(Self) } else { Err("it begins with an o") }
            }
        }

        let schema = json_schema_of::<Price>().unwrap();
        let expected = json!({ "currency": "USD", "valid_on": "2012-01-31", "old_currency": "old_currency" });
        assert_eq!(schema["examples"], json!([expected]));
    }

    #[test]
    fn what_cannot_be_told_is_not_said() {
        let map = json_schema_of::<BTreeMap<String, u8>>().unwrap();
        assert_eq!((&map["type"], map.get("properties")), (&json!("object"), None));
        assert!(json_schema_of::<Loose>().is_none(), "no body could be made up");
    }
}
