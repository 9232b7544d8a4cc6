//! `GET /reports/{report}`: a business date of any report: its rows, with a bar for one figure. Without `date`, it is the newest date.
//!
//! A user whose key only grants single rows of a report sees a form that leads to them.

use askama::Template;
use axum::{
    extract::{Path, rejection::PathRejection},
    http::StatusCode,
    response::{IntoResponse as _, Redirect, Response},
};
use millstream_domain::report::{Column, ColumnKind};
use millstream_values::report_table::{self, CURRENCY_COLUMN};
use serde_json::{Value, json};

use super::{
    address,
    api::read,
    chart,
    layout::{Frame, page},
    page_request::Visit,
    value_text::{Shown, label},
};
use crate::{config::KnownReport, problem::Problem};

/// How many rows are searched for the newest dates.
const NEWEST_ROWS: &str = "500";
/// How many dates a page offers.
const DATES_MAX: usize = 8;
/// The number of a date's rows on a page.
const ROWS: &str = "100";

#[derive(Template)]
#[template(path = "pages/report_list.html")]
struct ReportList<'a> {
    frame: Frame<'a>,
    title: String,
    date: String,
    dates: Vec<(String, String)>,
    figures: Vec<Choice>,
    columns: Vec<Head>,
    rows: Vec<Line>,
    totals: Vec<(String, bool)>,
    export: String,
    first: String,
    next: String,
    /// Whether the key does not grant a list.
    only_rows: bool,
}

struct Choice {
    name: &'static str,
    label: String,
    is_chosen: bool,
}

struct Head {
    label: String,
    is_number: bool,
}

struct Line {
    key: String,
    to: String,
    status: String,
    cells: Vec<Cell>,
}

struct Cell {
    text: String,
    is_number: bool,
    bar: Option<String>,
}

/// Columns that are shown in the head of the page or of the line.
const NOT_IN_TABLE: [&str; 2] = ["status", "business_date"];

/// The page.
pub(super) async fn get(
    visit: Visit,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let Path(name) = name?;
    let report = visit.pages.report(&name)?.clone();
    let (date, key) = (visit.parameter("date"), visit.parameter("key"));
    if !date.is_empty() && !key.is_empty() {
        let to = address::path_to_key(&["reports", &name], &format!("{date}/{key}"));
        return Ok(Redirect::to(&to).into_response());
    }
    let only_rows = !visit.principal.may_list(report.context, &report.name, "");
    let mut dates = Vec::new();
    if !only_rows {
        let newest = [("reverse", "true"), ("limit", NEWEST_ROWS)];
        let newest = read(visit.reports(&name, &newest, "application/json").await).await?.shown();
        for row in newest.field("rows").map(Shown::items).unwrap_or_default() {
            let key = row.text("key");
            let date = key.split_once('/').map_or(key.as_str(), |(date, _)| date).to_owned();
            if !dates.contains(&date) && dates.len() < DATES_MAX {
                dates.push(date);
            }
        }
    }
    let date = if date.is_empty() { dates.first().cloned().unwrap_or_default() } else { date.to_owned() };
    let chosen = chosen_figure(&report, visit.parameter("figure"));
    let list_of =
        |date: &str| address::with(&visit.path, &[("date", date), ("figure", visit.parameter("figure"))]);
    let dates = dates.into_iter().map(|date| (list_of(&date), date)).collect();
    let figures = report.columns.iter().filter(|column| column.is_figure()).map(|column| Choice {
        name: column.name,
        label: label(column.name),
        is_chosen: chosen.is_some_and(|chosen| chosen.name == column.name),
    });
    let is_empty = only_rows || date.is_empty();
    let of_date =
        if is_empty { OfDate::default() } else { rows_of(&visit, &name, &report, &date, chosen).await? };
    let OfDate { columns, rows, totals, cursor, position } = of_date;
    let prefix = format!("{date}/");
    let watched = [("list", format!("{}/{}/{prefix}", report.context, report.name))];
    let frame = Frame::new(&visit);
    let frame = if is_empty { frame } else { frame.watching(&watched, &position) };
    let next = if cursor.is_empty() {
        String::new()
    } else {
        address::with(
            &visit.path,
            &[("date", &date), ("figure", visit.parameter("figure")), ("cursor", &cursor)],
        )
    };
    let list = ReportList {
        frame,
        title: label(&report.name),
        first: if visit.parameter("cursor").is_empty() { String::new() } else { list_of(&date) },
        export: address::with(&address::path(&["export", &name]), &[("prefix", &prefix)]),
        dates,
        figures: figures.collect(),
        columns: heads(&columns),
        rows,
        totals,
        next,
        only_rows,
        date,
    };
    page(StatusCode::OK, &list)
}

/// The figure of bars and charts: the requested one, else the last amount, else the first figure.
pub(super) fn chosen_figure(report: &KnownReport, asked: &str) -> Option<&'static Column> {
    let mut figures = report.columns.iter().filter(|column| column.is_figure());
    let asked = figures.clone().find(|column| column.name == asked);
    asked
        .or_else(|| figures.clone().rfind(|column| column.kind == ColumnKind::Amount))
        .or_else(|| figures.next())
}

