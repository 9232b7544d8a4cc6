//! `GET /contexts/{context}`: the views of a context and the commands of its aggregates, as far as the key grants them.

use askama::Template;
use axum::{
    extract::{Path, rejection::PathRejection},
    http::StatusCode,
    response::Response,
};

use super::{
    address,
    command_page::id_hint,
    layout::{Frame, page},
    page_request::Visit,
    value_text::label,
};
use crate::{openapi::commands::offered, problem::Problem};

#[derive(Template)]
#[template(path = "pages/context.html")]
struct ContextPage<'a> {
    frame: Frame<'a>,
    name: &'a str,
    views: Vec<View<'a>>,
    aggregates: Vec<Aggregate>,
}

struct View<'a> {
    name: &'a str,
    to: String,
}

struct Aggregate {
    name: &'static str,
    label: String,
    to: String,
    id_form: String,
    commands: Vec<(&'static str, String)>,
}

/// The page.
pub(super) async fn get(
    visit: Visit,
    context: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let Path(context) = context?;
    if !visit.pages.contexts.contains(&context) {
        let detail = format!("there is no context {context}");
        return Err(Problem::new(StatusCode::NOT_FOUND, "address-unknown", detail));
    }
    let all = visit.pages.commands.views.known.iter();
    let views = all.filter(|(of, view)| *of == context && visit.principal.may_ask(&context, view));
    let views = views.map(|(_, name)| View { name, to: address::path(&["views", &context, name]) }).collect();
    let all = visit.pages.commands.aggregates.iter().filter(|aggregate| aggregate.context() == context);
    let aggregates = all.map(|aggregate| {
        let name = aggregate.aggregate();
        let granted =
            offered(aggregate.as_ref()).filter(|command| visit.principal.may_give(&context, name, command));
        let commands =
            granted.map(|command| (command, address::path(&["commands", &context, name, command])));
        Aggregate {
            name,
            label: label(name),
            to: address::path(&["aggregates", &context, name]),
            id_form: id_hint(aggregate.as_ref()),
            commands: commands.collect(),
        }
    });
    let aggregates = aggregates.collect();
    page(StatusCode::OK, &ContextPage { frame: Frame::new(&visit), name: &context, views, aggregates })
}
