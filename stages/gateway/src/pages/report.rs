//! `GET /reports/{report}/{date}/{key}`: a row of any report: its figures, their course from day to day, its revisions, and the differences
//! between a revision and the one before. With `figure`, it is the page of that figure.

use askama::Template;
use axum::{
    extract::{Path, rejection::PathRejection},
    http::StatusCode,
    response::Response,
};
use millstream_domain::report::{Column, ColumnKind};
use millstream_values::report_table::{self, CURRENCY_COLUMN};
use serde_json::{Value, json};

use super::{
    address,
    api::{Answer, read},
    figure,
    layout::{Frame, page},
    page_request::Visit,
    report_chart::Chart,
    report_list::chosen_figure,
    value_text::{Shown, label},
};
use crate::{config::KnownReport, problem::Problem};

/// The number of lines of differences on a page.
const LINES: &str = "200";

#[derive(Template)]
#[template(path = "pages/report.html")]
struct ReportRow<'a> {
    frame: Frame<'a>,
    name: &'a str,
    title: String,
    list: String,
    date: &'a str,
    key: &'a str,
    head: Head,
    tiles: Vec<Tile>,
    chart: Option<Chart>,
    revisions: Vec<RevisionLine>,
    difference: Option<Difference>,
    export: String,
    details: String,
}

/// The ledger's fields of a revision.
pub(super) struct Head {
    pub(super) status: String,
    pub(super) revision: u64,
    pub(super) texts: Vec<(String, String)>,
}

struct Tile {
    label: String,
    value: String,
    unit: String,
    change: String,
    to: String,
}

struct RevisionLine {
    number: u64,
    to: String,
    is_shown: bool,
    status: String,
    opened: String,
    sealed: String,
    figure: String,
}

struct Difference {
    revision: u64,
    columns: Vec<String>,
    lines: Vec<DifferenceLine>,
    is_cut: bool,
}

struct DifferenceLine {
    reference: String,
    event_type: String,
    event: String,
    recorded: String,
    cells: Vec<String>,
}

/// The row of a report that was requested.
pub(super) struct Asked<'a> {
    pub(super) visit: &'a Visit,
    pub(super) name: &'a str,
    pub(super) report: &'a KnownReport,
    /// Date and key.
    pub(super) place: &'a str,
    pub(super) date: &'a str,
    pub(super) key: &'a str,
    pub(super) answer: &'a Answer,
    pub(super) value: &'a Value,
}

/// The page.
pub(super) async fn get(
    visit: Visit,
    parts: Result<Path<[String; 2]>, PathRejection>,
) -> Result<Response, Problem> {
    let Path([name, place]) = parts?;
    let report = visit.pages.report(&name)?.clone();
    let (date, key) = place.split_once('/').unwrap_or(("", &place));
    let revision = visit.parameter("revision");
    let answer = visit.report(&name, &place, &[("revision", revision)], "application/json").await;
    let answer = read(answer).await?;
    let row: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let value = row.get("value").cloned().unwrap_or_default();
    let asked = Asked {
        visit: &visit,
        name: &name,
        report: &report,
        place: &place,
        date,
        key,
        answer: &answer,
        value: &value,
    };
    if visit.parameter("figure").is_empty() { asked.page().await } else { figure::page_of(&asked).await }
}

