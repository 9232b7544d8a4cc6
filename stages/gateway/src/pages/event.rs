//! `GET /events/{sequence}`: a commit of EVENTS: what happened, to which aggregate, because of which commands, and who sent them. Whoever may
//! read the aggregate's history may read it.

use askama::Template;
use axum::{
    extract::{Path, rejection::PathRejection},
    http::StatusCode,
    response::Response,
};
use millstream_contract::{commit::StoredCommit, event_json, stream_names::EVENTS};
use millstream_jetstream::broker::Broker as _;

use super::{
    address,
    layout::{Frame, page},
    page_request::Visit,
    value_text::{Shown, label, time},
};
use crate::{problem::Problem, whole_number::whole_number};

#[derive(Template)]
#[template(path = "pages/event.html")]
struct EventPage<'a> {
    frame: Frame<'a>,
    sequence: &'a str,
    context: &'a str,
    aggregate: String,
    to_aggregate: String,
    recorded: String,
    events: Vec<Event>,
    commands: Vec<Command>,
}

struct Event {
    name: String,
    version: u64,
    fields: String,
}

struct Command {
    id: String,
    to: String,
    position: u64,
    actor: String,
    correlation: String,
    causation: String,
}

/// The page.
pub(super) async fn get(
    visit: Visit,
    sequence: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let Path(sequence) = sequence?;
    let unknown = || {
        let detail =
            format!("there is no commit at sequence {sequence} of {EVENTS}, or its history is not granted");
        Problem::new(StatusCode::NOT_FOUND, "history-unknown", detail)
    };
    let number: u64 = whole_number(&sequence).filter(|number| *number > 0).ok_or_else(unknown)?;
    let message = visit.pages.commands.broker.get(EVENTS, number).await;
    let message = message.map_err(|error| Problem::unavailable("events-unavailable", error.to_string()))?;
    let commit = message.and_then(|message| StoredCommit::from_stored(&message).ok()).ok_or_else(unknown)?;
    let stream = &commit.stream_id;
    if !visit.principal.may_read_history(stream) {
        return Err(unknown());
    }
    let events = event_json::events(&commit).into_iter().map(|event| {
        let shown = Shown::of(event.to_string().as_bytes());
        Event {
            name: label(&shown.text("type")),
            version: shown.text("version").parse().unwrap_or_default(),
            fields: shown.field("data").map(Shown::html).unwrap_or_default(),
        }
    });
    let commands = commit.commit.commands.iter().map(|command| Command {
        id: command.id.to_string(),
        to: address::with(
            &address::path(&["sent", &command.id]),
            &[("position", &command.position.to_string()), ("context", stream.context())],
        ),
        position: command.position,
        actor: command.actor.as_deref().unwrap_or_default().to_owned(),
        correlation: command.correlation_id.as_deref().unwrap_or_default().to_owned(),
        causation: command.causation_id.as_deref().unwrap_or_default().to_owned(),
    });
    let recorded = commit.commit.recorded_at().to_string();
    let event_page = EventPage {
        frame: Frame::new(&visit),
        sequence: &sequence,
        context: stream.context(),
        aggregate: format!("{} {}", stream.aggregate(), stream.id()),
        to_aggregate: address::path(&["aggregates", stream.context(), stream.aggregate(), stream.id()]),
        recorded: time(&recorded).unwrap_or(recorded),
        events: events.collect(),
        commands: commands.collect(),
    };
    page(StatusCode::OK, &event_page)
}
