//! Users of NATS: `as.<user>.submit.<context>.<aggregate>.<id>.<command>`, `as.<user>.query.<context>.<view>.get` or `.list`,
//! `as.<user>.query.<context>.<query>` and `as.<user>.sql.ask`, answered like `submit.…`, `query.…` and `sql.ask`, as far as the file of keys grants
//! that to the user.
//!
//! The subject proves who asks, because the server lets each user publish only under its own name (docs/guides/users.md). The user becomes the
//! actor of its commands, whose ids begin with its name, so that no two users share an id. Deliberately absent: checking passwords, and everything about HTTP.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use axum::http::StatusCode;
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::join_all, stream};
use millstream_contract::{
    configured_query::{QueryDescription, STATEMENT_SUBJECT},
    error_text::{bounded, one_line},
    header,
    header_check::{check_headers, check_kept},
    outcome::OutcomeReply,
    stored_message::Headers,
    stream_names::COMMANDS,
    subject::{COMMAND_PREFIX, CommandAddress, USER_PREFIX, USER_SERVICE},
    unique_fields::UniqueFields,
};
use millstream_jetstream::nats_broker::{
    answering_service::{Answering, AnsweringError, Asked},
    service::About,
};
use serde_json::Value;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    answers::{Stored, of_first},
    audit::Asker,
    command_request::{Wishes, check_depth, check_idempotency_key, too_large},
    commands::{Commands, Told},
    guard::Guard,
    key_ring::Principal,
    problem::Problem,
    queries::not_granted,
    views::{Freshness, Operation, ViewAnswer},
    whole_number::whole_number,
};

/// How often the list of users is checked.
const LOOK_INTERVAL: Duration = Duration::from_millis(400);
/// How many lines are opened at a time. The server may take a tenth of a second to check a password.
const LINES_AT_ONCE: usize = 16;
/// How long a command waits for its outcome unless its sender says otherwise. It is the same as for `submit`.
const OUTCOME_WAIT_DEFAULT: Duration = Duration::from_secs(10);
/// How long a query waits for its position unless it says otherwise. It is the same as for `query`.
const POSITION_WAIT_DEFAULT: Duration = Duration::from_secs(2);
/// The `Millstream-…` headers that a command may have.
const COMMAND_HEADERS: [&str; 5] = [
    header::COMMAND_ID,
    header::CORRELATION_ID,
    header::CAUSATION_ID,
    header::EXPECTED_VERSION,
    header::WAIT_MS,
];
/// The headers that become headers of the command.
const COMMAND_HEADERS_KEPT: [&str; 3] = [header::CORRELATION_ID, header::CAUSATION_ID, header::TRACE_PARENT];
/// Headers of the same requests over HTTP, and what takes their place.
const OF_HTTP: [(&str, &str); 4] = [
    ("Idempotency-Key", header::COMMAND_ID),
    ("If-Match", header::EXPECTED_VERSION),
    ("If-None-Match", header::EXPECTED_VERSION),
    ("Prefer", header::WAIT_MS),
];
/// The `Millstream-…` headers that a query may have.
const QUERY_HEADERS: [&str; 2] = [header::POSITION, header::WAIT_MS];

/// The running services, one for each user, each on a line of its own, so that one user's flood does not fill the buffers of the others.
pub(crate) struct UserRequests {
    commands: Arc<Commands>,
    guard: Arc<Guard>,
    about: About,
    running: BTreeMap<Arc<str>, Answering>,
    /// Users whose requests cannot be received, which has been logged.
    unheard: BTreeSet<Arc<str>>,
    /// Services of removed users, until their requests are answered.
    leaving: TaskTracker,
}

impl UserRequests {
    /// Begins to answer the current users.
    ///
    /// # Errors
    /// When one of their services cannot be registered.
    pub(crate) async fn start(
        commands: Arc<Commands>,
        guard: Arc<Guard>,
        version: &str,
    ) -> Result<Self, AnsweringError> {
        let description = "Takes commands and queries of a user whose name the server proves";
        let about = About::new(USER_SERVICE, version, description);
        let (running, unheard, leaving) = (BTreeMap::new(), BTreeSet::new(), TaskTracker::new());
        let mut all = Self { commands, guard, about, running, unheard, leaving };
        for (name, begun) in all.listen_to(all.guard.users()).await {
            all.running.insert(name, begun?);
        }
        Ok(all)
    }

