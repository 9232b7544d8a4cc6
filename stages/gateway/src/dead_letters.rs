//! `GET /v1/deadletters` and `GET /v1/deadletters/{letter}`: what was set aside, the newest first; `POST …/retry` and `POST …/drop`.
//!
//! Letters are read from DEADLETTERS itself. To retry or drop one, the gateway asks the command handler: the gateway may neither send commands
//! as processes do nor purge DEADLETTERS. Deliberately absent: several letters at once, which `millstream deadletters` retries in their order.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode, Uri},
    response::Response,
};
use millstream_contract::{
    api_key::LetterAction,
    letter_service::{DROP_SUBJECT, LetterRequest, LetterRetried, RETRY_SUBJECT},
    outcome::OutcomeReply,
    position::StreamPosition,
    stored_message::{Headers, StoredMessage},
    stream_names::COMMANDS,
};
use millstream_jetstream::{
    backoff::Backoff,
    broker::BrokerError,
    dead_letters::{
        LetterError, LetterPage, kept_letter::KeptLetter, letter_name::LetterName, letters_back, read_letter,
    },
    nats_broker::{Answer, AskError},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    answers,
    audit::CommandRecord,
    command_request::{check_question, refuse_parameters, wait_seconds},
    commands::Commands,
    key_ring::Principal,
    problem::Problem,
    queries::current,
    views::ViewAnswer,
    whole_number,
};

/// How many letters a page has, unless the client says otherwise.
pub(crate) const LETTERS_DEFAULT: usize = 50;
/// The most letters on a page.
pub(crate) const LETTERS_MAX: usize = 200;
/// How long the command handler may take: longer than its three questions to the server.
const ANSWER_WAIT: Duration = Duration::from_secs(20);
/// The pause before the view of outcomes is asked again. It doubles up to the longest one.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// The parameters of a list.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole_number::parameter")]
    pub(crate) limit: Option<usize>,
    /// Only letters whose sequence in DEADLETTERS is smaller.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole_number::parameter")]
    pub(crate) before: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) context: Option<String>,
    /// `<context>.<aggregate>.<id>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) aggregate: Option<String>,
}

impl Asked {
    fn wants(&self, kept: &KeptLetter) -> bool {
        self.code.as_ref().is_none_or(|code| kept.letter.code == *code)
            && self.context.as_ref().is_none_or(|context| {
                kept.letter.addressed().is_some_and(|[addressed, ..]| addressed == context)
            })
            && self.aggregate.as_ref().is_none_or(|aggregate| kept.is_of(aggregate))
    }
}

/// A page of letters.
pub(crate) async fn list(
    State(commands): State<Arc<Commands>>,
    Extension(principal): Extension<Principal>,
    query: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(asked) = query.map_err(|error| Problem::malformed("query-malformed", error.body_text()))?;
    check_question(&headers, &[])?;
    let page = commands.letters(&principal, &asked).await?;
    let next = page.before.and_then(|before| {
        let query = serde_urlencoded::to_string(Asked { before: Some(before), ..asked }).ok()?;
        Some(format!("</v1/deadletters?{query}>; rel=\"next\""))
    });
    let letters: Vec<Value> = page.letters.iter().map(KeptLetter::summary).collect();
    let body = json!({ "letters": letters, "before": page.before });
    Ok(current(&headers, ViewAnswer { body: body.to_string().into(), position: None }, next))
}

/// A letter.
pub(crate) async fn get(
    State(commands): State<Arc<Commands>>,
    Extension(principal): Extension<Principal>,
    name: Result<Path<String>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = letter_of(name, &uri, &headers)?;
    let _place = commands.places_for_letters.take(principal.name())?;
    let kept = commands.letter(&principal, &name, LetterAction::Read).await?;
    let body = kept.to_json().to_string().into();
    Ok(current(&headers, ViewAnswer { body, position: None }, None))
}

