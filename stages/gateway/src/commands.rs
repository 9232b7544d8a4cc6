//! `POST /v1/commands/{context}/{aggregate}/{id}/{command}` and `GET /v1/commands/{command-id}`; the way of a command to COMMANDS.
//!
//! A command is answered with 202 only when COMMANDS has stored it. Deliberately absent: a decision. What becomes of it, the command
//! handler says.

use std::{collections::BTreeMap, num::NonZeroU64, sync::Arc, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode, Uri},
    response::Response,
};
use bytes::Bytes;
use millstream_contract::{
    api_key::CommandPattern,
    command::issuer,
    header,
    outcome::{Outcome, OutcomeReply},
    position::StreamPosition,
    stored_message::Headers,
    stream_names::COMMANDS,
    subject::CommandAddress,
};
use millstream_domain::decider::AggregateRegistry;
use millstream_jetstream::{
    broker::{AppendError, Broker as _, NewMessage},
    intake::{HandedOver, Intake},
    nats_broker::NatsBroker,
};
use millstream_write_side::outcome_inbox::{ExpectedOutcome, OutcomeInbox};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::{
    answers::{self, Stored},
    audit::{Audit, CommandRecord},
    command_ids::CommandIds,
    command_log::{CommandLog, Fingerprint, id_of},
    command_request::{self, Wishes, check_question, too_large},
    concurrency_limit::Places,
    config::{KnownReport, Limits},
    guard::stranger,
    key_ring::{Admission, Principal},
    live::Hub,
    problem::Problem,
    recent_keys::RecentKeys,
    views::Views,
    watched_stream::WatchedStream,
    whole_number,
};

/// What an append adds to a command besides its headers and its body.
const APPEND_BYTES: usize = 256;
/// How long a command under a key may be kept from COMMANDS by a look for its first: no view has the row of a new one, so that
/// the slowest of all views would keep it.
const REPEAT_LOOK: Duration = Duration::from_millis(250);

/// What all requests share.
pub(crate) struct Commands {
    pub(crate) broker: NatsBroker,
    pub(crate) stream: WatchedStream,
    pub(crate) views: Views,
    pub(crate) intake: Intake,
    pub(crate) outcomes: OutcomeInbox,
    pub(crate) log: CommandLog,
    pub(crate) ids: CommandIds,
    pub(crate) recent_keys: RecentKeys,
    pub(crate) aggregates: AggregateRegistry,
    /// By name, and by context and name.
    pub(crate) reports: BTreeMap<String, KnownReport>,
    pub(crate) limits: Limits,
    /// Commands that must carry a version.
    pub(crate) preconditions_required: Vec<CommandPattern>,
    /// For requests with several commands, which may be large.
    pub(crate) places_for_lines: Arc<Places>,
    /// For requests that wait for a position.
    pub(crate) places_for_waiting: Arc<Places>,
    /// For pages of histories, and for states of the past, which take memory.
    pub(crate) places_for_histories: Arc<Places>,
    pub(crate) places_for_states: Arc<Places>,
    /// For dead letters.
    pub(crate) places_for_letters: Arc<Places>,
    /// For overviews.
    pub(crate) places_for_overviews: Arc<Places>,
    /// For configured queries.
    pub(crate) places_for_queries: Arc<Places>,
    /// For streams of live rows.
    pub(crate) places_for_live: Arc<Places>,
    pub(crate) live: Hub,
    pub(crate) audit: Audit,
    /// From then on nobody waits for an outcome.
    pub(crate) stop: CancellationToken,
}

/// A command that is checked.
pub(crate) struct Sending {
    id: String,
    /// Whether the client may send it again under the same id.
    repeatable: bool,
    fingerprint: Fingerprint,
    principal: Principal,
    message: NewMessage,
}

/// What is known of a command that was sent.
pub(crate) enum Told {
    /// It is stored, and will be decided.
    Stored(Stored),
    /// What became of it, and how many seconds its sender would have waited for that.
    Decided(OutcomeReply, u64),
}

impl Told {
    /// In the words of HTTP.
    pub(crate) fn into_response(self) -> Response {
        match self {
            Self::Stored(stored) => stored.accepted(),
            Self::Decided(reply, seconds) => answers::decided(&reply, seconds),
        }
    }
}

/// A command that was handed over to be stored.
pub(crate) struct OnItsWay {
    id: String,
    fingerprint: Fingerprint,
    record: CommandRecord,
    put: HandedOver,
}