impl Asked<'_> {
    /// The address of this row with other parameters.
    pub(super) fn to(&self, parameters: &[(&str, &str)]) -> String {
        address::with(&address::path_to_key(&["reports", self.name], self.place), parameters)
    }

    /// What to watch while the page is open.
    pub(super) fn watched(&self) -> [(&'static str, String); 1] {
        [("watch", format!("{}/{}/{}", self.report.context, self.report.name, self.place))]
    }

    /// A figure in a readable form.
    pub(super) fn written(&self, column: &Column, units: i64) -> String {
        let currency = self.value.get(CURRENCY_COLUMN).cloned().unwrap_or_default();
        let row = json!({ column.name: units, CURRENCY_COLUMN: currency });
        report_table::cells(&row, &[*column]).pop().unwrap_or_default()
    }

    /// The unit of an amount.
    pub(super) fn unit(&self, column: &Column) -> String {
        let currency = self.value.get(CURRENCY_COLUMN).and_then(Value::as_str);
        currency.filter(|_| column.kind == ColumnKind::Amount).unwrap_or_default().to_owned()
    }

    pub(super) fn head(&self) -> Head {
        let text = |name: &str| report_table::cell(self.value.get(name).unwrap_or(&Value::Null));
        let shown = self.report.columns.iter().filter(|column| {
            column.kind == ColumnKind::Text && !["status", "business_date"].contains(&column.name)
        });
        let shown = shown.map(|column| (label(column.name), text(column.name)));
        Head {
            status: text("status"),
            revision: self.value.get("revision").and_then(Value::as_u64).unwrap_or_default(),
            texts: shown.filter(|(_, text)| !text.is_empty() && text != self.key).collect(),
        }
    }

    async fn page(&self) -> Result<Response, Problem> {
        let head = self.head();
        let chosen = chosen_figure(self.report, "");
        let (chart, revisions, difference) = futures::join!(
            async { self.chart(chosen?).await },
            self.revisions(chosen, head.revision),
            self.difference(head.revision),
        );
        let row = ReportRow {
            frame: Frame::new(self.visit).watching(&self.watched(), &self.answer.position),
            name: self.name,
            title: label(&self.report.name),
            list: address::with(&address::path(&["reports", self.name]), &[("date", self.date)]),
            date: self.date,
            key: self.key,
            tiles: self.tiles(),
            export: address::path_to_key(&["export", self.name], self.place),
            details: self.details(),
            chart,
            revisions,
            difference,
            head,
        };
        page(StatusCode::OK, &row)
    }

    fn tiles(&self) -> Vec<Tile> {
        let revision = self.visit.parameter("revision");
        let tile = |column: &Column| {
            let added =
                self.value.get("difference").and_then(|all| all.get(column.name)).and_then(Value::as_i64);
            let change = added.filter(|added| *added != 0).map(|added| {
                let sign = if added > 0 { "+" } else { "" };
                format!("{sign}{} since the revision before", self.written(column, added))
            });
            Tile {
                label: label(column.name),
                value: report_table::cells(self.value, &[*column]).pop().unwrap_or_default(),
                unit: self.unit(column),
                change: change.unwrap_or_default(),
                to: self.to(&[("figure", column.name), ("revision", revision)]),
            }
        };
        self.report.columns.iter().filter(|column| column.is_figure()).map(tile).collect()
    }

    /// All revisions, the newest first; none if the key does not grant them.
    async fn revisions(&self, chosen: Option<&Column>, shown: u64) -> Vec<RevisionLine> {
        let asked = [("revision", "all"), ("reverse", "true"), ("limit", LINES)];
        let Ok(answer) =
            read(self.visit.report(self.name, self.place, &asked, "application/json").await).await
        else {
            return Vec::new();
        };
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let rows = body.get("rows").and_then(Value::as_array).cloned().unwrap_or_default();
        let line = |row: &Value| {
            let value = row.get("value")?;
            let text = |name: &str| report_table::cell(value.get(name).unwrap_or(&Value::Null));
            let number = value.get("revision").and_then(Value::as_u64)?;
            let figure =
                chosen.map(|column| report_table::cells(value, &[*column]).pop().unwrap_or_default());
            Some(RevisionLine {
                number,
                to: self.to(&[("revision", &number.to_string())]),
                is_shown: number == shown,
                status: text("status"),
                opened: Shown::Text(text("opened_at")).html(),
                sealed: if text("sealed_at").is_empty() {
                    String::new()
                } else {
                    Shown::Text(text("sealed_at")).html()
                },
                figure: figure.unwrap_or_default(),
            })
        };
        rows.iter().filter_map(line).collect()
    }

    /// The lines by which a revision differs from the one before.
    async fn difference(&self, revision: u64) -> Option<Difference> {
        if revision < 2 {
            return None;
        }
        let number = revision.to_string();
        let asked = [("differences", number.as_str()), ("limit", LINES)];
        let answer =
            read(self.visit.report(self.name, self.place, &asked, "application/json").await).await.ok()?;
        let body: Value = serde_json::from_slice(&answer.body).ok()?;
        let rows = body.get("rows").and_then(Value::as_array)?;
        let values: Vec<&Value> = rows.iter().filter_map(|row| row.get("value")).collect();
        let added =
            |value: &Value, name: &str| value.pointer(&format!("/figures/{name}")).and_then(Value::as_i64);
        let columns: Vec<&Column> = self
            .report
            .columns
            .iter()
            .filter(|column| {
                column.is_figure()
                    && values.iter().any(|value| added(value, column.name).is_some_and(|units| units != 0))
            })
            .collect();
        let line = |value: &&Value| {
            let text = |name: &str| report_table::cell(value.get(name).unwrap_or(&Value::Null));
            let cells = columns.iter().map(|column| {
                added(value, column.name).map(|units| self.written(column, units)).unwrap_or_default()
            });
            DifferenceLine {
                reference: text("reference"),
                event_type: text("event_type"),
                event: address::path(&["events", &text("broker_sequence")]),
                recorded: Shown::Text(text("recorded_at")).html(),
                cells: cells.collect(),
            }
        };
        Some(Difference {
            revision,
            lines: values.iter().map(line).collect(),
            columns: columns.iter().map(|column| label(column.name)).collect(),
            is_cut: body.get("cursor").is_some_and(|cursor| !cursor.is_null()),
        })
    }

    /// The ledger's own fields of the revision.
    fn details(&self) -> String {
        let shown = self.answer.shown();
        let named = |name: &str| !self.report.columns.iter().any(|column| column.name == name);
        let fields = shown.field("value").map(Shown::fields).unwrap_or_default().iter();
        let fields =
            fields.filter(|(name, value)| named(name) && value.is_plain() && *value != Shown::Nothing);
        Shown::Record(fields.cloned().collect()).html()
    }
}
