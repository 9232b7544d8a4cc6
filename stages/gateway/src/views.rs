//! Queries the views of an application, which answer on `query.<context>.<view>.get` and `.list`.
//!
//! A client may want an answer no older than a position. A position in COMMANDS stands for what that command changes: first its outcome is
//! waited for, which gives the stream position in EVENTS. So a client reads its own write before it knows the outcome. When the gateway is
//! asked to stop, nobody waits for a position any more.
//!
//! A view lets each client have a number of waiting places, and the gateway is one client together with all of its own clients. So a waiting
//! client takes one of the gateway's places, and a view is asked repeatedly to wait for a short time, because it would not learn that nobody
//! waits any more.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::http::StatusCode;
use bytes::Bytes;
use millstream_contract::{
    header,
    moment::Moment,
    outcome::Outcome,
    position::StreamPosition,
    stored_message::Headers,
    stream_names::{COMMANDS, EVENTS, OUTCOMES},
    subject::QUERY_PREFIX,
};
use millstream_jetstream::{
    backoff::Backoff,
    broker::Broker as _,
    nats_broker::{Answer, AskError, NatsBroker},
    position_at_moment::{PastError, position_at},
};
use millstream_runtime::file_work::end_of;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    command_log::{ANSWER_WAIT, CommandLog, LogError},
    concurrency_limit::Place,
    forgotten_outcomes::Forgotten,
    last_moment,
    problem::{Problem, SOON},
    watched_stream::WatchedStream,
};

/// The first pause before the outcome of a command is asked for again.
const OUTCOME_PAUSE_FIRST: Duration = Duration::from_millis(5);
/// The longest pause.
const OUTCOME_PAUSE_MAX: Duration = Duration::from_millis(200);
/// How long a view is asked to wait at a time, which is also how long it keeps a place for a client that has gone. Shorter waits would cost
/// more queries; with this one, each of the few waiting clients costs one query a second.
const TURN_MAX: Duration = Duration::from_secs(1);
/// The code with which a view answers that it has not reached a position in time.
const NOT_REACHED: &str = "504";

/// The operations of a view.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operation {
    Get,
    List,
}

/// What an answer must contain, and how long that may take.
#[derive(Debug)]
pub(crate) struct Freshness {
    pub(crate) position: Option<Awaited>,
    pub(crate) wait: Duration,
}

/// A position that must be reached, and the place of the waiting client.
#[derive(Debug)]
pub(crate) struct Awaited {
    pub(crate) position: String,
    pub(crate) place: Arc<Place>,
}

/// An answer as it came.
#[derive(Debug, Clone)]
pub(crate) struct ViewAnswer {
    pub(crate) body: Bytes,
    /// The position of its rows.
    pub(crate) position: Option<String>,
}

/// The existing views.
pub(crate) struct Views {
    pub(crate) broker: NatsBroker,
    /// COMMANDS and EVENTS.
    pub(crate) stream: WatchedStream,
    pub(crate) events: WatchedStream,
    pub(crate) log: CommandLog,
    /// Commands whose outcomes have been purged.
    pub(crate) forgotten: Forgotten,
    /// Contexts with their views.
    pub(crate) known: BTreeSet<(String, String)>,
    /// Views that follow OUTCOMES; all others follow EVENTS.
    pub(crate) of_outcomes: BTreeSet<String>,
    /// When this is cancelled, nobody waits for a position any more.
    pub(crate) stop: CancellationToken,
}

impl Views {
    /// # Errors
    /// A [`Problem`] when there is no such view.
    pub(crate) fn check_known(&self, context: &str, view: &str) -> Result<(), Problem> {
        if self.known.contains(&(context.to_owned(), view.to_owned())) {
            return Ok(());
        }
        let detail = format!("there is no view {context}.{view}");
        Err(Problem::new(StatusCode::NOT_FOUND, "view-unknown", detail))
    }