/// Takes a command.
pub(crate) async fn post(
    State(commands): State<Arc<Commands>>,
    Extension(principal): Extension<Principal>,
    Extension(admission): Extension<Admission>,
    parts: Result<Path<[String; 4]>, PathRejection>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let Path(parts) = parts?;
    let address = command_request::address(&parts)?;
    principal.check_may_send(&address)?;
    command_request::refuse_parameters(&uri)?;
    let wishes = Wishes::read(&headers)?;
    let body = command_request::body(&headers, body, &commands.limits, &commands.stop).await?;
    let principal = admission.still(principal).map_err(stranger)?;
    principal.check_may_send(&address)?;
    commands.send(&principal, &address, &wishes, body).await.map(Told::into_response)
}

/// What may be said of a command besides its id.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Whereabouts {
    #[serde(default, deserialize_with = "whole_number::parameter")]
    position: Option<NonZeroU64>,
}

/// What became of a command.
pub(crate) async fn get(
    State(commands): State<Arc<Commands>>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<Whereabouts>, QueryRejection>,
) -> Result<Response, Problem> {
    let Path(id) = id?;
    check_question(&headers, &[])?;
    let Query(Whereabouts { position }) = query.map_err(|error| {
        Problem::malformed(
            "query-malformed",
            format!("only `position`, a number, is taken: {}", error.body_text()),
        )
    })?;
    let unknown = || {
        let detail =
            "no command of this key has that id, or it has no outcome yet; ask at the address in Location";
        Problem::new(StatusCode::NOT_FOUND, "command-id-unknown", detail)
    };
    if !is_own(&id, principal.name()) {
        return Err(unknown());
    }
    let stored = match position {
        Some(position) => commands.log.command(position.get()).await?,
        None => None,
    };
    let stored = stored.filter(|command| id_of(command).is_some_and(|found| found == id));
    let row = match &stored {
        Some(command) => commands.log.outcome_of(command).await?,
        None => commands.log.outcome(&id).await?,
    };
    match (row, stored) {
        (Some(row), _) => Ok(answers::status(&row.value, row.position.as_deref())),
        (None, Some(command)) if commands.is_forgotten(command.sequence) => Err(outcome_forgotten()),
        (None, Some(command)) => Ok(answers::pending(&id, command.sequence)),
        (None, None) => Err(unknown()),
    }
}

impl Commands {
    /// Sends a command, and waits for its outcome where the client does.
    pub(crate) async fn send(
        &self,
        principal: &Principal,
        address: &CommandAddress,
        wishes: &Wishes,
        body: Bytes,
    ) -> Result<Told, Problem> {
        let mut sending = self.sending(principal, address, wishes, body)?;
        if let Some(told) = self.repeated(&sending, wishes.wait_seconds).await? {
            return Ok(told);
        }
        let expected = self.expected(&mut sending, wishes.wait_seconds);
        let deadline = Instant::now() + self.limits.store_wait;
        let on_its_way = self.hand_over(sending, deadline).await?;
        self.told(on_its_way, expected, deadline).await
    }

    /// A command as it will be stored, looked at as the command handler will, and noted under its key.
    pub(crate) fn sending(
        &self,
        principal: &Principal,
        address: &CommandAddress,
        wishes: &Wishes,
        payload: Bytes,
    ) -> Result<Sending, Problem> {
        let key = wishes.idempotency_key.as_deref();
        let id = self.ids.id(principal.name(), key);
        let mut headers = Headers::new();
        headers.push(header::COMMAND_ID, &id);
        headers.push(header::ACTOR, principal.name());
        if let Some(version) = wishes.expected_version {
            headers.push(header::EXPECTED_VERSION, version.to_string());
        }
        for (name, value) in &wishes.kept {
            headers.push(*name, value);
        }
        let fingerprint = Fingerprint::new(address, wishes.expected_version, &payload);
        let message = NewMessage { subject: address.subject(), expected_last: None, headers, payload };
        let max = self.broker.message_bytes_max();
        if message.size() + APPEND_BYTES > max {
            return Err(too_large(max));
        }
        command_request::check(address, &message.headers, &message.payload, &self.aggregates)?;
        if wishes.expected_version.is_none()
            && self.preconditions_required.iter().any(|pattern| pattern.grants(address))
        {
            return Err(precondition_required(address));
        }
        let repeatable = key.is_some();
        if repeatable {
            let before = self.recent_keys.note(&id, fingerprint);
            if before.is_some_and(|before| before != fingerprint) {
                return Err(key_reused());
            }
        }
        Ok(Sending { id, repeatable, fingerprint, principal: principal.clone(), message })
    }

