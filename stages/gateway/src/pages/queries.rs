//! `GET /queries`: the configured queries that the key grants, context by context.

use askama::Template;
use axum::{http::StatusCode, response::Response};

use super::{
    address,
    layout::{Frame, page},
    page_request::Visit,
};
use crate::{configured_queries::Offered, problem::Problem};

#[derive(Template)]
#[template(path = "pages/queries.html")]
struct Queries<'a> {
    frame: Frame<'a>,
    contexts: Vec<Context>,
    /// Contexts whose queries are unknown, because nobody answers.
    unanswered: String,
}

struct Context {
    name: String,
    queries: Vec<Query>,
}

struct Query {
    title: String,
    description: String,
    to: String,
}

/// The page.
pub(super) async fn get(visit: Visit) -> Result<Response, Problem> {
    let (offered, unanswered) = visit.pages.commands.offered(&visit.principal).await?;
    let mut contexts: Vec<Context> = Vec::new();
    for Offered { query, .. } in offered {
        let to = address::path(&["queries", &query.context, &query.name]);
        let shown = Query { title: query.title, description: query.description, to };
        match contexts.last_mut().filter(|last| last.name == query.context) {
            Some(last) => last.queries.push(shown),
            None => contexts.push(Context { name: query.context, queries: vec![shown] }),
        }
    }
    let queries = Queries { frame: Frame::new(&visit), contexts, unanswered: unanswered.join(", ") };
    page(StatusCode::OK, &queries)
}
