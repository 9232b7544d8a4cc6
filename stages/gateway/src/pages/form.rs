//! A form for a command of any application, made from the schema of its body; and the body, made from what was entered.
//!
//! A record in a body is a group of fields, and a list of records has a group for each, with a button to add one more. A value for which there
//! is no control is entered as JSON. Empty fields are not sent. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use millstream_domain::schema::fields_of_record;
use serde_json::{Map, Value};

use super::value_text::{escape, label};

/// The most groups of a list that a form shows; programs can send longer lists.
const GROUPS_MAX: usize = 100;

/// A field of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    name: String,
    required: bool,
    control: Control,
    says: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Control {
    Text(&'static str),
    Number,
    Check,
    Choice(Vec<String>),
    /// Several texts or numbers, one on each line.
    Lines(bool),
    Group(Vec<Field>),
    Groups(Vec<Field>),
    Json,
}

/// The values of a form, by the paths of fields, and its errors.
#[derive(Debug, Clone, Default)]
pub(super) struct Filled {
    pub(super) values: BTreeMap<String, String>,
    pub(super) errors: BTreeMap<String, String>,
    /// A list that gets one more group.
    pub(super) add: String,
}

/// The fields of a body with this schema, in the order of their type's fields if the schema keeps it.
pub(super) fn fields(schema: &Value) -> Vec<Field> {
    let field = |(name, schema, required): (&str, &Value, bool)| {
        let control = control(schema);
        Field { name: name.to_owned(), required, says: says(schema, &control), control }
    };
    let mut fields: Vec<Field> = fields_of_record(schema).into_iter().map(field).collect();
    // Required fields come first, and large ones last.
    fields
        .sort_by_key(|field| (matches!(field.control, Control::Groups(_) | Control::Json), !field.required));
    fields
}

/// The meaning of a schema, without its null.
fn without_null(schema: &Value) -> &Value {
    let any = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array);
    let mut others =
        any.into_iter().flatten().filter(|each| each.get("type").is_none_or(|kind| kind != "null"));
    match (others.next(), others.next()) {
        (Some(one), None) => one,
        _ => schema,
    }
}

fn kind(schema: &Value) -> &str {
    match schema.get("type") {
        Some(Value::Array(kinds)) => {
            kinds.iter().filter_map(Value::as_str).find(|kind| *kind != "null").unwrap_or("")
        }
        kind => kind.and_then(Value::as_str).unwrap_or(""),
    }
}

fn control(schema: &Value) -> Control {
    let schema = without_null(schema);
    if let Some(choices) = schema.get("enum").and_then(Value::as_array) {
        let texts: Vec<String> = choices.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let only_texts = texts.len() == choices.iter().filter(|choice| !choice.is_null()).count();
        return if only_texts { Control::Choice(texts) } else { Control::Json };
    }
    match kind(schema) {
        "string" if schema.get("format").is_some_and(|format| format == "date") => Control::Text("date"),
        "string" => Control::Text("text"),
        "integer" => Control::Number,
        "boolean" => Control::Check,
        "object" if schema.get("properties").is_some() => Control::Group(fields(schema)),
        "array" => {
            let items = without_null(schema.get("items").unwrap_or(&Value::Null));
            match kind(items) {
                "object" if items.get("properties").is_some() => Control::Groups(fields(items)),
                "string" if items.get("enum").is_none() => Control::Lines(false),
                "integer" => Control::Lines(true),
                _ => Control::Json,
            }
        }
        _ => Control::Json,
    }
}

/// Hints for entering a value.
fn says(schema: &Value, control: &Control) -> String {
    let schema = without_null(schema);
    let number = |name: &str| {
        schema.get(name).filter(|limit| limit.as_i64().is_some_and(|limit| limit.unsigned_abs() < 1 << 53))
    };
    let example = schema.pointer("/examples/0").and_then(Value::as_str);
    match (control, number("minimum"), number("maximum"), number("maxLength"), example) {
        (Control::Number, Some(least), Some(most), ..) => format!("A whole number from {least} to {most}"),
        (Control::Number, Some(least), ..) => format!("A whole number, at least {least}"),
        (Control::Number, ..) => "A whole number".to_owned(),
        (Control::Text("text"), _, _, _, Some(example)) => format!("Such as {example}"),
        (Control::Text(_), _, _, Some(most), _) => format!("At most {most} characters"),
        (Control::Lines(_), ..) => "One a line".to_owned(),
        (Control::Json, ..) => "As JSON".to_owned(),
        _ => String::new(),
    }
}