    /// The answer to a request that was answered before under the same key; none when it has to be sent, or may be sent again
    /// without harm.
    pub(crate) async fn repeated(
        &self,
        sending: &Sending,
        wait: Option<u64>,
    ) -> Result<Option<Told>, Problem> {
        if !sending.repeatable {
            return Ok(None);
        }
        // A repeat that is not found here is recognised when it is decided.
        let look = tokio::time::timeout(REPEAT_LOOK, self.log.outcome(&sending.id)).await;
        let Ok(Ok(Some(row))) = look else { return Ok(None) };
        let Some(mut reply) = row.reply() else { return Ok(None) };
        // Where the first is no longer stored, whoever decides knows whether this is a repeat of it.
        let is_compared = self.same_command(reply.command_position, sending.fingerprint).await?;
        if !is_compared || !reply.outcome.is_final() {
            return Ok(None);
        }
        let Sending { id, principal, message, .. } = sending;
        self.audit.repeated(principal, &message.subject, id, reply.command_position);
        let Some(seconds) = self.seconds(wait) else {
            return Ok(Some(Told::Stored(self.stored(sending.id.clone(), reply.command_position))));
        };
        // The row has the sequence alone.
        reply.query_position = reply.outcome.query_position(&self.views.events.generation());
        Ok(Some(Told::Decided(reply, seconds)))
    }

    /// Refuses a command that is not the one at a position; says whether that is still stored, so that they could be compared.
    async fn same_command(&self, position: u64, fingerprint: Fingerprint) -> Result<bool, Problem> {
        match self.log.command(position).await? {
            Some(message) if Fingerprint::of_stored(&message) != fingerprint => Err(key_reused()),
            first => Ok(first.is_some()),
        }
    }

    /// Lets the outcome come here, where the client waits for it.
    pub(crate) fn expected(
        &self,
        sending: &mut Sending,
        wait: Option<u64>,
    ) -> Option<(u64, ExpectedOutcome)> {
        let seconds = self.seconds(wait)?;
        let expected = self.outcomes.expect();
        sending.message.headers.push(header::REPLY, expected.subject());
        Some((seconds, expected))
    }

    /// Hands a command over to be stored. Those that are handed over one after the other are stored in that order.
    pub(crate) async fn hand_over(&self, sending: Sending, deadline: Instant) -> Result<OnItsWay, Problem> {
        let Sending { id, fingerprint, principal, message, .. } = sending;
        let place = self.audit.place(&principal, &message.subject);
        let mut record = place.inspect_err(|_| self.recent_keys.forget(&id))?;
        record.named(&id);
        if !self.broker.is_connected() {
            record.not_stored();
            self.recent_keys.forget(&id);
            let detail = "there is no connection to NATS now; the command is not stored, send it again";
            return Err(Problem::unavailable("not-connected", detail));
        }
        match timeout_at(deadline, self.intake.hand_over(message)).await {
            Ok(Ok(put)) => Ok(OnItsWay { id, fingerprint, record, put }),
            Ok(Err(error)) => Err(self.not_stored(id, record, Some(error))),
            Err(_) => Err(self.not_stored(id, record, None)),
        }
    }

    /// What a client is told of a command: that it is stored, or its outcome where it waits for that.
    pub(crate) async fn told(
        &self,
        on_its_way: OnItsWay,
        expected: Option<(u64, ExpectedOutcome)>,
        deadline: Instant,
    ) -> Result<Told, Problem> {
        let OnItsWay { id, fingerprint, record, put } = on_its_way;
        let stored = match timeout_at(deadline, put.stored()).await {
            Ok(Ok(stored)) => {
                record.stored(stored.position);
                self.stored(id, stored.position)
            }
            Ok(Err(error)) => return Err(self.not_stored(id, record, Some(error))),
            Err(_) => return Err(self.not_stored(id, record, None)),
        };
        match expected {
            Some((seconds, expected)) => self.await_outcome(stored, fingerprint, seconds, expected).await,
            None => Ok(Told::Stored(stored)),
        }
    }

