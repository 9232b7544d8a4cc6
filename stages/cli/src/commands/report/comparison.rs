//! Compares two answers about the same records: where they differ, by report, key, date and field. Pure.

use std::{collections::BTreeMap, fmt};

use serde_json::{Value, json};

use crate::query_client::ViewRow;

/// Stands for a field if the rows say the same in different bytes.
const FORM: &str = "(the order or form of its fields)";

/// A difference between the ledger's records and the events.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Difference {
    /// The view's table: that of current records, of revisions or of differences.
    pub(super) table: &'static str,
    /// The key of the row.
    pub(super) row: String,
    /// The revision of the row, if it says so.
    revision: Option<u64>,
    /// The path of the first field that differs; absent if one of the rows is missing.
    pub(super) field: Option<String>,
    /// The reporter's value.
    pub(super) live: Option<Value>,
    /// The value that the events give.
    pub(super) recomputed: Option<Value>,
}

/// The parts of a row's key: `<date>/<key>#<revision>/<line>`, of which the last two may be absent.
struct RecordName<'a> {
    date: &'a str,
    key: &'a str,
    revision: Option<u64>,
    line: Option<u64>,
}

impl<'a> RecordName<'a> {
    fn of(row: &'a str) -> Self {
        let (date, rest) = row.split_once('/').unwrap_or(("", row));
        let (key, place) = rest.split_once('#').map_or((rest, None), |(key, place)| (key, Some(place)));
        let mut numbers =
            place.into_iter().flat_map(|place| place.split('/')).map(|number| number.parse().ok());
        Self { date, key, revision: numbers.next().flatten(), line: numbers.next().flatten() }
    }
}

impl Difference {
    /// The report's name: the part before the table's kind.
    fn report(&self) -> &str {
        self.table.split('.').next().unwrap_or(self.table)
    }

