//! Two paths for each view: a row by its key, and lists.

use millstream_domain::report::{Column, ColumnKind};
use serde_json::{Map, Value, json};

use super::{
    Described,
    parts::{header, not_modified, parameter, schema, with},
    problems::{Door, referenced},
};
use crate::config::KnownReport;

/// Parameters of lists.
const LIST_PARAMETERS: [&str; 6] = ["prefix", "from", "to", "limit", "reverse", "cursor"];
/// Headers that a client may send with a query.
pub(super) const HEADERS: [&str; 3] = ["Prefer", "Millstream-Position", "If-None-Match"];

/// Adds all views.
pub(super) fn describe(
    described: &Described<'_>,
    paths: &mut Map<String, Value>,
    schemas: &mut Map<String, Value>,
) {
    for (context, view) in &described.parts.views {
        let name = format!("{context}.{view}.row");
        schemas.insert(name.clone(), row(described, context, view));
        let list = operation(described, [context, view], Door::List, &name);
        paths.insert(format!("/v1/{context}/{view}"), json!({ "get": list }));
        let get = operation(described, [context, view], Door::Row, &name);
        paths.insert(format!("/v1/{context}/{view}/{{key}}"), json!({ "get": get }));
    }
}

fn operation(described: &Described<'_>, [context, view]: [&str; 2], door: Door, row: &str) -> Value {
    let is_list = door == Door::List;
    let mut responses = referenced(described, door);
    let body = if is_list { page_of(&[schema(row)]) } else { schema(row) };
    let headers = json!({ "ETag": header("ETag"), "Millstream-Position": header("Millstream-Position") });
    let headers = if is_list { with(headers, "Link", header("Link")) } else { headers };
    let what = if is_list { "A page of rows" } else { "The row" };
    let answer = json!({ "description": what, "headers": headers, "content": { "application/json": { "schema": body } } });
    responses.insert("200".to_owned(), answer);
    responses.insert("304".to_owned(), not_modified());
    let mut parameters: Vec<Value> = HEADERS.map(parameter).into();
    if is_list {
        parameters.extend(LIST_PARAMETERS.map(parameter));
    } else {
        parameters.push(json!({ "name": "key", "in": "path", "required": true, "description": "The key of the row; a / in it is %2F",
            "schema": { "type": "string", "minLength": 1 } }));
    }
    let (operation, summary) = if is_list { ("list", "Rows of") } else { ("get", "A row of") };
    json!({
        "operationId": format!("{context}.{view}.{operation}"),
        "tags": [context],
        "summary": format!("{summary} {view}"),
        "parameters": parameters,
        "responses": responses,
    })
}

/// The schema of a page of rows.
pub(super) fn page_of(rows: &[Value]) -> Value {
    let kinds: Vec<Value> = rows.iter().cloned().chain([schema("RowTooLarge")]).collect();
    json!({
        "type": "object",
        "required": ["rows", "cursor"],
        "properties": {
            "rows": { "type": "array", "items": { "anyOf": kinds } },
            "cursor": { "type": ["string", "null"], "description": "Where the next page begins; null on the last" },
        },
    })
}

/// The schema of a row. What a view of the application writes is not declared anywhere.
fn row(described: &Described<'_>, context: &str, view: &str) -> Value {
    let of_outcomes = described.parts.outcome_views.contains(view);
    let mut reports = described.parts.reports.values().filter(|report| report.context == context);
    let value = match view {
        "command" if of_outcomes => schema("CommandStatus"),
        "process-rejection" if of_outcomes => process_rejection(),
        _ => reports.find_map(|report| of_report(report, view)).unwrap_or_else(|| json!({})),
    };
    json!({
        "type": "object",
        "required": ["key", "value"],
        "properties": { "key": { "type": "string" }, "value": value },
        "additionalProperties": false,
    })
}

fn process_rejection() -> Value {
    let text = json!({ "type": "string" });
    json!({
        "type": "object",
        "description": "A command of a process that was rejected",
        "required": ["process", "command_id", "command_position", "subject", "code", "message"],
        "properties": {
            "process": text,
            "command_id": text,
            "command_position": { "type": "integer", "minimum": 0 },
            "subject": text,
            "code": text,
            "message": text,
        },
    })
}

/// The schema of a row of one of a report's views.
fn of_report(report: &KnownReport, view: &str) -> Option<Value> {
    if view == report.differences() {
        return Some(difference_line(report.columns));
    }
    (view == report.name || view == report.revisions()).then(|| revision(report.columns))
}

fn figures(columns: &[Column]) -> Value {
    let figures = columns.iter().filter(|column| column.is_figure());
    let properties: Map<String, Value> =
        figures.map(|column| (column.name.to_owned(), json!({ "type": "integer" }))).collect();
    json!({ "type": "object", "properties": properties, "additionalProperties": false })
}

fn difference_line(columns: &[Column]) -> Value {
    json!({
        "type": "object",
        "description": "A posting by which a revision differs from the one before",
        "required": ["reference", "event_type", "broker_sequence", "recorded_at", "figures"],
        "properties": {
            "reference": { "type": "string" },
            "event_type": { "type": "string" },
            "broker_sequence": { "type": "integer", "minimum": 1 },
            "recorded_at": { "type": "string", "format": "date-time" },
            "figures": figures(columns),
        },
    })
}

fn revision(columns: &[Column]) -> Value {
    let sequence = || json!({ "type": "integer", "minimum": 0 });
    let time = || json!({ "type": "string", "format": "date-time" });
    let mut properties = Map::new();
    for column in columns {
        let of_column = match (column.kind, column.name) {
            (_, "revision") => json!({ "type": "integer", "minimum": 1 }),
            (_, "status") => json!({ "enum": ["open", "sealed"] }),
            (ColumnKind::Count, _) => json!({ "type": "integer" }),
            (ColumnKind::Amount, _) => {
                json!({ "type": "integer", "description": "In minor units of the row's currency" })
            }
            (ColumnKind::Text | ColumnKind::Number, _) => json!({ "type": ["string", "null"] }),
        };
        properties.insert(column.name.to_owned(), of_column);
    }
    let required: Vec<String> = properties.keys().cloned().collect();
    let own = [
        ("inputs", sequence()),
        ("first_position", sequence()),
        ("last_position", sequence()),
        ("digest", json!({ "type": "string" })),
        ("opened_position", sequence()),
        ("opened_at", time()),
        ("changed_at", time()),
        ("sealed_position", sequence()),
        ("sealed_at", time()),
        ("difference", figures(columns)),
        ("difference_lines", sequence()),
        ("differences", json!({ "type": "array", "items": difference_line(columns) })),
    ];
    properties.extend(own.map(|(name, schema)| (name.to_owned(), schema)));
    json!({
        "type": "object",
        "description": "A revision of the report",
        "required": required,
        "properties": properties,
        "additionalProperties": false,
    })
}