/// Has a letter decided again.
pub(crate) async fn retry(
    State(commands): State<Arc<Commands>>,
    Extension(principal): Extension<Principal>,
    name: Result<Path<String>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = letter_of(name, &uri, &headers)?;
    let retried = commands.retry_letter(&principal, &name).await?;
    let seconds = commands.seconds(wait_seconds(&headers));
    let reply = match seconds {
        Some(seconds) => {
            commands.outcome_within(retried.command_position, Duration::from_secs(seconds)).await
        }
        None => None,
    };
    let mut body = reply.as_ref().map(OutcomeReply::to_json).unwrap_or_else(|| {
        let LetterRetried { command_id, command_position } = &retried;
        json!({ "command_id": command_id, "command_position": command_position, "outcome": "pending" })
    });
    if let Some(fields) = body.as_object_mut() {
        fields.insert("letter".to_owned(), name.into());
    }
    let command = StreamPosition::new(COMMANDS, commands.stream.generation(), retried.command_position);
    let (status, position) = match &reply {
        Some(reply) => (StatusCode::OK, reply.query_position.clone()),
        None => (StatusCode::ACCEPTED, Some(command.to_string())),
    };
    Ok(answers::with_position(status, &body, position, reply.is_some().then_some(seconds).flatten()))
}

/// Removes a letter.
pub(crate) async fn drop_letter(
    State(commands): State<Arc<Commands>>,
    Extension(principal): Extension<Principal>,
    name: Result<Path<String>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = letter_of(name, &uri, &headers)?;
    commands.drop_letter(&principal, &name).await?;
    Ok(answers::with_position(StatusCode::OK, &json!({ "letter": name, "dropped": true }), None, None))
}