/// The names of all fields, including those of groups.
pub(super) fn paths(fields: &[Field]) -> BTreeSet<String> {
    fn add(fields: &[Field], prefix: &str, found: &mut BTreeSet<String>) {
        for field in fields {
            let path = format!("{prefix}{}", field.name);
            match &field.control {
                Control::Group(inner) => add(inner, &format!("{path}."), found),
                Control::Groups(inner) => add(inner, &format!("{path}.0."), found),
                _ => {}
            }
            found.insert(path);
        }
    }
    let mut found = BTreeSet::new();
    add(fields, "", &mut found);
    found
}

/// The controls of fields. `form` distinguishes several forms on one page.
pub(super) fn html(fields: &[Field], form: &str, filled: &Filled) -> String {
    let mut writer = Writer { form, filled, out: String::new() };
    writer.fields(fields, "", true);
    writer.out
}

struct Writer<'a> {
    form: &'a str,
    filled: &'a Filled,
    out: String,
}

impl Writer<'_> {
    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.out.write_fmt(text).expect("a text can be written to");
    }

    fn fields(&mut self, fields: &[Field], prefix: &str, is_needed: bool) {
        for field in fields {
            self.field(field, &format!("{prefix}{}", field.name), is_needed && field.required);
        }
    }

    fn field(&mut self, field: &Field, path: &str, is_needed: bool) {
        let (name, title) = (escape(path), escape(&label(&field.name)));
        let id = escape(&format!("{}-{path}", self.form));
        let optional = if field.required { "" } else { " <span class=\"optional\">optional</span>" };
        match &field.control {
            Control::Group(inner) => {
                self.put(format_args!("<fieldset class=\"group\"><legend>{title}{optional}</legend>"));
                self.error(path, &id);
                self.fields(inner, &format!("{path}."), is_needed);
                self.put(format_args!("</fieldset>"));
                return;
            }
            Control::Groups(inner) => {
                return self.groups(inner, path, &id, &format!("{title}{optional}"), is_needed);
            }
            _ => {}
        }
        let value = self.filled.values.get(path).map_or("", String::as_str);
        let is_wrong = self.filled.errors.contains_key(path);
        let wrong = if is_wrong { " wrong" } else { "" };
        let hint = (!field.says.is_empty()).then(|| format!("{id}-says"));
        let error = is_wrong.then(|| format!("{id}-error"));
        let described: Vec<String> = error.into_iter().chain(hint.clone()).collect();
        let mut more = String::new();
        if !described.is_empty() {
            more.push_str(&format!(" aria-describedby=\"{}\"", described.join(" ")));
        }
        if is_wrong {
            more.push_str(" aria-invalid=\"true\"");
        }
        if is_needed {
            more.push_str(" required");
        }
        let value = escape(value);
        if field.control == Control::Check {
            let checked = if value.is_empty() { "" } else { " checked" };
            self.put(format_args!("<div class=\"field check{wrong}\"><input type=\"checkbox\" id=\"{id}\" name=\"{name}\" value=\"true\"{checked}{more}><label for=\"{id}\">{title}</label></div>"));
            return;
        }
        self.put(format_args!("<div class=\"field{wrong}\"><label for=\"{id}\">{title}{optional}</label>"));
        match &field.control {
            Control::Choice(choices) => {
                self.put(format_args!("<select id=\"{id}\" name=\"{name}\"{more}>"));
                self.put(format_args!("<option value=\"\"></option>"));
                for choice in choices {
                    let choice = escape(choice);
                    let selected = if choice == value { " selected" } else { "" };
                    self.put(format_args!("<option value=\"{choice}\"{selected}>{choice}</option>"));
                }
                self.put(format_args!("</select>"));
            }
            Control::Lines(_) | Control::Json => {
                self.put(format_args!("<textarea id=\"{id}\" name=\"{name}\" rows=\"4\" spellcheck=\"false\"{more}>\n{value}</textarea>"));
            }
            Control::Number => {
                self.put(format_args!("<input id=\"{id}\" name=\"{name}\" inputmode=\"numeric\" autocomplete=\"off\" value=\"{value}\"{more}>"));
            }
            Control::Text(kind) => {
                self.put(format_args!("<input id=\"{id}\" name=\"{name}\" type=\"{kind}\" autocomplete=\"off\" spellcheck=\"false\" value=\"{value}\"{more}>"));
            }
            Control::Check | Control::Group(_) | Control::Groups(_) => {}
        }
        if let Some(hint) = hint {
            let says = escape(&field.says);
            self.put(format_args!("<p class=\"hint\" id=\"{hint}\">{says}</p>"));
        }
        self.error(path, &id);
        self.put(format_args!("</div>"));
    }

    fn groups(&mut self, inner: &[Field], path: &str, id: &str, title: &str, is_needed: bool) {
        let count = groups_of(path, &self.filled.values) + usize::from(self.filled.add == path);
        self.put(format_args!("<fieldset class=\"group\"><legend>{title}</legend>"));
        self.error(path, id);
        for index in 0..count.clamp(1, GROUPS_MAX) {
            self.put(format_args!("<fieldset class=\"entry\"><legend>Entry {}</legend>", index + 1));
            self.fields(inner, &format!("{path}.{index}."), is_needed && index == 0);
            self.put(format_args!("</fieldset>"));
        }
        let path = escape(path);
        self.put(format_args!("<button class=\"quiet-button\" name=\"add\" value=\"{path}\" formnovalidate>One more entry</button></fieldset>"));
    }

    fn error(&mut self, path: &str, id: &str) {
        if let Some(error) = self.filled.errors.get(path) {
            let error = escape(error);
            self.put(format_args!("<p class=\"error\" id=\"{id}-error\">{error}</p>"));
        }
    }
}