fn heads(columns: &[Column]) -> Vec<Head> {
    let head =
        |column: &Column| Head { label: label(column.name), is_number: column.kind != ColumnKind::Text };
    columns.iter().map(head).collect()
}

/// The rows of a date, as the page shows them.
#[derive(Default)]
struct OfDate {
    columns: Vec<Column>,
    rows: Vec<Line>,
    totals: Vec<(String, bool)>,
    cursor: String,
    position: String,
}

/// The columns of a table, without those that only repeat the keys of its rows.
fn in_table(report: &KnownReport, rows: &[Value], prefix: &str) -> Vec<Column> {
    let says_the_key = |column: &Column| {
        let mut rows = rows.iter();
        rows.all(|row| {
            let key = row.get("key").and_then(Value::as_str).and_then(|key| key.strip_prefix(prefix));
            key.is_some() && key == row.pointer(&format!("/value/{}", column.name)).and_then(Value::as_str)
        })
    };
    let shown = report.columns.iter().filter(|column| !NOT_IN_TABLE.contains(&column.name));
    shown.filter(|column| !says_the_key(column)).copied().collect()
}

async fn rows_of(
    visit: &Visit,
    name: &str,
    report: &KnownReport,
    date: &str,
    chosen: Option<&Column>,
) -> Result<OfDate, Problem> {
    let prefix = format!("{date}/");
    let parameters = [("prefix", prefix.as_str()), ("limit", ROWS), ("cursor", visit.parameter("cursor"))];
    let answer = read(visit.reports(name, &parameters, "application/json").await).await?;
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let found = body.get("rows").and_then(Value::as_array).cloned().unwrap_or_default();
    let cursor = body.get("cursor").and_then(Value::as_str).unwrap_or_default().to_owned();
    let values: Vec<&Value> = found.iter().filter_map(|row| row.get("value")).collect();
    let figure = |value: &Value| chosen.and_then(|column| value.get(column.name)).and_then(Value::as_i64);
    let most =
        values.iter().filter_map(|value| figure(value)).map(i64::unsigned_abs).max().unwrap_or_default();
    let columns = in_table(report, &found, &prefix);
    let line = |row: &Value| {
        let key = row.get("key").and_then(Value::as_str).unwrap_or_default();
        let value = row.get("value").unwrap_or(&Value::Null);
        let texts = report_table::cells(value, &columns);
        let cells = columns.iter().zip(texts).map(|(column, text)| Cell {
            text,
            is_number: column.kind != ColumnKind::Text,
            bar: chosen
                .filter(|chosen| chosen.name == column.name)
                .and_then(|_| Some(chart::bar(figure(value)?, most))),
        });
        Line {
            to: address::path_to_key(&["reports", name], key),
            key: key.strip_prefix(&prefix).unwrap_or(key).to_owned(),
            status: value.get("status").and_then(Value::as_str).unwrap_or_default().to_owned(),
            cells: cells.collect(),
        }
    };
    let rows: Vec<Line> = found.iter().map(line).collect();
    let whole = cursor.is_empty() && visit.parameter("cursor").is_empty();
    let totals = if whole && rows.len() > 1 { totals(&columns, &values) } else { Vec::new() };
    Ok(OfDate { columns, rows, totals, cursor, position: answer.position })
}

/// The sums of figures. Amounts only have a sum if all rows are in one currency.
fn totals(columns: &[Column], values: &[&Value]) -> Vec<(String, bool)> {
    let currency = values.first().and_then(|value| value.get(CURRENCY_COLUMN)).cloned().unwrap_or_default();
    let is_one = values.iter().all(|value| value.get(CURRENCY_COLUMN).unwrap_or(&Value::Null) == &currency);
    let mut sums = json!({ CURRENCY_COLUMN: currency });
    for column in columns.iter().filter(|column| column.is_figure()) {
        let sum =
            values.iter().filter_map(|value| value.get(column.name)?.as_i64()).map(i128::from).sum::<i128>();
        let is_known = is_one || column.kind == ColumnKind::Count;
        if let (true, Ok(sum), Some(sums)) = (is_known, i64::try_from(sum), sums.as_object_mut()) {
            sums.insert(column.name.to_owned(), sum.into());
        }
    }
    if let (false, Some(sums)) = (is_one, sums.as_object_mut()) {
        sums.remove(CURRENCY_COLUMN);
    }
    let cells = report_table::cells(&sums, columns);
    columns.iter().zip(cells).map(|(column, cell)| (cell, column.kind != ColumnKind::Text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_added_in_one_currency_alone() {
        let columns = [
            Column::new("sales", ColumnKind::Count),
            Column::new("net", ColumnKind::Amount),
            Column::new("currency", ColumnKind::Text),
        ];
        let [dollars, more, yen] = [(1, 1050, "USD"), (2, -50, "USD"), (3, 7, "JPY")]
            .map(|(sales, net, currency)| json!({ "sales": sales, "net": net, "currency": currency }));
        let texts = |values: &[&Value]| {
            totals(&columns, values).into_iter().map(|(text, _)| text).collect::<Vec<_>>()
        };
        assert_eq!(texts(&[&dollars, &more]), ["3", "10.00", "USD"]);
        assert_eq!(texts(&[&dollars, &yen]), ["4", "", ""]);
    }
}
