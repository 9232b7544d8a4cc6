//! `GET /dead-letters`: what was set aside, the newest first, of a code or a context. After a letter was retried or dropped, the page says what
//! became of it, which the address tells.

use askama::Template;
use axum::{http::StatusCode, response::Response};
use jiff::Timestamp;
use millstream_contract::{
    api_key::LetterAction,
    command::derived_id,
    error_text::cut,
    outcome::Outcome,
    subject::{addressed, published_subject},
};
use millstream_jetstream::dead_letters::{kept_letter::KeptLetter, letter_name::LetterName};
use millstream_values::text::escape_controls;

use super::{
    address,
    layout::{Frame, page},
    page_request::Visit,
    value_text::time,
};
use crate::{command_log::id_of, dead_letters::Asked, problem::Problem, whole_number::whole_number};

/// The number of letters on a page: as many as a person looks through.
const LETTERS: usize = 25;
/// The most characters of a subject, a code and a cause: a sender may have written thousands.
const SUBJECT_SHOWN: usize = 120;
const CODE_SHOWN: usize = 60;
const CAUSE_SHOWN: usize = 240;
/// The values of the parameter that says what was done with a letter.
pub(super) const RETRIED: &str = "retried";
pub(super) const DROPPED: &str = "dropped";

#[derive(Template)]
#[template(path = "pages/dead_letters.html")]
struct DeadLetters<'a> {
    frame: Frame<'a>,
    done: Option<Done>,
    code: &'a str,
    is_filtered: bool,
    contexts: Vec<Choice<'a>>,
    letters: Vec<Letter>,
    first: String,
    next: String,
    is_first: bool,
}

struct Choice<'a> {
    name: &'a str,
    is_chosen: bool,
}

struct Letter {
    name: String,
    to: String,
    set_aside: String,
    subject: String,
    code: String,
    cause: String,
}

/// What was done with a letter.
struct Done {
    letter: String,
    /// The end of a sentence that begins with the letter.
    says: String,
    /// The outcome in a word, and whether it is a good one; empty if there is none yet.
    outcome: String,
    is_good: bool,
    /// Why it was rejected, or set aside again.
    why: String,
    /// Where there is more, and the name of that link.
    more: Option<(String, &'static str)>,
}

/// The page.
pub(super) async fn get(visit: Visit) -> Result<Response, Problem> {
    let some = |name: &str| Some(visit.parameter(name).trim().to_owned()).filter(|text| !text.is_empty());
    let asked = Asked {
        limit: Some(LETTERS),
        before: whole_number(visit.parameter("before")),
        code: some("code"),
        context: some("context"),
        aggregate: some("aggregate"),
    };
    let found = visit.pages.commands.letters(&visit.principal, &asked).await?;
    let kept = ["context", "code", "aggregate"].map(|name| (name, visit.parameter(name)));
    let before = found.before.map(|before| before.to_string()).unwrap_or_default();
    let next: Vec<_> = kept.into_iter().chain([("before", before.as_str())]).collect();
    let chosen = visit.parameter("context");
    let contexts = visit.pages.contexts.iter();
    let is_first = visit.parameter("before").is_empty();
    // Nothing new comes to a page of older letters.
    let frame = if is_first { Frame::new(&visit).refreshing() } else { Frame::new(&visit) };
    let dead_letters = DeadLetters {
        frame,
        done: done(&visit).await,
        code: visit.parameter("code"),
        is_filtered: kept.iter().any(|(_, value)| !value.is_empty()),
        contexts: contexts.map(|name| Choice { name, is_chosen: name == chosen }).collect(),
        letters: found.letters.iter().map(letter).collect(),
        first: address::with(&visit.path, &kept),
        next: if before.is_empty() { String::new() } else { address::with(&visit.path, &next) },
        is_first,
    };
    page(StatusCode::OK, &dead_letters)
}

fn letter(kept: &KeptLetter) -> Letter {
    let letter = &kept.letter;
    Letter {
        name: kept.name(),
        to: address::path(&["dead-letters", &kept.name()]),
        set_aside: moment(kept.set_aside_at),
        subject: shown(&letter.subject, SUBJECT_SHOWN),
        code: shown(&letter.code, CODE_SHOWN),
        cause: shown(&letter.cause, CAUSE_SHOWN),
    }
}

/// The beginning of a text that somebody else wrote.
fn shown(text: &str, max: usize) -> String {
    escape_controls(&cut(text, max)).into_owned()
}

/// A time as markup.
pub(super) fn moment(at: Timestamp) -> String {
    let text = at.to_string();
    time(&text).unwrap_or(text)
}

/// What the address says was done, as far as it is so, with the outcome of the command that a letter became.
async fn done(visit: &Visit) -> Option<Done> {
    let letter = visit.parameter("letter").parse::<LetterName>().ok()?.to_string();
    let nothing = |says: &str| Done {
        letter: letter.clone(),
        says: says.to_owned(),
        outcome: String::new(),
        is_good: false,
        why: String::new(),
        more: None,
    };
    match visit.parameter("done") {
        DROPPED => {
            // Anybody can write an address.
            let found = visit.pages.commands.letter(&visit.principal, &letter, LetterAction::Drop).await;
            found.is_err_and(|problem| problem.kind().1 == "letter-unknown").then(|| nothing("was dropped."))
        }
        RETRIED => {
            let position: u64 = whole_number(visit.parameter("position"))?;
            let told = nothing(&format!("was retried, and is command {position} now."));
            Some(with_outcome(visit, told, position).await)
        }
        _ => None,
    }
}

/// The outcome is for whoever may see or retry letters of the aggregate.
async fn with_outcome(visit: &Visit, mut done: Done, position: u64) -> Done {
    let commands = &visit.pages.commands;
    let Ok(Some(message)) = commands.log.command(position).await else { return done };
    let published = published_subject(&message.subject);
    let [context, aggregate, id, _] = addressed(&published).unwrap_or_default();
    let may = |action| visit.principal.may_touch_letter([context, aggregate, id], action);
    if !may(LetterAction::Read) && !may(LetterAction::Retry) {
        return done;
    }
    let Some(reply) = commands.outcome_now(&message).await else {
        done.outcome = "pending".to_owned();
        return done;
    };
    done.outcome = reply.outcome.kind().to_owned();
    let id = id_of(&message).unwrap_or_else(|| derived_id(message.sequence));
    let to_command = || {
        let sent = address::path(&["sent", &id]);
        address::with(&sent, &[("position", &position.to_string()), ("context", context)])
    };
    match reply.outcome {
        Outcome::Accepted { .. } | Outcome::Duplicate { .. } => {
            done.is_good = true;
            done.more = Some((to_command(), "The command"));
        }
        Outcome::Rejected { code, message } => {
            done.why = format!("{message} ({code})");
            done.more = Some((to_command(), "The command"));
        }
        Outcome::DeadLettered { code, message } => {
            done.why = format!("{message} ({code})");
            let again = format!("COMMANDS.{position}");
            done.more = Some((address::path(&["dead-letters", &again]), "The dead letter"));
        }
    }
    done
}