    /// Why a command is not stored; without an error, the time was over.
    fn not_stored(&self, id: String, record: CommandRecord, error: Option<AppendError>) -> Problem {
        match error {
            Some(error @ (AppendError::Refused { .. } | AppendError::Conflict { .. })) => {
                record.not_stored();
                self.recent_keys.forget(&id);
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                Problem::new(status, "store-refused", error.to_string()).with("command_id", id)
            }
            Some(AppendError::Full { stream, detail }) => {
                record.not_stored();
                self.recent_keys.forget(&id);
                let detail = format!(
                    "{stream} is full ({detail}); nothing of this request is stored, send it again when there is space"
                );
                Problem::unavailable("commands-full", detail).with("command_id", id)
            }
            Some(AppendError::Unclear { .. }) | None => {
                let detail = format!(
                    "the command {id} is not known to be stored. If it had an Idempotency-Key (over NATS: Millstream-Command-Id), send it again \
                     with the same; otherwise ask what became of it, because sent again it would be another command"
                );
                Problem::unavailable("not-stored", detail).with("command_id", id)
            }
        }
    }

    async fn await_outcome(
        &self,
        stored: Stored,
        fingerprint: Fingerprint,
        seconds: u64,
        mut expected: ExpectedOutcome,
    ) -> Result<Told, Problem> {
        let body = tokio::select! {
            body = expected.arrived() => body,
            () = tokio::time::sleep(Duration::from_secs(seconds)) => return Ok(Told::Stored(stored)),
            () = self.stop.cancelled() => return Ok(Told::Stored(stored)),
        };
        let reply = serde_json::from_slice(&body).ok().and_then(|value| OutcomeReply::from_json(&value));
        // One that this release cannot read is one of another; the view has it.
        let Some(reply) = reply else { return Ok(Told::Stored(stored)) };
        if let Outcome::Duplicate { of, other_content, .. } = reply.outcome {
            if other_content {
                return Err(key_reused());
            }
            self.same_command(of, fingerprint).await?;
        }
        Ok(Told::Decided(reply, seconds))
    }

    /// Whether the command at a position of COMMANDS is decided, and OUTCOMES tells of it no more.
    fn is_forgotten(&self, position: u64) -> bool {
        self.views.forgotten.has(&StreamPosition::new(COMMANDS, self.stream.generation(), position))
    }

    fn stored(&self, id: String, position: u64) -> Stored {
        Stored { id, position, generation: self.stream.generation() }
    }

    /// For how long to wait; none where the client does not ask for it.
    pub(crate) fn seconds(&self, wished: Option<u64>) -> Option<u64> {
        let seconds = wished?.min(self.limits.wait_max.as_secs());
        (seconds > 0).then_some(seconds)
    }
}

/// A key may have the name of a process; what that sends is not the key's.
fn is_own(id: &str, name: &str) -> bool {
    id.strip_prefix(name).is_some_and(|rest| rest.starts_with(':')) && issuer(id).is_none()
}

fn precondition_required(address: &CommandAddress) -> Problem {
    let detail = format!(
        "{address} is taken only with the version that its sender has seen: send If-Match: \"v<version>\", or If-None-Match: * for \
         an aggregate without events; in a line, expected_version"
    );
    Problem::new(StatusCode::PRECONDITION_REQUIRED, "precondition-required", detail)
}

fn outcome_forgotten() -> Problem {
    let detail = "the command is decided, and what became of it is no longer kept; read the rows that it may have changed";
    Problem::new(StatusCode::GONE, "outcome-forgotten", detail)
}

fn key_reused() -> Problem {
    let detail = "this Idempotency-Key (over NATS: this id) was used for another command, another aggregate, or another body";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused", detail)
}

#[cfg(test)]
mod tests {
    use millstream_contract::command::{process_command_id, timer_command_id};

    use super::*;

    #[test]
    fn a_key_with_the_name_of_a_process_does_not_own_what_that_sends() {
        for id in ["shop:01K0", "shop:0123456789abcdef0123456789abcdef"] {
            assert!(is_own(id, "shop"), "{id}");
        }
        for (id, name) in [
            (process_command_id("shop", 17, 3, 0), "shop"),
            (timer_command_id("01JDXQ8F6ZB7M4A1RKT5W9C2EV", 9), "timer"),
            ("shop".to_owned(), "shop"),
            ("shop-2:01K0".to_owned(), "shop"),
        ] {
            assert!(!is_own(&id, name), "{id}");
        }
    }
}
