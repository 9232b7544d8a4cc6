//! Rows of a view and rows of its table in the same kind of JSON, made without the code that fills the tables, and compared.

use std::{
    collections::BTreeSet,
    ops::{Bound, ControlFlow},
    path::Path,
};

use jiff::Timestamp;
use millstream_store::read_store::{Direction, KeyRange, ProjectionId, Snapshot, TableName};
use postgres::{Client, NoTls};
use rusqlite::{Connection, types::ValueRef};
use serde_json::{Map, Value, json};

use crate::table::sql_name;

/// A value in a common form: times in microseconds, booleans as numbers, JSON as text.
fn plain(value: &Value) -> Value {
    match value {
        Value::Bool(truth) => json!(i64::from(*truth)),
        Value::Object(_) | Value::Array(_) => json!(value.to_string()),
        Value::String(text) if text.starts_with(['{', '[']) => match serde_json::from_str::<Value>(text) {
            Ok(value) => json!(value.to_string()),
            Err(_) => value.clone(),
        },
        Value::String(text) => match (text.len() > 10).then(|| text.parse::<Timestamp>()) {
            Some(Ok(time)) => json!(format!("{time:.6}")),
            _ => json!(text.replace('\0', "\u{fffd}")),
        },
        other => other.clone(),
    }
}

/// The fields of a row that are columns of a table, according to `known`, and the row's lists.
fn flattened(
    row: &Map<String, Value>,
    prefix: &str,
    known: &BTreeSet<String>,
    columns: &mut Map<String, Value>,
    lists: &mut Map<String, Value>,
) {
    for (name, value) in row {
        let name = format!("{prefix}{}", sql_name(name));
        match value {
            Value::Null => {}
            value if known.contains(&name) => drop(columns.insert(name, plain(value))),
            Value::Object(record) => flattened(record, &format!("{name}_"), known, columns, lists),
            Value::Array(_) => drop(lists.insert(name, value.clone())),
            value => drop(columns.insert(name, plain(value))),
        }
    }
}

/// Rows in a fixed order, without the columns that only come from the key.
fn as_set(rows: &[Map<String, Value>], names: &BTreeSet<String>) -> Vec<String> {
    let only = |row: &Map<String, Value>| -> String {
        let kept = row.iter().filter(|(name, value)| names.contains(*name) && !value.is_null());
        Value::Object(kept.map(|(name, value)| (name.clone(), plain(value))).collect()).to_string()
    };
    let mut all: Vec<String> = rows.iter().map(only).collect();
    all.sort();
    all
}

fn records(rows: Vec<Value>) -> Vec<Map<String, Value>> {
    rows.into_iter()
        .filter_map(|row| if let Value::Object(record) = row { Some(record) } else { None })
        .collect()
}

fn names_of(rows: &[Map<String, Value>]) -> BTreeSet<String> {
    rows.iter().flat_map(|row| row.keys().cloned()).collect()
}

/// Compares a view's rows, by key, with its table, and their lists with the tables of the lists, which `rows_of` reads. Returns how many rows
/// there were.
///
/// # Panics
/// When they differ.
pub fn compare(
    context: &str,
    view: &str,
    has_shape: bool,
    rows: &[(String, Value)],
    rows_of: impl Fn((&str, &str)) -> Vec<Value>,
) -> usize {
    let found = records(rows_of((&sql_name(context), &sql_name(view))));
    let known = names_of(&found);
    let (mut expected, mut lists) = (Vec::new(), Vec::new());
    for (key, row) in rows {
        let (mut columns, mut own) = (Map::new(), Map::new());
        match row {
            Value::Object(record) if has_shape => flattened(record, "", &known, &mut columns, &mut own),
            row => {
                columns.insert("key".to_owned(), json!(key));
                columns.insert("row".to_owned(), plain(row));
            }
        }
        expected.push(columns);
        lists.push(own);
    }
    let names = names_of(&expected);
    assert_eq!(as_set(&found, &names), as_set(&expected, &names), "{context}.{view}");
    for list in names_of(&lists) {
        let found = records(rows_of((&sql_name(context), &format!("{}_{list}", sql_name(view)))));
        let known = names_of(&found);
        let entries = lists.iter().filter_map(|own| own.get(&list)?.as_array()).flatten();
        let entries: Vec<Map<String, Value>> = entries.map(|entry| columns_of_entry(entry, &known)).collect();
        let names = names_of(&entries);
        assert_eq!(as_set(&found, &names), as_set(&entries, &names), "{context}.{view}: {list}");
    }
    expected.len()
}

