//! `GET /aggregates/{context}/{aggregate}/{id}`: one aggregate: its row if a view has its name, its events with the newest first, its state as
//! of a moment, and forms for all commands that the key grants. It is the page of an order or a till, for example.

use askama::Template;
use axum::{
    extract::{Path, rejection::PathRejection},
    http::StatusCode,
    response::{IntoResponse as _, Redirect, Response},
};
use millstream_contract::{api_key::CommandPattern, subject::CommandAddress};
use millstream_domain::decider::AggregateType;

use super::{
    address,
    api::{Answer, Refusal},
    command_page::CommandForm,
    form::Filled,
    layout::{Frame, page},
    page_request::Visit,
    value_text::{Shown, label, time},
};
use crate::{openapi::commands::offered, problem::Problem};

/// The number of events on a page.
const EVENTS: &str = "25";

#[derive(Template)]
#[template(path = "pages/aggregate.html")]
struct AggregatePage<'a> {
    frame: Frame<'a>,
    context: &'a str,
    kind: String,
    list: String,
    id: &'a str,
    row: String,
    at: &'a str,
    state: Option<Result<String, String>>,
    history: History,
    forms: Vec<CommandForm>,
    done: String,
    reached: String,
}

/// The events.
#[derive(Default)]
struct History {
    /// Why they are not shown.
    why: String,
    events: Vec<Event>,
    first: String,
    next: String,
}

struct Event {
    name: String,
    version: String,
    to: String,
    recorded: String,
    actor: String,
    fields: String,
}

/// Leads to the aggregate whose id was entered.
pub(super) async fn open(
    visit: Visit,
    parts: Result<Path<[String; 2]>, PathRejection>,
) -> Result<Response, Problem> {
    let Path([context, aggregate]) = parts?;
    let to = match visit.parameter("id").trim() {
        "" => address::path(&["contexts", &context]),
        id => address::path(&["aggregates", &context, &aggregate, id]),
    };
    Ok(Redirect::to(&to).into_response())
}

/// The page.
pub(super) async fn get(
    visit: Visit,
    parts: Result<Path<[String; 3]>, PathRejection>,
) -> Result<Response, Problem> {
    let Path([context, aggregate, id]) = parts?;
    page_of(&visit, &context, &aggregate, &id).await
}

/// The page, at any of its addresses.
pub(super) async fn page_of(visit: &Visit, context: &str, name: &str, id: &str) -> Result<Response, Problem> {
    let aggregates = &visit.pages.commands.aggregates;
    let aggregate = aggregates.get(context, name).ok_or_else(|| {
        let detail = format!("there is no aggregate {context}.{name}");
        Problem::new(StatusCode::NOT_FOUND, "aggregate-unknown", detail)
    })?;
    let has_view = visit.pages.commands.views.check_known(context, name).is_ok();
    let row = async { if has_view { Some(visit.row([context, name], id).await) } else { None } };
    let past = [("before", visit.parameter("before")), ("limit", EVENTS)];
    let at = visit.parameter("at");
    let state = async {
        if at.is_empty() { None } else { Some(visit.history([context, name, id], &[("at", at)]).await) }
    };
    let (row, past, state) = futures::join!(row, visit.history([context, name, id], &past), state);
    let forms = forms(visit, aggregate.as_ref(), id, &past);
    check_something_is_granted(row.as_ref(), &past, &forms)?;
    let answer = row.and_then(Result::ok);
    let body = answer.as_ref().map(Answer::shown).unwrap_or_default();
    let frame = Frame::new(visit);
    let frame = match &answer {
        Some(answer) => frame.watching(&[("watch", format!("{context}/{name}/{id}"))], &answer.position),
        None => frame,
    };
    let done = visit.parameter("done");
    let aggregate_page = AggregatePage {
        frame,
        context,
        kind: label(name),
        list: if has_view { address::path(&["views", context, name]) } else { String::new() },
        id,
        row: body.field("value").map(Shown::html).unwrap_or_default(),
        at,
        state: state.map(|state| state.map(|answer| state_of(&answer)).map_err(|refusal| refusal.detail)),
        history: history(visit, past),
        done: if forms.iter().any(|form| form.name == done) { done.to_owned() } else { String::new() },
        reached: visit.parameter("version").to_owned(),
        forms,
    };
    page(StatusCode::OK, &aggregate_page)
}