    /// The stream that a view follows.
    pub(crate) fn stream_of(&self, view: &str) -> &'static str {
        if self.of_outcomes.contains(view) { OUTCOMES } else { EVENTS }
    }

    /// Queries a view.
    ///
    /// # Errors
    /// A [`Problem`] with the view's error, or saying that it does not answer.
    pub(crate) async fn ask(
        &self,
        [context, view]: [&str; 2],
        operation: Operation,
        body: &Value,
        freshness: &Freshness,
    ) -> Result<ViewAnswer, Problem> {
        self.check_known(context, view)?;
        let operation = match operation {
            Operation::Get => "get",
            Operation::List => "list",
        };
        let subject = format!("{QUERY_PREFIX}.{context}.{view}.{operation}");
        let deadline = Instant::now() + freshness.wait;
        let body = Bytes::from(body.to_string());
        let Some(Awaited { position: wanted, place }) = &freshness.position else {
            return Ok(ask_once(&self.broker, &subject, body, None).await?);
        };
        let question = Question { subject: &subject, body, place, deadline };
        let answer = async {
            let position = parsed(wanted)?;
            if position.stream != COMMANDS {
                return self.ask_behind(question, wanted).await;
            }
            let effect = self.effect_of(&position, deadline).await?;
            let behind = if self.of_outcomes.contains(view) { effect.seen_at } else { effect.position };
            match behind {
                Some(wanted) => self.ask_behind(question, &wanted).await,
                None => Ok(ask_once(&self.broker, &subject, question.body, None).await?),
            }
        };
        tokio::select! {
            biased;
            answer = answer => answer,
            () = last_moment(&self.stop) => {
                Err(not_reached(format!("this gateway is stopping, and nothing has reached {wanted} yet")))
            }
        }
    }

    /// The position in EVENTS that a service on `subject` must have reached, if one is wanted; returned when the service says that it has
    /// reached it. The service is asked with `body`, which must be cheap to answer.
    ///
    /// # Errors
    /// A [`Problem`] when the position is not in EVENTS or COMMANDS, or was not reached in time.
    pub(crate) async fn reached_by(
        &self,
        subject: &str,
        body: Bytes,
        freshness: &Freshness,
    ) -> Result<Option<String>, Problem> {
        let Some(Awaited { position: wanted, place }) = &freshness.position else { return Ok(None) };
        let deadline = Instant::now() + freshness.wait;
        let reached = async {
            let position = parsed(wanted)?;
            let behind = match position.stream.as_str() {
                COMMANDS => self.effect_of(&position, deadline).await?.position,
                EVENTS if position.generation == self.events.generation() => Some(wanted.clone()),
                EVENTS => return Err(of_another_generation(&position)),
                other => {
                    let detail =
                        format!("a position of {other} is none that tables show; send one of {EVENTS}");
                    return Err(Problem::malformed("position-malformed", detail));
                }
            };
            if let Some(behind) = &behind {
                self.ask_behind(Question { subject, body, place, deadline }, behind).await?;
            }
            Ok(behind)
        };
        tokio::select! {
            biased;
            reached = reached => reached,
            () = last_moment(&self.stop) => {
                Err(not_reached(format!("this gateway is stopping, and nothing has reached {wanted} yet")))
            }
        }
    }

    /// Waits until EVENTS contains what a position stands for. The stream itself is read, so only a command has to be waited for.
    ///
    /// # Errors
    /// A [`Problem`] when the position is invalid, or was not reached in time.
    pub(crate) async fn reached(&self, freshness: &Freshness) -> Result<(), Problem> {
        let Some(Awaited { position: wanted, .. }) = &freshness.position else { return Ok(()) };
        let position = parsed(wanted)?;
        if position.stream == COMMANDS {
            let deadline = Instant::now() + freshness.wait;
            return tokio::select! {
                biased;
                effect = self.effect_of(&position, deadline) => effect.map(drop),
                () = last_moment(&self.stop) => {
                    Err(not_reached(format!("this gateway is stopping, and nothing has reached {wanted} yet")))
                }
            };
        }
        position_at(&self.broker, &Moment::Position(position)).await.map(drop).map_err(past_problem)
    }

    /// The stream positions at which a view shows what a position stands for. For a command that is decided, they are those of its effect and
    /// of its outcome. Otherwise it is the position itself, which must already exist.
    ///
    /// # Errors
    /// A [`Problem`] when the position is invalid, or was not reached in time.
    pub(crate) async fn shown_at(&self, freshness: &Freshness) -> Result<Vec<StreamPosition>, Problem> {
        let Some(Awaited { position: wanted, .. }) = &freshness.position else { return Ok(Vec::new()) };
        let position = parsed(wanted)?;
        if position.stream == COMMANDS {
            let deadline = Instant::now() + freshness.wait;
            let Effect { position, seen_at } = tokio::select! {
                biased;
                effect = self.effect_of(&position, deadline) => effect?,
                () = last_moment(&self.stop) => {
                    return Err(not_reached(format!("this gateway is stopping, and nothing has reached {wanted} yet")));
                }
            };
            return position.into_iter().chain(seen_at).map(|position| parsed(&position)).collect();
        }
        if ![EVENTS, OUTCOMES].contains(&position.stream.as_str()) {
            let detail = format!("{position} is of no stream that views follow");
            return Err(Problem::malformed("position-malformed", detail));
        }
        let state = self.broker.state(&position.stream).await;
        let state = state.map_err(|error| Problem::unavailable("events-unavailable", error.to_string()))?;
        if state.generation != position.generation {
            return Err(of_another_generation(&position));
        }
        if state.last_sequence < position.sequence {
            return Err(not_reached(format!("{} ends before {position}", position.stream)));
        }
        Ok(vec![position])
    }

    /// Waits for the outcome of the command at a position of COMMANDS.
    async fn effect_of(&self, position: &StreamPosition, deadline: Instant) -> Result<Effect, Problem> {
        if position.generation != self.stream.generation() {
            return Err(of_another_generation(position));
        }
        let message = match position.sequence {
            // The server treats sequence 0 as if none were given.
            0 => None,
            sequence => self.log.command(sequence).await?,
        };
        let Some(message) = message else {
            let detail =
                format!("{COMMANDS} holds no command at {position}: it was purged, or there never was one");
            return Err(Problem::new(StatusCode::CONFLICT, "position-unknown", detail));
        };
        let mut backoff = Backoff::new(OUTCOME_PAUSE_FIRST, OUTCOME_PAUSE_MAX);
        loop {
            if let Some(row) = self.log.outcome_of(&message).await? {
                let reply = row.reply();
                let changed = match reply.as_ref().map(|reply| reply.outcome.first()) {
                    Some(Outcome::Accepted { sequence, .. }) if *sequence > 0 => Some(*sequence),
                    _ => None,
                };
                let events = self.events.generation();
                let position =
                    changed.map(|sequence| StreamPosition::new(EVENTS, events, sequence).to_string());
                return Ok(Effect { position, seen_at: row.position });
            }
            if self.forgotten.has(position) {
                return Ok(self.end_of_events().await?);
            }
            if Instant::now() + backoff.next() > deadline {
                return Err(not_reached(format!("the command at {position} has no outcome yet")));
            }
            backoff.pause().await;
        }
    }

    /// Everything that any command decided by now may have changed.
    async fn end_of_events(&self) -> Result<Effect, LogError> {
        let state = self.broker.state(EVENTS).await?;
        let any = state.last_sequence > 0;
        let position =
            any.then(|| StreamPosition::new(EVENTS, state.generation, state.last_sequence).to_string());
        Ok(Effect { position, seen_at: None })
    }

    /// Queries repeatedly until the view has reached a position, or the time is over.
    async fn ask_behind(&self, question: Question<'_>, position: &str) -> Result<ViewAnswer, Problem> {
        let Question { subject, body, place, deadline } = question;
        let wait = deadline.saturating_duration_since(Instant::now());
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let turn = left.min(TURN_MAX);
            let (broker, place) = (self.broker.clone(), Arc::clone(place));
            let (subject, body, position) = (subject.to_owned(), body.clone(), position.to_owned());
            // The place is taken as long as the view keeps one of its own, even if the client has gone.
            let asked = tokio::spawn(async move {
                let answer = ask_once(&broker, &subject, body, Some((&position, turn))).await;
                drop(place);
                answer
            });
            match end_of(asked).await {
                Err(AskError::Refused { code, .. }) if code == NOT_REACHED && turn < left => {}
                Err(AskError::Refused { code, text, .. }) if code == NOT_REACHED => {
                    let detail =
                        format!("not reached in {} ms; the view says at last: {text}", wait.as_millis());
                    return Err(not_reached(detail));
                }
                answer => return Ok(answer?),
            }
        }
    }
}