/// How many groups of a list contain values.
fn groups_of(path: &str, values: &BTreeMap<String, String>) -> usize {
    let prefix = format!("{path}.");
    let below = values.range(prefix.clone()..).map_while(|(name, _)| name.strip_prefix(&prefix));
    let indexes = below.filter_map(|name| name.split('.').next()?.parse::<usize>().ok());
    indexes.filter(|index| *index < GROUPS_MAX).max().map_or(0, |last| last + 1)
}

/// The entered body. Errors are noted at their fields.
pub(super) fn body(fields: &[Field], filled: &mut Filled) -> Value {
    record(fields, "", true, filled)
}

fn record(fields: &[Field], prefix: &str, is_needed: bool, filled: &mut Filled) -> Value {
    let mut record = Map::new();
    for field in fields {
        let path = format!("{prefix}{}", field.name);
        if let Some(value) = value(field, &path, is_needed && field.required, filled) {
            record.insert(field.name.clone(), value);
        }
    }
    Value::Object(record)
}

fn value(field: &Field, path: &str, is_needed: bool, filled: &mut Filled) -> Option<Value> {
    match &field.control {
        Control::Group(inner) => {
            let is_there = is_needed || is_filled(&format!("{path}."), filled);
            return is_there.then(|| record(inner, &format!("{path}."), true, filled));
        }
        Control::Groups(inner) => {
            let mut list = Vec::new();
            for index in 0..groups_of(path, &filled.values).max(1) {
                let prefix = format!("{path}.{index}.");
                let is_first = index == 0 && is_needed && !is_filled(&format!("{path}."), filled);
                if is_first || is_filled(&prefix, filled) {
                    list.push(record(inner, &prefix, true, filled));
                }
            }
            return (is_needed || !list.is_empty()).then_some(Value::Array(list));
        }
        Control::Check => {
            let is_checked = filled.values.get(path).is_some_and(|text| !text.is_empty());
            return (is_needed || is_checked).then_some(Value::Bool(is_checked));
        }
        _ => {}
    }
    let text = filled.values.get(path).cloned().unwrap_or_default();
    if text.trim().is_empty() {
        if is_needed {
            filled.errors.insert(path.to_owned(), "Fill this in.".to_owned());
        }
        return None;
    }
    let read = match &field.control {
        Control::Number => whole(text.trim()),
        Control::Lines(of_numbers) => {
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            lines
                .map(|line| if *of_numbers { whole(line) } else { Ok(line.into()) })
                .collect::<Result<Vec<_>, _>>()
                .map(Value::Array)
        }
        Control::Json => serde_json::from_str(&text).map_err(|error| format!("This is no JSON: {error}.")),
        _ => Ok(Value::String(text)),
    };
    match read {
        Ok(value) => Some(value),
        Err(error) => {
            filled.errors.insert(path.to_owned(), error);
            None
        }
    }
}

