//! `GET /dead-letters/{letter}`: what was set aside, why, when, and who sent it; with forms that retry or drop it.
//!
//! A letter is what somebody sent wrongly, so nothing of it is trusted: a body that is no plain text is shown as bytes, and characters elsewhere
//! that would change how the page is shown are written as escapes.

use std::{borrow::Cow, fmt::Write as _, sync::Arc, time::Duration};

use askama::Template;
use axum::{
    extract::{Path, Request, State, rejection::PathRejection},
    http::StatusCode,
    response::{IntoResponse as _, Redirect, Response},
};
use millstream_contract::{
    api_key::LetterAction, dead_letter::EFFECT_WITHOUT_BODY, header, subject::CommandAddress,
};
use millstream_jetstream::{
    broker::Broker as _,
    dead_letters::kept_letter::{KeptLetter, NotRetriable},
};
use millstream_values::text::{escape_controls, is_harmful};
use serde::de::IgnoredAny;

use super::{
    Pages, address,
    dead_letters::{DROPPED, RETRIED, moment},
    layout::{Frame, page},
    page_request::Visit,
    session,
    value_text::Shown,
};
use crate::{dead_letters::may, guard::stranger, key_ring::Principal, problem::Problem};

/// The most bytes of a text body on a page.
const TEXT_SHOWN: usize = 64 * 1024;
/// The most bytes that are shown as numbers. A line has sixteen of them.
const BYTES_SHOWN: usize = 4 * 1024;
/// How long a page waits for the outcome of a retry before it says that there is none yet.
const OUTCOME_WAIT: Duration = Duration::from_secs(10);

#[derive(Template)]
#[template(path = "pages/dead_letter.html")]
struct DeadLetterPage<'a> {
    frame: Frame<'a>,
    name: String,
    to: String,
    code: Cow<'a, str>,
    cause: Cow<'a, str>,
    remedy: &'static str,
    subject: Cow<'a, str>,
    /// The aggregate and where its page is, if the subject is a command's.
    aggregate: Option<(String, String)>,
    set_aside: String,
    actor: Cow<'a, str>,
    command_id: Cow<'a, str>,
    headers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    headers_unreadable: Option<(&'a str, String)>,
    body: ShownBody,
    size: usize,
    may_retry: bool,
    may_drop: bool,
    /// Why it cannot be retried; empty if it can.
    not_retriable: String,
}

/// A body as a page shows it.
enum ShownBody {
    Nothing,
    /// JSON: its fields as markup, and its text.
    Fields(String, String),
    /// A text, and why it is not shown as fields.
    Text(String, &'static str),
    /// Bytes as numbers, and how many of them.
    Bytes(String, usize),
}

/// The page.
pub(super) async fn get(
    visit: Visit,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let Path(name) = name?;
    let commands = &visit.pages.commands;
    let _place = commands.places_for_letters.take(visit.principal.name())?;
    let kept = commands.letter(&visit.principal, &name, LetterAction::Read).await?;
    let letter = &kept.letter;
    let header = |name: &str| escape_controls(letter.headers.find(name).unwrap_or_default());
    let retriable = kept.command(commands.broker.message_bytes_max());
    let shown = DeadLetterPage {
        frame: Frame::new(&visit),
        to: address::path(&["dead-letters", &name]),
        name,
        code: escape_controls(&letter.code),
        cause: escape_controls(&letter.cause),
        remedy: remedy(&letter.code, retriable.as_ref().err()),
        subject: escape_controls(&letter.subject),
        aggregate: aggregate(&visit, &kept),
        set_aside: moment(kept.set_aside_at),
        actor: header(header::ACTOR),
        command_id: header(header::COMMAND_ID),
        headers: letter
            .headers
            .iter()
            .map(|(name, value)| (escape_controls(name), escape_controls(value)))
            .collect(),
        headers_unreadable: letter.headers.unreadable().map(|(why, block)| (why, bytes(block))),
        body: body(&letter.payload),
        size: letter.payload.len(),
        may_retry: may(&visit.principal, &kept, LetterAction::Retry),
        may_drop: may(&visit.principal, &kept, LetterAction::Drop),
        not_retriable: retriable.err().map(|why| why.to_string()).unwrap_or_default(),
    };
    page(StatusCode::OK, &shown)
}

/// Retries the letter, waits for the outcome, and leads to the list, which shows it.
pub(super) async fn retry(
    State(pages): State<Arc<Pages>>,
    visit: Visit,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let (name, principal) = posted(&pages, visit, name, request).await?;
    let retried = pages.commands.retry_letter(&principal, &name).await?;
    let position = retried.command_position;
    let _outcome = pages.commands.outcome_within(position, OUTCOME_WAIT).await;
    let (position, done) = (position.to_string(), ("done", RETRIED));
    let to = address::with("/dead-letters", &[done, ("letter", &name), ("position", &position)]);
    Ok(Redirect::to(&to).into_response())
}

/// Removes the letter, and leads to the list.
pub(super) async fn drop_letter(
    State(pages): State<Arc<Pages>>,
    visit: Visit,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let (name, principal) = posted(&pages, visit, name, request).await?;
    pages.commands.drop_letter(&principal, &name).await?;
    let to = address::with("/dead-letters", &[("done", DROPPED), ("letter", &name)]);
    Ok(Redirect::to(&to).into_response())
}

/// The name of the letter of a form, and who has sent the form. What that user may do is asked again, because a body may take long to come.
async fn posted(
    pages: &Pages,
    visit: Visit,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<(String, Principal), Problem> {
    let Path(name) = name?;
    let _fields = session::posted(pages, request).await?;
    Ok((name, visit.admission.still(visit.principal).map_err(stranger)?))
}

fn aggregate(visit: &Visit, kept: &KeptLetter) -> Option<(String, String)> {
    let [context, aggregate, id, command] = kept.letter.addressed()?;
    let address = CommandAddress::new(context, aggregate, id, command).ok()?;
    visit.pages.commands.aggregates.get(context, aggregate)?;
    let stream = &address.stream_id;
    let to = address::path(&["aggregates", stream.context(), stream.aggregate(), stream.id()]);
    Some((format!("{} {}", stream.aggregate(), stream.id()), to))
}

/// What to do, as docs/guides/dead-letters.md says at length.
fn remedy(code: &str, not_retriable: Option<&NotRetriable>) -> &'static str {
    match code {
        _ if not_retriable == Some(&NotRetriable::Headers) => {
            "Its sender has to send the command again with headers that can be read. Then drop this letter."
        }
        _ if matches!(not_retriable, Some(NotRetriable::TooLarge { .. })) => {
            "Raise the server's max_payload. Then it can be put back."
        }
        EFFECT_WITHOUT_BODY => {
            "An earlier release kept it without its body. Have the command sent by hand, under the id of this letter. Then drop the letter."
        }
        _ if not_retriable.is_some() => "It cannot become a command. See to its cause, then drop it.",
        "rules-panicked" => "The rules have a mistake. Install a release that corrects it, then retry.",
        "history-unreadable" => {
            "This release cannot read an event of the aggregate. Install one that can, then retry the letters of the aggregate, the oldest first."
        }
        "aggregate-unknown" => "This release does not have the context. Install one that has it, then retry.",
        "command-refused" | "effect-refused" => {
            "A limit of COMMANDS or of the server was in the way. Raise it, then retry."
        }
        "command-id-reserved" => {
            "Its sender has to send the command under another id. Then drop this letter."
        }
        _ => {
            "If the sender made a mistake, have the command sent again as it should be, and drop this letter. If the cause is gone, retry."
        }
    }
}

fn body(payload: &[u8]) -> ShownBody {
    if payload.is_empty() {
        return ShownBody::Nothing;
    }
    let Some(text) = plain_text(payload) else {
        return ShownBody::Bytes(bytes(payload), payload.len().min(BYTES_SHOWN));
    };
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => {
            let fields = Shown::of(payload).html();
            // What JSON writes with escapes would be there in the fields.
            if is_harmless(&fields) {
                ShownBody::Fields(fields, text.to_owned())
            } else {
                ShownBody::Text(
                    text.to_owned(),
                    "It is JSON. Some of its characters would change how the page is shown, so its fields are not.",
                )
            }
        }
        Err(_) => ShownBody::Text(text.to_owned(), "It is no JSON."),
    }
}