/// The content of a query, its sender, and how long it may wait.
struct Question<'a> {
    subject: &'a str,
    body: Bytes,
    place: &'a Arc<Place>,
    deadline: Instant,
}

/// Queries a view once. With a position, the view waits for it as long as is given.
pub(crate) async fn ask_once(
    broker: &NatsBroker,
    subject: &str,
    body: Bytes,
    position: Option<(&str, Duration)>,
) -> Result<ViewAnswer, AskError> {
    let (mut wait, mut headers) = (Duration::ZERO, Headers::new());
    if let Some((position, turn)) = position {
        wait = turn;
        headers.push(header::POSITION, position);
        headers.push(header::WAIT_MS, wait.as_millis().to_string());
    }
    let Answer { headers, payload } = broker.ask(subject, &headers, body, wait + ANSWER_WAIT).await?;
    Ok(ViewAnswer { body: payload, position: headers.get(header::POSITION).map(str::to_owned) })
}

fn parsed(wanted: &str) -> Result<StreamPosition, Problem> {
    let position: StreamPosition =
        wanted.parse().map_err(|error| Problem::malformed("position-malformed", format!("{error}")))?;
    if position.to_string() == wanted {
        return Ok(position);
    }
    let detail = format!("{wanted:?} is not how {position} is written");
    Err(Problem::malformed("position-malformed", detail))
}

