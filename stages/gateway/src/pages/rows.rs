//! `GET /views/{context}/{view}`: a page of rows of any view, with the parameters of lists. Each row's parts are on its own page.

use askama::Template;
use axum::{
    extract::{Path, rejection::PathRejection},
    http::StatusCode,
    response::{IntoResponse as _, Redirect, Response},
};

use super::{
    address,
    layout::{Frame, page},
    page_request::Visit,
    value_text::{Shown, label},
};
use crate::problem::Problem;

/// The number of rows on a page: as many as a person looks through.
const ROWS: &str = "50";
/// The number of columns besides the key: as many as a wide screen shows.
const COLUMNS_MAX: usize = 8;
/// The parameters that a link to the next page keeps.
const KEPT: [&str; 4] = ["prefix", "from", "to", "reverse"];

#[derive(Template)]
#[template(path = "pages/rows.html")]
struct Rows<'a> {
    frame: Frame<'a>,
    context: &'a str,
    title: String,
    caption: String,
    table: Table,
    prefix: &'a str,
    reverse: bool,
    first: String,
    next: String,
    is_first: bool,
}

/// Rows as a table.
pub(super) struct Table {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Line>,
}

pub(super) struct Column {
    pub(super) label: String,
    pub(super) is_number: bool,
}

pub(super) struct Line {
    pub(super) key: String,
    pub(super) to: String,
    /// The markup of each cell, and whether it is a number.
    pub(super) cells: Vec<(String, bool)>,
}

/// The page.
pub(super) async fn get(
    visit: Visit,
    parts: Result<Path<[String; 2]>, PathRejection>,
) -> Result<Response, Problem> {
    let Path([context, view]) = parts?;
    let prefix = visit.parameter("prefix");
    if !visit.principal.may_list(&context, &view, prefix)
        && let Some(first) = visit.principal.first_prefix(&context, &view)
        && prefix.is_empty()
    {
        // A key that grants only a part of the view leads to that part.
        let to = address::with(&visit.path, &[("prefix", first)]);
        return Ok(Redirect::to(&to).into_response());
    }
    let key = visit.parameter("key");
    if !key.is_empty() {
        return Ok(Redirect::to(&address::path_to_key(&["views", &context, &view], key)).into_response());
    }
    let mut parameters = vec![("limit", ROWS), ("cursor", visit.parameter("cursor"))];
    parameters.extend(KEPT.map(|name| (name, visit.parameter(name))));
    let answer = visit.rows([&context, &view], &parameters).await?;
    let body = answer.shown();
    let table = table(&["views", &context, &view], body.field("rows").map(Shown::items).unwrap_or_default());
    let kept = KEPT.map(|name| (name, visit.parameter(name)));
    let (first, cursor) = (address::with(&visit.path, &kept), body.text("cursor"));
    let next = if cursor.is_empty() {
        String::new()
    } else {
        let all: Vec<_> = kept.into_iter().chain([("cursor", cursor.as_str())]).collect();
        address::with(&visit.path, &all)
    };
    let watched = [("list", format!("{context}/{view}/{prefix}"))];
    let rows = Rows {
        frame: Frame::new(&visit).watching(&watched, &answer.position),
        context: &context,
        title: label(&view),
        caption: format!("Rows of {view}"),
        table,
        prefix,
        reverse: visit.parameter("reverse") == "true",
        first,
        next,
        is_first: visit.parameter("cursor").is_empty(),
    };
    page(StatusCode::OK, &rows)
}

/// Rows of a view as a table: their plain fields, as many as there is room for.
pub(super) fn table(place: &[&str], rows: &[Shown]) -> Table {
    let mut names: Vec<&str> = Vec::new();
    let values: Vec<&Shown> = rows.iter().filter_map(|row| row.field("value")).collect();
    for (name, value) in values.iter().flat_map(|value| value.fields()) {
        if value.is_plain() && !names.contains(&name.as_str()) && names.len() < COLUMNS_MAX {
            names.push(name);
        }
    }
    let is_number = |name: &str| {
        let mut found = values.iter().filter_map(|value| value.field(name)).peekable();
        found.peek().is_some() && found.all(Shown::is_number)
    };
    let columns: Vec<Column> =
        names.iter().map(|name| Column { label: label(name), is_number: is_number(name) }).collect();
    let line = |row: &Shown| {
        let key = row.text("key");
        let value = row.field("value").cloned().unwrap_or_default();
        let cells = names.iter().zip(&columns).map(|(name, column)| {
            let cell = value
                .field(name)
                .map(|value| if *value == Shown::Nothing { String::new() } else { value.html() });
            (cell.unwrap_or_default(), column.is_number)
        });
        Line { to: address::path_to_key(place, &key), cells: cells.collect(), key }
    };
    Table { rows: rows.iter().map(line).collect(), columns }
}
