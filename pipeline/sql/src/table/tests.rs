//! Tests of the tables that are derived from the shape of rows.

use serde_json::json;

use super::*;
use crate::definition::{Dialect, create_in_place};

fn shape() -> RowShape {
    RowShape::of_schema(
        "sale",
        "<store>_<business_date>/<sale>",
        json!({
            "type": "object",
            "description": "Sales.",
            "properties": {
                "store": { "type": "string", "description": "The store." },
                "business_date": { "type": "string", "format": "date" },
                "currency": { "anyOf": [{ "type": "string" }, { "type": "null" }] },
                "amount": { "type": "integer" },
                "late": { "type": "boolean" },
                "at": { "type": ["string", "null"], "format": "date-time" },
                "state": { "$ref": "#/$defs/State" },
                "lines": { "type": "array", "items": { "$ref": "#/$defs/Line" } },
                "tags": { "type": "array", "items": { "type": "string" } },
                "more": { "type": "object", "properties": { "weight": { "type": "number" } } },
                "free": true,
            },
            "$defs": {
                "State": { "oneOf": [{ "type": "string", "const": "open" }, { "type": "string", "const": "paid" }] },
                "Line": { "type": "object", "properties": { "sku": { "type": "string" }, "price": { "type": "integer" } } },
            },
        }),
    )
}

fn row() -> Json {
    json!({
        "store": "a_b", "business_date": "2012-01-31", "currency": "USD", "amount": 5, "late": false, "at": null,
        "state": "open", "lines": [{ "sku": "x", "price": 2 }], "tags": ["t"], "more": { "weight": 1.5 }, "free": [1],
    })
}

fn read(row: &Json) -> Result<TableRow, ValueError> {
    let table = Table::of_shape("retail", &shape().amounts(&["amount", "lines.price"])).unwrap();
    table.row("a_b_2012-01-31/S-1", row.to_string().as_bytes())
}

#[test]
fn columns_come_from_the_shape_and_those_of_the_key_come_first() {
    let table = Table::of_shape("retail", &shape().amounts(&["amount", "lines.price"])).unwrap();
    let columns: Vec<_> =
        table.columns.iter().map(|each| (each.name.as_str(), each.kind, each.nullable)).collect();
    let expected = [
        ("store", Kind::Text, false),
        ("business_date", Kind::Date, false),
        ("sale", Kind::Text, false),
        ("amount", Kind::Integer, false),
        ("at", Kind::Time, true),
        ("currency", Kind::Text, true),
        ("free", Kind::Json, true),
        ("late", Kind::Boolean, false),
        ("more_weight", Kind::Real, true),
        ("state", Kind::Text, false),
    ];
    let mut sorted = columns.clone();
    sorted[3..].sort_unstable_by_key(|column| column.0);
    assert_eq!(sorted, expected);
    let lists: Vec<_> = table.lists.iter().map(|list| list.name.as_str()).collect();
    assert!(lists.contains(&"sale_lines") && lists.contains(&"sale_tags"), "{lists:?}");
}

#[test]
fn a_row_becomes_values_and_its_lists_rows_of_their_own() {
    let table = Table::of_shape("retail", &shape()).unwrap();
    let read = read(&row()).unwrap();
    let value = |name: &str| {
        let index = table.columns.iter().position(|column| column.name == name).unwrap();
        read.values[index].clone()
    };
    assert_eq!(value("store"), Value::Text("a_b".to_owned()));
    assert_eq!(value("sale"), Value::Text("S-1".to_owned()));
    assert_eq!(
        (value("amount"), value("late"), value("at")),
        (Value::Integer(5), Value::Boolean(false), Value::Null)
    );
    assert_eq!((value("more_weight"), value("free")), (Value::Real(1.5), Value::Text("[1]".to_owned())));
    let lists: Vec<_> =
        table.lists.iter().zip(&read.lists).map(|(list, rows)| (list.name.as_str(), rows.clone())).collect();
    assert!(lists.contains(&("sale_tags", vec![vec![Value::Text("t".to_owned())]])), "{lists:?}");
    assert!(lists.iter().any(|(name, rows)| *name == "sale_lines" && rows[0].contains(&Value::Integer(2))));
}

#[test]
fn a_row_that_does_not_fit_is_refused_with_what_is_wrong() {
    let with = |field: &str, value: Json| {
        let mut row = row();
        row[field] = value;
        read(&row).unwrap_err().to_string()
    };
    assert!(with("odd", json!(1)).contains("field \"odd\""));
    assert!(with("amount", json!("much")).contains("amount"));
    assert!(with("amount", json!(null)).contains("nothing"));
    assert!(with("amount", json!(u64::MAX)).contains("amount"));
    assert!(with("at", json!("soon")).contains("at"));
    assert!(with("business_date", json!("soon")).contains("business_date: \"soon\""));
    assert!(with("store", json!("other")).contains("while its key has"));
    assert!(with("lines", json!([1])).contains("sale_lines"));
}

#[test]
fn a_shape_that_names_what_rows_do_not_have_is_refused() {
    for field in ["nothing", "late", "lines.nothing", "nowhere.price"] {
        let error = Table::of_shape("retail", &shape().amounts(&[field])).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
    }
}

/// The starting point that `new context --like report` writes had no tables.
#[test]
fn amounts_of_rows_without_a_currency_are_hundredths() {
    let mut without = shape();
    without.schema["properties"].as_object_mut().unwrap().remove("currency");
    let table = Table::of_shape("retail", &without.amounts(&["amount", "lines.price"])).unwrap();
    let connection = rusqlite::Connection::open_in_memory().unwrap();
    let statements = [Dialect::Sqlite.system(), create_in_place(Dialect::Sqlite, &table).join("\n")];
    connection.execute_batch(&statements.concat()).unwrap();
    let amount = |(put, asked): (&str, &str)| {
        connection.execute_batch(put).unwrap();
        connection.query_row(asked, [], |row| row.get::<_, String>(0)).unwrap()
    };
    let sale = "INSERT INTO retail_sale (store, business_date, sale, amount, late, state) VALUES ('a', '2012-01-31', 'S', 512, 0, 'open')";
    let line = "INSERT INTO retail_sale_lines VALUES ('a', '2012-01-31', 'S', 1, 7, 'x')";
    assert_eq!(amount((sale, "SELECT amount FROM retail_sale_decimal")), "5.12");
    assert_eq!(amount((line, "SELECT price FROM retail_sale_lines_decimal")), "0.07");
}