/// The name of the letter in an address.
fn letter_of(
    name: Result<Path<String>, PathRejection>,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<String, Problem> {
    let Path(name) = name?;
    refuse_parameters(uri)?;
    check_question(headers, &[])?;
    Ok(name)
}

impl Commands {
    /// A page of the letters that `principal` may read.
    ///
    /// # Errors
    /// A [`Problem`] when it may read none, or DEADLETTERS cannot be read.
    pub(crate) async fn letters(&self, principal: &Principal, asked: &Asked) -> Result<LetterPage, Problem> {
        if !principal.may_touch_some_letter(LetterAction::Read) {
            return Err(not_granted(principal, LetterAction::Read, "any dead letter"));
        }
        let limit = asked.limit.unwrap_or(LETTERS_DEFAULT);
        if limit == 0 || limit > LETTERS_MAX {
            return Err(Problem::malformed("query-malformed", format!("limit is 1 to {LETTERS_MAX}")));
        }
        let _place = self.places_for_letters.take(principal.name())?;
        let wanted = |kept: &KeptLetter| asked.wants(kept) && may(principal, kept, LetterAction::Read);
        letters_back(&self.broker, asked.before, limit, wanted).await.map_err(unavailable)
    }

    /// The letter with a name, if `principal` may do this with it.
    ///
    /// # Errors
    /// A [`Problem`] when it may not, when there is no such letter, or DEADLETTERS cannot be read.
    pub(crate) async fn letter(
        &self,
        principal: &Principal,
        name: &str,
        action: LetterAction,
    ) -> Result<KeptLetter, Problem> {
        if !principal.may_touch_some_letter(action) {
            return Err(not_granted(principal, action, name));
        }
        let parsed: LetterName = name
            .parse()
            .map_err(|error| Problem::malformed("address-malformed", format!("{name:?}: {error}")))?;
        // A letter has one address.
        let kept = match parsed.to_string() == name {
            true => read_letter(&self.broker, &parsed).await,
            false => Ok(None),
        };
        let kept = kept.map_err(|error| match error {
            LetterError::Broker(error) => unavailable(error),
            LetterError::NoLetter { .. } => unknown(&error.to_string()),
        })?;
        let kept = kept.ok_or_else(|| unknown(&format!("there is no dead letter {name}")))?;
        if may(principal, &kept, action) { Ok(kept) } else { Err(not_granted(principal, action, name)) }
    }

    /// Puts a letter back onto COMMANDS, and removes it.
    ///
    /// # Errors
    /// A [`Problem`] when `principal` may not, or the letter is still there.
    pub(crate) async fn retry_letter(
        &self,
        principal: &Principal,
        name: &str,
    ) -> Result<LetterRetried, Problem> {
        let (answer, record) = self.move_letter(principal, name, LetterAction::Retry, RETRY_SUBJECT).await?;
        let retried: LetterRetried = serde_json::from_slice(&answer.payload).map_err(|error| {
            let detail = format!("the command handler's answer cannot be read: {error}");
            Problem::unavailable("letters-unavailable", detail)
        })?;
        record.retried(&retried.command_id, retried.command_position);
        Ok(retried)
    }

    /// Removes a letter.
    ///
    /// # Errors
    /// A [`Problem`] when `principal` may not, or it is not known whether the letter is removed.
    pub(crate) async fn drop_letter(&self, principal: &Principal, name: &str) -> Result<(), Problem> {
        let (_, record) = self.move_letter(principal, name, LetterAction::Drop, DROP_SUBJECT).await?;
        record.dropped();
        Ok(())
    }

    /// Has the command handler retry or drop a letter. With its answer comes the record that has still to say what was done; dropped before, it
    /// says that this is not known.
    async fn move_letter(
        &self,
        principal: &Principal,
        name: &str,
        action: LetterAction,
        subject: &str,
    ) -> Result<(Answer, CommandRecord), Problem> {
        let _place = self.places_for_letters.take(principal.name())?;
        let kept = self.letter(principal, name, action).await?;
        let record = self.audit.place(principal, &called(action, &kept))?;
        match self.ask_handler(subject, &kept).await {
            Ok(answer) => Ok((answer, record)),
            Err(error) => {
                if was_refused(&error) {
                    record.not_stored();
                }
                Err(handler_problem(error))
            }
        }
    }

    async fn ask_handler(&self, subject: &str, kept: &KeptLetter) -> Result<Answer, AskError> {
        let request = LetterRequest { letter: kept.name(), sequence: kept.sequence };
        let body = json!(request).to_string().into();
        self.broker.ask(subject, &Headers::new(), body, ANSWER_WAIT).await
    }

    /// The outcome of the command at a position of COMMANDS, if it is there in time. A failure to read it is not an error: the command is
    /// stored, whatever becomes of it.
    pub(crate) async fn outcome_within(&self, position: u64, wait: Duration) -> Option<OutcomeReply> {
        let looks = async {
            let (mut command, mut backoff) = (None, Backoff::new(PAUSE_FIRST, PAUSE_MAX));
            loop {
                // The command stays what it is, and may be large.
                if command.is_none() {
                    command = self.log.command(position).await.ok().flatten();
                }
                if let Some(command) = &command
                    && let Some(reply) = self.outcome_now(command).await
                {
                    return reply;
                }
                backoff.pause().await;
            }
        };
        tokio::select! {
            looked = tokio::time::timeout(wait, looks) => looked.ok(),
            () = self.stop.cancelled() => None,
        }
    }

    /// The outcome of a command, if the view of its context has it now.
    pub(crate) async fn outcome_now(&self, message: &StoredMessage) -> Option<OutcomeReply> {
        let row = self.log.outcome_of(message).await.ok().flatten()?;
        let mut reply = row.reply()?;
        // The row has the sequence alone.
        reply.query_position = reply.outcome.query_position(&self.views.events.generation());
        Some(answers::of_first(reply))
    }
}

/// What a record of the audit log says of a letter: what was to be done, its name, and its subject.
fn called(action: LetterAction, kept: &KeptLetter) -> String {
    format!("{} {} {}", action.name(), kept.name(), kept.letter.subject)
}

/// Whether `principal` may do this with a letter.
pub(crate) fn may(principal: &Principal, kept: &KeptLetter, action: LetterAction) -> bool {
    let [context, aggregate, id, _] = kept.letter.addressed().unwrap_or_default();
    principal.may_touch_letter([context, aggregate, id], action)
}

fn not_granted(principal: &Principal, action: LetterAction, what: &str) -> Problem {
    let detail = format!("{} may not {} {what}", principal.name(), action.name());
    Problem::new(StatusCode::FORBIDDEN, "letter-not-granted", detail)
}

fn unknown(detail: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "letter-unknown", detail)
}

