//! Asks the views of an application, which answer on `query.<context>.<view>.get` and `.list`.
//!
//! An answer may be wanted no older than a position. One of COMMANDS stands for what that command changes: its outcome is waited for
//! first, and tells the position of EVENTS, so that a client reads its own write before it knows the outcome. Nobody waits for a
//! position any more when the gateway is asked to stop.

use std::{collections::BTreeSet, time::Duration};

use axum::http::StatusCode;
use bytes::Bytes;
use millstream_contract::{
    header,
    outcome::Outcome,
    position::Position,
    stored_message::Headers,
    stream_names::{COMMANDS, EVENTS},
    subject::QUERY_PREFIX,
};
use millstream_jetstream::{
    backoff::Backoff,
    nats_broker::{Answer, AskError, NatsBroker},
};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    command_log::{ANSWER_WAIT, CommandLog},
    last_moment,
    problem::{Problem, SOON},
    watched_stream::WatchedStream,
};

/// First pause before the outcome of a command is asked for again.
const OUTCOME_PAUSE_FIRST: Duration = Duration::from_millis(5);
/// Longest pause.
const OUTCOME_PAUSE_MAX: Duration = Duration::from_millis(200);

/// What a view can be asked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operation {
    Get,
    List,
}

/// What must be in an answer, and how long it may take to get there.
#[derive(Debug, Clone)]
pub(crate) struct Freshness {
    pub(crate) position: Option<String>,
    pub(crate) wait: Duration,
}

/// An answer as it came.
#[derive(Debug, Clone)]
pub(crate) struct ViewAnswer {
    pub(crate) body: Bytes,
    /// The position of its rows.
    pub(crate) position: Option<String>,
}

/// The views there are.
pub(crate) struct Views {
    pub(crate) broker: NatsBroker,
    /// COMMANDS and EVENTS.
    pub(crate) stream: WatchedStream,
    pub(crate) events: WatchedStream,
    pub(crate) log: CommandLog,
    /// Contexts with their views.
    pub(crate) known: BTreeSet<(String, String)>,
    /// Views that follow OUTCOMES; all others follow EVENTS.
    pub(crate) of_outcomes: BTreeSet<String>,
    /// From then on nobody waits for a position.
    pub(crate) stop: CancellationToken,
}

impl Views {
    /// Asks a view.
    ///
    /// # Errors
    /// A [`Problem`] with what the view says, or that it does not answer.
    pub(crate) async fn ask(
        &self,
        [context, view]: [&str; 2],
        operation: Operation,
        body: &Value,
        freshness: &Freshness,
    ) -> Result<ViewAnswer, Problem> {
        if !self.known.contains(&(context.to_owned(), view.to_owned())) {
            let detail = format!("there is no view {context}.{view}");
            return Err(Problem::new(StatusCode::NOT_FOUND, "view-unknown", detail));
        }
        let operation = match operation {
            Operation::Get => "get",
            Operation::List => "list",
        };
        let subject = format!("{QUERY_PREFIX}.{context}.{view}.{operation}");
        let deadline = Instant::now() + freshness.wait;
        let body = Bytes::from(body.to_string());
        let Some(wanted) = &freshness.position else {
            return self.ask_once(&subject, body, None, deadline).await;
        };
        let answer = async {
            let position: Position = wanted
                .parse()
                .map_err(|error| Problem::malformed("position-malformed", format!("{error}")))?;
            if position.stream != COMMANDS {
                return self.ask_once(&subject, body, Some(wanted), deadline).await;
            }
            let effect = self.effect_of(&position, deadline).await?;
            let wanted = if self.of_outcomes.contains(view) { effect.seen_at } else { effect.position };
            self.ask_once(&subject, body, wanted.as_deref(), deadline).await
        };
        tokio::select! {
            biased;
            answer = answer => answer,
            () = last_moment(&self.stop) => {
                Err(not_reached(format!("this gateway is stopping, and nothing has reached {wanted} yet")))
            }
        }
    }

    /// Waits for the outcome of the command at a position of COMMANDS.
    async fn effect_of(&self, position: &Position, deadline: Instant) -> Result<Effect, Problem> {
        if position.generation != self.stream.generation() {
            let detail =
                format!("{position} is of another generation of {COMMANDS}, which was made again since");
            return Err(Problem::new(StatusCode::CONFLICT, "position-of-another-generation", detail));
        }
        let message = match position.sequence {
            // The server takes it for no position at all.
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
                    Some(Outcome::Accepted { position, .. }) if *position > 0 => Some(*position),
                    _ => None,
                };
                let events = self.events.generation();
                let position = changed.map(|sequence| Position::new(EVENTS, events, sequence).to_string());
                return Ok(Effect { position, seen_at: row.position });
            }
            if Instant::now() + backoff.next() > deadline {
                return Err(not_reached(format!("the command at {position} has no outcome yet")));
            }
            backoff.pause().await;
        }
    }

    async fn ask_once(
        &self,
        subject: &str,
        body: Bytes,
        position: Option<&str>,
        deadline: Instant,
    ) -> Result<ViewAnswer, Problem> {
        let (mut wait, mut headers) = (Duration::ZERO, Headers::new());
        if let Some(position) = position {
            wait = deadline.saturating_duration_since(Instant::now());
            headers.push(header::POSITION, position);
            headers.push(header::WAIT_MS, wait.as_millis().to_string());
        }
        let answer = self.broker.ask(subject, &headers, body, wait + ANSWER_WAIT).await;
        let Answer { headers, payload } = answer.map_err(view_problem)?;
        Ok(ViewAnswer { body: payload, position: headers.get(header::POSITION).map(str::to_owned) })
    }
}

/// What a command has changed.
struct Effect {
    /// The position of EVENTS behind it, if it changed anything.
    position: Option<String>,
    /// The position of OUTCOMES at which a view had its outcome.
    seen_at: Option<String>,
}

fn not_reached(detail: String) -> Problem {
    Problem::new(StatusCode::GATEWAY_TIMEOUT, "position-not-reached", detail).retry_after(SOON)
}

fn view_problem(error: AskError) -> Problem {
    match error {
        AskError::Refused { code, text, .. } => refusal(&code, &text),
        AskError::NoResponders { .. } | AskError::NoAnswer { .. } => {
            Problem::unavailable("view-unavailable", error.to_string())
        }
    }
}

/// What a view says against a query (docs/queries.md), in the words of HTTP.
fn refusal(code: &str, text: &str) -> Problem {
    let (status, name) = match code {
        "400" => (StatusCode::BAD_REQUEST, "query-malformed"),
        "404" => (StatusCode::NOT_FOUND, "row-unknown"),
        "409" => (StatusCode::CONFLICT, "position-of-another-generation"),
        "413" => (StatusCode::INTERNAL_SERVER_ERROR, "row-too-large"),
        "429" => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
        "503" => (StatusCode::SERVICE_UNAVAILABLE, "view-unavailable"),
        "504" => (StatusCode::GATEWAY_TIMEOUT, "position-not-reached"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "view-failed"),
    };
    let problem = Problem::new(status, name, text);
    let again = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT].contains(&status);
    if again { problem.retry_after(SOON) } else { problem }
}
