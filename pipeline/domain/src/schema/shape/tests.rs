//! What is told of types from one body.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::*;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Colour {
    Red,
    DarkBlue,
    Mixed { red: u8 },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Code(String);

impl TryFrom<String> for Code {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.len() == 3 { Ok(Self(text)) } else { Err("not a code") }
    }
}

impl Clone for Code {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl From<Code> for String {
    fn from(code: Code) -> Self {
        code.0
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    sku: String,
    quantity: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Thing {
    code: Code,
    colour: Colour,
    mixed: Colour,
    lines: Vec<Line>,
    #[serde(default)]
    count: u32,
    #[serde(rename = "from")]
    origin: Option<String>,
    parts: BTreeMap<String, bool>,
    share: f64,
}

fn body() -> Value {
    json!({
        "code": "USD", "colour": "red", "mixed": { "mixed": { "red": 1 } },
        "lines": [{ "sku": "a", "quantity": 1 }, { "sku": "b" }],
        "count": 1, "from": "x", "parts": { "a": true }, "share": 1.5,
    })
}

fn text_of(shape: &Shape) -> Vec<String> {
    shape.fields.iter().map(|(path, field)| format!("{path}: {field}")).collect()
}

#[test]
fn shape_tells_types_options_and_variants() {
    let shape = shape_of::<Thing>(&body());
    assert_eq!(shape.error, None);
    let colours = "one of red | dark-blue | mixed";
    assert_eq!(
        text_of(&shape),
        [
            "code: text".to_owned(),
            format!("colour: {colours}"),
            "count: u32?".into(),
            "from: text?".into(),
            "lines: list".into(),
            "lines[]: record".into(),
            "lines[].quantity: i64?".into(),
            "lines[].sku: text".into(),
            format!("mixed: {colours}"),
            "mixed.mixed: record".into(),
            "mixed.mixed.red: u8".into(),
            "parts: map".into(),
            "parts.*: bool".into(),
            "share: f64".into(),
        ]
    );
}

#[test]
fn field_that_the_type_does_not_have_is_not_read_and_one_that_the_body_lacks_is_absent() {
    let mut body = body();
    body["other"] = json!(1);
    body.as_object_mut().unwrap().remove("from");
    let shape = shape_of::<Thing>(&body);
    assert_eq!((&shape.fields["other"], &shape.fields["from"]), (&Field::Dropped, &Field::Absent));
    assert_eq!(shape.error, None);
    body.as_object_mut().unwrap().remove("code");
    let shape = shape_of::<Thing>(&body);
    assert_eq!(shape.fields["code"], Field::Absent);
    assert!(shape.error.unwrap().contains("missing field `code`"));
}

#[test]
fn body_of_another_type_ends_at_the_field_and_names_it() {
    let mut body = body();
    body["count"] = json!("one");
    let shape = shape_of::<Thing>(&body);
    let error = shape.error.unwrap();
    assert!(error.starts_with("count: ") && error.contains("expected u32"), "{error}");
    assert_eq!(shape.fields["share"], Field::Unseen);
}

#[test]
fn what_a_body_does_not_show_is_unknown() {
    let mut body = body();
    body["lines"] = json!([]);
    body["from"] = json!(null);
    let shape = shape_of::<Thing>(&body);
    assert_eq!(shape.fields["lines[]"].to_string(), UNKNOWN);
    assert_eq!(shape.fields["from"].to_string(), format!("{UNKNOWN}?"));
}