    /// Follows the users in the file of keys until `stop`, and then accepts no more requests.
    pub(crate) async fn follow(&mut self, stop: &CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_some() {
            let users = self.guard.users();
            let gone: Vec<Arc<str>> =
                self.running.keys().filter(|name| !users.contains(*name)).cloned().collect();
            for answering in gone.iter().filter_map(|name| self.running.remove(name)) {
                self.leaving.spawn(answering.stop());
            }
            let new = users.into_iter().filter(|name| !self.running.contains_key(name)).collect();
            for (user, begun) in self.listen_to(new).await {
                match begun {
                    Ok(answering) => {
                        self.unheard.remove(&user);
                        self.running.insert(user, answering);
                    }
                    Err(error) if self.unheard.insert(Arc::clone(&user)) => {
                        let error = one_line(&error);
                        tracing::error!(%user, error, "the requests of a user cannot be taken; trying again");
                    }
                    Err(_) => {}
                }
            }
        }
        join_all(self.running.values_mut().map(Answering::take_no_more)).await;
    }

    /// Returns when everybody has an answer. Once the gateway is asked to stop, nobody waits any more.
    pub(crate) async fn stop(self) {
        join_all(self.running.into_values().map(Answering::stop)).await;
        self.leaving.close();
        self.leaving.wait().await;
    }

    async fn listen_to(
        &self,
        users: BTreeSet<Arc<str>>,
    ) -> Vec<(Arc<str>, Result<Answering, AnsweringError>)> {
        let begun = stream::iter(users).map(async |user| {
            let begun = self.listen(&user).await;
            (user, begun)
        });
        begun.buffer_unordered(LINES_AT_ONCE).collect().await
    }

    async fn listen(&self, user: &str) -> Result<Answering, AnsweringError> {
        let endpoints = vec![
            ("submit", format!("{USER_PREFIX}.{user}.submit.*.*.*.*")),
            ("query", format!("{USER_PREFIX}.{user}.query.*.*.*")),
            ("configured-query", format!("{USER_PREFIX}.{user}.query.*.*")),
            ("statement", format!("{USER_PREFIX}.{user}.{STATEMENT_SUBJECT}")),
        ];
        let (commands, guard) = (Arc::clone(&self.commands), Arc::clone(&self.guard));
        let who = Asker { name: Some(Arc::from(user)), address: None };
        let answer = move |asked: Asked| {
            // Any other part of the subject may be of any number.
            let kind = match asked.subject.split('.').nth(2) {
                Some("query") => "query",
                Some("sql") => "sql",
                _ => "submit",
            };
            let (commands, guard, who) = (Arc::clone(&commands), Arc::clone(&guard), who.clone());
            async move {
                let what = asked.subject.clone();
                let answer = commands.answer_user(&guard, asked).await;
                answer.map_err(|problem| {
                    commands.audit.refused(&who, kind, &what, problem.kind());
                    problem.service_error()
                })
            }
            .boxed()
        };
        Answering::start(&self.commands.broker, COMMANDS, self.about.clone(), endpoints, answer).await
    }
}

impl Commands {
    async fn answer_user(&self, guard: &Guard, asked: Asked) -> Result<(Bytes, Headers), Problem> {
        let Asked { subject, headers, body } = asked;
        let parts: Vec<&str> = subject.split('.').collect();
        let [_prefix, user, kind, rest @ ..] = parts.as_slice() else { return Err(no_request()) };
        let principal = guard.user(user).ok_or_else(|| unknown(user))?;
        let _place = guard.let_user_in(&principal)?;
        match (*kind, rest) {
            ("submit", [context, aggregate, id, command]) => {
                let address = [COMMAND_PREFIX, context, aggregate, id, command].join(".");
                let outcome = self.submit(&principal, &address, &headers, body).await?;
                Ok((Bytes::from(outcome.to_json().to_string()), Headers::new()))
            }
            ("query", [context, view, operation]) => {
                self.query(&principal, [context, view], operation, &headers, &body).await
            }
            ("query", [context, name]) => {
                self.configured_query(&principal, [context, name], &headers, &body).await
            }
            ("sql", ["ask"]) => {
                let freshness = self.wanted(&principal, &headers)?;
                self.ask_statement(&principal, body, &freshness).await.map(answered)
            }
            _ => Err(no_request()),
        }
    }

