//! A report as a table of texts, with a cell for each column and amounts as decimals in the row's currency; and as CSV (RFC 4180).
//!
//! Both are in one place, so that a figure looks the same wherever a report is written. Deliberately absent: where rows come from, and how a
//! terminal shows them.

use millstream_domain::report::{Column, ColumnKind};
use serde_json::Value;

use crate::money::decimal_in;

/// The column with the currency of a row's amounts.
pub const CURRENCY_COLUMN: &str = "currency";

/// The line end of CSV.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEnd {
    /// The Unix line end, for pipes and files.
    LineFeed,
    /// The line end of RFC 4180, for `text/csv` over HTTP.
    CarriageReturnLineFeed,
}

/// The cells of a row, one for each column. A missing field is an empty cell.
pub fn cells(row: &Value, columns: &[Column]) -> Vec<String> {
    columns.iter().map(|column| cell_of(row, column)).collect()
}

fn cell_of(row: &Value, column: &Column) -> String {
    let value = row.get(column.name).unwrap_or(&Value::Null);
    match (column.kind, value.as_i64()) {
        (ColumnKind::Amount, Some(units)) => {
            decimal_in(row.get(CURRENCY_COLUMN).and_then(Value::as_str), units)
        }
        _ => cell(value),
    }
}

/// A JSON value as a cell: text without quotes, and nothing for null.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// CSV with a header line, in UTF-8. Every line has a line end, including the last one. Rows have as many cells as there are names.
pub fn csv(names: &[&str], rows: &[Vec<String>], line_end: LineEnd) -> Vec<u8> {
    let terminator = match line_end {
        LineEnd::LineFeed => csv::Terminator::Any(b'\n'),
        LineEnd::CarriageReturnLineFeed => csv::Terminator::CRLF,
    };
    let mut writer = csv::WriterBuilder::new().terminator(terminator).from_writer(Vec::new());
    let written =
        writer.write_record(names).and_then(|()| rows.iter().try_for_each(|row| writer.write_record(row)));
    written.expect("rows in memory have the same number of fields and can be written");
    writer.into_inner().expect("memory can be flushed")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const COLUMNS: [Column; 4] = [
        Column::new("store", ColumnKind::Text),
        Column::new("sales", ColumnKind::Count),
        Column::new("net_amount", ColumnKind::Amount),
        Column::new(CURRENCY_COLUMN, ColumnKind::Text),
    ];

    #[test]
    fn amounts_have_the_places_of_their_currency_and_nothing_else_has() {
        for (currency, shown) in [(json!("USD"), "-0.05"), (json!("JPY"), "-5"), (json!("KWD"), "-0.005")] {
            let row = json!({ "store": "2506", "sales": 2, "net_amount": -5, "currency": currency });
            assert_eq!(cells(&row, &COLUMNS)[..3], ["2506", "2", shown]);
        }
        assert_eq!(cells(&json!({ "net_amount": 1200 }), &COLUMNS), ["", "", "12.00", ""]);
    }

    #[test]
    fn csv_is_quoted_where_it_must_be_and_every_line_ends() {
        let rows = [vec!["a,\"b\"\r\nc".to_owned(), " ".to_owned()]];
        let text = |line_end| String::from_utf8(csv(&["name", "units"], &rows, line_end)).unwrap();
        assert_eq!(text(LineEnd::CarriageReturnLineFeed), "name,units\r\n\"a,\"\"b\"\"\r\nc\", \r\n");
        assert_eq!(text(LineEnd::LineFeed), "name,units\n\"a,\"\"b\"\"\r\nc\", \n");
        assert_eq!(csv(&["name"], &[], LineEnd::LineFeed), b"name\n");
    }
}