fn columns_of_entry(entry: &Value, known: &BTreeSet<String>) -> Map<String, Value> {
    match entry {
        Value::Object(record) => {
            let mut columns = Map::new();
            flattened(record, "", known, &mut columns, &mut Map::new());
            columns
        }
        value => [("value".to_owned(), plain(value))].into_iter().collect(),
    }
}

/// The rows of a view in a file of rows.
///
/// # Panics
/// When the file cannot be read.
pub fn rows_of_file(snapshot: &Snapshot, projection: &ProjectionId, view: &str) -> Vec<(String, Value)> {
    let everything = KeyRange { lower: Bound::Unbounded, upper: Bound::Unbounded };
    let mut rows = Vec::new();
    let read =
        snapshot.visit(&TableName::new(projection, view), everything, Direction::Ascending, |key, row| {
            rows.push((key.to_owned(), serde_json::from_slice(row).expect("rows are JSON")));
            ControlFlow::Continue(())
        });
    read.expect("the file can be read");
    rows
}

fn read_only(path: &Path) -> Connection {
    Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)
        .expect("a test reads what it has written")
}

/// The rows of a table in a file of SQLite.
///
/// # Panics
/// When it cannot be read.
pub fn of_sqlite(path: &Path, (context, table): (&str, &str)) -> Vec<Value> {
    let connection = read_only(path);
    let mut statement = connection
        .prepare(&format!("SELECT * FROM \"{context}_{table}\""))
        .expect("a test reads what it has written");
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let rows = statement.query_map([], |row| {
        let mut record = Map::new();
        for (place, name) in names.iter().enumerate() {
            let value = match row.get_ref(place)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(number) => json!(number),
                ValueRef::Real(number) => json!(number),
                ValueRef::Text(text) => json!(String::from_utf8_lossy(text)),
                ValueRef::Blob(_) => panic!("no column holds bytes"),
            };
            record.insert(name.clone(), value);
        }
        Ok(Value::Object(record))
    });
    rows.expect("a test reads what it has written").map(Result::unwrap).collect()
}

/// The columns of a table in a file of SQLite.
///
/// # Panics
/// When it cannot be read.
pub fn columns_of_sqlite(path: &Path, (context, table): (&str, &str)) -> Vec<String> {
    let connection = read_only(path);
    let statement = connection
        .prepare(&format!("SELECT * FROM \"{context}_{table}\""))
        .expect("a test reads what it has written");
    statement.column_names().map(str::to_owned).collect()
}

/// The rows of a table in PostgreSQL.
///
/// # Panics
/// When it cannot be read.
pub fn of_postgres(address: &str, (context, table): (&str, &str)) -> Vec<Value> {
    let mut client = Client::connect(address, NoTls).expect("a test reads what it has written");
    client.batch_execute("SET TIME ZONE 'UTC'").expect("a test reads what it has written");
    let rows = client.query(&format!("SELECT row_to_json(t)::text FROM \"{context}\".\"{table}\" AS t"), &[]);
    rows.expect("a test reads what it has written")
        .iter()
        .map(|row| serde_json::from_str(row.get::<_, &str>(0)).expect("a test reads what it has written"))
        .collect()
}

/// The columns of a table in PostgreSQL.
///
/// # Panics
/// When it cannot be read.
pub fn columns_of_postgres(address: &str, (context, table): (&str, &str)) -> Vec<String> {
    let mut client = Client::connect(address, NoTls).expect("a test reads what it has written");
    let statement = client
        .prepare(&format!("SELECT * FROM \"{context}\".\"{table}\""))
        .expect("a test reads what it has written");
    statement.columns().iter().map(|column| column.name().to_owned()).collect()
}