    async fn configured_query(
        &self,
        principal: &Principal,
        [context, name]: [&str; 2],
        headers: &Headers,
        body: &[u8],
    ) -> Result<(Bytes, Headers), Problem> {
        if !principal.may_ask_query(context, name) {
            return Err(not_granted(principal, &format!("{context}.{name}"), "the query"));
        }
        let freshness = self.wanted(principal, headers)?;
        let given = question(body)?;
        let query = self.description(context, name).await?;
        let given = arguments(&query, &given)?;
        self.query_answer(principal, &query, given, &freshness).await.map(answered)
    }

    /// What an answer must contain, according to the headers of a question.
    fn wanted(&self, principal: &Principal, headers: &Headers) -> Result<Freshness, Problem> {
        refuse_foreign(headers, &QUERY_HEADERS)?;
        let wait = wait(headers)?.unwrap_or(POSITION_WAIT_DEFAULT);
        let position = headers.find(header::POSITION).filter(|position| !position.is_empty());
        self.freshness(principal, position, wait)
    }

    async fn submit(
        &self,
        principal: &Principal,
        address: &str,
        headers: &Headers,
        body: Bytes,
    ) -> Result<OutcomeReply, Problem> {
        let address = CommandAddress::from_subject(address)
            .map_err(|error| Problem::malformed("address-malformed", error.to_string()))?;
        principal.check_may_send(&address)?;
        let wishes = wishes(headers)?;
        let max = self.limits.body_max;
        if body.len() > max {
            return Err(too_large(max));
        }
        check_depth(&body)?;
        match self.send(principal, &address, &wishes, body).await? {
            Told::Decided(reply, _) => Ok(of_first(reply)),
            Told::Stored(stored) => Err(not_decided(&stored, self.stop.is_cancelled())),
        }
    }

    async fn query(
        &self,
        principal: &Principal,
        [context, view]: [&str; 2],
        operation: &str,
        headers: &Headers,
        body: &[u8],
    ) -> Result<(Bytes, Headers), Problem> {
        refuse_foreign(headers, &QUERY_HEADERS)?;
        // The view checks the rest. The check of what is granted uses the very text that the view gets.
        let question = question(body)?;
        let (operation, is_granted, what) = match operation {
            "get" => {
                let key = text(&question, "key")?.ok_or_else(|| malformed("key is missing"))?;
                (Operation::Get, principal.may_read(context, view, key), format!("the row {key:?}"))
            }
            "list" => {
                let prefix = text(&question, "prefix")?.unwrap_or_default();
                let what = format!("a list of rows that begin with {prefix:?}");
                (Operation::List, principal.may_list(context, view, prefix), what)
            }
            _ => return Err(no_request()),
        };
        if !is_granted {
            return Err(not_granted(principal, &format!("{context}.{view}"), &what));
        }
        let freshness = self.wanted(principal, headers)?;
        self.views.ask([context, view], operation, &question, &freshness).await.map(answered)
    }
}

fn answered(answer: ViewAnswer) -> (Bytes, Headers) {
    let position = answer.position.map(|position| (header::POSITION, position));
    (answer.body, position.into_iter().collect())
}

/// The arguments of a configured query as texts, which the stage understands.
fn arguments(query: &QueryDescription, given: &Value) -> Result<BTreeMap<String, String>, Problem> {
    let Value::Object(fields) = given else { return Err(malformed("the body is a record of arguments")) };
    let mut arguments = BTreeMap::new();
    for (name, value) in fields {
        let parameter = query.parameters.iter().find(|parameter| parameter.name == *name);
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            // It means the same as to leave the parameter out, where that means null.
            Value::Null if parameter.is_some_and(|each| !each.required && each.default.is_null()) => continue,
            // The stage says of a parameter that does not exist that it does not.
            _ if parameter.is_none() => String::new(),
            Value::Null | Value::Array(_) | Value::Object(_) => {
                let detail = format!("{name}: {value} is no text, number or boolean");
                return Err(Problem::malformed("parameter-malformed", bounded(&detail).into_owned()));
            }
        };
        arguments.insert(name.clone(), text);
    }
    Ok(arguments)
}

