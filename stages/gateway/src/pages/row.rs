//! `GET /views/{context}/{view}/{key}`: a row of any view, with all its parts. If the view has the name of an aggregate, this is the
//! aggregate's page.

use askama::Template;
use axum::{
    extract::{Path, rejection::PathRejection},
    http::StatusCode,
    response::Response,
};

use millstream_contract::subject::StreamId;

use super::{
    address, aggregate,
    layout::{Frame, page},
    page_request::Visit,
    value_text::{Shown, label},
};
use crate::problem::Problem;

#[derive(Template)]
#[template(path = "pages/row.html")]
struct Row<'a> {
    frame: Frame<'a>,
    context: &'a str,
    title: String,
    list: String,
    key: &'a str,
    value: String,
    json: String,
}

/// The page.
pub(super) async fn get(
    visit: Visit,
    parts: Result<Path<[String; 3]>, PathRejection>,
) -> Result<Response, Problem> {
    let Path([context, view, key]) = parts?;
    if visit.pages.commands.aggregates.get(&context, &view).is_some()
        && StreamId::new(&context, &view, &key).is_ok()
    {
        return aggregate::page_of(&visit, &context, &view, &key).await;
    }
    let answer = visit.row([&context, &view], &key).await?;
    let body = answer.shown();
    let watched = [("watch", format!("{context}/{view}/{key}"))];
    let row = Row {
        frame: Frame::new(&visit).watching(&watched, &answer.position),
        context: &context,
        title: label(&view),
        list: address::path(&["views", &context, &view]),
        key: &key,
        value: body.field("value").map(Shown::html).unwrap_or_default(),
        json: String::from_utf8_lossy(&answer.body).into_owned(),
    };
    page(StatusCode::OK, &row)
}