/// What a command has changed.
struct Effect {
    /// The stream position in EVENTS after it, if it changed anything.
    position: Option<String>,
    /// The position in OUTCOMES at which a view had its outcome.
    seen_at: Option<String>,
}

/// A moment for which EVENTS has no position.
pub(crate) fn past_problem(error: PastError) -> Problem {
    let detail = error.to_string();
    match error {
        PastError::OtherStream { .. } => Problem::malformed("position-malformed", detail),
        PastError::OtherGeneration { .. } => {
            Problem::new(StatusCode::CONFLICT, "position-of-another-generation", detail)
        }
        PastError::NotReached { .. } => not_reached(detail),
        PastError::Broker(_) | PastError::Feed(_) => Problem::unavailable("events-unavailable", detail),
    }
}

fn of_another_generation(position: &StreamPosition) -> Problem {
    let detail =
        format!("{position} is of another generation of {}, which was made again since", position.stream);
    Problem::new(StatusCode::CONFLICT, "position-of-another-generation", detail)
}

pub(crate) fn not_reached(detail: String) -> Problem {
    Problem::new(StatusCode::GATEWAY_TIMEOUT, "position-not-reached", detail).retry_after(SOON)
}

impl From<AskError> for Problem {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Refused { code, text, .. } => refusal(&code, &text),
            AskError::NoResponders { .. } | AskError::NoAnswer { .. } => {
                Self::unavailable("view-unavailable", error.to_string())
            }
        }
    }
}

/// A view's refusal of a query (docs/queries.md), in the terms of HTTP.
fn refusal(code: &str, text: &str) -> Problem {
    let (status, name) = match code {
        "400" => (StatusCode::BAD_REQUEST, "query-malformed"),
        "404" => (StatusCode::NOT_FOUND, "row-unknown"),
        "409" => (StatusCode::CONFLICT, "position-of-another-generation"),
        "413" => (StatusCode::INTERNAL_SERVER_ERROR, "row-too-large"),
        "429" => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
        "503" => (StatusCode::SERVICE_UNAVAILABLE, "view-unavailable"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "view-failed"),
    };
    let problem = Problem::new(status, name, text);
    if status == StatusCode::SERVICE_UNAVAILABLE { problem.retry_after(SOON) } else { problem }
}