fn no_request() -> Problem {
    let detail = "ask as.<user>.submit.<context>.<aggregate>.<id>.<command>, as.<user>.query.<context>.<view>.get or .list, \
         as.<user>.query.<context>.<query>, or as.<user>.sql.ask";
    Problem::malformed("subject-malformed", detail)
}

fn unknown(user: &str) -> Problem {
    let detail = format!("the file of keys has no user {user}; `millstream keys user` adds one");
    Problem::new(StatusCode::UNAUTHORIZED, "user-unknown", detail)
}

fn not_decided(stored: &Stored, is_stopping: bool) -> Problem {
    let (position, id) = (stored.position, &stored.id);
    let why = if is_stopping { "not decided before this gateway stops" } else { "not decided in time" };
    let detail = format!(
        "stored at position {position} of COMMANDS as {id}, and {why}; it will be. Send it again under the same id to hear its outcome"
    );
    Problem::new(StatusCode::GATEWAY_TIMEOUT, "not-decided", detail)
}

fn question(body: &[u8]) -> Result<Value, Problem> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    let question = serde_json::from_slice::<UniqueFields>(body);
    question
        .map(|fields| Value::Object(fields.0))
        .map_err(|error| Problem::malformed("query-malformed", error.to_string()))
}

fn malformed(detail: &str) -> Problem {
    Problem::malformed("query-malformed", detail)
}

/// The field that says which rows are meant, if there is one.
fn text<'a>(question: &'a Value, field: &str) -> Result<Option<&'a str>, Problem> {
    match question.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(malformed(&format!("{field} is a text"))),
    }
}

/// The wishes in a command's headers, in the terms of HTTP: the sender chooses its id, which works like an Idempotency-Key.
fn wishes(headers: &Headers) -> Result<Wishes, Problem> {
    refuse_foreign(headers, &COMMAND_HEADERS)?;
    check_kept(headers).map_err(|error| Problem::malformed(error.code(), error.to_string()))?;
    let media_type = headers.find(header::CONTENT_TYPE).and_then(|value| value.split(';').next());
    if media_type.is_some_and(|found| !found.trim().eq_ignore_ascii_case(header::JSON)) {
        let detail = "the body is JSON; Content-Type, where it is given, reads application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media-type-unknown", detail));
    }
    let id = headers.find(header::COMMAND_ID).or_else(|| headers.find(header::NATS_MESSAGE_ID));
    let id = id.filter(|id| !id.is_empty());
    if id.is_some_and(|id| check_idempotency_key(id).is_err()) {
        let detail =
            "the header Millstream-Command-Id, or Nats-Msg-Id, takes 1 to 256 characters of visible ASCII";
        return Err(Problem::malformed("header-malformed", detail));
    }
    let version = headers.find(header::EXPECTED_VERSION).filter(|version| !version.is_empty());
    let expected_version = version.map(|version| {
        let detail =
            format!("header Millstream-Expected-Version is {version:?}; expected a whole number from 0 on");
        whole_number(version).ok_or_else(|| Problem::malformed("header-malformed", detail))
    });
    let wait = wait(headers)?.unwrap_or(OUTCOME_WAIT_DEFAULT);
    let kept = COMMAND_HEADERS_KEPT
        .iter()
        .filter_map(|name| headers.find(name).map(|value| (*name, value.to_owned())))
        .collect();
    Ok(Wishes {
        kept,
        expected_version: expected_version.transpose()?,
        idempotency_key: id.map(str::to_owned),
        // Whoever waits for less than a second waits for a whole one, because knowing something then is better than nothing.
        wait_seconds: Some(wait.as_secs().max(1)),
    })
}