/// If somebody may neither see nor do anything with an aggregate, the page does not even show whether it exists.
fn check_something_is_granted(
    row: Option<&Result<Answer, Refusal>>,
    past: &Result<Answer, Refusal>,
    forms: &[CommandForm],
) -> Result<(), Problem> {
    let refused = |refusal: &Refusal| refusal.status == StatusCode::FORBIDDEN;
    let unavailable =
        |refusal: &Refusal| ![StatusCode::FORBIDDEN, StatusCode::NOT_FOUND].contains(&refusal.status);
    match (row, past) {
        // What cannot be read now must not look as if there were nothing.
        (Some(Err(refusal)), _) if unavailable(refusal) => Err(refusal.clone().into()),
        (row, Err(refusal)) if refused(refusal) && forms.is_empty() => match row {
            None => Err(refusal.clone().into()),
            Some(Err(row)) => Err(row.clone().into()),
            Some(Ok(_)) => Ok(()),
        },
        _ => Ok(()),
    }
}

fn state_of(answer: &Answer) -> String {
    let shown = answer.shown();
    shown.field("state").map_or_else(|| shown.html(), Shown::html)
}

fn history(visit: &Visit, past: Result<Answer, Refusal>) -> History {
    let answer = match past {
        Ok(answer) => answer,
        Err(refusal) => {
            let why = match refusal.status {
                StatusCode::FORBIDDEN => "Your key does not grant what has happened.".to_owned(),
                StatusCode::NOT_FOUND => "Nothing has happened yet.".to_owned(),
                _ => refusal.detail,
            };
            return History { why, ..History::default() };
        }
    };
    let body = answer.shown();
    let event = |event: &Shown| {
        let recorded = event.text("recorded_at");
        let fields = event.field("data").filter(|data| !data.fields().is_empty());
        Event {
            name: label(&event.text("type")),
            version: event.text("version"),
            to: address::path(&["events", &event.text("sequence")]),
            recorded: time(&recorded).unwrap_or(recorded),
            actor: event.text("actor"),
            fields: fields.map(Shown::html).unwrap_or_default(),
        }
    };
    let before = body.text("before");
    History {
        why: String::new(),
        events: body.field("events").map(Shown::items).unwrap_or_default().iter().map(event).collect(),
        first: if visit.parameter("before").is_empty() { String::new() } else { visit.path.clone() },
        next: if before.is_empty() {
            String::new()
        } else {
            address::with(&visit.path, &[("before", &before)])
        },
    }
}

/// Forms for all commands that the key grants for this aggregate. If a command must name the version that its sender has seen, the form
/// contains the newest one on the page.
fn forms(
    visit: &Visit,
    aggregate: &dyn AggregateType,
    id: &str,
    past: &Result<Answer, Refusal>,
) -> Vec<CommandForm> {
    let address = |command| CommandAddress::new(aggregate.context(), aggregate.aggregate(), id, command).ok();
    let version = match past {
        Ok(answer) => answer
            .shown()
            .field("events")
            .and_then(|events| events.items().first().map(|event| event.text("version"))),
        Err(refusal) if refusal.status == StatusCode::NOT_FOUND => Some("0".to_owned()),
        Err(_) => None,
    };
    let required: &[CommandPattern] = &visit.pages.commands.preconditions_required;
    let granted = offered(aggregate).filter_map(|command| {
        let address = address(command)?;
        visit.principal.check_may_send(&address).ok()?;
        let mut form = CommandForm::new(&visit.pages, aggregate, command, id, &Filled::default());
        if required.iter().any(|pattern| pattern.grants(&address)) {
            form.version = version.clone().unwrap_or_default();
        }
        Some(form)
    });
    granted.collect()
}
