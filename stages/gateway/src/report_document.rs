//! Converts a view's answer for a report into a document: pages with some of the rows, and CSV.
//!
//! Rows that are passed on keep the bytes that the view wrote. Pure.

use axum::http::StatusCode;
use bytes::Bytes;
use millstream_domain::report::{Column, ColumnKind};
use millstream_values::report_table::{self, CURRENCY_COLUMN, LineEnd};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use crate::problem::Problem;

/// The columns of a line of difference, before the report's figures.
const LINE_COLUMNS: [Column; 4] = [
    Column::new("reference", ColumnKind::Text),
    Column::new("event_type", ColumnKind::Text),
    Column::new("broker_sequence", ColumnKind::Number),
    Column::new("recorded_at", ColumnKind::Text),
];

/// A page of rows as the view has written them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Page {
    rows: Vec<Box<RawValue>>,
    cursor: Option<String>,
}

/// A parsed row.
#[derive(Debug, Deserialize)]
pub(crate) struct Row {
    key: String,
    #[serde(default)]
    pub(crate) value: Value,
    /// Takes the place of the value if no answer can hold it.
    too_large: Option<Value>,
}

impl Page {
    /// # Errors
    /// A [`Problem`] when it is not a page.
    pub(crate) fn read(body: &[u8]) -> Result<Self, Problem> {
        serde_json::from_slice(body).map_err(no_rows)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Where the list continues.
    pub(crate) fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// # Errors
    /// A [`Problem`] when a row is malformed.
    pub(crate) fn keep_keys_that_end_with(&mut self, end: &str) -> Result<(), Problem> {
        let mut kept = Vec::new();
        for row in self.rows.drain(..) {
            if read(row.get().as_bytes())?.key.ends_with(end) {
                kept.push(row);
            }
        }
        self.rows = kept;
        Ok(())
    }

    /// # Errors
    /// A [`Problem`] when a row is malformed.
    pub(crate) fn rows(&self) -> Result<Vec<Row>, Problem> {
        self.rows.iter().map(|row| read(row.get().as_bytes())).collect()
    }

    /// In the form in which it came.
    pub(crate) fn to_json(&self) -> Bytes {
        serde_json::to_vec(self).expect("rows that were read can be written").into()
    }
}

/// The answer to `get`.
///
/// # Errors
/// A [`Problem`] when it is not a row.
pub(crate) fn row(body: &[u8]) -> Result<Row, Problem> {
    read(body)
}

/// The rows of a report as `millstream report --format csv` writes them, with the line ends of RFC 4180.
///
/// # Errors
/// A [`Problem`] for a row that no answer can hold, because a table without its figures would look as if there were none.
pub(crate) fn csv(columns: &[Column], rows: &[Row]) -> Result<Bytes, Problem> {
    let mut cells = Vec::with_capacity(rows.len());
    for row in rows {
        whole(row)?;
        cells.push(report_table::cells(&row.value, columns));
    }
    let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
    Ok(report_table::csv(&names, &cells, LineEnd::CarriageReturnLineFeed).into())
}

/// Lines of difference: what caused each line, and what it adds to the figures, which are in `currency`.
///
/// # Errors
/// As [`csv`].
pub(crate) fn differences_csv(
    columns: &[Column],
    lines: Vec<Row>,
    currency: &Value,
) -> Result<Bytes, Problem> {
    let shown = columns.iter().filter(|column| column.is_figure() || column.name == CURRENCY_COLUMN);
    let shown: Vec<Column> = LINE_COLUMNS.iter().chain(shown).copied().collect();
    let mut rows = Vec::with_capacity(lines.len());
    for mut line in lines {
        whole(&line)?;
        if let Value::Object(fields) = &mut line.value {
            if let Some(Value::Object(figures)) = fields.remove("figures") {
                fields.extend(figures);
            }
            fields.insert(CURRENCY_COLUMN.to_owned(), currency.clone());
        }
        rows.push(line);
    }
    csv(&shown, &rows)
}

fn read(row: &[u8]) -> Result<Row, Problem> {
    serde_json::from_slice(row).map_err(no_rows)
}

fn whole(row: &Row) -> Result<(), Problem> {
    match &row.too_large {
        None => Ok(()),
        Some(size) => {
            let detail = format!("no answer can hold the row {}: {size}", row.key);
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "row-too-large", detail))
        }
    }
}

fn no_rows(error: serde_json::Error) -> Problem {
    let detail = format!("the view answers with something else than rows: {error}");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "view-failed", detail)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const COLUMNS: [Column; 4] = [
        Column::new("store", ColumnKind::Text),
        Column::new("sales", ColumnKind::Count),
        Column::new("net_amount", ColumnKind::Amount),
        Column::new("currency", ColumnKind::Text),
    ];

    fn text(bytes: Result<Bytes, Problem>) -> String {
        String::from_utf8(bytes.unwrap().to_vec()).unwrap()
    }

    #[test]
    fn rows_that_are_taken_stay_as_they_were_written() {
        let body = r#"{"rows":[{"key":"d/7#000001","value":{"b":1.0,"a":2}},{"key":"d/7#000002","value":3}],"cursor":"31"}"#;
        let mut page = Page::read(body.as_bytes()).unwrap();
        assert_eq!(page.to_json(), body, "nothing is written anew");
        page.keep_keys_that_end_with("#000001").unwrap();
        assert_eq!(
            page.to_json(),
            r#"{"rows":[{"key":"d/7#000001","value":{"b":1.0,"a":2}}],"cursor":"31"}"#,
            "and the page goes on"
        );
        assert!(Page::read(b"[]").is_err());
    }

    #[test]
    fn differences_are_shown_in_the_currency_of_their_revision() {
        let line = json!({ "key": "d/7#000002/000001", "value": {
            "reference": "S-18", "event_type": "sale-recorded", "broker_sequence": 9,
            "recorded_at": "2012-02-01T08:00:00Z", "figures": { "sales": 1, "net_amount": -1500 },
        } });
        let lines = || vec![read(line.to_string().as_bytes()).unwrap()];
        let names = "reference,event_type,broker_sequence,recorded_at,sales,net_amount,currency\r\n";
        let cells = "S-18,sale-recorded,9,2012-02-01T08:00:00Z,1,-1.500,KWD\r\n";
        assert_eq!(text(differences_csv(&COLUMNS, lines(), &json!("KWD"))), format!("{names}{cells}"));
        assert_eq!(text(differences_csv(&COLUMNS, Vec::new(), &Value::Null)), names);
    }

    #[test]
    fn a_row_that_no_answer_holds_is_no_line_of_zeroes() {
        let row = read(br#"{"key":"d/7","too_large":{"bytes":9,"bytes_max":8}}"#).unwrap();
        assert!(csv(&COLUMNS, &[row]).unwrap_err().is(500, "row-too-large"));
    }
}