fn wait(headers: &Headers) -> Result<Option<Duration>, Problem> {
    let Some(text) = headers.find(header::WAIT_MS).filter(|text| !text.is_empty()) else { return Ok(None) };
    let wait = whole_number(text).map(Duration::from_millis);
    wait.map(Some).ok_or_else(|| {
        let detail = format!("header Millstream-Wait-Ms is {text:?}; expected milliseconds");
        Problem::malformed("header-malformed", detail)
    })
}

/// # Errors
/// A [`Problem`] for a `Millstream-…` header that is not in `known`, especially for the actor, which is always the user, and for a header of
/// HTTP that would have no effect here: whoever relied on it might send a command twice.
fn refuse_foreign(headers: &Headers, known: &[&str]) -> Result<(), Problem> {
    if let Some((name, own)) = OF_HTTP.iter().find(|(name, _)| headers.find(name).is_some()) {
        let detail = format!("the header {name} is for HTTP; over NATS it is {own}");
        return Err(Problem::malformed("header-unknown", detail));
    }
    if headers.find(header::ACTOR).is_some() {
        let detail = "the subject says who sends; the header Millstream-Actor is not taken from users";
        return Err(Problem::malformed("actor-not-taken", detail));
    }
    check_headers(headers, known).map_err(|error| Problem::malformed(error.code(), error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> Headers {
        list.iter().map(|(name, value)| (*name, *value)).collect()
    }

    #[test]
    fn headers_of_a_command_are_wishes() {
        let read = wishes(&headers(&[
            (header::COMMAND_ID, "sale 1"),
            (header::EXPECTED_VERSION, "7"),
            (header::WAIT_MS, "2500"),
            (header::CORRELATION_ID, "day"),
            ("X-Other", "kept out"),
        ]));
        let read = read.unwrap();
        assert_eq!((read.idempotency_key.as_deref(), read.expected_version), (Some("sale 1"), Some(7)));
        assert_eq!(
            (read.wait_seconds, read.kept),
            (Some(2), vec![(header::CORRELATION_ID, "day".to_owned())])
        );
        let read = wishes(&headers(&[(header::NATS_MESSAGE_ID, "m1")])).unwrap();
        assert_eq!((read.idempotency_key.as_deref(), read.wait_seconds), (Some("m1"), Some(10)));
    }

    #[test]
    fn the_guide_explains_what_users_alone_are_told() {
        let guide = include_str!("../../../docs/guides/users.md");
        let stored = Stored { id: "a:1".to_owned(), position: 7, generation: String::new() };
        for problem in
            [no_request(), unknown("anna"), not_decided(&stored, false), not_decided(&stored, true)]
        {
            let error = problem.service_error();
            let code = error.status().split(':').next().unwrap();
            assert!(guide.contains(&format!("`{code}`")), "{error:?}");
        }
    }

    #[test]
    fn what_is_not_the_users_to_say_is_refused() {
        for (name, value, code) in [
            (header::ACTOR, "anna", "actor-not-taken"),
            (header::REPLY, "_INBOX.other.1", "header-unknown"),
            ("idempotency-key", "once", "header-unknown"),
            ("Prefer", "wait=5", "header-unknown"),
            (header::EXPECTED_VERSION, "v7", "header-malformed"),
            (header::WAIT_MS, "soon", "header-malformed"),
            (header::EXPECTED_VERSION, "07", "header-malformed"),
            (header::WAIT_MS, "+5", "header-malformed"),
            (header::COMMAND_ID, "caf\u{e9}", "header-malformed"),
        ] {
            let refused = wishes(&headers(&[(name, value)])).unwrap_err();
            assert!(refused.is(400, code), "{name}: {refused:?}");
        }
        let packed = wishes(&headers(&[(header::CONTENT_TYPE, header::MESSAGE_PACK)])).unwrap_err();
        assert!(packed.is(415, "media-type-unknown"), "{packed:?}");
        assert!(wishes(&headers(&[(header::CONTENT_TYPE, "Application/JSON; charset=utf-8")])).is_ok());
        assert!(refuse_foreign(&headers(&[(header::COMMAND_ID, "1")]), &QUERY_HEADERS).is_err());
    }
}
