//! `GET /sent/{command-id}`: a command that was sent: its outcome and its content. The sender may see it, and so may everybody who may read the
//! row of its outcome. Its content may also be seen by everybody who may read the history of its aggregate.

use askama::Template;
use axum::{
    extract::{Path, rejection::PathRejection},
    http::StatusCode,
    response::Response,
};
use millstream_contract::{
    api_key::LetterAction, command::derived_id, header, stored_message::StoredMessage,
    stream_names::COMMANDS, subject::CommandAddress,
};

use super::{
    address,
    api::{Answer, Refusal},
    layout::{Frame, page},
    page_request::Visit,
    value_text::{Shown, time},
};
use crate::{command_log::id_of, problem::Problem, whole_number::whole_number};

#[derive(Template)]
#[template(path = "pages/sent.html")]
struct Sent<'a> {
    frame: Frame<'a>,
    id: &'a str,
    outcome: String,
    /// Its outcome.
    row: String,
    said: Option<Said>,
    again: String,
    /// Where its dead letter is, if it was set aside and the key may see that.
    letter: String,
}

struct Said {
    command: String,
    aggregate: String,
    to_aggregate: String,
    stored: String,
    actor: String,
    position: u64,
    fields: String,
}

/// The page.
pub(super) async fn get(visit: Visit, id: Result<Path<String>, PathRejection>) -> Result<Response, Problem> {
    let Path(id) = id?;
    let (position, context) = (visit.parameter("position"), visit.parameter("context"));
    let own = visit.command(&id, position).await;
    let is_own = own.is_ok();
    let outcome: Result<Answer, Refusal> = match own {
        // The outcome of somebody else's command may be read by everybody who may read the outcomes of its context.
        Err(refusal)
            if [StatusCode::FORBIDDEN, StatusCode::NOT_FOUND].contains(&refusal.status)
                && !context.is_empty() =>
        {
            visit.row_now([context, "command"], &id).await
        }
        own => own,
    };
    let stored = stored(&visit, &id, position).await?;
    let said = stored.and_then(|message| said(&visit, &message, is_own));
    let shown = match (&outcome, &said) {
        (Ok(answer), _) => answer.shown(),
        // Whoever may read the content may see it, whatever the outcome.
        (Err(_), Some(_)) => Shown::default(),
        (Err(refusal), None) => return Err(refusal.clone().into()),
    };
    let row = shown.field("value").cloned().unwrap_or(shown);
    let sent = Sent {
        frame: Frame::new(&visit),
        outcome: row.text("outcome"),
        row: if row.fields().is_empty() { String::new() } else { row.html() },
        again: address::with(&visit.path, &[("position", position), ("context", context)]),
        letter: letter(&visit, &row),
        id: &id,
        said,
    };
    page(StatusCode::OK, &sent)
}

/// The address of the letter that a dead-lettered command has become, for whoever may read letters.
fn letter(visit: &Visit, row: &Shown) -> String {
    if row.text("outcome") != "dead-lettered" || !visit.principal.may_touch_some_letter(LetterAction::Read) {
        return String::new();
    }
    address::path(&["dead-letters", &format!("{COMMANDS}.{}", row.text("command_position"))])
}

/// The command in COMMANDS, if it is at that position.
async fn stored(visit: &Visit, id: &str, position: &str) -> Result<Option<StoredMessage>, Problem> {
    let Some(position) = whole_number::<u64>(position).filter(|position| *position > 0) else {
        return Ok(None);
    };
    let found = visit.pages.commands.log.command(position).await?;
    Ok(found.filter(|message| id_of(message).unwrap_or_else(|| derived_id(message.sequence)) == id))
}

fn said(visit: &Visit, message: &StoredMessage, is_own: bool) -> Option<Said> {
    let address = CommandAddress::from_stored_subject(&message.subject).ok()?;
    let stream = &address.stream_id;
    if !is_own && !visit.principal.may_read_history(stream) {
        return None;
    }
    let stored = message.stored_at.to_string();
    Some(Said {
        command: address.command.to_string(),
        aggregate: format!("{} {}", stream.aggregate(), stream.id()),
        to_aggregate: address::path(&["aggregates", stream.context(), stream.aggregate(), stream.id()]),
        stored: time(&stored).unwrap_or(stored),
        actor: message.headers.get(header::ACTOR).unwrap_or_default().to_owned(),
        position: message.sequence,
        fields: if message.payload.is_empty() {
            Shown::Record(Vec::new()).html()
        } else {
            Shown::of(&message.payload).html()
        },
    })
}
