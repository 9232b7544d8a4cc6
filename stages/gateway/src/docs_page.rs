//! `/v1/docs`: the page that shows the content of the OpenAPI document to people. It has no script, and a single style, which its policy names
//! by hash.

use std::collections::BTreeMap;

use askama::Template;
use axum::http::HeaderValue;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use millstream_domain::{decider::AggregateType, schema::fields_of_record};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::openapi::{
    Described,
    commands::{body, example_id, id_form, offered, rejections},
    problems::{KnownProblem, PROBLEMS},
    reports::addresses,
};

const STYLE: &str = include_str!("../templates/docs.css");

/// The page, and its content security policy.
pub(crate) struct Page {
    pub(crate) html: String,
    pub(crate) security_policy: HeaderValue,
}

#[derive(Template)]
#[template(path = "docs.html")]
struct Docs<'a> {
    style: &'static str,
    name: &'static str,
    version: &'static str,
    about: &'static str,
    with_keys: bool,
    key_header: &'static str,
    port: u16,
    contexts: Vec<ContextPart<'a>>,
    problems: &'static [KnownProblem],
    rejections: Vec<Rejection>,
}

struct ContextPart<'a> {
    name: &'static str,
    aggregates: Vec<AggregatePart>,
    views: Vec<ViewPart<'a>>,
    reports: Vec<&'a str>,
}

struct AggregatePart {
    name: &'static str,
    id_form: Option<String>,
    commands: Vec<CommandPart>,
}

struct CommandPart {
    name: &'static str,
    path: String,
    fields: Vec<FieldPart>,
    line: String,
    rejections: Vec<&'static str>,
}

struct FieldPart {
    name: String,
    says: String,
}

struct ViewPart<'a> {
    name: &'a str,
    /// Those of a report.
    fields: Vec<&'static str>,
}

struct Rejection {
    code: &'static str,
    /// The commands that can get it.
    commands: Vec<String>,
}

/// The page of a gateway.
pub(crate) fn page(described: &Described<'_>) -> Page {
    let hash = STANDARD.encode(Sha256::digest(STYLE));
    let key_header = if described.with_keys { "--header \"Authorization: Bearer $KEY\" " } else { "" };
    let contexts = described.parts.contexts.iter().map(|name| context(described, name, key_header));
    let docs = Docs {
        style: STYLE,
        name: described.name,
        version: described.version,
        about: described.about,
        with_keys: described.with_keys,
        key_header,
        port: described.port,
        contexts: contexts.collect(),
        problems: PROBLEMS,
        rejections: all_rejections(described),
    };
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox"
    );
    Page {
        html: docs.render().expect("a page of texts is written into memory"),
        security_policy: HeaderValue::try_from(policy).expect("a hash in base64 is visible ASCII"),
    }
}

fn context<'a>(described: &'a Described<'_>, name: &'static str, key_header: &str) -> ContextPart<'a> {
    let aggregates = described.parts.aggregates.iter().filter(|aggregate| aggregate.context() == name);
    let views = described.parts.views.iter().filter(|(context, _)| context == name);
    let reports = addresses(described).filter(|(_, report)| report.context == name);
    ContextPart {
        name,
        aggregates: aggregates.map(|aggregate| aggregate_part(aggregate.as_ref(), key_header)).collect(),
        views: views
            .map(|(_, view)| ViewPart { name: view, fields: columns(described, name, view) })
            .collect(),
        reports: reports.map(|(address, _)| address).collect(),
    }
}