fn whole(text: &str) -> Result<Value, String> {
    let number = text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<u64>().map(Value::from));
    number.map_err(|_| format!("{text} is no whole number."))
}

fn is_filled(prefix: &str, filled: &Filled) -> bool {
    let mut below = filled.values.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
    below.any(|(_, value)| !value.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn order() -> Vec<Field> {
        fields(&json!({
            "type": "object",
            "required": ["customer", "lines"],
            "properties": {
                "customer": { "type": "string", "minLength": 1 },
                "gift": { "type": ["boolean", "null"] },
                "note": { "type": ["string", "null"], "maxLength": 9 },
                "due": { "type": "string", "format": "date", "examples": ["2012-01-31"] },
                "tags": { "type": "array", "items": { "type": "string" } },
                "lines": { "type": "array", "items": { "type": "object", "required": ["sku", "quantity"], "properties": {
                    "sku": { "type": "string" },
                    "quantity": { "type": "integer", "minimum": i64::MIN, "maximum": i64::MAX },
                    "size": { "type": "string", "enum": ["s", "l"] },
                } } },
                "any": {},
            },
        }))
    }

    fn filled(values: &[(&str, &str)]) -> Filled {
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Filled { values: values.collect(), ..Filled::default() }
    }

    #[test]
    fn what_is_filled_in_becomes_the_body_and_what_is_empty_is_not_sent() {
        let mut all = filled(&[
            ("customer", "anna"),
            ("gift", "true"),
            ("note", " "),
            ("due", "2026-01-02"),
            ("tags", "a\r\n\r\nb"),
            ("lines.0.sku", "tea"),
            ("lines.0.quantity", "2"),
            ("lines.1.sku", ""),
            ("lines.2.sku", "mate"),
            ("lines.2.quantity", "18446744073709551615"),
            ("lines.2.size", "l"),
            ("any", "{\"a\":[1]}"),
            ("unknown", "x"),
        ]);
        let body = body(&order(), &mut all);
        assert_eq!(
            body,
            json!({
                "customer": "anna", "gift": true, "due": "2026-01-02", "tags": ["a", "b"], "any": { "a": [1] },
                "lines": [{ "sku": "tea", "quantity": 2 }, { "sku": "mate", "quantity": 18_446_744_073_709_551_615_u64, "size": "l" }],
            })
        );
        assert!(all.errors.is_empty(), "{:?}", all.errors);
    }

    #[test]
    fn what_is_wrong_is_told_at_its_field() {
        let mut wrong = filled(&[("lines.1.sku", "tea"), ("lines.1.quantity", "2.5"), ("any", "{")]);
        body(&order(), &mut wrong);
        let paths: Vec<&str> = wrong.errors.keys().map(String::as_str).collect();
        assert_eq!(paths, ["any", "customer", "lines.1.quantity"]);
        let html = html(&order(), "place", &wrong);
        assert!(html.contains("id=\"place-lines.1.quantity-error\">2.5 is no whole number."), "{html}");
        assert!(
            html.contains("aria-describedby=\"place-lines.1.quantity-error place-lines.1.quantity-says\""),
            "{html}"
        );
        let mut empty = Filled::default();
        body(&order(), &mut empty);
        assert_eq!(empty.errors.keys().collect::<Vec<_>>(), ["customer", "lines.0.quantity", "lines.0.sku"]);
    }

    #[test]
    fn a_form_grows_by_an_entry_and_holds_no_markup_of_its_values() {
        let grown = Filled {
            add: "lines".to_owned(),
            ..filled(&[("lines.0.sku", "\"><script>"), ("lines.0.quantity", "")])
        };
        let html = html(&order(), "place", &grown);
        assert!(html.contains("name=\"lines.1.sku\"") && !html.contains("name=\"lines.2.sku\""), "{html}");
        assert!(html.contains("value=\"&quot;&gt;&lt;script&gt;\"") && !html.contains("<script>"), "{html}");
        assert!(html.contains("type=\"date\"") && html.contains("<option value=\"s\">"), "{html}");
        assert!(paths(&order()).contains("lines.0.sku"));
    }
}