    fn name(&self) -> RecordName<'_> {
        let mut name = RecordName::of(&self.row);
        name.revision = name.revision.or(self.revision);
        name
    }

    /// For programs.
    pub(super) fn to_json(&self) -> Value {
        let name = self.name();
        json!({
            "report": self.report(),
            "table": self.table,
            "date": name.date,
            "key": name.key,
            "revision": name.revision,
            "line": name.line,
            "field": self.field,
            "live": self.live,
            "recomputed": self.recomputed,
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name();
        write!(formatter, "{} {} of {}", self.report(), name.key, name.date)?;
        if let Some(revision) = name.revision {
            write!(formatter, ", revision {revision}")?;
        }
        if let Some(line) = name.line {
            write!(formatter, ", line {line}")?;
        }
        let value = |value: &Option<Value>| value.as_ref().map_or("absent".to_owned(), Value::to_string);
        let (live, recomputed) = (value(&self.live), value(&self.recomputed));
        match &self.field {
            Some(field) if field == FORM => write!(formatter, ", {}: {FORM}", self.table),
            Some(field) => write!(formatter, ", {field}: is {live}, the events say {recomputed}"),
            None if self.live.is_none() => {
                write!(formatter, ": missing from {}, the events say {recomputed}", self.table)
            }
            None => write!(formatter, ": stands in {}, but no event made it: {live}", self.table),
        }
    }
}

/// The rows that differ, each with its first differing field. Both lists are in the order of keys and cover the same range.
pub(super) fn differences(table: &'static str, live: &[ViewRow], recomputed: &[ViewRow]) -> Vec<Difference> {
    let by_key = |rows: &[ViewRow]| -> BTreeMap<String, Value> {
        rows.iter().map(|row| (row.key.clone(), row.clone().into_fields("key"))).collect()
    };
    let (mut live, recomputed) = (by_key(live), by_key(recomputed));
    let mut found = Vec::new();
    let mut note = |row: String, of: &Value, (field, live, recomputed): FieldValues| {
        let revision = of.get("revision").and_then(Value::as_u64);
        found.push(Difference { table, row, revision, field, live, recomputed });
    };
    for (row, expected) in recomputed {
        match live.remove(&row) {
            Some(value) => {
                if let Some((field, live, recomputed)) = first_field(String::new(), &value, &expected) {
                    note(row, &value, (Some(field), live, recomputed));
                }
            }
            None => note(row, &expected, (None, None, Some(expected.clone()))),
        }
    }
    for (row, value) in live {
        note(row, &value, (None, Some(value.clone()), None));
    }
    found.sort_by(|one, other| one.row.cmp(&other.row));
    found
}

/// Two answers with equal rows in different bytes: the row in which they begin to differ.
pub(super) fn form(table: &'static str, live: &[u8], recomputed: &[u8]) -> Option<Difference> {
    let equal = live.iter().zip(recomputed).take_while(|(one, other)| one == other).count();
    if equal == live.len() && equal == recomputed.len() {
        return None;
    }
    let before = String::from_utf8_lossy(live.get(..equal).unwrap_or_default()).into_owned();
    let row =
        before.rsplit_once("{\"key\":\"").and_then(|(_, rest)| rest.split('"').next()).unwrap_or_default();
    let (row, field) = (row.to_owned(), Some(FORM.to_owned()));
    Some(Difference { table, row, revision: None, field, live: None, recomputed: None })
}

/// A field's path and its values in the two rows.
type FieldValues<Path = Option<String>> = (Path, Option<Value>, Option<Value>);

/// The first field that differs. It looks into objects and lists.
fn first_field(path: String, live: &Value, recomputed: &Value) -> Option<FieldValues<String>> {
    if live == recomputed {
        return None;
    }
    let join = |part: &str| if path.is_empty() { part.to_owned() } else { format!("{path}.{part}") };
    let inner = |part: &str, live: Option<&Value>, recomputed: Option<&Value>| match (live, recomputed) {
        (Some(live), Some(recomputed)) => first_field(join(part), live, recomputed),
        _ => Some((join(part), live.cloned(), recomputed.cloned())),
    };
    let found = match (live, recomputed) {
        (Value::Object(live), Value::Object(recomputed)) => {
            let names = recomputed.keys().chain(live.keys().filter(|name| !recomputed.contains_key(*name)));
            names.into_iter().find_map(|name| inner(name, live.get(name), recomputed.get(name)))
        }
        (Value::Array(live), Value::Array(recomputed)) => (0..live.len().max(recomputed.len()))
            .find_map(|index| inner(&index.to_string(), live.get(index), recomputed.get(index))),
        _ => None,
    };
    found.or_else(|| Some((path.clone(), Some(live.clone()), Some(recomputed.clone()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, value: Value) -> ViewRow {
        ViewRow { key: key.to_owned(), value, too_large: None }
    }

    fn lines(live: &[ViewRow], recomputed: &[ViewRow]) -> Vec<String> {
        differences("store-daily.revisions", live, recomputed).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn difference_is_named_by_report_key_date_revision_and_field() {
        let with =
            |gross: i64| row("2012-01-31/2506#000002", json!({ "a": 1, "difference": { "gross": gross } }));
        assert_eq!(
            lines(&[with(5)], &[with(7)]),
            ["store-daily 2506 of 2012-01-31, revision 2, difference.gross: is 5, the events say 7"]
        );
        assert!(lines(&[with(5)], &[with(5)]).is_empty());
    }

    #[test]
    fn rows_that_are_missing_or_unmade_are_named_in_key_order() {
        let (one, two) = (row("2012-01-31/1#000001", json!({})), row("2012-01-31/2#000001", json!({})));
        assert_eq!(
            lines(&[two], &[one]),
            [
                "store-daily 1 of 2012-01-31, revision 1: missing from store-daily.revisions, the events say {}",
                "store-daily 2 of 2012-01-31, revision 1: stands in store-daily.revisions, but no event made it: {}",
            ]
        );
    }

    #[test]
    fn longer_lists_and_added_fields_differ() {
        let long = row("d/k#000001/000003", json!({ "lines": [1, 2] }));
        let short = row("d/k#000001/000003", json!({ "lines": [1], "more": null }));
        let found = differences("store-daily.differences", &[long], &[short]);
        assert_eq!(found[0].to_json()["field"], "lines.1");
        assert_eq!(found[0].to_json()["line"], 3);
        let added = differences("t", &[row("k", json!({}))], &[row("k", json!({ "more": null }))]);
        assert_eq!(added[0].field.as_deref(), Some("more"));
    }

    #[test]
    fn other_bytes_of_equal_rows_are_found() {
        let live = br#"{"rows":[{"key":"a","value":{}},{"key":"b","value":{"x":1,"y":2}}],"cursor":null}"#;
        let other = br#"{"rows":[{"key":"a","value":{}},{"key":"b","value":{"y":2,"x":1}}],"cursor":null}"#;
        assert_eq!(form("t", live, other).unwrap().row, "b");
        assert_eq!(form("t", live, live), None);
    }
}