/// The columns of a report, if a view is one.
fn columns(described: &Described<'_>, context: &str, view: &str) -> Vec<&'static str> {
    let mut reports = described.parts.reports.values();
    let report = reports
        .find(|report| report.context == context && (report.name == view || report.revisions() == view));
    report.map(|report| report.columns.iter().map(|column| column.name).collect()).unwrap_or_default()
}

fn aggregate_part(aggregate: &dyn AggregateType, key_header: &str) -> AggregatePart {
    let address = |id: &str, command: &str| {
        format!("/v1/commands/{}/{}/{id}/{command}", aggregate.context(), aggregate.aggregate())
    };
    let commands = offered(aggregate).map(|name| {
        let body = body(aggregate, name);
        let mut fields = Vec::new();
        add_fields(&body, "", &mut fields);
        let example = body.pointer("/examples/0").map_or_else(|| "{}".to_owned(), Value::to_string);
        let id = example_id(aggregate).unwrap_or("{id}");
        let line = format!(
            "curl --json '{}' {key_header}\"$GATEWAY{}\"",
            example.replace('\'', r"'\''"),
            address(id, name)
        );
        let rejections = rejections(aggregate, name).into_iter().collect();
        CommandPart { name, path: address("{id}", name), fields, line, rejections }
    });
    AggregatePart { name: aggregate.aggregate(), id_form: id_form(aggregate), commands: commands.collect() }
}

/// Adds the fields of a record, and those of the records in them, by their paths.
fn add_fields(schema: &Value, path: &str, fields: &mut Vec<FieldPart>) {
    for (name, field, is_required) in fields_of_record(schema) {
        let name_of_all = format!("{path}{name}");
        let needed = if is_required { "required" } else { "optional" };
        let says = [kind(field), limits(field), needed.to_owned()];
        let says = says.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
        fields.push(FieldPart { name: name_of_all.clone(), says });
        add_fields(field, &format!("{name_of_all}."), fields);
        if let Some(items) = field.get("items") {
            add_fields(items, &format!("{name_of_all}[]."), fields);
        }
    }
}

fn kind(schema: &Value) -> String {
    let named = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.first().and_then(Value::as_str),
        kind => kind.and_then(Value::as_str),
    };
    let (format, texts) =
        (schema.get("format").and_then(Value::as_str), schema.get("enum").and_then(Value::as_array));
    match (named, format, texts) {
        (_, _, Some(texts)) => {
            let texts = texts.iter().filter(|text| !text.is_null()).map(Value::to_string);
            format!("one of {}", texts.collect::<Vec<_>>().join(", "))
        }
        (_, Some(format), _) => format.to_owned(),
        (Some("string"), None, None) => "text".to_owned(),
        (Some("array"), None, None) => {
            format!("list of {}", schema.get("items").map_or_else(|| "any JSON".to_owned(), kind))
        }
        (Some("object"), None, None) => "record".to_owned(),
        (Some(named), None, None) => named.to_owned(),
        (None, None, None) => "any JSON".to_owned(),
    }
}

fn limits(schema: &Value) -> String {
    // The limits of a 64-bit number tell a reader nothing.
    let told = |name: &str| schema.get(name).filter(|limit| !is_end_of_64_bits(limit));
    let range = |least: &str, most: &str| match (told(least), told(most)) {
        (None, None) => None,
        (Some(least), None) => Some(format!("at least {least}")),
        (None, Some(most)) => Some(format!("at most {most}")),
        (Some(least), Some(most)) => Some(format!("{least} to {most}")),
    };
    let sizes = [
        range("minimum", "maximum"),
        range("minLength", "maxLength").map(|range| format!("{range} characters")),
        range("minItems", "maxItems").map(|range| format!("{range} elements")),
    ];
    let example = schema.pointer("/examples/0").map(|example| format!("such as {example}"));
    sizes.into_iter().chain([example]).flatten().collect::<Vec<_>>().join(", ")
}

fn is_end_of_64_bits(limit: &Value) -> bool {
    limit.as_i64().is_some_and(|limit| limit == i64::MIN || limit == i64::MAX)
        || limit.as_u64() == Some(u64::MAX)
}

fn all_rejections(described: &Described<'_>) -> Vec<Rejection> {
    let mut all: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for aggregate in described.parts.aggregates.iter() {
        for command in offered(aggregate.as_ref()) {
            let id = format!("{}.{}.{command}", aggregate.context(), aggregate.aggregate());
            for code in rejections(aggregate.as_ref(), command) {
                all.entry(code).or_default().push(id.clone());
            }
        }
    }
    all.into_iter().map(|(code, commands)| Rejection { code, commands }).collect()
}

#[cfg(test)]
mod tests;