/// The text, if a page shows it as it is: it is short enough, and nothing in it changes how what stands beside it is shown.
fn plain_text(payload: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(payload).ok()?;
    (text.len() <= TEXT_SHOWN && is_harmless(text)).then_some(text)
}

fn is_harmless(text: &str) -> bool {
    !text.chars().any(|letter| is_harmful(letter) && !"\n\r\t".contains(letter))
}

/// The first bytes as numbers, with the letters that they are beside them.
fn bytes(all: &[u8]) -> String {
    let shown = all.get(..BYTES_SHOWN).unwrap_or(all);
    let mut text = String::with_capacity(shown.len() * 5);
    for (line, chunk) in shown.chunks(16).enumerate() {
        let numbers = chunk.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
        let letters: String = chunk
            .iter()
            .map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' })
            .collect();
        writeln!(text, "{:06x}  {numbers:<47}  {letters}", line * 16).expect("a text can be written to");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_to_retry_what_cannot_be_retried() {
        let codes = [
            "rules-panicked",
            "history-unreadable",
            "aggregate-unknown",
            "command-refused",
            "effect-refused",
            "command-id-reserved",
            EFFECT_WITHOUT_BODY,
            "body-malformed",
        ];
        for why in
            [NotRetriable::Headers, NotRetriable::NoCommand, NotRetriable::TooLarge { size: 2, max: 1 }]
        {
            for code in codes {
                let told = remedy(code, Some(&why));
                assert!(!told.contains("retry"), "{code}, {why}: {told}");
            }
        }
        assert!(remedy("command-refused", None).contains("retry"));
    }

    #[test]
    fn what_is_no_plain_text_is_shown_as_bytes() {
        assert!(matches!(body(b""), ShownBody::Nothing));
        assert!(matches!(body(b"{\"a\":1}"), ShownBody::Fields(..)));
        assert!(matches!(body(b"{\"a\":"), ShownBody::Text(..)));
        assert!(
            matches!(body(br#"{"a":"x\u202ey"}"#), ShownBody::Text(..)),
            "its fields would be turned round"
        );
        for strange in [&b"\xff\x00"[..], b"a\0b", "a\u{202e}b".as_bytes(), &[b'x'; TEXT_SHOWN + 1]] {
            assert!(matches!(body(strange), ShownBody::Bytes(..)), "{:?}", strange.get(..3));
        }
        let ShownBody::Bytes(text, shown) = body(&[0xff; BYTES_SHOWN + 1]) else { panic!("bytes") };
        assert_eq!((shown, text.lines().count()), (BYTES_SHOWN, BYTES_SHOWN / 16));
        assert_eq!(bytes(b"{<\0"), format!("000000  {:<47}  {{<.\n", "7b 3c 00"));
    }
}
