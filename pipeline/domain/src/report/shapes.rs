//! The shapes of the rows of a report's tables, derived from its columns.

use serde_json::{Map, Value, json};

use super::{Column, ColumnKind, Report};
use crate::projection::RowShape;

/// Of its three tables.
pub(super) fn shapes_of(report: &impl Report) -> Vec<RowShape> {
    let (tables, columns) = (report.tables(), report.columns());
    let title = |what: &str| format!("{what} of the report {}.", tables.current);
    let amounts: Vec<_> =
        columns.iter().filter(|each| each.kind == ColumnKind::Amount).map(|each| each.name).collect();
    let revision = |table, key, what: &str| {
        RowShape::of_schema(table, key, of_revision(columns, &title(what))).amounts(&amounts)
    };
    let key = report.key();
    let differences = of_difference(columns, key, &title("Every posting since the revision before"));
    vec![
        revision(tables.current, key.to_owned(), "The current revisions"),
        revision(tables.revisions, format!("{key}#<revision>"), "All revisions"),
        RowShape::of_schema(tables.differences, format!("{key}#<revision>/<line>"), differences),
    ]
}

fn text(description: &str) -> Value {
    json!({ "type": ["string", "null"], "description": description })
}

fn number(description: &str) -> Value {
    json!({ "type": "integer", "description": description })
}

fn time(description: &str) -> Value {
    json!({ "type": "string", "format": "date-time", "description": description })
}

fn or_null(mut schema: Value) -> Value {
    if let Some(kind) = schema.get_mut("type") {
        *kind = json!([kind.take(), "null"]);
    }
    schema
}

fn column(column: &Column) -> Value {
    match (column.kind, column.name) {
        (_, "status") => json!({ "type": "string", "description": "open, or sealed by an event." }),
        (_, "revision") => number("The revision, from 1 without gaps."),
        (ColumnKind::Text, "business_date") => {
            json!({ "type": ["string", "null"], "format": "date", "description": "The business date." })
        }
        (ColumnKind::Text, _) => json!({ "type": ["string", "null"] }),
        (ColumnKind::Number | ColumnKind::Count, _) => json!({ "type": "integer" }),
        (ColumnKind::Amount, _) => number("In minor units of the currency."),
    }
}

/// The figures of a revision or a posting; those that are 0 may be absent.
fn figures(columns: &[Column], description: &str) -> Value {
    let named =
        columns.iter().filter(|each| each.is_figure()).map(|each| (each.name.to_owned(), column(each)));
    let properties: Map<String, Value> = named.collect();
    json!({ "type": "object", "description": description, "properties": properties })
}

fn of_revision(columns: &[Column], title: &str) -> Value {
    let mut properties: Map<String, Value> =
        columns.iter().map(|each| (each.name.to_owned(), column(each))).collect();
    let sequence = "Sequence in EVENTS of";
    for (name, schema) in [
        ("inputs", number("How many postings it holds, including those of earlier revisions.")),
        ("first_position", number(&format!("{sequence} the first of them."))),
        ("last_position", number(&format!("{sequence} the last of them."))),
        ("digest", text("Chained over all of them in order: equal digests, equal inputs.")),
        ("opened_position", number(&format!("{sequence} the posting that opened this revision."))),
        ("opened_at", time("When that was recorded.")),
        ("changed_at", time("When its last posting was recorded.")),
        ("sealed_position", or_null(number(&format!("{sequence} the event that sealed it.")))),
        ("sealed_at", or_null(time("When that was recorded."))),
        ("difference", or_null(figures(columns, "Less those of the revision before."))),
        ("difference_lines", or_null(number("How many postings it has more than the revision before."))),
        // These are kept as JSON, because the table of differences has all of them.
        (
            "differences",
            json!({
                "type": ["array", "null"],
                "description": "The first of the postings by which it differs from the revision before.",
            }),
        ),
    ] {
        properties.insert(name.to_owned(), schema);
    }
    json!({ "type": "object", "description": title, "properties": properties })
}

/// A posting by which a revision differs from the one before.
fn line(columns: &[Column]) -> Value {
    json!({
        "type": "object",
        "properties": {
            "reference": { "type": "string", "description": "What caused it, as people call it." },
            "event_type": { "type": "string", "description": "The type of the event." },
            "broker_sequence": number("The event's sequence in EVENTS."),
            "recorded_at": time("When it was recorded."),
            "figures": figures(columns, "What it added."),
        },
    })
}

/// The row has no column of the names in its `key`.
fn of_difference(columns: &[Column], key: &str, title: &str) -> Value {
    let mut schema = line(columns);
    if let Some(fields) = schema.as_object_mut() {
        fields.insert("description".to_owned(), json!(title));
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for part in columns.iter().filter(|each| key.contains(&format!("<{}>", each.name))) {
            properties.insert(part.name.to_owned(), column(part));
        }
        properties.insert("revision".to_owned(), number("The revision, from 1 without gaps."));
        properties.insert("line".to_owned(), number("Its place among the postings of the revision, from 1."));
    }
    schema
}