fn unavailable(error: BrokerError) -> Problem {
    Problem::unavailable("letters-unavailable", error.to_string())
}

/// Whether the letter is certainly untouched.
fn was_refused(error: &AskError) -> bool {
    match error {
        AskError::NoResponders { .. } => true,
        AskError::NoAnswer { .. } => false,
        AskError::Refused { code, .. } => code != "503",
    }
}

/// Why the command handler has not done it, in the terms of HTTP.
fn handler_problem(error: AskError) -> Problem {
    let text = match error {
        AskError::NoResponders { .. } => "no command handler answers; the letter is still there".to_owned(),
        AskError::NoAnswer { .. } => {
            "the command handler has not answered in time. Look at the letter; if it is still there, do it again: a retry takes effect once"
                .to_owned()
        }
        AskError::Refused { code, text, .. } => {
            let (status, name) = match code.as_str() {
                "404" => (StatusCode::NOT_FOUND, "letter-unknown"),
                "409" => return Problem::unavailable("letters-full", text),
                "422" => (StatusCode::UNPROCESSABLE_ENTITY, "letter-not-retriable"),
                "429" => return Problem::unavailable("busy", text),
                "503" => return Problem::unavailable("letters-unavailable", text),
                "507" => return Problem::unavailable("commands-full", text),
                _ => (StatusCode::INTERNAL_SERVER_ERROR, "store-refused"),
            };
            return Problem::new(status, name, text);
        }
    };
    Problem::unavailable("letters-unavailable", text)
}

#[cfg(test)]
mod tests {
    use millstream_contract::dead_letter::DeadLetter;

    use super::*;

    fn kept(subject: &str, code: &str) -> KeptLetter {
        let message = StoredMessage {
            subject: subject.to_owned(),
            sequence: 7,
            stored_at: jiff::Timestamp::UNIX_EPOCH,
            headers: Headers::new(),
            payload: Vec::new().into(),
        };
        KeptLetter::new(&message, DeadLetter::new(COMMANDS, &message, code, "cause"))
    }

    #[test]
    fn a_list_is_of_a_code_and_of_a_context_or_aggregate() {
        let close = kept("cmd.retail.till.1.close", "body-malformed");
        let other = kept("due.strange", "subject-not-allowed");
        let asked = |query: &str| serde_urlencoded::from_str::<Asked>(query).unwrap();
        for (query, of_close, of_other) in [
            ("", true, true),
            ("code=body-malformed", true, false),
            ("context=retail", true, false),
            ("context=orders", false, false),
            ("aggregate=retail.till.1&code=body-malformed", true, false),
            ("aggregate=retail.till.2", false, false),
            ("code=subject-not-allowed", false, true),
        ] {
            let asked = asked(query);
            assert_eq!((asked.wants(&close), asked.wants(&other)), (of_close, of_other), "{query}");
        }
        assert!(serde_urlencoded::from_str::<Asked>("codes=x").is_err());
    }

    #[test]
    fn what_the_command_handler_says_is_told_and_only_what_is_certain_is_called_undone() {
        let refused = |code: &str| AskError::Refused {
            subject: RETRY_SUBJECT.to_owned(),
            code: code.to_owned(),
            text: "why".to_owned(),
            headers: Headers::new(),
        };
        for (code, status, name, certain) in [
            ("404", 404, "letter-unknown", true),
            ("409", 503, "letters-full", true),
            ("422", 422, "letter-not-retriable", true),
            ("429", 503, "busy", true),
            ("500", 500, "store-refused", true),
            ("503", 503, "letters-unavailable", false),
            ("507", 503, "commands-full", true),
        ] {
            assert_eq!(was_refused(&refused(code)), certain, "{code}");
            assert!(handler_problem(refused(code)).is(status, name), "{code}");
        }
    }
}
